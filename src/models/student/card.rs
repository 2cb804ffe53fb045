//! A student's card: what the student is, how it was trained, and from what.
//!
//! Owns the form of `student.json`. Whether settings make sense is [`training`](crate::training)'s to say.

use serde::{Deserialize, Serialize};
use strum::{EnumString, VariantNames};
use tch::Kind;

use super::network::NetworkConfig;
use crate::dense::{Attention, DenseOptions, KeySmoothing, KeySmoothingMethod, Refinement, Window};
use crate::image::Resize;
use crate::labeller::ModelInfo;

/// The student's tensors, in a run's folder.
pub const STUDENT_FILE: &str = "student.safetensors";

/// What the student is and where it comes from; written last.
pub const CARD_FILE: &str = "student.json";

/// What a student is and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudentCard {
    /// The form of the files: [`StudentCard::FORMAT`].
    pub format: String,
    /// SHA-256 of the student's file, lower-case hexadecimal.
    pub weights_sha256: String,
    /// Everything that decided the weights.
    #[serde(flatten)]
    pub plan: Plan,
    /// What the last step did.
    pub last_step: StepReport,
}

impl StudentCard {
    /// The form of the files that this version writes.
    pub const FORMAT: &str = "maskclip-student-1";
}

/// Element type of a student's convolutions while it is trained. Weights, statistics, loss and optimiser have 32 bits in either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, EnumString, VariantNames)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum StudentPrecision {
    /// 32-bit.
    Float32,
    /// 16-bit with float32's range; faster on processors that compute in it.
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

/// Where pseudo-labels come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, EnumString, VariantNames)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum PseudoLabels {
    /// The teacher labels each view.
    EachView,
    /// The teacher labels each image once, as a request for it would; views cut their labels out of that.
    Once,
    /// Nobody labels what has no given label, but the student itself, if it trains itself.
    None,
}

/// How a student is trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// Changes of the weights.
    pub steps: u64,
    /// Views per step.
    pub batch: usize,
    /// Side of a view in pixels, a whole number of the teacher's patches.
    pub crop_pixels: u32,
    /// Short side of an image before the random scale, in pixels.
    pub short_side: u32,
    /// Least and greatest random scale.
    pub scale: [f64; 2],
    /// How far brightness, contrast and saturation go either way, 0 to 1.
    pub colour: f64,
    /// Where pseudo-labels come from.
    pub pseudo_labels: PseudoLabels,
    /// The first step, counted from 1, whose pseudo-labels are the student's own predictions; none for the teacher throughout.
    pub self_training_from: Option<u64>,
    /// Whether the class called "background" has an embedding that is learned, in place of its texts'.
    pub learned_background: bool,
    /// Weight of the distance between the student's features and the teacher's in the loss; 0 for none.
    pub distillation: f64,
    /// Probability from which the best text is a pixel's pseudo-label, 0 to 1.
    pub confidence: f32,
    /// Element type of the student's convolutions.
    pub precision: StudentPrecision,
    /// What everything random depends on.
    pub seed: u64,
    /// How weights are changed.
    pub optimiser: OptimiserSettings,
}

impl Default for TrainSettings {
    /// MaskCLIP+'s for a small data set, with a batch for one machine.
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

/// How weights are changed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimiserSettings {
    /// Learning rate of the first step.
    pub learning_rate: f64,
    /// Learning rate that the last steps come down to.
    pub final_learning_rate: f64,
    /// Power of the way between the two; 1 is a straight line.
    pub decay_power: f64,
    /// What is kept of the steps before, 0 to 1.
    pub momentum: f64,
    /// Share of each weight that is added to its gradient.
    pub weight_decay: f64,
}

impl Default for OptimiserSettings {
    /// MaskCLIP+'s.
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
    /// The learning rate of a step, counted from 0, in a run of `steps`.
    pub fn learning_rate_at(&self, step: u64, steps: u64) -> f64 {
        let left = 1.0 - step as f64 / steps as f64;
        let (first, last) = (self.learning_rate, self.final_learning_rate);
        last + (first - last) * left.powf(self.decay_power)
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Its number, from 1.
    pub step: u64,
    /// Mean cross-entropy over the labelled pixels; none when there were none, and no weight was changed.
    pub loss: Option<f64>,
    /// Mean distance between the student's features and the teacher's, where it is made smaller.
    pub distillation: Option<f64>,
    /// The learning rate.
    pub learning_rate: f64,
    /// Share of the views' pixels that were labelled, 0 to 1.
    pub labelled: f64,
}

/// Everything that decides the weights a run ends with; a run is resumed with the same plan or not at all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The student.
    pub network: NetworkConfig,
    /// What it learns to tell apart.
    pub vocabulary: PlannedVocabulary,
    /// Who teaches.
    pub teacher: PlannedTeacher,
    /// Mean and standard deviation per channel, RGB, of pixels in 0 to 1.
    pub normalisation: [[f32; 3]; 2],
    /// How.
    pub settings: TrainSettings,
    /// SHA-256 of the weights that the backbone begins with, lower-case hexadecimal; none when it begins at random.
    pub backbone_sha256: Option<String>,
    /// From what.
    pub data: PlannedData,
    /// The labels that were given for it, if any.
    pub given_labels: Option<PlannedLabels>,
}

/// A vocabulary, as cards have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedVocabulary {
    /// Each class's name and synonyms.
    pub classes: Vec<Vec<String>>,
    /// The background's names, which the student learns like classes.
    pub background: Vec<String>,
    /// The prompt templates' name.
    pub templates: String,
}

/// A teacher, as cards have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedTeacher {
    /// The model's name.
    pub name: String,
    /// What it is.
    pub architecture: String,
    /// SHA-256 of its weights, lower-case hexadecimal. The student's texts are in this model's space.
    pub weights_sha256: String,
    /// Element type of its arithmetic.
    pub precision: String,
    /// What its last attention did.
    pub attention: Attention,
    /// Factor on cosines before the softmax.
    pub temperature: f32,
    /// The probability below which a text was dropped from an image.
    pub prompt_denoising: Option<f32>,
    /// How probabilities were averaged over places.
    pub key_smoothing: KeySmoothingMethod,
    /// The threshold of key smoothing, where it has one.
    pub key_smoothing_threshold: Option<f32>,
    /// Windows through which it saw its input.
    pub window: Option<Window>,
    /// What was done to scores at the image's size.
    pub refinement: Refinement,
    /// At which size it saw whole images, where it labelled those.
    pub whole_images: Option<PlannedInput>,
}

/// At which size a teacher saw images, as cards have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedInput {
    /// Short side in pixels.
    pub short_side: u32,
    /// Factors on it, one for each size.
    pub scales: Vec<f64>,
    /// How images came to these sizes.
    pub resize: Resize,
}

impl PlannedTeacher {
    /// A model and what it is asked.
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

/// Data, as cards have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedData {
    /// How many images.
    pub images: usize,
    /// Their digest, [`TrainingImages::sha256`](super::TrainingImages::sha256).
    pub sha256: String,
    /// How many files with an image's ending were left out because they cannot be decoded.
    pub undecodable: usize,
    /// How many were left out as label maps beside their images.
    pub label_maps: usize,
}

/// Given labels, as cards have them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedLabels {
    /// Names of the classes whose labels count.
    pub classes: Vec<String>,
    /// Digest of the label maps, [`GivenLabels::sha256`](super::GivenLabels::sha256).
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
