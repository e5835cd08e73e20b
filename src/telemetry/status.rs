//! Owns the figures behind `/api/load-status` and `/api/queue/stats` (spec section 9): read from the same
//! counters as the metrics, so that the two never disagree. Never changes one.

use crate::admission::Backpressure;

use super::exposition::Scrape;
use super::hour::{HourEvent, HourTotals};
use super::labels::RejectionReason;
use super::worker::{Gauge, Latency, WorkerMetrics};

/// How loaded the router is.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadStatus {
    /// The state.
    pub backpressure: Backpressure,
    /// Requests waiting, over all models.
    pub queue_size: u32,
    /// `load_manager.max_waiting`.
    pub max_queue_size: u32,
    /// The first divided by the second.
    pub load_ratio: f64,
    /// Candidate lists found in a cache, as a share of those looked for; 0 before the first.
    pub cache_hit_rate: f64,
    /// Client connections.
    pub active_connections: u64,
    /// Inference requests since the start.
    pub total_requests: u64,
    /// Of these, not let in because of load.
    pub rejected_requests: u64,
    /// Of these, waited too long.
    pub timeout_requests: u64,
    /// Mean wait of those that waited, in milliseconds.
    pub avg_wait_ms: f64,
}

/// What the queues did within the last hour, and hold now.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueStats {
    /// Requests waiting now.
    pub waiting_count: u32,
    /// Slots taken now, over all nodes.
    pub processing_count: u64,
    /// Slots taken now, by node.
    pub per_node: Vec<(Box<str>, u32)>,
    /// Requests waiting now, by model; models nobody waits for are left out.
    pub per_model: Vec<(Box<str>, u32)>,
    /// The last hour.
    pub hour: HourTotals,
}

impl Scrape<'_> {
    /// How loaded the router is now.
    #[must_use]
    pub fn load_status(&self) -> LoadStatus {
        let waiting = self.admission.waiting();
        let max_waiting = self.admission.max_waiting();
        let (hits, misses) = self.workers.iter().fold((0, 0), |(hits, misses), worker| {
            let (more_hits, more_misses) = worker.cache_totals();
            (hits + more_hits, misses + more_misses)
        });
        let rejections = |reasons: &[RejectionReason]| {
            reasons
                .iter()
                .map(|&reason| self.sum(|worker| worker.rejections(reason)))
                .sum()
        };
        let (waits, wait_secs) = self.workers.iter().fold((0, 0.0), |(count, secs), worker| {
            let (more, more_secs) = worker.latency(Latency::QueueWait).totals();
            (count + more, secs + more_secs)
        });
        LoadStatus {
            backpressure: self.admission.backpressure_at(waiting),
            queue_size: waiting,
            max_queue_size: max_waiting,
            load_ratio: mean(f64::from(waiting), u64::from(max_waiting)),
            cache_hit_rate: mean(hits as f64, hits + misses),
            active_connections: self.sum(|worker| worker.gauge(Gauge::ConnectionsActive)),
            total_requests: self.sum(WorkerMetrics::inference_requests),
            rejected_requests: rejections(&REFUSALS),
            timeout_requests: rejections(&TIMEOUTS),
            avg_wait_ms: 1000.0 * mean(wait_secs, waits),
        }
    }

    /// What the queues hold now, and did in the hour that ends with `minute`, counted as the recorders
    /// were told.
    #[must_use]
    pub fn queue_stats(&self, minute: u64) -> QueueStats {
        let mut hour = HourTotals::default();
        for worker in self.workers {
            worker.add_hour(minute, &mut hour);
        }
        let per_node: Vec<_> = (self.table.nodes().iter())
            .map(|node| (node.name.clone(), node.live.slots().count))
            .collect();
        let waiting = self
            .table
            .models()
            .map(|model| (&model.name, model.stats.waiting()));
        QueueStats {
            waiting_count: self.admission.waiting(),
            processing_count: per_node.iter().map(|(_, count)| u64::from(*count)).sum(),
            per_node,
            per_model: waiting
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| (name.clone(), count))
                .collect(),
            hour,
        }
    }
}

fn mean(total: f64, count: u64) -> f64 {
    if count == 0 {
        0.0
    } else {
        total / count as f64
    }
}

impl RejectionReason {
    /// What a refusal for this reason counts as in the last hour, if it has to do with load.
    #[must_use]
    pub fn hour_event(self) -> Option<HourEvent> {
        if REFUSALS.contains(&self) {
            Some(HourEvent::Rejected)
        } else {
            TIMEOUTS.contains(&self).then_some(HourEvent::TimedOut)
        }
    }
}

/// Requests that were not let in because of load.
const REFUSALS: [RejectionReason; 3] = [
    RejectionReason::Overloaded,
    RejectionReason::ModelQueueFull,
    RejectionReason::WaitTooLong,
];
/// Requests that waited too long.
const TIMEOUTS: [RejectionReason; 2] =
    [RejectionReason::WaitTimeout, RejectionReason::QueueTimeout];

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use crate::admission::{
        AdmissionLimits, Admittance, BufferBudget, Demand, LocalAdmission, QueueLimits,
    };
    use crate::nodes::{Admission, NodeDirectory, NodeSpec, NodeState};

    use super::super::{BuildLabels, EndpointLabel};
    use super::*;
    use crate::telemetry::{Reloads, StoreHealth};

    /// One model on one node; two slots are taken, one request waits for a permit.
    #[test]
    fn the_figures_are_those_of_the_counters() {
        let node = NodeSpec {
            name: "gpu-1".into(),
            addresses: Vec::new(),
            host_header: "h".into(),
            path_prefix: "".into(),
            authorization: None,
            models: vec!["m".into(), "other".into()],
            max_concurrency: 4,
            weight: 1,
        };
        let table = NodeDirectory::default().publish(&[node], &[]).unwrap();
        table.nodes()[0].live.publish_state(NodeState::Online);
        let limits = AdmissionLimits {
            max_concurrent: 2,
            max_waiting: 2,
            warning_threshold: 0.5,
            overload_threshold: 0.8,
        };
        let admission = Arc::new(Admission::new(limits, |_| {}));
        let local = LocalAdmission::new(Arc::clone(&admission), 0);
        let demand = Demand {
            group: table.model("m").unwrap(),
            generation: table.generation(),
            key: 0,
            limits: QueueLimits {
                max_size: 10,
                max_place: 10,
            },
        };
        let admitted = [local.ask(&demand), local.ask(&demand)];
        assert!(matches!(
            admitted,
            [Admittance::Served(..), Admittance::Served(..)]
        ));
        let waits = local.ask(&demand);
        assert!(matches!(waits, Admittance::Waits(_)));

        let workers = [WorkerMetrics::new(), WorkerMetrics::new()];
        let recorders = workers.each_ref().map(|worker| worker.recorder().unwrap());
        let _connection = recorders[0].gauge(Gauge::ConnectionsActive);
        recorders[0].cache_totals(80, 10);
        recorders[1].cache_totals(10, 0);
        for recorder in &recorders {
            recorder.request(EndpointLabel::ChatCompletions, 200);
            recorder.request(EndpointLabel::Metrics, 200);
        }
        for reason in [
            RejectionReason::Overloaded,
            RejectionReason::WaitTooLong,
            RejectionReason::ModelQueueFull,
            RejectionReason::WaitTimeout,
            RejectionReason::QueueTimeout,
            RejectionReason::InvalidKey,
        ] {
            recorders[1].rejected(reason);
            if let Some(event) = reason.hour_event() {
                recorders[1].in_hour(100, event);
            }
        }
        for (recorder, millis) in recorders.iter().zip([100, 300]) {
            let wait = Duration::from_millis(millis);
            recorder.latency(Latency::QueueWait, wait);
            recorder.in_hour(100, HourEvent::Waited(wait));
            recorder.in_hour(99, HourEvent::Served(2 * wait));
        }
        let scrape = Scrape {
            workers: &workers,
            table: &table,
            admission: &admission,
            budget: &BufferBudget::new(1),
            access_log: None,
            store: &StoreHealth::default(),
            reloads: &Reloads::since(0),
            process: None,
            build: BuildLabels {
                version: "0",
                io_driver: "epoll",
            },
        };

        let load = scrape.load_status();
        assert_eq!(load.backpressure, Backpressure::Warning);
        assert_eq!((load.queue_size, load.max_queue_size), (1, 2));
        assert!((load.load_ratio - 0.5).abs() < 1e-9);
        assert!((load.cache_hit_rate - 0.9).abs() < 1e-9);
        assert_eq!((load.active_connections, load.total_requests), (1, 2));
        assert_eq!((load.rejected_requests, load.timeout_requests), (3, 2));
        assert!((load.avg_wait_ms - 200.0).abs() < 1e-6);

        let queue = scrape.queue_stats(100);
        assert_eq!((queue.waiting_count, queue.processing_count), (1, 2));
        assert_eq!(queue.per_node, [("gpu-1".into(), 2)]);
        assert_eq!(queue.per_model, [("m".into(), 1)]);
        assert_eq!((queue.hour.rejections, queue.hour.timeouts), (3, 2));
        assert!((queue.hour.mean_wait_ms() - 200.0).abs() < 1e-6);
        assert!((queue.hour.mean_service_ms() - 400.0).abs() < 1e-6);
        drop((admitted, waits));
        assert_eq!(scrape.queue_stats(100).processing_count, 0);
        let later = scrape.queue_stats(160);
        assert_eq!((later.hour.waits, later.waiting_count), (0, 0));
    }
}
