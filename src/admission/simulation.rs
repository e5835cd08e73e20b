//! A seeded simulation of workers, queues and servers on a virtual clock: requests come, wait, are
//! served, end, time out and are given up; word between workers is late or lost; servers go and
//! return, their limits change, and the table does. After every step the queues must agree with a
//! model that is too simple to be wrong. `LLM_ROUTER_SIM_SEED=n` replays one seed.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;

use super::test_group::{TestGroup, TestServer};
use super::*;

const SEEDS: u64 = 256;
const STEPS: u32 = 3000;
const WORKERS: usize = 3;
const KEYS: usize = 3;
const NAMES: [&str; 3] = ["m", "n", "o"];
const QUEUE: QueueLimits = QueueLimits {
    max_size: 7,
    max_place: 6,
};

/// splitmix64: small, and good enough to explore.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// One that waits, as the model sees it.
struct Waiting {
    id: u64,
    key: TurnKey,
    worker: usize,
    place: Place<TestGroup>,
    gives_up_at: u64,
    /// Of its own group, since it came; and how many there may be before its turn.
    grants_seen: usize,
    grants_max: usize,
}

/// The queue of one group, in the order of arrival, with the order of turns.
#[derive(Default)]
struct Line {
    waiting: Vec<Waiting>,
    turns: Vec<TurnKey>,
}

/// One whose turn has come or that was told so, before it has looked.
struct Called {
    id: u64,
    worker: usize,
    place: Place<TestGroup>,
    gives_up_at: u64,
    is_served: bool,
    /// Older ones that still waited then: none of their servers may be what it was given.
    passed: Vec<Arc<TestGroup>>,
}

/// One in flight.
struct Held {
    server: Arc<TestServer>,
    ends_at: u64,
    _guards: (Permit<TestGroup>, Served<TestGroup>),
}

struct World {
    random: Random,
    now: u64,
    next_id: u64,
    generation: u64,
    workers: Vec<LocalAdmission<TestGroup>>,
    mailbox: Arc<Mutex<Vec<SeatAddress>>>,
    servers: Vec<Arc<TestServer>>,
    table: BTreeMap<&'static str, Arc<TestGroup>>,
    /// What each worker has looked up last, perhaps before the last change.
    known: Vec<(u64, BTreeMap<&'static str, Arc<TestGroup>>)>,
    lines: BTreeMap<&'static str, Line>,
    called: Vec<Called>,
    held: Vec<Held>,
    /// Sum over all that happened, to compare two runs.
    trace: u64,
}

impl Line {
    /// Indices in the order of service.
    fn order(&self) -> Vec<usize> {
        let mut turns = self.turns.clone();
        let mut lanes: BTreeMap<TurnKey, Vec<usize>> = BTreeMap::new();
        for (index, waiting) in self.waiting.iter().enumerate().rev() {
            lanes.entry(waiting.key).or_default().push(index);
        }
        let mut order = Vec::new();
        while !turns.is_empty() {
            turns.retain(|key| {
                let lane = lanes.get_mut(key).unwrap();
                order.extend(lane.pop());
                !lane.is_empty()
            });
        }
        order
    }

    fn push(&mut self, waiting: Waiting) {
        if !self.turns.contains(&waiting.key) {
            self.turns.push(waiting.key);
        }
        self.waiting.push(waiting);
    }

    fn remove(&mut self, index: usize) -> Waiting {
        let gone = self.waiting.remove(index);
        if self.waiting.iter().all(|other| other.key != gone.key) {
            self.turns.retain(|key| *key != gone.key);
        }
        gone
    }

    /// Index of whoever is next.
    fn first(&self) -> Option<usize> {
        let key = self.turns.first()?;
        self.waiting.iter().position(|waiting| waiting.key == *key)
    }

    fn pop(&mut self) -> Option<Waiting> {
        let index = self.first()?;
        self.turns.rotate_left(1);
        Some(self.remove(index))
    }

    /// The place a newcomer would have.
    fn place_of_next(&self, key: TurnKey) -> usize {
        let of_key = |key| self.waiting.iter().filter(|other| other.key == key).count();
        let ahead = of_key(key);
        let own = self.turns.iter().position(|turn| *turn == key);
        let others = self
            .turns
            .iter()
            .enumerate()
            .filter(|(_, turn)| **turn != key);
        let before = others.map(|(position, turn)| {
            let rounds = ahead + usize::from(own.is_none_or(|own| position < own));
            of_key(*turn).min(rounds)
        });
        ahead + 1 + before.sum::<usize>()
    }

    fn head(&self) -> Option<u64> {
        Some(self.waiting[self.first()?].id)
    }
}

fn is_free(server: &TestServer) -> bool {
    let slots = server.slots.load();
    server.is_online() && slots.count < slots.limit
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let limits = AdmissionLimits {
            max_concurrent: 2 + random.below(6) as u32,
            max_waiting: 15,
            warning_threshold: 0.5,
            overload_threshold: 0.8,
        };
        let mailbox = Arc::new(Mutex::new(Vec::new()));
        let sent = Arc::clone(&mailbox);
        let shared = Arc::new(Admission::new(limits, move |address| {
            sent.lock().unwrap().push(address);
        }));
        let mut world = Self {
            random,
            now: 0,
            next_id: 0,
            generation: 0,
            workers: (0..WORKERS)
                .map(|worker| LocalAdmission::new(Arc::clone(&shared), worker))
                .collect(),
            mailbox,
            servers: (0..4).map(|_| TestServer::new(1)).collect(),
            table: BTreeMap::new(),
            known: vec![(0, BTreeMap::new()); WORKERS],
            lines: NAMES.map(|name| (name, Line::default())).into(),
            called: Vec::new(),
            held: Vec::new(),
            trace: 0,
        };
        world.change_table();
        world
    }

    fn note(&mut self, what: u64, id: u64) {
        self.trace = (self.trace.rotate_left(7) ^ (what << 32 | id)).wrapping_mul(0x100_0000_01b3);
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..42 => self.arrive(),
            42..68 => self.pass_time(),
            68..73 => self.give_up(),
            73..90 => self.deliver(),
            90..92 => self.workers.iter().for_each(LocalAdmission::wake_all),
            92..95 => {
                let server = &self.servers[self.random.below(self.servers.len())];
                server.set_online(self.random.chance(70));
                self.refresh();
            }
            95..98 => {
                let server = &self.servers[self.random.below(self.servers.len())];
                server.slots.set_limit(self.random.below(4) as u32);
                self.refresh();
            }
            _ => self.change_table(),
        }
        self.settle();
        self.look();
        // What a look took over or passed on may have served others.
        self.settle();
        self.check();
    }

    /// Groups of servers drawn anew; one may vanish.
    fn change_table(&mut self) {
        self.generation += 1;
        self.table.clear();
        for name in NAMES {
            let servers: Vec<_> = self
                .servers
                .iter()
                .filter(|_| self.random.chance(50))
                .collect();
            if self.random.chance(90) {
                self.table.insert(name, TestGroup::new(name, &servers));
            }
        }
        self.refresh();
    }

    fn refresh(&mut self) {
        let worker = &self.workers[self.random.below(WORKERS)];
        let table = &self.table;
        worker.refresh(self.generation, |name| table.get(name).cloned());
        for (name, line) in &mut self.lines {
            if table.get(name).is_some_and(|group| group.is_available()) {
                continue;
            }
            while let Some(waiting) = line.pop() {
                self.called.push(Called {
                    id: waiting.id,
                    worker: waiting.worker,
                    place: waiting.place,
                    gives_up_at: waiting.gives_up_at,
                    is_served: false,
                    passed: Vec::new(),
                });
            }
        }
    }

    fn arrive(&mut self) {
        let worker = self.random.below(WORKERS);
        if self.random.chance(60) {
            self.known[worker] = (self.generation, self.table.clone());
        }
        let name = NAMES[self.random.below(NAMES.len())];
        let key = self.random.below(KEYS) as TurnKey;
        let (generation, groups) = &self.known[worker];
        let (generation, Some(group)) = (*generation, groups.get(name).cloned()) else {
            return;
        };
        self.next_id += 1;
        if generation == self.generation && self.try_fast_path(worker, &group) {
            return;
        }
        let expected = self.expected(generation, &group, key);
        let demand = Demand {
            group: &group,
            generation,
            key,
            limits: QUEUE,
        };
        let outcome = match self.workers[worker].ask(&demand) {
            Admittance::Served(permit, served) => {
                self.hold(permit, served);
                Expected::Served
            }
            Admittance::Waits(place) => {
                let at_entry = place.at_entry();
                self.wait(worker, name, key, place);
                Expected::Waits(at_entry)
            }
            Admittance::Refused(refusal) => Expected::Refused(refusal),
            Admittance::Unavailable => Expected::Unavailable,
            Admittance::Outdated => Expected::Outdated,
        };
        assert_eq!(outcome, expected);
        self.note(outcome.number(), self.next_id);
    }

    /// A permit and a slot without any lock: nobody who waits may want either.
    fn try_fast_path(&mut self, worker: usize, group: &Arc<TestGroup>) -> bool {
        let Some(permit) = self.workers[worker].try_enter() else {
            return false;
        };
        let Some(server) = group.try_take() else {
            return false;
        };
        for (name, line) in &self.lines {
            let is_wanted = self
                .table
                .get(name)
                .is_some_and(|other| other.member(server).is_some());
            assert!(!is_wanted || line.waiting.is_empty(), "overtook {name}");
        }
        let served = self.workers[worker].slot_taken(Arc::clone(server));
        self.hold(permit, served);
        self.note(1, self.next_id);
        true
    }

    fn expected(&self, generation: u64, group: &Arc<TestGroup>, key: TurnKey) -> Expected {
        let line = &self.lines[group.name()];
        let shared = self.workers[0].shared();
        let place = line.place_of_next(key);
        if generation < self.generation {
            Expected::Outdated
        } else if line.waiting.is_empty()
            && shared.in_flight().count < shared.in_flight().limit
            && group.servers().iter().any(|server| is_free(server))
        {
            Expected::Served
        } else if !group.is_available() {
            Expected::Unavailable
        } else if shared.backpressure() == Backpressure::Overloaded {
            Expected::Refused(Refusal::Overloaded(place))
        } else if line.waiting.len() >= QUEUE.max_size {
            Expected::Refused(Refusal::QueueFull(place))
        } else if place > QUEUE.max_place {
            Expected::Refused(Refusal::TooFarBack(place))
        } else {
            Expected::Waits(place)
        }
    }

    fn hold(&mut self, permit: Permit<TestGroup>, served: Served<TestGroup>) {
        self.held.push(Held {
            server: Arc::clone(served.server().unwrap()),
            ends_at: self.now + 1 + self.random.next() % 40,
            _guards: (permit, served),
        });
    }

    fn wait(&mut self, worker: usize, name: &str, key: TurnKey, place: Place<TestGroup>) {
        let gives_up_at = self.now + 1 + self.random.next() % 200;
        let line = self.lines.get_mut(name).unwrap();
        let ahead = line.waiting.iter().filter(|other| other.key == key).count();
        line.push(Waiting {
            id: self.next_id,
            key,
            worker,
            place,
            gives_up_at,
            grants_seen: 0,
            // In every round until its own, each key is served once at most.
            grants_max: (ahead + 1) * KEYS - 1,
        });
    }

    /// To the next moment at which something is due; all that is due then happens.
    fn pass_time(&mut self) {
        self.now += 1 + self.random.next() % 12;
        while let Some(position) = self.held.iter().position(|held| held.ends_at <= self.now) {
            drop(self.held.swap_remove(position));
            self.settle();
        }
        for name in NAMES {
            let line = self.lines.get_mut(name).unwrap();
            let now = self.now;
            while let Some(index) = line.waiting.iter().position(|one| one.gives_up_at <= now) {
                drop(line.remove(index));
            }
        }
        let is_due = |called: &Called| called.gives_up_at <= self.now;
        if let Some(position) = self.called.iter().position(is_due) {
            drop(self.called.remove(position));
        }
    }

    /// A client goes away: while it waits, at the moment of its turn, or in flight.
    fn give_up(&mut self) {
        match self.random.below(3) {
            0 => {
                let line = self
                    .lines
                    .get_mut(NAMES[self.random.below(NAMES.len())])
                    .unwrap();
                if !line.waiting.is_empty() {
                    let index = self.random.below(line.waiting.len());
                    drop(line.remove(index));
                }
            }
            1 if !self.called.is_empty() => {
                let position = self.random.below(self.called.len());
                drop(self.called.remove(position));
            }
            _ if !self.held.is_empty() => {
                let position = self.random.below(self.held.len());
                drop(self.held.swap_remove(position));
            }
            _ => {}
        }
    }

    /// Some word arrives, in any order; some is lost.
    fn deliver(&mut self) {
        let mut sent = std::mem::take(&mut *self.mailbox.lock().unwrap());
        while !sent.is_empty() {
            let address = sent.swap_remove(self.random.below(sent.len()));
            if self.random.chance(90) {
                self.workers[address.worker].wake(address.seat);
            }
        }
    }
}

/// What is to come of asking.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Served,
    Waits(usize),
    Refused(Refusal),
    Unavailable,
    Outdated,
}

impl Expected {
    fn number(&self) -> u64 {
        match self {
            Self::Served => 2,
            Self::Waits(place) => 16 + *place as u64,
            Self::Refused(_) => 3,
            Self::Unavailable => 4,
            Self::Outdated => 5,
        }
    }
}

impl World {
    /// Follows in the model what the queues have granted: those who are next, and nobody else.
    fn settle(&mut self) {
        let mut granted = Vec::new();
        for (name, line) in &mut self.lines {
            while let Some(next) = line.first() {
                if line.waiting[next].place.now().is_some() {
                    break;
                }
                granted.push((*name, line.pop().unwrap()));
                for other in &mut line.waiting {
                    other.grants_seen += 1;
                    assert!(
                        other.grants_seen <= other.grants_max,
                        "{} starves",
                        other.id
                    );
                }
            }
        }
        if granted.is_empty() {
            return;
        }
        let heads: Vec<_> = self
            .lines
            .iter()
            .filter(|(name, _)| granted.iter().all(|(other, _)| other != *name))
            .filter_map(|(name, line)| Some((line.head()?, Arc::clone(&self.table[name]))))
            .collect();
        for (_, waiting) in granted {
            let older = heads.iter().filter(|(head, _)| *head < waiting.id);
            self.note(6, waiting.id);
            self.called.push(Called {
                id: waiting.id,
                worker: waiting.worker,
                place: waiting.place,
                gives_up_at: waiting.gives_up_at,
                is_served: true,
                passed: older.map(|(_, group)| Arc::clone(group)).collect(),
            });
        }
    }

    /// Everybody looks whether word has come, as a runtime would let it.
    fn look(&mut self) {
        let context = Context::from_waker(Waker::noop());
        for line in self.lines.values_mut() {
            for waiting in &mut line.waiting {
                assert!(waiting.place.poll_turn(&context).is_pending());
            }
        }
        for mut called in std::mem::take(&mut self.called) {
            match called.place.poll_turn(&context) {
                Poll::Pending => self.called.push(called),
                Poll::Ready(Turn::Unavailable) => {
                    assert!(!called.is_served);
                    self.note(7, called.id);
                }
                Poll::Ready(Turn::Served(permit, served)) => {
                    assert!(called.is_served);
                    let server = served.server().unwrap();
                    for group in &called.passed {
                        assert!(group.member(server).is_none(), "{} overtook", called.id);
                    }
                    self.note(8 + called.worker as u64, called.id);
                    self.hold(permit, served);
                }
            }
        }
    }

    fn check(&self) {
        let shared = self.workers[0].shared();
        let mut waiting = 0;
        for (name, line) in &self.lines {
            waiting += line.waiting.len();
            assert!(line.waiting.len() <= QUEUE.max_size);
            for (turn, index) in line.order().into_iter().enumerate() {
                assert_eq!(line.waiting[index].place.now(), Some(turn + 1));
            }
            if let Some(group) = self.table.get(name) {
                assert_eq!(
                    group.waiting() as usize,
                    line.waiting.len(),
                    "gauge of {name}"
                );
            }
        }
        assert_eq!(shared.waiting() as usize, waiting);
        assert!(waiting <= 12, "beyond what makes the router overloaded");
        self.check_units();
        self.check_nobody_waits_for_nothing();
    }

    /// Slots and permits: one each for all who hold one or have been granted one.
    fn check_units(&self) {
        let in_flight = self.workers[0].shared().in_flight();
        let granted = self.called.iter().filter(|called| called.is_served).count();
        assert_eq!(
            in_flight.count as usize,
            self.held.len() + granted,
            "permits"
        );
        assert!(in_flight.count <= in_flight.limit);
        let mut beyond = 0;
        for server in &self.servers {
            let held = self
                .held
                .iter()
                .filter(|held| Arc::ptr_eq(&held.server, server));
            let (count, held) = (server.slots.load().count as usize, held.count());
            assert!(count >= held, "a slot was lost");
            beyond += count - held;
        }
        assert_eq!(beyond, granted, "slots");
    }

    fn check_nobody_waits_for_nothing(&self) {
        let in_flight = self.workers[0].shared().in_flight();
        for (name, line) in &self.lines {
            if line.waiting.is_empty() {
                continue;
            }
            for server in self.table[name].servers() {
                assert!(
                    server.slots.load().is_contended,
                    "a newcomer might overtake"
                );
                let could_serve = in_flight.count < in_flight.limit && is_free(server);
                assert!(
                    !could_serve,
                    "somebody waits in {name} for a slot that is free"
                );
            }
        }
        for server in &self.servers {
            let is_wanted = self.lines.iter().any(|(name, line)| {
                !line.waiting.is_empty() && self.table[name].member(server).is_some()
            });
            let slots = server.slots.load();
            assert!(
                is_wanted || slots.count > 0 || !slots.is_contended,
                "a mark stays"
            );
        }
        let is_empty = self.lines.values().all(|line| line.waiting.is_empty());
        assert!(!is_empty || !in_flight.is_contended || in_flight.count > 0);
    }

    /// All clients go; nothing may be left behind.
    fn end(mut self) -> u64 {
        for line in self.lines.values_mut() {
            while line.pop().is_some() {}
        }
        self.called.clear();
        self.held.clear();
        self.check();
        let shared = self.workers[0].shared();
        assert_eq!((shared.in_flight().count, shared.waiting()), (0, 0));
        assert!(!shared.in_flight().is_contended);
        for server in &self.servers {
            let slots = server.slots.load();
            assert!(slots.count == 0 && !slots.is_contended);
        }
        self.trace
    }
}

fn run(seed: u64, steps: u32) -> u64 {
    let mut world = World::new(seed);
    (0..steps).for_each(|_| world.step());
    world.end()
}

#[test]
fn queues_agree_with_the_model_under_any_history() {
    if let Ok(seed) = std::env::var("LLM_ROUTER_SIM_SEED") {
        run(seed.parse().unwrap(), STEPS);
        return;
    }
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(1, |count| count.get().min(4));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    let outcome = catch_unwind(AssertUnwindSafe(|| run(seed, STEPS)));
                    assert!(outcome.is_ok(), "replay with LLM_ROUTER_SIM_SEED={seed}");
                }
            });
        }
    });
}

#[test]
fn one_seed_always_gives_the_same_history() {
    let traces: Vec<_> = (0..8).map(|seed| run(seed, 1000)).collect();
    assert_eq!(
        traces,
        (0..8).map(|seed| run(seed, 1000)).collect::<Vec<_>>()
    );
    assert!(
        traces.windows(2).all(|pair| pair[0] != pair[1]),
        "histories do not differ"
    );
}
