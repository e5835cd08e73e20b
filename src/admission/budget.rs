//! Owns the process-wide budget of buffered body bytes (`proxy.max_buffered_bytes`). Counts bytes
//! only: never allocates or holds a buffer itself, and never waits for room.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use super::PerWorker;

/// Bytes of request bodies that all workers together may hold.
#[derive(Debug)]
pub struct BufferBudget {
    reserved_bytes: CachePadded<AtomicU64>,
    limit_bytes: AtomicU64,
}

/// One worker's handle on the [`BufferBudget`].
#[derive(Clone, Debug)]
pub struct LocalBudget {
    shared: PerWorker<BufferBudget>,
}

/// Bytes reserved for one body; given back exactly once, on drop.
#[derive(Debug)]
#[must_use = "dropping the reservation gives its bytes back at once"]
pub struct BufferReservation {
    shared: PerWorker<BufferBudget>,
    bytes: u64,
}

impl BufferBudget {
    /// An empty budget of `limit_bytes`.
    #[must_use]
    pub fn new(limit_bytes: u64) -> Self {
        Self {
            reserved_bytes: CachePadded::new(AtomicU64::new(0)),
            limit_bytes: AtomicU64::new(limit_bytes),
        }
    }

    /// Bytes reserved now; more than the limit only for a while after it was lowered.
    #[must_use]
    pub fn reserved_bytes(&self) -> u64 {
        self.reserved_bytes.load(Ordering::Relaxed)
    }

    /// The limit in bytes.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes.load(Ordering::Relaxed)
    }

    /// Changes the limit. What is reserved beyond a lowered one stays; nothing more is reserved until it
    /// fits.
    pub fn set_limit_bytes(&self, limit_bytes: u64) {
        self.limit_bytes.store(limit_bytes, Ordering::Relaxed);
    }

    fn try_reserve(&self, bytes: u64) -> bool {
        // Relaxed is enough: the number guards no other memory.
        let limit_bytes = self.limit_bytes();
        self.reserved_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |reserved| {
                reserved
                    .checked_add(bytes)
                    .filter(|&sum| sum <= limit_bytes)
            })
            .is_ok()
    }

    fn release(&self, bytes: u64) {
        let before = self.reserved_bytes.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "more bytes were given back than reserved");
    }
}

impl LocalBudget {
    /// This worker's handle. It stays on the thread that made it.
    #[must_use]
    pub fn new(shared: Arc<BufferBudget>) -> Self {
        Self {
            shared: PerWorker::new(shared),
        }
    }

    /// The shared budget, for reading.
    #[must_use]
    pub fn shared(&self) -> &BufferBudget {
        &self.shared
    }

    /// Reserves `bytes`, or nothing at all when they do not fit.
    pub fn try_reserve(&self, bytes: u64) -> Option<BufferReservation> {
        self.shared.try_reserve(bytes).then(|| BufferReservation {
            shared: self.shared.clone(),
            bytes,
        })
    }
}

impl BufferReservation {
    /// Bytes this reservation holds.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reserves `more_bytes` on top, for a chunked body that turns out longer; `false` leaves the
    /// reservation as it was.
    #[must_use]
    pub fn try_grow(&mut self, more_bytes: u64) -> bool {
        let grown = self.shared.try_reserve(more_bytes);
        if grown {
            self.bytes += more_bytes;
        }
        grown
    }

    /// Gives back everything above `bytes`; does nothing if it holds less.
    pub fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.shared.release(surplus);
    }
}

impl Drop for BufferReservation {
    fn drop(&mut self) {
        self.shared.release(self.bytes);
    }
}
