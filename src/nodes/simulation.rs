//! A seeded simulation of nodes, workers and the control thread on a virtual clock: requests come,
//! fail and end, probes come out either way, operators drain, tables change. After every step: no
//! slot is lost or invented, states and their changes are legal, and no model loses its last online
//! node to an ejection. `SIMULATION_SEED=n` replays one seed.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::candidates::tests::local_admission;
use super::super::table::tests::spec;
use super::super::{
    CandidateLimits, Candidates, FailureReason, NodeDirectory, NodeId, NodeLive, NodeSpec,
    Selection, Slot,
};
use super::*;
use crate::admission::test_random::Random;
use HealthEvent::{
    Drain, Enable, FailuresReached, HeartbeatLost, HeartbeatReceived, ProbeFailed, ProbeSucceeded,
};
use NodeState::{Draining, Ejected, Offline, Online, Pending};

const SEEDS: u64 = 256;
const STEPS: u32 = 3000;
const MODELS: [&str; 3] = ["m", "n", "o"];
const TIMING: HealthTiming = HealthTiming {
    probe_interval: Duration::from_secs(10),
    heartbeat_timeout: Duration::from_secs(20),
};

/// Every change that the diagram in `health` shows.
const LEGAL: [(NodeState, NodeState); 15] = [
    (Pending, Online),
    (Pending, Offline),
    (Pending, Draining),
    (Online, Pending),
    (Online, Ejected),
    (Online, Offline),
    (Online, Draining),
    (Ejected, Online),
    (Ejected, Pending),
    (Ejected, Offline),
    (Ejected, Draining),
    (Offline, Online),
    (Offline, Pending),
    (Offline, Draining),
    (Draining, Pending),
];

struct World {
    random: Random,
    now: Duration,
    directory: Arc<NodeDirectory>,
    board: HealthBoard,
    workers: Vec<Candidates>,
    held: Vec<Slot>,
    specs: Vec<NodeSpec>,
    /// Nodes whose probe is under way.
    probed: Vec<Box<str>>,
    names_used: usize,
    /// Sum over all that happened, to compare two runs.
    trace: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let directory = Arc::new(NodeDirectory::default());
        let limits = CandidateLimits {
            max_capacity: 2,
            ttl: Duration::from_secs(5),
        };
        let workers = (0..2)
            .map(|index| Candidates::new(Arc::clone(&directory), limits, index, local_admission()))
            .collect();
        let mut world = Self {
            random: Random(seed),
            now: Duration::from_secs(1),
            directory,
            board: HealthBoard::new(TIMING),
            workers,
            held: Vec::new(),
            specs: Vec::new(),
            probed: Vec::new(),
            names_used: 0,
            trace: 0,
        };
        (0..3).for_each(|_| world.add_node());
        world.publish();
        world
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..40 => self.request(),
            40..65 => self.end_request(),
            65..80 => self.probe(),
            80..90 => {
                self.now += Duration::from_millis(self.random.next() % 3000);
                self.miss_the_silent();
            }
            90..96 => self.operate(),
            96..98 => {
                self.change_table();
                self.publish();
            }
            _ => {
                let name = self.any_node().name.clone();
                let max_concurrency = self.random.below(4) as u32;
                let node = self.directory.snapshot().node(&name).cloned();
                node.unwrap().live.set_max_concurrency(max_concurrency);
            }
        }
        self.check();
    }

    fn request(&mut self) {
        let model = MODELS[self.random.below(MODELS.len())];
        let excluded: Vec<NodeId> = if self.random.chance(20) {
            vec![self.any_node().id]
        } else {
            vec![]
        };
        let worker = self.random.below(self.workers.len());
        let usable = |node: &Arc<Node>| {
            let slots = node.live.slots();
            node.live.state() == Online && !excluded.contains(&node.id) && slots.count < slots.limit
        };
        let table = self.directory.snapshot();
        let expected = table
            .resolve(model)
            .map(|model| model.nodes.iter().any(usable));
        match self.workers[worker].select(model, &excluded, self.now) {
            Selection::Slot(slot, resolved) => {
                assert_eq!(expected, Some(true));
                assert_eq!(resolved.name(), model);
                let node = slot.node();
                assert!(node.live.state() == Online && !excluded.contains(&node.id));
                assert!(node.live.slots().count <= node.live.slots().limit);
                self.trace = self.trace.rotate_left(5) ^ u64::from(node.id.0);
                self.held.push(slot);
            }
            Selection::NoSlot(_) => {
                assert_eq!(expected, Some(false), "a free slot was overlooked");
                let nodes = &table.resolve(model).unwrap().nodes;
                assert!(nodes.iter().any(|node| node.live.state() == Online));
            }
            Selection::NoOnlineNode(_) => {
                let nodes = &table.resolve(model).unwrap().nodes;
                assert!(nodes.iter().all(|node| node.live.state() != Online));
            }
            Selection::UnknownModel => assert_eq!(expected, None),
        }
    }

    fn end_request(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let slot = self.held.swap_remove(self.random.below(self.held.len()));
        let node = Arc::clone(slot.node());
        drop(slot);
        // Some nodes are worse than others, so that runs of failures do occur.
        if self
            .random
            .chance(if node.id.0.is_multiple_of(2) { 85 } else { 10 })
        {
            if node
                .live
                .record_failure(FailureReason::ClosedBeforeResponse)
            {
                self.apply(&node.name, FailuresReached);
            }
        } else {
            node.live.record_success();
        }
    }

    /// Begins a probe that is due, or ends one that is under way.
    fn probe(&mut self) {
        if !self.probed.is_empty() && self.random.chance(50) {
            let name = self
                .probed
                .swap_remove(self.random.below(self.probed.len()));
            let event = if self.random.chance(75) {
                ProbeSucceeded
            } else {
                ProbeFailed
            };
            return self.apply(&name, event);
        }
        let due: Vec<Box<str>> = self.board.probes_due(self.now).map(Into::into).collect();
        if due.is_empty() {
            let next = self.board.next_probe_at();
            self.now = self.now.max(next.unwrap_or(self.now));
            return self.miss_the_silent();
        }
        let name = &due[self.random.below(due.len())];
        self.board.probe_began(name);
        self.probed.push(name.clone());
    }

    /// What the control thread does about heartbeats that did not come.
    fn miss_the_silent(&mut self) {
        let silent: Vec<Box<str>> = self
            .board
            .heartbeats_due(self.now)
            .map(Into::into)
            .collect();
        for name in silent {
            self.apply(&name, HeartbeatLost);
            assert!(self.board.heartbeats_due(self.now).all(|due| *due != *name));
        }
    }

    fn operate(&mut self) {
        let node = self.any_node();
        let initializing = self.random.chance(20);
        let heartbeat = HeartbeatReceived { initializing };
        let events = [Drain, Enable, Enable, heartbeat, heartbeat, heartbeat];
        let event = events[self.random.below(events.len())];
        self.apply(&node.name, event);
        if event == heartbeat {
            assert!(!initializing || node.live.state() != Online);
        }
    }

    fn apply(&mut self, name: &str, event: HealthEvent) {
        let table = self.directory.snapshot();
        // The node may have gone since its request began.
        let Some(node) = table.node(name) else { return };
        let random = self.random.next() as u32;
        let at = EventTime {
            now: self.now,
            random,
        };
        let Some(change) = self.board.apply(&table, node, event, at) else {
            return;
        };
        assert!(
            LEGAL.contains(&(change.from, change.to)),
            "{change:?} by {event:?}"
        );
        self.trace = self.trace.rotate_left(7) ^ (change.to as u64 + 1);
        if change.to == Ejected {
            for model in &node.models {
                let mut others = table.resolve(model).unwrap().nodes.iter();
                assert!(
                    others.any(|other| other.live.state() == Online),
                    "{model} lost its last"
                );
            }
        }
    }

    fn change_table(&mut self) {
        if self.specs.len() < 5 && (self.specs.len() < 2 || self.random.chance(50)) {
            self.add_node();
        } else {
            let gone = self.random.below(self.specs.len());
            let gone = self.specs.remove(gone);
            self.probed.retain(|name| *name != gone.name);
        }
    }

    fn add_node(&mut self) {
        let first = self.random.below(MODELS.len());
        let models = [MODELS[first], MODELS[(first + 1) % MODELS.len()]];
        self.names_used += 1;
        let max_concurrency = 1 + self.random.below(3) as u32;
        self.specs
            .push(spec(&self.names_used.to_string(), &models, max_concurrency));
    }

    fn publish(&mut self) {
        let table = self.directory.publish(&self.specs, &[]).unwrap();
        self.board.follow(&table, self.now);
    }

    fn any_node(&mut self) -> Arc<Node> {
        let table = self.directory.snapshot();
        Arc::clone(&table.nodes()[self.random.below(table.nodes().len())])
    }

    fn check(&self) {
        let mut held: HashMap<*const NodeLive, u32> = HashMap::new();
        for slot in &self.held {
            *held.entry(Arc::as_ptr(&slot.node().live)).or_default() += 1;
        }
        for node in self.directory.snapshot().nodes() {
            let count = held.get(&Arc::as_ptr(&node.live)).copied().unwrap_or(0);
            assert_eq!(
                node.live.slots().count,
                count,
                "slots of node {} went astray",
                node.name
            );
            let health = self.board.health(&node.name).unwrap();
            assert_eq!(node.live.state(), health.state());
        }
        self.board.check_invariants();
    }

    /// After all troubles every node comes back, and no slot is missing.
    fn recover(&mut self) {
        self.held.clear();
        for name in std::mem::take(&mut self.probed) {
            self.apply(&name, ProbeFailed);
        }
        let names: Vec<_> = self.specs.iter().map(|spec| spec.name.clone()).collect();
        for name in &names {
            let initializing = false;
            self.apply(name, HeartbeatReceived { initializing });
            self.apply(name, Enable);
        }
        let deadline = self.now + Duration::from_secs(70);
        while let Some(at) = self.board.next_probe_at().filter(|at| *at < deadline) {
            self.now = self.now.max(at);
            let due: Vec<_> = self.board.probes_due(self.now).map(String::from).collect();
            due.iter().for_each(|name| self.apply(name, ProbeSucceeded));
        }
        self.check();
        for node in self.directory.snapshot().nodes() {
            assert_eq!((node.live.state(), node.live.slots().count), (Online, 0));
        }
    }
}

fn run(seed: u64) -> u64 {
    let mut world = World::new(seed);
    (0..STEPS).for_each(|_| world.step());
    world.recover();
    world.trace
}

#[test]
fn slots_are_conserved_and_verdicts_legal_under_any_history() {
    let replay = std::env::var("SIMULATION_SEED")
        .ok()
        .map(|seed| seed.parse().unwrap());
    let seeds = replay.map_or(0..SEEDS, |seed| seed..seed + 1);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(outcome.is_ok(), "replay with SIMULATION_SEED={seed}");
    }
}

#[test]
fn one_seed_always_gives_the_same_history() {
    let traces: Vec<_> = (0..8).map(run).collect();
    assert_eq!(traces, (0..8).map(run).collect::<Vec<_>>());
    assert!(
        traces.windows(2).all(|pair| pair[0] != pair[1]),
        "histories do not differ"
    );
}

/// Selections of each of four equal nodes, when requests come at random and `ending` picks, of the
/// number held, which ends.
fn shares(seed: u64, ending: impl Fn(&mut Random, usize) -> usize) -> Vec<u64> {
    let mut random = Random(seed);
    let directory = Arc::new(NodeDirectory::default());
    let specs: Vec<_> = (0..4)
        .map(|name| spec(&name.to_string(), &["m"], 4))
        .collect();
    let table = directory.publish(&specs, &[]).unwrap();
    table
        .nodes()
        .iter()
        .for_each(|node| node.live.publish_state(Online));
    let limits = CandidateLimits {
        max_capacity: 1,
        ttl: Duration::from_secs(5),
    };
    let mut worker = Candidates::new(directory, limits, 0, local_admission());
    let mut held: Vec<Slot> = Vec::new();
    for step in 0..STEPS {
        let arriving = if step % 600 < 300 { 45 } else { 60 };
        if random.chance(arriving) {
            if let Selection::Slot(slot, _) =
                worker.select("m", &[], Duration::from_secs(step.into()))
            {
                held.push(slot);
            }
        } else if !held.is_empty() {
            let position = ending(&mut random, held.len());
            drop(held.remove(position));
        }
    }
    table
        .nodes()
        .iter()
        .map(|node| node.live.selections_total())
        .collect()
}

#[test]
fn equal_nodes_take_strict_turns_when_requests_end_in_order() {
    for seed in 0..SEEDS {
        let shares = shares(seed, |_, _| 0);
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        assert!(most - least <= 1, "seed {seed}: {shares:?}");
    }
}

#[test]
fn equal_nodes_receive_equal_shares_when_requests_end_at_random() {
    let mut totals = [0; 4];
    for seed in 0..SEEDS {
        let shares = shares(seed, |random, held| random.below(held));
        totals
            .iter_mut()
            .zip(shares)
            .for_each(|(total, share)| *total += share);
    }
    let (least, most) = (totals.iter().min().unwrap(), totals.iter().max().unwrap());
    // About 80 000 selections each: one per cent is several standard deviations.
    assert!(most - least <= most / 100, "{totals:?}");
}
