//! `GET /v1/models`: what is loaded and what it can do.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::problem::NoProblems;
use crate::config::LimitsConfig;
use crate::dense::Attention;
use crate::engine::{ModelInfo, Precision};

/// The loaded models.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// One entry per loaded model; none until the first is loaded.
    pub models: Vec<Model>,
    /// What requests may ask for, by the settings' names.
    pub limits: LimitsConfig,
}

/// A loaded model.
#[derive(Debug, Serialize, ToSchema)]
pub struct Model {
    /// The name that requests use.
    #[schema(example = "demo")]
    pub name: String,
    /// The visual tower, for people.
    #[schema(example = "ViT-B/16")]
    pub architecture: String,
    /// SHA-256 of the weights file, lower-case hexadecimal.
    pub weights_sha256: String,
    /// Element type it computes in.
    pub precision: Precision,
    /// Where it runs.
    #[schema(example = "cpu")]
    pub device: String,
    /// Length of its embeddings.
    #[schema(example = 512)]
    pub embedding_dimension: usize,
    /// Sides of its input are whole multiples of this many pixels.
    #[schema(example = 16)]
    pub patch_pixels: u32,
    /// Short side of its input when neither the request nor `defaults.short_side` names one, in pixels.
    #[schema(example = 448)]
    pub short_side: u32,
    /// What its last attention can do.
    pub attentions: Vec<Attention>,
}

impl From<&ModelInfo> for Model {
    fn from(info: &ModelInfo) -> Self {
        Self {
            name: info.name.clone(),
            architecture: info.architecture.clone(),
            weights_sha256: info.weights_sha256.clone(),
            precision: info.precision,
            device: info.device.clone(),
            embedding_dimension: info.embedding_dimension,
            patch_pixels: info.patch_pixels,
            short_side: info.short_side,
            attentions: info.attentions.clone(),
        }
    }
}

/// What is loaded
///
/// The models that can be named in a request, what each can do, and the limits of this server.
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "list_models",
    tag = "models",
    responses((status = 200, description = "The loaded models.", body = ModelList), NoProblems),
)]
pub(super) async fn list_models(State(state): State<AppState>) -> Json<ModelList> {
    let models = state
        .engine
        .model()
        .iter()
        .map(|info| Model::from(info.as_ref()))
        .collect();
    Json(ModelList {
        models,
        limits: state.config.limits.clone(),
    })
}
