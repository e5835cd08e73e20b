//! Owns the health machines of all nodes, on the control thread: passes events to them, keeps the
//! last online node of a model from being ejected, and publishes verdicts to the workers. Never
//! probes and reads no clock.

use std::collections::HashMap;
use std::time::Duration;

use super::health::{HealthEvent, NodeHealth};
use super::live::{EJECTION_FAILURES, NodeState};
use super::table::{Node, NodeTable};

/// The health of all nodes of the current table, by name.
#[derive(Debug)]
pub struct HealthBoard {
    machines: HashMap<Box<str>, NodeHealth>,
    probe_interval: Duration,
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
    /// No nodes yet; each will be probed every `probe_interval`.
    #[must_use]
    pub fn new(probe_interval: Duration) -> Self {
        Self {
            machines: HashMap::new(),
            probe_interval,
        }
    }

    /// Takes in a new table: new nodes start Pending and due for a probe, known ones keep their
    /// health, removed ones go.
    pub fn follow(&mut self, table: &NodeTable, now: Duration) {
        self.machines.retain(|name, _| table.node(name).is_some());
        for node in table.nodes() {
            if !self.machines.contains_key(&node.name) {
                let health = NodeHealth::new(self.probe_interval, now);
                node.live.publish_state(health.state());
                self.machines.insert(node.name.clone(), health);
            }
        }
    }

    /// The node of this name becomes another one: it gets no requests, and begins anew with the next table
    /// that has it.
    pub fn forget(&mut self, table: &NodeTable, name: &str) {
        if self.machines.remove(name).is_some()
            && let Some(node) = table.node(name)
        {
            node.live.publish_state(NodeState::Pending);
        }
    }

    /// The health of one node.
    #[must_use]
    pub fn health(&self, name: &str) -> Option<&NodeHealth> {
        self.machines.get(name)
    }

    /// Names of the nodes whose probe is due.
    pub fn probes_due(&self, now: Duration) -> impl Iterator<Item = &str> {
        self.machines
            .iter()
            .filter(move |(_, health)| health.probe_at() <= now)
            .map(|(name, _)| &**name)
    }

    /// When the next probe of any node is due.
    #[must_use]
    pub fn next_probe_at(&self) -> Option<Duration> {
        self.machines.values().map(NodeHealth::probe_at).min()
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
        let health = self.machines.get_mut(&node.name)?;
        let from = health.state();
        health.apply(event, at.now, at.random);
        let to = health.state();
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

    /// Where `node` was the last online one of a model, ejected nodes of that model need not sit
    /// out their time.
    fn recall_replacements(&mut self, table: &NodeTable, node: &Node, now: Duration) {
        for model in table.models().filter(|model| model.is_served_by(node)) {
            if model
                .nodes
                .iter()
                .any(|other| other.live.state() == NodeState::Online)
            {
                continue;
            }
            for other in &model.nodes {
                if let Some(health) = self.machines.get_mut(&other.name) {
                    health.recall(now);
                }
            }
        }
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
    table
        .models()
        .filter(|model| model.is_served_by(node))
        .any(|model| {
            model
                .nodes
                .iter()
                .all(|other| other.id == node.id || other.live.state() != NodeState::Online)
        })
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "simulation.rs"]
mod simulation;
#[cfg(test)]
#[cfg(not(loom))]
#[path = "board_tests.rs"]
mod tests;
