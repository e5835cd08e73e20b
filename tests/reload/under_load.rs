//! Requests and streams go on over reloads as if there were none.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::support::{
    Gate, RawClient, Router, ScriptedNode, ask, event, eventually, fixed, note, on_both_drivers,
    sse_head,
};
use crate::{Setting, config};

const RELOADS: usize = 20;
const CLIENTS: usize = 8;
const EVENTS: usize = 40;

#[test]
fn no_request_and_no_stream_notices_twenty_reloads() {
    on_both_drivers(|driver| {
        let gate = Gate::default();
        let passing = gate.clone();
        let script = move |call: &mut crate::support::Call| {
            if call.field("x-stream").is_none() {
                let tag = call.field("x-tag").unwrap();
                call.send(&fixed(format!("answer to {tag}").as_bytes()));
                return;
            }
            call.send(sse_head());
            for number in 0..EVENTS / 2 {
                call.send(&event(&number.to_string()));
            }
            passing.pass();
            for number in EVENTS / 2..EVENTS {
                call.send(&event(&number.to_string()));
            }
            call.send(b"0\r\n\r\n");
        };
        let nodes = [
            ScriptedNode::start(script.clone()),
            ScriptedNode::start(script),
        ];
        // One of the nodes comes and goes, limits change, an alias is there every other time.
        let with = |turn: usize| {
            let base = config(driver)
                .set("load_manager.max_concurrent", 1000 + turn)
                .set("node_cache.max_capacity", 1 + turn % 2)
                .set("connection_pool.max_idle_per_host", 1 + turn % 3)
                .set("auth.api_keys", format!("[\"sk-{turn}\"]"))
                .node("stays", &nodes[0]);
            match turn % 2 {
                0 => base.node("comes", &nodes[1]).alias("also", "m"),
                _ => base,
            }
        };
        let mut setting = Setting::start(with(0));
        let mut streams: Vec<RawClient> = (0..10).map(|_| begin_stream(&setting.router)).collect();
        let is_over = AtomicBool::new(false);
        let answered = AtomicUsize::new(0);
        let address = setting.router.address();
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (is_over, answered) = (&is_over, &answered);
                scope.spawn(move || {
                    let mut connection = RawClient::connect(address);
                    for number in 0.. {
                        if is_over.load(Ordering::Relaxed) {
                            return;
                        }
                        // Every tenth request opens a connection of its own.
                        if number % 10 == 0 {
                            connection = RawClient::connect(address);
                        }
                        let tag = format!("{client}-{number}");
                        connection.send(&ask(&tag).bytes());
                        let response = connection.response();
                        assert_eq!(response.status, 200, "{}", response.text());
                        assert_eq!(response.text(), format!("answer to {tag}"));
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            for turn in 1..=RELOADS {
                let before = answered.load(Ordering::Relaxed);
                setting.reload(with(turn));
                eventually("requests go on", || {
                    answered.load(Ordering::Relaxed) > before + 20
                });
            }
            is_over.store(true, Ordering::Relaxed);
        });
        let answered = answered.load(Ordering::Relaxed);
        note(&format!(
            "{driver:?}: {answered} requests during {RELOADS} reloads"
        ));
        assert!(answered > 20 * RELOADS);
        gate.open();
        for stream in &mut streams {
            for number in EVENTS / 2..EVENTS {
                let expected = format!("data: {number}\n\n");
                assert_eq!(stream.chunk().unwrap(), expected.as_bytes());
            }
            assert_eq!(stream.chunk(), None);
        }
        drop(streams);
        let metrics = setting.router.metrics();
        assert_eq!(metrics.sum("llm_router_node_failures_total"), 0.0);
        setting.router.settles();
    });
}

/// A stream of which the first half has come.
fn begin_stream(router: &Router) -> RawClient {
    let mut client = router.connect();
    client.send(&ask("stream").stream().field("X-Stream", "1").bytes());
    assert_eq!(client.head().status, 200);
    for number in 0..EVENTS / 2 {
        let expected = format!("data: {number}\n\n");
        assert_eq!(client.chunk().unwrap(), expected.as_bytes());
    }
    client
}
