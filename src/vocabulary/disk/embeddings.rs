//! Text embeddings on disk: how they are found and written, and dropped when the file is full.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, named_params, params};

use super::super::embedding::{EmbeddingKey, TextEmbedding};
use super::{DiskError, DiskStore, checksum};

/// Seconds by which a row's time of last use may be too early, so that not every read has to write.
const USE_RESOLUTION: i64 = 3600;

/// One in this many embeddings is dropped when the file is full, so that not every write has to make room.
const DROPPED_FRACTION: i64 = 16;

impl DiskStore {
    /// Returns the embeddings of some keys in their order, `None` for missing ones. Deletes damaged rows with a
    /// warning.
    pub(in crate::vocabulary) fn read(
        &self,
        keys: &[EmbeddingKey],
        now: SystemTime,
    ) -> Result<Vec<Option<TextEmbedding>>, DiskError> {
        let digests: Vec<[u8; 32]> = keys.iter().map(EmbeddingKey::digest).collect();
        let rows = self.run(|connection| {
            // One transaction reads all rows from the same state and takes the lock once.
            let transaction = connection.transaction()?;
            let mut select =
                transaction.prepare("SELECT vector, truncated, checksum, used_at FROM embeddings WHERE key = ?1")?;
            let rows = digests
                .iter()
                .map(|digest| select.query_row([digest], StoredRow::new).optional());
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;

        let (mut used, mut damaged) = (Vec::new(), Vec::new());
        let used_before = seconds(now) - USE_RESOLUTION;
        let found = digests.iter().zip(rows).map(|(digest, row)| {
            let row = row?;
            let embedding = row.embedding(digest);
            match embedding {
                None => damaged.push((digest, row.checksum)),
                Some(_) if row.used_at < used_before => used.push(digest),
                Some(_) => {}
            }
            embedding
        });
        let found = found.collect();
        if !damaged.is_empty() {
            tracing::warn!(rows = damaged.len(), path = %self.path.display(), "deleting damaged embeddings on disk");
        }
        if !used.is_empty() || !damaged.is_empty() {
            let noted = self.run(|connection| {
                let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                for digest in &used {
                    transaction.execute(
                        "UPDATE embeddings SET used_at = ?1 WHERE key = ?2",
                        params![seconds(now), digest],
                    )?;
                }
                for (digest, checksum) in &damaged {
                    let delete = "DELETE FROM embeddings WHERE key = ?1 AND checksum = ?2";
                    transaction.execute(delete, params![digest, checksum])?;
                }
                transaction.commit()
            });
            if let Err(error) = noted {
                // The embeddings that were found stay valid.
                tracing::warn!(%error, "could not update the store on disk");
            }
        }
        Ok(found)
    }

    /// Returns how many of the keys are stored.
    pub(in crate::vocabulary) fn count(&self, keys: &[EmbeddingKey]) -> Result<usize, DiskError> {
        let digests: Vec<[u8; 32]> = keys.iter().map(EmbeddingKey::digest).collect();
        self.run(|connection| {
            let transaction = connection.transaction()?;
            let mut select = transaction.prepare("SELECT 1 FROM embeddings WHERE key = ?1")?;
            digests
                .iter()
                .try_fold(0, |count, digest| Ok(count + usize::from(select.exists([digest])?)))
        })
    }

    /// Writes embeddings. They are on the disk when this returns. The least recently used embeddings make room.
    pub(in crate::vocabulary) fn write(
        &self,
        entries: &[(EmbeddingKey, TextEmbedding)],
        now: SystemTime,
    ) -> Result<(), DiskError> {
        self.run(|connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            {
                let mut insert = transaction.prepare(
                    "INSERT OR REPLACE INTO embeddings (key, vector, truncated, checksum, used_at)
                     VALUES (:key, :vector, :truncated, :checksum, :used_at)",
                )?;
                for (key, embedding) in entries {
                    let digest = key.digest();
                    let vector: Vec<u8> = embedding.vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                    insert.execute(named_params! {
                        ":key": digest,
                        ":vector": vector,
                        ":truncated": embedding.truncated,
                        ":checksum": row_checksum(&digest, &vector, embedding.truncated),
                        ":used_at": seconds(now),
                    })?;
                }
            }
            transaction.commit()
        })?;
        self.make_room()
    }

    /// Drops embeddings until the file fits its capacity. Records the size of the file.
    pub(super) fn make_room(&self) -> Result<(), DiskError> {
        let bytes = self.run(|connection| {
            loop {
                let bytes = file_bytes(connection)?;
                if bytes <= self.capacity_bytes || drop_least_recently_used(connection)? == 0 {
                    return Ok(bytes);
                }
            }
        })?;
        self.bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }
}

fn drop_least_recently_used(connection: &Connection) -> rusqlite::Result<usize> {
    connection.execute(
        "DELETE FROM embeddings WHERE rowid IN (
             SELECT rowid FROM embeddings ORDER BY used_at, rowid
             LIMIT (SELECT max(1, count(*) / ?1) FROM embeddings))",
        [DROPPED_FRACTION],
    )
}

fn file_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    Ok((number("page_count")? * number("page_size")?).unsigned_abs())
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
    fn embedding(&self, key: &[u8; 32]) -> Option<TextEmbedding> {
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

fn row_checksum(key: &[u8; 32], vector: &[u8], truncated: bool) -> [u8; 16] {
    checksum(&[key, vector, &[u8::from(truncated)]])
}

/// Returns the seconds since 1970.
fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs().cast_signed())
}
