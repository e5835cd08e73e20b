//! Who is logged in: digests of tokens, in memory and in the database, so that a restart logs nobody out.
//! While the database does not answer, sessions live in memory alone.
#![expect(
    clippy::disallowed_types,
    reason = "only threads that may block take the lock"
)]

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::auth::key::KeyHash;
use crate::auth::{Secret, random_token};
use crate::config::AuthConfig;
use crate::openai::ApiError;
use crate::store::{Store, StoredSession};
use crate::telemetry::log;

/// All sessions.
pub(in crate::control::api) struct Sessions {
    table: Mutex<Table>,
    /// The login that the sessions of others were last removed for.
    cleaned_for: Mutex<Option<Login>>,
    store: Store,
}

/// A session as it is known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control::api) struct Session {
    /// Whose it is.
    pub(in crate::control::api) user: String,
    /// Unix seconds from which it is no longer valid.
    pub(in crate::control::api) expires_at: u64,
    /// The hash of the password it was begun with.
    password: String,
    last_used_at: u64,
    /// When the database was told last that it is used.
    told_at: u64,
    /// It was ended; kept only while the database may still have it.
    is_ended: bool,
}

/// What is held in memory: those that were used of late.
#[derive(Default)]
struct Table {
    sessions: HashMap<[u8; 32], Session>,
    /// Counts the sessions that have been ended: what was read from the database before may be one of them.
    ended: u64,
}

/// A user, and the hash of a password.
#[derive(PartialEq, Eq)]
struct Login {
    user: String,
    password: String,
}

impl Sessions {
    pub(super) fn new(store: Store) -> Self {
        Self {
            table: Mutex::default(),
            cleaned_for: Mutex::new(None),
            store,
        }
    }

    /// Removes the sessions of another user or password if the administrator's are others by now, or were
    /// before this process began. They are valid no more in any case.
    pub(in crate::control::api) fn follow(&self, admin: &AuthConfig) {
        let login = Login::of(admin);
        let mut cleaned_for = self
            .cleaned_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if cleaned_for.as_ref() == Some(&login) {
            return;
        }
        (self.table().sessions).retain(|_, session| session.is_ended || login.began(session));
        match self
            .store
            .remove_other_sessions(&login.user, &login.password)
        {
            Ok(true) => log::info(format_args!(
                "the login has changed: all sessions of before have ended"
            )),
            Ok(false) => {}
            Err(error) => log::warn(format_args!(
                "sessions of another login may still be in the database, and are not valid: {error}"
            )),
        }
        *cleaned_for = Some(login);
    }

    /// Begins a session of whoever has proved to be `admin`; the returned token is the only copy.
    pub(super) fn begin(&self, admin: &AuthConfig, now: u64) -> Result<Secret, ApiError> {
        let token = random_token(PREFIX).map_err(|_| ApiError::internal())?;
        let digest = KeyHash::of(token.expose().as_bytes());
        let Login { user, password } = Login::of(admin);
        let session = Session {
            user,
            expires_at: now.saturating_add(admin.session_lifetime.as_secs()),
            password,
            last_used_at: now,
            told_at: now,
            is_ended: false,
        };
        let evicted = self.table().insert(digest.0, session.clone(), now);
        if let Some(evicted) = evicted {
            self.forget(KeyHash(evicted));
        }
        let stored = self.store.add_session(StoredSession {
            digest,
            user: session.user,
            password: session.password,
            created_at: now,
            last_used_at: now,
            expires_at: session.expires_at,
        });
        if let Err(error) = stored {
            log::warn(format_args!("this login ends with the process: {error}"));
        }
        Ok(token)
    }

    /// The session of a token, if it is valid for `admin`; using it keeps it from growing idle.
    ///
    /// # Errors
    /// 503 when only the database could tell and it does not.
    pub(in crate::control::api) fn find(
        &self,
        token: &[u8],
        admin: &AuthConfig,
        now: u64,
    ) -> Result<Option<Session>, ApiError> {
        let digest = KeyHash::of(token);
        let Some(session) = self.known(digest, now)? else {
            return Ok(None);
        };
        // Whoever knew another password, or was the administrator when another is, is not to stay. That
        // holds also for a login that was under way meanwhile, and for one at a process of before.
        if session.is_ended || !Login::of(admin).began(&session) {
            return Ok(None);
        }
        let idle_secs = admin.session_idle.as_secs();
        let is_idle = now.saturating_sub(session.last_used_at) >= idle_secs;
        if now >= session.expires_at || is_idle {
            self.forget(digest);
            return Ok(None);
        }
        self.use_at(digest, now);
        Ok(Some(session))
    }

    /// The session of a token as memory has it, or else the database.
    fn known(&self, digest: KeyHash, now: u64) -> Result<Option<Session>, ApiError> {
        for _ in 0..READS_MAX {
            let ended = {
                let table = self.table();
                if let Some(session) = table.sessions.get(&digest.0) {
                    return Ok(Some(session.clone()));
                }
                table.ended
            };
            let Some(session) = self.stored(digest)? else {
                return Ok(None);
            };
            let mut table = self.table();
            if table.ended == ended {
                table.insert(digest.0, session.clone(), now);
                return Ok(Some(session));
            }
        }
        Err(ApiError::control_busy())
    }

    /// Ends the session of a token, if there is one.
    pub(super) fn end(&self, token: &[u8]) {
        self.forget(KeyHash::of(token));
    }

    /// Takes a session out of memory and database. While it may still be in the database, it is remembered as
    /// ended.
    fn forget(&self, digest: KeyHash) {
        if let Some(session) = self.table().sessions.get_mut(&digest.0) {
            session.is_ended = true;
        }
        let is_removed = self.store.remove_session(digest).is_ok();
        let mut table = self.table();
        table.ended += 1;
        if is_removed {
            table.sessions.remove(&digest.0);
        }
    }

    fn use_at(&self, digest: KeyHash, now: u64) {
        let is_to_be_told = {
            let mut table = self.table();
            let Some(session) = table.sessions.get_mut(&digest.0) else {
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
            password: stored.password,
            expires_at: stored.expires_at,
            last_used_at: stored.last_used_at,
            told_at: stored.last_used_at,
            is_ended: false,
        }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Adds a session; returns the one that had to go for it.
    fn insert(&mut self, digest: [u8; 32], session: Session, now: u64) -> Option<[u8; 32]> {
        let table = &mut self.sessions;
        let mut evicted = None;
        if table.len() >= SESSIONS_MAX {
            table.retain(|_, session| now < session.expires_at);
        }
        if table.len() >= SESSIONS_MAX {
            // What is remembered as ended must not come back, so it goes last.
            let oldest =
                (table.iter()).min_by_key(|(_, session)| (session.is_ended, session.last_used_at));
            evicted = oldest.map(|(digest, _)| *digest);
        }
        if let Some(evicted) = evicted {
            table.remove(&evicted);
        }
        table.insert(digest, session);
        evicted
    }
}

impl Login {
    fn of(admin: &AuthConfig) -> Self {
        Self {
            user: admin.admin_username.clone(),
            password: admin.admin_password.hash().unwrap_or_default().to_owned(),
        }
    }

    /// Whether `session` was begun with it. Nothing is, without a hash.
    fn began(&self, session: &Session) -> bool {
        !self.password.is_empty() && session.user == self.user && session.password == self.password
    }
}

/// Whether a credential claims to be a token made here.
pub(in crate::control::api) fn is_session_token(token: &[u8]) -> bool {
    token.starts_with(PREFIX.as_bytes())
}

/// What every token begins with, unlike an API key.
const PREFIX: &str = "st-";
/// Logins at a time; the one used least lately gives way.
const SESSIONS_MAX: usize = 1000;
/// How often the database is asked for one session while others are ended.
const READS_MAX: usize = 4;
/// How far the database may be behind about when a session was used.
const TELL_SECS: u64 = 30;

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use crate::auth::AdminPassword;
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
            Sessions::new(store)
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

    fn admin() -> AuthConfig {
        AuthConfig {
            session_lifetime: Duration::from_secs(7200),
            session_idle: Duration::from_secs(IDLE),
            ..AuthConfig::default()
        }
    }

    fn with_password(password: &str) -> AuthConfig {
        let mut admin_password = AdminPassword::of_setting(password).unwrap();
        admin_password.seal(None).unwrap();
        AuthConfig {
            admin_password,
            ..admin()
        }
    }

    fn is_in(sessions: &Sessions, token: &Secret, now: u64) -> bool {
        let found = sessions.find(token.expose().as_bytes(), &admin(), now);
        found.unwrap().is_some()
    }

    #[test]
    fn a_session_lasts_until_its_end_if_it_is_used() {
        let mut home = Home::new();
        let sessions = home.open();
        let token = sessions.begin(&admin(), 1000).unwrap();
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
        let token = sessions.begin(&admin(), 1000).unwrap();
        assert!(is_in(&sessions, &token, 1000 + IDLE - 1));
        assert!(!is_in(&sessions, &token, 1000 + IDLE - 1 + IDLE));
    }

    #[test]
    fn a_restart_logs_nobody_out_and_nobody_in() {
        let mut home = Home::new();
        let sessions = home.open();
        let kept = sessions.begin(&admin(), 1000).unwrap();
        let ended = sessions.begin(&admin(), 1000).unwrap();
        assert!(is_in(&sessions, &kept, 2000));
        sessions.end(ended.expose().as_bytes());
        assert!(!is_in(&sessions, &ended, 2000));

        let sessions = home.open();
        let found = sessions.find(kept.expose().as_bytes(), &admin(), 2000 + IDLE - 1);
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
        let before = sessions.begin(&admin(), 1000).unwrap();
        home.close();
        let token = sessions.begin(&admin(), 1000).unwrap();
        assert!(is_in(&sessions, &token, 1001) && is_in(&sessions, &before, 1001));
        sessions.end(before.expose().as_bytes());
        assert!(
            !is_in(&sessions, &before, 1002),
            "although it is still in the file"
        );
        let unknown = sessions.find(b"st-unknown", &admin(), 1002);
        assert_eq!(unknown.unwrap_err().code, "store_unavailable");
    }

    #[test]
    fn another_password_ends_all_sessions_and_the_same_ends_none() {
        let mut home = Home::new();
        let stored = home.open().begin(&admin(), 1000).unwrap();
        let sessions = home.open();
        let held = sessions.begin(&admin(), 1000).unwrap();
        sessions.follow(&admin());
        assert!(is_in(&sessions, &held, 1001));
        let other = with_password("hunter2");
        sessions.follow(&other);
        let is_in = |token: &Secret, admin: &AuthConfig| {
            let found = sessions.find(token.expose().as_bytes(), admin, 1001);
            found.unwrap().is_some()
        };
        for admin in [&other, &admin()] {
            assert!(!is_in(&held, admin) && !is_in(&stored, admin));
        }
        let again = sessions.begin(&other, 1001).unwrap();
        sessions.follow(&other);
        assert!(is_in(&again, &other));
        let renamed = AuthConfig {
            admin_username: "root".to_owned(),
            ..other
        };
        assert!(!is_in(&again, &renamed));
    }

    #[test]
    fn a_password_that_changed_while_the_router_was_down_ends_all_sessions() {
        let mut home = Home::new();
        let old = home.open().begin(&admin(), 1000).unwrap();
        let sessions = home.open();
        let other = with_password("hunter2");
        let found = |sessions: &Sessions, admin: &AuthConfig| {
            let found = sessions.find(old.expose().as_bytes(), admin, 1001);
            found.unwrap().is_some()
        };
        assert!(!found(&sessions, &other), "even before the first cleaning");
        sessions.follow(&other);
        assert!(!found(&home.open(), &admin()), "nor does it come back");
    }

    #[test]
    fn a_login_with_the_password_of_before_is_none() {
        let mut home = Home::new();
        let sessions = home.open();
        let other = with_password("hunter2");
        sessions.follow(&other);
        // It was being checked when the password changed, or a process of before has checked it.
        let late = sessions.begin(&admin(), 1001).unwrap();
        let found = |sessions: &Sessions| {
            let found = sessions.find(late.expose().as_bytes(), &other, 1001);
            found.unwrap().is_some()
        };
        assert!(!found(&sessions) && !found(&home.open()));
    }

    #[test]
    fn what_was_read_before_a_logout_does_not_come_back_after_it() {
        let mut home = Home::new();
        let token = home.open().begin(&admin(), 1000).unwrap();
        let sessions = home.open();
        for _ in 0..200 {
            let token = sessions.begin(&admin(), 1000).unwrap();
            sessions.table().sessions.clear();
            std::thread::scope(|scope| {
                scope.spawn(|| sessions.find(token.expose().as_bytes(), &admin(), 1001));
                sessions.end(token.expose().as_bytes());
            });
            assert!(!is_in(&sessions, &token, 1001));
        }
        assert!(is_in(&sessions, &token, 1001));
    }

    #[test]
    fn the_number_of_sessions_is_bounded() {
        let mut home = Home::new();
        let sessions = home.open();
        home.close();
        let first = sessions.begin(&admin(), 1000).unwrap();
        for index in 1..SESSIONS_MAX as u64 {
            let digest = KeyHash::of(&index.to_ne_bytes()).0;
            let session = Session {
                user: "admin".to_owned(),
                password: String::new(),
                expires_at: 9000,
                last_used_at: 1001,
                told_at: 1001,
                is_ended: false,
            };
            assert_eq!(sessions.table().insert(digest, session, 1001), None);
        }
        let last = sessions.begin(&admin(), 1002).unwrap();
        assert_eq!(sessions.table().sessions.len(), SESSIONS_MAX);
        let first = KeyHash::of(first.expose().as_bytes()).0;
        let is_there = sessions.table().sessions.contains_key(&first);
        assert!(!is_there, "the one used least lately");
        assert!(is_in(&sessions, &last, 1002));
    }
}
