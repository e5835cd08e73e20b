//! What becomes of a node's response on its way to the client, over real sockets on both drivers:
//! here of sound ones, [`faults`] when node or client misbehave.

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

mod faults;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use support::corpus::SMALL_BODY;
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
        for framing in [
            "Content-Length: 2\r\n",
            "Transfer-Encoding: chunked\r\n",
            "",
        ] {
            let (acknowledge, acknowledged) = channel::<()>();
            let acknowledged = Mutex::new(acknowledged);
            let (_node, router) = routed(driver, move |call| {
                call.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n").as_bytes());
                acknowledged.lock().unwrap().recv_timeout(DEADLINE).unwrap();
                call.send(if framing.starts_with('T') {
                    b"2\r\nok\r\n0\r\n\r\n"
                } else {
                    b"ok"
                });
                call.close();
            });
            let mut client = router.connect();
            client.send(&chat());
            assert_eq!(client.head().status, 200);
            acknowledge.send(()).unwrap();
            let rest: &[u8] = if framing.starts_with('C') {
                b"ok"
            } else {
                b"2\r\nok\r\n0\r\n\r\n"
            };
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
                assert!(
                    body == Prng::new(size as u64).bytes(size),
                    "{framing}{size}"
                );
            }
        }
    });
}

#[test]
fn a_response_in_single_bytes_arrives_whole() {
    on_both_drivers(|driver| {
        // U25: events with each kind of line end, a comment and several data lines.
        let events =
            "data: a\n\ndata: b\r\n\r\n: comment\rdata: c\r\rdata: d\ndata: e\n\ndata: [DONE]\n\n";
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
            format!("POST /v1/completions HTTP/1.0\r\nContent-Length: 13\r\n\r\n{SMALL_BODY}")
                .as_bytes(),
        );
        let head = client.head();
        assert_eq!(head.field("transfer-encoding"), None);
        assert!(head.closes());
        assert_eq!(client.read_to_end(), (b"hello world".to_vec(), End::Fin));
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
                call.send(&event(
                    r#"{"choices":[{"delta":{"content":"a"}}],"usage":null}"#,
                ));
                call.send(&event(usage));
                call.send(&event("[DONE]"));
                call.send(b"0\r\n\r\n");
            }
        });
        let mut client = router.connect();
        for request in 1..=4 {
            client.send(&chat());
            client.response();
            // Counted once the last byte is out.
            eventually("the tokens are counted", || {
                let metrics = router.metrics();
                let tokens = |kind: &str| {
                    let labels = format!(r#"{{model="m",kind="{kind}"}}"#);
                    metrics.value(&format!("llm_router_tokens_total{labels}"))
                };
                [tokens("prompt"), tokens("completion")]
                    == [f64::from(request * 11), f64::from(request * 7)]
            });
        }
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
            (
                "429 Too Many Requests",
                r#"{"error":{"message":"slow down"}}"#,
            ),
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
        assert_eq!(
            node.connection_count(),
            1,
            "one connection served all three"
        );
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
        assert_eq!(
            client.response().text(),
            body,
            "{:?}",
            String::from_utf8_lossy(bytes)
        );
        assert_eq!(
            node.connection_count(),
            request,
            "{:?}",
            String::from_utf8_lossy(bytes)
        );
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
        is_not_reused(
            driver,
            b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n",
            "",
        );
        is_not_reused(driver, b"HTTP/1.1 304 Not Modified\r\n\r\nevil", "");
        is_not_reused(
            driver,
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            "ok",
        );
        is_not_reused(
            driver,
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "ok",
        );
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
        let bytes = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 24\r\n\r\n{page}"
        );
        let (_node, router) = routed(driver, move |call| {
            call.send(bytes.as_bytes());
        });
        let mut client = router.connect();
        client.send(&chat());
        assert_eq!(client.response().text(), page);
        let counted = r#"llm_router_requests_total{endpoint="chat_completions",status="200"}"#;
        eventually("the request is counted", || {
            router.metrics().get(counted) == Some(1.0)
        });
    });
}
