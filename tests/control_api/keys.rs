//! API keys made, used and revoked while the router runs.

use std::time::{Duration, SystemTime};

use super::support::{
    Driver, Gate, ScriptedNode, ask as chat, event, eventually, eventually_within, fixed,
    on_both_drivers, sse_head,
};
use super::{ask, bearer, config, expect_error, json, login, make_key, router};

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

#[test]
fn a_key_is_shown_once_and_listed_without_itself() {
    on_both_drivers(|driver| {
        let router = router(driver);
        let admin = bearer(&login(&router).token);
        let fields = [("Authorization", admin.as_str())];
        let at = now() + 3600;
        let body =
            format!(r#"{{"name":"Zoë's","scopes":["nodes","inference"],"expires_at":{at}}}"#);
        let response = ask(&router, "POST", "/api/keys", &fields, Some(&body));
        assert_eq!(response.status, 201);
        let created = json(&response);
        let key = created["key"].as_str().unwrap();
        assert!(key.starts_with("sk-") && key.len() == 46);
        assert_eq!(created["scopes"], serde_json::json!(["inference", "nodes"]));
        assert_eq!(
            (&created["name"], &created["expires_at"]),
            (&"Zoë's".into(), &at.into())
        );
        let list = ask(&router, "GET", "/api/keys", &fields, None);
        assert!(!list.text().contains(&key[3..]));
        let list = json(&list);
        assert_eq!(list["keys"].as_array().unwrap().len(), 1);
        let listed = &list["keys"][0];
        for name in ["id", "name", "scopes", "created_at", "expires_at"] {
            assert_eq!(listed[name], created[name], "{name}");
        }
        assert_eq!(listed["last_four"], key[key.len() - 4..]);
        let id = created["id"].as_str().unwrap();
        let path = format!("/api/keys/{id}");
        assert_eq!(ask(&router, "DELETE", &path, &fields, None).status, 204);
        let again = ask(&router, "DELETE", &path, &fields, None);
        expect_error(&again, 404, "key_not_found");
        let list = json(&ask(&router, "GET", "/api/keys", &fields, None));
        assert_eq!(list, serde_json::json!({"keys": []}));
    });
}

#[test]
fn what_a_key_may_not_be_is_told_and_makes_none() {
    let router = router(Driver::Epoll);
    let admin = bearer(&login(&router).token);
    let fields = [("Authorization", admin.as_str())];
    let long = format!(r#"{{"name":"{}"}}"#, "n".repeat(65));
    for (body, field) in [
        (r#"{}"#, "`name`"),
        (r#"{"name":""}"#, "`name`"),
        (r#"{"name":"a\nb"}"#, "`name`"),
        (long.as_str(), "`name`"),
        (r#"{"name":1}"#, "`name`"),
        (r#"{"name":"a","scopes":[]}"#, "`scopes`"),
        (r#"{"name":"a","scopes":["root"]}"#, "`scopes[0]`"),
        (r#"{"name":"a","scopes":"admin"}"#, "`scopes`"),
        (r#"{"name":"a","expires_at":1}"#, "`expires_at`"),
        (r#"{"name":"a","expires_at":-1}"#, "`expires_at`"),
        (r#"{"name":"a","expires_at":"tomorrow"}"#, "`expires_at`"),
        (r#"{"name":"a","expires_at":1.5e10}"#, "`expires_at`"),
        (r#"{"name":"a","expires_at":1795692411000}"#, "`expires_at`"),
        (r#"{"name":"a","role":"admin"}"#, "`role`"),
    ] {
        let response = ask(&router, "POST", "/api/keys", &fields, Some(body));
        expect_error(&response, 400, "invalid_field");
        assert!(
            response.text().contains(field),
            "{body}: {}",
            response.text()
        );
    }
    let list = json(&ask(&router, "GET", "/api/keys", &fields, None));
    assert_eq!(list, serde_json::json!({"keys": []}));
    for id in [
        "x",
        "0000000000000001",
        "80000000000000zz",
        "%38000000000000001",
    ] {
        let response = ask(&router, "DELETE", &format!("/api/keys/{id}"), &fields, None);
        expect_error(&response, 404, "key_not_found");
    }
    let response = ask(&router, "DELETE", "/api/keys/config-1", &fields, None);
    expect_error(&response, 409, "configured_key");
}

#[test]
fn a_key_holds_on_every_worker_at_once_and_no_longer_than_it_should() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = config(driver).node("n", &node).start();
        let admin = bearer(&login(&router).token);
        let fields = [("Authorization", admin.as_str())];
        // Each connection may be taken by either worker.
        let statuses = |key: &str| -> Vec<u16> {
            (0..8)
                .map(|_| {
                    let mut client = router.connect();
                    client.send(&chat("t").key(key).bytes());
                    client.response().status
                })
                .collect()
        };
        for _ in 0..3 {
            let (id, key) = make_key(&router, &admin, &["inference"]);
            assert_eq!(statuses(&key), [200; 8]);
            let path = format!("/api/keys/{id}");
            assert_eq!(ask(&router, "DELETE", &path, &fields, None).status, 204);
            assert_eq!(statuses(&key), [401; 8]);
        }
        let (_, nodes_key) = make_key(&router, &admin, &["nodes", "admin"]);
        assert_eq!(statuses(&nodes_key), [401; 8], "not for inference");
        let body = format!(r#"{{"name":"brief","expires_at":{}}}"#, now() + 2);
        let created = json(&ask(&router, "POST", "/api/keys", &fields, Some(&body)));
        let brief = created["key"].as_str().unwrap();
        assert_eq!(statuses(brief)[0], 200);
        eventually_within(Duration::from_secs(4), "the key expires", || {
            statuses(brief)[0] == 401
        });
    });
}

#[test]
fn a_key_revoked_within_a_stream_ends_with_it() {
    on_both_drivers(|driver| {
        let gate = Gate::default();
        let passage = gate.clone();
        let node = ScriptedNode::start(move |call| {
            call.send(sse_head());
            call.send(&event("one"));
            passage.pass();
            call.send(&event("two"));
            call.send(b"0\r\n\r\n");
        });
        let router = config(driver).node("n", &node).start();
        let admin = bearer(&login(&router).token);
        let (id, key) = make_key(&router, &admin, &["inference"]);
        let mut client = router.connect();
        client.send(&chat("t").key(&key).stream().bytes());
        assert_eq!(client.head().status, 200);
        assert_eq!(client.chunk().unwrap(), b"data: one\n\n");
        let fields = [("Authorization", admin.as_str())];
        assert_eq!(
            ask(&router, "DELETE", &format!("/api/keys/{id}"), &fields, None).status,
            204
        );
        gate.open();
        assert_eq!(client.chunk().unwrap(), b"data: two\n\n");
        assert_eq!(client.chunk(), None, "the stream ends as the node ends it");
        client.send(&chat("t").key(&key).bytes());
        expect_error(&client.response(), 401, "invalid_api_key");
    });
}

#[test]
fn edits_at_the_same_time_lose_nothing() {
    let router = router(Driver::IoUring);
    let admin = bearer(&login(&router).token);
    let fields = [("Authorization", admin.as_str())];
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let (id, _) = make_key(&router, &admin, &["inference"]);
                    let (kept, _) = make_key(&router, &admin, &["nodes"]);
                    let gone = ask(&router, "DELETE", &format!("/api/keys/{id}"), &fields, None);
                    assert_eq!((gone.status, kept.len()), (204, 16));
                }
            });
        }
    });
    let list = json(&ask(&router, "GET", "/api/keys", &fields, None));
    let keys = list["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 20);
    assert!(
        keys.iter()
            .all(|key| key["scopes"] == serde_json::json!(["nodes"]))
    );
}

#[test]
fn a_damaged_key_file_is_told_without_its_place() {
    let router = router(Driver::Epoll);
    let admin = bearer(&login(&router).token);
    let fields = [("Authorization", admin.as_str())];
    make_key(&router, &admin, &["inference"]);
    std::fs::write(router.path("api-keys.json"), b"{").unwrap();
    for (method, path, body) in [
        ("GET", "/api/keys", None),
        ("POST", "/api/keys", Some(r#"{"name":"a"}"#)),
        ("DELETE", "/api/keys/8000000000000001", None),
    ] {
        let response = ask(&router, method, path, &fields, body);
        expect_error(&response, 503, "store_unavailable");
        assert!(!response.text().contains("api-keys"));
    }
    eventually("the log says so", || {
        router.stderr().contains("api-keys.json is damaged")
    });
}
