//! Tests of those who come back because the server they were given could not be reached.

use std::sync::Arc;
use std::task::Poll;

use super::queues_tests::{
    Held, assert_at_rest, demand, is_contended, is_waiting, limits, poll, serve, turn, wait,
    wait_as,
};
use super::test_group::{TestGroup, TestServer, alone};
use super::*;

type Local = LocalAdmission<TestGroup>;

/// Asks again as `key`, the permit given back, the slot still held.
fn again(
    admission: &Local,
    demand: &Demand<'_, TestGroup>,
    ticket: Option<Ticket>,
    held: Held,
) -> (Admittance<TestGroup>, Served<TestGroup>) {
    let (permit, served) = held;
    drop(permit);
    let shunned = Arc::clone(served.server().unwrap());
    let back = Return {
        ticket,
        shunned: &shunned,
    };
    (admission.ask_again(demand, &back), served)
}

/// Comes back, and must wait.
#[track_caller]
fn come_back(
    admission: &Local,
    group: &Arc<TestGroup>,
    ticket: Option<Ticket>,
    held: Held,
) -> (Place<TestGroup>, Served<TestGroup>) {
    match again(admission, &demand(group), ticket, held) {
        (Admittance::Waits(place), slot) => (place, slot),
        (other, _) => panic!("does not wait: {other:?}"),
    }
}

/// Two servers of one slot each, both taken; the first holder is at the first one.
fn pair(admission: &Local) -> ([Arc<TestServer>; 2], Arc<TestGroup>, [Held; 2]) {
    let servers = [TestServer::new(1), TestServer::new(1)];
    let group = TestGroup::new("m", &[&servers[0], &servers[1]]);
    let mut held = [serve(admission, &group), serve(admission, &group)];
    if !Arc::ptr_eq(held[0].1.server().unwrap(), &servers[0]) {
        held.reverse();
    }
    (servers, group, held)
}

#[test]
fn who_comes_back_is_served_before_all_who_wait() {
    let admission = alone(limits(10));
    let ([dead, alive], group, [first, second]) = pair(&admission);
    let mut places = [(); 3].map(|()| wait(&admission, &group));
    drop(first);
    let held = turn(&mut places[0]);
    let ticket = places[0].ticket();
    let (mut back, slot) = come_back(&admission, &group, Some(ticket), held);
    assert_eq!(
        (back.ticket(), back.at_entry(), back.now()),
        (ticket, 1, Some(1))
    );
    assert_eq!((places[1].now(), places[2].now()), (Some(2), Some(3)));
    assert_eq!((group.waiting(), admission.shared().waiting()), (3, 3));
    assert_eq!(admission.shared().in_flight().count, 1, "it has no permit");
    assert_eq!(dead.slots.load().count, 1, "but it has the slot");
    drop(second);
    let held = turn(&mut back);
    assert!(Arc::ptr_eq(held.1.server().unwrap(), &alive));
    assert!(places[1..].iter_mut().all(is_waiting));
    drop((slot, held));
    drop((turn(&mut places[1]), turn(&mut places[2])));
    assert_eq!(group.waiting(), 0);
    assert_at_rest(&admission, &[&dead, &alive]);
}

#[test]
fn those_who_come_back_stand_in_the_order_in_which_they_came_first() {
    let admission = alone(limits(10));
    let (dead, alive) = (TestServer::new(4), TestServer::new(1));
    let of_dead = TestGroup::new("m", &[&dead]);
    let group = TestGroup::new("m", &[&dead, &alive]);
    let mut held: Vec<Held> = (0..4).map(|_| serve(&admission, &of_dead)).collect();
    let busy = serve(&admission, &group);
    let mut places = [(); 3].map(|()| wait(&admission, &group));
    let never_waited = [held.pop().unwrap(), held.pop().unwrap()];
    drop(held);
    let served = [turn(&mut places[0]), turn(&mut places[1])];
    let [first, second] = served;
    // The younger one finds out before the older one.
    let back2 = come_back(&admission, &group, Some(places[1].ticket()), second);
    assert_eq!(back2.0.at_entry(), 1);
    let back1 = come_back(&admission, &group, Some(places[0].ticket()), first);
    assert_eq!(back1.0.at_entry(), 1);
    let [new1, new2] = never_waited.map(|held| come_back(&admission, &group, None, held));
    assert_eq!((new1.0.at_entry(), new2.0.at_entry()), (3, 4));
    let mut order = [back1, back2, new1, new2];
    let places_now: Vec<_> = order.iter().map(|(place, _)| place.now()).collect();
    assert_eq!(places_now, [1, 2, 3, 4].map(Some));
    assert_eq!(places[2].now(), Some(5));
    let mut alive_slot = busy;
    for next in 0..order.len() {
        drop(alive_slot);
        alive_slot = turn(&mut order[next].0);
        assert!(
            order[next + 1..]
                .iter_mut()
                .all(|(place, _)| is_waiting(place))
        );
    }
    drop((alive_slot, order));
    drop(turn(&mut places[2]));
    assert_at_rest(&admission, &[&dead, &alive]);
}

#[test]
fn nobody_is_given_the_slot_that_one_who_came_back_still_holds() {
    let admission = alone(limits(10));
    let ([dead, alive], group, [first, second]) = pair(&admission);
    let mut behind = wait(&admission, &group);
    let (mut back, slot) = come_back(&admission, &group, None, first);
    assert_eq!((back.now(), behind.now()), (Some(1), Some(2)));
    assert!(is_waiting(&mut behind));
    // Once it lets go, whoever stands behind it may try.
    drop(slot);
    assert!(is_waiting(&mut back));
    let held = turn(&mut behind);
    assert!(Arc::ptr_eq(held.1.server().unwrap(), &dead));
    drop(second);
    drop((turn(&mut back), held));
    assert_at_rest(&admission, &[&dead, &alive]);
}

#[test]
fn a_server_that_all_who_wait_shun_serves_newcomers_at_once() {
    let admission = alone(limits(10));
    let ([dead, alive], group, [first, second]) = pair(&admission);
    let other = TestGroup::new("n", &[&dead]);
    let (mut back, slot) = come_back(&admission, &group, None, first);
    assert!(is_contended(&dead) && is_contended(&alive));
    drop(slot);
    assert!(!is_contended(&dead), "nobody waits for it");
    assert!(is_contended(&alive));
    for asked in [&group, &other] {
        let newcomer = serve(&admission, asked);
        assert!(Arc::ptr_eq(newcomer.1.server().unwrap(), &dead));
        let mut next = wait(&admission, asked);
        assert!(is_contended(&dead), "now somebody does");
        drop(newcomer);
        drop(turn(&mut next));
        assert!(is_waiting(&mut back));
    }
    drop(second);
    drop(turn(&mut back));
    assert_at_rest(&admission, &[&dead, &alive]);
}

#[test]
fn who_has_forgiven_is_served_by_the_server_it_shunned() {
    let admission = alone(limits(10));
    let ([dead, alive], group, [first, second]) = pair(&admission);
    let (mut back, slot) = come_back(&admission, &group, None, first);
    drop(slot);
    assert!(is_waiting(&mut back));
    back.forgive();
    let held = turn(&mut back);
    assert!(Arc::ptr_eq(held.1.server().unwrap(), &dead));
    // With the slot still held, there is nothing to be given yet.
    let (mut back, slot) = come_back(&admission, &group, Some(back.ticket()), held);
    back.forgive();
    assert!(is_waiting(&mut back));
    drop(slot);
    drop(turn(&mut back));
    drop(second);
    assert_at_rest(&admission, &[&dead, &alive]);
}

#[test]
fn another_free_server_serves_who_comes_back_at_once() {
    let admission = alone(limits(10));
    let ([dead, alive], group, [first, second]) = pair(&admission);
    drop(second);
    let (outcome, slot) = again(&admission, &demand(&group), None, first);
    let Admittance::Served(permit, served) = outcome else {
        panic!("it need not wait: {outcome:?}")
    };
    assert!(Arc::ptr_eq(served.server().unwrap(), &alive));
    drop((permit, served, slot));
    assert_at_rest(&admission, &[&dead, &alive]);
}

#[test]
fn who_leaves_while_it_waits_again_leaves_nothing_behind() {
    let admission = alone(limits(10));
    let ([dead, alive], group, [first, second]) = pair(&admission);
    let mut behind = wait(&admission, &group);
    let (back, slot) = come_back(&admission, &group, None, first);
    drop(back);
    assert_eq!((group.waiting(), admission.shared().waiting()), (1, 1));
    assert_eq!(behind.now(), Some(1));
    drop(slot);
    let held = turn(&mut behind);
    // At the very moment of its turn, too.
    let (back, slot) = come_back(&admission, &group, Some(behind.ticket()), held);
    drop(second);
    assert_eq!(back.now(), None, "its turn has come");
    drop(back);
    drop(slot);
    assert_eq!(group.waiting(), 0);
    assert_at_rest(&admission, &[&dead, &alive]);
}

#[test]
fn who_comes_back_is_counted_against_the_bound_of_all_who_wait() {
    let admission = alone(AdmissionLimits {
        max_waiting: 2,
        ..limits(10)
    });
    let ([dead, alive], group, [first, second]) = pair(&admission);
    let mut waiting = wait(&admission, &group);
    let one_more = Demand {
        limits: QueueLimits {
            max_size: 0,
            max_place: 0,
        },
        ..demand(&group)
    };
    // The bounds of the one queue are for newcomers.
    let (outcome, slot) = again(&admission, &one_more, None, first);
    let Admittance::Waits(back) = outcome else {
        panic!("there is room for one: {outcome:?}")
    };
    let (outcome, other_slot) = again(&admission, &one_more, None, second);
    assert!(
        matches!(outcome, Admittance::Refused(Refusal::Overloaded(2))),
        "{outcome:?}"
    );
    assert_eq!(admission.shared().waiting(), 2);
    // In front: the one that came back shuns the other server only.
    drop(other_slot);
    drop(slot);
    assert_eq!(back.now(), None);
    drop((turn(&mut waiting), back));
    assert_at_rest(&admission, &[&dead, &alive]);
}

#[test]
fn a_permit_given_back_on_the_way_goes_to_whoever_waits_for_one() {
    let admission = alone(limits(2));
    let ([dead, alive], group, [first, second]) = pair(&admission);
    let third = TestServer::new(1);
    let other = TestGroup::new("n", &[&third]);
    let mut lacks_permit = wait(&admission, &other);
    let (mut back, slot) = come_back(&admission, &group, None, first);
    let held = turn(&mut lacks_permit);
    assert_eq!(admission.shared().in_flight().count, 2);
    drop(second);
    drop((turn(&mut back), held, slot));
    assert_at_rest(&admission, &[&dead, &alive, &third]);
}

#[test]
fn who_comes_back_is_told_when_nobody_serves_any_more_or_to_look_again() {
    let admission = alone(limits(10));
    let ([dead, alive], group, [first, second]) = pair(&admission);
    let (mut back, slot) = come_back(&admission, &group, None, first);
    admission.refresh(1, |_| None);
    assert!(matches!(poll(&mut back), Poll::Ready(Turn::Unavailable)));
    let (outcome, other_slot) = again(&admission, &demand(&group), None, second);
    assert!(matches!(outcome, Admittance::Outdated), "{outcome:?}");
    let newer = Demand {
        generation: 1,
        ..demand(&group)
    };
    dead.set_online(false);
    alive.set_online(false);
    let back = Return {
        ticket: Some(back.ticket()),
        shunned: &dead,
    };
    let outcome = admission.ask_again(&newer, &back);
    assert!(matches!(outcome, Admittance::Unavailable), "{outcome:?}");
    drop((slot, other_slot));
    assert_at_rest(&admission, &[&dead, &alive]);
}

#[test]
fn a_return_does_not_change_whose_turn_it_is() {
    let admission = alone(limits(10));
    let ([dead, alive], group, [first, mut held]) = pair(&admission);
    let as_key = |key| Demand {
        key,
        ..demand(&group)
    };
    let mut places = [1, 1, 1, 2, 2, 3].map(|key| wait_as(&admission, &as_key(key)));
    drop(first);
    let failed = turn(&mut places[0]);
    let ticket = Some(places[0].ticket());
    let (outcome, slot) = again(&admission, &as_key(1), ticket, failed);
    let Admittance::Waits(back) = outcome else {
        panic!("does not wait: {outcome:?}")
    };
    places[0] = back;
    for next in [0, 3, 5, 1, 4, 2] {
        assert_eq!(places[next].now(), Some(1));
        drop(held);
        held = turn(&mut places[next]);
    }
    drop((held, slot));
    assert_at_rest(&admission, &[&dead, &alive]);
}

#[test]
fn who_comes_back_goes_before_older_ones_of_its_queue_however_it_is_served() {
    let admission = alone(limits(10));
    let (dead, alive) = (TestServer::new(1), TestServer::new(1));
    let group = TestGroup::new("m", &[&dead, &alive]);
    let of_dead = TestGroup::new("d", &[&dead]);
    let of_alive = TestGroup::new("a", &[&alive]);
    let second = serve(&admission, &of_alive);
    let first = serve(&admission, &of_dead);
    let as_key = |key| Demand {
        key,
        ..demand(&group)
    };
    // The second of its key is older than the first of the other, which has its turn before.
    let mut places = [1, 1, 2].map(|key| wait_as(&admission, &as_key(key)));
    let mut foreign = wait(&admission, &of_alive);
    drop(first);
    let held = turn(&mut places[0]);
    drop(held);
    let held = turn(&mut places[2]);
    let ticket = places[2].ticket();
    assert!(ticket > places[1].ticket());
    let (mut back, slot) = come_back(&admission, &group, Some(ticket), held);
    let permits = (0..9).map(|_| admission.try_enter().unwrap());
    let permits: Vec<_> = permits.collect();
    // Both are served as their permits come back: by way of a slot, and by way of a permit.
    drop(second);
    let held = turn(&mut back);
    assert!(is_waiting(&mut places[1]) && is_waiting(&mut foreign));
    drop((held, permits));
    let held = turn(&mut places[1]);
    assert!(is_waiting(&mut foreign));
    drop(held);
    drop((turn(&mut foreign), slot));
    assert_at_rest(&admission, &[&dead, &alive]);
}

#[test]
fn the_oldest_over_all_groups_is_served_first_also_when_it_came_back() {
    let admission = alone(limits(10));
    let ([dead, shared], group, [first, second]) = pair(&admission);
    let other = TestGroup::new("n", &[&shared]);
    let mut older = wait(&admission, &group);
    let mut younger = wait(&admission, &other);
    drop(first);
    let held = turn(&mut older);
    let (mut back, slot) = come_back(&admission, &group, Some(older.ticket()), held);
    drop(second);
    let held = turn(&mut back);
    assert!(is_waiting(&mut younger));
    drop(held);
    drop((turn(&mut younger), slot));
    assert_at_rest(&admission, &[&dead, &shared]);
}
