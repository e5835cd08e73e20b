//! Owns what changes about a node while requests run: slots, state, failure counts. All of it is
//! lock-free and shared by the workers. Never decides anything: the policy chooses, the health
//! machine judges.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use crate::admission::{LimitedCounter, Occupancy};

use super::bank::{Banks, Place};
use super::revision::StateRevision;

/// Whether a node gets traffic, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// New or enabled again: no traffic until a probe succeeded.
    Pending = 0,
    /// Gets traffic.
    Online = 1,
    /// An operator takes it out: no new requests, running ones finish.
    Draining = 2,
    /// Probes fail or heartbeats stopped.
    Offline = 3,
    /// Requests failed in a row; returns after a time and a probe.
    Ejected = 4,
}

/// Why a node failed a request. What a client does wrong is none of these (spec section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureReason {
    /// No connection: refused, unreachable, unresolved.
    Connect = 0,
    /// No connection within `connect_timeout_secs`.
    ConnectTimeout = 1,
    /// No response byte within `request_timeout_secs`.
    ResponseTimeout = 2,
    /// Silence within a stream for `stream_idle_timeout_secs`.
    StreamTimeout = 3,
    /// The connection ended before a response byte.
    ClosedBeforeResponse = 4,
    /// The connection ended within a response.
    ClosedMidResponse = 5,
    /// The response broke HTTP/1.1.
    BadResponse = 6,
}

/// The counters of one node. They belong to its name and outlive changes of the table.
///
/// Where what selection touches lies is [`Place`]'s part.
#[derive(Debug)]
pub struct NodeLive {
    place: Place,
    /// Of all nodes of the table.
    states: StateRevision,
    failures_total: CachePadded<[AtomicU64; FailureReason::ALL.len()]>,
}

impl NodeState {
    /// All states, by discriminant.
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Online,
        Self::Draining,
        Self::Offline,
        Self::Ejected,
    ];

    /// The word in metrics and in the control API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Online => "online",
            Self::Draining => "draining",
            Self::Offline => "offline",
            Self::Ejected => "ejected",
        }
    }
}

impl FailureReason {
    /// All reasons, by discriminant.
    pub const ALL: [Self; 7] = [
        Self::Connect,
        Self::ConnectTimeout,
        Self::ResponseTimeout,
        Self::StreamTimeout,
        Self::ClosedBeforeResponse,
        Self::ClosedMidResponse,
        Self::BadResponse,
    ];

    /// The word in metrics and in access records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::ResponseTimeout => "response_timeout",
            Self::StreamTimeout => "stream_timeout",
            Self::ClosedBeforeResponse => "closed_before_response",
            Self::ClosedMidResponse => "closed_mid_response",
            Self::BadResponse => "bad_response",
        }
    }
}

impl NodeLive {
    /// Counters of a new node, the `position`th of its table, which is Pending. Only the control thread calls
    /// this.
    pub(super) fn new(banks: &mut Banks, position: usize, max_concurrency: u32) -> Self {
        Self {
            place: Place::new(banks, position, max_concurrency),
            states: banks.states().clone(),
            failures_total: CachePadded::new([const { AtomicU64::new(0) }; _]),
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Advances after every change of this node's state, and of any other's in the table.
    pub(super) fn states(&self) -> &StateRevision {
        &self.states
    }

    /// Slots taken and `max_concurrency`, read together.
    #[must_use]
    pub fn slots(&self) -> Occupancy {
        self.place.slots().load()
    }

    /// Changes `max_concurrency`; requests beyond a lowered one run on.
    pub fn set_max_concurrency(&self, max_concurrency: u32) {
        self.place.slots().set_limit(max_concurrency);
    }

    /// The state last published.
    #[must_use]
    pub fn state(&self) -> NodeState {
        let byte = self.place.tally().state.load(Ordering::Relaxed);
        // Only `publish_state` writes the byte, so the fallback is never taken.
        NodeState::ALL
            .get(usize::from(byte))
            .copied()
            .unwrap_or(NodeState::Offline)
    }

    /// Publishes the health machine's verdict; workers see it at their next choice. Only the
    /// control thread calls this.
    pub fn publish_state(&self, state: NodeState) {
        self.place
            .tally()
            .state
            .store(state as u8, Ordering::Relaxed);
        self.states.advance();
    }

    /// Times this node was chosen.
    #[must_use]
    pub fn selections_total(&self) -> u64 {
        self.place.tally().selections_total.load(Ordering::Relaxed)
    }

    /// Failures for one reason.
    #[must_use]
    pub fn failures_total(&self, reason: FailureReason) -> u64 {
        self.failures_total[reason as usize].load(Ordering::Relaxed)
    }

    /// Failures since the last success.
    #[must_use]
    pub fn consecutive_failures(&self) -> u32 {
        self.place
            .tally()
            .consecutive_failures
            .load(Ordering::Relaxed)
    }

    /// Counts a failure of the node; `true` for each that completes another [`EJECTION_FAILURES`] in
    /// a row. The caller then tells the control thread; a report that gets lost is made again.
    #[must_use = "a reached threshold must be reported to the control thread"]
    pub fn record_failure(&self, reason: FailureReason) -> bool {
        self.failures_total[reason as usize].fetch_add(1, Ordering::Relaxed);
        let before = self
            .place
            .tally()
            .consecutive_failures
            .fetch_add(1, Ordering::Relaxed);
        before.wrapping_add(1).is_multiple_of(EJECTION_FAILURES)
    }

    /// Ends a run of failures. Writes only when there was one: a healthy node's line is not
    /// dirtied.
    pub fn record_success(&self) {
        if self.consecutive_failures() != 0 {
            self.restart_failure_run();
        }
    }

    /// Counts from zero again after the control thread has dealt with a reached threshold, whatever
    /// it decided: otherwise a last node that could not be ejected would never report again.
    pub(super) fn restart_failure_run(&self) {
        self.place
            .tally()
            .consecutive_failures
            .store(0, Ordering::Relaxed);
    }

    /// Takes a slot; `false` if none is free or somebody waits for one.
    pub(super) fn try_take_slot(&self) -> bool {
        self.count_selection(LimitedCounter::try_take)
    }

    /// Takes a slot for whoever is next. Only the queues call this.
    pub(super) fn try_take_slot_in_turn(&self) -> bool {
        self.count_selection(LimitedCounter::try_take_in_turn)
    }

    /// Gives a slot back; `true` if somebody may wait for it.
    pub(super) fn release_slot(&self) -> bool {
        self.place.slots().release()
    }

    /// Somebody waits for a slot from now on. Only the queues call this.
    pub(super) fn contend(&self) {
        self.place.slots().contend();
    }

    /// Nobody waits for a slot any more. Only the queues call this.
    pub(super) fn settle(&self) {
        self.place.slots().settle();
    }

    fn count_selection(&self, take: impl FnOnce(&LimitedCounter) -> bool) -> bool {
        let (slots, tally) = self.place.counters();
        let is_taken = take(slots);
        if is_taken {
            tally.selections_total.fetch_add(1, Ordering::Relaxed);
        }
        is_taken
    }
}

/// Failures in a row after which a node is ejected (spec section 6).
pub const EJECTION_FAILURES: u32 = 5;
