//! Requests that wait for a slot, over real sockets on both drivers: here what they are told and that
//! they are served, [`refusals`] when they may not wait or wait too long, [`order`] and the handing over
//! of slots, [`leaving`], [`nodes`] that come and go meanwhile or are [`unreachable`], and [`streams`] that
//! begin early.

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

mod leaving;
mod nodes;
mod order;
mod refusals;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod unreachable;

use std::time::Duration;

use support::{
    Ask, Desk, Driver, RawClient, Response, Router, RouterConfig, ask, eventually, on_both_drivers,
    pause,
};

/// A router before one desk with this many slots.
fn routed(driver: Driver, slots: u32) -> (Desk, Router) {
    let desk = Desk::start();
    let router = RouterConfig::new(driver)
        .node_with("n", desk.node(), "m", slots, "")
        .start();
    (desk, router)
}

/// Sends a request on a connection of its own.
fn send(router: &Router, ask: &Ask) -> RawClient {
    let mut client = router.connect();
    client.send(&ask.bytes());
    client
}

/// Sends a request that waits as the `place`th of all that wait.
#[track_caller]
fn send_to_wait(router: &Router, ask: &Ask, place: usize) -> RawClient {
    let client = send(router, ask);
    router.until_waiting(place);
    client
}

/// Sends requests with these tags, each once the one before it waits.
#[track_caller]
fn line_up(router: &Router, tags: &[&str]) -> Vec<RawClient> {
    let places = 1..=tags.len();
    places
        .zip(tags)
        .map(|(place, tag)| send_to_wait(router, &ask(tag), place))
        .collect()
}

#[track_caller]
fn expect_served(client: &mut RawClient, tag: &str) -> Response {
    let response = client.response();
    assert_eq!(
        (response.status, response.text()),
        (200, format!(r#"{{"tag":"{tag}"}}"#).as_str())
    );
    response
}

/// What a response says about its wait: place and estimate.
#[track_caller]
fn notice(response: &Response) -> (Option<&str>, Option<&str>) {
    let head = &response.head;
    (
        head.field("x-queue-position"),
        head.field("x-estimated-wait"),
    )
}

fn is_near(seconds: f64, wanted: f64) -> bool {
    (wanted..wanted + 0.9).contains(&seconds)
}

#[test]
fn requests_beyond_a_nodes_slots_wait_and_are_told_their_place() {
    on_both_drivers(|driver| {
        let (desk, router) = routed(driver, 2);
        let mut first = send(&router, &ask("a"));
        let mut second = send(&router, &ask("b"));
        desk.expect("a");
        desk.expect("b");
        let tags = ["c", "d", "e"];
        let mut waiting = line_up(&router, &tags);
        assert_eq!(router.metrics().waiting_for("m"), 3.0);
        assert_eq!(desk.arrived().len(), 2, "the others wait");
        desk.open();
        for (client, tag) in [(&mut first, "a"), (&mut second, "b")] {
            let response = expect_served(client, tag);
            assert_eq!(notice(&response), (None, None), "it did not wait");
            assert_eq!(response.head.field("x-backpressure"), Some("normal"));
        }
        // A second is assumed until something was measured: the place, halved over two slots.
        let expected = [("1", "1"), ("2", "1"), ("3", "2")];
        for ((client, tag), (place, wait)) in waiting.iter_mut().zip(tags).zip(expected) {
            let response = expect_served(client, tag);
            assert_eq!(notice(&response), (Some(place), Some(wait)));
        }
        // A connection whose request waited serves the next one, which need not.
        waiting[0].send(&ask("f").bytes());
        let response = expect_served(&mut waiting[0], "f");
        assert_eq!(notice(&response), (None, None));
        drop((first, second, waiting));
        router.settles();
        let metrics = router.metrics();
        assert_eq!(metrics.value("llm_router_queue_wait_seconds_count"), 3.0);
        assert_eq!(metrics.sum("llm_router_rejections_total"), 0.0);
    });
}

#[test]
fn requests_beyond_max_concurrent_wait_although_nodes_are_free() {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        let router = RouterConfig::new(driver)
            .set("load_manager.max_concurrent", 1)
            .node_with("n", desk.node(), "m", 10, "")
            .start();
        let mut first = send(&router, &ask("a"));
        desk.expect("a");
        let mut waiting = line_up(&router, &["b", "c"]);
        desk.release("a");
        expect_served(&mut first, "a");
        desk.serve("b");
        let response = expect_served(&mut waiting[0], "b");
        assert_eq!(notice(&response), (Some("1"), Some("1")));
        desk.serve("c");
        let response = expect_served(&mut waiting[1], "c");
        assert_eq!(notice(&response), (Some("2"), Some("2")));
        assert_eq!(desk.present_max(), 1);
        drop((first, waiting));
        router.settles();
    });
}

#[test]
fn whoever_has_its_whole_answer_finds_its_slot_free() {
    on_both_drivers(|driver| {
        let (desk, router) = routed(driver, 1);
        desk.open();
        let mut client = router.connect();
        for round in 0..100 {
            let tag = round.to_string();
            client.send(&ask(&tag).bytes());
            let response = expect_served(&mut client, &tag);
            assert_eq!(notice(&response), (None, None), "{round}");
        }
        let metrics = router.metrics();
        assert_eq!(metrics.value("llm_router_queue_wait_seconds_count"), 0.0);
    });
}

#[test]
fn the_estimate_follows_the_measured_service() {
    on_both_drivers(|driver| {
        let (desk, router) = routed(driver, 1);
        let mut first = send(&router, &ask("a"));
        desk.expect("a");
        // The service itself takes its time.
        pause(Duration::from_millis(1100));
        desk.release("a");
        expect_served(&mut first, "a");
        first.send(&ask("b").bytes());
        desk.expect("b");
        let mut clients = vec![first];
        clients.extend(line_up(&router, &["c", "d"]));
        desk.open();
        let expected = [
            ("b", (None, None)),
            ("c", (Some("1"), Some("2"))),
            ("d", (Some("2"), Some("3"))),
        ];
        for (client, (tag, expected)) in clients.iter_mut().zip(expected) {
            assert_eq!(notice(&expect_served(client, tag)), expected);
        }
    });
}

#[test]
fn the_time_in_the_queue_is_measured_and_is_not_ours() {
    on_both_drivers(|driver| {
        let (desk, router) = routed(driver, 1);
        let mut first = send(&router, &ask("a"));
        desk.expect("a");
        let mut second = send_to_wait(&router, &ask("b"), 1);
        pause(Duration::from_millis(1000));
        desk.open();
        expect_served(&mut first, "a");
        expect_served(&mut second, "b");
        drop((first, second));
        router.settles();
        let metrics = router.metrics();
        let waited = metrics.value("llm_router_queue_wait_seconds_sum");
        assert!(is_near(waited, 1.0), "{waited} s in the queue");
        let own = metrics.value("llm_router_overhead_seconds_sum");
        assert!(own < 0.5, "{own} s of our own");
    });
}

#[test]
fn backpressure_is_told_at_its_thresholds_on_every_inference_response() {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        let idle = Desk::start();
        idle.open();
        let router = RouterConfig::new(driver)
            .set("load_manager.max_waiting", 10)
            .node_with("n", desk.node(), "m", 1, "")
            .node_with("o", idle.node(), "other", 1, "")
            .start();
        let first = send(&router, &ask("a"));
        desk.expect("a");
        let mut waiting = Vec::new();
        let mut prober = router.connect();
        for place in 1..=8 {
            waiting.push(send_to_wait(&router, &ask(&format!("w{place}")), place));
            let (word, state) = match place {
                ..5 => ("normal", 0.0),
                5..8 => ("warning", 1.0),
                _ => ("overloaded", 2.0),
            };
            assert_eq!(
                router.metrics().value("llm_router_backpressure_state"),
                state,
                "at {place}"
            );
            for (request, status) in [
                (ask("e").model("nobody"), 404),
                (ask("o").model("other"), 200),
            ] {
                prober.send(&request.bytes());
                let response = prober.response();
                assert_eq!(response.status, status);
                assert_eq!(
                    response.head.field("x-backpressure"),
                    Some(word),
                    "at {place}"
                );
                assert_eq!(notice(&response), (None, None));
            }
        }
        desk.open();
        let states: Vec<String> = waiting
            .iter_mut()
            .enumerate()
            .map(|(index, client)| {
                let response = expect_served(client, &format!("w{}", index + 1));
                response.head.field("x-backpressure").unwrap().to_owned()
            })
            .collect();
        assert_eq!(states.last().map(String::as_str), Some("normal"));
        drop((first, waiting, prober));
        router.settles();
    });
}

#[test]
fn refused_requests_tell_the_backpressure_too() {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        let router = RouterConfig::new(driver)
            .set("load_manager.max_waiting", 2)
            .set("auth.required", true)
            .set("auth.api_keys", r#"["sk-a"]"#)
            .node_with("n", desk.node(), "m", 1, "")
            .start();
        let _first = send(&router, &ask("a").key("sk-a"));
        desk.expect("a");
        let _waiting = send_to_wait(&router, &ask("b").key("sk-a"), 1);
        for (request, status) in [
            (ask("c").bytes(), 401),
            (ask("c").key("sk-a").model("\\").bytes(), 400),
            (
                ask("c").key("sk-a").field("Content-Encoding", "br").bytes(),
                415,
            ),
        ] {
            let mut client = router.connect();
            client.send(&request);
            let response = client.response();
            assert_eq!(response.status, status);
            assert_eq!(response.head.field("x-backpressure"), Some("warning"));
        }
    });
}

#[test]
fn what_the_router_answers_by_itself_says_nothing_of_a_queue() {
    on_both_drivers(|driver| {
        let (desk, router) = routed(driver, 1);
        let first = send(&router, &ask("a"));
        desk.expect("a");
        let waiting = send_to_wait(&router, &ask("b"), 1);
        for path in ["/health", "/v1/models", "/metrics"] {
            let response = router.get(path).unwrap();
            assert_eq!(response.status, 200);
            assert_eq!(notice(&response), (None, None), "{path}");
        }
        drop((first, waiting));
        eventually("nobody waits", || {
            router.metrics().value("llm_router_queue_size") == 0.0
        });
    });
}
