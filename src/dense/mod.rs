//! MaskCLIP: dense features from CLIP's own weights, their scores against text embeddings, prompt
//! denoising and key smoothing.
//!
//! Owns what happens between the visual tower's last stage and the score grid. Builds on [`clip`](crate::clip),
//! knows nothing of images, vocabularies' names or HTTP.

mod options;

pub use options::{Attention, DenseOptions, KeySmoothing};
