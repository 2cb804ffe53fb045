//! The one shape of every error: RFC 9457 problem details, and what clients of a protocol have in its place.
//!
//! Owns the kinds of problems, each with its status, and how they stand in the OpenAPI document. Leaves
//! which error is of which kind to [`error`](super::error).

mod form;
mod kind;
mod route;

use serde::Serialize;
use utoipa::ToSchema;

use super::wire::ModelHealth;

pub(super) use form::{ErrorForm, ErrorMessage, OpenAiError};
pub use kind::ProblemType;
pub(super) use route::{KeyProblems, NoProblems, problems};

/// The media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// A problem (RFC 9457), the body of every answer with a status of 400 or more.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Problem {
    /// The kind of problem.
    #[serde(rename = "type")]
    pub kind: ProblemType,
    /// The kind in words, the same each time.
    pub title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What is wrong with this request, for people. An internal error has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The request's id, as in the `x-request-id` header and the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The field at fault, as in `classes[1].name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The setting that was exceeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// The state of every model; only in the reply of `GET /health/ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<ModelHealth>>,
}

/// A setting of the server that a request exceeded.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Limit {
    /// The setting's name in the configuration.
    #[schema(example = "limits.max_image_pixels")]
    pub name: &'static str,
    /// Its value.
    #[schema(value_type = f64, example = 50_000_000)]
    pub value: serde_json::Number,
}

impl Limit {
    /// A limit in whole units.
    pub fn whole(name: &'static str, value: u64) -> Self {
        Self {
            name,
            value: value.into(),
        }
    }

    /// A limit in fractions of a unit; settings are validated to be finite.
    pub fn fractional(name: &'static str, value: f64) -> Self {
        Self {
            name,
            value: serde_json::Number::from_f64(value).expect("settings are validated to be finite"),
        }
    }
}
