//! What becomes of a node's response on its way to the client, over real sockets on both drivers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::corpus::{SMALL_BODY, with_fields};
use support::{
    Call, DEADLINE, Driver, End, Prng, Response, Router, RouterConfig, ScriptedNode, chat, event,
    eventually, fixed, on_both_drivers, pause, sse_head,
};

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A router in front of one node that follows `script`.
fn routed(
    driver: Driver,
    script: impl Fn(&mut Call) + Send + Sync + 'static,
) -> (ScriptedNode, Router) {
    let node = ScriptedNode::start(script);
    let router = RouterConfig::new(driver).node("n", &node).start();
    (node, router)
}

/// The router's answer to a chat request when the node answers with `bytes` and then closes.
fn answer_to(driver: Driver, bytes: &[u8]) -> Response {
    let bytes = bytes.to_vec();
    let (_node, router) = routed(driver, move |call| {
        call.send(&bytes);
        call.close();
    });
    let mut client = router.connect();
    client.send(&chat());
    client.response()
}

#[test]
fn each_event_arrives_before_the_node_sends_the_next() {
    on_both_drivers(|driver| {
        let (acknowledge, acknowledged) = channel::<()>();
        let acknowledged = Mutex::new(acknowledged);
        let (_node, router) = routed(driver, move |call| {
            let acknowledged = acknowledged.lock().unwrap();
            call.send(sse_head());
            acknowledged.recv_timeout(DEADLINE).unwrap();
            for number in 0..50 {
                call.send(&event(&number.to_string()));
                acknowledged.recv_timeout(DEADLINE).unwrap();
            }
            call.send(b"0\r\n\r\n");
        });
        let mut client = router.connect();
        client.send(&chat());
        let head = client.head();
        assert_eq!(head.field("content-type"), Some("text/event-stream"));
        acknowledge.send(()).unwrap();
        for number in 0..50 {
            let expected = event(&number.to_string());
            assert_eq!(client.read_exact(expected.len()), expected);
            acknowledge.send(()).unwrap();
        }
        assert_eq!(client.read_exact(5), b"0\r\n\r\n");
    });
}

#[test]
fn a_head_arrives_before_the_body_begins_in_each_framing() {
    on_both_drivers(|driver| {
        for framing in ["Content-Length: 2\r\n", "Transfer-Encoding: chunked\r\n", ""] {
            let (acknowledge, acknowledged) = channel::<()>();
            let acknowledged = Mutex::new(acknowledged);
            let (_node, router) = routed(driver, move |call| {
                call.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n").as_bytes());
                acknowledged.lock().unwrap().recv_timeout(DEADLINE).unwrap();
                call.send(if framing.starts_with('T') { b"2\r\nok\r\n0\r\n\r\n" } else { b"ok" });
                call.close();
            });
            let mut client = router.connect();
            client.send(&chat());
            assert_eq!(client.head().status, 200);
            acknowledge.send(()).unwrap();
            let rest: &[u8] = if framing.starts_with('C') { b"ok" } else { b"2\r\nok\r\n0\r\n\r\n" };
            assert_eq!(client.read_exact(rest.len()), rest);
        }
    });
}

#[test]
fn bodies_in_each_framing_arrive_byte_for_byte() {
    on_both_drivers(|driver| {
        let (_node, router) = routed(driver, |call| {
            let mut parts = call.field("x-script").unwrap();
            let size: usize = parts.split_off(1).parse().unwrap();
            let body = Prng::new(size as u64).bytes(size);
            match parts.as_str() {
                "f" => {
                    call.send(&fixed(&body));
                }
                "c" => {
                    call.send(CHUNKED.as_bytes());
                    let mut random = Prng::new(1);
                    let mut rest = body.as_slice();
                    while !rest.is_empty() {
                        let count = (1 + random.below(40_000) as usize).min(rest.len());
                        call.send(format!("{count:X}\r\n").as_bytes());
                        call.send(&rest[..count]);
                        call.send(b"\r\n");
                        rest = &rest[count..];
                    }
                    call.send(b"0\r\n\r\n");
                }
                _ => {
                    call.send(b"HTTP/1.1 200 OK\r\n\r\n");
                    call.send(&body);
                    call.close();
                }
            }
        });
        for size in [0, 1, 2, 100, 4095, 4096, 16_384, 16_385, 100_000, 1 << 20] {
            for framing in ["f", "c", "u"] {
                let mut client = router.connect();
                client.send(
                    format!(
                        "POST /v1/embeddings HTTP/1.1\r\nHost: router\r\nX-Script: {framing}{size}\r\n\
                         Content-Length: 13\r\n\r\n{SMALL_BODY}"
                    )
                    .as_bytes(),
                );
                let body = client.response().body;
                assert!(body == Prng::new(size as u64).bytes(size), "{framing}{size}");
            }
        }
    });
}

#[test]
fn a_response_in_single_bytes_arrives_whole() {
    on_both_drivers(|driver| {
        // U25: events with each kind of line end, a comment and several data lines.
        let events = "data: a\n\ndata: b\r\n\r\n: comment\rdata: c\r\rdata: d\ndata: e\n\ndata: [DONE]\n\n";
        let response = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
             {:x}\r\n{events}\r\n0\r\n\r\n",
            events.len()
        );
        let (_node, router) = routed(driver, move |call| {
            for byte in response.as_bytes() {
                call.send(std::slice::from_ref(byte));
            }
        });
        let mut client = router.connect();
        for _ in 0..3 {
            client.send(&chat());
            assert_eq!(client.response().text(), events);
        }
    });
}

#[test]
fn chunk_extensions_and_trailers_of_a_node_are_dropped() {
    on_both_drivers(|driver| {
        let bytes = format!(
            "{CHUNKED}5;ext=\"a;b\"\r\nhello\r\n6;x\r\n world\r\n0;last\r\nX-Trailer: 1\r\nX-More: 2\r\n\r\n"
        );
        let (_node, router) = routed(driver, move |call| {
            call.send(bytes.as_bytes());
        });
        let mut client = router.connect();
        for _ in 0..2 {
            client.send(&chat());
            client.head();
            let expected = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
            assert_eq!(client.read_exact(expected.len()), expected);
        }
    });
}

#[test]
fn an_http_10_client_gets_the_payload_until_the_end() {
    on_both_drivers(|driver| {
        let bytes = format!("{CHUNKED}5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nX-T: 1\r\n\r\n");
        let (_node, router) = routed(driver, move |call| {
            call.send(bytes.as_bytes());
        });
        let mut client = router.connect();
        client.send(
            format!("POST /v1/completions HTTP/1.0\r\nContent-Length: 13\r\n\r\n{SMALL_BODY}").as_bytes(),
        );
        let head = client.head();
        assert_eq!(head.field("transfer-encoding"), None);
        assert!(head.closes());
        assert_eq!(client.read_to_end(), (b"hello world".to_vec(), End::Fin));
    });
}

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
            format!("POST /v1/completions HTTP/1.0\r\nContent-Length: 13\r\n\r\n{SMALL_BODY}").as_bytes(),
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
        let mut client = support::RawClient::connect_with_small_window(router.address());
        client.send(&chat());
        client.head();
        // The node is stopped as soon as what it was allowed to send stops growing.
        let mut last = usize::MAX;
        eventually("the node is stopped", || {
            pause(Duration::from_millis(200));
            let now = taken.load(Ordering::SeqCst);
            std::mem::replace(&mut last, now) == now
        });
        assert!(last < TOTAL / 2, "{last} bytes were taken for a client that reads none");
        let grown = router.resident_bytes().saturating_sub(before);
        assert!(grown < 1 << 20, "memory grew by {grown} bytes");
        // And it goes on where it stopped.
        let more = client.read_exact(2 << 20);
        assert!(more.iter().all(|byte| *byte == b'x'));
        eventually("the node goes on", || taken.load(Ordering::SeqCst) > last);
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
        let mut client = support::RawClient::connect_with_small_window(router.address());
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
            assert_eq!(client.chunk().unwrap(), format!("data: {number}\n\n").as_bytes());
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
        for bad in ["5x\r\nworld\r\n0\r\n\r\n", "5\r\nworldX\r\n", "\r\n", "0\r\nbad trailer\r\n\r\n"] {
            let (_node, router) = routed(driver, move |call| {
                call.send(format!("{CHUNKED}5\r\nhello\r\n{bad}").as_bytes());
            });
            let mut client = router.connect();
            client.send(&chat());
            client.head();
            let (received, _) = client.read_to_end();
            let received = String::from_utf8(received).unwrap();
            assert!(received.starts_with("5\r\nhello\r\n"), "{bad:?}: {received:?}");
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
        assert!(took > Duration::from_millis(900) && took < Duration::from_secs(2), "{took:?}");
        let reason = r#"llm_router_node_failures_total{node="n",reason="stream_timeout"}"#;
        assert_eq!(router.metrics().value(reason), 1.0);
        node.leaving(0);
    });
}

#[test]
fn a_stream_may_outlast_the_request_timeout_and_pause_within_the_idle_limit() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            call.send(sse_head());
            for number in 0..4 {
                pause(Duration::from_millis(600));
                call.send(&event(&number.to_string()));
            }
            call.send(b"0\r\n\r\n");
        });
        let router = RouterConfig::new(driver)
            .set("proxy.request_timeout_secs", 1)
            .set("proxy.stream_idle_timeout_secs", 2)
            .node("n", &node)
            .start();
        let mut client = router.connect();
        client.send(&chat());
        assert_eq!(
            client.response().text(),
            "data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\n"
        );
    });
}

#[test]
fn token_usage_is_counted_in_passing() {
    on_both_drivers(|driver| {
        let (_node, router) = routed(driver, |call| {
            let usage = r#"{"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}}"#;
            if call.request_index % 2 == 0 {
                call.send(&fixed(usage.as_bytes()));
            } else {
                call.send(sse_head());
                call.send(&event(r#"{"choices":[{"delta":{"content":"a"}}],"usage":null}"#));
                call.send(&event(usage));
                call.send(&event("[DONE]"));
                call.send(b"0\r\n\r\n");
            }
        });
        let mut client = router.connect();
        for request in 1..=4 {
            client.send(&chat());
            client.response();
            let metrics = router.metrics();
            let tokens = |kind: &str| {
                metrics.value(&format!(r#"llm_router_tokens_total{{model="m",kind="{kind}"}}"#))
            };
            assert_eq!(tokens("prompt"), f64::from(request * 11));
            assert_eq!(tokens("completion"), f64::from(request * 7));
        }
    });
}

#[test]
fn responses_that_are_not_http_1_are_a_502() {
    let long_field = format!("HTTP/1.1 200 OK\r\nX-A: {}\r\n\r\n", "a".repeat(9000));
    let nine_interim = "HTTP/1.1 103 Early\r\n\r\n".repeat(9) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let many_fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-A: b\r\n".repeat(101));
    let rows: Vec<(&str, &str)> = vec![
        ("U01 length and coding", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("U02 two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"),
        ("U03 coding in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("U04 an unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx"),
        ("U05a HTP", "HTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("U05b two digits", "HTTP/1.1 20\r\nContent-Length: 0\r\n\r\n"),
        ("U05c four digits", "HTTP/1.1 1000 OK\r\nContent-Length: 0\r\n\r\n"),
        ("U05d HTTP/5.6", "HTTP/5.6 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("U05e a tab", "HTTP/1.1\t200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("U05f status 600", "HTTP/1.1 600 OK\r\nContent-Length: 0\r\n\r\n"),
        ("U06 a signed length", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok"),
        ("U07 a folded field", "HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 0\r\n\r\n"),
        ("U08 LF line ends", "HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
        ("U09 nine interim responses", &nine_interim),
        ("U10 switching protocols", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
        ("U12 a field of 9000 bytes", &long_field),
        ("U14 101 fields", &many_fields),
        ("U16 the end within the head", "HTTP/1.1 200 OK\r\nContent-Le"),
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
fn interim_responses_are_swallowed() {
    on_both_drivers(|driver| {
        let bytes = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
                     HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let response = answer_to(driver, bytes.as_bytes());
        assert_eq!((response.status, response.text()), (200, "ok"));
        assert_eq!(response.head.field("link"), None);
    });
}

#[test]
fn a_node_s_own_error_passes_unchanged() {
    on_both_drivers(|driver| {
        for (status, body) in [
            ("500 Internal Server Error", "<html>oops</html>"),
            ("429 Too Many Requests", r#"{"error":{"message":"slow down"}}"#),
            ("404 Not Found", ""),
        ] {
            let bytes = format!(
                "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nRetry-After: 7\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let response = answer_to(driver, bytes.as_bytes());
            assert_eq!(response.status.to_string(), status[..3]);
            assert_eq!(response.head.field("content-type"), Some("text/html"));
            assert_eq!(response.head.field("retry-after"), Some("7"));
            assert_eq!(response.text(), body);
        }
    });
}

#[test]
fn responses_without_a_body_end_with_their_head() {
    on_both_drivers(|driver| {
        let (node, router) = routed(driver, |call| {
            let head: &[u8] = match call.request_index {
                0 => b"HTTP/1.1 204 No Content\r\n\r\n",
                1 => b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 100\r\n\r\n",
                _ => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            };
            call.send(head);
        });
        let mut client = router.connect();
        for status in [204, 304, 200] {
            client.send(&chat());
            let response = client.response();
            assert_eq!((response.status, response.text()), (status, ""));
            assert_eq!(response.head.field("transfer-encoding"), None);
        }
        assert_eq!(node.connection_count(), 1, "one connection served all three");
    });
}

/// A connection on which the node says `bytes` must not serve another request.
fn is_not_reused(driver: Driver, bytes: &'static [u8], body: &str) {
    let (node, router) = routed(driver, move |call| {
        call.send(bytes);
    });
    let mut client = router.connect();
    for request in 1..=3 {
        client.send(&chat());
        assert_eq!(client.response().text(), body, "{:?}", String::from_utf8_lossy(bytes));
        assert_eq!(node.connection_count(), request, "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_connection_with_bytes_behind_a_response_is_not_reused() {
    on_both_drivers(|driver| {
        for bytes in [
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
                .as_slice(),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nx",
        ] {
            is_not_reused(driver, bytes, "ok");
        }
        is_not_reused(driver, b"HTTP/1.1 204 No Content\r\n\r\nevil", "");
        is_not_reused(driver, b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n", "");
        is_not_reused(driver, b"HTTP/1.1 304 Not Modified\r\n\r\nevil", "");
        is_not_reused(
            driver,
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            "ok",
        );
        is_not_reused(driver, b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok");
    });
}

#[test]
fn bytes_on_an_idle_connection_are_never_an_answer() {
    on_both_drivers(|driver| {
        let (sent, said) = channel::<()>();
        let sent = Mutex::new(sent);
        let (node, router) = routed(driver, move |call| {
            call.send(&fixed(b"right"));
            if call.connection_index == 0 {
                // Long enough after the response to be a message of its own.
                pause(Duration::from_millis(100));
                call.send(&fixed(b"wrong"));
                sent.lock().unwrap().send(()).unwrap();
            }
        });
        let mut client = router.connect();
        client.send(&chat());
        assert_eq!(client.response().text(), "right");
        said.recv_timeout(DEADLINE).unwrap();
        pause(Duration::from_millis(50));
        client.send(&chat());
        assert_eq!(client.response().text(), "right");
        assert_eq!(node.connection_count(), 2);
    });
}

#[test]
fn an_answer_that_comes_before_the_request_was_read_is_forwarded() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start_eager(64 * 1024, |call| {
            call.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig");
            call.wait_left();
        });
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut body = vec![b' '; 16 << 20];
        body[..SMALL_BODY.len()].copy_from_slice(SMALL_BODY.as_bytes());
        let mut client = router.connect();
        client.send(&support::post("/v1/chat/completions", &body));
        let response = client.response();
        assert_eq!((response.status, response.text()), (413, "big"));
        node.lift_read_limit();
        node.leaving(0);
        drop(client);
        assert!(node.received_bytes() < body.len(), "sending stopped");
        router.settles();
    });
}

#[test]
fn an_html_page_with_status_200_passes_and_counts_by_its_status() {
    on_both_drivers(|driver| {
        let page = "<html>Bad Gateway</html>";
        let bytes = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 24\r\n\r\n{page}");
        let (_node, router) = routed(driver, move |call| {
            call.send(bytes.as_bytes());
        });
        let mut client = router.connect();
        client.send(&chat());
        assert_eq!(client.response().text(), page);
        let counted = r#"llm_router_requests_total{endpoint="chat_completions",status="200"}"#;
        eventually("the request is counted", || router.metrics().get(counted) == Some(1.0));
    });
}
