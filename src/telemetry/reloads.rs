//! Owns what the metrics tell of reloads of the configuration.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Reloads since the start; the start itself counts as the first that succeeded, in all but number.
#[derive(Debug)]
pub struct Reloads {
    succeeded: AtomicU64,
    failed: AtomicU64,
    is_last_failed: AtomicBool,
    last_success_unix_secs: AtomicU64,
}

impl Reloads {
    /// None yet; the configuration was read at `now`, in seconds since the Unix epoch.
    #[must_use]
    pub fn since(now: u64) -> Self {
        Self {
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            is_last_failed: AtomicBool::new(false),
            last_success_unix_secs: AtomicU64::new(now),
        }
    }

    /// The configuration was read again, and holds.
    pub fn succeeded(&self, now: u64) {
        self.succeeded.fetch_add(1, Ordering::Relaxed);
        self.last_success_unix_secs.store(now, Ordering::Relaxed);
        self.is_last_failed.store(false, Ordering::Relaxed);
    }

    /// It could not be used: the one before still holds.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.is_last_failed.store(true, Ordering::Relaxed);
    }

    /// How many succeeded and how many failed.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        (
            self.succeeded.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed),
        )
    }

    /// Whether the last attempt succeeded.
    #[must_use]
    pub fn is_last_successful(&self) -> bool {
        !self.is_last_failed.load(Ordering::Relaxed)
    }

    /// When the configuration in force was read, in seconds since the Unix epoch.
    #[must_use]
    pub fn last_success_unix_secs(&self) -> u64 {
        self.last_success_unix_secs.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_leaves_the_time_of_what_still_holds() {
        let reloads = Reloads::since(100);
        assert!(reloads.is_last_successful());
        reloads.succeeded(200);
        reloads.failed();
        assert_eq!(reloads.totals(), (1, 1));
        assert!(!reloads.is_last_successful());
        assert_eq!(reloads.last_success_unix_secs(), 200);
        reloads.succeeded(300);
        assert!(reloads.is_last_successful());
        assert_eq!(reloads.last_success_unix_secs(), 300);
    }
}
