//! MaskCLIP and its successors: dense features from CLIP's own weights, their scores against text embeddings, prompt
//! denoising, key smoothing, windows and refinement.
//!
//! Owns what happens between the visual tower's last stage and the score map, and the latter half of it for any network that
//! has features on a grid ([`FeatureSource`]). Builds on [`clip`](crate::clip),
//! knows nothing of images, vocabularies' names or HTTP.
//!
//! "MaskCLIP" is Zhou, Loy, Dai, "Extract Free Dense Labels from CLIP", ECCV 2022; where its text and its reference
//! implementation differ, the choice has a name of its own in [`DenseOptions`]. The papers of the others stand at their
//! names in [`Attention`] and [`Refinement`].

#![allow(clippy::disallowed_types)] // Tensors live here.

mod attention;
mod constants;
mod denoising;
mod features;
mod options;
mod pamr;
mod propagation;
mod refinement;
mod scores;
mod smoothing;
mod tensors;
#[cfg(test)]
mod testing;
mod views;
mod windows;

pub use attention::{attentions, check_grid};
pub use constants::{AttentionConstants, PROPAGATION_CELLS, ResclipConstants};
pub use features::{Comparison, DenseFeatures, FeatureSource};
pub use options::{
    Attention, DenseOptions, FeatureOptions, KeySmoothing, KeySmoothingMethod, MAX_TEMPERATURE, Refinement,
    RefinementOptions, ScoreOptions, SmoothingKeys, Window,
};
pub use refinement::refinement_bytes;
pub use views::ImageViews;
pub use windows::BATCH_PIXELS;

use tch::Tensor;

use crate::scores::{DenseScores, QueryOwner, ScoreMap};

/// Scores one image at one or more sizes against text embeddings: [`ImageViews::extract`], then [`ImageViews::score`].
///
/// # Errors
/// As those two.
///
/// # Panics
/// As those two.
pub fn score(
    network: &dyn FeatureSource,
    sizes: &[Tensor],
    text: &Tensor,
    owners: &[QueryOwner],
    features: &FeatureOptions,
    scoring: &ScoreOptions,
) -> Result<DenseScores, DenseError> {
    ImageViews::extract(network, sizes, features)?.score(text, owners, scoring)
}

/// Refines the scores that texts, `[queries, embedding]`, have on an image of `height` x `width` pixels. `image` is what was scored,
/// at its largest size, `[3, ..., ...]`; it is enlarged to the image's size for its colours. PAMR gives one cell per pixel, PEARL's
/// propagation about as many along a side as the options say. Memory is [`refinement_bytes`].
///
/// # Panics
/// When a shape is none of the above, or libtorch fails.
pub fn refine(
    scores: ScoreMap,
    image: &Tensor,
    text: &Tensor,
    height: usize,
    width: usize,
    options: &RefinementOptions,
) -> ScoreMap {
    tch::no_grad(|| match *options {
        RefinementOptions::None => scores,
        RefinementOptions::Pamr => refinement::by_pixel_affinity(&scores, image, height, width),
        RefinementOptions::PearlPropagation { cells, temperature } => {
            refinement::by_propagation(&scores, image, text, [height, width], cells, temperature)
        }
    })
}

/// Attentions by their names.
fn names(attentions: &[Attention]) -> String {
    let names: Vec<_> = attentions.iter().map(|attention| attention.name()).collect();
    names.join(", ")
}

/// Why dense features or their scores cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DenseError {
    /// The attention acts on what this kind of tower does not have.
    #[error("{architecture} cannot compute the attention {}; it can: {}", asked.name(), names(possible))]
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
    /// Key smoothing compares keys that were not kept with the features.
    #[error("the features have no keys for the key smoothing that is asked for")]
    KeysNotKept,
}
