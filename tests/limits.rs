//! The bounds on what a client may send, take or wait for, and what happens at each, on both drivers.

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

use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::corpus::{self, SMALL_BODY, with_chunks, with_fields};
use support::{
    End, RawClient, RouterConfig, ScriptedNode, chat, eventually, fixed, on_both_drivers, pause,
    post,
};

const LIST: &[u8] = b"GET /v1/models HTTP/1.1\r\nHost: router\r\n\r\n";

/// The time until the connection ends, with what came before.
#[track_caller]
fn time_to_end(client: &mut RawClient) -> (Duration, Vec<u8>) {
    let began = Instant::now();
    let (received, end) = client.read_to_end();
    assert_eq!(end, End::Fin);
    (began.elapsed(), received)
}

#[track_caller]
fn expect_about(took: Duration, limit_ms: u64) {
    let limit = Duration::from_millis(limit_ms);
    // Not before; and two ticks of the sweep and some scheduling later at most.
    assert!(
        took >= limit.mul_f64(0.9) && took < limit + Duration::from_millis(700),
        "{took:?} instead of {limit:?}"
    );
}

#[track_caller]
fn expect_408(received: &[u8]) {
    let text = std::str::from_utf8(received).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
        "{text:?}"
    );
    assert!(text.contains("\r\nConnection: close\r\n"), "{text:?}");
    assert!(text.contains(r#""code":"request_timeout""#), "{text:?}");
}

#[test]
fn heads_at_their_limits_are_accepted() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver).node("n", &node).start();
        let get = |fields: String| {
            format!("GET /v1/models HTTP/1.1\r\nHost: router\r\n{fields}\r\n").into_bytes()
        };
        let target = corpus::target_of(8 * 1024);
        let rows: Vec<(&str, Vec<u8>, u16)> = vec![
            (
                "a target of 8 KiB",
                format!("GET {target} HTTP/1.1\r\nHost: router\r\n\r\n").into(),
                404,
            ),
            ("100 fields", get("X-A: b\r\n".repeat(99)), 200),
            (
                "a field of 8 KiB",
                get(format!("X-A: {}\r\n", "a".repeat(8 * 1024 - 5))),
                200,
            ),
            ("a head of 32 KiB", corpus::head_of(32 * 1024), 200),
        ];
        for (id, request, status) in rows {
            let mut client = router.connect();
            client.send(&request);
            assert_eq!(client.response().status, status, "{id}");
            let mut client = router.connect();
            client.send_bytewise(&request);
            assert_eq!(client.response().status, status, "{id}, byte by byte");
        }
    });
}

#[test]
fn a_large_head_of_an_inference_request_reaches_the_node_whole() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            let size = call
                .values("x-large")
                .iter()
                .map(String::len)
                .sum::<usize>();
            call.send(&fixed(format!("{size} {}", call.body.len()).as_bytes()));
        });
        let router = RouterConfig::new(driver).node("n", &node).start();
        let large = format!("X-Large: {}\r\n", "a".repeat(8000)).repeat(3);
        let mut client = router.connect();
        for _ in 0..3 {
            client.send(&with_fields(
                format!("{large}Content-Length: 13"),
                SMALL_BODY,
            ));
            assert_eq!(client.response().text(), "24000 13");
        }
    });
}

#[test]
fn a_body_beyond_the_limit_is_refused_before_it_is_read() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .set("proxy.max_body_bytes", 2048)
            .node("n", &node)
            .start();
        let padded = |size: usize| format!("{SMALL_BODY}{}", " ".repeat(size - 13));
        let mut client = router.connect();
        client.send(&post("/v1/chat/completions", padded(2048).as_bytes()));
        assert_eq!(client.response().status, 200);
        client.send(&with_fields("Content-Length: 2049", ""));
        let response = client.response();
        assert_eq!(
            (response.status, response.error_code().as_str()),
            (413, "payload_too_large")
        );
        client.expect_closed();
    });
}

#[test]
fn a_chunked_body_is_refused_at_the_byte_beyond_the_limit() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .set("proxy.max_body_bytes", 2048)
            .node("n", &node)
            .start();
        let up_to_the_limit = format!("d\r\n{SMALL_BODY}\r\n7f3\r\n{}\r\n", " ".repeat(0x7f3));
        let mut client = router.connect();
        client.send(&with_chunks(format!("{up_to_the_limit}0\r\n\r\n")));
        assert_eq!(client.response().status, 200);
        let before = node.received_bytes();
        client.send(&with_chunks(&up_to_the_limit));
        assert!(
            client.is_silent_for(Duration::from_millis(200)),
            "the limit itself is fine"
        );
        client.send(b"1\r\n ");
        let response = client.response();
        assert_eq!(
            (response.status, response.error_code().as_str()),
            (413, "payload_too_large")
        );
        client.expect_closed();
        assert_eq!(node.received_bytes(), before);
    });
}

#[test]
fn a_client_still_sending_a_refused_body_receives_the_answer() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .set("proxy.max_body_bytes", 2048)
            .node("n", &node)
            .start();
        let mut client = router.connect();
        client.send(&with_fields("Content-Length: 500000", vec![b' '; 500_000]));
        let response = client.response();
        assert_eq!(response.status, 413);
        assert_eq!(client.expect_closed(), End::Fin);
    });
}

#[test]
fn bodies_held_by_the_whole_process_are_limited() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .set("proxy.max_body_bytes", 1 << 20)
            .set("proxy.max_buffered_bytes", 2 << 20)
            .node("n", &node)
            .start();
        let mut holders = [router.connect(), router.connect()];
        for holder in &mut holders {
            holder.send(&with_fields("Content-Length: 1000000", SMALL_BODY));
        }
        eventually("both bodies are held", || {
            router.metrics().value("llm_router_buffered_body_bytes") == 2_000_000.0
        });
        let mut refused = router.connect();
        refused.send(&with_fields("Content-Length: 1000000", SMALL_BODY));
        let response = refused.response();
        assert_eq!(
            (response.status, response.error_code().as_str()),
            (503, "queue_full")
        );
        assert_eq!(response.head.field("retry-after"), Some("1"));
        drop((holders, refused));
        router.settles();
        let metrics = router.metrics();
        let rejections = |reason: &str| {
            metrics.value(&format!(
                r#"llm_router_rejections_total{{reason="{reason}"}}"#
            ))
        };
        assert_eq!(rejections("buffer_budget"), 1.0);
        assert_eq!(rejections("overloaded"), 0.0, "counted once");
    });
}

#[test]
fn a_head_that_does_not_end_in_time_is_a_408() {
    on_both_drivers(|driver| {
        let router = RouterConfig::new(driver)
            .set("http.head_timeout_secs", 0.5)
            .start();
        let mut client = router.connect();
        client.send(LIST);
        assert_eq!(client.response().status, 200);
        client.send(b"GET /v1/mod");
        let (took, received) = time_to_end(&mut client);
        expect_408(&received);
        expect_about(took, 500);
    });
}

#[test]
fn a_head_in_drips_is_a_408_all_the_same() {
    on_both_drivers(|driver| {
        let router = RouterConfig::new(driver)
            .set("http.head_timeout_secs", 0.5)
            .start();
        let mut client = router.connect();
        let mut sender = client.sender();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for byte in &LIST[..30] {
                    sender.send(&[*byte]);
                    pause(Duration::from_millis(50));
                }
            });
            let (took, received) = time_to_end(&mut client);
            expect_408(&received);
            expect_about(took, 500);
        });
    });
}

#[test]
fn a_connection_without_a_first_byte_is_closed_in_silence() {
    on_both_drivers(|driver| {
        let router = RouterConfig::new(driver)
            .set("http.first_byte_timeout_secs", 0.5)
            .start();
        let mut client = router.connect();
        let (took, received) = time_to_end(&mut client);
        assert_eq!(received, b"");
        expect_about(took, 500);
        router.settles();
    });
}

#[test]
fn a_body_that_stalls_is_a_408_and_reaches_no_node() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .set("http.body_idle_timeout_secs", 0.5)
            .node("n", &node)
            .start();
        for request in [
            with_fields("Content-Length: 100", &SMALL_BODY[..5]),
            with_fields("Content-Length: 100000", vec![b' '; 50_000]),
            with_chunks("d\r\n{\"mod"),
            with_chunks(""),
        ] {
            let mut client = router.connect();
            client.send(&request);
            let (took, received) = time_to_end(&mut client);
            expect_408(&received);
            expect_about(took, 500);
        }
        assert_eq!(node.received_bytes(), 0);
    });
}

#[test]
fn a_body_in_drips_is_a_408_at_the_limit_of_the_whole_body() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .set("http.body_idle_timeout_secs", 5)
            .set("http.body_timeout_secs", 1)
            .node("n", &node)
            .start();
        let mut client = router.connect();
        client.send(&with_fields("Content-Length: 100", ""));
        let mut sender = client.sender();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..30 {
                    sender.send(b" ");
                    pause(Duration::from_millis(50));
                }
            });
            let (took, received) = time_to_end(&mut client);
            expect_408(&received);
            expect_about(took, 1000);
        });
        assert_eq!(node.received_bytes(), 0);
    });
}

#[test]
fn an_idle_connection_is_closed_in_silence_at_the_limit() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .set("http.idle_timeout_secs", 1)
            .set("http.first_byte_timeout_secs", 5)
            .node("n", &node)
            .start();
        for request in [LIST.to_vec(), chat()] {
            let mut client = router.connect();
            client.send(&request);
            assert_eq!(client.response().status, 200);
            let (took, received) = time_to_end(&mut client);
            assert_eq!(received, b"");
            expect_about(took, 1000);
        }
    });
}

#[test]
fn a_client_that_takes_nothing_is_left_at_the_stall_limit() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
            while call.send(&[0; 65_536]) {}
        });
        let router = RouterConfig::new(driver)
            .set("http.write_stall_timeout_secs", 1)
            .node("n", &node)
            .start();
        let mut client = RawClient::connect_with_small_window(router.address());
        client.send(&chat());
        client.head();
        let began = Instant::now();
        let left = node.leaving(0);
        expect_about(left.at.saturating_duration_since(began), 1000);
        router.settles();
        let metrics = router.metrics();
        assert_eq!(
            metrics.value(r#"llm_router_cancelled_total{phase="stream"}"#),
            1.0
        );
        assert_eq!(metrics.sum("llm_router_node_failures_total"), 0.0);
        // What it did not take is a truncated body.
        let (rest, _) = client.read_to_end();
        assert!(rest.len() < 1_000_000_000);
    });
}

#[test]
fn a_thousand_connections_without_a_byte_are_all_closed() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    on_both_drivers(|driver| {
        let router = RouterConfig::new(driver)
            .set("http.first_byte_timeout_secs", 2)
            .set("server.max_connections", 2000)
            .start();
        let mut clients: Vec<RawClient> = (0..1000).map(|_| router.connect()).collect();
        eventually("all are accepted", || {
            router.metrics().value("llm_router_connections_active") == 1001.0
        });
        let before = router.cpu_time();
        for client in &mut clients {
            assert_eq!(client.expect_closed(), End::Fin);
        }
        let used = router.cpu_time().saturating_sub(before);
        assert!(
            used < Duration::from_millis(1000),
            "{used:?} of CPU time for waiting"
        );
        drop(clients);
        router.settles();
    });
}

#[test]
fn running_out_of_descriptors_is_survived() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        // More connections are configured than descriptors allow.
        let router = RouterConfig::new(driver)
            .set("server.max_connections", 1000)
            .node("n", &node)
            .open_files(128)
            .start();
        let idle: Vec<RawClient> = (0..200).map(|_| router.connect()).collect();
        pause(Duration::from_millis(500));
        drop(idle);
        eventually("the router serves again", || {
            RawClient::try_connect(router.address()).is_some_and(|mut client| {
                client.send(&chat());
                client
                    .try_response()
                    .is_some_and(|response| response.status == 200)
            })
        });
        router.settles();
        let before = router.cpu_time();
        pause(Duration::from_millis(500));
        let used = router.cpu_time().saturating_sub(before);
        assert!(used < Duration::from_millis(100), "spins: {used:?}");
    });
}

#[test]
fn no_worker_keeps_places_for_connections_that_others_get() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .set("server.max_connections", 4)
            .node("n", &node)
            .start();
        // The kernel spreads them over both workers.
        let began = Instant::now();
        for _ in 0..40 {
            let mut client = router.connect();
            client.send(&chat());
            assert_eq!(client.response().status, 200);
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(4), "{took:?} for 40 connections");
        router.settles();
    });
}

#[test]
fn every_place_for_a_connection_can_be_used() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .set("server.max_connections", 4)
            .node("n", &node)
            .start();
        let serve = |client: &mut RawClient| {
            client.send(&chat());
            assert_eq!(client.response().status, 200);
        };
        for _ in 0..5 {
            let mut held: Vec<RawClient> = (0..4).map(|_| router.connect()).collect();
            held.iter_mut().for_each(serve);
            let mut waiting = router.connect();
            waiting.send(&chat());
            assert!(
                waiting.is_silent_for(Duration::from_millis(100)),
                "there are four places"
            );
            held.pop();
            assert_eq!(waiting.response().status, 200);
            // The others did not suffer.
            held.iter_mut().for_each(serve);
        }
    });
}
