//! Constants that the released codes of ResCLIP and PEARL change with the data set: plain data, no tensors.
//!
//! Requests and settings have no field for them. An evaluation protocol sets them; otherwise the defaults apply.

use std::hash::{Hash, Hasher};

/// Approximate number of cells along a side to which PEARL's propagation averages an image, unless a protocol says
/// otherwise.
pub const PROPAGATION_CELLS: u32 = 80;

/// The constants of all attentions that have any. Each attention reads only its own. Two values are equal when they are
/// equal to the bit.
#[derive(Debug, Clone, Copy)]
pub struct AttentionConstants {
    /// The constants of ResCLIP, both as released and repaired.
    pub resclip: ResclipConstants,
    /// PEARL's `alpha`, with either rotation: the weight of the likeness of keys to each other.
    pub pearl_key_weight: f64,
}

impl Default for AttentionConstants {
    /// Returns the constants for every data set that has no others.
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

/// The constants that ResCLIP's release (yvhangyang/ResCLIP 0e085f7) has for each data set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ResclipConstants {
    /// A pixel of the first pass counts as the first query's if its best probability is below this value, 0 to 1.
    pub threshold: f32,
    /// `lambda_r`: the share of the middle blocks' attention, 0 to 1.
    pub middle_share: f64,
    /// `tau_s`: the factor on the scores of the second pass before the softmax; it does not apply to the neighbourhood.
    pub score_scale: f64,
    /// `lambda_s`: the share of the first pass's layout in these scores, 0 to 1.
    pub layout_share: f64,
}

impl Default for ResclipConstants {
    /// Returns the constants for PASCAL Context 59, in which everything in the picture has a class of its own.
    fn default() -> Self {
        Self {
            threshold: 0.25,
            middle_share: 0.4,
            score_scale: 1.8,
            layout_share: 0.7,
        }
    }
}
