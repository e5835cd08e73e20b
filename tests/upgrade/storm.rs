//! Ten thousand connections while one process after the other takes over.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::support::Site;
use crate::support::{
    Driver, RawClient, RouterConfig, ScriptedNode, ask, eventually, fixed, note, on_both_drivers,
};

const CONNECTIONS: usize = 10_000;
const CLIENTS: usize = 16;
/// The numbers of workers, one process after the other: fewer, more, and as many as before.
const WORKERS: [usize; 5] = [2, 1, 3, 3, 2];

#[derive(Default)]
struct Tally {
    begun: AtomicUsize,
    answered: AtomicUsize,
    refused: AtomicUsize,
    reset: AtomicUsize,
    is_over: AtomicBool,
}

/// The end of the upgrades, also when one of them fails.
struct Over<'t>(&'t Tally);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

#[test]
fn no_connection_of_ten_thousand_is_refused_reset_or_left_unanswered() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            let tag = call.field("x-tag").unwrap();
            call.send(&fixed(format!("answer to {tag}").as_bytes()));
        });
        let site = Site::new();
        // The driver changes with every other process: a shared socket must suit both.
        let config = |turn: usize| {
            let driver = match (turn % 2, driver) {
                (0, driver) => driver,
                (_, Driver::IoUring) => Driver::Epoll,
                (_, Driver::Epoll) => Driver::IoUring,
            };
            RouterConfig::new(driver)
                .set("server.workers", WORKERS[turn])
                .node("n", &node)
        };
        let (mut running, address) = site.start(&config(0));
        let tally = Tally::default();
        thread::scope(|scope| {
            let over = Over(&tally);
            for _ in 0..CLIENTS {
                scope.spawn(|| storm(address, &tally));
            }
            for turn in 1..WORKERS.len() {
                // Each process serves its share of the connections.
                let share = CONNECTIONS * turn / WORKERS.len();
                eventually("connections are made", || {
                    tally.begun.load(Ordering::Relaxed) >= share
                });
                let next = site.upgrade(&config(turn));
                next.wait_until_serving();
                assert_eq!(running.wait_exit(), 0, "{}", running.stderr());
                running = next;
            }
            drop(over);
        });
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        note(&format!(
            "{driver:?}: {} connections over {} upgrades",
            count(&tally.answered),
            WORKERS.len() - 1
        ));
        assert_eq!((count(&tally.refused), count(&tally.reset)), (0, 0));
        assert_eq!(count(&tally.answered), count(&tally.begun));
        assert!(count(&tally.answered) >= CONNECTIONS);
    });
}

/// Connects, asks once and reads the answer, until there were enough and the upgrades are over.
fn storm(address: SocketAddr, tally: &Tally) {
    loop {
        let number = tally.begun.fetch_add(1, Ordering::Relaxed);
        if number >= CONNECTIONS && tally.is_over.load(Ordering::Relaxed) {
            tally.begun.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let Some(mut client) = RawClient::try_connect(address) else {
            tally.refused.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let tag = number.to_string();
        client.send(&ask(&tag).field("Connection", "close").bytes());
        match client.try_response() {
            Some(response) => {
                assert_eq!(response.status, 200, "{}", response.text());
                assert_eq!(response.text(), format!("answer to {tag}"));
                tally.answered.fetch_add(1, Ordering::Relaxed);
            }
            None => {
                tally.reset.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
