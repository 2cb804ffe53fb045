//! What stands between a model and a label map as plain data: scores on grids, the geometry of windows, and which query belongs to
//! which class.
//!
//! Owns the meaning of these numbers. Knows neither where scores come from nor what becomes of them.

mod windows;

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

/// What the texts score on one image.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseScores {
    /// Scores per query and grid cell, denoised and smoothed as asked.
    pub map: ScoreMap,
    /// Best raw cosine in any cell, per query, -1 to 1.
    pub similarity: Vec<f32>,
    /// Softmax over the queries of the logits of the pooled feature, their mean over windows, then sizes.
    pub image_probability: Vec<f32>,
    /// Prompt denoising would have dropped every class, so it dropped none.
    pub denoising_dropped_all: bool,
}
