//! Owns where the counters of nodes lie in memory. The first few nodes of a table have a cache line each, so
//! that cores which work with different nodes do not disturb one another. Where there are many, their
//! counters lie side by side: whoever compares a thousand nodes reads them in order, and two cores rarely
//! meet on a line.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use crate::admission::LimitedCounter;

use super::live::NodeState;

/// What choosing a node looks at, and what changes with each choice.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) slots: LimitedCounter,
    pub(super) selections_total: AtomicU64,
    pub(super) consecutive_failures: AtomicU32,
    pub(super) state: AtomicU8,
}

/// Where the line of one node is, for as long as the node lives.
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

/// Lines side by side.
#[derive(Debug)]
pub(super) struct Bank {
    lines: Box<[Line]>,
    taken: Box<[AtomicBool]>,
}

/// The banks of a table; those of the next table are the same ones, or more.
#[derive(Clone, Debug, Default)]
pub(super) struct Banks(Vec<Arc<Bank>>);

impl Line {
    pub(super) fn new(max_concurrency: u32) -> Self {
        Self {
            slots: LimitedCounter::new(max_concurrency),
            selections_total: AtomicU64::new(0),
            consecutive_failures: AtomicU32::new(0),
            state: AtomicU8::new(NodeState::Pending as u8),
        }
    }
}

impl Place {
    /// A place for a new node, the `position`th of its table. Only the control thread calls this.
    pub(super) fn new(banks: &mut Banks, position: usize, max_concurrency: u32) -> Self {
        if position < APART_MAX {
            return Self::Apart(CachePadded::new(Line::new(max_concurrency)));
        }
        let seat = banks.free_seat();
        let line = seat.line();
        // Nobody else knows the seat: the last guard of whoever had it before is gone.
        line.slots.settle();
        line.slots.set_limit(max_concurrency);
        line.selections_total.store(0, Ordering::Relaxed);
        line.consecutive_failures.store(0, Ordering::Relaxed);
        line.state
            .store(NodeState::Pending as u8, Ordering::Relaxed);
        Self::Seat(seat)
    }

    pub(super) fn line(&self) -> &Line {
        match self {
            Self::Apart(line) => line,
            Self::Seat(seat) => seat.line(),
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

    fn line(&self) -> &Line {
        // A seat is within its bank.
        &self.bank.lines[self.index]
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Release: what this node did to its line is done before another node takes the seat.
        self.bank.taken[self.index].store(false, Ordering::Release);
    }
}

impl Bank {
    pub(super) fn lines(&self) -> &[Line] {
        &self.lines
    }

    fn new() -> Self {
        Self {
            lines: (0..SEATS).map(|_| Line::new(0)).collect(),
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
    fn free_seat(&mut self) -> Seat {
        if let Some(seat) = self.0.iter().find_map(Bank::take) {
            return seat;
        }
        let bank = Arc::new(Bank::new());
        bank.taken[0].store(true, Ordering::Relaxed);
        self.0.push(Arc::clone(&bank));
        Seat { bank, index: 0 }
    }
}

/// Nodes of a table that have a cache line each: among so few, two cores would often meet.
const APART_MAX: usize = 16;
/// Lines in a bank.
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
        assert_eq!(banks.0.len(), 2);
        let addresses: std::collections::BTreeSet<_> = places
            .iter()
            .map(|place| std::ptr::from_ref(place.line()).addr())
            .collect();
        assert_eq!(addresses.len(), places.len());

        let line = places[7].line();
        assert!(line.slots.try_take() && !line.slots.release());
        line.slots.contend();
        line.selections_total.store(9, Ordering::Relaxed);
        line.state.store(NodeState::Online as u8, Ordering::Relaxed);
        let before = std::ptr::from_ref(line).addr();
        drop(places.remove(7));
        let again = place(&mut banks, 5);
        assert_eq!(std::ptr::from_ref(again.line()).addr(), before);
        let slots = again.line().slots.load();
        assert_eq!(
            (slots.count, slots.limit, slots.is_contended),
            (0, 5, false)
        );
        assert_eq!(again.line().selections_total.load(Ordering::Relaxed), 0);
        assert_eq!(banks.0.len(), 2);
    }

    #[test]
    fn few_nodes_do_not_share_a_line() {
        let mut banks = Banks::default();
        assert!(matches!(Place::new(&mut banks, 0, 1), Place::Apart(_)));
        assert!(matches!(
            Place::new(&mut banks, APART_MAX - 1, 1),
            Place::Apart(_)
        ));
        assert!(banks.0.is_empty());
    }
}
