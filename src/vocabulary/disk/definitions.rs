//! Definitions of named vocabularies on disk. A change succeeds only if nobody else has changed the definition since it
//! was read.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, Row, named_params};

use super::super::VocabularyDefinition;
use super::super::text_form::{parse_vocabulary, write_vocabulary};
use super::{DiskError, DiskStore, checksum};

/// A named vocabulary in the file.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::vocabulary) struct Definition {
    pub name: String,
    pub vocabulary: VocabularyDefinition,
    /// When the definition was made, with a resolution of one second.
    pub defined_at: SystemTime,
}

/// A mark for the state of the file that a reader has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vocabulary) struct ChangeMark {
    rebuilds: u64,
    /// SQLite's number that changes whenever another process writes.
    data_version: i64,
}

impl DiskStore {
    /// Returns all definitions with a mark for the next call, or `None` if nobody else has written since `seen`.
    pub(in crate::vocabulary) fn definitions_since(
        &self,
        seen: Option<ChangeMark>,
    ) -> Result<Option<(ChangeMark, Vec<Definition>)>, DiskError> {
        self.run(|connection| {
            let mark = ChangeMark {
                rebuilds: self.rebuilds.load(Ordering::Relaxed),
                data_version: connection.pragma_query_value(None, "data_version", |row| row.get(0))?,
            };
            if seen == Some(mark) {
                return Ok(None);
            }
            Ok(Some((mark, read_all(connection)?)))
        })
    }

    /// Writes a definition in place of the one with the digest `expected`, or a new one for `None`. Returns false and
    /// writes nothing if another process has changed the definition.
    pub(in crate::vocabulary) fn put_definition(
        &self,
        definition: &Definition,
        expected: Option<&str>,
    ) -> Result<bool, DiskError> {
        self.run(|connection| match expected {
            None => insert(connection, definition),
            Some(expected) => {
                let row = StoredRow::of(definition);
                let changed = connection.execute(
                    "UPDATE vocabularies SET classes = :classes, digest = :digest, defined_at = :defined_at,
                     checksum = :checksum WHERE name = :name AND digest = :expected",
                    named_params! {
                        ":name": row.name, ":classes": row.classes, ":digest": row.digest,
                        ":defined_at": row.defined_at, ":checksum": row.checksum, ":expected": expected,
                    },
                )?;
                Ok(changed > 0)
            }
        })
    }

    /// Deletes the definition with this digest. Returns false if another process has changed or deleted it.
    pub(in crate::vocabulary) fn delete_definition(&self, name: &str, expected: &str) -> Result<bool, DiskError> {
        self.run(|connection| {
            let delete = "DELETE FROM vocabularies WHERE name = ?1 AND digest = ?2";
            Ok(connection.execute(delete, [name, expected])? > 0)
        })
    }
}

/// Adds a definition. Returns false if its name is taken.
pub(super) fn insert(connection: &Connection, definition: &Definition) -> rusqlite::Result<bool> {
    let row = StoredRow::of(definition);
    let added = connection.execute(
        "INSERT INTO vocabularies (name, classes, digest, defined_at, checksum)
         VALUES (:name, :classes, :digest, :defined_at, :checksum) ON CONFLICT DO NOTHING",
        named_params! {
            ":name": row.name, ":classes": row.classes, ":digest": row.digest,
            ":defined_at": row.defined_at, ":checksum": row.checksum,
        },
    )?;
    Ok(added > 0)
}

/// Returns all definitions. Deletes damaged rows with a warning.
fn read_all(connection: &Connection) -> rusqlite::Result<Vec<Definition>> {
    let mut select = connection.prepare(SELECT)?;
    let rows = select
        .query_map([], StoredRow::read)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for (rowid, row) in rows.iter().filter(|(_, row)| !row.is_whole()) {
        tracing::warn!(name = row.name, "deleting a damaged definition of a vocabulary on disk");
        connection.execute("DELETE FROM vocabularies WHERE rowid = ?1", [rowid])?;
    }
    let whole = rows.into_iter().filter(|(_, row)| row.is_whole());
    Ok(whole.filter_map(|(_, row)| row.definition()).collect())
}

/// Returns the definitions that are still readable in a damaged file.
pub(super) fn salvage(connection: &Connection) -> Vec<Definition> {
    let Ok(mut select) = connection.prepare(SELECT) else {
        return Vec::new();
    };
    let Ok(rows) = select.query_map([], StoredRow::read) else {
        return Vec::new();
    };
    rows.map_while(Result::ok)
        .filter(|(_, row)| row.is_whole())
        .filter_map(|(_, row)| row.definition())
        .collect()
}

const SELECT: &str = "SELECT rowid, name, classes, digest, defined_at, checksum FROM vocabularies";

/// A row as stored in the file.
struct StoredRow {
    name: String,
    classes: String,
    digest: String,
    defined_at: i64,
    checksum: Vec<u8>,
}

impl StoredRow {
    /// Reads a row of [`SELECT`] with its rowid.
    fn read(row: &Row<'_>) -> rusqlite::Result<(i64, Self)> {
        let stored = Self {
            name: row.get("name")?,
            classes: row.get("classes")?,
            digest: row.get("digest")?,
            defined_at: row.get("defined_at")?,
            checksum: row.get("checksum")?,
        };
        Ok((row.get("rowid")?, stored))
    }

    fn of(definition: &Definition) -> Self {
        let since = definition.defined_at.duration_since(SystemTime::UNIX_EPOCH);
        let mut row = Self {
            name: definition.name.clone(),
            classes: write_vocabulary(&definition.vocabulary.list, &definition.vocabulary.options),
            digest: definition.vocabulary.digest(),
            defined_at: since.map_or(0, |since| since.as_secs().cast_signed()),
            checksum: Vec::new(),
        };
        row.checksum = row.right_checksum().to_vec();
        row
    }

    fn is_whole(&self) -> bool {
        self.checksum == self.right_checksum()
    }

    fn right_checksum(&self) -> [u8; 16] {
        checksum(&[
            self.name.as_bytes(),
            self.classes.as_bytes(),
            self.digest.as_bytes(),
            &self.defined_at.to_le_bytes(),
        ])
    }

    /// Returns the definition. Warns and returns `None` if this version cannot read what a later version has written.
    fn definition(self) -> Option<Definition> {
        match parse_vocabulary(&self.classes) {
            Ok(text) => Some(Definition {
                name: self.name,
                vocabulary: VocabularyDefinition::trusted(text),
                defined_at: SystemTime::UNIX_EPOCH + Duration::from_secs(self.defined_at.max(0).cast_unsigned()),
            }),
            Err(error) => {
                tracing::warn!(name = self.name, %error, "cannot read a vocabulary on disk; leaving it there");
                None
            }
        }
    }
}
