//! The options of dense features, scores and refinement: plain data, no tensors.

use serde::{Deserialize, Serialize};

use super::AttentionConstants;

/// The attention of the visual tower's last block. All variants but `Clip`, `ClipNoPositions` and `Maskclip` are for
/// vision transformers only. Each of these follows the code that its authors released, unless its comment says otherwise.
///
/// Numbers of blocks are those of the published models, which have 12 or 24 blocks. In other models, they are scaled in
/// proportion.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Default,
    Serialize,
    Deserialize,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
    strum::VariantNames,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Attention {
    /// CLIP unchanged: the attention of queries, keys and values stays, and the spatial tokens are read out. The papers
    /// compare with this baseline; MaskCLIP's on ResNets is `ClipNoPositions`.
    Clip,
    /// MaskCLIP as its reference implementation computes it: every position keeps its own value. On a ViT, the last
    /// block's residual and MLP stay.
    #[default]
    Maskclip,
    /// The variant that later papers call MaskCLIP: only the last block's projected value, without residual and MLP.
    MaskclipNoResidual,
    /// SCLIP (Wang, Mei, Yuille, ECCV 2024): tokens attend to tokens with similar queries and to tokens with similar
    /// keys. The last block's residual and MLP stay.
    Sclip,
    /// ClearCLIP (Lan et al., ECCV 2024): tokens attend to tokens with similar queries, without residual and MLP.
    Clearclip,
    /// NACLIP (Hajimiri, Ben Ayed, Dolz, WACV 2025): tokens attend to tokens with similar keys and prefer near ones,
    /// without residual and MLP.
    Naclip,
    /// PEARL (Pei et al., CVPR 2026): queries attend to keys that the exact Procrustes rotation has turned towards the
    /// queries, without residual and MLP.
    Pearl,
    /// PEARL as released: five Newton-Schulz steps approximate the rotation. The published figures are from this
    /// variant.
    PearlNewtonSchulz,
    /// SC-CLIP (Bai et al., TIP 2025): outlying tokens are repaired, and tokens attend to tokens that are similar in a
    /// middle layer. The input is a square of at least 31 patches.
    ScClip,
    /// ResCLIP (Yang et al., CVPR 2025): the attention to near tokens with similar keys is mixed with that of the
    /// middle blocks, in two passes. The labels of the first pass guide the second pass.
    Resclip,
    /// ResCLIP with a test of the whole way between two patches. The release tests only the first part of the way.
    ResclipRepaired,
    /// GEM (Bousselham et al., CVPR 2024): a parallel path of self-self attention over the last six blocks.
    Gem,
    /// For ResNets only: the attention pool of `Clip` without its positions. MaskCLIP's released code computes its
    /// baseline on ResNets in this way.
    ClipNoPositions,
}

impl Attention {
    /// Returns the name in requests, settings and replies.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Returns whether the attention holds one number for every two cells in memory. All others never hold the whole of
    /// such a matrix.
    pub const fn pairs_cells(self) -> bool {
        match self {
            Self::Naclip | Self::ScClip | Self::Resclip | Self::ResclipRepaired => true,
            Self::Clip
            | Self::Maskclip
            | Self::MaskclipNoResidual
            | Self::Sclip
            | Self::Clearclip
            | Self::Pearl
            | Self::PearlNewtonSchulz
            | Self::Gem
            | Self::ClipNoPositions => false,
        }
    }
}

impl AttentionConstants {
    /// Returns these constants where `attention` reads them, and the defaults elsewhere. Features are then equal where
    /// the results are equal.
    pub fn read_by(self, attention: Attention) -> Self {
        match attention {
            Attention::Resclip | Attention::ResclipRepaired => Self {
                resclip: self.resclip,
                ..Self::default()
            },
            Attention::Pearl | Attention::PearlNewtonSchulz => Self {
                pearl_key_weight: self.pearl_key_weight,
                ..Self::default()
            },
            Attention::Clip
            | Attention::Maskclip
            | Attention::MaskclipNoResidual
            | Attention::Sclip
            | Attention::Clearclip
            | Attention::Naclip
            | Attention::ScClip
            | Attention::Gem
            | Attention::ClipNoPositions => Self::default(),
        }
    }
}

/// Key smoothing (MaskCLIP, section 3.3): class probabilities averaged over positions with similar keys.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum KeySmoothing {
    /// No smoothing.
    #[default]
    None,
    /// The paper's formula, `pred_i = sum_j cos(k_i, k_j) pred_j`.
    Formula,
    /// The reference implementation's variant. Each channel of the keys is normalised over positions, and only
    /// positions whose best probability is below `threshold` are replaced.
    Reference {
        /// The least best probability at which a position is left alone, 0 to 1.
        threshold: f32,
    },
    /// An average of logits, not of probabilities, with the weights `softmax_j(40 cos(k_i, k_j))`, which fall off
    /// sharply. It is not from the paper, but it improves results where the paper's formula worsens them.
    Likeness,
}

impl KeySmoothing {
    /// Returns the kind of keys that the smoothing compares, or `None` without smoothing.
    pub fn keys(self) -> Option<SmoothingKeys> {
        match self {
            Self::None => None,
            Self::Formula | Self::Likeness => Some(SmoothingKeys::Plain),
            Self::Reference { .. } => Some(SmoothingKeys::Projected),
        }
    }
}

/// The kinds of keys that a [`KeySmoothing`] compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SmoothingKeys {
    /// The keys of the last attention.
    Plain,
    /// On a ViT, the keys of the last attention after its output projection. The reference implementation projects
    /// queries, keys and values alike.
    Projected,
}

/// A [`KeySmoothing`] without its parameter, under the names of settings and of students' cards.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    Serialize,
    Deserialize,
    strum::EnumString,
    strum::VariantArray,
    strum::VariantNames,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum KeySmoothingMethod {
    /// No smoothing.
    #[default]
    None,
    /// The paper's formula, [`KeySmoothing::Formula`].
    Formula,
    /// The reference implementation's variant, [`KeySmoothing::Reference`].
    Reference,
    /// An average of logits over positions with very similar keys, [`KeySmoothing::Likeness`].
    Likeness,
}

/// Square windows through which the model sees its input, one after the other. Scores are averaged where windows
/// overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Window {
    /// Side of a window in pixels, at least one patch. The model sees an input that is no larger than a window as a
    /// whole.
    pub side: u32,
    /// Distance in pixels from one window to the next, from 1 to the side.
    pub stride: u32,
}

/// The refinement of scores by the colours of the image, at the image's size and before they become probabilities.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    Serialize,
    Deserialize,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
    strum::VariantNames,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Refinement {
    /// No refinement: the scores are only interpolated.
    #[default]
    None,
    /// Pixel-adaptive mask refinement (Araslanov, Roth, CVPR 2020): scores spread among neighbours of similar colour.
    Pamr,
    /// PEARL's propagation (Pei et al., CVPR 2026): scores flow between neighbours of similar colour and meaning, on
    /// about 80 x 80 cells unless the options state another number.
    PearlPropagation,
}

impl Refinement {
    /// Returns the name in requests, settings and replies.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The largest temperature that a request may ask for: ten times CLIP's own.
pub const MAX_TEMPERATURE: f32 = 1000.0;

/// Everything beside the pixels that the features of an image depend on. These are the options of the first step,
/// [`ImageViews::extract`](super::ImageViews::extract). Equal options give equal features for images of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FeatureOptions {
    /// The attention of the last block.
    pub attention: Attention,
    /// The windows over the input; with `None` the network sees the input as a whole.
    pub window: Option<Window>,
    /// The kind of keys that are kept for key smoothing.
    pub keys: Option<SmoothingKeys>,
    /// The constants of the attention.
    pub constants: AttentionConstants,
}

/// How texts score features: the options of the second step, [`ImageViews::score`](super::ImageViews::score).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoreOptions {
    /// The factor on cosines, or on a student's products, before the softmax. CLIP's learned factor is 100, a student's
    /// is 1.
    pub temperature: f32,
    /// Prompt denoising (MaskCLIP, section 3.3): a class is dropped if its best probability anywhere in the image is
    /// below this value. `None` keeps all classes.
    pub prompt_denoising: Option<f32>,
    /// Key smoothing, which follows prompt denoising and acts within each window.
    pub key_smoothing: KeySmoothing,
}

impl Default for ScoreOptions {
    /// Returns the plain softmax of cosines at CLIP's temperature.
    fn default() -> Self {
        Self {
            temperature: 100.0,
            prompt_denoising: None,
            key_smoothing: KeySmoothing::None,
        }
    }
}

/// How the colours of the image refine its scores: the options of the third step, [`refine`](super::refine).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum RefinementOptions {
    /// Scores stay as they are.
    #[default]
    None,
    /// [`Refinement::Pamr`].
    Pamr,
    /// [`Refinement::PearlPropagation`].
    PearlPropagation {
        /// Approximate number of cells along a side to which the image is averaged; at least 1.
        cells: u32,
        /// The temperature of the scores. They are divided by it, because the propagation acts on cosines.
        temperature: f32,
    },
}

impl RefinementOptions {
    /// Returns the options of `refinement` for scores of the given temperature and a propagation with about `cells`
    /// cells along a side.
    pub fn new(refinement: Refinement, cells: u32, temperature: f32) -> Self {
        match refinement {
            Refinement::None => Self::None,
            Refinement::Pamr => Self::Pamr,
            Refinement::PearlPropagation => Self::PearlPropagation { cells, temperature },
        }
    }

    /// Returns the refinement without its options.
    pub fn refinement(self) -> Refinement {
        match self {
            Self::None => Refinement::None,
            Self::Pamr => Refinement::Pamr,
            Self::PearlPropagation { .. } => Refinement::PearlPropagation,
        }
    }
}

/// The options of all three steps.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DenseOptions {
    /// The options of the features.
    pub features: FeatureOptions,
    /// The options of the scores.
    pub scoring: ScoreOptions,
    /// The options of the refinement.
    pub refinement: RefinementOptions,
}

#[cfg(test)]
mod tests {
    use strum::VariantArray;

    use super::*;

    #[test]
    fn an_attention_reads_its_own_constants_alone() {
        let mut other = AttentionConstants {
            pearl_key_weight: 0.5,
            ..AttentionConstants::default()
        };
        other.resclip.threshold = 0.5;
        let plain = AttentionConstants::default();
        for &attention in Attention::VARIANTS {
            let read = other.read_by(attention);
            let of_resclip = matches!(attention, Attention::Resclip | Attention::ResclipRepaired);
            let of_pearl = matches!(attention, Attention::Pearl | Attention::PearlNewtonSchulz);
            assert_eq!(read.resclip == other.resclip, of_resclip, "{}", attention.name());
            assert_eq!(read.pearl_key_weight == 0.5, of_pearl, "{}", attention.name());
            assert_eq!(read == plain, !of_resclip && !of_pearl, "{}", attention.name());
        }
    }
}
