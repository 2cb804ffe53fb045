//! The two encodings of a request that brings an image along: JSON with the image inside, or multipart.

use axum::extract::multipart::{MultipartError, MultipartRejection};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::AppState;
use super::body::{JSON_COPIES, check_promise, media_type, parse_json, read_bytes, unsupported_media_type};
use super::error::ApiError;
use super::metered::metered;
use crate::engine::HeldBytes;
use crate::support::{excerpt, run_blocking};

/// What the route reads, for errors.
const SUPPORTED: &str = "application/json or multipart/form-data";

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A JSON body that can have an image inside.
pub(super) trait UploadBody: DeserializeOwned + Send + 'static {
    /// Takes the image out, as it was written.
    fn take_image(&mut self) -> Option<String>;
}

/// What a request brought along.
pub(super) struct Upload<T> {
    /// The image's bytes, not yet looked at.
    pub(super) image: Option<Bytes>,
    /// Everything else; none where a multipart form has no part for it.
    pub(super) body: Option<T>,
}

/// Reads a request. The bytes of its body are added to `held`, and those that are done with are given back.
///
/// # Errors
/// 415 for another media type, those of [`read_bytes`] and [`parse_json`], 400 for broken base64 and multipart, 422 for parts that
/// are unknown or come twice, and for an image inside the wrong one.
pub(super) async fn read<T: UploadBody>(
    request: Request,
    state: &AppState,
    held: &HeldBytes,
) -> Result<Upload<T>, ApiError> {
    let found = media_type(request.headers());
    match found.as_deref() {
        Some("application/json") => {
            let (bytes, held) = (read_bytes(request, state, held, JSON_COPIES).await?, held.clone());
            run_blocking(move || from_json(bytes, &held)).await
        }
        Some("multipart/form-data") => from_multipart(request, state, held).await,
        _ => Err(unsupported_media_type(found, SUPPORTED)),
    }
}

fn from_json<T: UploadBody>(bytes: Bytes, held: &HeldBytes) -> Result<Upload<T>, ApiError> {
    let mut body: T = parse_json(&bytes)?;
    let text = body.take_image();
    let rest = bytes.len() - text.as_ref().map_or(0, String::len);
    drop(bytes);
    let image = text.map(|text| decode_base64(&text)).transpose()?;
    held.shrink_to((rest + image.as_ref().map_or(0, Bytes::len)) as u64);
    Ok(Upload {
        image,
        body: Some(body),
    })
}

/// The bytes of base64 or of a data URI (RFC 2397) that is base64.
fn decode_base64(text: &str) -> Result<Bytes, ApiError> {
    let payload = match text.strip_prefix("data:") {
        None => text,
        Some(uri) => uri
            .split_once(',')
            .and_then(|(kind, payload)| kind.ends_with(";base64").then_some(payload))
            .ok_or_else(|| ApiError::Malformed("image is a data URI without \";base64,\"".to_owned()))?,
    };
    let bytes = BASE64
        .decode(payload)
        .map_err(|error| ApiError::Malformed(format!("image is not base64: {error}")))?;
    Ok(bytes.into())
}

async fn from_multipart<T: UploadBody>(
    request: Request,
    state: &AppState,
    held: &HeldBytes,
) -> Result<Upload<T>, ApiError> {
    check_promise(&request, state, held, 1)?;
    let (request, meter) = metered(request, held, 1);
    let broken = |error: MultipartError| match meter.is_refused() {
        true => state.engine.body_refused().into(),
        false => broken(&error, state.max_request_bytes),
    };
    let mut parts = Multipart::from_request(request, state).await?;
    let (mut image, mut body) = (None, None);
    while let Some(part) = parts.next_field().await.map_err(broken)? {
        let name = excerpt(part.name().unwrap_or_default());
        let slot = match name.as_str() {
            "image" => &mut image,
            "request" => &mut body,
            _ => {
                return Err(ApiError::invalid(
                    &name,
                    format!("unknown part {name:?}, expected image and request"),
                ));
            }
        };
        if slot.is_some() {
            return Err(ApiError::invalid(&name, format!("the part {name} comes twice")));
        }
        *slot = Some(part.bytes().await.map_err(broken)?);
    }
    let mut body: Option<T> = match body {
        Some(body) => Some(run_blocking(move || parse_json(&body)).await?),
        None => None,
    };
    if body.as_mut().and_then(T::take_image).is_some() {
        return Err(ApiError::invalid(
            "image",
            "the image comes as the part image, not inside the part request",
        ));
    }
    Ok(Upload { image, body })
}

/// A multipart body that is too long or no multipart body.
fn broken(error: &MultipartError, limit: usize) -> ApiError {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::RequestTooLarge { limit },
        _ => ApiError::Malformed(format!("the multipart body is malformed: {}", error.body_text())),
    }
}

impl From<MultipartRejection> for ApiError {
    fn from(rejection: MultipartRejection) -> Self {
        Self::Malformed(format!("the multipart body is malformed: {}", rejection.body_text()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_with_and_without_padding_and_as_a_data_uri() {
        for text in ["aGk=", "aGk", "data:image/png;base64,aGk=", "data:;base64,aGk"] {
            assert_eq!(decode_base64(text).unwrap(), "hi", "{text}");
        }
    }

    #[test]
    fn what_is_not_base64_is_malformed() {
        for text in ["a!", "aGk=\n", "data:image/png,hi", "data:image/png;base64", "_-8="] {
            assert!(matches!(decode_base64(text), Err(ApiError::Malformed(_))), "{text}");
        }
    }
}
