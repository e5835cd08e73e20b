//! Owns where the counters of nodes lie in memory. The first few nodes of a table have a cache line each, so
//! that cores which work with different nodes do not disturb one another. Where there are many, their slots
//! lie side by side, eight to a line, and all else apart from them: whoever looks at a thousand nodes reads
//! eight kibibytes in order, and two cores rarely meet on a line.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use crate::admission::LimitedCounter;

use super::live::NodeState;
use super::revision::StateRevision;

/// What choosing a node looks at, and what changes with each choice.
#[derive(Debug)]
pub(super) struct Line {
    slots: LimitedCounter,
    tally: Tally,
}

/// What is known of a node besides its slots.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) selections_total: AtomicU64,
    pub(super) consecutive_failures: AtomicU32,
    pub(super) state: AtomicU8,
}

/// Where the counters of one node are, for as long as the node lives.
#[derive(Debug)]
pub(super) enum Place {
    /// On a cache line of its own.
    Apart(CachePadded<Line>),
    /// Among others.
    Seat(Seat),
}

/// A place in a bank; free for another node once this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    bank: Arc<Bank>,
    index: usize,
}

/// Many nodes' counters side by side.
#[derive(Debug)]
pub(super) struct Bank {
    slots: Box<[LimitedCounter]>,
    tallies: Box<[Tally]>,
    taken: Box<[AtomicBool]>,
}

/// The banks of a table; those of the next table are the same ones, or more.
#[derive(Clone, Debug, Default)]
pub(super) struct Banks {
    banks: Vec<Arc<Bank>>,
    states: StateRevision,
}

impl Tally {
    fn new() -> Self {
        Self {
            selections_total: AtomicU64::new(0),
            consecutive_failures: AtomicU32::new(0),
            state: AtomicU8::new(NodeState::Pending as u8),
        }
    }

    /// Whether the node gets traffic.
    #[inline]
    pub(super) fn is_online(&self) -> bool {
        self.state.load(Ordering::Relaxed) == NodeState::Online as u8
    }
}

impl Place {
    /// A place for a new node, the `position`th of its table. Only the control thread calls this.
    pub(super) fn new(banks: &mut Banks, position: usize, max_concurrency: u32) -> Self {
        if position < APART_MAX {
            return Self::Apart(CachePadded::new(Line {
                slots: LimitedCounter::new(max_concurrency),
                tally: Tally::new(),
            }));
        }
        let seat = banks.free_seat();
        // Nobody else knows the seat: the last guard of whoever had it before is gone.
        seat.slots().settle();
        seat.slots().set_limit(max_concurrency);
        let tally = seat.tally();
        tally.selections_total.store(0, Ordering::Relaxed);
        tally.consecutive_failures.store(0, Ordering::Relaxed);
        tally
            .state
            .store(NodeState::Pending as u8, Ordering::Relaxed);
        Self::Seat(seat)
    }

    /// Both together.
    #[inline]
    pub(super) fn counters(&self) -> (&LimitedCounter, &Tally) {
        match self {
            Self::Apart(line) => (&line.slots, &line.tally),
            Self::Seat(seat) => (seat.slots(), seat.tally()),
        }
    }

    #[inline]
    pub(super) fn slots(&self) -> &LimitedCounter {
        match self {
            Self::Apart(line) => &line.slots,
            Self::Seat(seat) => seat.slots(),
        }
    }

    #[inline]
    pub(super) fn tally(&self) -> &Tally {
        match self {
            Self::Apart(line) => &line.tally,
            Self::Seat(seat) => seat.tally(),
        }
    }
}

impl Seat {
    pub(super) fn bank(&self) -> &Arc<Bank> {
        &self.bank
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    fn slots(&self) -> &LimitedCounter {
        // A seat is within its bank.
        &self.bank.slots[self.index]
    }

    fn tally(&self) -> &Tally {
        &self.bank.tallies[self.index]
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Release: what this node did to its counters is done before another node takes the seat.
        self.bank.taken[self.index].store(false, Ordering::Release);
    }
}

impl Bank {
    /// Of all seats, in their order.
    pub(super) fn slots(&self) -> &[LimitedCounter] {
        &self.slots
    }

    /// Of all seats, in their order.
    pub(super) fn tallies(&self) -> &[Tally] {
        &self.tallies
    }

    fn new() -> Self {
        Self {
            slots: (0..SEATS).map(|_| LimitedCounter::new(0)).collect(),
            tallies: (0..SEATS).map(|_| Tally::new()).collect(),
            taken: (0..SEATS).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    fn take(bank: &Arc<Self>) -> Option<Seat> {
        let mut taken = bank.taken.iter();
        let index = taken.position(|taken| !taken.swap(true, Ordering::Acquire))?;
        Some(Seat {
            bank: Arc::clone(bank),
            index,
        })
    }
}

impl Banks {
    /// Advances when the state of a node in these banks changes, or of one apart.
    pub(super) fn states(&self) -> &StateRevision {
        &self.states
    }

    fn free_seat(&mut self) -> Seat {
        if let Some(seat) = self.banks.iter().find_map(Bank::take) {
            return seat;
        }
        let bank = Arc::new(Bank::new());
        bank.taken[0].store(true, Ordering::Relaxed);
        self.banks.push(Arc::clone(&bank));
        Seat { bank, index: 0 }
    }
}

/// Nodes of a table that have a cache line each: among so few, two cores would often meet.
const APART_MAX: usize = 16;
/// Nodes whose counters are in one bank.
const SEATS: usize = 512;

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_given_to_one_node_at_a_time_and_again_when_it_is_free() {
        let mut banks = Banks::default();
        let place = |banks: &mut Banks, limit| Place::new(banks, APART_MAX, limit);
        let mut places: Vec<Place> = (0..SEATS + 1).map(|_| place(&mut banks, 1)).collect();
        assert_eq!(banks.banks.len(), 2);
        let addresses: std::collections::BTreeSet<_> = places
            .iter()
            .map(|place| std::ptr::from_ref(place.slots()).addr())
            .collect();
        assert_eq!(addresses.len(), places.len());

        let (slots, tally) = (places[7].slots(), places[7].tally());
        assert!(slots.try_take() && !slots.release());
        slots.contend();
        tally.selections_total.store(9, Ordering::Relaxed);
        tally
            .state
            .store(NodeState::Online as u8, Ordering::Relaxed);
        let before = std::ptr::from_ref(slots).addr();
        drop(places.remove(7));
        let again = place(&mut banks, 5);
        assert_eq!(std::ptr::from_ref(again.slots()).addr(), before);
        let slots = again.slots().load();
        assert_eq!(
            (slots.count, slots.limit, slots.is_contended),
            (0, 5, false)
        );
        assert_eq!(again.tally().selections_total.load(Ordering::Relaxed), 0);
        assert!(!again.tally().is_online());
        assert_eq!(banks.banks.len(), 2);
    }

    #[test]
    fn few_nodes_do_not_share_a_line() {
        let mut banks = Banks::default();
        assert!(matches!(Place::new(&mut banks, 0, 1), Place::Apart(_)));
        assert!(matches!(
            Place::new(&mut banks, APART_MAX - 1, 1),
            Place::Apart(_)
        ));
        assert!(banks.banks.is_empty());
    }
}
