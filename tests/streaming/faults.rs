//! Nodes that break off, fall silent or talk nonsense, and clients that do not take what they get.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::support::corpus::{SMALL_BODY, with_fields};
use super::support::{
    DEADLINE, End, Gate, RawClient, RouterConfig, ScriptedNode, chat, event, eventually, fixed,
    on_both_drivers, pause, sse_head,
};
use super::{CHUNKED, routed};

#[test]
fn an_http_10_client_sees_a_reset_where_a_stream_was_cut() {
    on_both_drivers(|driver| {
        let (go_on, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let (_node, router) = routed(driver, move |call| {
            call.send(format!("{CHUNKED}5\r\nhello\r\n").as_bytes());
            wait.lock().unwrap().recv_timeout(DEADLINE).unwrap();
            call.close();
        });
        let mut client = router.connect();
        client.send(
            format!("POST /v1/completions HTTP/1.0\r\nContent-Length: 13\r\n\r\n{SMALL_BODY}")
                .as_bytes(),
        );
        client.head();
        assert_eq!(client.read_exact(5), b"hello");
        go_on.send(()).unwrap();
        assert_eq!(client.expect_closed(), End::Reset);
    });
}

#[test]
fn a_client_that_does_not_read_stops_the_node_and_not_the_memory() {
    const TOTAL: usize = 100 << 20;
    on_both_drivers(|driver| {
        let taken = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&taken);
        let (_node, router) = routed(driver, move |call| {
            call.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n").as_bytes());
            let block = vec![b'x'; 1 << 20];
            for _ in 0..TOTAL / block.len() {
                if !call.send(&block) {
                    return;
                }
                seen.fetch_add(block.len(), Ordering::SeqCst);
            }
        });
        let before = router.resident_bytes();
        let mut client = RawClient::connect_with_small_window(router.address());
        client.send(&chat());
        client.head();
        // The node is stopped as soon as what it was allowed to send stops growing.
        let mut last = usize::MAX;
        eventually("the node is stopped", || {
            pause(Duration::from_millis(200));
            let now = taken.load(Ordering::SeqCst);
            std::mem::replace(&mut last, now) == now
        });
        assert!(
            last < TOTAL / 2,
            "{last} bytes were taken for a client that reads none"
        );
        let grown = router.resident_bytes().saturating_sub(before);
        assert!(grown < 1 << 20, "memory grew by {grown} bytes");
        // And it goes on where it stopped, once the kernel's buffers on the way have emptied.
        while taken.load(Ordering::SeqCst) == last {
            let some = client.read_some();
            assert!(!some.is_empty() && some.iter().all(|byte| *byte == b'x'));
        }
    });
}

#[test]
fn a_slow_client_is_not_mistaken_for_a_silent_node() {
    on_both_drivers(|driver| {
        const TOTAL: usize = 24 << 20;
        let node = ScriptedNode::answering(fixed(&vec![b'x'; TOTAL]));
        let router = RouterConfig::new(driver)
            .set("proxy.stream_idle_timeout_secs", 1)
            .set("proxy.request_timeout_secs", 1)
            .node("n", &node)
            .start();
        let mut client = RawClient::connect_with_small_window(router.address());
        client.send(&chat());
        client.head();
        // Longer than the node may be silent, shorter than the client may stall.
        pause(Duration::from_millis(2500));
        let mut left = TOTAL;
        while left > 0 {
            let some = client.read_some();
            assert!(!some.is_empty(), "{left} of {TOTAL} bytes missing");
            left -= some.len();
        }
        assert_eq!(router.metrics().sum("llm_router_node_failures_total"), 0.0);
    });
}

/// A node that dies after `count` events; the client sees exactly those and a visible cut.
fn dies_after_events(count: usize, by_reset: bool) {
    on_both_drivers(|driver| {
        let (go_on, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let (_node, router) = routed(driver, move |call| {
            call.send(sse_head());
            for number in 0..count {
                call.send(&event(&number.to_string()));
            }
            // A reset overtakes bytes that were not received yet.
            wait.lock().unwrap().recv_timeout(DEADLINE).unwrap();
            if by_reset {
                call.reset();
            } else {
                call.close();
            }
        });
        let mut client = router.connect();
        client.send(&chat());
        assert_eq!(client.head().status, 200);
        for number in 0..count {
            assert_eq!(
                client.chunk().unwrap(),
                format!("data: {number}\n\n").as_bytes()
            );
        }
        go_on.send(()).unwrap();
        client.expect_closed();
        let reason = r#"llm_router_node_failures_total{node="n",reason="closed_mid_response"}"#;
        assert_eq!(router.metrics().value(reason), 1.0);
        router.settles();
    });
}

#[test]
fn a_node_that_closes_after_no_event_leaves_a_cut_stream() {
    dies_after_events(0, false);
}

#[test]
fn a_node_that_closes_after_nine_events_leaves_a_cut_stream() {
    dies_after_events(9, false);
}

#[test]
fn a_node_that_resets_after_no_event_leaves_a_cut_stream() {
    dies_after_events(0, true);
}

#[test]
fn a_node_that_resets_after_nine_events_leaves_a_cut_stream() {
    dies_after_events(9, true);
}

#[test]
fn a_response_shorter_than_its_length_is_cut_visibly() {
    on_both_drivers(|driver| {
        let (_node, router) = routed(driver, |call| {
            call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
            call.close();
        });
        let mut client = router.connect();
        client.send(&chat());
        assert_eq!(client.head().field("content-length"), Some("10"));
        assert_eq!(client.read_to_end().0, b"hello");
    });
}

#[test]
fn a_close_delimited_body_that_ends_in_a_reset_has_no_last_chunk() {
    on_both_drivers(|driver| {
        let (go_on, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let (_node, router) = routed(driver, move |call| {
            call.send(b"HTTP/1.1 200 OK\r\n\r\nhello");
            wait.lock().unwrap().recv_timeout(DEADLINE).unwrap();
            call.reset();
        });
        let mut client = router.connect();
        client.send(&chat());
        client.head();
        assert_eq!(client.chunk().unwrap(), b"hello");
        go_on.send(()).unwrap();
        client.expect_closed();
    });
}

#[test]
fn a_bad_chunk_cuts_the_stream_where_it_stands() {
    on_both_drivers(|driver| {
        for bad in [
            "5x\r\nworld\r\n0\r\n\r\n",
            "5\r\nworldX\r\n",
            "\r\n",
            "0\r\nbad trailer\r\n\r\n",
        ] {
            let (_node, router) = routed(driver, move |call| {
                call.send(format!("{CHUNKED}5\r\nhello\r\n{bad}").as_bytes());
            });
            let mut client = router.connect();
            client.send(&chat());
            client.head();
            let (received, _) = client.read_to_end();
            let received = String::from_utf8(received).unwrap();
            assert!(
                received.starts_with("5\r\nhello\r\n"),
                "{bad:?}: {received:?}"
            );
            assert!(!received.ends_with("0\r\n\r\n"), "{bad:?}: {received:?}");
            let reason = r#"llm_router_node_failures_total{node="n",reason="bad_response"}"#;
            assert_eq!(router.metrics().value(reason), 1.0, "{bad:?}");
        }
    });
}

#[test]
fn a_stream_that_falls_silent_is_cut_at_the_limit() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            call.send(sse_head());
            call.send(&event("1"));
            call.wait_left();
        });
        let router = RouterConfig::new(driver)
            .set("proxy.stream_idle_timeout_secs", 1)
            .node("n", &node)
            .start();
        let mut client = router.connect();
        client.send(&chat());
        client.head();
        client.chunk();
        let began = Instant::now();
        client.expect_closed();
        let took = began.elapsed();
        assert!(
            took > Duration::from_millis(900) && took < Duration::from_secs(2),
            "{took:?}"
        );
        let reason = r#"llm_router_node_failures_total{node="n",reason="stream_timeout"}"#;
        assert_eq!(router.metrics().value(reason), 1.0);
        node.leaving(0);
    });
}

#[test]
fn responses_that_are_not_http_1_are_a_502() {
    let long_field = format!("HTTP/1.1 200 OK\r\nX-A: {}\r\n\r\n", "a".repeat(9000));
    let nine_interim =
        "HTTP/1.1 103 Early\r\n\r\n".repeat(9) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let many_fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-A: b\r\n".repeat(101));
    let rows: Vec<(&str, &str)> = vec![
        (
            "U01 length and coding",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "U02 two lengths",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        ),
        (
            "U03 coding in HTTP/1.0",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "U04 an unknown coding",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
        ),
        ("U05a HTP", "HTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (
            "U05b two digits",
            "HTTP/1.1 20\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "U05c four digits",
            "HTTP/1.1 1000 OK\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "U05d HTTP/5.6",
            "HTTP/5.6 200 OK\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "U05e a tab",
            "HTTP/1.1\t200 OK\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "U05f status 600",
            "HTTP/1.1 600 OK\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "U06 a signed length",
            "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        ),
        (
            "U07 a folded field",
            "HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
        ),
        ("U08 LF line ends", "HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
        ("U09 nine interim responses", &nine_interim),
        (
            "U10 switching protocols",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        ),
        ("U12 a field of 9000 bytes", &long_field),
        ("U14 101 fields", &many_fields),
        (
            "U16 the end within the head",
            "HTTP/1.1 200 OK\r\nContent-Le",
        ),
        ("not HTTP", "SSH-2.0-OpenSSH_9.6\r\n"),
    ];
    on_both_drivers(|driver| {
        let answers: Vec<String> = rows.iter().map(|(_, bytes)| (*bytes).to_owned()).collect();
        let (_node, router) = routed(driver, move |call| {
            let row: usize = call.field("x-row").unwrap().parse().unwrap();
            call.send(answers[row].as_bytes());
            call.close();
        });
        for (row, (id, _)) in rows.iter().enumerate() {
            let mut client = router.connect();
            client.send(&with_fields(
                format!("X-Row: {row}\r\nContent-Length: 13"),
                SMALL_BODY,
            ));
            let response = client.response();
            assert_eq!(response.status, 502, "{id}");
            assert_eq!(
                response.text(),
                r#"{"error":{"message":"The node sent an invalid response","type":"bad_gateway","code":"bad_node_response"}}"#,
                "{id}"
            );
        }
        let reason = r#"llm_router_node_failures_total{node="n",reason="bad_response"}"#;
        assert_eq!(router.metrics().value(reason), rows.len() as f64);
    });
}

#[test]
fn when_one_of_two_nodes_dies_exactly_its_streams_are_cut() {
    const STREAMS: usize = 60;
    on_both_drivers(|driver| {
        let (dies, lives) = (Gate::default(), Gate::default());
        let node = |name: &'static str, gate: &Gate, survives: bool| {
            let gate = gate.clone();
            ScriptedNode::start(move |call| {
                call.send(sse_head());
                call.send(&event(name));
                gate.pass();
                if survives {
                    call.send(&event("end"));
                    call.send(b"0\r\n\r\n");
                } else {
                    call.reset();
                }
            })
        };
        let mortal = node("mortal", &dies, false);
        let other = node("other", &lives, true);
        let router = RouterConfig::new(driver)
            .node("mortal", &mortal)
            .node("other", &other)
            .start();
        let (mut doomed, mut spared) = (Vec::new(), Vec::new());
        for _ in 0..STREAMS {
            let mut client = router.connect();
            client.send(&chat());
            client.head();
            match client.chunk().unwrap().as_slice() {
                b"data: mortal\n\n" => doomed.push(client),
                _ => spared.push(client),
            }
        }
        assert_eq!(
            (doomed.len(), spared.len()),
            (STREAMS / 2, STREAMS / 2),
            "equal shares"
        );
        dies.open();
        for client in &mut doomed {
            client.expect_closed();
        }
        lives.open();
        for client in &mut spared {
            assert_eq!(client.chunk().unwrap(), b"data: end\n\n");
            assert_eq!(client.chunk(), None);
        }
        drop((doomed, spared));
        router.settles();
    });
}
