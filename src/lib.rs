//! Open-vocabulary dense labelling: an image and a list of class names in, a label map with
//! per-class confidence out, from CLIP weights alone (MaskCLIP: Zhou, Loy, Dai, "Extract Free
//! Dense Labels from CLIP", ECCV 2022).
//!
//! Each module below is a room of the house that docs/architecture.md describes: the document has the one diagram, and
//! `cargo test --test architecture` holds the modules to it.

pub mod access;
pub mod api;
pub mod cli;
pub mod client;
pub mod clip;
pub mod config;
pub mod dense;
pub mod engine;
pub mod evaluation;
pub mod formats;
pub mod image;
pub mod label_map;
pub mod labeller;
pub mod labelling;
pub mod models;
pub mod scores;
pub mod shared;
pub mod support;
pub mod telemetry;
pub mod training;
pub mod vocabulary;
pub mod weights;

/// This build's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit this build was made from; "unknown" outside a checkout.
pub const COMMIT: &str = env!("MASKCLIP_BUILD_COMMIT");

/// What `maskclip --version` prints behind the name.
pub const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("MASKCLIP_BUILD_COMMIT"),
    ", ",
    env!("MASKCLIP_BUILD_TARGET"),
    ", ",
    env!("MASKCLIP_BUILD_RUSTC"),
    ")"
);
