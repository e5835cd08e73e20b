//! The history against a plain list as its judge, its query plans, and its way through the thread.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::*;
use crate::store::database::Database;
use crate::store::tests::{Directory, Running};
use crate::telemetry::{EndedBy, EndpointLabel, HistoryNames, HistoryRecord};

const EFFORT: u64 = query::EFFORT_MAX;
const HOUR_MS: u64 = 3_600_000;
const BEGIN: u64 = 1_800_000_000_000;

/// SplitMix64, so that a failing seed can be given again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).unwrap()]
    }
}

fn record(random: &mut Random, started_unix_ms: u64) -> HistoryRecord {
    let id = format!("req_{:016x}", random.below(u64::MAX));
    let mut names = HistoryNames::new(started_unix_ms, id.as_bytes(), random.below(3));
    names.set_model(random.one_of(&["llama", "qwen", "embed"]).as_bytes());
    let status = random.one_of(&[200, 200, 200, 200, 404, 429, 503, 0]);
    if matches!(status, 200 | 503) {
        names.set_node(random.one_of(&["gpu-1", "gpu-2"]).as_bytes());
    }
    let is_whole = status == 200 && random.below(8) > 0;
    HistoryRecord {
        names,
        endpoint: random.one_of(&[EndpointLabel::ChatCompletions, EndpointLabel::Embeddings]),
        status,
        duration_us: random.below(1 << 40),
        phase_us: std::array::from_fn(|_| random.below(1 << 33)),
        tokens: (status == 200).then(|| (random.below(1 << 20), random.below(1 << 20))),
        request_bytes: random.below(1 << 20),
        response_bytes: random.below(1 << 20),
        attempts: 1,
        ended_by: random.one_of(&[EndedBy::Node, EndedBy::Client]),
        ended_in: if is_whole { Phase::Done } else { Phase::Stream },
        is_stream: random.below(2) == 0,
    }
}

/// What the database must say of a record, but for the lower bits of its id.
fn entry_of(record: &HistoryRecord) -> HistoryEntry {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    HistoryEntry {
        id: record.names.started_unix_ms << ID_LOW_BITS,
        request_id: text(record.names.request_id()),
        endpoint: record.endpoint.as_str().to_owned(),
        model: text(record.names.model()),
        node: text(record.names.node()),
        status: if record.status == 0 {
            499
        } else {
            record.status
        },
        ended_by: record.ended_by.as_str().to_owned(),
        ended_in: record.ended_in.as_str().to_owned(),
        is_stream: record.is_stream,
        duration_us: record.duration_us,
        phase_us: std::array::from_fn(|index| record.phase_us[index]),
        prompt_tokens: record.tokens.map(|(prompt, _)| prompt),
        completion_tokens: record.tokens.map(|(_, completion)| completion),
        attempts: record.attempts,
        request_bytes: record.request_bytes,
        response_bytes: record.response_bytes,
        key: record.names.key,
    }
}

fn fits(filter: &HistoryFilter, entry: &HistoryEntry) -> bool {
    let is_success = entry.status < 400 && entry.ended_in == "done";
    let status = match filter.status {
        None => true,
        Some(StatusFilter::Exactly(status)) => entry.status == status,
        Some(StatusFilter::Class(class)) => entry.status / 100 == u16::from(class),
        Some(StatusFilter::Success) => is_success,
        Some(StatusFilter::Error) => !is_success,
    };
    let began = entry.started_unix_ms();
    status
        && filter
            .model
            .as_ref()
            .is_none_or(|model| *model == entry.model)
        && filter.node.as_ref().is_none_or(|node| *node == entry.node)
        && filter.from_unix_ms.is_none_or(|from| began >= from)
        && filter.before_unix_ms.is_none_or(|before| began < before)
}

/// A filter of every combination.
fn filters(times: &[u64]) -> Vec<HistoryFilter> {
    let statuses = [
        None,
        Some(StatusFilter::Exactly(200)),
        Some(StatusFilter::Class(4)),
        Some(StatusFilter::Class(5)),
        Some(StatusFilter::Success),
        Some(StatusFilter::Error),
    ];
    let spans = [
        (None, None),
        (Some(times[0]), None),
        (None, Some(times[1])),
        (Some(times[0]), Some(times[1])),
        (Some(times[1]), Some(times[0])),
    ];
    let mut filters = Vec::new();
    for model in [None, Some("llama"), Some("nobody's")] {
        for node in [None, Some("gpu-2")] {
            for status in statuses {
                filters.extend(spans.map(|(from_unix_ms, before_unix_ms)| HistoryFilter {
                    model: model.map(str::to_owned),
                    node: node.map(str::to_owned),
                    status,
                    from_unix_ms,
                    before_unix_ms,
                }));
            }
        }
    }
    filters
}

fn open(directory: &Directory) -> Connection {
    Database::open(directory.path()).unwrap().connection
}

/// Everything there is, after checking that the counts agree with it.
fn checked(connection: &Connection) -> Vec<HistoryEntry> {
    for sql in [
        "SELECT count(*) FROM (SELECT id >> 33 AS block, kind, count(*) AS requests FROM history
         GROUP BY 1, 2 EXCEPT SELECT block, kind, requests FROM history_block)",
        "SELECT count(*) FROM (SELECT block, kind, requests FROM history_block
         EXCEPT SELECT id >> 33, kind, count(*) FROM history GROUP BY 1, 2)",
        "SELECT count(*) FROM (SELECT id >> 42 AS span, kind, count(*) AS requests FROM history
         GROUP BY 1, 2 EXCEPT SELECT span, kind, requests FROM history_span)",
        "SELECT count(*) FROM (SELECT span, kind, requests FROM history_span
         EXCEPT SELECT id >> 42, kind, count(*) FROM history GROUP BY 1, 2)",
        "SELECT count(*) FROM (SELECT id, requests FROM history_kind
         EXCEPT SELECT kind, count(*) FROM history GROUP BY kind)",
        "SELECT count(*) FROM history WHERE kind NOT IN (SELECT id FROM history_kind)",
    ] {
        let wrong: i64 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(wrong, 0, "{sql}");
    }
    query::before(
        connection,
        &HistoryFilter::default(),
        None,
        u32::MAX,
        EFFORT,
    )
    .unwrap()
}

/// Compares every kind of question with the answer of a plain list, the latest first.
/// With so little effort allowed, the counts of spans, or of blocks, must lead to each page.
fn compare(connection: &Connection, all: &[HistoryEntry], random: &mut Random) {
    for effort_max in [0, 60, EFFORT] {
        compare_with(connection, all, random, effort_max);
    }
}

fn compare_with(
    connection: &Connection,
    all: &[HistoryEntry],
    random: &mut Random,
    effort_max: u64,
) {
    let time = |random: &mut Random| BEGIN + random.below(30 * HOUR_MS);
    let mut times = [time(random), time(random)];
    times.sort_unstable();
    for filter in filters(&times) {
        let fitting: Vec<_> = all.iter().filter(|entry| fits(&filter, entry)).collect();
        let total = fitting.len() as u64;
        let offsets = [0, 1, total / 2, total.saturating_sub(3), total, total + 50];
        for offset in offsets {
            for limit in [1, 7, 200] {
                let page = query::page(connection, &filter, offset, limit, effort_max).unwrap();
                assert_eq!(page.total, total, "{filter:?}");
                let skip = usize::try_from(offset).unwrap();
                let expected = fitting.iter().skip(skip).take(limit as usize);
                assert!(
                    page.entries.iter().eq(expected.copied()),
                    "{filter:?} from {offset}, {limit}: {:?}",
                    page.entries
                );
            }
        }
        // An export: piece by piece, each after the last of the one before.
        let mut exported = Vec::new();
        loop {
            let last = exported.last().map(|entry: &HistoryEntry| entry.id);
            let piece = query::before(connection, &filter, last, 300, effort_max).unwrap();
            if piece.is_empty() {
                break;
            }
            exported.extend(piece);
        }
        assert!(exported.iter().eq(fitting), "{filter:?}");
    }
}

#[test]
fn every_question_is_answered_as_a_plain_list_would() {
    let seed = std::env::var("HISTORY_SEED").ok();
    let seed = seed.map_or_else(|| getrandom::u64().unwrap(), |seed| seed.parse().unwrap());
    eprintln!("HISTORY_SEED={seed}");
    let random = &mut Random(seed);
    let directory = Directory::new();
    let mut connection = open(&directory);
    let mut serial = 0;
    let mut expected = Vec::new();
    for batch in 0..20 {
        let count = random.below(120);
        let records: Vec<_> = (0..count)
            .map(|_| {
                // Some batches lie within a moment, so that blocks are full and times the same.
                let spread = if batch % 4 == 0 { 50 } else { 30 * HOUR_MS };
                let time = BEGIN + random.below(spread);
                record(random, time)
            })
            .collect();
        let transaction = connection.transaction().unwrap();
        write::insert(&transaction, &records, &mut serial).unwrap();
        transaction.commit().unwrap();
        expected.extend(records.iter().map(entry_of));
    }
    let all = checked(&connection);
    assert_eq!(all.len(), expected.len());
    assert!(all.is_sorted_by(|left, right| left.id > right.id));
    let by_id = |entries: &[HistoryEntry]| {
        let mut entries = entries.to_vec();
        for entry in &mut entries {
            entry.id = entry.started_unix_ms() << ID_LOW_BITS;
        }
        entries.sort_by(|left, right| left.request_id.cmp(&right.request_id));
        entries
    };
    assert_eq!(by_id(&all), by_id(&expected));
    compare(&connection, &all, random);

    // Deleted in small steps, the oldest first; what is left answers as before.
    let before = BEGIN + 10 * HOUR_MS;
    let kept = all.iter().filter(|entry| entry.started_unix_ms() >= before);
    let mut kept: Vec<_> = kept.cloned().collect();
    kept.truncate(kept.len().min(300));
    assert!(keep::is_due(&connection, before, 300).unwrap());
    let transaction = connection.transaction().unwrap();
    let mut deleted = 0;
    loop {
        let step = keep::delete_some(&transaction, before, 300, 37).unwrap();
        deleted += step;
        assert!(step <= 37);
        if step < 37 {
            break;
        }
    }
    transaction.commit().unwrap();
    assert!(!keep::is_due(&connection, before, 300).unwrap());
    assert_eq!(deleted as usize, all.len() - kept.len());
    assert_eq!(checked(&connection), kept);
    compare(&connection, &kept, random);
}

/// What SQLite means to do, one line per step.
fn plan(connection: &Connection, sql: &str) -> Vec<String> {
    let mut explain = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
        .unwrap();
    let nothing = vec![rusqlite::types::Null; explain.parameter_count()];
    let steps = explain.query_map(rusqlite::params_from_iter(nothing), |row| row.get(3));
    steps.unwrap().map(Result::unwrap).collect()
}

#[test]
fn every_statement_looks_up_an_index_and_none_sorts_or_scans_the_history() {
    let directory = Directory::new();
    let connection = open(&directory);
    let by_id = "SEARCH history USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)";
    let by_kind =
        "SEARCH history USING COVERING INDEX history_by_kind (kind=? AND rowid>? AND rowid<?)";
    let blocks = "SEARCH history_block USING PRIMARY KEY (block>? AND block<?)";
    let spans = "SEARCH history_span USING PRIMARY KEY (span>? AND span<?)";
    let one_span = "SEARCH history_span USING PRIMARY KEY (span=? AND kind=?)";
    let one_block = "SEARCH history_block USING PRIMARY KEY (block=? AND kind=?)";
    let one_kind = "SEARCH history_kind USING INTEGER PRIMARY KEY (rowid=?)";
    // Every combination of filters comes down to these; the table of kinds is small and read whole.
    let plans: &[(&str, &[&str])] = &[
        (query::KINDS, &["SCAN history_kind"]),
        (query::SPANS, &[spans]),
        (query::BLOCKS, &[blocks]),
        (query::COUNT, &[by_kind]),
        (query::IDS, &[by_id]),
        (query::IDS_OF_KIND, &[by_kind]),
        (query::IDS_BEHIND, &[by_id]),
        (query::IDS_OF_KIND_BEHIND, &[by_kind]),
        (
            query::ENTRY,
            &[
                "SEARCH history USING INTEGER PRIMARY KEY (rowid=?)",
                one_kind,
            ],
        ),
        (keep::TOTALS, &["SCAN history_kind"]),
        (keep::REFUSED_KINDS, &["SCAN history_kind"]),
        (
            keep::OLDEST_OF_KIND,
            &["SEARCH history USING COVERING INDEX history_by_kind (kind=?)"],
        ),
        (
            keep::DELETE_ONE,
            &["SEARCH history USING INTEGER PRIMARY KEY (rowid=?)"],
        ),
        (keep::OLDEST, &["SEARCH history"]),
        (
            keep::DELETE,
            &[
                "SEARCH history USING INTEGER PRIMARY KEY (rowid=?)",
                "LIST SUBQUERY 1",
                "SEARCH history USING INTEGER PRIMARY KEY (rowid<?)",
            ],
        ),
        (keep::COUNT_BLOCK, &[one_block]),
        (keep::REMOVE_BLOCK, &[one_block]),
        (keep::COUNT_SPAN, &[one_span]),
        (keep::REMOVE_SPAN, &[one_span]),
        (keep::COUNT_KIND, &[one_kind]),
        (keep::REMOVE_KIND, &[one_kind]),
    ];
    for (sql, expected) in plans {
        assert_eq!(plan(&connection, sql), *expected, "{sql}");
    }
}

/// Refused for want of a valid key.
fn refused(random: &mut Random, started_unix_ms: u64) -> HistoryRecord {
    let mut record = record(random, started_unix_ms);
    record.names = HistoryNames::new(started_unix_ms, b"refused", 0);
    (record.status, record.attempts) = (401, 0);
    record.ended_in = Phase::Auth;
    record
}

#[test]
fn those_without_a_key_push_out_only_each_other() {
    const ROWS_MAX: u64 = 1000;
    let directory = Directory::new();
    let mut connection = open(&directory);
    let random = &mut Random(11);
    // The oldest of all are good; a node may ask for a key as well, and that is no less of a request.
    let mut records: Vec<_> = (0..899).map(|ms| record(random, BEGIN + ms)).collect();
    for record in &mut records[..50] {
        record.status = 401;
        record.names.set_node(b"gpu-1");
    }
    records.extend((0..3000).map(|ms| refused(random, BEGIN + HOUR_MS + ms)));
    // One more than there is room for next to the share.
    records.extend((0..2).map(|ms| record(random, BEGIN + 2 * HOUR_MS + ms)));
    let transaction = connection.transaction().unwrap();
    write::insert(&transaction, &records, &mut 0).unwrap();
    transaction.commit().unwrap();
    let mut expected = checked(&connection);
    assert!(keep::is_due(&connection, BEGIN, ROWS_MAX).unwrap());
    let transaction = connection.transaction().unwrap();
    let (mut steps, mut deleted) = (0, 0);
    loop {
        let step = keep::delete_some(&transaction, BEGIN, ROWS_MAX, 400).unwrap();
        assert!(step <= 400);
        (steps, deleted) = (steps + 1, deleted + step);
        if step < 400 {
            break;
        }
    }
    transaction.commit().unwrap();
    assert_eq!((steps, deleted), (8, 2900 + 1));
    // What is left: the latest, but of the refused only the latest hundred.
    let first_kept = BEGIN + HOUR_MS + 2900;
    let is_kept = |entry: &HistoryEntry| {
        entry.request_id != "refused" || entry.started_unix_ms() >= first_kept
    };
    expected.retain(is_kept);
    expected.truncate(1000);
    assert_eq!(checked(&connection), expected);
    assert!(!keep::is_due(&connection, BEGIN, ROWS_MAX).unwrap());
    // Their age counts as well.
    assert!(keep::is_due(&connection, BEGIN + HOUR_MS, ROWS_MAX).unwrap());
}

#[test]
fn models_that_clients_invent_do_not_fill_the_table_of_kinds() {
    let directory = Directory::new();
    let mut connection = open(&directory);
    let random = &mut Random(1);
    let mut serial = 0;
    let transaction = connection.transaction().unwrap();
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
                INSERT INTO history_kind SELECT i, 'embeddings', 'invented-' || i, '', 404, 'router', 'admit', 0, 1
                FROM n";
    transaction.execute(fill, []).unwrap();
    let of = |random: &mut Random, status, model: &str, node: &str| {
        let mut record = record(random, BEGIN);
        record.names = HistoryNames::new(BEGIN, b"a", 0);
        record.names.set_model(model.as_bytes());
        record.names.set_node(node.as_bytes());
        (record.status, record.ended_by) = (status, EndedBy::Router);
        (record.endpoint, record.ended_in) = (EndpointLabel::Embeddings, Phase::Admit);
        record.is_stream = false;
        record
    };
    let records = [
        of(random, 404, "yet another", ""),
        of(random, 404, "invented-1", ""),
        of(random, 404, "real", "gpu-1"),
        // Refused before it got to a node, and without a key.
        of(random, 429, "real", ""),
        of(random, 401, "", ""),
    ];
    write::insert(&transaction, &records, &mut serial).unwrap();
    transaction.commit().unwrap();
    let entries = query::before(&connection, &HistoryFilter::default(), None, 9, EFFORT).unwrap();
    let models: Vec<_> = entries.iter().map(|entry| entry.model.as_str()).collect();
    assert_eq!(models, ["", "real", "real", "invented-1", "(other)"]);
    let facets = query::facets(&connection).unwrap();
    assert_eq!(facets.nodes, ["gpu-1"]);
    assert_eq!(facets.models.len(), 1000);
}

fn offer(running: &Running, count: u64) {
    let random = &mut Random(7);
    for number in 0..count {
        // Now, or retention would delete it.
        let time = crate::runtime::clock::unix_secs() * 1000 + number;
        running.history.offer(0, record(random, time)).unwrap();
    }
}

fn total(running: &Running) -> u64 {
    let page = running.store.history_page(HistoryFilter::default(), 0, 1);
    page.map_or(0, |page| page.total)
}

#[test]
fn what_workers_hand_over_is_written_without_being_asked_for() {
    let directory = Directory::new();
    let running = Running::on(&directory);
    offer(&running, 500);
    running.until_it("has written all", |running| total(running) == 500);
    assert_eq!(running.health.history_records_total(), 500);
    let facets = running.store.history_facets().unwrap();
    assert_eq!(facets.models, ["embed", "llama", "qwen"]);
    assert_eq!(facets.nodes, ["gpu-1", "gpu-2"]);
}

#[test]
fn a_half_full_queue_is_emptied_at_once() {
    let directory = Directory::new();
    let running = Running::on(&directory);
    offer(&running, 1);
    running.until_it("has written the first", |running| total(running) == 1);
    offer(&running, crate::telemetry::HISTORY_QUEUE_RECORDS as u64 - 2);
    running.until_it("has written all", |running| {
        running.health.history_records_total() == crate::telemetry::HISTORY_QUEUE_RECORDS as u64 - 1
    });
}

#[test]
fn a_locked_database_loses_nothing_that_has_room_and_writes_it_afterwards() {
    let directory = Directory::new();
    let running = Running::on(&directory);
    let stranger = directory.stranger();
    stranger.execute_batch("BEGIN IMMEDIATE").unwrap();
    offer(&running, 1000);
    running.until_it("fails", |running| running.health.is_failing());
    offer(&running, 1000);
    stranger.execute_batch("COMMIT").unwrap();
    running.until_it("has written all", |running| total(running) == 2000);
    assert!(!running.health.is_failing());
    assert_eq!(running.health.history_dropped_total(), 0);
}

#[test]
fn the_end_writes_what_waits_and_counts_what_it_cannot_write() {
    let directory = Directory::new();
    let running = Running::on(&directory);
    offer(&running, 6000);
    drop(running);
    let connection = open(&directory);
    assert_eq!(checked(&connection).len(), 6000);

    let running = Running::on(&directory);
    let stranger = directory.stranger();
    stranger.execute_batch("BEGIN IMMEDIATE").unwrap();
    offer(&running, 6000);
    let health = std::sync::Arc::clone(&running.health);
    let began = Instant::now();
    drop(running);
    assert!(
        began.elapsed() < Duration::from_secs(9),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(health.history_dropped_total(), 6000);
}

#[test]
fn old_requests_go_by_themselves() {
    let directory = Directory::new();
    let mut connection = open(&directory);
    let random = &mut Random(3);
    let records: Vec<_> = (0..12_000).map(|ms| record(random, BEGIN - ms)).collect();
    let transaction = connection.transaction().unwrap();
    // Long ago, by the clock of the thread.
    let mut old = records;
    for record in &mut old {
        record.names.started_unix_ms -= 1_000_000_000_000;
    }
    write::insert(&transaction, &old, &mut 0).unwrap();
    transaction.commit().unwrap();
    let running = Running::on(&directory);
    offer(&running, 10);
    running.until_it("keeps only the new", |running| total(running) == 10);
    assert_eq!(checked(&connection).len(), 10);
}
