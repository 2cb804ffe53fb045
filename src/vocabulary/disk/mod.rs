//! The store on disk: the definitions of named vocabularies, and text embeddings.
//!
//! The two have different lifetimes, so they lie in two SQLite files. Definitions are what users made: they are never
//! dropped, and written for good before a change is answered. Embeddings can be computed again: their file is a cache
//! with a limit in bytes, it is written behind the requests, and nothing waits for it.
//!
//! This room owns the files: their formats, their sizes, their sharing between processes, and the handling of damage.
//! Every row carries a checksum over its key and content, so a damaged file never yields wrong content.
//!
//! Calls may wait for the disk, and changes of definitions for another process. Async callers run them on the blocking
//! pool.

mod database;
mod definitions;
mod deletions;
mod embeddings;
mod migration;
mod write_behind;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::ErrorCode;

pub(super) use definitions::{ChangeMark, Definition, DefinitionFile, Definitions, Learned};
pub(super) use deletions::Deletion;
use embeddings::EmbeddingFile;
use write_behind::WriteBehind;

/// How long [`DiskStore::close`] waits for embeddings that are not written yet.
const CLOSING_WAIT: Duration = Duration::from_secs(3);

/// Why the store on disk failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// A file or folder cannot be created or looked at.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is a database of another program.
    #[error("it is a database of another program, which is left alone; name another file")]
    Foreign,
    /// Another version of this program created the file.
    #[error(
        "its format is {found}, and this version of maskclip reads format {known}; start the version that wrote it, or \
         name another file"
    )]
    OtherFormat {
        /// The file's format.
        found: i32,
        /// The format of this build.
        known: i32,
    },
    /// The file was deleted or replaced, and a new one is open.
    #[error("the file was deleted or replaced while it was written")]
    Moved,
    /// The store is closed, or its file could not be opened again. The log has the cause.
    #[error("the file is not open")]
    Closed,
    /// SQLite failed, for example because the disk is full or another process holds the file too long.
    #[error("{error}{code}", error = .0, code = sqlite_code(.0))]
    Sqlite(#[from] rusqlite::Error),
}

impl DiskError {
    /// Returns whether another process has held the file for too long.
    pub(super) fn is_busy(&self) -> bool {
        matches!(
            self.sqlite_code(),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
        )
    }

    /// Returns whether the disk is full.
    pub(super) fn is_full(&self) -> bool {
        match self {
            Self::File { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            Self::Sqlite(rusqlite::Error::SqliteFailure(failure, _)) => {
                failure.code == ErrorCode::DiskFull || failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
            }
            _ => false,
        }
    }

    fn sqlite_code(&self) -> Option<ErrorCode> {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code(),
            _ => None,
        }
    }

    /// Returns what makes an error of the system one of this path.
    fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::File {
            path: path.to_owned(),
            source,
        }
    }
}

/// Returns SQLite's extended code in words for the log.
fn sqlite_code(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => format!(" (SQLite's code {})", failure.extended_code),
        _ => String::new(),
    }
}

/// The store on disk. Several processes may open the same files.
#[derive(Debug)]
pub struct DiskStore {
    definitions: DefinitionFile,
    embeddings: EmbeddingFile,
    behind: WriteBehind,
}

impl DiskStore {
    /// Opens the file of definitions at the path and the file of embeddings next to it, or creates them with their
    /// folders. A damaged file is replaced with a new one, with a warning.
    ///
    /// The file of embeddings holds at most `capacity_bytes`; the least recently used make room. Without it everything
    /// works, so an error with it is only a warning. It is tried again when embeddings are written.
    ///
    /// # Errors
    /// [`DiskError`] when the file of definitions cannot be created or read, or belongs to another program or version.
    pub fn open(path: &Path, capacity_bytes: u64) -> Result<Arc<Self>, DiskError> {
        let definitions = DefinitionFile::open(path)?;
        let embeddings = EmbeddingFile::open(&embeddings_path(path), capacity_bytes);
        migration::move_embeddings(&definitions, &embeddings);
        embeddings.make_room();
        Ok(Arc::new(Self {
            definitions,
            embeddings,
            behind: WriteBehind::default(),
        }))
    }

    pub(super) fn definitions(&self) -> &DefinitionFile {
        &self.definitions
    }

    /// Returns the path of the file of embeddings, and the bytes of the file and the logs next to it.
    pub fn embeddings(&self) -> (&Path, u64) {
        (self.embeddings.path(), self.embeddings.bytes())
    }

    /// Returns the bytes of both files and of the logs next to them.
    pub fn bytes(&self) -> u64 {
        self.definitions.bytes() + self.embeddings.bytes()
    }

    /// Writes the embeddings that are still in memory, then closes the files, so that all is in them and no log is
    /// left. Whatever is asked of the store afterwards fails. Takes at most a few seconds.
    pub fn close(&self) {
        self.wait_until_written(CLOSING_WAIT);
        self.definitions.close();
        self.embeddings.close();
    }
}

/// Returns the path of the file of embeddings: `store.embeddings.sqlite3` next to `store.sqlite3`.
fn embeddings_path(definitions: &Path) -> PathBuf {
    let mut name = OsString::from(definitions.file_stem().unwrap_or_default());
    name.push(".embeddings");
    if let Some(extension) = definitions.extension() {
        name.push(".");
        name.push(extension);
    }
    definitions.with_file_name(name)
}

#[cfg(test)]
mod tests;
