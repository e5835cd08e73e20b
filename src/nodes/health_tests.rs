//! Tests of one node's health on a virtual clock.

use super::*;
use HealthEvent::{Drain, Enable, FailuresReached, HeartbeatLost, ProbeFailed, ProbeSucceeded};
use NodeState::{Draining, Ejected, Offline, Online, Pending};

const INTERVAL: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(60);
const TIMING: HealthTiming = HealthTiming {
    probe_interval: INTERVAL,
    heartbeat_timeout: SILENCE,
};
const HEARTBEAT: HealthEvent = HealthEvent::HeartbeatReceived {
    initializing: false,
};
const INITIALIZING: HealthEvent = HealthEvent::HeartbeatReceived { initializing: true };
const START: Duration = Duration::from_secs(5000);

/// A machine with its clock; the random number 0 means no jitter.
struct Case {
    health: NodeHealth,
    now: Duration,
}

impl Case {
    fn pending() -> Self {
        Self {
            health: NodeHealth::new(TIMING, START),
            now: START,
        }
    }

    fn online() -> Self {
        let mut case = Self::pending();
        assert_eq!(case.apply(ProbeSucceeded), Online);
        case
    }

    fn apply(&mut self, event: HealthEvent) -> NodeState {
        self.health.apply(event, self.now, 0);
        self.health.check_invariants();
        self.health.state()
    }

    /// How long the node stays out when its failures reach the threshold now.
    fn ejection(&mut self) -> Duration {
        assert_eq!(self.apply(FailuresReached), Ejected);
        assert_eq!(self.health.probe_at(), self.health.returns_at());
        self.health.returns_at() - self.now
    }

    fn return_on_time(&mut self) {
        self.now = self.health.probe_at();
        assert_eq!(self.apply(ProbeSucceeded), Online);
    }
}

#[test]
fn a_new_node_is_probed_at_once_and_online_after_one_success() {
    let mut case = Case::pending();
    assert_eq!(
        (case.health.state(), case.health.probe_at()),
        (Pending, START)
    );
    assert_eq!(case.apply(FailuresReached), Pending);
    assert_eq!(case.apply(ProbeSucceeded), Online);
    assert_eq!(case.health.probe_at(), START + INTERVAL);
}

#[test]
fn two_failed_probes_in_a_row_take_a_node_offline_and_one_success_brings_it_back() {
    let mut case = Case::online();
    assert_eq!(case.apply(ProbeFailed), Online);
    assert_eq!(case.apply(ProbeSucceeded), Online);
    assert_eq!(case.apply(ProbeFailed), Online);
    assert_eq!(case.apply(ProbeFailed), Offline);
    assert_eq!(case.apply(ProbeFailed), Offline);
    assert_eq!(case.apply(FailuresReached), Offline);
    assert_eq!(case.apply(ProbeSucceeded), Online);
}

#[test]
fn an_ejected_node_returns_only_after_its_time_and_a_good_probe() {
    let mut case = Case::online();
    assert_eq!(case.ejection(), Duration::from_secs(1));
    case.now += Duration::from_millis(999);
    assert_eq!(case.apply(ProbeSucceeded), Ejected);
    assert_eq!(case.health.probe_at(), case.health.returns_at());
    case.now += Duration::from_millis(1);
    assert_eq!(case.health.state(), Ejected);
    assert_eq!(case.apply(ProbeSucceeded), Online);
}

#[test]
fn ejections_double_to_a_minute_and_start_anew_after_a_calm_minute() {
    let mut case = Case::online();
    let mut lengths = Vec::new();
    for _ in 0..9 {
        lengths.push(case.ejection().as_secs());
        case.return_on_time();
    }
    assert_eq!(lengths, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    case.now += EJECTION_MAX - Duration::from_nanos(1);
    assert_eq!(case.ejection().as_secs(), 60);
    case.return_on_time();
    case.now += EJECTION_MAX;
    assert_eq!(case.ejection().as_secs(), 1);
}

#[test]
fn a_failed_probe_doubles_an_ejection_and_a_second_one_means_offline() {
    let mut case = Case::online();
    case.ejection();
    case.now = case.health.probe_at();
    assert_eq!(case.apply(ProbeFailed), Ejected);
    assert_eq!(case.health.returns_at() - case.now, Duration::from_secs(2));
    case.now = case.health.probe_at();
    assert_eq!(case.apply(ProbeFailed), Offline);
    assert_eq!(case.apply(ProbeSucceeded), Online);
    // It has not made good yet.
    assert_eq!(case.ejection(), Duration::from_secs(4));
}

#[test]
fn jitter_shortens_an_ejection_by_at_most_a_tenth() {
    let lengths = (0..2000).map(|random| {
        let mut health = Case::online().health;
        health.apply(FailuresReached, START, random);
        health.returns_at() - START
    });
    let (mut shortest, mut longest) = (Duration::MAX, Duration::ZERO);
    for length in lengths {
        shortest = shortest.min(length);
        longest = longest.max(length);
    }
    assert_eq!(
        (shortest, longest),
        (Duration::from_millis(900), Duration::from_secs(1))
    );
}

#[test]
fn thousands_of_ejections_do_not_overflow() {
    let mut case = Case::online();
    for _ in 0..5000 {
        assert!(case.ejection() <= EJECTION_MAX);
        case.return_on_time();
    }
}

#[test]
fn a_node_without_its_heartbeat_stays_offline_whatever_probes_say() {
    let mut case = Case::online();
    assert_eq!(case.apply(HEARTBEAT), Online);
    assert_eq!(case.apply(HeartbeatLost), Offline);
    assert_eq!(case.apply(ProbeSucceeded), Offline);
    case.now += Duration::from_secs(3);
    assert_eq!(case.apply(HEARTBEAT), Offline);
    assert_eq!(case.health.probe_at(), case.now);
    assert_eq!(case.apply(ProbeSucceeded), Online);
}

#[test]
fn a_drained_node_stays_so_until_it_is_enabled_and_must_then_prove_itself() {
    for begin in [Case::pending, Case::online] {
        let mut case = begin();
        assert_eq!(case.apply(Drain), Draining);
        for event in [
            ProbeSucceeded,
            ProbeFailed,
            ProbeFailed,
            FailuresReached,
            HeartbeatLost,
            Drain,
        ] {
            assert_eq!(case.apply(event), Draining, "{event:?}");
        }
        assert_eq!(case.apply(HEARTBEAT), Draining);
        case.now += Duration::from_secs(1);
        assert_eq!(case.apply(Enable), Pending);
        assert_eq!(case.health.probe_at(), case.now);
        assert_eq!(case.apply(ProbeSucceeded), Online);
    }
}

#[test]
fn enabling_probes_an_offline_node_at_once_but_does_not_cut_an_ejection_short() {
    let mut case = Case::online();
    case.apply(ProbeFailed);
    assert_eq!(case.apply(ProbeFailed), Offline);
    case.now += Duration::from_secs(1);
    assert_eq!(case.apply(Enable), Offline);
    assert_eq!(case.health.probe_at(), case.now);
    case.apply(ProbeSucceeded);
    case.ejection();
    let due = case.health.probe_at();
    assert_eq!(case.apply(Enable), Ejected);
    assert_eq!(case.health.probe_at(), due);
}

#[test]
fn a_recalled_node_may_return_at_once_but_not_without_a_probe() {
    let mut case = Case::online();
    case.ejection();
    case.now += Duration::from_millis(1);
    case.health.recall(case.now);
    assert_eq!(
        (case.health.state(), case.health.probe_at()),
        (Ejected, case.now)
    );
    assert_eq!(case.apply(ProbeSucceeded), Online);
}

#[test]
fn a_node_is_missed_only_after_its_first_heartbeat_and_a_whole_timeout_of_silence() {
    let mut case = Case::online();
    assert_eq!(case.health.heartbeat_until(), None);
    assert_eq!(case.apply(HEARTBEAT), Online);
    assert_eq!(case.health.heartbeat_until(), Some(START + SILENCE));
    case.now += Duration::from_secs(59);
    case.apply(HEARTBEAT);
    assert_eq!(case.health.heartbeat_until(), Some(case.now + SILENCE));
    case.now += SILENCE;
    assert_eq!(case.apply(HeartbeatLost), Offline);
    assert_eq!(case.health.heartbeat_until(), None);
}

#[test]
fn a_node_that_initializes_gets_no_traffic_until_it_says_otherwise_and_a_probe_agrees() {
    let mut case = Case::pending();
    assert_eq!(case.apply(INITIALIZING), Pending);
    assert_eq!(case.apply(ProbeSucceeded), Pending);
    case.now += Duration::from_secs(3);
    assert_eq!(case.apply(HEARTBEAT), Pending);
    assert_eq!(case.health.probe_at(), case.now);
    assert_eq!(case.apply(ProbeSucceeded), Online);
    // It loads another model.
    assert_eq!(case.apply(INITIALIZING), Pending);
    assert_eq!(case.apply(ProbeSucceeded), Pending);
    // It breaks down meanwhile, and is there again before it is done.
    case.apply(ProbeFailed);
    assert_eq!(case.apply(ProbeFailed), Offline);
    assert_eq!(case.apply(ProbeSucceeded), Pending);
    assert_eq!(case.apply(HEARTBEAT), Pending);
    assert_eq!(case.apply(ProbeSucceeded), Online);
}

#[test]
fn to_initialize_ends_no_ejection() {
    let mut case = Case::online();
    case.ejection();
    assert_eq!(case.apply(INITIALIZING), Ejected);
    let due = case.health.probe_at();
    assert_eq!(case.apply(HEARTBEAT), Ejected);
    assert_eq!(case.health.probe_at(), due);
    case.apply(INITIALIZING);
    case.now = due;
    assert_eq!(case.apply(ProbeSucceeded), Pending);
}

#[test]
fn a_dead_node_is_looked_for_quickly_at_first_and_then_at_the_usual_pace() {
    let mut case = Case::pending();
    let pauses: Vec<u64> = (0..10)
        .map(|_| {
            case.apply(ProbeFailed);
            let pause = case.health.probe_at() - case.now;
            case.now = case.health.probe_at();
            pause.as_secs()
        })
        .collect();
    assert_eq!(pauses, [2, 2, 2, 2, 2, 4, 8, 10, 10, 10]);
    assert_eq!(case.apply(ProbeSucceeded), Online);
}

#[test]
fn a_new_timing_counts_from_the_last_sign_of_life() {
    let mut case = Case::online();
    case.apply(HEARTBEAT);
    case.now += Duration::from_secs(5);
    let quick = HealthTiming {
        probe_interval: Duration::from_secs(1),
        heartbeat_timeout: Duration::from_secs(20),
    };
    case.health.set_timing(quick, case.now);
    assert_eq!(case.health.probe_at(), case.now + Duration::from_secs(1));
    assert_eq!(
        case.health.heartbeat_until(),
        Some(START + Duration::from_secs(20))
    );
    let due = case.health.probe_at();
    case.health.set_timing(TIMING, case.now);
    assert_eq!(case.health.probe_at(), due);
    assert_eq!(case.health.heartbeat_until(), Some(START + SILENCE));
}
