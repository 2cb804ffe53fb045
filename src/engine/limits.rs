//! Bounds on images and on what the model computes for a request.

use crate::support::{OutOfRange, at_least_one};

/// Bounds on images and on what the model computes for a request. The error that a bound causes names its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputLimits {
    /// `limits.max_image_pixels`: width times height of an image, read from its header before anything is allocated.
    pub max_image_pixels: u64,
    /// `limits.max_short_side`: short side of the model's input in pixels, at every scale.
    pub max_short_side: u32,
    /// `limits.max_scales`: scales of one request.
    pub max_scales: usize,
    /// `limits.max_input_pixels`: pixels of the model's input, width times height, in all scales and windows together.
    pub max_input_pixels: u64,
    /// `limits.max_windows`: windows of one request, at all scales.
    pub max_windows: usize,
    /// `limits.max_paired_cells`: cells of an input or a window for attentions that compare every two of them.
    pub max_paired_cells: usize,
    /// `limits.max_refinement_bytes`: bytes that refining the scores of one request at the image's size may take.
    pub max_refinement_bytes: u64,
}

impl InputLimits {
    /// Checks the range of every value.
    ///
    /// # Errors
    /// The first value outside its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        at_least_one("limits.max_image_pixels", self.max_image_pixels)?;
        at_least_one("limits.max_short_side", self.max_short_side)?;
        at_least_one("limits.max_scales", self.max_scales as u64)?;
        at_least_one("limits.max_input_pixels", self.max_input_pixels)?;
        at_least_one("limits.max_windows", self.max_windows as u64)?;
        at_least_one("limits.max_paired_cells", self.max_paired_cells as u64)
    }
}
