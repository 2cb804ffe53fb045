//! Scores at the image's size, refined by its colours: what each refinement takes and gives.

use tch::{Kind, Tensor};

use super::pamr::PixelAffinity;
use super::tensors::floats;
use super::{RefinementOptions, propagation};
use crate::label_map;
use crate::scores::{ScoreGrid, ScoreKind, ScoreMap};
use crate::support::{to_i64, to_usize};

/// Floats per pixel for its affinities to 16 neighbours, thrice while they are computed.
const AFFINITY_FLOATS: u64 = 3 * 16;

/// Floats whose refinement goes on at a time, as whole queries, at least one.
const CHUNK_FLOATS: usize = 1 << 24;

/// Floats per pixel for the propagation: the image, its enlargement, and one query's scores twice.
const PROPAGATION_FLOATS: u64 = 8;

/// Floats per cell and query while the propagation's system is solved.
const SOLVER_FLOATS: u64 = 8;

/// Bytes that refining an image's scores takes. With PAMR these are the scores at its size and the affinities of its pixels,
/// and scratch of a few queries comes on top; with the propagation mostly one query's scores at its size.
pub fn refinement_bytes(options: &RefinementOptions, queries: usize, image_pixels: u64) -> u64 {
    let queries = queries as u64;
    let floats = match *options {
        RefinementOptions::None => 0,
        RefinementOptions::Pamr => AFFINITY_FLOATS.saturating_add(queries).saturating_mul(image_pixels),
        RefinementOptions::PearlPropagation { cells, .. } => {
            let cells = propagation::most_cells(cells).min(image_pixels);
            let solver = SOLVER_FLOATS.saturating_mul(queries).saturating_mul(cells);
            PROPAGATION_FLOATS.saturating_mul(image_pixels).saturating_add(solver)
        }
    };
    floats.saturating_mul(size_of::<f32>() as u64)
}

/// Pixel-adaptive mask refinement. Logits are refined in place of the cosines that the papers refine: the factor between them
/// changes nothing, since every step is a mean.
pub(super) fn by_pixel_affinity(scores: &ScoreMap, image: &Tensor, height: usize, width: usize) -> ScoreMap {
    let size = [height, width].map(to_i64);
    let affinity = PixelAffinity::of(&enlarge_image(image, size));
    let mut map = label_map::enlarge(scores, height, width);
    let pixels = height * width;
    for chunk in map.grids[0].values.chunks_mut((CHUNK_FLOATS / pixels).max(1) * pixels) {
        let values = Tensor::from_slice(chunk)
            .view([-1, size[0], size[1]])
            .to_device(image.device());
        let count = chunk.len();
        affinity.refine(&values).view(-1).copy_data(chunk, count);
    }
    map
}

/// PEARL's propagation of cosines, which logits are the temperature times; a student's products stand for them. Smoothed
/// weights take their place as they are: the paper has none.
pub(super) fn by_propagation(
    scores: &ScoreMap,
    image: &Tensor,
    text: &Tensor,
    [height, width]: [usize; 2],
    cells: u32,
    temperature: f32,
) -> ScoreMap {
    let size = [height, width].map(to_i64);
    let pixels = size.map(|side| propagation::pixels_per_cell(side, cells));
    let averaged = |maps: &Tensor| maps.avg_pool2d(pixels, pixels, 0, false, true, None);
    let scale = match scores.kind {
        ScoreKind::Logits => f64::from(temperature),
        ScoreKind::Weights => 1.0,
    };
    // One query at a time, so that all of them are never at the image's size together.
    let cosines: Vec<_> = (0..scores.queries)
        .map(|query| {
            let enlarged = label_map::enlarge(&one_query(scores, query), height, width);
            let map = Tensor::from_slice(&enlarged.grids[0].values).view([1, size[0], size[1]]);
            averaged(&map.to_device(image.device())) / scale
        })
        .collect();
    let propagated = propagation::propagate(&Tensor::cat(&cosines, 0), &averaged(&enlarge_image(image, size)), text);
    let (_, rows, columns) = propagated.size3().expect("scores are [queries, rows, columns]");
    ScoreMap {
        kind: scores.kind,
        queries: scores.queries,
        grids: vec![ScoreGrid {
            height: to_usize(rows),
            width: to_usize(columns),
            windows: None,
            values: floats(&(propagated * scale)),
        }],
    }
}

/// The scores of one query alone.
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

/// Bilinearly to `[3, height, width]`, corners not aligned, without antialiasing, in 32 bits.
fn enlarge_image(image: &Tensor, size: [i64; 2]) -> Tensor {
    image
        .to_kind(Kind::Float)
        .unsqueeze(0)
        .upsample_bilinear2d(size, false, None, None)
        .squeeze_dim(0)
}
