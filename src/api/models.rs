//! `GET /v1/models`: what is loaded, what it can do, and what holds where a request says nothing.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::problem::KeyProblems;
use super::wire::{
    Attention, ClassBody, KeySmoothingMethod, ModelKind, Precision, Refinement, Resize, Synonyms, TemplateSet,
};
use crate::engine::DefaultSettings;
use crate::labeller::{ModelInfo, StudentInfo};

/// The loaded models.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// One entry per loaded model, the one first that answers requests that name none; none until one is loaded.
    pub models: Vec<Model>,
    /// What requests may ask for, by the settings' names.
    pub limits: Limits,
    /// What requests get that do not say otherwise, by the settings' names.
    pub defaults: Defaults,
}

/// The server's defaults (`defaults.`). Each has the name of the request's field, but for those of `background`. Options
/// of a vocabulary go before them.
#[derive(Debug, Serialize, ToSchema)]
pub struct Defaults {
    /// The prompt templates.
    pub templates: TemplateSet,
    /// What the synonyms of a class come to.
    pub synonyms: Synonyms,
    /// What the last attention of the visual tower does; without meaning for a student.
    pub attention: Attention,
    /// Threshold of prompt denoising, 0 for off.
    #[schema(example = 0.0, minimum = 0, maximum = 1)]
    pub prompt_denoising: f32,
    /// Key smoothing; without meaning for a student.
    pub key_smoothing: KeySmoothingMethod,
    /// `background.threshold`, 0 for off.
    #[schema(example = 0.0, minimum = 0, maximum = 1)]
    pub background_threshold: f32,
    /// `background.area`, 0 for off.
    #[schema(example = 0.0, minimum = 0, maximum = 1)]
    pub background_area: f64,
    /// Short side of the model's input in pixels; 0 for the model's own, its `short_side`.
    #[schema(example = 0)]
    pub short_side: u32,
    /// Factors on the short side; empty for the model's own, its `scales`.
    #[schema(example = json!([1.0]))]
    pub scales: Vec<f64>,
    /// How an image comes to the size of the model's input.
    pub resize: Resize,
    /// Windows over the model's input, null for none.
    pub window: Option<DefaultWindow>,
    /// What is done to scores at the image's size; null for the model's own, its `refinement`.
    pub refinement: Option<Refinement>,
}

/// Square windows, one after the other.
#[derive(Debug, Serialize, ToSchema)]
pub struct DefaultWindow {
    /// Side in pixels of the model's input.
    #[schema(example = 224)]
    pub side: u32,
    /// Pixels from one window to the next.
    #[schema(example = 112)]
    pub stride: u32,
}

impl From<&DefaultSettings> for Defaults {
    fn from(settings: &DefaultSettings) -> Self {
        Self {
            templates: settings.templates.into(),
            synonyms: settings.synonyms.into(),
            attention: settings.attention.into(),
            prompt_denoising: settings.prompt_denoising,
            key_smoothing: settings.key_smoothing.into(),
            background_threshold: settings.background_threshold,
            background_area: settings.background_area,
            short_side: settings.short_side,
            scales: settings.scales.clone(),
            resize: settings.resize.into(),
            window: settings.window.map(|window| DefaultWindow {
                side: window.side,
                stride: window.stride,
            }),
            refinement: settings.refinement.map(Into::into),
        }
    }
}

/// What requests may ask for. Each limit is named in the error that it causes.
#[derive(Debug, Serialize, ToSchema)]
pub struct Limits {
    /// Bytes of a request's body.
    pub max_request_bytes: usize,
    /// Images of a batch.
    pub max_batch_images: usize,
    /// Width times height of an image, read from its header before anything is allocated.
    pub max_image_pixels: u64,
    /// Classes of one request or vocabulary, at most 65535.
    pub max_classes: usize,
    /// Synonyms of one class.
    pub max_synonyms: usize,
    /// Characters of a class name or synonym.
    pub max_name_characters: usize,
    /// Names in a request's background list.
    pub max_background_names: usize,
    /// Named vocabularies beside the shipped ones.
    pub max_vocabularies: usize,
    /// Short side of the model's input in pixels, at every scale.
    pub max_short_side: u32,
    /// Scales of one request.
    pub max_scales: usize,
    /// Pixels of the model's input, width times height; of all scales and windows together.
    pub max_input_pixels: u64,
    /// Windows of one request, at all scales.
    pub max_windows: usize,
    /// Cells of an input or a window for attentions that compare every two of them: `naclip`, `sc-clip`, `resclip` and
    /// `resclip-repaired`.
    pub max_paired_cells: usize,
    /// Bytes that refining one request's scores at the image's size may take.
    pub max_refinement_bytes: u64,
    /// Bytes of one request's scores: 4 for each text that is scored on its own and each cell, at all scales and windows.
    pub max_score_bytes: u64,
    /// Texts that are scored on their own times pixels of the image.
    pub max_pixel_texts: u64,
    /// Pixels of an image whose label map is asked for in the form `raw`.
    pub max_raw_pixels: u64,
    /// Corners of the polygons of a label map that is asked for in the form `polygons`.
    pub max_polygon_corners: u64,
    /// Pixels of an image whose confidence map is asked for.
    pub max_confidence_pixels: u64,
    /// Bytes of the probability maps of one request before they are encoded, one for each map and pixel.
    pub max_probability_bytes: u64,
    /// Texts and images of one request for embeddings.
    pub max_embedding_inputs: usize,
    /// Characters of a text in a request for embeddings.
    pub max_embedding_characters: usize,
}

impl Limits {
    /// The bounds of all rooms under the names of the settings.
    fn new(state: &AppState) -> Self {
        let settings = state.engine.settings();
        let (vocabulary, input) = (&settings.vocabulary_limits, &settings.input_limits);
        Self {
            max_request_bytes: state.max_request_bytes,
            max_batch_images: state.max_batch_images,
            max_image_pixels: input.max_image_pixels,
            max_classes: vocabulary.max_classes,
            max_synonyms: vocabulary.max_synonyms,
            max_name_characters: vocabulary.max_name_characters,
            max_background_names: vocabulary.max_background_names,
            max_vocabularies: vocabulary.max_vocabularies,
            max_short_side: input.max_short_side,
            max_scales: input.max_scales,
            max_input_pixels: input.max_input_pixels,
            max_windows: input.max_windows,
            max_paired_cells: input.max_paired_cells,
            max_refinement_bytes: input.max_refinement_bytes,
            max_score_bytes: input.max_score_bytes,
            max_pixel_texts: input.max_pixel_texts,
            max_raw_pixels: input.max_raw_pixels,
            max_polygon_corners: input.max_polygon_corners,
            max_confidence_pixels: input.max_confidence_pixels,
            max_probability_bytes: input.max_probability_bytes,
            max_embedding_inputs: input.max_embedding_inputs,
            max_embedding_characters: input.max_embedding_characters,
        }
    }
}

/// A loaded model.
#[derive(Debug, Serialize, ToSchema)]
pub struct Model {
    /// The name that requests use.
    #[schema(example = "demo")]
    pub name: String,
    /// `clip`, or `student` for a segmentation network that learned from one (MaskCLIP+).
    pub kind: ModelKind,
    /// Whether it came inside the program.
    pub embedded: bool,
    /// Whether it answers now; not while it is being loaded anew after a failure.
    pub ready: bool,
    /// The visual tower or the network, for people.
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
    /// Factors on the short side when the request names none.
    #[schema(example = json!([1.0]))]
    pub scales: Vec<f64>,
    /// Factor on cosines, or a student's products, when the request names none.
    #[schema(example = 100.0)]
    pub temperature: f32,
    /// How scores are refined at the image's size when the request does not say.
    pub refinement: Refinement,
    /// What its last attention can do; nothing of a student's.
    pub attentions: Vec<Attention>,
    /// The key smoothing it can do; a student has no keys.
    pub key_smoothings: Vec<KeySmoothingMethod>,
    /// Of a student alone: what it was made of. It takes any other classes, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub student: Option<Student>,
}

/// What a student was made of.
#[derive(Debug, Serialize, ToSchema)]
pub struct Student {
    /// The classes it was trained on.
    pub classes: Vec<ClassBody>,
    /// The names for what is none of them that it was trained on.
    pub background: Vec<String>,
    /// The prompt templates they were put into.
    #[schema(example = "maskclip-85")]
    pub templates: String,
    /// Whether the text "background" has an embedding of its own that the student learned.
    pub learned_background: bool,
    /// The model whose labels it learned from.
    pub teacher: Teacher,
}

/// The teacher of a student.
#[derive(Debug, Serialize, ToSchema)]
pub struct Teacher {
    /// The model's name.
    #[schema(example = "ViT-B-16")]
    pub name: String,
    /// SHA-256 of its weights file, lower-case hexadecimal. Its text tower embeds the student's texts.
    pub weights_sha256: String,
}

impl Model {
    /// A model as clients see it, with the values that requests get which name none.
    fn new(info: &ModelInfo, ready: bool, defaults: &DefaultSettings) -> Self {
        let (kind, own) = (info.kind(), &info.options);
        let scales = match defaults.scales.as_slice() {
            [] => &own.scales,
            _ => &defaults.scales,
        };
        Self {
            name: info.name.clone(),
            kind: kind.into(),
            embedded: info.embedded,
            ready,
            architecture: info.architecture.clone(),
            weights_sha256: info.weights_sha256.clone(),
            precision: info.precision.into(),
            device: info.device.clone(),
            embedding_dimension: info.embedding_dimension,
            patch_pixels: info.patch_pixels,
            short_side: own.short_side,
            scales: scales.clone(),
            temperature: kind.temperature(defaults.temperature, own.temperature),
            refinement: defaults.refinement.unwrap_or(own.refinement).into(),
            attentions: info.attentions.iter().copied().map(Into::into).collect(),
            key_smoothings: kind.key_smoothings().iter().copied().map(Into::into).collect(),
            student: info.student.as_ref().map(Student::from),
        }
    }
}

impl From<&StudentInfo> for Student {
    fn from(info: &StudentInfo) -> Self {
        Self {
            classes: info.classes.iter().cloned().map(ClassBody::from).collect(),
            background: info.background.clone(),
            templates: info.templates.clone(),
            learned_background: info.learned_background,
            teacher: Teacher {
                name: info.teacher.name.clone(),
                weights_sha256: info.teacher.weights_sha256.clone(),
            },
        }
    }
}

/// What is loaded
///
/// The models that can be named in a request, what each can do, and the limits and defaults of this server.
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "list_models",
    security(("ApiKey" = ["use"]), ("ApiKey" = ["models"])),
    tag = "models",
    responses((status = 200, description = "The loaded models.", body = ModelList), KeyProblems),
)]
pub(super) async fn list_models(State(state): State<AppState>) -> Json<ModelList> {
    let defaults = &state.engine.settings().defaults;
    let models = state.engine.models();
    let models = models.iter().map(|(info, ready)| Model::new(info, *ready, defaults));
    Json(ModelList {
        models: models.collect(),
        limits: Limits::new(&state),
        defaults: Defaults::from(defaults),
    })
}
