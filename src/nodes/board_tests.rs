//! Tests of what health means for several nodes together.

use std::sync::Arc;

use super::super::table::tests::spec;
use super::super::{FailureReason, NodeDirectory};
use super::*;
use HealthEvent::{Drain, FailuresReached, ProbeFailed, ProbeSucceeded};
use NodeState::{Draining, Ejected, Offline, Online, Pending};

const TIMING: HealthTiming = HealthTiming {
    probe_interval: Duration::from_secs(10),
    heartbeat_timeout: Duration::from_secs(60),
};

struct Case {
    table: Arc<NodeTable>,
    board: HealthBoard,
    now: Duration,
}

impl Case {
    /// Online nodes with these names and models.
    fn online(nodes: &[(&str, &[&str])]) -> Self {
        let directory = NodeDirectory::default();
        let specs: Vec<_> = nodes
            .iter()
            .map(|(name, models)| spec(name, models, 1))
            .collect();
        let table = directory.publish(&specs, &[]).unwrap();
        let mut board = HealthBoard::new(TIMING);
        board.follow(&table, Duration::ZERO);
        let mut case = Self {
            table,
            board,
            now: Duration::ZERO,
        };
        for (name, _) in nodes {
            let change = case.apply(name, ProbeSucceeded);
            assert_eq!(
                change,
                Some(Transition {
                    from: Pending,
                    to: Online
                })
            );
        }
        case
    }

    fn apply(&mut self, name: &str, event: HealthEvent) -> Option<Transition> {
        let node = Arc::clone(self.table.node(name).unwrap());
        let at = EventTime {
            now: self.now,
            random: 0,
        };
        let change = self.board.apply(&self.table, &node, event, at);
        assert_eq!(node.live.state(), self.board.health(name).unwrap().state());
        self.board.check_invariants();
        change
    }

    /// Fails requests until the threshold is reported, then reports it.
    fn fail(&mut self, name: &str) -> Option<Transition> {
        let live = Arc::clone(&self.table.node(name).unwrap().live);
        for failure in 1..=EJECTION_FAILURES {
            let reached = live.record_failure(FailureReason::Connect);
            assert_eq!(reached, failure == EJECTION_FAILURES);
        }
        self.apply(name, FailuresReached)
    }

    fn state(&self, name: &str) -> NodeState {
        self.table.node(name).unwrap().live.state()
    }
}

const EJECTION: Option<Transition> = Some(Transition {
    from: Online,
    to: Ejected,
});

#[test]
fn the_last_online_node_of_a_model_is_not_ejected_and_is_asked_again_later() {
    let mut case = Case::online(&[("a", &["m"]), ("b", &["m"])]);
    assert_eq!(case.fail("a"), EJECTION);
    assert_eq!(case.fail("b"), None);
    assert_eq!(case.fail("b"), None);
    case.now += Duration::from_secs(1);
    assert!(case.apply("a", ProbeSucceeded).is_some());
    assert_eq!(case.fail("b"), EJECTION);
}

#[test]
fn a_node_that_alone_serves_one_of_its_models_is_not_ejected() {
    let mut case = Case::online(&[("a", &["m", "own"]), ("b", &["m"])]);
    assert_eq!(case.fail("a"), None);
    assert_eq!(case.fail("b"), EJECTION);
}

#[test]
fn a_success_after_the_report_spares_the_node() {
    let mut case = Case::online(&[("a", &["m"]), ("b", &["m"])]);
    let live = Arc::clone(&case.table.node("a").unwrap().live);
    for _ in 0..EJECTION_FAILURES {
        // The report is under way while the success happens.
        let _reached = live.record_failure(FailureReason::Connect);
    }
    live.record_success();
    assert_eq!(case.apply("a", FailuresReached), None);
    assert_eq!(case.state("a"), Online);
}

#[test]
fn a_returned_node_begins_with_a_clean_count() {
    let mut case = Case::online(&[("a", &["m"]), ("b", &["m"])]);
    assert_eq!(case.fail("a"), EJECTION);
    // A request begun before the ejection fails after it.
    let live = Arc::clone(&case.table.node("a").unwrap().live);
    assert!(!live.record_failure(FailureReason::ClosedMidResponse));
    case.now += Duration::from_secs(1);
    assert!(case.apply("a", ProbeSucceeded).is_some());
    assert_eq!(live.consecutive_failures(), 0);
}

#[test]
fn an_ejected_node_is_recalled_when_the_last_online_one_goes() {
    for (event, repeats, state) in [(ProbeFailed, 2, Offline), (Drain, 1, Draining)] {
        let mut case = Case::online(&[("a", &["m"]), ("b", &["m"])]);
        case.fail("a");
        case.now += Duration::from_millis(1);
        assert_eq!(case.board.probes_due(case.now).count(), 0);
        for _ in 0..repeats {
            case.apply("b", event);
        }
        assert_eq!(case.state("b"), state);
        assert_eq!(case.board.probes_due(case.now).collect::<Vec<_>>(), ["a"]);
        assert!(case.apply("a", ProbeSucceeded).is_some());
    }
}

#[test]
fn a_new_table_adds_nodes_as_pending_keeps_verdicts_and_forgets_the_removed() {
    let directory = NodeDirectory::default();
    let mut board = HealthBoard::new(TIMING);
    let first = directory
        .publish(&[spec("a", &["m"], 1), spec("b", &["m"], 1)], &[])
        .unwrap();
    board.follow(&first, Duration::ZERO);
    let at = EventTime {
        now: Duration::ZERO,
        random: 0,
    };
    assert!(
        board
            .apply(&first, &first.nodes()[0], ProbeSucceeded, at)
            .is_some()
    );
    let second = directory
        .publish(&[spec("a", &["m"], 1), spec("c", &["m"], 1)], &[])
        .unwrap();
    let later = Duration::from_secs(3);
    board.follow(&second, later);
    let states: Vec<_> = second
        .nodes()
        .iter()
        .map(|node| node.live.state())
        .collect();
    assert_eq!(states, [Online, Pending]);
    assert!(board.health("b").is_none());
    assert_eq!(
        board.apply(&second, &first.nodes()[1], ProbeSucceeded, at),
        None
    );
    assert_eq!(board.probes_due(later).collect::<Vec<_>>(), ["c"]);
    assert_eq!(board.next_probe_at(), Some(later));
}

#[test]
fn a_node_is_not_due_again_while_its_probe_is_under_way() {
    let mut case = Case::online(&[("a", &["m"]), ("b", &["m"])]);
    case.now += TIMING.probe_interval;
    assert_eq!(
        case.board.probes_due(case.now).collect::<Vec<_>>(),
        ["a", "b"]
    );
    case.board.probe_began("a");
    case.board.check_invariants();
    assert_eq!(case.board.probes_due(case.now).collect::<Vec<_>>(), ["b"]);
    // What happens meanwhile does not make it due twice.
    case.apply("a", HealthEvent::Enable);
    assert_eq!(case.board.probes_due(case.now).collect::<Vec<_>>(), ["b"]);
    case.apply("a", ProbeFailed);
    case.now += TIMING.probe_interval;
    assert_eq!(
        case.board.probes_due(case.now).collect::<Vec<_>>(),
        ["b", "a"]
    );
}

#[test]
fn only_silent_nodes_that_had_reported_themselves_are_missed() {
    let mut case = Case::online(&[("a", &["m"]), ("b", &["m"]), ("c", &["m"])]);
    let heartbeat = HealthEvent::HeartbeatReceived {
        initializing: false,
    };
    case.apply("a", heartbeat);
    case.now += Duration::from_secs(1);
    case.apply("b", heartbeat);
    assert_eq!(
        case.board.next_heartbeat_at(),
        Some(Duration::from_secs(60))
    );
    let missed = |case: &Case| -> Vec<String> {
        case.board
            .heartbeats_due(case.now)
            .map(str::to_owned)
            .collect()
    };
    case.now = Duration::from_secs(60);
    assert_eq!(missed(&case), ["a"]);
    case.apply("a", HealthEvent::HeartbeatLost);
    assert!(missed(&case).is_empty());
    case.now += Duration::from_secs(1);
    assert_eq!(missed(&case), ["b"]);
}

#[test]
fn a_restarted_node_is_as_one_never_seen() {
    let mut case = Case::online(&[("a", &["m"]), ("b", &["m"])]);
    case.now += Duration::from_secs(3);
    case.apply("a", HealthEvent::HeartbeatReceived { initializing: true });
    let node = Arc::clone(case.table.node("a").unwrap());
    case.board.restart(&node, case.now);
    case.board.check_invariants();
    assert_eq!(case.state("a"), Pending);
    assert_eq!(case.board.next_heartbeat_at(), None);
    assert_eq!(case.board.probes_due(case.now).collect::<Vec<_>>(), ["a"]);
    assert!(case.apply("a", ProbeSucceeded).is_some());
}
