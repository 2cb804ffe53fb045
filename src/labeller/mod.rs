//! What is asked of a model, whatever it is: a few methods over plain data.
//!
//! Owns the trait and what is said of a model. Knows neither how a model computes nor who asks.

use std::collections::HashSet;
use std::sync::Arc;

use strum::VariantArray;

use crate::dense::{Attention, DenseOptions, FeatureOptions, KeySmoothingMethod, RefinementOptions, ScoreOptions};
use crate::image::{ModelInput, Normalisation};
use crate::scores::{DenseScores, ScoreMap};
use crate::vocabulary::{Class, Classifier, TemplateSet, TextEmbedding, is_background};

/// A model that scores images against text. Lives on one worker thread and never leaves it.
pub trait Labeller {
    /// What the model is and can do; the same for as long as it lives.
    fn info(&self) -> &ModelInfo;

    /// Text embeddings, one of [`ModelInfo::embedding_dimension`] floats per text: each template
    /// filled with the text, embedded, scaled to unit length, averaged, scaled again. Prompts that are
    /// too long lose their end, which the text's embedding says.
    ///
    /// # Errors
    /// When the model fails; the worker answers the jobs it holds and goes on.
    fn embed_texts(&mut self, texts: &[String], templates: TemplateSet) -> Result<Vec<TextEmbedding>, LabellerError>;

    /// What the model makes of images whose inputs have the same sizes: whatever does not depend on the texts, in the order of
    /// `inputs`. May share passes. Each result equals that of a separate pass up to rounding.
    ///
    /// # Errors
    /// When the model fails on any of them; the worker answers the jobs it holds and goes on.
    fn features(
        &mut self,
        inputs: &[&ModelInput],
        options: &FeatureOptions,
    ) -> Result<Vec<Arc<dyn ImageFeatures>>, LabellerError>;

    /// Scores of an image, refined by its pixels: on one grid, with up to one cell per pixel of the image. Without a refinement the
    /// scores come back as they are.
    ///
    /// # Errors
    /// When the model fails; the worker answers the jobs it holds and goes on.
    fn refine(
        &mut self,
        scores: ScoreMap,
        input: &ModelInput,
        classifier: &Classifier,
        options: &RefinementOptions,
    ) -> Result<ScoreMap, LabellerError>;

    /// Refined scores of one image, nothing of which is kept.
    ///
    /// # Errors
    /// When the model fails; the worker answers the jobs it holds and goes on.
    fn score(
        &mut self,
        input: &ModelInput,
        classifier: &Classifier,
        options: &DenseOptions,
    ) -> Result<DenseScores, LabellerError> {
        let features = self.features(&[input], &options.features)?.remove(0);
        let mut scores = features.score(classifier, &options.scoring)?;
        scores.map = self.refine(scores.map, input, classifier, &options.refinement)?;
        Ok(scores)
    }
}

/// What a model made of one image. Of use on the threads of that model's workers, on any of them.
pub trait ImageFeatures: Send + Sync {
    /// Bytes of memory they take.
    fn bytes(&self) -> usize;

    /// Scores: for each size on the model's grid or on those of all windows.
    ///
    /// # Errors
    /// When key smoothing needs keys that were not kept with the features, or the model fails.
    fn score(&self, classifier: &Classifier, options: &ScoreOptions) -> Result<DenseScores, LabellerError>;
}

/// Why a model could not answer. Not the request's fault: those are refused before the model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabellerError {
    /// The model cannot be loaded.
    #[error("cannot load {0}")]
    Load(String),
    /// libtorch refused an operation.
    #[error("the model failed: {0}")]
    Model(String),
}

/// A loaded model as plain data: what requests are checked against and `/v1/models` shows.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// The name requests use.
    pub name: String,
    /// For people: "ViT-B/16", "ModifiedResNet (1, 1, 1, 1) width 24", "resnet50 v1c, deeplab-v2".
    pub architecture: String,
    /// SHA-256 of the weights file, lower-case hexadecimal.
    pub weights_sha256: String,
    /// Element type the model computes in.
    pub precision: Precision,
    /// "cpu" or "cuda:0".
    pub device: String,
    /// Length of text and image embeddings.
    pub embedding_dimension: usize,
    /// Sides of the input are whole multiples of this many pixels (patch size, or a ResNet's stride).
    pub patch_pixels: u32,
    /// Short side of the input when a request names none, in pixels.
    pub short_side: u32,
    /// Pixel normalisation.
    pub normalisation: Normalisation,
    /// The attention names this model can compute; none for a student.
    pub attentions: Vec<Attention>,
    /// Words of the training captions, lower case, when the model's card lists them: other words
    /// earn a warning.
    pub training_words: Option<HashSet<String>>,
    /// Whether it is compiled into the program.
    pub embedded: bool,
    /// What a student was made of; none of a CLIP.
    pub student: Option<StudentInfo>,
}

impl ModelInfo {
    /// What kind of model it is.
    pub fn kind(&self) -> ModelKind {
        match self.student {
            None => ModelKind::Clip,
            Some(_) => ModelKind::Student,
        }
    }

    /// Whose text tower embeds its texts, and in which element type: its own, or its teacher's.
    pub fn text_tower(&self) -> (&str, Precision) {
        match &self.student {
            None => (&self.weights_sha256, self.precision),
            Some(student) => (&student.teacher.weights_sha256, student.teacher.precision),
        }
    }

    /// Whether the model has an embedding of its own for a text, which is not the text tower's: a student that learned one
    /// for the background has one for the text "background", however it is written.
    pub fn has_own_embedding(&self, text: &str) -> bool {
        let learned = self.student.as_ref().is_some_and(|student| student.learned_background);
        learned && is_background(text)
    }
}

/// What a student was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudentInfo {
    /// The classes it was trained on.
    pub classes: Vec<Class>,
    /// The names for what is none of them that it was trained on.
    pub background: Vec<String>,
    /// Name of the prompt templates they were put into.
    pub templates: String,
    /// Whether it learned an embedding of its own for the text "background".
    pub learned_background: bool,
    /// Whose labels it learned from, and whose text tower it has.
    pub teacher: TeacherInfo,
}

/// The teacher of a student.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeacherInfo {
    /// The model's name.
    pub name: String,
    /// SHA-256 of its weights, lower-case hexadecimal.
    pub weights_sha256: String,
    /// Element type in which its text tower computes here.
    pub precision: Precision,
}

/// Kinds of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelKind {
    /// CLIP, by MaskCLIP or one of its successors.
    Clip,
    /// A segmentation network that `maskclip train` made (MaskCLIP+).
    Student,
}

impl ModelKind {
    /// Factor on cosines, or a student's products, before the softmax when nobody names one; `clip` is CLIP's. Students are
    /// trained without any (MaskCLIP, section 3.4).
    pub fn temperature(self, clip: f32) -> f32 {
        match self {
            Self::Clip => clip,
            Self::Student => 1.0,
        }
    }

    /// The key smoothing that it can do.
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
    /// 32-bit.
    Float32,
    /// 16-bit with float32's range.
    Bfloat16,
    /// IEEE 16-bit; CUDA only.
    Float16,
}

impl Precision {
    /// The name in configuration, replies and metrics.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Makes a model; called on each worker's own thread, again after a panic.
pub type LabellerFactory = Arc<dyn Fn() -> Result<Box<dyn Labeller>, LabellerError> + Send + Sync>;

/// A model to be served.
#[derive(Clone)]
pub struct ServedModel {
    /// What requests call it; no two have the same.
    pub name: String,
    /// What it is, known before it is loaded.
    pub kind: ModelKind,
    /// Makes it, on each worker's thread.
    pub factory: LabellerFactory,
}
