//! MaskCLIP+: a segmentation network that learns from the labels that MaskCLIP gives for free (Zhou, Loy, Dai, "Extract
//! Free Dense Labels from CLIP", ECCV 2022, section 3.4).
//!
//! This room owns the training: images, labels, loss, steps, and the folder of a run.
//! [`models::student`](crate::models::student) owns the student as a model. Any [`Labeller`](crate::labeller::Labeller)
//! can score views as a teacher.

#![allow(clippy::disallowed_types)] // Tensors live here.

mod backbone_weights;
mod checkpoint;
mod given_labels;
mod images;
mod loss;
mod optimiser;
mod pseudo_labels;
mod run;
mod settings;
mod teacher;
#[cfg(test)]
mod tests;
mod texts;
mod trainer;
mod views;

use std::path::{Path, PathBuf};

pub use backbone_weights::BackboneWeights;
pub use given_labels::GivenLabels;
pub use images::TrainingImages;
pub use loss::{cross_entropy, feature_distance};
pub use optimiser::Sgd;
pub use pseudo_labels::{LABELS_FOLDER, LabelCache};
pub use run::{LOG_FILE, STATE_FILE, TrainOutcome, TrainRun};
pub use teacher::{Teacher, TeachingLabeller};
pub use texts::{Texts, TextsError};

use serde_json::Value;

use crate::engine::EngineError;
use crate::evaluation::DatasetError;
use crate::image::DecodeError;
use crate::labeller::LabellerError;
use crate::models::student::ParameterError;
use crate::support::write_whole_file;

/// Why a student cannot be trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting is out of its range.
    #[error("{name} has to be {possible}")]
    Setting {
        /// The setting's name on the command line.
        name: &'static str,
        /// The values that it may have, in words.
        possible: String,
    },
    /// The folder has no image that can be decoded.
    #[error("there are no images that can be decoded in {}", folder.display())]
    NoImages {
        /// The folder that was searched.
        folder: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or the folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file that was an image when the run began can no longer be decoded.
    #[error("{}: {source}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: DecodeError,
    },
    /// The weights for the backbone belong to another network.
    #[error("{} does not fit the backbone: {source}", path.display())]
    Backbone {
        /// The file.
        path: PathBuf,
        /// The tensor that does not fit.
        source: ParameterError,
    },
    /// The given labels do not fit the texts.
    #[error(transparent)]
    Texts(#[from] TextsError),
    /// A file is incomplete or has another format.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The state holds other tensors than the student has.
    #[error("the state belongs to another student: {0}")]
    Foreign(String),
    /// The run in the folder has another plan.
    #[error(
        "{} holds a run with another {different}: give it the same, or another folder",
        folder.display()
    )]
    OtherRun {
        /// The folder.
        folder: PathBuf,
        /// Names of the parts of the plan that differ, separated by commas.
        different: String,
    },
    /// The label maps in the folder belong to another plan.
    #[error(
        "{} has label maps of another {different}: give it the same, delete them, or take another folder",
        folder.display()
    )]
    OtherLabels {
        /// The folder of label maps.
        folder: PathBuf,
        /// Names of the parts of the plan that differ, separated by commas.
        different: String,
    },
    /// A label map cannot be used.
    #[error(transparent)]
    Labels(#[from] DatasetError),
    /// A label map differs from its image in size.
    #[error("the label map of {} has another size than the image", image.display())]
    LabelSize {
        /// The image.
        image: PathBuf,
    },
    /// The engine refused a request or failed.
    #[error("{}: {source}", path.display())]
    Segment {
        /// The image.
        path: PathBuf,
        /// The engine's error.
        source: Box<EngineError>,
    },
    /// The teacher failed.
    #[error(transparent)]
    Teacher(#[from] LabellerError),
    /// No pixel had a label for several steps.
    #[error(
        "no pixel had a label in {steps} steps: no probability reaches the confidence {confidence}; use a lower \
         confidence or a vocabulary that fits the images"
    )]
    NoPseudoLabels {
        /// Number of such steps in a row.
        steps: u64,
        /// The probability that a label must reach.
        confidence: f32,
    },
    /// The loss is not a finite number.
    #[error(
        "the loss of step {step} is no number at a learning rate of {learning_rate}, after {}: a lower rate may hold",
        last_loss.map_or("none".to_owned(), |loss| loss.to_string())
    )]
    Diverged {
        /// The step.
        step: u64,
        /// Its learning rate.
        learning_rate: f64,
        /// The loss of the last step before it.
        last_loss: Option<f64>,
    },
}

/// Writes a file completely or not at all. The error names the file.
fn write(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    write_whole_file(path, bytes).map_err(file_error(path))
}

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> TrainError {
    let path = path.to_owned();
    |source| TrainError::File { path, source }
}

/// Returns the names of the fields in which `now` differs from `begun`, separated by commas, or `None` if no field
/// differs.
fn differences(begun: &Value, now: &Value) -> Option<String> {
    let now = now.as_object().expect("a plan is an object");
    let different = now
        .iter()
        .filter(|(key, value)| begun.get(key.as_str()) != Some(*value));
    let names: Vec<_> = different.map(|(key, _)| key.as_str()).collect();
    (!names.is_empty()).then(|| names.join(", "))
}
