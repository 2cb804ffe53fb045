//! The choices a request has over the dense features: plain data, no tensors.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the last attention of the visual tower does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Attention {
    /// CLIP without the change: query, key and value attention kept, spatial tokens read out. The
    /// papers' baseline.
    Clip,
    /// MaskCLIP as its reference implementation computes it: every position keeps its own value;
    /// on a ViT the last block's residual and MLP stay.
    #[default]
    Maskclip,
    /// What later papers call MaskCLIP: the last block's projected value alone. ViT only.
    MaskclipNoResidual,
}

impl Attention {
    /// The name in requests, settings and replies.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clip => "clip",
            Self::Maskclip => "maskclip",
            Self::MaskclipNoResidual => "maskclip-no-residual",
        }
    }
}

/// Key smoothing (MaskCLIP, section 3.3): class probabilities averaged over positions whose keys
/// are alike.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum KeySmoothing {
    /// No smoothing.
    #[default]
    None,
    /// The paper's formula, `pred_i = sum_j cos(k_i, k_j) pred_j`.
    Formula,
    /// The reference implementation's variant: keys normalised over positions per channel, and only
    /// positions whose best probability is below `threshold` replaced.
    Reference {
        /// Best probability from which a position is left alone, 0 to 1.
        threshold: f32,
    },
}

/// Square windows through which the model sees its input, one after the other; scores are averaged where they overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Side in pixels of the model's input, at least one patch. An input that is no larger is seen as a whole.
    pub side: u32,
    /// Pixels from one window to the next, 1 to the side.
    pub stride: u32,
}

/// What is done to scores at the image's size, before they become probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Refinement {
    /// Nothing: they are interpolated.
    #[default]
    None,
    /// Pixel-adaptive mask refinement, [`PixelAffinity`](super::PixelAffinity).
    Pamr,
}

impl Refinement {
    /// The name in requests, settings and replies.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pamr => "pamr",
        }
    }
}

/// Everything a request may choose about scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DenseOptions {
    /// The last attention.
    pub attention: Attention,
    /// Factor on cosines before the softmax; CLIP's learned scale is 100.
    pub temperature: f32,
    /// Prompt denoising (MaskCLIP, section 3.3): a class whose best probability anywhere in the
    /// image is below this is dropped. `None` keeps all.
    pub prompt_denoising: Option<f32>,
    /// Key smoothing, after prompt denoising; within each window.
    pub key_smoothing: KeySmoothing,
    /// Windows over the input; `None` sees it as a whole.
    pub window: Option<Window>,
    /// What is done to the scores at the image's size.
    pub refinement: Refinement,
}

impl Default for DenseOptions {
    /// MaskCLIP on the whole input, nothing more.
    fn default() -> Self {
        Self {
            attention: Attention::default(),
            temperature: 100.0,
            prompt_denoising: None,
            key_smoothing: KeySmoothing::None,
            window: None,
            refinement: Refinement::None,
        }
    }
}
