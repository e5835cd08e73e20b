//! Requests and the connection they come on: pipelining, HEAD, HTTP/1.0, 100-continue, close.

use std::sync::Mutex;
use std::time::Duration;

use super::support::corpus::{SMALL_BODY, with_chunks, with_fields};
use super::support::{
    DEADLINE, RouterConfig, ScriptedNode, event, fixed, on_both_drivers, post, sse_head,
};
use super::{LIST, expect_list};

#[test]
fn head_requests_get_a_head_and_no_body_even_for_errors() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut client = router.connect();
        for (path, status) in [
            ("/v1/models", 200),
            ("/health", 200),
            ("/v1/models/unknown", 404),
            ("/nothing", 404),
            ("/v1/chat/completions", 405),
        ] {
            client.send(format!("HEAD {path} HTTP/1.1\r\nHost: router\r\n\r\n").as_bytes());
            let head = client.head();
            assert_eq!(head.status, status, "{path}");
            assert_ne!(head.field("content-length"), Some("0"), "{path}");
        }
        // Whatever was sent behind a head would be taken for the beginning of this answer.
        client.send(LIST);
        expect_list(&mut client);
    });
}

#[test]
fn a_client_that_expects_100_continue_gets_exactly_one() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            assert_eq!(call.values("expect"), Vec::<String>::new());
            call.send(&fixed(&call.body));
        });
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut client = router.connect();
        for fields in ["Content-Length: 13", "Transfer-Encoding: chunked"] {
            client.send(&with_fields(
                format!("Expect: 100-continue\r\n{fields}"),
                "",
            ));
            assert_eq!(client.read_exact(25), b"HTTP/1.1 100 Continue\r\n\r\n");
            client.send(if fields.starts_with('C') {
                SMALL_BODY.as_bytes()
            } else {
                b"d\r\n{\"model\":\"m\"}\r\n0\r\n\r\n"
            });
            let response = client.response();
            assert_eq!((response.status, response.text()), (200, SMALL_BODY));
        }
        // Who has already sent the body is not told to.
        client.send(&with_fields(
            "Expect: 100-continue\r\nContent-Length: 13",
            SMALL_BODY,
        ));
        assert_eq!(client.response().status, 200);
    });
}

#[test]
fn an_expectation_is_not_met_when_the_request_is_refused_by_its_head() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .set("auth.required", true)
            .set("auth.api_keys", "[\"sk-right\"]")
            .set("proxy.max_body_bytes", 1024)
            .node("n", &node)
            .start();
        for (fields, status) in [
            ("Content-Length: 13", 401),
            (
                "Authorization: Bearer sk-right\r\nContent-Length: 1025",
                413,
            ),
            (
                "Authorization: Bearer sk-right\r\nContent-Encoding: br\r\nContent-Length: 13",
                415,
            ),
        ] {
            let mut client = router.connect();
            client.send(&with_fields(
                format!("Expect: 100-continue\r\n{fields}"),
                "",
            ));
            let response = client.response();
            assert_eq!(response.status, status);
            assert!(response.head.closes());
            client.expect_closed();
        }
    });
}

#[test]
fn two_pipelined_requests_in_one_segment_are_answered_in_order() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            call.send(&fixed(&call.body));
        });
        let router = RouterConfig::new(driver).node("n", &node).start();
        let first = post("/v1/chat/completions", br#"{"model":"m","n":1}"#);
        let second = post("/v1/embeddings", br#"{"model":"m","n":2}"#);
        let mut client = router.connect();
        client.send(&[first.as_slice(), &second, LIST, &first].concat());
        assert_eq!(client.response().text(), r#"{"model":"m","n":1}"#);
        assert_eq!(client.response().text(), r#"{"model":"m","n":2}"#);
        expect_list(&mut client);
        assert_eq!(client.response().text(), r#"{"model":"m","n":1}"#);
    });
}

#[test]
fn a_pipelined_request_behind_a_chunked_one_is_answered() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            call.send(&fixed(&call.body));
        });
        let router = RouterConfig::new(driver).node("n", &node).start();
        let first = with_chunks("d\r\n{\"model\":\"m\"}\r\n0\r\n\r\n");
        let second = post("/v1/chat/completions", br#"{"model":"m","n":2}"#);
        let mut client = router.connect();
        client.send(&[first.as_slice(), &second].concat());
        assert_eq!(client.response().text(), SMALL_BODY);
        assert_eq!(client.response().text(), r#"{"model":"m","n":2}"#);
    });
}

#[test]
fn requests_sent_during_a_stream_are_held_to_32_kib_and_answered_after_it() {
    on_both_drivers(|driver| {
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let node = ScriptedNode::start(move |call| {
            if call.body.ends_with(b"\"stream\":true}") {
                call.send(sse_head());
                call.send(&event("1"));
                wait.lock().unwrap().recv_timeout(DEADLINE).unwrap();
                call.send(b"0\r\n\r\n");
            } else {
                call.send(&fixed(&call.body));
            }
        });
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut client = router.connect();
        client.send(&post(
            "/v1/chat/completions",
            br#"{"model":"m","stream":true}"#,
        ));
        assert_eq!(client.head().status, 200);
        assert_eq!(client.chunk().unwrap(), b"data: 1\n\n");
        let before = router.resident_bytes();
        // 200 requests of 2 KiB arrive at once, then a flood until the kernel's buffers are full.
        let bodies: Vec<String> = (0..200)
            .map(|number| format!(r#"{{"model":"m","n":{number},"a":"{}"}}"#, "x".repeat(2000)))
            .collect();
        let requests: Vec<u8> = bodies
            .iter()
            .flat_map(|body| post("/v1/chat/completions", body.as_bytes()))
            .collect();
        std::thread::scope(|scope| {
            let mut sender = client.sender();
            let requests = &requests;
            scope.spawn(move || sender.send(requests));
            assert!(client.is_silent_for(Duration::from_millis(300)));
            let grown = router.resident_bytes().saturating_sub(before);
            assert!(grown < 1 << 20, "grew by {grown} bytes");
            go_on.send(()).unwrap();
            assert_eq!(client.chunk(), None);
            for body in &bodies {
                assert!(client.response().text() == body);
            }
        });
    });
}

#[test]
fn http_10_clients_get_one_answer_and_the_end() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{\"a\":1}"));
        let router = RouterConfig::new(driver).node("n", &node).start();
        for keep_alive in ["", "Connection: keep-alive\r\n"] {
            let mut client = router.connect();
            client.send(
                format!(
                    "POST /v1/chat/completions HTTP/1.0\r\n{keep_alive}Content-Length: 13\r\n\r\n{SMALL_BODY}"
                )
                .as_bytes(),
            );
            let response = client.response();
            assert_eq!((response.status, response.text()), (200, "{\"a\":1}"));
            assert!(response.head.closes());
            client.expect_closed();
        }
    });
}

#[test]
fn a_client_that_says_close_gets_its_answer_and_the_end() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut client = router.connect();
        client.send(&with_fields(
            "Connection: Close\r\nContent-Length: 13",
            SMALL_BODY,
        ));
        let response = client.response();
        assert_eq!(response.status, 200);
        assert!(response.head.closes());
        client.expect_closed();
    });
}
