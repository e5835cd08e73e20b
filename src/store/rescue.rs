//! What a file that is left behind knows and the next one must: registered nodes, drains and sessions, as
//! far as they can be read. The history stays where it is.

use std::fmt;

use rusqlite::{Connection, TransactionBehavior};

use super::nodes::{NodeRow, read_drains, read_nodes, take_in_drains, take_in_nodes};
use super::sessions::{StoredSession, read_sessions, take_in_sessions};

/// Rows of a file that is left behind; `None` where they cannot be read.
pub(super) struct Rescued {
    nodes: Option<Vec<NodeRow>>,
    drains: Option<Vec<String>>,
    sessions: Option<Vec<StoredSession>>,
}

impl Rescued {
    /// Each table by itself: a damaged one does not take the others with it.
    pub(super) fn from(connection: &Connection) -> Self {
        Self {
            nodes: read_nodes(connection).ok(),
            drains: read_drains(connection).ok(),
            sessions: read_sessions(connection).ok(),
        }
    }

    /// Writes everything to the next file, or nothing. It counts before what is there: somebody may have put
    /// an older file in the place of the one left behind.
    pub(super) fn write_to(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        connection.pragma_update(None, "synchronous", "FULL")?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let Some(nodes) = &self.nodes {
            take_in_nodes(&transaction, nodes)?;
        }
        if let Some(drains) = &self.drains {
            take_in_drains(&transaction, drains)?;
        }
        if let Some(sessions) = &self.sessions {
            take_in_sessions(&transaction, sessions)?;
        }
        transaction.commit()
    }
}

/// What was found, for the log.
impl fmt::Display for Rescued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (separator, what, count) in [
            ("", "registered nodes", self.nodes.as_ref().map(Vec::len)),
            (", ", "drains", self.drains.as_ref().map(Vec::len)),
            (", ", "sessions", self.sessions.as_ref().map(Vec::len)),
        ] {
            match count {
                Some(count) => write!(f, "{separator}{count} {what}")?,
                None => write!(f, "{separator}no {what} (they cannot be read)")?,
            }
        }
        Ok(())
    }
}
