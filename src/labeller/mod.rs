//! The interface of all models: a trait of a few methods over plain data.
//!
//! This room owns the trait and the description of a model. It knows neither how a model computes nor who calls it.

mod options;

use std::collections::HashSet;
use std::sync::Arc;

use strum::VariantArray;

use crate::dense::{Attention, DenseOptions, FeatureOptions, KeySmoothingMethod, RefinementOptions, ScoreOptions};
use crate::image::{ModelInput, Normalisation};
use crate::scores::{DenseScores, ScoreMap};
use crate::vocabulary::{Class, Classifier, TemplateSet, TextEmbedding, is_background};

pub use options::ModelOptions;

/// A model that scores images against texts. It lives on one worker thread and never leaves it.
pub trait Labeller {
    /// Returns the model's description, which never changes.
    fn info(&self) -> &ModelInfo;

    /// Returns one embedding of [`ModelInfo::embedding_dimension`] floats per text. The model fills each template with
    /// the text, embeds the prompt and scales the result to unit length; the mean over the templates is scaled to unit
    /// length again. Prompts that are too long lose their end, and the embedding's `truncated` says so.
    ///
    /// # Errors
    /// When the model fails. The worker answers the jobs that it holds and goes on.
    fn embed_texts(&mut self, texts: &[String], templates: TemplateSet) -> Result<Vec<TextEmbedding>, LabellerError>;

    /// Returns the features of each image, in the order of `inputs`. Features are everything that does not depend on
    /// the texts. All inputs must have the same sizes. May share passes. Each result equals that of a separate pass up
    /// to rounding. `stop` is asked between the steps of the work.
    ///
    /// # Errors
    /// When the model fails on any image, and [`LabellerError::Stopped`] when `stop` returns true. The worker answers the
    /// jobs that it holds and goes on.
    fn features(
        &mut self,
        inputs: &[&ModelInput],
        options: &FeatureOptions,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<Arc<dyn ImageFeatures>>, LabellerError>;

    /// Refines the scores of an image by the image's colours. Returns scores on one grid, with up to one cell per pixel
    /// of the image. Without a refinement the scores come back unchanged. `stop` is asked between the steps of the work.
    ///
    /// # Errors
    /// When the model fails, and [`LabellerError::Stopped`] when `stop` returns true. The worker answers the jobs that it
    /// holds and goes on.
    fn refine(
        &mut self,
        scores: ScoreMap,
        input: &ModelInput,
        classifier: &Classifier,
        options: &RefinementOptions,
        stop: &dyn Fn() -> bool,
    ) -> Result<ScoreMap, LabellerError>;

    /// Returns the refined scores of one image. Keeps nothing of the image.
    ///
    /// # Errors
    /// When the model fails. The worker answers the jobs that it holds and goes on.
    fn score(
        &mut self,
        input: &ModelInput,
        classifier: &Classifier,
        options: &DenseOptions,
    ) -> Result<DenseScores, LabellerError> {
        let features = self.features(&[input], &options.features, &|| false)?.remove(0);
        let mut scores = features.score(classifier, &options.scoring, &|| false)?;
        scores.map = self.refine(scores.map, input, classifier, &options.refinement, &|| false)?;
        Ok(scores)
    }
}

/// The features that a model computed from one image. Any worker thread of that model may use them.
pub trait ImageFeatures: Send + Sync {
    /// Returns the bytes of memory that the features take.
    fn bytes(&self) -> usize;

    /// Scores the features against texts. Returns one grid of scores per size, over the whole input or over all
    /// windows. `stop` is asked between the steps of the work.
    ///
    /// # Errors
    /// When key smoothing needs keys that the features do not contain, when the model fails, and
    /// [`LabellerError::Stopped`] when `stop` returns true.
    fn score(
        &self,
        classifier: &Classifier,
        options: &ScoreOptions,
        stop: &dyn Fn() -> bool,
    ) -> Result<DenseScores, LabellerError>;

    /// Returns the cosines of all cells with the cell at a place, given as shares of the image's width and height, 0 to
    /// below 1. That cell is the one at the first size, in the window in which the place is nearest the middle. The score
    /// map has one query. Of an attention with two passes, the features of the first are compared.
    ///
    /// # Errors
    /// When the model fails.
    fn similar_to(&self, place: (f64, f64)) -> Result<ScoreMap, LabellerError>;

    /// Returns the feature of the whole image at its first size, of unit length: CLIP's own image embedding where the
    /// size is [`ModelInfo::training_side`] in square.
    ///
    /// # Errors
    /// When the model fails, or the image was seen through windows.
    fn pooled(&self) -> Result<Vec<f32>, LabellerError>;
}

/// Why a model could not answer. Requests with errors of their own are refused before they reach the model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabellerError {
    /// The model cannot be loaded.
    #[error("cannot load {0}")]
    Load(String),
    /// libtorch refused an operation.
    #[error("the model failed: {0}")]
    Model(String),
    /// The work was stopped, because nobody wanted its result any more.
    #[error("the work was stopped before its end")]
    Stopped,
}

/// The scale that OpenAI's models learned, and the largest that CLIP's training allows.
pub const CLIP_TEMPERATURE: f32 = 100.0;

/// The description of a loaded model. Requests are checked against it, and `/v1/models` shows it.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// The model's name in requests.
    pub name: String,
    /// The architecture, for people: "ViT-B/16", "ModifiedResNet (1, 1, 1, 1) width 24", "resnet50 v1c, deeplab-v2".
    pub architecture: String,
    /// SHA-256 of the weights file, lower-case hexadecimal.
    pub weights_sha256: String,
    /// Element type of the model's arithmetic.
    pub precision: Precision,
    /// What the model's own text tower computes otherwise than that of OpenAI's models with the same weights; empty where
    /// nothing, and for a student.
    pub text_variant: String,
    /// The device: "cpu" or "cuda:0".
    pub device: String,
    /// Length of text and image embeddings.
    pub embedding_dimension: usize,
    /// Both sides of the input are multiples of this many pixels: the patch size of a ViT, the stride of a ResNet.
    pub patch_pixels: u32,
    /// What the model is asked with where neither a request nor the settings say.
    pub options: ModelOptions,
    /// Side in pixels of the squares that the model was trained on, and whose embeddings are comparable with those of its
    /// texts; `None` for a student, which embeds no whole images.
    pub training_side: Option<u32>,
    /// Mean and deviation for the normalisation of pixels.
    pub normalisation: Normalisation,
    /// The attentions that the model can compute; empty for a student.
    pub attentions: Vec<Attention>,
    /// Words of the model's training captions, lower case, if its card lists them. Other words cause a warning.
    pub training_words: Option<HashSet<String>>,
    /// Whether the model is compiled into the program.
    pub embedded: bool,
    /// How a student was trained; `None` for a CLIP.
    pub student: Option<StudentInfo>,
}

impl ModelInfo {
    /// Returns the kind of the model.
    pub fn kind(&self) -> ModelKind {
        match self.student {
            None => ModelKind::Clip,
            Some(_) => ModelKind::Student,
        }
    }

    /// Returns the text tower that embeds the model's texts: its own, or its teacher's for a student.
    pub fn text_tower(&self) -> TextTowerInfo<'_> {
        match &self.student {
            None => TextTowerInfo {
                weights_sha256: &self.weights_sha256,
                precision: self.precision,
                variant: &self.text_variant,
            },
            Some(StudentInfo { teacher, .. }) => TextTowerInfo {
                weights_sha256: &teacher.weights_sha256,
                precision: teacher.precision,
                variant: &teacher.text_variant,
            },
        }
    }

    /// Returns whether the model's own weights embed the text instead of the text tower. A student with a learned
    /// background does so for the text "background", in any spelling that counts as this text.
    pub fn has_own_embedding(&self, text: &str) -> bool {
        let learned = self.student.as_ref().is_some_and(|student| student.learned_background);
        learned && is_background(text)
    }
}

/// What determines the embeddings that a text tower computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextTowerInfo<'a> {
    /// SHA-256 of the weights, lower-case hexadecimal.
    pub weights_sha256: &'a str,
    /// Element type of the tower's arithmetic.
    pub precision: Precision,
    /// What the tower computes otherwise than that of OpenAI's models with the same weights; empty where nothing.
    pub variant: &'a str,
}

/// How a student was trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudentInfo {
    /// The classes that the student was trained on.
    pub classes: Vec<Class>,
    /// The background names that the student was trained on.
    pub background: Vec<String>,
    /// Name of the prompt templates that the texts were put into.
    pub templates: String,
    /// Whether the student learned its own embedding for the text "background".
    pub learned_background: bool,
    /// The teacher, whose labels the student learned from and whose text tower it uses.
    pub teacher: TeacherInfo,
}

/// The teacher of a student.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeacherInfo {
    /// The model's name.
    pub name: String,
    /// SHA-256 of its weights, lower-case hexadecimal.
    pub weights_sha256: String,
    /// Element type in which the teacher's text tower computes in this process.
    pub precision: Precision,
    /// What the teacher's text tower computes otherwise than that of OpenAI's models with the same weights; empty where
    /// nothing.
    pub text_variant: String,
}

/// The kind of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelKind {
    /// CLIP, made dense by MaskCLIP or one of its successors.
    Clip,
    /// A segmentation network that `maskclip train` has trained (MaskCLIP+).
    Student,
}

impl ModelKind {
    /// Returns the default factor on cosines, or on a student's products, before the softmax. `setting` is the one for
    /// CLIP in the settings, 0 for the model's `own`. A student always has its own.
    pub fn temperature(self, setting: f32, own: f32) -> f32 {
        match self {
            Self::Clip if setting > 0.0 => setting,
            Self::Clip | Self::Student => own,
        }
    }

    /// Returns the key smoothing methods that models of this kind support.
    pub fn key_smoothings(self) -> &'static [KeySmoothingMethod] {
        match self {
            Self::Clip => KeySmoothingMethod::VARIANTS,
            Self::Student => &[KeySmoothingMethod::None],
        }
    }
}

/// Element type of a model's arithmetic.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr, strum::VariantArray, strum::VariantNames,
)]
#[strum(serialize_all = "kebab-case")]
pub enum Precision {
    /// 32-bit floats.
    Float32,
    /// 16-bit floats with the range of float32.
    Bfloat16,
    /// IEEE 16-bit floats, on CUDA only.
    Float16,
}

impl Precision {
    /// Returns the name in configuration, replies and metrics.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Creates a model. Each worker calls it on its own thread, and again after a panic.
pub type LabellerFactory = Arc<dyn Fn() -> Result<Box<dyn Labeller>, LabellerError> + Send + Sync>;

/// A model to serve.
#[derive(Clone)]
pub struct ServedModel {
    /// The model's name in requests. No two models have the same name.
    pub name: String,
    /// The kind of the model, known before it is loaded.
    pub kind: ModelKind,
    /// Creates the model on each worker's thread.
    pub factory: LabellerFactory,
    /// Returns how many tokens the model's text tower reads of a text, the first and the last included.
    pub count_tokens: fn(&str) -> usize,
}
