//! What all workers of a mock node share: options, prepared bytes and counters.
//!
//! Every inference request is one [`InFlight`] from its last byte to the last byte of its answer; it
//! ends in exactly one counter, and `requests` is always the sum of them and `in_flight`.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::openai::json::write_string_content;

use super::MockOptions;
use super::answer::put;

/// A mock node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) options: MockOptions,
    /// The node's name as the inside of a JSON string.
    pub(super) name: Vec<u8>,
    /// The models as the insides of JSON strings.
    pub(super) models: Vec<Vec<u8>>,
    /// The text of an answer; any number of bytes of it can be taken.
    pub(super) text: Vec<u8>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    in_flight: AtomicU64,
    peak_in_flight: AtomicU64,
    completed: AtomicU64,
    refused: AtomicU64,
    rejected: AtomicU64,
    failed: AtomicU64,
    disconnected: AtomicU64,
    aborted: AtomicU64,
    streams: AtomicU64,
    events: AtomicU64,
    connections: AtomicU64,
    connections_open: AtomicU64,
}

/// What a mock node has seen since it started. Requests are inference requests only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests received whole.
    pub requests: u64,
    /// Requests whose answer's last byte is still to be sent.
    pub in_flight: u64,
    /// The most requests in flight at once, refused ones included: more than the slots means that
    /// somebody sent too many.
    pub peak_in_flight: u64,
    /// Answered to the last byte.
    pub completed: u64,
    /// Answered 503 because no slot was free.
    pub refused: u64,
    /// Answered 400 or 404 because of what they asked.
    pub rejected: u64,
    /// Answered 500 as `error_rate` demands.
    pub failed: u64,
    /// Connections closed in the middle of an answer as `disconnect_rate` demands.
    pub disconnected: u64,
    /// Given up because the client left.
    pub aborted: u64,
    /// Requests answered with a stream.
    pub streams: u64,
    /// Events sent.
    pub events: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections open now.
    pub connections_open: u64,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Completed,
    Refused,
    Rejected,
    Failed,
    Disconnected,
}

impl Node {
    pub(super) fn new(options: MockOptions) -> Self {
        let text_bytes = options
            .body_bytes
            .unwrap_or(TOKEN.len() * options.token_count as usize);
        Self {
            name: escaped(&options.name),
            models: options.models.iter().map(|model| escaped(model)).collect(),
            text: TOKEN.iter().copied().cycle().take(text_bytes).collect(),
            counters: Counters::default(),
            options,
        }
    }

    pub(super) fn stats(&self) -> Stats {
        // Outcomes first: a request gives its slot back before its outcome counts, so whoever sees the outcome
        // never finds that request still in flight.
        let read = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        let counters = &self.counters;
        Stats {
            completed: read(&counters.completed),
            refused: read(&counters.refused),
            rejected: read(&counters.rejected),
            failed: read(&counters.failed),
            disconnected: read(&counters.disconnected),
            aborted: read(&counters.aborted),
            in_flight: read(&counters.in_flight),
            peak_in_flight: read(&counters.peak_in_flight),
            requests: read(&counters.requests),
            streams: read(&counters.streams),
            events: read(&counters.events),
            connections: read(&counters.connections),
            connections_open: read(&counters.connections_open),
        }
    }

    /// Counts a request that has arrived; its number is the first value, from 0.
    pub(super) fn begin(&self) -> (u64, InFlight<'_>) {
        let counters = &self.counters;
        let number = counters.requests.fetch_add(1, Ordering::Relaxed);
        let in_flight = counters.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        // The maximum moves rarely; a plain load keeps its line shared.
        if in_flight > counters.peak_in_flight.load(Ordering::Relaxed) {
            counters
                .peak_in_flight
                .fetch_max(in_flight, Ordering::Relaxed);
        }
        let is_over = self
            .options
            .slots
            .is_some_and(|slots| in_flight > u64::from(slots));
        let exchange = InFlight {
            node: self,
            is_over,
            holds_slot: true,
            is_settled: false,
        };
        (number, exchange)
    }

    pub(super) fn count_stream(&self) {
        self.counters.streams.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_event(&self) {
        self.counters.events.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection for as long as the answer lives.
    pub(super) fn open(&self) -> OpenConnection<'_> {
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        self.counters
            .connections_open
            .fetch_add(1, Ordering::Relaxed);
        OpenConnection(self)
    }

    /// Whether request `number` is to be answered with an error.
    pub(super) fn fails(&self, number: u64) -> bool {
        chance(self.options.seed, number, 1) < self.options.error_rate
    }

    /// Whether request `number` is to lose its connection.
    pub(super) fn disconnects(&self, number: u64) -> bool {
        chance(self.options.seed, number, 2) < self.options.disconnect_rate
    }

    /// Whether the node has a model; the name is the inside of a JSON string.
    pub(super) fn serves(&self, model: &[u8]) -> bool {
        self.models.is_empty() || self.models.iter().any(|served| served == model)
    }
}

impl Stats {
    /// Appends the figures as one JSON object with a member per field.
    pub(super) fn write(&self, out: &mut Vec<u8>, name: &[u8]) {
        put(out, &[b"{\"name\":\"", name, b"\""]);
        for (key, value) in [
            ("requests", self.requests),
            ("in_flight", self.in_flight),
            ("peak_in_flight", self.peak_in_flight),
            ("completed", self.completed),
            ("refused", self.refused),
            ("rejected", self.rejected),
            ("failed", self.failed),
            ("disconnected", self.disconnected),
            ("aborted", self.aborted),
            ("streams", self.streams),
            ("events", self.events),
            ("connections", self.connections),
            ("connections_open", self.connections_open),
        ] {
            let value = itoa::Buffer::new().format(value).to_owned();
            put(out, &[b",\"", key.as_bytes(), b"\":", value.as_bytes()]);
        }
        out.push(b'}');
    }
}

/// A request being worked on. Dropping it unsettled means that its client has left.
pub(super) struct InFlight<'n> {
    node: &'n Node,
    /// Whether it came when every slot was taken.
    pub(super) is_over: bool,
    holds_slot: bool,
    is_settled: bool,
}

impl InFlight<'_> {
    /// Gives the slot back; to be called before the last bytes are sent, for whoever has received
    /// them may send the next request at once.
    pub(super) fn release_slot(&mut self) {
        if std::mem::take(&mut self.holds_slot) {
            self.node.counters.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts how the request ended.
    pub(super) fn settle(&mut self, outcome: Outcome) {
        self.release_slot();
        debug_assert!(!self.is_settled, "a request ends once");
        self.is_settled = true;
        let counters = &self.node.counters;
        let counter = match outcome {
            Outcome::Completed => &counters.completed,
            Outcome::Refused => &counters.refused,
            Outcome::Rejected => &counters.rejected,
            Outcome::Failed => &counters.failed,
            Outcome::Disconnected => &counters.disconnected,
        };
        counter.fetch_add(1, Ordering::Release);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.release_slot();
        if !self.is_settled {
            self.node.counters.aborted.fetch_add(1, Ordering::Release);
        }
    }
}

/// An accepted connection that is still open.
pub(super) struct OpenConnection<'n>(&'n Node);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0
            .counters
            .connections_open
            .fetch_sub(1, Ordering::Relaxed);
    }
}

fn escaped(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write_string_content(&mut out, text);
    out
}

/// A number in 0..1 that depends on nothing but its arguments: the output function of SplitMix64
/// (Steele, Lea, Flood 2014), so that requests can be numbered by any worker.
fn chance(seed: u64, number: u64, purpose: u64) -> f64 {
    let mut bits = seed
        .wrapping_add(purpose.wrapping_mul(0xd1b5_4a32_d192_ed03))
        .wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    // The upper 53 bits are exactly a double's precision.
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// What the text of an answer repeats.
const TOKEN: &[u8] = b"token ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_follow_their_rate_and_their_seed() {
        let hits = |seed, purpose| -> Vec<u64> {
            (0..10_000)
                .filter(|number| chance(seed, *number, purpose) < 0.25)
                .collect()
        };
        assert!((2300..2700).contains(&hits(1, 1).len()));
        assert_eq!(hits(7, 1), hits(7, 1));
        assert_ne!(hits(7, 1), hits(8, 1));
        assert_ne!(hits(7, 1), hits(7, 2));
    }

    #[test]
    fn every_request_ends_in_one_counter_and_gives_its_slot_back_once() {
        let node = Node::new(MockOptions {
            slots: Some(1),
            ..MockOptions::default()
        });
        let (_, mut first) = node.begin();
        let (_, mut second) = node.begin();
        assert!(!first.is_over && second.is_over);
        second.settle(Outcome::Refused);
        drop(second);
        first.release_slot();
        first.settle(Outcome::Completed);
        drop(first);
        drop(node.begin());
        let stats = node.stats();
        assert_eq!((stats.requests, stats.in_flight), (3, 0));
        assert_eq!((stats.completed, stats.refused, stats.aborted), (1, 1, 1));
        assert_eq!(stats.peak_in_flight, 2);
    }
}
