//! The flags of `maskclip train`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::arguments::{ConfigArguments, ModelArguments, one_of};
use crate::cli::measure::{Result, ScoringArguments};
use crate::labeller::ModelInfo;
use crate::models::student::{
    Backbone, Head, NetworkConfig, OptimiserSettings, PseudoLabels, Stem, StudentPrecision, TrainSettings,
};
use crate::support::to_i64;

/// Arguments of `maskclip train`.
#[derive(Debug, Args)]
pub struct TrainArguments {
    /// The folder of training images, searched with all its subfolders.
    pub images: PathBuf,
    /// The classes that the student learns to tell apart: a vocabulary's name, or a text file (one class per line,
    /// synonyms after ';', background names after a line `[background]`). A finished student accepts other classes as
    /// well.
    #[arg(long, value_name = "FILE|NAME")]
    pub classes: String,
    /// The background names, which compete with the classes: a text file of names, `shipped` for vocabulary.background,
    /// or `none`. The student learns each name like a class; they replace the texts of a class called "background". By
    /// default, the vocabulary's own names.
    #[arg(long, value_name = "FILE|shipped|none")]
    pub background: Option<String>,
    /// Folder for the student, its card, the log and the run's state. To resume a run that was stopped or killed,
    /// repeat the same command.
    #[arg(long, value_name = "FOLDER")]
    pub output: PathBuf,
    /// Folder of given labels: index PNGs named like the images (with the ending `.truth.png` if they are next to
    /// them). Their values are line numbers of the classes, from 0; 255 is unknown.
    #[arg(long, value_name = "FOLDER")]
    pub labels: Option<PathBuf>,
    /// Classes whose given labels count: names separated by commas, or a text file. By default, all classes.
    /// Pseudo-labels never name these classes.
    #[arg(long, value_name = "FILE|NAMES", requires = "labels")]
    pub labelled_classes: Option<String>,
    #[command(flatten, next_help_heading = "Student")]
    pub network: NetworkArguments,
    #[command(flatten, next_help_heading = "Training")]
    pub training: TrainingArguments,
    /// The options of the teacher, in the form of a request's fields. Those left out have their defaults.
    #[command(flatten, next_help_heading = "Teacher")]
    pub scoring: ScoringArguments,
    /// Number of steps between saves of the run's state.
    #[arg(long, value_name = "N", default_value_t = 500, help_heading = "Model and settings", value_parser = clap::value_parser!(u64).range(1..))]
    pub checkpoint_steps: u64,
    #[command(flatten, next_help_heading = "Model and settings")]
    pub config: ConfigArguments,
    #[command(flatten)]
    pub model: ModelArguments,
}

/// The flags for the student's architecture.
#[derive(Debug, Args)]
pub struct NetworkArguments {
    /// Backbone of the student.
    #[arg(long, value_name = "NAME", default_value = "resnet50", value_parser = one_of::<Backbone>())]
    backbone: Backbone,
    /// Stem of the backbone.
    #[arg(long, value_name = "NAME", default_value = "v1c", value_parser = one_of::<Stem>())]
    stem: Stem,
    /// Channels of the backbone's first stage, 64 as published.
    #[arg(long, value_name = "N", default_value_t = 64)]
    width: i64,
    /// Head of the student.
    #[arg(long, value_name = "NAME", default_value = "deeplab-v2", value_parser = one_of::<Head>())]
    head: Head,
    /// Channels inside deeplab-v3-plus, 256 as published.
    #[arg(long, value_name = "N", default_value_t = 256)]
    head_channels: i64,
    /// Weights that the backbone starts with, in place of random ones: a safetensors file of a classifier from
    /// torchvision (plain stem) or timm (v1c stem, as resnet50c).
    #[arg(long, value_name = "FILE")]
    pub backbone_weights: Option<PathBuf>,
}

/// The flags for the training.
#[derive(Debug, Args)]
pub struct TrainingArguments {
    /// Number of steps. Each changes the weights once.
    #[arg(long, value_name = "N", default_value_t = TrainSettings::default().steps)]
    steps: u64,
    /// Number of views of images per step.
    #[arg(long, value_name = "N", default_value_t = TrainSettings::default().batch)]
    batch: usize,
    /// Side of a view in pixels, a multiple of the teacher's patch.
    #[arg(long, value_name = "PIXELS", default_value_t = TrainSettings::default().crop_pixels)]
    crop_pixels: u32,
    /// Short side of an image before the random scale, in pixels.
    #[arg(long, value_name = "PIXELS", default_value_t = TrainSettings::default().short_side)]
    view_short_side: u32,
    /// Smallest and largest random scale, separated by a comma.
    #[arg(long, value_name = "LEAST,GREATEST", value_delimiter = ',', default_values_t = TrainSettings::default().scale)]
    view_scale: Vec<f64>,
    /// Largest change of brightness, contrast and saturation in either direction, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = TrainSettings::default().colour)]
    colour: f64,
    /// Source of pseudo-labels. each-view: the teacher labels each view. once: the teacher labels each whole image
    /// before the first step, as it would for a request, and views cut their labels out of that. none: only given
    /// labels count.
    #[arg(long, value_name = "NAME", default_value = "each-view", value_parser = one_of::<PseudoLabels>())]
    pub pseudo_labels: PseudoLabels,
    /// First step whose pseudo-labels are the student's own predictions. By default, the teacher labels in all steps.
    /// In the paper the teacher labels in the first tenth of the steps.
    #[arg(long, value_name = "STEP")]
    self_training_from: Option<u64>,
    /// Learn an embedding for the class called "background", in place of its texts' embeddings.
    #[arg(long)]
    pub learned_background: bool,
    /// Weight in the loss of the L1 distance between the student's features and the teacher's; 0 turns it off.
    #[arg(long, value_name = "WEIGHT", default_value_t = 0.0)]
    distillation: f64,
    /// Probability that the teacher's best text must reach to become a pixel's label, 0 to 1.
    #[arg(long, value_name = "PROBABILITY", default_value_t = TrainSettings::default().confidence)]
    pub confidence: f32,
    /// Element type of the student's convolutions. bfloat16 is faster on processors that compute in bfloat16. Weights
    /// are 32-bit with either type.
    #[arg(long, value_name = "NAME", default_value = "float32", value_parser = one_of::<StudentPrecision>())]
    student_precision: StudentPrecision,
    /// Seed of all random choices.
    #[arg(long, value_name = "N", default_value_t = TrainSettings::default().seed)]
    seed: u64,
    /// Learning rate of the first step.
    #[arg(long, value_name = "RATE", default_value_t = OptimiserSettings::default().learning_rate)]
    learning_rate: f64,
    /// Learning rate at the end of the run.
    #[arg(long, value_name = "RATE", default_value_t = OptimiserSettings::default().final_learning_rate)]
    final_learning_rate: f64,
    /// Exponent of the decay from the first learning rate to the last.
    #[arg(long, value_name = "POWER", default_value_t = OptimiserSettings::default().decay_power)]
    decay_power: f64,
    /// Share of the previous steps' direction that a step keeps, 0 to below 1.
    #[arg(long, value_name = "SHARE", default_value_t = OptimiserSettings::default().momentum)]
    momentum: f64,
    /// Share of each weight that a step subtracts from it, times the learning rate.
    #[arg(long, value_name = "SHARE", default_value_t = OptimiserSettings::default().weight_decay)]
    weight_decay: f64,
}

impl TrainingArguments {
    /// Returns the training settings, which are not checked yet.
    pub fn settings(&self) -> Result<TrainSettings> {
        let scale = <[f64; 2]>::try_from(self.view_scale.as_slice());
        Ok(TrainSettings {
            steps: self.steps,
            batch: self.batch,
            crop_pixels: self.crop_pixels,
            short_side: self.view_short_side,
            scale: scale.map_err(|_| "--view-scale takes two numbers, separated by a comma")?,
            colour: self.colour,
            pseudo_labels: self.pseudo_labels,
            self_training_from: self.self_training_from,
            learned_background: self.learned_background,
            distillation: self.distillation,
            confidence: self.confidence,
            precision: self.student_precision,
            seed: self.seed,
            optimiser: OptimiserSettings {
                learning_rate: self.learning_rate,
                final_learning_rate: self.final_learning_rate,
                decay_power: self.decay_power,
                momentum: self.momentum,
                weight_decay: self.weight_decay,
            },
        })
    }
}

impl NetworkArguments {
    /// Returns the configuration of the student. Its features have the length of the teacher's embeddings.
    pub fn config(&self, teacher: &ModelInfo) -> NetworkConfig {
        NetworkConfig {
            backbone: self.backbone,
            stem: self.stem,
            width: self.width,
            head: self.head,
            head_channels: self.head_channels,
            embedding: to_i64(teacher.embedding_dimension),
        }
    }
}
