//! What is wrong changes nothing, and is told.

use std::thread;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    Driver, RouterConfig, ScriptedNode, chat, eventually, fixed, on_both_drivers,
};
use crate::{Setting, config};

fn served(setting: &Setting) -> u16 {
    let mut client = setting.router.connect();
    client.send(&chat());
    client.response().status
}

#[test]
fn a_bad_file_changes_nothing_and_every_problem_is_told() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let setting = Setting::start(config(driver).node("n", &node));
        // The first line is right, and would lock everybody out.
        setting.router.rewrite_with(
            "[auth]\nrequired = true\n[queue]\nmax_size = 0\nmax_sise = 1\n\
             [[nodes]]\nname = \"n\"\nbase_url = \"ftp://secret:word@host\"\n",
        );
        let response = setting.post_reload();
        assert_eq!(response.status, 422);
        let body: Value = serde_json::from_slice(&response.body).unwrap();
        let error = &body["error"];
        assert_eq!(error["code"], "invalid_configuration");
        assert_eq!(error["type"], "invalid_request_error");
        let problems: Vec<&str> = error["problems"]
            .as_array()
            .unwrap()
            .iter()
            .map(|problem| problem.as_str().unwrap())
            .collect();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(
            problems[0].starts_with("config.toml:4: queue.max_size = 0: "),
            "{problems:?}"
        );
        assert!(
            problems[1].starts_with("config.toml:5: queue.max_sise"),
            "{problems:?}"
        );
        assert!(
            problems[2].starts_with("config.toml:8: nodes[0].base_url: "),
            "{problems:?}"
        );
        assert!(!response.text().contains("secret:word"));
        assert_eq!(served(&setting), 200);
        let metrics = setting.router.metrics();
        assert_eq!(
            metrics.value("llm_router_config_last_reload_successful"),
            0.0
        );
        assert_eq!(setting.outcomes(), (0.0, 1.0));
        eventually("the log tells the same", || {
            let log = setting.router.stderr();
            problems.iter().all(|problem| {
                let (_, words) = problem.split_once(": ").unwrap();
                log.contains(words)
            })
        });
        assert!(!setting.router.stderr().contains("secret:word"));
        // Mended, it is taken.
        setting.router.rewrite(&setting.config);
        setting.hang_up();
        assert_eq!(setting.outcomes(), (1.0, 1.0));
        let metrics = setting.router.metrics();
        assert_eq!(
            metrics.value("llm_router_config_last_reload_successful"),
            1.0
        );
    });
}

#[test]
fn a_file_that_is_gone_is_not_taken_for_one_of_defaults() {
    let node = ScriptedNode::answering(fixed(b"{}"));
    let setting = Setting::start(config(Driver::Epoll).node("n", &node));
    setting.router.remove_config();
    setting.hang_up();
    assert_eq!(setting.outcomes(), (0.0, 1.0));
    assert_eq!(served(&setting), 200);
}

#[test]
fn nobody_is_locked_out_by_a_configuration_without_keys() {
    // Reachable from elsewhere, and the data directory has a key: an administrator's.
    let node = ScriptedNode::answering(fixed(b"{}"));
    let config = |keys: &str| {
        RouterConfig::new(Driver::IoUring)
            .set("server.host", "\"0.0.0.0\"")
            .set("auth.required", true)
            .set("auth.api_keys", keys)
            .set("metrics.require_key", false)
            .node("n", &node)
    };
    let mut setting = Setting::start(config("[\"sk-one\"]"));
    let changed = setting.reload(config("[]"));
    assert_eq!(changed["applied"], serde_json::json!(["auth.api_keys"]));
    setting.reload(config("[\"sk-one\"]"));
    setting.revoke_all_keys();
    setting
        .router
        .rewrite(&config("[]").data_dir(setting.data_dir()));
    setting.hang_up();
    assert_eq!(setting.outcomes(), (2.0, 1.0));
    eventually("the log says why", || {
        setting.router.stderr().contains("auth.api_keys")
    });
}

#[test]
fn reloads_at_the_same_time_come_one_after_the_other() {
    let node = ScriptedNode::answering(fixed(b"{}"));
    let setting = Setting::start(config(Driver::IoUring).node("n", &node));
    setting
        .router
        .rewrite(&setting.config.clone().set("queue.max_size", 7));
    let applied: Vec<Value> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                setting.router.signal(Signal::SIGHUP);
                scope.spawn(|| setting.post_reload())
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                let response = thread.join().unwrap();
                assert_eq!(response.status, 200);
                serde_json::from_slice(&response.body).unwrap()
            })
            .collect()
    });
    // One of them, or a signal, applied it, and the others found it done.
    let count = applied
        .iter()
        .filter(|body| body["applied"] == serde_json::json!(["queue.max_size"]))
        .count();
    assert!(count <= 1, "{applied:?}");
    let none = |body: &&Value| body["applied"] == serde_json::json!([]);
    assert_eq!(applied.iter().filter(none).count(), 4 - count);
}

#[test]
fn only_an_administrator_may_ask_for_it() {
    let setting = Setting::start(config(Driver::Epoll));
    let key = crate::make_key(setting.data_dir(), llm_router::auth::Scope::Inference);
    let ask = |key: &str| {
        let mut client = setting.router.connect();
        client.send(
            format!(
                "POST /api/reload HTTP/1.1\r\nHost: router\r\nAuthorization: Bearer {key}\r\n\
                 Content-Length: 0\r\n\r\n"
            )
            .as_bytes(),
        );
        client.response().status
    };
    assert_eq!(ask("sk-nobody"), 401);
    eventually("the new key is known", || ask(&key) == 403);
    let mut client = setting.router.connect();
    client.send(b"GET /api/reload HTTP/1.1\r\nHost: router\r\n\r\n");
    assert_eq!(client.response().status, 405);
    assert_eq!(setting.outcomes(), (0.0, 0.0));
}
