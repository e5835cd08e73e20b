//! Tests of one worker's candidate cache and of slots.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::super::Admission;
use super::super::table::tests::{alias, spec};
use super::*;
use crate::admission::AdmissionLimits;

const LIMITS: CandidateLimits = CandidateLimits {
    max_capacity: 100,
    ttl: Duration::from_secs(5),
};
const NOW: Duration = Duration::from_secs(1000);

/// Admission that lets everybody in, of a worker that is alone.
pub(crate) fn local_admission() -> LocalAdmission {
    let limits = AdmissionLimits {
        max_concurrent: u32::MAX,
        max_waiting: 100,
        warning_threshold: 0.5,
        overload_threshold: 0.8,
    };
    LocalAdmission::new(Arc::new(Admission::new(limits, |_| {})), 0)
}

/// A directory of online nodes `0..count` that serve `m`.
fn directory(count: usize, max_concurrency: u32) -> Arc<NodeDirectory> {
    let directory = Arc::new(NodeDirectory::default());
    let specs: Vec<_> = (0..count)
        .map(|index| spec(&index.to_string(), &["m"], max_concurrency))
        .collect();
    publish_online(&directory, &specs);
    directory
}

fn publish_online(directory: &NodeDirectory, specs: &[super::super::NodeSpec]) {
    let table = directory.publish(specs, &[alias("fast", "m")]).unwrap();
    table
        .nodes()
        .iter()
        .for_each(|node| node.live.publish_state(NodeState::Online));
}

fn worker(directory: &Arc<NodeDirectory>, index: usize) -> Candidates {
    Candidates::new(Arc::clone(directory), LIMITS, index, local_admission())
}

fn slot(selection: Selection) -> Slot {
    match selection {
        Selection::Slot(slot, _) => slot,
        other => panic!("no slot: {other:?}"),
    }
}

fn in_flight(directory: &NodeDirectory) -> u32 {
    directory
        .snapshot()
        .nodes()
        .iter()
        .map(|node| node.live.slots().count)
        .sum()
}

#[test]
fn slots_are_handed_out_up_to_the_limit_and_come_back() {
    let directory = directory(2, 2);
    let mut worker = worker(&directory, 0);
    let slots: Vec<_> = (0..4).map(|_| slot(worker.select("m", &[], NOW))).collect();
    assert!(matches!(worker.select("m", &[], NOW), Selection::NoSlot(_)));
    assert_eq!(in_flight(&directory), 4);
    drop(slots);
    assert_eq!(in_flight(&directory), 0);
    assert_eq!(directory.snapshot().nodes()[0].live.selections_total(), 2);
}

#[test]
fn a_slot_comes_back_when_its_exchange_panics() {
    let directory = directory(1, 1);
    let mut worker = worker(&directory, 0);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _slot = slot(worker.select("m", &[], NOW));
        panic!("an exchange fails");
    }));
    assert!(outcome.is_err());
    assert_eq!(in_flight(&directory), 0);
}

#[test]
fn a_slot_outlives_the_table_its_worker_and_the_removal_of_its_node() {
    let directory = directory(1, 1);
    let live = Arc::clone(&directory.snapshot().nodes()[0].live);
    let mut worker = worker(&directory, 0);
    let held = slot(worker.select("m", &[], NOW));
    directory.publish(&[], &[]).unwrap();
    assert!(matches!(
        worker.select("m", &[], NOW),
        Selection::UnknownModel
    ));
    drop(worker);
    assert_eq!((&*held.node().name, live.slots().count), ("0", 1));
    drop(held);
    assert_eq!(live.slots().count, 0);
}

#[test]
fn every_way_to_get_no_slot_says_which_it_was() {
    let directory = directory(2, 1);
    let mut worker = worker(&directory, 0);
    assert!(matches!(
        worker.select("unknown", &[], NOW),
        Selection::UnknownModel
    ));
    let table = directory.snapshot();
    let ids: Vec<_> = table.nodes().iter().map(|node| node.id).collect();
    assert!(matches!(
        worker.select("m", &ids, NOW),
        Selection::NoSlot(_)
    ));
    assert_eq!(slot(worker.select("m", &ids[..1], NOW)).node().id, ids[1]);
    for state in [
        NodeState::Pending,
        NodeState::Draining,
        NodeState::Offline,
        NodeState::Ejected,
    ] {
        table
            .nodes()
            .iter()
            .for_each(|node| node.live.publish_state(state));
        assert!(
            matches!(worker.select("m", &[], NOW), Selection::NoOnlineNode(_)),
            "{state:?}"
        );
    }
    table.nodes()[1].live.publish_state(NodeState::Online);
    assert_eq!(slot(worker.select("m", &[], NOW)).node().id, ids[1]);
}

#[test]
fn an_alias_tells_the_name_to_splice_and_shares_the_models_totals() {
    let directory = directory(1, 4);
    let mut worker = worker(&directory, 0);
    let direct = worker.resolve("m", NOW).unwrap();
    let aliased = worker.resolve("fast", NOW).unwrap();
    assert_eq!((aliased.name(), aliased.is_alias()), ("m", true));
    assert_eq!((direct.name(), direct.is_alias()), ("m", false));
    assert!(Arc::ptr_eq(direct.stats(), aliased.stats()));
    assert_eq!(direct.slot_count(), 4);
}

#[test]
fn an_entry_is_a_hit_until_its_time_is_over_or_the_table_changes() {
    let directory = directory(1, 1);
    let mut worker = worker(&directory, 0);
    let mut totals = |now| {
        assert!(worker.resolve("m", now).is_some());
        (worker.hits(), worker.misses())
    };
    assert_eq!(totals(NOW), (0, 1));
    assert_eq!(totals(NOW + LIMITS.ttl - Duration::from_nanos(1)), (1, 1));
    assert_eq!(totals(NOW + LIMITS.ttl), (1, 2));
    assert_eq!(totals(NOW + LIMITS.ttl), (2, 2));
    publish_online(&directory, &[spec("0", &["m"], 1)]);
    assert_eq!(totals(NOW + LIMITS.ttl), (2, 3));
}

#[test]
fn a_new_table_is_obeyed_at_the_next_choice() {
    let directory = directory(1, 1);
    let mut worker = worker(&directory, 0);
    drop(slot(worker.select("m", &[], NOW)));
    publish_online(&directory, &[spec("other", &["m"], 1)]);
    assert_eq!(&*slot(worker.select("m", &[], NOW)).node().name, "other");
    assert_eq!(
        worker.table().generation(),
        directory.snapshot().generation()
    );
}

#[test]
fn the_cache_stays_within_its_capacity_and_keeps_what_is_used() {
    let directory = Arc::new(NodeDirectory::default());
    let names: Vec<_> = (0..50).map(|index| format!("m{index}")).collect();
    let models: Vec<_> = names.iter().map(String::as_str).collect();
    publish_online(&directory, &[spec("a", &models, 1)]);
    let limits = CandidateLimits {
        max_capacity: 8,
        ..LIMITS
    };
    let mut worker = Candidates::new(directory, limits, 0, local_admission());
    for name in &names {
        worker.resolve("m0", NOW).unwrap();
        assert_eq!(worker.resolve(name, NOW).unwrap().name(), name);
        assert_eq!(worker.entries.len(), worker.index.len());
        assert!(worker.entries.len() <= 8);
        for (position, entry) in worker.entries.iter().enumerate() {
            assert_eq!(worker.index.get(&entry.name), Some(&position));
        }
    }
    // `m0` missed once; of the others each missed when first asked for.
    assert_eq!(worker.misses(), 50);
}

#[test]
fn new_bounds_hold_at_once_for_what_was_cached_before() {
    let directory = Arc::new(NodeDirectory::default());
    publish_online(&directory, &[spec("a", &["m", "n", "o"], 1)]);
    let mut worker = worker(&directory, 0);
    for name in ["m", "n", "o"] {
        worker.resolve(name, NOW).unwrap();
    }
    worker.set_limits(CandidateLimits {
        max_capacity: 1,
        ttl: Duration::from_secs(1),
    });
    for (name, seconds, hits) in [("m", 0, 0), ("m", 0, 1), ("m", 1, 1), ("n", 1, 1)] {
        worker
            .resolve(name, NOW + Duration::from_secs(seconds))
            .unwrap();
        assert_eq!(worker.hits(), hits, "{name} after {seconds} s");
    }
    assert_eq!(worker.entries.len(), 1);
}

#[test]
fn invented_names_are_counted_as_misses_but_not_kept() {
    let directory = directory(1, 1);
    let mut worker = worker(&directory, 0);
    for invented in 0..1000 {
        assert!(worker.resolve(&format!("x{invented}"), NOW).is_none());
    }
    assert_eq!((worker.entries.len(), worker.misses()), (0, 1000));
}

#[test]
fn equal_nodes_receive_equal_shares_even_when_every_entry_has_expired() {
    let directory = directory(3, 1);
    let mut worker = worker(&directory, 0);
    for request in 0..300 {
        drop(slot(worker.select("m", &[], NOW + LIMITS.ttl * request)));
    }
    for node in directory.snapshot().nodes() {
        assert_eq!(node.live.selections_total(), 100);
    }
}

#[test]
fn workers_begin_their_rotation_at_different_nodes() {
    let directory = directory(3, 1);
    let first = |index| {
        slot(worker(&directory, index).select("m", &[], NOW))
            .node()
            .name
            .clone()
    };
    assert_eq!(
        [0, 1, 2, 3].map(first).map(String::from),
        ["0", "1", "2", "0"]
    );
}

#[test]
fn workers_on_many_threads_never_pass_max_concurrency_and_lose_no_slot() {
    const WORKERS: usize = 4;
    let directory = directory(3, 2);
    let holders: Vec<_> = (0..3).map(|_| AtomicU32::new(0)).collect();
    let start = Barrier::new(WORKERS);
    thread::scope(|scope| {
        for index in 0..WORKERS {
            let (directory, holders, start) = (Arc::clone(&directory), &holders, &start);
            scope.spawn(move || {
                let mut worker = Candidates::new(directory, LIMITS, index, local_admission());
                let mut held = std::collections::VecDeque::new();
                start.wait();
                for request in 0..10_000_u32 {
                    if let Selection::Slot(slot, _) = worker.select("m", &[], NOW) {
                        let node: usize = slot.node().name.parse().unwrap();
                        let now = holders[node].fetch_add(1, Ordering::SeqCst) + 1;
                        assert!(now <= 2, "{now} slots of node {node} in use");
                        held.push_back((slot, node));
                    }
                    while held.len() > (request % 3) as usize {
                        let (slot, node) = held.pop_front().unwrap();
                        holders[node].fetch_sub(1, Ordering::SeqCst);
                        drop(slot);
                    }
                }
                for (_, node) in &held {
                    holders[*node].fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(in_flight(&directory), 0);
}
