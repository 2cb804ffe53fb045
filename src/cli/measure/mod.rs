//! What `eval` and `compare` share: images, classes, requests, and the engine that answers the requests.

mod request;
mod truths;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use strum::VariantNames;
use tokio::runtime::Runtime;

use super::arguments::{ConfigArguments, ModelArguments};
use super::command_engine::start_engine;
use super::disk::OpenStore;
use super::input::read_classes;
use super::output::note;
use crate::api::ClassBody;
use crate::config::Config;
use crate::engine::Protocol;
use crate::engine::{Engine, FeatureFields, SegmentFields, VocabularyChoice};
use crate::evaluation::{
    Corruption, Dataset, EvaluationResults, EvaluationRun, EvaluationTask, Layout, Recorder, RunWarning,
    RunWarningCode, SkippedImage, Subject,
};
use crate::labeller::ModelInfo;
use crate::support::visible;
use crate::vocabulary::{Class, ClassList, VocabularyDefinition, VocabularyRegistry, VocabularyText, form_advice};

use truths::{TruthArguments, TruthSource};

pub use request::{Axis, RequestArguments, ScoringArguments, resolve, set_all, several};

/// The result of a command. The error is a text for the user.
pub type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// Headings of the help.
const REQUEST: &str =
    "Request (fields left out have their defaults; `compare` takes several values, separated by commas)";
pub const RESULTS: &str = "Results";

/// Name of the layout for folders that are not a published data set.
const FOLDER: &str = "folder";

/// The flags that choose the images and their truths.
#[derive(Debug, Args)]
#[command(next_help_heading = "Images and classes")]
pub struct MeasureArguments {
    /// Root folder of the data set. For the layout folder, the folder of images.
    root: PathBuf,
    /// Layout of the root: folder (images, and truths as index PNGs), voc-20, voc-21, pascal-context-59,
    /// pascal-context-60, coco-stuff, coco-object, ade20k or cityscapes. docs/evaluation.md describes each.
    #[arg(long, value_name = "NAME", default_value = FOLDER, value_parser = parse_layout)]
    layout: LayoutChoice,
    /// The classes: a vocabulary's name, or a text file (one class per line, synonyms after ';', background names after a
    /// line `[background]`). Their order is that of the truths' values, unless --truth-classes or annotations name them.
    /// By default, the classes of a published layout, or those that the truths name.
    #[arg(long, value_name = "FILE|NAME")]
    classes: Option<String>,
    /// The background names, which compete with the classes: a text file of names, `shipped` for vocabulary.background,
    /// or `none`. A class called "background" gets their pixels. By default, the vocabulary's own names.
    #[arg(long, value_name = "FILE|shipped|none")]
    background: Option<String>,
    #[command(flatten)]
    truths: TruthArguments,
    /// A published protocol such as `sclip-voc21` (docs/options.md), which sets everything. The flags below override
    /// it.
    #[arg(long, value_name = "NAME", help_heading = REQUEST)]
    protocol: Option<Protocol>,
    /// The unseen classes of the zero-shot protocol, which training must not use: names separated by commas, or a text
    /// file.
    #[arg(long, value_name = "FILE|NAMES")]
    unseen: Option<String>,
    /// Skip images that cannot be read, or whose truths cannot, and list them at the end. By default, the first of them
    /// ends the run.
    #[arg(long)]
    skip_unreadable: bool,
    /// Measure only the first N images.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Corrupt each image before labelling it: gaussian-noise, shot-noise, impulse-noise, speckle-noise, gaussian-blur,
    /// defocus-blur, spatter or jpeg with a severity of ImageNet-C, 1 to 5; or `none`. `compare` takes several,
    /// separated by commas.
    #[arg(long, value_name = "NAME:SEVERITY", value_delimiter = ',', value_parser = parse_corruption)]
    pub corruption: Vec<CorruptionChoice>,
    /// Record measured images in this file. If the file exists, resume from it.
    #[arg(long, value_name = "FILE", help_heading = RESULTS)]
    state: Option<PathBuf>,
    #[command(flatten, next_help_heading = REQUEST)]
    pub request: RequestArguments,
    #[command(flatten, next_help_heading = "Model and settings")]
    config: ConfigArguments,
    #[command(flatten)]
    model: ModelArguments,
}

/// The text of a corruption with the corruption, or `none` with `None`.
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

/// Everything that a measurement needs.
pub struct Bench {
    pub config: Config,
    pub dataset: Dataset,
    /// Whether the data set is a published one, with its own rule for pixels that do not count.
    is_published: bool,
    pub engine: Arc<Engine>,
    pub model: Arc<ModelInfo>,
    /// The classes with their background, and the vocabulary's options.
    pub vocabulary: VocabularyDefinition,
    /// Which classes are unseen, `[classes]`; `None` if none were named.
    pub unseen: Option<Vec<bool>>,
    /// The fields of the request that are not axes.
    pub fields: SegmentFields,
    /// Whether images that cannot be read are skipped.
    pub skip_unreadable: bool,
    /// The same fields as JSON, for reports.
    pub request: Value,
    pub recorder: Recorder,
    pub subject: Subject,
}

/// Makes a bench from the arguments and runs `measure` on it. Loads settings, data set, classes and model in the order
/// in which mistakes cost the least time.
pub fn with_bench<F, Fut>(arguments: &MeasureArguments, measure: F) -> Result<()>
where
    F: FnOnce(Bench) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let config = arguments.config.start(arguments.model.settings())?;
    let source = arguments.truths.source(arguments.layout)?;
    let recorder = match &arguments.state {
        Some(path) => Recorder::open(path)?,
        None => Recorder::in_memory(),
    };
    let model = config.asked_models().find_first()?;
    let store = OpenStore::for_reading(&config.vocabulary);
    let registry = store.registry(&config);
    let vocabulary = arguments.vocabulary(&source, &registry, &config)?;
    let dataset = arguments.dataset(&source, &vocabulary.list)?;
    let unseen = arguments.unseen(&vocabulary.list)?;
    Runtime::new()?.block_on(async {
        let (engine, model) = start_engine(config.engine_settings(), model, &store).await?;
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
            left_out: dataset.left_out,
            ..Subject::new(&model)
        };
        measure(Bench {
            config,
            is_published: matches!(source, TruthSource::Published(_)),
            dataset,
            engine,
            model,
            fields,
            skip_unreadable: arguments.skip_unreadable,
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
    fn dataset(&self, source: &TruthSource, list: &ClassList) -> Result<Dataset> {
        let mut dataset = self.truths.dataset(source, &self.root, list)?;
        if let Some(limit) = self.limit {
            dataset.samples.truncate(limit as usize);
        }
        Ok(dataset)
    }

    /// Returns the classes named by the flag, else those of the protocol, else those of the layout or the truths.
    fn vocabulary(
        &self,
        source: &TruthSource,
        registry: &VocabularyRegistry,
        config: &Config,
    ) -> Result<VocabularyDefinition> {
        let find = |name: &str| find_vocabulary(name, registry, config);
        let (name, mut vocabulary) = match (&self.classes, self.protocol, self.layout) {
            (Some(name), ..) => (name.as_str(), find(name)?),
            (None, Some(protocol), _) => (protocol.vocabulary(), find(protocol.vocabulary())?),
            (None, None, LayoutChoice::Published(layout)) => (layout.vocabulary(), find(layout.vocabulary())?),
            (None, None, LayoutChoice::Folder) => {
                let names = source.names().ok_or(
                    "the layout folder needs --classes with a file or a vocabulary's name, or truths that name their classes",
                )?;
                let text = VocabularyText {
                    classes: names.into_iter().map(Class::from).collect(),
                    ..VocabularyText::default()
                };
                let definition = VocabularyDefinition::new(text, &config.limits.vocabulary)?;
                ("the truths", definition)
            }
        };
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
        form_advice(list).iter().for_each(note);
        Ok(vocabulary)
    }

    /// Returns which classes are unseen, `[classes]`, if the flag names any.
    fn unseen(&self, list: &ClassList) -> Result<Option<Vec<bool>>> {
        let named = |text: &String| classes_named(list, text, "--unseen");
        self.unseen.as_ref().map(named).transpose()
    }
}

/// Says what was odd about a run.
pub fn tell(warnings: &[RunWarning]) {
    for RunWarning { message, .. } in warnings {
        note(format!("warning: {message}"));
    }
}

/// Says which images were skipped.
///
/// # Errors
/// When no image was left.
pub fn tell_skipped(results: &EvaluationResults) -> Result<()> {
    for SkippedImage { reason, .. } in &results.skipped {
        note(format!("skipped: {reason}"));
    }
    match results.records.is_empty() {
        true => Err("no image could be read".into()),
        false => Ok(()),
    }
}

/// Returns which classes a flag names, `[classes]`. The flag holds names separated by commas, or the path of a text
/// file.
pub fn classes_named(list: &ClassList, text: &str, flag: &str) -> Result<Vec<bool>> {
    let names = match !names_no_file(text) {
        true => names(Path::new(text))?,
        false => text.split(',').map(|name| visible(name).into_owned()).collect(),
    };
    let mut named = vec![false; list.classes().len()];
    for name in names {
        let place = list.classes().iter().position(|class| class.name == name);
        named[place.ok_or_else(|| format!("{flag}: no class is called {name:?}"))?] = true;
    }
    Ok(named)
}

/// Returns the vocabulary that `--classes` names: the text file at this path, or the vocabulary of this name.
pub fn find_vocabulary(name: &str, registry: &VocabularyRegistry, config: &Config) -> Result<VocabularyDefinition> {
    if !names_no_file(name) {
        return find_file(name, config);
    }
    let vocabulary = registry.get(name);
    let vocabulary = vocabulary.map_err(|error| format!("--classes {name} is no file, and {error}"))?;
    Ok(VocabularyDefinition {
        list: vocabulary.list.as_ref().clone(),
        options: vocabulary.options,
    })
}

/// Returns the vocabulary of the text file at this path.
pub fn find_file(path: &str, config: &Config) -> Result<VocabularyDefinition> {
    let text = read_classes(Path::new(path))?;
    Ok(VocabularyDefinition::new(text, &config.limits.vocabulary)?)
}

/// Returns the list with the background that `--background` names: a text file of names, the shipped names, or none.
pub fn with_background(list: &ClassList, background: &str, config: &Config) -> Result<ClassList> {
    let names = match background {
        "none" => Vec::new(),
        "shipped" => config.vocabulary.background.clone(),
        file => names(Path::new(file))?,
    };
    Ok(list.with_background(&names, &config.limits.vocabulary)?)
}

/// Returns all names in a file, including synonyms and background names.
fn names(file: &Path) -> Result<Vec<String>> {
    let VocabularyText {
        classes, background, ..
    } = read_classes(file)?;
    let names = classes.iter().flat_map(Class::texts).map(str::to_owned);
    Ok(names.chain(background).collect())
}

/// Returns whether a text is not the path of something other than a folder. What cannot be read is an error of its own.
pub fn names_no_file(text: &str) -> bool {
    std::fs::metadata(text).map_or(true, |found| found.is_dir())
}

impl Bench {
    /// Returns the task for the fields of a request. Embeds its texts first, so that no image waits for them.
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

    /// Returns what was odd about a run on the data set.
    pub fn warnings(&self, results: &EvaluationResults) -> Vec<RunWarning> {
        let names: Vec<String> = self
            .vocabulary
            .list
            .classes()
            .iter()
            .map(|class| class.name.clone())
            .collect();
        let mut warnings = results.warnings(&self.dataset, &names, self.is_published);
        let advice = form_advice(&self.vocabulary.list).into_iter();
        warnings.extend(advice.map(|advice| RunWarning {
            code: RunWarningCode::ClassList,
            message: advice.to_string(),
        }));
        warnings
    }

    /// Returns a run of a task on a data set.
    pub fn run<'a>(&'a self, dataset: &'a Dataset, task: &'a EvaluationTask) -> EvaluationRun<'a> {
        EvaluationRun {
            engine: &self.engine,
            dataset,
            task,
            patience: Duration::from_secs_f64(self.config.engine.max_deadline_seconds),
            max_image_pixels: self.config.limits.input.max_image_pixels,
            skip_unreadable: self.skip_unreadable,
        }
    }
}

/// Returns a progress bar on standard error that counts images. Shows nothing without a terminal.
pub fn progress(images: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} images, {eta} left")
        .expect("the template names fields that indicatif has");
    ProgressBar::new(images as u64).with_style(style)
}

/// Writes a result to the file that a flag names.
pub fn write(file: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    Ok(std::fs::write(file, bytes).map_err(|error| format!("cannot write {}: {error}", file.display()))?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A class file, as text and as Windows saves it.
    #[test]
    fn a_file_of_names_means_the_same_whichever_editor_saved_it() {
        let config = Config::for_testing();
        let registry = OpenStore::for_reading(&config.vocabulary).registry(&config);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("names.txt").display().to_string();
        let text = "[options]\nsynonyms: max\n[classes]\ntiger; big cat\nlemon\n[background]\nsky\n";
        let (mut vocabularies, mut unseen, mut backgrounds) = (Vec::new(), Vec::new(), Vec::new());
        for [mark, end] in [
            ["", "\n"],
            ["\u{feff}", "\n"],
            ["", "\r\n"],
            ["\u{feff}", "\r\n"],
            ["\u{feff}", "\r"],
        ] {
            let write = |text: &str| std::fs::write(&file, format!("{mark}{text}").replace('\n', end)).unwrap();
            write(text);
            let vocabulary = find_vocabulary(&file, &registry, &config).unwrap();
            write("lemon\n");
            unseen.push(classes_named(&vocabulary.list, &file, "--unseen").unwrap());
            backgrounds.push(with_background(&vocabulary.list, &file, &config).unwrap());
            vocabularies.push(vocabulary);
        }
        assert_eq!(vocabularies[0].list.classes()[0].name, "tiger");
        assert_eq!(
            (&unseen[0], backgrounds[0].background()),
            (&vec![false, true], &["lemon".to_owned()][..])
        );
        vocabularies.dedup();
        unseen.dedup();
        backgrounds.dedup();
        assert_eq!((vocabularies.len(), unseen.len(), backgrounds.len()), (1, 1, 1));

        std::fs::write(&file, [0xff, 0xfe, b'a', 0]).unwrap();
        let error = find_vocabulary(&file, &registry, &config).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("cannot read {file}: it is UTF-16 text; save it as UTF-8")
        );
    }
}
