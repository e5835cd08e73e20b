//! Sessions of the administrator: digests of tokens and when they end.

use rusqlite::{OptionalExtension, params};

use crate::auth::key::KeyHash;

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
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds; follows the truth at a distance.
    pub last_used_at: u64,
    /// Unix seconds from which it is no longer valid.
    pub expires_at: u64,
}

impl Store {
    /// Adds a session.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if there is one with this digest; [`StoreError::Busy`] or
    /// [`StoreError::Unavailable`].
    pub fn add_session(&self, session: StoredSession) -> Result<(), StoreError> {
        self.call(move |keeper, until| {
            keeper.write(until, Durability::Disk, |transaction| {
                transaction.execute(
                    "INSERT INTO session (digest, user, created_at, last_used_at, expires_at) \
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![
                        session.digest.0,
                        session.user,
                        session.created_at.cast_signed(),
                        session.last_used_at.cast_signed(),
                        session.expires_at.cast_signed(),
                    ],
                )
            })?;
            Ok(())
        })
    }

    /// The session of a token, whether it is still valid or not; `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError::Busy`] or [`StoreError::Unavailable`].
    pub fn session(&self, digest: KeyHash) -> Result<Option<StoredSession>, StoreError> {
        self.call(move |keeper, until| {
            keeper.read(until, |connection| {
                let sql = "SELECT user, created_at, last_used_at, expires_at FROM session \
                           WHERE digest = ?1";
                connection
                    .query_row(sql, [digest.0], |row| {
                        Ok(StoredSession {
                            digest,
                            user: row.get(0)?,
                            created_at: row.get::<_, i64>(1)?.cast_unsigned(),
                            last_used_at: row.get::<_, i64>(2)?.cast_unsigned(),
                            expires_at: row.get::<_, i64>(3)?.cast_unsigned(),
                        })
                    })
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

    /// Removes the sessions that have expired, or were last used before `used_since`; whether there were
    /// any.
    ///
    /// # Errors
    /// As [`Store::session`].
    pub fn remove_old_sessions(&self, now_unix: u64, used_since: u64) -> Result<bool, StoreError> {
        self.call(move |keeper, until| {
            let sql = "DELETE FROM session WHERE expires_at <= ?1 OR last_used_at < ?2";
            execute(
                keeper,
                until,
                sql,
                &[&now_unix.cast_signed(), &used_since.cast_signed()],
            )
        })
    }
}
