//! The flags of `maskclip train`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::arguments::{ConfigArguments, ModelArguments, one_variant};
use crate::cli::measure::{Result, ScoringArguments};
use crate::labeller::ModelInfo;
use crate::models::student::{
    Backbone, Head, NetworkConfig, OptimiserSettings, PseudoLabels, Stem, StudentPrecision, TrainSettings,
};
use crate::support::to_i64;

/// Arguments of `maskclip train`.
#[derive(Debug, Args)]
pub struct TrainArguments {
    /// The folder of images to learn from; folders inside it count.
    pub images: PathBuf,
    /// What the student learns to tell apart: a text file (one class a line, synonyms after ';', background names after a line
    /// `[background]`) or a vocabulary's name. It takes other classes, too, when it is used.
    #[arg(long, value_name = "FILE|NAME")]
    pub classes: String,
    /// What competes with the classes for the background: a text file of names, `shipped` for vocabulary.background, or `none`.
    /// The student learns each like a class; a class called "background" gives way to them. Without it, what the vocabulary says.
    #[arg(long, value_name = "FILE|shipped|none")]
    pub background: Option<String>,
    /// Where the student, its card, the log and the run's state go. A run that was stopped or killed goes on when the same
    /// command is given again.
    #[arg(long, value_name = "FOLDER")]
    pub output: PathBuf,
    /// Labels that are given: index PNGs named like the images (`.truth.png` beside them), whose values are line numbers of the
    /// classes from 0; 255 is unknown.
    #[arg(long, value_name = "FOLDER")]
    pub labels: Option<PathBuf>,
    /// Classes whose given labels count: names separated by commas, or a text file; all without it. Pseudo-labels are never one of
    /// these.
    #[arg(long, value_name = "FILE|NAMES", requires = "labels")]
    pub labelled_classes: Option<String>,
    #[command(flatten, next_help_heading = "Student")]
    pub network: NetworkArguments,
    #[command(flatten, next_help_heading = "Training")]
    pub training: TrainingArguments,
    /// What the teacher is asked, as a request asks; what is not given has its default.
    #[command(flatten, next_help_heading = "Teacher")]
    pub scoring: ScoringArguments,
    /// Steps from one save of the run's state to the next.
    #[arg(long, value_name = "N", default_value_t = 500, help_heading = "Model and settings", value_parser = clap::value_parser!(u64).range(1..))]
    pub checkpoint_steps: u64,
    #[command(flatten, next_help_heading = "Model and settings")]
    pub config: ConfigArguments,
    #[command(flatten)]
    pub model: ModelArguments,
}

/// What the student is.
#[derive(Debug, Args)]
pub struct NetworkArguments {
    /// The student's backbone.
    #[arg(long, value_name = "NAME", default_value = "resnet50", value_parser = one_variant::<Backbone>())]
    backbone: Backbone,
    /// The backbone's stem.
    #[arg(long, value_name = "NAME", default_value = "v1c", value_parser = one_variant::<Stem>())]
    stem: Stem,
    /// Channels of the backbone's first stage; 64 as published.
    #[arg(long, value_name = "N", default_value_t = 64)]
    width: i64,
    /// The student's head.
    #[arg(long, value_name = "NAME", default_value = "deeplab-v2", value_parser = one_variant::<Head>())]
    head: Head,
    /// Channels inside deeplab-v3-plus; 256 as published.
    #[arg(long, value_name = "N", default_value_t = 256)]
    head_channels: i64,
    /// What the backbone begins with, in place of random weights: a safetensors file of torchvision's (plain stem) or timm's (v1c,
    /// as resnet50c), classifier and all.
    #[arg(long, value_name = "FILE")]
    pub backbone_weights: Option<PathBuf>,
}

/// How it is trained.
#[derive(Debug, Args)]
pub struct TrainingArguments {
    /// Changes of the weights.
    #[arg(long, value_name = "N", default_value_t = TrainSettings::default().steps)]
    steps: u64,
    /// Views of images per step.
    #[arg(long, value_name = "N", default_value_t = TrainSettings::default().batch)]
    batch: usize,
    /// Side of a view in pixels, a whole number of the teacher's patches.
    #[arg(long, value_name = "PIXELS", default_value_t = TrainSettings::default().crop_pixels)]
    crop_pixels: u32,
    /// Short side of an image before the random scale, in pixels.
    #[arg(long, value_name = "PIXELS", default_value_t = TrainSettings::default().short_side)]
    view_short_side: u32,
    /// Least and greatest random scale, separated by a comma.
    #[arg(long, value_name = "LEAST,GREATEST", value_delimiter = ',', default_values_t = TrainSettings::default().scale)]
    view_scale: Vec<f64>,
    /// How far brightness, contrast and saturation go either way, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = TrainSettings::default().colour)]
    colour: f64,
    /// Where pseudo-labels come from: each-view, the teacher labels each view; once, it labels each whole image before the first
    /// step, as a request for it would, and views cut their labels out of that; or none, given labels alone count.
    #[arg(long, value_name = "NAME", default_value = "each-view", value_parser = one_variant::<PseudoLabels>())]
    pub pseudo_labels: PseudoLabels,
    /// The first step whose pseudo-labels are the student's own predictions; the teacher's throughout without it. The paper takes
    /// a tenth of the steps for the teacher.
    #[arg(long, value_name = "STEP")]
    self_training_from: Option<u64>,
    /// The class called "background" has an embedding that is learned, in place of its texts'.
    #[arg(long)]
    pub learned_background: bool,
    /// Weight of the L1 distance between the student's features and the teacher's in the loss, 0 for none.
    #[arg(long, value_name = "WEIGHT", default_value_t = 0.0)]
    distillation: f64,
    /// Probability from which the teacher's best text is a pixel's label, 0 to 1.
    #[arg(long, value_name = "PROBABILITY", default_value_t = TrainSettings::default().confidence)]
    pub confidence: f32,
    /// Element type of the student's convolutions; bfloat16 is faster on processors that compute in it. Weights
    /// have 32 bits in either.
    #[arg(long, value_name = "NAME", default_value = "float32", value_parser = one_variant::<StudentPrecision>())]
    student_precision: StudentPrecision,
    /// What everything random depends on.
    #[arg(long, value_name = "N", default_value_t = TrainSettings::default().seed)]
    seed: u64,
    /// Learning rate of the first step.
    #[arg(long, value_name = "RATE", default_value_t = OptimiserSettings::default().learning_rate)]
    learning_rate: f64,
    /// Learning rate that the last steps come down to.
    #[arg(long, value_name = "RATE", default_value_t = OptimiserSettings::default().final_learning_rate)]
    final_learning_rate: f64,
    /// Power of the way between the two.
    #[arg(long, value_name = "POWER", default_value_t = OptimiserSettings::default().decay_power)]
    decay_power: f64,
    /// What is kept of earlier changes, 0 to below 1.
    #[arg(long, value_name = "SHARE", default_value_t = OptimiserSettings::default().momentum)]
    momentum: f64,
    /// Share of each weight that is taken from it, times the learning rate.
    #[arg(long, value_name = "SHARE", default_value_t = OptimiserSettings::default().weight_decay)]
    weight_decay: f64,
}

impl TrainingArguments {
    /// The settings, not yet checked.
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
    /// The student of a teacher, whose space it shares.
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
