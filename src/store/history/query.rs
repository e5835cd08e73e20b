//! Finds pages of the history without looking at what is not on them.
//!
//! The kinds that fit a filter are few. From the counts of the blocks follows in which stretch of ids
//! the page lies; there the ids of each kind come from the index in order, and are merged.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    BLOCK_BITS, HistoryEntry, HistoryFacets, HistoryFilter, HistoryPage, ID_LOW_BITS, StatusFilter,
};

/// The kinds that fit a filter.
enum Kinds {
    All,
    Some(HashSet<i64>),
}

/// Where a page lies.
#[derive(Default)]
struct Stretch {
    ids: Range<i64>,
    /// Fitting requests in it that come before the page.
    skip: u64,
    /// Fitting requests of each kind in it, at most.
    kinds: HashMap<i64, u64>,
}

/// Walks over the blocks of a range of ids, the latest first.
struct Walk<'a> {
    connection: &'a Connection,
    ids: Range<i64>,
    kinds: &'a Kinds,
}

pub(super) fn page(
    connection: &Connection,
    filter: &HistoryFilter,
    offset: u64,
    limit: u32,
) -> rusqlite::Result<HistoryPage> {
    // All statements see the same state.
    let snapshot = connection.unchecked_transaction()?;
    let kinds = Kinds::of(&snapshot, filter)?;
    let walk = Walk {
        connection: &snapshot,
        ids: filter.ids(),
        kinds: &kinds,
    };
    let total = walk.total(filter)?;
    let stretch = match offset < total {
        true => walk.find(offset, u64::from(limit))?,
        false => Stretch::default(),
    };
    let ids = walk.ids_in(stretch, u64::from(limit))?;
    let entries = entries(&snapshot, &ids)?;
    Ok(HistoryPage { entries, total })
}

pub(super) fn before(
    connection: &Connection,
    filter: &HistoryFilter,
    id: Option<u64>,
    limit: u32,
) -> rusqlite::Result<Vec<HistoryEntry>> {
    let snapshot = connection.unchecked_transaction()?;
    let kinds = Kinds::of(&snapshot, filter)?;
    let mut ids = filter.ids();
    if let Some(id) = id.and_then(|id| i64::try_from(id).ok()) {
        ids.end = ids.end.min(id);
    }
    let walk = Walk {
        connection: &snapshot,
        ids,
        kinds: &kinds,
    };
    let stretch = walk.find(0, u64::from(limit))?;
    let ids = walk.ids_in(stretch, u64::from(limit))?;
    entries(&snapshot, &ids)
}

pub(super) fn facets(connection: &Connection) -> rusqlite::Result<HistoryFacets> {
    let names = |sql: &str| -> rusqlite::Result<Vec<String>> {
        let mut select = connection.prepare(sql)?;
        let mut names: Vec<String> = select
            .query_map([FACETS_MAX], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        names.sort_unstable();
        Ok(names)
    };
    Ok(HistoryFacets {
        models: names(MODELS)?,
        nodes: names(NODES)?,
    })
}

impl HistoryFilter {
    /// The ids of the time that is meant.
    fn ids(&self) -> Range<i64> {
        let id = |unix_ms: u64| {
            let id = unix_ms.checked_mul(1 << ID_LOW_BITS);
            id.and_then(|id| i64::try_from(id).ok()).unwrap_or(i64::MAX)
        };
        self.from_unix_ms.map_or(0, id)..self.before_unix_ms.map_or(i64::MAX, id)
    }

    fn is_of_all_time(&self) -> bool {
        self.from_unix_ms.is_none() && self.before_unix_ms.is_none()
    }

    fn is_of_all_kinds(&self) -> bool {
        self.model.is_none() && self.node.is_none() && self.status.is_none()
    }

    /// The bounds of the status, and whether it must (1), must not (0), or may (-1) be a success.
    fn status_bounds(&self) -> (u16, u16, i8) {
        match self.status {
            None => (0, u16::MAX, -1),
            Some(StatusFilter::Exactly(status)) => (status, status, -1),
            Some(StatusFilter::Class(class)) => {
                let first = u16::from(class) * 100;
                (first, first + 99, -1)
            }
            Some(StatusFilter::Success) => (0, u16::MAX, 1),
            Some(StatusFilter::Error) => (0, u16::MAX, 0),
        }
    }
}

impl Kinds {
    fn of(connection: &Connection, filter: &HistoryFilter) -> rusqlite::Result<Self> {
        if filter.is_of_all_kinds() {
            return Ok(Self::All);
        }
        let (least, most, success) = filter.status_bounds();
        let mut select = connection.prepare(KINDS)?;
        let parameters = params![filter.model, filter.node, least, most, success];
        let ids = select.query_map(parameters, |row| row.get(0))?;
        ids.collect::<Result<_, _>>().map(Self::Some)
    }

    fn contain(&self, kind: i64) -> bool {
        match self {
            Self::All => true,
            Self::Some(kinds) => kinds.contains(&kind),
        }
    }
}

impl Walk<'_> {
    /// How many requests fit.
    fn total(&self, filter: &HistoryFilter) -> rusqlite::Result<u64> {
        let mut total = 0;
        if filter.is_of_all_time() {
            let mut select = self.connection.prepare(KIND_COUNTS)?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                if self.kinds.contain(row.get(0)?) {
                    total += row.get::<_, i64>(1)?.cast_unsigned();
                }
            }
        } else {
            self.each_block(|_, _, count| {
                total += count;
                true
            })?;
        }
        Ok(total)
    }

    /// Where `limit` requests lie that come after the first `offset`.
    fn find(&self, offset: u64, limit: u64) -> rusqlite::Result<Stretch> {
        let mut stretch = Stretch::default();
        let mut seen = 0;
        let mut present = None;
        self.each_block(|block, kind, count| {
            if present != Some(block) {
                if seen >= offset + limit {
                    return false;
                }
                if seen <= offset {
                    // The page does not begin before this block.
                    stretch.kinds.clear();
                    stretch.ids.end = block_ids(block).end.min(self.ids.end);
                    stretch.skip = offset - seen;
                }
                stretch.ids.start = block_ids(block).start.max(self.ids.start);
                present = Some(block);
            }
            seen += count;
            *stretch.kinds.entry(kind).or_default() += count;
            true
        })?;
        Ok(stretch)
    }

    /// Calls `each` with block, kind and how many fitting requests of that kind are in that block, until
    /// it says no.
    fn each_block(&self, mut each: impl FnMut(i64, i64, u64) -> bool) -> rusqlite::Result<()> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let (first, last) = (
            self.ids.start >> BLOCK_BITS,
            (self.ids.end - 1) >> BLOCK_BITS,
        );
        let mut select = self.connection.prepare(BLOCKS)?;
        let mut rows = select.query([first, last])?;
        while let Some(row) = rows.next()? {
            let (block, kind): (i64, i64) = (row.get(0)?, row.get(1)?);
            if !self.kinds.contain(kind) {
                continue;
            }
            let ids = block_ids(block);
            let is_whole = self.ids.start <= ids.start && ids.end <= self.ids.end;
            let count = match is_whole {
                true => row.get::<_, i64>(2)?.cast_unsigned(),
                false => self.count(kind, &ids)?,
            };
            if count > 0 && !each(block, kind, count) {
                break;
            }
        }
        Ok(())
    }

    /// Of a block that lies within the time only in part.
    fn count(&self, kind: i64, block: &Range<i64>) -> rusqlite::Result<u64> {
        let start = self.ids.start.max(block.start);
        let end = self.ids.end.min(block.end);
        let count: i64 = self
            .connection
            .query_row(COUNT, [kind, start, end], |row| row.get(0))?;
        Ok(count.cast_unsigned())
    }

    /// The ids on a page of `limit` requests, the latest first.
    fn ids_in(&self, stretch: Stretch, limit: u64) -> rusqlite::Result<Vec<i64>> {
        let Range { start, end } = stretch.ids;
        let (limit, skip) = (limit.cast_signed(), stretch.skip.cast_signed());
        let select = |sql: &str, parameters: &[i64]| -> rusqlite::Result<Vec<i64>> {
            let mut select = self.connection.prepare(sql)?;
            let ids = select.query_map(rusqlite::params_from_iter(parameters), |row| row.get(0))?;
            ids.collect()
        };
        let mut kinds = stretch.kinds.keys();
        match (self.kinds, kinds.next(), kinds.next()) {
            (_, None, _) => Ok(Vec::new()),
            (Kinds::All, ..) => select(IDS, &[start, end, limit, skip]),
            (Kinds::Some(_), Some(kind), None) => {
                select(IDS_OF_KIND, &[*kind, start, end, limit, skip])
            }
            (Kinds::Some(_), ..) => {
                let mut ids = Vec::new();
                for kind in stretch.kinds.keys() {
                    ids.extend(select(IDS_OF_KIND, &[*kind, start, end, limit + skip, 0])?);
                }
                ids.sort_unstable_by(|left, right| right.cmp(left));
                let page = ids.into_iter().skip(usize_of(skip)).take(usize_of(limit));
                Ok(page.collect())
            }
        }
    }
}

fn entries(connection: &Connection, ids: &[i64]) -> rusqlite::Result<Vec<HistoryEntry>> {
    let mut select = connection.prepare(ENTRY)?;
    let entries = ids
        .iter()
        .map(|id| select.query_row([id], read_entry).optional());
    entries.filter_map(Result::transpose).collect()
}

fn read_entry(row: &Row<'_>) -> rusqlite::Result<HistoryEntry> {
    let number = |index: usize| row.get::<_, i64>(index).map(i64::cast_unsigned);
    let optional = |index: usize| {
        let number = row.get::<_, Option<i64>>(index);
        number.map(|number| number.map(i64::cast_unsigned))
    };
    let mut phase_us = [0; super::PHASES];
    for (index, phase) in phase_us.iter_mut().enumerate() {
        *phase = number(10 + index)?;
    }
    Ok(HistoryEntry {
        id: number(0)?,
        request_id: row.get(1)?,
        endpoint: row.get(2)?,
        model: row.get(3)?,
        node: row.get(4)?,
        status: row.get(5)?,
        ended_by: row.get(6)?,
        ended_in: row.get(7)?,
        is_stream: row.get(8)?,
        duration_us: number(9)?,
        phase_us,
        prompt_tokens: optional(17)?,
        completion_tokens: optional(18)?,
        attempts: row.get(19)?,
        request_bytes: number(20)?,
        response_bytes: number(21)?,
        key: number(22)?,
    })
}

fn block_ids(block: i64) -> Range<i64> {
    let start = block << BLOCK_BITS;
    start..start.saturating_add(1 << BLOCK_BITS)
}

fn usize_of(count: i64) -> usize {
    usize::try_from(count).unwrap_or_default()
}

/// Names a facet lists at most.
const FACETS_MAX: u32 = 1000;

/// Of the small table of kinds, which is read whole.
pub(super) const KINDS: &str = "
    SELECT id FROM history_kind
    WHERE (?1 IS NULL OR model = ?1) AND (?2 IS NULL OR node = ?2) AND status BETWEEN ?3 AND ?4
        AND (?5 < 0 OR ?5 = (status < 400 AND ended_in = 'done'))";
pub(super) const KIND_COUNTS: &str = "SELECT id, requests FROM history_kind";
pub(super) const BLOCKS: &str = "
    SELECT block, kind, requests FROM history_block WHERE block BETWEEN ?1 AND ?2
    ORDER BY block DESC";
pub(super) const COUNT: &str = "
    SELECT count(*) FROM history INDEXED BY history_by_kind
    WHERE kind = ?1 AND id >= ?2 AND id < ?3";
pub(super) const IDS: &str = "
    SELECT id FROM history WHERE id >= ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3 OFFSET ?4";
pub(super) const IDS_OF_KIND: &str = "
    SELECT id FROM history INDEXED BY history_by_kind
    WHERE kind = ?1 AND id >= ?2 AND id < ?3 ORDER BY id DESC LIMIT ?4 OFFSET ?5";
pub(super) const ENTRY: &str = "
    SELECT history.id, request_id, endpoint, model, node, status, ended_by, ended_in, is_stream,
        duration_us, read_us, auth_us, admit_us, queue_us, connect_us, first_byte_us, stream_us,
        prompt_tokens, completion_tokens, attempts, request_bytes, response_bytes, api_key
    FROM history JOIN history_kind ON history_kind.id = history.kind
    WHERE history.id = ?1";
const MODELS: &str = "
    SELECT model FROM history_kind WHERE model <> '' GROUP BY model
    ORDER BY sum(requests) DESC LIMIT ?1";
const NODES: &str = "
    SELECT node FROM history_kind WHERE node <> '' GROUP BY node
    ORDER BY sum(requests) DESC LIMIT ?1";
