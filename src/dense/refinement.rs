//! Refinement of scores by the colours of the image, at the image's size.

use tch::{Kind, Tensor};

use super::pamr::PixelAffinity;
use super::tensors::floats;
use super::{DenseError, RefinementOptions, go_on, pamr, propagation};
use crate::label_map;
use crate::scores::{ScoreGrid, ScoreKind, ScoreMap};
use crate::support::{to_i64, to_usize};

/// Floats per pixel for the propagation: the image, its enlargement, and one query's scores twice.
const PROPAGATION_FLOATS: u64 = 8;

/// Floats per cell and query while the system of the propagation is solved.
const SOLVER_FLOATS: u64 = 8;

/// Values per pixel that are computed for each query before the propagation: its score, a copy, and the average.
const ENLARGING_VALUES: u64 = 3;

/// Returns the bytes that refining the scores of an image of `width` x `height` pixels takes at most. With PAMR, these
/// are the scores at the image's size and the affinities of its pixels. With the propagation, they are mostly one query's
/// scores at the image's size.
pub fn refinement_bytes(options: &RefinementOptions, queries: usize, (width, height): (u32, u32)) -> u64 {
    let (queries, size) = (queries as u64, [height, width].map(u64::from));
    match *options {
        RefinementOptions::None => 0,
        RefinementOptions::Pamr => pamr::bytes(queries, size),
        RefinementOptions::PearlPropagation { cells, .. } => {
            let pixels = size[0] * size[1];
            let cells = propagation::most_cells(cells).min(pixels);
            let solver = SOLVER_FLOATS.saturating_mul(queries).saturating_mul(cells);
            let floats = PROPAGATION_FLOATS.saturating_mul(pixels).saturating_add(solver);
            floats.saturating_mul(size_of::<f32>() as u64)
        }
    }
}

/// Returns about how many values refining the scores of an image of `width` x `height` pixels computes: a measure of the
/// time that it takes. Of two refinements of one kind, the one with twice as many takes about twice as long.
pub fn refinement_work(options: &RefinementOptions, queries: usize, (width, height): (u32, u32)) -> u64 {
    let (queries, pixels) = (queries as u64, u64::from(width) * u64::from(height));
    match *options {
        RefinementOptions::None => 0,
        RefinementOptions::Pamr => pamr::work(queries, pixels),
        RefinementOptions::PearlPropagation { cells, .. } => {
            let cells = propagation::most_cells(cells).min(pixels);
            let of_query = ENLARGING_VALUES
                .saturating_mul(pixels)
                .saturating_add(propagation::work(cells));
            of_query.saturating_mul(queries)
        }
    }
}

/// Refines scores by pixel-adaptive mask refinement. It refines logits, where the papers refine cosines. The factor
/// between the two changes nothing, because every step is a mean.
///
/// # Errors
/// [`DenseError::Stopped`] when `stop` returns true.
pub(super) fn by_pixel_affinity(
    scores: &ScoreMap,
    image: &Tensor,
    [height, width]: [usize; 2],
    stop: &dyn Fn() -> bool,
) -> Result<ScoreMap, DenseError> {
    let size = [height, width].map(to_i64);
    let affinity = PixelAffinity::of(&enlarge_image(image, size), stop)?;
    go_on(stop)?;
    let mut map = label_map::enlarge(scores, height, width);
    for group in map.grids[0]
        .values
        .chunks_mut(to_usize(affinity.together()) * height * width)
    {
        let values = Tensor::from_slice(group)
            .view([-1, size[0], size[1]])
            .to_device(image.device());
        let count = group.len();
        affinity.refine(&values, stop)?.view(-1).copy_data(group, count);
    }
    Ok(map)
}

/// Refines scores by PEARL's propagation. It propagates cosines, which are logits divided by the temperature. A
/// student's products are treated in the same way. Smoothed weights are propagated as they are; the paper has no such
/// weights. `cells` and `temperature` are those of [`RefinementOptions::PearlPropagation`].
///
/// # Errors
/// [`DenseError::Stopped`] when `stop` returns true.
pub(super) fn by_propagation(
    scores: &ScoreMap,
    image: &Tensor,
    text: &Tensor,
    [height, width]: [usize; 2],
    (cells, temperature): (u32, f32),
    stop: &dyn Fn() -> bool,
) -> Result<ScoreMap, DenseError> {
    let size = [height, width].map(to_i64);
    let pixels = size.map(|side| propagation::pixels_per_cell(side, cells));
    let averaged = |maps: &Tensor| maps.avg_pool2d(pixels, pixels, 0, false, true, None);
    let scale = match scores.kind {
        ScoreKind::Logits => f64::from(temperature),
        ScoreKind::Weights => 1.0,
    };
    // One query at a time, so that the scores of all queries are never at the image's size together.
    let cosines = (0..scores.queries)
        .map(|query| {
            go_on(stop)?;
            let enlarged = label_map::enlarge(&one_query(scores, query), height, width);
            let map = Tensor::from_slice(&enlarged.grids[0].values).view([1, size[0], size[1]]);
            Ok(averaged(&map.to_device(image.device())) / scale)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let image = averaged(&enlarge_image(image, size));
    let propagated = propagation::propagate(&Tensor::cat(&cosines, 0), &image, text, stop)?;
    let (_, rows, columns) = propagated.size3().expect("scores are [queries, rows, columns]");
    Ok(ScoreMap {
        kind: scores.kind,
        queries: scores.queries,
        grids: vec![ScoreGrid {
            height: to_usize(rows),
            width: to_usize(columns),
            windows: None,
            values: floats(&(propagated * scale)),
        }],
    })
}

/// Returns the scores of one query.
fn one_query(scores: &ScoreMap, query: usize) -> ScoreMap {
    let of_grid = |grid: &ScoreGrid| {
        let cells = grid.height * grid.width;
        ScoreGrid {
            values: grid.values[query * cells..][..cells].to_vec(),
            windows: grid.windows.clone(),
            ..*grid
        }
    };
    ScoreMap {
        kind: scores.kind,
        queries: 1,
        grids: scores.grids.iter().map(of_grid).collect(),
    }
}

/// Resizes an image to `[3, height, width]` in float32: bilinear, corners not aligned, no antialiasing.
fn enlarge_image(image: &Tensor, size: [i64; 2]) -> Tensor {
    image
        .to_kind(Kind::Float)
        .unsqueeze(0)
        .upsample_bilinear2d(size, false, None, None)
        .squeeze_dim(0)
}
