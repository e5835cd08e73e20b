//! Owns what `GET /metrics` shows (spec section 8): merges the workers' blocks and writes the text.
//! Never changes a metric, and does no I/O: what comes from files comes in as a sample.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::admission::BufferBudget;
use crate::nodes::{Admission, FailureReason, Node, NodeState, NodeTable};

use super::access::AccessLog;
use super::histogram::{LatencyHistogram, MergedLatency};
use super::labels::{
    Direction, EndpointLabel, Phase, PoolState, RejectionReason, RetryReason, StatusLabel,
};
use super::names;
use super::process::ProcessSample;
use super::reloads::Reloads;
use super::store_health::StoreHealth;
use super::text::TextWriter;
use super::worker::{Gauge, Latency, Occurrence, WorkerMetrics};

/// Everything an exposition shows.
#[derive(Clone, Copy, Debug)]
pub struct Scrape<'a> {
    /// The blocks of all workers.
    pub workers: &'a [Arc<WorkerMetrics>],
    /// The current nodes and models.
    pub table: &'a NodeTable,
    /// Router-wide counters.
    pub admission: &'a Admission,
    /// The budget of buffered bytes.
    pub budget: &'a BufferBudget,
    /// The access log, if there is one.
    pub access_log: Option<&'a AccessLog>,
    /// What is known of the database.
    pub store: &'a StoreHealth,
    /// Reloads of the configuration.
    pub reloads: &'a Reloads,
    /// The latest sample of the process, if one could be read.
    pub process: Option<&'a ProcessSample>,
    /// What is running.
    pub build: BuildLabels<'a>,
}

/// Labels of `llm_router_build_info`.
#[derive(Clone, Copy, Debug)]
pub struct BuildLabels<'a> {
    /// Version of the router.
    pub version: &'a str,
    /// `io_uring` or `epoll`.
    pub io_driver: &'a str,
}

impl Scrape<'_> {
    /// Appends the text form 0.0.4 of everything to `out`.
    ///
    /// Takes a millisecond or two with sixteen workers, mostly for merging latencies: for scrapes, not for requests.
    pub fn render(&self, out: &mut String) {
        let mut text = TextWriter::new(out);
        self.write_admission(&mut text);
        self.write_latencies(&mut text);
        self.write_requests(&mut text);
        self.write_workers(&mut text);
        self.write_nodes(&mut text);
        self.write_pools(&mut text);
        self.write_models(&mut text);
        self.write_store(&mut text);
        self.write_reloads(&mut text);
        self.write_build(&mut text);
        if let Some(process) = self.process {
            write_process(&mut text, process);
        }
    }

    fn write_admission(&self, text: &mut TextWriter<'_>) {
        let rejections = |reason| self.sum(|worker| worker.rejections(reason));
        text.single(names::QUEUE_SIZE, u64::from(self.admission.waiting()));
        text.single(
            names::BACKPRESSURE_STATE,
            self.admission.backpressure() as u64,
        );
        text.single(
            names::BACKPRESSURE_REJECTIONS,
            rejections(RejectionReason::Overloaded),
        );
        let mut family = text.family(names::REJECTIONS);
        for &reason in RejectionReason::ALL {
            family.count(&[("reason", reason.as_str())], rejections(reason));
        }
        text.single(names::BUFFERED_BYTES, self.budget.reserved_bytes());
    }

    fn write_latencies(&self, text: &mut TextWriter<'_>) {
        let summaries = [
            (Latency::Request, names::REQUEST_DURATION),
            (Latency::FirstByte, names::TIME_TO_FIRST_BYTE),
            (Latency::QueueWait, names::QUEUE_WAIT),
            (Latency::Overhead, names::OVERHEAD),
        ];
        // The bounds are constants that `hdrhistogram` accepts; a test merges with them.
        let Ok(mut merged) = MergedLatency::new() else {
            return;
        };
        for (latency, metric) in summaries {
            merged.merge(self.latencies(latency));
            let mut family = text.family(metric);
            for (quantile, label) in QUANTILES {
                family.seconds(&[("quantile", label)], merged.quantile_seconds(quantile));
            }
            family.totals(merged.sum_seconds(), merged.count());
            if latency == Latency::Request {
                write_histogram(text, &merged);
            }
        }
    }

    fn write_requests(&self, text: &mut TextWriter<'_>) {
        let mut family = text.family(names::REQUESTS);
        for &endpoint in EndpointLabel::ALL {
            for status in StatusLabel::all() {
                let count = self.sum(|worker| worker.requests_labelled(endpoint, status));
                // Most pairs never occur; those that did stay, as counters must.
                if count > 0 {
                    let labels = [("endpoint", endpoint.as_str()), ("status", &status.text())];
                    family.count(&labels, count);
                }
            }
        }
        let mut family = text.family(names::CANCELLED);
        for &phase in Phase::ALL {
            let count = self.sum(|worker| worker.cancelled(phase));
            family.count(&[("phase", phase.as_str())], count);
        }
        let mut family = text.family(names::RETRIES);
        for &reason in RetryReason::ALL {
            let count = self.sum(|worker| worker.retries(reason));
            family.count(&[("reason", reason.as_str())], count);
        }
        let mut family = text.family(names::BODY_BYTES);
        for &direction in Direction::ALL {
            let bytes = self.sum(|worker| worker.body_bytes(direction));
            family.count(&[("direction", direction.as_str())], bytes);
        }
    }

    fn write_workers(&self, text: &mut TextWriter<'_>) {
        let gauges = [
            (Gauge::RequestsInFlight, names::REQUESTS_IN_FLIGHT),
            (Gauge::StreamsActive, names::STREAMS_ACTIVE),
            (Gauge::ConnectionsActive, names::CONNECTIONS_ACTIVE),
        ];
        for (gauge, metric) in gauges {
            text.single(metric, self.sum(|worker| worker.gauge(gauge)));
        }
        text.single(
            names::CACHE_HITS,
            self.sum(|worker| worker.cache_totals().0),
        );
        text.single(
            names::CACHE_MISSES,
            self.sum(|worker| worker.cache_totals().1),
        );
        let occurrences = |occurrence| self.sum(|worker| worker.occurrences(occurrence));
        text.single(names::ACCEPT_ERRORS, occurrences(Occurrence::AcceptError));
        text.single(names::PANICS, occurrences(Occurrence::Panic));
        let unwritten = self.access_log.map_or(0, AccessLog::unwritten_total);
        let dropped = occurrences(Occurrence::AccessRecordDropped);
        text.single(
            names::ACCESS_RECORDS_DROPPED,
            dropped.saturating_add(unwritten),
        );
    }

    fn write_nodes(&self, text: &mut TextWriter<'_>) {
        let nodes = self.table.nodes();
        let mut per_node = |metric, value: &dyn Fn(&Node) -> u64| {
            let mut family = text.family(metric);
            for node in nodes {
                family.count(&[("node", &node.name)], value(node));
            }
        };
        per_node(names::NODE_IN_FLIGHT, &|node| {
            u64::from(node.live.slots().count)
        });
        per_node(names::NODE_SLOTS, &|node| {
            u64::from(node.live.slots().limit)
        });
        per_node(names::NODE_SELECTIONS, &|node| node.live.selections_total());

        let mut family = text.family(names::NODE_STATE);
        for node in nodes {
            let current = node.live.state();
            for state in NodeState::ALL {
                let labels = [("node", &*node.name), ("state", state.as_str())];
                family.count(&labels, u64::from(state == current));
            }
        }
        let mut family = text.family(names::NODE_FAILURES);
        for node in nodes {
            for reason in FailureReason::ALL {
                let labels = [("node", &*node.name), ("reason", reason.as_str())];
                family.count(&labels, node.live.failures_total(reason));
            }
        }
    }

    fn write_pools(&self, text: &mut TextWriter<'_>) {
        // Gathered first: looking each node up in each worker would take nodes² × workers steps.
        let mut totals: HashMap<Box<str>, [u64; PoolState::COUNT]> = HashMap::new();
        for worker in self.workers {
            worker.add_pool_connections(&mut totals);
        }
        let mut family = text.family(names::POOL_CONNECTIONS);
        for node in self.table.nodes() {
            let counts = totals.get(&node.name).copied().unwrap_or_default();
            for (state, count) in PoolState::ALL.iter().zip(counts) {
                family.count(&[("node", &node.name), ("state", state.as_str())], count);
            }
        }
    }

    fn write_models(&self, text: &mut TextWriter<'_>) {
        let mut family = text.family(names::MODEL_QUEUE_SIZE);
        for model in self.table.models() {
            let waiting = u64::from(model.stats.waiting());
            family.count(&[("model", &model.name)], waiting);
        }
        let mut family = text.family(names::TOKENS);
        for model in self.table.models() {
            let kinds = [
                ("prompt", model.stats.prompt_tokens()),
                ("completion", model.stats.completion_tokens()),
            ];
            for (kind, count) in kinds {
                family.count(&[("model", &model.name), ("kind", kind)], count);
            }
        }
    }

    fn write_reloads(&self, text: &mut TextWriter<'_>) {
        let (succeeded, failed) = self.reloads.totals();
        let mut family = text.family(names::CONFIG_RELOADS);
        family.count(&[("outcome", "success")], succeeded);
        family.count(&[("outcome", "failure")], failed);
        text.single(
            names::CONFIG_RELOAD_SUCCESSFUL,
            u64::from(self.reloads.is_last_successful()),
        );
        text.single(
            names::CONFIG_RELOAD_TIME,
            self.reloads.last_success_unix_secs(),
        );
    }

    fn write_store(&self, text: &mut TextWriter<'_>) {
        text.single(names::STORE_UP, u64::from(!self.store.is_failing()));
        text.single(names::STORE_ERRORS, self.store.errors_total());
        text.single(names::HISTORY_RECORDS, self.store.history_records_total());
        let dropped = self.sum(|worker| worker.occurrences(Occurrence::HistoryRecordDropped));
        text.single(
            names::HISTORY_DROPPED,
            dropped.saturating_add(self.store.history_dropped_total()),
        );
    }

    fn write_build(&self, text: &mut TextWriter<'_>) {
        let labels = [
            ("version", self.build.version),
            ("io_driver", self.build.io_driver),
        ];
        text.family(names::BUILD_INFO).count(&labels, 1);
    }

    fn latencies(&self, latency: Latency) -> impl Iterator<Item = &LatencyHistogram> {
        self.workers
            .iter()
            .map(move |worker| worker.latency(latency))
    }

    /// Adds up one number of all workers. Wraps like the counters themselves.
    pub(super) fn sum(&self, number: impl Fn(&WorkerMetrics) -> u64) -> u64 {
        self.workers
            .iter()
            .fold(0, |sum: u64, worker| sum.wrapping_add(number(worker)))
    }
}

fn write_histogram(text: &mut TextWriter<'_>, merged: &MergedLatency) {
    let mut family = text.family(names::REQUEST_LATENCY);
    for (bound, label) in LATENCY_BOUNDS_MS {
        family.bucket(label, merged.count_up_to(Duration::from_millis(bound)));
    }
    family.bucket("+Inf", merged.count());
    family.totals(merged.sum_seconds(), merged.count());
}

fn write_process(text: &mut TextWriter<'_>, process: &ProcessSample) {
    text.family(names::PROCESS_CPU)
        .seconds(&[], process.cpu.as_secs_f64());
    text.single(names::PROCESS_RESIDENT, process.resident_bytes);
    text.single(names::PROCESS_OPEN_FDS, process.open_fds);
    text.single(names::PROCESS_MAX_FDS, process.max_fds);
    text.family(names::PROCESS_START)
        .seconds(&[], process.started_unix_seconds);
}

/// The quantiles of spec section 8.
const QUANTILES: [(f64, &str); 5] = [
    (0.5, "0.5"),
    (0.9, "0.9"),
    (0.95, "0.95"),
    (0.99, "0.99"),
    (0.999, "0.999"),
];

/// Bounds in milliseconds and as `le` in seconds: from an embedding to a long completion. A value
/// within 0.8 % of a bound may count on either side of it, see [`LatencyHistogram`].
const LATENCY_BOUNDS_MS: [(u64, &str); 18] = [
    (1, "0.001"),
    (5, "0.005"),
    (10, "0.01"),
    (25, "0.025"),
    (50, "0.05"),
    (100, "0.1"),
    (250, "0.25"),
    (500, "0.5"),
    (1000, "1"),
    (2500, "2.5"),
    (5000, "5"),
    (10_000, "10"),
    (30_000, "30"),
    (60_000, "60"),
    (120_000, "120"),
    (300_000, "300"),
    (600_000, "600"),
    (3_600_000, "3600"),
];

#[cfg(test)]
#[cfg(not(loom))]
#[path = "exposition_tests.rs"]
mod tests;
