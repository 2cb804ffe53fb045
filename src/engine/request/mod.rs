//! A request and its result as plain data.

mod fields;

use std::time::Duration;

use bytes::Bytes;

use super::Stage;
use super::cost::CostError;
use crate::dense::DenseError;
use crate::image::{DecodeError, InputTooLarge, Resize};
use crate::label_map::{ClassStatistics, EncodedLabelMap, LabelMapFormat};
use crate::vocabulary::{ClassListAdvice, VocabularyError};

pub use fields::{
    BackgroundFields, BackgroundNames, ExceededLimit, FeatureFields, Field, FieldError, KeySmoothingFields, LimitValue,
    SegmentFields, SegmentOptions, Surroundings, VocabularyChoice, WindowFields,
};

/// One image to be labelled, and what its caller says of how.
#[derive(Debug, Clone)]
pub struct SegmentRequest {
    /// The image.
    pub image: ImageSource,
    /// The fields that the caller names; the engine fills in the others.
    pub fields: SegmentFields,
}

/// An image given with the request, or one that is held.
#[derive(Debug, Clone)]
pub enum ImageSource {
    /// The encoded image (JPEG, PNG, ...), not yet looked at.
    Upload(Bytes),
    /// The id under which an image is held, see [`Engine::hold_image`](super::Engine::hold_image).
    Held(String),
}

/// How an image becomes the model's input.
#[derive(Debug, Clone, PartialEq)]
pub struct InputOptions {
    /// Short side of the model's input in pixels; `None` for the model's own.
    pub short_side: Option<u32>,
    /// Factors on the short side: the image is scored at each of these sizes. At least one, each above 0.
    pub scales: Vec<f64>,
    /// How the image comes to that size.
    pub resize: Resize,
}

/// One image to be held for requests to come, with its features.
#[derive(Debug, Clone)]
pub struct ImageRequest {
    /// The encoded image (JPEG, PNG, ...), not yet looked at.
    pub image: Bytes,
    /// The fields that the caller names; the engine fills in the others.
    pub fields: FeatureFields,
}

/// An image that is held.
#[derive(Debug, Clone)]
pub struct HeldImage {
    /// What requests call it: random, known to nobody but whom it is given to.
    pub id: String,
    /// Name of the model that looked at it.
    pub model: String,
    /// Width of the image in pixels, after orientation.
    pub width: u32,
    /// Height of the image in pixels, after orientation.
    pub height: u32,
    /// How long it is held from now on, unless others need the room.
    pub expires_in: Duration,
    /// Whether the features were held already, so that the model did not look at the image.
    pub features_cached: bool,
    /// Where the time went.
    pub timings: Timings,
}

/// Pixels that belong to none of the classes.
#[derive(Debug, Clone, PartialEq)]
pub struct Background {
    /// Names that compete with the classes and win for the background; empty for none, `None` for
    /// those of the vocabulary's definition.
    pub names: Option<Vec<String>>,
    /// A pixel whose best class probability is below this is background, 0 to 1; 0 for none.
    pub threshold: f32,
    /// A class that covers at most this share of the pixels that have a class is nowhere, 0 to 1; 0 for none. Its pixels
    /// get the next best, or are background.
    pub area: f64,
}

/// How the result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutputOptions {
    /// Form of the label map.
    pub label_map: LabelMapFormat,
    /// Whether a confidence map (8-bit grey PNG) comes along.
    pub confidence_map: bool,
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
    /// Identifier of the class list with its templates and background: equal lists, equal id.
    pub vocabulary_id: String,
    /// Texts of the class list, all embedded by now.
    pub vocabulary_texts: usize,
    /// One entry per class, in request order.
    pub classes: Vec<ClassResult>,
    /// The label map.
    pub label_map: EncodedLabelMap,
    /// Probability of each pixel's own label times 255 as an 8-bit grey PNG, when asked for.
    pub confidence_map: Option<Vec<u8>>,
    /// What the caller should know.
    pub warnings: Vec<Warning>,
    /// Whether the image's features were held already, so that the model did not look at it.
    pub features_cached: bool,
    /// Where the time went.
    pub timings: Timings,
}

/// What the result says of one class.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassResult {
    /// The name, as given.
    pub name: String,
    /// What the label map says.
    pub statistics: ClassStatistics,
    /// Best raw cosine anywhere on the grid, -1 to 1.
    pub similarity: f32,
    /// The model's image-level probability, relative to the class list, 0 to 1: CLIP's own, or that of a student's mean feature.
    pub image_probability: f32,
}

/// Advice that comes with a result: a stable code and words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// One of the codes below; never changes its meaning.
    pub code: WarningCode,
    /// What it means for this request.
    pub message: String,
}

impl From<ClassListAdvice> for Warning {
    fn from(advice: ClassListAdvice) -> Self {
        let code = match &advice {
            ClassListAdvice::SingleClass { .. } => WarningCode::SingleClass,
            ClassListAdvice::NoBackground => WarningCode::NoBackground,
            ClassListAdvice::Duplicate { .. } => WarningCode::DuplicateClass,
            ClassListAdvice::UnknownWords { .. } => WarningCode::UnknownWord,
            ClassListAdvice::TextTruncated { .. } => WarningCode::TextTruncated,
        };
        Self {
            code,
            message: advice.to_string(),
        }
    }
}

/// Kinds of [`Warning`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::VariantArray, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[non_exhaustive]
pub enum WarningCode {
    /// One class and no background: every pixel gets it with probability 1.
    SingleClass,
    /// No class stands for what is around the others, and background was neither asked for nor declined.
    NoBackground,
    /// A class or a synonym stands in the list twice.
    DuplicateClass,
    /// A class has words the model's training captions never had.
    UnknownWord,
    /// A name is longer than the model reads and lost its end.
    TextTruncated,
    /// Prompt denoising dropped every class, so it was not applied.
    DenoisingDroppedAll,
}

impl WarningCode {
    /// The code as it stands in replies.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Seconds per stage, named as the metrics name them; 0 for a stage that was not needed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timings {
    /// Waiting for a worker.
    pub queue_seconds: f64,
    /// Bytes to pixels.
    pub decode_seconds: f64,
    /// Resize and normalisation.
    pub preprocess_seconds: f64,
    /// Text embeddings that were not held yet.
    pub text_seconds: f64,
    /// The visual tower and the scores.
    pub model_seconds: f64,
    /// Scores to labels at image size.
    pub label_map_seconds: f64,
    /// Writing the label map and the confidence map.
    pub encode_seconds: f64,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// A field is missing, out of its range, or does not go with another one.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The image was refused.
    #[error(transparent)]
    Image(#[from] DecodeError),
    /// The vocabulary was refused or is not there.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    /// The model's input would be too large.
    #[error(transparent)]
    InputTooLarge(#[from] InputTooLarge),
    /// The model would have too much to do.
    #[error(transparent)]
    Cost(#[from] CostError),
    /// The attention that was asked for is not defined on the model's input for this image.
    #[error(transparent)]
    UnsuitableInput(#[from] DenseError),
    /// The request names a model that is not served.
    #[error("no model is called {asked:?}; there {}", list(served))]
    UnknownModel {
        /// The name in the request.
        asked: String,
        /// The names of those there are.
        served: Vec<String>,
    },
    /// The model at hand cannot do what was asked; the text says what it can.
    #[error("{0}")]
    Unsupported(String),
    /// No image is held under the id: there never was one, it has expired or been dropped, or others needed the room.
    #[error(
        "no image is held under this id: there never was one, or it has expired, been deleted, or made room for others; send the \
         image again"
    )]
    ImageNotHeld,
    /// The image alone takes more than may be held.
    #[error("holding the image takes {bytes} bytes, more than images.held_bytes = {limit}")]
    ImageTooLargeToHold {
        /// Bytes that it would take.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The queue is full.
    #[error("the engine holds {capacity} requests already, as many as engine.queue_capacity allows")]
    Overloaded {
        /// Requests the engine can hold.
        capacity: usize,
    },
    /// The deadline passed first. Text embeddings go on being computed and are kept.
    #[error("the deadline passed after {seconds} s in stage {stage}")]
    DeadlineExceeded {
        /// Seconds since the request was taken.
        seconds: f64,
        /// The stage it waited for.
        stage: &'static str,
    },
    /// No worker is ready, or the server is going down.
    #[error("{0}")]
    Unavailable(&'static str),
    /// Our fault; the log has the detail.
    #[error("internal error: {0}")]
    Internal(String),
}

/// "is demo", or "are demo, fruit".
fn list(names: &[String]) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{verb} {}", names.join(", "))
}

impl Timings {
    /// Notes the time one stage took.
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
