//! What operators and nodes want to change while one process takes over from another: it is kept, or refused.

use std::net::SocketAddr;
use std::path::Path;

use llm_router::auth::Scope;
use llm_router::auth::store::{KeyRequest, KeyStore};
use llm_router::runtime::clock;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::failures::silent_node;
use crate::support::{Driver, Metrics, RawClient, Response, RouterConfig, ScriptedNode, Site};
use crate::support::{ask, eventually, fixed};

/// The control API of whichever process answers.
struct Api {
    address: SocketAddr,
    key: String,
}

impl Api {
    #[track_caller]
    fn send(&self, method: &str, path: &str, fields: &str, body: &Value) -> Response {
        let (kind, body) = match body {
            Value::Null => ("", String::new()),
            body => ("Content-Type: application/json\r\n", body.to_string()),
        };
        let length = body.len();
        let mut client = RawClient::connect(self.address);
        client.send(
            format!(
                "{method} {path} HTTP/1.1\r\nHost: router\r\n{fields}{kind}Connection: close\r\n\
                 Content-Length: {length}\r\n\r\n{body}"
            )
            .as_bytes(),
        );
        client.response()
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &Value) -> Response {
        let fields = format!("Authorization: Bearer {}\r\n", self.key);
        self.send(method, path, &fields, body)
    }

    #[track_caller]
    fn expect(&self, status: u16, method: &str, path: &str, body: &Value) -> Value {
        let response = self.ask(method, path, body);
        assert_eq!(
            response.status,
            status,
            "{method} {path}: {}",
            response.text()
        );
        serde_json::from_str(response.text()).unwrap_or_default()
    }

    /// It is said that another process, or this one later, will do it.
    #[track_caller]
    fn expect_refusal(&self, method: &str, path: &str, body: &Value) {
        let response = self.ask(method, path, body);
        assert_eq!(response.status, 503, "{method} {path}: {}", response.text());
        assert_eq!(response.error_code(), "draining");
        assert_eq!(response.head.field("retry-after"), Some("1"));
    }

    /// Node names and states, in the order of the names.
    fn nodes(&self) -> Vec<(String, String)> {
        let nodes = self.expect(200, "GET", "/api/nodes", &Value::Null);
        let text = |node: &Value, field: &str| node[field].as_str().unwrap().to_owned();
        let nodes = nodes["nodes"].as_array().unwrap().iter();
        let mut nodes: Vec<_> = nodes
            .map(|node| (text(node, "name"), text(node, "state")))
            .collect();
        nodes.sort();
        nodes
    }
}

fn make_key(data_dir: &Path) -> String {
    let request = KeyRequest {
        name: "operator",
        scopes: Scope::Admin.into(),
        created_at: clock::unix_secs(),
        expires_at: None,
    };
    let (_, secret) = KeyStore::new(data_dir).create(request).unwrap();
    secret.expose().to_owned()
}

fn new_node(name: &str, node: &ScriptedNode) -> Value {
    let base_url = format!("http://{}", node.address());
    json!({ "name": name, "base_url": base_url, "models": [name], "max_concurrency": 1 })
}

#[test]
fn what_is_changed_before_the_new_process_reads_is_kept_and_afterwards_it_is_refused() {
    let node = ScriptedNode::answering(fixed(b"{}"));
    let config = RouterConfig::new(Driver::IoUring)
        .node("n", &node)
        .node("m", &node);
    let site = Site::new();
    let key = make_key(&site.directory);
    let (mut old, address) = site.start(&config);
    let api = Api { address, key };
    let known = api.expect(201, "POST", "/api/nodes", &new_node("known", &node));
    let path = format!("/api/nodes/{}", known["node_id"].as_str().unwrap());
    let (_silent, base_url) = silent_node();
    let waiting = config
        .clone()
        .set("health.probe_timeout_secs", 30)
        .node_at("silent", &base_url, "other", 1, "");
    let new = site.upgrade(&waiting);
    old.wait_for_line("takes over");
    for (method, path, body) in [
        ("POST", "/api/nodes", new_node("late", &node)),
        ("PUT", &*path, json!({ "weight": 2 })),
        ("POST", &format!("{path}/drain"), Value::Null),
        ("POST", &format!("{path}/enable"), Value::Null),
        ("POST", "/api/nodes/config-n/drain", Value::Null),
        ("DELETE", &*path, Value::Null),
        ("POST", "/api/reload", Value::Null),
    ] {
        api.expect_refusal(method, path, &body);
    }
    old.signal(Signal::SIGHUP);
    old.wait_for_line("reload: nothing has changed: another process takes over");
    // What is not kept goes on, and so does reading.
    let token = known["node_token"].as_str().unwrap();
    let beat = api.send(
        "POST",
        &format!("{path}/heartbeat"),
        &format!("X-Node-Token: {token}\r\n"),
        &json!({ "cpu_usage": 1.0, "memory_usage": 1.0 }),
    );
    assert_eq!(beat.status, 200, "{}", beat.text());
    let names = |nodes: Vec<(String, String)>| nodes.into_iter().map(|(name, _)| name);
    assert!(names(api.nodes()).eq(["known", "m", "n"]));
    drop(new);
    old.wait_for_line("this one goes on");
    // The old process has everything to itself again.
    site.write(&config);
    eventually("changes are made again", || {
        api.ask("POST", "/api/reload", &Value::Null).status == 200
    });
    api.expect(201, "POST", "/api/nodes", &new_node("late", &node));
    api.expect(204, "DELETE", &path, &Value::Null);
    api.expect(200, "POST", "/api/nodes/config-n/drain", &Value::Null);
    let new = site.upgrade(&config);
    new.wait_until_serving();
    assert_eq!(old.wait_exit(), 0);
    let state = |name: &str, state: &str| (name.to_owned(), state.to_owned());
    eventually("the new process knows it all", || {
        api.nodes()
            == [
                state("late", "online"),
                state("m", "online"),
                state("n", "draining"),
            ]
    });
}

#[test]
fn what_a_reload_has_applied_a_moment_before_the_handover_the_new_process_applies_too() {
    let node = ScriptedNode::answering(fixed(b"{}"));
    let config = RouterConfig::new(Driver::IoUring).node("n", &node);
    let site = Site::new();
    let key = make_key(&site.directory);
    let (mut old, address) = site.start(&config);
    let api = Api { address, key };
    // More than it is without being set, and one is certainly applied.
    let mut applied = 200;
    let first = config.clone().set("load_manager.max_waiting", applied);
    site.write(&first);
    api.expect(200, "POST", "/api/reload", &Value::Null);
    // Reloads of the old process until it refuses them: each one that it has applied counts.
    let new = site.upgrade(&first);
    for size in applied + 1.. {
        site.write(&config.clone().set("load_manager.max_waiting", size));
        match api.ask("POST", "/api/reload", &Value::Null).status {
            200 if old.is_running() => applied = size,
            200 => break,
            status => {
                assert_eq!(status, 503);
                break;
            }
        }
    }
    new.wait_until_serving();
    assert_eq!(old.wait_exit(), 0);
    let load = api.expect(200, "GET", "/api/load-status", &Value::Null);
    let runs_with = load["max_queue_size"].as_u64().unwrap();
    assert!(
        runs_with >= applied,
        "{applied} was applied, {runs_with} runs"
    );
}

#[test]
fn a_process_that_drains_takes_in_no_changes() {
    let node = ScriptedNode::answering(fixed(b"{}"));
    let config = RouterConfig::new(Driver::Epoll)
        .set("server.drain_announce_secs", 30)
        .node("n", &node);
    let site = Site::new();
    let key = make_key(&site.directory);
    let (mut old, address) = site.start(&config);
    let api = Api { address, key };
    old.signal(Signal::SIGTERM);
    old.wait_for_line("draining");
    eventually("changes are refused", || {
        api.ask("POST", "/api/nodes/config-n/enable", &Value::Null)
            .status
            == 503
    });
    api.expect_refusal("POST", "/api/reload", &Value::Null);
    let mut client = RawClient::connect(address);
    client.send(&ask("x").bytes());
    assert_eq!(client.response().status, 200);
    // A client has its answer a moment before the exchange counts as over.
    eventually("nothing is under way", || {
        Metrics::fetch(address).value("llm_router_requests_in_flight") == 0.0
    });
    old.signal(Signal::SIGTERM);
    assert_eq!(old.wait_exit(), 0);
}
