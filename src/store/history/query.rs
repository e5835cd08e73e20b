//! Finds pages of the history without looking at what is not on them.
//!
//! The kinds that fit a filter are few. From the counts of the spans, and of the blocks in them, follows
//! in which stretch of ids the page lies; there the ids of each kind come from the index in order, and are
//! merged, from the end of the stretch that is nearer. Where few requests fit, the stretch may be everything.
//! Only in the two blocks that the bounds of a time cut through are requests counted one by one: once for
//! each question, and on the smaller side of the cut.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;

use rusqlite::{Connection, OptionalExtension, Row, Statement, params};

use super::{
    BLOCK_BITS, HistoryEntry, HistoryFacets, HistoryFilter, HistoryPage, ID_LOW_BITS, SPAN_BITS,
    StatusFilter,
};

/// The kinds that fit a filter, and how many requests are of each.
struct Kinds {
    are_all: bool,
    requests: HashMap<i64, u64>,
}

/// What requests are counted by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Spans,
    Blocks,
}

/// Where a page lies.
#[derive(Default)]
struct Stretch {
    ids: Range<i64>,
    /// Fitting requests in it that come before the page.
    skip: u64,
    /// Fitting requests of each kind in it, at most.
    kinds: HashMap<i64, u64>,
    /// All of them, if they were counted.
    total: Option<u64>,
}

/// Parts of blocks that were counted.
struct Cuts<'c> {
    count: Statement<'c>,
    /// By kind, and the ids that the part begins and ends with.
    counted: HashMap<(i64, i64, i64), u64>,
}

/// The requests that are asked for.
struct Search<'a> {
    connection: &'a Connection,
    ids: Range<i64>,
    kinds: &'a Kinds,
    cuts: RefCell<Cuts<'a>>,
    /// Ids that may be read for a page without looking for a shorter way.
    effort_max: u64,
}

pub(super) fn page(
    connection: &Connection,
    filter: &HistoryFilter,
    offset: u64,
    limit: u32,
    effort_max: u64,
) -> rusqlite::Result<HistoryPage> {
    // All statements see the same state.
    let snapshot = connection.unchecked_transaction()?;
    let kinds = Kinds::of(&snapshot, filter)?;
    let search = Search::new(&snapshot, filter.ids(), &kinds, effort_max)?;
    let total = match filter.is_of_all_time() {
        true => kinds.requests.values().sum(),
        false => search.total()?,
    };
    let ids = match offset < total {
        true => search.page(offset, u64::from(limit))?,
        false => Vec::new(),
    };
    let entries = entries(&snapshot, &ids)?;
    Ok(HistoryPage { entries, total })
}

pub(super) fn before(
    connection: &Connection,
    filter: &HistoryFilter,
    id: Option<u64>,
    limit: u32,
    effort_max: u64,
) -> rusqlite::Result<Vec<HistoryEntry>> {
    let snapshot = connection.unchecked_transaction()?;
    let kinds = Kinds::of(&snapshot, filter)?;
    let mut ids = filter.ids();
    if let Some(id) = id.and_then(|id| i64::try_from(id).ok()) {
        ids.end = ids.end.min(id);
    }
    let search = Search::new(&snapshot, ids, &kinds, effort_max)?;
    let ids = search.page(0, u64::from(limit))?;
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
        let (least, most, success) = filter.status_bounds();
        let mut select = connection.prepare(KINDS)?;
        let parameters = params![filter.model, filter.node, least, most, success];
        let requests = select.query_map(parameters, |row| {
            Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()))
        })?;
        Ok(Self {
            are_all: filter.is_of_all_kinds(),
            requests: requests.collect::<Result<_, _>>()?,
        })
    }

    fn contain(&self, kind: i64) -> bool {
        self.are_all || self.requests.contains_key(&kind)
    }
}

impl Level {
    fn bits(self) -> u32 {
        match self {
            Self::Spans => SPAN_BITS,
            Self::Blocks => BLOCK_BITS,
        }
    }

    fn statement(self) -> &'static str {
        match self {
            Self::Spans => SPANS,
            Self::Blocks => BLOCKS,
        }
    }
}

impl Stretch {
    /// Ids that have to be read to find a page in it.
    fn effort(&self, limit: u64) -> u64 {
        let of_kind = |requests: &u64| (*requests).min(self.skip + limit);
        self.kinds.values().map(of_kind).sum()
    }

    /// If the page lies nearer to the beginning: how many come after it, and how many are on it.
    fn seen_from_behind(&self, limit: u64) -> Option<(u64, u64)> {
        let total = self.total?;
        let after = total.saturating_sub(self.skip + limit);
        (after < self.skip).then(|| (after, limit.min(total.saturating_sub(self.skip))))
    }
}

impl Cuts<'_> {
    /// Requests of a kind among these ids.
    fn count(&mut self, kind: i64, ids: &Range<i64>) -> rusqlite::Result<u64> {
        if ids.is_empty() {
            return Ok(0);
        }
        let count = self
            .count
            .query_row([kind, ids.start, ids.end], |row| row.get(0));
        count.map(i64::cast_unsigned)
    }

    /// Requests of a kind in a part of a block that has so many of them.
    fn count_part(
        &mut self,
        kind: i64,
        part: &Range<i64>,
        block: &Range<i64>,
        requests: u64,
    ) -> rusqlite::Result<u64> {
        let key = (kind, part.start, part.end);
        if let Some(count) = self.counted.get(&key) {
            return Ok(*count);
        }
        let is_most = part.end - part.start > (block.end - block.start) / 2;
        let count = match is_most {
            true => {
                let before = self.count(kind, &(block.start..part.start))?;
                let after = self.count(kind, &(part.end..block.end))?;
                requests.saturating_sub(before + after)
            }
            false => self.count(kind, part)?,
        };
        self.counted.insert(key, count);
        Ok(count)
    }
}

impl<'a> Search<'a> {
    fn new(
        connection: &'a Connection,
        ids: Range<i64>,
        kinds: &'a Kinds,
        effort_max: u64,
    ) -> rusqlite::Result<Self> {
        let cuts = Cuts {
            count: connection.prepare(COUNT)?,
            counted: HashMap::new(),
        };
        Ok(Self {
            connection,
            ids,
            kinds,
            cuts: RefCell::new(cuts),
            effort_max,
        })
    }

    /// How many requests fit.
    fn total(&self) -> rusqlite::Result<u64> {
        let mut total = 0;
        self.each(Level::Spans, &self.ids, &mut |_, _, count| {
            total += count;
            true
        })?;
        Ok(total)
    }

    /// The ids of the `limit` requests after the first `offset`, the latest first.
    fn page(&self, offset: u64, limit: u64) -> rusqlite::Result<Vec<i64>> {
        let mut stretch = Stretch {
            ids: self.ids.clone(),
            skip: offset,
            kinds: self.kinds.requests.clone(),
            total: None,
        };
        if self.kinds.are_all && offset <= self.effort_max {
            return self.ids_in(&stretch, limit);
        }
        for level in [Level::Spans, Level::Blocks] {
            if stretch.effort(limit) <= self.effort_max {
                break;
            }
            stretch = self.narrow(level, &stretch, limit)?;
        }
        self.ids_in(&stretch, limit)
    }

    /// The part of a stretch in which the page lies, by the counts of this level.
    fn narrow(&self, level: Level, wide: &Stretch, limit: u64) -> rusqlite::Result<Stretch> {
        let mut stretch = Stretch::default();
        let mut seen = 0;
        let mut present = None;
        self.each(level, &wide.ids, &mut |place, kind, count| {
            if present != Some(place) {
                if seen >= wide.skip + limit {
                    return false;
                }
                let ids = ids_of(level, place);
                if seen <= wide.skip {
                    // The page does not begin before this one.
                    stretch.kinds.clear();
                    stretch.ids.end = ids.end.min(wide.ids.end);
                    stretch.skip = wide.skip - seen;
                }
                stretch.ids.start = ids.start.max(wide.ids.start);
                present = Some(place);
            }
            seen += count;
            *stretch.kinds.entry(kind).or_default() += count;
            true
        })?;
        stretch.total = Some(stretch.kinds.values().sum());
        Ok(stretch)
    }

    /// Calls `each` with every block or span within `ids`, the latest first, and how many fitting
    /// requests of a kind are there, until it says no.
    fn each(
        &self,
        level: Level,
        ids: &Range<i64>,
        each: &mut dyn FnMut(i64, i64, u64) -> bool,
    ) -> rusqlite::Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let bits = level.bits();
        let mut select = self.connection.prepare(level.statement())?;
        let mut rows = select.query([ids.start >> bits, (ids.end - 1) >> bits])?;
        let mut cut = None;
        while let Some(row) = rows.next()? {
            let (place, kind): (i64, i64) = (row.get(0)?, row.get(1)?);
            let requests = row.get::<_, i64>(2)?.cast_unsigned();
            if !self.kinds.contain(kind) {
                continue;
            }
            let own = ids_of(level, place);
            let within = ids.start.max(own.start)..ids.end.min(own.end);
            let must_go_on = match level {
                _ if within == own => each(place, kind, requests),
                Level::Blocks => {
                    let mut cuts = self.cuts.borrow_mut();
                    match cuts.count_part(kind, &within, &own, requests)? {
                        0 => true,
                        count => each(place, kind, count),
                    }
                }
                // All kinds of the part of a span come at once.
                Level::Spans if cut.replace(place) == Some(place) => true,
                Level::Spans => self.each_of_part(place, &within, each)?,
            };
            if !must_go_on {
                break;
            }
        }
        Ok(())
    }

    /// The same for a part of one span.
    fn each_of_part(
        &self,
        span: i64,
        ids: &Range<i64>,
        each: &mut dyn FnMut(i64, i64, u64) -> bool,
    ) -> rusqlite::Result<bool> {
        let mut counts: HashMap<i64, u64> = HashMap::new();
        self.each(Level::Blocks, ids, &mut |_, kind, count| {
            *counts.entry(kind).or_default() += count;
            true
        })?;
        Ok(counts
            .into_iter()
            .all(|(kind, count)| each(span, kind, count)))
    }

    /// The ids on a page of `limit` requests.
    fn ids_in(&self, stretch: &Stretch, limit: u64) -> rusqlite::Result<Vec<i64>> {
        let Range { start, end } = stretch.ids;
        let from_behind = stretch.seen_from_behind(limit);
        let (skip, limit) = from_behind.unwrap_or((stretch.skip, limit));
        let (skip, limit) = (skip.cast_signed(), limit.cast_signed());
        let is_from_behind = from_behind.is_some();
        let mut ids: Vec<i64> = Vec::new();
        if self.kinds.are_all {
            let sql = if is_from_behind { IDS_BEHIND } else { IDS };
            let mut select = self.connection.prepare(sql)?;
            for id in select.query_map([start, end, limit, skip], |row| row.get(0))? {
                ids.push(id?);
            }
        } else {
            let sql = match is_from_behind {
                true => IDS_OF_KIND_BEHIND,
                false => IDS_OF_KIND,
            };
            let mut select = self.connection.prepare(sql)?;
            for kind in stretch.kinds.keys() {
                let of_kind =
                    select.query_map([*kind, start, end, limit + skip], |row| row.get(0))?;
                for id in of_kind {
                    ids.push(id?);
                }
            }
            ids.sort_unstable();
            if !is_from_behind {
                ids.reverse();
            }
            ids = ids
                .into_iter()
                .skip(usize_of(skip))
                .take(usize_of(limit))
                .collect();
        }
        if is_from_behind {
            ids.reverse();
        }
        Ok(ids)
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

/// The ids of a block or span.
fn ids_of(level: Level, place: i64) -> Range<i64> {
    let start = place << level.bits();
    start..start.saturating_add(1 << level.bits())
}

fn usize_of(count: i64) -> usize {
    usize::try_from(count).unwrap_or_default()
}

/// Ids that are read for a page without looking for a shorter way: a few milliseconds.
pub(super) const EFFORT_MAX: u64 = 20_000;
/// Names a facet lists at most.
const FACETS_MAX: u32 = 1000;

/// Of the small table of kinds, which is read whole.
pub(super) const KINDS: &str = "
    SELECT id, requests FROM history_kind
    WHERE (?1 IS NULL OR model = ?1) AND (?2 IS NULL OR node = ?2) AND status BETWEEN ?3 AND ?4
        AND (?5 < 0 OR ?5 = (status < 400 AND ended_in = 'done'))";
pub(super) const SPANS: &str = "
    SELECT span, kind, requests FROM history_span WHERE span BETWEEN ?1 AND ?2 ORDER BY span DESC";
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
    WHERE kind = ?1 AND id >= ?2 AND id < ?3 ORDER BY id DESC LIMIT ?4";
/// The same from the other end.
pub(super) const IDS_BEHIND: &str = "
    SELECT id FROM history WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3 OFFSET ?4";
pub(super) const IDS_OF_KIND_BEHIND: &str = "
    SELECT id FROM history INDEXED BY history_by_kind
    WHERE kind = ?1 AND id >= ?2 AND id < ?3 ORDER BY id LIMIT ?4";
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
