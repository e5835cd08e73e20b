//! What `/metrics` says after a known set of requests, and that every reader of it can read it.

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

use std::io::Write;
use std::process::{Command, Stdio};

use support::corpus::{SMALL_BODY, with_fields};
use support::{
    Metrics, Router, RouterConfig, ScriptedNode, chat, chat_body, event, eventually, fixed,
    on_both_drivers, post, sse_head,
};

/// A router with two nodes that has served a known set of requests.
fn after_known_requests(driver: support::Driver) -> (Router, [ScriptedNode; 2], Metrics) {
    let node = || {
        ScriptedNode::start(|call| {
            let usage = r#"{"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}"#;
            if call.body.ends_with(b"\"stream\":true}") {
                call.send(sse_head());
                call.send(&event(usage));
                call.send(b"0\r\n\r\n");
            } else {
                call.send(&fixed(usage.as_bytes()));
            }
        })
    };
    let nodes = [node(), node()];
    let router = RouterConfig::new(driver)
        .set("server.workers", 1)
        .node("a", &nodes[0])
        .node_with("b", &nodes[1], "other", 7, "")
        .alias("nickname", "m")
        .start();
    let before = router.metrics();
    let mut client = router.connect();
    let mut ask = |request: &[u8], status: u16| {
        client.send(request);
        assert_eq!(client.response().status, status);
    };
    for _ in 0..3 {
        ask(&chat(), 200);
    }
    ask(&post("/v1/embeddings", &chat_body("nickname")), 200);
    ask(&post("/v1/chat/completions", &chat_body("other")), 200);
    ask(
        &post("/v1/completions", br#"{"model":"m","stream":true}"#),
        200,
    );
    ask(
        &post("/v1/chat/completions", &chat_body("secret-model-name")),
        404,
    );
    ask(&post("/v1/chat/completions", b"{"), 400);
    ask(
        &with_fields("Content-Encoding: gzip\r\nContent-Length: 13", SMALL_BODY),
        415,
    );
    ask(b"GET /v1/models HTTP/1.1\r\nHost: router\r\n\r\n", 200);
    ask(
        b"GET /v1/models/secret-model-id HTTP/1.1\r\nHost: router\r\n\r\n",
        404,
    );
    ask(b"GET /secret-path HTTP/1.1\r\nHost: router\r\n\r\n", 404);
    ask(
        b"GET /v1/chat/completions HTTP/1.1\r\nHost: router\r\n\r\n",
        405,
    );
    drop(client);
    router.settles();
    (router, nodes, before)
}

#[test]
fn counters_after_a_known_set_of_requests_are_exact() {
    on_both_drivers(|driver| {
        let (router, nodes, _) = after_known_requests(driver);
        let metrics = router.metrics();
        let rows = [
            (
                r#"requests_total{endpoint="chat_completions",status="200"}"#,
                4.0,
            ),
            (r#"requests_total{endpoint="embeddings",status="200"}"#, 1.0),
            (
                r#"requests_total{endpoint="completions",status="200"}"#,
                1.0,
            ),
            (
                r#"requests_total{endpoint="chat_completions",status="404"}"#,
                1.0,
            ),
            (
                r#"requests_total{endpoint="chat_completions",status="400"}"#,
                1.0,
            ),
            (
                r#"requests_total{endpoint="chat_completions",status="415"}"#,
                1.0,
            ),
            (r#"requests_total{endpoint="models",status="200"}"#, 1.0),
            (r#"requests_total{endpoint="models",status="404"}"#, 1.0),
            (r#"requests_total{endpoint="other",status="404"}"#, 1.0),
            (r#"requests_total{endpoint="other",status="405"}"#, 1.0),
            (r#"rejections_total{reason="unknown_model"}"#, 2.0),
            (r#"rejections_total{reason="bad_request"}"#, 4.0),
            (r#"rejections_total{reason="overloaded"}"#, 0.0),
            (r#"tokens_total{model="m",kind="prompt"}"#, 15.0),
            (r#"tokens_total{model="m",kind="completion"}"#, 25.0),
            (r#"tokens_total{model="other",kind="prompt"}"#, 3.0),
            (r#"node_selections_total{node="a"}"#, 5.0),
            (r#"node_selections_total{node="b"}"#, 1.0),
            (r#"node_slots{node="b"}"#, 7.0),
            (r#"node_in_flight{node="a"}"#, 0.0),
            (r#"pool_connections{node="a",state="idle"}"#, 1.0),
            (r#"pool_connections{node="b",state="idle"}"#, 1.0),
            (r#"pool_connections{node="a",state="active"}"#, 0.0),
            ("request_duration_seconds_count", 6.0),
            ("time_to_first_byte_seconds_count", 6.0),
            ("overhead_seconds_count", 6.0),
            (r#"request_latency_seconds_bucket{le="+Inf"}"#, 6.0),
            ("request_latency_seconds_count", 6.0),
            ("queue_size", 0.0),
            ("backpressure_state", 0.0),
            ("backpressure_rejections_total", 0.0),
            ("panics_total", 0.0),
            ("streams_active", 0.0),
        ];
        let wrong: Vec<String> = rows
            .iter()
            .filter(|(name, expected)| {
                metrics.get(&format!("llm_router_{name}")) != Some(*expected)
            })
            .map(|(name, expected)| {
                let found = metrics.get(&format!("llm_router_{name}"));
                format!("{name}: {found:?} instead of {expected}")
            })
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        // Unknown names were looked up as well, so there are more look-ups than selections.
        let looked_up = metrics.value("llm_router_cache_hits_total")
            + metrics.value("llm_router_cache_misses_total");
        assert!(looked_up >= 6.0, "{looked_up}");
        assert_eq!(metrics.sum("llm_router_node_failures_total"), 0.0);
        assert_eq!(metrics.sum("llm_router_cancelled_total"), 0.0);
        assert_eq!(nodes[0].request_count(), 5);
    });
}

#[test]
fn names_from_clients_never_become_labels() {
    on_both_drivers(|driver| {
        let (router, _nodes, before) = after_known_requests(driver);
        let metrics = router.metrics();
        for raw in ["secret", "nickname", "127.0.0.1"] {
            assert!(!metrics.text.contains(raw), "{raw}");
        }
        // A storm of invented names, methods and paths adds no series.
        let series = |metrics: &Metrics| {
            metrics
                .names()
                .filter(|name| !name.starts_with("llm_router_requests_total"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        for number in 0..50 {
            let mut client = router.connect();
            client.send(&post(
                &format!("/v1/{number}"),
                &chat_body(&format!("model-{number}")),
            ));
            assert_eq!(client.response().status, 404);
            client.send(&post(
                "/v1/completions",
                &chat_body(&format!("model-{number}")),
            ));
            assert_eq!(client.response().status, 404);
        }
        let after = router.metrics();
        assert_eq!(series(&after), series(&metrics));
        assert!(series(&before).len() <= series(&after).len());
        assert!(!after.text.contains("model-"));
    });
}

#[test]
fn promtool_accepts_the_page() {
    on_both_drivers(|driver| {
        let (router, _nodes, before) = after_known_requests(driver);
        let after = router.metrics();
        for metrics in [before, after] {
            let mut promtool = Command::new("promtool")
                .args(["check", "metrics"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("promtool is part of this test");
            promtool
                .stdin
                .take()
                .unwrap()
                .write_all(metrics.text.as_bytes())
                .unwrap();
            let output = promtool.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned()
                + &String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{said}");
            assert_eq!(said.trim(), "", "promtool has remarks");
        }
    });
}

#[test]
fn the_page_says_what_it_is_and_needs_a_key_only_if_told_to() {
    on_both_drivers(|driver| {
        let router = RouterConfig::new(driver)
            .set("auth.required", true)
            .set("auth.api_keys", "[\"sk-right\"]")
            .set("metrics.require_key", true)
            .start();
        let mut client = router.connect();
        client.send(b"GET /metrics HTTP/1.1\r\nHost: router\r\n\r\n");
        assert_eq!(client.response().status, 401);
        client.send(
            b"GET /metrics HTTP/1.1\r\nHost: router\r\nAuthorization: Bearer sk-right\r\n\r\n",
        );
        let response = client.response();
        assert_eq!(response.status, 200);
        assert_eq!(
            response.head.field("content-type"),
            Some("text/plain; version=0.0.4; charset=utf-8")
        );
        let open = RouterConfig::new(driver)
            .set("auth.required", true)
            .set("auth.api_keys", "[\"sk-right\"]")
            .start();
        assert_eq!(open.get("/metrics").unwrap().status, 200);
    });
}

#[test]
fn the_driver_in_use_is_exported() {
    on_both_drivers(|driver| {
        let metrics = RouterConfig::new(driver).start().metrics();
        let label = metrics
            .names()
            .find(|name| name.starts_with("llm_router_build_info{"))
            .unwrap()
            .to_owned();
        assert!(
            label.contains(&format!("io_driver=\"{}", driver.name())),
            "{label}"
        );
        assert!(label.contains("version=\""), "{label}");
        assert_eq!(metrics.value(&label), 1.0);
    });
}

#[test]
fn body_bytes_are_those_of_bodies_alone_in_every_direction() {
    const ANSWER: &str = r#"{"id":"1"}"#;
    const EVENTS: [&str; 3] = ["a", "bb", "[DONE]"];
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            if call.field("x-stream").is_none() {
                call.send(&fixed(ANSWER.as_bytes()));
                return;
            }
            call.send(sse_head());
            for data in EVENTS {
                call.send(&event(data));
            }
            call.send(b"0\r\n\r\n");
        });
        // One worker: what was answered before a scrape is counted in it.
        let router = RouterConfig::new(driver)
            .set("server.workers", 1)
            .node("n", &node)
            .start();
        let before = router.metrics();
        let mut client = router.connect();
        client.send(&chat());
        assert_eq!(client.response().text(), ANSWER);
        client.send(&with_fields(
            "X-Stream: 1\r\nTransfer-Encoding: chunked",
            "5\r\n{\"mod\r\n8\r\nel\":\"m\"}\r\n0\r\n\r\n",
        ));
        let stream = EVENTS.map(|data| format!("data: {data}\n\n")).concat();
        assert_eq!(client.response().text(), stream);
        let after = router.metrics();
        let moved = |direction: &str| {
            let name = format!(r#"llm_router_body_bytes_total{{direction="{direction}"}}"#);
            after.value(&name) - before.value(&name)
        };
        let asked = (chat_body("m").len() + SMALL_BODY.len()) as f64;
        let answered = (ANSWER.len() + stream.len()) as f64;
        assert_eq!(moved("from_client"), asked);
        assert_eq!(moved("to_node"), asked);
        assert_eq!(moved("from_node"), answered);
        // The first scrape is a body as well, counted once it was sent.
        assert_eq!(moved("to_client"), answered + before.text.len() as f64);
    });
}

#[test]
fn bytes_that_are_no_request_are_counted_and_leave_an_access_record() {
    on_both_drivers(|driver| {
        let router = RouterConfig::new(driver)
            .set("log.access", "\"./access.log\"")
            .start();
        let mut client = router.connect();
        client.send(b"GET /\x01 HTTP/1.1\r\nHost: router\r\n\r\n");
        let response = client.response();
        assert_eq!(response.status, 400);
        client.expect_closed();
        eventually("the record is written", || {
            router.file("access.log").contains("\"status\":400")
        });
        let log = router.file("access.log");
        let records: Vec<serde_json::Value> = log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|record: &serde_json::Value| record["status"] == 400)
            .collect();
        assert_eq!(records.len(), 1, "{log}");
        assert_eq!(records[0]["endpoint"], "other");
        assert_eq!(records[0]["ended_by"], "router");
        assert_eq!(records[0]["attempts"], 0);
        assert_eq!(records[0]["response_bytes"], response.body.len());
        assert_eq!(
            records[0]["request_id"].as_str(),
            response.head.field("x-request-id")
        );
        let metrics = router.metrics();
        let requests = r#"llm_router_requests_total{endpoint="other",status="400"}"#;
        assert_eq!(metrics.value(requests), 1.0);
        let rejections = r#"llm_router_rejections_total{reason="bad_request"}"#;
        assert_eq!(metrics.value(rejections), 1.0);
    });
}

#[test]
fn a_request_that_no_node_answered_has_a_duration_and_no_first_byte() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .set("server.workers", 1)
            .node("n", &node)
            .start();
        node.stop_listening();
        let mut client = router.connect();
        client.send(&chat());
        assert_eq!(client.response().status, 502);
        let metrics = router.metrics();
        let count = |name: &str| metrics.value(&format!("llm_router_{name}_count"));
        assert_eq!(count("request_duration_seconds"), 1.0);
        assert_eq!(count("overhead_seconds"), 1.0);
        assert_eq!(count("time_to_first_byte_seconds"), 0.0);
    });
}
