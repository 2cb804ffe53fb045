//! MaskCLIP+: a segmentation network that learns from the labels MaskCLIP gives for free (Zhou, Loy, Dai, "Extract Free Dense
//! Labels from CLIP", ECCV 2022, section 3.4).
//!
//! Owns the training: the images, the labels, the loss, the steps, and the folder of a run. What a student is as a model is
//! [`models::student`](crate::models::student)'s to say, and any [`Labeller`](crate::labeller::Labeller) teaches.

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

use crate::engine::SegmentError;
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
        /// Which.
        name: &'static str,
        /// What it may be.
        possible: String,
    },
    /// There is nothing to learn from.
    #[error("there are no images that can be decoded in {}", folder.display())]
    NoImages {
        /// Where they were looked for.
        folder: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file, or the folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that was an image when the run began is none any more.
    #[error("{}: {source}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The weights for the backbone are another network's.
    #[error("{} does not fit the backbone: {source}", path.display())]
    Backbone {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: ParameterError,
    },
    /// The labels that are given do not go with the texts.
    #[error(transparent)]
    Texts(#[from] TextsError),
    /// The state's file is not whole.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The state holds other tensors than the student has.
    #[error("the state is none of this student: {0}")]
    Foreign(String),
    /// The folder's run has another plan.
    #[error(
        "{} holds a run with another {different}: give it the same, or another folder",
        folder.display()
    )]
    OtherRun {
        /// The folder.
        folder: PathBuf,
        /// Parts of the plan, separated by commas.
        different: String,
    },
    /// The folder's label maps are of another plan.
    #[error(
        "{} has label maps of another {different}: give it the same, delete them, or take another folder",
        folder.display()
    )]
    OtherLabels {
        /// The folder of label maps.
        folder: PathBuf,
        /// Parts of the plan, separated by commas.
        different: String,
    },
    /// A label map cannot be used.
    #[error(transparent)]
    Labels(#[from] DatasetError),
    /// A label map is of another size than its image.
    #[error("the label map of {} has another size than the image", image.display())]
    LabelSize {
        /// The image.
        image: PathBuf,
    },
    /// The engine refused or failed.
    #[error("{}: {source}", path.display())]
    Segment {
        /// The image.
        path: PathBuf,
        /// What the engine said.
        source: Box<SegmentError>,
    },
    /// The teacher failed.
    #[error(transparent)]
    Teacher(#[from] LabellerError),
    /// Nobody labels anything.
    #[error(
        "no pixel had a label in {steps} steps: no probability reaches the confidence {confidence}; a lower one, or a \
         vocabulary that fits the images, gives something to learn from"
    )]
    NoPseudoLabels {
        /// How many steps in a row.
        steps: u64,
        /// The probability that is asked for.
        confidence: f32,
    },
    /// The loss left the numbers.
    #[error(
        "the loss of step {step} is no number at a learning rate of {learning_rate}, after {}: a lower rate may hold",
        last_loss.map_or("none".to_owned(), |loss| loss.to_string())
    )]
    Diverged {
        /// The step.
        step: u64,
        /// Its learning rate.
        learning_rate: f64,
        /// The loss before.
        last_loss: Option<f64>,
    },
}

/// Writes a file as a whole, or says which file could not be written.
fn write(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    write_whole_file(path, bytes).map_err(file_error(path))
}

fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> TrainError {
    let path = path.to_owned();
    |source| TrainError::File { path, source }
}

/// Names of the fields in which `now` is not what was `begun`, separated by commas; none when all are the same.
fn differences(begun: &Value, now: &Value) -> Option<String> {
    let now = now.as_object().expect("a plan is an object");
    let different = now
        .iter()
        .filter(|(key, value)| begun.get(key.as_str()) != Some(*value));
    let names: Vec<_> = different.map(|(key, _)| key.as_str()).collect();
    (!names.is_empty()).then(|| names.join(", "))
}
