//! What applies at once.

use serde_json::json;

use std::time::{Duration, Instant};

use crate::support::{
    Desk, Driver, Gate, RawClient, Router, ScriptedNode, ask, chat, event, eventually, fixed,
    on_both_drivers, sse_head,
};
use crate::{Setting, config};

fn status(router: &Router, request: &[u8]) -> u16 {
    let mut client = router.connect();
    client.send(request);
    client.response().status
}

#[test]
fn the_answer_tells_what_applies_and_what_needs_a_restart() {
    let node = ScriptedNode::answering(fixed(b"{}"));
    let mut setting = Setting::start(config(Driver::IoUring).node("n", &node));
    let unchanged = setting.reload(config(Driver::IoUring).node("n", &node));
    assert_eq!(unchanged, json!({"applied": [], "needs_restart": []}));
    let changed = config(Driver::IoUring)
        .set("server.workers", 1)
        .set("server.port", 65_000)
        .set("server.drain_grace_secs", 21)
        .set("log.access", "\"./access.log\"")
        .set("queue.max_size", 7)
        .alias("other", "m")
        .node("n", &node)
        .node("n2", &node);
    let expected = json!({
        "applied": ["server.drain_grace_secs", "queue.max_size", "nodes", "aliases"],
        "needs_restart": ["server.port", "server.workers", "log.access"],
    });
    assert_eq!(setting.reload(changed.clone()), expected);
    let expected = json!({
        "applied": [],
        "needs_restart": ["server.port", "server.workers", "log.access"],
    });
    assert_eq!(setting.reload(changed), expected);
    assert_eq!(setting.outcomes(), (3.0, 0.0));
    assert_eq!(setting.router.file("access.log"), "");
}

#[test]
fn more_requests_are_let_in_and_those_who_wait_are_served_at_once() {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        let node = desk.node();
        let with = |max_concurrent| {
            config(driver)
                .set("load_manager.max_concurrent", max_concurrent)
                .node("n", node)
        };
        let mut setting = Setting::start(with(1));
        let mut clients: Vec<RawClient> = (0..3)
            .map(|number| {
                let mut client = setting.router.connect();
                client.send(&ask(&number.to_string()).bytes());
                if number == 0 {
                    desk.expect("0");
                } else {
                    setting.router.until_waiting(number);
                }
                client
            })
            .collect();
        setting.reload(with(2));
        desk.expect("1");
        setting.router.until_waiting(1);
        // Two are in flight now; a lower limit takes nothing from them.
        setting.reload(with(1));
        desk.release("0");
        assert_eq!(clients[0].response().status, 200);
        setting.router.until_waiting(1);
        desk.release("1");
        assert_eq!(clients[1].response().status, 200);
        desk.expect("2");
        desk.release("2");
        assert_eq!(clients[2].response().status, 200);
        drop(clients);
        setting.router.settles();
    });
}

#[test]
fn limits_on_waiting_apply_to_whoever_comes_next() {
    let desk = Desk::start();
    let node = desk.node();
    let with = |key, value: u32| {
        config(Driver::IoUring)
            .set("load_manager.max_concurrent", 1)
            .set(key, value)
            .node("n", node)
    };
    let mut setting = Setting::start(with("load_manager.max_waiting", 100));
    let mut running = setting.router.connect();
    running.send(&ask("running").bytes());
    desk.expect("running");
    let mut waiting = setting.router.connect();
    waiting.send(&ask("waiting").bytes());
    setting.router.until_waiting(1);
    setting.reload(with("load_manager.max_waiting", 1));
    let metrics = setting.router.metrics();
    assert_eq!(metrics.value("llm_router_backpressure_state"), 2.0);
    assert_eq!(status(&setting.router, &chat()), 503);
    setting.reload(with("queue.max_size", 1));
    assert_eq!(status(&setting.router, &chat()), 429);
    setting.reload(with("load_manager.default_timeout_secs", 1));
    let began = Instant::now();
    assert_eq!(status(&setting.router, &chat()), 504);
    assert!(began.elapsed() < Duration::from_secs(3));
    // Whoever waited before goes on waiting as long as it was promised.
    assert!(waiting.is_silent_for(Duration::from_millis(10)));
    desk.release("running");
    assert_eq!(running.response().status, 200);
    desk.expect("waiting");
    desk.release("waiting");
    assert_eq!(waiting.response().status, 200);
}

#[test]
fn time_and_size_limits_apply_to_the_next_request_of_an_open_connection() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            if call.field("x-hang").is_some() {
                call.wait_left();
            } else {
                call.send(&fixed(b"{}"));
            }
        });
        let mut setting = Setting::start(config(driver).node("n", &node));
        let mut client = setting.router.connect();
        client.send(&chat());
        assert_eq!(client.response().status, 200);
        setting.reload(
            config(driver)
                .set("proxy.request_timeout_secs", 1)
                .set("proxy.max_body_bytes", 1024)
                .node("n", &node),
        );
        client.send(&ask("x").field("X-Hang", "1").bytes());
        assert_eq!(client.response().status, 504);
        let mut client = setting.router.connect();
        client.send(&crate::support::post("/v1/chat/completions", &[b' '; 1025]));
        assert_eq!(client.response().status, 413);
    });
}

#[test]
fn keys_of_the_file_change_and_so_does_whether_one_is_needed() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let with = |keys: &str| {
            config(driver)
                .set("auth.required", true)
                .set("auth.api_keys", keys)
                .node("n", &node)
        };
        let mut setting = Setting::start(with(r#"["sk-one"]"#));
        let router =
            |setting: &Setting, key: &str| status(&setting.router, &ask("x").key(key).bytes());
        assert_eq!(router(&setting, "sk-one"), 200);
        assert_eq!(router(&setting, "sk-two"), 401);
        setting.reload(with(r#"["sk-two"]"#));
        assert_eq!(router(&setting, "sk-one"), 401);
        assert_eq!(router(&setting, "sk-two"), 200);
        setting.reload(config(driver).node("n", &node));
        assert_eq!(status(&setting.router, &chat()), 200);
        // Keys made on the command line were never touched: the reload itself needs one.
        setting.reload(with(r#"["sk-three"]"#).set("metrics.require_key", true));
        assert_eq!(status(&setting.router, &chat()), 401);
        assert_eq!(router(&setting, "sk-three"), 200);
        let metrics = b"GET /metrics HTTP/1.1\r\nHost: router\r\n\r\n";
        assert_eq!(status(&setting.router, metrics), 401);
    });
}

#[test]
fn a_node_that_is_taken_out_finishes_what_it_does_and_a_new_one_joins() {
    on_both_drivers(|driver| {
        let gate = Gate::default();
        let passing = gate.clone();
        let old = ScriptedNode::start(move |call| {
            call.send(sse_head());
            call.send(&event("0"));
            passing.pass();
            call.send(&event("1"));
            call.send(b"0\r\n\r\n");
        });
        let new = ScriptedNode::answering(fixed(b"{}"));
        let mut setting = Setting::start(config(driver).node("old", &old));
        let mut stream = setting.router.connect();
        stream.send(&chat());
        assert_eq!(stream.head().status, 200);
        assert_eq!(stream.chunk().unwrap(), b"data: 0\n\n");
        setting.reload(config(driver).node("new", &new).alias("also", "m"));
        eventually("the new node serves", || {
            status(&setting.router, &ask("x").model("also").bytes()) == 200
        });
        for _ in 0..10 {
            assert_eq!(status(&setting.router, &chat()), 200);
        }
        assert_eq!(old.request_count(), 1, "it gets nothing new");
        let metrics = setting.router.metrics();
        assert!(
            metrics
                .get("llm_router_node_in_flight{node=\"old\"}")
                .is_none()
        );
        gate.open();
        assert_eq!(stream.chunk().unwrap(), b"data: 1\n\n");
        assert_eq!(stream.chunk(), None);
        setting.reload(config(driver).node("new", &new));
        assert_eq!(
            status(&setting.router, &ask("x").model("also").bytes()),
            404
        );
    });
}

#[test]
fn a_node_is_not_drained_for_an_earlier_one_of_its_name() {
    let node = ScriptedNode::answering(fixed(b"{}"));
    let with = config(Driver::IoUring).node("n", &node);
    let mut setting = Setting::start(with.clone());
    assert_eq!(setting.post("/api/nodes/config-n/drain").status, 200);
    assert_eq!(status(&setting.router, &chat()), 503);
    let database = rusqlite::Connection::open(setting.data_dir().join("llm-router.db")).unwrap();
    let drains = || {
        let sql = "SELECT count(*) FROM drain";
        database.query_row(sql, [], |row| row.get::<_, i64>(0))
    };
    // As long as it is there, it stays so.
    setting.reload(with.clone());
    assert_eq!((status(&setting.router, &chat()), drains()), (503, Ok(1)));
    setting.reload(config(Driver::IoUring));
    assert_eq!(drains(), Ok(0));
    setting.reload(with);
    eventually("it serves", || status(&setting.router, &chat()) == 200);
}

#[test]
fn a_node_at_a_new_address_gets_nothing_before_it_was_found_there() {
    let (here, there) = (
        ScriptedNode::answering(fixed(b"{}")),
        ScriptedNode::answering(fixed(b"{}")),
    );
    there.stop_listening();
    let mut setting = Setting::start(config(Driver::IoUring).node("n", &here));
    assert_eq!(status(&setting.router, &chat()), 200);
    setting.reload(config(Driver::IoUring).node("n", &there));
    assert_eq!(status(&setting.router, &chat()), 503, "nobody is there yet");
    assert_eq!((here.request_count(), there.request_count()), (1, 0));
    setting.reload(config(Driver::IoUring).node("n", &here));
    eventually("it is found where it was", || {
        status(&setting.router, &chat()) == 200
    });
}

#[test]
fn more_slots_of_a_node_serve_who_waits_for_it() {
    let desk = Desk::start();
    let node = desk.node();
    let with = |slots| config(Driver::Epoll).node_with("n", node, "m", slots, "");
    let mut setting = Setting::start(with(1));
    let mut clients: Vec<RawClient> = ["a", "b"]
        .iter()
        .map(|tag| {
            let mut client = setting.router.connect();
            client.send(&ask(tag).bytes());
            client
        })
        .collect();
    setting.router.until_waiting(1);
    setting.reload(with(2));
    setting.router.until_waiting(0);
    desk.expect("a");
    desk.expect("b");
    desk.release("a");
    desk.release("b");
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
}
