//! Open-vocabulary dense labelling: an image and a list of class names in, a label map with
//! per-class confidence out, from CLIP weights alone (MaskCLIP: Zhou, Loy, Dai, "Extract Free
//! Dense Labels from CLIP", ECCV 2022).
//!
//! A request flows one way, and so do the imports:
//!
//! ```text
//! cli ─┬─> api ─> engine ─┬─> vocabulary ─> (prompts, text-embedding store)
//!      │                  ├─> image       bytes to normalised pixels
//!      │                  ├─> dense ──────> clip      tensors live here and in the engine's worker
//!      │                  └─> label_map   scores to labels at image size, encoders
//!      ├─> evaluation ─> engine           label maps against truths
//!      ├─> models ─┬───> engine           CLIP's and students, by name
//!      ├─> student ┴───> engine           MaskCLIP+: a network learns from a labeller, and is one
//!      └─> fetch ─> clip::zoo             published weights into the folder of models
//! ```
//!
//! `clip` is CLIP as published and knows nothing of MaskCLIP; `dense` knows nothing of HTTP; `api`
//! knows nothing of libtorch. Layers hand each other plain data: tensor types appear only in
//! [`clip`], [`dense`], [`student`] and the engine's worker, which clippy's `disallowed-types` enforces.

pub mod api;
mod byte_lru;
pub mod cli;
pub mod clip;
pub mod config;
pub mod dense;
pub mod engine;
pub mod evaluation;
pub mod fetch;
mod hexadecimal;
pub mod image;
pub mod label_map;
pub mod models;
mod random;
pub mod student;
pub mod telemetry;
pub mod vocabulary;

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
