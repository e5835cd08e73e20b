//! Deletes what is too old or too much, a little at a time.
//!
//! Whoever has no valid key must not push out what is kept of those who have one: requests that were refused
//! for want of it have a small share of the rows to themselves, in which the oldest give way to later ones.

use std::collections::HashMap;

use rusqlite::Connection;

use super::{BLOCK_BITS, ID_LOW_BITS, SPAN_BITS};

/// Requests kept, by the counts of their kinds.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    total: u64,
    /// Those without a valid key.
    refused: u64,
}

/// An id, and its kind.
type Row = (i64, i64);

/// Deletes at most `step` requests: those that began before `before_unix_ms`, then the oldest without a valid
/// key beyond their share, then the oldest of those beyond `rows_max`. Says how many.
pub(super) fn delete_some(
    transaction: &Connection,
    before_unix_ms: u64,
    rows_max: u64,
    step: u64,
) -> rusqlite::Result<u64> {
    let before = (before_unix_ms << ID_LOW_BITS).cast_signed();
    let mut deleted = delete_oldest(transaction, before, step)?;
    let excess = Kept::of(transaction)?.refused_excess(rows_max);
    deleted += delete_refused(transaction, excess.min(step - deleted))?;
    let excess = Kept::of(transaction)?.total.saturating_sub(rows_max);
    deleted += delete_oldest(transaction, i64::MAX, excess.min(step - deleted))?;
    Ok(deleted)
}

/// Whether [`delete_some`] would find something: cheap, and takes no lock of writers.
pub(super) fn is_due(
    connection: &Connection,
    before_unix_ms: u64,
    rows_max: u64,
) -> rusqlite::Result<bool> {
    let before = (before_unix_ms << ID_LOW_BITS).cast_signed();
    let oldest: Option<i64> = connection.query_row(OLDEST, [], |row| row.get(0))?;
    let kept = Kept::of(connection)?;
    let is_too_old = oldest.is_some_and(|oldest| oldest < before);
    Ok(is_too_old || kept.total > rows_max || kept.refused_excess(rows_max) > 0)
}

impl Kept {
    fn of(connection: &Connection) -> rusqlite::Result<Self> {
        connection.query_row(TOTALS, [], |row| {
            Ok(Self {
                total: row.get::<_, i64>(0)?.cast_unsigned(),
                refused: row.get::<_, i64>(1)?.cast_unsigned(),
            })
        })
    }

    /// How many without a valid key there are beyond their share.
    fn refused_excess(&self, rows_max: u64) -> u64 {
        self.refused.saturating_sub(rows_max / REFUSED_SHARE)
    }
}

/// Deletes the oldest requests that began before this id, at most `limit` of them.
fn delete_oldest(transaction: &Connection, before: i64, limit: u64) -> rusqlite::Result<u64> {
    if limit == 0 {
        return Ok(0);
    }
    let mut delete = transaction.prepare(DELETE)?;
    let rows = delete.query_map([before, limit.cast_signed()], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })?;
    let rows: Vec<Row> = rows.collect::<Result<_, _>>()?;
    count_out(transaction, &rows)
}

/// Deletes the oldest requests without a valid key, at most `limit` of them.
fn delete_refused(transaction: &Connection, limit: u64) -> rusqlite::Result<u64> {
    if limit == 0 {
        return Ok(0);
    }
    // Of each of the few kinds the oldest, in order from its index; the oldest of all are among them.
    let mut rows: Vec<Row> = Vec::new();
    let mut kinds = transaction.prepare(REFUSED_KINDS)?;
    let mut oldest = transaction.prepare(OLDEST_OF_KIND)?;
    for kind in kinds.query_map([], |row| row.get::<_, i64>(0))? {
        let kind = kind?;
        let ids = oldest.query_map([kind, limit.cast_signed()], |row| row.get(0))?;
        for id in ids {
            rows.push((id?, kind));
        }
    }
    rows.sort_unstable();
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let mut delete = transaction.prepare(DELETE_ONE)?;
    for (id, _) in &rows {
        delete.execute([id])?;
    }
    count_out(transaction, &rows)
}

/// Takes requests that were deleted out of all counts; says how many.
fn count_out(transaction: &Connection, rows: &[Row]) -> rusqlite::Result<u64> {
    let (mut blocks, mut spans) = (HashMap::new(), HashMap::new());
    let mut kinds: HashMap<i64, i64> = HashMap::new();
    for &(id, kind) in rows {
        *blocks.entry((id >> BLOCK_BITS, kind)).or_insert(0) += 1;
        *spans.entry((id >> SPAN_BITS, kind)).or_insert(0) += 1;
        *kinds.entry(kind).or_default() += 1;
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
    Ok(rows.len() as u64)
}

/// One of so many rows may be of a request without a valid key.
const REFUSED_SHARE: u64 = 10;

/// Without a valid key: refused with this status before a node was tried, as nothing else is.
pub(super) const TOTALS: &str = "
    SELECT ifnull(sum(requests), 0), ifnull(sum(requests) FILTER (WHERE status = 401 AND node = ''), 0)
    FROM history_kind";
pub(super) const REFUSED_KINDS: &str =
    "SELECT id FROM history_kind WHERE status = 401 AND node = ''";
pub(super) const OLDEST: &str = "SELECT min(id) FROM history";
pub(super) const DELETE: &str = "
    DELETE FROM history WHERE id IN (SELECT id FROM history WHERE id < ?1 ORDER BY id LIMIT ?2)
    RETURNING id, kind";
pub(super) const OLDEST_OF_KIND: &str = "
    SELECT id FROM history INDEXED BY history_by_kind WHERE kind = ?1 ORDER BY id LIMIT ?2";
pub(super) const DELETE_ONE: &str = "DELETE FROM history WHERE id = ?1";
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
