//! How the router leaves: what has begun is finished, nothing new begins, and the exit code says whether
//! anything had to be cut, on both drivers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::disallowed_types,
    reason = "the threads of a test wait for each other"
)]

mod support;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::corpus::{SMALL_BODY, with_fields};
use support::{
    Driver, End, Gate, RawClient, Router, RouterConfig, ScriptedNode, chat, event, eventually,
    fixed, note, on_both_drivers, pause, sse_head,
};

const LIST: &[u8] = b"GET /v1/models HTTP/1.1\r\nHost: router\r\n\r\n";

/// A node whose streams send one event, wait at the gate, and send nine more.
fn gated_node() -> (ScriptedNode, Gate) {
    let gate = Gate::default();
    let passing = gate.clone();
    let node = ScriptedNode::start(move |call| {
        call.send(sse_head());
        call.send(&event("0"));
        passing.pass();
        for number in 1..10 {
            call.send(&event(&number.to_string()));
        }
        call.send(b"0\r\n\r\n");
    });
    (node, gate)
}

fn begin_stream(router: &Router) -> RawClient {
    let mut client = router.connect();
    client.send(&chat());
    assert_eq!(client.head().status, 200);
    assert_eq!(client.chunk().unwrap(), b"data: 0\n\n");
    client
}

/// Whether nobody listens any more.
fn is_refused(router: &Router) -> bool {
    RawClient::try_connect(router.address()).is_none()
}

#[test]
fn fifty_streams_in_flight_lose_nothing_and_the_exit_is_clean() {
    on_both_drivers(|driver| {
        let (node, gate) = gated_node();
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut clients: Vec<RawClient> = (0..50).map(|_| begin_stream(&router)).collect();
        router.terminate();
        eventually("new connections are refused", || is_refused(&router));
        gate.open();
        for client in &mut clients {
            for number in 1..10 {
                assert_eq!(
                    client.chunk().unwrap(),
                    format!("data: {number}\n\n").as_bytes()
                );
            }
            assert_eq!(client.chunk(), None);
            assert_eq!(client.expect_closed(), End::Fin);
        }
        drop(clients);
        assert_eq!(router.wait_exit(Duration::from_secs(5)), 0);
    });
}

#[test]
fn a_request_whose_answer_has_not_begun_is_answered_and_told_to_close() {
    on_both_drivers(|driver| {
        let gate = Gate::default();
        let passing = gate.clone();
        let node = ScriptedNode::start(move |call| {
            passing.pass();
            call.send(&fixed(b"done"));
        });
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut client = router.connect();
        client.send(&chat());
        eventually("the node has the request", || node.request_count() == 1);
        router.terminate();
        eventually("new connections are refused", || is_refused(&router));
        gate.open();
        let response = client.response();
        assert_eq!(response.text(), "done");
        assert!(response.head.closes());
        assert_eq!(client.expect_closed(), End::Fin);
        drop(client);
        assert_eq!(router.wait_exit(Duration::from_secs(5)), 0);
    });
}

#[test]
fn a_request_half_received_is_still_served() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            call.send(&fixed(&call.body));
        });
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut client = router.connect();
        client.send(&with_fields("Content-Length: 13", &SMALL_BODY[..5]));
        eventually("the head is read", || {
            router.metrics().value("llm_router_requests_in_flight") == 1.0
        });
        router.terminate();
        eventually("new connections are refused", || is_refused(&router));
        client.send(&SMALL_BODY.as_bytes()[5..]);
        let response = client.response();
        assert_eq!((response.status, response.text()), (200, SMALL_BODY));
        assert!(response.head.closes());
        drop(client);
        assert_eq!(router.wait_exit(Duration::from_secs(5)), 0);
    });
}

#[test]
fn idle_connections_are_closed_and_the_exit_is_clean_and_soon() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut idle: Vec<RawClient> = (0..20)
            .map(|number| {
                let mut client = router.connect();
                match number % 3 {
                    0 => {
                        client.send(LIST);
                        client.response();
                    }
                    1 => {
                        client.send(&chat());
                        client.response();
                    }
                    _ => {}
                }
                client
            })
            .collect();
        eventually("all are accepted", || {
            router.metrics().value("llm_router_connections_active") == 21.0
        });
        let began = Instant::now();
        router.terminate();
        for client in &mut idle {
            assert_eq!(client.expect_closed(), End::Fin);
        }
        drop(idle);
        assert_eq!(router.wait_exit(Duration::from_secs(5)), 0);
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
    });
}

#[test]
fn with_nothing_to_do_the_exit_is_clean_and_at_once() {
    on_both_drivers(|driver| {
        let router = RouterConfig::new(driver).start();
        let began = Instant::now();
        router.terminate();
        assert_eq!(router.wait_exit(Duration::from_secs(5)), 0);
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
    });
}

#[test]
fn an_interrupt_drains_like_a_termination() {
    on_both_drivers(|driver| {
        let router = RouterConfig::new(driver).start();
        router.signal(nix::sys::signal::Signal::SIGINT);
        assert_eq!(router.wait_exit(Duration::from_secs(5)), 0);
    });
}

/// Starts a stream that will not end; the drain has begun.
fn draining_with_a_stream(driver: Driver, grace_secs: f64) -> (ScriptedNode, Router, RawClient) {
    let (node, _gate) = gated_node();
    let router = RouterConfig::new(driver)
        .set("server.drain_grace_secs", grace_secs)
        .node("n", &node)
        .start();
    let client = begin_stream(&router);
    router.terminate();
    eventually("new connections are refused", || is_refused(&router));
    (node, router, client)
}

#[test]
fn a_second_signal_aborts_at_once_and_the_exit_tells() {
    on_both_drivers(|driver| {
        let (_node, router, mut client) = draining_with_a_stream(driver, 20.0);
        let began = Instant::now();
        router.terminate();
        assert_eq!(router.wait_exit(Duration::from_secs(5)), 3);
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
        client.expect_closed();
    });
}

#[test]
fn streams_beyond_the_grace_time_are_cut_and_the_exit_tells() {
    on_both_drivers(|driver| {
        // Of the grace time a second goes by until new connections are seen to be refused.
        let (_node, router, mut client) = draining_with_a_stream(driver, 3.0);
        let began = Instant::now();
        assert_eq!(router.wait_exit(Duration::from_secs(5)), 3);
        let took = began.elapsed();
        assert!(
            took > Duration::from_millis(500) && took < Duration::from_secs(3),
            "{took:?}"
        );
        client.expect_closed();
    });
}

#[test]
fn a_client_that_never_reads_does_not_hold_the_exit_up_beyond_the_grace_time() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
            while call.send(&[0; 65_536]) {}
        });
        let router = RouterConfig::new(driver)
            .set("server.drain_grace_secs", 1)
            .node("n", &node)
            .start();
        let mut client = RawClient::connect_with_small_window(router.address());
        client.send(&chat());
        client.head();
        router.terminate();
        assert_eq!(router.wait_exit(Duration::from_secs(5)), 3);
    });
}

#[test]
fn while_the_drain_is_announced_readiness_fails_and_requests_are_served() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .set("server.drain_announce_secs", 2)
            .node("n", &node)
            .start();
        let mut before = router.connect();
        before.send(&chat());
        assert!(!before.response().head.closes());
        // By now the router has gone on to wait for its next request.
        router.metrics();
        let began = Instant::now();
        router.terminate();
        eventually("/ready says so", || {
            router
                .get("/ready")
                .is_some_and(|response| response.status == 503)
        });
        let response = router.get("/ready").unwrap();
        assert_eq!(
            response.text(),
            r#"{"error":{"message":"The router is shutting down. Please retry.","type":"service_unavailable","code":"draining"}}"#
        );
        assert_eq!(router.get("/health").unwrap().status, 200);
        for mut client in [before, router.connect()] {
            client.send(&chat());
            let response = client.response();
            assert_eq!(response.status, 200);
            assert!(response.head.closes());
            client.expect_closed();
        }
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "still within the announcement"
        );
        eventually("new connections are refused", || is_refused(&router));
        assert!(
            began.elapsed() > Duration::from_millis(1900),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(router.wait_exit(Duration::from_secs(5)), 0);
    });
}

#[test]
fn connections_made_while_the_listeners_close_are_served_or_refused_but_never_reset() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver).node("n", &node).start();
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut served = 0;
                        let mut broken = 0;
                        while let Some(mut client) = RawClient::try_connect(router.address()) {
                            client.send(&chat());
                            match client.try_response() {
                                Some(response) => {
                                    assert_eq!(response.status, 200);
                                    served += 1;
                                }
                                None => broken += 1,
                            }
                        }
                        (served, broken)
                    })
                })
                .collect();
            pause(Duration::from_millis(200));
            router.terminate();
            for client in clients {
                let (served, broken) = client.join().unwrap();
                assert!(served > 0);
                assert_eq!(broken, 0, "accepted and then not served");
            }
        });
        assert_eq!(router.wait_exit(Duration::from_secs(5)), 0);
    });
}

#[test]
fn requests_that_come_at_the_moment_of_the_order_are_answered_if_a_node_got_them() {
    const BEFORE_THE_ORDER: usize = 5;
    on_both_drivers(|driver| {
        for _ in 0..8 {
            let gate = Gate::default();
            let passing = gate.clone();
            let taken = Arc::new(AtomicUsize::new(0));
            let taking = Arc::clone(&taken);
            let node = ScriptedNode::start(move |call| {
                if call.field("x-wait").is_some() {
                    taking.fetch_add(1, Ordering::SeqCst);
                    passing.pass();
                }
                call.send(&fixed(&call.body));
            });
            let router = RouterConfig::new(driver)
                .set("log.access", "\"./access.log\"")
                .node("n", &node)
                .start();
            let mut clients: Vec<RawClient> = (0..60).map(|_| router.connect()).collect();
            for client in &mut clients {
                client.send(LIST);
                assert!(!client.response().head.closes());
            }
            // Idle connections now: some requests come before the order, some while the workers follow
            // it, some after.
            let waiting = with_fields("X-Wait: 1\r\nContent-Length: 13", SMALL_BODY);
            for (index, client) in clients.iter_mut().enumerate() {
                if index == BEFORE_THE_ORDER {
                    router.terminate();
                }
                client.send(&waiting);
            }
            eventually("new connections are refused", || is_refused(&router));
            gate.open();
            let mut answered = 0;
            for (index, client) in clients.iter_mut().enumerate() {
                let Some(response) = client.try_response() else {
                    assert!(index >= BEFORE_THE_ORDER, "it was there before the order");
                    continue;
                };
                assert_eq!((response.status, response.text()), (200, SMALL_BODY));
                assert!(response.head.closes());
                assert_eq!(client.expect_closed(), End::Fin);
                answered += 1;
            }
            drop(clients);
            assert_eq!(router.wait_exit(Duration::from_secs(5)), 0);
            note(&format!("{driver:?}: {answered} requests were in time"));
            assert_eq!(taken.load(Ordering::SeqCst), answered);
            assert_eq!(chat_records(&router), (answered, 0));
        }
    });
}

#[test]
fn every_request_that_a_node_got_in_a_storm_is_answered_while_the_router_leaves() {
    on_both_drivers(|driver| {
        for _ in 0..5 {
            let served = Arc::new(AtomicUsize::new(0));
            let serving = Arc::clone(&served);
            let node = ScriptedNode::start(move |call| {
                serving.fetch_add(1, Ordering::SeqCst);
                call.send(&fixed(&call.body));
            });
            let router = RouterConfig::new(driver)
                .set("log.access", "\"./access.log\"")
                .node("n", &node)
                .start();
            let clients: Vec<RawClient> = (0..20).map(|_| router.connect()).collect();
            let answered: usize = std::thread::scope(|scope| {
                let clients: Vec<_> = clients
                    .into_iter()
                    .map(|client| scope.spawn(|| ask_until_told_to_close(client)))
                    .collect();
                eventually("all clients are busy", || {
                    served.load(Ordering::SeqCst) >= 200
                });
                router.terminate();
                clients
                    .into_iter()
                    .map(|client| client.join().unwrap())
                    .sum()
            });
            assert_eq!(router.wait_exit(Duration::from_secs(5)), 0);
            assert_eq!(served.load(Ordering::SeqCst), answered);
            assert_eq!(chat_records(&router), (answered, 0));
        }
    });
}

/// Asks on one connection without a pause until an answer announces its end or it ends between two;
/// returns the number of answers.
fn ask_until_told_to_close(mut client: RawClient) -> usize {
    for answered in 0.. {
        client.send(&chat());
        let Some(response) = client.try_response() else {
            return answered;
        };
        assert_eq!(response.status, 200);
        if response.head.closes() {
            assert_eq!(client.expect_closed(), End::Fin);
            return answered + 1;
        }
    }
    unreachable!("the router was told to leave")
}

/// How many access records of chat requests tell of an answer, and how many of a request that was read and
/// then dropped.
fn chat_records(router: &Router) -> (usize, usize) {
    let log = router.file("access.log");
    let (answered, dropped): (Vec<_>, Vec<_>) = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|record| record["endpoint"] == "chat_completions")
        .partition(|record| record["status"] == 200);
    (answered.len(), dropped.len())
}

#[test]
fn a_worker_that_dies_ends_the_process_as_a_failure_and_the_others_drain() {
    on_both_drivers(|driver| {
        let (node, gate) = gated_node();
        let router = RouterConfig::new(driver)
            .set("server.drain_announce_secs", 60)
            .node("n", &node)
            .start();
        let mut clients: Vec<RawClient> = (0..24).map(|_| begin_stream(&router)).collect();
        if !break_last_mailbox(&router) {
            note("the system does not let a test reach into its own child: not tested");
            return;
        }
        eventually("the worker has ended", || {
            router
                .stderr()
                .contains("worker 1 has ended; so does the process")
        });
        eventually("new connections are refused", || is_refused(&router));
        gate.open();
        for client in &mut clients {
            let (rest, end) = client.read_to_end();
            assert!(rest.ends_with(b"data: 9\n\n\r\n0\r\n\r\n"));
            assert_eq!(end, End::Fin);
        }
        drop(clients);
        assert_eq!(router.wait_exit(Duration::from_secs(5)), 1);
        let log = router.stderr();
        assert!(log.contains("this process has failed"), "{log}");
    });
}

/// Shuts down the sockets that wake the last worker, so that it ends; false if the system does not let us.
fn break_last_mailbox(router: &Router) -> bool {
    let unnamed: Vec<String> = std::fs::read_to_string(format!("/proc/{}/net/unix", router.pid()))
        .unwrap()
        .lines()
        .map(|line| {
            line.split_whitespace()
                .map(ToOwned::to_owned)
                .collect::<Vec<_>>()
        })
        // Streams (type 1) that are connected (state 3) and have no name behind their inode.
        .filter(|fields| fields.len() == 7 && fields[4] == "0001" && fields[5] == "03")
        .map(|fields| format!("socket:[{}]", fields[6]))
        .collect();
    let mut pairs: Vec<(i32, String)> = std::fs::read_dir(format!("/proc/{}/fd", router.pid()))
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let target = std::fs::read_link(&path).ok()?.to_str()?.to_owned();
            let number = path.file_name()?.to_str()?.parse().ok()?;
            unnamed.contains(&target).then_some((number, target))
        })
        .collect();
    pairs.sort_unstable();
    // Others are copies of the first.
    let mut seen = Vec::new();
    pairs.retain(|(_, target)| {
        let is_new = !seen.contains(target);
        seen.push(target.clone());
        is_new
    });
    // The main thread's comes first, then that of each of the two workers.
    assert_eq!(pairs.len(), 6, "{pairs:?}");
    pairs[4..]
        .iter()
        .all(|(number, _)| shut_down_in(router.pid(), *number))
}

/// Shuts down a socket of another process.
fn shut_down_in(pid: i32, socket: i32) -> bool {
    // SAFETY: plain numbers go in and out; what comes out is ours to own.
    #[expect(unsafe_code, reason = "nothing wraps these two system calls")]
    let copy = unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if process < 0 {
            return false;
        }
        let process = OwnedFd::from_raw_fd(process as i32);
        let copy = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), socket, 0);
        if copy < 0 {
            return false;
        }
        UnixStream::from_raw_fd(copy as i32)
    };
    copy.shutdown(std::net::Shutdown::Both).is_ok()
}
