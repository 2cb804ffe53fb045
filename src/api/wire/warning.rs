//! Warnings, in replies and in the header of replies without a place for them.

use axum::http::HeaderName;
use serde::Serialize;
use utoipa::ToSchema;

use super::enums::WarningCode;
use crate::engine::Warning;

/// Codes of the warnings, separated by commas, where the body has no place for them.
pub(in crate::api) const MASKCLIP_WARNINGS: HeaderName = HeaderName::from_static("maskclip-warnings");

/// Advice that comes with a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct WarningReply {
    /// A stable code. `single-class`: one class and no background, so every pixel gets it with probability 1.
    /// `no-background`: no class has the name of something that surrounds others (the words of `vocabulary.background`:
    /// sky, wall, ...) or "background", and the request leaves `background` open. `duplicate-class`: a class or a
    /// synonym stands in the list twice. `commas-in-name`: the only class or background name has commas in it, so several
    /// names may have been meant. `numbered-names`: names begin with numbers, as in "0: tiger". `signs-in-names`: names
    /// have signs around them that lists in JSON, CSV, YAML or a label map have, as in "- tiger" or "tiger,3".
    /// `unknown-word`: a class has words the model's training captions never had.
    /// `text-truncated`: a name is longer than the model reads, and the end of some prompts with it was cut off.
    /// `denoising-dropped-all`: prompt denoising would have dropped every class, so it dropped none.
    pub code: WarningCode,
    /// What it means for this request.
    pub message: String,
}

impl From<Warning> for WarningReply {
    fn from(Warning { code, message }: Warning) -> Self {
        Self {
            code: code.into(),
            message,
        }
    }
}
