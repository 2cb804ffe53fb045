//! CLIP as published: both visual towers, the text tower, the tokenizer and the checkpoints.
//!
//! Owns the exact computation of OpenAI's and open_clip's models. Nearly all sizes come from the shapes of the tensors.
//! Knows nothing of MaskCLIP.

#![allow(clippy::disallowed_types)] // This room computes with tensors.

mod activation;
pub mod checkpoint;
mod linear;
mod model;
mod native;
mod positions;
mod prefix_tree;
mod resnet;
mod text;
mod tokenizer;
mod transformer;
mod visual;
mod vit;

pub use activation::Activation;
pub use checkpoint::{CheckpointError, CheckpointFormat, ModelConfig, Weights};
pub use model::Clip;
pub use resnet::ModifiedResNet;
pub use text::TextTower;
pub use tokenizer::{END_OF_TEXT, START_OF_TEXT, Tokenizer, Tokens, VOCABULARY_SIZE};
pub use visual::VisualTower;
pub use vit::VisionTransformer;

pub(crate) use native::{limit_arenas, limit_primitives, return_free_memory};
pub(crate) use positions::PositionResampling;
pub(crate) use resnet::AttentionPool;
pub(crate) use transformer::{ResidualAttentionBlock, attend};
pub(crate) use vit::Readout;
