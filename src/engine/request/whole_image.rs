//! Requests about whole images and texts, and their results, as plain data.

use std::sync::Arc;

use bytes::Bytes;

use super::fields::{Surroundings, VocabularyChoice, temperature};
use super::{EngineError, FieldError, HeldBytes, ImageSource, Timings, Warning};
use crate::engine::CostError;
use crate::image::Orientation;
use crate::vocabulary::{Synonyms, TemplateSet, VocabularyOptions};

/// A request for embeddings.
#[derive(Debug, Clone)]
pub struct EmbedRequest {
    /// What to embed, in the order of the result. Images are turned as EXIF says.
    pub inputs: Vec<EmbedInput>,
    /// The name of the model that must answer; `None` for the first model.
    pub model: Option<String>,
    /// Seconds after which the caller no longer needs the answer.
    pub deadline_seconds: Option<f64>,
}

/// Something to embed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmbedInput {
    /// A text, which no prompt template is put around.
    Text(String),
    /// An encoded image (JPEG, PNG, ...), not decoded yet.
    Image(Bytes),
}

/// The embeddings of texts and images in one space.
#[derive(Debug, Clone)]
pub struct Embeddings {
    /// Name of the model that answered.
    pub model: String,
    /// One vector for each input, in their order. Each has unit length, except for a text that a student learned.
    pub vectors: Vec<Arc<[f32]>>,
    /// Tokens of all texts, those included that begin and end a text.
    pub tokens: usize,
    /// Whether a text was too long for the model and lost its end.
    pub truncated: bool,
    /// The bytes of `engine.work_bytes` that the result takes, free once the last clone is dropped.
    pub held_bytes: HeldBytes,
}

/// Why a request for embeddings has no result.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct EmbedError {
    /// The index of the input at fault, if one of them is.
    pub input: Option<usize>,
    /// What is wrong.
    #[source]
    pub error: EngineError,
}

impl EmbedError {
    /// An error that one input has caused.
    pub(in crate::engine) fn of_input(index: usize, error: EngineError) -> Self {
        Self {
            input: Some(index),
            error,
        }
    }
}

impl From<EngineError> for EmbedError {
    fn from(error: EngineError) -> Self {
        Self { input: None, error }
    }
}

impl From<CostError> for EmbedError {
    fn from(error: CostError) -> Self {
        EngineError::from(error).into()
    }
}

/// A request to say which classes an image shows as a whole.
#[derive(Debug, Clone)]
pub struct ClassifyRequest {
    /// The image.
    pub image: ImageSource,
    /// The classes to choose from, and the fields that the caller names. The engine fills in the others.
    pub fields: ClassifyFields,
}

/// The classes to choose from, and how the image is compared with them. `None` means that the caller did not name the
/// field.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassifyFields {
    /// The name of the model that must answer; `None` for the first model.
    pub model: Option<String>,
    /// The classes to choose from. Background names do not compete with them.
    pub vocabulary: VocabularyChoice,
    /// The set of prompt templates that texts are put into.
    pub templates: Option<TemplateSet>,
    /// How the scores of a class's synonyms are combined.
    pub synonyms: Option<Synonyms>,
    /// Factor on cosines before the softmax, above 0 and at most [`MAX_TEMPERATURE`](crate::dense::MAX_TEMPERATURE).
    pub temperature: Option<f32>,
    /// How the image's pixels are turned. By default as EXIF says.
    pub orientation: Option<Orientation>,
    /// Seconds after which the caller no longer needs the answer.
    pub deadline_seconds: Option<f64>,
}

/// A resolved request to classify: all options except the image and the classes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::engine) struct ClassifyOptions {
    /// The set of prompt templates that texts are put into.
    pub(in crate::engine) templates: TemplateSet,
    /// How the scores of a class's synonyms are combined.
    pub(in crate::engine) synonyms: Synonyms,
    /// Factor on cosines before the softmax.
    pub(in crate::engine) temperature: f32,
    /// How the image's pixels are turned.
    pub(in crate::engine) orientation: Orientation,
}

impl ClassifyFields {
    /// Checks every value against its range and fills in the fields left out: from the options of the vocabulary, else
    /// from the settings, else from the model.
    ///
    /// # Errors
    /// [`FieldError::OutOfRange`] when a value is refused.
    pub(in crate::engine) fn resolve(
        &self,
        surroundings: Surroundings<'_>,
        vocabulary: &VocabularyOptions,
    ) -> Result<ClassifyOptions, FieldError> {
        let defaults = surroundings.settings.defaults.with(vocabulary);
        Ok(ClassifyOptions {
            templates: self.templates.unwrap_or(defaults.templates),
            synonyms: self.synonyms.unwrap_or(defaults.synonyms),
            temperature: temperature(self.temperature, surroundings, &defaults)?,
            orientation: self.orientation.unwrap_or_default(),
        })
    }
}

/// The classes that an image shows as a whole.
#[derive(Debug, Clone)]
pub struct Classification {
    /// Name of the model that answered.
    pub model: String,
    /// Width of the image in pixels, after orientation.
    pub width: u32,
    /// Height of the image in pixels, after orientation.
    pub height: u32,
    /// Id of the class list with its templates. Equal lists have equal ids.
    pub vocabulary_id: String,
    /// Number of texts in the class list. All of them have embeddings now.
    pub vocabulary_texts: usize,
    /// One entry per class, in the order of the request.
    pub classes: Vec<ClassScore>,
    /// Warnings for the caller.
    pub warnings: Vec<Warning>,
    /// Seconds that each stage took.
    pub timings: Timings,
    /// The bytes of `engine.work_bytes` that the result takes, free once the last clone is dropped.
    pub held_bytes: HeldBytes,
}

/// How far an image as a whole shows a class.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassScore {
    /// The class's name, as given.
    pub name: String,
    /// The probability of the class, relative to the class list, 0 to 1.
    pub probability: f32,
    /// The raw cosine of the class's text and the image, -1 to 1.
    pub similarity: f32,
}
