//! Changing a registered node while it serves.

use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::support::{Desk, ScriptedNode, fixed, on_both_drivers};
use crate::{Api, config, refusal, value};

#[test]
fn what_is_changed_holds_for_the_next_request_and_the_rest_stays() {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        desk.open();
        let api = Api::start(config(driver));
        let joined = api.join("n", desk.node(), 4);
        api.until_state(&joined.id, "online");
        let path = format!("/api/nodes/{}", joined.id);
        let put = |body| {
            let response = api.as_admin("PUT", &path, Some(&body));
            assert_eq!(response.status, 200, "{}", response.text());
            value(&response)
        };
        let view = put(json!({"models": ["other"], "weight": 3}));
        assert_eq!(
            (&view["state"], &view["weight"]),
            (&json!("online"), &json!(3))
        );
        assert_eq!(
            (&view["slots_total"], &view["models"]),
            (&json!(4), &json!(["other"]))
        );
        refusal(&api.chat(), 404, "model_not_found");
        let view = put(json!({"models": ["m"], "max_concurrency": 9}));
        assert_eq!(
            (&view["slots_total"], &view["weight"]),
            (&json!(9), &json!(3))
        );
        assert_eq!(api.chat().status, 200);
        let view = put(json!({}));
        assert_eq!(
            (&view["slots_total"], &view["weight"]),
            (&json!(9), &json!(3))
        );
        for (body, field) in [
            (json!({"name": "other"}), "`name`"),
            (json!({"weight": 0}), "`weight`"),
            (json!({"models": ["a", "a"]}), "`models[1]`"),
            (json!({"weight": 5, "api_key": ""}), "`api_key`"),
        ] {
            let response = api.as_admin("PUT", &path, Some(&body));
            let message = refusal(&response, 400, "invalid_field");
            assert!(message.starts_with(field), "{body}: {message}");
        }
        // Nothing of a refused change was applied.
        assert_eq!(api.node(&joined.id)["weight"], 3);
    });
}

#[test]
fn a_node_that_moves_proves_itself_at_its_new_place_and_the_old_one_gets_nothing_more() {
    on_both_drivers(|driver| {
        let (before, after) = (Desk::start(), Desk::start());
        before.open();
        after.open();
        let api = Api::start(config(driver));
        let joined = api.join("n", before.node(), 4);
        api.until_state(&joined.id, "online");
        assert_eq!(api.chat().status, 200);
        after.node().stop_listening();
        let path = format!("/api/nodes/{}", joined.id);
        let there = format!("http://{}", after.node().address());
        let response = api.as_admin("PUT", &path, Some(&json!({"base_url": there})));
        assert_eq!(value(&response)["state"], "pending");
        refusal(&api.chat(), 503, "no_nodes");
        after.node().listen_again();
        api.until_state(&joined.id, "online");
        assert_eq!(api.chat().status, 200);
        assert_eq!((before.arrived().len(), after.arrived().len()), (1, 1));
    });
}

#[test]
fn a_nodes_credential_goes_to_the_node_and_is_shown_to_nobody() {
    on_both_drivers(|driver| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let node = ScriptedNode::start(move |call| {
            log.lock().unwrap().push(call.field("authorization"));
            call.send(&fixed(b"{}"));
        });
        let api = Api::start(config(driver));
        let canary = "node-secret-that-nobody-sees";
        let body = json!({
            "name": "n", "base_url": format!("http://{}", node.address()), "models": ["m"],
            "api_key": canary,
        });
        let response = api.register(&body);
        assert!(!response.text().contains(canary));
        let id = value(&response)["node_id"].as_str().unwrap().to_owned();
        api.until_state(&id, "online");
        assert_eq!(api.chat().status, 200);
        let path = format!("/api/nodes/{id}");
        for answer in [
            api.as_admin("GET", "/api/nodes", None),
            api.as_admin("GET", &path, None),
            api.as_admin("PUT", &path, Some(&json!({"weight": 2}))),
        ] {
            assert_eq!(answer.status, 200);
            let text = answer.text();
            assert!(!text.contains(canary) && !text.contains("api_key"));
        }
        assert!(!api.router.stderr().contains(canary));
        // It does not follow the node to another place by itself.
        let elsewhere = json!({"base_url": "http://127.0.0.1:9"});
        let response = api.as_admin("PUT", &path, Some(&elsewhere));
        let message = refusal(&response, 400, "invalid_field");
        assert!(message.starts_with("`api_key`"), "{message}");
        // A change that does not name it leaves it; `null` takes it away.
        assert_eq!(api.chat().status, 200);
        let response = api.as_admin("PUT", &path, Some(&json!({"api_key": null})));
        assert_eq!(response.status, 200);
        assert_eq!(api.chat().status, 200);
        let own = Some(format!("Bearer {canary}"));
        assert_eq!(*seen.lock().unwrap(), [own.clone(), own, None]);
    });
}
