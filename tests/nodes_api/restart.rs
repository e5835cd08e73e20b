//! What is there again after the process has been killed, and what happens while nothing can be kept.

use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use crate::support::{Desk, Driver, ScriptedNode, eventually, fixed, on_both_drivers};
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
        eventually("it registers", || {
            matches!(api.register(&body).status, 200 | 201)
        });
        let list = value(&api.as_admin("GET", "/api/nodes", None));
        assert_eq!(list["nodes"].as_array().unwrap().len(), 2);
        let kept = || {
            let sql = "SELECT count(*) FROM drain WHERE node = 'n'";
            database.query_row(sql, [], |row| row.get::<_, i64>(0))
        };
        eventually("the wish is kept", || kept() == Ok(1));
    });
}

/// What the file in the router's directory knows: nodes, drains, sessions; 0 before it is whole.
fn counts(api: &Api) -> [i64; 3] {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let file = Connection::open_with_flags(api.router.path("llm-router.db"), flags).ok();
    ["node", "drain", "session"].map(|table| {
        let count = format!("SELECT count(*) FROM {table}");
        let count = |file: &Connection| file.query_row(&count, [], |row| row.get(0)).ok();
        file.as_ref().and_then(count).unwrap_or_default()
    })
}

/// Takes the database away under a router that has something in it, `spoil`ed first. What is known goes into
/// the next file and is there again after the process has been killed.
fn taken_away(spoil: &str, sessions: i64) {
    // Serves whoever shows its credential.
    let first = ScriptedNode::start(|call| {
        let is_known = call.field("authorization").as_deref() == Some("Bearer sk-of-the-node");
        let refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n".to_vec();
        call.send(&if is_known { fixed(b"{}") } else { refusal });
    });
    let (second, third) = (Desk::start(), Desk::start());
    let config = config(Driver::IoUring).set("auth.admin_password", "\"correct horse\"");
    let config = config.node_with("file", third.node(), "other", 1, "");
    let api = Api::start(config);
    let kept = api.registered(&json!({
        "name": "kept", "base_url": format!("http://{}", first.address()), "models": ["m"],
        "api_key": "sk-of-the-node",
    }));
    let drained = api.join("drained", second.node(), 4);
    api.act(&drained.id, "drain");
    api.act("config-file", "drain");
    let login = json!({"username": "admin", "password": "correct horse"});
    let login = api.send("POST", "/api/auth/login", &[], Some(&login));
    assert_eq!(login.status, 200, "{}", login.text());
    let bearer = format!("Bearer {}", value(&login)["token"].as_str().unwrap());
    let me = |api: &Api| api.send("GET", "/api/auth/me", &[("Authorization", &bearer)], None);
    assert_eq!(counts(&api), [2, 2, 1]);

    let stranger = Connection::open(api.router.path("llm-router.db")).unwrap();
    stranger.execute_batch(spoil).unwrap();
    drop(stranger);
    let away = api.router.path("taken.db");
    std::fs::rename(api.router.path("llm-router.db"), &away).unwrap();
    // Perhaps before the router has noticed, perhaps after.
    assert_eq!(api.chat().status, 200);
    eventually("the next file knows it all", || {
        counts(&api) == [2, 2, sessions]
    });
    let words = "is not the file of before: requests until now are missing in the history";
    let log = api.router.stderr();
    assert_eq!(log.matches(words).count(), 1, "{log}");
    assert!(
        log.lines()
            .any(|line| line.starts_with("error: ") && line.contains(words))
    );
    assert_eq!(me(&api).status, 200);

    let Api {
        router,
        admin,
        joining,
    } = api;
    let api = Api {
        router: router.killed_and_started_again(),
        admin,
        joining,
    };
    api.until_state(&kept.id, "online");
    assert_eq!(api.node(&drained.id)["state"], "draining");
    assert_eq!(api.node("config-file")["state"], "draining");
    assert_eq!(api.heartbeat(&kept.id, &kept.token, false).status, 200);
    assert_eq!(api.chat().status, 200);
    assert_eq!(me(&api).status, if sessions > 0 { 200 } else { 401 });
}

#[test]
fn a_database_that_is_taken_away_takes_nothing_but_the_history_with_it() {
    taken_away("", 1);
}

#[test]
fn what_cannot_be_read_of_a_database_that_is_taken_away_is_written_as_it_is_known() {
    taken_away("DROP TABLE node; DROP TABLE drain; DROP TABLE session", 0);
}
