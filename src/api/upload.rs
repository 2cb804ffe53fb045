//! The two encodings of a request that brings an image along: JSON with the image inside, or multipart.

use axum::extract::multipart::{MultipartError, MultipartRejection};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::StatusCode;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{DecodeError, Engine as _};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::AppState;
use super::body::{admit_values, check_promise, media_type, parse_json, read_json_text, unsupported_media_type};
use super::error::ApiError;
use super::metered::metered;
use crate::engine::{HeldBytes, ImageSource};
use crate::support::{excerpt, run_blocking};

/// The part of a form with the deadline, which clients without JSON can send.
pub(super) const DEADLINE: &str = "deadline_seconds";

/// What the route reads, for errors.
const SUPPORTED: &str = "application/json or multipart/form-data";

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A JSON body that can have an image inside.
pub(super) trait UploadBody: DeserializeOwned + Default + Send + 'static {
    /// Takes the image out, as it was written.
    fn take_image(&mut self) -> Option<String>;

    /// The field `deadline_seconds`, which may also be a part of its own in a form.
    fn deadline_seconds(&mut self) -> &mut Option<f64>;
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
/// 415 for another media type, those of [`read_json_text`] and [`parse_json`], 400 for broken base64 and multipart, 422 for
/// parts that are unknown or come twice, and for an image inside the wrong one.
pub(super) async fn read<T: UploadBody>(
    request: Request,
    state: &AppState,
    held: &HeldBytes,
) -> Result<Upload<T>, ApiError> {
    let found = media_type(request.headers());
    match found.as_deref() {
        Some("application/json") => {
            let (bytes, held) = (read_json_text(request, state, held).await?, held.clone());
            run_blocking(move || from_json(bytes, &held)).await
        }
        Some("multipart/form-data") => from_multipart(request, state, held).await,
        _ => Err(unsupported_media_type(found, SUPPORTED)),
    }
}

/// The one image that a request is about.
pub(super) fn image_source(image: Option<Bytes>, id: Option<String>) -> Result<ImageSource, ApiError> {
    match (image, id) {
        (Some(image), None) => Ok(ImageSource::Upload(image)),
        (None, Some(id)) => Ok(ImageSource::Held(id)),
        (None, None) => Err(ApiError::invalid("image", "one of image and image_id is required")),
        (Some(_), Some(_)) => Err(ApiError::invalid(
            "image_id",
            "image and image_id exclude each other; give one of them",
        )),
    }
}

fn from_json<T: UploadBody>(bytes: Bytes, held: &HeldBytes) -> Result<Upload<T>, ApiError> {
    let mut body: T = parse_json(&bytes)?;
    let text = body.take_image();
    let rest = bytes.len() - text.as_ref().map_or(0, String::len);
    drop(bytes);
    let image = text.map(decode_base64).transpose()?;
    held.shrink_to((rest + image.as_ref().map_or(0, Bytes::len)) as u64);
    Ok(Upload {
        image,
        body: Some(body),
    })
}

/// The bytes of base64 or of a data URI (RFC 2397) that is base64. White space is passed over, since many encoders break
/// lines, and both alphabets are read (RFC 4648, sections 4 and 5).
pub(super) fn decode_base64(text: String) -> Result<Bytes, ApiError> {
    let scheme_is = |scheme: &str| {
        let start = text.trim_start().get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    if ["http://", "https://", "file://", "ftp://", "s3://", "blob:"]
        .into_iter()
        .any(scheme_is)
    {
        return Err(ApiError::Malformed(
            "image is an address, and addresses are not fetched: send the image itself as base64".to_owned(),
        ));
    }
    let start = match scheme_is("data:") {
        false => 0,
        true => {
            let comma = text.find(',').unwrap_or(text.len());
            let is_base64 = text[..comma].to_ascii_lowercase().trim_end().ends_with(";base64");
            if !is_base64 || comma == text.len() {
                return Err(ApiError::Malformed(
                    "image is a data URI without \";base64,\"".to_owned(),
                ));
            }
            comma + 1
        }
    };
    let mut payload = text.into_bytes();
    if payload[start..]
        .iter()
        .any(|byte| byte.is_ascii_whitespace() || matches!(byte, b'-' | b'_'))
    {
        payload.drain(..start);
        payload.retain(|byte| !byte.is_ascii_whitespace());
        for byte in &mut payload {
            *byte = match *byte {
                b'-' => b'+',
                b'_' => b'/',
                other => other,
            };
        }
        return decode_payload(&payload);
    }
    decode_payload(&payload[start..])
}

fn decode_payload(payload: &[u8]) -> Result<Bytes, ApiError> {
    let bytes = BASE64
        .decode(payload)
        .map_err(|error| ApiError::Malformed(format!("image is not base64: {}", wrong_base64(&error))))?;
    Ok(bytes.into())
}

/// What is wrong with base64, in words for whoever sent it. Characters are counted without white space and without what
/// comes before them in a data URI.
fn wrong_base64(error: &DecodeError) -> String {
    match *error {
        DecodeError::InvalidByte(offset, byte) if byte.is_ascii_graphic() => {
            format!("its character {} is {:?}", offset + 1, char::from(byte))
        }
        DecodeError::InvalidByte(offset, _) => format!("its character {} is none of ASCII's letters", offset + 1),
        DecodeError::InvalidLength(characters) => {
            format!("no bytes come to {characters} characters; it may be cut off")
        }
        DecodeError::InvalidLastSymbol(..) => {
            "its last character stands for no whole byte; it may be cut off".to_owned()
        }
        DecodeError::InvalidPadding => "it does not end with as many = as it has to".to_owned(),
    }
}

async fn from_multipart<T: UploadBody>(
    request: Request,
    state: &AppState,
    held: &HeldBytes,
) -> Result<Upload<T>, ApiError> {
    let (mut image, mut body, mut deadline) = (None, None, None);
    let take = |Part { name, bytes, .. }: Part| {
        let slot = match name.as_str() {
            "image" => &mut image,
            "request" => &mut body,
            DEADLINE => &mut deadline,
            _ => return Err(unknown_part(&name)),
        };
        if slot.is_some() {
            return Err(ApiError::invalid(&name, format!("the part {name} comes twice")));
        }
        *slot = Some(bytes);
        Ok(())
    };
    read_parts(request, state, held, take).await?;
    let mut body: Option<T> = match body {
        Some(body) => Some(parse_part(body, state, held).await?),
        None => None,
    };
    if body.as_mut().and_then(T::take_image).is_some() {
        return Err(ApiError::invalid(
            "image",
            "the image comes as the part image, not inside the part request",
        ));
    }
    if let Some(deadline) = deadline {
        set_deadline(body.get_or_insert_default().deadline_seconds(), &deadline)?;
    }
    Ok(Upload { image, body })
}

/// Gives a body the deadline of the part [`DEADLINE`]. If the part `request` has one, too, the shorter counts: so one that is
/// out of range is refused wherever it stands.
///
/// # Errors
/// 422 for a part that is no number.
pub(super) fn set_deadline(field: &mut Option<f64>, part: &[u8]) -> Result<(), ApiError> {
    let number = std::str::from_utf8(part).ok().and_then(|text| text.trim().parse().ok());
    match number.filter(|number: &f64| number.is_finite()) {
        Some(seconds) => {
            *field = Some(field.map_or(seconds, |other| other.min(seconds)));
            Ok(())
        }
        None => Err(ApiError::invalid(DEADLINE, "the part deadline_seconds is no number")),
    }
}

/// A part of a multipart form.
pub(super) struct Part {
    /// Its name, or the beginning of a long one.
    pub(super) name: String,
    /// Its file name, or the beginning of a long one.
    pub(super) file_name: Option<String>,
    pub(super) bytes: Bytes,
}

/// Reads a multipart form. Hands each part over to `take` as it comes, whose error ends the reading.
///
/// # Errors
/// Those of `take`, 400 for what is no multipart form, 413 above `limits.max_request_bytes`, 415 for another media type,
/// 429 above what is left of `engine.body_bytes`.
pub(super) async fn read_parts(
    request: Request,
    state: &AppState,
    held: &HeldBytes,
    mut take: impl FnMut(Part) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    let found = media_type(request.headers());
    if found.as_deref() != Some("multipart/form-data") {
        return Err(unsupported_media_type(found, "multipart/form-data"));
    }
    check_promise(&request, state, held, 1)?;
    let (request, meter) = metered(request, held, 1);
    let limit = state.max_request_bytes;
    let broken = |error: MultipartError| {
        if meter.is_refused() {
            state.engine.body_refused().into()
        } else if meter.is_too_large() {
            ApiError::RequestTooLarge { limit }
        } else {
            broken(&error, limit)
        }
    };
    let mut parts = Multipart::from_request(request, state).await?;
    while let Some(part) = parts.next_field().await.map_err(broken)? {
        let name = excerpt(part.name().unwrap_or_default());
        let file_name = part.file_name().map(excerpt);
        let bytes = part.bytes().await.map_err(broken)?;
        take(Part { name, file_name, bytes })?;
    }
    Ok(())
}

/// A 422 for a part that no form has.
pub(super) fn unknown_part(name: &str) -> ApiError {
    ApiError::invalid(
        name,
        format!("unknown part {name:?}, expected image, request and deadline_seconds"),
    )
}

/// Reads the JSON of the part `request`. The bytes of its values are added to `held`.
///
/// # Errors
/// Those of [`admit_values`] and [`parse_json`].
pub(super) async fn parse_part<T: DeserializeOwned + Send + 'static>(
    body: Bytes,
    state: &AppState,
    held: &HeldBytes,
) -> Result<T, ApiError> {
    admit_values(&body, state, held)?;
    run_blocking(move || parse_json(&body)).await
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

    fn decoded(text: &str) -> Result<Bytes, String> {
        decode_base64(text.to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn base64_is_read_in_every_usual_form() {
        for text in [
            "aGk/Pz8+",
            "aGk_Pz8-",
            "aGk/\r\nPz8+\n",
            "data:image/png;base64,aGk/Pz8+",
            "DATA:image/png;BASE64,aGk/Pz8+",
            " data:;base64,\naGk_\nPz8-",
        ] {
            assert_eq!(decoded(text).unwrap(), "hi???>", "{text}");
        }
        for text in ["aGk=", "aGk", "aGk=\n", "data:;base64,aGk"] {
            assert_eq!(decoded(text).unwrap(), "hi", "{text}");
        }
    }

    #[test]
    fn what_is_not_base64_is_malformed() {
        for text in ["a!", "aGk=x", "data:image/png,hi", "data:image/png;base64"] {
            assert!(
                matches!(decode_base64(text.to_owned()), Err(ApiError::Malformed(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_wrong_with_base64_is_said_in_words() {
        for (text, said) in [
            ("C:\\a.jpg", "image is not base64: its character 2 is ':'"),
            (
                "aGk\u{e9}abc",
                "image is not base64: its character 4 is none of ASCII's letters",
            ),
            (
                "aGk/a",
                "image is not base64: no bytes come to 5 characters; it may be cut off",
            ),
            (
                "aGl=",
                "image is not base64: its last character stands for no whole byte; it may be cut off",
            ),
        ] {
            assert_eq!(decoded(text).unwrap_err(), said);
        }
    }

    #[test]
    fn an_address_is_told_that_it_is_not_fetched() {
        for text in ["https://example.org/a.png", "HTTP://example.org", "file:///etc/passwd"] {
            let told = "image is an address, and addresses are not fetched: send the image itself as base64";
            assert_eq!(decoded(text).unwrap_err(), told);
        }
    }
}
