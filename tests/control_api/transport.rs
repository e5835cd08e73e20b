//! How requests reach the control side and answers come back: whole, split, pipelined, too large, too many,
//! given up.

use std::fs::File;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::support::{Driver, Router, eventually, eventually_within, on_both_drivers};
use super::{answer, ask, bearer, expect_error, json, login, request, router};

/// Keeps the threads of the API busy: each change of the keys waits for this lock.
pub(crate) fn lock_keys(router: &Router) -> Flock<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(router.path("api-keys.lock"))
        .unwrap();
    Flock::lock(file, FlockArg::LockExclusive).unwrap()
}

#[test]
fn the_figures_are_those_of_the_metrics() {
    on_both_drivers(|driver| {
        let router = router(driver);
        let admin = bearer(&login(&router).token);
        let fields = [("Authorization", admin.as_str())];
        let load = json(&ask(&router, "GET", "/api/load-status", &fields, None));
        assert_eq!(
            load,
            serde_json::json!({
                "backpressure_state": "normal", "queue_size": 0, "max_queue_size": 100,
                "load_ratio": 0.0, "cache_hit_rate": 0.0, "active_connections": 1,
                "stats": {"total_requests": 0, "rejected_requests": 0, "timeout_requests": 0,
                          "avg_wait_time_ms": 0.0}
            })
        );
        let queue = json(&ask(&router, "GET", "/api/queue/stats", &fields, None));
        assert_eq!(
            queue,
            serde_json::json!({
                "waiting_count": 0, "processing_count": 0, "per_node": [], "per_model": [],
                "avg_wait_time_ms": 0.0, "avg_process_time_ms": 0.0, "timeout_count": 0,
                "rejected_count": 0
            })
        );
        let metrics = router.metrics();
        let counted = metrics.value(r#"llm_router_requests_total{endpoint="api",status="200"}"#);
        assert!(counted >= 3.0, "{counted}");
    });
}

#[test]
fn requests_on_one_connection_are_answered_in_order() {
    on_both_drivers(|driver| {
        let router = router(driver);
        let admin = bearer(&login(&router).token);
        let fields = [("Authorization", admin.as_str())];
        let wrong = r#"{"name":"a","nmae":"b"}"#;
        let mut all = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..10 {
            all.extend(request("GET", "/api/keys", &fields, None));
            all.extend(request("POST", "/api/keys", &fields, Some(wrong)));
            all.extend(request("GET", "/api/nothing", &fields, None));
            all.extend(request("GET", "/health", &[], None));
            all.extend(request("GET", "/api/load-status", &[], None));
            expected.extend([200, 400, 404, 200, 401]);
        }
        let mut client = router.connect();
        client.send(&all);
        let statuses: Vec<u16> = expected.iter().map(|_| client.response().status).collect();
        assert_eq!(statuses, expected);
    });
}

#[test]
fn a_request_may_come_in_any_pieces() {
    on_both_drivers(|driver| {
        let router = router(driver);
        let admin = bearer(&login(&router).token);
        let fields = [("Authorization", admin.as_str())];
        let mut client = router.connect();
        client.send_bytewise(&request(
            "POST",
            "/api/keys",
            &fields,
            Some(r#"{"name":"a"}"#),
        ));
        assert_eq!(client.response().status, 201);
        let head = format!(
            "POST /api/keys HTTP/1.1\r\nHost: router\r\nAuthorization: {admin}\r\n\
             Content-Type: application/json; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        client.send(head.as_bytes());
        client.send_bytewise(b"5\r\n{\"nam\r\n7;x=y\r\ne\":\"b\"}\r\n0\r\n\r\n");
        assert_eq!(client.response().status, 201);
        let head = format!(
            "POST /api/keys HTTP/1.1\r\nHost: router\r\nAuthorization: {admin}\r\n\
             Content-Type: application/json\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\n"
        );
        client.send(head.as_bytes());
        assert_eq!(client.head().status, 100);
        client.send(br#"{"name":"c"}"#);
        assert_eq!(client.response().status, 201);
        client.send(&request("GET", "/api/keys", &fields, None));
        let names = json(&client.response());
        let names: Vec<&str> = (names["keys"].as_array().unwrap().iter())
            .map(|key| key["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["a", "b", "c"]);
    });
}

#[test]
fn a_head_is_answered_without_its_body_and_old_clients_are_served() {
    let router = router(Driver::Epoll);
    let admin = bearer(&login(&router).token);
    let fields = [("Authorization", admin.as_str())];
    let mut client = router.connect();
    client.send(&request("HEAD", "/api/load-status", &fields, None));
    let head = answer(&mut client, "HEAD").head;
    assert_eq!(head.status, 200);
    let length: usize = head.field("content-length").unwrap().parse().unwrap();
    assert!(length > 100);
    client.send(&request("GET", "/api/keys", &fields, None));
    assert_eq!(client.response().status, 200, "the connection goes on");
    let mut old = router.connect();
    old.send(format!("GET /api/keys HTTP/1.0\r\nAuthorization: {admin}\r\n\r\n").as_bytes());
    let response = old.response();
    assert_eq!((response.status, response.head.closes()), (200, true));
    old.expect_closed();
}

#[test]
fn a_body_that_cannot_be_taken_is_refused() {
    on_both_drivers(|driver| {
        let router = router(driver);
        let admin = bearer(&login(&router).token);
        let auth = ("Authorization", admin.as_str());
        let body = Some(r#"{"name":"a"}"#);
        for media_type in ["text/plain", "application/x-www-form-urlencoded", "json"] {
            let fields = [auth, ("Content-Type", media_type)];
            let response = ask(&router, "POST", "/api/keys", &fields, body);
            expect_error(&response, 415, "unsupported_media_type");
        }
        let fields = [auth, ("Content-Encoding", "gzip")];
        let response = ask(&router, "POST", "/api/keys", &fields, body);
        expect_error(&response, 415, "unsupported_media_type");
        // One byte more than allowed, told in advance and not.
        let large = format!(r#"{{"name":"{}"}}"#, "n".repeat(64 * 1024 - 10));
        assert_eq!(large.len(), 64 * 1024 + 1);
        let response = ask(&router, "POST", "/api/keys", &[auth], Some(&large));
        expect_error(&response, 413, "payload_too_large");
        let mut client = router.connect();
        let head = format!(
            "POST /api/keys HTTP/1.1\r\nHost: router\r\nAuthorization: {admin}\r\n\
             Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{large}",
            large.len() + 1
        );
        client.send(head.as_bytes());
        expect_error(&client.response(), 413, "payload_too_large");
        // At the limit it is the name that is too long.
        let response = ask(
            &router,
            "POST",
            "/api/keys",
            &[auth],
            Some(&large.replacen('n', "", 2).replacen("ame", "name", 1)),
        );
        expect_error(&response, 400, "invalid_field");
        let deep = format!(r#"{{"name":{}"#, "[".repeat(60_000));
        let response = ask(&router, "POST", "/api/keys", &[auth], Some(&deep));
        expect_error(&response, 400, "invalid_json");
        let response = ask(
            &router,
            "POST",
            "/api/keys",
            &[auth],
            Some("{\"name\":\"\u{0}\"}"),
        );
        expect_error(&response, 400, "invalid_json");
    });
}

#[test]
fn a_client_that_leaves_gives_its_place_up() {
    on_both_drivers(|driver| {
        let router = router(driver);
        let admin = bearer(&login(&router).token);
        let fields = [("Authorization", admin.as_str())];
        let lock = lock_keys(&router);
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let mut client = router.connect();
                client.send(&request(
                    "POST",
                    "/api/keys",
                    &fields,
                    Some(r#"{"name":"a"}"#),
                ));
                client
            })
            .collect();
        let mut behind = router.connect();
        behind.send(&request("GET", "/api/keys", &fields, None));
        let left: f64 = cancelled(&router);
        drop(waiting);
        eventually_within(Duration::from_secs(1), "the router notices", || {
            cancelled(&router) >= left + 4.0
        });
        drop(lock);
        // What comes late for those who left is not taken for the answer of who stayed.
        let response = behind.response();
        assert_eq!(response.status, 200);
        assert!(json(&response)["keys"].is_array());
        eventually("nobody is left over", || {
            router.metrics().value("llm_router_connections_active") <= 2.0
        });
    });
}

fn cancelled(router: &Router) -> f64 {
    let metrics = router.metrics();
    let names: Vec<String> = metrics.names().map(ToString::to_string).collect();
    (names.iter())
        .filter(|name| name.starts_with("llm_router_cancelled_total"))
        .map(|name| metrics.value(name))
        .sum()
}

#[test]
fn calls_beyond_what_may_wait_are_refused_at_once() {
    on_both_drivers(|driver| {
        let router = super::config(driver).set("server.workers", 1).start();
        let admin = bearer(&login(&router).token);
        let fields = [("Authorization", admin.as_str())];
        let lock = lock_keys(&router);
        let mut waiting: Vec<_> = (0..64)
            .map(|_| {
                let mut client = router.connect();
                client.send(&request(
                    "POST",
                    "/api/keys",
                    &fields,
                    Some(r#"{"name":"a"}"#),
                ));
                client
            })
            .collect();
        let mut refused = None;
        eventually("the desk is full", || {
            let mut client = router.connect();
            client.send(&request("GET", "/api/keys", &fields, None));
            let is_answered = !client.is_silent_for(Duration::from_millis(20));
            if is_answered {
                refused = Some(client.response());
            } else {
                waiting.push(client);
            }
            is_answered
        });
        let refused = refused.unwrap();
        expect_error(&refused, 503, "control_busy");
        assert_eq!(refused.head.field("retry-after"), Some("1"));
        // What needs no thread to be refused is told what is wrong with it.
        let wrong = [("X-API-Key", "sk-wrong")];
        for (method, path, fields, status, code) in [
            ("GET", "/api/keys", &[][..], 401, "not_authenticated"),
            ("POST", "/api/nodes", &wrong, 401, "not_authenticated"),
            ("GET", "/api/nothing", &fields, 404, "not_found"),
            ("PUT", "/api/keys", &[], 405, "method_not_allowed"),
        ] {
            let told = ask(&router, method, path, fields, None);
            expect_error(&told, status, code);
        }
        // Inference and probes do not notice.
        assert_eq!(router.get("/health").unwrap().status, 200);
        drop(lock);
        for client in &mut waiting {
            assert!(matches!(client.response().status, 200 | 201 | 503));
        }
        assert_eq!(ask(&router, "GET", "/api/keys", &fields, None).status, 200);
    });
}
