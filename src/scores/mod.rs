//! The plain data between a model and a label map: scores on grids, the geometry of windows, and the class of each
//! query.
//!
//! Owns the meaning of these numbers. Knows neither where scores come from nor what is done with them.

mod windows;

pub use windows::{WindowAxis, Windows};

/// The label of a pixel that belongs to no class. Label maps write it as 255 in 8-bit maps and as 65535 in 16-bit maps.
pub const UNLABELLED: u16 = u16::MAX;

/// The meaning of the numbers in a [`ScoreMap`], which determines how they become probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreKind {
    /// Temperature times cosine, or times a student's product. A softmax over the queries turns them into
    /// probabilities.
    Logits,
    /// Key-smoothed probabilities. They are clamped at 0 and divided by their sum per pixel, without a softmax.
    Weights,
}

/// The scores of the queries on one image. The score at a place is the mean over the grids, each interpolated from its
/// own cells.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreMap {
    /// The meaning of the values.
    pub kind: ScoreKind,
    /// The number of queries, which are the text embeddings that the image was compared with.
    pub queries: usize,
    /// One grid for each size at which the image was scored; there is at least one.
    pub grids: Vec<ScoreGrid>,
}

/// One score for each query and grid cell.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreGrid {
    /// The number of cells from top to bottom, over all windows.
    pub height: usize,
    /// The number of cells from left to right, over all windows.
    pub width: usize,
    /// The windows to which the cells belong; `None` for cells that cover the image evenly.
    pub windows: Option<Windows>,
    /// The scores, `[queries, height, width]`, row by row.
    pub values: Vec<f32>,
}

/// The owner of a query. Several queries may have one owner. Its probability is the largest of its queries'
/// probabilities, taken after the softmax, as in the protocol of MaskCLIP's successors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueryOwner {
    /// The class with this index in the request.
    Class(u16),
    /// Anything that the request did not ask for, such as "sky" or "wall".
    Background,
}

/// The scores of the texts on one image.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseScores {
    /// The scores for each query and grid cell, denoised and smoothed as the options say.
    pub map: ScoreMap,
    /// The best cosine in any cell for each query, -1 to 1.
    pub similarity: Vec<f32>,
    /// The softmax over the queries of the pooled feature's logits. The logits are averaged over windows, then over
    /// sizes.
    pub image_probability: Vec<f32>,
    /// Whether prompt denoising would have dropped every class and therefore dropped none.
    pub denoising_dropped_all: bool,
}
