//! Limits on images and on the model's work for a request.

use crate::support::{OutOfRange, at_least_one};

/// Limits on images and on the model's work for a request. An error about a limit names its settings key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputLimits {
    /// `limits.max_image_pixels`: largest width times height of an image. Checked from the header before anything is
    /// allocated.
    pub max_image_pixels: u64,
    /// `limits.max_short_side`: largest short side of the model's input in pixels, at every scale.
    pub max_short_side: u32,
    /// `limits.max_scales`: largest number of scales in one request.
    pub max_scales: usize,
    /// `limits.max_input_pixels`: largest number of pixels of the model's input, over all scales and windows together.
    pub max_input_pixels: u64,
    /// `limits.max_windows`: largest number of windows in one request, over all scales.
    pub max_windows: usize,
    /// `limits.max_paired_cells`: largest number of cells of an input or a window for attentions that compare cells in
    /// pairs.
    pub max_paired_cells: usize,
    /// `limits.max_refinement_bytes`: largest number of bytes for refining the scores of one request at the image's
    /// size.
    pub max_refinement_bytes: u64,
    /// `limits.max_score_bytes`: largest number of bytes of the scores of one request, 4 for each text and cell, over
    /// all scales and windows.
    pub max_score_bytes: u64,
    /// `limits.max_pixel_texts`: largest number of texts times pixels of the image for one label map.
    pub max_pixel_texts: u64,
    /// `limits.max_raw_pixels`: largest number of pixels of an image whose label map is written as rows of numbers.
    pub max_raw_pixels: u64,
    /// `limits.max_polygon_corners`: largest number of corners of the polygons of one label map, those of cuts to holes
    /// included.
    pub max_polygon_corners: u64,
    /// `limits.max_confidence_pixels`: largest number of pixels of an image with a confidence map.
    pub max_confidence_pixels: u64,
    /// `limits.max_probability_bytes`: largest number of bytes of the probability maps of one request before they are
    /// encoded, one for each map and pixel of the image.
    pub max_probability_bytes: u64,
    /// `limits.max_embedding_inputs`: largest number of texts and images in one request for embeddings.
    pub max_embedding_inputs: usize,
    /// `limits.max_embedding_characters`: largest number of characters of a text in a request for embeddings.
    pub max_embedding_characters: usize,
}

impl InputLimits {
    /// Checks the range of every value.
    ///
    /// # Errors
    /// [`OutOfRange`] for the first value outside its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        at_least_one("limits.max_image_pixels", self.max_image_pixels)?;
        at_least_one("limits.max_short_side", self.max_short_side)?;
        at_least_one("limits.max_scales", self.max_scales as u64)?;
        at_least_one("limits.max_input_pixels", self.max_input_pixels)?;
        at_least_one("limits.max_windows", self.max_windows as u64)?;
        at_least_one("limits.max_paired_cells", self.max_paired_cells as u64)?;
        at_least_one("limits.max_score_bytes", self.max_score_bytes)?;
        at_least_one("limits.max_pixel_texts", self.max_pixel_texts)?;
        at_least_one("limits.max_polygon_corners", self.max_polygon_corners)?;
        at_least_one("limits.max_embedding_inputs", self.max_embedding_inputs as u64)?;
        at_least_one("limits.max_embedding_characters", self.max_embedding_characters as u64)
    }
}
