//! `GET /metrics`: for Prometheus.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::AppState;
use super::problem::KeyProblems;

/// Prometheus' text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics
///
/// Requests by route and status, seconds by outcome and per stage, queue depth, vocabulary hits and misses, model and build, in
/// Prometheus' text format. Every name starts with `maskclip_`, or with `process_` for what every process has.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "get_metrics",
    security(("ApiKey" = ["metrics"])),
    tag = "operations",
    responses((status = 200, description = "The metrics.", body = String, content_type = "text/plain"), KeyProblems),
)]
pub(super) async fn get_metrics(State(state): State<AppState>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], state.metrics.render())
}
