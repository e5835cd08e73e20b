//! Owns what the queues of [`crate::admission`] are to know of models and nodes. Never queues anything.

use std::sync::Arc;

use crate::admission::{self, Group, Server};

use super::live::NodeState;
use super::policy::{self, Load};
use super::table::{Model, Node};

/// Admission over the models of the node table.
pub type Admission = admission::Admission<Model>;
/// One worker's handle on it.
pub type LocalAdmission = admission::LocalAdmission<Model>;
/// The right to be in flight.
pub type Permit = admission::Permit<Model>;
/// A slot that was handed over.
pub type Served = admission::Served<Model>;
/// A place in the queue of a model.
pub type Place = admission::Place<Model>;

impl Server for Arc<Node> {
    fn try_take_in_turn(&self) -> bool {
        self.live.state() == NodeState::Online && self.live.try_take_slot_in_turn()
    }

    fn release(&self) -> bool {
        self.live.release_slot()
    }

    fn contend(&self) {
        self.live.contend();
    }

    fn settle(&self) {
        self.live.settle();
    }

    fn identity(&self) -> usize {
        // Another snapshot holds the same node in another allocation, but with the same counters.
        Arc::as_ptr(&self.live).addr()
    }
}

impl Group for Model {
    type Server = Arc<Node>;

    fn name(&self) -> &str {
        &self.name
    }

    fn servers(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    fn member(&self, server: &Arc<Node>) -> Option<&Arc<Node>> {
        let mut nodes = self.nodes.iter();
        nodes.find(|node| node.identity() == server.identity())
    }

    fn try_take_in_turn(&self, rotation: &mut usize) -> Option<&Arc<Node>> {
        let count = self.nodes.len();
        // A node that fills up between the look and the take drops out of the next round.
        for _ in 0..count {
            let loads = self.nodes.iter().enumerate().filter_map(|(index, node)| {
                if node.live.state() != NodeState::Online {
                    return None;
                }
                let turn = (index + count - *rotation % count) % count;
                let load = Load::of(node.live.slots(), node.weight, turn as u64);
                // Only those in the queue come here.
                let load = Load {
                    is_contended: false,
                    ..load
                };
                Some(((index, node), load))
            });
            let (index, node) = policy::choose(loads)?;
            if node.try_take_in_turn() {
                *rotation = index + 1;
                return Some(node);
            }
        }
        None
    }

    fn is_available(&self) -> bool {
        self.has_online_node()
    }

    fn publish_waiting(&self, waiting: u32) {
        self.stats.publish_waiting(waiting);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "line_tests.rs"]
mod tests;
