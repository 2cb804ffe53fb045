//! What `eval` and `compare` share: which images, which classes, which requests, and the engine that answers them.

mod request;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use strum::VariantNames;

use super::arguments::{ConfigArguments, ModelArguments};
use super::disk::open_disk;
use crate::api::ClassBody;
use crate::config::Config;
use crate::engine::Protocol;
use crate::engine::{Engine, FeatureFields, SegmentFields, VocabularyChoice};
use crate::evaluation::{Corruption, Dataset, EvaluationRun, EvaluationTask, FolderLayout, Layout, Recorder, Subject};
use crate::labeller::ModelInfo;
use crate::telemetry::{self, MetricsRegistry};
use crate::vocabulary::{Class, ClassList, VocabularyDefinition, VocabularyRegistry, VocabularyText, parse_vocabulary};

pub use request::{Axis, RequestArguments, ScoringArguments, resolve, set_all, several};

/// What a command ends with: words for whoever typed it.
pub type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// Headings in the help.
const REQUEST: &str =
    "Request (what is not given has its default; `compare` takes several values, separated by commas)";
pub const RESULTS: &str = "Results";

/// The layout of folders that are no published data set.
const FOLDER: &str = "folder";

/// Which images are measured, and against what.
#[derive(Debug, Args)]
#[command(next_help_heading = "Images and classes")]
pub struct MeasureArguments {
    /// The data set's root: for a folder that of its images.
    root: PathBuf,
    /// How the root is laid out: folder (images, and truths as index PNGs), voc-20, voc-21, pascal-context-59,
    /// pascal-context-60, coco-stuff, coco-object, ade20k or cityscapes. docs/evaluation.md describes each.
    #[arg(long, value_name = "NAME", default_value = FOLDER, value_parser = parse_layout)]
    layout: LayoutChoice,
    /// The classes in the order of the truths' values: a text file (one class a line, synonyms after ';', background names
    /// after a line `[background]`) or a vocabulary's name. A published layout has its own without it.
    #[arg(long, value_name = "FILE|NAME")]
    classes: Option<String>,
    /// What competes with the classes for the background: a text file of names, `shipped` for vocabulary.background, or `none`.
    /// A class called "background" gets their pixels. Without it, what the vocabulary says.
    #[arg(long, value_name = "FILE|shipped|none")]
    background: Option<String>,
    /// Of a folder: where the truths are, if not beside the images.
    #[arg(long, value_name = "FOLDER")]
    truth: Option<PathBuf>,
    /// Of a folder: what a truth's name has in place of its image's ending; `.truth.png` beside the images, `.png` elsewhere.
    #[arg(long, value_name = "TEXT")]
    truth_ending: Option<String>,
    /// Of a folder: 0 is not counted and the classes start at 1.
    #[arg(long)]
    reduce_zero_label: bool,
    /// Everything as a published protocol has it, as in `sclip-voc21` (docs/options.md); the flags below overrule it.
    #[arg(long, value_name = "NAME", help_heading = REQUEST)]
    protocol: Option<Protocol>,
    /// Classes of the zero-shot protocol that training must not see: names separated by commas, or a text file.
    #[arg(long, value_name = "FILE|NAMES")]
    unseen: Option<String>,
    /// Measure the first images alone.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Corrupt each image first: gaussian-noise, shot-noise, impulse-noise, speckle-noise, gaussian-blur, defocus-blur, spatter or
    /// jpeg, with ImageNet-C's severity, 1 to 5; or `none`. `compare` takes several, separated by commas.
    #[arg(long, value_name = "NAME:SEVERITY", value_delimiter = ',', value_parser = parse_corruption)]
    pub corruption: Vec<CorruptionChoice>,
    /// Keep what was measured in this file, and go on from there when it exists.
    #[arg(long, value_name = "FILE", help_heading = RESULTS)]
    state: Option<PathBuf>,
    #[command(flatten, next_help_heading = REQUEST)]
    pub request: RequestArguments,
    #[command(flatten, next_help_heading = "Model and settings")]
    config: ConfigArguments,
    #[command(flatten)]
    model: ModelArguments,
}

/// A corruption, or none.
pub type CorruptionChoice = (String, Option<Corruption>);

fn parse_corruption(text: &str) -> Result<CorruptionChoice, String> {
    let corruption = if text == "none" { None } else { Some(text.parse()?) };
    Ok((text.to_owned(), corruption))
}

#[derive(Debug, Clone, Copy)]
enum LayoutChoice {
    Folder,
    Published(Layout),
}

impl LayoutChoice {
    fn name(self) -> &'static str {
        match self {
            Self::Folder => FOLDER,
            Self::Published(layout) => layout.name(),
        }
    }
}

fn parse_layout(name: &str) -> Result<LayoutChoice, String> {
    if name == FOLDER {
        return Ok(LayoutChoice::Folder);
    }
    name.parse().map(LayoutChoice::Published).map_err(|_| {
        let names = Layout::VARIANTS.join(", ");
        format!("no layout is called {name:?}: {FOLDER}, {names}")
    })
}

/// Everything that is needed to measure.
pub struct Bench {
    pub config: Config,
    pub dataset: Dataset,
    pub engine: Arc<Engine>,
    pub model: Arc<ModelInfo>,
    /// The classes with their background, and what the vocabulary has in place of the defaults.
    pub vocabulary: VocabularyDefinition,
    /// Which classes are unseen, `[classes]`, if any were named.
    pub unseen: Option<Vec<bool>>,
    /// The fields of the request without any of the axes.
    pub fields: SegmentFields,
    /// The same in JSON, as reports show it.
    pub request: Value,
    pub recorder: Recorder,
    pub subject: Subject,
}

/// Runs `measure` on a bench made from the arguments: settings, data set, classes, model, in the order in which mistakes cost
/// least time.
pub fn with_bench<F, Fut>(arguments: &MeasureArguments, measure: F) -> Result<()>
where
    F: FnOnce(Bench) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let config = Config::load(arguments.config.config.as_deref(), arguments.model.settings())?;
    telemetry::start_logs(&config.telemetry)?;
    let dataset = arguments.dataset()?;
    let recorder = match &arguments.state {
        Some(path) => Recorder::open(path)?,
        None => Recorder::in_memory(),
    };
    let model = config.asked_models().find_first()?;
    let disk = open_disk(&config.vocabulary);
    let registry = VocabularyRegistry::new(
        config.limits.vocabulary.max_vocabularies,
        disk.clone(),
        SystemTime::now(),
    );
    let vocabulary = arguments.vocabulary(&registry, &config)?;
    let unseen = arguments.unseen(&vocabulary.list)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let settings = config.engine_settings().without_images();
            let engine = Engine::start(settings, vec![model], disk, &MetricsRegistry::new());
            let model = engine.ready().await?.remove(0);
            let list = &vocabulary.list;
            let classes: Vec<ClassBody> = list.classes().iter().cloned().map(Into::into).collect();
            let request = json!({
                "classes": classes,
                "background": {"names": list.background()},
                "protocol": arguments.protocol,
            });
            let fields = SegmentFields {
                features: FeatureFields {
                    protocol: arguments.protocol,
                    ..FeatureFields::default()
                },
                vocabulary: Some(VocabularyChoice::Defined(vocabulary.clone())),
                ..SegmentFields::default()
            };
            let subject = Subject {
                layout: arguments.layout.name(),
                root: arguments.root.display().to_string(),
                images: dataset.samples.len(),
                images_without_truth: dataset.images_without_truth,
                ..Subject::new(&model)
            };
            measure(Bench {
                config,
                dataset,
                engine,
                model,
                fields,
                request,
                unseen,
                vocabulary,
                recorder,
                subject,
            })
            .await
        })
}

impl MeasureArguments {
    fn dataset(&self) -> Result<Dataset> {
        let mut dataset = match self.layout {
            LayoutChoice::Published(_)
                if self.truth.is_some() || self.truth_ending.is_some() || self.reduce_zero_label =>
            {
                let flags = "--truth, --truth-ending and --reduce-zero-label";
                return Err(format!("{flags} are for folders; {} has its own", self.layout.name()).into());
            }
            LayoutChoice::Published(layout) => layout.open(&self.root)?,
            LayoutChoice::Folder => {
                let beside = self.truth.as_ref().is_none_or(|truth| *truth == self.root);
                let ending = if beside { ".truth.png" } else { ".png" };
                FolderLayout {
                    images: self.root.clone(),
                    truths: self.truth.clone().unwrap_or_else(|| self.root.clone()),
                    truth_ending: self.truth_ending.clone().unwrap_or_else(|| ending.to_owned()),
                    reduce_zero: self.reduce_zero_label,
                }
                .open()?
            }
        };
        if let Some(limit) = self.limit {
            dataset.samples.truncate(limit as usize);
        }
        if dataset.images_without_truth > 0 {
            eprintln!("{} images without a truth are left out", dataset.images_without_truth);
        }
        Ok(dataset)
    }

    /// The classes, from the first of: the flag, the protocol, the layout.
    fn vocabulary(&self, registry: &VocabularyRegistry, config: &Config) -> Result<VocabularyDefinition> {
        let name = match (&self.classes, self.protocol, self.layout) {
            (Some(name), ..) => name.as_str(),
            (None, Some(protocol), _) => protocol.vocabulary(),
            (None, None, LayoutChoice::Published(layout)) => layout.vocabulary(),
            (None, None, LayoutChoice::Folder) => {
                return Err("a folder says nothing of its classes: --classes FILE, or a vocabulary's name".into());
            }
        };
        let mut vocabulary = find_vocabulary(name, registry, config)?;
        let list = &mut vocabulary.list;
        if let LayoutChoice::Published(layout) = self.layout
            && list.classes().len() != layout.classes()
        {
            let (given, expected) = (list.classes().len(), layout.classes());
            return Err(format!("{} has {expected} classes, but {name} has {given}", layout).into());
        }
        if let Some(background) = &self.background {
            *list = with_background(list, background, config)?;
        }
        Ok(vocabulary)
    }

    /// Which classes are unseen.
    fn unseen(&self, list: &ClassList) -> Result<Option<Vec<bool>>> {
        let named = |text: &String| classes_named(list, text, "--unseen");
        self.unseen.as_ref().map(named).transpose()
    }
}

/// Which classes a flag names, separated by commas or in a text file: `[classes]`.
pub fn classes_named(list: &ClassList, text: &str, flag: &str) -> Result<Vec<bool>> {
    let names = match Path::new(text).is_file() {
        true => names(&read(Path::new(text))?)?,
        false => text.split(',').map(|name| name.trim().to_owned()).collect(),
    };
    let mut named = vec![false; list.classes().len()];
    for name in names {
        let place = list.classes().iter().position(|class| class.name == name);
        named[place.ok_or_else(|| format!("{flag}: no class is called {name:?}"))?] = true;
    }
    Ok(named)
}

/// The vocabulary that `--classes` means: a text file's, or one that is known by name.
pub fn find_vocabulary(name: &str, registry: &VocabularyRegistry, config: &Config) -> Result<VocabularyDefinition> {
    if Path::new(name).is_file() {
        let text = parse_vocabulary(&read(Path::new(name))?).map_err(|error| format!("--classes {name}: {error}"))?;
        return Ok(VocabularyDefinition::new(text, &config.limits.vocabulary)?);
    }
    let vocabulary = registry.get(name);
    let vocabulary = vocabulary.map_err(|error| format!("--classes {name} is no file, and {error}"))?;
    Ok(VocabularyDefinition {
        list: vocabulary.list.as_ref().clone(),
        options: vocabulary.options,
    })
}

/// The list with what `--background` means: a text file of names, those that are shipped, or none.
pub fn with_background(list: &ClassList, background: &str, config: &Config) -> Result<ClassList> {
    let names = match background {
        "none" => Vec::new(),
        "shipped" => config.vocabulary.background.clone(),
        file => names(&read(Path::new(file))?)?,
    };
    Ok(list.with_background(&names, &config.limits.vocabulary)?)
}

/// All names of a text, synonyms and background too.
fn names(text: &str) -> Result<Vec<String>> {
    let VocabularyText {
        classes, background, ..
    } = parse_vocabulary(text)?;
    let names = classes.iter().flat_map(Class::texts).map(str::to_owned);
    Ok(names.chain(background).collect())
}

fn read(file: &Path) -> Result<String> {
    Ok(std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?)
}

impl Bench {
    /// The task for the fields of a request; its texts are embedded when this returns, so that no image waits for them.
    pub async fn task(&self, fields: SegmentFields, corruption: Option<Corruption>) -> Result<EvaluationTask> {
        let options = resolve(&fields, self.engine.settings(), &self.vocabulary.options, &self.model)?;
        self.engine.embed_for(&fields).await?;
        let classes = self.vocabulary.list.classes();
        Ok(EvaluationTask {
            fields,
            options,
            names: classes.iter().map(|class| class.name.clone()).collect(),
            corruption,
        })
    }

    /// A run of a task.
    pub fn run<'a>(&'a self, dataset: &'a Dataset, task: &'a EvaluationTask) -> EvaluationRun<'a> {
        EvaluationRun {
            engine: &self.engine,
            dataset,
            task,
            patience: Duration::from_secs_f64(self.config.engine.max_deadline_seconds),
            max_image_pixels: self.config.limits.input.max_image_pixels,
        }
    }
}

/// A bar on standard error that counts images; silent where that is no terminal.
pub fn progress(images: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} images, {eta} left")
        .expect("the template names fields that indicatif has");
    ProgressBar::new(images as u64).with_style(style)
}

/// Writes a file that was asked for.
pub fn write(file: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    Ok(std::fs::write(file, bytes).map_err(|error| format!("cannot write {}: {error}", file.display()))?)
}
