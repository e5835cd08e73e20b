//! Tests of what the queues know of models and nodes across changes of the table.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::super::candidates::tests::local_admission;
use super::super::table::tests::spec;
use super::super::{CandidateLimits, Candidates, NodeDirectory, Selection, Slot};
use super::*;
use crate::admission::{Admittance, Demand, QueueLimits, Turn};

/// A worker over one online node "n" with a single slot, which serves these models.
struct Setting {
    directory: Arc<NodeDirectory>,
    admission: LocalAdmission,
    worker: Candidates,
}

impl Setting {
    fn new(models: &[&str]) -> Self {
        let directory = Arc::new(NodeDirectory::default());
        let admission = local_admission();
        let limits = CandidateLimits {
            max_capacity: 4,
            ttl: Duration::from_secs(5),
        };
        let worker = Candidates::new(Arc::clone(&directory), limits, 0, admission.clone());
        let setting = Self {
            directory,
            admission,
            worker,
        };
        setting.publish(models, 1);
        setting
    }

    fn publish(&self, models: &[&str], max_concurrency: u32) {
        let specs = [spec("n", models, max_concurrency)];
        let table = self.directory.publish(&specs, &[]).unwrap();
        table.nodes()[0].live.publish_state(NodeState::Online);
        self.admission
            .refresh(table.generation(), |name| table.model(name).cloned());
    }

    fn slot(&mut self, model: &str) -> Option<Slot> {
        match self.worker.select(model, &[], Duration::ZERO) {
            Selection::Slot(slot, _) => Some(slot),
            _ => None,
        }
    }

    fn wait(&mut self, model: &str) -> Place {
        let resolved = self.worker.resolve(model, Duration::ZERO).unwrap();
        let demand = Demand {
            group: resolved.model(),
            generation: resolved.generation(),
            key: 0,
            limits: QueueLimits {
                max_size: 10,
                max_place: 10,
            },
        };
        match self.admission.ask(&demand) {
            Admittance::Waits(place) => place,
            other => panic!("does not wait: {other:?}"),
        }
    }
}

/// The permit and the slot of one whose turn has come.
fn turn(setting: &mut Setting, place: &mut Place) -> Option<(Permit, Slot)> {
    match place.poll_turn(&Context::from_waker(Waker::noop())) {
        Poll::Ready(Turn::Served(permit, served)) => {
            Some((permit, setting.worker.adopt(served).unwrap()))
        }
        _ => None,
    }
}

#[test]
fn a_slot_taken_before_its_node_served_a_model_still_goes_to_those_who_wait_for_that_model() {
    let mut setting = Setting::new(&["a"]);
    let slot = setting.slot("a").unwrap();
    setting.publish(&["a", "b"], 1);
    let mut place = setting.wait("b");
    drop(slot);
    assert!(setting.slot("a").is_none(), "a newcomer overtook");
    let held = turn(&mut setting, &mut place);
    assert!(held.is_some(), "the slot was lost to the one who waits");
    drop(held);
    let slots = setting.directory.snapshot().nodes()[0].live.slots();
    assert_eq!((slots.count, slots.is_contended), (0, false));
}

#[test]
fn a_slot_taken_before_its_node_lost_a_model_serves_nobody_of_that_model() {
    let mut setting = Setting::new(&["a", "b"]);
    let slot = setting.slot("b").unwrap();
    let mut waits_for_a = setting.wait("a");
    let mut waits_for_b = setting.wait("b");
    setting.publish(&["a"], 1);
    let verdict = waits_for_b.poll_turn(&Context::from_waker(Waker::noop()));
    assert!(matches!(verdict, Poll::Ready(Turn::Unavailable)));
    drop(slot);
    assert!(turn(&mut setting, &mut waits_for_a).is_some());
}

#[test]
fn a_slot_that_was_handed_over_is_handed_on() {
    let mut setting = Setting::new(&["a"]);
    let slot = setting.slot("a").unwrap();
    let mut places = [setting.wait("a"), setting.wait("a")];
    drop(slot);
    let [first, second] = &mut places;
    let held = turn(&mut setting, first).unwrap();
    assert!(turn(&mut setting, second).is_none());
    // The node it was adopted for has another id by now.
    setting.publish(&["a"], 1);
    drop(held);
    drop(turn(&mut setting, second).unwrap());
    assert!(setting.slot("a").is_some());
}

#[test]
fn a_raised_limit_serves_those_who_wait_and_a_node_that_goes_away_tells_them() {
    let mut setting = Setting::new(&["a"]);
    let _slot = setting.slot("a").unwrap();
    let mut places = [setting.wait("a"), setting.wait("a")];
    setting.publish(&["a"], 2);
    let [first, second] = &mut places;
    let held = turn(&mut setting, first);
    assert!(held.is_some());
    setting.directory.publish(&[], &[]).unwrap();
    let table = setting.directory.snapshot();
    setting
        .admission
        .refresh(table.generation(), |name| table.model(name).cloned());
    let verdict = second.poll_turn(&Context::from_waker(Waker::noop()));
    assert!(matches!(verdict, Poll::Ready(Turn::Unavailable)));
}

#[test]
fn a_queue_takes_the_node_with_the_lowest_load_and_turns_among_equals() {
    let directory = NodeDirectory::default();
    let specs = [
        spec("x", &["a"], 2),
        spec("y", &["a"], 2),
        spec("z", &["a"], 4),
    ];
    let table = directory.publish(&specs, &[]).unwrap();
    for node in table.nodes() {
        node.live.publish_state(NodeState::Online);
        node.live.contend();
    }
    let model = table.model("a").unwrap();
    let mut rotation = 0;
    let chosen: Vec<_> = std::iter::from_fn(|| model.try_take_in_turn(&mut rotation))
        .map(|node| &*node.name)
        .collect();
    assert_eq!(chosen, ["x", "y", "z", "z", "x", "y", "z", "z"]);
    table.nodes()[1].live.publish_state(NodeState::Draining);
    for node in table.nodes() {
        node.live.release_slot();
    }
    assert_eq!(&*model.try_take_in_turn(&mut rotation).unwrap().name, "x");
}
