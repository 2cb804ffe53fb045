//! MaskCLIP and its successors: dense features from CLIP's own weights, their scores against text embeddings, prompt
//! denoising, key smoothing, windows and refinement.
//!
//! Owns the steps between the last stage of the visual tower and the score map. The steps after the features work for
//! any network that has features on a grid ([`FeatureSource`]). Builds on [`clip`](crate::clip). Knows nothing of image
//! files, named vocabularies or HTTP.
//!
//! "MaskCLIP" is Zhou, Loy, Dai, "Extract Free Dense Labels from CLIP", ECCV 2022. Where its text and its reference
//! implementation differ, [`DenseOptions`] has a name for each choice. [`Attention`] and [`Refinement`] cite the other
//! papers.

#![allow(clippy::disallowed_types)] // This room computes with tensors.

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
pub use refinement::{refinement_bytes, refinement_work};
pub use views::ImageViews;
pub use windows::BATCH_PIXELS;

use tch::Tensor;

use crate::scores::{DenseScores, QueryOwner, ScoreMap};

/// Scores one image at one or more sizes against text embeddings: [`ImageViews::extract`], then [`ImageViews::score`].
///
/// # Errors
/// Fails when either of these two steps does.
///
/// # Panics
/// Panics when either of these two steps does.
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

/// Refines scores of texts, `[queries, embedding]`, on an image of `height` x `width` pixels.
///
/// `image`, `[3, ..., ...]`, is the network's input at its largest size. It is enlarged to the size of the image and
/// supplies the colours. PAMR returns one cell per pixel. PEARL's propagation returns about as many cells along a side
/// as the options say. [`refinement_bytes`] estimates the memory.
///
/// # Panics
/// Panics when a shape is not as described, or when libtorch fails.
pub fn refine(
    scores: ScoreMap,
    image: &Tensor,
    text: &Tensor,
    height: usize,
    width: usize,
    options: &RefinementOptions,
) -> ScoreMap {
    refine_unless(scores, image, text, [height, width], options, &|| false).expect("nothing stops it")
}

/// Does the same as [`refine`] on an image of `[height, width]` pixels, unless `stop` returns true, which is asked before
/// each step of the work.
///
/// # Errors
/// [`DenseError::Stopped`].
///
/// # Panics
/// The same as [`refine`].
pub fn refine_unless(
    scores: ScoreMap,
    image: &Tensor,
    text: &Tensor,
    size: [usize; 2],
    options: &RefinementOptions,
    stop: &dyn Fn() -> bool,
) -> Result<ScoreMap, DenseError> {
    tch::no_grad(|| match *options {
        RefinementOptions::None => Ok(scores),
        RefinementOptions::Pamr => refinement::by_pixel_affinity(&scores, image, size, stop),
        RefinementOptions::PearlPropagation { cells, temperature } => {
            refinement::by_propagation(&scores, image, text, size, (cells, temperature), stop)
        }
    })
}

/// Lets work go on to its next step, unless `stop` returns true.
fn go_on(stop: &dyn Fn() -> bool) -> Result<(), DenseError> {
    match stop() {
        true => Err(DenseError::Stopped),
        false => Ok(()),
    }
}

/// Joins the names of attentions with commas.
fn names(attentions: &[Attention]) -> String {
    let names: Vec<_> = attentions.iter().map(|attention| attention.name()).collect();
    names.join(", ")
}

/// The reason why dense features or their scores cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DenseError {
    /// The attention needs parts that this kind of tower does not have.
    #[error("{architecture} cannot compute the attention {}; it can: {}", asked.name(), names(possible))]
    UnsupportedAttention {
        /// The attention that was asked for.
        asked: Attention,
        /// The name of the tower's architecture.
        architecture: String,
        /// The attentions that the tower can compute.
        possible: &'static [Attention],
    },
    /// The attention needs a square of more cells than the image has.
    #[error(
        "the attention {} looks at a square of at least 31 patches, not at {rows} rows of {columns}; a square image, or \
         a larger short_side, makes one",
        asked.name()
    )]
    UnsuitableGrid {
        /// The attention that was asked for.
        asked: Attention,
        /// The number of cells from top to bottom.
        rows: usize,
        /// The number of cells from left to right.
        columns: usize,
    },
    /// Key smoothing needs keys that were not kept with the features.
    #[error("the features have no keys for the key smoothing that is asked for")]
    KeysNotKept,
    /// Nobody wants the result any more.
    #[error("the work was stopped before its end")]
    Stopped,
}
