//! Tests of the queues as one thread sees them: who is served, who waits, who is told what.
#![expect(
    clippy::disallowed_types,
    reason = "the words that a test's workers send one another; nothing here is hot"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use super::test_group::{TestGroup, TestServer, alone};
use super::*;

const ANY: QueueLimits = QueueLimits {
    max_size: usize::MAX,
    max_place: usize::MAX,
};

pub(super) fn limits(max_concurrent: u32) -> AdmissionLimits {
    AdmissionLimits {
        max_concurrent,
        max_waiting: 1000,
        warning_threshold: 0.5,
        overload_threshold: 1.0,
    }
}

pub(super) fn demand(group: &Arc<TestGroup>) -> Demand<'_, TestGroup> {
    Demand {
        group,
        generation: 0,
        key: 0,
        limits: ANY,
    }
}

pub(super) type Held = (Permit<TestGroup>, Served<TestGroup>);

/// Asks, and must be served at once.
pub(super) fn serve(admission: &LocalAdmission<TestGroup>, group: &Arc<TestGroup>) -> Held {
    match admission.ask(&demand(group)) {
        Admittance::Served(permit, served) => (permit, served),
        other => panic!("not served at once: {other:?}"),
    }
}

/// Asks, and must wait.
pub(super) fn wait(
    admission: &LocalAdmission<TestGroup>,
    group: &Arc<TestGroup>,
) -> Place<TestGroup> {
    wait_as(admission, &demand(group))
}

pub(super) fn wait_as(
    admission: &LocalAdmission<TestGroup>,
    demand: &Demand<'_, TestGroup>,
) -> Place<TestGroup> {
    match admission.ask(demand) {
        Admittance::Waits(place) => place,
        other => panic!("does not wait: {other:?}"),
    }
}

fn refusal(
    admission: &LocalAdmission<TestGroup>,
    demand: &Demand<'_, TestGroup>,
) -> Option<Refusal> {
    match admission.ask(demand) {
        Admittance::Refused(refusal) => Some(refusal),
        _ => None,
    }
}

pub(super) fn poll(place: &mut Place<TestGroup>) -> Poll<Turn<TestGroup>> {
    place.poll_turn(&Context::from_waker(Waker::noop()))
}

pub(super) fn is_waiting(place: &mut Place<TestGroup>) -> bool {
    poll(place).is_pending()
}

/// The turn must have come.
pub(super) fn turn(place: &mut Place<TestGroup>) -> Held {
    match poll(place) {
        Poll::Ready(Turn::Served(permit, served)) => (permit, served),
        other => panic!("the turn has not come: {other:?}"),
    }
}

pub(super) fn is_contended(server: &TestServer) -> bool {
    server.slots.load().is_contended
}

/// Nobody is in flight or waits, and newcomers need no lock.
pub(super) fn assert_at_rest(admission: &LocalAdmission<TestGroup>, servers: &[&Arc<TestServer>]) {
    let shared = admission.shared();
    assert_eq!((shared.in_flight().count, shared.waiting()), (0, 0));
    assert!(!shared.in_flight().is_contended, "permits kept their mark");
    for server in servers {
        let slots = server.slots.load();
        assert_eq!(slots.count, 0, "{server:?}");
        assert!(!slots.is_contended, "{server:?} kept its mark");
    }
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Wakes {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn a_free_slot_is_given_at_once_though_a_mark_has_outlived_its_queue() {
    let admission = alone(limits(10));
    let server = TestServer::new(2);
    let group = TestGroup::new("m", &[&server]);
    let (first, second) = (serve(&admission, &group), serve(&admission, &group));
    drop(wait(&admission, &group));
    drop(first);
    server.slots.contend();
    assert!(group.try_take().is_none(), "the mark keeps newcomers off");
    let third = serve(&admission, &group);
    drop((second, third));
    assert_at_rest(&admission, &[&server]);
    assert!(group.try_take().is_some());
}

#[test]
fn a_freed_slot_goes_to_the_next_and_never_to_a_newcomer() {
    let admission = alone(limits(10));
    let server = TestServer::new(1);
    let group = TestGroup::new("m", &[&server]);
    let other = TestGroup::new("n", &[&server]);
    let held = serve(&admission, &group);
    let mut first = wait(&admission, &group);
    let mut second = wait(&admission, &group);
    assert_eq!((first.at_entry(), second.at_entry()), (1, 2));
    assert_eq!((group.waiting(), admission.shared().waiting()), (2, 2));
    drop(held);
    assert!(group.try_take().is_none() && other.try_take().is_none());
    let mut newcomer = wait(&admission, &group);
    let mut of_another_group = wait(&admission, &other);
    let held = turn(&mut first);
    assert!(is_waiting(&mut second) && is_waiting(&mut newcomer));
    assert!(is_waiting(&mut of_another_group));
    assert_eq!(
        (first.now(), second.now(), newcomer.now()),
        (None, Some(1), Some(2))
    );
    drop(held);
    drop(turn(&mut second));
    drop(turn(&mut newcomer));
    drop(turn(&mut of_another_group));
    assert_at_rest(&admission, &[&server]);
    assert_eq!((group.waiting(), other.waiting()), (0, 0));
}

#[test]
fn a_slot_whose_giver_is_still_on_its_way_is_not_taken_by_a_newcomer_of_another_group() {
    let admission = alone(limits(10));
    let server = TestServer::new(1);
    let group = TestGroup::new("m", &[&server]);
    let other = TestGroup::new("n", &[&server]);
    let (permit, served) = serve(&admission, &group);
    let mut first = wait(&admission, &group);
    // Half of what a guard does on drop: given back, but the queues have not been told.
    let server_given_back = served.into_server().unwrap();
    assert!(server_given_back.release());
    let mut newcomer = wait(&admission, &other);
    let held = turn(&mut first);
    admission.slot_freed(&server_given_back);
    assert!(is_waiting(&mut newcomer));
    drop((permit, held));
    drop(turn(&mut newcomer));
    assert_at_rest(&admission, &[&server]);
}

#[test]
fn a_permit_goes_to_whoever_waits_for_it_and_never_to_a_newcomer() {
    let admission = alone(limits(1));
    let (one, two) = (TestServer::new(1), TestServer::new(1));
    let (group, other) = (TestGroup::new("m", &[&one]), TestGroup::new("n", &[&two]));
    let held = serve(&admission, &group);
    assert!(admission.try_enter().is_none());
    let mut first = wait(&admission, &other);
    drop(held);
    assert!(admission.try_enter().is_none(), "the permit is somebody's");
    let mut newcomer = wait(&admission, &group);
    drop(turn(&mut first));
    drop(turn(&mut newcomer));
    assert_at_rest(&admission, &[&one, &two]);
    assert!(admission.try_enter().is_some());
}

#[test]
fn a_permit_given_back_just_now_belongs_to_the_oldest_though_its_giver_is_late() {
    let admission = alone(limits(1));
    let (one, two) = (TestServer::new(1), TestServer::new(1));
    let (group, other) = (TestGroup::new("m", &[&one]), TestGroup::new("n", &[&two]));
    assert!(admission.shared().in_flight.try_take());
    let mut first = wait(&admission, &group);
    assert!(admission.shared().in_flight.release(), "the mark is seen");
    let mut newcomer = wait(&admission, &other);
    drop(turn(&mut first));
    drop(turn(&mut newcomer));
    assert_at_rest(&admission, &[&one, &two]);
}

#[test]
fn the_oldest_is_served_first_over_all_groups_of_a_server() {
    let admission = alone(limits(10));
    let server = TestServer::new(1);
    let names = ["a", "b", "c"];
    let groups = names.map(|name| TestGroup::new(name, &[&server]));
    for start in 0..groups.len() {
        let mut held = serve(&admission, &groups[start]);
        let order = [start, (start + 2) % 3, (start + 1) % 3, start];
        let mut places = order.map(|index| wait(&admission, &groups[index]));
        for next in 0..places.len() {
            drop(held);
            held = turn(&mut places[next]);
            assert!(places[next + 1..].iter_mut().all(is_waiting));
        }
    }
    assert_at_rest(&admission, &[&server]);
}

#[test]
fn the_oldest_is_served_first_when_permits_are_what_lacks() {
    let admission = alone(limits(1));
    let servers = [(); 3].map(|()| TestServer::new(5));
    let names = ["c", "a", "b"];
    let groups: Vec<_> = names
        .iter()
        .zip(&servers)
        .map(|(name, server)| TestGroup::new(name, &[server]))
        .collect();
    let mut held = serve(&admission, &groups[0]);
    let order = [1, 0, 2, 1];
    let mut places = order.map(|index| wait(&admission, &groups[index]));
    for next in 0..places.len() {
        drop(held);
        held = turn(&mut places[next]);
        assert!(places[next + 1..].iter_mut().all(is_waiting));
    }
    drop(held);
    assert_at_rest(&admission, &servers.each_ref());
}

#[test]
fn keys_take_turns_within_a_group() {
    let admission = alone(limits(10));
    let server = TestServer::new(1);
    let group = TestGroup::new("m", &[&server]);
    let mut held = serve(&admission, &group);
    let mut places: Vec<_> = [1, 1, 1, 1, 1, 2, 2]
        .map(|key| {
            wait_as(
                &admission,
                &Demand {
                    key,
                    ..demand(&group)
                },
            )
        })
        .into();
    for next in [0, 5, 1, 6, 2, 3, 4] {
        assert_eq!(places[next].now(), Some(1));
        drop(held);
        held = turn(&mut places[next]);
    }
    drop(held);
    assert_at_rest(&admission, &[&server]);
}

#[test]
fn overload_refuses_only_who_would_have_to_wait() {
    let admission = alone(AdmissionLimits {
        max_waiting: 2,
        ..limits(10)
    });
    let (full, free) = (TestServer::new(1), TestServer::new(1));
    let (group, other) = (TestGroup::new("m", &[&full]), TestGroup::new("n", &[&free]));
    let held = serve(&admission, &group);
    let places = [wait(&admission, &group), wait(&admission, &group)];
    assert_eq!(admission.backpressure(), Backpressure::Overloaded);
    assert_eq!(
        refusal(&admission, &demand(&group)),
        Some(Refusal::Overloaded(3))
    );
    let served = serve(&admission, &other);
    assert_eq!(
        refusal(&admission, &demand(&other)),
        Some(Refusal::Overloaded(1))
    );
    assert!(
        !is_contended(&free),
        "who was refused has left no mark behind"
    );
    drop((served, places, held));
    assert_at_rest(&admission, &[&full, &free]);
}

#[test]
fn a_full_queue_refuses_and_a_place_too_far_back_is_not_taken() {
    let admission = alone(limits(10));
    let server = TestServer::new(1);
    let group = TestGroup::new("m", &[&server]);
    let held = serve(&admission, &group);
    let ask = |max_size, max_place, key| {
        let limits = QueueLimits {
            max_size,
            max_place,
        };
        let demand = Demand {
            key,
            limits,
            ..demand(&group)
        };
        admission.ask(&demand)
    };
    let Admittance::Waits(first) = ask(2, 1, 1) else {
        panic!("the first place is not too far back")
    };
    let refused = |admittance| match admittance {
        Admittance::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!(refused(ask(2, 1, 1)), Refusal::TooFarBack(2));
    let Admittance::Waits(second) = ask(2, 2, 1) else {
        panic!("the second place is not too far back")
    };
    // A key of its own would have the second place, but the queue is full.
    assert_eq!(refused(ask(2, 9, 2)), Refusal::QueueFull(2));
    assert_eq!(admission.shared().waiting(), 2);
    drop(first);
    assert_eq!(second.now(), Some(1));
    drop((second, held));
    assert_at_rest(&admission, &[&server]);
}

#[test]
fn whoever_leaves_at_the_moment_of_the_grant_passes_it_on() {
    for permits in [1, 10] {
        let admission = alone(limits(permits));
        let server = TestServer::new(1);
        let group = TestGroup::new("m", &[&server]);
        let held = serve(&admission, &group);
        let first = wait(&admission, &group);
        let mut second = wait(&admission, &group);
        drop(held);
        assert!(is_waiting(&mut second));
        drop(first);
        let held = turn(&mut second);
        assert_eq!(admission.shared().in_flight().count, 1);
        drop(held);
        assert_at_rest(&admission, &[&server]);
    }
}

#[test]
fn a_holder_that_panics_gives_everything_to_the_next() {
    let admission = alone(limits(1));
    let server = TestServer::new(1);
    let group = TestGroup::new("m", &[&server]);
    let held = serve(&admission, &group);
    let mut first = wait(&admission, &group);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _held = held;
        panic!("an exchange fails");
    }));
    assert!(outcome.is_err());
    drop(turn(&mut first));
    assert_at_rest(&admission, &[&server]);
}

#[test]
fn a_slot_taken_over_is_given_on_by_its_new_guard() {
    let admission = alone(limits(10));
    let server = TestServer::new(1);
    let group = TestGroup::new("m", &[&server]);
    let (permit, served) = serve(&admission, &group);
    let own = served.into_server().unwrap();
    let mut first = wait(&admission, &group);
    drop(permit);
    assert!(is_waiting(&mut first), "the slot is still held");
    assert!(own.release());
    admission.slot_freed(&own);
    drop(turn(&mut first));
    assert_at_rest(&admission, &[&server]);
}

#[test]
fn a_server_that_joins_serves_those_who_wait() {
    let admission = alone(limits(10));
    let (old, new) = (TestServer::new(1), TestServer::new(2));
    let before = TestGroup::new("m", &[&old]);
    let after = TestGroup::new("m", &[&old, &new]);
    let held = serve(&admission, &before);
    let mut places = [(); 3].map(|()| wait(&admission, &before));
    admission.refresh(1, |_| Some(Arc::clone(&after)));
    let [first, second, third] = &mut places;
    let served = (turn(first), turn(second));
    assert_eq!(served.0.1.server().unwrap().slots.load().limit, 2);
    assert!(is_waiting(third));
    // Its newcomers queue up behind, whichever server becomes free.
    assert!(after.try_take().is_none());
    drop(served);
    drop(turn(third));
    drop(held);
    assert_at_rest(&admission, &[&old, &new]);
}

#[test]
fn a_server_that_leaves_a_group_is_free_for_its_others_again() {
    let admission = alone(limits(10));
    let (busy, shared) = (TestServer::new(1), TestServer::new(1));
    shared.set_online(false);
    let before = TestGroup::new("m", &[&busy, &shared]);
    let held = serve(&admission, &before);
    let mut place = wait(&admission, &before);
    assert!(is_contended(&shared));
    let after = TestGroup::new("m", &[&busy]);
    admission.refresh(1, |_| Some(Arc::clone(&after)));
    assert!(!is_contended(&shared));
    shared.set_online(true);
    let other = TestGroup::new("n", &[&shared]);
    let taken = other.try_take().unwrap();
    taken.slots.release();
    drop(held);
    drop(turn(&mut place));
    assert_at_rest(&admission, &[&busy, &shared]);
}

#[test]
fn an_idle_server_does_not_keep_its_mark_when_the_queue_is_empty() {
    let admission = alone(limits(10));
    let (busy, idle) = (TestServer::new(1), TestServer::new(1));
    idle.set_online(false);
    let group = TestGroup::new("m", &[&busy, &idle]);
    // Served, gone by itself, and told that nobody serves: each empties the queue.
    for ending in 0..3 {
        let held = serve(&admission, &group);
        let mut place = wait(&admission, &group);
        assert!(is_contended(&idle));
        match ending {
            0 => {
                drop(held);
                drop(turn(&mut place));
            }
            1 => {
                drop(place);
                drop(held);
            }
            _ => {
                admission.refresh(0, |_| None);
                assert!(matches!(poll(&mut place), Poll::Ready(Turn::Unavailable)));
                drop(held);
            }
        }
        // Else no newcomer would come to it while others have room.
        assert_at_rest(&admission, &[&busy, &idle]);
    }
}

#[test]
fn whoever_waits_for_a_group_that_vanishes_is_told_so() {
    let admission = alone(limits(10));
    let server = TestServer::new(1);
    let group = TestGroup::new("m", &[&server]);
    let held = serve(&admission, &group);
    let mut places = [(); 2].map(|()| wait(&admission, &group));
    admission.refresh(1, |_| None);
    for place in &mut places {
        assert!(matches!(poll(place), Poll::Ready(Turn::Unavailable)));
        assert!(is_waiting(place), "a verdict is given once");
    }
    assert_eq!(group.waiting(), 0);
    drop(held);
    assert_at_rest(&admission, &[&server]);
}

#[test]
fn whoever_waits_while_all_its_servers_go_offline_is_told_so_and_nobody_else_may_wait() {
    let admission = alone(limits(10));
    let server = TestServer::new(1);
    let group = TestGroup::new("m", &[&server]);
    let held = serve(&admission, &group);
    let mut place = wait(&admission, &group);
    server.set_online(false);
    assert!(matches!(
        admission.ask(&demand(&group)),
        Admittance::Unavailable
    ));
    admission.refresh(0, |_| Some(Arc::clone(&group)));
    assert!(matches!(poll(&mut place), Poll::Ready(Turn::Unavailable)));
    drop(held);
    assert_at_rest(&admission, &[&server]);
}

#[test]
fn a_raised_limit_serves_as_many_as_it_has_room_for() {
    let admission = alone(limits(10));
    let server = TestServer::new(1);
    let group = TestGroup::new("m", &[&server]);
    let held = serve(&admission, &group);
    let mut places = [(); 3].map(|()| wait(&admission, &group));
    server.slots.set_limit(3);
    admission.refresh(1, |_| Some(Arc::clone(&group)));
    let [first, second, third] = &mut places;
    let served = (turn(first), turn(second));
    assert!(is_waiting(third));
    server.slots.set_limit(1);
    drop(served);
    assert!(is_waiting(third), "the lowered limit is still reached");
    drop(held);
    drop(turn(third));
    assert_at_rest(&admission, &[&server]);
}

#[test]
fn whoever_looked_its_model_up_before_the_last_refresh_is_to_look_again() {
    let admission = alone(limits(10));
    let server = TestServer::new(1);
    let group = TestGroup::new("m", &[&server]);
    admission.refresh(2, |_| None);
    let asked = |generation| {
        let demand = Demand {
            generation,
            ..demand(&group)
        };
        admission.ask(&demand)
    };
    assert!(matches!(asked(1), Admittance::Outdated));
    assert!(matches!(asked(2), Admittance::Served(..)));
    assert!(matches!(asked(3), Admittance::Served(..)));
    assert_at_rest(&admission, &[&server]);
}

#[test]
fn late_word_of_an_older_table_changes_nothing() {
    let admission = alone(limits(10));
    let (old, new) = (TestServer::new(1), TestServer::new(1));
    let group = TestGroup::new("m", &[&new]);
    admission.refresh(2, |_| None);
    let held = serve_of(&admission, &group, 2);
    let demand = Demand {
        generation: 2,
        ..demand(&group)
    };
    let mut place = wait_as(&admission, &demand);
    let before = TestGroup::new("m", &[&old]);
    admission.refresh(1, |_| Some(Arc::clone(&before)));
    assert!(is_waiting(&mut place));
    admission.refresh(1, |_| None);
    assert!(is_waiting(&mut place));
    drop(held);
    drop(turn(&mut place));
    assert_at_rest(&admission, &[&old, &new]);
}

#[test]
fn who_knows_a_newer_table_than_the_queue_goes_behind_those_who_wait_all_the_same() {
    let admission = alone(limits(10));
    let (old, new) = (TestServer::new(1), TestServer::new(1));
    let before = TestGroup::new("m", &[&old]);
    let after = TestGroup::new("m", &[&old, &new]);
    let held = serve(&admission, &before);
    let mut first = wait(&admission, &before);
    let newer = Demand {
        generation: 1,
        ..demand(&after)
    };
    let mut second = wait_as(&admission, &newer);
    assert!(!is_contended(&new), "nobody in the queue waits for it yet");
    admission.refresh(1, |_| Some(Arc::clone(&after)));
    let of_new = turn(&mut first);
    assert!(is_waiting(&mut second));
    drop(held);
    drop((turn(&mut second), of_new));
    assert_at_rest(&admission, &[&old, &new]);
}

fn serve_of(
    admission: &LocalAdmission<TestGroup>,
    group: &Arc<TestGroup>,
    generation: u64,
) -> Held {
    match admission.ask(&Demand {
        generation,
        ..demand(group)
    }) {
        Admittance::Served(permit, served) => (permit, served),
        other => panic!("not served at once: {other:?}"),
    }
}

/// Two workers on one thread, and where word was sent.
struct Pair {
    workers: [LocalAdmission<TestGroup>; 2],
    sent: Arc<Mutex<Vec<SeatAddress>>>,
}

impl Pair {
    fn new(max_concurrent: u32) -> Self {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let mailbox = Arc::clone(&sent);
        let shared = Arc::new(Admission::new(limits(max_concurrent), move |address| {
            mailbox.lock().unwrap().push(address);
        }));
        let workers = [0, 1].map(|worker| LocalAdmission::new(Arc::clone(&shared), worker));
        Self { workers, sent }
    }

    fn take_sent(&self) -> Vec<SeatAddress> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }
}

#[test]
fn a_grant_for_another_worker_goes_there_as_word_and_is_collected_there() {
    let pair = Pair::new(1);
    let [here, there] = &pair.workers;
    let server = TestServer::new(1);
    let group = TestGroup::new("m", &[&server]);
    let held = serve(here, &group);
    let mut place = wait(there, &group);
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    assert!(place.poll_turn(&Context::from_waker(&waker)).is_pending());
    drop(held);
    assert_eq!(wakes.count(), 0, "only its own worker may wake it");
    assert!(is_waiting(&mut place), "word has not come yet");
    let sent = pair.take_sent();
    assert_eq!(sent, [SeatAddress { worker: 1, seat: 0 }]);
    assert!(place.poll_turn(&Context::from_waker(&waker)).is_pending());
    there.wake(sent[0].seat);
    assert_eq!(wakes.count(), 1);
    let held = turn(&mut place);
    let mut own = wait(there, &group);
    assert!(own.poll_turn(&Context::from_waker(&waker)).is_pending());
    drop(held);
    assert_eq!(wakes.count(), 2, "on the same worker no word is needed");
    assert!(pair.take_sent().is_empty());
    drop(turn(&mut own));
    assert_at_rest(here, &[&server]);
}

#[test]
fn word_for_somebody_who_has_left_does_its_successor_no_harm() {
    let pair = Pair::new(10);
    let [here, there] = &pair.workers;
    let server = TestServer::new(1);
    let group = TestGroup::new("m", &[&server]);
    let held = serve(here, &group);
    let place = wait(there, &group);
    drop(held);
    let [late] = pair.take_sent()[..] else {
        panic!("one grant is one word")
    };
    drop(place);
    let held = serve(here, &group);
    let mut successor = wait(there, &group);
    there.wake(late.seat);
    assert!(is_waiting(&mut successor));
    there.wake(late.seat + 7);
    drop(held);
    let [word] = pair.take_sent()[..] else {
        panic!("one grant is one word")
    };
    assert_eq!(word.seat, late.seat, "the seat was used again");
    there.wake(word.seat);
    drop(turn(&mut successor));
    there.wake(word.seat);
    assert_at_rest(here, &[&server]);
}

#[test]
fn verdicts_whose_word_was_lost_are_found_by_looking_everywhere() {
    let pair = Pair::new(10);
    let [here, there] = &pair.workers;
    let server = TestServer::new(2);
    let group = TestGroup::new("m", &[&server]);
    let held = (serve(here, &group), serve(here, &group));
    let mut places = [(); 3].map(|()| wait(there, &group));
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let context = Context::from_waker(&waker);
    assert!(
        places
            .iter_mut()
            .all(|place| place.poll_turn(&context).is_pending())
    );
    drop(held);
    assert_eq!(pair.take_sent().len(), 2);
    assert!(
        places
            .iter_mut()
            .all(|place| place.poll_turn(&context).is_pending())
    );
    there.wake_all();
    assert_eq!(wakes.count(), 3);
    let [first, second, third] = &mut places;
    let held = (turn(first), turn(second));
    assert!(is_waiting(third));
    drop(held);
    there.wake_all();
    drop(turn(third));
    assert_at_rest(here, &[&server]);
}

#[test]
fn no_counter_is_left_contended_after_a_storm() {
    let pair = Pair::new(3);
    let servers = [(); 4].map(|()| TestServer::new(1));
    let [a, b, c, d] = &servers;
    let groups = [
        TestGroup::new("m", &[a, b]),
        TestGroup::new("n", &[b, c]),
        TestGroup::new("o", &[c, d]),
    ];
    let mut held = Vec::new();
    let mut places = Vec::new();
    for round in 0..30 {
        match pair.workers[round % 2].ask(&demand(&groups[round % 3])) {
            Admittance::Served(permit, served) => held.push((permit, served)),
            Admittance::Waits(place) => places.push(place),
            other => panic!("neither served nor waits: {other:?}"),
        }
    }
    assert_eq!((held.len(), places.len()), (3, 27));
    while let Some(next) = held.pop() {
        drop(next);
        if places.len().is_multiple_of(4) && !places.is_empty() {
            drop(places.swap_remove(0));
        }
        pair.workers.iter().for_each(LocalAdmission::wake_all);
        let mut still_waiting = Vec::new();
        for mut place in places.drain(..) {
            match poll(&mut place) {
                Poll::Ready(Turn::Served(permit, served)) => held.push((permit, served)),
                Poll::Ready(Turn::Unavailable) => panic!("all servers serve"),
                Poll::Pending => still_waiting.push(place),
            }
        }
        places = still_waiting;
        assert!(
            places.is_empty() || held.len() >= 2,
            "each group has two slots"
        );
    }
    assert!(places.is_empty());
    assert_at_rest(&pair.workers[0], &servers.each_ref());
    for group in &groups {
        assert_eq!(group.waiting(), 0);
        let taken = group.try_take().expect("no lock is needed");
        taken.slots.release();
    }
}
