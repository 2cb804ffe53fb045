//! What a model is asked with where neither a request nor the settings say.

use crate::dense::Refinement;

/// The options that a model brings. Each holds where a request, its protocol and the settings leave it open.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelOptions {
    /// Short side of the input in pixels, at least 1.
    pub short_side: u32,
    /// Factors on the short side: at least one, each above 0. The image is scored at each of these sizes.
    pub scales: Vec<f64>,
    /// Factor on cosines, or on a student's products, before the softmax: the scale that CLIP learned, 1 for a student,
    /// or what the file of the model's options says. Above 0.
    pub temperature: f32,
    /// How scores are refined at the image's size.
    pub refinement: Refinement,
}
