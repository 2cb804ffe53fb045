//! Deletions of shared definitions, in the file of definitions: what this replica must not bring back.
//!
//! The first deletion makes their table. Earlier versions know of no such table, and go on using the file.

use rusqlite::{Connection, Row, params};

use super::super::checksum::checksum;
use super::database::has_table;

const TABLE: &str = "deletions";

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS deletions (
        name TEXT PRIMARY KEY,
        version INTEGER NOT NULL,   -- Entry::version
        checksum BLOB NOT NULL
    ) STRICT;
";

/// The deletion of a shared definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::vocabulary) struct Deletion {
    pub name: String,
    /// Its version in the shared state, below 2^32.
    pub version: u64,
}

/// Returns the deletions in a file, but for damaged rows; none where there is no table of them.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Vec<Deletion>> {
    if !has_table(TABLE, connection)? {
        return Ok(Vec::new());
    }
    let mut select = connection.prepare("SELECT name, version, checksum FROM deletions")?;
    let row = |row: &Row<'_>| {
        let deletion = Deletion {
            name: row.get(0)?,
            version: row.get::<_, i64>(1)?.cast_unsigned(),
        };
        let is_whole = row.get::<_, Vec<u8>>(2)? == right_checksum(&deletion);
        Ok(is_whole.then_some(deletion))
    };
    let rows = select.query_map([], row)?;
    rows.filter_map(Result::transpose).collect()
}

/// Writes deletions, and forgets those of some other names.
pub(super) fn change<'a>(
    connection: &Connection,
    deletions: &[Deletion],
    forgotten: impl Iterator<Item = &'a str>,
) -> rusqlite::Result<()> {
    if !deletions.is_empty() {
        connection.execute_batch(SCHEMA)?;
    } else if !has_table(TABLE, connection)? {
        return Ok(());
    }
    let mut write =
        connection.prepare("INSERT OR REPLACE INTO deletions (name, version, checksum) VALUES (?1, ?2, ?3)")?;
    for deletion in deletions {
        let version = deletion.version.cast_signed();
        write.execute(params![deletion.name, version, right_checksum(deletion)])?;
    }
    let mut forget = connection.prepare("DELETE FROM deletions WHERE name = ?1")?;
    for name in forgotten {
        forget.execute([name])?;
    }
    Ok(())
}

fn right_checksum(deletion: &Deletion) -> [u8; 16] {
    checksum(&[deletion.name.as_bytes(), &deletion.version.to_le_bytes()])
}
