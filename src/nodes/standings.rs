//! Owns the order of the many nodes of one model from one choice to the next. The counters are shared and change at
//! any time, so every choice looks at all of them; but looking whether a word is what it was is much less than
//! comparing nodes, and only those that did change, mostly two or three, are placed anew.
//!
//! The order is a tournament: a binary tree over the nodes in which each place holds the better of the two below
//! it. The first place holds the node that the policy would choose if it compared all; to place one node anew
//! takes a comparison for each level above it.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use crate::admission::{LimitedCounter, Occupancy};

use super::bank::{Bank, Place};
use super::live::NodeLive;
use super::policy::{Load, Rank};
use super::revision::StateRevision;

/// The nodes of one model, in the order of the policy.
///
/// Each node has a lane. Lanes follow one another as the counters do in memory, so that both are walked in step;
/// a few lanes belong to no node of this model, but to one whose counter lies in between.
#[derive(Debug)]
pub(super) struct Standings {
    /// The counter of each lane as it was seen last, or [`NEVER`](LimitedCounter::NO_WORD) to look again.
    seen: Box<[Cell<u64>]>,
    entrants: Box<[Entrant]>,
    /// The first lanes: counters on a line of their own.
    apart: Box<[Arc<NodeLive>]>,
    /// The others.
    runs: Box<[Run]>,
    /// The lane of the node at a position.
    lanes: Box<[u32]>,
    tournament: Tournament,
    online_count: Cell<usize>,
    states: StateRevision,
    /// The revision that the states kept here are of.
    states_seen: Cell<u64>,
}

/// What is known of the node of a lane; the tournament is as this says.
#[derive(Debug)]
struct Entrant {
    rank: Cell<Rank>,
    weight: u32,
    /// [`NOBODY`] if the lane has no node of this model.
    position: u32,
    is_online: Cell<bool>,
}

/// Counters one behind the other in a bank. The nodes of this model keep their seats because
/// [`super::contenders::Contenders`] holds them; nothing here does.
#[derive(Debug)]
struct Run {
    bank: Arc<Bank>,
    seats: Range<usize>,
    lanes: Range<usize>,
}

/// Who wins, with the places of the tree by number: 1 is the first, below place `n` are `2n` and `2n + 1`, and
/// those from `leaves` on are the lanes'.
#[derive(Debug)]
struct Tournament {
    places: Box<[Cell<u32>]>,
    leaves: usize,
}

/// Eight counters, and how they were seen last.
type Eight<'c> = (&'c [LimitedCounter; 8], &'c [Cell<u64>; 8]);

/// One look at all counters: after a few changes it is quicker to hold the tournament again.
struct Look<'s> {
    standings: &'s Standings,
    chosen_at: &'s [Cell<u64>],
    replays_left: usize,
    is_stale: bool,
}

impl Standings {
    /// Of these nodes, by position: counters and weight. `None` if there is none.
    pub(super) fn new<'n>(nodes: impl Iterator<Item = (&'n Arc<NodeLive>, u32)>) -> Option<Self> {
        let mut apart = Vec::new();
        let mut seated = Vec::new();
        let mut entrants = Vec::new();
        let mut states = None;
        for (position, (live, weight)) in (0_u32..).zip(nodes) {
            states.get_or_insert_with(|| live.states().clone());
            match live.place() {
                Place::Apart(_) => {
                    apart.push(Arc::clone(live));
                    entrants.push(Entrant::new(position, weight));
                }
                Place::Seat(seat) => {
                    seated.push((seat.bank(), seat.index(), position, weight));
                }
            }
        }
        let position_count = entrants.len() + seated.len();
        seated.sort_unstable_by_key(|(bank, seat, ..)| (Arc::as_ptr(bank).addr(), *seat));
        let stretches = seated.chunk_by(|(left, seat, ..), (right, next, ..)| {
            Arc::ptr_eq(left, right) && next - seat <= GAP_MAX
        });
        let mut runs = Vec::new();
        for stretch in stretches {
            let (Some((bank, first, ..)), Some((_, last, ..))) = (stretch.first(), stretch.last())
            else {
                continue;
            };
            let start = entrants.len();
            entrants.extend((*first..=*last).map(|_| Entrant::new(NOBODY, 0)));
            for (_, seat, position, weight) in stretch {
                if let Some(entrant) = entrants.get_mut(start + seat - first) {
                    *entrant = Entrant::new(*position, *weight);
                }
            }
            runs.push(Run {
                bank: Arc::clone(bank),
                seats: *first..*last + 1,
                lanes: start..entrants.len(),
            });
        }
        let mut lanes = vec![NOBODY; position_count];
        for (lane, entrant) in (0_u32..).zip(&entrants) {
            if let Some(place) = lanes.get_mut(entrant.position as usize) {
                *place = lane;
            }
        }
        Some(Self {
            seen: entrants.iter().map(|_| Cell::new(NEVER)).collect(),
            tournament: Tournament::new(entrants.len()),
            entrants: entrants.into(),
            apart: apart.into(),
            runs: runs.into(),
            lanes: lanes.into(),
            online_count: Cell::new(0),
            states: states?,
            states_seen: Cell::new(NO_REVISION),
        })
    }

    /// The node at this position was chosen: where it stands has changed even if its slots have not.
    #[inline]
    pub(super) fn chosen(&self, position: usize) {
        let lane = self.lanes.get(position).copied().unwrap_or(NOBODY);
        if let Some(seen) = self.seen.get(lane as usize) {
            seen.set(NEVER);
        }
    }

    /// The position of the node that the policy prefers to all others, with its rank; `None` if none that is
    /// online has room. `chosen_at` says of each position when it was chosen last.
    pub(super) fn first(&self, chosen_at: &[Cell<u64>]) -> Option<(usize, Rank)> {
        self.follow(chosen_at);
        let entrant = self.entrants.get(self.tournament.winner() as usize)?;
        Some((entrant.position as usize, entrant.rank.get()))
    }

    /// Whether any node was online when [`first`](Self::first) looked.
    pub(super) fn any_online(&self) -> bool {
        self.online_count.get() > 0
    }

    /// Takes in whatever has changed since the last look.
    fn follow(&self, chosen_at: &[Cell<u64>]) {
        let states = self.states.now();
        if states != self.states_seen.replace(states) {
            self.follow_states();
        }
        let mut look = Look {
            standings: self,
            chosen_at,
            replays_left: REPLAYS_MAX,
            is_stale: false,
        };
        for (lane, (live, seen)) in self.apart.iter().zip(&self.seen).enumerate() {
            look.compare(lane, live.place().slots(), seen);
        }
        for run in &self.runs {
            let (Some(slots), Some(seen)) = (
                run.bank.slots().get(run.seats.clone()),
                self.seen.get(run.lanes.clone()),
            ) else {
                continue;
            };
            look.compare_all(run.lanes.start, slots, seen);
        }
        if look.is_stale {
            self.tournament.hold(&self.entrants);
        }
    }

    /// Reads the states anew; whoever's has changed is placed anew by the look that follows.
    fn follow_states(&self) {
        let apart = self.apart.iter().map(|live| live.place().tally());
        let seated = self.runs.iter().flat_map(|run| {
            let tallies = run.bank.tallies().get(run.seats.clone());
            tallies.unwrap_or_default()
        });
        let mut online_count = 0;
        let lanes = self.entrants.iter().zip(&self.seen);
        for (tally, (entrant, seen)) in apart.chain(seated).zip(lanes) {
            let is_online = entrant.position != NOBODY && tally.is_online();
            online_count += usize::from(is_online);
            if entrant.is_online.replace(is_online) != is_online {
                seen.set(NEVER);
            }
        }
        self.online_count.set(online_count);
    }
}

impl Look<'_> {
    /// Eight counters at a time, a cache line, of which mostly none has changed.
    fn compare_all(&mut self, first_lane: usize, slots: &[LimitedCounter], seen: &[Cell<u64>]) {
        let (eights, rest) = slots.as_chunks();
        let (seen_eights, seen_rest) = seen.as_chunks();
        let mut both = eights.iter().zip(seen_eights).enumerate();
        while let Some((index, (slots, seen))) = next_changed(&mut both) {
            let lanes = first_lane + 8 * index..;
            for (lane, (slots, seen)) in lanes.zip(slots.iter().zip(seen)) {
                self.compare(lane, slots, seen);
            }
        }
        let rest_lane = first_lane + 8 * eights.len();
        for (lane, (slots, seen)) in (rest_lane..).zip(rest.iter().zip(seen_rest)) {
            self.compare(lane, slots, seen);
        }
    }

    #[inline]
    fn compare(&mut self, lane: usize, slots: &LimitedCounter, seen: &Cell<u64>) {
        let word = slots.word();
        if word != seen.get() {
            seen.set(word);
            self.place(lane, Occupancy::of_word(word));
        }
    }

    /// Places the node of a lane anew.
    fn place(&mut self, lane: usize, slots: Occupancy) {
        let Some(entrant) = self.standings.entrants.get(lane) else {
            return;
        };
        let chosen_at = self.chosen_at.get(entrant.position as usize);
        let load = Load::of(slots, entrant.weight, chosen_at.map_or(0, Cell::get));
        let may_win = entrant.is_online.get() && load.has_room();
        let tournament = &self.standings.tournament;
        if !tournament.set(lane, may_win) && !may_win {
            return;
        }
        entrant.rank.set(load.rank());
        match self.replays_left.checked_sub(1) {
            Some(left) => {
                self.replays_left = left;
                tournament.replay(lane, &self.standings.entrants);
            }
            None => self.is_stale = true,
        }
    }
}

/// The next eight counters among which one is not as it was seen. By itself, because nothing else runs as
/// often: it is to have all registers.
#[inline(never)]
fn next_changed<'c>(
    eights: &mut impl Iterator<Item = (usize, Eight<'c>)>,
) -> Option<(usize, Eight<'c>)> {
    eights.find(|(_, (slots, seen))| {
        let mut both = slots.iter().zip(*seen);
        !both.all(|(slots, seen)| slots.word() == seen.get())
    })
}

impl Tournament {
    /// Nobody takes part yet.
    fn new(lane_count: usize) -> Self {
        let leaves = lane_count.next_power_of_two();
        Self {
            places: (0..2 * leaves).map(|_| Cell::new(NOBODY)).collect(),
            leaves,
        }
    }

    fn winner(&self) -> u32 {
        self.at(1)
    }

    /// Lets the node of this lane take part, or not; whether it did before.
    fn set(&self, lane: usize, takes_part: bool) -> bool {
        let entry = if takes_part { lane as u32 } else { NOBODY };
        let place = self.places.get(self.leaves + lane);
        place.is_some_and(|place| place.replace(entry) != NOBODY)
    }

    /// The node of this lane stands elsewhere now, and no other has moved since its own replay.
    fn replay(&self, lane: usize, entrants: &[Entrant]) {
        let lane = lane as u32;
        let mut place = (self.leaves + lane as usize) / 2;
        while place > 0 {
            let (before, now) = self.decide(place, entrants);
            if before != lane && now != lane {
                // It has lost below, as it had before: nobody above has heard of it.
                return;
            }
            place /= 2;
        }
    }

    /// Decides all of it anew.
    fn hold(&self, entrants: &[Entrant]) {
        for place in (1..self.leaves).rev() {
            self.decide(place, entrants);
        }
    }

    /// Who had won this place, and who wins it now.
    #[inline]
    fn decide(&self, place: usize, entrants: &[Entrant]) -> (u32, u32) {
        let (left, right) = (self.at(2 * place), self.at(2 * place + 1));
        let ranks = (entrants.get(left as usize), entrants.get(right as usize));
        let winner = match ranks {
            (Some(first), Some(second)) if second.rank.get().precedes(&first.rank.get()) => right,
            (Some(_), _) => left,
            (None, _) => right,
        };
        let place = self.places.get(place);
        (place.map_or(NOBODY, |place| place.replace(winner)), winner)
    }

    #[inline]
    fn at(&self, place: usize) -> u32 {
        self.places.get(place).map_or(NOBODY, Cell::get)
    }
}

impl Entrant {
    fn new(position: u32, weight: u32) -> Self {
        Self {
            rank: Cell::new(Rank::LAST),
            weight,
            position,
            is_online: Cell::new(false),
        }
    }
}

/// No lane, no position.
const NOBODY: u32 = u32::MAX;
const NEVER: u64 = LimitedCounter::NO_WORD;
/// States count their changes from 0 on.
const NO_REVISION: u64 = u64::MAX;
/// Seats from one node of a model to the next, up to which the counters in between are looked at too.
const GAP_MAX: usize = 8;
/// Changes between two looks up to which each is placed by itself.
const REPLAYS_MAX: usize = 48;
