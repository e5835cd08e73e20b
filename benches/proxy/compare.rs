//! The router beside everything it can be compared with: on another driver, nginx, HAProxy, and the
//! same gateway built on tokio, and a bare relay as the floor. Contenders take turns as in every other
//! subject here.

use std::time::Duration;

use super::comparison::Comparison;
use super::contender::{ROUTER, ROUTER_HISTORY, Stage};
use super::machine::{OPEN_FILES, raise_open_files};
use super::memory::footprints;
use super::options::Subject;
use super::overload::overload;
use super::rivals::Rivals;
use super::series::Series;
use super::throughput::{BODY_BYTES, body_size, busy, direct, streaming};
use super::wrk::Wrk;
use super::{Bench, Failure};

/// Measures the wanted parts: unary, bodies, sse, latency, overload, memory.
pub(crate) fn compare(bench: &Bench<'_>) -> Result<Comparison, Failure> {
    bench.say("building the builds on tokio …");
    let rivals = Rivals::prepare()?;
    // The contenders inherit the limit.
    raise_open_files(OPEN_FILES)?;
    let mut comparison = Comparison {
        setting: bench.setting()?,
        series: Vec::new(),
        footprints: Vec::new(),
    };
    comparison.setting.extend(rivals.versions());
    for part in &bench.options.subjects {
        bench.say(&format!("comparing {} …", part.name()));
        comparison.series.extend(match part {
            Subject::Unary => unary(bench, &rivals)?,
            Subject::Bodies => bodies(bench, &rivals)?,
            Subject::Sse => sse(bench, &rivals)?,
            Subject::Latency => latency(bench, &rivals)?,
            Subject::Overload => overload(bench, &rivals, rounds(bench))?,
            Subject::Memory => {
                comparison.footprints = footprints(bench, |stage| rivals.all(stage))?;
                Vec::new()
            }
        });
    }
    Ok(comparison)
}

/// Short chats on 1 to 256 connections.
fn unary(bench: &Bench<'_>, rivals: &Rivals) -> Result<Vec<Series>, Failure> {
    let (_process, node) = bench.start_node(Duration::ZERO)?;
    let stage = Stage {
        kept: KEPT,
        ..bench.stage(node, false)
    };
    let contenders = rivals.all(&stage)?;
    let directory = stage.workspace.directory("wrk")?;
    let wrk = Wrk::new(bench.wrk, &directory, 0)?;
    let measure = |connection_count: &usize| {
        let case = match connection_count {
            1 => "1 connection".to_owned(),
            count => format!("{count} connections"),
        };
        bench.say(&case);
        let what = ("unary", case.as_str(), "request");
        Series::measure(what, &contenders, rounds(bench), |contender| {
            busy(&wrk, contender, *connection_count)
        })
    };
    let mut series: Vec<Series> = CONNECTION_COUNTS
        .iter()
        .map(measure)
        .collect::<Result<_, _>>()?;
    drop(contenders);
    series.push(history(bench, &stage, &wrk)?);
    Ok(series)
}

/// The router as it comes, which records each request in its database, beside itself without. Apart from
/// the others: what it still writes when its turn is over would be in theirs.
fn history(bench: &Bench<'_>, stage: &Stage<'_>, wrk: &Wrk<'_>) -> Result<Series, Failure> {
    let keeping = Stage {
        has_history: true,
        ..*stage
    };
    let contenders = [
        stage.router(ROUTER, None)?,
        keeping.router(ROUTER_HISTORY, None)?,
    ];
    let case = "request history, 64 connections";
    bench.say(case);
    let what = ("unary", case, "request");
    Series::measure(what, &contenders, rounds(bench), |contender| {
        busy(wrk, contender, 64)
    })
}

/// Chats of growing size on 64 connections.
fn bodies(bench: &Bench<'_>, rivals: &Rivals) -> Result<Vec<Series>, Failure> {
    let (_process, node) = bench.start_node(Duration::ZERO)?;
    let stage = Stage {
        kept: KEPT,
        ..bench.stage(node, false)
    };
    let contenders = rivals.all(&stage)?;
    let directory = stage.workspace.directory("wrk")?;
    let measure = |bytes: &usize| {
        let wrk = Wrk::new(bench.wrk, &directory, *bytes)?;
        let case = body_size(*bytes);
        bench.say(&case);
        let what = ("bodies", case.as_str(), "request");
        Series::measure(what, &contenders, rounds(bench), |contender| {
            busy(&wrk, contender, 64)
        })
    };
    BODY_BYTES.iter().map(measure).collect()
}

/// 100 to 2000 streams with the same number of events per second in all, which leaves every contender
/// time to spare: a gap then shows what it adds, not what it cannot keep up with.
fn sse(bench: &Bench<'_>, rivals: &Rivals) -> Result<Vec<Series>, Failure> {
    let mut series = Vec::new();
    for (stream_count, interval) in STREAMS {
        let (_process, node) = bench.start_node(interval)?;
        let stage = Stage {
            kept: KEPT,
            ..bench.stage(node, true)
        };
        let contenders = rivals.all(&stage)?;
        let case = format!("{stream_count} streams, {} ms", interval.as_millis());
        bench.say(&case);
        let what = ("sse", case.as_str(), "event");
        series.push(Series::measure(
            what,
            &contenders,
            rounds(bench),
            |contender| streaming(contender, stream_count, SETTLING_EVENTS),
        )?);
    }
    Ok(series)
}

/// What each contender adds to the way without a proxy: to a request while there is only one at a time,
/// and to the gap between two events of a stream.
fn latency(bench: &Bench<'_>, rivals: &Rivals) -> Result<Vec<Series>, Failure> {
    let (_process, node) = bench.start_node(Duration::ZERO)?;
    let stage = bench.stage(node, false);
    let mut contenders = rivals.all(&stage)?;
    contenders.push(direct(node));
    let directory = stage.workspace.directory("wrk")?;
    let wrk = Wrk::new(bench.wrk, &directory, 0)?;
    bench.say("1 connection");
    let requests = Series::measure(
        ("latency", "a request, 1 connection", "request"),
        &contenders,
        rounds(bench),
        |contender| busy(&wrk, contender, 1),
    )?;
    drop(contenders);

    let (stream_count, interval) = LATENCY_STREAMS;
    let (_process, node) = bench.start_node(interval)?;
    let mut contenders = rivals.all(&bench.stage(node, true))?;
    contenders.push(direct(node));
    bench.say("100 streams");
    let gaps = Series::measure(
        ("latency", "a gap between events, 100 streams", "event"),
        &contenders,
        rounds(bench),
        |contender| streaming(contender, stream_count, SETTLING_EVENTS),
    )?;
    Ok(vec![requests, gaps])
}

fn rounds(bench: &Bench<'_>) -> usize {
    bench.options.rounds.unwrap_or(ROUNDS)
}

/// Odd, so that a median is a round that was.
const ROUNDS: usize = 11;
const CONNECTION_COUNTS: [usize; 4] = [1, 16, 64, 256];
/// More than the most requests under way, so that nobody connects anew under load.
const KEPT: usize = 512;
/// How many, with the interval of their events: 20 000 events per second each time.
const STREAMS: [(usize, Duration); 3] = [
    (100, Duration::from_millis(5)),
    (400, Duration::from_millis(20)),
    (2000, Duration::from_millis(100)),
];
/// A fourth of the events per second of the others: the machine shall not be what adds.
const LATENCY_STREAMS: (usize, Duration) = (100, Duration::from_millis(20));
/// Of every stream before the watch.
const SETTLING_EVENTS: u64 = 3;
