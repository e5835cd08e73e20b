//! What becomes of the queue when those in it leave, or the router is told to, or a node fails.

use std::time::Duration;

use crate::support::{Desk, RawClient, RouterConfig, ask, eventually_within, on_both_drivers};
use crate::{expect_served, line_up, notice, routed, send, send_to_wait};

const WITHIN: Duration = Duration::from_secs(1);

/// The ways in which a client leaves; what is returned must stay alive for a half-close to be one.
const EXITS: [fn(RawClient) -> Option<RawClient>; 3] = [
    |client| {
        drop(client);
        None
    },
    |client| {
        client.reset();
        None
    },
    |client| {
        client.finish();
        Some(client)
    },
];

#[test]
fn a_client_that_hangs_up_leaves_the_queue_at_once_whatever_its_place() {
    on_both_drivers(|driver| {
        let (desk, router) = routed(driver, 1);
        let mut holder = send(&router, &ask("holder"));
        desk.expect("holder");
        let mut left = 0.0;
        let mut kept = vec!["holder".to_owned()];
        for exit in EXITS {
            for place in 0..3 {
                let tags = [0, 1, 2].map(|index| format!("{}-{index}", left));
                let mut waiting: Vec<RawClient> = tags
                    .iter()
                    .enumerate()
                    .map(|(index, tag)| send_to_wait(&router, &ask(tag), index + 1))
                    .collect();
                let half_open = exit(waiting.remove(place));
                left += 1.0;
                eventually_within(WITHIN, "it has left the queue", || {
                    let metrics = router.metrics();
                    metrics.value("llm_router_queue_size") == 2.0
                        && metrics.waiting_for("m") == 2.0
                        && metrics.cancelled("queue") == left
                });
                // The others are served, in their order.
                let mut before = kept.last().unwrap().clone();
                let others = tags.iter().enumerate().filter(|(index, _)| *index != place);
                for ((_, tag), mut client) in others.zip(waiting) {
                    desk.release(&before);
                    expect_served(&mut holder, &before);
                    desk.expect(tag);
                    std::mem::swap(&mut holder, &mut client);
                    before.clone_from(tag);
                    kept.push(tag.clone());
                }
                drop(half_open);
            }
        }
        assert_eq!(
            desk.arrived(),
            kept,
            "the node never heard of those who left"
        );
        drop(holder);
        router.settles();
        assert_eq!(router.metrics().sum("llm_router_node_failures_total"), 0.0);
    });
}

#[test]
fn when_everybody_has_left_the_queue_nobody_need_wait_any_more() {
    on_both_drivers(|driver| {
        let (desk, router) = routed(driver, 1);
        let mut holder = send(&router, &ask("holder"));
        desk.expect("holder");
        drop(line_up(&router, &["a", "b", "c"]));
        router.until_waiting(0);
        desk.open();
        expect_served(&mut holder, "holder");
        holder.send(&ask("d").bytes());
        let response = expect_served(&mut holder, "d");
        assert_eq!(notice(&response), (None, None));
        drop(holder);
        router.settles();
        assert_eq!(router.metrics().cancelled("queue"), 3.0);
        assert_eq!(desk.arrived(), ["holder", "d"]);
    });
}

#[test]
fn a_client_that_sent_much_ahead_leaves_the_queue_too() {
    on_both_drivers(|driver| {
        let (desk, router) = routed(driver, 1);
        let _holder = send(&router, &ask("holder"));
        desk.expect("holder");
        let mut client = send_to_wait(&router, &ask("a"), 1);
        // More than the router holds of what comes ahead of time.
        client.send_until_blocked(&[b' '; 60_000], Duration::from_millis(100));
        drop(client);
        eventually_within(WITHIN, "it has left the queue", || {
            let metrics = router.metrics();
            metrics.value("llm_router_queue_size") == 0.0 && metrics.cancelled("queue") == 1.0
        });
    });
}

#[test]
fn requests_sent_ahead_while_waiting_are_answered_in_turn() {
    on_both_drivers(|driver| {
        let (desk, router) = routed(driver, 1);
        let mut holder = send(&router, &ask("holder"));
        desk.expect("holder");
        let mut client = send_to_wait(&router, &ask("a"), 1);
        let ahead = [ask("b").bytes(), ask("c").bytes()].concat();
        // One of them in two parts.
        client.send(&ahead[..50]);
        desk.release("holder");
        expect_served(&mut holder, "holder");
        desk.serve("a");
        expect_served(&mut client, "a");
        client.send(&ahead[50..]);
        desk.open();
        for tag in ["b", "c"] {
            let response = expect_served(&mut client, tag);
            assert_eq!(notice(&response), (None, None));
        }
        assert_eq!(desk.arrived(), ["holder", "a", "b", "c"]);
    });
}

#[test]
fn a_drain_serves_the_whole_queue_before_the_process_ends() {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        let router = RouterConfig::new(driver)
            .set("queue.max_size", 6)
            .node_with("n", desk.node(), "m", 1, "")
            .start();
        let mut holder = send(&router, &ask("holder"));
        desk.expect("holder");
        let tags = ["a", "b", "c", "d", "e", "f"];
        let mut waiting = line_up(&router, &tags);
        assert_eq!(
            send(&router, &ask("g")).response().status,
            429,
            "it is full"
        );
        router.terminate();
        eventually_within(WITHIN, "nothing is accepted any more", || {
            RawClient::try_connect(router.address()).is_none()
        });
        desk.release("holder");
        assert!(expect_served(&mut holder, "holder").head.closes());
        for (client, tag) in waiting.iter_mut().zip(tags) {
            desk.serve(tag);
            assert!(expect_served(client, tag).head.closes(), "{tag}");
            client.expect_closed();
        }
        assert_eq!(router.wait_exit(Duration::from_secs(5)), 0);
    });
}

#[test]
fn a_drain_that_runs_out_of_time_lets_those_who_wait_go() {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        let router = RouterConfig::new(driver)
            .set("server.drain_grace_secs", 2)
            .set("queue.stream_position", true)
            .node_with("n", desk.node(), "m", 1, "")
            .start();
        let mut holder = send(&router, &ask("holder"));
        desk.expect("holder");
        let mut waiting = send_to_wait(&router, &ask("a"), 1);
        let mut early = send_to_wait(&router, &ask("b").stream(), 2);
        assert_eq!(early.head().status, 200);
        assert_eq!(early.chunk().unwrap(), b": queue position=2 wait=2\n\n");
        router.terminate();
        for client in [&mut holder, &mut waiting, &mut early] {
            client.expect_closed();
        }
        assert_eq!(router.wait_exit(Duration::from_secs(5)), 3);
        assert_eq!(desk.arrived(), ["holder"]);
    });
}

#[test]
fn a_retry_does_not_overtake_those_who_wait() {
    on_both_drivers(|driver| {
        let (desk, gone) = (Desk::start(), Desk::start());
        let router = RouterConfig::new(driver)
            .node_serving("n", desk.node(), &["m", "other"], 1)
            .node_serving("gone", gone.node(), &["other"], 5)
            .start();
        gone.node().stop_listening();
        let mut holder = send(&router, &ask("holder"));
        desk.expect("holder");
        let mut waiting = send_to_wait(&router, &ask("waiting"), 1);
        // Its node is gone, and the other one belongs to whoever waits.
        let mut retried = send_to_wait(&router, &ask("retried").model("other"), 2);
        desk.open();
        expect_served(&mut holder, "holder");
        expect_served(&mut waiting, "waiting");
        expect_served(&mut retried, "retried");
        assert_eq!(desk.arrived(), ["holder", "waiting", "retried"]);
        assert_eq!(gone.arrived(), [""; 0]);
        drop((holder, waiting, retried));
        router.settles();
    });
}

#[test]
fn a_retry_finds_a_free_node_while_others_wait_for_a_permit() {
    on_both_drivers(|driver| {
        let (desk, gone) = (Desk::start(), Desk::start());
        let router = RouterConfig::new(driver)
            .set("load_manager.max_concurrent", 2)
            .set("proxy.connect_timeout_secs", 2)
            .node_with("n", desk.node(), "m", 100, "")
            .node_with("gone", gone.node(), "m", 100, "")
            .start();
        gone.node().stop_listening();
        let _hole = crate::support::blackhole(gone.node().address());
        // One of two goes to the node that does not answer.
        let mut clients = [send(&router, &ask("a")), send(&router, &ask("b"))];
        crate::eventually("both are under way", || {
            router.metrics().sum("llm_router_node_in_flight") == 2.0
        });
        let mut waiting = send_to_wait(&router, &ask("c"), 1);
        // Its retry takes nothing away from whoever waits: that lacks a permit, and this one has one.
        desk.expect("a");
        desk.expect("b");
        assert_eq!(router.metrics().value("llm_router_queue_size"), 1.0);
        desk.open();
        for (client, tag) in clients.iter_mut().zip(["a", "b"]) {
            expect_served(client, tag);
        }
        expect_served(&mut waiting, "c");
    });
}
