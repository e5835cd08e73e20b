//! Owns what the rest of the router knows of the database: whether it works, and counts. Written by
//! the store thread, read by workers without waiting for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The state of the store, as `/ready` and the metrics show it.
#[derive(Debug, Default)]
pub struct StoreHealth {
    is_failing: AtomicBool,
    errors: AtomicU64,
    history_records: AtomicU64,
    history_dropped: AtomicU64,
    begun_anew: AtomicU64,
}

impl StoreHealth {
    /// Whether the last thing that was to be written could not be.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    /// `ok` or `failing`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        if self.is_failing() { "failing" } else { "ok" }
    }

    /// Operations that failed since start.
    #[must_use]
    pub fn errors_total(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Requests written to the history since start.
    #[must_use]
    pub fn history_records_total(&self) -> u64 {
        self.history_records.load(Ordering::Relaxed)
    }

    /// Requests taken from the workers that could not be written.
    #[must_use]
    pub fn history_dropped_total(&self) -> u64 {
        self.history_dropped.load(Ordering::Relaxed)
    }

    /// How often the file was another one than before.
    #[must_use]
    pub fn files_begun_anew(&self) -> u64 {
        self.begun_anew.load(Ordering::Acquire)
    }

    /// The file is another one than before. Told after what could be read of the old one is in it.
    pub fn file_begun_anew(&self) {
        self.begun_anew.fetch_add(1, Ordering::Release);
    }

    /// Counts requests that were written.
    pub fn history_written(&self, count: u64) {
        self.history_records.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts requests that will not be written.
    pub fn history_lost(&self, count: u64) {
        self.history_dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts an operation that failed; `true` if the one before had worked.
    pub fn failed(&self) -> bool {
        self.errors.fetch_add(1, Ordering::Relaxed);
        !self.is_failing.swap(true, Ordering::Relaxed)
    }

    /// Something was written; `true` if the attempt before had failed.
    pub fn works(&self) -> bool {
        self.is_failing.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_every_error_is_counted() {
        let health = StoreHealth::default();
        assert_eq!((health.as_str(), health.works()), ("ok", false));
        assert!(health.failed());
        assert!(!health.failed());
        assert_eq!((health.as_str(), health.errors_total()), ("failing", 2));
        assert!(health.works());
        assert!(!health.works());
        assert_eq!((health.as_str(), health.errors_total()), ("ok", 2));
    }
}
