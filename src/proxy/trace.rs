//! The record of one exchange: when it was where, who ended it, and what is counted for it.
//!
//! Counting happens in `Drop`, so that a request ends in exactly one record whichever way it leaves.

use std::rc::Rc;
use std::time::Duration;

use http::StatusCode;

use crate::admission::TurnKey;
use crate::nodes::{Node, ResolvedModel};
use crate::openai::{Endpoint, Usage};
use crate::runtime::clock::{self, Moment};
use crate::telemetry::{
    AccessRecord, ClientText, Direction, EndedBy, EndpointLabel, Gauge, GaugeGuard, HistoryNames,
    HistoryRecord, HourEvent, Latency, Occurrence, Phase, RetryReason,
};

use super::Worker;
use super::request::Request;
use super::request_id::RequestId;

/// One exchange under way.
pub(super) struct Trace<'w> {
    worker: &'w Worker,
    endpoint: EndpointLabel,
    began: Moment,
    phase: Phase,
    phase_began: Moment,
    /// Nanoseconds spent in each.
    phases: [u64; Phase::COUNT],
    first_byte: Option<Moment>,
    status: u16,
    ended_by: EndedBy,
    attempts: u32,
    request_bytes: u64,
    bytes_to_node: u64,
    bytes_from_node: u64,
    response_bytes: u64,
    usage: Option<Usage>,
    model: Option<Rc<ResolvedModel>>,
    /// Only kept when access records are written.
    details: Option<Box<Details>>,
    /// Only kept of inference requests, and if there is a history.
    names: Option<HistoryNames>,
    _in_flight: Option<GaugeGuard>,
    _stream: Option<GaugeGuard>,
}

struct Details {
    started_unix_ms: u64,
    request_id: ClientText,
    model: ClientText,
    node: ClientText,
}

impl<'w> Trace<'w> {
    /// The trace of a request whose head is whole.
    pub(super) fn begin(worker: &'w Worker, request: &Request) -> Self {
        let endpoint = request
            .route
            .as_ref()
            .map_or(Endpoint::Other, |routed| routed.endpoint);
        let key = request.authenticated.unwrap_or_default();
        Self::of(worker, endpoint, &request.id, key, request.began)
    }

    /// The trace of bytes that are not a request.
    pub(super) fn of_rejected(worker: &'w Worker, id: &RequestId) -> Self {
        Self::of(worker, Endpoint::Other, id, 0, Moment::now())
    }

    fn of(
        worker: &'w Worker,
        endpoint: Endpoint,
        id: &RequestId,
        key: TurnKey,
        began: Moment,
    ) -> Self {
        let is_kept = endpoint.is_inference() && worker.shared.history.is_on();
        let names = is_kept.then(|| HistoryNames::new(unix_ms_now(), id.as_bytes(), key));
        let details = worker.shared.access_log.is_some().then(|| {
            Box::new(Details {
                started_unix_ms: unix_ms_now(),
                request_id: ClientText::new(id.as_bytes()),
                model: ClientText::default(),
                node: ClientText::default(),
            })
        });
        Self {
            worker,
            endpoint: endpoint_label(endpoint),
            began,
            phase: Phase::Auth,
            phase_began: began,
            phases: [0; Phase::COUNT],
            first_byte: None,
            status: 0,
            ended_by: EndedBy::Router,
            attempts: 0,
            request_bytes: 0,
            bytes_to_node: 0,
            bytes_from_node: 0,
            response_bytes: 0,
            usage: None,
            model: None,
            details,
            names,
            // What the router answers by itself is not under way: a scrape does not count itself.
            _in_flight: endpoint
                .is_inference()
                .then(|| worker.metrics.gauge(Gauge::RequestsInFlight)),
            _stream: None,
        }
    }

    /// A further phase begins, following on one that takes no time worth reading the clock for: what
    /// it took counts with this one.
    pub(super) fn pass_into(&mut self, phase: Phase) {
        if self.phase == Phase::Read {
            self.enter(phase);
        }
        self.phase = phase;
    }

    /// A further phase begins.
    pub(super) fn enter(&mut self, phase: Phase) {
        let now = Moment::now();
        self.end_phase(now);
        self.phase = phase;
        self.phase_began = now;
    }

    fn end_phase(&mut self, now: Moment) {
        self.phases[self.phase as usize] += now.nanos_since(self.phase_began);
    }

    pub(super) fn body_received(&mut self, bytes: usize) {
        self.request_bytes = bytes as u64;
    }

    pub(super) fn model_named(&mut self, name: &[u8]) {
        if let Some(details) = &mut self.details {
            details.model = ClientText::new(name);
        }
        if let Some(names) = &mut self.names {
            names.set_model(name);
        }
    }

    pub(super) fn admitted(&mut self, model: &Rc<ResolvedModel>) {
        self.model = Some(Rc::clone(model));
    }

    pub(super) fn attempt(&mut self, node: &Node, body_bytes: usize) {
        self.attempts += 1;
        self.bytes_to_node += body_bytes as u64;
        if let Some(details) = &mut self.details {
            details.node = ClientText::new(node.name.as_bytes());
        }
        if let Some(names) = &mut self.names {
            names.set_node(node.name.as_bytes());
        }
    }

    pub(super) fn retry(&self, reason: RetryReason) {
        self.worker.metrics.retried(reason);
    }

    /// The first byte of the node's response head is here.
    pub(super) fn responding(&mut self, status: StatusCode, is_event_stream: bool) {
        self.enter(Phase::Stream);
        self.first_byte = Some(self.phase_began);
        self.status = status.as_u16();
        if is_event_stream {
            self._stream = Some(self.worker.metrics.gauge(Gauge::StreamsActive));
        }
    }

    /// So many body bytes have come from the node, without framing.
    pub(super) fn body_from_node(&mut self, bytes: u64) {
        self.bytes_from_node = bytes;
    }

    /// All of them so far went on to the client.
    pub(super) fn body_sent_on(&mut self) {
        self.response_bytes = self.bytes_from_node;
    }

    /// The node has said everything, perhaps all at once with its head; what is left is ours and the
    /// client's.
    pub(super) fn node_done(&mut self, usage: Option<Usage>, is_all_at_once: bool) {
        self.usage = usage;
        if is_all_at_once {
            self.pass_into(Phase::Done);
        } else {
            self.enter(Phase::Done);
        }
    }

    /// The router answers by itself, with a body of this length.
    pub(super) fn answered(&mut self, status: StatusCode, body_bytes: usize) {
        self.status = status.as_u16();
        self.ended_by = match status {
            StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => EndedBy::Timeout,
            _ => EndedBy::Router,
        };
        self.response_bytes = body_bytes as u64;
    }

    /// The node's response was relayed whole.
    pub(super) fn relayed(&mut self) {
        self.ended_by = EndedBy::Node;
    }

    /// The client left, or stopped taking what it was sent.
    pub(super) fn client_left(&mut self, is_stalled: bool) {
        self.ended_by = if is_stalled {
            EndedBy::Timeout
        } else {
            EndedBy::Client
        };
        self.worker.metrics.cancelled(self.phase);
    }

    /// The node broke its response off, or fell silent within it.
    pub(super) fn node_broke_off(&mut self, is_silent: bool) {
        self.ended_by = if is_silent {
            EndedBy::Timeout
        } else {
            EndedBy::Node
        };
    }

    /// Of every request that waited, whatever became of it.
    fn record_wait(&self) {
        let wait = Duration::from_nanos(self.spent(&[Phase::Queue]));
        if !wait.is_zero() {
            self.worker.metrics.latency(Latency::QueueWait, wait);
            self.worker.count_in_hour(HourEvent::Waited(wait));
        }
    }

    /// Of every request that got a slot, also of those that no node answered.
    fn record_latencies(&self, model: &ResolvedModel, now: Moment) {
        let metrics = &self.worker.metrics;
        let latency = |latency, nanos| metrics.latency(latency, Duration::from_nanos(nanos));
        let total = now.nanos_since(self.began);
        let node = self.spent(&NODE_PHASES);
        let others = node + self.spent(&[Phase::Read, Phase::Queue]);
        latency(Latency::Request, total);
        latency(Latency::Overhead, total.saturating_sub(others));
        if let Some(first_byte) = self.first_byte {
            latency(Latency::FirstByte, first_byte.nanos_since(self.began));
        }
        // The slot was held so long, whatever for: that is what those who wait have to expect.
        let node = Duration::from_nanos(node);
        model.stats().add_service(node);
        self.worker.count_in_hour(HourEvent::Served(node));
    }

    /// Nanoseconds spent in these phases together.
    fn spent(&self, phases: &[Phase]) -> u64 {
        phases
            .iter()
            .map(|phase| self.phases[*phase as usize])
            .sum()
    }

    fn record(&self, log: &crate::telemetry::AccessLog, details: Details) {
        let record = AccessRecord {
            started_unix_ms: details.started_unix_ms,
            request_id: details.request_id,
            endpoint: self.endpoint,
            model: details.model,
            node: details.node,
            status: self.status,
            phase_us: self.phases.map(|nanos| nanos / NANOS_PER_MICRO),
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            prompt_tokens: self.usage.map(|usage| usage.prompt_tokens),
            completion_tokens: self.usage.map(|usage| usage.completion_tokens),
            attempts: self.attempts,
            ended_by: self.ended_by,
            ended_in: self.phase,
        };
        if log.offer(Box::new(record)).is_err() {
            self.worker.metrics.count(Occurrence::AccessRecordDropped);
        }
    }

    /// Hands the request to the history.
    fn remember(&self, names: HistoryNames, now: Moment) {
        let record = HistoryRecord {
            names,
            endpoint: self.endpoint,
            status: self.status,
            duration_us: now.nanos_since(self.began) / NANOS_PER_MICRO,
            phase_us: self.phases.map(|nanos| nanos / NANOS_PER_MICRO),
            tokens: self
                .usage
                .map(|usage| (usage.prompt_tokens, usage.completion_tokens)),
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            attempts: self.attempts,
            ended_by: self.ended_by,
            ended_in: self.phase,
            is_stream: self._stream.is_some(),
        };
        let worker = self.worker;
        if worker.shared.history.offer(worker.index, record).is_err() {
            worker.metrics.count(Occurrence::HistoryRecordDropped);
        }
    }
}

impl Drop for Trace<'_> {
    fn drop(&mut self) {
        let now = Moment::now();
        self.end_phase(now);
        let metrics = &self.worker.metrics;
        metrics.request(self.endpoint, self.status);
        for (direction, bytes) in [
            (Direction::FromClient, self.request_bytes),
            (Direction::ToNode, self.bytes_to_node),
            (Direction::FromNode, self.bytes_from_node),
            (Direction::ToClient, self.response_bytes),
        ] {
            metrics.body_bytes(direction, bytes);
        }
        self.record_wait();
        if let Some(model) = &self.model {
            self.record_latencies(model, now);
        }
        if let (Some(usage), Some(model)) = (&self.usage, &self.model) {
            model
                .stats()
                .add_tokens(usage.prompt_tokens, usage.completion_tokens);
        }
        if let (Some(log), Some(details)) = (&self.worker.shared.access_log, self.details.take()) {
            self.record(log, *details);
        }
        if let Some(names) = self.names.take() {
            self.remember(names, now);
        }
    }
}

fn endpoint_label(endpoint: Endpoint) -> EndpointLabel {
    match endpoint {
        Endpoint::ChatCompletions => EndpointLabel::ChatCompletions,
        Endpoint::Completions => EndpointLabel::Completions,
        Endpoint::Embeddings => EndpointLabel::Embeddings,
        Endpoint::Responses => EndpointLabel::Responses,
        Endpoint::Rerank => EndpointLabel::Rerank,
        Endpoint::Messages => EndpointLabel::Messages,
        Endpoint::Audio => EndpointLabel::Audio,
        Endpoint::Images => EndpointLabel::Images,
        Endpoint::Models | Endpoint::Model => EndpointLabel::Models,
        Endpoint::Health => EndpointLabel::Health,
        Endpoint::Ready => EndpointLabel::Ready,
        Endpoint::Metrics => EndpointLabel::Metrics,
        Endpoint::Api => EndpointLabel::Api,
        Endpoint::Dashboard => EndpointLabel::Dashboard,
        Endpoint::Other => EndpointLabel::Other,
    }
}

fn unix_ms_now() -> u64 {
    u64::try_from(clock::unix_time().as_millis()).unwrap_or(u64::MAX)
}

const NANOS_PER_MICRO: u64 = 1000;

/// The phases in which an exchange waits for a node.
const NODE_PHASES: [Phase; 3] = [Phase::Connect, Phase::FirstByte, Phase::Stream];
