//! What the router makes of requests, over real sockets on both drivers: which it refuses and how, and
//! what exactly reaches a node of those it accepts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::sync::Mutex;
use std::time::Duration;

use support::corpus::{self, Case, SMALL_BODY, with_chunks, with_fields};
use support::{
    Prng, RawClient, Router, RouterConfig, ScriptedNode, chat, chat_body, fixed, on_both_drivers,
    pause, post, sse_head,
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
    assert!(response.text().contains(r#""id":"m""#), "{}", response.text());
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

#[test]
fn a_node_receives_end_to_end_fields_one_by_one_and_no_others() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .set("auth.required", true)
            .set("auth.api_keys", "[\"sk-client\"]")
            .node_with("n", &node, "m", 10, "api_key = \"sk-node\"")
            .start();
        let request = with_fields(
            "aUTHORIZATION: bearer sk-client\r\nCookie: session=1\r\nX-Stainless-Lang: python\r\n\
             Content-Type: application/json\r\nAccept:  text/event-stream \r\nX_Forwarded_For: 6.6.6.6\r\n\
             X-Forwarded-For: 127.0.0.1, 9.9.9.9\r\nX-Forwarded-Proto: https\r\nForwarded: for=1.1.1.1\r\n\
             Connection: keep-alive, x-private, x-request-id\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\n\
             Proxy-Authorization: Basic eA==\r\nTE: trailers\r\nTrailer: X-T\r\nUpgrade: h2c\r\n\
             X-Request-Id: request-1\r\nX-Empty:\r\nX-Twice: 1\r\nX-Twice: 2\r\nContent-Length: 13",
            SMALL_BODY,
        );
        let received = forwarded(&router, &node, &request);
        let expected = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer sk-node\r\n\
             X-Request-Id: request-1\r\nX-Forwarded-For: 127.0.0.1\r\nContent-Length: 13\r\n\
             Content-Type: application/json\r\nAccept: text/event-stream\r\nX-Empty: \r\n\
             X-Twice: 1\r\nX-Twice: 2\r\n\r\n{SMALL_BODY}",
            node.address()
        );
        assert_eq!(received, expected);
    });
}

#[test]
fn the_query_travels_on_and_the_key_may_come_as_x_api_key() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .set("auth.required", true)
            .set("auth.api_keys", "[\"sk-client\"]")
            .node("n", &node)
            .start();
        let request = "POST /v1/chat/completions?api-version=1&a=%20 HTTP/1.1\r\nHost: router\r\n\
                       X-API-Key: sk-client\r\nContent-Length: 13\r\n\r\n{\"model\":\"m\"}";
        let received = forwarded(&router, &node, request.as_bytes());
        let (line, rest) = received.split_once("\r\n").unwrap();
        assert_eq!(line, "POST /v1/chat/completions?api-version=1&a=%20 HTTP/1.1");
        assert!(!rest.to_lowercase().contains("sk-client"), "{rest}");
        assert!(!rest.to_lowercase().contains("api-key"), "{rest}");
    });
}

#[test]
fn bodies_reach_the_node_byte_for_byte() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            call.send(&fixed(&call.body));
        });
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut random = Prng::new(7);
        let mut client = router.connect();
        for size in [100, 800, 1023, 1024, 4000, 16_000, 16_384, 20_000, 65_536, 300_000, 2 << 20] {
            let filling: String = (0..size - 40)
                .map(|_| char::from(b'a' + random.below(26) as u8))
                .collect();
            let mut body = format!(" {{ \"model\" :\"m\",\n\"a\":\"{filling}\" }} ").into_bytes();
            body.resize(size.max(body.len()), b' ');
            client.send(&post("/v1/chat/completions", &body));
            assert!(client.response().body == body, "fixed length, {size} bytes");

            let mut chunked = Vec::new();
            let mut rest = body.as_slice();
            while !rest.is_empty() {
                let count = (1 + random.below(size as u64 / 3) as usize).min(rest.len());
                chunked.extend_from_slice(format!("{count:x};ext=\"v\"\r\n").as_bytes());
                chunked.extend_from_slice(&rest[..count]);
                chunked.extend_from_slice(b"\r\n");
                rest = &rest[count..];
            }
            chunked.extend_from_slice(b"0\r\nX-Trailer: 1\r\n\r\n");
            client.send(&with_chunks(&chunked));
            assert!(client.response().body == body, "chunked, {size} bytes");
        }
    });
}

#[test]
fn an_alias_replaces_the_model_name_and_nothing_else() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            call.send(&fixed(&call.body));
        });
        let router = RouterConfig::new(driver)
            .node("n", &node)
            .alias("a-much-longer-name-than-that", "m")
            .start();
        for filling in [0, 900, 20_000] {
            let around = |model: &str| {
                format!(
                    r#"{{ "metadata":{{"model":"x"}},"a":"{}","mod\u0065l" : "{model}" , "stream":false}}"#,
                    "é".repeat(filling)
                )
            };
            let mut client = router.connect();
            client.send(&post(
                "/v1/chat/completions",
                around("a-much-longer-name-than-that").as_bytes(),
            ));
            assert!(client.response().text() == around("m"), "{filling}");
        }
    });
}

#[test]
fn the_model_of_a_multipart_form_is_found_and_aliased() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            call.send(&fixed(&call.body));
        });
        let router = RouterConfig::new(driver)
            .node("n", &node)
            .alias("whisper-1", "m")
            .start();
        let form = |model: &str| {
            format!(
                "--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\
                 Content-Type: audio/wav\r\n\r\nRIFF\0\r\n--xy\r\n\r\n--xyz\r\n\
                 Content-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--xyz--\r\n"
            )
        };
        for (name, reaches) in [("m", "m"), ("whisper-1", "m")] {
            let body = form(name);
            let mut client = router.connect();
            client.send(
                format!(
                    "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: router\r\n\
                     Content-Type: multipart/form-data; boundary=xyz\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
                .as_bytes(),
            );
            assert_eq!(client.response().text(), form(reaches));
        }
    });
}

#[test]
fn each_error_has_its_status_type_code_and_keeps_or_ends_the_connection() {
    let deep = format!(r#"{{"model":"m","a":{}"#, "[".repeat(10_000));
    let long_name = format!(r#"{{"model":"{}"}}"#, "x".repeat(10 * 1024));
    let chat_path = "/v1/chat/completions";
    let rows: Vec<(&str, Vec<u8>, u16, &str, bool)> = vec![
        ("invalid JSON", post(chat_path, b"{"), 400, "invalid_json", false),
        ("no model", post(chat_path, b"{}"), 400, "missing_model", false),
        ("J01 depth 10000", post(chat_path, deep.as_bytes()), 400, "invalid_json", false),
        ("J02 two models", post(chat_path, br#"{"model":"m","model":"m"}"#), 400, "duplicate_model", false),
        ("J03 two models, one escaped", post(chat_path, br#"{"model":"m","mo\u0064el":"m"}"#), 400, "duplicate_model", false),
        ("J04 a number as model", post(chat_path, br#"{"model":1}"#), 400, "invalid_model", false),
        ("J05a stream as string", post(chat_path, br#"{"model":"m","stream":"true"}"#), 400, "invalid_stream", false),
        ("J05b stream as number", post(chat_path, br#"{"model":"m","stream":1}"#), 400, "invalid_stream", false),
        ("J06 bytes that are not UTF-8", post(chat_path, b"{\"model\":\"\xff\"}"), 400, "invalid_json", false),
        ("J07a a model with CRLF", post(chat_path, br#"{"model":"a\r\nX-Evil: 1"}"#), 404, "model_not_found", false),
        ("J07b a model of 10 KiB", post(chat_path, long_name.as_bytes()), 400, "invalid_model", false),
        ("unknown model", post(chat_path, &chat_body("unknown")), 404, "model_not_found", false),
        ("unknown path", post("/v1/nothing", b"{}"), 404, "not_found", false),
        ("L19a dots", list_at("/v1/../admin"), 404, "not_found", false),
        ("L19b escaped dots", list_at("/v1/%2e%2e/admin"), 404, "not_found", false),
        ("L19c two slashes", list_at("//v1/models"), 404, "not_found", false),
        ("L19d a slash at the end", list_at("/v1/models/"), 404, "not_found", false),
        ("unknown model id", list_at("/v1/models/unknown"), 404, "model_not_found", false),
        ("wrong method", list_at(chat_path), 405, "method_not_allowed", false),
        ("no length", with_fields("X-A: b", ""), 411, "length_required", false),
        ("H31 gzip", with_fields("Content-Encoding: gzip\r\nContent-Length: 13", SMALL_BODY), 415, "unsupported_media_type", false),
        ("over 1 KiB", with_fields("Content-Length: 1025", ""), 413, "payload_too_large", true),
    ];
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .set("proxy.max_body_bytes", 20 * 1024)
            .node("n", &node)
            .start();
        let wrong = Mutex::new(Vec::new());
        for (id, request, status, code, closes) in &rows {
            let request = if *id == "over 1 KiB" {
                &with_fields(format!("Content-Length: {}", 20 * 1024 + 1), "")
            } else {
                request
            };
            let mut client = router.connect();
            client.send(request);
            let response = client.response();
            let seen = (response.status, response.error_code(), response.head.closes());
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
            client.send(&with_fields(format!("Expect: 100-continue\r\n{fields}"), ""));
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
        client.send(&with_fields("Expect: 100-continue\r\nContent-Length: 13", SMALL_BODY));
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
            ("Authorization: Bearer sk-right\r\nContent-Length: 1025", 413),
            ("Authorization: Bearer sk-right\r\nContent-Encoding: br\r\nContent-Length: 13", 415),
        ] {
            let mut client = router.connect();
            client.send(&with_fields(format!("Expect: 100-continue\r\n{fields}"), ""));
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
                call.send(&support::event("1"));
                wait.lock().unwrap().recv().unwrap();
                call.send(b"0\r\n\r\n");
            } else {
                call.send(&fixed(&call.body));
            }
        });
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut client = router.connect();
        client.send(&post("/v1/chat/completions", br#"{"model":"m","stream":true}"#));
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
        client.send(&with_fields("Connection: Close\r\nContent-Length: 13", SMALL_BODY));
        let response = client.response();
        assert_eq!(response.status, 200);
        assert!(response.head.closes());
        client.expect_closed();
    });
}

#[test]
fn repeated_response_fields_keep_their_order_and_hop_by_hop_ones_end_here() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(
            b"HTTP/1.1 200 Fine\r\nSet-Cookie: a=1\r\nContent-Type: text/plain\r\nset-cookie: b=2\r\n\
              Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\
              Set-Cookie: c=3\r\nX-Request-Id: of-the-node\r\nX-Backpressure: overloaded\r\nServer: s\r\n\r\nok"
                .to_vec(),
        );
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut client = router.connect();
        client.send(&with_fields("X-Request-Id: mine-1\r\nContent-Length: 13", SMALL_BODY));
        let response = client.response();
        let fields: Vec<(&str, &str)> = response
            .head
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            fields,
            [
                ("Set-Cookie", "a=1"),
                ("Content-Type", "text/plain"),
                ("set-cookie", "b=2"),
                ("Set-Cookie", "c=3"),
                ("Server", "s"),
                ("Content-Length", "2"),
                ("X-Request-Id", "mine-1"),
                ("X-Backpressure", "normal"),
            ]
        );
        assert_eq!(response.text(), "ok");
    });
}

#[test]
fn a_request_id_is_kept_if_valid_and_made_if_not() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            let id = call.field("x-request-id").unwrap();
            call.send(&fixed(id.as_bytes()));
        });
        let router = RouterConfig::new(driver).node("n", &node).start();
        let ask = |fields: &str| {
            let mut client = router.connect();
            client.send(&with_fields(format!("{fields}Content-Length: 13"), SMALL_BODY));
            let response = client.response();
            let id = response.head.field("x-request-id").unwrap().to_owned();
            assert_eq!(response.text(), id, "the node and the client see one id");
            id
        };
        assert_eq!(ask("X-Request-Id: 0f8fad5b-d9cb-469f\r\n"), "0f8fad5b-d9cb-469f");
        let made = [
            ask(""),
            ask("X-Request-Id: a\r\nX-Request-Id: b\r\n"),
            ask("X-Request-Id: has blanks\r\n"),
            ask(&format!("X-Request-Id: {}\r\n", "a".repeat(1000))),
        ];
        for (index, id) in made.iter().enumerate() {
            assert!(!id.is_empty() && !id.contains(' ') && id.len() < 128, "{id}");
            assert!(!made[..index].contains(id), "ids are unique");
        }
    });
}
