//! Threads that ask, wait, leave and give back as fast as they can, each a worker of its own. Between
//! bursts all pause, and what holds between two holders of the lock is looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;

use crossbeam_channel::Receiver;

use super::test_group::{TestGroup, TestServer};
use super::test_random::Random;
use super::*;

const WORKERS: usize = 4;
const BURSTS: usize = 60;
const STEPS: usize = 250;
const PERMITS: u32 = 5;
const SLOTS: [u32; 3] = [1, 2, 3];

/// A barrier that fails for all when one of them does, instead of waiting for ever.
#[derive(Default)]
struct Meeting {
    arrived: AtomicUsize,
    has_failed: AtomicBool,
}

impl Meeting {
    fn wait(&self) {
        let ticket = self.arrived.fetch_add(1, Ordering::AcqRel);
        let complete = (ticket / WORKERS + 1) * WORKERS;
        while self.arrived.load(Ordering::Acquire) < complete {
            let has_failed = self.has_failed.load(Ordering::Acquire);
            assert!(!has_failed, "another thread has failed");
            thread::yield_now();
        }
    }
}

struct FailsTogether<'a>(&'a Meeting);

impl Drop for FailsTogether<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.has_failed.store(true, Ordering::Release);
        }
    }
}

/// What all threads share; the counts of holders are the test's own.
struct Scene {
    admission: Arc<Admission<TestGroup>>,
    servers: Vec<Arc<TestServer>>,
    groups: Vec<Arc<TestGroup>>,
    holders: [AtomicU32; SLOTS.len()],
    in_flight: AtomicU32,
    served: AtomicU64,
    served_by_word: AtomicU64,
    meeting: Meeting,
}

/// In flight. The test's own counts go down before the guards let anybody else in.
struct Held<'a> {
    scene: &'a Scene,
    server: usize,
    guards: Option<(Permit<TestGroup>, Served<TestGroup>)>,
}

impl<'a> Held<'a> {
    fn new(scene: &'a Scene, permit: Permit<TestGroup>, served: Served<TestGroup>) -> Self {
        let taken = served.server().unwrap();
        let mut servers = scene.servers.iter();
        let server = servers.position(|own| Arc::ptr_eq(own, taken)).unwrap();
        let holders = scene.holders[server].fetch_add(1, Ordering::SeqCst) + 1;
        assert!(holders <= SLOTS[server], "{holders} holders");
        let in_flight = scene.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        assert!(in_flight <= PERMITS, "{in_flight} in flight");
        scene.served.fetch_add(1, Ordering::Relaxed);
        Self {
            scene,
            server,
            guards: Some((permit, served)),
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.scene.holders[self.server].fetch_sub(1, Ordering::SeqCst);
        self.scene.in_flight.fetch_sub(1, Ordering::SeqCst);
        drop(self.guards.take());
    }
}

struct Worker<'a> {
    scene: &'a Scene,
    random: Random,
    local: LocalAdmission<TestGroup>,
    words: Receiver<SeatAddress>,
    places: Vec<Place<TestGroup>>,
    held: Vec<Held<'a>>,
}

impl Worker<'_> {
    fn step(&mut self) {
        match self.random.below(8) {
            0..4 => self.arrive(),
            4 if !self.places.is_empty() => {
                let position = self.random.below(self.places.len());
                drop(self.places.swap_remove(position));
            }
            _ if !self.held.is_empty() => {
                let position = self.random.below(self.held.len());
                drop(self.held.swap_remove(position));
            }
            _ => {}
        }
        self.follow_words();
    }

    fn arrive(&mut self) {
        let scene = self.scene;
        let group = &scene.groups[self.random.below(scene.groups.len())];
        if let Some(permit) = self.local.try_enter()
            && let Some(server) = group.try_take()
        {
            let served = self.local.slot_taken(Arc::clone(server));
            self.held.push(Held::new(scene, permit, served));
            return;
        }
        let demand = Demand {
            group,
            generation: 0,
            key: self.random.below(3) as TurnKey,
            limits: QueueLimits {
                max_size: 12,
                max_place: 12,
            },
        };
        match self.local.ask(&demand) {
            Admittance::Served(permit, served) => self.held.push(Held::new(scene, permit, served)),
            Admittance::Waits(place) => self.places.push(place),
            Admittance::Refused(_) => {}
            other => panic!("all servers serve: {other:?}"),
        }
    }

    fn follow_words(&mut self) {
        for address in self.words.try_iter() {
            self.local.wake(address.seat);
        }
        let context = Context::from_waker(Waker::noop());
        for mut place in std::mem::take(&mut self.places) {
            match place.poll_turn(&context) {
                Poll::Pending => self.places.push(place),
                Poll::Ready(Turn::Served(permit, served)) => {
                    self.scene.served_by_word.fetch_add(1, Ordering::Relaxed);
                    self.held.push(Held::new(self.scene, permit, served));
                }
                Poll::Ready(Turn::Unavailable) => panic!("all servers serve"),
            }
        }
    }

    fn run(&mut self) {
        for _ in 0..BURSTS {
            (0..STEPS).for_each(|_| self.step());
            self.scene.meeting.wait();
            // Nobody gives anything back any more: whoever was granted something has word of it.
            self.follow_words();
            self.scene.meeting.wait();
            assert!(self.places.iter().all(|place| place.now().is_some()));
            self.scene.check_nobody_waits_for_nothing();
            self.scene.meeting.wait();
        }
        self.places.clear();
        self.held.clear();
        self.scene.meeting.wait();
    }
}

impl Scene {
    fn check_nobody_waits_for_nothing(&self) {
        let in_flight = self.admission.in_flight();
        assert_eq!(in_flight.count, self.in_flight.load(Ordering::SeqCst));
        let mut waiting = 0;
        for group in &self.groups {
            waiting += group.waiting();
            if group.waiting() == 0 || in_flight.count == in_flight.limit {
                continue;
            }
            for server in group.servers() {
                let slots = server.slots.load();
                assert_eq!(
                    slots.count, slots.limit,
                    "somebody waits while a slot is free"
                );
            }
        }
        assert_eq!(self.admission.waiting(), waiting);
        for (server, holders) in self.servers.iter().zip(&self.holders) {
            assert_eq!(server.slots.load().count, holders.load(Ordering::SeqCst));
        }
    }

    fn assert_at_rest(&self) {
        let in_flight = self.admission.in_flight();
        assert_eq!((in_flight.count, self.admission.waiting()), (0, 0));
        assert!(!in_flight.is_contended, "permits kept their mark");
        assert!(self.groups.iter().all(|group| group.waiting() == 0));
        for server in &self.servers {
            let slots = server.slots.load();
            assert_eq!((slots.count, slots.is_contended), (0, false));
        }
    }
}

fn storm(seed: u64) {
    let (senders, mut words): (Vec<_>, Vec<_>) =
        (0..WORKERS).map(|_| crossbeam_channel::unbounded()).unzip();
    let limits = AdmissionLimits {
        max_concurrent: PERMITS,
        max_waiting: 40,
        warning_threshold: 0.5,
        overload_threshold: 1.0,
    };
    let admission = Admission::new(limits, move |address: SeatAddress| {
        senders[address.worker].send(address).unwrap();
    });
    let servers: Vec<_> = SLOTS.map(TestServer::new).into();
    let [a, b, c] = [&servers[0], &servers[1], &servers[2]];
    let groups = vec![
        TestGroup::new("m", &[a, b]),
        TestGroup::new("n", &[b, c]),
        TestGroup::new("o", &[a]),
    ];
    let scene = Scene {
        admission: Arc::new(admission),
        servers,
        groups,
        holders: Default::default(),
        in_flight: AtomicU32::new(0),
        served: AtomicU64::new(0),
        served_by_word: AtomicU64::new(0),
        meeting: Meeting::default(),
    };
    thread::scope(|scope| {
        for (index, words) in words.drain(..).enumerate() {
            let scene = &scene;
            scope.spawn(move || {
                let _together = FailsTogether(&scene.meeting);
                let mut worker = Worker {
                    scene,
                    random: Random((seed << 8 | index as u64) + 1),
                    local: LocalAdmission::new(Arc::clone(&scene.admission), index),
                    words,
                    places: Vec::new(),
                    held: Vec::new(),
                };
                worker.run();
            });
        }
    });
    scene.assert_at_rest();
    let (served, by_word) = (scene.served.into_inner(), scene.served_by_word.into_inner());
    assert!(by_word > 0 && served > by_word, "{by_word} of {served}");
}

#[test]
fn threads_hand_slots_over_without_losing_one_or_forgetting_anybody() {
    for seed in 1..=4 {
        let outcome = std::panic::catch_unwind(|| storm(seed));
        assert!(outcome.is_ok(), "the storm of seed {seed} went wrong");
    }
}
