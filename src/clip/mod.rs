//! CLIP as published: both visual towers, the text tower, the tokenizer, checkpoints.
//!
//! Owns the exact computation of OpenAI's and open_clip's models, all sizes read off tensor shapes.
//! Knows nothing of MaskCLIP.

mod tokenizer;

pub use tokenizer::{END_OF_TEXT, START_OF_TEXT, Tokenizer, Tokens, VOCABULARY_SIZE};
