//! Makes what the viewers of `/api/events` see: every five seconds a point of the series, whether anyone watches
//! or not, and twice a second a snapshot while anyone does, so that all that happens is seen within a second.
//! One thread; workers only take what it has made.
#![expect(
    clippy::disallowed_types,
    reason = "only threads that may block take the lock"
)]

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::Serialize;

use crate::control::nodes::NodeDesk;
use crate::proxy::Shared;
use crate::proxy::api::Frame;
use crate::runtime::clock;
use crate::telemetry::{Latency, LatencyCounts, LiveCounts, log};

use super::super::load::{LoadBody, QueueBody};

/// The way to what the sampler has made.
pub(in crate::control::api) struct Sampler {
    series: Arc<Mutex<Series>>,
    /// Someone is about to watch: a snapshot is wanted now.
    wanted: Sender<()>,
}

/// The points of the last quarter of an hour.
#[derive(Default)]
struct Series {
    points: VecDeque<Arc<str>>,
    /// The number of the newest.
    number: u64,
    /// All of them as one event, until there is another.
    event: Option<Arc<[u8]>>,
}

#[derive(Serialize)]
struct Point {
    at: u64,
    queue_size: u32,
    backpressure: u8,
    p95_ms: f64,
    ttfb_p95_ms: f64,
    cache_hit_rate: f64,
    active_connections: u64,
    requests_per_sec: f64,
    tokens_per_sec: f64,
    in_flight: u64,
}

#[derive(Serialize)]
struct Snapshot<'s> {
    at_ms: u64,
    load: LoadBody,
    queue: QueueBody,
    latency: LatencyBody,
    ttfb: FirstByteBody,
    requests_per_sec: f64,
    tokens_per_sec: f64,
    in_flight: u64,
    streams_active: u64,
    rejections: BTreeMap<&'static str, u64>,
    cancelled: BTreeMap<&'static str, u64>,
    nodes: &'s [NodeBody],
    store: &'static str,
    version: &'static str,
    uptime_secs: u64,
}

#[derive(Serialize)]
struct LatencyBody {
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
}

#[derive(Serialize)]
struct FirstByteBody {
    p50_ms: f64,
    p95_ms: f64,
}

#[derive(Serialize)]
struct NodeBody {
    id: String,
    name: String,
    state: &'static str,
    slots_used: u32,
    slots_total: u32,
}

impl Sampler {
    /// Starts the thread.
    pub(in crate::control::api) fn start(
        shared: &Arc<Shared>,
        nodes: &NodeDesk,
    ) -> io::Result<Self> {
        let (wanted, wishes) = bounded(1);
        let series = Arc::default();
        let work = Work {
            shared: Arc::clone(shared),
            nodes: nodes.clone(),
            series: Arc::clone(&series),
            seconds: VecDeque::new(),
            minute: VecDeque::new(),
            points: VecDeque::new(),
            nodes_seen: Vec::new(),
            frame_number: 0,
        };
        let thread = thread::Builder::new().name("live".to_owned());
        thread.spawn(move || work.run(&wishes))?;
        Ok(Self { series, wanted })
    }

    /// The series as an event, with the number of its last point. A snapshot follows shortly.
    pub(in crate::control::api) fn series(&self) -> (Arc<[u8]>, u64) {
        // A wish that has not been heard yet does for this one as well.
        let _ = self.wanted.try_send(());
        let mut series = lock(&self.series);
        (series.event(), series.number)
    }
}

impl Series {
    fn push(&mut self, point: Arc<str>) {
        if self.points.len() >= POINTS_MAX {
            self.points.pop_front();
        }
        self.points.push_back(point);
        self.number += 1;
        self.event = None;
    }

    fn event(&mut self) -> Arc<[u8]> {
        let Self { points, event, .. } = self;
        let made = event.get_or_insert_with(|| {
            let points: Vec<&str> = points.iter().map(|point| &**point).collect();
            let points = points.join(",");
            let interval = POINT_SECS;
            let data = format!(r#"{{"interval_secs":{interval},"points":[{points}]}}"#);
            as_event("series", &data).into()
        });
        Arc::clone(made)
    }
}

/// What the thread works with.
struct Work {
    shared: Arc<Shared>,
    nodes: NodeDesk,
    series: Arc<Mutex<Series>>,
    /// Counts of the last seconds, oldest first.
    seconds: VecDeque<(Instant, LiveCounts)>,
    /// Latencies of the last minute, oldest first.
    minute: VecDeque<Latencies>,
    /// The latest points as events, for frames.
    points: VecDeque<(u64, Arc<[u8]>)>,
    /// As the control thread has told last.
    nodes_seen: Vec<NodeBody>,
    frame_number: u64,
}

struct Latencies {
    request: LatencyCounts,
    first_byte: LatencyCounts,
}

/// What has changed within the last seconds.
struct Rates {
    now: LiveCounts,
    requests_per_sec: f64,
    tokens_per_sec: f64,
}

impl Work {
    fn run(mut self, wishes: &Receiver<()>) {
        let mut until = Instant::now();
        for second in 1_u32.. {
            self.count();
            if (second - 1).is_multiple_of(POINT_SECS) {
                self.add_point();
            }
            self.show_to_viewers();
            // What was missed while the process stood still is not made up for.
            until = (until + SECOND).max(Instant::now());
            if !self.welcome_until(wishes, until - SECOND / 2) {
                return;
            }
            self.show_to_viewers();
            if !self.welcome_until(wishes, until) {
                return;
            }
        }
    }

    /// Shows each new viewer a frame at once; false when nobody can come any more, because the process ends.
    fn welcome_until(&mut self, wishes: &Receiver<()>, until: Instant) -> bool {
        loop {
            match wishes.recv_deadline(until) {
                Ok(()) => self.show(),
                Err(error) => return error.is_timeout(),
            }
        }
    }

    fn show_to_viewers(&mut self) {
        if self.shared.live.is_watched() {
            self.show();
        }
    }

    fn count(&mut self) {
        let table = self.shared.directory.snapshot();
        let counts = self.shared.scrape(&table, None).live_counts();
        if self.seconds.len() > RATE_SECS {
            self.seconds.pop_front();
        }
        self.seconds.push_back((Instant::now(), counts));
    }

    fn add_point(&mut self) {
        let latencies = self.latencies_now();
        let [p95_ms] = self.of_minute(&latencies, |of| &of.request, [0.95]);
        let [ttfb_p95_ms] = self.of_minute(&latencies, |of| &of.first_byte, [0.95]);
        if self.minute.len() >= MINUTE_MARKS {
            self.minute.pop_front();
        }
        self.minute.push_back(latencies);
        let load = LoadBody::now(&self.shared);
        let rates = self.rates();
        let point = Point {
            at: clock::unix_secs(),
            queue_size: load.queue_size,
            backpressure: load.backpressure_number(),
            p95_ms,
            ttfb_p95_ms,
            cache_hit_rate: load.cache_hit_rate,
            active_connections: load.active_connections,
            requests_per_sec: rates.requests_per_sec,
            tokens_per_sec: rates.tokens_per_sec,
            in_flight: rates.now.in_flight,
        };
        let Some(json) = as_json(&point) else {
            return;
        };
        let event: Arc<[u8]> = as_event("point", &json).into();
        let number = {
            let mut series = lock(&self.series);
            series.push(json.into());
            series.number
        };
        if self.points.len() >= FRAME_POINTS_MAX {
            self.points.pop_front();
        }
        self.points.push_back((number, event));
    }

    /// Shows a new frame to those who watch.
    fn show(&mut self) {
        let Some(json) = self.snapshot() else {
            return;
        };
        self.frame_number += 1;
        self.shared.show(Frame {
            number: self.frame_number,
            made_at: Instant::now(),
            snapshot: as_event("snapshot", &json),
            points: self.points.iter().cloned().collect(),
        });
    }

    fn snapshot(&mut self) -> Option<String> {
        self.look_at_nodes();
        let latencies = self.latencies_now();
        let [p50_ms, p95_ms, p99_ms] =
            self.of_minute(&latencies, |of| &of.request, [0.5, 0.95, 0.99]);
        let [first_p50_ms, first_p95_ms] =
            self.of_minute(&latencies, |of| &of.first_byte, [0.5, 0.95]);
        let rates = self.rates();
        let shared = &self.shared;
        let table = shared.directory.snapshot();
        let scrape = shared.scrape(&table, None);
        let now = clock::unix_time();
        as_json(&Snapshot {
            at_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            load: LoadBody::now(shared),
            queue: QueueBody::now(shared),
            latency: LatencyBody {
                p50_ms,
                p95_ms,
                p99_ms,
            },
            ttfb: FirstByteBody {
                p50_ms: first_p50_ms,
                p95_ms: first_p95_ms,
            },
            requests_per_sec: rates.requests_per_sec,
            tokens_per_sec: rates.tokens_per_sec,
            in_flight: rates.now.in_flight,
            streams_active: rates.now.streams_active,
            rejections: scrape.rejection_totals(),
            cancelled: scrape.cancelled_totals(),
            nodes: &self.nodes_seen,
            store: shared.store.as_str(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_secs: now.as_secs().saturating_sub(shared.started_unix_secs),
        })
    }

    /// If the control thread does not answer, what it said before stays.
    fn look_at_nodes(&mut self) {
        let Ok(nodes) = self.nodes.list() else {
            return;
        };
        self.nodes_seen = (nodes.into_iter())
            .map(|node| NodeBody {
                id: node.id,
                name: node.name,
                state: node.state,
                slots_used: node.slots_used,
                slots_total: node.slots_total,
            })
            .collect();
    }

    fn latencies_now(&self) -> Latencies {
        let table = self.shared.directory.snapshot();
        let scrape = self.shared.scrape(&table, None);
        Latencies {
            request: scrape.latency_counts(Latency::Request),
            first_byte: scrape.latency_counts(Latency::FirstByte),
        }
    }

    /// Quantiles of what came within the last minute.
    fn of_minute<const COUNT: usize>(
        &self,
        now: &Latencies,
        which: impl Fn(&Latencies) -> &LatencyCounts,
        shares: [f64; COUNT],
    ) -> [f64; COUNT] {
        match self.minute.front() {
            Some(earlier) => which(now).quantiles_ms_since(which(earlier), shares),
            None => [0.0; COUNT],
        }
    }

    fn rates(&self) -> Rates {
        let table = self.shared.directory.snapshot();
        let now = self.shared.scrape(&table, None).live_counts();
        let (secs, requests, tokens) = match self.seconds.front() {
            Some((at, before)) => (
                at.elapsed().as_secs_f64(),
                now.requests.saturating_sub(before.requests),
                // A model that goes takes its tokens with it.
                now.tokens.saturating_sub(before.tokens),
            ),
            None => (0.0, 0, 0),
        };
        let rate = |count: u64| count as f64 / secs.max(SECOND.as_secs_f64());
        Rates {
            requests_per_sec: rate(requests),
            tokens_per_sec: rate(tokens),
            now,
        }
    }
}

fn lock(series: &Mutex<Series>) -> MutexGuard<'_, Series> {
    series.lock().unwrap_or_else(PoisonError::into_inner)
}

fn as_json(value: &impl Serialize) -> Option<String> {
    let json = simd_json::to_string(value);
    json.inspect_err(|error| log::error(format_args!("live events: {error}")))
        .ok()
}

/// One event; `data` has no line end in it.
fn as_event(name: &str, data: &str) -> Vec<u8> {
    format!("event: {name}\ndata: {data}\n\n").into_bytes()
}

const SECOND: Duration = Duration::from_secs(1);
/// Seconds from one point of the series to the next.
const POINT_SECS: u32 = 5;
/// A quarter of an hour.
const POINTS_MAX: usize = 180;
/// Points that a frame carries for viewers who have missed some: longer than a client may take nothing.
const FRAME_POINTS_MAX: usize = 12;
/// Marks of latencies, one with each point, that make a minute.
const MINUTE_MARKS: usize = 12;
/// Seconds over which rates are taken.
const RATE_SECS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_holds_a_quarter_of_an_hour_and_is_made_once() {
        let mut series = Series::default();
        let text = |series: &mut Series| String::from_utf8(series.event().to_vec()).unwrap();
        assert_eq!(
            text(&mut series),
            "event: series\ndata: {\"interval_secs\":5,\"points\":[]}\n\n"
        );
        for number in 1..=200 {
            series.push(format!("{{\"at\":{number}}}").into());
        }
        assert_eq!((series.number, series.points.len()), (200, 180));
        let first = series.event();
        assert!(Arc::ptr_eq(&first, &series.event()));
        let text = text(&mut series);
        assert!(
            text.starts_with("event: series\ndata: {\"interval_secs\":5,\"points\":[{\"at\":21},")
        );
        assert!(text.ends_with(",{\"at\":200}]}\n\n"));
        series.push("{}".into());
        assert!(!Arc::ptr_eq(&first, &series.event()));
    }
}
