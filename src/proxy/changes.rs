//! Changes of what this process knows about nodes and configuration: held up while another process reads the
//! same, so that nothing that was promised to anybody is missing there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many changes are under way, and whether more may begin.
#[derive(Debug, Default)]
pub struct Changes(AtomicUsize);

/// A change under way, until it is dropped.
#[derive(Debug)]
pub struct Change(Arc<Changes>);

impl Changes {
    /// Begins a change; `None` while changes are held up.
    pub fn begin(self: &Arc<Self>) -> Option<Change> {
        let one_more = |state: usize| (state & HELD == 0).then_some(state + 1);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more)
            .ok()
            .map(|_| Change(Arc::clone(self)))
    }

    /// Lets no change begin any more; those under way go on.
    pub fn hold(&self) {
        self.0.fetch_or(HELD, Ordering::AcqRel);
    }

    /// Lets changes begin again.
    pub fn resume(&self) {
        self.0.fetch_and(!HELD, Ordering::AcqRel);
    }

    /// Whether no change is under way.
    pub fn is_quiet(&self) -> bool {
        self.0.load(Ordering::Acquire) & !HELD == 0
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The highest bit; the others count.
const HELD: usize = 1 << (usize::BITS - 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_begins_while_changes_are_held_and_what_had_begun_is_seen() {
        let changes = Arc::new(Changes::default());
        let first = changes.begin().unwrap();
        let second = changes.begin().unwrap();
        changes.hold();
        assert!(changes.begin().is_none());
        drop(first);
        assert!(!changes.is_quiet());
        drop(second);
        assert!(changes.is_quiet());
        assert!(changes.begin().is_none());
        changes.resume();
        assert!(changes.begin().is_some());
        assert!(changes.is_quiet());
    }
}
