//! Owns the router-wide limits of spec section 5: requests in flight, requests waiting with the
//! backpressure state that follows from them, and bytes of buffered bodies. Plain numbers and
//! guards: never does I/O, reads a clock, or waits.

mod budget;
mod counter;
mod per_worker;

use std::sync::Arc;

use crossbeam_utils::CachePadded;

pub use budget::{BufferBudget, BufferReservation, LocalBudget};
pub use counter::{LimitedCounter, Occupancy};
pub(crate) use per_worker::PerWorker;

/// The limits of `load_manager` (spec section 2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdmissionLimits {
    /// Requests that may be in flight at once in the whole router.
    pub max_concurrent: u32,
    /// Waiting requests that make the ratio 1.
    pub max_waiting: u32,
    /// Ratio from which the state is [`Backpressure::Warning`].
    pub warning_threshold: f64,
    /// Ratio from which the state is [`Backpressure::Overloaded`].
    pub overload_threshold: f64,
}

/// How loaded the router is, from waiting ÷ `max_waiting` (spec section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backpressure {
    /// Below the warning threshold.
    Normal = 0,
    /// From the warning threshold on.
    Warning = 1,
    /// From the overload threshold on: a request that would have to wait is refused.
    Overloaded = 2,
}

/// The router-wide counters, shared by all workers.
///
/// Each counter has its own cache line, so waiting requests do not slow admitted ones down.
#[derive(Debug)]
pub struct Admission {
    in_flight: CachePadded<LimitedCounter>,
    waiting: CachePadded<LimitedCounter>,
    limits: AdmissionLimits,
}

/// One worker's handle on the [`Admission`]; guards made from it count references without touching
/// shared memory.
#[derive(Clone, Debug)]
pub struct LocalAdmission {
    shared: PerWorker<Admission>,
}

/// The right of one request to be in flight; given back exactly once, on drop.
#[derive(Debug)]
#[must_use = "dropping the permit gives it back at once"]
pub struct Permit {
    shared: PerWorker<Admission>,
}

/// The place of one waiting request in the router-wide count; given back exactly once, on drop.
#[derive(Debug)]
#[must_use = "dropping the place gives it back at once"]
pub struct Waiting {
    shared: PerWorker<Admission>,
}

impl AdmissionLimits {
    /// The state when `waiting` requests wait. Divides instead of multiplying, because
    /// `7.0 / 100.0 == 0.07` while `0.07 * 100.0 > 7.0`: a threshold written in decimal is met
    /// exactly.
    #[must_use]
    pub fn backpressure(&self, waiting: u32) -> Backpressure {
        let ratio = f64::from(waiting) / f64::from(self.max_waiting.max(1));
        if ratio < self.warning_threshold {
            Backpressure::Normal
        } else if ratio < self.overload_threshold {
            Backpressure::Warning
        } else {
            Backpressure::Overloaded
        }
    }

    /// The smallest count of waiting requests that is Overloaded, found by halving: `backpressure`
    /// never falls as the count rises.
    fn waiting_until_overloaded(&self) -> u32 {
        let (mut low, mut high) = (0, self.max_waiting.max(1));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.backpressure(middle) == Backpressure::Overloaded {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }
}

impl Backpressure {
    /// The word in `X-Backpressure` and in the control API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Warning => "warning",
            Self::Overloaded => "overloaded",
        }
    }
}

impl Admission {
    /// Empty counters under these limits.
    #[must_use]
    pub fn new(limits: AdmissionLimits) -> Self {
        Self {
            in_flight: CachePadded::new(LimitedCounter::new(limits.max_concurrent)),
            waiting: CachePadded::new(LimitedCounter::new(limits.waiting_until_overloaded())),
            limits,
        }
    }

    /// Requests in flight and `max_concurrent`.
    #[must_use]
    pub fn in_flight(&self) -> Occupancy {
        self.in_flight.load()
    }

    /// Requests waiting, over all workers and models.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.load().count
    }

    /// The state now.
    #[must_use]
    pub fn backpressure(&self) -> Backpressure {
        self.limits.backpressure(self.waiting())
    }

    /// The limits this was built with.
    #[must_use]
    pub fn limits(&self) -> &AdmissionLimits {
        &self.limits
    }
}

impl LocalAdmission {
    /// This worker's handle. It stays on the thread that made it.
    #[must_use]
    pub fn new(shared: Arc<Admission>) -> Self {
        Self {
            shared: PerWorker::new(shared),
        }
    }

    /// The shared counters, for reading.
    #[must_use]
    pub fn shared(&self) -> &Admission {
        &self.shared
    }

    /// Lets a request in unless `max_concurrent` are in flight.
    pub fn try_enter(&self) -> Option<Permit> {
        self.shared.in_flight.try_take().then(|| Permit {
            shared: self.shared.clone(),
        })
    }

    /// Counts a request as waiting unless the state is [`Backpressure::Overloaded`]: then it must
    /// be refused.
    pub fn try_wait(&self) -> Option<Waiting> {
        self.shared.waiting.try_take().then(|| Waiting {
            shared: self.shared.clone(),
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.in_flight.release();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shared.waiting.release();
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_models;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
