//! Changing a registered node while it serves.

use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::support::{Desk, ScriptedNode, fixed, on_both_drivers};
use crate::{Api, Joined, config, refusal, value};

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
fn a_node_that_registers_elsewhere_with_its_token_is_the_same_node_there() {
    on_both_drivers(|driver| {
        let (before, after) = (Desk::start(), Desk::start());
        before.open();
        after.open();
        let api = Api::start(config(driver));
        let joined = api.join("n", before.node(), 4);
        let other = api.join("other", before.node(), 4);
        api.until_state(&joined.id, "online");
        let at = |address| json!({"name": "n", "base_url": format!("http://{address}"), "models": ["m"]});
        let there = at(after.node().address());
        // Without the token, or with another one, the name is taken.
        refusal(&api.register(&there), 409, "name_taken");
        for token in ["", "x", other.token.as_str()] {
            refusal(&api.register_with(token, &there), 409, "name_taken");
        }
        // The token alone lets nobody register, and it opens no forbidden address.
        let token = [("X-Node-Token", joined.token.as_str())];
        let response = api.send("POST", "/api/nodes", &token, Some(&there));
        refusal(&response, 401, "not_authenticated");
        let forbidden = at("169.254.169.254:80".parse().unwrap());
        let response = api.register_with(&joined.token, &forbidden);
        refusal(&response, 400, "invalid_field");
        let own = at(api.router.address());
        let response = api.register_with(&joined.token, &own);
        refusal(&response, 400, "invalid_field");
        assert_eq!(api.node(&joined.id)["state"], "online");

        assert_eq!(
            api.as_admin("DELETE", &format!("/api/nodes/{}", other.id), None)
                .status,
            204
        );
        after.node().stop_listening();
        let response = api.register_with(&joined.token, &there);
        assert_eq!(response.status, 200, "{}", response.text());
        let view = value(&response);
        assert_eq!(view["state"], "pending");
        assert_eq!(
            (&view["slots_total"], &view["max_concurrency"]),
            (&json!(1), &json!("auto"))
        );
        let moved = Joined::of(&view);
        assert_eq!(moved.id, joined.id);
        refusal(&api.chat(), 503, "no_nodes");
        after.node().listen_again();
        api.until_state(&moved.id, "online");
        assert_eq!(api.chat().status, 200);
        assert_eq!((before.arrived().len(), after.arrived().len()), (0, 1));
        // The old token is void, for both.
        let beat = |token: &str| api.heartbeat(&moved.id, token, false);
        refusal(&beat(&joined.token), 401, "not_authenticated");
        let back = at(before.node().address());
        refusal(&api.register_with(&joined.token, &back), 409, "name_taken");
        assert_eq!(beat(&moved.token).status, 200);
        // It is kept so.
        let router = api.router.killed_and_started_again();
        let api = Api { router, ..api };
        assert_eq!(api.node(&moved.id)["base_url"], there["base_url"]);
        assert_eq!(api.heartbeat(&moved.id, &moved.token, false).status, 200);
    });
}

#[test]
fn a_node_that_registers_elsewhere_does_not_take_its_credential_along_unasked() {
    on_both_drivers(|driver| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let before = Desk::start();
        let after = ScriptedNode::start(move |call| {
            log.lock().unwrap().push(call.field("authorization"));
            call.send(&fixed(b"{}"));
        });
        let api = Api::start(config(driver));
        let at = |address| json!({"name": "n", "base_url": format!("http://{address}"), "models": ["m"]});
        let with = |mut body: serde_json::Value, key: serde_json::Value| {
            body["api_key"] = key;
            body
        };
        let here = at(before.node().address());
        let joined = api.registered(&with(here.clone(), json!("first-secret")));
        let there = at(after.address());
        let response = api.register_with(&joined.token, &there);
        let message = refusal(&response, 400, "invalid_field");
        assert!(message.starts_with("`api_key`"), "{message}");
        assert_eq!(api.node(&joined.id)["base_url"], here["base_url"]);
        let response = api.register_with(&joined.token, &with(there, json!("second-secret")));
        assert_eq!(response.status, 200, "{}", response.text());
        let moved = Joined::of(&value(&response));
        api.until_state(&moved.id, "online");
        assert_eq!(api.chat().status, 200);
        assert_eq!(
            *seen.lock().unwrap(),
            [Some("Bearer second-secret".to_owned())]
        );
        // `null` says that there is none any more.
        let response = api.register_with(&moved.token, &with(here, json!(null)));
        assert_eq!(response.status, 200, "{}", response.text());
    });
}

#[test]
fn a_name_and_an_address_alone_take_neither_the_node_nor_its_credential() {
    on_both_drivers(|driver| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let node = ScriptedNode::start(move |call| {
            log.lock().unwrap().push(call.field("authorization"));
            call.send(&fixed(b"{}"));
        });
        let elsewhere = Desk::start();
        let mut api = Api::start(config(driver));
        let at = |address| json!({"name": "n", "base_url": format!("http://{address}"), "models": ["m"]});
        let mut here = at(node.address());
        here["api_key"] = json!("first-secret");
        let joined = api.registered(&here);
        // Somebody else who may register nodes.
        let response = api.register(&at(node.address()));
        assert_eq!(response.status, 200, "{}", response.text());
        let other = Joined::of(&value(&response));
        assert_eq!(other.id, joined.id);
        let mut there = at(elsewhere.node().address());
        there["api_key"] = json!(null);
        for _ in 0..2 {
            api.until_state(&joined.id, "online");
            assert_eq!(api.chat().status, 200);
            assert_eq!(api.heartbeat(&other.id, &other.token, false).status, 200);
            refusal(&api.register_with(&other.token, &there), 409, "name_taken");
            let router = api.router.killed_and_started_again();
            api = Api { router, ..api };
        }
        let own = Some("Bearer first-secret".to_owned());
        assert_eq!(*seen.lock().unwrap(), [own.clone(), own]);
        // Nor does it get better by being shown; an administrator's registration does.
        let response = api.register_with(&other.token, &at(node.address()));
        let again = Joined::of(&value(&response));
        refusal(&api.register_with(&again.token, &there), 409, "name_taken");
        let response = api.as_admin("POST", "/api/nodes", Some(&at(node.address())));
        let given = Joined::of(&value(&response));
        let response = api.register_with(&given.token, &there);
        assert_eq!(response.status, 200, "{}", response.text());
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
