//! Owns what operators see (spec section 8): per-worker counts and latencies, the Prometheus text,
//! and access records. Never holds up a worker, and never shows a prompt, a completion or a secret.

mod access;
mod exposition;
mod histogram;
mod history;
mod hour;
mod labels;
mod line;
mod live;
pub mod log;
pub mod names;
mod process;
mod reloads;
mod status;
mod store_health;
mod text;
mod worker;

pub use access::{AccessLog, AccessLogWriter, AccessRecord, ClientText, RecordDropped};
pub use exposition::{BuildLabels, Scrape};
pub use histogram::{LONGEST, LatencyCounts, LatencyHistogram};
pub use history::{
    History, HistoryLimits, HistoryNames, HistoryRecord, QUEUE_RECORDS as HISTORY_QUEUE_RECORDS,
};
pub use hour::{HourEvent, HourTotals};
pub use labels::{
    Direction, EndedBy, EndpointLabel, Phase, PoolState, RejectionReason, RetryReason,
};
pub use live::LiveCounts;
pub use process::ProcessSample;
pub use reloads::Reloads;
pub use status::{LoadStatus, QueueStats};
pub use store_health::StoreHealth;
pub use worker::{
    Gauge, GaugeGuard, Latency, Occurrence, PoolGauges, PoolGuard, PoolRecorder, Recorder,
    WorkerMetrics,
};
