//! What `eval` and `compare` share: which images, which classes, which requests, and the engine that answers them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;
use figment::value::Dict;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::arguments::{ConfigArguments, ModelArguments};
use super::disk::open_disk;
use crate::api::error::ApiError;
use crate::api::{ClassBody, segment};
use crate::config::{Config, Protocol};
use crate::engine::clip_labeller::ClipModel;
use crate::engine::{Engine, EngineSettings, ModelInfo};
use crate::evaluation::{Corruption, Dataset, FolderLayout, Layout, Recorder, Run, Subject, Task};
use crate::telemetry::{self, Metrics};
use crate::vocabulary::{
    ClassList, Registry, VocabularyDefinition, VocabularyOptions, VocabularyText, parse_vocabulary,
};

/// What a command ends with: words for whoever typed it.
pub type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// The layout of folders that are no published data set.
const FOLDER: &str = "folder";

/// Which images are measured, and against what.
#[derive(Debug, Args)]
pub struct MeasureArguments {
    /// The data set's root: for a folder that of its images.
    root: PathBuf,
    /// How the root is laid out: folder (images, and truths as index PNGs), voc-20, voc-21, pascal-context-59,
    /// pascal-context-60, coco-stuff, coco-object, ade20k or cityscapes. docs/evaluation.md describes each.
    #[arg(long, default_value = FOLDER, value_parser = parse_layout)]
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
    /// Everything as a published protocol has it, as in `sclip-voc21` (docs/options.md); other flags go before it.
    #[arg(long, value_name = "NAME")]
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
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    #[command(flatten)]
    pub request: RequestArguments,
    #[command(flatten)]
    config: ConfigArguments,
    #[command(flatten)]
    model: ModelArguments,
}

/// The fields of a request to segment, each a flag. Values are those of the API; a setting's default stands for what is not
/// given. `compare` takes several of each, separated by commas.
#[derive(Debug, Args)]
pub struct RequestArguments {
    /// What the last attention does (attention).
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    attention: Vec<String>,
    /// Key smoothing (key_smoothing): none, formula, reference or reference:THRESHOLD.
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    key_smoothing: Vec<String>,
    /// Prompt denoising (prompt_denoising), 0 for none.
    #[arg(long, value_name = "THRESHOLD", value_delimiter = ',')]
    prompt_denoising: Vec<String>,
    /// Short side of the model's input in pixels (short_side).
    #[arg(long, value_name = "PIXELS", value_delimiter = ',')]
    short_side: Vec<String>,
    /// Factors on the short side (scales), joined by '+': the image is scored at each of these sizes, as in 0.75+1+1.5.
    #[arg(long, value_name = "FACTOR+...", value_delimiter = ',')]
    scales: Vec<String>,
    /// How the image comes to that size (resize): bicubic or mmcv.
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    resize: Vec<String>,
    /// Windows through which the model sees its input (window): none, or SIDE/STRIDE in pixels.
    #[arg(long, value_name = "SIDE/STRIDE", value_delimiter = ',')]
    window: Vec<String>,
    /// What is done to scores at the image's size (refinement).
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    refinement: Vec<String>,
    /// Prompt templates (templates).
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    templates: Vec<String>,
    /// What a class's synonyms come to (synonyms): mean or max.
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    synonyms: Vec<String>,
    /// Factor on cosines before the softmax (temperature).
    #[arg(long, value_name = "FACTOR", value_delimiter = ',')]
    temperature: Vec<String>,
    /// A pixel whose best class has a lower probability is background (background.threshold).
    #[arg(long, value_name = "PROBABILITY", value_delimiter = ',')]
    background_threshold: Vec<String>,
    /// A class that covers at most this share of what has a class is dropped (background.area).
    #[arg(long, value_name = "SHARE", value_delimiter = ',')]
    background_area: Vec<String>,
}

/// A setting with the values it was given.
pub struct Axis<'a> {
    /// What tables call it.
    pub name: &'static str,
    /// Where it stands in the request, a JSON pointer.
    pointer: &'static str,
    /// What a typed value is there.
    read: fn(&str) -> Value,
    /// The values, as they were typed.
    pub values: &'a [String],
}

impl RequestArguments {
    /// Every setting. A new field of the request is a flag above and a line here.
    pub fn axes(&self) -> [Axis<'_>; 13] {
        let axis = |name, pointer, values| Axis {
            name,
            pointer,
            read: json_value,
            values,
        };
        [
            axis("attention", "/attention", self.attention.as_slice()),
            axis("key smoothing", "/key_smoothing", &self.key_smoothing),
            axis("prompt denoising", "/prompt_denoising", &self.prompt_denoising),
            axis("short side", "/short_side", &self.short_side),
            Axis {
                read: json_list,
                ..axis("scales", "/scales", &self.scales)
            },
            axis("resize", "/resize", &self.resize),
            axis("window", "/window", &self.window),
            axis("refinement", "/refinement", &self.refinement),
            axis("templates", "/templates", &self.templates),
            axis("synonyms", "/synonyms", &self.synonyms),
            axis("temperature", "/temperature", &self.temperature),
            axis(
                "background threshold",
                "/background/threshold",
                &self.background_threshold,
            ),
            axis("background area", "/background/area", &self.background_area),
        ]
    }
}

impl Axis<'_> {
    /// Puts one of the values into a request.
    pub fn set(&self, request: &mut Value, text: &str) {
        let (folder, field) = self.pointer.rsplit_once('/').expect("a pointer starts with a slash");
        let parent = request
            .pointer_mut(folder)
            .expect("a request has its background from the start");
        parent[field] = (self.read)(text);
    }
}

/// What a typed value is in JSON: a number, a method with its threshold (`reference:0.9`), a window (`224/112`), or a name.
fn json_value(text: &str) -> Value {
    let number = |text: &str| serde_json::from_str(text).ok().filter(Value::is_number);
    if let Some(number) = number(text) {
        return number;
    }
    if let Some((side, stride)) = text.split_once('/')
        && let (Some(side), Some(stride)) = (number(side), number(stride))
    {
        return json!({"side": side, "stride": stride});
    }
    if let Some((method, threshold)) = text.split_once(':')
        && let Some(threshold) = number(threshold)
    {
        return json!({"method": method, "threshold": threshold});
    }
    json!(text)
}

/// Values joined by '+' as a list.
fn json_list(text: &str) -> Value {
    text.split('+').map(json_value).collect()
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
    let layout = Layout::ALL.into_iter().find(|layout| layout.name() == name);
    layout.map(LayoutChoice::Published).ok_or_else(|| {
        let names = Layout::ALL.map(Layout::name).join(", ");
        format!("no layout is called {name:?}: {FOLDER}, {names}")
    })
}

/// Everything that is needed to measure.
pub struct Bench {
    pub config: Config,
    pub dataset: Dataset,
    pub engine: Arc<Engine>,
    pub model: Arc<ModelInfo>,
    /// The class list with its background.
    pub list: ClassList,
    /// What the vocabulary has in place of the defaults.
    options: VocabularyOptions,
    /// Which classes are unseen, `[classes]`, if any were named.
    pub unseen: Option<Vec<bool>>,
    /// The request without any of the axes.
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
    let flags = Dict::from([arguments.model.section()]);
    let config = Config::load(arguments.config.config.as_deref(), flags)?;
    telemetry::start_logs(&config.telemetry)?;
    let dataset = arguments.dataset()?;
    let recorder = match &arguments.state {
        Some(path) => Recorder::open(path)?,
        None => Recorder::in_memory(),
    };
    let model = ClipModel::find(&config.model)?;
    let disk = open_disk(&config.vocabulary);
    let registry = Registry::new(config.limits.max_vocabularies, disk.clone(), SystemTime::now());
    let VocabularyDefinition { list, options } = arguments.vocabulary(&registry, &config)?;
    let unseen = arguments.unseen(&list)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let settings = EngineSettings::from(&config);
            let engine = Engine::start(settings, model.into_factory(), disk, Arc::new(Metrics::new()));
            let model = engine.ready().await?;
            let classes: Vec<ClassBody> = list.classes().iter().cloned().map(Into::into).collect();
            let request = json!({
                "classes": classes,
                "background": {"names": list.background()},
                "protocol": arguments.protocol,
            });
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
                list,
                options,
                unseen,
                request,
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
    fn vocabulary(&self, registry: &Registry, config: &Config) -> Result<VocabularyDefinition> {
        let name = match (&self.classes, self.protocol, self.layout) {
            (Some(name), ..) => name.as_str(),
            (None, Some(protocol), _) => protocol.vocabulary(),
            (None, None, LayoutChoice::Published(layout)) => layout.vocabulary(),
            (None, None, LayoutChoice::Folder) => {
                return Err("a folder says nothing of its classes: --classes FILE, or a vocabulary's name".into());
            }
        };
        let mut vocabulary = if Path::new(name).is_file() {
            let text =
                parse_vocabulary(&read(Path::new(name))?).map_err(|error| format!("--classes {name}: {error}"))?;
            VocabularyDefinition::new(text, &config.limits)?
        } else {
            let vocabulary = registry.get(name);
            let vocabulary = vocabulary.map_err(|error| format!("--classes {name} is no file, and {error}"))?;
            VocabularyDefinition {
                list: vocabulary.list.as_ref().clone(),
                options: vocabulary.options,
            }
        };
        let list = &mut vocabulary.list;
        if let LayoutChoice::Published(layout) = self.layout
            && list.classes().len() != layout.classes()
        {
            let (given, expected) = (list.classes().len(), layout.classes());
            return Err(format!("{} has {expected} classes, but {name} has {given}", layout.name()).into());
        }
        let background = match self.background.as_deref() {
            None => None,
            Some("none") => Some(Vec::new()),
            Some("shipped") => Some(config.vocabulary.background.clone()),
            Some(file) => Some(names(&read(Path::new(file))?)?),
        };
        if let Some(names) = background {
            *list = list.with_background(&names, &config.limits)?;
        }
        Ok(vocabulary)
    }

    /// Which classes are unseen.
    fn unseen(&self, list: &ClassList) -> Result<Option<Vec<bool>>> {
        let Some(text) = &self.unseen else { return Ok(None) };
        let names = match Path::new(text).is_file() {
            true => names(&read(Path::new(text))?)?,
            false => text.split(',').map(|name| name.trim().to_owned()).collect(),
        };
        let mut unseen = vec![false; list.classes().len()];
        for name in names {
            let place = list.classes().iter().position(|class| class.name == name);
            unseen[place.ok_or_else(|| format!("--unseen: no class is called {name:?}"))?] = true;
        }
        Ok(Some(unseen))
    }
}

/// All names of a text, synonyms and background too.
fn names(text: &str) -> Result<Vec<String>> {
    let VocabularyText {
        classes, background, ..
    } = parse_vocabulary(text)?;
    let names = classes.into_iter().flat_map(|class| {
        let mut names = class.synonyms;
        names.insert(0, class.name);
        names
    });
    Ok(names.chain(background).collect())
}

fn read(file: &Path) -> Result<String> {
    Ok(std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?)
}

impl Bench {
    /// The engine's task for a request in JSON; its texts are embedded when this returns, so that no image waits for them.
    pub async fn task(&self, request: &Value, corruption: Option<Corruption>) -> Result<Task> {
        let request = segment::request_from_json(request, &self.config, &self.options, &self.model);
        let request = request.map_err(|error| match error {
            ApiError::Invalid {
                path: Some(path),
                detail,
                ..
            } => format!("{path}: {detail}"),
            error => error.to_string(),
        })?;
        self.engine.embed_ahead(&self.list, request.templates).await?;
        Ok(Task {
            request,
            names: self.list.classes().iter().map(|class| class.name.clone()).collect(),
            corruption,
        })
    }

    /// A run of a task.
    pub fn run<'a>(&'a self, dataset: &'a Dataset, task: &'a Task) -> Run<'a> {
        Run {
            engine: &self.engine,
            dataset,
            task,
            patience: Duration::from_secs_f64(self.config.engine.max_deadline_seconds),
            max_image_pixels: self.config.limits.max_image_pixels,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_values_are_numbers_names_or_methods_with_a_threshold() {
        assert_eq!(json_value("0.5"), json!(0.5));
        assert_eq!(json_value("448"), json!(448));
        assert_eq!(json_value("maskclip-85"), json!("maskclip-85"));
        assert_eq!(
            json_value("reference:0.9"),
            json!({"method": "reference", "threshold": 0.9})
        );
        assert_eq!(json_value("224/112"), json!({"side": 224, "stride": 112}));
        assert_eq!(json_value("true"), json!("true"));
        assert_eq!(json_list("0.75+1"), json!([0.75, 1]));
        assert_eq!(json_list("2"), json!([2]));
    }

    #[test]
    fn an_axis_sets_its_own_field() {
        let mut request = json!({"classes": [], "background": {"names": ["sky"]}});
        let axis = |pointer| Axis {
            name: "",
            pointer,
            read: json_value,
            values: &[],
        };
        axis("/background/threshold").set(&mut request, "0.3");
        axis("/attention").set(&mut request, "clip");
        assert_eq!(
            request,
            json!({"classes": [], "background": {"names": ["sky"], "threshold": 0.3}, "attention": "clip"})
        );
    }
}
