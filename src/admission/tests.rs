//! Tests of the router-wide limits and of the budget of buffered bytes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use proptest::prelude::*;

use super::test_group::{TestGroup, TestServer, alone};
use super::*;

fn limits(max_concurrent: u32, max_waiting: u32) -> AdmissionLimits {
    AdmissionLimits {
        max_concurrent,
        max_waiting,
        warning_threshold: 0.5,
        overload_threshold: 0.8,
    }
}

fn admission(max_concurrent: u32, max_waiting: u32) -> LocalAdmission<TestGroup> {
    alone(limits(max_concurrent, max_waiting))
}

fn occupancy(count: u32, limit: u32) -> Occupancy {
    Occupancy {
        count,
        limit,
        is_contended: false,
    }
}

/// A place in the queue of a group that never serves; `None` if waiting is refused.
fn try_wait(admission: &LocalAdmission<TestGroup>) -> Option<Place<TestGroup>> {
    let server = TestServer::new(0);
    let demand = Demand {
        group: &TestGroup::new("m", &[&server]),
        generation: 0,
        key: 0,
        limits: QueueLimits {
            max_size: usize::MAX,
            max_place: usize::MAX,
        },
    };
    match admission.ask(&demand) {
        Admittance::Waits(place) => Some(place),
        Admittance::Refused(Refusal::Overloaded(_)) => None,
        other => panic!("neither waits nor is refused: {other:?}"),
    }
}

#[test]
fn requests_enter_up_to_the_limit_and_again_when_one_has_left() {
    let admission = admission(2, 100);
    let first = admission.try_enter().unwrap();
    let second = admission.try_enter().unwrap();
    assert!(admission.try_enter().is_none());
    drop(first);
    let third = admission.try_enter().unwrap();
    assert_eq!(admission.shared().in_flight(), occupancy(2, 2));
    drop((second, third));
    assert_eq!(admission.shared().in_flight().count, 0);
}

#[test]
fn a_permit_comes_back_when_its_exchange_panics() {
    let admission = admission(1, 100);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _permit = admission.try_enter().unwrap();
        panic!("an exchange fails");
    }));
    assert!(outcome.is_err());
    assert_eq!(admission.shared().in_flight().count, 0);
    assert!(admission.try_enter().is_some());
}

#[test]
fn the_state_follows_the_ratio_of_waiting_requests() {
    let admission = admission(1, 100);
    let mut places = Vec::new();
    let mut seen = Vec::new();
    while let Some(place) = try_wait(&admission) {
        places.push(place);
        seen.push(admission.shared().backpressure());
    }
    // Below 0.5 normal, below 0.8 warning; the 80th waiting request makes it overloaded, so there
    // is no 81st.
    assert_eq!(places.len(), 80);
    assert!(
        seen[..49]
            .iter()
            .all(|state| *state == Backpressure::Normal)
    );
    assert!(
        seen[49..79]
            .iter()
            .all(|state| *state == Backpressure::Warning)
    );
    assert_eq!(seen[79], Backpressure::Overloaded);
    places.pop();
    assert_eq!(admission.shared().backpressure(), Backpressure::Warning);
    assert!(try_wait(&admission).is_some());
    places.clear();
    assert_eq!(admission.shared().waiting(), 0);
    assert_eq!(admission.shared().backpressure(), Backpressure::Normal);
}

#[test]
fn a_threshold_written_in_decimal_is_met_exactly() {
    let limits = AdmissionLimits {
        warning_threshold: 0.07,
        ..limits(1, 100)
    };
    assert_eq!(limits.backpressure(6), Backpressure::Normal);
    assert_eq!(limits.backpressure(7), Backpressure::Warning);
}

#[test]
fn a_queue_of_one_is_overloaded_by_one() {
    let admission = admission(1, 1);
    let place = try_wait(&admission);
    assert!(place.is_some());
    assert_eq!(admission.shared().backpressure(), Backpressure::Overloaded);
    assert!(try_wait(&admission).is_none());
}

proptest! {
    #[test]
    fn the_thresholds_in_force_say_what_the_ratio_says(
        max_waiting in 1_u32..=1000,
        warning in 0.0_f64..0.9,
        gap in 0.001_f64..1.0,
    ) {
        let limits = AdmissionLimits {
            max_concurrent: 1,
            max_waiting,
            warning_threshold: warning,
            overload_threshold: (warning + gap).min(1.0),
        };
        let admission = alone(limits);
        for waiting in 0..=max_waiting + 1 {
            let in_force = admission.shared().backpressure_at(waiting);
            prop_assert_eq!(in_force, limits.backpressure(waiting), "at {}", waiting);
        }
    }

    #[test]
    fn waiting_is_refused_exactly_while_overloaded(
        max_waiting in 1_u32..=1000,
        warning in 0.0_f64..0.9,
        gap in 0.001_f64..1.0,
    ) {
        let overload_threshold = (warning + gap).min(1.0);
        let limits = AdmissionLimits {
            max_concurrent: 1,
            max_waiting,
            warning_threshold: warning,
            overload_threshold,
        };
        let admission = alone(limits);
        let mut places = Vec::new();
        while admission.shared().backpressure() != Backpressure::Overloaded {
            let place = try_wait(&admission);
            prop_assert!(place.is_some(), "refused at {} while not overloaded", places.len());
            places.push(place);
        }
        prop_assert!(try_wait(&admission).is_none());
        prop_assert!(places.len() <= max_waiting as usize);
    }
}

#[test]
fn threads_never_hold_more_units_than_the_limit_while_it_changes() {
    const LIMIT_MAX: u32 = 7;
    let counter = LimitedCounter::new(LIMIT_MAX);
    let (holders, taken) = (AtomicU32::new(0), AtomicU64::new(0));
    let start = Barrier::new(5);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..20_000 {
                    if counter.try_take() {
                        let now = holders.fetch_add(1, Ordering::SeqCst) + 1;
                        assert!(now <= LIMIT_MAX, "{now} holders");
                        taken.fetch_add(1, Ordering::Relaxed);
                        holders.fetch_sub(1, Ordering::SeqCst);
                        counter.release();
                    }
                }
            });
        }
        scope.spawn(|| {
            start.wait();
            for round in 0..20_000 {
                counter.set_limit(round % (LIMIT_MAX + 1));
            }
            counter.set_limit(LIMIT_MAX);
        });
    });
    assert_eq!(counter.load(), occupancy(0, LIMIT_MAX));
    assert!(taken.load(Ordering::Relaxed) > 0);
}

#[test]
fn a_lowered_limit_lets_holders_finish_and_admits_nobody_before_they_have() {
    let counter = LimitedCounter::new(3);
    assert!(counter.try_take() && counter.try_take() && counter.try_take());
    counter.set_limit(1);
    assert!(!counter.try_take());
    counter.release();
    counter.release();
    assert_eq!(counter.load(), occupancy(1, 1));
    assert!(!counter.try_take());
    counter.release();
    assert!(counter.try_take());
}

#[test]
fn a_counter_at_the_largest_limit_keeps_its_halves_apart() {
    let counter = LimitedCounter::new(u32::MAX);
    assert!(counter.try_take());
    assert_eq!(counter.load(), occupancy(1, LIMIT_MAX));
    counter.release();
    counter.set_limit(0);
    assert!(!counter.try_take());
    assert_eq!(counter.load(), occupancy(0, 0));
}

#[test]
fn bodies_reserve_up_to_the_budget_and_give_everything_back() {
    let budget = LocalBudget::new(Arc::new(BufferBudget::new(1000)));
    let mut first = budget.try_reserve(600).unwrap();
    assert!(budget.try_reserve(401).is_none());
    let second = budget.try_reserve(300).unwrap();
    assert!(!first.try_grow(101), "grew beyond the budget");
    assert_eq!(first.bytes(), 600);
    assert!(first.try_grow(100));
    assert_eq!(budget.shared().reserved_bytes(), 1000);
    first.shrink_to(50);
    first.shrink_to(900);
    assert_eq!((first.bytes(), budget.shared().reserved_bytes()), (50, 350));
    drop((first, second));
    assert_eq!(budget.shared().reserved_bytes(), 0);
}

#[test]
fn a_length_near_the_largest_integer_does_not_wrap_the_budget() {
    let budget = LocalBudget::new(Arc::new(BufferBudget::new(u64::MAX - 1)));
    let held = budget.try_reserve(10).unwrap();
    assert!(budget.try_reserve(u64::MAX).is_none());
    assert!(budget.try_reserve(u64::MAX - 10).is_none());
    drop(held);
    assert_eq!(budget.shared().reserved_bytes(), 0);
}

#[test]
fn threads_never_reserve_more_bytes_than_the_budget() {
    let shared = Arc::new(BufferBudget::new(1000));
    thread::scope(|scope| {
        for step in 1..=4_u64 {
            let shared = Arc::clone(&shared);
            scope.spawn(move || {
                let budget = LocalBudget::new(shared);
                for round in 0..10_000 {
                    let held = budget.try_reserve((round * step) % 700);
                    assert!(budget.shared().reserved_bytes() <= 1000);
                    drop(held);
                }
            });
        }
    });
    assert_eq!(shared.reserved_bytes(), 0);
}

#[test]
fn a_request_that_lost_its_server_moves_on_although_others_wait_for_a_permit() {
    let admission = admission(1, 100);
    let server = TestServer::new(1);
    let group = TestGroup::new("m", &[&server]);
    let permit = admission.try_enter().unwrap();
    let demand = Demand {
        group: &group,
        generation: 0,
        key: 0,
        limits: QueueLimits {
            max_size: usize::MAX,
            max_place: usize::MAX,
        },
    };
    let Admittance::Waits(mut place) = admission.ask(&demand) else {
        panic!("there is no permit");
    };
    assert!(admission.move_on(&group, |_| false).is_none(), "all tried");
    let slot = admission.move_on(&group, |_| true).unwrap();
    assert!(
        admission.move_on(&group, |_| true).is_none(),
        "no slot left"
    );
    // What it gives back is for whoever waits.
    drop((slot, permit));
    let context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(place.poll_turn(&context).is_ready());
}

/// Somebody who waits for a slot of this group.
fn begin_to_wait(
    admission: &LocalAdmission<TestGroup>,
    group: &Arc<TestGroup>,
) -> Place<TestGroup> {
    let demand = Demand {
        group,
        generation: 0,
        key: 0,
        limits: QueueLimits {
            max_size: usize::MAX,
            max_place: usize::MAX,
        },
    };
    match admission.ask(&demand) {
        Admittance::Waits(place) => place,
        other => panic!("does not wait: {other:?}"),
    }
}

fn turn(place: &mut Place<TestGroup>) -> Option<Turn<TestGroup>> {
    let context = std::task::Context::from_waker(std::task::Waker::noop());
    match place.poll_turn(&context) {
        std::task::Poll::Ready(turn) => Some(turn),
        std::task::Poll::Pending => None,
    }
}

#[test]
fn raised_limits_serve_as_many_waiters_as_there_is_more_room_for() {
    let admission = admission(1, 100);
    let server = TestServer::new(10);
    let group = TestGroup::new("m", &[&server]);
    let permit = admission.try_enter().unwrap();
    let mut places: Vec<_> = (0..4).map(|_| begin_to_wait(&admission, &group)).collect();
    assert!(places.iter_mut().all(|place| turn(place).is_none()));
    admission.shared().set_limits(&limits(3, 100));
    admission.limits_changed();
    let served: Vec<_> = places.iter_mut().filter_map(turn).collect();
    assert_eq!(served.len(), 2);
    assert_eq!(admission.shared().in_flight().count, 3);
    assert!(admission.try_enter().is_none(), "others wait");
    drop((permit, served, places));
    assert_eq!(admission.shared().in_flight(), occupancy(0, 3));
    assert_eq!(admission.shared().waiting(), 0);
}

#[test]
fn lowered_limits_keep_who_is_in_flight_and_serve_nobody_until_they_have_left() {
    let admission = admission(3, 100);
    let server = TestServer::new(10);
    let group = TestGroup::new("m", &[&server]);
    let mut permits: Vec<_> = std::iter::from_fn(|| admission.try_enter()).collect();
    assert_eq!(permits.len(), 3);
    let mut place = begin_to_wait(&admission, &group);
    admission.shared().set_limits(&limits(1, 100));
    admission.limits_changed();
    assert!(turn(&mut place).is_none());
    for left in [2, 1] {
        permits.pop();
        assert_eq!(admission.shared().in_flight().count, left);
        assert!(turn(&mut place).is_none(), "{left} are in flight");
    }
    permits.pop();
    let served = turn(&mut place);
    assert!(served.is_some(), "a wake-up was lost");
    drop(served);
    assert_eq!(admission.shared().in_flight(), occupancy(0, 1));
}

#[test]
fn the_thresholds_change_for_those_who_wait_already() {
    let admission = admission(1, 10);
    let places: Vec<_> = std::iter::from_fn(|| try_wait(&admission)).collect();
    assert_eq!(places.len(), 8);
    admission.shared().set_limits(&limits(1, 20));
    assert_eq!(admission.shared().backpressure(), Backpressure::Normal);
    assert_eq!(admission.shared().max_waiting(), 20);
    let more: Vec<_> = std::iter::from_fn(|| try_wait(&admission)).collect();
    assert_eq!(places.len() + more.len(), 16);
    admission.shared().set_limits(&limits(1, 5));
    assert_eq!(admission.shared().backpressure(), Backpressure::Overloaded);
    assert!(try_wait(&admission).is_none());
    drop((places, more));
    assert_eq!(admission.shared().waiting(), 0);
    assert!(try_wait(&admission).is_some());
}

#[test]
fn a_budget_follows_its_limit() {
    let shared = Arc::new(BufferBudget::new(100));
    let budget = LocalBudget::new(Arc::clone(&shared));
    let held = budget.try_reserve(100).unwrap();
    shared.set_limit_bytes(50);
    assert!(budget.try_reserve(1).is_none());
    shared.set_limit_bytes(150);
    assert!(budget.try_reserve(50).is_some());
    drop(held);
    assert_eq!(shared.reserved_bytes(), 0);
}
