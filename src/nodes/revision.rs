//! Owns the word by which workers learn that the state of some node has changed: whoever keeps what the
//! states were need not read a thousand of them to find all as they were. Never says which.

use std::sync::Arc;

#[cfg(all(test, loom))]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(all(test, loom)))]
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the changes of state of all nodes of a table; shared by all its nodes, and by the next tables.
#[derive(Clone, Debug)]
pub(super) struct StateRevision(Arc<AtomicU64>);

impl StateRevision {
    /// The states have been read as they are at this revision, which is to be asked for before reading them:
    /// while it stays the same, so do they.
    pub(super) fn now(&self) -> u64 {
        // Acquire: a worker that sees the new revision sees the new states too.
        self.0.load(Ordering::Acquire)
    }

    /// A state has been replaced.
    pub(super) fn advance(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

impl Default for StateRevision {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(0)))
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use std::sync::Arc as StdArc;

    use loom::sync::atomic::AtomicU8;
    use loom::thread;

    use super::*;

    /// What a worker keeps of one state.
    struct Keeper {
        revision: u64,
        state: u8,
    }

    impl Keeper {
        fn follow(&mut self, revision: &StateRevision, state: &AtomicU8) {
            let now = revision.now();
            if now != self.revision {
                self.revision = now;
                self.state = state.load(Ordering::Relaxed);
            }
        }
    }

    #[test]
    fn whoever_follows_the_revision_misses_no_state() {
        loom::model(|| {
            let revision = StateRevision::default();
            let states: [StdArc<AtomicU8>; 2] =
                std::array::from_fn(|_| StdArc::new(AtomicU8::new(0)));
            let control = {
                let (revision, states) = (revision.clone(), states.clone());
                thread::spawn(move || {
                    for (state, value) in [(&states[0], 1), (&states[1], 2), (&states[0], 3)] {
                        state.store(value, Ordering::Relaxed);
                        revision.advance();
                    }
                })
            };
            let mut keepers = states.each_ref().map(|_| Keeper {
                revision: 0,
                state: 0,
            });
            let follow_all = |keepers: &mut [Keeper; 2]| {
                for (keeper, state) in keepers.iter_mut().zip(&states) {
                    keeper.follow(&revision, state);
                }
            };
            // Beside the changes, between any two of them.
            follow_all(&mut keepers);
            let seen = keepers[0].revision;
            assert!(
                seen < 1 || keepers[0].state > 0,
                "an old state at a new revision"
            );
            control.join().unwrap();
            follow_all(&mut keepers);
            let kept = keepers.each_ref().map(|keeper| keeper.state);
            assert_eq!(kept, [3, 2], "a change was missed");
        });
    }
}
