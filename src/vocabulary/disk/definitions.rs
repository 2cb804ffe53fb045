//! The file of definitions of named vocabularies. A change succeeds only if nobody else has changed the definition
//! since it was read, and is on the disk when it returns.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, named_params};

use super::super::VocabularyDefinition;
use super::super::checksum::checksum;
use super::super::text_form::{parse_vocabulary, write_vocabulary};
use super::DiskError;
use super::database::{CarryOver, Database, FileKind};
use super::deletions::{self, Deletion};

/// "Mskc" in the header. Format 1 had a table of embeddings as well, which earlier versions still make and use. It is
/// emptied and otherwise left alone, so that they can share the file.
static KIND: FileKind = FileKind {
    application_id: 0x4d73_6b63,
    format: 1,
    table: "vocabularies",
    schema: "
        CREATE TABLE IF NOT EXISTS vocabularies (
            name TEXT PRIMARY KEY,
            classes TEXT NOT NULL,      -- as write_vocabulary has it
            digest TEXT NOT NULL,       -- VocabularyDefinition::digest
            defined_at INTEGER NOT NULL,
            checksum BLOB NOT NULL
        ) STRICT;
    ",
    synchronous: "FULL",
    is_precious: true,
    salvage,
};

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
    /// Number of times that the file was opened anew, each time perhaps without its former content.
    pub rebuilds: u64,
    /// SQLite's number that changes whenever another connection writes.
    data_version: i64,
}

/// The definitions in the file, compared with those that a reader knows.
#[derive(Debug, PartialEq)]
pub(in crate::vocabulary) struct Definitions {
    /// The state that they belong to.
    pub mark: ChangeMark,
    /// The names whose definitions the reader knows.
    pub unchanged: Vec<String>,
    /// All other definitions.
    pub others: Vec<Definition>,
}

/// What a replica has learned of the definitions that replicas share.
#[derive(Debug, Default)]
pub(in crate::vocabulary) struct Learned {
    /// Definitions that hold from now on.
    pub defined: Vec<Definition>,
    /// Deletions of definitions.
    pub deleted: Vec<Deletion>,
    /// Names whose deletions are no longer remembered.
    pub forgotten: Vec<String>,
}

impl Learned {
    /// Returns whether it changes nothing.
    pub(in crate::vocabulary) fn is_empty(&self) -> bool {
        self.defined.is_empty() && self.deleted.is_empty() && self.forgotten.is_empty()
    }
}

/// The file of definitions. Several processes may have it open.
#[derive(Debug)]
pub(in crate::vocabulary) struct DefinitionFile(pub(super) Database);

impl DefinitionFile {
    pub(super) fn open(path: &Path) -> Result<Self, DiskError> {
        Database::open(&KIND, path).map(Self)
    }

    /// Returns whether the file is open, so that changes can be expected to be written.
    pub(in crate::vocabulary) fn is_open(&self) -> bool {
        self.0.is_open()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    pub(super) fn close(&self) {
        self.0.close();
    }

    /// Returns the mark of the file's present state, `None` if it cannot be read now. Waits for no writer.
    pub(in crate::vocabulary) fn mark(&self) -> Option<ChangeMark> {
        let data_version = self.0.read(data_version)?;
        Some(ChangeMark {
            rebuilds: self.0.rebuilds(),
            data_version,
        })
    }

    /// Returns the definitions, `None` if they cannot be read now. `known` has the digests of the definitions that need
    /// not be read again. Waits for no writer.
    pub(in crate::vocabulary) fn read(&self, known: &HashMap<String, String>) -> Option<Definitions> {
        let mut rebuilds = 0;
        let (data_version, unchanged, rows) = self.0.read(|connection| {
            rebuilds = self.0.rebuilds();
            // A commit after this number is read is seen again the next time.
            let data_version = data_version(connection)?;
            let transaction = connection.transaction()?;
            let mut select = transaction.prepare("SELECT name, digest FROM vocabularies")?;
            let names = select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
            let (mut unchanged, mut rows) = (Vec::new(), Vec::new());
            for found in names {
                let (name, digest) = found?;
                match known.get(&name) {
                    Some(known) if *known == digest => unchanged.push(name),
                    _ => rows.extend(find(&transaction, &name)?),
                }
            }
            Ok((data_version, unchanged, rows))
        })?;
        Some(Definitions {
            mark: ChangeMark { rebuilds, data_version },
            unchanged,
            others: rows.into_iter().filter_map(StoredRow::definition).collect(),
        })
    }

    /// Writes a definition in place of the one with the digest `expected`, or a new one for `None`. Returns false and
    /// writes nothing if another process has changed the definition. Waits for other processes until `deadline`.
    pub(in crate::vocabulary) fn put(
        &self,
        definition: &Definition,
        expected: Option<&str>,
        deadline: Instant,
    ) -> Result<bool, DiskError> {
        let row = StoredRow::of(definition);
        let written = self.0.write(deadline, |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // A damaged row counts as none, as it does for readers.
            let present = find(&transaction, &row.name)?.filter(StoredRow::is_whole);
            if present.map(|present| present.digest).as_deref() != expected {
                return Ok(false);
            }
            row.write(&transaction)?;
            transaction.commit()?;
            Ok(true)
        });
        unless_moved(written)
    }

    /// Deletes the definition with this digest. Returns false if another process has changed or deleted it. Waits for
    /// other processes until `deadline`.
    pub(in crate::vocabulary) fn delete(
        &self,
        name: &str,
        expected: &str,
        deadline: Instant,
    ) -> Result<bool, DiskError> {
        let deleted = self.0.write(deadline, |connection| {
            let delete = "DELETE FROM vocabularies WHERE name = ?1 AND digest = ?2";
            Ok(connection.execute(delete, [name, expected])? > 0)
        });
        unless_moved(deleted)
    }

    /// Writes what was learned of shared definitions, whatever the file has under their names. Waits for other processes
    /// until `deadline`.
    pub(in crate::vocabulary) fn mirror(&self, learned: &Learned, deadline: Instant) -> Result<(), DiskError> {
        self.0.write(deadline, |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for definition in &learned.defined {
                StoredRow::of(definition).write(&transaction)?;
            }
            for Deletion { name, .. } in &learned.deleted {
                transaction.execute("DELETE FROM vocabularies WHERE name = ?1", [name])?;
            }
            let defined = learned.defined.iter().map(|definition| &*definition.name);
            let forgotten = learned.forgotten.iter().map(|name| &**name);
            deletions::change(&transaction, &learned.deleted, forgotten.chain(defined))?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// Returns the deletions of shared definitions that the file has; none if it cannot be read now.
    pub(in crate::vocabulary) fn deletions(&self) -> Vec<Deletion> {
        self.0
            .read(|connection| deletions::read(connection))
            .unwrap_or_default()
    }

    /// Writes the definitions whose names are not in the file. Waits for other processes until `deadline`.
    pub(in crate::vocabulary) fn restore(&self, known: &[Definition], deadline: Instant) -> Result<usize, DiskError> {
        self.0.write(deadline, |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut restored = 0;
            for definition in known {
                if find(&transaction, &definition.name)?.is_none_or(|row| !row.is_whole()) {
                    StoredRow::of(definition).write(&transaction)?;
                    restored += 1;
                }
            }
            transaction.commit()?;
            Ok(restored)
        })
    }
}

/// Counts what was written to a file that is gone as not written.
fn unless_moved(written: Result<bool, DiskError>) -> Result<bool, DiskError> {
    match written {
        Err(DiskError::Moved) => Ok(false),
        written => written,
    }
}

fn data_version(connection: &mut Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "data_version", |row| row.get(0))
}

fn find(connection: &Connection, name: &str) -> rusqlite::Result<Option<StoredRow>> {
    let select = "SELECT name, classes, digest, defined_at, checksum FROM vocabularies WHERE name = ?1";
    connection.query_row(select, [name], StoredRow::read).optional()
}

/// Reads the definitions and deletions that are left in a damaged file.
fn salvage(connection: &Connection) -> CarryOver {
    // The table and its index by name are different pages, and each row may be damaged for itself.
    let mut rowids = BTreeSet::new();
    for select in [
        "SELECT rowid FROM vocabularies NOT INDEXED",
        "SELECT rowid FROM vocabularies ORDER BY name",
    ] {
        if let Ok(mut select) = connection.prepare(select)
            && let Ok(found) = select.query_map([], |row| row.get::<_, i64>(0))
        {
            rowids.extend(found.map_while(Result::ok));
        }
    }
    let select = "SELECT name, classes, digest, defined_at, checksum FROM vocabularies WHERE rowid = ?1";
    let rows = rowids
        .iter()
        .filter_map(|rowid| connection.query_row(select, [rowid], StoredRow::read).ok());
    let left: Vec<StoredRow> = rows.filter(StoredRow::is_whole).collect();
    let deletions = deletions::read(connection).unwrap_or_default();
    Box::new(move |connection| {
        left.iter().try_for_each(|row| row.write(connection))?;
        deletions::change(connection, &deletions, std::iter::empty())?;
        Ok(left.len())
    })
}

/// A row as stored in the file.
struct StoredRow {
    name: String,
    classes: String,
    digest: String,
    defined_at: i64,
    checksum: Vec<u8>,
}

impl StoredRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            name: row.get("name")?,
            classes: row.get("classes")?,
            digest: row.get("digest")?,
            defined_at: row.get("defined_at")?,
            checksum: row.get("checksum")?,
        })
    }

    fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let write = "INSERT OR REPLACE INTO vocabularies (name, classes, digest, defined_at, checksum)
                     VALUES (:name, :classes, :digest, :defined_at, :checksum)";
        connection.execute(
            write,
            named_params! {
                ":name": self.name, ":classes": self.classes, ":digest": self.digest,
                ":defined_at": self.defined_at, ":checksum": self.checksum,
            },
        )?;
        Ok(())
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

    /// Returns the definition. Warns and returns `None` if the row is damaged, or if this version cannot read what a
    /// later version has written. Such a row stays where it is until its name is defined again.
    fn definition(self) -> Option<Definition> {
        if !self.is_whole() {
            tracing::warn!(
                name = self.name,
                "the definition of a vocabulary on disk is damaged; going on without it"
            );
            return None;
        }
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
