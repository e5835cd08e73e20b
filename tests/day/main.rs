//! A day in the life of a router, in one go: a node comes by itself, serves, is drained, dies and returns; a key
//! is made, used and revoked; the configuration is read again, the process replaced and killed. Clients ask all
//! the while, and in the evening the history and the counters account for every answer they saw.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::disallowed_types,
    reason = "the threads of a test wait for each other"
)]

mod clients;
mod office;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use clients::Clients;
use office::{Key, Office};
use support::{
    Call, Gate, MODEL, Process, RouterConfig, ScriptedNode, Site, ask, event, eventually, fixed,
    is_ready, on_both_drivers, sse_head,
};

#[test]
fn a_day_is_accounted_for() {
    on_both_drivers(|driver| {
        let gate = Gate::default();
        let (resident, joiner) = (node(&gate), node(&gate));
        let config = RouterConfig::new(driver)
            .set("auth.required", true)
            .set("health.probe_interval_secs", 1)
            .set("health.probe_timeout_secs", 1)
            .node("resident", &resident);
        let site = Site::new();
        let (morning, address) = site.start(&config);
        let office = Office::log_in(address);
        let (joining, asking) = (office.make_key("nodes"), office.make_key("inference"));

        let clients = Clients::start(address, &asking.secret);
        let joined = node_comes_goes_and_returns(&office, &joining, &joiner, &clients);
        key_is_revoked_in_the_middle_of_a_stream(&office, &gate);
        let with_alias = config.alias("other-name", MODEL);
        configuration_is_read_again(&site, &office, &with_alias, &asking);
        let noon = process_is_replaced(&site, &with_alias, morning, &office, &clients);
        let seen = clients.stop();
        seen.are_all_answered();
        office.history_accounts_for(&seen);
        counters_account_for_every_request(&office, &asking);

        let clients = Clients::start(address, &asking.secret);
        clients.until_later(2 * NOT_YET_WRITTEN);
        let last_written = Instant::now() - NOT_YET_WRITTEN;
        let evening = process_is_killed(&site, &with_alias, noon);
        let seen_before = clients.stop().before(last_written);
        let office = Office::log_in(evening.wait_for_address());
        eventually("it serves again", || is_ready(office.address()));
        let clients = Clients::start(office.address(), &asking.secret);
        clients.until_more(100);
        let seen_after = clients.stop();
        seen_after.are_all_answered();
        for seen in [seen_before, seen_after] {
            office.history_accounts_for(&seen);
        }
        assert_eq!(office.node(&joined)["name"], "joiner", "it is remembered");
        process_ends(evening);
    });
}

/// Answers each request with its tag; a stream of the tag `held` stops in the middle until the gate opens.
fn node(gate: &Gate) -> ScriptedNode {
    let gate = gate.clone();
    ScriptedNode::start(move |call: &mut Call| {
        let tag = call.field("x-tag").unwrap();
        if tag == "held" {
            call.send(sse_head());
            call.send(&event("first"));
            gate.pass();
            call.send(&event("[DONE]"));
            call.send(b"0\r\n\r\n");
        } else {
            call.send(&fixed(format!("answer to {tag}").as_bytes()));
        }
    })
}

/// Registers, serves, is drained, enabled, dies and returns; nobody is refused meanwhile. Returns its id.
fn node_comes_goes_and_returns(
    office: &Office,
    joining: &Key,
    joiner: &ScriptedNode,
    clients: &Clients,
) -> String {
    let (id, token) = office.register(&joining.secret, "joiner", joiner);
    office.until_state(&id, "online");
    office.heartbeat(&id, &token);
    until_served_by(joiner, "once it has joined");

    assert_eq!(office.act(&id, "drain")["state"], "draining");
    eventually("what ran on it has ended", || {
        office.node(&id)["slots_used"] == 0
    });
    let served = joiner.request_count();
    clients.until_more(50);
    assert_eq!(
        joiner.request_count(),
        served,
        "a drained node got a request"
    );
    office.act(&id, "enable");
    until_served_by(joiner, "once it is enabled again");

    joiner.stop_listening();
    office.until_state(&id, "offline");
    clients.until_more(50);
    joiner.listen_again();
    office.until_state(&id, "online");
    until_served_by(joiner, "once it has returned");
    id
}

fn until_served_by(node: &ScriptedNode, when: &str) {
    let before = node.request_count();
    eventually(&format!("the node serves {when}"), || {
        node.request_count() > before
    });
}

/// What has begun ends as it should; the next request is turned away.
fn key_is_revoked_in_the_middle_of_a_stream(office: &Office, gate: &Gate) {
    let key = office.make_key("inference");
    let mut client = office.connect();
    client.send(&ask("held").key(&key.secret).stream().bytes());
    let head = client.head();
    assert_eq!(head.status, 200);
    assert_eq!(client.chunk().unwrap(), b"data: first\n\n");
    office.revoke(&key.id);
    gate.open();
    assert_eq!(client.chunk().unwrap(), b"data: [DONE]\n\n");
    assert_eq!(client.chunk(), None);
    for mut client in [client, office.connect()] {
        client.send(&ask("late").key(&key.secret).bytes());
        assert_eq!(client.response().status, 401);
    }
}

fn configuration_is_read_again(site: &Site, office: &Office, next: &RouterConfig, asking: &Key) {
    let by_alias = || {
        let mut client = office.connect();
        let request = ask("alias").model("other-name").key(&asking.secret);
        client.send(&request.bytes());
        client.response().status
    };
    assert_eq!(by_alias(), 404);
    site.write(next);
    let answer = office.post("/api/reload", &json!({}));
    assert_eq!(answer["applied"], json!(["aliases"]), "{answer}");
    assert_eq!(by_alias(), 200);
}

fn process_is_replaced(
    site: &Site,
    config: &RouterConfig,
    mut old: Process,
    office: &Office,
    clients: &Clients,
) -> Process {
    clients.until_more(50);
    let new = site.upgrade(config);
    new.wait_until_serving();
    assert_eq!(old.wait_exit(), 0, "{}", old.stderr());
    clients.until_more(50);
    // The login outlives the process.
    assert_eq!(office.get("/api/auth/me")["user"]["username"], "admin");
    new
}

fn counters_account_for_every_request(office: &Office, asking: &Key) {
    let before = office.answered();
    for number in 0..100 {
        let mut client = office.connect();
        let tag = format!("counted-{number}");
        client.send(&ask(&tag).key(&asking.secret).bytes());
        assert_eq!(client.response().status, 200);
    }
    eventually("a hundred requests are counted", || {
        office.answered() - before == 100.0
    });
}

/// Nothing is left to say goodbye; the next process begins where the data directory ends.
fn process_is_killed(site: &Site, config: &RouterConfig, mut process: Process) -> Process {
    process.signal(Signal::SIGKILL);
    assert_eq!(process.wait_exit(), -9);
    site.start_alone(config)
}

fn process_ends(mut process: Process) {
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait_exit(), 0, "{}", process.stderr());
}

/// What a killed process may take with it: records are written every tenth of a second, or later on a machine
/// that has other things to do.
const NOT_YET_WRITTEN: Duration = Duration::from_secs(2);
