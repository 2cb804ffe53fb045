//! From scores on the model's grids to labels at the image's size, with confidence and statistics.
//!
//! Owns the meaning of a label map (pixel values, the unlabelled value, confidence) and its encoders. Knows nothing of
//! tensors, of HTTP, or of the origin of scores.

mod brush_rle;
mod coco_rle;
mod encode;
mod enlarge;
mod id_width;
mod instructions;
mod interpolation;
mod kernel;
mod lanes;
mod palette;
mod panoptic;
mod png;
mod polygons;
mod statistics;
mod style;

pub use brush_rle::brush_rle;
pub use coco_rle::{CocoMask, coco_masks, coco_pixels, coco_runs};
pub use encode::{EncodedLabelMap, LabelMapFormat, encode, encode_confidence, encode_probabilities, encode_range};
pub use enlarge::enlarge;
pub use kernel::{label_map, label_map_unless, label_map_with_probabilities};
pub use palette::palette_color;
pub use panoptic::coco_category;
pub use png::{grey_label_png, grey_png, label_png, panoptic_png};
pub use polygons::{ClassPolygons, Corner, TooManyCorners, polygons, polygons_within};
pub use style::LabelStyle;

/// The options of [`label_map`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LabelMapOptions {
    /// Width of the label map in pixels.
    pub width: u32,
    /// Height of the label map in pixels.
    pub height: u32,
    /// The number of classes; ids go from 0 to one less.
    pub classes: usize,
    /// The label of background pixels: [`UNLABELLED`](crate::scores::UNLABELLED), or the id of the class that the
    /// request names "background". In the second case, background queries count as queries of that class.
    pub background_label: u16,
    /// A pixel whose best class probability is below this becomes background; 0 keeps all pixels.
    pub background_threshold: f32,
    /// A class is dropped if it covers at most this share of all pixels that have a class, without the threshold; 0
    /// keeps all classes.
    pub smallest_area: f64,
    /// Whether to compute the confidence map.
    pub confidence_map: bool,
}

/// A dense label map at the image's size.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelMap {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The class id of each pixel, or [`UNLABELLED`](crate::scores::UNLABELLED), `[height, width]`, row by row.
    pub labels: Vec<u16>,
    /// The probability of each pixel's own label times 255, rounded, `[height, width]`; `None` if it was not asked for.
    pub confidence: Option<Vec<u8>>,
    /// The statistics of each class, in the order of the request.
    pub classes: Vec<ClassStatistics>,
}

/// The probabilities of one class in every pixel of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbabilityMap {
    /// The class.
    pub class_id: u16,
    /// The probability of the class times 255, rounded, `[height, width]`, row by row.
    pub values: Vec<u8>,
}

/// The statistics of one class in a label map.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassStatistics {
    /// The number of pixels with the class.
    pub pixels: u64,
    /// The smallest box around these pixels, `[x, y, width, height]` in pixels; `None` when there are none.
    pub bounding_box: Option<[u32; 4]>,
    /// The mean probability of the class over its own pixels, 0 to 1; `None` when it has none.
    pub mean_confidence: Option<f32>,
    /// The largest probability of the class over its own pixels, 0 to 1; `None` when it has none.
    pub max_confidence: Option<f32>,
    /// The largest probability of the class over all pixels, 0 to 1.
    pub presence: f32,
}
