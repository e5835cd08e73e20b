//! A seeded simulation of workers, queues and servers on a virtual clock: requests come, wait, are
//! served, end, fail, come back, time out and are given up; word between workers is late or lost; servers go and
//! return, their limits change, and the table does. After every step the queues must agree with a
//! model that is too simple to be wrong. `SIMULATION_SEED=n` replays one seed.
#![expect(
    clippy::disallowed_types,
    reason = "the words that a test's workers send one another; nothing here is hot"
)]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;

use super::simulated_queue::{Line, Origin, Waiting};
use super::test_group::{TestGroup, TestServer};
use super::test_random::Random;
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

/// One whose turn has come or that was told so, before it has looked.
struct Called {
    waiting: Waiting,
    is_served: bool,
    /// Those before it that still waited then: what it was given must be nothing that they would take.
    passed: Vec<(Arc<TestGroup>, Option<Arc<TestServer>>)>,
}

/// One in flight.
struct Held {
    origin: Origin,
    server: Arc<TestServer>,
    ends_at: u64,
    guards: (Permit<TestGroup>, Served<TestGroup>),
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
            0..36 => self.arrive(),
            36..43 => self.fail(),
            43..45 => self.let_go(),
            45..68 => self.pass_time(),
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
            let mut gone = std::mem::take(&mut line.returned);
            gone.extend(std::iter::from_fn(|| line.pop()));
            self.called.extend(gone.into_iter().map(|waiting| Called {
                waiting,
                is_served: false,
                passed: Vec::new(),
            }));
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
        let origin = Origin {
            id: self.next_id,
            name,
            key,
            worker,
            ticket: None,
        };
        if generation == self.generation && self.try_fast_path(origin, &group) {
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
                self.hold(origin, permit, served);
                Expected::Served
            }
            Admittance::Waits(place) => {
                let at_entry = place.at_entry();
                self.wait(origin, place);
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
    fn try_fast_path(&mut self, origin: Origin, group: &Arc<TestGroup>) -> bool {
        let Some(permit) = self.workers[origin.worker].try_enter() else {
            return false;
        };
        let Some(server) = group.try_take() else {
            return false;
        };
        for (name, line) in &self.lines {
            let is_member = self
                .table
                .get(name)
                .is_some_and(|other| other.member(server).is_some());
            let is_wanted = line.candidates().any(|waiting| waiting.takes(server));
            assert!(!(is_member && is_wanted), "overtook {name}");
        }
        let served = self.workers[origin.worker].slot_taken(Arc::clone(server));
        self.hold(origin, permit, served);
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
        } else if line.len() >= QUEUE.max_size {
            Expected::Refused(Refusal::QueueFull(place))
        } else if place > QUEUE.max_place {
            Expected::Refused(Refusal::TooFarBack(place))
        } else {
            Expected::Waits(place)
        }
    }

    /// One in flight finds that its server cannot be reached, and asks again.
    fn fail(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let position = self.random.below(self.held.len());
        let Held {
            origin,
            server,
            guards: (permit, slot),
            ..
        } = self.held.swap_remove(position);
        let (generation, groups) = &self.known[origin.worker];
        let (generation, Some(group)) = (*generation, groups.get(origin.name).cloned()) else {
            return;
        };
        drop(permit);
        self.settle();
        let expected = self.expected_again(generation, &group, origin.ticket, &server);
        let demand = Demand {
            group: &group,
            generation,
            key: origin.key,
            limits: QUEUE,
        };
        let back = Return {
            ticket: origin.ticket,
            shunned: &server,
        };
        let outcome = match self.workers[origin.worker].ask_again(&demand, &back) {
            Admittance::Served(permit, served) => {
                self.hold(origin, permit, served);
                Expected::Served
            }
            Admittance::Waits(place) => {
                let at_entry = place.at_entry();
                let waiting = Waiting {
                    origin,
                    place,
                    gives_up_at: self.now + 1 + self.random.next() % 200,
                    is_back: true,
                    shunned: Some(server),
                    slot: Some(slot),
                    grants_seen: 0,
                    grants_max: 0,
                };
                let line = self.lines.get_mut(origin.name).unwrap();
                assert_eq!(line.take_back(waiting) + 1, at_entry);
                Expected::Waits(at_entry)
            }
            Admittance::Refused(refusal) => Expected::Refused(refusal),
            Admittance::Unavailable => Expected::Unavailable,
            Admittance::Outdated => Expected::Outdated,
        };
        assert_eq!(outcome, expected);
        self.note(100 + outcome.number(), origin.id);
    }

    fn expected_again(
        &self,
        generation: u64,
        group: &Arc<TestGroup>,
        ticket: Option<Ticket>,
        server: &Arc<TestServer>,
    ) -> Expected {
        let shared = self.workers[0].shared();
        let ticket = ticket.unwrap_or(Ticket::MAX);
        let returned = self.lines[group.name()].returned.iter();
        let before = returned.filter(|other| other.place.ticket() < ticket);
        let place = before.count() + 1;
        let mut others = group.servers().iter();
        if generation < self.generation {
            Expected::Outdated
        } else if !group.is_available() {
            Expected::Unavailable
        } else if shared.backpressure() == Backpressure::Overloaded {
            Expected::Refused(Refusal::Overloaded(place))
        } else if shared.in_flight().count < shared.in_flight().limit
            && others.any(|other| is_free(other) && !Arc::ptr_eq(other, server))
        {
            Expected::Served
        } else {
            Expected::Waits(place)
        }
    }

    /// One that came back lets go of the slot it holds, or forgives, or both.
    fn let_go(&mut self) {
        let line = self.lines.get_mut(NAMES[self.random.below(NAMES.len())]);
        let returned = &mut line.unwrap().returned;
        if returned.is_empty() {
            return;
        }
        let index = self.random.below(returned.len());
        let choice = self.random.below(3);
        if choice < 2 {
            returned[index].place.forgive();
            returned[index].shunned = None;
        }
        if choice > 0 {
            let slot = returned[index].slot.take();
            drop(slot);
        }
    }

    fn hold(&mut self, origin: Origin, permit: Permit<TestGroup>, served: Served<TestGroup>) {
        self.held.push(Held {
            origin,
            server: Arc::clone(served.server().unwrap()),
            ends_at: self.now + 1 + self.random.next() % 40,
            guards: (permit, served),
        });
    }

    fn wait(&mut self, origin: Origin, place: Place<TestGroup>) {
        let gives_up_at = self.now + 1 + self.random.next() % 200;
        let line = self.lines.get_mut(origin.name).unwrap();
        let others = line.waiting.iter();
        let ahead = others
            .filter(|other| other.origin.key == origin.key)
            .count();
        line.push(Waiting {
            origin,
            place,
            gives_up_at,
            is_back: false,
            shunned: None,
            slot: None,
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
            // The slots that these give back serve others at once.
            let is_late = |one: &Waiting| one.gives_up_at <= now;
            while let returned = &mut self.lines.get_mut(name).unwrap().returned
                && let Some(index) = returned.iter().position(is_late)
            {
                drop(returned.remove(index));
                self.settle();
            }
        }
        let is_due = |called: &Called| called.waiting.gives_up_at <= self.now;
        if let Some(position) = self.called.iter().position(is_due) {
            drop(self.called.remove(position));
        }
    }

    /// A client goes away: while it waits, at the moment of its turn, or in flight.
    fn give_up(&mut self) {
        match self.random.below(4) {
            3 => {
                let line = self.lines.get_mut(NAMES[self.random.below(NAMES.len())]);
                let returned = &mut line.unwrap().returned;
                if !returned.is_empty() {
                    drop(returned.remove(self.random.below(returned.len())));
                }
            }
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
            // Whoever came back is served by the rank of somebody behind it, perhaps.
            let all = line.waiting.iter().chain(&line.returned);
            let lowest = all.map(|one| one.place.ticket()).min();
            while let Some(next) = line.first() {
                if line.waiting[next].place.now().is_some() {
                    break;
                }
                let next = line.pop().unwrap();
                granted.push((*name, next.place.ticket(), next));
                for other in &mut line.waiting {
                    other.grants_seen += 1;
                    let id = other.origin.id;
                    assert!(other.grants_seen <= other.grants_max, "{id} starves");
                }
            }
            let (still, called): (Vec<_>, Vec<_>) =
                (line.returned.drain(..)).partition(|waiting| waiting.place.now().is_some());
            line.returned = still;
            let lowest = lowest.unwrap_or(0);
            granted.extend(called.into_iter().map(|waiting| (*name, lowest, waiting)));
        }
        let names: Vec<_> = granted.iter().map(|(name, ..)| *name).collect();
        for (name, rank, waiting) in granted {
            let mut passed = Vec::new();
            for (other, line) in &self.lines {
                // Of a queue in which others were served, whoever is first now may not have been so then.
                let before: Vec<&Waiting> = if *other == name {
                    let returned = line.returned.iter();
                    returned.filter(|one| one.rank() < waiting.rank()).collect()
                } else if names.contains(other) {
                    Vec::new()
                } else {
                    let candidates = line.candidates();
                    candidates.filter(|one| one.place.ticket() < rank).collect()
                };
                let older = before.into_iter();
                let group = self.table.get(other);
                passed.extend(older.map(|one| (Arc::clone(group.unwrap()), one.shunned.clone())));
            }
            self.note(6, waiting.origin.id);
            self.called.push(Called {
                waiting,
                is_served: true,
                passed,
            });
        }
    }

    /// Everybody looks whether word has come, as a runtime would let it.
    fn look(&mut self) {
        let context = Context::from_waker(Waker::noop());
        for line in self.lines.values_mut() {
            for waiting in line.waiting.iter_mut().chain(&mut line.returned) {
                assert!(waiting.place.poll_turn(&context).is_pending());
            }
        }
        for mut called in std::mem::take(&mut self.called) {
            let mut origin = called.waiting.origin;
            match called.waiting.place.poll_turn(&context) {
                Poll::Pending => self.called.push(called),
                Poll::Ready(Turn::Unavailable) => {
                    assert!(!called.is_served);
                    self.note(7, origin.id);
                }
                Poll::Ready(Turn::Served(permit, served)) => {
                    assert!(called.is_served);
                    let server = served.server().unwrap();
                    assert!(called.waiting.takes(server), "{} shuns that", origin.id);
                    for (group, shunned) in &called.passed {
                        let is_shunned =
                            shunned.as_ref().is_some_and(|one| Arc::ptr_eq(one, server));
                        let has_passed = group.member(server).is_some() && !is_shunned;
                        assert!(!has_passed, "{} overtook", origin.id);
                    }
                    origin.ticket = Some(called.waiting.place.ticket());
                    self.note(8 + origin.worker as u64, origin.id);
                    self.hold(origin, permit, served);
                }
            }
        }
    }

    fn check(&self) {
        let shared = self.workers[0].shared();
        let mut waiting = 0;
        for (name, line) in &self.lines {
            waiting += line.len();
            assert!(line.waiting.len() <= QUEUE.max_size);
            let in_turn = line.order().into_iter().map(|index| &line.waiting[index]);
            for (turn, waiting) in line.returned.iter().chain(in_turn).enumerate() {
                assert_eq!(waiting.place.now(), Some(turn + 1));
            }
            if let Some(group) = self.table.get(name) {
                assert_eq!(group.waiting() as usize, line.len(), "gauge of {name}");
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
            let returned = self.lines.values().flat_map(|line| &line.returned);
            let called = self.called.iter().map(|called| &called.waiting);
            let kept =
                (returned.chain(called)).filter_map(|waiting| waiting.slot.as_ref()?.server());
            let held = self.held.iter().map(|held| &held.server);
            let held = held.chain(kept).filter(|held| Arc::ptr_eq(held, server));
            let (count, held) = (server.slots.load().count as usize, held.count());
            assert!(count >= held, "a slot was lost");
            beyond += count - held;
        }
        assert_eq!(beyond, granted, "slots");
    }

    fn check_nobody_waits_for_nothing(&self) {
        let in_flight = self.workers[0].shared().in_flight();
        for (name, line) in &self.lines {
            for waiting in line.candidates() {
                let servers = self.table[name].servers().iter();
                for server in servers.filter(|server| waiting.takes(server)) {
                    let is_marked = server.slots.load().is_contended;
                    assert!(is_marked, "a newcomer might overtake");
                    let could_serve = in_flight.count < in_flight.limit && is_free(server);
                    let id = waiting.origin.id;
                    assert!(!could_serve, "{id} waits in {name} for a slot that is free");
                }
            }
        }
        for server in &self.servers {
            let is_wanted = self
                .lines
                .iter()
                .any(|(name, line)| line.len() > 0 && self.table[name].member(server).is_some());
            let slots = server.slots.load();
            assert!(
                is_wanted || slots.count > 0 || !slots.is_contended,
                "a mark stays"
            );
        }
        let is_empty = self.lines.values().all(|line| line.len() == 0);
        assert!(!is_empty || !in_flight.is_contended || in_flight.count > 0);
    }

    /// All clients go; nothing may be left behind.
    fn end(mut self) -> u64 {
        for line in self.lines.values_mut() {
            while line.pop().is_some() {}
            line.returned.clear();
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
    if let Ok(seed) = std::env::var("SIMULATION_SEED") {
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
                    assert!(outcome.is_ok(), "replay with SIMULATION_SEED={seed}");
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
