//! `maskclip vocab`: manages named vocabularies from a shell, in the same store on disk as the server, or in what replicas
//! have in common.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::{Args, Subcommand};
use figment::value::Dict;

use super::arguments::{ConfigArguments, ModelsArguments, one_of};
use super::input::{read_classes, read_classes_from_standard_input};
use super::output::{note, print};
use crate::config::Config;
use crate::engine::Engine;
use crate::labeller::{ModelInfo, ServedModel};
use crate::shared::SharedState;
use crate::telemetry::MetricsRegistry;
use crate::vocabulary::VocabularyLimits;
use crate::vocabulary::{
    DiskStore, NamedVocabulary, Stored, Synonyms, TemplateSet, VocabularyDefinition, VocabularyError,
    VocabularyOptions, VocabularyRegistry, VocabularyText, form_advice, parse_class, write_vocabulary,
};

/// Pause between two updates of the progress line.
const PROGRESS_PAUSE: Duration = Duration::from_secs(1);

/// How long `embed` waits until what it has computed is on the disk.
const WRITING_LIMIT: Duration = Duration::from_secs(60);

type CommandResult = Result<(), Box<dyn std::error::Error>>;

/// Arguments of `maskclip vocab`.
#[derive(Debug, Args)]
pub struct VocabArguments {
    #[command(flatten)]
    config: ConfigArguments,
    #[command(subcommand)]
    command: VocabCommand,
}

#[derive(Debug, Subcommand)]
enum VocabCommand {
    /// List all vocabularies: name, number of classes and background names, shipped or defined.
    List,
    /// Print a vocabulary as text.
    ///
    /// Options follow a line `[options]`, and classes follow `[classes]`, one per line with synonyms after ';'.
    /// Background names follow `[background]`.
    Show {
        /// The vocabulary's name.
        name: String,
    },
    /// Define a vocabulary.
    Add {
        /// The vocabulary's name.
        name: String,
        /// The classes in the order of their ids, each with its synonyms: "person; man; woman".
        #[arg(required = true)]
        classes: Vec<String>,
        /// A background name, which competes with the classes. May be repeated.
        #[arg(long, value_name = "NAME")]
        background: Vec<String>,
        #[command(flatten)]
        options: OptionArguments,
        /// Replace the vocabulary if the name is taken.
        #[arg(long)]
        replace: bool,
    },
    /// Delete a vocabulary.
    ///
    /// The embeddings of its texts stay until other texts need the room.
    Remove {
        /// The vocabulary's name.
        name: String,
    },
    /// Define a vocabulary from a text file, in the form that `show` prints.
    ///
    /// '#' starts a comment. Every part may be missing. Lines before the first heading are classes.
    Import {
        /// The vocabulary's name.
        name: String,
        /// The file, or - for standard input.
        file: PathBuf,
        /// Replace the vocabulary if the name is taken.
        #[arg(long)]
        replace: bool,
    },
    /// Write a vocabulary to a text file, in the form that `import` reads.
    Export {
        /// The vocabulary's name.
        name: String,
        /// The file.
        file: PathBuf,
    },
    /// Embed vocabularies ahead, so that no server has to.
    Embed {
        /// The names of the vocabularies.
        #[arg(required = true)]
        names: Vec<String>,
        /// The prompt templates. By default, the vocabulary's own, else defaults.templates.
        #[arg(long, value_name = "NAME", value_parser = one_of::<TemplateSet>())]
        templates: Option<TemplateSet>,
        #[command(flatten)]
        models: ModelsArguments,
    },
}

/// The options of a vocabulary, which replace the server's defaults.
#[derive(Debug, Args)]
struct OptionArguments {
    /// The prompt templates.
    #[arg(long, value_name = "NAME", value_parser = one_of::<TemplateSet>())]
    templates: Option<TemplateSet>,
    /// How the scores of a class's synonyms are combined.
    #[arg(long, value_name = "METHOD", value_parser = one_of::<Synonyms>())]
    synonyms: Option<Synonyms>,
    /// A class whose best probability in the image is lower than this is dropped.
    #[arg(long, value_name = "THRESHOLD")]
    prompt_denoising: Option<f32>,
    /// A pixel whose best class has a lower probability than this is background.
    #[arg(long, value_name = "THRESHOLD")]
    background_threshold: Option<f32>,
    /// A class that covers at most this share of the foreground is dropped.
    #[arg(long, value_name = "SHARE")]
    background_area: Option<f64>,
}

impl From<OptionArguments> for VocabularyOptions {
    fn from(arguments: OptionArguments) -> Self {
        Self {
            templates: arguments.templates,
            synonyms: arguments.synonyms,
            prompt_denoising: arguments.prompt_denoising,
            background_threshold: arguments.background_threshold,
            background_area: arguments.background_area,
        }
    }
}

/// Runs one command on the store that the settings name.
pub fn run(arguments: VocabArguments) -> CommandResult {
    let flags = match &arguments.command {
        VocabCommand::Embed { models, .. } => models.settings(),
        _ => Dict::new(),
    };
    let config = arguments.config.start(flags)?;
    let disk = open_disk(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(run_on(arguments.command, &config, &disk));
    disk.close();
    done
}

async fn run_on(command: VocabCommand, config: &Config, disk: &Arc<DiskStore>) -> CommandResult {
    let shared = SharedState::start(&config.shared, &MetricsRegistry::new()).await?;
    let limits = config.vocabulary.registry_limits(&config.limits.vocabulary);
    let registry = VocabularyRegistry::with_shared(limits, Some(Arc::clone(disk)), shared.clone(), SystemTime::now());
    let registry = Arc::new(registry);
    registry.take_over_shared().await?;
    match command {
        VocabCommand::List => list(&registry),
        VocabCommand::Show { name } => Ok(print(&text_of(&*registry.get(&name)?))?),
        VocabCommand::Add {
            name,
            classes,
            background,
            options,
            replace,
        } => {
            let text = VocabularyText {
                classes: classes.iter().filter_map(|text| parse_class(text)).collect(),
                background,
                options: options.into(),
            };
            define(&registry, name, text, replace, &config.limits.vocabulary).await
        }
        VocabCommand::Remove { name } => Ok(registry.delete(name, |_| true).await?),
        VocabCommand::Import { name, file, replace } => {
            let text = match file.as_os_str() == "-" {
                true => read_classes_from_standard_input()?,
                false => read_classes(&file)?,
            };
            define(&registry, name, text, replace, &config.limits.vocabulary).await
        }
        VocabCommand::Export { name, file } => {
            let text = text_of(&*registry.get(&name)?);
            Ok(std::fs::write(&file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))?)
        }
        VocabCommand::Embed { names, templates, .. } => {
            let vocabularies = names.iter().map(|name| registry.get(name));
            let vocabularies = vocabularies.collect::<Result<Vec<_>, _>>()?;
            let models = config.asked_models().find_all()?;
            embed(config, models, disk, shared, &vocabularies, templates).await
        }
    }
}

/// Opens the store on disk, without which these commands are of no use.
fn open_disk(config: &Config) -> Result<Arc<DiskStore>, String> {
    let path = config.vocabulary.store_path.file();
    let path = path.ok_or("there is no store on disk: vocabulary.store_path is none, or auto without a HOME")?;
    DiskStore::open(&path, config.vocabulary.store_bytes)
        .map_err(|error| format!("the store {} cannot be used: {error}", path.display()))
}

fn list(registry: &VocabularyRegistry) -> CommandResult {
    let lines = registry.list().into_iter().map(|vocabulary| {
        let (classes, background) = (vocabulary.list.classes().len(), vocabulary.list.background().len());
        let origin = if vocabulary.shipped { "shipped" } else { "defined" };
        format!(
            "{:<24} {classes:>5} classes {background:>4} background  {origin}\n",
            vocabulary.name
        )
    });
    Ok(print(&lines.collect::<String>())?)
}

async fn define(
    registry: &Arc<VocabularyRegistry>,
    name: String,
    text: VocabularyText,
    replace: bool,
    limits: &VocabularyLimits,
) -> CommandResult {
    let definition = VocabularyDefinition::new(text, limits)?;
    form_advice(&definition.list).iter().for_each(note);
    let condition = move |current: Option<&str>| replace || current.is_none();
    let put = registry.put(name.clone(), definition, condition, SystemTime::now());
    let (vocabulary, stored) = match put.await {
        Err(VocabularyError::Changed { .. }) => {
            return Err(format!("the vocabulary {name:?} exists already; use --replace to replace it").into());
        }
        result => result?,
    };
    let done = match stored {
        Stored::Created => "created",
        Stored::Replaced => "replaced",
    };
    Ok(print(&format!(
        "{done} {name}: {} classes\n",
        vocabulary.list.classes().len()
    ))?)
}

/// Embeds vocabularies with an engine of its own, as a server would.
async fn embed(
    config: &Config,
    models: Vec<ServedModel>,
    disk: &Arc<DiskStore>,
    shared: Option<Arc<SharedState>>,
    vocabularies: &[Arc<NamedVocabulary>],
    templates: Option<TemplateSet>,
) -> CommandResult {
    let metrics = &MetricsRegistry::new();
    let disk_store = Some(Arc::clone(disk));
    let engine = Engine::start_replica(config.engine_settings(), models, disk_store, shared, metrics);
    let models = engine.ready().await?;
    for vocabulary in vocabularies {
        let templates = templates.unwrap_or_else(|| config.defaults.with(&vocabulary.options).templates);
        for model in &models {
            embed_one(&engine, model, vocabulary, templates, disk).await?;
        }
    }
    Ok(())
}

/// Embeds one vocabulary for one model. Shows the progress on a terminal.
async fn embed_one(
    engine: &Engine,
    model: &ModelInfo,
    vocabulary: &NamedVocabulary,
    templates: TemplateSet,
    disk: &DiskStore,
) -> CommandResult {
    let NamedVocabulary { name, list, .. } = vocabulary;
    let (held, total) = engine.embedded(model, list, templates).await;
    let start = Instant::now();
    let progress = async {
        loop {
            tokio::time::sleep(PROGRESS_PAUSE).await;
            let (embedded, _) = engine.embedded(model, list, templates).await;
            if std::io::stderr().is_terminal() {
                eprint!("\r{name}: {embedded} of {total} texts");
            }
        }
    };
    tokio::select! {
        embedded = engine.embed_ahead(&model.name, list, templates) => embedded?,
        () = progress => unreachable!("progress is shown without end"),
    }
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    disk.wait_until_written(WRITING_LIMIT);
    if disk.given_up() > 0 {
        return Err(
            format!("the embeddings of {name} could not be written to the store; the log has the reason").into(),
        );
    }
    let (embedded, _) = engine.embedded(model, list, templates).await;
    let seconds = start.elapsed().as_secs_f64();
    Ok(print(&format!(
        "{name}: {embedded} of {total} texts embedded for {} with {}, {} of them now, in {seconds:.1} s\n",
        model.name,
        templates.name(),
        embedded.saturating_sub(held),
    ))?)
}

fn text_of(vocabulary: &NamedVocabulary) -> String {
    write_vocabulary(&vocabulary.list, &vocabulary.options)
}
