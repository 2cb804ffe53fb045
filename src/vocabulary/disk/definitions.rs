//! Definitions of named vocabularies on disk, changed only from the state that was seen.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, Row, named_params};

use super::super::VocabularyDefinition;
use super::super::text_form::{parse_vocabulary, write_vocabulary};
use super::{DiskError, DiskStore, checksum};

/// A named vocabulary as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::vocabulary) struct Definition {
    pub name: String,
    pub vocabulary: VocabularyDefinition,
    /// To the second.
    pub defined_at: SystemTime,
}

/// The state of the file as one reader has seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vocabulary) struct ChangeMark {
    rebuilds: u64,
    /// Changes whenever another process has written.
    data_version: i64,
}

impl DiskStore {
    /// All definitions with a mark for the next call, unless nobody else has written since the last one.
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

    /// Writes a definition where the list of `expected` digest stands, `None` for nothing. False when something else
    /// does: another process was faster.
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

    /// Drops a definition whose list has this digest. False when there is none: another process was faster.
    pub(in crate::vocabulary) fn delete_definition(&self, name: &str, expected: &str) -> Result<bool, DiskError> {
        self.run(|connection| {
            let delete = "DELETE FROM vocabularies WHERE name = ?1 AND digest = ?2";
            Ok(connection.execute(delete, [name, expected])? > 0)
        })
    }
}

/// Adds a definition. False when the name is taken.
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

/// All definitions. Rows that are not what was written are dropped with a warning.
fn read_all(connection: &Connection) -> rusqlite::Result<Vec<Definition>> {
    let mut select = connection.prepare(SELECT)?;
    let rows = select
        .query_map([], StoredRow::read)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for (rowid, row) in rows.iter().filter(|(_, row)| !row.is_whole()) {
        tracing::warn!(
            name = row.name,
            "the damaged definition of a vocabulary on disk is dropped"
        );
        connection.execute("DELETE FROM vocabularies WHERE rowid = ?1", [rowid])?;
    }
    let whole = rows.into_iter().filter(|(_, row)| row.is_whole());
    Ok(whole.filter_map(|(_, row)| row.definition()).collect())
}

/// The definitions that can still be read from a damaged file.
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

/// A row as it stands in the file.
struct StoredRow {
    name: String,
    classes: String,
    digest: String,
    defined_at: i64,
    checksum: Vec<u8>,
}

impl StoredRow {
    /// A row of [`SELECT`] with its rowid.
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

    /// `None` with a warning when a later version wrote what this one cannot read.
    fn definition(self) -> Option<Definition> {
        match parse_vocabulary(&self.classes) {
            Ok(text) => Some(Definition {
                name: self.name,
                vocabulary: VocabularyDefinition::trusted(text),
                defined_at: SystemTime::UNIX_EPOCH + Duration::from_secs(self.defined_at.max(0).cast_unsigned()),
            }),
            Err(error) => {
                tracing::warn!(name = self.name, %error, "a vocabulary on disk cannot be read and is left alone");
                None
            }
        }
    }
}
