//! Owns the nodes of one model in an order in which the choice among a thousand takes less than a
//! microsecond. What is chosen is the policy's part: the same node as if all had been compared one by one.
//!
//! Two things make it quick where there are many. A node with nothing in flight that was chosen longest ago
//! cannot be beaten, and those chosen longest ago are looked at first: as long as some nodes are idle, a few
//! looks are enough. Else [`Standings`] knows the order from the last choice, and what has changed since. Few
//! nodes are simply compared.

use std::cell::Cell;
use std::sync::Arc;

use crate::admission::LimitedCounter;

use super::bank::{Bank, Place, Tally};
use super::live::NodeLive;
use super::policy::{self, Least, Load};
use super::standings::Standings;

/// The nodes of one model, by their position in its list.
#[derive(Debug)]
pub(super) struct Contenders {
    members: Box<[Member]>,
    /// When each was chosen last for this model, as a count of choices.
    chosen_at: Box<[Cell<u64>]>,
    apart: Box<[u32]>,
    banked: Box<[Banked]>,
    many: Option<Many>,
}

/// What is kept only where there are many.
#[derive(Debug)]
struct Many {
    recency: Recency,
    standings: Standings,
    /// Whether some node had nothing in flight at the last choice.
    any_idle: Cell<bool>,
}

#[derive(Debug)]
struct Member {
    /// Also keeps its seat from being given to another node.
    live: Arc<NodeLive>,
    weight: u32,
}

/// Members whose counters lie in one bank, in the order of their seats.
#[derive(Debug)]
struct Banked {
    bank: Arc<Bank>,
    seats: Box<[BankedMember]>,
}

#[derive(Clone, Copy, Debug)]
struct BankedMember {
    seat: u32,
    position: u32,
    weight: u32,
}

/// Positions from the one chosen longest ago to the one chosen last: a ring of links, with one place more
/// than there are positions, which is where the ring begins.
#[derive(Debug)]
struct Recency(Box<[Link]>);

#[derive(Debug)]
struct Link {
    older: Cell<u32>,
    younger: Cell<u32>,
}

/// What looking for a node came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The one at this position.
    Node(usize),
    /// Some are online, but none that may be chosen has a free slot.
    AllFull,
    /// None is online.
    NoneOnline,
}

impl Contenders {
    /// These nodes: counters, weight, and when each was chosen last.
    pub(super) fn new(nodes: impl Iterator<Item = (Arc<NodeLive>, u32, u64)>) -> Self {
        let (members, chosen_at): (Vec<_>, Vec<_>) = nodes
            .map(|(live, weight, chosen_at)| (Member { live, weight }, Cell::new(chosen_at)))
            .unzip();
        let mut apart = Vec::new();
        let mut seated: Vec<(&Arc<Bank>, BankedMember)> = Vec::new();
        for (position, member) in (0_u32..).zip(&members) {
            match member.live.place() {
                Place::Apart(_) => apart.push(position),
                Place::Seat(seat) => {
                    let seated_member = BankedMember {
                        seat: u32::try_from(seat.index()).unwrap_or(u32::MAX),
                        position,
                        weight: member.weight,
                    };
                    seated.push((seat.bank(), seated_member));
                }
            }
        }
        seated.sort_unstable_by_key(|(bank, member)| (Arc::as_ptr(bank).addr(), member.seat));
        let banked = seated
            .chunk_by(|(left, _), (right, _)| Arc::ptr_eq(left, right))
            .filter_map(|group| {
                Some(Banked {
                    bank: Arc::clone(group.first()?.0),
                    seats: group.iter().map(|(_, member)| *member).collect(),
                })
            });
        Self {
            apart: apart.into(),
            banked: banked.collect(),
            many: Many::new(&members, &chosen_at),
            chosen_at: chosen_at.into(),
            members: members.into(),
        }
    }

    /// The node that the policy chooses among those whose position is not excluded.
    pub(super) fn find(&self, is_excluded: impl Fn(usize) -> bool) -> Found {
        let Some(many) = &self.many else {
            return self.compare(is_excluded);
        };
        if many.any_idle.get()
            && let Some(position) = self.unbeatable(&many.recency, &is_excluded)
        {
            return Found::Node(position);
        }
        let first = many.standings.first(&self.chosen_at);
        many.any_idle
            .set(first.is_some_and(|(_, rank)| rank.is_idle()));
        match first {
            Some((position, _)) if !is_excluded(position) => Found::Node(position),
            Some(_) => self.compare(is_excluded),
            None if many.standings.any_online() => Found::AllFull,
            None => Found::NoneOnline,
        }
    }

    /// The node at this position was chosen, as the `stamp`th choice.
    pub(super) fn chosen(&self, position: usize, stamp: u64) {
        if let Some(chosen_at) = self.chosen_at.get(position) {
            chosen_at.set(stamp);
        }
        if let Some(many) = &self.many {
            many.recency.chosen(position);
            many.standings.chosen(position);
        }
    }

    /// Of the nodes chosen longest ago, the first that cannot be beaten.
    fn unbeatable(&self, recency: &Recency, is_excluded: &impl Fn(usize) -> bool) -> Option<usize> {
        let mut oldest = recency.oldest_first().take(LOOKS);
        oldest.find(|position| {
            self.members.get(*position).is_some_and(|member| {
                let (slots, tally) = member.live.place().counters();
                policy::cannot_be_beaten(slots.load())
                    && tally.is_online()
                    && !is_excluded(*position)
            })
        })
    }

    fn compare(&self, is_excluded: impl Fn(usize) -> bool) -> Found {
        let mut least = Least::default();
        let mut any_online = false;
        let mut offer = |slots: &LimitedCounter, tally: &Tally, weight, position: usize| {
            let slots = slots.load();
            if least.precedes(slots, weight) || !tally.is_online() {
                return;
            }
            any_online = true;
            let chosen_at = self.chosen_at.get(position).map_or(0, Cell::get);
            let load = Load::of(slots, weight, chosen_at);
            if least.is_beaten_by(&load) && !is_excluded(position) {
                least.replace(position, &load);
            }
        };
        for position in self.apart.iter().map(|position| *position as usize) {
            if let Some(member) = self.members.get(position) {
                let (slots, tally) = member.live.place().counters();
                offer(slots, tally, member.weight, position);
            }
        }
        for group in &self.banked {
            let (slots, tallies) = (group.bank.slots(), group.bank.tallies());
            for member in &group.seats {
                let seat = member.seat as usize;
                if let (Some(slots), Some(tally)) = (slots.get(seat), tallies.get(seat)) {
                    offer(slots, tally, member.weight, member.position as usize);
                }
            }
        }
        match least.chosen() {
            Some(position) => Found::Node(position),
            None if any_online => Found::AllFull,
            None => Found::NoneOnline,
        }
    }
}

impl Many {
    fn new(members: &[Member], chosen_at: &[Cell<u64>]) -> Option<Self> {
        if members.len() <= MANY {
            return None;
        }
        let nodes = members.iter().map(|member| (&member.live, member.weight));
        Some(Self {
            recency: Recency::new(chosen_at),
            standings: Standings::new(nodes)?,
            any_idle: Cell::new(true),
        })
    }
}

impl Recency {
    fn new(chosen_at: &[Cell<u64>]) -> Self {
        let count = chosen_at.len();
        let mut positions: Vec<usize> = (0..count).collect();
        positions.sort_unstable_by_key(|position| chosen_at.get(*position).map(Cell::get));
        let ring = Self((0..=count).map(|_| Link::default()).collect());
        // The place behind all positions is linked to itself: an empty ring.
        ring.link(count, count);
        for position in positions {
            ring.append(position);
        }
        ring
    }

    fn oldest_first(&self) -> impl Iterator<Item = usize> {
        let start = self.start();
        let first = self.younger(start);
        std::iter::successors(Some(first), |position| Some(self.younger(*position)))
            .take_while(move |position| *position != start)
    }

    fn chosen(&self, position: usize) {
        if let Some(link) = self.0.get(position) {
            self.link(link.older.get() as usize, link.younger.get() as usize);
            self.append(position);
        }
    }

    fn append(&self, position: usize) {
        let start = self.start();
        let last = self
            .0
            .get(start)
            .map_or(start, |link| link.older.get() as usize);
        self.link(last, position);
        self.link(position, start);
    }

    fn link(&self, older: usize, younger: usize) {
        // Positions are fewer than 2^32: tables are bounded by what an operator configures and registers.
        if let Some(link) = self.0.get(older) {
            link.younger.set(younger as u32);
        }
        if let Some(link) = self.0.get(younger) {
            link.older.set(older as u32);
        }
    }

    fn younger(&self, position: usize) -> usize {
        let link = self.0.get(position);
        link.map_or_else(|| self.start(), |link| link.younger.get() as usize)
    }

    fn start(&self) -> usize {
        self.0.len() - 1
    }
}

impl Default for Link {
    fn default() -> Self {
        Self {
            older: Cell::new(0),
            younger: Cell::new(0),
        }
    }
}

/// More than these are many; fewer are compared as quickly.
const MANY: usize = 16;
/// Nodes chosen longest ago that are looked at before the standings are.
const LOOKS: usize = 64;

#[cfg(test)]
#[cfg(not(loom))]
#[path = "contenders_tests.rs"]
mod tests;
