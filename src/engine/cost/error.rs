//! Which limit a request exceeds, and what would cost less.

use std::fmt;

use crate::engine::Field;
use crate::support::ExceededLimit;

/// A request exceeds a limit with its scales, windows, attention, texts or output. Each text names the limit's settings
/// key.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CostError {
    /// A scale makes the input larger than the server allows.
    #[error(
        "the short side at scale {scale} is {pixels} pixels, more than limits.max_short_side = {limit}; a smaller scale or \
         short_side makes it smaller"
    )]
    ScaledShortSide {
        /// The scale.
        scale: f64,
        /// The short side of the scaled input in pixels.
        pixels: u32,
        /// The limit in pixels.
        limit: u32,
    },
    /// A window is smaller than one patch, so the model would see nothing through it.
    #[error("window.side must be at least the model's patch of {patch_pixels} pixels, not {side}")]
    SmallWindow {
        /// The window's side in pixels.
        side: u32,
        /// Side of the model's patch in pixels.
        patch_pixels: u32,
    },
    /// The request has more windows than the server allows.
    #[error(
        "the model's input of {sizes} pixels has {count} windows, more than limits.max_windows = {limit}; a larger \
         window.stride or fewer scales make fewer"
    )]
    TooManyWindows {
        /// Width and height of the model's input in pixels, at each scale.
        sizes: Sizes,
        /// The number of windows of all scales.
        count: usize,
        /// The largest number of windows.
        limit: usize,
    },
    /// The scales and windows together have more pixels than the server allows.
    #[error(
        "the model's input of {sizes} pixels comes to {pixels} pixels in all scales and windows, more than \
         limits.max_input_pixels = {limit}; a smaller short_side, fewer scales or a larger window.stride make fewer"
    )]
    InputPixels {
        /// Width and height of the model's input in pixels, at each scale.
        sizes: Sizes,
        /// Pixels of all windows at all scales. A scale without windows counts with its whole input.
        pixels: u64,
        /// The largest number of pixels.
        limit: u64,
    },
    /// The attention compares cells in pairs, and the input has too many cells for that.
    #[error(
        "the attention {attention} compares every two of {cells} cells, more than limits.max_paired_cells = {limit}; a smaller \
         short_side, or windows, make fewer"
    )]
    PairedCells {
        /// The attention that was asked for.
        attention: &'static str,
        /// Cells that the model sees at once.
        cells: usize,
        /// The largest number of cells.
        limit: usize,
    },
    /// The refinement needs too much memory.
    #[error(
        "the refinement of {queries} texts at {pixels} pixels takes {bytes} bytes, more than limits.max_refinement_bytes = \
         {limit}; a smaller image or fewer classes take less"
    )]
    Refinement {
        /// Queries that are refined, one per text that is scored on its own.
        queries: usize,
        /// Pixels of the image.
        pixels: u64,
        /// Bytes that the refinement needs.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The scores of all texts in all cells would be too large.
    #[error(
        "the scores of {queries} texts in {cells} cells take {bytes} bytes, more than limits.max_score_bytes = {limit}; fewer \
         classes, synonyms: mean or a smaller short_side take less"
    )]
    ScoreBytes {
        /// Queries, one per text that is scored on its own.
        queries: usize,
        /// Cells over all scales and windows.
        cells: u64,
        /// Bytes of the scores.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The label map would be too much work.
    #[error(
        "{queries} texts at {pixels} pixels are more than limits.max_pixel_texts = {limit}; fewer classes, synonyms: mean \
         or a smaller image make fewer"
    )]
    PixelTexts {
        /// Queries, one per text that is scored on its own.
        queries: usize,
        /// Pixels of the image.
        pixels: u64,
        /// The largest number of queries times pixels.
        limit: u64,
    },
    /// The image is too large for a label map of rows of numbers.
    #[error(
        "a raw label map of {pixels} pixels has more than limits.max_raw_pixels = {limit}; png and coco-rle are smaller"
    )]
    RawPixels {
        /// Pixels of the image.
        pixels: u64,
        /// The limit in pixels.
        limit: u64,
    },
    /// The request alone needs more memory than all requests together may take.
    #[error(
        "the request takes up to {bytes} bytes, more than engine.work_bytes = {limit}; a smaller image, fewer classes or \
         another form of the label map take less"
    )]
    WorkBytes {
        /// Bytes that the request needs at most at once.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The probability maps of an image have too many bytes.
    #[error(
        "{maps} probability maps of {pixels} pixels take {bytes} bytes, more than limits.max_probability_bytes = {limit}; fewer \
         classes or a smaller image take less"
    )]
    ProbabilityBytes {
        /// The number of maps.
        maps: usize,
        /// Pixels of the image.
        pixels: u64,
        /// Bytes of the maps.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The polygons of the label map have too many corners, which is known only once there is a label map.
    #[error(
        "the polygons of the label map have more than limits.max_polygon_corners = {limit} corners; run lengths (coco-rle) say \
         the same in less"
    )]
    PolygonCorners {
        /// The largest number of corners.
        limit: u64,
    },
    /// The image is too large for a confidence map.
    #[error("a confidence map of {pixels} pixels has more than limits.max_confidence_pixels = {limit}")]
    ConfidencePixels {
        /// Pixels of the image.
        pixels: u64,
        /// The limit in pixels.
        limit: u64,
    },
}

impl CostError {
    /// Returns the field that asks for too much.
    pub fn field(&self) -> Field {
        match self {
            Self::SmallWindow { .. } => Field::WindowSide,
            Self::ScaledShortSide { .. } => Field::Scales,
            Self::InputPixels { sizes, .. } if sizes.0.len() > 1 => Field::Scales,
            Self::InputPixels { .. } | Self::TooManyWindows { .. } => Field::Window,
            Self::PairedCells { .. } => Field::Attention,
            Self::Refinement { .. } => Field::Refinement,
            Self::ScoreBytes { .. } | Self::PixelTexts { .. } => Field::Classes,
            Self::WorkBytes { .. } => Field::Image,
            Self::RawPixels { .. } | Self::PolygonCorners { .. } => Field::OutputLabelMap,
            Self::ConfidencePixels { .. } => Field::OutputConfidenceMap,
            Self::ProbabilityBytes { .. } => Field::OutputProbabilityMaps,
        }
    }

    /// Returns the limit in the settings that the request exceeds, if it exceeds one.
    pub fn limit(&self) -> Option<ExceededLimit> {
        let (key, limit) = match *self {
            Self::SmallWindow { .. } => return None,
            Self::ScaledShortSide { limit, .. } => ("limits.max_short_side", limit.into()),
            Self::TooManyWindows { limit, .. } => ("limits.max_windows", limit as u64),
            Self::InputPixels { limit, .. } => ("limits.max_input_pixels", limit),
            Self::PairedCells { limit, .. } => ("limits.max_paired_cells", limit as u64),
            Self::Refinement { limit, .. } => ("limits.max_refinement_bytes", limit),
            Self::ScoreBytes { limit, .. } => ("limits.max_score_bytes", limit),
            Self::PixelTexts { limit, .. } => ("limits.max_pixel_texts", limit),
            Self::RawPixels { limit, .. } => ("limits.max_raw_pixels", limit),
            Self::WorkBytes { limit, .. } => ("engine.work_bytes", limit),
            Self::ProbabilityBytes { limit, .. } => ("limits.max_probability_bytes", limit),
            Self::PolygonCorners { limit } => ("limits.max_polygon_corners", limit),
            Self::ConfidencePixels { limit, .. } => ("limits.max_confidence_pixels", limit),
        };
        Some(ExceededLimit::whole(key, limit))
    }
}

/// Width and height in pixels of each of several inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes(pub Vec<(u32, u32)>);

impl fmt::Display for Sizes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (width, height)) in self.0.iter().enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            write!(formatter, "{separator}{width} x {height}")?;
        }
        Ok(())
    }
}
