//! Several processes on one damaged file: one moves it away, nobody what follows it. And what is known of a
//! file, written to the next or given up.

use std::fs;
use std::sync::Barrier;
use std::thread;

use super::*;
use crate::store::StoredSession;
use crate::store::nodes::read_drains;
use crate::store::sessions::{read_sessions, take_in_sessions};
use crate::store::tests::{Directory, session};

fn keeper(directory: &Directory) -> Keeper {
    Keeper::open(directory.path(), Arc::default())
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(2)
}

fn drains(keeper: &mut Keeper) -> Result<Vec<String>, StoreError> {
    keeper.read(soon(), read_drains)
}

fn add_drain(keeper: &mut Keeper, name: &str) {
    let sql = "INSERT INTO drain (node) VALUES (?1)";
    let added = keeper.write(soon(), Durability::Disk, |transaction| {
        transaction.execute(sql, [name])
    });
    assert_eq!(added, Ok(1));
}

/// Damages what a closed database has of a table: it opens, but the table cannot be read.
fn damage(directory: &Directory, table: &str) -> Vec<u8> {
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
    let root = |row: &rusqlite::Row<'_>| row.get::<_, u32>(0);
    let root = directory.stranger().query_row(sql, [table], root).unwrap() as usize;
    let mut bytes = fs::read(directory.database()).unwrap();
    bytes[(root - 1) * 4096..root * 4096].fill(0xA5);
    fs::write(directory.database(), &bytes).unwrap();
    bytes
}

/// The databases that were moved away, without what lies beside them.
fn moved_away(directory: &Directory) -> Vec<Vec<u8>> {
    let paths = directory.moved_away().into_iter();
    let paths = paths.filter(|path| {
        let name = path.to_str().unwrap();
        !name.ends_with("-wal") && !name.ends_with("-shm")
    });
    paths.map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn a_process_whose_damaged_file_was_moved_leaves_the_next_one_where_it_is() {
    let directory = Directory::new();
    drop(keeper(&directory));
    let damaged = damage(&directory, "drain");
    let (mut one, mut two) = (keeper(&directory), keeper(&directory));
    assert_eq!(drains(&mut one), Err(StoreError::Unavailable));
    add_drain(&mut one, "a");
    let next = identity_of(&directory.database()).unwrap();

    assert_eq!(drains(&mut two), Err(StoreError::Unavailable));
    assert_eq!(identity_of(&directory.database()).unwrap(), next);
    assert!(moved_away(&directory) == [damaged], "as it was, and once");
    for keeper in [&mut one, &mut two] {
        assert_eq!(drains(keeper), Ok(vec!["a".to_owned()]));
        assert_eq!(keeper.health.files_begun_anew(), 1);
    }
    add_drain(&mut two, "b");
    assert_eq!(drains(&mut one).unwrap().len(), 2);
}

#[test]
fn a_damaged_file_that_somebody_took_away_leaves_no_log_in_the_way() {
    let directory = Directory::new();
    drop(keeper(&directory));
    damage(&directory, "drain");
    let mut keeper = keeper(&directory);
    let away = directory.path().join("away.db");
    fs::rename(directory.database(), &away).unwrap();
    assert_eq!(drains(&mut keeper), Err(StoreError::Unavailable));
    let beside = directory.path().join("llm-router.db-wal");
    assert!(!beside.exists());
    assert!(away.exists() && moved_away(&directory).is_empty());
    assert_eq!(drains(&mut keeper), Ok(Vec::new()));
    assert_eq!(keeper.health.files_begun_anew(), 1);
}

#[test]
fn of_many_that_find_no_database_at_once_one_moves_it_away() {
    let content = b"somebody may want it".repeat(300);
    // Many rounds: the moment between one's look and another's move is short.
    for _ in 0..ROUNDS {
        let directory = Directory::new();
        fs::write(directory.database(), &content).unwrap();
        let together = Barrier::new(8);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    together.wait();
                    let mut keeper = keeper(&directory);
                    // One whose turn does not come in time tries again a second later.
                    let until = Instant::now() + Duration::from_secs(10);
                    while drains(&mut keeper) != Ok(Vec::new()) {
                        assert!(Instant::now() < until, "it never works");
                        thread::park_timeout(Duration::from_millis(20));
                    }
                });
            }
        });
        assert!(moved_away(&directory) == [&content[..]], "as it was, once");
    }
}

#[test]
fn a_session_that_a_damaged_file_holds_twice_is_taken_over_once() {
    let directory = Directory::new();
    let sessions: Vec<_> = (1..=3).map(session).collect();
    let mut of_before = keeper(&directory);
    let stored = of_before.write(soon(), Durability::Disk, |transaction| {
        take_in_sessions(transaction, &sessions)
    });
    assert_eq!(stored, Ok(()));
    drop(of_before);
    let mut bytes = fs::read(directory.database()).unwrap();
    let (once, twice) = (&sessions[0].digest.0, &sessions[1].digest.0);
    let at = bytes.windows(32).position(|bytes| bytes == twice).unwrap();
    bytes[at..at + 32].copy_from_slice(once);
    fs::write(directory.database(), &bytes).unwrap();
    damage(&directory, "drain");

    let mut keeper = keeper(&directory);
    let held = keeper.read(soon(), read_sessions).unwrap();
    let is_it = |session: &&StoredSession| session.digest.0 == *once;
    assert_eq!(held.iter().filter(is_it).count(), 2, "{held:?}");
    assert_eq!(drains(&mut keeper), Err(StoreError::Unavailable));
    assert_eq!(drains(&mut keeper), Ok(Vec::new()));
    let kept = keeper.read(soon(), read_sessions).unwrap();
    assert_eq!(kept.iter().filter(is_it).count(), 1, "{kept:?}");
    assert_eq!(kept.len(), 2);
    assert!(kept.contains(&sessions[2]));
}

#[test]
fn what_the_next_file_refuses_is_given_up_and_the_store_is_not() {
    let directory = Directory::new();
    drop(keeper(&directory));
    let refusing = directory.path().join("refusing.db");
    fs::copy(directory.database(), &refusing).unwrap();
    let refusal = "CREATE TRIGGER refusal BEFORE INSERT ON session BEGIN \
                   SELECT RAISE(ABORT, 'no more'); END";
    let other = Connection::open(&refusing).unwrap();
    other.execute_batch(refusal).unwrap();
    drop(other);

    let mut keeper = keeper(&directory);
    add_drain(&mut keeper, "a");
    let stored = keeper.write(soon(), Durability::Disk, |transaction| {
        take_in_sessions(transaction, &[session(1)])
    });
    assert_eq!(stored, Ok(()));
    fs::rename(&refusing, directory.database()).unwrap();
    keeper.look_after(Instant::now());
    assert_eq!(drains(&mut keeper), Ok(Vec::new()), "nothing by halves");
    assert_eq!(keeper.health.files_begun_anew(), 1);
    add_drain(&mut keeper, "b");
    assert!(!keeper.health.is_failing());
}

const ROUNDS: u32 = 10;
