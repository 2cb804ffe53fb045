//! MaskCLIP+: a segmentation network that learns from the labels MaskCLIP gives for free (Zhou, Loy, Dai, "Extract Free Dense
//! Labels from CLIP", ECCV 2022, section 3.4).
//!
//! Owns the network and its training. Where labels come from it does not know: any [`Labeller`](crate::engine::Labeller)
//! teaches.

#![allow(clippy::disallowed_types)] // Tensors live here.

mod loss;
mod network;
mod optimiser;

pub use loss::cross_entropy;
pub use network::{Backbone, Head, Mode, Network, NetworkConfig, ParameterError, Parameters, Stem};
pub use optimiser::{OptimiserSettings, Sgd};
