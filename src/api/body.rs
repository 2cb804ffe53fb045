//! Request bodies: their media type, their bytes within the limit, JSON with the path of what is wrong.

use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use super::AppState;
use super::error::ApiError;
use super::wire::Object;

/// The body's media type without parameters, in lower case.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next().unwrap_or(value);
    Some(essence.trim().to_ascii_lowercase())
}

/// A 415 that says what was found and what is read.
pub(super) fn unsupported_media_type(found: Option<String>, supported: &'static str) -> ApiError {
    ApiError::UnsupportedMediaType {
        found: found.map_or_else(|| "missing".to_owned(), |found| format!("{found:?}")),
        supported,
    }
}

/// The whole body.
///
/// # Errors
/// 413 above `limits.max_request_bytes`, 400 when the client broke off.
pub(super) async fn read_bytes(request: Request, state: &AppState) -> Result<Bytes, ApiError> {
    let limit = state.max_request_bytes;
    Bytes::from_request(request, state)
        .await
        .map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::RequestTooLarge { limit },
            _ => ApiError::Malformed(format!("the body broke off: {}", rejection.body_text())),
        })
}

/// A JSON body.
///
/// # Errors
/// 415 for another media type, and those of [`read_bytes`] and [`parse_json`].
pub(super) async fn read_json<T: DeserializeOwned>(request: Request, state: &AppState) -> Result<T, ApiError> {
    let found = media_type(request.headers());
    if found.as_deref() != Some("application/json") {
        return Err(unsupported_media_type(found, "application/json"));
    }
    parse_json(&read_bytes(request, state).await?)
}

/// JSON of a known shape.
///
/// # Errors
/// 400 when it is not JSON, 422 with the field's path when a field is missing, unknown or of the
/// wrong type.
pub(super) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut deserializer);
    let Object(value) = parsed.map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() {
            let path = (path != ".").then_some(path);
            ApiError::Invalid {
                path,
                detail: inner.to_string(),
                limit: None,
            }
        } else {
            not_json(&inner)
        }
    })?;
    deserializer.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

/// A 400 for what is not JSON at all.
fn not_json(error: &serde_json::Error) -> ApiError {
    ApiError::Malformed(format!("the request is not valid JSON: {error}"))
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::Malformed(rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::Invalid {
            path: None,
            detail: rejection.body_text(),
            limit: None,
        }
    }
}
