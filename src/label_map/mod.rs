//! Scores on the model's grids to labels at image size, with confidence and statistics.
//!
//! Owns the meaning of a label map (pixel values, the unlabelled value, what confidence is) and its
//! encoders. Knows nothing of tensors, HTTP or where the scores come from.

mod coco_rle;
mod encode;
mod enlarge;
mod id_width;
mod instructions;
mod interpolation;
mod kernel;
mod lanes;
mod palette;
mod png;
mod statistics;

pub use coco_rle::CocoMask;
pub use encode::{EncodedLabelMap, LabelMapFormat, encode, encode_confidence};
pub use enlarge::enlarge;
pub use kernel::label_map;
pub use palette::palette_color;

/// What [`label_map`] is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LabelMapOptions {
    /// Width of the result in pixels.
    pub width: u32,
    /// Height of the result in pixels.
    pub height: u32,
    /// Number of classes; ids run from 0 to one less.
    pub classes: usize,
    /// The label of background pixels: [`UNLABELLED`], or the id of the class that was named
    /// "background", as whose queries the background's then count.
    pub background_label: u16,
    /// A pixel whose best class probability is below this becomes background; 0 keeps all.
    pub background_threshold: f32,
    /// A class that covers at most this share of all pixels that have a class, threshold aside, is nowhere; 0 keeps all.
    pub smallest_area: f64,
    /// Whether the confidence map is wanted.
    pub confidence_map: bool,
}

/// A dense label map at image size.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelMap {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Class id per pixel or [`UNLABELLED`], `[height, width]`, row-major.
    pub labels: Vec<u16>,
    /// Probability of the pixel's own label times 255, rounded, `[height, width]`.
    pub confidence: Option<Vec<u8>>,
    /// One entry per class, in request order.
    pub classes: Vec<ClassStatistics>,
}

/// What the label map says of one class.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassStatistics {
    /// Pixels that carry the class.
    pub pixels: u64,
    /// `[x, y, width, height]` in pixels of the smallest box around them.
    pub bounding_box: Option<[u32; 4]>,
    /// Mean probability of the class over its own pixels, 0 to 1; `None` when it has none.
    pub mean_confidence: Option<f32>,
    /// Largest probability of the class over its own pixels, 0 to 1; `None` when it has none.
    pub max_confidence: Option<f32>,
    /// Largest probability of the class over all pixels, 0 to 1.
    pub presence: f32,
}
