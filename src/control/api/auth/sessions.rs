//! Who is logged in: digests of tokens, in memory and in the database, so that a restart logs nobody out.
//! While the database does not answer, sessions live in memory alone.
#![expect(
    clippy::disallowed_types,
    reason = "only threads that may block take the lock"
)]

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::auth::key::KeyHash;
use crate::auth::{AdminPassword, Secret, random_token};
use crate::openai::ApiError;
use crate::store::{Store, StoredSession};
use crate::telemetry::log;

/// All sessions.
pub(in crate::control::api) struct Sessions {
    table: Mutex<HashMap<[u8; 32], Session>>,
    /// The password they were begun with.
    password: Mutex<AdminPassword>,
    store: Store,
}

/// A session as it is known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control::api) struct Session {
    /// Whose it is.
    pub(in crate::control::api) user: String,
    /// Unix seconds from which it is no longer valid.
    pub(in crate::control::api) expires_at: u64,
    last_used_at: u64,
    /// When the database was told last that it is used.
    told_at: u64,
    /// It was ended; kept only while the database may still have it.
    is_ended: bool,
}

impl Sessions {
    pub(super) fn new(store: Store, password: AdminPassword) -> Self {
        Self {
            table: Mutex::default(),
            password: Mutex::new(password),
            store,
        }
    }

    /// Ends all sessions if the password is another by now: whoever knew the old one is not to stay.
    pub(in crate::control::api) fn follow(&self, password: &AdminPassword) {
        let mut known = self.password.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == *password {
            return;
        }
        known.clone_from(password);
        let digests: Vec<_> = self.table().keys().copied().collect();
        // Those that are only in the database, and then those that are only here.
        let removed = self.store.remove_old_sessions(FOREVER, FOREVER);
        for digest in digests {
            self.forget(KeyHash(digest));
        }
        match removed {
            Ok(_) => log::info(format_args!(
                "the password has changed: all sessions have ended"
            )),
            Err(error) => log::warn(format_args!(
                "the password has changed, but sessions of before may still be in the database: {error}"
            )),
        }
    }

    /// Begins a session of so many seconds; the returned token is the only copy.
    pub(super) fn begin(&self, user: &str, now: u64, secs: u64) -> Result<Secret, ApiError> {
        let token = random_token(PREFIX).map_err(|_| ApiError::internal())?;
        let digest = KeyHash::of(token.expose().as_bytes());
        let session = Session {
            user: user.to_owned(),
            expires_at: now.saturating_add(secs),
            last_used_at: now,
            told_at: now,
            is_ended: false,
        };
        let evicted = self.insert(digest.0, session.clone(), now);
        if let Some(evicted) = evicted {
            self.forget(KeyHash(evicted));
        }
        let stored = self.store.add_session(StoredSession {
            digest,
            user: session.user,
            created_at: now,
            last_used_at: now,
            expires_at: session.expires_at,
        });
        if let Err(error) = stored {
            log::warn(format_args!("this login ends with the process: {error}"));
        }
        Ok(token)
    }

    /// The session of a token, if it is valid; using it keeps it from growing idle.
    ///
    /// # Errors
    /// 503 when only the database could tell and it does not.
    pub(in crate::control::api) fn find(
        &self,
        token: &[u8],
        now: u64,
        idle_secs: u64,
    ) -> Result<Option<Session>, ApiError> {
        let digest = KeyHash::of(token);
        let known = self.table().get(&digest.0).cloned();
        let session = match known {
            Some(session) => session,
            None => match self.stored(digest)? {
                Some(session) => {
                    self.insert(digest.0, session.clone(), now);
                    session
                }
                None => return Ok(None),
            },
        };
        if session.is_ended {
            return Ok(None);
        }
        let is_idle = now.saturating_sub(session.last_used_at) >= idle_secs;
        if now >= session.expires_at || is_idle {
            self.forget(digest);
            return Ok(None);
        }
        self.use_at(digest, now);
        Ok(Some(session))
    }

    /// Ends the session of a token, if there is one.
    pub(super) fn end(&self, token: &[u8]) {
        self.forget(KeyHash::of(token));
    }

    /// Takes a session out of memory and database. While it may still be in the database, it is remembered as
    /// ended.
    fn forget(&self, digest: KeyHash) {
        if let Some(session) = self.table().get_mut(&digest.0) {
            session.is_ended = true;
        }
        if self.store.remove_session(digest).is_ok() {
            self.table().remove(&digest.0);
        }
    }

    fn use_at(&self, digest: KeyHash, now: u64) {
        let is_to_be_told = {
            let mut table = self.table();
            let Some(session) = table.get_mut(&digest.0) else {
                return;
            };
            session.last_used_at = session.last_used_at.max(now);
            let is_due = now.saturating_sub(session.told_at) >= TELL_SECS;
            if is_due {
                session.told_at = now;
            }
            is_due
        };
        if is_to_be_told {
            // If it does not answer, a restart may log somebody out.
            let _ = self.store.touch_session(digest, now);
        }
    }

    fn stored(&self, digest: KeyHash) -> Result<Option<Session>, ApiError> {
        let stored = self.store.session(digest);
        let stored = stored.map_err(|_| ApiError::store_unavailable())?;
        Ok(stored.map(|stored| Session {
            user: stored.user,
            expires_at: stored.expires_at,
            last_used_at: stored.last_used_at,
            told_at: stored.last_used_at,
            is_ended: false,
        }))
    }

    /// Adds a session to the table; returns the one that had to go for it.
    fn insert(&self, digest: [u8; 32], session: Session, now: u64) -> Option<[u8; 32]> {
        let mut table = self.table();
        let mut evicted = None;
        if table.len() >= SESSIONS_MAX {
            table.retain(|_, session| now < session.expires_at);
        }
        if table.len() >= SESSIONS_MAX {
            let oldest = table.iter().min_by_key(|(_, session)| session.last_used_at);
            evicted = oldest.map(|(digest, _)| *digest);
        }
        table.insert(digest, session);
        evicted
    }

    fn table(&self) -> MutexGuard<'_, HashMap<[u8; 32], Session>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a credential claims to be a token made here.
pub(in crate::control::api) fn is_session_token(token: &[u8]) -> bool {
    token.starts_with(PREFIX.as_bytes())
}

/// What every token begins with, unlike an API key.
const PREFIX: &str = "st-";
/// Later than any time, as the database counts it.
const FOREVER: u64 = i64::MAX.cast_unsigned();
/// Logins at a time; the one used least lately gives way.
const SESSIONS_MAX: usize = 1000;
/// How far the database may be behind about when a session was used.
const TELL_SECS: u64 = 30;

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use crate::store::{self, StoreThread};
    use crate::telemetry::{History, HistoryLimits, StoreHealth};

    use super::*;

    /// A database in a directory that goes away with the test.
    struct Home {
        directory: PathBuf,
        thread: Option<StoreThread>,
    }

    impl Home {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("llm-router-sessions-{}-{count}", std::process::id());
            Self {
                directory: std::env::temp_dir().join(name),
                thread: None,
            }
        }

        /// As after a restart.
        fn open(&mut self) -> Sessions {
            self.close();
            let health = Arc::new(StoreHealth::default());
            let history = Arc::new(History::new(0, LIMITS));
            let (store, thread) = store::start(self.directory.clone(), history, health).unwrap();
            self.thread = Some(thread);
            Sessions::new(store, AdminPassword::Default)
        }

        fn close(&mut self) {
            if let Some(thread) = self.thread.take() {
                thread.finish();
            }
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            self.close();
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }

    const LIMITS: HistoryLimits = HistoryLimits {
        is_on: false,
        retention_secs: 1,
        rows_max: 1,
    };
    const IDLE: u64 = 1800;

    fn is_in(sessions: &Sessions, token: &Secret, now: u64) -> bool {
        let found = sessions.find(token.expose().as_bytes(), now, IDLE);
        found.unwrap().is_some()
    }

    #[test]
    fn a_session_lasts_until_its_end_if_it_is_used() {
        let mut home = Home::new();
        let sessions = home.open();
        let token = sessions.begin("admin", 1000, 7200).unwrap();
        assert!(is_session_token(token.expose().as_bytes()));
        for now in [1000, 2500, 4000, 5500, 7000, 8199] {
            assert!(is_in(&sessions, &token, now), "{now}");
        }
        assert!(!is_in(&sessions, &token, 8200));
        assert!(!is_in(&sessions, &token, 8000), "it does not come back");
    }

    #[test]
    fn a_session_that_is_not_used_ends() {
        let mut home = Home::new();
        let sessions = home.open();
        let token = sessions.begin("admin", 1000, 7200).unwrap();
        assert!(is_in(&sessions, &token, 1000 + IDLE - 1));
        assert!(!is_in(&sessions, &token, 1000 + IDLE - 1 + IDLE));
    }

    #[test]
    fn a_restart_logs_nobody_out_and_nobody_in() {
        let mut home = Home::new();
        let sessions = home.open();
        let kept = sessions.begin("admin", 1000, 7200).unwrap();
        let ended = sessions.begin("admin", 1000, 7200).unwrap();
        assert!(is_in(&sessions, &kept, 2000));
        sessions.end(ended.expose().as_bytes());
        assert!(!is_in(&sessions, &ended, 2000));

        let sessions = home.open();
        let found = sessions.find(kept.expose().as_bytes(), 2000 + IDLE - 1, IDLE);
        let found = found.unwrap().unwrap();
        assert_eq!((found.user.as_str(), found.expires_at), ("admin", 8200));
        assert!(!is_in(&sessions, &ended, 2000));
        assert!(!is_in(&sessions, &random_token(PREFIX).unwrap(), 2000));
        let file = std::fs::read(home.directory.join("llm-router.db")).unwrap();
        let token = kept.expose().as_bytes();
        assert!(memchr::memmem::find(&file, token).is_none(), "digests only");
    }

    #[test]
    fn without_a_database_logins_work_and_a_logout_stays() {
        let mut home = Home::new();
        let sessions = home.open();
        let before = sessions.begin("admin", 1000, 7200).unwrap();
        home.close();
        let token = sessions.begin("admin", 1000, 7200).unwrap();
        assert!(is_in(&sessions, &token, 1001) && is_in(&sessions, &before, 1001));
        sessions.end(before.expose().as_bytes());
        assert!(
            !is_in(&sessions, &before, 1002),
            "although it is still in the file"
        );
        let unknown = sessions.find(b"st-unknown", 1002, IDLE);
        assert_eq!(unknown.unwrap_err().code, "store_unavailable");
    }

    #[test]
    fn another_password_ends_all_sessions_and_the_same_ends_none() {
        let mut home = Home::new();
        let stored = home.open().begin("admin", 1000, 7200).unwrap();
        let sessions = home.open();
        let held = sessions.begin("admin", 1000, 7200).unwrap();
        sessions.follow(&AdminPassword::Default);
        assert!(is_in(&sessions, &held, 1001));
        let other = AdminPassword::of_setting("hunter2").unwrap();
        sessions.follow(&other);
        assert!(!is_in(&sessions, &held, 1001) && !is_in(&sessions, &stored, 1001));
        let again = sessions.begin("admin", 1002, 7200).unwrap();
        sessions.follow(&other);
        assert!(is_in(&sessions, &again, 1003));
    }

    #[test]
    fn the_number_of_sessions_is_bounded() {
        let mut home = Home::new();
        let sessions = home.open();
        home.close();
        let first = sessions.begin("admin", 1000, 7200).unwrap();
        for index in 1..SESSIONS_MAX as u64 {
            let digest = KeyHash::of(&index.to_ne_bytes()).0;
            let session = Session {
                user: "admin".to_owned(),
                expires_at: 9000,
                last_used_at: 1001,
                told_at: 1001,
                is_ended: false,
            };
            assert_eq!(sessions.insert(digest, session, 1001), None);
        }
        let last = sessions.begin("admin", 1002, 7200).unwrap();
        assert!(!is_in(&sessions, &first, 1002), "the one used least lately");
        assert!(is_in(&sessions, &last, 1002));
    }
}
