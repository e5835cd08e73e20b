//! Which attempts are made again and which are not, and what failures do to a node, on both drivers. What a
//! node received counts, not only what the client was told.

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

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::corpus::{SMALL_BODY, with_fields};
use support::{
    Call, Driver, Metrics, Prng, RawClient, Router, RouterConfig, ScriptedNode, blackhole, chat,
    event, eventually, fixed, on_both_drivers, pause, sse_head,
};

const UNREACHABLE: &str = r#"{"error":{"message":"The node could not be reached","type":"bad_gateway","code":"node_unreachable"}}"#;
const BAD_RESPONSE: &str = r#"{"error":{"message":"The node sent an invalid response","type":"bad_gateway","code":"bad_node_response"}}"#;

fn ask(router: &Router) -> support::Response {
    let mut client = router.connect();
    client.send(&chat());
    client.response()
}

fn failures(metrics: &Metrics, node: &str, reason: &str) -> f64 {
    metrics.value(&format!(
        r#"llm_router_node_failures_total{{node="{node}",reason="{reason}"}}"#
    ))
}

fn retries(metrics: &Metrics, reason: &str) -> f64 {
    metrics.value(&format!(r#"llm_router_retries_total{{reason="{reason}"}}"#))
}

fn is_in_state(metrics: &Metrics, node: &str, state: &str) -> bool {
    metrics.value(&format!(
        r#"llm_router_node_state{{node="{node}",state="{state}"}}"#
    )) == 1.0
}

#[test]
fn a_refused_connection_is_tried_on_the_other_node() {
    on_both_drivers(|driver| {
        let dead = ScriptedNode::answering(fixed(b"dead"));
        let alive = ScriptedNode::answering(fixed(b"alive"));
        let router = RouterConfig::new(driver)
            .node("dead", &dead)
            .node("alive", &alive)
            .start();
        dead.stop_listening();
        for _ in 0..6 {
            assert_eq!(ask(&router).text(), "alive");
        }
        let metrics = router.metrics();
        let refused = failures(&metrics, "dead", "connect");
        assert!(refused >= 1.0);
        assert_eq!(retries(&metrics, "connect"), refused);
        assert_eq!(alive.request_count(), 6);
        assert_eq!(dead.request_count(), 0);
    });
}

#[test]
fn a_connection_that_hangs_is_tried_on_the_other_node() {
    on_both_drivers(|driver| {
        let hanging = ScriptedNode::answering(fixed(b"hanging"));
        let alive = ScriptedNode::answering(fixed(b"alive"));
        let router = RouterConfig::new(driver)
            .set("proxy.connect_timeout_secs", 0.3)
            .node("hanging", &hanging)
            .node("alive", &alive)
            .start();
        hanging.stop_listening();
        let _hole = blackhole(hanging.address());
        eventually("the hanging node was tried", || {
            assert_eq!(ask(&router).text(), "alive");
            failures(&router.metrics(), "hanging", "connect_timeout") >= 1.0
        });
        let metrics = router.metrics();
        assert_eq!(
            retries(&metrics, "connect_timeout"),
            failures(&metrics, "hanging", "connect_timeout")
        );
    });
}

#[test]
fn when_every_node_refuses_it_is_a_502() {
    on_both_drivers(|driver| {
        let nodes = [(); 2].map(|()| ScriptedNode::answering(fixed(b"{}")));
        let router = RouterConfig::new(driver)
            .node("a", &nodes[0])
            .node("b", &nodes[1])
            .start();
        for node in &nodes {
            node.stop_listening();
        }
        let response = ask(&router);
        assert_eq!((response.status, response.text()), (502, UNREACHABLE));
        let metrics = router.metrics();
        assert_eq!(metrics.sum("llm_router_node_failures_total"), 2.0);
        assert_eq!(retries(&metrics, "connect"), 1.0);
    });
}

#[test]
fn a_refused_request_leaves_the_client_s_connection_usable() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver).node("n", &node).start();
        node.stop_listening();
        let mut client = router.connect();
        client.send(&chat());
        assert_eq!(client.response().status, 502);
        node.listen_again();
        client.send(&chat());
        assert_eq!(client.response().status, 200);
    });
}

#[test]
fn a_reused_connection_that_the_node_closes_is_replaced_without_the_client_noticing() {
    on_both_drivers(|driver| {
        for by_reset in [false, true] {
            let node = ScriptedNode::start(move |call| {
                if call.request_index == 0 {
                    call.send(&fixed(&call.body));
                } else if by_reset {
                    call.reset();
                } else {
                    call.close();
                }
            });
            let router = RouterConfig::new(driver).node("n", &node).start();
            let mut client = router.connect();
            for number in 0..3 {
                let body = format!(r#"{{"model":"m","n":{number}}}"#);
                client.send(&support::post("/v1/chat/completions", body.as_bytes()));
                let response = client.response();
                assert_eq!((response.status, response.text()), (200, body.as_str()));
            }
            // The first once; the others once in vain and once on a fresh connection.
            assert_eq!(node.request_count(), 5);
            let metrics = router.metrics();
            assert_eq!(retries(&metrics, "stale_connection"), 2.0);
            assert_eq!(metrics.sum("llm_router_node_failures_total"), 0.0);
        }
    });
}

#[test]
fn a_large_body_survives_its_retry_byte_for_byte() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(move |call| {
            if call.request_index == 0 {
                call.send(&fixed(&call.body));
            } else {
                call.reset();
            }
        });
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut client = router.connect();
        for size in [100, 1000, 20_000, 1 << 20] {
            let mut body = SMALL_BODY.as_bytes().to_vec();
            body.resize(size, b' ');
            client.send(&support::post("/v1/chat/completions", &body));
            assert!(client.response().body == body, "{size} bytes");
        }
        assert_eq!(retries(&router.metrics(), "stale_connection"), 3.0);
    });
}

#[test]
fn requests_around_the_keep_alive_time_of_a_node_never_fail() {
    let seed = 5;
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            call.send(&fixed(&call.body));
            // The connection is closed at about the time the next request comes.
            pause(Duration::from_millis(6));
            call.close();
        });
        let router = RouterConfig::new(driver).node("n", &node).start();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let router = &router;
                scope.spawn(move || {
                    let mut random = Prng::new(seed + thread);
                    let mut client = router.connect();
                    for number in 0..100 {
                        let body = format!(r#"{{"model":"m","n":"{thread}-{number}"}}"#);
                        client.send(&support::post("/v1/chat/completions", body.as_bytes()));
                        let response = client.response();
                        assert_eq!((response.status, response.text()), (200, body.as_str()));
                        pause(Duration::from_micros(4000 + random.below(4000)));
                    }
                });
            }
        });
        assert_eq!(router.metrics().sum("llm_router_node_failures_total"), 0.0);
    });
}

#[test]
fn a_fresh_connection_that_ends_without_an_answer_is_a_502_and_was_used_once() {
    on_both_drivers(|driver| {
        for by_reset in [false, true] {
            let nodes = [(); 2].map(|()| {
                ScriptedNode::start(move |call| {
                    if by_reset {
                        call.reset();
                    } else {
                        call.close();
                    }
                })
            });
            let router = RouterConfig::new(driver)
                .node("a", &nodes[0])
                .node("b", &nodes[1])
                .start();
            let response = ask(&router);
            assert_eq!((response.status, response.text()), (502, BAD_RESPONSE));
            let sent: usize = nodes.iter().map(ScriptedNode::request_count).sum();
            assert_eq!(
                sent, 1,
                "an inference that may have begun is not begun again"
            );
            let metrics = router.metrics();
            assert_eq!(metrics.sum("llm_router_retries_total"), 0.0);
            assert_eq!(metrics.sum("llm_router_node_failures_total"), 1.0);
        }
    });
}

#[test]
fn nothing_is_sent_again_after_a_byte_of_a_response() {
    on_both_drivers(|driver| {
        let nodes = [(); 2].map(|()| {
            ScriptedNode::start(|call| {
                if call.request_index == 0 {
                    call.send(&fixed(b"{}"));
                } else {
                    call.send(b"H");
                    call.close();
                }
            })
        });
        let router = RouterConfig::new(driver)
            .set("server.workers", 1)
            .node("a", &nodes[0])
            .node("b", &nodes[1])
            .start();
        let mut client = router.connect();
        for _ in 0..2 {
            client.send(&chat());
            assert_eq!(client.response().status, 200);
        }
        // Both nodes have one idle connection now; equal nodes take turns.
        client.send(&chat());
        let response = client.response();
        assert_eq!((response.status, response.text()), (502, BAD_RESPONSE));
        let sent: usize = nodes.iter().map(ScriptedNode::request_count).sum();
        assert_eq!(sent, 3);
        assert_eq!(router.metrics().sum("llm_router_retries_total"), 0.0);
    });
}

#[test]
fn a_node_that_does_not_answer_in_time_is_a_504_and_is_left() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            call.wait_left();
        });
        let router = RouterConfig::new(driver)
            .set("proxy.request_timeout_secs", 2)
            .node("n", &node)
            .start();
        let mut client = router.connect();
        let began = Instant::now();
        client.send(&chat());
        let response = client.response();
        let took = began.elapsed();
        assert_eq!(response.status, 504);
        assert_eq!(
            response.text(),
            r#"{"error":{"message":"Request timeout after 2 seconds","type":"gateway_timeout","code":"timeout"}}"#
        );
        assert!(
            took > Duration::from_millis(1800) && took < Duration::from_secs(3),
            "{took:?}"
        );
        assert!(!response.head.closes());
        node.leaving(0);
        assert_eq!(node.request_count(), 1);
        assert_eq!(failures(&router.metrics(), "n", "response_timeout"), 1.0);
        drop(client);
        router.settles();
    });
}

#[test]
fn five_failures_eject_a_node_and_a_probe_returns_it() {
    on_both_drivers(|driver| {
        let fails = Arc::new(AtomicBool::new(true));
        let failing = Arc::clone(&fails);
        let sick = ScriptedNode::start(move |call| {
            if failing.load(Ordering::SeqCst) {
                call.close();
            } else {
                call.send(&fixed(b"sick"));
            }
        });
        let well = ScriptedNode::answering(fixed(b"well"));
        let router = RouterConfig::new(driver)
            .node("sick", &sick)
            .node("well", &well)
            .start();
        let mut failed = 0.0;
        while failed < 5.0 {
            let response = ask(&router);
            assert!(matches!(response.status, 200 | 502));
            failed += f64::from(u8::from(response.status == 502));
        }
        eventually("the node is ejected", || {
            is_in_state(&router.metrics(), "sick", "ejected")
        });
        let ejected_at = Instant::now();
        for _ in 0..6 {
            assert_eq!(ask(&router).text(), "well");
        }
        assert_eq!(
            failures(&router.metrics(), "sick", "closed_before_response"),
            failed
        );
        fails.store(false, Ordering::SeqCst);
        eventually("the node is back", || {
            is_in_state(&router.metrics(), "sick", "online")
        });
        let away = ejected_at.elapsed();
        assert!(
            away > Duration::from_millis(700) && away < Duration::from_secs(3),
            "{away:?}"
        );
        eventually("the node serves again", || ask(&router).text() == "sick");
    });
}

#[test]
fn the_last_node_of_a_model_is_never_ejected() {
    on_both_drivers(|driver| {
        let fails = Arc::new(AtomicBool::new(true));
        let failing = Arc::clone(&fails);
        let node = ScriptedNode::start(move |call| {
            if failing.load(Ordering::SeqCst) {
                call.close();
            } else {
                call.send(&fixed(b"{}"));
            }
        });
        let router = RouterConfig::new(driver).node("n", &node).start();
        for _ in 0..12 {
            assert_eq!(ask(&router).status, 502);
        }
        fails.store(false, Ordering::SeqCst);
        assert_eq!(ask(&router).status, 200);
        assert!(is_in_state(&router.metrics(), "n", "online"));
        assert_eq!(node.request_count(), 13);
    });
}

#[test]
fn what_clients_do_wrong_never_counts_against_a_node() {
    on_both_drivers(|driver| {
        let nodes = [(); 2].map(|()| {
            ScriptedNode::start(|call| {
                if call.field("x-stay").is_some() {
                    call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
                    while call.send(&[0; 65_536]) {}
                } else {
                    call.send(&fixed(b"{}"));
                }
            })
        });
        let router = RouterConfig::new(driver)
            .set("http.write_stall_timeout_secs", 1)
            .node("n", &nodes[0])
            .node("o", &nodes[1])
            .start();
        let staying = with_fields("X-Stay: 1\r\nContent-Length: 13", SMALL_BODY);
        let stalled: Vec<RawClient> = (0..24)
            .map(|_| {
                let mut client = RawClient::connect_with_small_window(router.address());
                client.send(&staying);
                client
            })
            .collect();
        for _ in 0..12 {
            let mut malformed = router.connect();
            malformed.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: router\r\nContent-Length: +1\r\n\r\n{");
            assert_eq!(malformed.response().status, 400);
            let mut invalid = router.connect();
            invalid.send(&with_fields("Content-Length: 2", "{]"));
            assert_eq!(invalid.response().status, 400);
            let mut aborting = router.connect();
            aborting.send(&chat());
            aborting.reset();
        }
        eventually("the router gives the stalled clients up", || {
            router.metrics().value("llm_router_streams_active") == 0.0
                && router.metrics().sum("llm_router_node_in_flight") == 0.0
        });
        drop(stalled);
        let metrics = router.metrics();
        assert_eq!(metrics.sum("llm_router_node_failures_total"), 0.0);
        assert!(is_in_state(&metrics, "n", "online") && is_in_state(&metrics, "o", "online"));
        router.settles();
    });
}

/// A router over a node that may die and one that never does; whole answers end the connection.
fn beside_a_well_node(driver: Driver, sick: &ScriptedNode) -> (Router, ScriptedNode) {
    let well = ScriptedNode::answering(fixed(b"well"));
    let router = RouterConfig::new(driver)
        .set("proxy.stream_idle_timeout_secs", 1)
        .node("sick", sick)
        .node("well", &well)
        .start();
    (router, well)
}

/// Asks until the sick node has one more request; returns that client, the response head read.
fn ask_the_sick(router: &Router, sick: &ScriptedNode, fields: &str) -> RawClient {
    let before = sick.request_count();
    // Equal nodes take turns on each worker.
    for _ in 0..20 {
        let mut client = router.connect();
        client.send(&with_fields(
            format!("{fields}Connection: close\r\nContent-Length: 13"),
            SMALL_BODY,
        ));
        assert_eq!(client.head().status, 200);
        if sick.request_count() > before {
            return client;
        }
        assert_eq!(client.read_to_end().0, b"well");
    }
    panic!("the sick node is never chosen");
}

/// Sends an event and half of another, and dies, at once or when it is left.
fn half_a_stream(call: &mut Call) {
    call.send(sse_head());
    call.send(&event("1"));
    call.send(b"20\r\ndata: ha");
    if call.field("x-stay").is_some() {
        call.wait_left();
    }
    call.close();
}

/// Sends a part of the body it announces, and dies.
fn half_a_body(call: &mut Call) {
    call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    call.close();
}

#[test]
fn a_node_that_dies_within_its_answers_is_ejected() {
    for script in [half_a_stream as fn(&mut Call), half_a_body] {
        on_both_drivers(|driver| {
            let sick = ScriptedNode::start(script);
            let (router, _well) = beside_a_well_node(driver, &sick);
            for _ in 0..5 {
                assert!(is_in_state(&router.metrics(), "sick", "online"));
                ask_the_sick(&router, &sick, "").read_to_end();
            }
            eventually("the node is ejected", || {
                is_in_state(&router.metrics(), "sick", "ejected")
            });
            for _ in 0..6 {
                assert_eq!(ask(&router).text(), "well");
            }
            let metrics = router.metrics();
            assert_eq!(failures(&metrics, "sick", "closed_mid_response"), 5.0);
            assert_eq!(metrics.sum("llm_router_node_failures_total"), 5.0);
            assert_eq!(metrics.sum("llm_router_retries_total"), 0.0);
        });
    }
}

#[test]
fn a_stream_that_falls_silent_counts_against_its_node() {
    on_both_drivers(|driver| {
        let sick = ScriptedNode::start(half_a_stream);
        let (router, _well) = beside_a_well_node(driver, &sick);
        let mut waiting = ask_the_sick(&router, &sick, "X-Stay: 1\r\n");
        let began = Instant::now();
        let (received, _) = waiting.read_to_end();
        let took = began.elapsed();
        assert!(
            took > Duration::from_millis(800) && took < Duration::from_secs(2),
            "{took:?}"
        );
        assert!(!received.ends_with(b"0\r\n\r\n"), "the cut must be visible");
        assert_eq!(failures(&router.metrics(), "sick", "stream_timeout"), 1.0);
        // The first of five in a row.
        for _ in 0..4 {
            ask_the_sick(&router, &sick, "").read_to_end();
        }
        eventually("the node is ejected", || {
            is_in_state(&router.metrics(), "sick", "ejected")
        });
        let metrics = router.metrics();
        assert_eq!(failures(&metrics, "sick", "closed_mid_response"), 4.0);
        assert_eq!(metrics.sum("llm_router_node_failures_total"), 5.0);
    });
}

#[test]
fn a_client_that_leaves_a_stream_is_neither_a_failure_nor_a_success_of_the_node() {
    on_both_drivers(|driver| {
        let sick = ScriptedNode::start(half_a_stream);
        let (router, _well) = beside_a_well_node(driver, &sick);
        for _ in 0..4 {
            ask_the_sick(&router, &sick, "").read_to_end();
        }
        for by_reset in [false, true] {
            let mut leaving = ask_the_sick(&router, &sick, "X-Stay: 1\r\n");
            assert_eq!(leaving.chunk().unwrap(), b"data: 1\n\n");
            if by_reset {
                leaving.reset();
            } else {
                drop(leaving);
            }
            router.settles();
        }
        let metrics = router.metrics();
        assert_eq!(
            metrics.sum("llm_router_node_failures_total"),
            4.0,
            "no failure"
        );
        assert!(is_in_state(&metrics, "sick", "online"));
        // No success either: the next failure is the fifth in a row.
        ask_the_sick(&router, &sick, "").read_to_end();
        eventually("the node is ejected", || {
            is_in_state(&router.metrics(), "sick", "ejected")
        });
    });
}
