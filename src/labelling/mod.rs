//! Labels folders of images: which images, the files of each, the journal of what is done, and the files about all.
//!
//! Owns the folder of a run and everything in it, so that a run that is killed goes on as if it had not been, and so
//! that several processes can share the work. Does not know who labels an image: whoever runs a job brings a function
//! for it.

mod collect;
mod ending;
mod inputs;
mod journal;
mod output;
mod plan;
mod run;

use std::path::{Path, PathBuf};

pub use collect::{Collected, collect};
pub use ending::{EndOfRun, Skipped};
pub use inputs::{Input, InputError, Inputs, Naming, ResultNames};
pub use journal::{Journal, RunFolder, missing_parts};
pub use output::{Drawing, OutputFormat};
pub use plan::Plan;
pub use run::{Answer, LabelRun, Refusal};

/// Why a run cannot begin or go on. What is wrong with one image alone is no such error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    /// A file of the run cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file of the run has not the form that this program gives it.
    #[error("{} is damaged, or not of this program: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The folder belongs to a run with other settings.
    #[error(
        "{} holds labels of other settings, which differ in {different}: name another folder, or remove this one",
        folder.display()
    )]
    OtherSettings {
        /// The folder.
        folder: PathBuf,
        /// The names of what differs, separated by commas.
        different: String,
    },
    /// The folder has no run.
    #[error("{} holds no labels: it has no {}", folder.display(), plan::PLAN_FILE)]
    NoRun {
        /// The folder.
        folder: PathBuf,
    },
    /// Another process labels into the folder, as the same shard.
    #[error("another process writes {}: one process at a time may label into a folder, or each another --shard", path.display())]
    InUse {
        /// The journal.
        path: PathBuf,
    },
    /// Nobody answers, or the request itself is refused.
    #[error("{0}")]
    Refused(String),
}

/// Returns a function for `map_err` that names the file.
fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> LabelError {
    let path = path.to_owned();
    |source| LabelError::File { path, source }
}
