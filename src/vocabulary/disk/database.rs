//! One SQLite file of this program: its format, its sharing between processes, damage, and its loss while it is open.
//!
//! A file has a connection for readers and one for writers. With SQLite's write-ahead log a reader waits for nobody, so
//! it never waits for another process that writes, and not for a writer of this process either. A killed process leaves
//! only complete transactions behind.

use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags, Transaction, TransactionBehavior};

use super::DiskError;
use crate::support::{create_shared_folders, lock, share_with_group};

/// Size of a page in bytes: room for seven rows of 512 floats, where SQLite's default has room for one.
const PAGE_BYTES: i64 = 16384;

/// Bytes of the write-ahead log after which a commit moves it into the file, and beyond which the log is cut.
const LOG_BYTES: i64 = 4 << 20;

/// How long opening a file waits for another process.
const OPENING_WAIT: Duration = Duration::from_secs(5);

/// How long a reader waits, which happens only while another process repairs the write-ahead log.
const READING_WAIT: Duration = Duration::from_millis(250);

/// How long a file is not read after reading it has failed, so that a broken file costs few requests any time.
const REST: Duration = Duration::from_secs(1);

/// How often readers look whether the file still lies at its path. Writers look each time.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Writes into a new file what was read from a damaged one.
pub(super) type CarryOver = Box<dyn FnOnce(&Connection) -> rusqlite::Result<usize>>;

/// What makes a file one of this program's.
#[derive(Debug)]
pub(super) struct FileKind {
    /// The mark in the file's header.
    pub application_id: i32,
    /// Version of the format.
    pub format: i32,
    /// The name of the table that every such file has.
    pub table: &'static str,
    /// The statements that create it.
    pub schema: &'static str,
    /// SQLite's `synchronous`: `FULL` if a commit must outlive the machine's power, `NORMAL` if it need not.
    pub synchronous: &'static str,
    /// Whether nobody can compute its content again. Such a file is copied to `….damaged` before it is emptied, and
    /// replaced as soon as a reader meets damage. Another one waits for the next writer, because a look through a large
    /// file takes seconds.
    pub is_precious: bool,
    /// Reads what is left of a damaged file.
    pub salvage: fn(&Connection) -> CarryOver,
}

/// A file of this program. Several processes may have it open.
#[derive(Debug)]
pub(super) struct Database {
    kind: &'static FileKind,
    path: PathBuf,
    /// The connection for writes; `None` while the file cannot be opened.
    writer: Mutex<Option<Connection>>,
    /// Never locked for longer than a short read. Whoever needs both locks takes the writer's first.
    reader: Mutex<Reader>,
    /// Whether a reader or a writer has met damage that is not mended yet.
    is_suspect: AtomicBool,
    is_open: AtomicBool,
    is_closed: AtomicBool,
    /// Number of times that the file was replaced or opened anew.
    rebuilds: AtomicU64,
}

#[derive(Debug)]
struct Reader {
    /// `None` while the file cannot be opened.
    connection: Option<Connection>,
    /// The file that the connections have open.
    identity: Option<Identity>,
    rests_until: Option<Instant>,
    looked_at: Instant,
    /// What readers were last warned of, so that they are warned once.
    warned_of: String,
}

/// Device and number of a file and of the write-ahead log next to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    file: (u64, u64),
    log: Option<(u64, u64)>,
}

impl Database {
    /// Opens the file, or creates it with its folders. Replaces a damaged file with a new one and warns.
    pub(super) fn open(kind: &'static FileKind, path: &Path) -> Result<Self, DiskError> {
        let database = Self::closed(kind, path);
        database.reopen(&mut database.writer())?;
        database.rebuilds.store(0, Ordering::Relaxed);
        Ok(database)
    }

    /// Opens the file like [`Database::open`]. A file that cannot be opened now is tried again when it is written.
    pub(super) fn open_or_later(kind: &'static FileKind, path: &Path) -> Self {
        let database = Self::closed(kind, path);
        if let Err(error) = database.reopen(&mut database.writer()) {
            tracing::warn!(%error, path = %path.display(), "cannot open a file of the store");
        }
        database
    }

    fn closed(kind: &'static FileKind, path: &Path) -> Self {
        Self {
            kind,
            path: path.to_owned(),
            writer: Mutex::new(None),
            reader: Mutex::new(Reader {
                connection: None,
                identity: None,
                rests_until: None,
                looked_at: Instant::now(),
                warned_of: String::new(),
            }),
            is_suspect: AtomicBool::new(false),
            is_open: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            rebuilds: AtomicU64::new(0),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the file is open, so that it can be expected to keep what is written.
    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// Returns how often the file was replaced or opened anew since the start.
    pub(super) fn rebuilds(&self) -> u64 {
        self.rebuilds.load(Ordering::Relaxed)
    }

    /// Returns the bytes of the file and of the write-ahead log next to it.
    pub(super) fn bytes(&self) -> u64 {
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        length(&self.path) + length(&beside(&self.path, "-wal"))
    }

    /// Reads the file. Returns `None` if it cannot be read now, and warns where that is news. Waits for no writer.
    pub(super) fn read<T>(&self, mut work: impl FnMut(&mut Connection) -> rusqlite::Result<T>) -> Option<T> {
        if self.looks_moved() {
            self.try_to_mend();
        }
        let error = match self.try_to_read(&mut work)? {
            Ok(result) => return Some(result),
            Err(error) => error,
        };
        if is_damage(&error) {
            self.is_suspect.store(true, Ordering::Relaxed);
            if self.kind.is_precious && self.try_to_mend() {
                return self.try_to_read(&mut work)?.ok();
            }
        }
        let mut reader = self.reader();
        reader.rests_until = Some(Instant::now() + REST);
        let error = DiskError::from(error).to_string();
        if reader.warned_of != error {
            tracing::warn!(%error, path = %self.path.display(), "cannot read the store on disk; going on without it");
            reader.warned_of = error;
        }
        None
    }

    /// Reads once; `None` if the file is not open or rests.
    fn try_to_read<T>(
        &self,
        work: &mut impl FnMut(&mut Connection) -> rusqlite::Result<T>,
    ) -> Option<rusqlite::Result<T>> {
        let mut reader = self.reader();
        if reader.rests_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let result = work(reader.connection.as_mut()?);
        if result.is_ok() {
            reader.warned_of.clear();
        }
        Some(result)
    }

    /// Runs work on the connection for writes, which waits for other processes until `deadline`. If the file turns out
    /// to be damaged, replaces it and runs the work again.
    ///
    /// # Errors
    /// [`DiskError::Moved`] when the file was deleted or replaced meanwhile: a new one is open, without what the work
    /// has written. Otherwise the error of the work or of opening the file anew.
    pub(super) fn write<T>(
        &self,
        deadline: Instant,
        mut work: impl FnMut(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, DiskError> {
        let mut writer = self.writer();
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(DiskError::Closed);
        }
        if writer.is_none() || self.is_suspect.load(Ordering::Relaxed) || self.has_moved() {
            self.reopen(&mut writer)?;
        }
        let mut attempt = |writer: &mut Option<Connection>| {
            let connection = writer.as_mut().ok_or(DiskError::Closed)?;
            connection.busy_timeout(deadline.saturating_duration_since(Instant::now()))?;
            Ok(work(connection)?)
        };
        let mut result = attempt(&mut writer);
        if let Err(DiskError::Sqlite(error)) = &result
            && is_damage(error)
        {
            self.is_suspect.store(true, Ordering::Relaxed);
            self.reopen(&mut writer)?;
            result = attempt(&mut writer);
        }
        if result.is_ok() && self.has_moved() {
            self.reopen(&mut writer)?;
            return Err(DiskError::Moved);
        }
        result
    }

    /// Closes the connections. The last process that closes a file leaves no write-ahead log behind.
    pub(super) fn close(&self) {
        let mut writer = self.writer();
        let mut reader = self.reader();
        self.is_closed.store(true, Ordering::Relaxed);
        self.is_open.store(false, Ordering::Relaxed);
        reader.connection = None;
        *writer = None;
    }

    /// Returns whether the file at the path is no longer the one that is open.
    pub(super) fn has_moved(&self) -> bool {
        let identity = self.reader().identity;
        identity.is_some_and(|open| file_number(&self.path).is_ok_and(|now| now != Some(open.file)))
    }

    /// Looks from time to time whether the file has moved, for readers.
    fn looks_moved(&self) -> bool {
        let mut reader = self.reader();
        if reader.looked_at.elapsed() < LOOK_INTERVAL {
            return false;
        }
        reader.looked_at = Instant::now();
        drop(reader);
        self.has_moved()
    }

    /// Opens the file anew unless a writer is at work, who will do so. Returns whether it is open now.
    fn try_to_mend(&self) -> bool {
        let Ok(mut writer) = self.writer.try_lock() else {
            return false;
        };
        if self.is_closed.load(Ordering::Relaxed) {
            return false;
        }
        match self.reopen(&mut writer) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "cannot open a file of the store anew");
                false
            }
        }
    }

    /// Opens both connections anew. Replaces a damaged file, and creates a missing one. Both slots are empty if it
    /// fails.
    fn reopen(&self, writer: &mut Option<Connection>) -> Result<(), DiskError> {
        self.is_open.store(false, Ordering::Relaxed);
        self.remove_stale_log();
        // The connections keep the numbers of their files from being given to new files, so they close only now.
        *writer = None;
        self.reader().connection = None;
        let connection = self.connect_or_replace()?;
        let for_readers = open_file(&self.path)?;
        for_readers.busy_timeout(READING_WAIT)?;
        // A first read makes sure that the write-ahead log exists.
        for_readers.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
        let file = file_number(&self.path).map_err(DiskError::at(&self.path))?;
        let log = file_number(&beside(&self.path, "-wal")).unwrap_or(None);
        *self.reader() = Reader {
            connection: Some(for_readers),
            identity: file.map(|file| Identity { file, log }),
            rests_until: None,
            looked_at: Instant::now(),
            warned_of: String::new(),
        };
        *writer = Some(connection);
        self.is_suspect.store(false, Ordering::Relaxed);
        self.is_open.store(true, Ordering::Relaxed);
        self.rebuilds.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Warns if the file that was open no longer lies at the path, and removes its write-ahead log, which SQLite would
    /// apply to the new file.
    fn remove_stale_log(&self) {
        let Some(identity) = self.reader().identity else {
            return;
        };
        if file_number(&self.path).map_or(true, |now| now == Some(identity.file)) {
            return;
        }
        let path = self.path.display();
        tracing::warn!(%path, "the store on disk was deleted or replaced while it was open; opening it anew");
        let log = beside(&self.path, "-wal");
        // A log with another number belongs to the new file already.
        if identity.log.is_some() && file_number(&log).is_ok_and(|now| now == identity.log) {
            for stale in [log, beside(&self.path, "-shm")] {
                if let Err(error) = std::fs::remove_file(&stale) {
                    tracing::warn!(%error, path = %stale.display(), "cannot remove the log of a file that is gone");
                }
            }
        }
    }

    fn connect_or_replace(&self) -> Result<Connection, DiskError> {
        if let Some(folder) = self.path.parent() {
            create_shared_folders(folder).map_err(DiskError::at(folder))?;
        }
        create_shared(&self.path).map_err(DiskError::at(&self.path))?;
        let connected = connect(self.kind, &self.path);
        let cause = match connected {
            Err(DiskError::Sqlite(error)) if is_damage(&error) => error.to_string(),
            Ok(connection) if self.is_suspect.load(Ordering::Relaxed) => {
                // Another process may have replaced the file already.
                if is_sound(self.kind, &connection) {
                    return Ok(connection);
                }
                "a part of it cannot be read".to_owned()
            }
            connected => return connected,
        };
        replace(self.kind, &self.path, &cause)
    }

    /// Lets writes fail as on a full disk once the file has this many pages.
    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: i64) {
        let writer = self.writer();
        let connection = writer.as_ref().expect("the file is open");
        let limit = format!("PRAGMA max_page_count = {pages}");
        let limited = connection.query_row(&limit, [], |row| row.get::<_, i64>(0));
        assert!(limited.is_ok(), "{limited:?}");
    }

    fn writer(&self) -> MutexGuard<'_, Option<Connection>> {
        lock(&self.writer)
    }

    fn reader(&self) -> MutexGuard<'_, Reader> {
        lock(&self.reader)
    }
}

/// Returns the path of a file that SQLite keeps next to a database.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    PathBuf::from(OsString::from_iter([path.as_os_str(), ending.as_ref()]))
}

/// Returns the device and number of a file, `None` if there is none.
fn file_number(path: &Path) -> std::io::Result<Option<(u64, u64)>> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        // The folder may have become something else.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates a missing file, which its group may write if it may write the folder. SQLite gives what it keeps next to the
/// file the same permissions.
fn create_shared(path: &Path) -> std::io::Result<()> {
    match File::create_new(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        created => created.and_then(|_| share_with_group(path)),
    }
}

/// Opens a file of this program and creates a missing table.
fn connect(kind: &FileKind, path: &Path) -> Result<Connection, DiskError> {
    let deadline = Instant::now() + OPENING_WAIT;
    loop {
        match open_file(path)
            .map_err(DiskError::from)
            .and_then(|connection| prepare(kind, connection))
        {
            // SQLite does not wait by itself while two processes create the same file.
            Err(error) if error.is_busy() && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

/// Opens a file, without a look at whose it is.
///
/// # Errors
/// Fails as SQLite does, and for a file that may only be read, with which SQLite would be content until the first write.
pub(super) fn open_file(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    if connection.is_readonly(MAIN_DB)? {
        let failure = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_READONLY);
        return Err(rusqlite::Error::SqliteFailure(failure, None));
    }
    connection.busy_timeout(OPENING_WAIT)?;
    Ok(connection)
}

/// Creates the table in an empty file. Refuses another program's file before writing to it. Writes nothing to a file
/// that is complete, so that another process which holds it keeps nobody from opening it.
fn prepare(kind: &FileKind, mut connection: Connection) -> Result<Connection, DiskError> {
    let state = state(kind, &connection.transaction()?)?;
    if state == FileState::New {
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        connection.pragma_update(None, "auto_vacuum", "FULL")?;
    }
    // With a write-ahead log, readers and a writer do not wait for each other. A commit is one append.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", kind.synchronous)?;
    connection.pragma_update(None, "wal_autocheckpoint", LOG_BYTES / PAGE_BYTES)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    if state == FileState::Complete {
        return Ok(connection);
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another program may have written since the first look.
    self::state(kind, &transaction)?;
    transaction.execute_batch(kind.schema)?;
    transaction.pragma_update(None, "application_id", kind.application_id)?;
    transaction.pragma_update(None, "user_version", kind.format)?;
    transaction.commit()?;
    Ok(connection)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileState {
    /// Nothing is in it.
    New,
    /// It is this program's, without a table: a process was killed while it replaced the file.
    Incomplete,
    Complete,
}

/// Returns the state of the file. Fails if it belongs to another program or version. Runs in a transaction, because
/// another process may be creating the file: all numbers must come from one state.
fn state(kind: &FileKind, transaction: &Transaction<'_>) -> Result<FileState, DiskError> {
    let number = |pragma: &str| transaction.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let objects: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (number("application_id")?, number("user_version")?) {
        (0, 0) if objects == 0 => Ok(FileState::New),
        (id, format) if (id, format) == (kind.application_id, kind.format) => match has_table(kind.table, transaction)?
        {
            true => Ok(FileState::Complete),
            false => Ok(FileState::Incomplete),
        },
        (id, found) if id == kind.application_id => Err(DiskError::OtherFormat {
            found,
            known: kind.format,
        }),
        _ => Err(DiskError::Foreign),
    }
}

/// Returns whether a file has a table of that name.
pub(super) fn has_table(name: &str, connection: &Connection) -> rusqlite::Result<bool> {
    let select = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    connection.query_row(select, [name], |row| Ok(row.get::<_, i64>(0)? > 0))
}

/// Empties a damaged file and creates its table again. Carries over what is still readable and may keep a copy of the
/// damaged file with the ending `.damaged`. No connection of this process may be open.
fn replace(kind: &FileKind, path: &Path, cause: &str) -> Result<Connection, DiskError> {
    let carry_over = open_file(path).map(|connection| (kind.salvage)(&connection));
    let kept = beside(path, ".damaged");
    if kind.is_precious
        && let Err(error) = std::fs::copy(path, &kept)
    {
        tracing::warn!(%error, path = %kept.display(), "could not keep a copy of the damaged store");
    }
    // SQLite's own way to empty a file that others may have open. Deleting the file would break their connections.
    let connection = open_file(path)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_RESET_DATABASE, true)?;
    connection.execute_batch("VACUUM")?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_RESET_DATABASE, false)?;
    drop(connection);
    let connection = connect(kind, path)?;
    let carried_over = carry_over.map_or(Ok(0), |carry_over| carry_over(&connection))?;
    tracing::warn!(
        %cause,
        path = %path.display(),
        kept = kind.is_precious.then(|| kept.display().to_string()),
        carried_over,
        "the store on disk is damaged; replaced it with a new one"
    );
    Ok(connection)
}

/// Returns whether the error means that the file is damaged. A missing table counts as damage: a process was killed
/// while it replaced the file.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
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

/// Returns whether the file is complete after all, because another process has replaced it.
fn is_sound(kind: &FileKind, connection: &Connection) -> bool {
    let check = connection.pragma_query_value(None, "quick_check", |row| row.get::<_, String>(0));
    check.is_ok_and(|answer| answer == "ok") && has_table(kind.table, connection).unwrap_or(false)
}

/// Removes a file with what SQLite keeps next to it. What is missing is as good as removed.
pub(super) fn remove_files(path: &Path) {
    for file in [path.to_owned(), beside(path, "-wal"), beside(path, "-shm")] {
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(%error, path = %file.display(), "cannot remove a file of the store");
            }
            _ => {}
        }
    }
}
