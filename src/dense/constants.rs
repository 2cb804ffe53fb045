//! Constants that the released codes of ResCLIP and PEARL change with the data set: plain data, no tensors.
//!
//! Requests and settings have no field for them: a protocol sets them, or they are the default.

use std::hash::{Hash, Hasher};

/// Cells along a side to which PEARL's propagation averages an image, more or less, unless a protocol says otherwise.
pub const PROPAGATION_CELLS: u32 = 80;

/// The constants of all attentions that have some; each is read by its own attention alone. Two are equal when they are equal to
/// the bit.
#[derive(Debug, Clone, Copy)]
pub struct AttentionConstants {
    /// ResCLIP's, as released or repaired.
    pub resclip: ResclipConstants,
    /// PEARL's `alpha`, with either rotation: weight of the keys' likeness to each other.
    pub pearl_key_weight: f64,
}

impl Default for AttentionConstants {
    /// Those for all data sets without others.
    fn default() -> Self {
        Self {
            resclip: ResclipConstants::default(),
            pearl_key_weight: 0.08,
        }
    }
}

impl AttentionConstants {
    fn bits(&self) -> [u64; 5] {
        let ResclipConstants {
            threshold,
            middle_share,
            score_scale,
            layout_share,
        } = self.resclip;
        let values = [
            threshold.into(),
            middle_share,
            score_scale,
            layout_share,
            self.pearl_key_weight,
        ];
        values.map(f64::to_bits)
    }
}

impl PartialEq for AttentionConstants {
    fn eq(&self, other: &Self) -> bool {
        self.bits() == other.bits()
    }
}

impl Eq for AttentionConstants {}

impl Hash for AttentionConstants {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bits().hash(state);
    }
}

/// What ResCLIP's release (yvhangyang/ResCLIP 0e085f7) has for each data set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ResclipConstants {
    /// A pixel of the first pass whose best probability is below this counts as of the first query, 0 to 1.
    pub threshold: f32,
    /// `lambda_r`: share of the middle blocks' attention, 0 to 1.
    pub middle_share: f64,
    /// `tau_s`: factor on what the second pass's softmax sees but the neighbourhood.
    pub score_scale: f64,
    /// `lambda_s`: share of the first pass's layout in what the softmax sees, 0 to 1.
    pub layout_share: f64,
}

impl Default for ResclipConstants {
    /// Those for PASCAL Context 59, where everything in the picture has a class of its own.
    fn default() -> Self {
        Self {
            threshold: 0.25,
            middle_share: 0.4,
            score_scale: 1.8,
            layout_share: 0.7,
        }
    }
}
