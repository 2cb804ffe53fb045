//! Scores at the image's size, refined by its colours.

use tch::{Kind, Tensor};

use super::PixelAffinity;
use crate::label_map::{self, ScoreGrid};

/// Floats per pixel for its affinities to 16 neighbours, thrice while they are computed.
const AFFINITY_FLOATS: u64 = 3 * 16;

/// Floats whose refinement goes on at a time, as whole queries, at least one.
const CHUNK_FLOATS: usize = 1 << 24;

/// Bytes that refining an image's scores takes: the scores at its size and the affinities of its pixels. Scratch of a few
/// queries comes on top.
pub fn refinement_bytes(queries: usize, image_pixels: u64) -> u64 {
    let floats = AFFINITY_FLOATS.saturating_add(queries as u64);
    floats
        .saturating_mul(image_pixels)
        .saturating_mul(size_of::<f32>() as u64)
}

/// Pixel-adaptive mask refinement. Logits are refined in place of the cosines that the papers refine: the factor between them
/// changes nothing, since every step is a mean.
pub(super) fn by_pixel_affinity(scores: &ScoreGrid, image: &Tensor, height: usize, width: usize) -> ScoreGrid {
    let size = [height, width].map(|side| i64::try_from(side).expect("a side fits 63 bits"));
    let affinity = PixelAffinity::of(&enlarge_image(image, size));
    let mut grid = label_map::enlarge(scores, height, width);
    let pixels = height * width;
    for chunk in grid.values.chunks_mut((CHUNK_FLOATS / pixels).max(1) * pixels) {
        let values = Tensor::from_slice(chunk)
            .view([-1, size[0], size[1]])
            .to_device(image.device());
        let length = chunk.len();
        affinity.refine(&values).view(-1).copy_data(chunk, length);
    }
    grid
}

/// Bilinearly to `[3, height, width]`, corners not aligned, without antialiasing, in 32 bits.
fn enlarge_image(image: &Tensor, size: [i64; 2]) -> Tensor {
    image
        .to_kind(Kind::Float)
        .unsqueeze(0)
        .upsample_bilinear2d(size, false, None, None)
        .squeeze_dim(0)
}
