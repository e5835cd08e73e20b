//! Idle connections to nodes: used again only while the node has neither closed them nor sent bytes nobody
//! asked for, on both drivers.

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

use std::sync::mpsc;

use support::{RouterConfig, ScriptedNode, chat, eventually, fixed, on_both_drivers};

#[test]
fn bytes_nobody_asked_for_are_no_answer_to_the_next_request() {
    on_both_drivers(|driver| {
        let (answered, has_answer) = mpsc::channel();
        let (sent, is_sent) = mpsc::channel();
        let has_answer = std::sync::Mutex::new(has_answer);
        let node = ScriptedNode::start(move |call| {
            if call.connection_index > 0 {
                call.send(&fixed(b"second"));
                return;
            }
            call.send(&fixed(b"first"));
            has_answer.lock().unwrap().recv().unwrap();
            call.send(&fixed(b"somebody else's"));
            sent.send(()).unwrap();
        });
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut client = router.connect();
        client.send(&chat());
        assert_eq!(client.response().text(), "first");
        answered.send(()).unwrap();
        is_sent.recv().unwrap();
        for _ in 0..2 {
            client.send(&chat());
            assert_eq!(client.response().text(), "second");
        }
        assert_eq!((node.connection_count(), node.request_count()), (2, 3));
    });
}

#[test]
fn a_connection_its_node_has_closed_leaves_the_pool_unasked() {
    on_both_drivers(|driver| {
        let (answered, has_answer) = mpsc::channel();
        let has_answer = std::sync::Mutex::new(has_answer);
        let node = ScriptedNode::start(move |call| {
            call.send(&fixed(b"{}"));
            has_answer.lock().unwrap().recv().unwrap();
            call.close();
        });
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut client = router.connect();
        client.send(&chat());
        assert_eq!(client.response().status, 200);
        let idle = r#"llm_router_pool_connections{node="n",state="idle"}"#;
        assert_eq!(router.metrics().value(idle), 1.0);
        answered.send(()).unwrap();
        eventually("the pool lets go of it", || {
            router.metrics().value(idle) == 0.0
        });
        assert!(node.leaving(0).at.elapsed().as_secs() < 60);
    });
}
