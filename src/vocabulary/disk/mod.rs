//! The store on disk: text embeddings and the definitions of named vocabularies, in one SQLite file.
//!
//! Owns the file: its format, its size, that several processes share it, and what happens when it is damaged. Every row
//! carries a checksum over its key and its content, so whatever happens to the file, nothing wrong is read from it: a
//! damaged row is dropped, a damaged file makes way for a new one. Whoever is killed leaves whole transactions behind.
//!
//! Every call may wait for the disk or for another process: async callers make it on the blocking pool.

mod definitions;
mod embeddings;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use sha2::{Digest, Sha256};

pub(super) use definitions::{ChangeMark, Definition};

/// "Mskc" in the file's header: it is ours.
const APPLICATION_ID: i32 = 0x4d73_6b63;

/// Version of the format. To be raised with the tables below, and when a build embeds the same text otherwise.
const FORMAT: i32 = 1;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS embeddings (
        key BLOB PRIMARY KEY,       -- EmbeddingKey::digest
        vector BLOB NOT NULL,       -- float32, little-endian
        truncated INTEGER NOT NULL,
        checksum BLOB NOT NULL,
        used_at INTEGER NOT NULL    -- seconds since 1970, to the hour
    ) STRICT;
    CREATE INDEX IF NOT EXISTS embeddings_by_use ON embeddings (used_at);
    CREATE TABLE IF NOT EXISTS vocabularies (
        name TEXT PRIMARY KEY,
        classes TEXT NOT NULL,      -- as write_vocabulary has it
        digest TEXT NOT NULL,       -- ClassList::digest
        defined_at INTEGER NOT NULL,
        checksum BLOB NOT NULL
    ) STRICT;
";

/// Seven rows of 512 floats to a page; SQLite's usual page has room for one.
const PAGE_BYTES: i32 = 16384;

/// How long to wait for another process that writes.
const BUSY: Duration = Duration::from_secs(5);

/// Why the store on disk did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The folder cannot be made.
    #[error("cannot make the folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A database of another program.
    #[error("the file is a database of another program")]
    Foreign,
    /// Another version of this program made it.
    #[error("the file's format is {found}, this build's is {FORMAT}; remove the file or name another")]
    OtherFormat {
        /// The file's format.
        found: i32,
    },
    /// It was damaged and could not be made anew; the log has the cause.
    #[error("it was damaged and has been given up")]
    GivenUp,
    /// SQLite failed: the disk is full, another process holds it for too long, ...
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// The store on disk. Several processes may have one file open.
#[derive(Debug)]
pub struct DiskStore {
    path: PathBuf,
    /// Size of the file; the least recently used embeddings make room.
    capacity_bytes: u64,
    /// `None` once the file has been given up.
    connection: Mutex<Option<Connection>>,
    /// Size of the file when it was last written here.
    bytes: AtomicU64,
    /// How often it has been made anew.
    rebuilds: AtomicU64,
}

impl DiskStore {
    /// Opens the file, or makes it with the folders it is in. A damaged file makes way for a new one, with a warning.
    ///
    /// # Errors
    /// When the file cannot be made or written, or is not ours to write.
    pub fn open(path: &Path, capacity_bytes: u64) -> Result<Arc<Self>, DiskError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|source| DiskError::Folder {
                path: folder.to_owned(),
                source,
            })?;
        }
        let connection = match connect(path) {
            Err(DiskError::Sqlite(error)) if is_damage(&error) => replace(path, &error)?,
            connection => connection?,
        };
        let store = Self {
            path: path.to_owned(),
            capacity_bytes,
            connection: Mutex::new(Some(connection)),
            bytes: AtomicU64::new(0),
            rebuilds: AtomicU64::new(0),
        };
        store.make_room()?;
        Ok(Arc::new(store))
    }

    /// Bytes of the file's pages. Those written last may still be in the log beside it, which holds some megabytes at
    /// most.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Runs work on the file; on a file that turns out to be damaged once more, after it has been made anew.
    fn run<T>(&self, mut work: impl FnMut(&mut Connection) -> rusqlite::Result<T>) -> Result<T, DiskError> {
        let mut slot = self
            .connection
            .lock()
            .expect("nothing panics while it has the connection");
        let connection = slot.as_mut().ok_or(DiskError::GivenUp)?;
        match work(connection) {
            Err(error) if is_damage(&error) => {
                if !is_sound(connection) {
                    // Given up, unless it comes back.
                    *slot = None;
                    *slot = Some(replace(&self.path, &error)?);
                    self.rebuilds.fetch_add(1, Ordering::Relaxed);
                }
                let connection = slot.as_mut().ok_or(DiskError::GivenUp)?;
                Ok(work(connection)?)
            }
            result => Ok(result?),
        }
    }
}

/// A connection to a file that is ours, with its tables.
fn connect(path: &Path) -> Result<Connection, DiskError> {
    let deadline = Instant::now() + BUSY;
    loop {
        match open_file(path).map_err(DiskError::from).and_then(prepare) {
            // Two processes that make one file at a time: SQLite does not wait by itself here.
            Err(DiskError::Sqlite(error)) if is_busy(&error) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

fn open_file(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

/// Makes the tables in an empty file; refuses a file that is not ours before anything is written to it.
fn prepare(mut connection: Connection) -> Result<Connection, DiskError> {
    if is_new(&connection.transaction()?)? {
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        connection.pragma_update(None, "auto_vacuum", "FULL")?;
    }
    // Readers and a writer do not wait for each other, and a commit is one append, on the disk when it returns.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another program may have been faster.
    is_new(&transaction)?;
    transaction.execute_batch(TABLES)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()?;
    Ok(connection)
}

/// Whether the file is nobody's yet; an error unless it is that or ours. In a transaction, because another process may be
/// making the file at this moment: the three numbers are to be of one state.
fn is_new(transaction: &Transaction<'_>) -> Result<bool, DiskError> {
    let number = |pragma: &str| transaction.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let objects: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (number("application_id")?, number("user_version")?) {
        (0, 0) if objects == 0 => Ok(true),
        (APPLICATION_ID, FORMAT) => Ok(false),
        (APPLICATION_ID, found) => Err(DiskError::OtherFormat { found }),
        _ => Err(DiskError::Foreign),
    }
}

/// Empties a damaged file and makes it anew. Definitions that can still be read are carried over, and the damaged file
/// is kept beside the new one under the ending `.damaged`. Nobody in this process may have the file open.
fn replace(path: &Path, cause: &rusqlite::Error) -> Result<Connection, DiskError> {
    let definitions = open_file(path).map_or_else(|_| Vec::new(), |connection| definitions::salvage(&connection));
    let kept = PathBuf::from(OsString::from_iter([path.as_os_str(), ".damaged".as_ref()]));
    if let Err(error) = std::fs::copy(path, &kept) {
        tracing::warn!(%error, path = %kept.display(), "the damaged store could not be kept");
    }
    tracing::warn!(
        %cause,
        path = %path.display(),
        kept = %kept.display(),
        vocabularies = definitions.len(),
        "the store on disk is damaged; a new one takes its place"
    );
    // SQLite's own way to empty a file that others may have open; removing it would pull it from under them.
    let connection = open_file(path)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_RESET_DATABASE, true)?;
    connection.execute_batch("VACUUM")?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_RESET_DATABASE, false)?;
    drop(connection);
    let connection = connect(path)?;
    for definition in &definitions {
        definitions::insert(&connection, definition)?;
    }
    Ok(connection)
}

/// Whether the error means that the file does not hold what it should. A missing table is one of another process that
/// was killed while it made the file anew.
fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, message) => {
            matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                || message.as_deref().is_some_and(|text| text.starts_with("no such table"))
        }
        rusqlite::Error::SqlInputError { msg, .. } => msg.starts_with("no such table"),
        // Tables are strict: a value of another type has not been written by SQLite.
        rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::Utf8Error(..) => true,
        _ => false,
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// Whether the file is whole after all: another process has made it anew meanwhile.
fn is_sound(connection: &Connection) -> bool {
    let check = connection.pragma_query_value(None, "quick_check", |row| row.get::<_, String>(0));
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name IN ('embeddings', 'vocabularies')";
    let tables = connection.query_row(tables, [], |row| row.get::<_, i64>(0));
    check.is_ok_and(|answer| answer == "ok") && tables == Ok(2)
}

/// Half of SHA-256 over the parts with their lengths.
fn checksum(parts: &[&[u8]]) -> [u8; 16] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let digest: [u8; 32] = digest.finalize().into();
    *digest.first_chunk().expect("32 bytes have 16 first ones")
}

#[cfg(test)]
mod tests;
