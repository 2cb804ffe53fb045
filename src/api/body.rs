//! Request bodies: their media type, their bytes within the limit, JSON with the path of what is wrong.

use axum::body::Bytes;
use axum::extract::path::ErrorKind;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use super::AppState;
use super::error::ApiError;
use super::metered::{metered, promised_bytes};
use super::problem::Limit;
use super::wire::Object;
use super::words::{Fault, of_syntax, root};
use crate::engine::HeldBytes;
use crate::support::{excerpt, plain_json, run_blocking};

/// The body's media type without parameters, in lower case.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next().unwrap_or(value);
    Some(essence.trim().to_ascii_lowercase())
}

/// A 415 that says what was found and what is read.
pub(super) fn unsupported_media_type(found: Option<String>, supported: &'static str) -> ApiError {
    ApiError::UnsupportedMediaType {
        found: found.map_or_else(|| "missing".to_owned(), |found| format!("{:?}", excerpt(&found))),
        supported,
    }
}

/// How often the bytes of a JSON body exist at once while it is read: its text, and its values.
pub(super) const JSON_COPIES: u64 = 2;

/// Bytes that a value of JSON takes at most beside its text, from the largest that a list grows by: a class with its
/// fields.
const JSON_VALUE_BYTES: u64 = 160;

/// Refuses a body at once whose promised length is above the limit or finds no room. A body of unknown length is
/// refused when it has come too far.
///
/// # Errors
/// 413 above `limits.max_request_bytes`, 429 above what is left of `engine.body_bytes`.
pub(super) fn check_promise(
    request: &Request,
    state: &AppState,
    held: &HeldBytes,
    copies: u64,
) -> Result<(), ApiError> {
    let limit = state.max_request_bytes;
    let Some(bytes) = promised_bytes(request) else {
        return Ok(());
    };
    if bytes > limit as u64 {
        return Err(ApiError::RequestTooLarge { limit });
    }
    if !held.could_grow(bytes.saturating_mul(copies)) {
        return Err(state.engine.body_refused().into());
    }
    Ok(())
}

/// The whole body, whose bytes are added to `held` as often as `copies` says.
///
/// # Errors
/// 413 above `limits.max_request_bytes`, 429 above what is left of `engine.body_bytes`, 400 when the client broke off.
pub(super) async fn read_bytes(
    request: Request,
    state: &AppState,
    held: &HeldBytes,
    copies: u64,
) -> Result<Bytes, ApiError> {
    let limit = state.max_request_bytes;
    check_promise(&request, state, held, copies)?;
    let (request, meter) = metered(request, held, copies);
    Bytes::from_request(request, state)
        .await
        .map_err(|rejection| match rejection.status() {
            _ if meter.is_refused() => state.engine.body_refused().into(),
            _ if meter.is_too_large() => ApiError::RequestTooLarge { limit },
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::RequestTooLarge { limit },
            _ => ApiError::Malformed(format!("the body cannot be read: {}", root(&rejection))),
        })
}

/// The text of a JSON body. Its bytes and those of its values are added to `held`.
///
/// # Errors
/// Those of [`read_bytes`] and [`admit_values`].
pub(super) async fn read_json_text(request: Request, state: &AppState, held: &HeldBytes) -> Result<Bytes, ApiError> {
    let text = read_bytes(request, state, held, JSON_COPIES).await?;
    admit_values(&text, state, held)?;
    Ok(text)
}

/// Adds the memory that a JSON text's values take to `held`, before they are made.
///
/// # Errors
/// 422 above `limits.max_json_values`, 429 above what is left of `engine.body_bytes`.
pub(super) fn admit_values(text: &[u8], state: &AppState, held: &HeldBytes) -> Result<(), ApiError> {
    let (values, limit) = (most_values(text) as u64, state.max_json_values as u64);
    if values > limit {
        return Err(ApiError::Invalid {
            path: None,
            detail: format!("the request's JSON has more than limits.max_json_values = {limit} values"),
            limit: Some(Limit::whole("limits.max_json_values", limit)),
        });
    }
    if !held.try_grow(values * JSON_VALUE_BYTES) {
        return Err(state.engine.body_refused().into());
    }
    Ok(())
}

/// Returns how many values a JSON text has at most: its lists and objects, and what is divided by commas.
fn most_values(text: &[u8]) -> usize {
    let mut count = 1;
    let mut rest = text;
    while let Some(place) = rest.iter().position(|byte| matches!(byte, b'"' | b',' | b'[' | b'{')) {
        let found = rest[place];
        rest = &rest[place + 1..];
        if found == b'"' {
            rest = after_string(rest);
        } else {
            count += 1;
        }
    }
    count
}

/// Returns what follows the end of a string whose first quote has been read.
fn after_string(mut rest: &[u8]) -> &[u8] {
    while let Some(place) = memchr::memchr2(b'"', b'\\', rest) {
        if rest[place] == b'"' {
            return &rest[place + 1..];
        }
        rest = rest.get(place + 2..).unwrap_or_default();
    }
    &[]
}

/// A JSON body, which is parsed where it may take its time. Its bytes are added to `held`.
///
/// # Errors
/// 415 for another media type, and those of [`read_json_text`] and [`parse_json`].
pub(super) async fn read_json<T: DeserializeOwned + Send + 'static>(
    request: Request,
    state: &AppState,
    held: &HeldBytes,
) -> Result<T, ApiError> {
    let found = media_type(request.headers());
    if found.as_deref() != Some("application/json") {
        return Err(unsupported_media_type(found, "application/json"));
    }
    let text = read_json_text(request, state, held).await?;
    run_blocking(move || parse_json(&text)).await
}

/// JSON of a known shape. A byte order mark before it is passed over (RFC 8259, section 8.1).
///
/// # Errors
/// 400 when it is not JSON, 422 with the field's path when a field is missing, unknown or of the
/// wrong type.
pub(super) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let bytes = plain_json(bytes).map_err(|error| not_json(&error))?;
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut deserializer);
    let Object(value) = parsed.map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() {
            Fault::read(&path, &inner.to_string()).into()
        } else {
            not_json(&inner)
        }
    })?;
    deserializer.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

/// A 400 for what is not JSON at all.
fn not_json(error: &dyn std::error::Error) -> ApiError {
    ApiError::Malformed(format!("the request is not valid JSON: {}", of_syntax(error)))
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::Malformed(match &rejection {
            PathRejection::FailedToDeserializePathParams(error) => match error.kind() {
                ErrorKind::InvalidUtf8InPathParam { key } => format!("the {key} in the address is not UTF-8"),
                _ => "the address is not that of the route".to_owned(),
            },
            _ => "the address is not that of the route".to_owned(),
        })
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        let message = root(&rejection);
        // The parameter comes first, where the parser knows it.
        match message.split_once(": ") {
            Some((name, said)) if !name.contains([' ', '`']) => Fault::read(name, said).into(),
            _ => Fault::read(".", &message).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_before_they_are_made() {
        for (text, at_least, at_most) in [
            ("1", 1, 1),
            (r#"{"a": "b, [c], {d}"}"#, 1, 2),
            (r#"["\\", "\"", ",,,,"]"#, 3, 4),
            ("[[], [], []]", 4, 7),
            (r#"{"a": 1, "b": [1, 2, 3]}"#, 6, 6),
            (r#"["never ends, not even \"#, 1, 2),
        ] {
            let count = most_values(text.as_bytes());
            assert!((at_least..=at_most).contains(&count), "{text}: {count}");
        }
    }
}
