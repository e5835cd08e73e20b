//! The steps from one schema to the next: whole or not at all, once, whoever takes them.

use std::sync::Barrier;
use std::thread;

use super::*;
use crate::store::tests::Directory;

fn version(connection: &Connection) -> i32 {
    pragma(connection, "user_version").unwrap()
}

#[test]
fn a_step_that_fails_leaves_the_version_before_it() {
    let mut connection = Connection::open_in_memory().unwrap();
    let steps = [
        "CREATE TABLE one (x)",
        "CREATE TABLE two (x); INSERT INTO nowhere VALUES (1)",
    ];
    assert!(migrate(&mut connection, &steps).is_err());
    assert_eq!(version(&connection), 1);
    let tables = "SELECT group_concat(name) FROM sqlite_schema";
    let names: String = connection.query_row(tables, [], |row| row.get(0)).unwrap();
    assert_eq!(names, "one");
    migrate(&mut connection, &[steps[0], "CREATE TABLE two (x)"]).unwrap();
    assert_eq!(version(&connection), 2);
}

#[test]
fn every_earlier_version_is_brought_up_to_date_with_what_it_holds() {
    for from in 1..MIGRATIONS.len() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, &MIGRATIONS[..from]).unwrap();
        connection
            .execute_batch("INSERT INTO drain (node) VALUES ('gpu-1')")
            .unwrap();
        migrate(&mut connection, MIGRATIONS).unwrap();
        assert_eq!(version(&connection), VERSION);
        let kept = connection.query_row("SELECT node FROM drain", [], |row| row.get(0));
        assert_eq!(kept, Ok("gpu-1".to_owned()));
    }
}

#[test]
fn of_many_that_open_an_empty_directory_at_once_each_gets_it_whole() {
    // Many rounds: the moment in which the file is half made is short.
    for _ in 0..ROUNDS {
        let directory = Directory::new();
        let together = Barrier::new(8);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    together.wait();
                    let database = Database::open(directory.path()).unwrap();
                    assert_eq!(version(&database.connection), VERSION);
                });
            }
        });
        let database = Database::open(directory.path()).unwrap();
        let mode: String = pragma(&database.connection, "journal_mode").unwrap();
        assert_eq!(mode, "wal");
    }
}

const ROUNDS: u32 = 20;
