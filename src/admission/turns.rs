//! Owns the order of one queue: first come, first served, or keys taking turns (spec section 5).
//! Plain data: never locks, wakes or counts anything outside itself.

use std::collections::{HashMap, VecDeque};

/// Whose turn counts as one: an API key, or one value for all where fairness is off.
pub type TurnKey = u64;

/// Numbers the waiting requests of the process in the order they came; never used twice.
pub type Ticket = u64;

/// Waiting entries in the order in which they will be served.
///
/// Keys take turns in the order in which they first had somebody waiting; a key that was served goes
/// behind the others (A×5, B×2 → A B A B A A A). Within a key, first come, first served. With a
/// single key that is the order of arrival.
#[derive(Debug)]
pub struct TurnQueue<T> {
    /// The keys with somebody waiting, the next to be served first.
    turns: VecDeque<TurnKey>,
    /// Per key, in the order of tickets; never empty.
    lanes: HashMap<TurnKey, VecDeque<Waiter<T>>>,
    len: usize,
}

#[derive(Debug)]
struct Waiter<T> {
    ticket: Ticket,
    entry: T,
}

impl<T> Default for TurnQueue<T> {
    fn default() -> Self {
        Self {
            turns: VecDeque::new(),
            lanes: HashMap::new(),
            len: 0,
        }
    }
}

impl<T> TurnQueue<T> {
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The 1-based place a newcomer of `key` would have.
    #[must_use]
    pub fn place_of_next(&self, key: TurnKey) -> usize {
        self.place_behind(key, self.lanes.get(&key).map_or(0, VecDeque::len))
    }

    /// The 1-based place of a waiting entry: how many turns from now it is served, if nobody comes or
    /// leaves. `None` if it does not wait.
    #[must_use]
    pub fn place(&self, key: TurnKey, ticket: Ticket) -> Option<usize> {
        Some(self.place_behind(key, self.position(key, ticket)?))
    }

    /// Appends an entry. Tickets must rise.
    pub fn push(&mut self, key: TurnKey, ticket: Ticket, entry: T) {
        let lane = self.lanes.entry(key).or_default();
        if lane.is_empty() {
            self.turns.push_back(key);
        }
        debug_assert!(lane.back().is_none_or(|last| last.ticket < ticket));
        lane.push_back(Waiter { ticket, entry });
        self.len += 1;
    }

    /// The ticket of the entry that is next.
    #[must_use]
    pub fn next_ticket(&self) -> Option<Ticket> {
        let lane = self.lanes.get(self.turns.front()?)?;
        lane.front().map(|waiter| waiter.ticket)
    }

    /// Takes the next entry out; its key goes behind the others.
    pub fn pop(&mut self) -> Option<(Ticket, T)> {
        let key = self.turns.pop_front()?;
        let lane = self.lanes.get_mut(&key)?;
        let waiter = lane.pop_front()?;
        if lane.is_empty() {
            self.lanes.remove(&key);
        } else {
            self.turns.push_back(key);
        }
        self.len -= 1;
        Some((waiter.ticket, waiter.entry))
    }

    /// Takes an entry out, wherever it stands.
    pub fn remove(&mut self, key: TurnKey, ticket: Ticket) -> Option<T> {
        let position = self.position(key, ticket)?;
        let lane = self.lanes.get_mut(&key)?;
        let waiter = lane.remove(position)?;
        if lane.is_empty() {
            self.lanes.remove(&key);
            self.turns.retain(|other| *other != key);
        }
        self.len -= 1;
        Some(waiter.entry)
    }

    fn position(&self, key: TurnKey, ticket: Ticket) -> Option<usize> {
        let lane = self.lanes.get(&key)?;
        lane.binary_search_by_key(&ticket, |waiter| waiter.ticket)
            .ok()
    }

    /// The place of an entry of `key` that has `ahead` entries of its own key before it. In the
    /// rounds until its turn every other key is served once a round; in its own round, the keys that
    /// stand before it are served too.
    fn place_behind(&self, key: TurnKey, ahead: usize) -> usize {
        let mut is_before = true;
        let mut place = ahead + 1;
        for other in &self.turns {
            if *other == key {
                is_before = false;
                continue;
            }
            let waiting = self.lanes.get(other).map_or(0, VecDeque::len);
            place += waiting.min(ahead + usize::from(is_before));
        }
        place
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "turns_tests.rs"]
mod tests;
