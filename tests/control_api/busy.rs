//! A control API that is kept busy: new requests are refused, what was begun goes on.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::events::Viewer;
use super::login::from_address;
use super::support::{
    RawClient, Response, Router, ScriptedNode, ask as chat, eventually, fixed, on_both_drivers,
};
use super::transport::lock_keys;
use super::{answer, ask, bearer, config, json, login, make_key, request};

/// More than two pieces of an export hold.
const RECORDS: usize = 1100;
/// More than a worker has places.
const CLIENTS: u8 = 80;

#[test]
fn what_was_begun_goes_on_after_no_thread_had_time_and_no_place_was_left() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = config(driver)
            .set("server.workers", 1)
            .node("gpu", &node)
            .start();
        let admin = bearer(&login(&router).token);
        let fields = [("Authorization", admin.as_str())];
        fill_history(&router, &admin);
        let mut viewer = Viewer::start(&router, &admin);
        let mut exporter = begin_export(&router, &admin);
        exporter.read_exact(1);
        let lock = lock_keys(&router);
        let mut waiting: Vec<RawClient> = Vec::new();
        eventually("requests are refused", || {
            let mut client = router.connect();
            let body = Some(r#"{"name":"a"}"#);
            client.send(&request("POST", "/api/keys", &fields, body));
            let is_answered = !client.is_silent_for(Duration::from_millis(20));
            match is_answered {
                true => assert_eq!(client.response().status, 503),
                false => waiting.push(client),
            }
            is_answered
        });
        // The viewer is looked at after five seconds; a question is given up after ten, and asked again.
        let exporting =
            std::thread::spawn(move || exporter.read_to_end_within(Duration::from_secs(30)));
        let began = Instant::now();
        let mut last = Instant::now();
        while began.elapsed() < Duration::from_secs(12) {
            viewer.next_named("snapshot");
            let pause = last.elapsed();
            assert!(pause < Duration::from_secs(3), "nothing for {pause:?}");
            last = Instant::now();
        }
        drop(lock);
        drop(waiting);
        let (exported, _) = exporting.join().unwrap();
        assert!(exported.ends_with(b"\n]\n\r\n0\r\n\r\n"), "not whole");
        log_out(&router, &admin);
        assert_eq!(viewer.next_named("expired"), serde_json::json!({}));
        assert_eq!(viewer.next(), None);
    });
}

#[test]
fn clients_without_credentials_cut_neither_viewers_nor_exports_nor_nodes_off() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = config(driver)
            .set("server.workers", 1)
            .set("health.heartbeat_timeout_secs", 10)
            .set("health.probe_interval_secs", 1)
            .set("auth.admin_password", "\"correct horse\"")
            .node("gpu", &node)
            .start();
        let log_in = || {
            let body = r#"{"username":"admin","password":"correct horse"}"#;
            let response = ask(&router, "POST", "/api/auth/login", &[], Some(body));
            bearer(json(&response)["token"].as_str().unwrap())
        };
        let (admin, other) = (log_in(), log_in());
        fill_history(&router, &admin);
        let (mut staying, mut leaving) = (
            Viewer::start(&router, &admin),
            Viewer::start(&router, &other),
        );
        let reporting = Reporting::start(&router, &admin, &node);
        let mut pace = Viewer::start(&router, &admin);

        let is_over = AtomicBool::new(false);
        let refused = AtomicU32::new(0);
        std::thread::scope(|scope| {
            let _over = Over(&is_over);
            for client in 0..CLIENTS {
                let (router, is_over, refused) = (&router, &is_over, &refused);
                scope.spawn(move || keep_logging_in(router, client, is_over, refused));
            }
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    pace.next_named("snapshot");
                    assert_eq!(reporting.report(&router), "online");
                }
            });
            eventually("the control API is busy", || {
                refused.load(Ordering::Relaxed) > u32::from(CLIENTS)
            });
            let exporting = scope.spawn(|| {
                let until = Instant::now() + Duration::from_secs(8);
                let mut count = 0;
                while Instant::now() < until || count == 0 {
                    count += u32::from(export(&router, &admin));
                }
            });
            log_out(&router, &other);
            let began = Instant::now();
            assert_eq!(leaving.next_named("expired"), serde_json::json!({}));
            assert_eq!(leaving.next(), None);
            let took = began.elapsed();
            assert!(took < Duration::from_secs(8), "still watched for {took:?}");
            while began.elapsed() < Duration::from_secs(12) {
                staying.next_named("snapshot");
            }
            // A token that is not the node's takes no place, however few there are.
            assert_eq!(reporting.send(&router, "no token of it").status, 401);
            exporting.join().unwrap();
        });
        staying.next_named("point");
    });
}

/// A registered node that reports itself.
struct Reporting {
    path: String,
    token: String,
}

impl Reporting {
    fn start(router: &Router, admin: &str, node: &ScriptedNode) -> Self {
        let body = serde_json::json!({
            "name": "reporting", "base_url": format!("http://{}", node.address()),
        });
        let fields = [("Authorization", admin)];
        let body = Some(body.to_string());
        let registered = ask(router, "POST", "/api/nodes", &fields, body.as_deref());
        assert_eq!(registered.status, 201, "{}", registered.text());
        let registered = json(&registered);
        let reporting = Self {
            path: format!(
                "/api/nodes/{}/heartbeat",
                registered["id"].as_str().unwrap()
            ),
            token: registered["node_token"].as_str().unwrap().to_owned(),
        };
        eventually("the node is online", || {
            reporting.report(router) == "online"
        });
        reporting
    }

    /// The state it is answered.
    #[track_caller]
    fn report(&self, router: &Router) -> String {
        let response = self.send(router, &self.token);
        assert_eq!(response.status, 200, "{}", response.text());
        json(&response)["state"].as_str().unwrap().to_owned()
    }

    fn send(&self, router: &Router, token: &str) -> Response {
        let body = Some(r#"{"cpu_usage":1,"memory_usage":1}"#);
        ask(router, "POST", &self.path, &[("X-Node-Token", token)], body)
    }
}

/// Sets its flag when dropped, also by a failed assertion: a scope waits for its threads.
struct Over<'o>(&'o AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Guesses passwords, from another address after five.
fn keep_logging_in(router: &Router, client: u8, is_over: &AtomicBool, refused: &AtomicU32) {
    let body = Some(r#"{"username":"admin","password":"wrong"}"#);
    let login = request("POST", "/api/auth/login", &[], body);
    for host in 1..=u8::MAX {
        let mut guesser = from_address([127, 1, client, host], router.address());
        loop {
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            guesser.send(&login);
            match answer(&mut guesser, "POST").status {
                503 => refused.fetch_add(1, Ordering::Relaxed),
                429 => break,
                status => {
                    assert_eq!(status, 401);
                    0
                }
            };
        }
    }
}

/// One export by a client with a small window; false if it was refused, which it may be before it has begun.
fn export(router: &Router, admin: &str) -> bool {
    let exported = begin_export(router, admin).response();
    if exported.status == 503 {
        return false;
    }
    let exported: Vec<Value> = serde_json::from_slice(&exported.body).unwrap();
    assert_eq!(exported.len(), RECORDS);
    true
}

fn begin_export(router: &Router, admin: &str) -> RawClient {
    let mut client = RawClient::connect_with_small_window(router.address());
    let fields = [("Authorization", admin), ("Connection", "close")];
    let path = "/api/history/export?format=json";
    client.send(&request("GET", path, &fields, None));
    client
}

/// A history of many pieces, more than the kernel holds for a client that does not read.
fn fill_history(router: &Router, admin: &str) {
    let (_, key) = make_key(router, admin, &["inference"]);
    let mut client = router.connect();
    client.send(&chat("x").key(&key).bytes());
    assert_eq!(client.response().status, 200);
    eventually("the request is in the history", || {
        let fields = [("Authorization", admin)];
        let page = ask(router, "GET", "/api/history", &fields, None);
        json(&page)["total"] == 1
    });
    let database = rusqlite::Connection::open(router.path("llm-router.db")).unwrap();
    let long_name = "UPDATE copy SET request_id = hex(zeroblob(2000));";
    database
        .execute_batch(&format!(
            "BEGIN IMMEDIATE; CREATE TEMP TABLE copy AS SELECT * FROM history; {long_name}"
        ))
        .unwrap();
    for _ in 1..RECORDS {
        database
            .execute_batch("UPDATE copy SET id = id - 1; INSERT INTO history SELECT * FROM copy;")
            .unwrap();
    }
    database.execute_batch("COMMIT").unwrap();
}

/// Ends a session, as soon as there is time for it.
fn log_out(router: &Router, token: &str) {
    let fields = [("Authorization", token)];
    eventually("the logout is done", || {
        ask(router, "POST", "/api/auth/logout", &fields, None).status == 204
    });
}
