//! The label of each cell after the first pass: what most of its pixels are, once refined by the image's colours.

use tch::{Kind, Tensor};

use crate::dense::attention::cell_grid::CellGrid;
use crate::dense::pamr::PixelAffinity;

/// Factor on cosines before the softmax.
const SCALE: f64 = 40.0;

/// Queries that are at the image's size at a time.
const QUERIES_TOGETHER: i64 = 16;

/// From cosines, `[queries, cells]`, and the image, `[3, height, width]`, to a query per cell. A pixel whose best probability
/// is below `threshold` counts as of the first query; of queries with equally many pixels the first one is taken.
pub(super) fn of_cells(cosines: &Tensor, image: &Tensor, grid: CellGrid, threshold: f32) -> Vec<i64> {
    let labels = of_pixels(cosines, image, grid, threshold);
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
    Vec::try_from(&most_frequent).expect("one dimension of 64-bit integers")
}

/// A query per pixel, `[height, width]`. The softmax over all queries is gathered from a few at a time.
fn of_pixels(cosines: &Tensor, image: &Tensor, grid: CellGrid, threshold: f32) -> Tensor {
    let (_, height, width) = image.size3().expect("an image is [3, height, width]");
    let affinity = PixelAffinity::of(image);
    let cosines = cosines.to_kind(Kind::Float).unflatten(1, [grid.rows, grid.columns]);
    let logits = |first: i64, queries: &Tensor| {
        let at_size = queries
            .unsqueeze(0)
            .upsample_bilinear2d([height, width], false, None, None)
            .squeeze_dim(0);
        let logits = affinity.refine(&at_size) * SCALE;
        let (best, label) = logits.max_dim(0, false);
        (logits.logsumexp([0i64].as_slice(), false), best, label + first)
    };
    let (total, best, label) = cosines
        .split(QUERIES_TOGETHER, 0)
        .iter()
        .zip((0..).step_by(QUERIES_TOGETHER as usize))
        .map(|(queries, first)| logits(first, queries))
        .reduce(|(total, best, label), (other_total, other_best, other_label)| {
            let is_better = other_best.gt_tensor(&best);
            (
                total.logaddexp(&other_total),
                best.maximum(&other_best),
                other_label.where_self(&is_better, &label),
            )
        })
        .expect("there is a query");
    let is_unsure = (best - total).exp().lt(f64::from(threshold));
    label.masked_fill(&is_unsure, 0)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    const GRID: CellGrid = CellGrid { rows: 1, columns: 2 };

    /// Two grey cells of 8 x 8 pixels, whose refinement knows no edge.
    fn image() -> Tensor {
        Tensor::zeros([3, 8, 16], (Kind::Float, Device::Cpu))
    }

    /// Cosines that are the same in both cells, so that neither interpolation nor refinement changes them.
    fn labels_of(cosines: &[f32], threshold: f32) -> Vec<i64> {
        let cosines = Tensor::from_slice(cosines).unsqueeze(1).expand([-1, 2], false);
        of_cells(&cosines, &image(), GRID, threshold)
    }

    #[test]
    fn the_best_query_wins_wherever_it_is_in_the_list() {
        let mut cosines = vec![0.1f32; 40];
        cosines[37] = 0.2;
        assert_eq!(labels_of(&cosines, 0.0), [37, 37]);
    }

    /// 40 queries, of which the best is e^4 times as likely as each other: 0.583 of all.
    #[test]
    fn an_unsure_pixel_is_the_first_querys() {
        let mut cosines = vec![0.1f32; 40];
        cosines[37] = 0.2;
        assert_eq!(labels_of(&cosines, 0.58), [37, 37]);
        assert_eq!(labels_of(&cosines, 0.59), [0, 0]);
    }

    #[test]
    fn a_cell_is_what_most_of_its_pixels_are() {
        // Interpolated, the second query is the better one in the last five columns of the first cell.
        let columns = Tensor::arange(64, (Kind::Float, Device::Cpu)).expand([3, 32, 64], false);
        let image = columns.ge(32.0).to_kind(Kind::Float);
        let cosines = Tensor::from_slice2(&[[0.3f32, 0.1], [0.1, 0.5]]);
        assert_eq!(of_cells(&cosines, &image, GRID, 0.0), [0, 1]);
    }
}
