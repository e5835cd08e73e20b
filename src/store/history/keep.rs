//! Deletes what is too old or too much, a little at a time.

use std::collections::HashMap;

use rusqlite::Connection;

use super::{BLOCK_BITS, ID_LOW_BITS, SPAN_BITS};

/// Deletes at most `step` requests: those that began before `before_unix_ms`, then the oldest of those
/// beyond `rows_max`. Says how many.
pub(super) fn delete_some(
    transaction: &Connection,
    before_unix_ms: u64,
    rows_max: u64,
    step: u64,
) -> rusqlite::Result<u64> {
    let before = (before_unix_ms << ID_LOW_BITS).cast_signed();
    let deleted = delete(transaction, before, step)?;
    let total: i64 = transaction.query_row(TOTAL, [], |row| row.get(0))?;
    let excess = total.cast_unsigned().saturating_sub(rows_max);
    match excess.min(step - deleted) {
        0 => Ok(deleted),
        more => Ok(deleted + delete(transaction, i64::MAX, more)?),
    }
}

/// Whether [`delete_some`] would find something: cheap, and takes no lock of writers.
pub(super) fn is_due(
    connection: &Connection,
    before_unix_ms: u64,
    rows_max: u64,
) -> rusqlite::Result<bool> {
    let before = (before_unix_ms << ID_LOW_BITS).cast_signed();
    let oldest: Option<i64> = connection.query_row(OLDEST, [], |row| row.get(0))?;
    let total: i64 = connection.query_row(TOTAL, [], |row| row.get(0))?;
    Ok(oldest.is_some_and(|oldest| oldest < before) || total.cast_unsigned() > rows_max)
}

fn delete(transaction: &Connection, before: i64, limit: u64) -> rusqlite::Result<u64> {
    let (mut blocks, mut spans) = (HashMap::new(), HashMap::new());
    let mut kinds: HashMap<i64, i64> = HashMap::new();
    let mut deleted = 0;
    let mut delete = transaction.prepare(DELETE)?;
    let mut rows = delete.query([before, limit.cast_signed()])?;
    while let Some(row) = rows.next()? {
        let (id, kind): (i64, i64) = (row.get(0)?, row.get(1)?);
        *blocks.entry((id >> BLOCK_BITS, kind)).or_insert(0) += 1;
        *spans.entry((id >> SPAN_BITS, kind)).or_insert(0) += 1;
        *kinds.entry(kind).or_default() += 1;
        deleted += 1;
    }
    for (count, remove, counts) in [
        (COUNT_BLOCK, REMOVE_BLOCK, blocks),
        (COUNT_SPAN, REMOVE_SPAN, spans),
    ] {
        let mut count = transaction.prepare(count)?;
        let mut remove = transaction.prepare(remove)?;
        for ((place, kind), requests) in counts {
            count.execute([place, kind, requests])?;
            remove.execute([place, kind])?;
        }
    }
    let mut count = transaction.prepare(COUNT_KIND)?;
    let mut remove = transaction.prepare(REMOVE_KIND)?;
    for (kind, requests) in kinds {
        count.execute([kind, requests])?;
        remove.execute([kind])?;
    }
    Ok(deleted)
}

pub(super) const TOTAL: &str = "SELECT ifnull(sum(requests), 0) FROM history_kind";
pub(super) const OLDEST: &str = "SELECT min(id) FROM history";
pub(super) const DELETE: &str = "
    DELETE FROM history WHERE id IN (SELECT id FROM history WHERE id < ?1 ORDER BY id LIMIT ?2)
    RETURNING id, kind";
pub(super) const COUNT_BLOCK: &str =
    "UPDATE history_block SET requests = requests - ?3 WHERE block = ?1 AND kind = ?2";
pub(super) const REMOVE_BLOCK: &str =
    "DELETE FROM history_block WHERE block = ?1 AND kind = ?2 AND requests <= 0";
pub(super) const COUNT_SPAN: &str =
    "UPDATE history_span SET requests = requests - ?3 WHERE span = ?1 AND kind = ?2";
pub(super) const REMOVE_SPAN: &str =
    "DELETE FROM history_span WHERE span = ?1 AND kind = ?2 AND requests <= 0";
pub(super) const COUNT_KIND: &str =
    "UPDATE history_kind SET requests = requests - ?2 WHERE id = ?1";
pub(super) const REMOVE_KIND: &str = "DELETE FROM history_kind WHERE id = ?1 AND requests <= 0";
