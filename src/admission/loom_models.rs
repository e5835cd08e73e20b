//! Every interleaving of the shared counter and of the queues behind it, as loom explores it. The
//! sentence in `counter` that a unit is only taken below the limit stands or falls here, and so does
//! that in `queues` that nothing is lost and nobody overtakes. Run with:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --lib loom_models
//! ```

use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicUsize, Ordering as StdOrdering};
use std::task::{Context, Poll, Waker};

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

use super::test_group::{TestGroup, TestServer};
use super::{
    Admission, AdmissionLimits, Admittance, Demand, LimitedCounter, LocalAdmission, Permit, Place,
    QueueLimits, SeatAddress, Served, Turn,
};

/// Takes and gives back once, watching how many holders there are in between.
fn hold_once(counter: &LimitedCounter, holders: &AtomicU32, limit: u32) -> bool {
    if !counter.try_take() {
        return false;
    }
    let others = holders.fetch_add(1, Ordering::SeqCst);
    assert!(others < limit, "{} holders of {limit} units", others + 1);
    holders.fetch_sub(1, Ordering::SeqCst);
    counter.release();
    true
}

#[test]
fn rivals_never_hold_more_units_than_the_limit_and_all_come_back() {
    loom::model(|| {
        let counter = Arc::new(LimitedCounter::new(1));
        let holders = Arc::new(AtomicU32::new(0));
        let rivals: Vec<_> = (0..2)
            .map(|_| {
                let (counter, holders) = (Arc::clone(&counter), Arc::clone(&holders));
                thread::spawn(move || hold_once(&counter, &holders, 1))
            })
            .collect();
        let mine = hold_once(&counter, &holders, 1);
        let theirs = rivals.into_iter().map(|rival| rival.join().unwrap());
        assert!(
            theirs.fold(mine, |any, one| any | one),
            "nobody got the free unit"
        );
        assert_eq!(counter.load().count, 0);
    });
}

#[test]
fn two_rivals_for_two_units_both_get_one() {
    loom::model(|| {
        let counter = Arc::new(LimitedCounter::new(2));
        let rival = {
            let counter = Arc::clone(&counter);
            thread::spawn(move || counter.try_take())
        };
        assert!(counter.try_take());
        assert!(rival.join().unwrap());
        assert_eq!(counter.load().count, 2);
        assert!(!counter.try_take());
    });
}

#[test]
fn a_limit_lowered_during_a_take_is_never_passed_afterwards() {
    loom::model(|| {
        let counter = Arc::new(LimitedCounter::new(2));
        assert!(counter.try_take());
        let rival = {
            let counter = Arc::clone(&counter);
            thread::spawn(move || counter.try_take())
        };
        counter.set_limit(1);
        let seen = counter.load();
        let after_lowering = counter.try_take();
        let rival_took = rival.join().unwrap();
        assert_eq!(seen.limit, 1);
        assert!(
            !after_lowering,
            "a unit was handed out beyond the lowered limit"
        );
        // A take that came first keeps its unit; one that came after got none.
        assert_eq!(counter.load().count, 1 + u32::from(rival_took));
        assert_eq!(
            seen.count,
            counter.load().count,
            "a take succeeded after the lowering"
        );
    });
}

#[test]
fn a_release_beside_a_change_of_limit_loses_neither() {
    loom::model(|| {
        let counter = Arc::new(LimitedCounter::new(1));
        assert!(counter.try_take());
        let holder = {
            let counter = Arc::clone(&counter);
            thread::spawn(move || counter.release())
        };
        counter.set_limit(3);
        holder.join().unwrap();
        let end = counter.load();
        assert_eq!((end.count, end.limit), (0, 3));
    });
}

/// Up to three workers over one server.
struct Setting {
    admission: StdArc<Admission<TestGroup>>,
    /// Words sent per worker. Not loom's: a word sent orders nothing but itself.
    words: StdArc<[AtomicUsize; 3]>,
    server: StdArc<TestServer>,
    group: StdArc<TestGroup>,
    /// Another group of the same server.
    other: StdArc<TestGroup>,
}

impl Clone for Setting {
    fn clone(&self) -> Self {
        Self {
            admission: StdArc::clone(&self.admission),
            words: StdArc::clone(&self.words),
            server: StdArc::clone(&self.server),
            group: StdArc::clone(&self.group),
            other: StdArc::clone(&self.other),
        }
    }
}

fn limits(max_concurrent: u32) -> AdmissionLimits {
    AdmissionLimits {
        max_concurrent,
        max_waiting: 10,
        warning_threshold: 0.5,
        overload_threshold: 1.0,
    }
}

type Held = (Permit<TestGroup>, Served<TestGroup>);

impl Setting {
    fn new(max_concurrent: u32, slots: u32) -> Self {
        let limits = limits(max_concurrent);
        let words: StdArc<[AtomicUsize; 3]> = StdArc::default();
        let sent = StdArc::clone(&words);
        let admission = Admission::new(limits, move |address: SeatAddress| {
            sent[address.worker].fetch_add(1, StdOrdering::Relaxed);
        });
        let server = TestServer::new(slots);
        Self {
            admission: StdArc::new(admission),
            words,
            group: TestGroup::new("m", &[&server]),
            other: TestGroup::new("n", &[&server]),
            server,
        }
    }

    fn worker(&self, index: usize) -> LocalAdmission<TestGroup> {
        LocalAdmission::new(StdArc::clone(&self.admission), index)
    }

    fn ask(&self, worker: &LocalAdmission<TestGroup>) -> Asked {
        Self::ask_for(&self.group, worker)
    }

    fn ask_for(group: &StdArc<TestGroup>, worker: &LocalAdmission<TestGroup>) -> Asked {
        let demand = Demand {
            group,
            generation: 9,
            key: 0,
            limits: QueueLimits {
                max_size: 10,
                max_place: 10,
            },
        };
        match worker.ask(&demand) {
            Admittance::Served(permit, served) => Asked::Served((permit, served)),
            Admittance::Waits(place) => Asked::Waits(place),
            other => panic!("neither served nor waits: {other:?}"),
        }
    }

    /// Follows the words that were sent to a worker: the turn of its only place, if it has come.
    fn turn(
        &self,
        index: usize,
        worker: &LocalAdmission<TestGroup>,
        place: &mut Place<TestGroup>,
    ) -> Option<Held> {
        if self.words[index].swap(0, StdOrdering::Relaxed) > 0 {
            worker.wake_all();
        }
        match place.poll_turn(&Context::from_waker(Waker::noop())) {
            Poll::Ready(Turn::Served(permit, served)) => Some((permit, served)),
            Poll::Ready(Turn::Unavailable) => panic!("the server serves"),
            Poll::Pending => None,
        }
    }

    /// Nobody is in flight or waits, and newcomers need no lock.
    fn assert_at_rest(&self) {
        let in_flight = self.admission.in_flight();
        assert_eq!((in_flight.count, self.admission.waiting()), (0, 0));
        assert!(!in_flight.is_contended, "permits kept their mark");
        let slots = self.server.slots.load();
        assert_eq!(slots.count, 0, "a slot was lost");
        assert!(!slots.is_contended, "the server kept its mark");
    }
}

enum Asked {
    Served(Held),
    Waits(Place<TestGroup>),
}

/// What the fast path does: a permit and a slot without any lock, or neither.
fn try_newcomer(setting: &Setting, worker: &LocalAdmission<TestGroup>) -> bool {
    let Some(permit) = worker.try_enter() else {
        return false;
    };
    let Some(server) = setting.group.try_take() else {
        return false;
    };
    if server.slots.release() {
        worker.slot_freed(server);
    }
    drop(permit);
    true
}

/// Few enough switches between threads to stay within minutes, and more than any known bug needs.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(model);
}

/// Somebody who is in flight, with the slot and the permit that others will lack.
fn take_all(setting: &Setting) {
    let (in_flight, slots) = (&setting.admission.in_flight, &setting.server.slots);
    assert!(in_flight.try_take() && slots.try_take());
}

/// The end of what [`take_all`] began, on a thread of its own.
fn give_back(setting: &Setting) -> thread::JoinHandle<()> {
    let setting = setting.clone();
    thread::spawn(move || {
        let worker = setting.worker(0);
        if setting.server.slots.release() {
            worker.slot_freed(&setting.server);
        }
        drop(worker.permit_taken());
    })
}

/// One holder on its own thread gives back everything, while `other` runs.
fn beside_a_release(
    setting: &Setting,
    other: impl FnOnce(&LocalAdmission<TestGroup>) -> Asked,
) -> (LocalAdmission<TestGroup>, Asked) {
    take_all(setting);
    let holder = give_back(setting);
    let worker = setting.worker(1);
    let asked = other(&worker);
    holder.join().unwrap();
    (worker, asked)
}

/// A slot is what lacks, or a permit, or both.
const SCARCE: [(u32, u32); 3] = [(9, 1), (1, 9), (1, 1)];

#[test]
fn whoever_asks_beside_a_release_is_served_at_once_or_by_word() {
    for (permits, slots) in SCARCE {
        explore(move || {
            let setting = Setting::new(permits, slots);
            let (worker, asked) = beside_a_release(&setting, |worker| setting.ask(worker));
            let held = match asked {
                Asked::Served(held) => Some(held),
                Asked::Waits(mut place) => setting.turn(1, &worker, &mut place),
            };
            assert!(held.is_some(), "a wake-up was lost");
            drop(held);
            setting.assert_at_rest();
        });
    }
}

#[test]
fn whoever_leaves_beside_a_release_takes_nothing_along() {
    for (permits, slots) in SCARCE {
        explore(move || {
            let setting = Setting::new(permits, slots);
            beside_a_release(&setting, |worker| {
                drop(setting.ask(worker));
                setting.ask(worker)
            });
            setting.assert_at_rest();
        });
    }
}

#[test]
fn one_release_serves_one_of_two_who_wait_and_the_next_the_other() {
    explore(|| {
        let setting = Setting::new(9, 1);
        take_all(&setting);
        let holder = give_back(&setting);
        let rival = {
            let setting = setting.clone();
            thread::spawn(move || {
                let worker = setting.worker(2);
                match setting.ask(&worker) {
                    Asked::Served(held) => drop(held),
                    // Leaving at any moment, also just after the grant, loses nothing.
                    Asked::Waits(mut place) => drop(setting.turn(2, &worker, &mut place)),
                }
            })
        };
        let worker = setting.worker(1);
        let asked = setting.ask(&worker);
        holder.join().unwrap();
        rival.join().unwrap();
        let held = match asked {
            Asked::Served(held) => Some(held),
            Asked::Waits(mut place) => setting.turn(1, &worker, &mut place),
        };
        assert!(held.is_some(), "the one who stayed was forgotten");
        drop(held);
        setting.assert_at_rest();
    });
}

#[test]
fn of_two_who_wait_a_release_serves_exactly_the_first() {
    explore(|| {
        let setting = Setting::new(9, 1);
        let (first, second) = (setting.worker(1), setting.worker(2));
        take_all(&setting);
        let Asked::Waits(mut oldest) = setting.ask(&first) else {
            panic!("there is no slot")
        };
        let holder = give_back(&setting);
        let Asked::Waits(mut other) = setting.ask(&second) else {
            panic!("overtook the one who waits")
        };
        holder.join().unwrap();
        assert!(setting.turn(2, &second, &mut other).is_none());
        let held = setting.turn(1, &first, &mut oldest);
        assert!(held.is_some(), "a wake-up was lost");
        drop(held);
        assert!(setting.turn(2, &second, &mut other).is_some());
        setting.assert_at_rest();
    });
}

#[test]
fn no_newcomer_overtakes_the_one_who_waits_beside_a_release() {
    for (permits, slots) in SCARCE {
        explore(move || {
            let setting = Setting::new(permits, slots);
            let first = setting.worker(1);
            take_all(&setting);
            let Asked::Waits(mut oldest) = setting.ask(&first) else {
                panic!("there is no slot")
            };
            let holder = give_back(&setting);
            assert!(!try_newcomer(&setting, &setting.worker(2)), "overtook");
            holder.join().unwrap();
            let held = setting.turn(1, &first, &mut oldest);
            assert!(held.is_some(), "a wake-up was lost");
            drop(held);
            assert!(try_newcomer(&setting, &first), "a mark was left behind");
            setting.assert_at_rest();
        });
    }
}

#[test]
fn whoever_asks_for_another_group_of_the_server_comes_after_the_one_who_waits() {
    for (permits, slots) in [(9, 1), (1, 1)] {
        explore(move || {
            let setting = Setting::new(permits, slots);
            let (first, second) = (setting.worker(1), setting.worker(2));
            take_all(&setting);
            let Asked::Waits(mut oldest) = setting.ask(&first) else {
                panic!("there is no slot")
            };
            let holder = give_back(&setting);
            let Asked::Waits(mut other) = Setting::ask_for(&setting.other, &second) else {
                panic!("overtook the one who waits")
            };
            holder.join().unwrap();
            let held = setting.turn(1, &first, &mut oldest);
            assert!(held.is_some(), "a wake-up was lost");
            assert!(setting.turn(2, &second, &mut other).is_none());
            drop(held);
            assert!(setting.turn(2, &second, &mut other).is_some());
            setting.assert_at_rest();
        });
    }
}

#[test]
fn a_newcomer_that_takes_a_permit_for_nothing_wakes_whoever_missed_it() {
    explore(|| {
        let setting = Setting::new(1, 1);
        let newcomer = {
            let setting = setting.clone();
            thread::spawn(move || drop(setting.worker(0).try_enter()))
        };
        let worker = setting.worker(1);
        let asked = setting.ask(&worker);
        newcomer.join().unwrap();
        let held = match asked {
            Asked::Served(held) => Some(held),
            Asked::Waits(mut place) => setting.turn(1, &worker, &mut place),
        };
        assert!(held.is_some(), "a wake-up was lost");
        drop(held);
        setting.assert_at_rest();
    });
}

#[test]
fn a_raised_limit_and_its_refresh_reach_whoever_asks_meanwhile() {
    explore(|| {
        let setting = Setting::new(9, 0);
        let control = {
            let setting = setting.clone();
            thread::spawn(move || {
                setting.server.slots.set_limit(1);
                let group = StdArc::clone(&setting.group);
                setting
                    .worker(0)
                    .refresh(9, |_| Some(StdArc::clone(&group)));
            })
        };
        let worker = setting.worker(1);
        let asked = setting.ask(&worker);
        control.join().unwrap();
        let held = match asked {
            Asked::Served(held) => Some(held),
            Asked::Waits(mut place) => setting.turn(1, &worker, &mut place),
        };
        assert!(held.is_some(), "a wake-up was lost");
        drop(held);
        setting.assert_at_rest();
    });
}

#[test]
fn more_permits_reach_whoever_asks_while_the_limits_change() {
    explore(|| {
        let setting = Setting::new(0, 9);
        let control = {
            let setting = setting.clone();
            thread::spawn(move || {
                setting.admission.set_limits(&limits(1));
                setting.worker(0).limits_changed();
            })
        };
        let worker = setting.worker(1);
        let asked = setting.ask(&worker);
        control.join().unwrap();
        let held = match asked {
            Asked::Served(held) => Some(held),
            Asked::Waits(mut place) => setting.turn(1, &worker, &mut place),
        };
        assert!(held.is_some(), "a wake-up was lost");
        drop(held);
        setting.assert_at_rest();
    });
}

#[test]
fn a_permit_given_back_while_there_come_to_be_fewer_is_neither_lost_nor_handed_on() {
    explore(|| {
        let setting = Setting::new(2, 9);
        let worker = setting.worker(1);
        let (Asked::Served(first), Asked::Served(second)) =
            (setting.ask(&worker), setting.ask(&worker))
        else {
            panic!("there are two permits")
        };
        let Asked::Waits(mut place) = setting.ask(&worker) else {
            panic!("there is no third permit")
        };
        let control = {
            let setting = setting.clone();
            thread::spawn(move || {
                setting.admission.set_limits(&limits(1));
                setting.worker(0).limits_changed();
            })
        };
        drop(first);
        control.join().unwrap();
        // It came before or after the change: then the waiter has it, or nobody.
        let turn = setting.turn(1, &worker, &mut place);
        let in_flight = setting.admission.in_flight().count;
        assert_eq!(
            in_flight,
            1 + u32::from(turn.is_some()),
            "a permit was lost"
        );
        drop(second);
        let turn = turn.or_else(|| setting.turn(1, &worker, &mut place));
        assert!(turn.is_some(), "a wake-up was lost");
        drop(turn);
        setting.assert_at_rest();
    });
}
