//! Nodes that come, grow or go while requests wait for them.

use std::time::Duration;

use crate::support::{
    Desk, RawClient, RouterConfig, answer_with_tag, ask, eventually, eventually_within,
    on_both_drivers,
};
use crate::{expect_served, send, send_to_wait};

const NO_NODES: &str =
    r#"{"error":{"message":"No available nodes","type":"service_unavailable","code":"no_nodes"}}"#;

#[test]
fn a_node_that_comes_online_serves_those_who_wait_at_once() {
    on_both_drivers(|driver| {
        let (desk, late) = (Desk::start(), Desk::start());
        late.node().stop_listening();
        let router = RouterConfig::new(driver)
            .node_with("n", desk.node(), "m", 1, "")
            .node_with("late", late.node(), "m", 2, "")
            .without_waiting_for_nodes()
            .start();
        eventually("the first node is online", || {
            router
                .get("/ready")
                .is_some_and(|ready| ready.status == 200)
        });
        let mut holder = send(&router, &ask("holder"));
        desk.expect("holder");
        let tags = ["a", "b", "c"];
        let mut waiting = crate::line_up(&router, &tags);
        late.node().listen_again();
        late.serve("a");
        late.serve("b");
        late.serve("c");
        for (client, tag) in waiting.iter_mut().zip(tags) {
            expect_served(client, tag);
        }
        assert_eq!(desk.arrived(), ["holder"], "which is still busy");
        desk.open();
        expect_served(&mut holder, "holder");
        drop((holder, waiting));
        router.settles();
    });
}

#[test]
fn a_node_that_comes_back_from_an_ejection_serves_those_who_wait() {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        // Without connections that outlive its being gone.
        let ejected = Desk::answering(|call, tag| {
            answer_with_tag(call, tag);
            call.close();
        });
        let router = RouterConfig::new(driver)
            .node_serving("n", desk.node(), &["m"], 1)
            .node_serving("ejected", ejected.node(), &["m", "own"], 1)
            .node_serving("spare", desk.node(), &["own"], 5)
            .start();
        let mut holder = send(&router, &ask("holder"));
        eventually("one node works", || {
            desk.arrived().len() + ejected.arrived().len() == 1
        });
        if desk.arrived().is_empty() {
            // It went to the node that is to be ejected: the next one goes to the other.
            let second = send(&router, &ask("second"));
            desk.expect("second");
            ejected.release("holder");
            expect_served(&mut holder, "holder");
            holder = second;
        }
        ejected.node().stop_listening();
        for _ in 0..60 {
            let mut client = send(&router, &ask("own").model("own"));
            desk.release("own");
            expect_served(&mut client, "own");
            let state = r#"llm_router_node_state{node="ejected",state="ejected"}"#;
            if router.metrics().value(state) == 1.0 {
                break;
            }
        }
        let mut waiting = send_to_wait(&router, &ask("waiting"), 1);
        ejected.node().listen_again();
        ejected.serve("waiting");
        expect_served(&mut waiting, "waiting");
        drop((holder, waiting));
        router.settles();
    });
}

#[test]
fn slots_that_a_node_gains_serve_those_who_wait() {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        desk.node().report_slots(1);
        let router = RouterConfig::new(driver)
            .node_serving("n", desk.node(), &["m"], r#""auto""#)
            .start();
        let _holder = send(&router, &ask("holder"));
        desk.expect("holder");
        let _waiting = crate::line_up(&router, &["a", "b", "c"]);
        desk.node().report_slots(3);
        // The node is asked every ten seconds.
        eventually_within(Duration::from_secs(20), "two more are served", || {
            desk.arrived().len() == 3
        });
        // Both at once, so the node may see either first.
        let mut served = desk.arrived();
        served.sort_unstable();
        assert_eq!(served, ["a", "b", "holder"]);
        assert_eq!(router.metrics().value("llm_router_queue_size"), 1.0);
        assert_eq!(desk.present_max(), 3);
        desk.serve("a");
        desk.expect("c");
    });
}

#[test]
fn when_all_nodes_of_a_model_are_offline_nobody_waits_for_it() {
    on_both_drivers(|driver| {
        let (desk, other) = (Desk::start(), Desk::start());
        let router = RouterConfig::new(driver)
            .set("load_manager.default_timeout_secs", 60)
            .set("queue.stream_position", true)
            .node_with("n", desk.node(), "m", 1, "")
            .node_with("o", other.node(), "other", 1, "")
            .start();
        let mut holder = send(&router, &ask("holder"));
        desk.expect("holder");
        let _other = send(&router, &ask("other").model("other"));
        other.expect("other");
        let mut waiting: Vec<RawClient> = crate::line_up(&router, &["a", "b"]);
        let mut early = send_to_wait(&router, &ask("c").stream(), 3);
        let _patient = send_to_wait(&router, &ask("d").model("other"), 4);
        assert_eq!(early.head().status, 200);
        assert_eq!(early.chunk().unwrap(), b": queue position=3 wait=3\n\n");
        desk.node().stop_listening();
        // Two probes must fail, ten seconds apart.
        eventually_within(Duration::from_secs(30), "the node is offline", || {
            let state = r#"llm_router_node_state{node="n",state="offline"}"#;
            router.metrics().value(state) == 1.0
        });
        for client in &mut waiting {
            let response = client.response();
            assert_eq!((response.status, response.text()), (503, NO_NODES));
            assert_eq!(response.head.field("retry-after"), None);
        }
        let last = std::iter::from_fn(|| early.chunk()).last().unwrap();
        assert_eq!(last, format!("data: {NO_NODES}\n\n").as_bytes());
        assert_eq!(router.metrics().rejections("no_nodes"), 3.0);
        assert_eq!(
            router.metrics().value("llm_router_queue_size"),
            1.0,
            "the other model's queue is as it was"
        );
        // What is under way is not cut.
        desk.open();
        expect_served(&mut holder, "holder");
        assert_eq!(desk.arrived(), ["holder"]);
    });
}
