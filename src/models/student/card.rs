//! A student's card: what the student is, how it was trained, and on what data.
//!
//! This file owns the format of `student.json`. [`training`](crate::training) checks that settings make sense.

use serde::{Deserialize, Serialize};
use strum::{EnumString, VariantNames};
use tch::Kind;

use super::network::NetworkConfig;
use crate::dense::{Attention, DenseOptions, KeySmoothing, KeySmoothingMethod, Refinement, Window};
use crate::image::{Orientation, Resize};
use crate::labeller::ModelInfo;

/// Name of the file with the student's tensors, in the folder of a run.
pub const STUDENT_FILE: &str = "student.safetensors";

/// Name of the file with the student's card, in the folder of a run. It is written last.
pub const CARD_FILE: &str = "student.json";

/// A student's card: what the student is and how it was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudentCard {
    /// Version of the file format: [`StudentCard::FORMAT`].
    pub format: String,
    /// SHA-256 of the student's weights file, lower-case hexadecimal.
    pub weights_sha256: String,
    /// Everything that decided the weights.
    #[serde(flatten)]
    pub plan: Plan,
    /// The report of the last training step.
    pub last_step: StepReport,
}

impl StudentCard {
    /// The version of the file format that this program writes.
    pub const FORMAT: &str = "maskclip-student-1";
}

/// Element type of a student's convolutions during training. Weights, statistics, loss and optimiser use 32 bits with
/// either type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, EnumString, VariantNames)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum StudentPrecision {
    /// 32-bit floats.
    Float32,
    /// 16-bit floats with the range of float32. Faster on processors that compute in bfloat16.
    Bfloat16,
}

impl StudentPrecision {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Float32 => Kind::Float,
            Self::Bfloat16 => Kind::BFloat16,
        }
    }
}

/// The source of pseudo-labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, EnumString, VariantNames)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum PseudoLabels {
    /// The teacher labels each view.
    EachView,
    /// The teacher labels each image once, as it would for a request. Views cut their labels out of that label map.
    Once,
    /// There is no teacher. Pixels without a given label stay unlabelled, unless the student labels them in
    /// self-training.
    None,
}

/// The settings of a training run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// Number of steps. Each changes the weights once.
    pub steps: u64,
    /// Number of views per step.
    pub batch: usize,
    /// Side of a view in pixels, a multiple of the teacher's patch.
    pub crop_pixels: u32,
    /// Short side of an image before the random scale, in pixels.
    pub short_side: u32,
    /// Smallest and largest random scale.
    pub scale: [f64; 2],
    /// Largest change of brightness, contrast and saturation in either direction, 0 to 1.
    pub colour: f64,
    /// The source of pseudo-labels.
    pub pseudo_labels: PseudoLabels,
    /// The first step, counted from 1, whose pseudo-labels come from the student itself; `None` if they never do.
    pub self_training_from: Option<u64>,
    /// Whether the class called "background" has a learned embedding in place of its texts' embeddings.
    pub learned_background: bool,
    /// Weight in the loss of the distance between the student's features and the teacher's; 0 turns it off.
    pub distillation: f64,
    /// Probability that the best text must reach to become a pixel's pseudo-label, 0 to 1.
    pub confidence: f32,
    /// Element type of the student's convolutions.
    pub precision: StudentPrecision,
    /// Seed of all random choices.
    pub seed: u64,
    /// The settings of the optimiser.
    pub optimiser: OptimiserSettings,
}

impl Default for TrainSettings {
    /// MaskCLIP+'s settings for a small data set, with a batch that fits one machine.
    fn default() -> Self {
        Self {
            steps: 20_000,
            batch: 8,
            crop_pixels: 320,
            short_side: 320,
            scale: [0.5, 2.0],
            colour: 0.4,
            pseudo_labels: PseudoLabels::EachView,
            self_training_from: None,
            learned_background: false,
            distillation: 0.0,
            confidence: 0.0,
            precision: StudentPrecision::Float32,
            seed: 0,
            optimiser: OptimiserSettings::default(),
        }
    }
}

/// The settings of the optimiser, stochastic gradient descent with momentum.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimiserSettings {
    /// Learning rate of the first step.
    pub learning_rate: f64,
    /// Learning rate at the end of the run.
    pub final_learning_rate: f64,
    /// Exponent of the decay from the first learning rate to the last; 1 is a straight line.
    pub decay_power: f64,
    /// Share of the previous steps' direction that a step keeps, 0 to 1.
    pub momentum: f64,
    /// Share of each weight that is added to its gradient.
    pub weight_decay: f64,
}

impl Default for OptimiserSettings {
    /// MaskCLIP+'s optimiser settings.
    fn default() -> Self {
        Self {
            learning_rate: 0.01,
            final_learning_rate: 1e-4,
            decay_power: 0.9,
            momentum: 0.9,
            weight_decay: 5e-4,
        }
    }
}

impl OptimiserSettings {
    /// Returns the learning rate of a step, counted from 0, in a run of `steps` steps.
    pub fn learning_rate_at(&self, step: u64, steps: u64) -> f64 {
        let left = 1.0 - step as f64 / steps as f64;
        let (first, last) = (self.learning_rate, self.final_learning_rate);
        last + (first - last) * left.powf(self.decay_power)
    }
}

/// The report of one training step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The number of the step, counted from 1.
    pub step: u64,
    /// Mean cross-entropy over the labelled pixels; `None` if no pixel was labelled, and thus no weight was changed.
    pub loss: Option<f64>,
    /// Mean distance between the student's features and the teacher's; `None` without distillation.
    pub distillation: Option<f64>,
    /// The learning rate.
    pub learning_rate: f64,
    /// Share of the views' pixels that were labelled, 0 to 1.
    pub labelled: f64,
}

/// Everything that decides the weights at the end of a run. A run can be resumed only with an equal plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The student's architecture.
    pub network: NetworkConfig,
    /// The classes that the student learns to tell apart.
    pub vocabulary: PlannedVocabulary,
    /// The teacher.
    pub teacher: PlannedTeacher,
    /// Mean and standard deviation per channel, RGB, of pixels from 0 to 1.
    pub normalisation: [[f32; 3]; 2],
    /// The settings of the run.
    pub settings: TrainSettings,
    /// SHA-256 of the weights that the backbone starts with, lower-case hexadecimal; `None` for a random start.
    pub backbone_sha256: Option<String>,
    /// The training images.
    pub data: PlannedData,
    /// The given labels of the images, if any.
    pub given_labels: Option<PlannedLabels>,
}

/// A vocabulary on a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedVocabulary {
    /// The texts of each class: its name, then its synonyms.
    pub classes: Vec<Vec<String>>,
    /// The background names. The student learns them like classes.
    pub background: Vec<String>,
    /// Name of the set of prompt templates.
    pub templates: String,
}

/// A teacher on a card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedTeacher {
    /// The model's name.
    pub name: String,
    /// The model's architecture.
    pub architecture: String,
    /// SHA-256 of the model's weights, lower-case hexadecimal. The student's text embeddings are in this model's space.
    pub weights_sha256: String,
    /// Element type of the model's arithmetic.
    pub precision: String,
    /// What the model's last attention computed.
    pub attention: Attention,
    /// Factor on cosines before the softmax.
    pub temperature: f32,
    /// Prompt denoising threshold: a text whose best probability stayed below it was dropped from an image. `None` for
    /// no denoising.
    pub prompt_denoising: Option<f32>,
    /// The key smoothing method.
    pub key_smoothing: KeySmoothingMethod,
    /// Threshold of key smoothing, if the method has one.
    pub key_smoothing_threshold: Option<f32>,
    /// Windows through which the teacher saw its input, if any.
    pub window: Option<Window>,
    /// How the teacher's scores were refined at the image's size.
    pub refinement: Refinement,
    /// The input sizes of whole images, if the teacher labelled whole images.
    pub whole_images: Option<PlannedInput>,
}

/// The input sizes of a teacher on a card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedInput {
    /// Short side in pixels.
    pub short_side: u32,
    /// Factors on the short side, one per size.
    pub scales: Vec<f64>,
    /// How images were resized to these sizes.
    pub resize: Resize,
}

impl PlannedTeacher {
    /// Creates the card's entry from the teacher's description and its options.
    pub fn new(info: &ModelInfo, options: &DenseOptions, whole_images: Option<PlannedInput>) -> Self {
        let (key_smoothing, key_smoothing_threshold) = match options.scoring.key_smoothing {
            KeySmoothing::None => (KeySmoothingMethod::None, None),
            KeySmoothing::Formula => (KeySmoothingMethod::Formula, None),
            KeySmoothing::Reference { threshold } => (KeySmoothingMethod::Reference, Some(threshold)),
            KeySmoothing::Likeness => (KeySmoothingMethod::Likeness, None),
        };
        Self {
            name: info.name.clone(),
            architecture: info.architecture.clone(),
            weights_sha256: info.weights_sha256.clone(),
            precision: info.precision.name().to_owned(),
            attention: options.features.attention,
            temperature: options.scoring.temperature,
            prompt_denoising: options.scoring.prompt_denoising,
            key_smoothing,
            key_smoothing_threshold,
            window: options.features.window,
            refinement: options.refinement.refinement(),
            whole_images,
        }
    }
}

/// The training images on a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedData {
    /// Number of images.
    pub images: usize,
    /// Digest of the images, [`TrainingImages::sha256`](crate::training::TrainingImages::sha256).
    pub sha256: String,
    /// Number of files with an image's ending that were left out because they cannot be decoded.
    pub undecodable: usize,
    /// Number of files that were left out because they are label maps next to their images.
    pub label_maps: usize,
    /// How the pixels of the images were turned.
    #[serde(default, skip_serializing_if = "is_exif")]
    pub orientation: Orientation,
}

fn is_exif(orientation: &Orientation) -> bool {
    *orientation == Orientation::Exif
}

/// The given labels on a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedLabels {
    /// Names of the classes whose labels count.
    pub classes: Vec<String>,
    /// Digest of the label maps, [`GivenLabels::sha256`](crate::training::GivenLabels::sha256).
    pub sha256: String,
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;
    use std::str::FromStr;

    use serde::de::DeserializeOwned;
    use serde_json::Value;

    use super::super::network::{Backbone, Head, Stem};
    use super::*;

    fn assert_read_alike<T: VariantNames + DeserializeOwned + FromStr<Err: Debug> + Debug + PartialEq>() {
        for &name in T::VARIANTS {
            let in_card: T = serde_json::from_value(Value::from(name)).expect("a card has the same names");
            assert_eq!(name.parse::<T>().expect("a flag has its own names"), in_card);
        }
    }

    #[test]
    fn flags_have_the_names_of_cards() {
        assert_read_alike::<Backbone>();
        assert_read_alike::<Stem>();
        assert_read_alike::<Head>();
        assert_read_alike::<StudentPrecision>();
        assert_read_alike::<PseudoLabels>();
    }
}
