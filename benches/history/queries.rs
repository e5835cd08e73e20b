//! Pages, filters and exports of a million requests.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use llm_router::runtime::clock;
use llm_router::store::{self, HistoryFilter, StatusFilter, Store};
use llm_router::telemetry::{
    EndedBy, EndpointLabel, History, HistoryLimits, HistoryNames, HistoryRecord, Phase, StoreHealth,
};

use super::process::pause;
use super::worker::median;
use super::{Bench, Failure};

pub(crate) fn measure(bench: &Bench<'_>) -> Result<String, Failure> {
    let mut out = String::new();
    let days = Duration::from_secs(6 * 24 * 60 * 60);
    for (name, span) in [
        ("over six days", days),
        ("within one minute", Duration::from_secs(60)),
    ] {
        let directory = bench
            .workspace
            .directory(&format!("queries-{}", span.as_secs()))?;
        out.push_str(&of_span(&directory, name, span)?);
        fs::remove_dir_all(&directory)?;
    }
    Ok(out)
}

/// A million requests spread over this time.
fn of_span(directory: &Path, name: &str, span: Duration) -> Result<String, Failure> {
    let limits = HistoryLimits {
        is_on: true,
        retention_secs: 7 * 24 * 60 * 60,
        rows_max: 2 * ROWS,
    };
    let history = Arc::new(History::new(1, limits));
    let health = Arc::new(StoreHealth::default());
    let data = directory.to_path_buf();
    let (store, thread) = store::start(data, Arc::clone(&history), Arc::clone(&health))?;
    let end = clock::unix_secs() * 1000;
    let began = Instant::now();
    fill(&history, &health, end, span);
    let filling = began.elapsed();
    let bytes = fs::metadata(directory.join("llm-router.db"))?.len();
    let mut out = format!(
        "\n## A million requests {name}\n\n\
         Written at {:.0} requests/s; the file has {:.0} MB, {:.0} bytes per request.\n\n\
         | question | fits | first page | page in the middle | last page |\n|---|---|---|---|---|\n",
        ROWS as f64 / filling.as_secs_f64(),
        bytes as f64 / 1e6,
        bytes as f64 / ROWS as f64,
    );
    let mut slowest = Duration::ZERO;
    for (name, filter) in questions(end, span) {
        eprintln!("asking for {name} …");
        let total = store.history_page(filter.clone(), 0, 1)?.total;
        let pages = [0, total / 2, total.saturating_sub(u64::from(PER_PAGE))];
        write!(out, "| {name} | {total} |")?;
        for offset in pages {
            let (usual, longest) = time(&store, &filter, offset)?;
            slowest = slowest.max(longest);
            write!(out, " {:.1} (≤ {:.1}) ms |", millis(usual), millis(longest))?;
        }
        out.push('\n');
    }
    writeln!(
        out,
        "\nMedian and longest of {REPEATS} times each, with the exact total, {PER_PAGE} requests a page; \
         the longest of all was {:.1} ms.\n",
        millis(slowest)
    )?;
    out.push_str(&export(&store, end)?);
    thread.finish();
    Ok(out)
}

fn fill(history: &History, health: &StoreHealth, end: u64, span: Duration) {
    let mut state = 1_u64;
    let span_ms = span.as_millis() as u64;
    for number in 0..ROWS {
        // As requests end: in about the order they began.
        let time = end - span_ms + number * span_ms / ROWS;
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        let mut record = record(time - (state >> 33) % 500, state >> 20);
        while history.offer(0, record.clone()).is_err() {
            pause(Duration::from_millis(1));
            record.attempts = 1;
        }
    }
    while health.history_records_total() < ROWS {
        pause(Duration::from_millis(1));
    }
}

fn record(started_unix_ms: u64, random: u64) -> HistoryRecord {
    let id = format!("req_{:032x}", u128::from(random) * 0x1_0000_0001_0000_0001);
    let mut names = HistoryNames::new(started_unix_ms, id.as_bytes(), random % 20 + 1);
    names.set_model(format!("model-{}", random % 7).as_bytes());
    let status = match random / 7 % 1000 {
        0..950 => 200,
        950..970 => 429,
        970..980 => 503,
        980..990 => 0,
        990..999 => 404,
        _ => 500,
    };
    if matches!(status, 200 | 0 | 500) {
        names.set_node(format!("gpu-{}", random / 7000 % 16).as_bytes());
    }
    HistoryRecord {
        names,
        endpoint: match random % 5 {
            0 => EndpointLabel::Embeddings,
            _ => EndpointLabel::ChatCompletions,
        },
        status,
        duration_us: 1_000_000 + random % 9_000_000,
        phase_us: std::array::from_fn(|phase| (random >> phase) % 100_000),
        tokens: (status == 200).then_some((random % 2000, random % 500)),
        request_bytes: 200 + random % 5000,
        response_bytes: 500 + random % 20_000,
        attempts: 1,
        ended_by: if status == 0 {
            EndedBy::Client
        } else {
            EndedBy::Node
        },
        ended_in: if status == 0 {
            Phase::Stream
        } else {
            Phase::Done
        },
        is_stream: !random.is_multiple_of(3),
    }
}

/// What the page of the dashboard asks, in every combination of filters.
fn questions(end: u64, span: Duration) -> Vec<(String, HistoryFilter)> {
    let span_ms = span.as_millis() as u64;
    let statuses = [
        ("", None),
        ("status 200", Some(StatusFilter::Exactly(200))),
        ("4xx", Some(StatusFilter::Class(4))),
        ("success", Some(StatusFilter::Success)),
        ("error", Some(StatusFilter::Error)),
        ("status 500", Some(StatusFilter::Exactly(500))),
    ];
    let mut questions = Vec::new();
    for (time, part) in [("", None), ("a third of the time", Some(3))] {
        for model in ["", "model"] {
            for node in ["", "node"] {
                for (status, wanted) in statuses {
                    let words = [model, node, status, time];
                    let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
                    let name = match words.as_slice() {
                        [] => "everything".to_owned(),
                        words => words.join(", "),
                    };
                    let filter = HistoryFilter {
                        model: (!model.is_empty()).then(|| "model-3".to_owned()),
                        node: (!node.is_empty()).then(|| "gpu-5".to_owned()),
                        status: wanted,
                        from_unix_ms: part.map(|part| end - 2 * span_ms / part + 777),
                        before_unix_ms: part.map(|part| end - span_ms / part + 333),
                    };
                    questions.push((name, filter));
                }
            }
        }
    }
    questions
}

/// Median and longest time of one page.
fn time(
    store: &Store,
    filter: &HistoryFilter,
    offset: u64,
) -> Result<(Duration, Duration), Failure> {
    let mut times = Vec::new();
    for _ in 0..REPEATS {
        let began = Instant::now();
        store.history_page(filter.clone(), offset, PER_PAGE)?;
        times.push(began.elapsed().as_secs_f64());
    }
    let longest = times.iter().copied().fold(0.0, f64::max);
    let usual = median(times.into_iter());
    Ok((
        Duration::from_secs_f64(usual),
        Duration::from_secs_f64(longest),
    ))
}

/// How fast everything is read, and how fast what is rare.
fn export(store: &Store, end: u64) -> Result<String, Failure> {
    let mut out = String::new();
    let rare = HistoryFilter {
        status: Some(StatusFilter::Exactly(500)),
        before_unix_ms: Some(end),
        ..HistoryFilter::default()
    };
    for (name, filter) in [
        ("everything", HistoryFilter::default()),
        ("status 500", rare),
    ] {
        let (began, mut count, mut last) = (Instant::now(), 0, None);
        let mut longest = Duration::ZERO;
        loop {
            let asked = Instant::now();
            let piece = store.history_before(filter.clone(), last, PIECE)?;
            longest = longest.max(asked.elapsed());
            count += piece.len();
            last = piece.last().map(|entry| entry.id);
            if piece.len() < PIECE as usize {
                break;
            }
        }
        let time = began.elapsed();
        writeln!(
            out,
            "Export of {name}: {count} requests in {:.2} s, {:.0} a second; the longest of its pieces took \
             {:.1} ms.",
            time.as_secs_f64(),
            count as f64 / time.as_secs_f64(),
            millis(longest),
        )?;
    }
    Ok(out)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

const ROWS: u64 = 1_000_000;
const PER_PAGE: u32 = 50;
const PIECE: u32 = 500;
const REPEATS: usize = 7;
