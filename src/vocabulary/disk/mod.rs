//! The store on disk: text embeddings and definitions of named vocabularies in one SQLite file.
//!
//! This room owns the file: its format, its size, its sharing between processes, and the handling of damage. Every row
//! carries a checksum over its key and content, so a damaged file never yields wrong content: a damaged row is deleted,
//! a damaged file is replaced. A killed process leaves only complete transactions behind.
//!
//! Every call may wait for the disk or for another process. Async callers run it on the blocking pool.

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

/// "Mskc" in the file's header, which marks the file as this program's.
const APPLICATION_ID: i32 = 0x4d73_6b63;

/// Version of the format. Raise it with changes of the tables below, and when a build embeds the same text differently.
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

/// Size of a page in bytes: room for seven rows of 512 floats, where SQLite's default has room for one.
const PAGE_BYTES: i32 = 16384;

/// How long a call waits for another process that is writing.
const BUSY: Duration = Duration::from_secs(5);

/// Why the store on disk failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The folder cannot be created.
    #[error("cannot make the folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is a database of another program.
    #[error("the file is a database of another program")]
    Foreign,
    /// Another version of this program created the file.
    #[error("the file's format is {found}, this build's is {FORMAT}; remove the file or name another")]
    OtherFormat {
        /// The file's format.
        found: i32,
    },
    /// The store is closed, or its file was damaged and could not be replaced. The log has the cause.
    #[error("it is closed, or was damaged and has been given up")]
    GivenUp,
    /// SQLite failed, for example because the disk is full or another process holds the file too long.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// The store on disk. Several processes may open the same file.
#[derive(Debug)]
pub struct DiskStore {
    path: PathBuf,
    /// Largest size of the file in bytes. The least recently used embeddings make room.
    capacity_bytes: u64,
    /// The connection; `None` once the store is closed, or the damaged file could not be replaced.
    connection: Mutex<Option<Connection>>,
    /// Size of the file in bytes when this process last wrote it.
    bytes: AtomicU64,
    /// Number of times that the file was replaced.
    rebuilds: AtomicU64,
}

impl DiskStore {
    /// Opens the file, or creates it with its folders. Replaces a damaged file with a new one and warns.
    ///
    /// # Errors
    /// [`DiskError`] when the file cannot be created or written, or belongs to another program or version.
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

    /// Returns the bytes of the file's pages. The latest pages may still be in the log next to the file, which holds at
    /// most a few megabytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Closes the file. The last process that closes it writes the log back, so that one file holds everything. Later
    /// calls fail.
    pub(super) fn close(&self) {
        let mut connection = self
            .connection
            .lock()
            .expect("nothing panics while it has the connection");
        if let Some(Err((_, error))) = connection.take().map(Connection::close) {
            tracing::warn!(%error, path = %self.path.display(), "cannot close the store on disk");
        }
    }

    /// Runs work on the file. If the file turns out to be damaged, replaces it and runs the work again.
    fn run<T>(&self, mut work: impl FnMut(&mut Connection) -> rusqlite::Result<T>) -> Result<T, DiskError> {
        let mut slot = self
            .connection
            .lock()
            .expect("nothing panics while it has the connection");
        let connection = slot.as_mut().ok_or(DiskError::GivenUp)?;
        match work(connection) {
            Err(error) if is_damage(&error) => {
                if !is_sound(connection) {
                    // `None` stays if the replacement fails.
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

/// Opens a file of this program and creates missing tables.
fn connect(path: &Path) -> Result<Connection, DiskError> {
    let deadline = Instant::now() + BUSY;
    loop {
        match open_file(path).map_err(DiskError::from).and_then(prepare) {
            // SQLite does not wait by itself while two processes create the same file.
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

/// Creates the tables in an empty file. Refuses another program's file before writing to it.
fn prepare(mut connection: Connection) -> Result<Connection, DiskError> {
    if is_new(&connection.transaction()?)? {
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        connection.pragma_update(None, "auto_vacuum", "FULL")?;
    }
    // With a write-ahead log, readers and a writer do not wait for each other. A commit is one append, which is on the
    // disk when the commit returns.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another program may have written since the first check.
    is_new(&transaction)?;
    transaction.execute_batch(TABLES)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()?;
    Ok(connection)
}

/// Returns whether the file is still empty. Fails if it belongs to another program or version. Runs in a transaction,
/// because another process may be creating the file: all three numbers must come from one state.
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

/// Empties a damaged file and creates the store again. Carries over the definitions that are still readable, and keeps
/// a copy of the damaged file with the ending `.damaged`. No connection of this process may be open.
fn replace(path: &Path, cause: &rusqlite::Error) -> Result<Connection, DiskError> {
    let definitions = open_file(path).map_or_else(|_| Vec::new(), |connection| definitions::salvage(&connection));
    let kept = PathBuf::from(OsString::from_iter([path.as_os_str(), ".damaged".as_ref()]));
    if let Err(error) = std::fs::copy(path, &kept) {
        tracing::warn!(%error, path = %kept.display(), "could not keep a copy of the damaged store");
    }
    tracing::warn!(
        %cause,
        path = %path.display(),
        kept = %kept.display(),
        vocabularies = definitions.len(),
        "the store on disk is damaged; replacing it with a new one"
    );
    // SQLite's own way to empty a file that others may have open. Deleting the file would break their connections.
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

/// Returns whether the error means that the file is damaged. A missing table counts as damage: a process was killed
/// while it replaced the file.
fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, message) => {
            matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                || message.as_deref().is_some_and(|text| text.starts_with("no such table"))
        }
        rusqlite::Error::SqlInputError { msg, .. } => msg.starts_with("no such table"),
        // Tables are strict, so SQLite never writes a value of another type.
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

/// Returns whether the file is complete after all, because another process has replaced it.
fn is_sound(connection: &Connection) -> bool {
    let check = connection.pragma_query_value(None, "quick_check", |row| row.get::<_, String>(0));
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name IN ('embeddings', 'vocabularies')";
    let tables = connection.query_row(tables, [], |row| row.get::<_, i64>(0));
    check.is_ok_and(|answer| answer == "ok") && tables == Ok(2)
}

/// Returns the first half of SHA-256 over the parts with their lengths.
fn checksum(parts: &[&[u8]]) -> [u8; 16] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let digest: [u8; 32] = digest.finalize().into();
    *digest.first_chunk().expect("32 bytes begin with 16 bytes")
}

#[cfg(test)]
mod tests;
