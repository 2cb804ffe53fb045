//! Scores on the model's grids to labels at image size, with confidence and statistics.
//!
//! Owns the meaning of a label map (pixel values, the unlabelled value, what confidence is) and its
//! encoders. Knows nothing of tensors, HTTP or where the scores come from.

mod coco_rle;
mod encode;
mod enlarge;
mod instructions;
mod interpolation;
mod kernel;
mod lanes;
mod palette;
mod png;
mod statistics;
mod windows;

pub use coco_rle::CocoMask;
pub use encode::{EncodedLabelMap, LabelMapFormat, encode, encode_confidence};
pub use enlarge::enlarge;
pub use kernel::label_map;
pub use palette::palette_color;
pub use windows::{WindowAxis, Windows};

/// The label of a pixel that belongs to no class. Written as 255 in 8-bit maps and 65535 in
/// 16-bit ones.
pub const UNLABELLED: u16 = u16::MAX;

/// What the numbers of a [`ScoreMap`] are, and so how they become probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreKind {
    /// Temperature times cosine: a softmax over the queries makes probabilities.
    Logits,
    /// Key-smoothed probabilities: clamped at 0 and divided by their sum per pixel, no softmax.
    Weights,
}

/// What the queries score on an image: at every place the mean over the grids, each interpolated from its own cells.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreMap {
    /// What the values are.
    pub kind: ScoreKind,
    /// Number of queries (text embeddings the image was compared with).
    pub queries: usize,
    /// One for each size at which the image was scored, at least one.
    pub grids: Vec<ScoreGrid>,
}

/// One score per query and grid cell.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreGrid {
    /// Cells from top to bottom, of all windows.
    pub height: usize,
    /// Cells from left to right, of all windows.
    pub width: usize,
    /// The windows whose cells these are; `None` for cells that cover the image evenly.
    pub windows: Option<Windows>,
    /// `[queries, height, width]`, row-major.
    pub values: Vec<f32>,
}

/// Whose score a query's is. Several queries may belong to one owner; the owner's probability is
/// the maximum over its queries, taken after the softmax (the protocol of MaskCLIP's successors).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueryOwner {
    /// The class of that index in the request.
    Class(u16),
    /// Anything that was not asked for ("sky", "wall", ...).
    Background,
}

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
