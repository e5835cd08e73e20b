//! Owns the one shared counter behind every limit: a count that never passes its limit. Node slots,
//! permits and waiting places are guards over it. Never hands out a unit that it cannot account
//! for, and knows nothing of what a unit means.

#[cfg(all(test, loom))]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(all(test, loom)))]
use std::sync::atomic::{AtomicU64, Ordering};

/// A count and its limit at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Units taken and not yet given back.
    pub count: u32,
    /// Units that may be taken; below `count` for a while after the limit was lowered.
    pub limit: u32,
}

/// Counts units up to a limit that may change at any time.
///
/// Invariant: a unit is only ever taken while `count < limit`, exactly, on any number of threads.
/// Both numbers live in one word, so a limit lowered during a take makes the take try again; one
/// load shows a consistent pair.
#[derive(Debug)]
pub struct LimitedCounter {
    /// `limit << 32 | count`.
    packed: AtomicU64,
}

impl LimitedCounter {
    /// An empty counter.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self {
            packed: AtomicU64::new(pack(Occupancy { count: 0, limit })),
        }
    }

    /// The count and the limit, read together.
    #[must_use]
    pub fn load(&self) -> Occupancy {
        unpack(self.packed.load(Ordering::Relaxed))
    }

    /// Changes the limit. Units beyond a lowered limit stay valid; none is handed out until the
    /// count is below it.
    pub fn set_limit(&self, limit: u32) {
        let mut seen = self.packed.load(Ordering::Relaxed);
        loop {
            let wanted = pack(Occupancy {
                limit,
                ..unpack(seen)
            });
            match self.exchange(seen, wanted) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Takes one unit; `false` when the limit is reached. The caller must wrap the unit in a guard
    /// that calls `release`.
    pub(crate) fn try_take(&self) -> bool {
        let mut seen = self.packed.load(Ordering::Relaxed);
        loop {
            let Occupancy { count, limit } = unpack(seen);
            if count >= limit {
                return false;
            }
            // The count is below a 32-bit limit, so it cannot carry into the limit's half.
            match self.exchange(seen, seen + 1) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    /// Gives one unit back. Only a guard's `Drop` calls this, once for each successful `try_take`.
    pub(crate) fn release(&self) {
        let before = unpack(self.packed.fetch_sub(1, Ordering::Relaxed));
        debug_assert!(
            before.count > 0,
            "a unit was given back that nobody had taken"
        );
    }

    /// Relaxed is enough: the word guards no other memory, and read-modify-writes of one word are
    /// totally ordered.
    fn exchange(&self, seen: u64, wanted: u64) -> Result<u64, u64> {
        self.packed
            .compare_exchange_weak(seen, wanted, Ordering::Relaxed, Ordering::Relaxed)
    }
}

fn pack(occupancy: Occupancy) -> u64 {
    u64::from(occupancy.limit) << 32 | u64::from(occupancy.count)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "each half is 32 bits wide by construction"
)]
fn unpack(packed: u64) -> Occupancy {
    Occupancy {
        count: packed as u32,
        limit: (packed >> 32) as u32,
    }
}
