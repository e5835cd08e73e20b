//! What is moved away, what is not, and under which name.

use std::thread;

use super::*;
use crate::store::database::Database;
use crate::store::tests::Directory;

/// Puts a file with this content in the place of the database, and another beside it.
fn put(directory: &Directory, content: &str) -> Identity {
    let path = directory.database();
    fs::write(&path, content).unwrap();
    fs::write(with_suffix(&path, "-wal"), format!("log of {content}")).unwrap();
    identity_of(&path).unwrap()
}

/// All but the lock.
fn names(directory: &Directory) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != LOCK_NAME).collect();
    names.sort();
    names
}

#[test]
fn what_is_moved_away_within_one_second_keeps_a_name_each() {
    let directory = Directory::new();
    let mut asides = Vec::new();
    for content in ["one", "two", "three"] {
        let file = put(&directory, content);
        let aside = set_aside(directory.path(), file, 1000).unwrap().unwrap();
        asides.push((aside, content));
    }
    assert_eq!(names(&directory).len(), 6);
    for (aside, content) in asides {
        assert_eq!(fs::read_to_string(&aside).unwrap(), content);
        let log = fs::read_to_string(with_suffix(&aside, "-wal")).unwrap();
        assert_eq!(log, format!("log of {content}"));
    }
}

#[test]
fn a_name_is_not_free_while_anything_lies_beside_it() {
    let directory = Directory::new();
    let stray = directory.path().join("llm-router.db.damaged-1000-wal");
    fs::write(&stray, "of one whose file somebody took").unwrap();
    let file = put(&directory, "one");
    let aside = set_aside(directory.path(), file, 1000).unwrap().unwrap();
    assert_eq!(
        names(&directory),
        [
            "llm-router.db.damaged-1000-wal",
            "llm-router.db.damaged-1000.1",
            "llm-router.db.damaged-1000.1-wal",
        ]
    );
    assert_eq!(aside, directory.path().join("llm-router.db.damaged-1000.1"));
    assert_eq!(
        fs::read_to_string(stray).unwrap(),
        "of one whose file somebody took"
    );
}

#[test]
fn only_the_file_that_is_meant_is_moved() {
    let directory = Directory::new();
    let meant = put(&directory, "one");
    // It is kept, so that its inode is not given to the next.
    fs::rename(directory.database(), directory.path().join("kept")).unwrap();
    assert_eq!(set_aside(directory.path(), meant, 1000).unwrap(), None);
    put(&directory, "two");
    assert_eq!(set_aside(directory.path(), meant, 1000).unwrap(), None);
    assert_eq!(
        names(&directory),
        ["kept", "llm-router.db", "llm-router.db-wal"]
    );
    assert_eq!(fs::read_to_string(directory.database()).unwrap(), "two");
}

#[test]
fn nothing_is_moved_while_another_process_moves_files() {
    let directory = Directory::new();
    let file = put(&directory, "one");
    let held = hold(directory.path()).unwrap();
    assert!(held.is_some(), "no locks here");
    let error = set_aside(directory.path(), file, 1000).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert_eq!(names(&directory), ["llm-router.db", "llm-router.db-wal"]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| set_aside(directory.path(), file, 1000));
        drop(held);
        assert!(waiting.join().unwrap().unwrap().is_some());
    });
}

#[test]
fn logs_that_are_left_behind_within_one_second_keep_a_name_each() {
    let directory = Directory::new();
    for round in 0..2 {
        let database = Database::open(directory.path()).unwrap();
        // Reads what was there before, so that the log cannot be emptied.
        let reader = directory.stranger();
        reader.execute_batch("BEGIN; SELECT * FROM drain").unwrap();
        database.connection.busy_timeout(Duration::ZERO).unwrap();
        database
            .connection
            .execute_batch("INSERT INTO drain (node) VALUES ('a')")
            .unwrap();
        let away = directory.path().join(format!("away-{round}"));
        fs::rename(directory.database(), away).unwrap();
        database.leave(directory.path(), 1000).unwrap();
    }
    let left = |name: &String| name.contains(".left-1000") && name.ends_with("-wal");
    assert_eq!(
        names(&directory).iter().filter(|name| left(name)).count(),
        2
    );
}
