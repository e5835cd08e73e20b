//! Who may do what, and what nobody may.

use serde_json::{Value, json};

use crate::support::{Desk, Driver, Response, on_both_drivers};
use crate::{Api, Joined, config, refusal, value};

#[test]
fn a_key_for_nodes_registers_and_does_nothing_else() {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        let api = Api::start(config(driver));
        let body = json!({"name": "n", "base_url": format!("http://{}", desk.node().address())});
        let inference = api.router.make_key("inference");
        let post = |fields: &[(&str, &str)]| api.send("POST", "/api/nodes", fields, Some(&body));
        refusal(&post(&[]), 401, "not_authenticated");
        refusal(
            &post(&[("X-API-Key", "sk-nobody")]),
            401,
            "not_authenticated",
        );
        refusal(
            &post(&[("X-API-Key", &inference)]),
            403,
            "insufficient_scope",
        );
        let joined = api.registered(&body);
        let joining = [("X-API-Key", api.joining.as_str())];
        let path = format!("/api/nodes/{}", joined.id);
        for (method, path, body) in [
            ("GET", "/api/nodes".to_owned(), None),
            ("GET", path.clone(), None),
            ("PUT", path.clone(), Some(json!({"weight": 2}))),
            ("DELETE", path.clone(), None),
            ("POST", format!("{path}/drain"), None),
            ("POST", format!("{path}/enable"), None),
        ] {
            let response = api.send(method, &path, &joining, body.as_ref());
            refusal(&response, 403, "insufficient_scope");
            let response = api.send(method, &path, &[], body.as_ref());
            refusal(&response, 401, "not_authenticated");
        }
        assert_eq!(api.node(&joined.id)["weight"], 1);
    });
}

#[test]
fn a_heartbeat_needs_the_token_of_its_node_and_a_new_registration_replaces_it() {
    on_both_drivers(|driver| {
        let (first, second) = (Desk::start(), Desk::start());
        let api = Api::start(config(driver));
        let one = api.join("one", first.node(), 2);
        let two = api.join("two", second.node(), 2);
        assert_eq!((one.token.len(), one.token == two.token), (43, false));
        let beat = |id: &str, token: &str| api.heartbeat(id, token, false);
        assert_eq!(beat(&one.id, &one.token).status, 200);
        for (id, token) in [(&one.id, two.token.as_str()), (&one.id, ""), (&two.id, "x")] {
            refusal(&beat(id, token), 401, "not_authenticated");
        }
        // An administrator's key is no token.
        let path = format!("/api/nodes/{}/heartbeat", one.id);
        let report = json!({"cpu_usage": 1, "memory_usage": 1});
        refusal(
            &api.as_admin("POST", &path, Some(&report)),
            401,
            "not_authenticated",
        );

        let again = json!({
            "name": "one", "base_url": format!("http://{}/v1/", first.node().address()),
            "models": ["m", "more"], "max_concurrency": 7,
        });
        let response = api.register(&again);
        assert_eq!(response.status, 200, "{}", response.text());
        let renewed = Joined::of(&value(&response));
        assert_eq!(renewed.id, one.id);
        refusal(&beat(&one.id, &one.token), 401, "not_authenticated");
        assert_eq!(beat(&one.id, &renewed.token).status, 200);
        let view = api.node(&one.id);
        assert_eq!(view["models"], json!(["m", "more"]));
        assert_eq!(view["slots_total"], 7);
    });
}

#[test]
fn who_has_no_token_learns_nothing_from_a_heartbeat() {
    let desk = Desk::start();
    let api = Api::start(config(Driver::Epoll).node("file", desk.node()));
    let joined = api.join("n", desk.node(), 2);
    let unknown = match joined.id.as_str() {
        "0000000000000001" => "0000000000000002",
        _ => "0000000000000001",
    };
    let bodies = [
        json!({"cpu_usage": 1, "memory_usage": 1}),
        json!({"cpu_usage": 101, "memory_usage": 1}),
        json!({"no": "field"}),
        json!([]),
    ];
    let beat = |id: &str, token: &[(&str, &str)], body: Option<&Value>| {
        api.send("POST", &format!("/api/nodes/{id}/heartbeat"), token, body)
    };
    let ids = [
        &joined.id,
        unknown,
        "config-file",
        "config-none",
        "x",
        "%00",
    ];
    let tokens = ["x", "", joined.token.as_str()];
    let told = |response: &Response| (response.status, response.text().to_owned());
    let expected = told(&beat(
        &joined.id,
        &[("X-Node-Token", "x")],
        Some(&bodies[0]),
    ));
    assert_eq!(expected.0, 401);
    for id in ids {
        for token in tokens {
            if id == joined.id && token == joined.token {
                continue;
            }
            for body in bodies.iter().map(Some).chain([None]) {
                let response = beat(id, &[("X-Node-Token", token)], body);
                assert_eq!(told(&response), expected, "{id} {body:?}");
            }
        }
        let response = beat(id, &[], Some(&bodies[0]));
        assert_eq!(told(&response), expected, "{id}");
    }
    // Who has it is told what is wrong.
    let own = [("X-Node-Token", joined.token.as_str())];
    let message = refusal(
        &beat(&joined.id, &own, Some(&bodies[1])),
        400,
        "invalid_field",
    );
    assert!(message.starts_with("`cpu_usage`"), "{message}");
    refusal(&beat(&joined.id, &own, None), 400, "invalid_json");
}

#[test]
fn names_are_unique_over_the_file_and_the_registered() {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        let api = Api::start(config(driver).node("file", desk.node()));
        let joined = api.join("own", desk.node(), 2);
        let elsewhere = |name: &str| json!({"name": name, "base_url": "http://127.0.0.1:9"});
        refusal(&api.register(&elsewhere("own")), 409, "name_taken");
        refusal(&api.register(&elsewhere("file")), 409, "name_taken");
        let here = format!("http://{}", desk.node().address());
        let same = json!({"name": "file", "base_url": here});
        refusal(&api.register(&same), 409, "name_taken");
        let list = value(&api.as_admin("GET", "/api/nodes", None));
        let ids: Vec<&Value> = list["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| &node["id"])
            .collect();
        assert_eq!(ids, [&json!("config-file"), &json!(joined.id)]);
    });
}

#[test]
fn a_node_of_the_file_is_drained_here_and_changed_in_the_file() {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        desk.open();
        let api = Api::start(config(driver).node("file", desk.node()));
        let view = api.node("config-file");
        assert_eq!(
            (&view["source"], &view["created_at"]),
            (&json!("config"), &json!(null))
        );
        assert_eq!(view["max_concurrency"], 1000);
        let path = "/api/nodes/config-file";
        let change = json!({"weight": 2});
        refusal(
            &api.as_admin("PUT", path, Some(&change)),
            409,
            "configured_node",
        );
        refusal(&api.as_admin("DELETE", path, None), 409, "configured_node");
        refusal(
            &api.heartbeat("config-file", "x", false),
            401,
            "not_authenticated",
        );
        api.act("config-file", "drain");
        refusal(&api.chat(), 503, "no_nodes");
        api.act("config-file", "enable");
        api.until_state("config-file", "online");
        assert_eq!(api.chat().status, 200);
    });
}

#[test]
fn ids_that_name_no_node_are_404_and_malformed_bodies_400_with_the_field() {
    let api = Api::start(config(Driver::Epoll));
    for id in [
        "0000000000000001",
        "config-none",
        "1",
        "x",
        "%2e%2e",
        "config-",
    ] {
        let response = api.as_admin("GET", &format!("/api/nodes/{id}"), None);
        refusal(&response, 404, "node_not_found");
    }
    let good = json!({"name": "a", "base_url": "http://127.0.0.1:9"});
    let with = |field: &str, wrong: Value| {
        let mut body = good.clone();
        body[field] = wrong;
        body
    };
    for (body, field) in [
        (json!({"name": "a"}), "`base_url`"),
        (json!({"base_url": "http://127.0.0.1:9"}), "`name`"),
        (with("name", json!("a/b")), "`name`"),
        (with("name", json!(5)), "`name`"),
        (with("models", json!("m")), "`models`"),
        (with("models", json!(["m", 5])), "`models[1]`"),
        (with("api_key", json!("a\nb")), "`api_key`"),
        (with("max_concurrency", json!(0)), "`max_concurrency`"),
        (with("max_concurrency", json!("all")), "`max_concurrency`"),
        (with("weight", json!(-1)), "`weight`"),
        (with("wieght", json!(1)), "`wieght`"),
    ] {
        let message = refusal(&api.register(&body), 400, "invalid_field");
        assert!(message.starts_with(field), "{body}: {message}");
    }
    let list = value(&api.as_admin("GET", "/api/nodes", None));
    assert_eq!(list, json!({"nodes": []}));
}

#[test]
fn of_many_that_claim_a_name_at_once_one_gets_it() {
    let api = Api::start(config(Driver::IoUring));
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let claims: Vec<_> = (1..=12)
            .map(|port| {
                let body =
                    json!({"name": "wanted", "base_url": format!("http://127.0.0.1:{port}")});
                let api = &api;
                scope.spawn(move || api.register(&body).status)
            })
            .collect();
        claims
            .into_iter()
            .map(|claim| claim.join().unwrap())
            .collect()
    });
    assert_eq!(
        answers.iter().filter(|status| **status == 201).count(),
        1,
        "{answers:?}"
    );
    assert!(
        answers
            .iter()
            .all(|status| [201, 409, 503].contains(status)),
        "{answers:?}"
    );
    let list = value(&api.as_admin("GET", "/api/nodes", None));
    assert_eq!(list["nodes"].as_array().unwrap().len(), 1);
}
