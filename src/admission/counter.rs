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
    /// Whether somebody waits for a unit: then none is to be had but in turn.
    pub is_contended: bool,
}

impl Occupancy {
    /// Whether a newcomer may take a unit.
    #[must_use]
    pub fn has_room(self) -> bool {
        self.count < self.limit && !self.is_contended
    }

    /// What a counter's [`word`](LimitedCounter::word) says.
    #[inline]
    pub(crate) fn of_word(word: u64) -> Self {
        unpack(word)
    }
}

/// Counts units up to a limit that may change at any time, and remembers whether somebody waits.
///
/// Invariants: a unit is only ever taken while `count < limit`, exactly, on any number of threads;
/// while contended, only who holds the queues' lock takes one. All three live in one word, so a
/// change of the limit or of the mark makes a take under way try again, and a release knows for
/// certain whether it must look for a waiter: there is no moment in which both sides miss each other.
#[derive(Debug)]
pub struct LimitedCounter {
    /// `limit << 32 | is_contended << 31 | count`.
    packed: AtomicU64,
}

impl LimitedCounter {
    /// No counter ever holds this word: its limit is higher than any.
    pub(crate) const NO_WORD: u64 = u64::MAX;

    /// An empty counter. Of the limit, [`LIMIT_MAX`] counts at most.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self {
            packed: AtomicU64::new(u64::from(limit.min(LIMIT_MAX)) << 32),
        }
    }

    /// Count, limit and mark, read together.
    #[must_use]
    pub fn load(&self) -> Occupancy {
        unpack(self.packed.load(Ordering::Relaxed))
    }

    /// The same as one word: whoever has seen it before finds by one comparison that nothing has changed.
    #[inline]
    pub(crate) fn word(&self) -> u64 {
        self.packed.load(Ordering::Relaxed)
    }

    /// Changes the limit. Units beyond a lowered limit stay valid; none is handed out until the
    /// count is below it.
    pub fn set_limit(&self, limit: u32) {
        let limit = u64::from(limit.min(LIMIT_MAX)) << 32;
        self.update(|packed| Some(packed & LOWER_HALF | limit));
    }

    /// Takes one unit; `false` when the limit is reached or somebody waits. The caller must wrap the
    /// unit in a guard that calls `release`.
    pub(crate) fn try_take(&self) -> bool {
        self.update(|packed| unpack(packed).has_room().then_some(packed + 1))
    }

    /// Takes one unit for whoever is next; `false` when the limit is reached. Only under the lock of
    /// the queues.
    pub(crate) fn try_take_in_turn(&self) -> bool {
        self.update(|packed| {
            let Occupancy { count, limit, .. } = unpack(packed);
            (count < limit).then_some(packed + 1)
        })
    }

    /// Gives one unit back; `true` if somebody may wait for it. Only a guard's `Drop` calls this,
    /// once for each successful take.
    pub(crate) fn release(&self) -> bool {
        let before = unpack(self.packed.fetch_sub(1, Ordering::Relaxed));
        debug_assert!(
            before.count > 0,
            "a unit was given back that nobody had taken"
        );
        before.is_contended
    }

    /// Somebody waits from now on. Only under the lock of the queues, which then must look once more
    /// for a unit given back before.
    pub(crate) fn contend(&self) {
        // Mostly it is marked already: reading keeps the line shared.
        if !self.load().is_contended {
            self.packed.fetch_or(CONTENDED, Ordering::Relaxed);
        }
    }

    /// Nobody waits any more. Only under the lock of the queues.
    pub(crate) fn settle(&self) {
        if self.load().is_contended {
            self.packed.fetch_and(!CONTENDED, Ordering::Relaxed);
        }
    }

    /// Relaxed is enough: the word guards no other memory, read-modify-writes of one word are totally
    /// ordered, and the queues have their lock.
    fn update(&self, next: impl Fn(u64) -> Option<u64>) -> bool {
        let mut seen = self.packed.load(Ordering::Relaxed);
        while let Some(wanted) = next(seen) {
            match self.packed.compare_exchange_weak(
                seen,
                wanted,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "each half is 32 bits wide by construction"
)]
fn unpack(packed: u64) -> Occupancy {
    Occupancy {
        count: packed as u32 & LIMIT_MAX,
        limit: (packed >> 32) as u32,
        is_contended: packed & CONTENDED != 0,
    }
}

/// The highest limit: a count below it never reaches the bit of the mark.
pub const LIMIT_MAX: u32 = (1 << 31) - 1;
const CONTENDED: u64 = 1 << 31;
const LOWER_HALF: u64 = 0xffff_ffff;
