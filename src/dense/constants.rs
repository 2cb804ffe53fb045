//! Constants that the released codes of ResCLIP and PEARL change with the data set: plain data, no tensors.
//!
//! Requests and settings have no field for them: what a protocol does not set is the default.

/// The constants of all methods that have some; each is read by its own method alone.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MethodConstants {
    /// ResCLIP's, as released or repaired.
    pub resclip: ResclipConstants,
    /// PEARL's, with either rotation, and its propagation's.
    pub pearl: PearlConstants,
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

/// What PEARL's release (PGSmall/PEARL c26062b) has for some data sets and for all others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PearlConstants {
    /// `alpha`: weight of the keys' likeness to each other.
    pub key_weight: f64,
    /// Cells along a side that the propagation averages an image to, more or less; at least 1.
    pub cells: u32,
}

impl Default for PearlConstants {
    /// Those for all data sets without others.
    fn default() -> Self {
        Self {
            key_weight: 0.08,
            cells: 80,
        }
    }
}
