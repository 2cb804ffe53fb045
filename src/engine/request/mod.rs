//! A request and its result, as plain data.

mod field_error;
mod fields;
mod whole_image;

use std::time::Duration;

use bytes::Bytes;

use super::Stage;
use super::budget::HeldBytes;
use super::cost::CostError;
use super::model_state::ModelState;
use crate::dense::DenseError;
use crate::image::{DecodeError, InputTooLarge, Orientation, Resize};
use crate::label_map::{ClassStatistics, EncodedLabelMap, LabelMapFormat};
use crate::shared::SharedError;
use crate::support::excerpt;
use crate::vocabulary::ClassList;
use crate::vocabulary::{ClassListAdvice, TooManyWaiting, VocabularyError};

pub use field_error::{ExceededLimit, Field, FieldError, LimitValue};
pub use fields::{
    BackgroundFields, BackgroundNames, FeatureFields, KeySmoothingFields, SegmentFields, SegmentOptions, Surroundings,
    VocabularyChoice, WindowFields,
};
pub use whole_image::{ClassScore, Classification, EmbedError, EmbedInput, EmbedRequest, Embeddings};

/// A request to label one image.
#[derive(Debug, Clone)]
pub struct SegmentRequest {
    /// The image.
    pub image: ImageSource,
    /// The fields that the caller names. The engine fills in the others.
    pub fields: SegmentFields,
}

/// The image of a request: sent along, or held by the server.
#[derive(Debug, Clone)]
pub enum ImageSource {
    /// The encoded image (JPEG, PNG, ...), not decoded yet.
    Upload(Bytes),
    /// The id of a held image, see [`Engine::hold_image`](super::Engine::hold_image).
    Held(String),
}

/// How an image becomes the model's input.
#[derive(Debug, Clone, PartialEq)]
pub struct InputOptions {
    /// Short side of the model's input in pixels; `None` for the model's own.
    pub short_side: Option<u32>,
    /// Factors on the short side: at least one, each above 0. The image is scored at each of these sizes.
    pub scales: Vec<f64>,
    /// How the image is resized to the model's input.
    pub resize: Resize,
    /// How the image's pixels are turned.
    pub orientation: Orientation,
}

/// A request to hold one image with its features for later requests.
#[derive(Debug, Clone)]
pub struct ImageRequest {
    /// The encoded image (JPEG, PNG, ...), not decoded yet.
    pub image: Bytes,
    /// The fields that the caller names. The engine fills in the others.
    pub fields: FeatureFields,
}

/// The result of holding an image.
#[derive(Debug, Clone)]
pub struct HeldImage {
    /// The id by which requests name the image. It is random, so only those who are told can know it.
    pub id: String,
    /// Name of the model that computed the features.
    pub model: String,
    /// Width of the image in pixels, after orientation.
    pub width: u32,
    /// Height of the image in pixels, after orientation.
    pub height: u32,
    /// How long the image is held from now on, unless other images need the room.
    pub expires_in: Duration,
    /// SHA-256 of the image's bytes in lower-case hexadecimal digits.
    pub image_sha256: String,
    /// Whether other replicas know the image, too; `None` where nothing is shared.
    pub is_shared: Option<bool>,
    /// Whether the features were cached already, so that the model did no work.
    pub features_cached: bool,
    /// Seconds that each stage took.
    pub timings: Timings,
}

/// A request to compare a held image with one of its points.
#[derive(Debug, Clone)]
pub struct SimilarityRequest {
    /// The image's id.
    pub image_id: String,
    /// The point in pixels from the left and the top edge, after orientation.
    pub point: (f64, f64),
    /// The fields that the caller names. The engine fills in the others.
    pub fields: FeatureFields,
}

/// How alike the cells of an image are to one of its points.
#[derive(Debug, Clone)]
pub struct Similarity {
    /// Name of the model that computed the features.
    pub model: String,
    /// Width of the image in pixels, after orientation.
    pub width: u32,
    /// Height of the image in pixels, after orientation.
    pub height: u32,
    /// Cells from left to right.
    pub columns: u32,
    /// Cells from top to bottom.
    pub rows: u32,
    /// SHA-256 of the image's bytes in lower-case hexadecimal digits.
    pub image_sha256: Option<String>,
    /// The cosine of each cell's feature with the point's, as an 8-bit grey PNG with a pixel for each cell.
    pub map: Vec<u8>,
    /// The cosines for which the values 0 and 255 stand. Those between are spread evenly.
    pub range: [f32; 2],
    /// Whether the features were cached already, so that the model did not compute them.
    pub features_cached: bool,
    /// Seconds that each stage took.
    pub timings: Timings,
}

/// The options that decide which pixels belong to no class.
#[derive(Debug, Clone, PartialEq)]
pub struct Background {
    /// Names that compete with the classes; where one wins, the pixel is background. Empty for no names, `None` for
    /// those of the vocabulary's definition.
    pub names: Option<Vec<String>>,
    /// A pixel whose best class probability is below this is background, 0 to 1; 0 turns the threshold off.
    pub threshold: f32,
    /// A class that covers at most this share of the foreground is dropped, 0 to 1; 0 keeps all classes. The pixels of
    /// a dropped class get the next best class, or become background.
    pub area: f64,
}

/// How the result is encoded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutputOptions {
    /// The format of the label map.
    pub label_map: LabelMapFormat,
    /// Further formats in which the result has the label map, too.
    pub label_maps: Vec<LabelMapFormat>,
    /// The classes of which the result includes a probability map (8-bit grey PNG).
    pub probability_maps: ProbabilityMaps,
    /// Whether the result includes a confidence map (8-bit grey PNG).
    pub confidence_map: bool,
    /// Whether the result says which colour means which class.
    pub legend: bool,
}

impl OutputOptions {
    /// Returns all formats of the label map.
    pub fn formats(&self) -> impl Iterator<Item = LabelMapFormat> {
        [self.label_map].into_iter().chain(self.label_maps.iter().copied())
    }
}

/// The classes of which a result includes a probability map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ProbabilityMaps {
    /// None of them.
    #[default]
    None,
    /// All of them.
    All,
    /// Those that are called so.
    Named(Vec<String>),
}

impl ProbabilityMaps {
    /// Returns the ids of the classes, in ascending order and each once.
    ///
    /// # Errors
    /// [`FieldError::UnknownClass`] for a name that is none of the classes.
    pub(in crate::engine) fn of(&self, list: &ClassList) -> Result<Vec<u16>, FieldError> {
        let mut ids = match self {
            Self::None => Vec::new(),
            Self::All => (0..).take(list.classes().len()).collect(),
            Self::Named(names) => {
                let id = |(index, name): (usize, &String)| {
                    let unknown = || FieldError::UnknownClass {
                        index,
                        name: name.clone(),
                    };
                    list.class_called(name).ok_or_else(unknown)
                };
                names.iter().enumerate().map(id).collect::<Result<Vec<_>, _>>()?
            }
        };
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}

/// A labelled image.
#[derive(Debug, Clone)]
pub struct Segmentation {
    /// Name of the model that answered.
    pub model: String,
    /// Width of the image in pixels, after orientation.
    pub width: u32,
    /// Height of the image in pixels, after orientation.
    pub height: u32,
    /// Id of the class list with its templates and background. Equal lists have equal ids.
    pub vocabulary_id: String,
    /// Number of texts in the class list. All of them have embeddings now.
    pub vocabulary_texts: usize,
    /// One entry per class, in the order of the request.
    pub classes: Vec<ClassResult>,
    /// The label map.
    pub label_map: EncodedLabelMap,
    /// The same label map in the further formats that the request asked for.
    pub label_maps: Vec<EncodedLabelMap>,
    /// Which colour means which class, in the form of CVAT's `labelmap.txt`, if the request asked for it.
    pub legend: Option<String>,
    /// The confidence map if the request asked for it: 255 times the probability of each pixel's own label, as an 8-bit
    /// grey PNG.
    pub confidence_map: Option<Vec<u8>>,
    /// The probability maps that the request asked for, by ascending class id: 255 times the probability of the class in
    /// each pixel, as an 8-bit grey PNG.
    pub probability_maps: Vec<(u16, Vec<u8>)>,
    /// Warnings for the caller.
    pub warnings: Vec<Warning>,
    /// Whether the image's features were cached already, so that the model did not compute them.
    pub features_cached: bool,
    /// SHA-256 of the image's bytes in lower-case hexadecimal digits; `None` where no features are kept, and the image was
    /// sent along.
    pub image_sha256: Option<String>,
    /// Seconds that each stage took.
    pub timings: Timings,
    /// The bytes of `engine.work_bytes` that the result takes, free once the last clone is dropped.
    pub held_bytes: HeldBytes,
}

/// The result for one class.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassResult {
    /// The class's name, as given.
    pub name: String,
    /// The colour of the class in the label map's palette.
    pub color: [u8; 3],
    /// Statistics of the class in the label map.
    pub statistics: ClassStatistics,
    /// Largest raw cosine of the class in any cell, -1 to 1.
    pub similarity: f32,
    /// The probability of the class in the image as a whole, relative to the class list, 0 to 1. It comes from CLIP's
    /// pooled feature, or from the mean feature of a student.
    pub image_probability: f32,
}

/// A warning that comes with a result: a stable code and a text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The kind of warning. A code never changes its meaning.
    pub code: WarningCode,
    /// What the warning means for this request.
    pub message: String,
}

impl From<ClassListAdvice> for Warning {
    fn from(advice: ClassListAdvice) -> Self {
        let code = match &advice {
            ClassListAdvice::SingleClass { .. } => WarningCode::SingleClass,
            ClassListAdvice::NoBackground => WarningCode::NoBackground,
            ClassListAdvice::Duplicate { .. } => WarningCode::DuplicateClass,
            ClassListAdvice::CommasInOnlyName { .. } => WarningCode::CommasInName,
            ClassListAdvice::NumberedNames { .. } => WarningCode::NumberedNames,
            ClassListAdvice::SignsInNames { .. } => WarningCode::SignsInNames,
            ClassListAdvice::UnknownWords { .. } => WarningCode::UnknownWord,
            ClassListAdvice::TextTruncated { .. } => WarningCode::TextTruncated,
        };
        Self {
            code,
            message: advice.to_string(),
        }
    }
}

/// The kind of a [`Warning`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::VariantArray, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[non_exhaustive]
pub enum WarningCode {
    /// The list has one class and no background, so every pixel gets this class with probability 1.
    SingleClass,
    /// No class covers the surroundings of the others, and the request neither asked for a background nor declined it.
    NoBackground,
    /// A name or synonym is listed twice.
    DuplicateClass,
    /// The only class, or the only background name, has commas in it.
    CommasInName,
    /// Names begin with numbers, as in a numbered list.
    NumberedNames,
    /// Names have signs around them that lists in JSON, CSV, YAML or a label map have.
    SignsInNames,
    /// A class has words that do not occur in the model's training captions.
    UnknownWord,
    /// A name is too long for the model and lost its end.
    TextTruncated,
    /// Prompt denoising would have dropped every class, so it was not applied.
    DenoisingDroppedAll,
}

impl WarningCode {
    /// Returns the code as it stands in replies.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Seconds that each stage took, 0 for a stage that was not needed. The metrics use the same names.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timings {
    /// Seconds of waiting for a worker.
    pub queue_seconds: f64,
    /// Seconds of decoding the image's bytes to pixels.
    pub decode_seconds: f64,
    /// Seconds of resizing and normalising the pixels.
    pub preprocess_seconds: f64,
    /// Seconds of computing the text embeddings that were not cached.
    pub text_seconds: f64,
    /// Seconds of running the visual tower and computing the scores.
    pub model_seconds: f64,
    /// Seconds of turning scores into labels at the image's size.
    pub label_map_seconds: f64,
    /// Seconds of encoding the label map, the confidence map and the probability maps.
    pub encode_seconds: f64,
}

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// A field is missing, out of its range, or contradicts another field.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The image was refused.
    #[error(transparent)]
    Image(#[from] DecodeError),
    /// The vocabulary was refused or does not exist.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    /// The model's input would be too large.
    #[error(transparent)]
    InputTooLarge(#[from] InputTooLarge),
    /// The request would cost the model too much work.
    #[error(transparent)]
    Cost(#[from] CostError),
    /// The attention is not defined on the model's input for this image.
    #[error(transparent)]
    UnsuitableInput(#[from] DenseError),
    /// The request names a model that is not served.
    #[error("no model is called {:?}; there {}", excerpt(asked), list(served))]
    UnknownModel {
        /// The name in the request.
        asked: String,
        /// The names of the served models.
        served: Vec<String>,
    },
    /// The model does not support an option of the request. The text says what it does support.
    #[error("{0}")]
    Unsupported(String),
    /// No image is held under the id: it never existed, has expired, was deleted, or made room for others.
    #[error(
        "no image is held under this id: there never was one, or it has expired, been deleted, or made room for others, or the \
         replica that holds it cannot be asked; send the image again"
    )]
    ImageNotHeld,
    /// What was dropped here may still be held by other replicas, which cannot be told now.
    #[error("the image is dropped on this replica; others may hold it until it expires, because {0}")]
    NotShared(SharedError),
    /// The image alone needs more bytes than all held images may have.
    #[error("holding the image takes {bytes} bytes, more than images.held_bytes = {limit}")]
    ImageTooLargeToHold {
        /// Bytes that the image would need.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The engine holds as many requests as it may.
    #[error("the engine holds {capacity} requests already, as many as engine.queue_capacity allows")]
    Overloaded {
        /// Number of requests that the engine can hold.
        capacity: usize,
        /// Seconds after which a repeat is worth a try, at least 1.
        retry_seconds: u64,
    },
    /// The caller's requests take the caller's share of the slots.
    #[error(
        "{held} requests of this key wait or run; no key may have more than are left for all, of engine.queue_capacity = \
         {capacity}"
    )]
    ShareTaken {
        /// Requests of the caller that the engine holds.
        held: usize,
        /// Number of requests that the engine can hold.
        capacity: usize,
        /// Seconds after which a repeat is worth a try, at least 1.
        retry_seconds: u64,
    },
    /// There is no room for the request's body.
    #[error("the bodies of all requests together would have more than engine.body_bytes = {limit} bytes")]
    BodyBytes {
        /// The limit in bytes.
        limit: u64,
    },
    /// More texts would wait to be embedded than may.
    #[error("{error}")]
    TooManyTexts {
        /// How many texts there are, and the limit.
        error: TooManyWaiting,
        /// Seconds after which a repeat is worth a try, at least 1.
        retry_seconds: u64,
    },
    /// By the measured times of the model, the request's new texts cannot be embedded before its deadline.
    #[error(
        "embedding {texts} new texts takes about {seconds:.1} s, and the deadline leaves {left:.1} s; define a vocabulary of \
         them first, or name a longer deadline_seconds"
    )]
    TooManyNewTexts {
        /// The number of new texts.
        texts: usize,
        /// Seconds that embedding them takes.
        seconds: f64,
        /// Seconds until the deadline.
        left: f64,
    },
    /// By the measured times of the model, it cannot do the request's work before the deadline.
    #[error(
        "the model takes about {seconds:.1} s for this request, and the deadline leaves {left:.1} s; a smaller image, fewer \
         classes or no refinement take less, or name a longer deadline_seconds"
    )]
    TooMuchWork {
        /// Seconds that the model takes.
        seconds: f64,
        /// Seconds until the deadline.
        left: f64,
    },
    /// By the measured times of the model, the request would not get its turn before its deadline.
    #[error("the work ahead of this request takes about {seconds:.1} s, and the deadline leaves {left:.1} s")]
    TooBusy {
        /// Seconds until the request would be answered.
        seconds: f64,
        /// Seconds until the deadline.
        left: f64,
        /// Seconds after which a repeat is worth a try, at least 1.
        retry_seconds: u64,
    },
    /// The deadline passed first. Text embeddings that were computed by then are kept.
    #[error("the deadline passed after {seconds} s in stage {stage}")]
    DeadlineExceeded {
        /// Seconds since the engine took the request.
        seconds: f64,
        /// The stage that the request was in.
        stage: &'static str,
    },
    /// The server is shutting down.
    #[error("{0}")]
    Unavailable(&'static str),
    /// No worker has the model. Other models may answer.
    #[error("{}", model_unavailable(model, *state, *next_attempt))]
    ModelUnavailable {
        /// The model's name in requests.
        model: String,
        /// The model's state.
        state: ModelState,
        /// How long until the next attempt to load the model. Zero while it is being loaded.
        next_attempt: Duration,
    },
    /// An internal failure. The log has the details.
    #[error("internal error: {0}")]
    Internal(String),
}

fn model_unavailable(model: &str, state: ModelState, next_attempt: Duration) -> String {
    match state {
        ModelState::Starting => format!("the model {model} is being loaded"),
        ModelState::Ready | ModelState::Recovering => {
            format!("the model {model} is being loaded again after a failure")
        }
        ModelState::Failed => format!(
            "the model {model} cannot be loaded; the next attempt is in {:.1} s",
            next_attempt.as_secs_f64()
        ),
    }
}

/// Returns "is demo" for one name, "are demo, fruit" for several.
fn list(names: &[String]) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{verb} {}", names.join(", "))
}

impl Timings {
    /// Records the time that one stage took.
    pub(in crate::engine) fn set(&mut self, stage: Stage, elapsed: Duration) {
        let seconds = match stage {
            Stage::Decode => &mut self.decode_seconds,
            Stage::Preprocess => &mut self.preprocess_seconds,
            Stage::Text => &mut self.text_seconds,
            Stage::Queue => &mut self.queue_seconds,
            Stage::Model => &mut self.model_seconds,
            Stage::LabelMap => &mut self.label_map_seconds,
            Stage::Encode => &mut self.encode_seconds,
        };
        *seconds = elapsed.as_secs_f64();
    }
}
