//! CPU per request and per event: the router beside nginx and a bare relay.

use std::net::SocketAddr;
use std::time::Duration;

use llm_router::runtime;

use super::contender::{Contender, Stage};
use super::machine::Meter;
use super::process::pause;
use super::series::{Outcome, Series};
use super::streams::Streams;
use super::wrk::Wrk;
use super::{Bench, Failure};

/// Chat requests of about 100 bytes on 64 connections.
pub(crate) fn unary(bench: &Bench<'_>) -> Result<Vec<Series>, Failure> {
    let (_process, node) = bench.start_node(Duration::ZERO)?;
    let stage = bench.stage(node, false);
    let mut series = vec![requests(&stage, bench, 0, &stage.all()?, UNARY_ROUNDS)?];
    // Without a proxy, for orientation: what the node and the load can do on their core.
    let direct = [direct(node)];
    series.push(requests(&stage, bench, 0, &direct, DIRECT_ROUNDS)?);
    Ok(series)
}

/// Chat requests of growing size.
pub(crate) fn bodies(bench: &Bench<'_>) -> Result<Vec<Series>, Failure> {
    let (_process, node) = bench.start_node(Duration::ZERO)?;
    let stage = bench.stage(node, false);
    let contenders = stage.all()?;
    BODY_BYTES
        .iter()
        .map(|bytes| requests(&stage, bench, *bytes, &contenders, BODY_ROUNDS))
        .collect()
}

/// 400 streams with an event every 5 ms each.
///
/// Each contender has the core and the node to itself while it is measured: its streams are opened,
/// measured for a second and closed before the next contender's turn. With all of them open at once
/// the core would be overloaded, and each would be measured in the other's cache.
pub(crate) fn sse(bench: &Bench<'_>) -> Result<Vec<Series>, Failure> {
    let (_process, node) = bench.start_node(EVENT_INTERVAL)?;
    let contenders = bench.stage(node, true).all()?;
    let driver = runtime::choose(runtime::Preference::Auto)?.driver;
    let rounds = bench.options.rounds.unwrap_or(SSE_ROUNDS);
    let measured = Series::measure(
        ("sse", "400 streams, 5 ms", "event"),
        &contenders,
        rounds,
        |contender| {
            let streams = Streams {
                address: contender.address,
                count: STREAM_COUNT,
                event_count_before: SETTLING_EVENTS,
                watch: Duration::from_secs(1),
                driver,
            };
            let watched = streams.watch(contender.meter)?;
            // The node notices that the clients have left.
            pause(Duration::from_millis(100));
            Ok(Outcome {
                unit_count: watched.event_count,
                seconds: watched.seconds,
                cpu: watched.cpu,
                p99_ms: watched.gap_p99_ms,
            })
        },
    )?;
    Ok(vec![measured])
}

fn requests(
    stage: &Stage<'_>,
    bench: &Bench<'_>,
    body_bytes: usize,
    contenders: &[Contender],
    rounds: usize,
) -> Result<Series, Failure> {
    let directory = stage.workspace.directory("wrk")?;
    let wrk = Wrk::new(bench.wrk, &directory, body_bytes)?;
    let case = match (contenders, body_bytes) {
        ([only], _) => only.name.to_owned(),
        (_, 0) => "about 100 B".to_owned(),
        (_, bytes) => format!("{} KiB", bytes / 1024),
    };
    let subject = if rounds == BODY_ROUNDS {
        "bodies"
    } else {
        "unary"
    };
    let rounds = bench.options.rounds.unwrap_or(rounds);
    Series::measure(
        (subject, &case, "request"),
        contenders,
        rounds,
        |contender| {
            let before = contender.meter.cpu()?;
            let run = wrk.run(contender.address)?;
            let after = contender.meter.cpu()?;
            Ok(Outcome {
                unit_count: run.request_count,
                seconds: run.seconds,
                cpu: after.zip(before).map(|(after, before)| after - before),
                p99_ms: run.p99_ms,
            })
        },
    )
}

/// The node itself.
fn direct(node: SocketAddr) -> Contender {
    Contender::other("no proxy", node, Meter::None)
}

const UNARY_ROUNDS: usize = 15;
const DIRECT_ROUNDS: usize = 3;
const BODY_ROUNDS: usize = 7;
const SSE_ROUNDS: usize = 11;
/// 0 is the shortest request, about 100 bytes.
const BODY_BYTES: [usize; 4] = [0, 1024, 16 * 1024, 1024 * 1024];
const STREAM_COUNT: usize = 400;
const EVENT_INTERVAL: Duration = Duration::from_millis(5);
/// 0.3 s of streaming before the watch.
const SETTLING_EVENTS: u64 = 60;
