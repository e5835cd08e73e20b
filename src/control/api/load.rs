//! `GET /api/load-status` and `GET /api/queue/stats`: the figures of `telemetry::status` as JSON.

use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::admission::Backpressure;
use crate::openai::ApiError;
use crate::proxy::Shared;
use crate::telemetry::{LoadStatus, QueueStats};

use super::{Call, Context, Reply};

/// How loaded the router is.
#[derive(Serialize)]
pub(super) struct LoadBody {
    backpressure_state: &'static str,
    #[serde(skip)]
    backpressure: Backpressure,
    pub(super) queue_size: u32,
    max_queue_size: u32,
    load_ratio: f64,
    pub(super) cache_hit_rate: f64,
    pub(super) active_connections: u64,
    stats: LoadStatsBody,
}

#[derive(Serialize)]
struct LoadStatsBody {
    total_requests: u64,
    rejected_requests: u64,
    timeout_requests: u64,
    avg_wait_time_ms: f64,
}

/// What the queues hold, and did in the last hour.
#[derive(Serialize)]
pub(super) struct QueueBody {
    waiting_count: u32,
    processing_count: u64,
    per_node: Vec<NodeBody>,
    per_model: Vec<ModelBody>,
    avg_wait_time_ms: f64,
    avg_process_time_ms: f64,
    timeout_count: u64,
    rejected_count: u64,
}

#[derive(Serialize)]
struct NodeBody {
    node: Box<str>,
    processing_count: u32,
}

#[derive(Serialize)]
struct ModelBody {
    model: Box<str>,
    waiting_count: u32,
}

/// `GET /api/load-status`.
pub(super) fn status(context: &Context, _: &Call<'_>) -> Result<Reply, ApiError> {
    Reply::json(&LoadBody::now(&context.shared))
}

/// `GET /api/queue/stats`.
pub(super) fn queue(context: &Context, _: &Call<'_>) -> Result<Reply, ApiError> {
    Reply::json(&QueueBody::now(&context.shared))
}

impl LoadBody {
    pub(super) fn now(shared: &Shared) -> Self {
        let table = shared.directory.snapshot();
        shared.scrape(&table, None).load_status().into()
    }

    /// The state as the metrics count it: 0, 1 or 2.
    pub(super) fn backpressure_number(&self) -> u8 {
        self.backpressure as u8
    }
}

impl QueueBody {
    pub(super) fn now(shared: &Shared) -> Self {
        let table = shared.directory.snapshot();
        let minute = shared.unix_secs.load(Ordering::Relaxed) / 60;
        shared.scrape(&table, None).queue_stats(minute).into()
    }
}

impl From<LoadStatus> for LoadBody {
    fn from(status: LoadStatus) -> Self {
        Self {
            backpressure_state: status.backpressure.as_str(),
            backpressure: status.backpressure,
            queue_size: status.queue_size,
            max_queue_size: status.max_queue_size,
            load_ratio: status.load_ratio,
            cache_hit_rate: status.cache_hit_rate,
            active_connections: status.active_connections,
            stats: LoadStatsBody {
                total_requests: status.total_requests,
                rejected_requests: status.rejected_requests,
                timeout_requests: status.timeout_requests,
                avg_wait_time_ms: status.avg_wait_ms,
            },
        }
    }
}

impl From<QueueStats> for QueueBody {
    fn from(stats: QueueStats) -> Self {
        let per_node = stats.per_node.into_iter();
        let per_model = stats.per_model.into_iter();
        Self {
            waiting_count: stats.waiting_count,
            processing_count: stats.processing_count,
            per_node: per_node
                .map(|(node, processing_count)| NodeBody {
                    node,
                    processing_count,
                })
                .collect(),
            per_model: per_model
                .map(|(model, waiting_count)| ModelBody {
                    model,
                    waiting_count,
                })
                .collect(),
            avg_wait_time_ms: stats.hour.mean_wait_ms(),
            avg_process_time_ms: stats.hour.mean_service_ms(),
            timeout_count: stats.hour.timeouts,
            rejected_count: stats.hour.rejections,
        }
    }
}
