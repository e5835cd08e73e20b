//! The store through its own door, and what happens when the file is locked, full, moved or damaged.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::*;
use crate::auth::Secret;
use crate::auth::key::KeyHash;
use crate::telemetry::{History, HistoryLimits, StoreHealth};

/// A data directory that goes away with the test.
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("llm-router-store-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn database(&self) -> PathBuf {
        self.0.join("llm-router.db")
    }

    /// Another process, as far as SQLite can tell.
    pub(super) fn stranger(&self) -> Connection {
        Connection::open(self.database()).unwrap()
    }

    /// Names of the files that were moved away.
    pub(super) fn moved_away(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut paths: Vec<_> = paths
            .filter(|path| path.to_str().unwrap().contains("damaged"))
            .collect();
        paths.sort();
        paths
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running store.
pub(super) struct Running {
    pub(super) store: Store,
    pub(super) history: Arc<History>,
    pub(super) health: Arc<StoreHealth>,
    thread: Option<StoreThread>,
}

impl Running {
    pub(super) fn on(directory: &Directory) -> Self {
        let health = Arc::new(StoreHealth::default());
        let history = Arc::new(History::new(1, LIMITS));
        let path = directory.0.clone();
        let (store, thread) = start(path, Arc::clone(&history), Arc::clone(&health)).unwrap();
        Self {
            store,
            history,
            health,
            thread: Some(thread),
        }
    }

    pub(super) fn until_it(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !condition(self) {
            assert!(began.elapsed() < Duration::from_secs(10), "never: {what}");
            thread::park_timeout(Duration::from_millis(5));
        }
    }

    pub(super) fn until_it_works(&self) {
        self.until_it("works", |running| !running.health.is_failing());
    }

    pub(super) fn until_it_fails(&self) {
        self.until_it("fails", |running| running.health.is_failing());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.thread.take().unwrap().finish();
    }
}

const LIMITS: HistoryLimits = HistoryLimits {
    is_on: true,
    retention_secs: 7 * 24 * 60 * 60,
    rows_max: 100_000,
};

fn node(id: u64, name: &str) -> StoredNode {
    StoredNode {
        id,
        name: name.to_owned(),
        base_url: "http://10.0.0.7:8000/v1".to_owned(),
        models: vec!["llama".to_owned(), "qwen 3".to_owned()],
        api_key: Credential::Known(Secret::new("sk-of-the-node".to_owned())),
        max_concurrency: Some(8),
        weight: 3,
        token_digest: KeyHash::of(name.as_bytes()),
        created_at: 1_800_000_000 + id % 7,
    }
}

pub(super) fn session(number: u64) -> StoredSession {
    StoredSession {
        digest: KeyHash::of(&number.to_le_bytes()),
        user: "admin".to_owned(),
        password: format!("hash {}", number / 2),
        created_at: 1000 + number,
        last_used_at: 1000 + number,
        expires_at: 5000 + number,
    }
}

#[test]
fn nodes_come_back_as_they_were_stored_also_after_a_restart() {
    let directory = Directory::new();
    let plain = StoredNode {
        models: Vec::new(),
        api_key: Credential::None,
        max_concurrency: None,
        ..node(7, "plain")
    };
    // An id with its top bit set is a negative number to SQLite.
    let full = node(u64::MAX, "full");
    {
        let running = Running::on(&directory);
        running.store.add_node(full.clone()).unwrap();
        running.store.add_node(plain.clone()).unwrap();
    }
    let running = Running::on(&directory);
    assert_eq!(running.store.nodes(), Ok(vec![plain.clone(), full.clone()]));

    let changed = StoredNode {
        base_url: "http://10.0.0.8".to_owned(),
        api_key: Credential::Known(Secret::new("another".to_owned())),
        token_digest: KeyHash::of(b"new token"),
        ..full
    };
    assert_eq!(running.store.update_node(changed.clone()), Ok(true));
    assert_eq!(running.store.update_node(node(2, "nobody")), Ok(false));
    assert_eq!(running.store.nodes(), Ok(vec![plain, changed]));
    assert_eq!(running.store.remove_node(7), Ok(true));
    assert_eq!(running.store.remove_node(7), Ok(false));
    assert_eq!(running.store.nodes().unwrap().len(), 1);
}

#[test]
fn a_name_or_id_that_is_taken_is_a_conflict_and_no_failure() {
    let directory = Directory::new();
    let running = Running::on(&directory);
    running.store.add_node(node(1, "a")).unwrap();
    assert_eq!(
        running.store.add_node(node(2, "a")),
        Err(StoreError::Conflict)
    );
    assert_eq!(
        running.store.add_node(node(1, "b")),
        Err(StoreError::Conflict)
    );
    assert_eq!(running.store.nodes(), Ok(vec![node(1, "a")]));
    assert!(!running.health.is_failing());
    assert_eq!(running.health.errors_total(), 0);
}

#[test]
fn credentials_lie_sealed_and_are_lost_with_their_key() {
    let directory = Directory::new();
    let running = Running::on(&directory);
    running.store.add_node(node(1, "a")).unwrap();
    for entry in fs::read_dir(directory.path()).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        let found = bytes.windows(14).any(|bytes| bytes == b"sk-of-the-node");
        assert!(!found, "a credential lies in the clear");
    }
    fs::remove_file(directory.path().join("seal.key")).unwrap();
    let lost = StoredNode {
        api_key: Credential::Lost,
        ..node(1, "a")
    };
    assert_eq!(running.store.nodes(), Ok(vec![lost.clone()]));
    // Changing something else does not throw away what a restored key would open.
    let heavier = StoredNode { weight: 9, ..lost };
    assert_eq!(running.store.update_node(heavier.clone()), Ok(true));
    assert_eq!(running.store.nodes(), Ok(vec![heavier]));
    assert_eq!(running.store.update_node(node(1, "a")), Ok(true));
    assert_eq!(running.store.nodes(), Ok(vec![node(1, "a")]));
}

#[test]
fn drain_wishes_are_a_set_of_names() {
    let directory = Directory::new();
    let running = Running::on(&directory);
    for name in ["b", "a", "b"] {
        running.store.add_drain(name.to_owned()).unwrap();
    }
    assert_eq!(
        running.store.drains(),
        Ok(vec!["a".to_owned(), "b".to_owned()])
    );
    assert_eq!(running.store.remove_drain("b".to_owned()), Ok(true));
    assert_eq!(running.store.remove_drain("b".to_owned()), Ok(false));
    let others = vec!["a".to_owned(), "c".to_owned()];
    assert_eq!(running.store.set_drains(others.clone()), Ok(()));
    assert_eq!(running.store.drains(), Ok(others));
    assert_eq!(running.store.remove_drain("c".to_owned()), Ok(true));
    assert_eq!(running.store.drains(), Ok(vec!["a".to_owned()]));
    // A node of this name that comes now is another one; one that cannot come changes nothing.
    running.store.add_node(node(1, "a")).unwrap();
    assert_eq!(running.store.drains(), Ok(Vec::new()));
    running.store.add_drain("a".to_owned()).unwrap();
    let taken = running.store.add_node(node(2, "a"));
    assert_eq!(taken, Err(StoreError::Conflict));
    assert_eq!(running.store.drains(), Ok(vec!["a".to_owned()]));
}

#[test]
fn sessions_are_found_by_digest_touched_and_removed_with_their_password() {
    let directory = Directory::new();
    let running = Running::on(&directory);
    let store = &running.store;
    for number in 0..4 {
        store.add_session(session(number)).unwrap();
    }
    assert_eq!(store.add_session(session(0)), Err(StoreError::Conflict));
    assert_eq!(store.session(session(2).digest), Ok(Some(session(2))));
    assert_eq!(store.touch_session(session(2).digest, 2000), Ok(true));
    assert_eq!(
        store.touch_session(session(2).digest, 1500),
        Ok(true),
        "time goes forward only"
    );
    let touched = store.session(session(2).digest).unwrap().unwrap();
    assert_eq!(touched.last_used_at, 2000);
    assert_eq!(store.touch_session(session(9).digest, 2000), Ok(false));
    assert_eq!(store.remove_session(session(3).digest), Ok(true));
    assert_eq!(store.remove_session(session(3).digest), Ok(false));
    assert_eq!(
        last_session_password(directory.path()),
        Some("hash 1".to_owned())
    );
    assert_eq!(store.remove_other_sessions("admin", "hash 0"), Ok(true));
    assert_eq!(store.remove_other_sessions("admin", "hash 0"), Ok(false));
    let left = |number| store.session(session(number).digest).unwrap().is_some();
    assert_eq!(
        [left(0), left(1), left(2), left(3)],
        [true, true, false, false]
    );
    // 0 has expired by then, 1 has not.
    store.add_session(session(4000)).unwrap();
    assert_eq!([left(0), left(1), left(4000)], [false, true, true]);
    assert_eq!(store.remove_other_sessions("root", "hash 0"), Ok(true));
    assert!(!left(1), "of another user");
    assert_eq!(last_session_password(directory.path()), None);
}

#[test]
fn only_its_owner_may_read_the_files() {
    let directory = Directory::new();
    let running = Running::on(&directory);
    running.store.add_drain("a".to_owned()).unwrap();
    for name in ["llm-router.db", "llm-router.db-wal", "llm-router.db-shm"] {
        let mode = fs::metadata(directory.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_locked_database_is_busy_within_the_time_limit_and_recovers_by_itself() {
    let directory = Directory::new();
    let running = Running::on(&directory);
    let stranger = directory.stranger();
    stranger.execute_batch("BEGIN IMMEDIATE").unwrap();
    let began = Instant::now();
    assert_eq!(
        running.store.add_drain("a".to_owned()),
        Err(StoreError::Busy)
    );
    assert!(began.elapsed() <= REPLY_TIMEOUT + Duration::from_millis(500));
    running.until_it_fails();
    // Readers do not mind a writer.
    assert_eq!(running.store.drains(), Ok(Vec::new()));
    stranger.execute_batch("COMMIT").unwrap();
    running.until_it_works();
    assert_eq!(running.store.add_drain("a".to_owned()), Ok(()));
    assert_eq!(running.store.drains(), Ok(vec!["a".to_owned()]));
    assert!(running.health.errors_total() > 0);
}

#[test]
fn what_nobody_waits_for_any_more_is_not_begun() {
    let directory = Directory::new();
    let running = Running::on(&directory);
    let stranger = directory.stranger();
    stranger.execute_batch("BEGIN IMMEDIATE").unwrap();
    thread::scope(|scope| {
        let calls: Vec<_> = ["a", "b", "c"]
            .map(|name| scope.spawn(|| running.store.add_drain(name.to_owned())))
            .into_iter()
            .collect();
        for call in calls {
            assert_eq!(call.join().unwrap(), Err(StoreError::Busy));
        }
    });
    stranger.execute_batch("COMMIT").unwrap();
    running.until_it_works();
    assert_eq!(running.store.drains(), Ok(Vec::new()));
}

#[test]
fn a_file_that_is_no_database_is_kept_aside_and_a_new_one_begun() {
    let directory = Directory::new();
    let content = vec![b'x'; 5000];
    fs::write(directory.database(), &content).unwrap();
    let running = Running::on(&directory);
    running.store.add_drain("a".to_owned()).unwrap();
    let aside = directory.moved_away();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(fs::read(&aside[0]).unwrap(), content);
}

#[test]
fn the_database_of_another_program_is_kept_as_it_is() {
    let directory = Directory::new();
    let other = directory.stranger();
    other
        .execute_batch("CREATE TABLE poem (line TEXT); INSERT INTO poem VALUES ('roses')")
        .unwrap();
    drop(other);
    let running = Running::on(&directory);
    running.store.add_drain("a".to_owned()).unwrap();
    let aside = directory.moved_away();
    assert_eq!(aside.len(), 1, "{aside:?}");
    let other = Connection::open(&aside[0]).unwrap();
    let line: String = other
        .query_row("SELECT line FROM poem", [], |row| row.get(0))
        .unwrap();
    assert_eq!(line, "roses");
}

#[test]
fn damage_that_shows_while_running_is_kept_aside_too() {
    let directory = Directory::new();
    {
        let running = Running::on(&directory);
        for number in 0..200 {
            running
                .store
                .add_node(node(number, &format!("n{number}")))
                .unwrap();
        }
    }
    // The pages of the tables, not the header: the file opens.
    let mut bytes = fs::read(directory.database()).unwrap();
    assert!(bytes.len() > 3 * 4096);
    bytes[3 * 4096..].fill(0xA5);
    fs::write(directory.database(), &bytes).unwrap();
    let running = Running::on(&directory);
    let _ = running.store.nodes();
    running.until_it("has a new file", |running| {
        running.health.files_begun_anew() == 1
    });
    assert_eq!(running.store.nodes(), Ok(Vec::new()));
    let aside = directory.moved_away();
    assert!(
        aside.iter().any(|path| fs::read(path).unwrap() == bytes),
        "{aside:?}"
    );
}

#[test]
fn a_damaged_table_does_not_take_the_others_with_it() {
    let directory = Directory::new();
    {
        let running = Running::on(&directory);
        for number in 0..200 {
            let session = session(number);
            running.store.add_session(session).unwrap();
        }
        running.store.add_node(node(1, "a")).unwrap();
        running.store.add_drain("a".to_owned()).unwrap();
    }
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'session'";
    let root = |row: &rusqlite::Row<'_>| row.get::<_, u32>(0);
    let root = directory.stranger().query_row(sql, [], root).unwrap() as usize;
    let mut bytes = fs::read(directory.database()).unwrap();
    bytes[(root - 1) * 4096..root * 4096].fill(0xA5);
    fs::write(directory.database(), &bytes).unwrap();
    let running = Running::on(&directory);
    assert_eq!(
        running.store.session(session(1).digest),
        Err(StoreError::Unavailable)
    );
    running.until_it("has a new file", |running| {
        running.health.files_begun_anew() == 1
    });
    assert_eq!(running.store.session(session(1).digest), Ok(None));
    assert_eq!(running.store.nodes(), Ok(vec![node(1, "a")]));
    assert_eq!(running.store.drains(), Ok(vec!["a".to_owned()]));
    let aside = directory.moved_away();
    assert!(
        aside.iter().any(|path| fs::read(path).unwrap() == bytes),
        "{aside:?}"
    );
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let directory = Directory::new();
    drop(Running::on(&directory));
    let newer = schema::VERSION + 1;
    directory
        .stranger()
        .pragma_update(None, "user_version", newer)
        .unwrap();
    let running = Running::on(&directory);
    running.until_it_fails();
    assert_eq!(running.store.drains(), Err(StoreError::Unavailable));
    assert_eq!(directory.moved_away(), Vec::<PathBuf>::new());
    // Once the newer version is gone, so is the trouble.
    directory
        .stranger()
        .pragma_update(None, "user_version", schema::VERSION)
        .unwrap();
    running.until_it_works();
    assert_eq!(running.store.drains(), Ok(Vec::new()));
}

#[test]
fn a_data_directory_that_cannot_be_made_fails_until_it_can() {
    let directory = Directory::new();
    let place = directory.path().join("data");
    fs::write(&place, "in the way").unwrap();
    let inner = Directory(place.clone());
    let running = Running::on(&inner);
    running.until_it_fails();
    assert_eq!(running.store.drains(), Err(StoreError::Unavailable));
    fs::remove_file(&place).unwrap();
    running.until_it_works();
    assert_eq!(running.store.drains(), Ok(Vec::new()));
}

/// How a file can be taken away under the router.
fn move_away(directory: &Directory) {
    fs::rename(directory.database(), directory.path().join("aside.db")).unwrap();
}

fn remove_all(directory: &Directory) {
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(directory.path().join(format!("llm-router.db{suffix}"))).unwrap();
    }
}

#[test]
fn a_file_that_was_taken_away_is_made_again_with_all_but_the_history() {
    for (take_away, is_moved) in [(move_away as fn(&_), true), (remove_all, false)] {
        let directory = Directory::new();
        let running = Running::on(&directory);
        let store = &running.store;
        // Sealed with a key that is gone: nobody but the file has it.
        store.add_node(node(1, "lost")).unwrap();
        fs::remove_file(directory.path().join("seal.key")).unwrap();
        store.add_node(node(2, "kept")).unwrap();
        store.add_drain("kept".to_owned()).unwrap();
        store.add_session(session(1)).unwrap();
        let nodes = store.nodes();
        let sealed = |connection: &Connection| -> Vec<u8> {
            let sql = "SELECT api_key FROM node WHERE name = 'lost'";
            connection.query_row(sql, [], |row| row.get(0)).unwrap()
        };
        let lost = sealed(&directory.stranger());
        let began = running.health.files_begun_anew();

        take_away(&directory);
        running.until_it("has a new file", |running| {
            running.health.files_begun_anew() > began
        });
        running.until_it_works();
        assert_eq!(running.health.files_begun_anew(), began + 1, "counted once");
        assert_eq!(store.nodes(), nodes);
        assert_eq!(store.drains(), Ok(vec!["kept".to_owned()]));
        assert_eq!(store.session(session(1).digest), Ok(Some(session(1))));
        assert_eq!(sealed(&directory.stranger()), lost);
        store.add_drain("b".to_owned()).unwrap();
        drop(running);
        if is_moved {
            // Also what was only in the log beside it.
            let moved = Connection::open(directory.path().join("aside.db")).unwrap();
            assert_eq!(sealed(&moved), lost);
            let sql = "SELECT count(*) FROM drain WHERE node = 'kept'";
            let kept = moved.query_row(sql, [], |row| row.get(0));
            assert_eq!(kept, Ok(1));
        }
        let running = Running::on(&directory);
        assert_eq!(running.store.nodes(), nodes);
        assert_eq!(running.store.drains().unwrap(), ["b", "kept"]);
        assert_eq!(running.health.files_begun_anew(), 0);
    }
}

#[test]
fn an_older_file_in_its_place_gets_what_was_known_and_keeps_what_only_it_has() {
    let directory = Directory::new();
    let older = directory.path().join("older.db");
    {
        let running = Running::on(&directory);
        let store = &running.store;
        store.add_node(node(1, "of before")).unwrap();
        store.add_node(node(2, "both")).unwrap();
        store.add_session(session(1)).unwrap();
    }
    fs::copy(directory.database(), &older).unwrap();
    let running = Running::on(&directory);
    let store = &running.store;
    let changed = StoredNode {
        weight: 9,
        token_digest: KeyHash::of(b"new token"),
        ..node(2, "both")
    };
    store.remove_node(1).unwrap();
    store.update_node(changed.clone()).unwrap();
    store.remove_session(session(1).digest).unwrap();
    fs::rename(&older, directory.database()).unwrap();
    running.until_it("works with it", |running| {
        running.health.files_begun_anew() == 1
    });
    assert_eq!(store.nodes(), Ok(vec![node(1, "of before"), changed]));
    assert_eq!(
        store.session(session(1).digest),
        Ok(None),
        "who logged out stays out"
    );
}

#[test]
fn a_damaged_file_in_its_place_is_kept_aside_and_takes_nothing_with_it() {
    let directory = Directory::new();
    let damaged = directory.path().join("damaged-before.db");
    drop(Running::on(&directory));
    let mut bytes = fs::read(directory.database()).unwrap();
    // It opens, but cannot be written to.
    bytes[2 * 4096..].fill(0xA5);
    fs::write(&damaged, &bytes).unwrap();
    let running = Running::on(&directory);
    running.store.add_node(node(1, "a")).unwrap();
    running.store.add_drain("a".to_owned()).unwrap();
    fs::rename(&damaged, directory.database()).unwrap();
    running.until_it("has a new file", |running| {
        running.health.files_begun_anew() > 0
    });
    running.until_it_works();
    assert_eq!(running.store.nodes(), Ok(vec![node(1, "a")]));
    assert_eq!(running.store.drains(), Ok(vec!["a".to_owned()]));
    let aside = directory.moved_away();
    assert!(
        aside.iter().any(|path| fs::read(path).unwrap() == bytes),
        "{aside:?}"
    );
}

#[test]
fn a_file_that_stays_is_no_new_one_however_often_it_is_opened() {
    let directory = Directory::new();
    let running = Running::on(&directory);
    running.store.add_drain("a".to_owned()).unwrap();
    let place = directory.path().to_path_buf();
    // The file cannot be looked at, which is not to say that it is gone.
    fs::set_permissions(&place, fs::Permissions::from_mode(0o000)).unwrap();
    let may_look = fs::metadata(directory.database()).is_ok();
    if !may_look {
        running.until_it_fails();
    }
    fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).unwrap();
    running.until_it_works();
    assert_eq!(running.store.drains(), Ok(vec!["a".to_owned()]));
    assert_eq!(running.health.files_begun_anew(), 0);
}

#[test]
fn nodes_that_are_missing_are_added_and_what_does_not_open_is_sealed_again() {
    let directory = Directory::new();
    let running = Running::on(&directory);
    let store = &running.store;
    for number in 1..=3 {
        store.add_node(node(number, &format!("n{number}"))).unwrap();
    }
    fs::remove_file(directory.path().join("seal.key")).unwrap();
    let heavier = StoredNode {
        weight: 9,
        ..node(3, "n3")
    };
    let lost = |number| StoredNode {
        api_key: Credential::Lost,
        ..node(number, &format!("n{number}"))
    };
    let known = vec![lost(1), node(2, "n2"), heavier, node(4, "n4")];
    assert_eq!(store.add_missing_nodes(known.clone()), Ok(1));
    let by_id = |mut nodes: Vec<StoredNode>| {
        nodes.sort_by_key(|node| node.id);
        nodes
    };
    // What is there counts, but for what only the caller knows.
    let expected = vec![lost(1), node(2, "n2"), node(3, "n3"), node(4, "n4")];
    assert_eq!(by_id(store.nodes().unwrap()), expected);
    assert_eq!(store.add_missing_nodes(known), Ok(0));
    assert_eq!(by_id(store.nodes().unwrap()), expected);
    // A name that is taken is not missing, a lost credential does not keep its node out.
    let other = StoredNode {
        id: 9,
        ..node(1, "n1")
    };
    assert_eq!(store.add_missing_nodes(vec![other, lost(7)]), Ok(1));
    assert_eq!(store.nodes().unwrap().len(), 5);
}

#[test]
fn two_processes_share_the_file() {
    let directory = Directory::new();
    let (one, two) = (Running::on(&directory), Running::on(&directory));
    thread::scope(|scope| {
        for (running, start) in [(&one, 0), (&two, 1)] {
            scope.spawn(move || {
                for number in (start..100).step_by(2) {
                    running
                        .store
                        .add_node(node(number, &format!("n{number}")))
                        .unwrap();
                }
            });
        }
    });
    let seen = one.store.nodes().unwrap();
    assert_eq!(seen.len(), 100);
    assert_eq!(two.store.nodes().unwrap(), seen);
    assert!(
        seen.iter()
            .all(|node| matches!(node.api_key, Credential::Known(_)))
    );
}

#[test]
fn two_processes_whose_file_is_taken_away_share_the_next_one() {
    let directory = Directory::new();
    let (one, two) = (Running::on(&directory), Running::on(&directory));
    for round in 0..4 {
        let before = node(2 * round, &format!("before-{round}"));
        one.store.add_node(before).unwrap();
        two.store.add_session(session(round)).unwrap();
        fs::rename(
            directory.database(),
            directory.path().join(format!("aside-{round}.db")),
        )
        .unwrap();
        for running in [&one, &two] {
            running.until_it("has the new file", |running| {
                running.health.files_begun_anew() == round + 1
            });
            running.until_it_works();
        }
        let after = node(2 * round + 1, &format!("after-{round}"));
        two.store.add_node(after).unwrap();
        let count = usize::try_from(2 * round + 2).unwrap();
        for running in [&one, &two] {
            assert_eq!(running.store.nodes().unwrap().len(), count);
            let kept = running.store.session(session(round).digest).unwrap();
            assert_eq!(kept, Some(session(round)));
        }
    }
    let verdict = directory
        .stranger()
        .query_row("PRAGMA integrity_check", [], |row| row.get(0));
    assert_eq!(verdict, Ok("ok".to_owned()));
}
