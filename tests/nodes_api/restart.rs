//! What is there again after the process has been killed, and what happens while nothing can be kept.

use rusqlite::Connection;
use serde_json::json;

use crate::support::{Desk, on_both_drivers};
use crate::{Api, config, refusal, value};

#[test]
fn registered_nodes_and_drain_wishes_outlive_a_kill() {
    on_both_drivers(|driver| {
        let (first, second, third) = (Desk::start(), Desk::start(), Desk::start());
        first.open();
        let api = Api::start(config(driver).node_with("file", third.node(), "other", 1, ""));
        let kept = api.join("kept", first.node(), 4);
        let drained = api.join("drained", second.node(), 4);
        let enabled = api.join("enabled", second.node(), 4);
        let removed = api.join("removed", second.node(), 4);
        for id in [&drained.id, &enabled.id, &removed.id, "config-file"] {
            api.act(id, "drain");
        }
        api.act(&enabled.id, "enable");
        let path = format!("/api/nodes/{}", removed.id);
        assert_eq!(api.as_admin("DELETE", &path, None).status, 204);
        let path = format!("/api/nodes/{}", enabled.id);
        let change = json!({"models": ["changed"], "weight": 7});
        assert_eq!(api.as_admin("PUT", &path, Some(&change)).status, 200);
        let created_at = api.node(&kept.id)["created_at"].clone();

        let Api {
            router,
            admin,
            joining,
        } = api;
        // Nobody waits for the node of the file, which is drained.
        let api = Api {
            router: router.killed_and_started_again(),
            admin,
            joining,
        };
        api.until_state(&kept.id, "online");
        api.until_state(&enabled.id, "online");
        assert_eq!(api.node(&drained.id)["state"], "draining");
        assert_eq!(api.node("config-file")["state"], "draining");
        let gone = api.as_admin("GET", &format!("/api/nodes/{}", removed.id), None);
        refusal(&gone, 404, "node_not_found");
        let view = api.node(&enabled.id);
        assert_eq!(
            (&view["models"], &view["weight"]),
            (&json!(["changed"]), &json!(7))
        );
        assert_eq!(api.node(&kept.id)["created_at"], created_at);
        assert_eq!(api.heartbeat(&kept.id, &kept.token, false).status, 200);
        refusal(
            &api.heartbeat(&kept.id, &drained.token, false),
            401,
            "not_authenticated",
        );
        assert_eq!(api.chat().status, 200);
        assert_eq!(first.arrived().len(), 1);
    });
}

#[test]
fn what_cannot_be_kept_is_not_promised_and_what_is_known_goes_on() {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        desk.open();
        let api = Api::start(config(driver));
        let joined = api.join("n", desk.node(), 4);
        api.until_state(&joined.id, "online");

        let database = Connection::open(api.router.path("llm-router.db")).unwrap();
        database.execute_batch("BEGIN IMMEDIATE").unwrap();
        let body = json!({"name": "late", "base_url": "http://127.0.0.1:9"});
        refusal(&api.register(&body), 503, "store_unavailable");
        let path = format!("/api/nodes/{}", joined.id);
        let change = api.as_admin("PUT", &path, Some(&json!({"weight": 5})));
        refusal(&change, 503, "store_unavailable");
        refusal(
            &api.as_admin("DELETE", &path, None),
            503,
            "store_unavailable",
        );
        let view = api.node(&joined.id);
        assert_eq!(
            (&view["state"], &view["weight"]),
            (&json!("online"), &json!(1))
        );
        assert_eq!(api.chat().status, 200);
        assert_eq!(api.heartbeat(&joined.id, &joined.token, false).status, 200);
        // An operator is not refused for want of a disk.
        assert_eq!(api.act(&joined.id, "drain")["state"], "draining");
        assert!(api.router.stderr().contains("is not kept"));

        database.execute_batch("ROLLBACK").unwrap();
        // 200: an attempt that was answered with 503 was carried out after all.
        crate::support::eventually("it registers", || {
            matches!(api.register(&body).status, 200 | 201)
        });
        let list = value(&api.as_admin("GET", "/api/nodes", None));
        assert_eq!(list["nodes"].as_array().unwrap().len(), 2);
        let kept = || {
            let sql = "SELECT count(*) FROM drain WHERE node = 'n'";
            database.query_row(sql, [], |row| row.get::<_, i64>(0))
        };
        crate::support::eventually("the wish is kept", || kept() == Ok(1));
    });
}
