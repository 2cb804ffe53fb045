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
    pub limits: Limits,
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

/// What requests may ask for.
#[derive(Debug, Serialize, ToSchema)]
pub struct Limits {
    /// Bytes of a request's body.
    pub max_request_bytes: usize,
    /// Width times height of an image.
    pub max_image_pixels: u64,
    /// Classes of one request or vocabulary.
    pub max_classes: usize,
    /// Synonyms of one class.
    pub max_synonyms: usize,
    /// Characters of a class name or synonym.
    pub max_name_characters: usize,
    /// Names in a background list.
    pub max_background_names: usize,
    /// Named vocabularies beside the shipped ones.
    pub max_vocabularies: usize,
    /// Short side of the model's input in pixels.
    pub max_short_side: u32,
    /// Pixels of the model's input, width times height.
    pub max_input_pixels: u64,
}

impl From<&LimitsConfig> for Limits {
    fn from(limits: &LimitsConfig) -> Self {
        Self {
            max_request_bytes: limits.max_request_bytes,
            max_image_pixels: limits.max_image_pixels,
            max_classes: limits.max_classes,
            max_synonyms: limits.max_synonyms,
            max_name_characters: limits.max_name_characters,
            max_background_names: limits.max_background_names,
            max_vocabularies: limits.max_vocabularies,
            max_short_side: limits.max_short_side,
            max_input_pixels: limits.max_input_pixels,
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
        limits: Limits::from(&state.config.limits),
    })
}
