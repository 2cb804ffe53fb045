//! The label of each cell after the first pass: the label of most of its pixels after a refinement by the colours of
//! the image.

use tch::{Kind, Tensor};

use crate::dense::DenseError;
use crate::dense::attention::cell_grid::CellGrid;
use crate::dense::pamr::PixelAffinity;

/// Factor on cosines before the softmax.
const SCALE: f64 = 40.0;

/// Number of queries whose scores are at the image's size at a time.
const QUERIES_TOGETHER: i64 = 16;

/// Labels each cell with a query, from cosines `[queries, cells]` and the image `[3, height, width]`. A pixel whose
/// best probability is below `threshold` counts as the first query's. Of queries with equally many pixels in a cell,
/// the first one wins.
///
/// # Errors
/// [`DenseError::Stopped`] when `stop` returns true.
pub(super) fn of_cells(
    cosines: &Tensor,
    image: &Tensor,
    grid: CellGrid,
    threshold: f32,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<i64>, DenseError> {
    let labels = of_pixels(cosines, image, grid, threshold, stop)?;
    // [height, width] -> [rows, patch, columns, patch] -> [cells, pixels of a patch]
    let labels = labels
        .unflatten(0, [grid.rows, -1])
        .unflatten(2, [grid.columns, -1])
        .permute([0, 2, 1, 3])
        .reshape([grid.cells(), -1]);
    let counts = Tensor::zeros([grid.cells(), cosines.size()[0]], (Kind::Int64, labels.device())).scatter_add(
        1,
        &labels,
        &labels.ones_like(),
    );
    let most_frequent = counts.argmax(1, false);
    Ok(Vec::try_from(&most_frequent).expect("one dimension of 64-bit integers"))
}

/// Labels each pixel with a query, `[height, width]`. The softmax over all queries is accumulated from a few queries at
/// a time.
fn of_pixels(
    cosines: &Tensor,
    image: &Tensor,
    grid: CellGrid,
    threshold: f32,
    stop: &dyn Fn() -> bool,
) -> Result<Tensor, DenseError> {
    let (_, height, width) = image.size3().expect("an image is [3, height, width]");
    let affinity = PixelAffinity::of(image, stop)?;
    let cosines = cosines.to_kind(Kind::Float).unflatten(1, [grid.rows, grid.columns]);
    let logits = |first: i64, queries: &Tensor| {
        let at_size = queries
            .unsqueeze(0)
            .upsample_bilinear2d([height, width], false, None, None)
            .squeeze_dim(0);
        let logits = affinity.refine(&at_size, stop)? * SCALE;
        let (best, label) = logits.max_dim(0, false);
        Ok((logits.logsumexp([0i64].as_slice(), false), best, label + first))
    };
    let groups = cosines.split(QUERIES_TOGETHER, 0);
    let mut groups = groups.iter().zip((0..).step_by(QUERIES_TOGETHER as usize));
    let (queries, first) = groups.next().expect("there is a query");
    let (mut total, mut best, mut label) = logits(first, queries)?;
    for (queries, first) in groups {
        let (other_total, other_best, other_label) = logits(first, queries)?;
        let is_better = other_best.gt_tensor(&best);
        total = total.logaddexp(&other_total);
        best = best.maximum(&other_best);
        label = other_label.where_self(&is_better, &label);
    }
    let is_unsure = (best - total).exp().lt(f64::from(threshold));
    Ok(label.masked_fill(&is_unsure, 0))
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    const GRID: CellGrid = CellGrid { rows: 1, columns: 2 };

    /// Returns an image of two grey cells of 8 x 8 pixels, in which the refinement finds no edge.
    fn image() -> Tensor {
        Tensor::zeros([3, 8, 16], (Kind::Float, Device::Cpu))
    }

    /// Labels two cells with the same cosines, so that neither interpolation nor refinement changes them.
    fn labels_of(cosines: &[f32], threshold: f32) -> Vec<i64> {
        let cosines = Tensor::from_slice(cosines).unsqueeze(1).expand([-1, 2], false);
        of_cells(&cosines, &image(), GRID, threshold, &|| false).expect("nothing stops it")
    }

    #[test]
    fn the_best_query_wins_wherever_it_is_in_the_list() {
        let mut cosines = vec![0.1f32; 40];
        cosines[37] = 0.2;
        assert_eq!(labels_of(&cosines, 0.0), [37, 37]);
    }

    /// There are 40 queries. The best is e^4 times as likely as each other, so its probability is 0.583.
    #[test]
    fn an_unsure_pixel_is_the_first_querys() {
        let mut cosines = vec![0.1f32; 40];
        cosines[37] = 0.2;
        assert_eq!(labels_of(&cosines, 0.58), [37, 37]);
        assert_eq!(labels_of(&cosines, 0.59), [0, 0]);
    }

    #[test]
    fn a_cell_is_what_most_of_its_pixels_are() {
        // After the interpolation, the second query is the better one in the last five columns of the first cell.
        let columns = Tensor::arange(64, (Kind::Float, Device::Cpu)).expand([3, 32, 64], false);
        let image = columns.ge(32.0).to_kind(Kind::Float);
        let cosines = Tensor::from_slice2(&[[0.3f32, 0.1], [0.1, 0.5]]);
        assert_eq!(of_cells(&cosines, &image, GRID, 0.0, &|| false), Ok(vec![0, 1]));
    }
}
