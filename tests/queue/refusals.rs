//! Requests that may not wait, or have waited too long.

use std::time::{Duration, Instant};

use crate::support::{Desk, Driver, RawClient, Router, RouterConfig, ask, on_both_drivers, pause};
use crate::{expect_served, line_up, notice, send, send_to_wait};

const OVERLOADED: &str = r#"{"error":{"message":"Service overloaded. Please retry later.","type":"service_unavailable","code":"queue_full"}}"#;

/// A router with a desk of one slot, taken by `a`.
fn busy(config: RouterConfig) -> (Desk, Router, RawClient) {
    let desk = Desk::start();
    let router = config.node_with("n", desk.node(), "m", 1, "").start();
    let first = send(&router, &ask("a"));
    desk.expect("a");
    (desk, router, first)
}

#[test]
fn while_overloaded_who_would_wait_is_refused_and_who_need_not_is_served() {
    on_both_drivers(|driver| {
        let idle = Desk::start();
        idle.open();
        let (desk, router, mut first) = busy(
            RouterConfig::new(driver)
                .set("load_manager.max_waiting", 5)
                .node_with("o", idle.node(), "other", 1, ""),
        );
        let tags = ["b", "c", "d", "e"];
        let mut waiting = line_up(&router, &tags);
        let mut refused = router.connect();
        for _ in 0..2 {
            refused.send(&ask("f").bytes());
            let response = refused.response();
            assert_eq!((response.status, response.text()), (503, OVERLOADED));
            // The fifth place at the assumed second each.
            assert_eq!(response.head.field("retry-after"), Some("5"));
            assert_eq!(response.head.field("x-backpressure"), Some("overloaded"));
            assert_eq!(
                response.head.field("content-type"),
                Some("application/json")
            );
            assert_eq!(notice(&response), (None, None), "it did not wait");
        }
        // On the same connection, because nothing is wrong with it.
        refused.send(&ask("g").model("other").bytes());
        let response = expect_served(&mut refused, "g");
        assert_eq!(response.head.field("x-backpressure"), Some("overloaded"));
        let metrics = router.metrics();
        assert_eq!(metrics.rejections("overloaded"), 2.0);
        assert_eq!(
            metrics.value("llm_router_backpressure_rejections_total"),
            2.0
        );
        desk.open();
        expect_served(&mut first, "a");
        for (client, tag) in waiting.iter_mut().zip(tags) {
            expect_served(client, tag);
        }
        refused.send(&ask("h").bytes());
        expect_served(&mut refused, "h");
        assert_eq!(desk.arrived(), ["a", "b", "c", "d", "e", "h"]);
        drop((first, waiting, refused));
        router.settles();
    });
}

#[test]
fn while_overloaded_a_model_nobody_waits_for_yet_may_not_begin_to_wait_either() {
    on_both_drivers(|driver| {
        let other = Desk::start();
        let (_desk, router, _first) = busy(
            RouterConfig::new(driver)
                .set("load_manager.max_waiting", 1)
                .node_with("o", other.node(), "other", 1, ""),
        );
        let _waiting = line_up(&router, &["b"]);
        let _holder = send(&router, &ask("c").model("other"));
        other.expect("c");
        let response = send(&router, &ask("d").model("other")).response();
        assert_eq!((response.status, response.text()), (503, OVERLOADED));
        assert_eq!(response.head.field("retry-after"), Some("1"));
    });
}

#[test]
fn a_full_queue_of_one_model_is_a_429_and_leaves_the_others_alone() {
    on_both_drivers(|driver| {
        let other = Desk::start();
        let (desk, router, mut first) = busy(
            RouterConfig::new(driver)
                .set("queue.max_size", 2)
                .node_with("o", other.node(), "other", 1, ""),
        );
        let mut waiting = line_up(&router, &["b", "c"]);
        let mut refused = send(&router, &ask("d"));
        let response = refused.response();
        assert_eq!(response.status, 429);
        assert_eq!(
            response.text(),
            r#"{"error":{"message":"The queue is full. Please retry in 3 seconds.","type":"queue_full","code":"queue_full"}}"#
        );
        assert_eq!(response.head.field("retry-after"), Some("3"));
        assert_eq!(response.head.field("x-backpressure"), Some("normal"));
        assert_eq!(router.metrics().rejections("model_queue_full"), 1.0);
        assert_eq!(
            router
                .metrics()
                .value("llm_router_backpressure_rejections_total"),
            0.0,
            "the router as a whole is not overloaded"
        );
        // The queue of the other model has room.
        let mut holder = send(&router, &ask("o1").model("other"));
        other.expect("o1");
        let mut queued = send_to_wait(&router, &ask("o2").model("other"), 3);
        other.open();
        expect_served(&mut holder, "o1");
        expect_served(&mut queued, "o2");
        desk.serve("a");
        expect_served(&mut first, "a");
        desk.expect("b");
        // There is room again.
        refused.send(&ask("e").bytes());
        router.until_waiting(2);
        desk.open();
        expect_served(&mut waiting[0], "b");
        expect_served(&mut waiting[1], "c");
        let response = expect_served(&mut refused, "e");
        assert_eq!(response.head.field("x-queue-position"), Some("2"));
        drop((first, waiting, refused, holder, queued));
        router.settles();
    });
}

/// A request waits for one second in vain.
fn waits_in_vain(driver: Driver, config: RouterConfig, reason: &str, body: &str) {
    let (desk, router, mut first) = busy(config);
    let mut client = router.connect();
    let began = Instant::now();
    client.send(&ask("b").bytes());
    router.until_waiting(1);
    let response = client.response();
    let took = began.elapsed();
    assert_eq!((response.status, response.text()), (504, body));
    assert!(
        took >= Duration::from_millis(990) && took < Duration::from_millis(1900),
        "{driver:?}: after {took:?}"
    );
    assert_eq!(notice(&response), (Some("1"), Some("1")));
    assert_eq!(response.head.field("x-backpressure"), Some("normal"));
    assert_eq!(router.metrics().rejections(reason), 1.0);
    assert_eq!(router.metrics().value("llm_router_queue_size"), 0.0);
    desk.open();
    expect_served(&mut first, "a");
    client.send(&ask("c").bytes());
    let response = expect_served(&mut client, "c");
    assert_eq!(notice(&response), (None, None));
    assert_eq!(desk.arrived(), ["a", "c"], "nobody asked the node for b");
    drop((first, client));
    router.settles();
}

#[test]
fn a_wait_beyond_the_routers_limit_is_a_504_wait_timeout() {
    on_both_drivers(|driver| {
        let config = RouterConfig::new(driver).set("load_manager.default_timeout_secs", 1);
        waits_in_vain(
            driver,
            config,
            "wait_timeout",
            r#"{"error":{"message":"Request timeout after 1 second","type":"gateway_timeout","code":"wait_timeout"}}"#,
        );
    });
}

#[test]
fn a_wait_beyond_the_queues_limit_is_a_504_queue_timeout() {
    on_both_drivers(|driver| {
        let config = RouterConfig::new(driver).set("queue.timeout_secs", 1);
        waits_in_vain(
            driver,
            config,
            "queue_timeout",
            r#"{"error":{"message":"Queue wait timeout after 1 second. Please retry.","type":"queue_timeout","code":"queue_timeout"}}"#,
        );
    });
}

#[test]
fn several_seconds_are_told_in_the_plural() {
    on_both_drivers(|driver| {
        let (_desk, router, _first) =
            busy(RouterConfig::new(driver).set("load_manager.default_timeout_secs", 2));
        let response = send(&router, &ask("b")).response();
        assert_eq!(
            (response.status, response.text()),
            (
                504,
                r#"{"error":{"message":"Request timeout after 2 seconds","type":"gateway_timeout","code":"wait_timeout"}}"#
            )
        );
    });
}

/// A router whose model takes more than 1.1 s per request, as far as it knows, with `b` under way and
/// `c` waiting.
fn measured(config: RouterConfig) -> (Desk, Router, Vec<RawClient>) {
    let (desk, router, mut first) = busy(config);
    // The service itself takes its time.
    pause(Duration::from_millis(1100));
    desk.release("a");
    expect_served(&mut first, "a");
    first.send(&ask("b").bytes());
    desk.expect("b");
    let waiting = send_to_wait(&router, &ask("c"), 1);
    (desk, router, vec![first, waiting])
}

#[test]
fn a_client_that_would_leave_before_its_turn_is_refused_at_once() {
    on_both_drivers(|driver| {
        let (desk, router, mut others) = measured(RouterConfig::new(driver));
        let mut client = router.connect();
        let mut refusals = 0.0;
        // The second place is more than 2.2 s away.
        for (name, value, limit) in [
            ("X-Request-Timeout", "2", "2 seconds"),
            ("X-Stainless-Read-Timeout", "2", "2 seconds"),
            ("X-Stainless-Timeout", "1", "1 second"),
            ("X-Request-Timeout", "0.5", "0.5 seconds"),
        ] {
            client.send(&ask("d").field(name, value).bytes());
            let response = client.response();
            assert_eq!(response.status, 503, "{name}: {value}");
            assert_eq!(
                response.text(),
                format!(
                    r#"{{"error":{{"message":"The estimated wait of 3 seconds is longer than the client's limit of {limit}. Please retry later.","type":"service_unavailable","code":"wait_too_long"}}}}"#
                )
            );
            assert_eq!(response.head.field("retry-after"), Some("3"));
            assert_eq!(response.head.field("x-backpressure"), Some("normal"));
            refusals += 1.0;
            assert_eq!(router.metrics().rejections("wait_too_long"), refusals);
        }
        // Long enough, or nothing that says how long.
        let patient = [
            ("X-Request-Timeout", "60"),
            ("X-Stainless-Timeout", "soon"),
            ("X-Request-Timeout", "-1"),
            ("X-Request-Timeout", "0"),
            ("X-Request-Timeout", "NaN"),
            ("X-Request-Timeout", "inf"),
            ("X-Request-Timeout", ""),
            ("X-Request-Timeout", "1s"),
        ];
        let mut waiting = Vec::new();
        for (index, (name, value)) in patient.into_iter().enumerate() {
            let request = ask(&format!("p{index}")).field(name, value);
            waiting.push(send_to_wait(&router, &request, index + 2));
        }
        desk.open();
        for (client, tag) in others.iter_mut().zip(["b", "c"]) {
            expect_served(client, tag);
        }
        for (index, client) in waiting.iter_mut().enumerate() {
            expect_served(client, &format!("p{index}"));
        }
        assert!(!desk.arrived().contains(&"d".to_owned()));
    });
}

#[test]
fn a_client_that_need_not_wait_is_served_however_little_time_it_has() {
    on_both_drivers(|driver| {
        let (desk, router, mut others) = measured(RouterConfig::new(driver));
        desk.open();
        for (client, tag) in others.iter_mut().zip(["b", "c"]) {
            expect_served(client, tag);
        }
        let mut client = send(&router, &ask("d").field("X-Request-Timeout", "0.2"));
        expect_served(&mut client, "d");
    });
}

#[test]
fn before_anything_is_measured_nobody_is_refused_for_lack_of_time() {
    on_both_drivers(|driver| {
        let (desk, router, mut first) = busy(RouterConfig::new(driver));
        let request = ask("b").field("X-Request-Timeout", "0.2");
        let mut waiting = send_to_wait(&router, &request, 1);
        desk.open();
        expect_served(&mut first, "a");
        expect_served(&mut waiting, "b");
    });
}

#[test]
fn without_deadline_awareness_clients_wait_whatever_they_say() {
    on_both_drivers(|driver| {
        let config = RouterConfig::new(driver).set("queue.deadline_aware", false);
        let (desk, router, mut others) = measured(config);
        let request = ask("d").field("X-Request-Timeout", "0.2");
        let mut waiting = send_to_wait(&router, &request, 2);
        desk.open();
        for (client, tag) in others.iter_mut().zip(["b", "c"]) {
            expect_served(client, tag);
        }
        expect_served(&mut waiting, "d");
        assert_eq!(router.metrics().rejections("wait_too_long"), 0.0);
    });
}
