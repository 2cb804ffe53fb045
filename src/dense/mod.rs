//! MaskCLIP: dense features from CLIP's own weights, their scores against text embeddings, prompt
//! denoising and key smoothing.
//!
//! Owns what happens between the visual tower's last stage and the score grid. Builds on [`clip`](crate::clip),
//! knows nothing of images, vocabularies' names or HTTP.
//!
//! The papers: Zhou, Loy, Dai, "Extract Free Dense Labels from CLIP", ECCV 2022 ("MaskCLIP" below); where its text and its
//! reference implementation differ, the choice has a name of its own in [`DenseOptions`].

#![allow(clippy::disallowed_types)] // Tensors live here.

mod attention;
mod denoising;
mod features;
mod options;
mod pamr;
mod scores;
mod smoothing;

pub use attention::{attentions, check_grid};
pub use features::DenseFeatures;
pub use options::{Attention, DenseOptions, KeySmoothing};
pub use pamr::PixelAffinity;
pub use scores::DenseScores;

use tch::Tensor;

use crate::clip::VisualTower;
use crate::label_map::QueryOwner;

/// Scores one image against text embeddings: [`DenseFeatures::extract`], then [`DenseFeatures::score`].
///
/// `image` is `[3, height, width]`, normalised, in the tower's kind and on its device, its sides whole multiples of
/// [`VisualTower::patch_pixels`]; `text` is `[queries, embedding]`, each row of unit length, with one owner per query.
///
/// # Errors
/// When the tower cannot compute the attention asked for, or not on an image of that size.
///
/// # Panics
/// When a shape is none of the above, or libtorch fails.
pub fn score(
    tower: &VisualTower,
    image: &Tensor,
    text: &Tensor,
    owners: &[QueryOwner],
    options: &DenseOptions,
) -> Result<DenseScores, DenseError> {
    let features = DenseFeatures::extract(tower, image, options.attention, options.key_smoothing)?;
    Ok(features.score(text, owners, options))
}

/// Why dense features cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DenseError {
    /// The attention acts on what this kind of tower does not have.
    #[error("{architecture} cannot compute the attention {asked:?}; it can {possible:?}")]
    UnsupportedAttention {
        /// What was asked for.
        asked: Attention,
        /// The tower.
        architecture: String,
        /// What it can compute.
        possible: &'static [Attention],
    },
    /// The attention is not defined on so few cells, or on cells that form no square.
    #[error(
        "the attention {} looks at a square of at least 31 patches, not at {rows} rows of {columns}; a square image, or \
         a larger short_side, makes one",
        asked.name()
    )]
    UnsuitableGrid {
        /// What was asked for.
        asked: Attention,
        /// Cells from top to bottom.
        rows: usize,
        /// Cells from left to right.
        columns: usize,
    },
}
