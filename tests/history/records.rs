//! What is kept of requests that end in different ways, and how they are found again.

use llm_router::auth::Scope;
use llm_router::runtime::clock;
use serde_json::{Value, json};

use crate::support::{
    DEADLINE, Router, ScriptedNode, ask, chat, event, eventually, fixed, note, post, sse_head,
};
use crate::{DataDir, call, get, make_key, records, total};

/// Answers JSON with a usage, a stream with one, or breaks off, as the request's tag says.
fn node() -> ScriptedNode {
    ScriptedNode::start(|call| match call.field("x-tag").as_deref() {
        Some("stream") => {
            call.send(sse_head());
            call.send(&event(r#"{"choices":[]}"#));
            call.send(&event(
                r#"{"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}"#,
            ));
            call.send(b"0\r\n\r\n");
        }
        Some("broken") => {
            call.send(sse_head());
            call.send(&event("{}"));
            call.close();
        }
        Some("hang") => {
            call.wait_left();
            call.close();
        }
        Some("refuse") => {
            call.send(b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}");
        }
        _ => {
            let usage = r#"{"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
            call.send(&fixed(usage.as_bytes()));
        }
    })
}

fn send(router: &Router, bytes: &[u8]) -> u16 {
    let mut client = router.connect();
    client.send(bytes);
    client.response().status
}

#[track_caller]
fn assert_fields(record: &Value, expected: &Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(record[name], *value, "{name} of {record:#}");
    }
}

#[test]
fn every_way_to_end_is_kept_with_what_is_known_of_it() {
    let (data, node) = (DataDir::new(), node());
    let router = data.config().node("gpu-1", &node).start();

    assert_eq!(
        send(&router, &ask("unary").field("X-Request-Id", "mine").bytes()),
        200
    );
    let [unary] = &records(&router, &data, 1)[..] else {
        panic!()
    };
    let tokens = json!({
        "request_id": "mine", "endpoint": "chat_completions", "model": "m", "node": "gpu-1",
        "status": 200, "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "attempts": 1,
        "ended_by": "node", "ended_in": "done", "is_stream": false, "key_id": null,
    });
    assert_fields(unary, &tokens);
    assert!(
        unary["request_bytes"].as_u64() > Some(30) && unary["response_bytes"] == 51,
        "{unary:#}"
    );
    let phases = unary["phases"].as_object().unwrap();
    let spent: f64 = phases.values().map(|spent| spent.as_f64().unwrap()).sum();
    let duration = unary["duration_ms"].as_f64().unwrap();
    assert_eq!(phases.len(), 7);
    assert!(spent > 0.0 && spent <= duration + 0.01, "{unary:#}");
    let now = clock::unix_time().as_millis() as u64;
    let age = now - unary["started_at_ms"].as_u64().unwrap();
    assert!(age < DEADLINE.as_millis() as u64, "{age}");

    let mut client = router.connect();
    client.send(&ask("stream").stream().bytes());
    while client.response().status != 200 {}
    let stream = &records(&router, &data, 2)[0];
    let expected = json!({
        "status": 200, "is_stream": true, "prompt_tokens": 5, "completion_tokens": 7,
        "ended_by": "node", "ended_in": "done",
    });
    assert_fields(stream, &expected);

    let mut client = router.connect();
    client.send(&ask("broken").stream().bytes());
    client.read_to_end();
    let broken = &records(&router, &data, 3)[0];
    let expected =
        json!({"status": 200, "ended_by": "node", "ended_in": "stream", "total_tokens": null});
    assert_fields(broken, &expected);

    let mut client = router.connect();
    client.send(&ask("hang").bytes());
    eventually("the node has it", || node.request_count() == 4);
    drop(client);
    let left = &records(&router, &data, 4)[0];
    let expected =
        json!({"status": 499, "ended_by": "client", "ended_in": "first_byte", "node": "gpu-1"});
    assert_fields(left, &expected);

    assert_eq!(send(&router, &ask("x").model("=nobody").bytes()), 404);
    let unknown = &records(&router, &data, 5)[0];
    let expected = json!({
        "status": 404, "model": "=nobody", "node": "", "attempts": 0, "ended_by": "router",
        "prompt_tokens": null,
    });
    assert_fields(unknown, &expected);

    assert_eq!(send(&router, &post("/v1/embeddings", b"{")), 400);
    let invalid = &records(&router, &data, 6)[0];
    assert_fields(
        invalid,
        &json!({"status": 400, "endpoint": "embeddings", "model": ""}),
    );

    assert_eq!(send(&router, &ask("refuse").bytes()), 500);
    let refused = &records(&router, &data, 7)[0];
    assert_fields(
        refused,
        &json!({"status": 500, "ended_by": "node", "ended_in": "done"}),
    );

    // What the router answers by itself is no request of anybody's.
    router.get("/health");
    router.get("/v1/models");
    assert_eq!(records(&router, &data, 7).len(), 7);
    let metrics = router.metrics();
    assert_eq!(metrics.value("llm_router_history_records_total"), 7.0);
    assert_eq!(metrics.value("llm_router_history_dropped_total"), 0.0);
}

#[test]
fn a_request_names_its_key_also_when_it_is_refused() {
    let (data, node) = (DataDir::new(), node());
    let key = make_key(&data.path, Scope::Inference);
    let config = data
        .config()
        .set("auth.required", true)
        .set("server.workers", 1);
    let router = config
        .set("auth.api_keys", "[\"sk-of-the-file\"]")
        .node("gpu-1", &node)
        .start();
    assert_eq!(send(&router, &ask("x").key(&key).bytes()), 200);
    assert_eq!(send(&router, &ask("x").key("sk-of-the-file").bytes()), 200);
    assert_eq!(send(&router, &ask("x").key("sk-wrong").bytes()), 401);
    let kept = records(&router, &data, 3);
    assert_fields(
        &kept[0],
        &json!({"status": 401, "key_id": null, "ended_in": "auth"}),
    );
    assert_fields(&kept[1], &json!({"key_id": "config-1"}));
    let id = kept[2]["key_id"].as_str().unwrap();
    let keys = get(&router, &data, "/api/keys");
    let known = keys["keys"].as_array().unwrap();
    assert!(known.iter().any(|key| key["id"] == id), "{id} {keys:#}");
    let text = format!("{kept:?}");
    assert!(!text.contains(&key) && !text.contains("sk-wrong"), "{text}");
}

#[test]
fn filters_and_pages_find_what_they_name() {
    let (data, node) = (DataDir::new(), node());
    let config = data.config().node("gpu-1", &node);
    let router = config.node_with("gpu-2", &node, "other", 10, "").start();
    let mut client = router.connect();
    for number in 0..120 {
        let (model, tag) = match number % 4 {
            0 => ("other", "unary"),
            1 => ("m", "refuse"),
            2 => ("nobody", "unary"),
            _ => ("m", "unary"),
        };
        client.send(
            &ask(tag)
                .model(model)
                .field("X-Request-Id", &number.to_string())
                .bytes(),
        );
        client.response();
    }
    records(&router, &data, 120);
    let found = |query: &str| total(&router, &data, query);
    assert_eq!(found("model=m"), 60);
    assert_eq!(found("node=gpu-2"), 30);
    assert_eq!(found("node=gpu-2&model=m"), 0);
    assert_eq!(found("status=200"), 60);
    assert_eq!(found("status=success&model=m"), 30);
    assert_eq!(found("status=error"), 60);
    assert_eq!(found("status=4xx&model=nobody"), 30);
    assert_eq!(found("status=5xx&node=gpu-1&model=m"), 30);
    assert_eq!(found("from=0&to=1000"), 0);
    assert_eq!(found("from=1000&model=m"), 60);

    let ids = |path: &str| -> Vec<String> {
        let page = get(&router, &data, path);
        let records = page["records"].as_array().unwrap();
        let id = |record: &Value| record["request_id"].as_str().unwrap().to_owned();
        records.iter().map(id).collect()
    };
    let latest_first: Vec<_> = (0..120).rev().map(|number| number.to_string()).collect();
    for (page, expected) in latest_first.chunks(7).enumerate() {
        assert_eq!(
            ids(&format!("/api/history?per_page=7&page={}", page + 1)),
            expected
        );
    }
    assert_eq!(ids("/api/history?per_page=7&page=19"), Vec::<String>::new());
    let others: Vec<_> = (0..120).rev().filter(|number| number % 4 == 0).collect();
    let second = ids("/api/history?model=other&per_page=10&page=2");
    assert_eq!(
        second,
        others[10..20]
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    );
    let facets = get(&router, &data, "/api/history/facets");
    assert_eq!(facets["models"], json!(["m", "nobody", "other"]));
    assert_eq!(facets["nodes"], json!(["gpu-1", "gpu-2"]));
}

#[test]
fn what_cannot_be_meant_is_refused_and_only_an_administrator_may_ask() {
    let data = DataDir::new();
    let inference = make_key(&data.path, Scope::Inference);
    let router = data.config().start();
    for query in [
        "page=0",
        "page=-1",
        "page=x",
        "per_page=0",
        "per_page=201",
        "status=99",
        "status=6xx",
        "status=ok",
        "from=yesterday",
        "to=1800000000000",
        "model=%ff",
        "unknown=1",
        "page=1&page=2",
    ] {
        let response = call(&router, &data, "GET", &format!("/api/history?{query}"));
        assert_eq!(
            (response.status, response.error_code()),
            (400, "invalid_field".into()),
            "{query}"
        );
    }
    for path in [
        "/api/history/export",
        "/api/history/export?format=xml",
        "/api/history/facets?x=1",
    ] {
        assert_eq!(call(&router, &data, "GET", path).status, 400, "{path}");
    }
    let response = call(&router, &data, "POST", "/api/history");
    assert_eq!(
        (response.status, response.head.field("allow")),
        (405, Some("GET, HEAD"))
    );
    for path in [
        "/api/history",
        "/api/history/export?format=csv",
        "/api/history/facets",
    ] {
        assert_eq!(router.get(path).unwrap().status, 401, "{path}");
        let mut client = router.connect();
        let head = format!("GET {path} HTTP/1.1\r\nHost: r\r\nX-API-Key: {inference}\r\n\r\n");
        client.send(head.as_bytes());
        assert_eq!(client.response().status, 403, "{path}");
    }
    let page = get(
        &router,
        &data,
        "/api/history?model=%27%3B+DROP+TABLE+history&status=&page=100000000",
    );
    assert_eq!(
        (&page["total"], &page["total_capped"]),
        (&json!(0), &json!(false))
    );
}

#[test]
fn without_history_nothing_is_kept() {
    let (data, node) = (DataDir::new(), node());
    let config = data
        .config()
        .set("history.enabled", false)
        .node("gpu-1", &node);
    let router = config.start();
    assert_eq!(send(&router, &chat()), 200);
    router.terminate();
    assert_eq!(router.wait_exit(DEADLINE), 0);
    let kept = data
        .open()
        .query_row("SELECT count(*) FROM history", [], |row| row.get(0));
    assert_eq!(kept, Ok(0));
}

#[test]
fn history_is_switched_on_and_off_while_the_router_runs() {
    let (data, node) = (DataDir::new(), node());
    let config = data.config().node("gpu-1", &node);
    let off = config.clone().set("history.enabled", false);
    let router = off.clone().start();
    assert_eq!(send(&router, &chat()), 200);
    for (config, is_on) in [(&config, true), (&off, false)] {
        router.rewrite(config);
        let reloaded = call(&router, &data, "POST", "/api/reload");
        assert_eq!(reloaded.status, 200, "{}", reloaded.text());
        assert!(
            reloaded.text().contains("history.enabled"),
            "{}",
            reloaded.text()
        );
        assert_eq!(
            send(
                &router,
                &ask("x").field("X-Request-Id", &is_on.to_string()).bytes()
            ),
            200
        );
    }
    router.terminate();
    assert_eq!(router.wait_exit(DEADLINE), 0);
    let kept = data
        .open()
        .query_row("SELECT group_concat(request_id) FROM history", [], |row| {
            row.get(0)
        });
    assert_eq!(kept, Ok("true".to_owned()));
}

#[test]
fn a_drain_writes_everything_before_the_end() {
    let (data, node) = (DataDir::new(), node());
    let router = data.config().node("gpu-1", &node).start();
    let mut client = router.connect();
    for _ in 0..300 {
        client.send(&chat());
        assert_eq!(client.response().status, 200);
    }
    router.terminate();
    assert_eq!(router.wait_exit(DEADLINE), 0);
    let kept = data
        .open()
        .query_row("SELECT count(*) FROM history", [], |row| row.get(0));
    note("300 requests were sent");
    assert_eq!(kept, Ok(300));
}

#[test]
fn the_oldest_go_when_there_are_too_many() {
    let (data, node) = (DataDir::new(), node());
    let config = data
        .config()
        .set("history.max_rows", 1000)
        .node("gpu-1", &node);
    let router = config.start();
    let mut client = router.connect();
    for number in 0..1200 {
        client.send(&ask("x").field("X-Request-Id", &number.to_string()).bytes());
        assert_eq!(client.response().status, 200);
    }
    eventually("1000 are left", || {
        router.metrics().value("llm_router_history_records_total") == 1200.0
            && total(&router, &data, "") == 1000
    });
    let oldest = get(&router, &data, "/api/history?per_page=1&page=1000");
    assert_eq!(oldest["records"][0]["request_id"], "200");
}

#[test]
fn a_flood_without_a_key_pushes_out_no_request_of_those_who_have_one() {
    const FLOOD: u64 = 2500;
    let (data, node) = (DataDir::new(), node());
    let config = data.config().set("auth.required", true);
    let config = config
        .set("auth.api_keys", "[\"sk-of-the-file\"]")
        .set("history.max_rows", 1000);
    let router = config.node("gpu-1", &node).start();
    for _ in 0..20 {
        assert_eq!(send(&router, &ask("x").key("sk-of-the-file").bytes()), 200);
    }
    records(&router, &data, 20);

    let mut client = router.connect();
    let refused = ask("x").key("sk-wrong").bytes();
    for _ in 0..FLOOD {
        client.send(&refused);
        assert_eq!(client.response().status, 401);
    }
    let metrics = || router.metrics();
    eventually("each is written or counted", || {
        let metrics = metrics();
        let written = metrics.value("llm_router_history_records_total");
        let dropped = metrics.value("llm_router_history_dropped_total");
        written + dropped == (20 + FLOOD) as f64
    });
    eventually("those without a key are down to their share", || {
        total(&router, &data, "status=401") == 100
    });
    assert_eq!(total(&router, &data, "status=200"), 20);
    assert_eq!(total(&router, &data, ""), 120);
}
