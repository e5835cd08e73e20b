//! Writes a batch of requests: each once, and what counts them.

use std::collections::HashMap;

use rusqlite::{Connection, Statement, params};

use crate::telemetry::HistoryRecord;

use super::{BLOCK_BITS, ID_LOW_BITS, PHASES, SPAN_BITS};

/// What many requests have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind<'a> {
    endpoint: &'static str,
    model: &'a [u8],
    node: &'a [u8],
    status: u16,
    ended_by: &'static str,
    ended_in: &'static str,
    is_stream: bool,
}

/// Counts of requests, by block or span, and kind.
type Counts = HashMap<(i64, i64), i64>;

/// Adds these requests. `serial` makes their ids unique and goes on counting.
pub(super) fn insert(
    transaction: &Connection,
    records: &[HistoryRecord],
    serial: &mut u32,
) -> rusqlite::Result<()> {
    let kinds = count_kinds(transaction, records)?;
    let (mut blocks, mut spans) = (Counts::new(), Counts::new());
    let mut insert = transaction.prepare(INSERT)?;
    for record in records {
        let kind = kinds.get(&Kind::of(record)).copied().unwrap_or_default();
        let id = insert_one(&mut insert, record, kind, serial)?;
        *blocks.entry((id >> BLOCK_BITS, kind)).or_default() += 1;
        *spans.entry((id >> SPAN_BITS, kind)).or_default() += 1;
    }
    for (sql, counts) in [(COUNT_BLOCK, blocks), (COUNT_SPAN, spans)] {
        let mut count = transaction.prepare(sql)?;
        for ((place, kind), requests) in counts {
            count.execute([place, kind, requests])?;
        }
    }
    Ok(())
}

impl<'a> Kind<'a> {
    fn of(record: &'a HistoryRecord) -> Self {
        Self {
            endpoint: record.endpoint.as_str(),
            model: record.names.model(),
            node: record.names.node(),
            status: match record.status {
                0 => CLIENT_LEFT,
                status => status,
            },
            ended_by: record.ended_by.as_str(),
            ended_in: record.ended_in.as_str(),
            is_stream: record.is_stream,
        }
    }

    /// Whether it names a model that no node serves: nothing else is not found before a node was tried.
    fn is_unserved(&self) -> bool {
        self.node.is_empty() && self.status == NOT_FOUND
    }
}

/// Adds to the counts of the kinds, and says which id each has.
fn count_kinds<'a>(
    transaction: &Connection,
    records: &'a [HistoryRecord],
) -> rusqlite::Result<HashMap<Kind<'a>, i64>> {
    let mut counts: HashMap<Kind<'_>, i64> = HashMap::new();
    for record in records {
        *counts.entry(Kind::of(record)).or_default() += 1;
    }
    let mut unserved: u32 = transaction.query_row(UNSERVED_COUNT, [], |row| row.get(0))?;
    let mut find = transaction.prepare(FIND_KIND)?;
    let mut upsert = transaction.prepare(UPSERT_KIND)?;
    let mut ids = HashMap::with_capacity(counts.len());
    for (kind, requests) in counts {
        let mut model = String::from_utf8_lossy(kind.model);
        let node = String::from_utf8_lossy(kind.node);
        let (by, phase) = (kind.ended_by, kind.ended_in);
        if kind.is_unserved()
            && !find.exists(params![
                kind.endpoint,
                model,
                node,
                kind.status,
                by,
                phase,
                kind.is_stream,
            ])?
        {
            // Clients may name models that do not exist, one after the other.
            match unserved < UNSERVED_MAX {
                true => unserved += 1,
                false => model = OTHER_MODELS.into(),
            }
        }
        let parameters = params![
            kind.endpoint,
            model,
            node,
            kind.status,
            by,
            phase,
            kind.is_stream,
            requests,
        ];
        let id = upsert.query_row(parameters, |row| row.get(0))?;
        ids.insert(kind, id);
    }
    Ok(ids)
}

fn insert_one(
    insert: &mut Statement<'_>,
    record: &HistoryRecord,
    kind: i64,
    serial: &mut u32,
) -> rusqlite::Result<i64> {
    let [read, auth, admit, queue, connect, first_byte, stream] = phases(record);
    let request_id = String::from_utf8_lossy(record.names.request_id());
    loop {
        let id = id_of(record.names.started_unix_ms, *serial);
        *serial = serial.wrapping_add(1);
        let inserted = insert.execute(params![
            id,
            kind,
            request_id,
            integer(record.duration_us),
            integer(read),
            integer(auth),
            integer(admit),
            integer(queue),
            integer(connect),
            integer(first_byte),
            integer(stream),
            record.tokens.map(|(prompt, _)| integer(prompt)),
            record.tokens.map(|(_, completion)| integer(completion)),
            record.attempts,
            integer(record.request_bytes),
            integer(record.response_bytes),
            record.names.key.cast_signed(),
        ])?;
        // Another process may have used the number for a request of the same millisecond.
        if inserted > 0 {
            return Ok(id);
        }
    }
}

fn phases(record: &HistoryRecord) -> [u64; PHASES] {
    let mut phases = [0; PHASES];
    // The last phase, after the end, is left out.
    for (phase, spent) in phases.iter_mut().zip(record.phase_us) {
        *phase = spent;
    }
    phases
}

fn id_of(started_unix_ms: u64, serial: u32) -> i64 {
    let low = u64::from(serial) & ((1 << ID_LOW_BITS) - 1);
    let time = started_unix_ms.min(TIME_MAX);
    (time << ID_LOW_BITS | low).cast_signed()
}

/// SQLite's integers are signed; nothing here comes near the limit by honest means.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The latest time whose id is a positive number: in the year 2248.
const TIME_MAX: u64 = (1 << (63 - ID_LOW_BITS)) - 1;
/// The status of a request whose client left before there was one.
const CLIENT_LEFT: u16 = 499;
const NOT_FOUND: u16 = 404;
/// Beyond so many kinds of requests for models that no node serves, those that come new are not told apart.
const UNSERVED_MAX: u32 = 10_000;
const OTHER_MODELS: &str = "(other)";

const UNSERVED_COUNT: &str = "SELECT count(*) FROM history_kind WHERE node = '' AND status = 404";
const FIND_KIND: &str = "
    SELECT 1 FROM history_kind
    WHERE endpoint = ?1 AND model = ?2 AND node = ?3 AND status = ?4 AND ended_by = ?5
        AND ended_in = ?6 AND is_stream = ?7";
const UPSERT_KIND: &str = "
    INSERT INTO history_kind
        (endpoint, model, node, status, ended_by, ended_in, is_stream, requests)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
    ON CONFLICT DO UPDATE SET requests = requests + excluded.requests
    RETURNING id";
const INSERT: &str = "
    INSERT INTO history
        (id, kind, request_id, duration_us, read_us, auth_us, admit_us, queue_us, connect_us,
         first_byte_us, stream_us, prompt_tokens, completion_tokens, attempts, request_bytes,
         response_bytes, api_key)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
    ON CONFLICT (id) DO NOTHING";
const COUNT_BLOCK: &str = "
    INSERT INTO history_block (block, kind, requests) VALUES (?1, ?2, ?3)
    ON CONFLICT DO UPDATE SET requests = requests + excluded.requests";
const COUNT_SPAN: &str = "
    INSERT INTO history_span (span, kind, requests) VALUES (?1, ?2, ?3)
    ON CONFLICT DO UPDATE SET requests = requests + excluded.requests";
