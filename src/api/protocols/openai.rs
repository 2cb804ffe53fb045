//! `POST /v1/embeddings`: texts and images as vectors of one space, in the wire form of OpenAI's embeddings.

use std::fmt;

use axum::extract::{Extension, Request, State};
use axum::http::HeaderValue;
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::api::AppState;
use crate::api::body::{media_type, parse_json, read_json_text, unsupported_media_type};
use crate::api::error::ApiError;
use crate::api::metered::held_json;
use crate::api::problem::{Limit, problems};
use crate::api::upload::decode_base64;
use crate::api::wire::MASKCLIP_WARNINGS;
use crate::engine::{Caller, EmbedInput, EmbedRequest, Embeddings, InputLimits, WarningCode};
use crate::support::run_blocking;

const JSON: &str = "application/json";

/// What to embed. Unknown fields are refused.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingBody {
    /// A text or an image, or a list of them, at most `limits.max_embedding_inputs`. Lists of token ids are not read.
    pub input: EmbeddingInputs,
    /// The model, one of `GET /v1/models`; without it, the first of them.
    #[schema(example = "demo")]
    pub model: Option<String>,
    /// How a vector is written: `float`, a list of numbers, or `base64`, its 32-bit floats in little-endian order.
    /// `float` without it.
    pub encoding_format: Option<EncodingFormat>,
    /// Refused: vectors of CLIP have one length and cannot be shortened.
    #[schema(ignore)]
    pub dimensions: Option<serde_json::Value>,
    /// Not used.
    #[expect(dead_code, reason = "clients may send it, and nothing depends on it")]
    pub user: Option<String>,
    /// Seconds after which the answer is of no use, counted from the arrival of the request's head. At most
    /// `engine.max_deadline_seconds`; `engine.default_deadline_seconds` without it. OpenAI's API does not have it.
    #[schema(exclusive_minimum = 0, example = 30)]
    pub deadline_seconds: Option<f64>,
}

/// How a vector is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EncodingFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// 32-bit floats in little-endian order, as base64.
    Base64,
}

/// One input, or several.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum EmbeddingInputs {
    /// One input.
    One(EmbeddingInput),
    /// Several inputs.
    Several(Vec<EmbeddingInput>),
}

/// A text or an image.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum EmbeddingInput {
    /// A text.
    Text(EmbeddingText),
    /// An image.
    Image(EmbeddingImage),
}

/// A text as it is, without a prompt template, at most `limits.max_embedding_characters` characters; CLIP reads 77
/// tokens, and the end of a longer text is lost. A text that begins with `data:image/` is an image as a data URI.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, min_length = 1, example = "a photo of a tiger")]
pub struct EmbeddingText(String);

/// An image to embed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingImage {
    /// The encoded image (JPEG, PNG, WebP, GIF, BMP or TIFF) as base64 or a base64 data URI.
    #[schema(example = json!(crate::api::wire::EXAMPLE_IMAGE))]
    pub image: String,
}

impl<'de> Deserialize<'de> for EmbeddingInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;

        impl<'de> Visitor<'de> for Forms {
            type Value = EmbeddingInput;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text, a data URI of an image or an object with image (token ids are not read)")
            }

            fn visit_str<E>(self, text: &str) -> Result<EmbeddingInput, E> {
                Ok(EmbeddingInput::Text(EmbeddingText(text.to_owned())))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EmbeddingInput, A::Error> {
                EmbeddingImage::deserialize(MapAccessDeserializer::new(map)).map(EmbeddingInput::Image)
            }
        }

        deserializer.deserialize_any(Forms)
    }
}

impl<'de> Deserialize<'de> for EmbeddingInputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;

        impl<'de> Visitor<'de> for Forms {
            type Value = EmbeddingInputs;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text, an image, or a list of them")
            }

            fn visit_str<E>(self, text: &str) -> Result<EmbeddingInputs, E> {
                Ok(EmbeddingInputs::One(EmbeddingInput::Text(EmbeddingText(
                    text.to_owned(),
                ))))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EmbeddingInputs, A::Error> {
                let image = EmbeddingImage::deserialize(MapAccessDeserializer::new(map))?;
                Ok(EmbeddingInputs::One(EmbeddingInput::Image(image)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, inputs: A) -> Result<EmbeddingInputs, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(inputs)).map(EmbeddingInputs::Several)
            }
        }

        deserializer.deserialize_any(Forms)
    }
}

/// Vectors, in the order of the inputs.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingList {
    /// Always `list`.
    #[schema(example = "list")]
    pub object: &'static str,
    /// One vector for each input.
    pub data: Vec<EmbeddingObject>,
    /// The model that answered.
    #[schema(example = "demo")]
    pub model: String,
    /// What was read.
    pub usage: EmbeddingUsage,
}

/// One vector.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingObject {
    /// Always `embedding`.
    #[schema(example = "embedding")]
    pub object: &'static str,
    /// Which input it is of, from 0.
    pub index: usize,
    /// The vector, of unit length: the product of two is their cosine, also of a text's with an image's.
    pub embedding: EmbeddingVector,
}

/// A vector as numbers or as base64.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum EmbeddingVector {
    /// A list of numbers.
    Float(Vec<f32>),
    /// 32-bit floats in little-endian order, as base64.
    Base64(String),
}

/// What was read.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingUsage {
    /// Tokens of all texts, those included that begin and end a text. Images have none.
    pub prompt_tokens: usize,
    /// The same number: nothing is written.
    pub total_tokens: usize,
}

impl EmbeddingInput {
    /// What the engine embeds.
    ///
    /// # Errors
    /// When the text is empty or too long, or the image is not base64.
    fn into_input(self, limits: &InputLimits) -> Result<EmbedInput, ApiError> {
        match self {
            Self::Text(EmbeddingText(text)) if text.starts_with("data:image/") => {
                decode_base64(text).map(EmbedInput::Image)
            }
            Self::Text(EmbeddingText(text)) => check_text(text, limits).map(EmbedInput::Text),
            Self::Image(EmbeddingImage { image }) => decode_base64(image).map(EmbedInput::Image),
        }
    }
}

/// A text that is not empty and not too long.
fn check_text(text: String, limits: &InputLimits) -> Result<String, ApiError> {
    let limit = limits.max_embedding_characters;
    let refused = |detail, limit| ApiError::Invalid {
        path: None,
        detail,
        limit,
    };
    match text.chars().count() {
        0 => Err(refused("a text must not be empty".to_owned(), None)),
        characters if characters > limit => Err(refused(
            format!("the text has {characters} characters, more than limits.max_embedding_characters = {limit}"),
            Some(Limit::whole("limits.max_embedding_characters", limit as u64)),
        )),
        _ => Ok(text),
    }
}

/// The inputs as the engine takes them. An error names the one at fault.
fn into_inputs(inputs: EmbeddingInputs, limits: &InputLimits) -> Result<Vec<EmbedInput>, ApiError> {
    let inputs = match inputs {
        EmbeddingInputs::One(input) => {
            let input = input.into_input(limits).map_err(|error| error.at("input".to_owned()))?;
            return Ok(vec![input]);
        }
        EmbeddingInputs::Several(inputs) => inputs,
    };
    let limit = limits.max_embedding_inputs;
    if inputs.is_empty() {
        return Err(ApiError::invalid("input", "input must not be empty"));
    }
    if inputs.len() > limit {
        return Err(ApiError::Invalid {
            path: Some("input".to_owned()),
            detail: format!(
                "input has {} texts and images, more than limits.max_embedding_inputs = {limit}",
                inputs.len()
            ),
            limit: Some(Limit::whole("limits.max_embedding_inputs", limit as u64)),
        });
    }
    let input = |(index, input): (usize, EmbeddingInput)| {
        let input = input.into_input(limits);
        input.map_err(|error| error.at(format!("input[{index}]")))
    };
    inputs.into_iter().enumerate().map(input).collect()
}

/// A request as the engine takes it, and how its vectors are written.
fn read_request(bytes: &Bytes, limits: &InputLimits) -> Result<(EmbedRequest, EncodingFormat), ApiError> {
    let body: EmbeddingBody = parse_json(bytes)?;
    if body.dimensions.is_some() {
        return Err(ApiError::invalid(
            "dimensions",
            "dimensions is not supported: a vector of CLIP has one length and cannot be shortened",
        ));
    }
    let request = EmbedRequest {
        inputs: into_inputs(body.input, limits)?,
        model: body.model,
        deadline_seconds: body.deadline_seconds,
    };
    Ok((request, body.encoding_format.unwrap_or_default()))
}

/// The reply with the vectors in the form that was asked for.
///
/// # Errors
/// [`ApiError::Internal`] when the model gave a number that is not finite: JSON has none.
fn reply(embeddings: Embeddings, format: EncodingFormat) -> Result<EmbeddingList, ApiError> {
    let vector = |vector: &[f32]| {
        if !vector.iter().all(|value| value.is_finite()) {
            return Err(ApiError::Internal(
                "an embedding holds a number that is not finite".to_owned(),
            ));
        }
        Ok(match format {
            EncodingFormat::Float => EmbeddingVector::Float(vector.to_vec()),
            EncodingFormat::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                EmbeddingVector::Base64(BASE64_STANDARD.encode(bytes))
            }
        })
    };
    let object = |(index, values): (usize, &std::sync::Arc<[f32]>)| {
        Ok(EmbeddingObject {
            object: "embedding",
            index,
            embedding: vector(values)?,
        })
    };
    Ok(EmbeddingList {
        object: "list",
        data: embeddings
            .vectors
            .iter()
            .enumerate()
            .map(object)
            .collect::<Result<_, ApiError>>()?,
        model: embeddings.model,
        usage: EmbeddingUsage {
            prompt_tokens: embeddings.tokens,
            total_tokens: embeddings.tokens,
        },
    })
}

/// Embed texts and images
///
/// Vectors of texts and images in CLIP's one space, each of unit length, in the wire form of OpenAI's embeddings: the
/// client of that API works with this server's address and `/v1` as its base. A text is embedded as it is; put it into
/// a prompt, as in "a photo of a tiger", where it is compared with images. Embeddings of texts are kept as those of
/// classes are. An image is seen as CLIP was trained: the square in its middle. Students have texts' embeddings alone.
///
/// Errors have OpenAI's form. `code` is the kind of problem that other routes name in `type`.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    operation_id = "create_embeddings",
    security(("ApiKey" = ["use"])),
    tag = "embeddings",
    request_body(
        description = "Texts and images; all else is optional.",
        content = EmbeddingBody,
        content_type = "application/json",
        example = json!({"model": "demo", "input": ["a tiger", {"image": crate::api::wire::EXAMPLE_IMAGE}]}),
    ),
    responses(
        (status = 200, description = "The vectors.", body = EmbeddingList,
            headers(("maskclip-warnings" = String,
                description = "`text-truncated` when a text was longer than the model reads."))),
        EmbeddingProblems,
    ),
)]
pub(in crate::api) async fn create_embeddings(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let arrival = state.engine.arrive(&caller)?;
    let found = media_type(request.headers());
    if found.as_deref() != Some(JSON) {
        return Err(unsupported_media_type(found, JSON));
    }
    let bytes = read_json_text(request, &state, arrival.body()).await?;
    let limits = state.engine.settings().input_limits.clone();
    let (request, format) = run_blocking(move || read_request(&bytes, &limits)).await?;
    let is_list = request.inputs.len() > 1;
    let embeddings = state.engine.embed_inputs(arrival, request).await;
    let embeddings = embeddings.map_err(|error| match error.input {
        Some(index) if is_list => ApiError::from(error.error).at(format!("input[{index}]")),
        Some(_) => ApiError::from(error.error).at("input".to_owned()),
        None => error.error.into(),
    })?;
    run_blocking(move || {
        let is_truncated = embeddings.truncated;
        let held = embeddings.held_bytes.clone();
        let mut response = held_json(&reply(embeddings, format)?, held);
        if is_truncated {
            let warning = HeaderValue::from_static(WarningCode::TextTruncated.name());
            response.headers_mut().insert(MASKCLIP_WARNINGS, warning);
        }
        Ok(response)
    })
    .await
}

problems! {
    /// The problems of `POST /v1/embeddings`.
    EmbeddingProblems = OpenAi.with_key(OF_BODY + OF_LABELLING + [UnsupportedMediaType, UnknownModel]);
}
