//! The database: registered nodes, operators' wishes, sessions and request history in
//! `llm-router.db` of the data directory.
//!
//! One thread touches it, but for one look before it starts ([`last_session_password`]); everyone else holds
//! a [`Store`] and waits for an answer, two seconds at most.
//! No worker holds one. Whatever happens to the file, the router serves: a failure is told by
//! `/ready`, a metric and one line of the log, and ends by itself when its cause does.
//!
//! # Invariants
//!
//! * **What was acknowledged is there** after a `kill -9` at any moment: each change is one transaction
//!   in a write-ahead log, and what a caller waits for is on the disk before it hears of it.
//! * **Nobody's data is deleted.** A file that is damaged, or not ours, is moved aside; one that a
//!   newer version has written is left alone and refused. None is moved onto another, and of several processes
//!   that find one damaged only one moves it: the others take up what that one begins.
//! * **Only the history is lost with its file.** One that is moved away or breaks while the router runs gives
//!   what else it knows to the next; what cannot be read any more is written again by those who know it.
//! * **No credential lies in the file in the clear**: tokens and sessions are digests, what nodes must be
//!   sent is sealed with a key that is kept beside the file.

mod database;
mod files;
mod history;
mod keeper;
mod nodes;
mod rescue;
mod schema;
mod seal;
mod sessions;
mod thread;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};

pub use history::{HistoryEntry, HistoryFacets, HistoryFilter, HistoryPage, PHASES, StatusFilter};
pub use nodes::{Credential, StoredNode};
pub use sessions::{StoredSession, last_session_password};
pub use thread::{StoreThread, start};

use crate::telemetry::StoreHealth;

use keeper::Keeper;

/// A way to the store; clones lead to the same one.
///
/// Every call blocks, for [`REPLY_TIMEOUT`] at most: never on a worker.
#[derive(Clone, Debug)]
pub struct Store {
    commands: Sender<Command>,
    health: Arc<StoreHealth>,
}

/// Why the store did not do what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// No answer in time: the database is locked, or there is too much to do. A change may still be
    /// made after this.
    Busy,
    /// The database cannot be used; the log says why. Nothing was changed.
    Unavailable,
    /// What was to be added is there already. Nothing was changed.
    Conflict,
}

/// What the thread is told.
enum Command {
    Run(Job),
    /// Write what is waiting, and end.
    Finish,
}

type Work = Box<dyn FnOnce(&mut Keeper, Instant) + Send>;

/// Something to be done with the database.
struct Job {
    work: Work,
    /// When the caller stops waiting: nothing is begun after it.
    until: Instant,
}

impl Store {
    /// How often the file was another one than before, so that something may be missing in it. Does not block.
    #[must_use]
    pub fn files_begun_anew(&self) -> u64 {
        self.health.files_begun_anew()
    }

    /// Has the thread run `work`, which is told when its caller stops waiting.
    fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Keeper, Instant) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let until = Instant::now() + REPLY_TIMEOUT;
        let (reply, answer) = bounded(1);
        let work = Box::new(move |keeper: &mut Keeper, until| {
            // Nobody listens any more when it took too long.
            let _ = reply.send(work(keeper, until));
        });
        self.commands
            .send_deadline(Command::Run(Job { work, until }), until)
            .map_err(|_| StoreError::Busy)?;
        answer.recv_deadline(until).unwrap_or(Err(StoreError::Busy))
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Run(_) => "Run",
            Self::Finish => "Finish",
        })
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "the store does not answer in time",
            Self::Unavailable => "the store is not available",
            Self::Conflict => "it is there already",
        })
    }
}

impl std::error::Error for StoreError {}

/// How long a caller waits for the store.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// Commands that may wait.
const COMMANDS_MAX: usize = 64;

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
