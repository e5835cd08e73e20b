//! Many workers, and many nodes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{
    Desk, Driver, RawClient, RouterConfig, ask, eventually, eventually_within, note,
    on_both_drivers,
};
use crate::{Api, config, refusal};

/// What each connection is answered now.
fn statuses(clients: &mut [RawClient]) -> Vec<u16> {
    for client in clients.iter_mut() {
        client.send(&ask("one").bytes());
    }
    let answers = clients.iter_mut().map(|client| client.response().status);
    answers.collect()
}

#[test]
fn whatever_is_changed_every_worker_obeys_before_the_answer_is_there() {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        desk.open();
        let api = Api::start(config(driver).set("server.workers", 4));
        let joined = api.join("n", desk.node(), 100);
        api.until_state(&joined.id, "online");
        // Enough for each of the four workers to have some, whatever the kernel's hash says.
        let mut clients: Vec<RawClient> = (0..32).map(|_| api.router.connect()).collect();
        let expect = |clients: &mut [RawClient], status: u16| {
            assert_eq!(statuses(clients), vec![status; clients.len()]);
        };
        expect(&mut clients, 200);
        for _ in 0..5 {
            api.act(&joined.id, "drain");
            expect(&mut clients, 503);
            api.act(&joined.id, "enable");
            api.until_state(&joined.id, "online");
            expect(&mut clients, 200);
        }
        let path = format!("/api/nodes/{}", joined.id);
        assert_eq!(api.as_admin("DELETE", &path, None).status, 204);
        expect(&mut clients, 404);
        // What a probe finds is seen by all as soon as it is seen by one.
        api.join("again", desk.node(), 100);
        eventually("it is online", || statuses(&mut clients).contains(&200));
        expect(&mut clients, 200);
    });
}

#[test]
fn a_thousand_nodes_join_and_are_listed() {
    let desk = Desk::start();
    desk.open();
    let api = Api::start(config(Driver::IoUring));
    let port = desk.node().address().port();
    // One listener, and a thousand nodes that nobody answers for.
    let began = Instant::now();
    for number in 0..1000 {
        let body = json!({
            "name": format!("n{number}"), "base_url": format!("http://127.77.{}.{}:{port}", number / 250, number % 250 + 1),
            "models": ["m"],
        });
        // As a node does that is told to come back later: a busy disk may take its time.
        eventually(&format!("n{number} is registered"), || {
            matches!(api.register(&body).status, 200 | 201)
        });
    }
    note(&format!(
        "a thousand registrations took {:?}",
        began.elapsed()
    ));
    let response = api.as_admin("GET", "/api/nodes", None);
    let list = crate::value(&response);
    assert_eq!(list["nodes"].as_array().unwrap().len(), 1000);
    let joined = api.join("alive", desk.node(), 4);
    api.until_state(&joined.id, "online");
    assert_eq!(api.chat().status, 200);
    let body = json!({"name": "n7", "base_url": "http://127.0.0.1:9"});
    refusal(&api.register(&body), 409, "name_taken");
}

/// Answers model lists at every address of this machine until it is silenced; from then on it accepts and
/// says nothing, as a machine does whose packets are dropped behind a connection tracker.
struct Machines {
    port: u16,
    is_silent: Arc<AtomicBool>,
}

impl Machines {
    fn start() -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_silent = Arc::new(AtomicBool::new(false));
        let silent = Arc::clone(&is_silent);
        std::thread::spawn(move || {
            let mut held: Vec<TcpStream> = Vec::new();
            for socket in listener.incoming().map_while(Result::ok) {
                if silent.load(Ordering::SeqCst) {
                    held.push(socket);
                    // The router has given up the oldest long ago.
                    if held.len() > 2000 {
                        held.drain(..1000);
                    }
                } else {
                    let _ = answer(socket);
                }
            }
        });
        Self { port, is_silent }
    }
}

fn answer(mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let _ = socket.read(&mut [0; 1024])?;
    socket.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
}

#[test]
#[ignore = "a measurement of a minute: cargo nextest run --test nodes_api --run-ignored only"]
fn a_thousand_nodes_that_fall_silent_are_offline_within_a_minute() {
    let machines = Machines::start();
    let mut router = RouterConfig::new(Driver::IoUring).without_waiting_for_nodes();
    // As many as a configuration may have, with the one that stays.
    for number in 0..999 {
        let address = format!("127.88.{}.{}", number / 250, number % 250 + 1);
        let base_url = format!("http://{address}:{}", machines.port);
        router = router.node_at(&format!("n{number}"), &base_url, "m", 4, "");
    }
    let desk = Desk::start();
    let router = router
        .node_with("alive", desk.node(), "other", 4, "")
        .start();
    let count = |state: &str| {
        let metrics = router.metrics();
        let wanted = format!("state=\"{state}\"");
        let names = metrics
            .names()
            .filter(|name| name.starts_with("llm_router_node_state{") && name.contains(&wanted));
        names.filter(|name| metrics.value(name) == 1.0).count()
    };
    let took = eventually_within(Duration::from_secs(60), "all are online", || {
        count("online") == 1000
    });
    note(&format!("a thousand nodes were online after {took:?}"));
    machines.is_silent.store(true, Ordering::SeqCst);
    let took = eventually_within(Duration::from_secs(60), "all are offline", || {
        count("offline") == 999
    });
    note(&format!("999 silent nodes were offline after {took:?}"));
    assert!(took > Duration::from_secs(10), "{took:?}");
    assert_eq!(count("online"), 1);
}
