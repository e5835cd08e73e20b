//! What a connection costs while it waits, and while it streams: resident memory.

use std::fmt::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use llm_router::runtime;

use super::contender::{Contender, ROUTER, Stage};
use super::machine::{OPEN_FILES, raise_open_files};
use super::streams::Streams;
use super::{Bench, Failure, client};

/// Resident memory of one contender under one kind of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Footprint {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) count: usize,
    pub(crate) bytes_at_rest: u64,
    pub(crate) bytes_with_all: u64,
}

/// What the connections do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Kept alive after one exchange.
    Idle,
    /// Streaming.
    Streaming,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle connection",
            Self::Streaming => "running stream",
        }
    }
}

impl Footprint {
    pub(crate) fn bytes_each(&self) -> f64 {
        let grown = self.bytes_with_all.saturating_sub(self.bytes_at_rest);
        grown as f64 / self.count as f64
    }
}

/// Both kinds for the router and for nginx.
pub(crate) fn memory(bench: &Bench<'_>) -> Result<Vec<Footprint>, Failure> {
    footprints(bench, |stage| {
        Ok(vec![stage.router(ROUTER, None)?, stage.nginx()?])
    })
}

/// Both kinds for each contender, with a fresh process each: an allocator keeps what it has.
pub(crate) fn footprints(
    bench: &Bench<'_>,
    start: impl Fn(&Stage<'_>) -> Result<Vec<Contender>, Failure>,
) -> Result<Vec<Footprint>, Failure> {
    let open_files = raise_open_files(OPEN_FILES)?;
    // The router keeps half of its descriptors, and some for other things, free for nodes.
    let reachable = usize::try_from(open_files / 2)?.saturating_sub(150);
    let idle_count = IDLE_COUNT.min(reachable);
    if idle_count < IDLE_COUNT {
        let message = format!(
            "memory: only {idle_count} idle connections instead of {IDLE_COUNT}: the limit of open \
             files is {open_files}; run as root or raise it (ulimit -Hn {OPEN_FILES})"
        );
        bench.say(&message);
    }
    let (_slow_process, node) = bench.start_node(EVENT_INTERVAL)?;
    let (_quick_process, quick_node) = bench.start_node(Duration::ZERO)?;
    let mut footprints = Vec::new();
    for contender in start(&bench.stage(quick_node, true))? {
        footprints.push(idle(&contender, idle_count)?);
    }
    for contender in start(&bench.stage(node, true))? {
        footprints.push(streaming(&contender)?);
    }
    Ok(footprints)
}

fn idle(contender: &Contender, count: usize) -> Result<Footprint, Failure> {
    let bytes_at_rest = resident(contender)?;
    let mut open: Vec<TcpStream> = Vec::with_capacity(count);
    let body = client::unary_body(0);
    while open.len() < count {
        let batch = BATCH.min(count - open.len());
        let mut fresh = Vec::with_capacity(batch);
        for _ in 0..batch {
            fresh.push(client::connect(contender.address)?);
        }
        for connection in &mut fresh {
            client::send(connection, &body)?;
        }
        for connection in &mut fresh {
            client::receive(connection)?;
        }
        open.append(&mut fresh);
    }
    let bytes_with_all = resident(contender)?;
    // All of them are still alive: the first and the last work.
    for connection in open.iter_mut().step_by(count - 1) {
        client::send(connection, &body)?;
        client::receive(connection)?;
    }
    Ok(Footprint {
        name: contender.name,
        kind: Kind::Idle,
        count,
        bytes_at_rest,
        bytes_with_all,
    })
}

fn streaming(contender: &Contender) -> Result<Footprint, Failure> {
    let bytes_at_rest = resident(contender)?;
    let streams = Streams {
        address: contender.address,
        count: STREAM_COUNT,
        event_count_before: 3,
        watch: Duration::from_secs(1),
        driver: runtime::choose(runtime::Preference::Auto)?.driver,
    };
    let watched = streams.watch(contender.meter)?;
    Ok(Footprint {
        name: contender.name,
        kind: Kind::Streaming,
        count: STREAM_COUNT,
        bytes_at_rest,
        bytes_with_all: watched.resident.ok_or("not a process")?,
    })
}

fn resident(contender: &Contender) -> Result<u64, Failure> {
    contender
        .meter
        .resident()?
        .ok_or_else(|| "not a process".into())
}

/// All of them, as Markdown.
pub(crate) fn table(footprints: &[Footprint]) -> String {
    let mut out = String::from(
        "| connections | proxy | each, KiB | at rest, MiB | with all, MiB |\n|---|---|---|---|---|\n",
    );
    for seen in footprints {
        let _ = writeln!(
            out,
            "| {} × {} | {} | {:.2} | {:.1} | {:.1} |",
            seen.count,
            seen.kind.name(),
            seen.name,
            seen.bytes_each() / 1024.0,
            mebibytes(seen.bytes_at_rest),
            mebibytes(seen.bytes_with_all),
        );
    }
    out
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

const IDLE_COUNT: usize = 10_000;
const STREAM_COUNT: usize = 2_000;
/// Slow enough that every event is on time, so that memory is that of streams, not of a backlog.
const EVENT_INTERVAL: Duration = Duration::from_millis(250);
/// Exchanges at the same time while the connections are opened.
const BATCH: usize = 64;
