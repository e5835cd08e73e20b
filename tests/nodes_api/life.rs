//! A node's life, from its registration to its removal.

use std::time::Duration;

use llm_router::mock::{self, MockOptions};
use llm_router::runtime::{self, Preference};
use serde_json::json;

use crate::support::{Desk, ask, event, eventually, eventually_within, on_both_drivers, sse_head};
use crate::{Api, config, refusal, value};

#[test]
fn a_node_joins_serves_is_drained_under_load_returns_dies_and_returns_again() {
    on_both_drivers(|driver| {
        let desk = Desk::answering(|call, _| {
            call.send(sse_head());
            call.send(&event("last"));
            call.send(b"0\r\n\r\n");
        });
        let api = Api::start(config(driver));
        refusal(&api.chat(), 404, "model_not_found");
        let joined = api.join("gpu-1", desk.node(), 4);
        api.until_state(&joined.id, "online");

        let mut stream = api.router.connect();
        stream.send(&ask("held").stream().bytes());
        desk.expect("held");
        assert_eq!(api.node(&joined.id)["slots_used"], 1);

        assert_eq!(api.act(&joined.id, "drain")["state"], "draining");
        refusal(&api.chat(), 503, "no_nodes");
        assert_eq!(api.act(&joined.id, "drain")["state"], "draining");
        // What runs is not disturbed.
        desk.serve("held");
        let answer = stream.response();
        assert_eq!(answer.status, 200);
        assert!(answer.text().contains("last"));
        assert_eq!(desk.arrived(), ["held"]);
        drop(stream);

        assert_eq!(api.act(&joined.id, "enable")["state"], "pending");
        api.until_state(&joined.id, "online");
        desk.open();
        assert_eq!(api.chat().status, 200);

        desk.node().stop_listening();
        api.until_state(&joined.id, "offline");
        let dead = api.node(&joined.id);
        assert_eq!(dead["last_error"], "no connection");
        refusal(&api.chat(), 503, "no_nodes");
        desk.node().listen_again();
        api.until_state(&joined.id, "online");
        assert_eq!(api.chat().status, 200);
        api.router.settles();
        let node = api.node(&joined.id);
        assert_eq!(
            (&node["slots_used"], &node["slots_total"]),
            (&json!(0), &json!(4))
        );
        assert_eq!(node["selections_total"], 3);
    });
}

#[test]
fn a_real_node_tells_its_models_and_slots_itself() {
    let driver = runtime::choose(Preference::Auto).unwrap().driver;
    let node = mock::start(
        MockOptions {
            models: vec!["m".to_owned(), "n".to_owned()],
            slots: Some(3),
            ..MockOptions::default()
        },
        driver,
    )
    .unwrap();
    on_both_drivers(|driver| {
        let api = Api::start(config(driver));
        let joined = api.registered(&json!({
            "name": "mock", "base_url": format!("http://{}/v1", node.address),
        }));
        api.until_state(&joined.id, "online");
        let view = api.node(&joined.id);
        assert_eq!(view["models"], json!(["m", "n"]));
        assert_eq!(view["max_concurrency"], "auto");
        assert_eq!(
            (&view["slots_total"], &view["engine"]),
            (&json!(3), &json!("generic"))
        );
        assert_eq!(view["source"], "registered");
        assert!(view["latency_ms"].as_f64().unwrap() > 0.0);
        assert!(view["last_probe_at"].as_u64() >= view["created_at"].as_u64());
        assert_eq!(api.chat().status, 200);
        let list = value(&api.as_admin("GET", "/api/nodes", None));
        assert_eq!(list["nodes"].as_array().unwrap().len(), 1);
        assert_eq!(list["nodes"][0]["id"], joined.id);
    });
}

#[test]
fn heartbeats_hold_a_node_back_while_it_initializes_and_their_loss_takes_it_offline() {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        desk.open();
        let api = Api::start(config(driver).set("health.heartbeat_timeout_secs", 5));
        let joined = api.join("gpu-1", desk.node(), 4);
        let beat = |initializing| {
            let response = api.heartbeat(&joined.id, &joined.token, initializing);
            assert_eq!(response.status, 200, "{}", response.text());
            value(&response)["state"].as_str().unwrap().to_owned()
        };
        beat(true);
        // Probes go well meanwhile.
        let probes = desk.node().probe_count();
        eventually("two more probes", || {
            desk.node().probe_count() >= probes + 2
        });
        assert_eq!(beat(true), "pending");
        refusal(&api.chat(), 503, "no_nodes");
        beat(false);
        api.until_state(&joined.id, "online");
        assert_eq!(api.chat().status, 200);
        let view = api.node(&joined.id);
        assert_eq!(view["heartbeat"]["gpu_usage"], 99.9);
        assert_eq!(view["heartbeat"]["gpu_memory_usage"], json!(null));
        assert_eq!(view["heartbeat"]["loaded_models"], json!(["m"]));
        assert!(view["last_heartbeat_at"].is_u64());
        assert_eq!(beat(false), "online");

        let took = eventually_within(Duration::from_secs(10), "missed", || {
            api.node(&joined.id)["state"] == "offline"
        });
        assert!(took > Duration::from_secs(3), "{took:?}");
        // Good probes do not make up for it.
        let probes = desk.node().probe_count();
        eventually("two more probes", || {
            desk.node().probe_count() >= probes + 2
        });
        assert_eq!(api.node(&joined.id)["state"], "offline");
        refusal(&api.chat(), 503, "no_nodes");
        assert_eq!(beat(false), "offline");
        api.until_state(&joined.id, "online");
        assert_eq!(api.chat().status, 200);
    });
}

#[test]
fn a_removed_node_finishes_what_it_does_and_gets_nothing_more() {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        let api = Api::start(config(driver));
        let joined = api.join("gpu-1", desk.node(), 4);
        api.until_state(&joined.id, "online");
        let mut held = api.router.connect();
        held.send(&ask("held").bytes());
        desk.expect("held");
        let path = format!("/api/nodes/{}", joined.id);
        assert_eq!(api.as_admin("DELETE", &path, None).status, 204);
        refusal(&api.chat(), 404, "model_not_found");
        for (method, path) in [
            ("GET", path.clone()),
            ("DELETE", path.clone()),
            ("PUT", path.clone()),
            ("POST", format!("{path}/drain")),
        ] {
            let body = (method == "PUT").then(|| json!({}));
            let response = api.as_admin(method, &path, body.as_ref());
            refusal(&response, 404, "node_not_found");
        }
        let late = api.heartbeat(&joined.id, &joined.token, false);
        refusal(&late, 401, "not_authenticated");
        desk.serve("held");
        assert_eq!(held.response().status, 200);
        // The name is free again, and what comes under it is another node.
        let again = api.join("gpu-1", desk.node(), 4);
        assert_ne!(again.id, joined.id);
        api.until_state(&again.id, "online");
        assert_eq!(api.node(&again.id)["selections_total"], 0);
    });
}
