//! Inference: tensors to a request to segment, and its result to tensors.

use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::tensors::{InputTensor, OutputTensor, TensorElements, Text, Values};
use super::{MODEL_VERSION, ModelPath};
use crate::api::AppState;
use crate::api::body::{JSON_COPIES, admit_values, parse_json, read_bytes};
use crate::api::error::ApiError;
use crate::api::metered::held_bytes;
use crate::api::problem::problems;
use crate::api::protocols::masks;
use crate::api::segment::SegmentBody;
use crate::api::upload::decode_base64;
use crate::api::wire::{ClassBody, Name};
use crate::api::words::Fault;
use crate::engine::{Caller, ImageSource, OutputOptions, SegmentFields, SegmentRequest, Segmentation};
use crate::image::encode_pixels;
use crate::label_map::{EncodedLabelMap, LabelMapFormat};
use crate::scores::UNLABELLED;
use crate::support::{excerpt, run_blocking};

/// How many bytes of a body are its JSON, where tensors follow as bytes.
const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Parameters of a request that are about how it is sent, not about what it asks for.
const OF_TRANSPORT: [&str; 2] = ["binary_data_output", "timeout"];

/// Tensors to infer from. Unknown fields are refused.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InferBody {
    /// Comes back in the reply.
    pub id: Option<String>,
    /// `image`, an encoded image (`BYTES`, `[1]`), or `pixels` (`UINT8`, `[height, width, 3]`, RGB); and `classes`, the
    /// names of classes (`BYTES`, `[classes]`).
    pub inputs: Vec<InputTensor>,
    /// The tensors of the reply; all of them without it.
    pub outputs: Option<Vec<RequestedOutput>>,
    /// Fields of a request to `POST /v1/segment`, such as `vocabulary` in place of the tensor `classes`, `background`,
    /// `templates`, `temperature` or `short_side`; `timeout` in microseconds; and `binary_data_output`, whether the
    /// tensors of the reply follow its JSON as bytes.
    #[schema(value_type = Option<Object>, example = json!({"background": true}))]
    pub parameters: Option<Map<String, Value>>,
}

/// A tensor that the reply should have.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestedOutput {
    /// `label_map`, `scores` or `classes`.
    pub name: OutputName,
    /// How it comes.
    #[serde(default)]
    #[schema(required = false)]
    pub parameters: RequestedParameters,
}

/// How a tensor comes.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestedParameters {
    /// Whether it follows the JSON as bytes; the request's `binary_data_output` without it.
    pub binary_data: Option<bool>,
}

/// A tensor of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputName {
    /// The class of each pixel, `UINT16`, `[height, width]`: the position in `classes`, 65535 for none of them.
    LabelMap,
    /// The largest probability of each class anywhere in the image, `FP32`, `[classes]`.
    Scores,
    /// The names of the classes, `BYTES`, `[classes]`.
    Classes,
}

/// What a model infers.
#[derive(Debug, Serialize, ToSchema)]
pub struct InferReply {
    /// The model that answered.
    #[schema(example = "demo")]
    model_name: String,
    /// Its version.
    #[schema(example = "1")]
    model_version: &'static str,
    /// The request's `id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// The tensors.
    outputs: Vec<OutputTensor>,
}

/// The JSON of a reply, and behind it the tensors that were asked for as bytes.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(
    dead_code,
    reason = "describes the answer with binary tensors in the OpenAPI document"
)]
struct InferBytes(Vec<u8>);

/// A request as the engine takes it, and how it is answered.
struct Inference {
    image: Bytes,
    fields: SegmentFields,
    id: Option<String>,
    /// The tensors of the reply, each with whether it comes as bytes.
    outputs: Vec<(OutputName, bool)>,
}

impl Inference {
    /// Reads a body: JSON, and the bytes of tensors behind it.
    ///
    /// # Errors
    /// When the body is no such thing, or something of it is missing or unknown.
    fn read(model: String, mut body: Bytes, json_length: Option<usize>) -> Result<Self, ApiError> {
        let length = json_length.unwrap_or(body.len());
        if length > body.len() {
            return Err(ApiError::Malformed(format!(
                "the body has fewer bytes than {HEADER_LENGTH} says"
            )));
        }
        let InferBody {
            id,
            inputs,
            outputs,
            parameters,
        } = parse_json(&body.split_to(length))?;
        let parameters = parameters.unwrap_or_default();
        let (image, classes) = read_inputs(inputs, body)?;
        let outputs = requested(outputs, &parameters)?;
        let mut fields = read_fields(parameters, classes, model)?;
        fields.output = OutputOptions {
            label_map: label_map_format(&outputs),
            ..OutputOptions::default()
        };
        Ok(Self {
            image,
            fields,
            id,
            outputs,
        })
    }
}

/// The encoded image and the names of the classes among the tensors of a request. `rest` is what follows the JSON.
fn read_inputs(inputs: Vec<InputTensor>, mut rest: Bytes) -> Result<(Bytes, Option<Vec<String>>), ApiError> {
    let (mut image, mut classes) = (None, None);
    for mut input in inputs {
        let name = excerpt(&input.name);
        let path = format!("inputs.{name}");
        let wrong = |detail: &str| ApiError::invalid(&path, detail);
        let elements = input.elements(&mut rest)?;
        match (input.name.as_str(), elements) {
            ("image" | "pixels", _) if image.is_some() => return Err(wrong("a request is about one image")),
            ("image", TensorElements::Texts(texts)) => match <[Text; 1]>::try_from(texts) {
                Ok([Text::Binary(bytes)]) => image = Some(bytes),
                Ok([Text::Json(text)]) => image = Some(decode_base64(text).map_err(|error| error.at(path.clone()))?),
                Err(_) => return Err(wrong("image must have the shape [1]")),
            },
            ("pixels", TensorElements::Bytes(pixels)) => {
                let [height, width, 3] = input.shape[..] else {
                    return Err(wrong("pixels must have the shape [height, width, 3]"));
                };
                let sides = (u32::try_from(width), u32::try_from(height));
                let (Ok(width), Ok(height)) = sides else {
                    return Err(wrong("the sides are too long"));
                };
                image = Some(
                    encode_pixels(width, height, &pixels)
                        .map_err(|error| wrong(&error))?
                        .into(),
                );
            }
            ("classes", TensorElements::Texts(texts)) if classes.is_none() => {
                let names: Option<Vec<String>> = texts.into_iter().map(Text::into_string).collect();
                classes = Some(names.ok_or_else(|| wrong("the names must be UTF-8"))?);
            }
            ("image" | "classes", _) => return Err(wrong("it comes twice, or is not of the type BYTES")),
            ("pixels", _) => return Err(wrong("it is not of the type UINT8")),
            _ => return Err(wrong("there is no such input, only image, pixels and classes")),
        }
    }
    if !rest.is_empty() {
        return Err(ApiError::Malformed(
            "more bytes follow the JSON than its tensors have".to_owned(),
        ));
    }
    let image = image.ok_or_else(|| ApiError::invalid("inputs", "one of image and pixels is required"))?;
    Ok((image, classes))
}

/// The tensors of the reply, each with whether it comes as bytes.
fn requested(
    outputs: Option<Vec<RequestedOutput>>,
    parameters: &Map<String, Value>,
) -> Result<Vec<(OutputName, bool)>, ApiError> {
    let all_binary = match parameters.get("binary_data_output") {
        None => false,
        Some(Value::Bool(value)) => *value,
        Some(_) => {
            return Err(ApiError::invalid(
                "parameters.binary_data_output",
                "it must be true or false",
            ));
        }
    };
    let all = [OutputName::LabelMap, OutputName::Scores, OutputName::Classes];
    Ok(match outputs {
        None => all.map(|name| (name, all_binary)).into(),
        Some(outputs) => outputs
            .into_iter()
            .map(|output| (output.name, output.parameters.binary_data.unwrap_or(all_binary)))
            .collect(),
    })
}

/// The form in which the engine writes the label map: rows of numbers have a limit of their own, because they are long
/// as JSON.
fn label_map_format(outputs: &[(OutputName, bool)]) -> LabelMapFormat {
    match outputs.iter().find(|(name, _)| *name == OutputName::LabelMap) {
        None => LabelMapFormat::None,
        Some((_, true)) => LabelMapFormat::CocoRle,
        Some((_, false)) => LabelMapFormat::Raw,
    }
}

/// The fields of a request to segment that the parameters name.
fn read_fields(
    mut parameters: Map<String, Value>,
    classes: Option<Vec<String>>,
    model: String,
) -> Result<SegmentFields, ApiError> {
    let timeout = parameters.get("timeout").map(|timeout| {
        let microseconds = timeout.as_f64().filter(|microseconds| *microseconds > 0.0);
        microseconds.ok_or_else(|| ApiError::invalid("parameters.timeout", "it must be a number of microseconds"))
    });
    let timeout = timeout.transpose()?;
    for name in OF_TRANSPORT {
        parameters.remove(name);
    }
    for name in ["image", "image_id", "model", "classes", "output"] {
        if parameters.contains_key(name) {
            let detail =
                "it is no parameter here: images, classes and outputs are tensors, and the path names the model";
            return Err(ApiError::invalid(&format!("parameters.{name}"), detail));
        }
    }
    let body = serde_path_to_error::deserialize(Value::Object(parameters));
    let mut body: SegmentBody = body.map_err(|error| {
        let path = match &*error.path().to_string() {
            "." => "parameters".to_owned(),
            path => format!("parameters.{path}"),
        };
        ApiError::from(Fault::read(&path, &error.into_inner().to_string()))
    })?;
    body.model = Some(model);
    body.classes = classes.map(|names| names.into_iter().map(|name| ClassBody::Name(Name(name))).collect());
    body.deadline_seconds = body.deadline_seconds.or(timeout.map(|microseconds| microseconds / 1e6));
    body.into_fields()
}

/// Infer
///
/// A label map with scores, from an image and the names of classes as tensors. Inputs and outputs may follow the JSON
/// as bytes (the binary tensor extension): `inference-header-content-length` then says how long the JSON is. Errors are
/// `{"error": "..."}`.
#[utoipa::path(
    post,
    path = "/v2/models/{model}/infer",
    operation_id = "infer",
    security(("ApiKey" = ["use"])),
    tag = "protocols",
    params(
        ("model" = String, Path, description = "The model's name.", example = "demo"),
        ("inference-header-content-length" = Option<String>, Header, description = "Bytes of the body's JSON, where tensors follow it."),
    ),
    request_body(
        description = "Tensors.",
        content(
            (InferBody = "application/json", example = json!({"inputs": [
                {"name": "image", "datatype": "BYTES", "shape": [1], "data": [crate::api::wire::EXAMPLE_IMAGE]},
                {"name": "classes", "datatype": "BYTES", "shape": [2], "data": ["tiger", "lemon"]},
            ]})),
        ),
    ),
    responses(
        (status = 200, description = "Tensors.",
            content((InferReply = "application/json"), (inline(InferBytes) = "application/octet-stream")),
            headers(("inference-header-content-length" = String, description = "Bytes of the reply's JSON, where tensors follow it."))),
        InferProblems,
    ),
)]
pub(in crate::api) async fn infer(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<ModelPath>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let Path(path) = path?;
    path.state(&state)?;
    let arrival = state.engine.arrive(&caller)?;
    let json_length = header_length(request.headers())?;
    let body = read_bytes(request, &state, arrival.body(), JSON_COPIES).await?;
    let text = json_length.map_or(&body[..], |length| body.get(..length).unwrap_or_default());
    admit_values(text, &state, arrival.body())?;
    let model = path.model;
    let inference = run_blocking(move || Inference::read(model, body, json_length)).await?;
    let Inference {
        image,
        fields,
        id,
        outputs,
    } = inference;
    let image = ImageSource::Upload(image);
    let segmentation = state.engine.segment(arrival, SegmentRequest { image, fields }).await?;
    run_blocking(move || reply(segmentation, id, &outputs)).await
}

/// Infer by a version of a model
///
/// As `POST /v2/models/{model}/infer`.
#[utoipa::path(
    post,
    path = "/v2/models/{model}/versions/{version}/infer",
    operation_id = "infer_by_version",
    security(("ApiKey" = ["use"])),
    tag = "protocols",
    params(
        ("model" = String, Path, description = "The model's name.", example = "demo"),
        ("version" = String, Path, description = "The model's version: 1.", example = "1"),
        ("inference-header-content-length" = Option<String>, Header, description = "Bytes of the body's JSON, where tensors follow it."),
    ),
    request_body(description = "Tensors.", content((InferBody = "application/json"))),
    responses(
        (status = 200, description = "Tensors.",
            content((InferReply = "application/json"), (inline(InferBytes) = "application/octet-stream")),
            headers(("inference-header-content-length" = String, description = "Bytes of the reply's JSON, where tensors follow it."))),
        InferProblems,
    ),
)]
pub(in crate::api) async fn infer_by_version(
    state: State<AppState>,
    caller: Extension<Caller>,
    path: Result<Path<ModelPath>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    infer(state, caller, path, request).await
}

/// How many bytes of a body are JSON; `None` for all.
fn header_length(headers: &HeaderMap) -> Result<Option<usize>, ApiError> {
    let Some(value) = headers.get(HEADER_LENGTH) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(|value| value.parse().ok());
    let length = length.ok_or_else(|| ApiError::Malformed(format!("{HEADER_LENGTH} is no number of bytes")))?;
    Ok(Some(length))
}

/// The reply: JSON, and behind it the tensors that were asked for as bytes.
///
/// # Errors
/// [`ApiError::Internal`] when the model gave a number that is not finite: JSON has none.
fn reply(segmentation: Segmentation, id: Option<String>, outputs: &[(OutputName, bool)]) -> Result<Response, ApiError> {
    let Segmentation {
        model,
        width,
        height,
        classes,
        label_map,
        held_bytes: held,
        ..
    } = segmentation;
    let scores: Vec<f32> = classes.iter().map(|class| class.statistics.presence).collect();
    if scores.iter().any(|score| !score.is_finite()) {
        return Err(ApiError::Internal("a score is not finite".to_owned()));
    }
    let count = classes.len() as u64;
    let names: Vec<String> = classes.into_iter().map(|class| class.name).collect();
    let mut label_map = Some(label_map);
    let mut rest = Vec::new();
    let mut tensors = Vec::with_capacity(outputs.len());
    for &(name, is_binary) in outputs {
        let behind = is_binary.then_some(&mut rest);
        tensors.push(match name {
            OutputName::LabelMap => {
                let Some(label_map) = label_map.take() else {
                    return Err(ApiError::invalid("outputs", "label_map comes twice"));
                };
                let labels = Values::Labels(labels(label_map, (width, height), names.len()));
                OutputTensor::new("label_map", vec![height.into(), width.into()], labels, behind)
            }
            OutputName::Scores => OutputTensor::new("scores", vec![count], Values::Floats(scores.clone()), behind),
            OutputName::Classes => OutputTensor::new("classes", vec![count], Values::Names(names.clone()), behind),
        });
    }
    let has_bytes = outputs.iter().any(|(_, is_binary)| *is_binary);
    let reply = InferReply {
        model_name: model,
        model_version: MODEL_VERSION,
        id,
        outputs: tensors,
    };
    let mut body = serde_json::to_vec(&reply).expect("a reply is plain data with finite numbers");
    let json_length = body.len();
    body.append(&mut rest);
    let media_type = if has_bytes {
        "application/octet-stream"
    } else {
        "application/json"
    };
    let mut response = ([(header::CONTENT_TYPE, media_type)], held_bytes(body, held)).into_response();
    if has_bytes {
        response
            .headers_mut()
            .insert(HEADER_LENGTH, HeaderValue::from(json_length));
    }
    Ok(response)
}

/// The label of each pixel, row by row.
fn labels(label_map: EncodedLabelMap, size: (u32, u32), classes: usize) -> Vec<u16> {
    let label = |value: u16| {
        if usize::from(value) < classes {
            value
        } else {
            UNLABELLED
        }
    };
    match label_map {
        EncodedLabelMap::Raw(rows) => rows.into_iter().flatten().map(label).collect(),
        run_lengths => masks::labels(&masks::masks(run_lengths), size),
    }
}

problems! {
    /// The problems of an inference.
    InferProblems = Message.with_key(OF_BODY + OF_LABELLING + [VocabularyNotFound, ModelNotFound]);
}
