//! Sessions of the administrator: digests of tokens and when they end.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use crate::auth::key::KeyHash;

use super::files::{file_path, hold_within};
use super::keeper::Durability;
use super::nodes::execute;
use super::{Store, StoreError};

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSession {
    /// Of its token.
    pub digest: KeyHash,
    /// Whose it is.
    pub user: String,
    /// The hash of the password it was begun with.
    pub password: String,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds; follows the truth at a distance.
    pub last_used_at: u64,
    /// Unix seconds from which it is no longer valid.
    pub expires_at: u64,
}

impl Store {
    /// Adds a session, and forgets those that have expired.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if there is one with this digest; [`StoreError::Busy`] or
    /// [`StoreError::Unavailable`].
    pub fn add_session(&self, session: StoredSession) -> Result<(), StoreError> {
        self.call(move |keeper, until| {
            keeper.write(until, Durability::Disk, |transaction| {
                transaction.execute(
                    "DELETE FROM session WHERE expires_at <= ?1",
                    [session.created_at.cast_signed()],
                )?;
                insert_session(transaction, "INSERT", &session)
            })
        })
    }

    /// The session of a token, whether it is still valid or not; `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError::Busy`] or [`StoreError::Unavailable`].
    pub fn session(&self, digest: KeyHash) -> Result<Option<StoredSession>, StoreError> {
        self.call(move |keeper, until| {
            keeper.read(until, |connection| {
                let sql = format!("{SELECT} WHERE digest = ?1");
                connection
                    .query_row(&sql, [digest.0], read_session)
                    .optional()
            })
        })
    }

    /// A session was used. `false` if there is no such session.
    ///
    /// # Errors
    /// As [`Store::session`].
    pub fn touch_session(&self, digest: KeyHash, now_unix: u64) -> Result<bool, StoreError> {
        self.call(move |keeper, until| {
            let sql = "UPDATE session SET last_used_at = max(last_used_at, ?2) WHERE digest = ?1";
            execute(keeper, until, sql, &[&digest.0, &now_unix.cast_signed()])
        })
    }

    /// Ends a session. `false` if there is no such session.
    ///
    /// # Errors
    /// As [`Store::session`].
    pub fn remove_session(&self, digest: KeyHash) -> Result<bool, StoreError> {
        self.call(move |keeper, until| {
            execute(
                keeper,
                until,
                "DELETE FROM session WHERE digest = ?1",
                &[&digest.0],
            )
        })
    }

    /// Removes the sessions that were not begun by this user with this password; whether there were any.
    ///
    /// # Errors
    /// As [`Store::session`].
    pub fn remove_other_sessions(&self, user: &str, password: &str) -> Result<bool, StoreError> {
        let (user, password) = (user.to_owned(), password.to_owned());
        self.call(move |keeper, until| {
            let sql = "DELETE FROM session WHERE user <> ?1 OR password <> ?2";
            execute(keeper, until, sql, &[&user, &password])
        })
    }
}

pub(super) fn read_sessions(connection: &Connection) -> rusqlite::Result<Vec<StoredSession>> {
    let mut select = connection.prepare(SELECT)?;
    select.query_map([], read_session)?.collect()
}

/// These sessions are all there are: whoever logged out is not to be back.
pub(super) fn take_in_sessions(
    connection: &Connection,
    sessions: &[StoredSession],
) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM session", [])?;
    // A damaged file may have given one twice.
    sessions
        .iter()
        .try_for_each(|session| insert_session(connection, "INSERT OR REPLACE", session))
}

fn read_session(row: &Row<'_>) -> rusqlite::Result<StoredSession> {
    Ok(StoredSession {
        digest: KeyHash(row.get(0)?),
        user: row.get(1)?,
        password: row.get(2)?,
        created_at: row.get::<_, i64>(3)?.cast_unsigned(),
        last_used_at: row.get::<_, i64>(4)?.cast_unsigned(),
        expires_at: row.get::<_, i64>(5)?.cast_unsigned(),
    })
}

fn insert_session(
    connection: &Connection,
    insert: &str,
    session: &StoredSession,
) -> rusqlite::Result<()> {
    connection.execute(
        &format!("{insert} {INTO_SESSION}"),
        params![
            session.digest.0,
            session.user,
            session.password,
            session.created_at.cast_signed(),
            session.last_used_at.cast_signed(),
            session.expires_at.cast_signed(),
        ],
    )?;
    Ok(())
}

/// The hash of the password that the latest session was begun with; `None` if there is no session, or the
/// database does not tell. To be asked before the store is started: the password that is configured gets this
/// very hash if it is the same, and its sessions stay.
#[must_use]
pub fn last_session_password(directory: &Path) -> Option<String> {
    // Whatever is wrong with the file: the store will find it and say so.
    let _held = hold_within(directory, START_PATIENCE).ok()?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file_path(directory), flags).ok()?;
    connection.busy_timeout(BUSY_TIMEOUT).ok()?;
    let sql = "SELECT password FROM session WHERE password <> '' \
               ORDER BY created_at DESC LIMIT 1";
    connection.query_row(sql, [], |row| row.get(0)).ok()
}

/// How long other routers may be at the files: without an answer here all sessions would end.
const START_PATIENCE: Duration = Duration::from_secs(10);
const SELECT: &str =
    "SELECT digest, user, password, created_at, last_used_at, expires_at FROM session";
const INTO_SESSION: &str = "
    INTO session (digest, user, password, created_at, last_used_at, expires_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
/// How long another process may keep the file locked while it is looked at.
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);
