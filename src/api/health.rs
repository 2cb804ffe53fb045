//! `GET /health/live` and `GET /health/ready`: for orchestrators.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::openapi::RefOr;
use utoipa::{IntoResponses, ToSchema};

use super::AppState;
use super::error::ApiError;
use super::problem::{self, NoProblems, ProblemType};
use crate::engine::Readiness;

/// The state of the server.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `live` or `ready`.
    status: &'static str,
}

/// Is the process alive?
///
/// Answers as soon as the server listens. A failure means that the process should be restarted.
#[utoipa::path(
    get,
    path = "/health/live",
    operation_id = "get_liveness",
    tag = "operations",
    responses((status = 200, description = "It is.", body = Health, example = json!({"status": "live"})), NoProblems),
)]
pub(super) async fn get_liveness() -> Json<Health> {
    Json(Health { status: "live" })
}

/// Can the server answer requests?
///
/// Only while each model has a warm worker: the model loaded and run once. A failure means that requests should go
/// elsewhere. While one model of several recovers from a failure, requests to the others are answered all the same.
#[utoipa::path(
    get,
    path = "/health/ready",
    operation_id = "get_readiness",
    tag = "operations",
    responses((status = 200, description = "It can.", body = Health, example = json!({"status": "ready"})), ReadyProblems),
)]
pub(super) async fn get_readiness(State(state): State<AppState>) -> Result<Json<Health>, ApiError> {
    match state.engine.readiness() {
        Readiness::Ready => Ok(Json(Health { status: "ready" })),
        Readiness::Starting => Err(ApiError::Unavailable("a model is being loaded")),
        Readiness::Recovering => Err(ApiError::Unavailable("a model's worker failed and is being restarted")),
        Readiness::Draining => Err(ApiError::Unavailable("the server is going down")),
    }
}

/// The problems of `GET /health/ready`.
struct ReadyProblems;

impl IntoResponses for ReadyProblems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        problem::responses(&[ProblemType::Unavailable])
    }
}
