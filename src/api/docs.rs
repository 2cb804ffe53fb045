//! `GET /openapi.yaml` and `GET /docs`: the contract for programs and, as Swagger UI, for people.

use std::sync::{Arc, LazyLock};

use axum::extract::Path;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use utoipa_swagger_ui::Config;

use super::error::ApiError;
use super::problem::NoProblems;

/// What Swagger UI may do in a browser. It sets styles on the elements that it makes, and draws its icons from addresses
/// that are data. Its scripts are its own files; nothing that is written into the page is run.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

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
/// address, `docs/`.
#[utoipa::path(
    get,
    path = "/docs",
    operation_id = "get_docs",
    security(()),
    tag = "documentation",
    responses((status = 308, description = "The page is at `docs/`."), NoProblems),
)]
pub(super) async fn get_docs() -> Redirect {
    Redirect::permanent("docs/")
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
    let config = Arc::new(Config::from("../openapi.yaml").validator_url("none"));
    let file = utoipa_swagger_ui::serve(file, config)
        .map_err(|error| ApiError::Internal(format!("Swagger UI: {error}")))?
        .ok_or_else(|| ApiError::RouteNotFound(path.to_owned()))?;
    let headers = [
        (header::CONTENT_TYPE, file.content_type),
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY.to_owned()),
    ];
    Ok((headers, file.bytes.into_owned()).into_response())
}
