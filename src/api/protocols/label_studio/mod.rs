//! Label Studio's machine learning backend: `/health`, `/setup`, `/predict` and `/webhook`.
//!
//! Label Studio sends tasks with the labelling configuration of their project. The labels of its controls are the
//! classes. Nothing is kept of a project between two requests.

mod configuration;
mod source;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::masks::{labels, masks};
use crate::access::{ApiKey, QuotaError};
use crate::api::AppState;
use crate::api::body::read_json;
use crate::api::error::ApiError;
use crate::api::metered::held_bytes;
use crate::api::problem::{Limit, NoProblems, problems};
use crate::engine::{
    Arrival, BackgroundFields, BackgroundNames, Caller, ClassResult, EngineError, HeldBytes, ImageSource,
    OutputOptions, SegmentFields, SegmentRequest, Segmentation, VocabularyChoice,
};
use crate::formats::{polygon_shape, stroke};
use crate::label_map::{ClassPolygons, CocoMask, EncodedLabelMap, LabelMap, LabelMapFormat};
use crate::support::run_blocking;
use crate::vocabulary::Class;
use configuration::{Control, Shape, controls};

const JSON: &str = "application/json";

/// The answer of a backend that is there.
#[derive(Debug, Serialize, ToSchema)]
pub struct BackendHealth {
    /// Always `UP`.
    #[schema(example = "UP")]
    status: &'static str,
    /// What labels.
    #[schema(example = "MaskCLIP")]
    model_class: &'static str,
}

/// Is the backend there?
///
/// What Label Studio asks of a machine learning backend. It says nothing of the models; `/health/ready` does.
#[utoipa::path(
    get,
    path = "/health",
    operation_id = "get_backend_health",
    security(()),
    tag = "protocols",
    responses((status = 200, description = "It is.", body = BackendHealth), NoProblems),
)]
pub(in crate::api) async fn get_backend_health() -> Json<BackendHealth> {
    Json(BackendHealth {
        status: "UP",
        model_class: "MaskCLIP",
    })
}

/// A project that wants this backend.
#[derive(Debug, Deserialize, ToSchema)]
pub struct SetupBody {
    /// The labelling configuration, as XML.
    #[schema(example = json!(EXAMPLE_CONFIGURATION))]
    pub schema: String,
}

/// A labelling configuration for the document.
const EXAMPLE_CONFIGURATION: &str = "<View><Image name=\"image\" value=\"$image\"/><BrushLabels name=\"label\" toName=\"image\"><Label value=\"tiger\"/><Label value=\"lemon\"/></BrushLabels></View>";

/// What labels the project.
#[derive(Debug, Serialize, ToSchema)]
pub struct SetupReply {
    /// The model that answers.
    #[schema(example = "demo")]
    pub model_version: String,
}

/// Connect a Label Studio project
///
/// Checks that the labelling configuration has a control whose regions the server can draw: `BrushLabels`,
/// `PolygonLabels` or `RectangleLabels` of an `Image`. Other fields of the request do not count, and nothing is kept.
#[utoipa::path(
    post,
    path = "/setup",
    operation_id = "set_up_backend",
    security(("ApiKey" = ["use"])),
    tag = "protocols",
    request_body(content = SetupBody, description = "The project."),
    responses((status = 200, description = "The project can be labelled.", body = SetupReply), SetupProblems),
)]
pub(in crate::api) async fn set_up_backend(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<SetupReply>, ApiError> {
    let held = state.engine.body(&caller);
    let body: SetupBody = read_json(request, &state, &held).await?;
    let controls = read_controls(&state, body.schema).await;
    controls.map_err(|error| error.at("schema".to_owned()))?;
    Ok(Json(SetupReply {
        model_version: model_version(&state),
    }))
}

/// Reads the controls of a labelling configuration where that holds up no other request. Whoever asks knows the field
/// that it came in.
///
/// # Errors
/// 422 above `limits.max_label_config_bytes`, and those of [`controls`].
async fn read_controls(state: &AppState, xml: String) -> Result<Vec<Control>, ApiError> {
    let (bytes, limit) = (xml.len(), state.max_label_config_bytes);
    if bytes > limit {
        return Err(ApiError::Invalid {
            path: None,
            detail: format!(
                "the labelling configuration has {bytes} bytes, more than limits.max_label_config_bytes = {limit}"
            ),
            limit: Some(Limit::whole("limits.max_label_config_bytes", limit as u64)),
        });
    }
    let most_controls = state.max_batch_images;
    run_blocking(move || controls(&xml, most_controls)).await
}

/// Tasks to label.
#[derive(Debug, Deserialize, ToSchema)]
pub struct PredictBody {
    /// The tasks. At most `limits.max_batch_images` of them if the configuration has one control, and fewer with more.
    #[schema(example = json!([{"id": 1, "data": {"image": crate::api::wire::EXAMPLE_IMAGE}}]))]
    pub tasks: Vec<PredictTask>,
    /// The labelling configuration of their project, as XML.
    #[schema(example = json!(EXAMPLE_CONFIGURATION))]
    pub label_config: String,
}

/// A task to label.
#[derive(Debug, Deserialize, ToSchema)]
pub struct PredictTask {
    /// Its data. The field that the configuration names has the image: as a data URI, or as the path of an uploaded
    /// file, `/data/upload/...`, where `server.label_studio_uploads` says where these are. Addresses are not fetched.
    #[schema(value_type = Object)]
    pub data: Map<String, Value>,
}

/// The labels of tasks.
#[derive(Debug, Serialize, ToSchema)]
pub struct PredictReply {
    /// One prediction for each task, in their order.
    pub results: Vec<Prediction>,
    /// The model that answered.
    #[schema(example = "demo")]
    pub model_version: String,
}

/// The labels of a task.
#[derive(Debug, Serialize, ToSchema)]
pub struct Prediction {
    /// The regions in Label Studio's form: brush strokes, polygons and rectangles.
    #[schema(value_type = Vec<Object>)]
    pub result: Vec<Box<RawValue>>,
    /// The mean score of the regions, 0 without one.
    #[schema(minimum = 0, maximum = 1)]
    pub score: f32,
    /// The model that answered.
    #[schema(example = "demo")]
    pub model_version: String,
}

/// Label tasks of Label Studio
///
/// The labels of the configuration's controls are the classes. `BrushLabels` get a stroke for each class that has
/// pixels, `PolygonLabels` a polygon for each of its connected regions, in which a cut leads to each hole, and
/// `RectangleLabels` the box around them. Pixels that show something else belong to none: the shipped list of stuff
/// names (`vocabulary.background`) competes with the labels. Tasks are labelled by the first model, one after
/// the other. If one cannot be, none is.
///
/// Each control of each task is an image to label, at most `limits.max_batch_images` of them, and counts as a request
/// of the key. One that comes too soon for the key's quota waits, as long as the default deadline is.
#[utoipa::path(
    post,
    path = "/predict",
    operation_id = "predict_tasks",
    security(("ApiKey" = ["use"])),
    tag = "protocols",
    request_body(content = PredictBody, description = "Tasks and the configuration of their project."),
    responses((status = 200, description = "The labels.", body = PredictReply), PredictProblems),
)]
pub(in crate::api) async fn predict_tasks(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    key: Option<Extension<Arc<ApiKey>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let arrival = state.engine.arrive(&caller)?;
    let held = arrival.body().clone();
    let mut arrival = Some(arrival);
    let PredictBody { tasks, label_config } = read_json(request, &state, &held).await?;
    let controls = read_controls(&state, label_config).await;
    let controls = controls.map_err(|error| error.at("label_config".to_owned()))?;
    check_images(tasks.len().saturating_mul(controls.len()), state.max_batch_images)?;
    let mut results = Vec::with_capacity(tasks.len());
    for (index, task) in tasks.into_iter().enumerate() {
        let mut regions = Vec::new();
        for control in &controls {
            let at = |error: ApiError| error.at(format!("tasks[{index}].data.{}", control.field));
            let Some(Value::String(value)) = task.data.get(&control.field) else {
                return Err(at(ApiError::Malformed("the image is missing".to_owned())));
            };
            let image = source::image(&state, value.clone(), &held).await.map_err(at)?;
            let arrival = match arrival.take() {
                Some(arrival) => arrival,
                None => {
                    if let Some(Extension(key)) = &key {
                        let patience = state.engine.settings().queue.default_deadline_seconds;
                        count(key, Duration::from_secs_f64(patience)).await?;
                    }
                    state.engine.arrive(&caller)?
                }
            };
            let labelled = label(&state, arrival, image, control).await.map_err(at)?;
            hold(&state, &held, &labelled).map_err(at)?;
            regions.extend(labelled);
        }
        results.push(prediction(&state, regions));
    }
    let reply = PredictReply {
        results,
        model_version: model_version(&state),
    };
    // Strokes are long.
    Ok(run_blocking(move || {
        let reply = serde_json::to_vec(&reply).expect("a reply is plain data with finite numbers");
        ([(header::CONTENT_TYPE, JSON)], held_bytes(reply, held)).into_response()
    })
    .await)
}

/// Checks that so many images may be labelled for one request.
fn check_images(images: usize, limit: usize) -> Result<(), ApiError> {
    if images <= limit {
        return Ok(());
    }
    Err(ApiError::Invalid {
        path: Some("tasks".to_owned()),
        detail: format!(
            "the tasks and the controls of their configuration make {images} images to label, more than \
             limits.max_batch_images = {limit}"
        ),
        limit: Some(Limit::whole("limits.max_batch_images", limit as u64)),
    })
}

/// Counts a further image as a request of the key. Waits until it is in time, if that is within `patience`.
async fn count(key: &ApiKey, patience: Duration) -> Result<(), QuotaError> {
    let until = Instant::now() + patience;
    loop {
        match key.count() {
            Err(QuotaError::Rate { wait, .. }) if Instant::now() + wait < until => tokio::time::sleep(wait).await,
            counted => return counted,
        }
    }
}

/// A region as JSON, which takes a tenth of the memory of its numbers.
struct Region {
    json: Box<RawValue>,
    score: f64,
}

/// Adds regions, which wait for the others of their request, to the bytes of its body.
fn hold(state: &AppState, held: &HeldBytes, regions: &[Region]) -> Result<(), ApiError> {
    let bytes = regions.iter().map(|region| region.json.get().len() as u64).sum();
    if held.try_grow(bytes) {
        return Ok(());
    }
    let limit = state.engine.settings().queue.body_bytes;
    Err(EngineError::BodyBytes { limit }.into())
}

/// The regions of one control on one image.
async fn label(
    state: &AppState,
    arrival: Arrival,
    image: bytes::Bytes,
    control: &Control,
) -> Result<Vec<Region>, ApiError> {
    let classes = control.labels.iter().cloned().map(Class::from).collect();
    let fields = SegmentFields {
        vocabulary: Some(VocabularyChoice::Inline(classes)),
        background: BackgroundFields {
            names: BackgroundNames::Shipped,
            ..BackgroundFields::default()
        },
        output: OutputOptions {
            label_map: match control.shape {
                Shape::Brush => LabelMapFormat::CocoRle,
                Shape::Polygon => LabelMapFormat::Polygons,
                Shape::Rectangle => LabelMapFormat::None,
            },
            ..OutputOptions::default()
        },
        ..SegmentFields::default()
    };
    let image = ImageSource::Upload(image);
    let segmentation = state.engine.segment(arrival, SegmentRequest { image, fields }).await?;
    let control = control.clone();
    Ok(run_blocking(move || regions(segmentation, &control)).await)
}

/// The regions of a label map in Label Studio's form.
fn regions(segmentation: Segmentation, control: &Control) -> Vec<Region> {
    let Segmentation {
        width,
        height,
        classes,
        label_map,
        ..
    } = segmentation;
    let region = |id: usize, mut value: Value| {
        // The label as the configuration has it: the class list leaves out white space around a name.
        value[control.shape.name()] = json!([control.labels[id]]);
        let score = classes[id].statistics.mean_confidence.filter(|score| score.is_finite());
        let score = f64::from(score.unwrap_or(0.0));
        let region = json!({
            "id": Uuid::new_v4().simple().to_string(),
            "type": control.shape.name(),
            "from_name": control.name,
            "to_name": control.image,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": value,
            "score": score,
        });
        Region {
            json: to_raw_value(&region).expect("a region is plain data with finite numbers"),
            score,
        }
    };
    match label_map {
        EncodedLabelMap::Polygons(polygons) => {
            let of_class = |ClassPolygons { class_id, lines }: ClassPolygons| {
                let shapes = lines.into_iter().map(|line| polygon_shape(&line, [width, height]));
                shapes.map(|shape| region(class_id.into(), shape)).collect::<Vec<_>>()
            };
            polygons.into_iter().flat_map(of_class).collect()
        }
        EncodedLabelMap::None => {
            let boxes = classes.iter().enumerate();
            let region = |(id, class)| Some(region(id, rectangle(class, width, height)?));
            boxes.filter_map(region).collect()
        }
        run_lengths => {
            let masks = masks(run_lengths);
            let map = LabelMap {
                width,
                height,
                labels: labels(&masks, (width, height)),
                confidence: None,
                classes: classes.iter().map(|class| class.statistics.clone()).collect(),
            };
            let region = |mask: &CocoMask| region(mask.class_id.into(), stroke(&map, mask.class_id));
            masks.iter().map(region).collect()
        }
    }
}

/// The box around a class in percent of the image, or `None` when it has no pixels.
fn rectangle(class: &ClassResult, width: u32, height: u32) -> Option<Value> {
    let [left, top, box_width, box_height] = class.statistics.bounding_box?;
    let percent = |pixels: u32, side: u32| 100.0 * f64::from(pixels) / f64::from(side);
    Some(json!({
        "x": percent(left, width),
        "y": percent(top, height),
        "width": percent(box_width, width),
        "height": percent(box_height, height),
        "rotation": 0,
    }))
}

/// A prediction with its regions.
fn prediction(state: &AppState, regions: Vec<Region>) -> Prediction {
    let scores: Vec<f64> = regions.iter().map(|region| region.score).collect();
    Prediction {
        result: regions.into_iter().map(|region| region.json).collect(),
        score: mean(&scores),
        model_version: model_version(state),
    }
}

/// The mean of scores, 0 without one. The sum of no numbers at all would be -0.
fn mean(scores: &[f64]) -> f32 {
    let sum = scores.iter().fold(0.0, |sum, score| sum + score);
    (sum / scores.len().max(1) as f64) as f32
}

/// The name of the model that labels tasks.
fn model_version(state: &AppState) -> String {
    let names = state.engine.names();
    names.first().map_or_else(String::new, |(name, _)| (*name).to_owned())
}

/// An event.
#[derive(ToSchema)]
#[schema(value_type = Object)]
#[expect(dead_code, reason = "describes the body in the OpenAPI document")]
struct WebhookEvent(Map<String, Value>);

/// The answer to an event.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookReply {
    /// Always `ok`.
    #[schema(example = "ok")]
    status: &'static str,
}

/// Take note of an event
///
/// Label Studio tells backends of annotations, and of the wish for a training. This one learns nothing from them, and
/// answers so that Label Studio goes on.
#[utoipa::path(
    post,
    path = "/webhook",
    operation_id = "take_note_of_event",
    security(("ApiKey" = ["use"])),
    tag = "protocols",
    request_body(
        description = "The event, which is not kept.",
        content((inline(WebhookEvent) = "application/json")),
    ),
    responses((status = 200, description = "Noted.", body = WebhookReply), SetupProblems),
)]
pub(in crate::api) async fn take_note_of_event(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<WebhookReply>, ApiError> {
    let held = state.engine.body(&caller);
    let _event: BTreeMap<String, IgnoredAny> = read_json(request, &state, &held).await?;
    Ok(Json(WebhookReply { status: "ok" }))
}

problems! {
    /// The problems of `POST /setup` and `POST /webhook`.
    SetupProblems = Problem.with_key(OF_BODY + [UnsupportedMediaType]);

    /// The problems of `POST /predict`.
    PredictProblems = Problem.with_key(OF_BODY + OF_LABELLING + [UnsupportedMediaType]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_of_a_prediction_is_the_mean_of_its_regions_and_zero_without_one() {
        assert_eq!(mean(&[0.25, 0.75]), 0.5);
        assert_eq!(serde_json::to_string(&mean(&[])).ok().as_deref(), Some("0.0"));
    }
}
