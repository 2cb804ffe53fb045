//! What can come between a model and its folder, in words that say what to do.

use std::io;
use std::path::{Path, PathBuf};

use super::HttpError;

/// Why a model could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Offline, and the weights are not there.
    #[error(
        "fetch.offline is set and {name} is not in {folder} (looked for {looked_for}). Where there is a network, get it \
         from {address}; then `maskclip fetch {name} --from FILE` here",
        folder = folder.display()
    )]
    Offline {
        /// The model.
        name: &'static str,
        /// The folder of models.
        folder: PathBuf,
        /// The file names that would have done.
        looked_for: String,
        /// Where it is published.
        address: String,
    },
    /// The server's answer is of no use.
    #[error("{0}")]
    Http(#[from] HttpError),
    /// The connection failed again and again.
    #[error("{source}; {kept} bytes are kept in {path}: the same command goes on from there", path = path.display())]
    GaveUp {
        /// The last failure.
        source: HttpError,
        /// How much there is.
        kept: u64,
        /// Where it is.
        path: PathBuf,
    },
    /// Another file altogether.
    #[error("{location} has {offered} bytes where {name} has {expected}: it is another file")]
    WrongSize {
        /// The model.
        name: &'static str,
        /// The address or file.
        location: String,
        /// Its length.
        offered: u64,
        /// What it should be.
        expected: u64,
    },
    /// Not the bytes they should be.
    #[error("{location} has SHA-256 {found} where {name} must have {expected}: it was discarded")]
    WrongDigest {
        /// The model.
        name: &'static str,
        /// The address or file.
        location: String,
        /// What came.
        found: String,
        /// What should have come.
        expected: String,
    },
    /// A hub that does not say what its file hashes to.
    #[error("{0} does not state the file's digest (X-Linked-Etag), as the hub does: the answer is not the hub's")]
    NoDigest(String),
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl FetchError {
    /// Names the file in an error of the system.
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}
