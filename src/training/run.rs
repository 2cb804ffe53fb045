//! A run of the training in a folder: start or resumption, log, checkpoints and end.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::backbone_weights::BackboneWeights;
use super::checkpoint::{State, read_state};
use super::teacher::Teacher;
use super::trainer::Trainer;
use super::{TrainError, differences, file_error, write};
use crate::models::student::{CARD_FILE, Plan, STUDENT_FILE, StepReport, StudentCard};
use crate::support::{read_regular_text, remove_remainders};

/// The file from which an unfinished run resumes.
pub const STATE_FILE: &str = "training.safetensors";

/// The log of all steps.
pub const LOG_FILE: &str = "log.csv";

/// The first line of the log.
const LOG_HEADER: &str = "step,loss,distillation,learning_rate,labelled,images_per_second";

/// A run of the training.
#[derive(Debug, Clone, Copy)]
pub struct TrainRun<'a> {
    /// The folder of the run's files.
    pub folder: &'a Path,
    /// Everything that decides the result.
    pub plan: &'a Plan,
    /// The images, in the order of the plan's digest.
    pub files: &'a [PathBuf],
    /// The weights that the backbone starts with; `None` for a random start.
    pub backbone: Option<&'a BackboneWeights>,
    /// Largest number of pixels of an image that is decoded.
    pub max_image_pixels: u64,
    /// Number of steps between checkpoints, at least 1.
    pub checkpoint_steps: u64,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TrainOutcome {
    /// All steps are made and the student is written.
    Finished(StepReport),
    /// The caller stopped the run, which can be resumed.
    Stopped(StepReport),
}

impl TrainRun<'_> {
    /// Trains from the folder's state, or from the beginning, until all steps are made or `stop` returns true. Calls
    /// `observe` with the report of each step and its speed in images per second.
    ///
    /// # Errors
    /// [`TrainError`] when the folder holds another run, a file cannot be read or written, the teacher fails, the loss
    /// is not finite, or the teacher labels nothing. Saved files stay.
    pub fn train(
        &self,
        teacher: &mut Teacher<'_>,
        stop: impl Fn() -> bool,
        mut observe: impl FnMut(&StepReport, f64),
    ) -> Result<TrainOutcome, TrainError> {
        let state = self.state()?;
        fs::create_dir_all(self.folder).map_err(file_error(self.folder))?;
        remove_remainders(self.folder);
        let mut trainer = Trainer::new(
            self.plan,
            self.files,
            self.max_image_pixels,
            teacher.texts,
            self.backbone,
            state,
        )?;
        let mut log = Log::open(&self.folder.join(LOG_FILE), trainer.last().map_or(0, |last| last.step))?;
        let steps = self.plan.settings.steps;
        loop {
            if let Some(last) = trainer.last() {
                if last.step >= steps {
                    self.finish(&trainer, last)?;
                    return Ok(TrainOutcome::Finished(last));
                }
                if stop() {
                    self.save(&trainer)?;
                    return Ok(TrainOutcome::Stopped(last));
                }
            }
            let start = Instant::now();
            let report = trainer.step(teacher)?;
            let images_per_second = self.plan.settings.batch as f64 / start.elapsed().as_secs_f64();
            log.add(&report, images_per_second)?;
            observe(&report, images_per_second);
            if report.step % self.checkpoint_steps == 0 || report.step == steps {
                self.save(&trainer)?;
            }
        }
    }

    /// Returns how many steps of this run have been made. Reads the state and changes nothing.
    ///
    /// # Errors
    /// [`TrainError`] when the folder holds another run, or its state cannot be read.
    pub fn steps_made(&self) -> Result<u64, TrainError> {
        let state = self.state()?;
        Ok(state.map_or(0, |(_, header)| header.last.step))
    }

    /// Returns the folder's state, checked to belong to this run, or `None` if there is none.
    fn state(&self) -> Result<Option<State>, TrainError> {
        let state_file = self.folder.join(STATE_FILE);
        if !state_file.exists() {
            return Ok(None);
        }
        let (tensors, header) = read_state(&state_file)?;
        let fields = |plan: &Plan| serde_json::to_value(plan).expect("a plan is plain data");
        match differences(&fields(&header.plan), &fields(self.plan)) {
            None => Ok(Some((tensors, header))),
            Some(different) => Err(TrainError::OtherRun {
                folder: self.folder.to_owned(),
                different,
            }),
        }
    }

    fn save(&self, trainer: &Trainer<'_>) -> Result<(), TrainError> {
        let state = trainer.state().expect("a step was made");
        write(&self.folder.join(STATE_FILE), &state)
    }

    fn finish(&self, trainer: &Trainer<'_>, last: StepReport) -> Result<(), TrainError> {
        let student = trainer.student();
        let card = StudentCard {
            format: StudentCard::FORMAT.to_owned(),
            weights_sha256: hex::encode(Sha256::digest(&student)),
            plan: self.plan.clone(),
            last_step: last,
        };
        write(&self.folder.join(STUDENT_FILE), &student)?;
        let card = serde_json::to_string_pretty(&card).expect("a card is plain data") + "\n";
        write(&self.folder.join(CARD_FILE), card.as_bytes())
    }
}

/// The log, one line per step. When a run resumes, lines of steps after its state are dropped, because these steps are
/// made again.
struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    fn open(path: &Path, done: u64) -> Result<Self, TrainError> {
        let text = match read_regular_text(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(file_error(path)(error)),
        };
        let mut kept = format!("{LOG_HEADER}\n");
        for line in text.lines().skip(1) {
            let step = line.split(',').next().and_then(|step| step.parse::<u64>().ok());
            if step.is_some_and(|step| step <= done) {
                kept += line;
                kept.push('\n');
            }
        }
        write(path, kept.as_bytes())?;
        Ok(Self {
            file: OpenOptions::new().append(true).open(path).map_err(file_error(path))?,
            path: path.to_owned(),
        })
    }

    fn add(&mut self, report: &StepReport, images_per_second: f64) -> Result<(), TrainError> {
        let StepReport {
            step,
            loss,
            distillation,
            learning_rate,
            labelled,
        } = report;
        let [loss, distillation] = [loss, distillation].map(|part| part.map_or(String::new(), |part| part.to_string()));
        let line = format!("{step},{loss},{distillation},{learning_rate},{labelled:.4},{images_per_second:.2}\n");
        self.file.write_all(line.as_bytes()).map_err(file_error(&self.path))
    }
}
