//! Owns the verdict on one node: a pure state machine on a clock and random numbers that are passed
//! in. Never probes, publishes or looks at other nodes; [`HealthBoard`](super::HealthBoard) does
//! the latter two.
//!
//! ```text
//!                        probe ok                  5 failures in a row
//!             Pending ──────────────► Online ─────────────────────────────► Ejected ◄─┐
//!              ▲ │ ▲                  │ │  ▲  (never the last online node)  │  │  │   │ 1 failed probe:
//!              │ │ └── initializes ───┘ │  │                                │  │  └───┘ twice as long
//!              │ │ 2 failed probes      │  │ probe ok, not before the time  │  │
//!  probe ok,   │ │                      │  └────────────────────────────────┘  │
//!  initializes │ │     2 failed probes, │                                      │ 2 failed probes,
//!              │ ▼     heartbeat lost   │  probe ok, heartbeat not missing     │ heartbeat lost
//!             Offline ◄─────────────────┘ ─────────► Online                    │
//!                ▲                                                             │
//!                └─────────────────────────────────────────────────────────────┘
//!             any ── drain ──► Draining ── enable ──► Pending
//! ```
//!
//! Heartbeats are for nodes that send them: the first one begins the watch, and from then on silence for
//! longer than the timeout means offline, whatever probes say. A heartbeat that says `initializing` keeps
//! a node that answers probes out of service: Pending instead of Online, until one says otherwise. It ends
//! no ejection: an ejected node whose time is over and that still initializes becomes Pending as well.
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
    HeartbeatReceived {
        /// It says that it does not serve yet: its model is being loaded.
        initializing: bool,
    },
    /// A node that used to report itself has been silent for too long.
    HeartbeatLost,
    /// Take the node out of service gently.
    Drain,
    /// Put a drained node back, or look at a failed one at once.
    Enable,
}

/// How patient the machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthTiming {
    /// From one pull check of a node to the next.
    pub probe_interval: Duration,
    /// Silence after which a node that sends heartbeats counts as gone.
    pub heartbeat_timeout: Duration,
}

/// The health of one node. Times are durations since one monotonic origin.
///
/// Invariant: checked by [`check_invariants`](Self::check_invariants).
#[derive(Clone, Debug)]
pub struct NodeHealth {
    state: NodeState,
    timing: HealthTiming,
    probe_at: Duration,
    failed_probes: u32,
    /// Until when the next heartbeat is to come; `None` if none ever came, or one is missing.
    heartbeat_until: Option<Duration>,
    heartbeat_missing: bool,
    is_initializing: bool,
    /// Ejections without a calm stretch between them; the exponent of the next one's length.
    ejections: u32,
    returns_at: Duration,
    returned_at: Duration,
}

impl NodeHealth {
    /// A new node: Pending, its first probe due at once.
    #[must_use]
    pub fn new(timing: HealthTiming, now: Duration) -> Self {
        Self {
            state: NodeState::Pending,
            timing,
            probe_at: now,
            failed_probes: 0,
            heartbeat_until: None,
            heartbeat_missing: false,
            is_initializing: false,
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

    /// When [`HealthEvent::HeartbeatLost`] is due unless a heartbeat comes before; `None` for a node
    /// that sends none, or whose silence was noticed.
    #[must_use]
    pub fn heartbeat_until(&self) -> Option<Duration> {
        self.heartbeat_until
    }

    /// Whether pull checks fail since the last good one.
    #[must_use]
    pub fn has_failed_probes(&self) -> bool {
        self.failed_probes > 0
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
            HealthEvent::HeartbeatReceived { initializing } => self.heartbeat(initializing, now),
            HealthEvent::HeartbeatLost => {
                self.heartbeat_missing = true;
                self.heartbeat_until = None;
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

    /// Follows a change of the configuration; what is due already stays due.
    pub fn set_timing(&mut self, timing: HealthTiming, now: Duration) {
        let sooner = |due: Duration, limit: Duration| due.min(now.saturating_add(limit));
        if self.state != NodeState::Ejected {
            self.probe_at = sooner(self.probe_at, timing.probe_interval);
        }
        self.heartbeat_until = self.heartbeat_until.map(|until| {
            let heard_at = until.saturating_sub(self.timing.heartbeat_timeout);
            heard_at.saturating_add(timing.heartbeat_timeout)
        });
        self.timing = timing;
    }

    fn heartbeat(&mut self, initializing: bool, now: Duration) {
        self.heartbeat_until = Some(now.saturating_add(self.timing.heartbeat_timeout));
        let was_held_back = self.heartbeat_missing || self.is_initializing;
        self.heartbeat_missing = false;
        self.is_initializing = initializing;
        if initializing && self.state == NodeState::Online {
            self.state = NodeState::Pending;
        }
        // Its word alone does not put it back into service: a probe does, and at once.
        if was_held_back && !initializing && self.state != NodeState::Ejected {
            self.probe_at = now;
        }
    }

    fn probe_succeeded(&mut self, now: Duration) {
        self.failed_probes = 0;
        self.probe_at = now.saturating_add(self.timing.probe_interval);
        let returns = match self.state {
            NodeState::Pending | NodeState::Offline => !self.heartbeat_missing,
            NodeState::Ejected => now >= self.returns_at,
            NodeState::Online | NodeState::Draining => return,
        };
        if returns && self.is_initializing {
            self.state = NodeState::Pending;
        } else if returns {
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
            NodeState::Online | NodeState::Draining => self.timing.probe_interval,
            _ => self.awaited_pause(),
        };
        self.probe_at = now.saturating_add(pause);
        if self.failed_probes >= OFFLINE_FAILED_PROBES {
            self.leave(NodeState::Offline);
        } else if self.state == NodeState::Ejected {
            self.eject(now, random);
        }
    }

    /// Longer with each failure: a thousand dead nodes must not keep the probers from the living.
    fn awaited_pause(&self) -> Duration {
        let doublings = self.failed_probes.saturating_sub(AWAITED_PROBES_QUICK);
        let pause = AWAITED_PROBE_INTERVAL.saturating_mul(2_u32.saturating_pow(doublings));
        pause.min(self.timing.probe_interval)
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
        assert!(
            !self.heartbeat_missing || self.heartbeat_until.is_none(),
            "a missing heartbeat is awaited"
        );
        match self.state {
            NodeState::Online => {
                assert!(!self.heartbeat_missing, "online without a heartbeat");
                assert!(!self.is_initializing, "online while it initializes");
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
/// Probes at that pause; a start of a router together with its nodes lies within.
const AWAITED_PROBES_QUICK: u32 = 5;
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
