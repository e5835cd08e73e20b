//! The model of a queue that the simulation holds against the real one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::test_group::{TestGroup, TestServer};
use super::{Place, Served, Ticket, TurnKey};

/// Whose request it is.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    pub(super) id: u64,
    pub(super) name: &'static str,
    pub(super) key: TurnKey,
    pub(super) worker: usize,
    /// Of its last wait.
    pub(super) ticket: Option<Ticket>,
}

/// One that waits, as the model sees it.
pub(super) struct Waiting {
    pub(super) origin: Origin,
    pub(super) place: Place<TestGroup>,
    pub(super) gives_up_at: u64,
    /// Whether it came back; if so, the server that failed it, until that is forgiven, and a slot there.
    pub(super) is_back: bool,
    pub(super) shunned: Option<Arc<TestServer>>,
    pub(super) slot: Option<Served<TestGroup>>,
    /// Of its own group, since it came; and how many there may be before its turn.
    pub(super) grants_seen: usize,
    pub(super) grants_max: usize,
}

/// The queue of one group, in the order of arrival, with the order of turns.
#[derive(Default)]
pub(super) struct Line {
    pub(super) waiting: Vec<Waiting>,
    pub(super) turns: Vec<TurnKey>,
    /// Before all of these, those who came back, in the order of their tickets.
    pub(super) returned: Vec<Waiting>,
}

impl Waiting {
    /// The lowest is served first.
    pub(super) fn rank(&self) -> (bool, Ticket) {
        (!self.is_back, self.place.ticket())
    }

    pub(super) fn takes(&self, server: &Arc<TestServer>) -> bool {
        let shunned = self.shunned.as_ref();
        shunned.is_none_or(|shunned| !Arc::ptr_eq(shunned, server))
    }
}

impl Line {
    /// Indices in the order of service.
    pub(super) fn order(&self) -> Vec<usize> {
        let mut turns = self.turns.clone();
        let mut lanes: BTreeMap<TurnKey, Vec<usize>> = BTreeMap::new();
        for (index, waiting) in self.waiting.iter().enumerate().rev() {
            lanes.entry(waiting.origin.key).or_default().push(index);
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

    pub(super) fn push(&mut self, waiting: Waiting) {
        if !self.turns.contains(&waiting.origin.key) {
            self.turns.push(waiting.origin.key);
        }
        self.waiting.push(waiting);
    }

    pub(super) fn remove(&mut self, index: usize) -> Waiting {
        let gone = self.waiting.remove(index);
        let gone_key = gone.origin.key;
        let mut others = self.waiting.iter();
        if others.all(|other| other.origin.key != gone_key) {
            self.turns.retain(|key| *key != gone_key);
        }
        gone
    }

    /// Index of whoever is next.
    pub(super) fn first(&self) -> Option<usize> {
        let key = self.turns.first()?;
        let mut waiting = self.waiting.iter();
        waiting.position(|waiting| waiting.origin.key == *key)
    }

    pub(super) fn pop(&mut self) -> Option<Waiting> {
        let index = self.first()?;
        self.turns.rotate_left(1);
        Some(self.remove(index))
    }

    /// The place a newcomer would have.
    pub(super) fn place_of_next(&self, key: TurnKey) -> usize {
        let of_key = |key| {
            let others = self.waiting.iter();
            others.filter(|other| other.origin.key == key).count()
        };
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
        self.returned.len() + ahead + 1 + before.sum::<usize>()
    }

    pub(super) fn len(&self) -> usize {
        self.returned.len() + self.waiting.len()
    }

    /// All who may be next for some server.
    pub(super) fn candidates(&self) -> impl Iterator<Item = &Waiting> {
        let first = self.first().map(|index| &self.waiting[index]);
        self.returned.iter().chain(first)
    }

    pub(super) fn take_back(&mut self, waiting: Waiting) -> usize {
        let ticket = waiting.place.ticket();
        let mut others = self.returned.iter();
        let position = others.position(|other| other.place.ticket() > ticket);
        let position = position.unwrap_or(self.returned.len());
        self.returned.insert(position, waiting);
        position
    }
}
