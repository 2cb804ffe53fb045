//! The errors of fetching a model. Each message says what to do.

use std::io;
use std::path::{Path, PathBuf};

use super::HttpError;

/// The reason why a model could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The settings forbid the network, and the weights are not in the folder.
    #[error(
        "fetch.offline is set and {name} is not in {folder} (looked for {looked_for}). Where there is a network, get it \
         from {address}; then `maskclip fetch {name} --from FILE` here",
        folder = folder.display()
    )]
    Offline {
        /// The name of the model.
        name: &'static str,
        /// The folder of models.
        folder: PathBuf,
        /// The names of the files that would be accepted.
        looked_for: String,
        /// The address where the model is published.
        address: String,
    },
    /// The server's answer cannot be used.
    #[error("{0}")]
    Http(#[from] HttpError),
    /// The connection failed several times in a row.
    #[error("{source}; {kept} bytes are kept in {path}: the same command goes on from there", path = path.display())]
    GaveUp {
        /// The last failure.
        source: HttpError,
        /// The number of bytes that were received and kept.
        kept: u64,
        /// The path of the kept file.
        path: PathBuf,
    },
    /// The file has another length than the model's file.
    #[error("{location} has {offered} bytes where {name} has {expected}: it is another file")]
    WrongSize {
        /// The name of the model.
        name: &'static str,
        /// The address or file that the bytes came from.
        location: String,
        /// The length that was found, in bytes.
        offered: u64,
        /// The length that was expected, in bytes.
        expected: u64,
    },
    /// The file has more bytes than the settings allow for one whose length is not known beforehand.
    #[error(
        "{location} sends more than fetch.max_bytes = {limit}: it states {}",
        stated.map_or("no length".to_owned(), |stated| format!("{stated} bytes"))
    )]
    TooLarge {
        /// The address that the bytes came from.
        location: String,
        /// The length that the server states, in bytes, if it states one.
        stated: Option<u64>,
        /// The limit in bytes.
        limit: u64,
    },
    /// The file has another digest than the model's file.
    #[error("{location} has SHA-256 {found} where {name} must have {expected}: it was discarded")]
    WrongDigest {
        /// The name of the model.
        name: &'static str,
        /// The address or file that the bytes came from.
        location: String,
        /// The digest that was found.
        found: String,
        /// The digest that was expected.
        expected: String,
    },
    /// The hub does not state the digest of its file.
    #[error("{0} does not state the file's digest (X-Linked-Etag), as the hub does: the answer is not the hub's")]
    NoDigest(String),
    /// The folder of models cannot be written.
    #[error(
        "{folder} cannot be written: {source}. Models go into this folder (model.folder): name another, or let this user \
         write it", folder = folder.display()
    )]
    Folder {
        /// The folder of models.
        folder: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}

impl FetchError {
    /// Returns a function that adds the path of a file to an error of the operating system.
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}
