//! Owns the metric block of one worker: written by that worker only, without read-modify-writes,
//! and read by whoever scrapes. Gauges move only through guards; nothing here can set one.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam_utils::CachePadded;

use super::histogram::LatencyHistogram;
use super::hour::{Hour, HourEvent, HourTotals};
use super::labels::{
    Direction, EndpointLabel, Phase, PoolState, RejectionReason, RetryReason, StatusLabel,
};

/// Counts of one worker. Shared for reading; the one [`Recorder`] writes.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    recorder_exists: AtomicBool,
    tallies: CachePadded<Tallies>,
    hour: Hour,
    /// One entry per node this worker connects to. Only the recorder replaces the list, when a node
    /// is new to it.
    pools: ArcSwap<Vec<Arc<PoolGauges>>>,
}

/// A gauge of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gauge {
    /// Requests whose response has not ended.
    RequestsInFlight,
    /// Streamed responses that have not ended.
    StreamsActive,
    /// Client connections.
    ConnectionsActive,
}

/// A counter of a worker that has no label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occurrence {
    /// A connection could not be accepted.
    AcceptError,
    /// An exchange ended in a panic.
    Panic,
    /// An access record found its queue full.
    AccessRecordDropped,
    /// A history record found its queue full.
    HistoryRecordDropped,
}

/// A latency of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// Whole request head to last response byte; of requests that reached a model.
    Request,
    /// Whole request head to first response byte.
    FirstByte,
    /// Waiting for a slot.
    QueueWait,
    /// Our own share.
    Overhead,
}

/// The writing side of one worker's block; stays on the thread that claimed it. Clones are cheap
/// and count on that thread.
#[derive(Clone, Debug)]
pub struct Recorder {
    claim: Rc<Claim>,
}

/// One unit of a gauge; taken back exactly once, on drop.
#[derive(Debug)]
#[must_use = "dropping the guard lowers the gauge at once"]
pub struct GaugeGuard {
    claim: Rc<Claim>,
    gauge: Gauge,
}

/// Connections of one worker to one node.
#[derive(Debug)]
pub struct PoolGauges {
    node: Box<str>,
    counts: CachePadded<[Tally; PoolState::COUNT]>,
}

/// The writing side of [`PoolGauges`]; stays on its worker.
#[derive(Clone, Debug)]
pub struct PoolRecorder {
    gauges: Rc<PoolHolder>,
}

/// One connection counted in one state; taken back exactly once, on drop.
#[derive(Debug)]
#[must_use = "dropping the guard lowers the gauge at once"]
pub struct PoolGuard {
    gauges: Rc<PoolHolder>,
    state: PoolState,
}

/// A number with one writer.
#[derive(Debug, Default)]
pub(super) struct Tally(AtomicU64);

#[derive(Debug, Default)]
struct Tallies {
    gauges: [Tally; 3],
    occurrences: [Tally; 4],
    cache_hits: Tally,
    cache_misses: Tally,
    cancelled: [Tally; Phase::COUNT],
    retries: [Tally; RetryReason::COUNT],
    rejections: [Tally; RejectionReason::COUNT],
    body_bytes: [Tally; Direction::COUNT],
    latencies: [LatencyHistogram; 4],
    requests: Requests,
}

/// `[endpoint][status]`, on the heap.
#[derive(Debug)]
struct Requests(Box<[[Tally; StatusLabel::COUNT]]>);

/// Makes the recorder of a block unique.
#[derive(Debug)]
struct Claim {
    metrics: Arc<WorkerMetrics>,
}

#[derive(Debug)]
struct PoolHolder(Arc<PoolGauges>);

impl WorkerMetrics {
    /// An empty block.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The writing side, to be called on the worker's thread. `None` while a recorder or a guard of
    /// this block is alive, as two writers would lose counts.
    #[must_use]
    pub fn recorder(self: &Arc<Self>) -> Option<Recorder> {
        // Acquire pairs with the release in `Claim::drop`: the next writer sees all its predecessor
        // wrote.
        let taken = self.recorder_exists.swap(true, Ordering::Acquire);
        (!taken).then(|| Recorder {
            claim: Rc::new(Claim {
                metrics: Arc::clone(self),
            }),
        })
    }

    /// The value of a gauge.
    #[must_use]
    pub fn gauge(&self, gauge: Gauge) -> u64 {
        self.tallies.gauges[gauge as usize].load()
    }

    /// Times something happened.
    #[must_use]
    pub fn occurrences(&self, occurrence: Occurrence) -> u64 {
        self.tallies.occurrences[occurrence as usize].load()
    }

    /// Hits and misses of the candidate cache.
    #[must_use]
    pub fn cache_totals(&self) -> (u64, u64) {
        (
            self.tallies.cache_hits.load(),
            self.tallies.cache_misses.load(),
        )
    }

    /// Requests whose client left in this phase.
    #[must_use]
    pub fn cancelled(&self, phase: Phase) -> u64 {
        self.tallies.cancelled[phase as usize].load()
    }

    /// Further attempts for this reason.
    #[must_use]
    pub fn retries(&self, reason: RetryReason) -> u64 {
        self.tallies.retries[reason as usize].load()
    }

    /// Refusals for this reason.
    #[must_use]
    pub fn rejections(&self, reason: RejectionReason) -> u64 {
        self.tallies.rejections[reason as usize].load()
    }

    /// Body bytes moved this way.
    #[must_use]
    pub fn body_bytes(&self, direction: Direction) -> u64 {
        self.tallies.body_bytes[direction as usize].load()
    }

    /// Requests of an endpoint answered with a status.
    #[must_use]
    pub fn requests(&self, endpoint: EndpointLabel, status: u16) -> u64 {
        self.requests_labelled(endpoint, StatusLabel::of(status))
    }

    /// Inference requests that have ended.
    #[must_use]
    pub fn inference_requests(&self) -> u64 {
        let endpoints = EndpointLabel::ALL
            .iter()
            .filter(|endpoint| endpoint.is_inference());
        endpoints
            .flat_map(|endpoint| StatusLabel::all().map(move |status| (*endpoint, status)))
            .map(|(endpoint, status)| self.requests_labelled(endpoint, status))
            .sum()
    }

    /// Adds what this worker saw in the hour that ends with `minute` to `totals`.
    pub(super) fn add_hour(&self, minute: u64, totals: &mut HourTotals) {
        self.hour.add_to(minute, totals);
    }

    /// Adds this worker's connections to those of each node, by state.
    pub(super) fn add_pool_connections(
        &self,
        totals: &mut HashMap<Box<str>, [u64; PoolState::COUNT]>,
    ) {
        for pool in self.pools.load().iter() {
            let of_node = totals.entry(pool.node.clone()).or_default();
            for (total, count) in of_node.iter_mut().zip(pool.counts.iter()) {
                *total = total.wrapping_add(count.load());
            }
        }
    }

    pub(super) fn requests_labelled(&self, endpoint: EndpointLabel, status: StatusLabel) -> u64 {
        self.tallies
            .requests
            .tally(endpoint, status)
            .map_or(0, Tally::load)
    }

    pub(super) fn latency(&self, latency: Latency) -> &LatencyHistogram {
        &self.tallies.latencies[latency as usize]
    }
}

impl Recorder {
    /// The block this writes to, for reading.
    #[must_use]
    pub fn metrics(&self) -> &Arc<WorkerMetrics> {
        &self.claim.metrics
    }

    /// Raises a gauge for as long as the guard lives.
    pub fn gauge(&self, gauge: Gauge) -> GaugeGuard {
        self.tallies().gauges[gauge as usize].add(1);
        GaugeGuard {
            claim: Rc::clone(&self.claim),
            gauge,
        }
    }

    /// Counts an occurrence.
    pub fn count(&self, occurrence: Occurrence) {
        self.tallies().occurrences[occurrence as usize].add(1);
    }

    /// Counts an answered request; status 0 or 499 if its client left before a response.
    pub fn request(&self, endpoint: EndpointLabel, status: u16) {
        if let Some(tally) = self
            .tallies()
            .requests
            .tally(endpoint, StatusLabel::of(status))
        {
            tally.add(1);
        }
    }

    /// Counts a request whose client left.
    pub fn cancelled(&self, phase: Phase) {
        self.tallies().cancelled[phase as usize].add(1);
    }

    /// Counts a further attempt.
    pub fn retried(&self, reason: RetryReason) {
        self.tallies().retries[reason as usize].add(1);
    }

    /// Counts a refusal.
    pub fn rejected(&self, reason: RejectionReason) {
        self.tallies().rejections[reason as usize].add(1);
    }

    /// Counts body bytes.
    pub fn body_bytes(&self, direction: Direction, bytes: u64) {
        self.tallies().body_bytes[direction as usize].add(bytes);
    }

    /// Records a latency.
    pub fn latency(&self, latency: Latency, value: Duration) {
        self.tallies().latencies[latency as usize].record(value);
    }

    /// Counts an event of the last hour, in minute `minute` of any count that only rises.
    pub fn in_hour(&self, minute: u64, event: HourEvent) {
        self.claim.metrics.hour.count(minute, event);
    }

    /// Publishes the totals the candidate cache has counted itself.
    pub fn cache_totals(&self, hits: u64, misses: u64) {
        self.tallies().cache_hits.0.store(hits, Ordering::Relaxed);
        self.tallies()
            .cache_misses
            .0
            .store(misses, Ordering::Relaxed);
    }

    /// Counts for connections to a node; to be kept with the pool. Making one allocates, using one
    /// does not.
    #[must_use]
    pub fn pool(&self, node: &str) -> PoolRecorder {
        let gauges = Arc::new(PoolGauges {
            node: node.into(),
            counts: CachePadded::default(),
        });
        let pools = &self.claim.metrics.pools;
        let known = pools.load();
        // What only the list still holds belongs to pools that are gone, and counts nothing any
        // more.
        let in_use = known
            .iter()
            .filter(|pool| Arc::strong_count(pool) > 1)
            .cloned();
        let list: Vec<_> = in_use.chain([Arc::clone(&gauges)]).collect();
        pools.store(Arc::new(list));
        PoolRecorder {
            gauges: Rc::new(PoolHolder(gauges)),
        }
    }

    fn tallies(&self) -> &Tallies {
        &self.claim.metrics.tallies
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.metrics.recorder_exists.store(false, Ordering::Release);
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.claim.metrics.tallies.gauges[self.gauge as usize].subtract_one();
    }
}

impl PoolRecorder {
    /// Counts a connection for as long as the guard lives.
    pub fn connection(&self, state: PoolState) -> PoolGuard {
        self.gauges.0.counts[state as usize].add(1);
        PoolGuard {
            gauges: Rc::clone(&self.gauges),
            state,
        }
    }
}

impl PoolGuard {
    /// Counts the connection in another state from now on.
    pub fn change(&mut self, state: PoolState) {
        self.gauges.0.counts[self.state as usize].subtract_one();
        self.gauges.0.counts[state as usize].add(1);
        self.state = state;
    }
}

impl Drop for PoolGuard {
    fn drop(&mut self) {
        self.gauges.0.counts[self.state as usize].subtract_one();
    }
}

impl Tally {
    pub(super) fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, amount: u64) {
        self.set(self.load().wrapping_add(amount));
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Only guards call this, once for each `add(1)`.
    fn subtract_one(&self) {
        let before = self.load();
        debug_assert!(before > 0, "a gauge was lowered more often than raised");
        self.0.store(before.saturating_sub(1), Ordering::Relaxed);
    }
}

impl Requests {
    fn tally(&self, endpoint: EndpointLabel, status: StatusLabel) -> Option<&Tally> {
        self.0.get(endpoint as usize)?.get(status.index())
    }
}

impl Default for Requests {
    fn default() -> Self {
        let row = || std::array::from_fn(|_| Tally::default());
        Self(EndpointLabel::ALL.iter().map(|_| row()).collect())
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "worker_tests.rs"]
mod tests;
