//! `maskclip label`: labels folders of images into the formats of other programs.

mod arguments;
mod local;
mod progress;
mod remote;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::Value;

use super::input::read_standard_input;
use super::measure::Result;
use super::output::{note, print};
use super::signals;
use crate::config::Config;
use crate::formats::{ClassLabel, Subject};
use crate::image::Orientation;
use crate::label_map::LabelStyle;
use crate::labelling::{
    Answer, Collected, EndOfRun, Input, Inputs, Journal, LabelRun, Naming, OutputFormat, Plan, Refusal, ResultNames,
    RunFolder, Skipped, collect, missing_parts,
};

use arguments::Shard;
use progress::Progress;

pub use arguments::LabelArguments;

/// How often a watched folder is looked at.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// Most skipped images that are listed on the terminal. The file lists all.
const MOST_LISTED: usize = 20;

/// The error of a run that came to its end, but could not label every image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SomeSkipped {
    skipped: usize,
    images: usize,
}

impl SomeSkipped {
    /// The exit status of such a run.
    pub const STATUS: i32 = 3;
}

impl fmt::Display for SomeSkipped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { skipped, images } = self;
        write!(
            formatter,
            "{skipped} of {images} images could not be labelled; skipped.csv lists them"
        )
    }
}

impl std::error::Error for SomeSkipped {}

/// Labels images, or merges the results of runs. Prints the files about all images to standard output.
pub fn run(arguments: LabelArguments) -> Result<()> {
    if arguments.run.merge {
        return merge(&arguments);
    }
    let config = arguments.config.start(arguments.model.settings())?;
    match arguments.run.server {
        None => local::run(&arguments, &config),
        Some(_) => remote::run(&arguments, &config),
    }
}

/// Writes the files about all images of several runs.
fn merge(arguments: &LabelArguments) -> Result<()> {
    let folders: Vec<&Path> = arguments.inputs.iter().map(Path::new).collect();
    let first = Plan::of(folders[0])?;
    for folder in &folders[1..] {
        first.check(&Plan::of(folder)?, folder)?;
    }
    check_classes(&first.classes, &arguments.results.formats())?;
    for part in missing_parts(&folders)? {
        note(format!("warning: {part}"));
    }
    let output = RunFolder::create(&arguments.results.out)?;
    let subject = subject(&first.classes, arguments);
    let collected = collect(&folders, &output, &subject, &arguments.results.formats())?;
    for file in &collected.files {
        print(&format!("{}\n", file.display()))?;
    }
    tell_skipped(
        &collected
            .skipped
            .iter()
            .map(|skipped| (&*skipped.file_name, &*skipped.reason))
            .collect::<Vec<_>>(),
    );
    ending(collected.skipped.len(), collected.images)
}

fn subject(classes: &[ClassLabel], arguments: &LabelArguments) -> Subject {
    Subject {
        classes: classes.to_vec(),
        image_prefix: arguments.results.image_prefix.clone(),
    }
}

/// Returns the classes as formats name them.
fn class_labels<'a>(names: impl Iterator<Item = &'a str>, style: &LabelStyle) -> Vec<ClassLabel> {
    let label = |(name, id): (&str, u16)| ClassLabel {
        name: name.to_owned(),
        color: style.color(id),
    };
    names.zip(0..).map(label).collect()
}

/// Checks that the classes have names that the formats can tell apart.
fn check_classes(classes: &[ClassLabel], formats: &[OutputFormat]) -> Result<()> {
    let mut names = HashSet::with_capacity(classes.len());
    let twice = classes.iter().find(|class| !names.insert(class.name.as_str()));
    match twice {
        Some(ClassLabel { name, .. }) if formats.contains(&OutputFormat::Datumaro) => {
            Err(format!("two classes have the name {name}: programs that read --format datumaro refuse that").into())
        }
        _ => Ok(()),
    }
}

/// Returns where the images are. A text `-` stands for the lines of standard input.
fn inputs(arguments: &LabelArguments) -> Result<Inputs> {
    let (mut texts, mut listed) = (Vec::with_capacity(arguments.inputs.len()), Vec::new());
    for text in &arguments.inputs {
        if text == "-" {
            let list = read_standard_input()?;
            listed.extend(list.lines().filter(|line| !line.is_empty()).map(str::to_owned));
        } else {
            texts.push(text.clone());
        }
    }
    let keeps_endings = arguments.results.keep_endings;
    Ok(Inputs::new(
        &texts,
        &listed,
        Naming { keeps_endings },
        &arguments.results.out,
    )?)
}

/// A run with everything but whoever labels an image.
struct Job<'a> {
    arguments: &'a LabelArguments,
    inputs: Inputs,
    subject: Subject,
    run: Arc<LabelRun>,
    journal: Journal,
    shard: Shard,
}

impl<'a> Job<'a> {
    /// Opens the folder of a run.
    ///
    /// # Errors
    /// When it holds labels of other settings, or cannot be written.
    fn open(
        arguments: &'a LabelArguments,
        config: &Config,
        inputs: Inputs,
        plan: &Plan,
        orientation: Orientation,
        jobs: usize,
    ) -> Result<Self> {
        let results = &arguments.results;
        check_classes(&plan.classes, &results.formats())?;
        let folder = RunFolder::create(&results.out)?;
        let shard = arguments.run.shard.unwrap_or(Shard::WHOLE);
        let journal = folder.journal(shard.index, shard.count)?;
        plan.keep(&journal)?;
        Ok(Self {
            arguments,
            inputs,
            subject: subject(&plan.classes, arguments),
            run: Arc::new(LabelRun {
                folder,
                formats: results.formats(),
                classes: plan.classes.clone(),
                style: results.style(),
                drawing: results.drawing(),
                orientation,
                max_image_pixels: config.limits.input.max_image_pixels,
                jobs: arguments.run.jobs.map_or(jobs, usize::from),
            }),
            journal,
            shard,
        })
    }

    /// Labels all images, and with `--watch` those that come later.
    async fn work<A, F>(mut self, ask: A) -> Result<()>
    where
        A: Fn(Bytes) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = std::result::Result<Answer, Refusal>> + Send + 'static,
    {
        if self.arguments.run.watch {
            return self.watch(ask).await;
        }
        let images = self.find()?;
        if images.is_empty() && self.shard == Shard::WHOLE {
            return Err("there is no image".into());
        }
        let end = self.label(&images, &ask).await?;
        self.journal.finish()?;
        self.collect()?;
        tell(&end);
        ending(end.skipped.len(), images.len())
    }

    /// Labels images as they come, until a signal ends it.
    async fn watch<A, F>(mut self, ask: A) -> Result<()>
    where
        A: Fn(Bytes) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = std::result::Result<Answer, Refusal>> + Send + 'static,
    {
        let mut stop = std::pin::pin!(signals::first_signal()?);
        let (mut changes, mut end) = (Changes::default(), EndOfRun::default());
        let (mut names, mut trouble) = (ResultNames::default(), String::new());
        loop {
            let settled = changes.of(self.look(&mut trouble));
            let (images, clashing) = self.with_own_names(settled, &mut names)?;
            let mut more = tokio::select! {
                _ = &mut stop => break,
                more = self.label(&images, &ask) => more?,
            };
            more.skipped.extend(clashing);
            if more.labelled + more.skipped.len() > 0 {
                self.journal.finish()?;
                self.collect()?;
            }
            end.add(more);
            tokio::select! {
                _ = &mut stop => break,
                () = tokio::time::sleep(WATCH_EVERY) => {}
            }
        }
        self.journal.finish()?;
        let skipped = self.collect()?.map_or(Vec::new(), |collected| collected.skipped);
        end.skipped = skipped;
        tell(&end);
        ending(end.skipped.len(), end.skipped.len() + end.labelled + end.known)
    }

    /// Returns the images of the shard.
    fn find(&self) -> Result<Vec<Input>> {
        Ok(self.of_shard(self.inputs.find()?))
    }

    fn of_shard(&self, mut images: Vec<Input>) -> Vec<Input> {
        let Shard { index, count } = self.shard;
        images.retain(|image| image.is_in_shard(index, count));
        images
    }

    /// Returns the images of the shard that are there now, none while they cannot be listed. Says why, unless that is
    /// the `trouble` of the last look.
    fn look(&self, trouble: &mut String) -> Vec<Input> {
        let (images, error) = match self.inputs.find_with_clashes() {
            Ok(images) => (self.of_shard(images), String::new()),
            Err(error) => (Vec::new(), error.to_string()),
        };
        if !error.is_empty() && error != *trouble {
            note(format!("trying again: {error}"));
        }
        *trouble = error;
        images
    }

    /// Divides images into those whose results have names of their own, and those whose results would overwrite
    /// others, which the journal notes. A name stays with the image that was labelled or came first.
    fn with_own_names(
        &mut self,
        mut images: Vec<Input>,
        names: &mut ResultNames,
    ) -> Result<(Vec<Input>, Vec<Skipped>)> {
        images.sort_by_key(|image| !self.journal.knows(&image.file_name));
        let mut clashing = Vec::new();
        images.retain(|image| match names.take(image) {
            Ok(()) => true,
            Err(error) => {
                let file_name = image.file_name.clone();
                let reason = error.to_string();
                clashing.push(Skipped { file_name, reason });
                false
            }
        });
        clashing.iter().try_for_each(|image| self.journal.skip(image))?;
        Ok((images, clashing))
    }

    async fn label<A, F>(&mut self, images: &[Input], ask: &A) -> Result<EndOfRun>
    where
        A: Fn(Bytes) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = std::result::Result<Answer, Refusal>> + Send + 'static,
    {
        if images.is_empty() {
            return Ok(EndOfRun::default());
        }
        let mut progress = Progress::new(images.len());
        let end = self
            .run
            .label(images, &mut self.journal, ask.clone(), |is_new| progress.pass(is_new))
            .await;
        progress.end();
        Ok(end?)
    }

    /// Writes the files about all images, if this is the last shard.
    fn collect(&self) -> Result<Option<Collected>> {
        let folder = &self.run.folder;
        if self.shard.count > 1 && !folder.is_finished(self.shard.count)? {
            note("other shards are not done: the last one writes the files about all images");
            return Ok(None);
        }
        let collected = collect(&[folder.path()], folder, &self.subject, &self.run.formats)?;
        for file in &collected.files {
            print(&format!("{}\n", file.display()))?;
        }
        Ok(Some(collected))
    }
}

/// The size and the time of change of a file, `None` where it cannot be looked at.
type FileLook = Option<(u64, SystemTime)>;

/// Notices files that are new or have changed, once nobody writes them any more.
#[derive(Default)]
struct Changes {
    /// The files at the last look, by their names.
    before: HashMap<String, FileLook>,
    /// The files as they were taken.
    taken: HashMap<String, FileLook>,
}

impl Changes {
    /// Returns the images whose files have been the same at this look and the last, and not been taken so.
    fn of(&mut self, images: Vec<Input>) -> Vec<Input> {
        let look = |image: &Input| {
            let found = std::fs::metadata(&image.path).ok()?;
            Some((found.len(), found.modified().ok()?))
        };
        let mut now = HashMap::with_capacity(images.len());
        let mut settled = Vec::new();
        for image in images {
            let look = look(&image);
            let name = image.file_name.clone();
            if self.before.get(&name) == Some(&look) && self.taken.get(&name) != Some(&look) {
                self.taken.insert(name.clone(), look);
                settled.push(image);
            }
            now.insert(name, look);
        }
        self.before = now;
        settled
    }
}

/// Says what a run came to.
fn tell(end: &EndOfRun) {
    for warning in &end.warnings {
        note(format!("warning: {warning}"));
    }
    tell_skipped(
        &end.skipped
            .iter()
            .map(|skipped| (&*skipped.file_name, &*skipped.reason))
            .collect::<Vec<_>>(),
    );
    let known = match end.known {
        0 => String::new(),
        known => format!(", {known} were labelled before"),
    };
    note(format!("{} images labelled{known}", end.labelled));
}

fn tell_skipped(skipped: &[(&str, &str)]) {
    for (file_name, reason) in skipped.iter().take(MOST_LISTED) {
        note(format!("skipped: {file_name}: {reason}"));
    }
    if let Some(more) = skipped.len().checked_sub(MOST_LISTED).filter(|more| *more > 0) {
        note(format!("skipped: {more} more"));
    }
}

/// Returns the error of a run that could not label every image.
fn ending(skipped: usize, images: usize) -> Result<()> {
    match skipped {
        0 => Ok(()),
        skipped => Err(SomeSkipped { skipped, images }.into()),
    }
}

/// Returns the request as JSON with its classes and background: what a plan records, and what a server is sent.
fn request_of(vocabulary: Value, arguments: &LabelArguments) -> Value {
    let mut request = vocabulary;
    arguments.report(&mut request);
    request
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn datumaro_has_no_two_classes_of_one_name() {
        let classes = class_labels(["cat", "dog", "cat"].into_iter(), &LabelStyle::default());
        let error = check_classes(&classes, &[OutputFormat::Png, OutputFormat::Datumaro]).unwrap_err();
        assert!(error.to_string().starts_with("two classes have the name cat: "));
        check_classes(&classes, &[OutputFormat::Png]).unwrap();
        check_classes(&classes[..2], &[OutputFormat::Datumaro]).unwrap();
    }

    #[test]
    fn a_file_is_taken_once_it_is_settled_and_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let image = Input {
            file_name: "a.png".to_owned(),
            name: "a".to_owned(),
            path: path.clone(),
        };
        let mut changes = Changes::default();
        let mut taken = || changes.of(vec![image.clone()]).len();
        std::fs::write(&path, "beginning").unwrap();
        assert_eq!(taken(), 0);
        std::fs::write(&path, "beginning and end").unwrap();
        assert_eq!([taken(), taken(), taken()], [0, 1, 0]);
        std::fs::write(&path, "something else, and longer").unwrap();
        assert_eq!([taken(), taken(), taken()], [0, 1, 0]);
    }
}
