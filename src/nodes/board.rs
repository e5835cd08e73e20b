//! Owns the health machines of all nodes, on the control thread: passes events to them, keeps the
//! last online node of a model from being ejected, and publishes verdicts to the workers. Never
//! probes and reads no clock.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::health::{HealthEvent, HealthTiming, NodeHealth};
use super::live::{EJECTION_FAILURES, NodeState};
use super::table::{Model, Node, NodeTable};

/// The health of all nodes of the current table, by name.
///
/// Invariant: every machine that is not being probed stands in `probes` at its
/// [`probe_at`](NodeHealth::probe_at), and every one that awaits a heartbeat in `heartbeats`; what is due is
/// found without looking at the others.
#[derive(Debug)]
pub struct HealthBoard {
    machines: HashMap<Arc<str>, Machine>,
    probes: BTreeSet<(Duration, Arc<str>)>,
    heartbeats: BTreeSet<(Duration, Arc<str>)>,
    timing: HealthTiming,
}

#[derive(Debug)]
struct Machine {
    health: NodeHealth,
    /// Its probe is under way: the next one is due some time after that has come out.
    is_probed: bool,
}

/// A change of verdict, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The verdict so far.
    pub from: NodeState,
    /// The verdict now.
    pub to: NodeState,
}

impl HealthBoard {
    /// No nodes yet.
    #[must_use]
    pub fn new(timing: HealthTiming) -> Self {
        Self {
            machines: HashMap::new(),
            probes: BTreeSet::new(),
            heartbeats: BTreeSet::new(),
            timing,
        }
    }

    /// Takes in a new table: new nodes start Pending and due for a probe, known ones keep their
    /// health, removed ones go.
    pub fn follow(&mut self, table: &NodeTable, now: Duration) {
        let gone: Vec<Arc<str>> = (self.machines.keys())
            .filter(|name| table.node(name).is_none())
            .cloned()
            .collect();
        for name in gone {
            self.forget(&name);
        }
        for node in table.nodes() {
            if !self.machines.contains_key(&*node.name) {
                self.begin(node, now);
            }
        }
    }

    /// Judges `node` anew from the beginning, as one that was never seen.
    pub fn restart(&mut self, node: &Node, now: Duration) {
        self.forget(&node.name);
        self.begin(node, now);
    }

    /// Follows a change of the configuration.
    pub fn set_timing(&mut self, timing: HealthTiming, now: Duration) {
        self.timing = timing;
        let names: Vec<Arc<str>> = self.machines.keys().cloned().collect();
        for name in names {
            self.change(&name, |health| health.set_timing(timing, now));
        }
    }

    /// The health of one node.
    #[must_use]
    pub fn health(&self, name: &str) -> Option<&NodeHealth> {
        self.machines.get(name).map(|machine| &machine.health)
    }

    /// Names of the nodes whose probe is due and not under way, the longest due first.
    pub fn probes_due(&self, now: Duration) -> impl Iterator<Item = &str> {
        due(&self.probes, now)
    }

    /// A probe of the node begins: none is due until it comes out, as a success or a failure.
    pub fn probe_began(&mut self, name: &str) {
        if let Some((name, machine)) = self.machines.get_key_value(name) {
            self.probes
                .remove(&(machine.health.probe_at(), Arc::clone(name)));
        }
        if let Some(machine) = self.machines.get_mut(name) {
            machine.is_probed = true;
        }
    }

    /// Names of the nodes whose heartbeat has not come in time.
    pub fn heartbeats_due(&self, now: Duration) -> impl Iterator<Item = &str> {
        due(&self.heartbeats, now)
    }

    /// When the next probe of any node is due that is not being probed.
    #[must_use]
    pub fn next_probe_at(&self) -> Option<Duration> {
        self.probes.first().map(|(at, _)| *at)
    }

    /// When the next node will be missed unless it reports itself.
    #[must_use]
    pub fn next_heartbeat_at(&self) -> Option<Duration> {
        self.heartbeats.first().map(|(at, _)| *at)
    }

    /// Passes an event to `node`, a node of `table`, and publishes the verdict. Returns the change,
    /// if there is one.
    pub fn apply(
        &mut self,
        table: &NodeTable,
        node: &Node,
        event: HealthEvent,
        at: EventTime,
    ) -> Option<Transition> {
        if event == HealthEvent::FailuresReached && !may_eject(table, node) {
            return None;
        }
        let from = self.health(&node.name)?.state();
        if matches!(
            event,
            HealthEvent::ProbeSucceeded | HealthEvent::ProbeFailed
        ) && let Some(machine) = self.machines.get_mut(&*node.name)
        {
            machine.is_probed = false;
        }
        self.change(&node.name, |health| health.apply(event, at.now, at.random));
        let to = self.health(&node.name)?.state();
        if from == to {
            return None;
        }
        if to == NodeState::Online {
            // Requests begun before an ejection may have failed since; the new life starts clean.
            node.live.restart_failure_run();
        }
        node.live.publish_state(to);
        if from == NodeState::Online {
            self.recall_replacements(table, node, at.now);
        }
        Some(Transition { from, to })
    }

    fn begin(&mut self, node: &Node, now: Duration) {
        let health = NodeHealth::new(self.timing, now);
        node.live.publish_state(health.state());
        let name: Arc<str> = Arc::from(&*node.name);
        self.probes.insert((health.probe_at(), Arc::clone(&name)));
        let machine = Machine {
            health,
            is_probed: false,
        };
        self.machines.insert(name, machine);
    }

    fn forget(&mut self, name: &str) {
        if let Some((name, machine)) = self.machines.remove_entry(name) {
            if let Some(until) = machine.health.heartbeat_until() {
                self.heartbeats.remove(&(until, Arc::clone(&name)));
            }
            self.probes.remove(&(machine.health.probe_at(), name));
        }
    }

    /// Changes one machine and keeps what is due true.
    fn change(&mut self, name: &str, change: impl FnOnce(&mut NodeHealth)) {
        let Some(name) = self
            .machines
            .get_key_value(name)
            .map(|(name, _)| Arc::clone(name))
        else {
            return;
        };
        let Some(machine) = self.machines.get_mut(&name) else {
            return;
        };
        self.probes
            .remove(&(machine.health.probe_at(), Arc::clone(&name)));
        if let Some(until) = machine.health.heartbeat_until() {
            self.heartbeats.remove(&(until, Arc::clone(&name)));
        }
        change(&mut machine.health);
        if let Some(until) = machine.health.heartbeat_until() {
            self.heartbeats.insert((until, Arc::clone(&name)));
        }
        if !machine.is_probed {
            self.probes.insert((machine.health.probe_at(), name));
        }
    }

    /// Where `node` was the last online one of a model, ejected nodes of that model need not sit
    /// out their time.
    fn recall_replacements(&mut self, table: &NodeTable, node: &Node, now: Duration) {
        for model in models_of(table, node) {
            if model.has_online_node() {
                continue;
            }
            for other in &model.nodes {
                if other.live.state() == NodeState::Ejected {
                    self.change(&other.name, |health| health.recall(now));
                }
            }
        }
    }

    /// What must hold after every call.
    ///
    /// # Panics
    /// If it does not; tests call this.
    pub fn check_invariants(&self) {
        let mut probes = BTreeSet::new();
        let mut heartbeats = BTreeSet::new();
        for (name, machine) in &self.machines {
            machine.health.check_invariants();
            if !machine.is_probed {
                probes.insert((machine.health.probe_at(), Arc::clone(name)));
            }
            heartbeats.extend(
                machine
                    .health
                    .heartbeat_until()
                    .map(|at| (at, Arc::clone(name))),
            );
        }
        assert_eq!(
            probes, self.probes,
            "probes are due that are not, or the reverse"
        );
        assert_eq!(
            heartbeats, self.heartbeats,
            "heartbeats are awaited that are not, or the reverse"
        );
    }
}

/// The moment of an event, and a random number drawn for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTime {
    /// Time since the monotonic origin.
    pub now: Duration,
    /// Any number; spreads the returns of nodes ejected together.
    pub random: u32,
}

/// Whether a reached threshold ejects the node. If not, its run of failures starts again, so that
/// it is asked again.
fn may_eject(table: &NodeTable, node: &Node) -> bool {
    // A success since the report has ended the run.
    let still_failing = node.live.consecutive_failures() >= EJECTION_FAILURES;
    let ejects = still_failing && !is_last_online(table, node);
    if still_failing && !ejects {
        node.live.restart_failure_run();
    }
    ejects
}

/// Whether a model would have no online node without this one.
fn is_last_online(table: &NodeTable, node: &Node) -> bool {
    models_of(table, node).any(|model| {
        model
            .nodes
            .iter()
            .all(|other| other.id == node.id || other.live.state() != NodeState::Online)
    })
}

fn models_of<'t>(table: &'t NodeTable, node: &'t Node) -> impl Iterator<Item = &'t Arc<Model>> {
    let models = node.models.iter().filter_map(|name| table.model(name));
    // A name that was given to another node since does not count.
    models.filter(|model| model.is_served_by(node))
}

fn due(at: &BTreeSet<(Duration, Arc<str>)>, now: Duration) -> impl Iterator<Item = &str> {
    at.iter()
        .take_while(move |(at, _)| *at <= now)
        .map(|(_, name)| &**name)
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "simulation.rs"]
mod simulation;
#[cfg(test)]
#[cfg(not(loom))]
#[path = "board_tests.rs"]
mod tests;
