//! Moves the embeddings of earlier versions, which lie in the file of definitions, to the file of embeddings.

use std::time::{Duration, Instant};

use rusqlite::{Connection, Row, params};

use super::database::has_table;
use super::definitions::DefinitionFile;
use super::embeddings::{EmbeddingFile, MovedRow};
use super::{DiskError, embeddings};

/// Rows that move in one transaction.
const ROWS: usize = 1000;

/// The format of embeddings in the file of definitions. Embeddings of another format would be other numbers.
const MOVED_FORMAT: i32 = 1;

/// How long taking rows away waits for another process.
const WAIT: Duration = Duration::from_secs(1);

/// Moves all embeddings, piece by piece: a row is taken away when it is in the other file. What cannot be moved now
/// stays for the next start. The emptied table stays, because a server of an earlier version may have the file open.
pub(super) fn move_embeddings(definitions: &DefinitionFile, embeddings: &EmbeddingFile) {
    let mut moved = 0;
    let result = loop {
        match move_some(definitions, embeddings) {
            Ok(0) => break Ok(()),
            Ok(rows) => moved += rows,
            Err(error) => break Err(error),
        }
    };
    if moved > 0 {
        tracing::info!(
            moved,
            "moved text embeddings from the file of definitions to a file of their own"
        );
    }
    if let Err(error) = result {
        tracing::warn!(%error, "could not move text embeddings to a file of their own; trying again at the next start");
    }
}

/// Moves some rows and returns how many.
fn move_some(definitions: &DefinitionFile, embeddings: &EmbeddingFile) -> Result<usize, DiskError> {
    let Some(rows) = definitions.0.read(|connection| first_rows(connection)) else {
        return Ok(0);
    };
    if rows.is_empty() {
        return Ok(0);
    }
    if embeddings::KIND.format == MOVED_FORMAT {
        embeddings.take_over(&rows)?;
    }
    definitions.0.write(Instant::now() + WAIT, |connection| {
        let transaction = connection.transaction()?;
        for row in &rows {
            let delete = "DELETE FROM embeddings WHERE rowid = ?1 AND key = ?2";
            transaction.execute(delete, params![row.rowid, row.key])?;
        }
        transaction.commit()
    })?;
    Ok(rows.len())
}

/// Reads the first rows of the table of embeddings; none where there is no such table.
fn first_rows(connection: &Connection) -> rusqlite::Result<Vec<MovedRow>> {
    if !has_table(embeddings::KIND.table, connection)? {
        return Ok(Vec::new());
    }
    let mut select =
        connection.prepare("SELECT rowid, key, vector, truncated, checksum, used_at FROM embeddings LIMIT ?1")?;
    let row = |row: &Row<'_>| {
        Ok(MovedRow {
            rowid: row.get(0)?,
            key: row.get(1)?,
            vector: row.get(2)?,
            truncated: row.get(3)?,
            checksum: row.get(4)?,
            used_at: row.get(5)?,
        })
    };
    select.query_map([ROWS as i64], row)?.collect()
}
