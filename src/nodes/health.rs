//! Owns the verdict on one node: a pure state machine on a clock and random numbers that are passed
//! in. Never probes, publishes or looks at other nodes; [`HealthBoard`](super::HealthBoard) does
//! the latter two.
//!
//! ```text
//!                        probe ok                  5 failures in a row
//!             Pending ──────────────► Online ─────────────────────────────► Ejected ◄─┐
//!                │ 2 failed probes    │    ▲  (never the last online node)  │  │  │   │ 1 failed probe:
//!                │                    │    │                                │  │  └───┘ twice as long
//!                │    2 failed probes,│    │ probe ok, not before the time  │  │
//!                │    heartbeat lost  │    └────────────────────────────────┘  │
//!                ▼                    ▼    ▲                                   │ 2 failed probes,
//!             Offline ◄───────────────┘    │ probe ok, heartbeat not missing   │ heartbeat lost
//!                │  ▲                      │                                   │
//!                │  └──────────────────────┼───────────────────────────────────┘
//!                └─────────────────────────┘
//!             any ── drain ──► Draining ── enable ──► Pending
//! ```
//!
//! Sources: spec sections 6 (ejection) and 9 (pull checks, heartbeats).

use std::time::Duration;

use super::live::NodeState;

/// Something the control thread learnt about a node, or an operator's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthEvent {
    /// A pull check got a good answer.
    ProbeSucceeded,
    /// A pull check got none in time, or a bad one.
    ProbeFailed,
    /// A worker saw the failure in a row that reaches the threshold.
    FailuresReached,
    /// The node reported itself alive.
    HeartbeatReceived,
    /// A node that used to report itself has been silent for too long.
    HeartbeatLost,
    /// Take the node out of service gently.
    Drain,
    /// Put a drained node back, or look at a failed one at once.
    Enable,
}

/// The health of one node. Times are durations since one monotonic origin.
///
/// Invariant: checked by [`check_invariants`](Self::check_invariants).
#[derive(Clone, Debug)]
pub struct NodeHealth {
    state: NodeState,
    probe_interval: Duration,
    probe_at: Duration,
    failed_probes: u32,
    heartbeat_missing: bool,
    /// Ejections without a calm stretch between them; the exponent of the next one's length.
    ejections: u32,
    returns_at: Duration,
    returned_at: Duration,
}

impl NodeHealth {
    /// A new node: Pending, its first probe due at once.
    #[must_use]
    pub fn new(probe_interval: Duration, now: Duration) -> Self {
        Self {
            state: NodeState::Pending,
            probe_interval,
            probe_at: now,
            failed_probes: 0,
            heartbeat_missing: false,
            ejections: 0,
            returns_at: Duration::ZERO,
            returned_at: Duration::ZERO,
        }
    }

    /// The verdict.
    #[must_use]
    pub fn state(&self) -> NodeState {
        self.state
    }

    /// When the next probe is due. It moves with each probe's outcome, so a driver probes a node
    /// again only after that.
    #[must_use]
    pub fn probe_at(&self) -> Duration {
        self.probe_at
    }

    /// When an ejected node may return; meaningless in other states.
    #[must_use]
    pub fn returns_at(&self) -> Duration {
        self.returns_at
    }

    /// Takes one event in. `random` is any number; it spreads the returns of nodes ejected
    /// together.
    pub fn apply(&mut self, event: HealthEvent, now: Duration, random: u32) {
        match event {
            HealthEvent::ProbeSucceeded => self.probe_succeeded(now),
            HealthEvent::ProbeFailed => self.probe_failed(now, random),
            HealthEvent::FailuresReached => self.failures_reached(now, random),
            HealthEvent::HeartbeatReceived => {
                if self.heartbeat_missing {
                    self.heartbeat_missing = false;
                    self.probe_at = now;
                }
            }
            HealthEvent::HeartbeatLost => {
                self.heartbeat_missing = true;
                self.leave(NodeState::Offline);
            }
            HealthEvent::Drain => self.state = NodeState::Draining,
            HealthEvent::Enable => self.enable(now),
        }
    }

    /// Lets an ejected node be probed and return at once, because a model is left without any
    /// online node.
    pub fn recall(&mut self, now: Duration) {
        if self.state == NodeState::Ejected {
            self.returns_at = self.returns_at.min(now);
            self.probe_at = self.probe_at.min(now);
        }
    }

    fn probe_succeeded(&mut self, now: Duration) {
        self.failed_probes = 0;
        self.probe_at = now.saturating_add(self.probe_interval);
        let returns = match self.state {
            NodeState::Pending | NodeState::Offline => !self.heartbeat_missing,
            NodeState::Ejected => now >= self.returns_at,
            NodeState::Online | NodeState::Draining => return,
        };
        if returns {
            self.state = NodeState::Online;
            self.returned_at = now;
        } else if self.state == NodeState::Ejected {
            self.probe_at = self.returns_at;
        }
    }

    fn probe_failed(&mut self, now: Duration, random: u32) {
        self.failed_probes = self.failed_probes.saturating_add(1);
        // A node in service is judged at the usual pace; one that is awaited is looked for more often,
        // so that a router started together with its nodes does not wait a whole interval for them.
        let pause = match self.state {
            NodeState::Online | NodeState::Draining => self.probe_interval,
            _ => self.probe_interval.min(AWAITED_PROBE_INTERVAL),
        };
        self.probe_at = now.saturating_add(pause);
        if self.failed_probes >= OFFLINE_FAILED_PROBES {
            self.leave(NodeState::Offline);
        } else if self.state == NodeState::Ejected {
            self.eject(now, random);
        }
    }

    fn failures_reached(&mut self, now: Duration, random: u32) {
        if self.state != NodeState::Online {
            return;
        }
        // A node that stayed up for longer than any ejection lasts has made good.
        if now.saturating_sub(self.returned_at) >= EJECTION_MAX {
            self.ejections = 0;
        }
        self.eject(now, random);
    }

    fn eject(&mut self, now: Duration, random: u32) {
        let doubled = EJECTION_FIRST.saturating_mul(2_u32.saturating_pow(self.ejections));
        self.ejections = self.ejections.saturating_add(1);
        let length = doubled.min(EJECTION_MAX);
        // Shortened by up to 10 %, so the longest ejection stays within its promise.
        let jitter = length / 1000 * (random % (EJECTION_JITTER_PER_MILLE + 1));
        self.state = NodeState::Ejected;
        self.returns_at = now.saturating_add(length.saturating_sub(jitter));
        self.probe_at = self.returns_at;
    }

    fn enable(&mut self, now: Duration) {
        if self.state == NodeState::Draining {
            self.state = NodeState::Pending;
            self.failed_probes = 0;
        }
        if self.state != NodeState::Ejected {
            self.probe_at = now;
        }
    }

    /// Goes to `state` unless an operator drains the node: that wish outlives all verdicts.
    fn leave(&mut self, state: NodeState) {
        if self.state != NodeState::Draining {
            self.state = state;
        }
    }

    /// What must hold after every event.
    ///
    /// # Panics
    /// If it does not; tests call this.
    pub fn check_invariants(&self) {
        match self.state {
            NodeState::Online => {
                assert!(!self.heartbeat_missing, "online without a heartbeat");
                assert!(
                    self.failed_probes < OFFLINE_FAILED_PROBES,
                    "online despite its probes"
                );
            }
            NodeState::Ejected => {
                assert!(self.ejections > 0, "ejected without an ejection");
                assert!(
                    self.failed_probes < OFFLINE_FAILED_PROBES,
                    "ejected despite its probes"
                );
                assert!(
                    self.probe_at >= self.returns_at,
                    "probed before it may return"
                );
            }
            NodeState::Pending => assert!(self.failed_probes < OFFLINE_FAILED_PROBES),
            NodeState::Draining | NodeState::Offline => {}
        }
    }
}

/// Failed probes in a row that take a node offline (spec section 9).
pub const OFFLINE_FAILED_PROBES: u32 = 2;
/// Pause between probes of a node that is not in service.
pub const AWAITED_PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// Length of the first ejection (spec section 6).
pub const EJECTION_FIRST: Duration = Duration::from_secs(1);
/// Length that doubling ends at, and the calm stretch after which it starts anew (spec section 6).
pub const EJECTION_MAX: Duration = Duration::from_secs(60);
/// How much an ejection is shortened at most.
pub const EJECTION_JITTER_PER_MILLE: u32 = 100;

#[cfg(test)]
#[cfg(not(loom))]
#[path = "health_tests.rs"]
mod tests;
