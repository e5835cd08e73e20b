//! Owns the router-wide limits of spec section 5: requests in flight, requests waiting with the
//! backpressure state that follows from them, the queues in which they wait, and bytes of buffered
//! bodies. Plain numbers and guards: never does I/O, reads a clock, or names a node.
//!
//! A request that need not wait takes a permit and a slot, two atomic instructions. Only one that finds
//! neither, or finds that others wait, takes the lock of the queues ([`queues`]).

mod budget;
mod counter;
mod group;
mod limits;
mod local;
mod lock;
mod per_worker;
mod queue;
mod queues;
mod turns;

use std::fmt;

use crossbeam_utils::CachePadded;

pub use budget::{BufferBudget, BufferReservation, LocalBudget};
pub use counter::{LIMIT_MAX, LimitedCounter, Occupancy};
pub use group::{Group, Server};
use limits::Thresholds;
pub use limits::{AdmissionLimits, Backpressure};
pub use local::{Admittance, Demand, LocalAdmission, Permit, Place, Served, Turn};
use lock::Locked;
pub(crate) use per_worker::PerWorker;
use queues::{Counters, Queues};
pub use queues::{QueueLimits, Refusal, Return, SeatAddress};
pub use turns::{Ticket, TurnKey, TurnQueue};

/// The router-wide counters and queues, shared by all workers.
///
/// Each counter has its own cache line, so waiting requests do not slow admitted ones down.
pub struct Admission<G: Group> {
    in_flight: CachePadded<LimitedCounter>,
    waiting: CachePadded<LimitedCounter>,
    thresholds: Thresholds,
    queues: CachePadded<Locked<Queues<G>>>,
    wake: Box<dyn Fn(SeatAddress) + Send + Sync>,
}

impl<G: Group> Admission<G> {
    /// Empty counters under these limits. `wake` carries word to a seat of another worker, which then
    /// calls [`LocalAdmission::wake`]; it must neither block nor call back.
    #[must_use]
    pub fn new(
        limits: AdmissionLimits,
        wake: impl Fn(SeatAddress) + Send + Sync + 'static,
    ) -> Self {
        Self {
            in_flight: CachePadded::new(LimitedCounter::new(limits.max_concurrent)),
            waiting: CachePadded::new(LimitedCounter::new(limits.waiting_until_overloaded())),
            thresholds: Thresholds::new(&limits),
            queues: CachePadded::new(Locked::new(Queues::default())),
            wake: Box::new(wake),
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

    /// Replaces the limits. Requests in flight or waiting beyond a lowered one stay; who waits for what a
    /// raised one gives is served by [`LocalAdmission::limits_changed`], to be called on a worker.
    pub fn set_limits(&self, limits: &AdmissionLimits) {
        self.thresholds.set(limits);
        self.waiting.set_limit(limits.waiting_until_overloaded());
        self.in_flight.set_limit(limits.max_concurrent);
    }

    /// Waiting requests that make the load ratio 1.
    #[must_use]
    pub fn max_waiting(&self) -> u32 {
        self.thresholds.max_waiting()
    }

    /// The state when `waiting` requests wait.
    #[must_use]
    pub fn backpressure_at(&self, waiting: u32) -> Backpressure {
        self.thresholds.backpressure(waiting)
    }

    /// The state now.
    #[must_use]
    pub fn backpressure(&self) -> Backpressure {
        self.backpressure_at(self.waiting())
    }

    fn wake_elsewhere(&self, address: SeatAddress) {
        (self.wake)(address);
    }

    fn with_queues<T>(&self, act: impl FnOnce(&mut Queues<G>, Counters<'_>) -> T) -> T {
        let counters = Counters {
            in_flight: &self.in_flight,
            waiting: &self.waiting,
        };
        self.queues.with(|queues| act(queues, counters))
    }
}

impl<G: Group> fmt::Debug for Admission<G> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Admission")
            .field("in_flight", &self.in_flight())
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_models;
#[cfg(test)]
#[cfg(not(loom))]
mod queues_tests;
#[cfg(test)]
#[cfg(not(loom))]
mod return_tests;
#[cfg(test)]
#[cfg(not(loom))]
mod simulated_queue;
#[cfg(test)]
#[cfg(not(loom))]
mod simulation;
#[cfg(test)]
#[cfg(not(loom))]
mod stress_tests;
#[cfg(test)]
mod test_group;
#[cfg(test)]
#[cfg(not(loom))]
pub(crate) mod test_random;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
