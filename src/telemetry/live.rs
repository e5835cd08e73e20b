//! Owns the figures of the moment (`/api/events`): counts to be compared with those of a little later. Reads
//! the same counters as the metrics, and changes none.

use std::collections::BTreeMap;

use super::exposition::Scrape;
use super::histogram::LatencyCounts;
use super::labels::{Phase, RejectionReason};
use super::worker::{Gauge, Latency, WorkerMetrics};

/// Counts since the start, and what is under way now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveCounts {
    /// Inference requests that have ended.
    pub requests: u64,
    /// Tokens that answers reported, of the models there are now.
    pub tokens: u64,
    /// Inference requests that have not ended.
    pub in_flight: u64,
    /// Streams that have not ended.
    pub streams_active: u64,
}

impl Scrape<'_> {
    /// What is counted now.
    #[must_use]
    pub fn live_counts(&self) -> LiveCounts {
        let models = self.table.models();
        LiveCounts {
            requests: self.sum(WorkerMetrics::inference_requests),
            tokens: models
                .map(|model| model.stats.prompt_tokens() + model.stats.completion_tokens())
                .sum(),
            in_flight: self.sum(|worker| worker.gauge(Gauge::RequestsInFlight)),
            streams_active: self.sum(|worker| worker.gauge(Gauge::StreamsActive)),
        }
    }

    /// How long requests took so far.
    #[must_use]
    pub fn latency_counts(&self, latency: Latency) -> LatencyCounts {
        LatencyCounts::of(self.workers.iter().map(|worker| worker.latency(latency)))
    }

    /// Refusals by reason.
    #[must_use]
    pub fn rejection_totals(&self) -> BTreeMap<&'static str, u64> {
        let total = |&reason: &RejectionReason| {
            (
                reason.as_str(),
                self.sum(|worker| worker.rejections(reason)),
            )
        };
        RejectionReason::ALL.iter().map(total).collect()
    }

    /// Clients that left, by phase.
    #[must_use]
    pub fn cancelled_totals(&self) -> BTreeMap<&'static str, u64> {
        let total = |&phase: &Phase| (phase.as_str(), self.sum(|worker| worker.cancelled(phase)));
        Phase::ALL.iter().map(total).collect()
    }
}
