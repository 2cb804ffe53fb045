//! The state of a model, in replies about readiness.

use serde::Serialize;
use utoipa::ToSchema;

use super::enums::ModelState;
use crate::engine::ModelStatus;

/// Whether a model answers requests.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ModelHealth {
    /// The name that requests use.
    #[schema(example = "demo")]
    name: String,
    /// `starting`: it is being loaded. `ready`: it answers. `recovering`: it panicked and is being loaded again.
    /// `failed`: the latest attempt to load it failed; a model that has been ready before is tried again.
    status: ModelState,
    /// Why it could not be loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Seconds until the next attempt to load it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    next_attempt_seconds: Option<f64>,
}

impl From<ModelStatus> for ModelHealth {
    fn from(status: ModelStatus) -> Self {
        let ModelStatus {
            name,
            state,
            error,
            next_attempt,
        } = status;
        Self {
            name,
            status: state.into(),
            detail: error.map(|error| error.to_string()),
            next_attempt_seconds: next_attempt.map(|wait| wait.as_secs_f64()),
        }
    }
}
