//! Owns the queue of one group: who waits in it, and who of them is next for a slot of a server. Never
//! counts permits, marks servers or wakes anyone.
//!
//! Those who come back, because the server they were given could not be reached, stand before all
//! others: their keys have had their turn, and have nothing to show for it. They shun that server, so
//! that its slots, which come free at once again and again, do not make the same request fail twice.

use std::sync::Arc;

use super::group::{Group, Server};
use super::queues::SeatAddress;
use super::turns::{Ticket, TurnKey, TurnQueue};

/// Who waits for a group.
#[derive(Debug)]
pub(super) struct Queue<G: Group> {
    pub(super) group: Arc<G>,
    /// Those who came back, in the order of their tickets. As many as requests were in flight, at most.
    returned: Vec<Returned<G::Server>>,
    turns: TurnQueue<SeatAddress>,
    rotation: usize,
}

#[derive(Debug)]
struct Returned<S> {
    ticket: Ticket,
    address: SeatAddress,
    /// The server that could not be reached; `None` once it may be tried again.
    shunned: Option<S>,
}

/// One of those who may be served now, in the order in which they are, over all queues: by their
/// tickets, but whoever came back stands no further behind than those behind it in its own queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    rank: Ticket,
    /// Whether it is the first of those who were not served yet.
    is_in_turn: bool,
    ticket: Ticket,
}

impl<G: Group> Queue<G> {
    pub(super) fn new(group: Arc<G>) -> Self {
        Self {
            group,
            returned: Vec::new(),
            turns: TurnQueue::default(),
            rotation: 0,
        }
    }

    /// Waits for what its name means now; returns what that was before.
    pub(super) fn follow(&mut self, group: Arc<G>) -> Arc<G> {
        let before = std::mem::replace(&mut self.group, group);
        self.publish();
        before
    }

    pub(super) fn len(&self) -> usize {
        self.returned.len() + self.turns.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether anybody waits who would take any server.
    pub(super) fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    pub(super) fn push(&mut self, key: TurnKey, ticket: Ticket, address: SeatAddress) {
        self.turns.push(key, ticket, address);
        self.publish();
    }

    /// Takes one back that was served before, with its ticket of then.
    pub(super) fn take_back(&mut self, ticket: Ticket, address: SeatAddress, shunned: G::Server) {
        let position = self.position_of_returned(ticket);
        debug_assert!(position.is_err(), "nobody waits twice");
        let returned = Returned {
            ticket,
            address,
            shunned: Some(shunned),
        };
        let position = position.unwrap_or_else(|position| position);
        self.returned.insert(position, returned);
        self.publish();
    }

    /// Lets one who came back be served by any server again.
    pub(super) fn forgive(&mut self, ticket: Ticket) {
        if let Some(returned) = self.returned_mut(ticket) {
            returned.shunned = None;
        }
    }

    /// Takes one out, wherever it stands; whether it was here.
    pub(super) fn remove(&mut self, key: TurnKey, ticket: Ticket) -> bool {
        let is_removed = match self.position_of_returned(ticket) {
            Ok(position) => {
                self.returned.remove(position);
                true
            }
            Err(_) => self.turns.remove(key, ticket).is_some(),
        };
        self.publish();
        is_removed
    }

    /// The 1-based place of one who waits.
    pub(super) fn place(&self, key: TurnKey, ticket: Ticket) -> Option<usize> {
        match self.position_of_returned(ticket) {
            Ok(position) => Some(position + 1),
            Err(_) => Some(self.returned.len() + self.turns.place(key, ticket)?),
        }
    }

    /// The 1-based place a newcomer of `key` would have.
    pub(super) fn place_of_next(&self, key: TurnKey) -> usize {
        self.returned.len() + self.turns.place_of_next(key)
    }

    /// The 1-based place one with this ticket would have that came back.
    pub(super) fn place_of_returning(&self, ticket: Ticket) -> usize {
        let (Ok(position) | Err(position)) = self.position_of_returned(ticket);
        position + 1
    }

    /// Those who may be served now, in any order.
    pub(super) fn candidates(&self) -> impl Iterator<Item = Candidate> {
        let mut rank = Ticket::MAX;
        let in_turn = self.turns.next_ticket().map(|ticket| (ticket, true));
        let returned = self.returned.iter().rev();
        let returned = returned.map(|returned| (returned.ticket, false));
        in_turn
            .into_iter()
            .chain(returned)
            .map(move |(ticket, is_in_turn)| {
                rank = rank.min(ticket);
                Candidate {
                    rank,
                    is_in_turn,
                    ticket,
                }
            })
    }

    /// Who is next for a slot of `server`, and the group's own reference to it.
    pub(super) fn next_for(&self, server: &G::Server) -> Option<(Candidate, &G::Server)> {
        let member = self.group.member(server)?;
        let returned = self.returned.iter().find(|returned| returned.takes(member));
        let returned = returned.map(|returned| returned.ticket);
        let next = self.candidates().find(|candidate| match returned {
            Some(ticket) => candidate.ticket == ticket,
            None => candidate.is_in_turn,
        });
        Some((next?, member))
    }

    /// Takes a slot that the candidate would take.
    pub(super) fn try_take_for(&mut self, candidate: Candidate) -> Option<G::Server> {
        if let Ok(position) = self.position_of_returned(candidate.ticket)
            && let Some(returned) = self.returned.get(position)
            && returned.shunned.is_some()
        {
            let servers = self.group.servers().iter();
            let mut taken = servers.filter(|server| returned.takes(server));
            return taken.find(|server| server.try_take_in_turn()).cloned();
        }
        let server = self.group.try_take_in_turn(&mut self.rotation)?;
        Some(server.clone())
    }

    /// Takes the candidate out; its key goes behind the others.
    pub(super) fn call(&mut self, candidate: Candidate) -> Option<(Ticket, SeatAddress)> {
        let called = match self.position_of_returned(candidate.ticket) {
            Ok(position) => (candidate.ticket, self.returned.remove(position).address),
            Err(_) => self.turns.pop()?,
        };
        debug_assert_eq!(called.0, candidate.ticket, "not its turn");
        self.publish();
        Some(called)
    }

    /// Takes whoever is first out.
    pub(super) fn pop(&mut self) -> Option<(Ticket, SeatAddress)> {
        let first = self.candidates().min()?;
        self.call(first)
    }

    /// How many wait, for the metrics.
    fn publish(&self) {
        let waiting = u32::try_from(self.len()).unwrap_or(u32::MAX);
        self.group.publish_waiting(waiting);
    }

    fn returned_mut(&mut self, ticket: Ticket) -> Option<&mut Returned<G::Server>> {
        let position = self.position_of_returned(ticket).ok()?;
        self.returned.get_mut(position)
    }

    fn position_of_returned(&self, ticket: Ticket) -> Result<usize, usize> {
        self.returned
            .binary_search_by_key(&ticket, |returned| returned.ticket)
    }
}

impl<S: Server> Returned<S> {
    fn takes(&self, server: &S) -> bool {
        let shunned = self.shunned.as_ref();
        shunned.is_none_or(|shunned| shunned.identity() != server.identity())
    }
}
