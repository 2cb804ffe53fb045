//! What clients of other servers speak: their routes and their bodies, each in a file of its own.
//!
//! A protocol translates to requests of the engine and back. Limits, admission, deadlines and keys are those of every
//! other route.

mod hugging_face;
mod inference;
mod label_studio;
mod masks;
mod openai;

pub(super) use hugging_face::*;
pub(super) use inference::*;
pub(super) use label_studio::*;
pub(super) use openai::*;
