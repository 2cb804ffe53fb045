//! The way of the images of a run: each is read, asked about, written, and noted in the journal. Several are on their
//! way at once, so that whoever labels them never waits for a file.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::journal::{FileState, Line};
use super::output::{MISFIT, Material};
use super::{Drawing, EndOfRun, Input, Journal, LabelError, OutputFormat, RunFolder, Skipped, file_error};
use crate::formats::{ClassLabel, ClassMask, ClassMeasures, Georeference, LabelledImage};
use crate::image::{Orientation, RgbImage, decode};
use crate::label_map::LabelStyle;
use crate::support::{read_regular_file, replace_file, run_blocking};

/// Most different warnings that a run keeps.
const MOST_WARNINGS: usize = 20;

/// What is said of one image by whoever labels it.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Name of the model.
    pub model: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The measures of each class, in the order of their ids.
    pub classes: Vec<ClassMeasures>,
    /// The mask of each class that has pixels, lowest id first.
    pub masks: Vec<ClassMask>,
    /// The confidence map as a PNG, if it was asked for.
    pub confidence: Option<Vec<u8>>,
    /// The probability maps that were asked for as PNGs, each with the id of its class, by ascending id.
    pub probabilities: Vec<(u16, Vec<u8>)>,
    /// Warnings for people.
    pub warnings: Vec<String>,
}

/// Why an image has no labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It is the image's fault, or a mishap with this image alone. The run goes on.
    Image(String),
    /// No other image would fare better. The run ends.
    Run(String),
}

/// How a run labels: everything but the images.
#[derive(Debug)]
pub struct LabelRun {
    /// The folder of the run.
    pub folder: RunFolder,
    /// The formats of the results.
    pub formats: Vec<OutputFormat>,
    /// The classes in the order of their ids.
    pub classes: Vec<ClassLabel>,
    /// The values and colours of label maps.
    pub style: LabelStyle,
    /// How images are drawn over.
    pub drawing: Drawing,
    /// How the pixels of images are turned.
    pub orientation: Orientation,
    /// Largest width times height of an image that is drawn over.
    pub max_image_pixels: u64,
    /// The number of images that are on their way at once, at least 1.
    pub jobs: usize,
}

/// An image that has been read.
struct Read {
    bytes: Bytes,
    source: FileState,
}

/// What the journal is to say of an image, with the warnings about it.
type Outcome = Result<(Line, Vec<String>), LabelError>;

impl LabelRun {
    /// Labels the images that the journal does not have. `ask` labels one image. `passed` is called after each image,
    /// with whether it was labelled or tried now.
    ///
    /// Dropping the future gives up the images that are on their way; the journal stays right.
    ///
    /// # Errors
    /// [`LabelError`] when a result cannot be written, or `ask` refuses the run.
    pub async fn label<A, F>(
        self: &Arc<Self>,
        images: &[Input],
        journal: &mut Journal,
        ask: A,
        mut passed: impl FnMut(bool),
    ) -> Result<EndOfRun, LabelError>
    where
        A: Fn(Bytes) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Answer, Refusal>> + Send + 'static,
    {
        let mut end = EndOfRun::default();
        let mut running: JoinSet<Outcome> = JoinSet::new();
        for input in images {
            let state = fs::metadata(&input.path).and_then(|metadata| FileState::of(&metadata));
            if state.is_ok_and(|state| journal.is_done(&input.file_name, state, &self.paths(input))) {
                end.known += 1;
                passed(false);
                continue;
            }
            if running.len() >= self.jobs {
                note(running.join_next().await, journal, &mut end)?;
                passed(true);
            }
            running.spawn(Arc::clone(self).label_one(input.clone(), ask.clone()));
        }
        while let Some(outcome) = running.join_next().await {
            note(Some(outcome), journal, &mut end)?;
            passed(true);
        }
        Ok(end)
    }

    /// Returns the paths of an image's own files.
    fn paths(&self, input: &Input) -> Vec<String> {
        self.formats
            .iter()
            .filter_map(|format| format.path(&input.name))
            .collect()
    }

    async fn label_one<A, F>(self: Arc<Self>, input: Input, ask: A) -> Outcome
    where
        A: Fn(Bytes) -> F + Send + 'static,
        F: Future<Output = Result<Answer, Refusal>> + Send,
    {
        let file_name = input.file_name.clone();
        let skipped = |reason| {
            let line = Line::Skipped(Skipped {
                file_name: file_name.clone(),
                reason,
            });
            Ok((line, Vec::new()))
        };
        let path = input.path.clone();
        let Read { bytes, source } = match run_blocking(move || read(&path)).await {
            Ok(read) => read,
            Err(error) => return skipped(error.to_string()),
        };
        let answer = match ask(bytes.clone()).await {
            Ok(answer) => answer,
            Err(Refusal::Image(reason)) => return skipped(reason),
            Err(Refusal::Run(reason)) => {
                return Err(LabelError::Refused(format!("{}: {reason}", input.path.display())));
            }
        };
        match run_blocking(move || self.write(&input, &bytes, source, answer)).await? {
            Ok(outcome) => Ok(outcome),
            Err(reason) => skipped(reason),
        }
    }

    /// Writes an image's own files. Returns a reason where the image cannot be written in a format.
    fn write(
        &self,
        input: &Input,
        bytes: &[u8],
        source: FileState,
        answer: Answer,
    ) -> Result<Result<(Line, Vec<String>), String>, LabelError> {
        let Answer {
            model,
            width,
            height,
            classes,
            masks,
            confidence,
            probabilities,
            warnings,
        } = answer;
        let image = LabelledImage {
            file_name: input.file_name.clone(),
            name: input.name.clone(),
            width,
            height,
            model,
            classes,
            masks,
        };
        let Some(map) = image.label_map() else {
            return Ok(Err(MISFIT.to_owned()));
        };
        let (pixels, georeference) = match (self.pixels(bytes, (width, height)), self.georeference(bytes)) {
            (Ok(pixels), Ok(georeference)) => (pixels, georeference),
            (Err(reason), _) | (_, Err(reason)) => return Ok(Err(reason)),
        };
        let material = Material {
            image: &image,
            map: &map,
            pixels: pixels.as_ref(),
            confidence: confidence.as_deref(),
            probabilities: &probabilities,
            georeference: georeference.as_ref(),
            classes: &self.classes,
            style: &self.style,
            drawing: self.drawing,
        };
        let mut files = Vec::with_capacity(self.formats.len());
        for format in &self.formats {
            let file = match format.encode(material) {
                Ok(file) => file,
                Err(reason) => return Ok(Err(reason)),
            };
            if let (Some(path), Some(file)) = (format.path(&input.name), file) {
                if let Err(reason) = unless_of_the_name(self.write_file(&path, &file))? {
                    return Ok(Err(reason));
                }
                files.push((path, file.len() as u64));
            }
        }
        Ok(Ok((Line::Labelled { image, source, files }, warnings)))
    }

    /// Returns the pixels of an image if a format needs them.
    fn pixels(&self, bytes: &[u8], size: (u32, u32)) -> Result<Option<RgbImage>, String> {
        if !self.formats.iter().any(|format| format.needs_pixels()) {
            return Ok(None);
        }
        match decode(bytes, self.orientation, self.max_image_pixels) {
            Ok(pixels) if pixels.dimensions() == size => Ok(Some(pixels)),
            Ok(_) => Err(MISFIT.to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Returns the georeference of an image if a format needs it and there is one.
    fn georeference(&self, bytes: &[u8]) -> Result<Option<Georeference>, String> {
        match self.formats.contains(&OutputFormat::Geotiff) {
            true => Georeference::of(bytes, self.orientation == Orientation::Exif),
            false => Ok(None),
        }
    }

    fn write_file(&self, path: &str, bytes: &[u8]) -> Result<(), LabelError> {
        let path = self.folder.path().join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(file_error(folder))?;
        }
        replace_file(&path, bytes, &self.folder.temporary()).map_err(file_error(&path))
    }
}

/// Returns the reason where a file cannot have its name, as when it is too long, or a folder has it already. That is
/// the image's fault. Every other error ends the run, as that of a full disk.
fn unless_of_the_name(written: Result<(), LabelError>) -> Result<Result<(), String>, LabelError> {
    use std::io::ErrorKind::{AlreadyExists, InvalidFilename, IsADirectory, NotADirectory};

    match written {
        Ok(()) => Ok(Ok(())),
        Err(LabelError::File { path, source })
            if matches!(
                source.kind(),
                AlreadyExists | InvalidFilename | IsADirectory | NotADirectory
            ) =>
        {
            Ok(Err(format!("cannot write {}: {source}", path.display())))
        }
        Err(error) => Err(error),
    }
}

fn read(path: &Path) -> std::io::Result<Read> {
    let source = FileState::of(&fs::metadata(path)?)?;
    let bytes = Bytes::from(read_regular_file(path)?);
    Ok(Read { bytes, source })
}

/// Writes the line of an image into the journal and counts it.
fn note(
    outcome: Option<Result<Outcome, tokio::task::JoinError>>,
    journal: &mut Journal,
    end: &mut EndOfRun,
) -> Result<(), LabelError> {
    let (line, warnings) = match outcome {
        None => return Ok(()),
        Some(Ok(outcome)) => outcome?,
        // Nobody cancels such a task, so the error is a panic.
        Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
    };
    match &line {
        Line::Labelled { .. } => end.labelled += 1,
        Line::Skipped(skipped) => end.skipped.push(skipped.clone()),
        Line::Finished => {}
    }
    keep_warnings(&mut end.warnings, warnings);
    journal.append(&line)
}

fn keep_warnings(kept: &mut BTreeSet<String>, warnings: Vec<String>) {
    for warning in warnings {
        if kept.len() < MOST_WARNINGS {
            kept.insert(warning);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::labelling::{Inputs, Naming};

    /// An answer without a class for an image of one pixel.
    fn answer() -> Answer {
        Answer {
            model: "demo".to_owned(),
            width: 1,
            height: 1,
            classes: Vec::new(),
            masks: Vec::new(),
            confidence: None,
            probabilities: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn run(folder: &Path) -> Arc<LabelRun> {
        Arc::new(LabelRun {
            folder: RunFolder::create(folder).unwrap(),
            formats: vec![OutputFormat::Png],
            classes: Vec::new(),
            style: LabelStyle::default(),
            drawing: Drawing {
                opacity: 0.5,
                jpeg_quality: 90,
            },
            orientation: Orientation::default(),
            max_image_pixels: 1,
            jobs: 1,
        })
    }

    #[tokio::test]
    async fn an_image_whose_results_cannot_have_their_names_is_skipped() {
        let images = tempfile::tempdir().unwrap();
        let output = tempfile::tempdir().unwrap();
        let long = format!("{}.jpg", "n".repeat(251));
        let longest = format!("{}.gif", "m".repeat(251));
        for name in ["a.png", "b.jpg", "c.jpg", &long, &longest] {
            std::fs::write(images.path().join(name), "").unwrap();
        }
        std::fs::create_dir_all(output.path().join("masks/b.jpg.png")).unwrap();
        let run = run(output.path());
        let mut journal = run.folder.journal(0, 1).unwrap();
        let texts = [images.path().display().to_string()];
        let found = Inputs::new(&texts, &[], Naming { keeps_endings: true }, output.path()).unwrap();
        let found = found.find().unwrap();
        let ask = |_| async { Ok(answer()) };
        let end = run.label(&found, &mut journal, ask, |_| ()).await.unwrap();
        let skipped: Vec<_> = end.skipped.iter().map(|skipped| skipped.file_name.as_str()).collect();
        assert_eq!(end.labelled + skipped.len(), found.len());
        assert_eq!(skipped, ["b.jpg", &longest, &long]);
        assert!(
            end.skipped[0].reason.contains("b.jpg.png: Is a directory"),
            "{}",
            end.skipped[0].reason
        );
        assert!(
            end.skipped[1].reason.contains("File name too long"),
            "{}",
            end.skipped[1].reason
        );
    }
}
