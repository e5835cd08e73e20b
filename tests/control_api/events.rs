//! The live events: what viewers see, how often, and how watching ends.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::{
    Driver, Gate, RawClient, Router, ScriptedNode, ask as chat, eventually, on_both_drivers,
    sse_head,
};
use super::{ask, bearer, config, expect_error, login, make_key, request, router};

/// A client that watches.
pub(crate) struct Viewer {
    client: RawClient,
    received: String,
}

impl Viewer {
    #[track_caller]
    pub(crate) fn start(router: &Router, credential: &str) -> Self {
        let mut client = router.connect();
        let fields = [("Authorization", credential)];
        client.send(&request("GET", "/api/events", &fields, None));
        let head = client.head();
        assert_eq!(head.status, 200);
        assert_eq!(head.field("content-type"), Some("text/event-stream"));
        assert_eq!(head.field("cache-control"), Some("no-store"));
        Self {
            client,
            received: String::new(),
        }
    }

    /// The next event; nothing once the stream has ended as it should.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(end) = self.received.find("\n\n") {
                let event: String = self.received.drain(..end + 2).collect();
                let (name, data) = event.trim_end().split_once('\n').unwrap();
                let name = name.strip_prefix("event: ").unwrap().to_owned();
                let data = data.strip_prefix("data: ").unwrap();
                return Some((name, serde_json::from_str(data).unwrap()));
            }
            let chunk = self.client.chunk()?;
            self.received.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The next event of this name, others left out.
    #[track_caller]
    pub(crate) fn next_named(&mut self, wanted: &str) -> Value {
        loop {
            let (name, data) = self.next().unwrap();
            if name == wanted {
                return data;
            }
        }
    }
}

fn keys_of(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn a_viewer_sees_the_series_then_the_state_twice_a_second() {
    on_both_drivers(|driver| {
        let gate = Gate::default();
        let passage = gate.clone();
        let node = ScriptedNode::start(move |call| {
            call.send(sse_head());
            passage.pass();
            call.send(b"0\r\n\r\n");
        });
        let router = config(driver).node_with("gpu", &node, "m", 3, "").start();
        let admin = bearer(&login(&router).token);
        let (_, key) = make_key(&router, &admin, &["inference"]);
        let began = Instant::now();
        let mut viewer = Viewer::start(&router, &admin);
        let (name, series) = viewer.next().unwrap();
        assert_eq!(
            (name.as_str(), &series["interval_secs"]),
            ("series", &5.into())
        );
        let first_points = series["points"].as_array().unwrap().len();
        assert!((1..=180).contains(&first_points));
        let (name, first) = viewer.next().unwrap();
        assert_eq!(name, "snapshot");
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(
            keys_of(&first),
            [
                "at_ms",
                "cancelled",
                "in_flight",
                "latency",
                "load",
                "nodes",
                "queue",
                "rejections",
                "requests_per_sec",
                "store",
                "streams_active",
                "tokens_per_sec",
                "ttfb",
                "uptime_secs",
                "version"
            ]
        );
        assert_eq!(keys_of(&first["latency"]), ["p50_ms", "p95_ms", "p99_ms"]);
        assert_eq!(keys_of(&first["ttfb"]), ["p50_ms", "p95_ms"]);
        let gpu = serde_json::json!({"id": "config-gpu", "name": "gpu", "state": "online",
                                     "slots_used": 0, "slots_total": 3});
        assert_eq!(first["nodes"], serde_json::json!([gpu]));
        assert_eq!(
            (&first["store"], &first["in_flight"]),
            (&"ok".into(), &0.into())
        );

        let mut client = router.connect();
        client.send(&chat("t").key(&key).stream().bytes());
        assert_eq!(client.head().status, 200);
        let seen = Instant::now();
        while viewer.next_named("snapshot")["streams_active"] != 1 {}
        assert!(
            seen.elapsed() < Duration::from_millis(1500),
            "{:?}",
            seen.elapsed()
        );
        let during = viewer.next_named("snapshot");
        assert_eq!(during["nodes"][0]["slots_used"], 1);
        assert_eq!(during["queue"]["processing_count"], 1);
        gate.open();
        assert_eq!(client.chunk(), None);
        let after = loop {
            let snapshot = viewer.next_named("snapshot");
            if snapshot["in_flight"] == 0 {
                break snapshot;
            }
        };
        assert!(
            after["latency"]["p95_ms"].as_f64().unwrap() > 500.0,
            "{after}"
        );
        assert!(after["requests_per_sec"].as_f64().unwrap() > 0.0);
        assert_eq!(after["load"]["stats"]["total_requests"], 1);
        let point = viewer.next_named("point");
        assert_eq!(
            keys_of(&point),
            [
                "active_connections",
                "at",
                "backpressure",
                "cache_hit_rate",
                "in_flight",
                "p95_ms",
                "queue_size",
                "requests_per_sec",
                "tokens_per_sec",
                "ttfb_p95_ms"
            ]
        );
        let mut times = vec![after["at_ms"].as_u64().unwrap()];
        times.extend((0..3).map(|_| viewer.next_named("snapshot")["at_ms"].as_u64().unwrap()));
        assert!(
            times[1..]
                .windows(2)
                .all(|pair| (200..1000).contains(&(pair[1] - pair[0]))),
            "{times:?}"
        );
        // Another viewer sees the same points and one more.
        let (_, series) = Viewer::start(&router, &admin).next().unwrap();
        assert!(series["points"].as_array().unwrap().len() > first_points);
    });
}

#[test]
fn watching_ends_with_the_session() {
    on_both_drivers(|driver| {
        let router = router(driver);
        let session = login(&router);
        let admin = bearer(&session.token);
        let (id, key) = make_key(&router, &admin, &["admin"]);
        let other = bearer(&login(&router).token);
        let mut by_session = Viewer::start(&router, &admin);
        let mut by_key = Viewer::start(&router, &bearer(&key));
        let fields = [("Authorization", other.as_str())];
        by_key.next_named("snapshot");
        let revoked = ask(&router, "DELETE", &format!("/api/keys/{id}"), &fields, None);
        assert_eq!(revoked.status, 204);
        // With the next frame, of which there are two a second.
        let began = Instant::now();
        assert_eq!(by_key.next_named("expired"), serde_json::json!({}));
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "still watched for {took:?}");
        let fields = [("Authorization", admin.as_str())];
        assert_eq!(
            ask(&router, "POST", "/api/auth/logout", &fields, None).status,
            204
        );
        let began = Instant::now();
        assert_eq!(by_session.next_named("expired"), serde_json::json!({}));
        let took = began.elapsed();
        assert!(took < Duration::from_secs(7), "still watched for {took:?}");
        for viewer in [&mut by_session, &mut by_key] {
            assert_eq!(viewer.next(), None, "the stream ends as it should");
            viewer.client.send(&request("GET", "/health", &[], None));
            assert_eq!(viewer.client.response().status, 200);
        }
    });
}

#[test]
fn those_who_may_not_watch_are_told_so() {
    let router = router(Driver::Epoll);
    let admin = bearer(&login(&router).token);
    let (_, key) = make_key(&router, &admin, &["inference"]);
    expect_error(
        &ask(&router, "GET", "/api/events", &[], None),
        401,
        "not_authenticated",
    );
    let fields = [("X-API-Key", key.as_str())];
    let refused = ask(&router, "GET", "/api/events", &fields, None);
    expect_error(&refused, 403, "insufficient_scope");
    let fields = [("Authorization", admin.as_str())];
    let head = ask(&router, "HEAD", "/api/events", &fields, None);
    assert_eq!(head.status, 200);
}

#[test]
fn viewers_are_bounded_and_a_hang_up_makes_room() {
    let router = router(Driver::IoUring);
    let admin = bearer(&login(&router).token);
    let mut viewers: Vec<Viewer> = (0..64).map(|_| Viewer::start(&router, &admin)).collect();
    let fields = [("Authorization", admin.as_str())];
    let refused = ask(&router, "GET", "/api/events", &fields, None);
    expect_error(&refused, 503, "too_many_viewers");
    for viewer in &mut viewers {
        viewer.next_named("snapshot");
    }
    viewers.truncate(32);
    eventually("there is room again", || {
        let mut client = router.connect();
        client.send(&request("GET", "/api/events", &fields, None));
        client.head().status == 200
    });
    drop(viewers);
    eventually("nobody is left", || {
        router.metrics().value("llm_router_connections_active") <= 1.0
    });
}

#[test]
fn a_drain_ends_the_streams() {
    on_both_drivers(|driver| {
        let router = router(driver);
        let admin = bearer(&login(&router).token);
        let mut viewers: Vec<Viewer> = (0..3).map(|_| Viewer::start(&router, &admin)).collect();
        for viewer in &mut viewers {
            viewer.next_named("snapshot");
        }
        router.terminate();
        for viewer in &mut viewers {
            while viewer.next().is_some() {}
        }
        assert_eq!(router.wait_exit(Duration::from_secs(5)), 0);
    });
}

#[test]
fn an_old_client_sees_events_until_the_connection_ends() {
    let router = router(Driver::Epoll);
    let session = login(&router);
    let mut client = router.connect();
    let get = format!(
        "GET /api/events HTTP/1.0\r\nCookie: {}\r\n\r\n",
        session.cookie
    );
    client.send(get.as_bytes());
    let head = client.head();
    assert_eq!((head.status, head.field("transfer-encoding")), (200, None));
    let mut received = Vec::new();
    while !received
        .windows(15)
        .any(|window| window == b"event: snapshot")
    {
        received.extend(client.read_some());
    }
    assert!(received.starts_with(b"event: series\ndata: {"));
}
