//! `maskclip train`: trains a student from a folder of images, a vocabulary and a teacher.

mod arguments;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use super::command_engine::start_engine;
use super::disk::OpenStore;
use super::ending::end;
use super::measure::{Result, classes_named, find_vocabulary, progress, resolve, set_all, with_background};
use super::output::{note, print};
use super::signals;
use crate::config::Config;
use crate::engine::{BackgroundFields, SegmentFields, SegmentOptions, VocabularyChoice};
use crate::labeller::{Labeller, ModelInfo, ServedModel};
use crate::models::student::{
    CARD_FILE, Plan, PlannedData, PlannedInput, PlannedLabels, PlannedTeacher, PlannedVocabulary, PseudoLabels,
    STUDENT_FILE, StepReport,
};
use crate::models::{ClipLabeller, ClipModel};
use crate::scores::QueryOwner;
use crate::support::lock;
use crate::training::{
    BackboneWeights, GivenLabels, LabelCache, Teacher, Texts, TrainOutcome, TrainRun, TrainingImages,
};
use crate::vocabulary::{
    Class, ClassList, Classifier, EmbeddedTexts, Synonyms, TemplateSet, VocabularyDefinition, VocabularyOptions,
    form_advice,
};

pub use arguments::TrainArguments;

/// Number of texts that are embedded at once, each with all templates.
const TEXTS_AT_ONCE: usize = 8;

/// Trains until the student is finished, or until SIGTERM or SIGINT. These end the run after its present step, whose
/// state is saved; before the first step they end the
/// process at once, because nothing is lost. A second signal ends the
/// process at once in any case. Prints the student's path to standard output.
pub fn run(arguments: TrainArguments) -> Result<()> {
    // Before the first thread, so before the watch for signals, which is a matter of milliseconds.
    let config = arguments.config.start(arguments.model.settings())?;
    let signals = Signals::watch()?;
    let model = config.asked_models().find_teacher()?;
    let store = OpenStore::for_reading(&config.vocabulary);
    let mut prepared = arguments.prepare(&config, &model, &store)?;
    let plan = &prepared.plan;
    let run = TrainRun {
        folder: &arguments.output,
        plan,
        files: &prepared.files,
        backbone: prepared.backbone.as_ref(),
        max_image_pixels: config.limits.input.max_image_pixels,
        checkpoint_steps: arguments.checkpoint_steps,
    };
    let steps_made = run.steps_made()?;
    let cache = match plan.settings.pseudo_labels {
        PseudoLabels::EachView | PseudoLabels::None => None,
        PseudoLabels::Once => Some(LabelCache::open(run.folder, plan, &prepared.texts.taught)?),
    };
    if let Some(cache) = &cache
        && steps_made < plan.settings.steps
    {
        let once = LabelOnce {
            config: &config,
            model: config.asked_models().find_first()?,
            store: &store,
            fields: &prepared.question.fields,
            cache,
        };
        signals.block_on(once.label(&run))?;
    }
    signals.enter(Phase::Steps);
    let mut bar = Bar::new(plan.settings.steps);
    let outcome = run.train(
        &mut Teacher {
            labeller: &mut prepared.labeller,
            texts: &prepared.texts,
            options: prepared.question.options.dense,
            cache: cache.as_ref(),
            given: prepared.given.as_ref(),
            confidence: plan.settings.confidence,
        },
        || signals.stop.load(Ordering::Relaxed),
        |report, images_per_second| bar.show(report, images_per_second),
    );
    bar.0.finish_and_clear();
    tell_outcome(&run, outcome?)
}

/// Says how a run ended. The path of a finished student goes to standard output, all else to standard error.
fn tell_outcome(run: &TrainRun<'_>, outcome: TrainOutcome) -> Result<()> {
    match outcome {
        TrainOutcome::Finished(last) => {
            note(format!("{} steps, {}", last.step, loss_of(&last)));
            note(format!("what it is: {}", run.folder.join(CARD_FILE).display()));
            print(&format!("{}\n", run.folder.join(STUDENT_FILE).display()))?;
        }
        TrainOutcome::Stopped(last) => note(format!(
            "stopped after step {} of {}: the same command goes on from there",
            last.step, run.plan.settings.steps
        )),
    }
    Ok(())
}

/// Everything that a run is made from, found and checked.
struct Prepared {
    /// The teacher's model.
    labeller: ClipLabeller,
    /// What the teacher is asked of an image.
    question: Question,
    texts: Texts,
    backbone: Option<BackboneWeights>,
    /// The images to learn from, in the order of the plan's digest.
    files: Vec<PathBuf>,
    given: Option<GivenLabels>,
    plan: Plan,
}

/// Everything that is needed to label all images before the first step.
struct LabelOnce<'a> {
    config: &'a Config,
    model: ServedModel,
    store: &'a OpenStore,
    fields: &'a SegmentFields,
    cache: &'a LabelCache,
}

impl LabelOnce<'_> {
    /// Labels the images that have no label map, with an engine that ends afterwards.
    async fn label(self, run: &TrainRun<'_>) -> Result<()> {
        if self.cache.is_complete(run.files.len()) {
            return Ok(());
        }
        let mut fields = self.fields.clone();
        fields.features.deadline_seconds = Some(self.config.engine.max_deadline_seconds);
        let (engine, _) = start_engine(self.config.engine_settings(), self.model, self.store).await?;
        let bar = progress(run.files.len());
        let done = self.cache.fill(&engine, &fields, run.files, || bar.inc(1)).await;
        bar.finish_and_clear();
        Ok(done?)
    }
}

impl TrainArguments {
    /// Loads the teacher, finds what the flags name, and checks that all of it goes together.
    fn prepare(&self, config: &Config, model: &ClipModel, store: &OpenStore) -> Result<Prepared> {
        let VocabularyDefinition { list, options } = self.vocabulary(config, store)?;
        let settings = self.training.settings()?;
        let mut labeller = model.load()?;
        let network = self.network.config(labeller.info());
        settings.check(&network, labeller.info().patch_pixels)?;
        let labelled = self.labelled(&list)?;
        let question = self.question(taught_classes(&list, &labelled), &options, config, labeller.info())?;
        let templates = question.options.templates;
        let texts = self.texts(&mut labeller, &list, templates, &labelled, config)?;
        settings.check_labels(&texts, self.labels.is_some())?;
        let backbone = self.network.backbone_weights.as_deref();
        let backbone = backbone.map(|path| BackboneWeights::read(path, &network)).transpose()?;
        let orientation = question.options.input.orientation;
        let images = TrainingImages::find(&self.images, orientation, config.limits.input.max_image_pixels)?;
        tell_left_out(&images);
        let given = self.labels.as_deref().map(|folder| {
            let queries = texts.labelled.clone();
            GivenLabels::find(folder, &self.images, &images, queries)
        });
        let given = given.transpose()?;
        if let Some(given) = &given {
            tell_odd_labels(given, &list, settings.pseudo_labels == PseudoLabels::None);
        }
        let plan = Plan {
            network,
            vocabulary: planned_vocabulary(&list, templates),
            teacher: planned_teacher(labeller.info(), &question.options, settings.pseudo_labels),
            normalisation: [labeller.info().normalisation.mean, labeller.info().normalisation.std],
            settings,
            backbone_sha256: backbone.as_ref().map(|backbone| backbone.sha256.clone()),
            data: PlannedData {
                images: images.files.len(),
                sha256: images.sha256,
                undecodable: images.undecodable.len(),
                label_maps: images.label_maps,
                orientation,
            },
            given_labels: given.as_ref().map(|given| planned_labels(&list, &labelled, given)),
        };
        Ok(Prepared {
            labeller,
            question,
            texts,
            backbone,
            files: images.files,
            given,
            plan,
        })
    }

    /// The vocabulary that the flags name, with the background that they give it.
    fn vocabulary(&self, config: &Config, store: &OpenStore) -> Result<VocabularyDefinition> {
        let mut vocabulary = find_vocabulary(&self.classes, &store.registry(config), config)?;
        if let Some(background) = &self.background {
            vocabulary.list = with_background(&vocabulary.list, background, config)?;
        }
        form_advice(&vocabulary.list).iter().for_each(note);
        Ok(vocabulary)
    }

    /// Returns which classes have given labels, `[classes]`.
    fn labelled(&self, list: &ClassList) -> Result<Vec<bool>> {
        match (&self.labels, &self.labelled_classes) {
            (None, _) => Ok(vec![false; list.classes().len()]),
            (Some(_), None) => Ok(vec![true; list.classes().len()]),
            (Some(_), Some(text)) => classes_named(list, text, "--labelled-classes"),
        }
    }

    /// Returns the texts of student and teacher with their embeddings.
    fn texts(
        &self,
        labeller: &mut dyn Labeller,
        list: &ClassList,
        templates: TemplateSet,
        labelled: &[bool],
        config: &Config,
    ) -> Result<Texts> {
        let full = embed(labeller, list, templates)?;
        let plain = match self.training.learned_background {
            false => None,
            true => Some(embed(
                labeller,
                &list.with_background(&[], &config.limits.vocabulary)?,
                templates,
            )?),
        };
        Ok(Texts::new(list, &full, plain.as_ref(), labelled)?)
    }

    /// Returns the question that the teacher is asked about each image: a label map in which each of its texts is a
    /// class of its own.
    ///
    /// # Errors
    /// When a flag has several values, a value is refused, or the teacher cannot compute the attention.
    fn question(
        &self,
        classes: Vec<Class>,
        options: &VocabularyOptions,
        config: &Config,
        teacher: &ModelInfo,
    ) -> Result<Question> {
        let mut fields = SegmentFields {
            vocabulary: Some(VocabularyChoice::Inline(classes)),
            background: BackgroundFields {
                threshold: Some(self.training.confidence),
                ..BackgroundFields::off()
            },
            synonyms: Some(Synonyms::Mean),
            ..SegmentFields::default()
        };
        set_all(&mut fields, &self.scoring.axes())?;
        let options = resolve(&fields, &config.engine_settings(), options, teacher)?;
        // The vocabulary's options are copied here, because inline classes bring none.
        fields.templates = Some(options.templates);
        fields.prompt_denoising = Some(options.dense.scoring.prompt_denoising.unwrap_or(0.0));
        let attention = options.dense.features.attention;
        if !teacher.attentions.contains(&attention) {
            let possible: Vec<_> = teacher.attentions.iter().map(|attention| attention.name()).collect();
            let (name, possible) = (attention.name(), possible.join(", "));
            return Err(format!("--attention {name} is not for {}: {possible}", teacher.architecture).into());
        }
        let whole = self.scoring.of_whole_images();
        if self.training.pseudo_labels != PseudoLabels::Once && !whole.is_empty() {
            let flags = whole.join(" and ");
            return Err(format!(
                "{flags}: a teacher that labels each view sees it at its own size; use --pseudo-labels once"
            )
            .into());
        }
        Ok(Question { fields, options })
    }
}

/// The question that a teacher is asked about each image.
struct Question {
    /// The fields of the request.
    fields: SegmentFields,
    /// The options that the fields resolve to.
    options: SegmentOptions,
}

/// What a run is at, which decides what the first signal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The teacher is loaded, texts are embedded, images are found. Nothing is written.
    Preparing,
    /// Images are labelled before the first step. A label map is written between two of its awaits.
    Labelling,
    /// Steps are made.
    Steps,
}

/// What SIGTERM and SIGINT do to a run.
struct Signals {
    /// Runs the task that waits for the signals, and the engine that labels images.
    runtime: Runtime,
    /// Set by the first signal. Then the run ends after its present step.
    stop: Arc<AtomicBool>,
    phase: Arc<Mutex<Phase>>,
    /// Tells of the first signal while images are labelled.
    stop_labelling: Arc<Notify>,
}

impl Signals {
    /// Watches for the signals from now on. The second one ends the process at once. What the first signal does before
    /// the first step, and its message, come from the runtime.
    fn watch() -> Result<Self> {
        let stop = signals::first_sets_flag()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let signal = runtime.block_on(async { signals::first_signal() })?;
        let signals = Self {
            runtime,
            stop,
            phase: Arc::new(Mutex::new(Phase::Preparing)),
            stop_labelling: Arc::default(),
        };
        let (phase, stop_labelling) = (Arc::clone(&signals.phase), Arc::clone(&signals.stop_labelling));
        signals.runtime.spawn(async move {
            signal.await;
            // The lock is held to the end, so that the phase does not change.
            let phase = lock(&phase);
            match *phase {
                Phase::Preparing => {
                    note("stopped before any image was labelled: the same command starts again");
                    end(0)
                }
                Phase::Labelling => stop_labelling.notify_one(),
                Phase::Steps => note("stopping after this step; a second signal ends the process at once"),
            }
        });
        Ok(signals)
    }

    fn enter(&self, phase: Phase) {
        *lock(&self.phase) = phase;
    }

    /// Labels images to the end. The first signal ends the process at once, between two label maps.
    fn block_on(&self, label: impl Future<Output = Result<()>>) -> Result<()> {
        self.enter(Phase::Labelling);
        self.runtime.block_on(async {
            tokio::select! {
                labelled = label => labelled,
                () = self.stop_labelling.notified() => {
                    note("stopped while images were labelled: the same command goes on from there");
                    end(0)
                }
            }
        })
    }
}

/// Returns each of the teacher's texts as a class.
fn taught_classes(list: &ClassList, labelled: &[bool]) -> Vec<Class> {
    let classes = list.queries_as_classes().into_iter().zip(list.query_owners());
    let taught = classes.filter(|(_, owner)| match owner {
        QueryOwner::Class(id) => !labelled[usize::from(*id)],
        QueryOwner::Background => true,
    });
    taught.map(|(class, _)| class).collect()
}

/// Tells on standard error which files in the folder are not used as images.
fn tell_left_out(images: &TrainingImages) {
    for (file, reason) in &images.undecodable {
        note(format!("left out: {}: {reason}", file.display()));
    }
    if images.label_maps > 0 {
        note(format!(
            "{} label maps (.truth.png) next to images are not used as images",
            images.label_maps
        ));
    }
    images.left_out.messages().iter().for_each(note);
}

/// Says what is odd about labels that people drew. `are_alone` says that no teacher labels the other pixels.
fn tell_odd_labels(given: &GivenLabels, list: &ClassList, are_alone: bool) {
    let names: Vec<&str> = list.classes().iter().map(|class| class.name.as_str()).collect();
    let warnings = given.warnings(&names, are_alone).into_iter();
    warnings.for_each(|warning| note(format!("warning: {warning}")));
}

fn planned_labels(list: &ClassList, labelled: &[bool], given: &GivenLabels) -> PlannedLabels {
    let classes = list.classes().iter().zip(labelled).filter(|(_, labelled)| **labelled);
    PlannedLabels {
        classes: classes.map(|(class, _)| class.name.clone()).collect(),
        sha256: given.sha256.clone(),
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

fn planned_teacher(info: &ModelInfo, request: &SegmentOptions, pseudo_labels: PseudoLabels) -> PlannedTeacher {
    let whole_images = match pseudo_labels {
        PseudoLabels::EachView | PseudoLabels::None => None,
        PseudoLabels::Once => Some(PlannedInput {
            short_side: request.input.short_side.unwrap_or(info.options.short_side),
            scales: request.input.scales.clone(),
            resize: request.input.resize,
        }),
    };
    PlannedTeacher::new(info, &request.dense, whole_images)
}

/// Embeds the vocabulary in the teacher's space: one mean embedding per class with its synonyms, and one embedding per
/// background name.
fn embed(labeller: &mut dyn Labeller, list: &ClassList, templates: TemplateSet) -> Result<Classifier> {
    let mut embeddings = EmbeddedTexts::new();
    for texts in list.texts().chunks(TEXTS_AT_ONCE) {
        let embedded = labeller.embed_texts(texts, templates)?;
        embeddings.extend(texts.iter().cloned().zip(embedded));
    }
    Ok(list.classifier(&embeddings, Synonyms::Mean))
}

/// A progress bar on standard error. Shows nothing without a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new(steps: u64) -> Self {
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} steps, {msg}, {eta} left")
            .expect("the template names fields that indicatif has");
        Self(ProgressBar::new(steps).with_style(style))
    }

    fn show(&mut self, report: &StepReport, images_per_second: f64) {
        if self.0.position() + 1 < report.step {
            // After a resumption, earlier steps say nothing about the remaining time.
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
