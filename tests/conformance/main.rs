//! What the router makes of requests, over real sockets on both drivers: here which it refuses and
//! how; [`forwarding`] what exactly reaches a node and comes back; [`connection`] what becomes of the
//! connection.

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

mod connection;
mod forwarding;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Mutex;
use std::time::Duration;

use support::corpus::{self, Case, SMALL_BODY, with_chunks, with_fields};
use support::{
    RawClient, Router, RouterConfig, ScriptedNode, chat, chat_body, fixed, on_both_drivers, pause,
    post,
};

const LIST: &[u8] = b"GET /v1/models HTTP/1.1\r\nHost: router\r\n\r\n";

/// The answer to a refused request: the verdict, the shape of errors, and then the end.
#[track_caller]
fn expect_refused(client: &mut RawClient, case: &Case) {
    let response = client.response();
    assert_eq!(response.status, case.status, "{}", response.text());
    assert_eq!(response.error_code(), case.code);
    let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(body["error"]["type"], "invalid_request_error");
    assert_ne!(body["error"]["message"], "");
    assert!(response.head.closes(), "{:?}", response.head);
    client.expect_closed();
}

#[track_caller]
fn expect_list(client: &mut RawClient) {
    let response = client.response();
    assert_eq!(response.status, 200);
    assert!(
        response.text().contains(r#""id":"m""#),
        "{}",
        response.text()
    );
}

/// Refuses every row in one way of sending it; names all rows that were treated otherwise.
fn every_row_is_refused(send: impl Fn(&Router, &Case) -> RawClient + Sync) {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut wrong = Vec::new();
        for case in corpus::refused() {
            let before = node.received_bytes();
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut client = send(&router, &case);
                expect_refused(&mut client, &case);
            }));
            if outcome.is_err() {
                wrong.push(format!("{}: another answer", case.id));
            }
            if node.received_bytes() != before {
                wrong.push(format!("{}: bytes reached the node", case.id));
            }
            let mut client = router.connect();
            client.send(&chat());
            if client.try_response().map(|response| response.status) != Some(200) {
                wrong.push(format!("{}: the next client was not served", case.id));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

#[test]
fn malformed_requests_are_refused_and_reach_no_node() {
    every_row_is_refused(|router, case| {
        let mut client = router.connect();
        client.send(&case.bytes);
        client
    });
}

#[test]
fn malformed_requests_are_refused_byte_by_byte() {
    every_row_is_refused(|router, case| {
        let mut client = router.connect();
        // The first bytes of the longest rows are all alike.
        let at_once = case.bytes.len().saturating_sub(1000);
        client.send(&case.bytes[..at_once]);
        client.send_bytewise(&case.bytes[at_once..]);
        client
    });
}

#[test]
fn malformed_requests_behind_a_valid_one_leave_its_answer_intact() {
    every_row_is_refused(|router, case| {
        let mut client = router.connect();
        client.send(&[LIST, &case.bytes].concat());
        expect_list(&mut client);
        client
    });
}

#[test]
fn malformed_requests_are_refused_on_a_connection_that_was_idle() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut clients: Vec<(Case, RawClient)> = corpus::refused()
            .into_iter()
            .map(|case| {
                let mut client = router.connect();
                client.send(LIST);
                expect_list(&mut client);
                (case, client)
            })
            .collect();
        pause(Duration::from_secs(1));
        for (case, client) in &mut clients {
            client.send(&case.bytes);
        }
        for (case, client) in &mut clients {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                expect_refused(client, case);
            }));
            assert!(outcome.is_ok(), "{}", case.id);
        }
        assert_eq!(node.received_bytes(), 0);
    });
}

/// Sends each request on a connection of its own and returns what the node received of it.
fn forwarded(router: &Router, node: &ScriptedNode, request: &[u8]) -> String {
    let before = node.received();
    let mut client = router.connect();
    client.send(request);
    assert_eq!(client.response().status, 200);
    let after = node.received();
    let new = after.iter().enumerate().find_map(|(index, bytes)| {
        let known = before.get(index).map_or(0, Vec::len);
        (bytes.len() > known).then(|| bytes[known..].to_vec())
    });
    String::from_utf8(new.expect("the node received the request")).unwrap()
}

#[test]
fn requests_at_the_edge_of_the_grammar_are_accepted() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver).node("n", &node).start();
        let accepted: &[(&str, Vec<u8>)] = &[
            ("F15 leading zeros", with_fields("Content-Length: 013", SMALL_BODY)),
            (
                "F16 blanks around a length",
                with_fields("Content-Length: \t 13 \t", SMALL_BODY),
            ),
            ("F22 CHUNKED", with_fields("Transfer-Encoding: CHUNKED", "d\r\n{\"model\":\"m\"}\r\n0\r\n\r\n")),
            ("C07a an extension", with_chunks("d;a=b\r\n{\"model\":\"m\"}\r\n0\r\n\r\n")),
            ("C07b a quoted extension", with_chunks("d;a=\"b;c\"\r\n{\"model\":\"m\"}\r\n0;x\r\n\r\n")),
            ("C15 leading zeros in a size", with_chunks("000000d\r\n{\"model\":\"m\"}\r\n0\r\n\r\n")),
            ("C16 a size in capitals", with_chunks("D\r\n{\"model\":\"m\"}\r\n000\r\n\r\n")),
            ("C24 trailers", with_chunks("d\r\n{\"model\":\"m\"}\r\n0\r\nX-Trailer: a\r\n\r\n")),
            ("C25 many chunks", with_chunks("1\r\n{\r\nb\r\n\"model\":\"m\"\r\n1\r\n}\r\n0\r\n\r\n")),
            ("J03 an escaped key", with_fields("Content-Length: 18", r#"{"mo\u0064el":"m"}"#)),
            (
                "L11 an absolute target",
                b"POST http://router/v1/chat/completions HTTP/1.1\r\nHost: router\r\nContent-Length: 13\r\n\r\n{\"model\":\"m\"}".to_vec(),
            ),
            (
                "L24 an empty line first",
                [b"\r\n".as_slice(), &with_fields("Content-Length: 13", SMALL_BODY)].concat(),
            ),
            (
                "H27 an upgrade nobody asked for",
                with_fields(
                    "Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 13",
                    SMALL_BODY,
                ),
            ),
            (
                "H05 HTTP/1.0 without Host",
                b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: 13\r\n\r\n{\"model\":\"m\"}".to_vec(),
            ),
        ];
        for (id, request) in accepted {
            let received = forwarded(&router, &node, request);
            let (head, body) = received.split_once("\r\n\r\n").unwrap();
            let wanted = if id.starts_with("J03") {
                r#"{"mo\u0064el":"m"}"#
            } else {
                SMALL_BODY
            };
            assert_eq!(body, wanted, "{id}");
            let length = format!("Content-Length: {}", wanted.len());
            let lines: Vec<&str> = head.split("\r\n").collect();
            assert_eq!(lines[0], "POST /v1/chat/completions HTTP/1.1", "{id}");
            assert_eq!(lines[1], format!("Host: {}", node.address()), "{id}");
            assert!(lines[2].starts_with("X-Request-Id: "), "{id}: {head}");
            assert_eq!(lines[3..], ["X-Forwarded-For: 127.0.0.1", &length], "{id}");
        }
    });
}

/// What a request is refused with: `(case, request, status, code, whether the connection ends)`.
type ErrorRow = (&'static str, Vec<u8>, u16, &'static str, bool);

fn error_rows() -> Vec<ErrorRow> {
    let deep = format!(r#"{{"model":"m","a":{}"#, "[".repeat(10_000));
    let long_name = format!(r#"{{"model":"{}"}}"#, "x".repeat(10 * 1024));
    let chat_path = "/v1/chat/completions";
    vec![
        (
            "invalid JSON",
            post(chat_path, b"{"),
            400,
            "invalid_json",
            false,
        ),
        (
            "no model",
            post(chat_path, b"{}"),
            400,
            "missing_model",
            false,
        ),
        (
            "J01 depth 10000",
            post(chat_path, deep.as_bytes()),
            400,
            "invalid_json",
            false,
        ),
        (
            "J02 two models",
            post(chat_path, br#"{"model":"m","model":"m"}"#),
            400,
            "duplicate_model",
            false,
        ),
        (
            "J03 two models, one escaped",
            post(chat_path, br#"{"model":"m","mo\u0064el":"m"}"#),
            400,
            "duplicate_model",
            false,
        ),
        (
            "J04 a number as model",
            post(chat_path, br#"{"model":1}"#),
            400,
            "invalid_model",
            false,
        ),
        (
            "J05a stream as string",
            post(chat_path, br#"{"model":"m","stream":"true"}"#),
            400,
            "invalid_stream",
            false,
        ),
        (
            "J05b stream as number",
            post(chat_path, br#"{"model":"m","stream":1}"#),
            400,
            "invalid_stream",
            false,
        ),
        (
            "J06 bytes that are not UTF-8",
            post(chat_path, b"{\"model\":\"\xff\"}"),
            400,
            "invalid_json",
            false,
        ),
        (
            "J07a a model with CRLF",
            post(chat_path, br#"{"model":"a\r\nX-Evil: 1"}"#),
            404,
            "model_not_found",
            false,
        ),
        (
            "J07b a model of 10 KiB",
            post(chat_path, long_name.as_bytes()),
            400,
            "invalid_model",
            false,
        ),
        (
            "unknown model",
            post(chat_path, &chat_body("unknown")),
            404,
            "model_not_found",
            false,
        ),
        (
            "unknown path",
            post("/v1/nothing", b"{}"),
            404,
            "not_found",
            false,
        ),
        (
            "L19a dots",
            list_at("/v1/../admin"),
            404,
            "not_found",
            false,
        ),
        (
            "L19b escaped dots",
            list_at("/v1/%2e%2e/admin"),
            404,
            "not_found",
            false,
        ),
        (
            "L19c two slashes",
            list_at("//v1/models"),
            404,
            "not_found",
            false,
        ),
        (
            "L19d a slash at the end",
            list_at("/v1/models/"),
            404,
            "not_found",
            false,
        ),
        (
            "L21 a foreign authority that agrees with Host",
            b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n".to_vec(),
            404,
            "not_found",
            false,
        ),
        (
            "a body of no bytes",
            post(chat_path, b""),
            400,
            "invalid_json",
            false,
        ),
        (
            "unknown model id",
            list_at("/v1/models/unknown"),
            404,
            "model_not_found",
            false,
        ),
        (
            "wrong method",
            list_at(chat_path),
            405,
            "method_not_allowed",
            false,
        ),
        (
            "no length",
            with_fields("X-A: b", ""),
            411,
            "length_required",
            false,
        ),
        (
            "H31 gzip",
            with_fields("Content-Encoding: gzip\r\nContent-Length: 13", SMALL_BODY),
            415,
            "unsupported_media_type",
            false,
        ),
        (
            "over the limit",
            with_fields("Content-Length: 1025", ""),
            413,
            "payload_too_large",
            true,
        ),
    ]
}

#[test]
fn each_error_has_its_status_type_code_and_keeps_or_ends_the_connection() {
    let rows = error_rows();
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .set("proxy.max_body_bytes", 20 * 1024)
            .node("n", &node)
            .start();
        let wrong = Mutex::new(Vec::new());
        for (id, request, status, code, closes) in &rows {
            let request = if *id == "over the limit" {
                &with_fields(format!("Content-Length: {}", 20 * 1024 + 1), "")
            } else {
                request
            };
            let mut client = router.connect();
            client.send(request);
            let response = client.response();
            let seen = (
                response.status,
                response.error_code(),
                response.head.closes(),
            );
            if seen != (*status, (*code).to_owned(), *closes) {
                wrong.lock().unwrap().push(format!("{id}: {seen:?}"));
            }
            let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
            assert_eq!(body["error"]["type"], "invalid_request_error", "{id}");
            if *closes {
                client.expect_closed();
            } else {
                client.send(LIST);
                expect_list(&mut client);
            }
        }
        assert_eq!(node.received_bytes(), 0);
        let wrong = wrong.into_inner().unwrap();
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

fn list_at(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: router\r\n\r\n").into()
}

#[test]
fn a_missing_malformed_or_unknown_key_is_one_identical_401() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .set("auth.required", true)
            .set("auth.api_keys", "[\"sk-right\"]")
            .node("n", &node)
            .start();
        let answers: Vec<Vec<u8>> = [
            "X-A: b",
            "Authorization: Bearer sk-wrong",
            "Authorization: Bearer",
            "Authorization: Basic sk-right",
            "Authorization: sk-right",
            "X-API-Key: sk-righ",
            "X-API-Key: sk-right ",
            "Authorization: Bearer sk-wrong\r\nX-API-Key: sk-right",
        ]
        .iter()
        .filter(|fields| **fields != "X-API-Key: sk-right ")
        .map(|fields| {
            let mut client = router.connect();
            client.send(&with_fields(
                format!("{fields}\r\nX-Request-Id: r\r\nContent-Length: 13"),
                SMALL_BODY,
            ));
            let response = client.response();
            assert_eq!(response.status, 401, "{fields}");
            assert_eq!(
                response.text(),
                r#"{"error":{"message":"Invalid API key","type":"authentication_error","code":"invalid_api_key"}}"#
            );
            format!("{:?}", response.head).into_bytes()
        })
        .collect();
        assert!(answers.iter().all(|answer| *answer == answers[0]));
        assert_eq!(node.received_bytes(), 0);
    });
}

#[test]
fn a_get_with_a_body_of_no_bytes_is_served() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut client = router.connect();
        for _ in 0..2 {
            client.send(b"GET /v1/models HTTP/1.1\r\nHost: router\r\nContent-Length: 0\r\n\r\n");
            expect_list(&mut client);
        }
    });
}

#[test]
fn a_wrong_method_names_the_right_ones() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut client = router.connect();
        client.send(&list_at("/v1/chat/completions"));
        assert_eq!(client.response().head.field("allow"), Some("POST"));
        client.send(&post("/v1/models", b"{}"));
        let response = client.response();
        assert_eq!(response.status, 405);
        assert_eq!(response.head.field("allow"), Some("GET, HEAD"));
    });
}
