//! Owns the one lock of the data plane: that of the queues. Only workers take it, each for a few
//! microseconds and without waiting for anything else meanwhile, and never for a request that need not
//! wait.
#![expect(
    clippy::disallowed_types,
    reason = "the wait queues are the one thing workers change together"
)]

use std::fmt;
use std::sync::PoisonError;

#[cfg(all(test, loom))]
use loom::sync::Mutex;
#[cfg(not(all(test, loom)))]
use std::sync::Mutex;

/// A value that only one thread looks at at a time.
pub(super) struct Locked<T> {
    value: Mutex<T>,
}

impl<T> Locked<T> {
    pub(super) fn new(value: T) -> Self {
        Self {
            value: Mutex::new(value),
        }
    }

    /// Calls `act` with the value; nobody else has it meanwhile. `act` must not come here again.
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut T) -> R) -> R {
        // Whoever panicked under the lock was a bug of ours; the queues are worth more than that.
        act(&mut self.value.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> fmt::Debug for Locked<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Locked").finish_non_exhaustive()
    }
}
