//! `maskclip train`: a student from a folder of images, a vocabulary and a teacher.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use clap::Args;
use figment::value::Dict;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Runtime;

use super::arguments::{ConfigArguments, ModelArguments};
use super::disk::open_disk;
use super::measure::{Result, find_vocabulary};
use super::serve::shutdown_signal;
use crate::config::{Config, DefaultsConfig};
use crate::dense::{Attention, DenseOptions};
use crate::engine::clip_labeller::ClipModel;
use crate::engine::{Labeller, ModelInfo};
use crate::student::{
    Backbone, CARD_FILE, Head, NetworkConfig, OptimiserSettings, Plan, PlannedData, PlannedTeacher, PlannedVocabulary,
    STUDENT_FILE, Stem, StepReport, StudentPrecision, Teacher, TrainOutcome, TrainRun, TrainSettings, TrainingImages,
};
use crate::telemetry;
use crate::vocabulary::{Class, ClassList, Classifier, Registry, Synonyms, TemplateSet, VocabularyDefinition};

/// Texts that are embedded at once, each in all templates.
const TEXTS_AT_ONCE: usize = 8;

/// Arguments of `maskclip train`.
#[derive(Debug, Args)]
pub struct TrainArguments {
    /// The folder of images to learn from; folders inside it count.
    images: PathBuf,
    /// What the student learns to tell apart: a text file (one class a line, synonyms after ';', background names after a line
    /// `[background]`) or a vocabulary's name. It takes other classes, too, when it is used.
    #[arg(long, value_name = "FILE|NAME")]
    classes: String,
    /// Where the student, its card, the log and the run's state go. A run that was stopped or killed goes on when the same
    /// command is given again.
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
    #[command(flatten)]
    network: NetworkArguments,
    #[command(flatten)]
    training: TrainingArguments,
    /// What the teacher's last attention does (defaults.attention).
    #[arg(long, value_name = "NAME", value_parser = attention)]
    attention: Option<Attention>,
    /// Factor on the teacher's cosines before the softmax (defaults.temperature).
    #[arg(long, value_name = "FACTOR")]
    temperature: Option<f32>,
    /// Steps from one save of the run's state to the next.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_steps: u64,
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    model: ModelArguments,
}

/// What the student is.
#[derive(Debug, Args)]
struct NetworkArguments {
    /// The student's backbone: resnet18, resnet50 or resnet101.
    #[arg(long, value_name = "NAME", default_value = "resnet50", value_parser = backbone)]
    backbone: Backbone,
    /// The backbone's stem: plain or v1c.
    #[arg(long, value_name = "NAME", default_value = "v1c", value_parser = stem)]
    stem: Stem,
    /// Channels of the backbone's first stage; 64 as published.
    #[arg(long, value_name = "N", default_value_t = 64)]
    width: i64,
    /// The student's head: deeplab-v2 or deeplab-v3-plus.
    #[arg(long, value_name = "NAME", default_value = "deeplab-v2", value_parser = head)]
    head: Head,
    /// Channels inside deeplab-v3-plus; 256 as published.
    #[arg(long, value_name = "N", default_value_t = 256)]
    head_channels: i64,
}

/// How it is trained.
#[derive(Debug, Args)]
struct TrainingArguments {
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
    short_side: u32,
    /// Least and greatest random scale, separated by a comma.
    #[arg(long, value_name = "LEAST,GREATEST", value_delimiter = ',', default_values_t = TrainSettings::default().scale)]
    scale: Vec<f64>,
    /// How far brightness, contrast and saturation go either way, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = TrainSettings::default().colour)]
    colour: f64,
    /// Probability from which the teacher's best text is a pixel's label, 0 to 1.
    #[arg(long, value_name = "PROBABILITY", default_value_t = TrainSettings::default().confidence)]
    confidence: f32,
    /// Element type of the student's convolutions: float32 or bfloat16, which is faster on processors that compute in it. Weights
    /// have 32 bits in either.
    #[arg(long, value_name = "NAME", default_value = "float32", value_parser = student_precision)]
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
    fn settings(&self) -> Result<TrainSettings> {
        let scale = <[f64; 2]>::try_from(self.scale.as_slice());
        Ok(TrainSettings {
            steps: self.steps,
            batch: self.batch,
            crop_pixels: self.crop_pixels,
            short_side: self.short_side,
            scale: scale.map_err(|_| "--scale takes two numbers, separated by a comma")?,
            colour: self.colour,
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

/// Trains until the student is done, or SIGTERM or SIGINT saves where it is. The student's path goes to standard output.
pub fn run(arguments: TrainArguments) -> Result<()> {
    let config = Config::load(
        arguments.config.config.as_deref(),
        Dict::from([arguments.model.section()]),
    )?;
    telemetry::start_logs(&config.telemetry)?;
    let model = ClipModel::find(&config.model)?;
    let registry = Registry::new(
        config.limits.max_vocabularies,
        open_disk(&config.vocabulary),
        SystemTime::now(),
    );
    let VocabularyDefinition { list, options } = find_vocabulary(&arguments.classes, &registry, &config)?;
    let defaults = config.defaults.with(&options);
    let settings = arguments.training.settings()?;
    let mut labeller = model.into_factory()()?;
    let network = arguments.network.config(labeller.info());
    settings.check(&network, labeller.info().patch_pixels)?;
    let dense = arguments.dense_options(labeller.info(), &defaults)?;
    let images = TrainingImages::find(&arguments.images)?;
    let classifier = embed(&mut *labeller, &list, defaults.templates)?;
    let plan = Plan {
        network,
        vocabulary: planned_vocabulary(&list, defaults.templates),
        teacher: planned_teacher(labeller.info(), &dense),
        normalisation: [labeller.info().normalisation.mean, labeller.info().normalisation.std],
        settings,
        data: PlannedData {
            images: images.files.len(),
            sha256: images.sha256,
        },
    };
    let (_signals, stop) = stop_on_signal()?;
    let mut bar = Bar::new(settings.steps);
    let outcome = TrainRun {
        folder: &arguments.output,
        plan: &plan,
        files: &images.files,
        max_image_pixels: config.limits.max_image_pixels,
        checkpoint_steps: arguments.checkpoint_steps,
    }
    .train(
        &mut Teacher {
            labeller: &mut *labeller,
            classifier: &classifier,
            options: dense,
            confidence: settings.confidence,
        },
        || stop.load(Ordering::Relaxed),
        |report, images_per_second| bar.show(report, images_per_second),
    );
    bar.0.finish_and_clear();
    match outcome? {
        TrainOutcome::Finished(last) => {
            eprintln!("{} steps, {}", last.step, loss_of(&last));
            eprintln!("what it is: {}", arguments.output.join(CARD_FILE).display());
            println!("{}", arguments.output.join(STUDENT_FILE).display());
        }
        TrainOutcome::Stopped(last) => eprintln!(
            "stopped after step {} of {}: the same command goes on from there",
            last.step, settings.steps
        ),
    }
    Ok(())
}

/// What becomes true on the first SIGTERM or SIGINT, for as long as the runtime lives.
fn stop_on_signal() -> Result<(Runtime, Arc<AtomicBool>)> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let signal = runtime.block_on(async { shutdown_signal() })?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    runtime.spawn(async move {
        signal.await;
        stopped.store(true, Ordering::Relaxed);
    });
    Ok((runtime, stop))
}

impl NetworkArguments {
    /// The student of a teacher, whose space it shares.
    fn config(&self, teacher: &ModelInfo) -> NetworkConfig {
        NetworkConfig {
            backbone: self.backbone,
            stem: self.stem,
            width: self.width,
            head: self.head,
            head_channels: self.head_channels,
            embedding: i64::try_from(teacher.embedding_dimension).expect("a length in memory fits 63 bits"),
        }
    }
}

impl TrainArguments {
    /// What the teacher is asked: its scores as they are, without denoising, smoothing, windows or refinement.
    fn dense_options(&self, teacher: &ModelInfo, defaults: &DefaultsConfig) -> Result<DenseOptions> {
        let attention = self.attention.unwrap_or(defaults.attention);
        if !teacher.attentions.contains(&attention) {
            let possible: Vec<_> = teacher.attentions.iter().map(|attention| attention.name()).collect();
            let (name, possible) = (attention.name(), possible.join(", "));
            return Err(format!("--attention {name} is not for {}: {possible}", teacher.architecture).into());
        }
        let temperature = self.temperature.unwrap_or(defaults.temperature);
        if !(temperature > 0.0 && temperature <= 1000.0) {
            return Err(format!("--temperature is {temperature}, not above 0 and at most 1000").into());
        }
        Ok(DenseOptions {
            attention,
            temperature,
            ..DenseOptions::default()
        })
    }
}

fn planned_vocabulary(list: &ClassList, templates: TemplateSet) -> PlannedVocabulary {
    let texts = |class: &Class| class.texts().map(str::to_owned).collect();
    PlannedVocabulary {
        classes: list.classes().iter().map(texts).collect(),
        background: list.background().to_vec(),
        templates: templates.name().to_owned(),
    }
}

fn planned_teacher(info: &ModelInfo, options: &DenseOptions) -> PlannedTeacher {
    PlannedTeacher {
        name: info.name.clone(),
        architecture: info.architecture.clone(),
        weights_sha256: info.weights_sha256.clone(),
        precision: info.precision.name().to_owned(),
        attention: options.attention.name().to_owned(),
        temperature: options.temperature,
    }
}

/// The vocabulary in the teacher's space: one text per class, the mean of its synonyms, and one per background name.
fn embed(labeller: &mut dyn Labeller, list: &ClassList, templates: TemplateSet) -> Result<Classifier> {
    let mut embeddings = Vec::new();
    for texts in list.texts().chunks(TEXTS_AT_ONCE) {
        embeddings.extend(labeller.embed_texts(texts, templates)?);
    }
    Ok(list.classifier(&embeddings, Synonyms::Mean))
}

/// A progress bar on standard error; silent where that is no terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new(steps: u64) -> Self {
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} steps, {msg}, {eta} left")
            .expect("the template names fields that indicatif has");
        Self(ProgressBar::new(steps).with_style(style))
    }

    fn show(&mut self, report: &StepReport, images_per_second: f64) {
        if self.0.position() + 1 < report.step {
            // A run that goes on: what was made before says nothing of the time that is left.
            self.0.set_position(report.step);
            self.0.reset_eta();
        }
        self.0.set_position(report.step);
        self.0
            .set_message(format!("{}, {images_per_second:.1} images/s", loss_of(report)));
    }
}

fn loss_of(report: &StepReport) -> String {
    report
        .loss
        .map_or("no labels".to_owned(), |loss| format!("loss {loss:.4}"))
}

fn backbone(name: &str) -> Result<Backbone, String> {
    named(&Backbone::ALL, Backbone::name, name)
}

fn stem(name: &str) -> Result<Stem, String> {
    named(&Stem::ALL, Stem::name, name)
}

fn head(name: &str) -> Result<Head, String> {
    named(&Head::ALL, Head::name, name)
}

fn student_precision(name: &str) -> Result<StudentPrecision, String> {
    named(&StudentPrecision::ALL, StudentPrecision::name, name)
}

fn attention(name: &str) -> Result<Attention, String> {
    named(&Attention::ALL, Attention::name, name)
}

/// The one of all that is called so.
fn named<T: Copy>(all: &[T], name_of: impl Fn(T) -> &'static str, name: &str) -> Result<T, String> {
    let found = all.iter().copied().find(|&one| name_of(one) == name);
    found.ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|&one| name_of(one)).collect();
        format!("there are {}", names.join(", "))
    })
}
