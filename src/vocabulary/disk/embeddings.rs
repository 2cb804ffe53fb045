//! The file of text embeddings, a cache: how they are found and written, and dropped when the file is full.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, named_params, params};

use super::super::checksum::checksum;
use super::super::embedding::TextEmbedding;
use super::DiskError;
use super::database::{CarryOver, Database, FileKind, remove_files};

/// "Mske" in the header. Raise the format with changes of the table, and when a build embeds the same text differently:
/// a file of another format is made anew at the next start.
pub(super) static KIND: FileKind = FileKind {
    application_id: 0x4d73_6b65,
    format: 1,
    table: "embeddings",
    schema: "
        CREATE TABLE IF NOT EXISTS embeddings (
            key BLOB PRIMARY KEY,       -- EmbeddingKey::digest
            vector BLOB NOT NULL,       -- float32, little-endian
            truncated INTEGER NOT NULL,
            checksum BLOB NOT NULL,
            used_at INTEGER NOT NULL    -- seconds since 1970, to the hour
        ) STRICT;
        CREATE INDEX IF NOT EXISTS embeddings_by_use ON embeddings (used_at);
    ",
    synchronous: "NORMAL",
    is_precious: false,
    salvage: |_| -> CarryOver { Box::new(|_| Ok(0)) },
};

/// Seconds by which a row's time of last use may be too early, so that not every read has to write.
const USE_RESOLUTION: i64 = 3600;

/// One in this many embeddings is dropped when the file is full, so that not every write has to make room.
const DROPPED_FRACTION: i64 = 16;

/// How long a write waits for another process before it is given up.
const WRITING_WAIT: Duration = Duration::from_secs(1);

/// The SHA-256 of an embedding's key.
pub(super) type KeyDigest = [u8; 32];

/// The file of embeddings. Several processes may have it open.
#[derive(Debug)]
pub(super) struct EmbeddingFile {
    database: Database,
    /// Largest size of the file with its log in bytes.
    capacity_bytes: u64,
}

/// Changes of the file that belong into one transaction.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// New embeddings.
    pub entries: Vec<(KeyDigest, TextEmbedding)>,
    /// Embeddings that were used now.
    pub used: Vec<KeyDigest>,
    /// Damaged rows with their vectors and checksums, to be deleted unless they have changed.
    pub damaged: Vec<(KeyDigest, Vec<u8>, Vec<u8>)>,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.used.is_empty() && self.damaged.is_empty()
    }
}

impl EmbeddingFile {
    /// Opens the file, or one that is tried again later. Makes a file of another format anew.
    pub(super) fn open(path: &Path, capacity_bytes: u64) -> Self {
        let database = match Database::open(&KIND, path) {
            Err(DiskError::OtherFormat { found, known }) => {
                let path_shown = path.display();
                tracing::info!(path = %path_shown, found, known, "making the file of embeddings anew, in another format");
                remove_files(path);
                Database::open_or_later(&KIND, path)
            }
            Ok(database) => database,
            Err(_) => Database::open_or_later(&KIND, path),
        };
        Self {
            database,
            capacity_bytes,
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.database.path()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.database.bytes()
    }

    pub(super) fn close(&self) {
        self.database.close();
    }

    /// Returns the embeddings of some keys in their order, `None` for missing ones, and the changes that reading them
    /// asks for.
    pub(super) fn read(&self, digests: &[KeyDigest], now: SystemTime) -> (Vec<Option<TextEmbedding>>, Changes) {
        let mut changes = Changes::default();
        let rows = self.database.read(|connection| {
            // One transaction reads all rows from the same state and takes the lock once.
            let transaction = connection.transaction()?;
            let mut select =
                transaction.prepare("SELECT vector, truncated, checksum, used_at FROM embeddings WHERE key = ?1")?;
            let rows = digests
                .iter()
                .map(|digest| select.query_row([digest], StoredRow::new).optional());
            rows.collect::<rusqlite::Result<Vec<_>>>()
        });
        let Some(rows) = rows else {
            return (vec![None; digests.len()], changes);
        };
        let used_before = seconds(now) - USE_RESOLUTION;
        let found = digests.iter().zip(rows).map(|(digest, row)| {
            let row = row?;
            let embedding = row.embedding(digest);
            match embedding {
                None => changes.damaged.push((*digest, row.vector, row.checksum)),
                Some(_) if row.used_at < used_before => changes.used.push(*digest),
                Some(_) => {}
            }
            embedding
        });
        let found = found.collect();
        if !changes.damaged.is_empty() {
            let path = self.database.path().display();
            tracing::warn!(rows = changes.damaged.len(), %path, "deleting damaged embeddings on disk");
        }
        (found, changes)
    }

    /// Returns how many of the keys are stored.
    pub(super) fn count(&self, digests: &[KeyDigest]) -> usize {
        let count = self.database.read(|connection| {
            let transaction = connection.transaction()?;
            let mut select = transaction.prepare("SELECT 1 FROM embeddings WHERE key = ?1")?;
            digests
                .iter()
                .try_fold(0, |count, digest| Ok(count + usize::from(select.exists([digest])?)))
        });
        count.unwrap_or(0)
    }

    /// Writes changes. The least recently used embeddings make room.
    pub(super) fn write(&self, changes: &Changes, now: SystemTime) -> Result<(), DiskError> {
        self.change(|connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            insert(&transaction, &changes.entries, seconds(now))?;
            for digest in &changes.used {
                let update = "UPDATE embeddings SET used_at = ?1 WHERE key = ?2";
                transaction.execute(update, params![seconds(now), digest])?;
            }
            for (digest, vector, checksum) in &changes.damaged {
                let delete = "DELETE FROM embeddings WHERE key = ?1 AND vector = ?2 AND checksum = ?3";
                transaction.execute(delete, params![digest, vector, checksum])?;
            }
            transaction.commit()
        })?;
        self.make_room();
        Ok(())
    }

    /// Writes rows of an earlier version's file, unless they are there.
    pub(super) fn take_over(&self, rows: &[MovedRow]) -> Result<(), DiskError> {
        self.change(|connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for row in rows {
                transaction.execute(
                    "INSERT OR IGNORE INTO embeddings (key, vector, truncated, checksum, used_at)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![row.key, row.vector, row.truncated, row.checksum, row.used_at],
                )?;
            }
            transaction.commit()
        })
    }

    fn change<T>(&self, work: impl FnMut(&mut Connection) -> rusqlite::Result<T>) -> Result<T, DiskError> {
        self.database.write(Instant::now() + WRITING_WAIT, work)
    }

    /// Drops embeddings until the file and its log fit the capacity. Warns if another process or the disk prevents it.
    pub(super) fn make_room(&self) {
        if self.bytes() <= self.capacity_bytes {
            return;
        }
        let made = self.change(|connection| {
            while page_bytes(connection)? > self.capacity_bytes && drop_least_recently_used(connection)? > 0 {}
            // Moves the log into the file and empties it. It stays if another process still reads it.
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        });
        if let Err(error) = made {
            tracing::warn!(%error, "could not make room in the store on disk");
        }
    }
}

/// A row of an earlier version's file, not looked at.
pub(super) struct MovedRow {
    pub rowid: i64,
    pub key: Vec<u8>,
    pub vector: Vec<u8>,
    pub truncated: bool,
    pub checksum: Vec<u8>,
    pub used_at: i64,
}

fn insert(connection: &Connection, entries: &[(KeyDigest, TextEmbedding)], used_at: i64) -> rusqlite::Result<()> {
    let mut insert = connection.prepare(
        "INSERT OR REPLACE INTO embeddings (key, vector, truncated, checksum, used_at)
         VALUES (:key, :vector, :truncated, :checksum, :used_at)",
    )?;
    for (digest, embedding) in entries {
        let vector: Vec<u8> = embedding.vector.iter().flat_map(|value| value.to_le_bytes()).collect();
        insert.execute(named_params! {
            ":key": digest,
            ":vector": vector,
            ":truncated": embedding.truncated,
            ":checksum": row_checksum(digest, &vector, embedding.truncated),
            ":used_at": used_at,
        })?;
    }
    Ok(())
}

/// Returns the bytes that the file has once the log is moved into it.
fn page_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    Ok((number("page_count")? * number("page_size")?).unsigned_abs())
}

fn drop_least_recently_used(connection: &Connection) -> rusqlite::Result<usize> {
    connection.execute(
        "DELETE FROM embeddings WHERE rowid IN (
             SELECT rowid FROM embeddings ORDER BY used_at, rowid
             LIMIT (SELECT max(1, count(*) / ?1) FROM embeddings))",
        [DROPPED_FRACTION],
    )
}

/// A row as stored in the file, not verified yet.
struct StoredRow {
    vector: Vec<u8>,
    truncated: bool,
    checksum: Vec<u8>,
    used_at: i64,
}

impl StoredRow {
    fn new(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            vector: row.get("vector")?,
            truncated: row.get("truncated")?,
            checksum: row.get("checksum")?,
            used_at: row.get("used_at")?,
        })
    }

    /// Returns the embedding that was written under the key, or `None` if the row is damaged.
    fn embedding(&self, key: &KeyDigest) -> Option<TextEmbedding> {
        (self.checksum == row_checksum(key, &self.vector, self.truncated)).then(|| TextEmbedding {
            vector: self
                .vector
                .as_chunks()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect(),
            truncated: self.truncated,
        })
    }
}

fn row_checksum(key: &KeyDigest, vector: &[u8], truncated: bool) -> [u8; 16] {
    checksum(&[key, vector, &[u8::from(truncated)]])
}

/// Returns the seconds since 1970.
fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs().cast_signed())
}
