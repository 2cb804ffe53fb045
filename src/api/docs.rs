//! `GET /openapi.yaml` and `GET /docs`: the contract for programs and, as Swagger UI, for people.

use std::sync::{Arc, LazyLock};

use axum::extract::Path;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use utoipa_swagger_ui::Config;

use super::error::ApiError;
use super::problem::NoProblems;

/// The document, written once: it does not depend on the configuration.
static OPENAPI_YAML: LazyLock<String> = LazyLock::new(super::openapi_yaml);

/// The contract
///
/// This document.
#[utoipa::path(
    get,
    path = "/openapi.yaml",
    operation_id = "get_openapi",
    security(()),
    tag = "documentation",
    responses((status = 200, description = "OpenAPI 3.1.", body = Object, content_type = "application/yaml"), NoProblems),
)]
pub(super) async fn get_openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/yaml")], OPENAPI_YAML.as_str())
}

/// Documentation to read and try
///
/// Swagger UI on this document, compiled in: nothing is loaded from elsewhere. Answers with its page's
/// address, `/docs/`.
#[utoipa::path(
    get,
    path = "/docs",
    operation_id = "get_docs",
    security(()),
    tag = "documentation",
    responses((status = 308, description = "The page is at `/docs/`."), NoProblems),
)]
pub(super) async fn get_docs() -> Redirect {
    Redirect::permanent("/docs/")
}

/// The page of `/docs/`.
pub(super) async fn get_docs_page() -> Result<Response, ApiError> {
    swagger_file("", "/docs/")
}

/// What the page of `/docs/` loads.
pub(super) async fn get_docs_file(Path(file): Path<String>, uri: Uri) -> Result<Response, ApiError> {
    swagger_file(&file, uri.path())
}

fn swagger_file(file: &str, path: &str) -> Result<Response, ApiError> {
    let config = Arc::new(Config::from("/openapi.yaml").validator_url("none"));
    let file = utoipa_swagger_ui::serve(file, config)
        .map_err(|error| ApiError::Internal(format!("Swagger UI: {error}")))?
        .ok_or_else(|| ApiError::RouteNotFound(path.to_owned()))?;
    Ok(([(header::CONTENT_TYPE, file.content_type)], file.bytes.into_owned()).into_response())
}
