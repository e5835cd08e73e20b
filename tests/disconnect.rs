//! What the router does when a client leaves, in every phase of a request, on both drivers: it closes the
//! node's connection, gives back the slot, lowers every gauge and counts the phase, all within a second.

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

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use support::corpus::{SMALL_BODY, with_fields};
use support::{
    Call, DEADLINE, Driver, RawClient, Router, RouterConfig, ScriptedNode, blackhole, chat, event,
    eventually, eventually_within, fixed, note, on_both_drivers, pause, sse_head,
};

const WITHIN: Duration = Duration::from_secs(1);

/// The ways in which a client leaves.
#[derive(Debug, Clone, Copy)]
enum Exit {
    /// close(2).
    Close,
    /// close(2) with a reset.
    Reset,
    /// Only the sending direction ends: the router takes it for leaving, by choice.
    HalfClose,
}

const EXITS: [Exit; 3] = [Exit::Close, Exit::Reset, Exit::HalfClose];

impl Exit {
    /// Leaves; returns what must stay alive for a half-close to be one.
    fn leave(self, client: RawClient) -> Option<RawClient> {
        match self {
            Self::Close => drop(client),
            Self::Reset => client.reset(),
            Self::HalfClose => {
                client.finish();
                return Some(client);
            }
        }
        None
    }
}

fn cancelled(router: &Router, phase: &str) -> f64 {
    let name = format!(r#"llm_router_cancelled_total{{phase="{phase}"}}"#);
    router.metrics().value(&name)
}

/// A client leaves while a node with one slot has it in `phase`. The script tells when it is there
/// and then waits to be left; the node must be free for the next client.
fn leaves_the_node(phase: &str, reach: fn(&mut Call), bytes_before: fn(&mut RawClient)) {
    on_both_drivers(|driver| {
        let (reached, arrival) = channel();
        let reached: Mutex<Sender<usize>> = Mutex::new(reached);
        let node = ScriptedNode::start(move |call| {
            if call.field("x-stay").is_some() {
                reach(call);
                reached.lock().unwrap().send(call.connection_index).unwrap();
                call.wait_left();
                call.close();
            } else {
                call.send(&fixed(b"{}"));
            }
        });
        let router = RouterConfig::new(driver)
            .node_with("n", &node, "m", 1, "")
            .start();
        for (index, exit) in EXITS.into_iter().enumerate() {
            let mut client = router.connect();
            client.send(&with_fields("X-Stay: 1\r\nContent-Length: 13", SMALL_BODY));
            let connection = arrival.recv_timeout(DEADLINE).unwrap();
            bytes_before(&mut client);
            let left_at = Instant::now();
            let half_open = exit.leave(client);
            let left = node.leaving(connection);
            let took = left.at.saturating_duration_since(left_at);
            assert!(took < WITHIN, "{exit:?}: the node was left after {took:?}");
            note(&format!(
                "{phase} {exit:?} {driver:?}: node left after {took:?}"
            ));
            eventually_within(WITHIN, "the phase is counted", || {
                cancelled(&router, phase) == (index + 1) as f64
            });
            drop(half_open);
            router.settles();
            let mut next = router.connect();
            next.send(&chat());
            assert_eq!(
                next.response().status,
                200,
                "{exit:?}: the slot is free again"
            );
        }
        let failures = router.metrics().sum("llm_router_node_failures_total");
        assert_eq!(failures, 0.0, "leaving is not the node's fault");
    });
}

#[test]
fn a_client_that_leaves_before_the_first_byte_frees_the_node() {
    leaves_the_node("first_byte", |_| {}, |_| {});
}

/// More than the router holds of what a client sends ahead.
const AHEAD_BYTES: usize = 60_000;

#[test]
fn a_client_that_sent_much_ahead_and_leaves_frees_the_node() {
    leaves_the_node(
        "first_byte",
        |_| {},
        |client| client.send(&[b' '; AHEAD_BYTES]),
    );
}

#[test]
fn a_client_that_sent_much_ahead_in_one_go_and_leaves_frees_the_node() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            call.wait_left();
            call.close();
        });
        let router = RouterConfig::new(driver)
            .node_with("n", &node, "m", 1, "")
            .start();
        let request = chat();
        let pipelined = request.repeat(1 + AHEAD_BYTES.div_ceil(request.len()));
        for (index, exit) in EXITS.into_iter().enumerate() {
            let mut client = router.connect();
            client.send(&pipelined);
            eventually("the node has the first request", || {
                node.request_count() == index + 1
            });
            let left_at = Instant::now();
            let half_open = exit.leave(client);
            let left = node.leaving(index);
            let took = left.at.saturating_duration_since(left_at);
            assert!(took < WITHIN, "{exit:?}: the node was left after {took:?}");
            eventually_within(WITHIN, "the phase is counted", || {
                cancelled(&router, "first_byte") == (index + 1) as f64
            });
            drop(half_open);
            router.settles();
        }
        assert_eq!(
            node.request_count(),
            EXITS.len(),
            "the others were never sent"
        );
        assert_eq!(router.metrics().sum("llm_router_node_failures_total"), 0.0);
    });
}

#[test]
fn a_client_that_leaves_within_the_response_head_frees_the_node() {
    leaves_the_node(
        "first_byte",
        |call| {
            call.send(b"HTTP/1.1 200 OK\r\nContent-Le");
        },
        |_| {},
    );
}

#[test]
fn a_client_that_leaves_a_stream_frees_the_node() {
    leaves_the_node(
        "stream",
        |call| {
            call.send(sse_head());
            call.send(&event("1"));
        },
        |client| {
            client.head();
            client.chunk();
        },
    );
}

#[test]
fn a_client_that_leaves_a_stream_unread_frees_the_node() {
    leaves_the_node(
        "stream",
        |call| {
            call.send(sse_head());
            call.send(&event("1"));
        },
        |client| {
            // It has begun, and is left in the kernel.
            assert!(client.has_bytes_to_read());
        },
    );
}

#[test]
fn a_client_that_leaves_within_the_last_chunk_frees_the_node() {
    leaves_the_node(
        "stream",
        |call| {
            call.send(sse_head());
            call.send(&event("[DONE]"));
            call.send(b"0\r\n");
        },
        |client| {
            client.head();
            client.chunk();
            client.read_exact(3);
        },
    );
}

#[test]
fn a_client_that_leaves_a_body_of_known_length_frees_the_node() {
    leaves_the_node(
        "stream",
        |call| {
            call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        },
        |client| {
            client.head();
            client.read_exact(4);
        },
    );
}

#[test]
fn a_client_that_leaves_while_it_is_being_sent_to_frees_the_node() {
    on_both_drivers(|driver| {
        for exit in [Exit::Close, Exit::Reset] {
            let node = ScriptedNode::start(|call| {
                call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
                while call.send(&[0; 65_536]) {}
            });
            let router = RouterConfig::new(driver)
                .node_with("n", &node, "m", 1, "")
                .start();
            let mut client = RawClient::connect_with_small_window(router.address());
            client.send(&chat());
            client.head();
            pause(Duration::from_millis(300));
            let left_at = Instant::now();
            exit.leave(client);
            let took = node.leaving(0).at.saturating_duration_since(left_at);
            assert!(took < WITHIN, "{exit:?}: {took:?}");
            router.settles();
            assert_eq!(cancelled(&router, "stream"), 1.0);
        }
    });
}

#[test]
fn a_client_that_leaves_within_its_own_body_costs_no_node_anything() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut expected = 0.0;
        for exit in EXITS {
            for request in [
                with_fields("Content-Length: 100", &SMALL_BODY[..5]),
                with_fields("Content-Length: 100000", &SMALL_BODY[..5]),
                with_fields("Transfer-Encoding: chunked", "d\r\n{\"mod"),
            ] {
                let mut client = router.connect();
                client.send(&request);
                eventually("the request is read", || {
                    router.metrics().value("llm_router_requests_in_flight") == 1.0
                });
                let half_open = exit.leave(client);
                expected += 1.0;
                eventually_within(WITHIN, "the phase is counted", || {
                    cancelled(&router, "read") == expected
                });
                drop(half_open);
                router.settles();
            }
        }
        assert_eq!(node.received_bytes(), 0);
    });
}

#[test]
fn a_client_that_leaves_within_its_head_is_forgotten() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver).node("n", &node).start();
        for exit in EXITS {
            let mut client = router.connect();
            client.send(b"POST /v1/chat/compl");
            eventually("the connection is accepted", || {
                router.metrics().value("llm_router_connections_active") == 2.0
            });
            let half_open = exit.leave(client);
            router.settles();
            drop(half_open);
        }
    });
}

#[test]
fn a_client_that_leaves_while_the_node_is_being_connected_to_is_forgotten() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .node_with("n", &node, "m", 1, "")
            .start();
        node.stop_listening();
        let _hole = blackhole(node.address());
        let mut expected = 0.0;
        for exit in EXITS {
            let mut client = router.connect();
            client.send(&chat());
            eventually("the node is being connected to", || {
                router.metrics().sum("llm_router_node_in_flight") == 1.0
            });
            let half_open = exit.leave(client);
            expected += 1.0;
            let took = eventually_within(WITHIN, "the phase is counted", || {
                cancelled(&router, "connect") == expected
            });
            note(&format!(
                "connect {exit:?} {driver:?}: given up after {took:?}"
            ));
            drop(half_open);
            router.settles();
        }
    });
}

#[test]
fn a_hundred_clients_that_leave_at_once_leave_nothing_behind() {
    on_both_drivers(|driver: Driver| {
        let node = ScriptedNode::start(|call| {
            call.send(sse_head());
            call.send(&event("1"));
            call.wait_left();
        });
        let router = RouterConfig::new(driver)
            .node_with("n", &node, "m", 100, "")
            .start();
        let clients: Vec<RawClient> = (0..100)
            .map(|_| {
                let mut client = router.connect();
                client.send(&chat());
                client
            })
            .map(|mut client| {
                client.head();
                client
            })
            .collect();
        let during = router.metrics();
        assert_eq!(during.value("llm_router_streams_active"), 100.0);
        assert_eq!(during.sum("llm_router_node_in_flight"), 100.0);
        let left_at = Instant::now();
        drop(clients);
        router.settles();
        let last = (0..100).map(|index| node.leaving(index).at).max().unwrap();
        assert!(last.saturating_duration_since(left_at) < WITHIN);
        assert_eq!(cancelled(&router, "stream"), 100.0);
    });
}
