//! What clients of other servers speak: their routes, their bodies and their forms of errors, each in a file of its
//! own.
//!
//! A protocol translates to requests of the engine and back. Limits, admission, deadlines and keys are those of every
//! other route.

mod error_form;
mod hugging_face;
mod inference;
mod label_studio;
mod masks;
mod openai;

pub(super) use error_form::{ErrorForm, ErrorMessage, OpenAiError};
pub(super) use hugging_face::*;
pub(super) use inference::*;
pub(super) use label_studio::*;
pub(super) use openai::*;
