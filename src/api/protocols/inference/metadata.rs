//! What the server and its models are, and whether they answer.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{MODEL_VERSION, ModelPath};
use crate::VERSION;
use crate::api::AppState;
use crate::api::error::ApiError;
use crate::api::problem::problems;
use crate::api::wire::ModelHealth;
use crate::engine::{ModelState, Readiness};

/// The server, as clients of the protocol see it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServerMetadata {
    /// Always `maskclip`.
    #[schema(example = "maskclip")]
    name: &'static str,
    /// The version of the program.
    version: &'static str,
    /// The parts of the protocol beyond its core.
    #[schema(example = json!(["binary_tensor_data", "model_repository"]))]
    extensions: [&'static str; 2],
}

/// What the server is
#[utoipa::path(
    get,
    path = "/v2",
    operation_id = "get_inference_server",
    security(("ApiKey" = ["use"]), ("ApiKey" = ["models"])),
    tag = "protocols",
    responses((status = 200, description = "The server.", body = ServerMetadata), MetadataProblems),
)]
pub(in crate::api) async fn get_inference_server() -> Json<ServerMetadata> {
    Json(ServerMetadata {
        name: "maskclip",
        version: VERSION,
        extensions: ["binary_tensor_data", "model_repository"],
    })
}

/// Whether the server is alive.
#[derive(Debug, Serialize, ToSchema)]
pub struct InferenceLiveness {
    /// Always true.
    live: bool,
}

/// Is the process alive?
#[utoipa::path(
    get,
    path = "/v2/health/live",
    operation_id = "get_inference_liveness",
    security(()),
    tag = "protocols",
    responses((status = 200, description = "It is.", body = InferenceLiveness), OpenProblems),
)]
pub(in crate::api) async fn get_inference_liveness() -> Json<InferenceLiveness> {
    Json(InferenceLiveness { live: true })
}

/// Whether the server or a model answers requests.
#[derive(Debug, Serialize, ToSchema)]
pub struct InferenceReadiness {
    /// Always true.
    ready: bool,
}

/// Can the server answer requests?
#[utoipa::path(
    get,
    path = "/v2/health/ready",
    operation_id = "get_inference_readiness",
    security(()),
    tag = "protocols",
    responses((status = 200, description = "It can.", body = InferenceReadiness), ReadyProblems),
)]
pub(in crate::api) async fn get_inference_readiness(
    State(state): State<AppState>,
) -> Result<Json<InferenceReadiness>, ApiError> {
    if state.engine.readiness() == Readiness::Ready {
        return Ok(Json(InferenceReadiness { ready: true }));
    }
    Err(ApiError::NotReady {
        reason: "not all models are ready, or the server is going down",
        models: state.engine.model_states().into_iter().map(ModelHealth::from).collect(),
    })
}

/// What a model reads and answers with.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelMetadata {
    /// The model's name.
    #[schema(example = "demo")]
    name: String,
    /// Its only version.
    #[schema(example = json!(["1"]))]
    versions: [&'static str; 1],
    /// Always `maskclip`.
    #[schema(example = "maskclip")]
    platform: &'static str,
    /// What it reads: `image` or `pixels`, and `classes` unless the parameter `vocabulary` names some.
    inputs: Vec<TensorMetadata>,
    /// What it answers with.
    outputs: Vec<TensorMetadata>,
}

/// A tensor by its name.
#[derive(Debug, Serialize, ToSchema)]
pub struct TensorMetadata {
    /// The tensor's name.
    #[schema(example = "label_map")]
    name: &'static str,
    /// The type of its elements.
    #[schema(example = "UINT16")]
    datatype: &'static str,
    /// The length of each dimension, -1 for any.
    #[schema(example = json!([-1, -1]))]
    shape: Vec<i64>,
}

impl ModelMetadata {
    fn new(name: String) -> Self {
        let tensor = |name, datatype, shape: &[i64]| TensorMetadata {
            name,
            datatype,
            shape: shape.to_vec(),
        };
        Self {
            name,
            versions: [MODEL_VERSION],
            platform: "maskclip",
            inputs: vec![
                tensor("image", "BYTES", &[1]),
                tensor("pixels", "UINT8", &[-1, -1, 3]),
                tensor("classes", "BYTES", &[-1]),
            ],
            outputs: vec![
                tensor("label_map", "UINT16", &[-1, -1]),
                tensor("scores", "FP32", &[-1]),
                tensor("classes", "BYTES", &[-1]),
            ],
        }
    }
}

/// What a model reads and answers with
#[utoipa::path(
    get,
    path = "/v2/models/{model}",
    operation_id = "get_inference_model",
    security(("ApiKey" = ["use"]), ("ApiKey" = ["models"])),
    tag = "protocols",
    params(("model" = String, Path, description = "The model's name.", example = "demo")),
    responses((status = 200, description = "The model.", body = ModelMetadata), ModelProblems),
)]
pub(in crate::api) async fn get_inference_model(
    State(state): State<AppState>,
    path: Result<Path<ModelPath>, PathRejection>,
) -> Result<Json<ModelMetadata>, ApiError> {
    let Path(path) = path?;
    path.state(&state)?;
    Ok(Json(ModelMetadata::new(path.model)))
}

/// What a version of a model reads and answers with
#[utoipa::path(
    get,
    path = "/v2/models/{model}/versions/{version}",
    operation_id = "get_inference_model_version",
    security(("ApiKey" = ["use"]), ("ApiKey" = ["models"])),
    tag = "protocols",
    params(
        ("model" = String, Path, description = "The model's name.", example = "demo"),
        ("version" = String, Path, description = "The model's version: 1.", example = "1"),
    ),
    responses((status = 200, description = "The model.", body = ModelMetadata), ModelProblems),
)]
pub(in crate::api) async fn get_inference_model_version(
    state: State<AppState>,
    path: Result<Path<ModelPath>, PathRejection>,
) -> Result<Json<ModelMetadata>, ApiError> {
    get_inference_model(state, path).await
}

/// Does a model answer requests?
#[utoipa::path(
    get,
    path = "/v2/models/{model}/ready",
    operation_id = "get_inference_model_readiness",
    security(("ApiKey" = ["use"]), ("ApiKey" = ["models"])),
    tag = "protocols",
    params(("model" = String, Path, description = "The model's name.", example = "demo")),
    responses((status = 200, description = "It does.", body = InferenceReadiness), ModelReadyProblems),
)]
pub(in crate::api) async fn get_inference_model_readiness(
    State(state): State<AppState>,
    path: Result<Path<ModelPath>, PathRejection>,
) -> Result<Json<InferenceReadiness>, ApiError> {
    let Path(path) = path?;
    match path.state(&state)? {
        ModelState::Ready => Ok(Json(InferenceReadiness { ready: true })),
        ModelState::Starting | ModelState::Recovering | ModelState::Failed => Err(ApiError::NotReady {
            reason: "the model is not ready",
            models: state.engine.model_states().into_iter().map(ModelHealth::from).collect(),
        }),
    }
}

/// Does a version of a model answer requests?
#[utoipa::path(
    get,
    path = "/v2/models/{model}/versions/{version}/ready",
    operation_id = "get_inference_model_version_readiness",
    security(("ApiKey" = ["use"]), ("ApiKey" = ["models"])),
    tag = "protocols",
    params(
        ("model" = String, Path, description = "The model's name.", example = "demo"),
        ("version" = String, Path, description = "The model's version: 1.", example = "1"),
    ),
    responses((status = 200, description = "It does.", body = InferenceReadiness), ModelReadyProblems),
)]
pub(in crate::api) async fn get_inference_model_version_readiness(
    state: State<AppState>,
    path: Result<Path<ModelPath>, PathRejection>,
) -> Result<Json<InferenceReadiness>, ApiError> {
    get_inference_model_readiness(state, path).await
}

/// A model in the list of all.
#[derive(Debug, Serialize, ToSchema)]
pub struct RepositoryModel {
    /// The model's name.
    #[schema(example = "demo")]
    name: String,
    /// Its only version.
    #[schema(example = "1")]
    version: &'static str,
    /// `READY` or `UNAVAILABLE`.
    #[schema(example = "READY")]
    state: &'static str,
    /// Why it is unavailable.
    reason: &'static str,
}

/// List the models
///
/// As Triton's extension for model repositories has it. The body does not count.
#[utoipa::path(
    post,
    path = "/v2/repository/index",
    operation_id = "list_inference_models",
    security(("ApiKey" = ["use"]), ("ApiKey" = ["models"])),
    tag = "protocols",
    responses((status = 200, description = "All models.", body = Vec<RepositoryModel>), MetadataProblems),
)]
pub(in crate::api) async fn list_inference_models(State(state): State<AppState>) -> Json<Vec<RepositoryModel>> {
    let models = state.engine.model_states().into_iter().map(|model| {
        let (state, reason) = match model.state {
            ModelState::Ready => ("READY", ""),
            ModelState::Starting => ("UNAVAILABLE", "it is being loaded"),
            ModelState::Recovering => ("UNAVAILABLE", "it is being loaded again after a failure"),
            ModelState::Failed => ("UNAVAILABLE", "it cannot be loaded"),
        };
        RepositoryModel {
            name: model.name,
            version: MODEL_VERSION,
            state,
            reason,
        }
    });
    Json(models.collect())
}

problems! {
    /// The problems of what needs no key and cannot fail.
    OpenProblems = Message.without_key([]);

    /// The problems of `GET /v2/health/ready`.
    ReadyProblems = Message.without_key([Unavailable]);

    /// The problems of what is about no model.
    MetadataProblems = Message.with_key([]);

    /// The problems of what describes a model.
    ModelProblems = Message.with_key([Malformed, ModelNotFound]);

    /// The problems of a model's readiness.
    ModelReadyProblems = Message.with_key([Malformed, ModelNotFound, Unavailable]);
}
