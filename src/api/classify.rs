//! `POST /v1/classify`: the classes that an image shows as a whole.

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use super::class_choice::{chosen_vocabulary, note_classes};
use super::error::ApiError;
use super::metered::held_json;
use super::problem::problems;
use super::upload::{self, Upload, UploadBody, image_source};
use super::wire::{
    BodyInForm, ClassBody, EXAMPLE_IMAGE, Orientation, Synonyms, TemplateSet, Timings, VocabularyState, WarningReply,
};
use crate::engine::{Caller, ClassScore, Classification, ClassifyFields, ClassifyRequest};
use crate::support::run_blocking;

/// An image and the classes to choose from. The fields are those of a request to segment. Unknown fields are refused.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassifyBody {
    /// The encoded image (JPEG, PNG, WebP, GIF, BMP or TIFF) as base64 or a base64 data URI. In JSON, either this or
    /// `image_id`; absent in the `request` part of a multipart form. At most `limits.max_image_pixels` pixels.
    #[schema(example = json!(EXAMPLE_IMAGE))]
    pub image: Option<String>,
    /// The id that `POST /v1/images` answered with, in place of the image.
    pub image_id: Option<String>,
    /// The model that must answer, one of `GET /v1/models`; without it, the first of them. Not a student, which sees no
    /// image as a whole.
    #[schema(example = "demo")]
    pub model: Option<String>,
    /// The classes. Either this or `vocabulary`. At most `limits.max_classes`.
    #[schema(min_items = 1, example = json!(["tiger", {"name": "person", "synonyms": ["man", "woman"]}]))]
    pub classes: Option<Vec<ClassBody>>,
    /// The name of a vocabulary that was defined before. Either this or `classes`. Its background names do not count.
    pub vocabulary: Option<String>,
    /// Prompt templates that every name is put into; `defaults.templates` without it.
    pub templates: Option<TemplateSet>,
    /// What the synonyms of a class come to; `defaults.synonyms` without it.
    pub synonyms: Option<Synonyms>,
    /// How the image's pixels are turned; `exif` without it.
    pub orientation: Option<Orientation>,
    /// Factor on cosines before the softmax: more makes probabilities sharper. Without it `defaults.temperature`, which
    /// is the scale that the model learned unless set otherwise.
    #[schema(exclusive_minimum = 0, maximum = 1000)]
    pub temperature: Option<f32>,
    /// Seconds after which the answer is of no use, counted from the arrival of the request's head. At most
    /// `engine.max_deadline_seconds`; `engine.default_deadline_seconds` without it.
    #[schema(exclusive_minimum = 0, example = 30)]
    pub deadline_seconds: Option<f64>,
}

impl ClassifyBody {
    /// The fields as the engine takes them.
    ///
    /// # Errors
    /// When the body has both classes and a vocabulary's name, or neither.
    fn into_fields(self) -> Result<ClassifyFields, ApiError> {
        let vocabulary = chosen_vocabulary(self.classes, self.vocabulary)?;
        let neither = || ApiError::Invalid {
            path: None,
            detail: "one of classes and vocabulary is required".to_owned(),
            limit: None,
        };
        Ok(ClassifyFields {
            model: self.model,
            vocabulary: vocabulary.ok_or_else(neither)?,
            templates: self.templates.map(Into::into),
            synonyms: self.synonyms.map(Into::into),
            temperature: self.temperature,
            orientation: self.orientation.map(Into::into),
            deadline_seconds: self.deadline_seconds,
        })
    }
}

impl UploadBody for ClassifyBody {
    fn take_image(&mut self) -> Option<String> {
        self.image.take()
    }

    fn deadline_seconds(&mut self) -> &mut Option<f64> {
        &mut self.deadline_seconds
    }
}

/// The parts of a multipart request.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes the multipart form in the OpenAPI document")]
pub struct ClassifyForm {
    /// The encoded image: JPEG, PNG, WebP, GIF, BMP or TIFF. Left out where `request` has an `image_id`.
    #[schema(value_type = String, format = Binary, required = false)]
    image: Option<Vec<u8>>,
    /// Everything else, as JSON without `image`.
    request: ClassifyBodyInForm,
    /// `deadline_seconds` of `request`, as a part of its own, and the shorter counts if both are there.
    #[schema(value_type = f64, required = false, exclusive_minimum = 0, example = 30)]
    deadline_seconds: Option<f64>,
}

/// [`ClassifyBody`] as a part of a form.
type ClassifyBodyInForm = BodyInForm<ClassifyBody>;

/// What an image shows as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ClassifyReply {
    /// The model that answered.
    #[schema(example = "demo")]
    pub model: String,
    /// Width of the image in pixels, after orientation.
    #[schema(example = 640)]
    pub width: u32,
    /// Height of the image in pixels, after orientation.
    #[schema(example = 480)]
    pub height: u32,
    /// The class list that was used.
    pub vocabulary: VocabularyState,
    /// One entry per class in request order.
    pub classes: Vec<ClassProbability>,
    /// What the caller should know about this result.
    pub warnings: Vec<WarningReply>,
    /// Where the time went.
    pub timings: Timings,
}

/// How far an image shows a class.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ClassProbability {
    /// Position in the request, from 0.
    #[schema(example = 0)]
    pub id: u16,
    /// The name, as given, without white space around it and without invisible characters.
    #[schema(example = "tiger")]
    pub name: String,
    /// The probability of the class: a softmax over the classes, relative to their list and not calibrated.
    #[schema(minimum = 0, maximum = 1, example = 0.72)]
    pub probability: f32,
    /// The raw cosine between the class's text and the image, -1 to 1. It does not depend on the other classes.
    #[schema(minimum = -1, maximum = 1, example = 0.31)]
    pub similarity: f32,
}

impl TryFrom<Classification> for ClassifyReply {
    type Error = ApiError;

    /// # Errors
    /// [`ApiError::Internal`] when the model gave a number that is not finite: JSON has none.
    fn try_from(found: Classification) -> Result<Self, ApiError> {
        let class = |(score, id): (ClassScore, u16)| {
            let ClassScore {
                name,
                probability,
                similarity,
            } = score;
            if !probability.is_finite() || !similarity.is_finite() {
                let message = format!("class {name:?} has probability {probability} and similarity {similarity}");
                return Err(ApiError::Internal(message));
            }
            Ok(ClassProbability {
                id,
                name,
                probability,
                similarity: similarity.clamp(-1.0, 1.0),
            })
        };
        Ok(Self {
            model: found.model,
            width: found.width,
            height: found.height,
            vocabulary: VocabularyState {
                id: found.vocabulary_id,
                embedded: found.vocabulary_texts,
                total: found.vocabulary_texts,
            },
            // The classes come first: after the last of 65535, no further id is asked for.
            classes: found
                .classes
                .into_iter()
                .zip(0..)
                .map(class)
                .collect::<Result<_, _>>()?,
            warnings: found.warnings.into_iter().map(Into::into).collect(),
            timings: found.timings.into(),
        })
    }
}

/// Classify an image
///
/// Says which of the classes an image shows as a whole: CLIP's zero-shot classification. The image is seen as CLIP was
/// trained, as the square in its middle, and its embedding is compared with those of the classes. A label map, and
/// probabilities of classes within it, are what `POST /v1/segment` is for.
#[utoipa::path(
    post,
    path = "/v1/classify",
    operation_id = "classify",
    security(("ApiKey" = ["use"])),
    tag = "embeddings",
    request_body(
        description = "The image or its `image_id`, and either `classes` or the name of a `vocabulary`; all else is optional.",
        content(
            (ClassifyBody = "application/json", example = json!({"image": EXAMPLE_IMAGE, "classes": ["tiger", "lemon"]})),
            (ClassifyForm = "multipart/form-data"),
        ),
    ),
    responses((status = 200, description = "The classified image.", body = ClassifyReply), ClassifyProblems),
)]
pub(super) async fn classify(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let arrival = state.engine.arrive(&caller)?;
    let Upload { image, body } = upload::read::<ClassifyBody>(request, &state, arrival.body()).await?;
    let mut body = body.ok_or_else(|| ApiError::invalid("request", "the part request is missing"))?;
    let image = image_source(image, body.image_id.take())?;
    let with_names = state.server.log_class_names;
    note_classes(body.vocabulary.as_deref(), body.classes.as_deref(), with_names);
    let fields = body.into_fields()?;
    let found = state
        .engine
        .classify(arrival, ClassifyRequest { image, fields })
        .await?;
    run_blocking(move || {
        let held = found.held_bytes.clone();
        Ok(held_json(&ClassifyReply::try_from(found)?, held))
    })
    .await
}

problems! {
    /// The problems of `POST /v1/classify`.
    ClassifyProblems = Problem.with_key(
        OF_BODY + OF_LABELLING + [VocabularyNotFound, ImageNotHeld, UnsupportedMediaType, UnknownModel, SharedStateUnavailable]
    );
}
