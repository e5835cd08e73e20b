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
    let rounds = bench.options.rounds.unwrap_or(SSE_ROUNDS);
    let measured = Series::measure(
        ("sse", "400 streams, 5 ms", "event"),
        &contenders,
        rounds,
        |contender| streaming(contender, STREAM_COUNT, SETTLING_EVENTS),
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
    let case = match contenders {
        [only] => only.name.to_owned(),
        _ => body_size(body_bytes),
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
        |contender| busy(&wrk, contender, CONNECTION_COUNT),
    )
}

/// One round of `wrk` on so many connections.
pub(crate) fn busy(
    wrk: &Wrk<'_>,
    contender: &Contender,
    connection_count: usize,
) -> Result<Outcome, Failure> {
    let before = contender.meter.cpu()?;
    let run = wrk.run(contender.address, connection_count)?;
    let after = contender.meter.cpu()?;
    Ok(Outcome {
        unit_count: run.request_count,
        seconds: run.seconds,
        cpu: after.zip(before).map(|(after, before)| after - before),
        latency: run.latency,
        first_byte: None,
        refused_count: 0,
    })
}

/// One round of streams, opened, watched for a second and closed.
pub(crate) fn streaming(
    contender: &Contender,
    count: usize,
    event_count_before: u64,
) -> Result<Outcome, Failure> {
    let streams = Streams {
        address: contender.address,
        count,
        event_count_before,
        watch: Duration::from_secs(1),
        driver: runtime::choose(runtime::Preference::Auto)?.driver,
    };
    let watched = streams.watch(contender.meter)?;
    // The node notices that the clients have left.
    pause(Duration::from_millis(100));
    Ok(Outcome {
        unit_count: watched.event_count,
        seconds: watched.seconds,
        cpu: watched.cpu,
        latency: watched.gap,
        first_byte: Some(watched.first_byte),
        refused_count: 0,
    })
}

/// What a size of [`BODY_BYTES`] is called.
pub(crate) fn body_size(bytes: usize) -> String {
    match bytes {
        0 => "about 100 B".to_owned(),
        bytes => format!("{} KiB", bytes / 1024),
    }
}

/// The node itself.
pub(crate) fn direct(node: SocketAddr) -> Contender {
    Contender::other(NO_PROXY, node, Meter::None)
}

/// The name of the way without a proxy.
pub(crate) const NO_PROXY: &str = "no proxy";
const CONNECTION_COUNT: usize = 64;
const UNARY_ROUNDS: usize = 15;
const DIRECT_ROUNDS: usize = 3;
const BODY_ROUNDS: usize = 7;
const SSE_ROUNDS: usize = 11;
/// 0 is the shortest request, about 100 bytes.
pub(crate) const BODY_BYTES: [usize; 4] = [0, 1024, 16 * 1024, 1024 * 1024];
const STREAM_COUNT: usize = 400;
const EVENT_INTERVAL: Duration = Duration::from_millis(5);
/// 0.3 s of streaming before the watch.
const SETTLING_EVENTS: u64 = 60;
