//! The configuration while the process runs: replaced whole by the control plane, followed by each worker
//! in its own time. Owns what of it becomes limits of other modules; never reads a file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use crossbeam_utils::CachePadded;

use crate::admission::AdmissionLimits;
use crate::config::{Config, LogLevel};
use crate::nodes::CandidateLimits;
use crate::telemetry::{HistoryLimits, log};
use crate::upstream::PoolLimits;

use super::Shared;

/// The configuration of the process, and how far the workers have followed it.
pub struct LiveConfig {
    current: ArcSwap<Config>,
    generation: AtomicU64,
    followers: Box<[CachePadded<AtomicU64>]>,
}

impl LiveConfig {
    /// What the process starts with; `worker_count` workers will follow it.
    #[must_use]
    pub fn new(config: Config, worker_count: usize) -> Self {
        Self {
            current: ArcSwap::from_pointee(config),
            generation: AtomicU64::new(0),
            followers: (0..worker_count).map(|_| CachePadded::default()).collect(),
        }
    }

    /// The configuration now. For other threads than workers; those keep it, see
    /// [`Worker`](super::Worker).
    #[must_use]
    pub fn current(&self) -> Arc<Config> {
        self.current.load_full()
    }

    /// Whether every worker does as the configuration says now.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        let generation = self.generation.load(Ordering::Acquire);
        let mut followers = self.followers.iter();
        followers.all(|follower| follower.load(Ordering::Acquire) >= generation)
    }

    pub(super) fn replace(&self, config: Config) {
        self.current.store(Arc::new(config));
        // Release: whoever sees the number sees the configuration, or a later one.
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The configuration, and a generation it has at least.
    pub(super) fn load(&self) -> (Arc<Config>, u64) {
        let generation = self.generation.load(Ordering::Acquire);
        (self.current(), generation)
    }

    pub(super) fn followed_by(&self, worker: usize, generation: u64) {
        if let Some(follower) = self.followers.get(worker) {
            follower.store(generation, Ordering::Release);
        }
    }
}

/// Applies what all workers have in common.
pub(super) fn apply(config: &Config, shared: &Shared) {
    apply_log_level(config);
    shared.admission.set_limits(&admission_limits(config));
    shared
        .budget
        .set_limit_bytes(config.proxy.max_buffered_bytes);
    shared.history.set_limits(history_limits(config));
}

/// The limits of `history`.
#[must_use]
pub fn history_limits(config: &Config) -> HistoryLimits {
    let history = &config.history;
    HistoryLimits {
        is_on: history.enabled,
        retention_secs: u64::from(history.retention_days) * SECS_PER_DAY,
        rows_max: u64::from(history.max_rows),
    }
}

/// The limits of `load_manager`.
#[must_use]
pub fn admission_limits(config: &Config) -> AdmissionLimits {
    let load_manager = &config.load_manager;
    AdmissionLimits {
        max_concurrent: load_manager.max_concurrent,
        max_waiting: load_manager.max_waiting,
        warning_threshold: load_manager.warning_threshold,
        overload_threshold: load_manager.overload_threshold,
    }
}

/// Has the lifecycle log follow `log.level`.
pub fn apply_log_level(config: &Config) {
    log::set_level(match config.log.level {
        LogLevel::Error => log::Level::Error,
        LogLevel::Warn => log::Level::Warn,
        LogLevel::Info => log::Level::Info,
        LogLevel::Debug => log::Level::Debug,
    });
}

pub(super) fn pool_limits(config: &Config) -> PoolLimits {
    PoolLimits {
        max_idle_per_node: config.connection_pool.max_idle_per_host,
        idle_timeout: config.connection_pool.idle_timeout,
    }
}

pub(super) fn candidate_limits(config: &Config) -> CandidateLimits {
    CandidateLimits {
        max_capacity: config.node_cache.max_capacity,
        ttl: config.node_cache.ttl,
    }
}

const SECS_PER_DAY: u64 = 24 * 60 * 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_counts_as_followed_once_every_worker_says_so() {
        let live = LiveConfig::new(Config::default(), 2);
        assert!(live.is_followed());
        let mut changed = Config::default();
        changed.queue.max_size = 7;
        live.replace(changed);
        assert!(!live.is_followed());
        for worker in 0..2 {
            assert!(!live.is_followed());
            let (config, generation) = live.load();
            assert_eq!(config.queue.max_size, 7);
            live.followed_by(worker, generation);
        }
        assert!(live.is_followed());
    }
}
