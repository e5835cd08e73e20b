//! No secret leaves: unique strings are planted wherever a secret goes in, everything is asked for, failures
//! included, and none of them is found in anything that comes out or is kept.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::support::{Response, Router, ScriptedNode, eventually, fixed, on_both_drivers, post};
use super::{answer, ask, bearer, config, json, request, try_login};

const API_KEY: &str = "canary-api-key-1f0c9a";
const PASSWORD: &str = "canary-password-77b2e1";
const NODE_KEY: &str = "canary-node-key-c03d54";
const REGISTERED_KEY: &str = "canary-registered-key-5be871";
const PROMPT: &str = "canary-prompt-902fd6";
const ANSWER: &str = "canary-answer-2d41aa";
/// What clients put in the wrong place.
const STRAY: &str = "canary-stray-e6610b";

/// Asks for everything there is and keeps what came back.
struct Tour<'r> {
    router: &'r Router,
    admin: String,
    seen: Vec<u8>,
}

impl Tour<'_> {
    fn keep(&mut self, response: &Response) {
        for (name, value) in &response.head.fields {
            self.seen.extend(format!("{name}: {value}\n").bytes());
        }
        self.seen.extend(&response.body);
    }

    /// As the administrator.
    fn ask(&mut self, method: &str, path: &str, body: Option<&str>) -> u16 {
        let admin = self.admin.clone();
        self.ask_with(&[("Authorization", &admin)], method, path, body)
    }

    fn ask_with(
        &mut self,
        fields: &[(&str, &str)],
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> u16 {
        let response = ask(self.router, method, path, fields, body);
        self.keep(&response);
        response.status
    }

    fn infer(&mut self, key: &str, body: &str) -> u16 {
        let mut client = self.router.connect();
        let text = String::from_utf8(post("/v1/chat/completions", body.as_bytes())).unwrap();
        let field = format!("Host: router\r\nAuthorization: Bearer {key}\r\n");
        client.send(text.replacen("Host: router\r\n", &field, 1).as_bytes());
        let response = client.response();
        // A node's answer goes to its client whole, and nowhere else.
        if response.status != 200 {
            self.keep(&response);
        }
        response.status
    }
}

#[test]
fn no_secret_is_found_in_anything_that_comes_out_or_is_kept() {
    on_both_drivers(|driver| {
        let at_node = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&at_node);
        let node = ScriptedNode::start(move |call| {
            taken
                .lock()
                .unwrap()
                .extend([call.head.as_slice(), &call.body].concat());
            call.send(&fixed(format!(r#"{{"answer":"{ANSWER}"}}"#).as_bytes()));
        });
        let router = config(driver)
            .set("auth.api_keys", format!("[{API_KEY:?}]"))
            .set("auth.admin_password", format!("{PASSWORD:?}"))
            .set("log.access", "\"./access.log\"")
            .set("log.level", "\"debug\"")
            .node_with("n", &node, "m", 4, &format!("api_key = {NODE_KEY:?}"))
            .start();
        let entered = try_login(&router, "admin", PASSWORD);
        assert_eq!(entered.status, 200, "{}", entered.text());
        let token = json(&entered)["token"].as_str().unwrap().to_owned();
        let mut tour = Tour {
            router: &router,
            admin: bearer(&token),
            seen: Vec::new(),
        };
        let mut secrets: Vec<String> = [
            API_KEY,
            PASSWORD,
            NODE_KEY,
            REGISTERED_KEY,
            PROMPT,
            ANSWER,
            STRAY,
        ]
        .map(str::to_owned)
        .to_vec();
        secrets.push(token);
        secrets.extend(use_keys(&mut tour));
        secrets.extend(use_nodes(&mut tour, &node));
        use_inference(&mut tour);
        go_wrong(&mut tour);
        look_at_everything(&mut tour);

        eventually("the history is written", || {
            let fields = [("Authorization", tour.admin.as_str())];
            let page = ask(&router, "GET", "/api/history", &fields, None);
            json(&page)["total"].as_u64().unwrap() >= 2
        });
        // What a node must know it knows, and no more.
        let at_node = at_node.lock().unwrap().clone();
        let has = |text: &str| memchr::memmem::find(&at_node, text.as_bytes()).is_some();
        assert!(has(PROMPT) && has(NODE_KEY) && !has(API_KEY) && !has(STRAY));
        let seen = std::mem::take(&mut tour.seen);
        assert_clean("an answer", &seen, &secrets);
        let command_line = std::fs::read(format!("/proc/{}/cmdline", router.pid())).unwrap();
        assert_clean("the command line", &command_line, &secrets);
        router.terminate();
        assert_eq!(router.wait_exit(std::time::Duration::from_secs(10)), 0);
        assert_clean("the log", router.stderr().as_bytes(), &secrets);
        assert!(
            router.file("access.log").lines().count() >= 10,
            "{}",
            router.file("access.log")
        );
        let files = files_below(&router.path(""));
        assert!(
            files.iter().any(|file| file.ends_with("llm-router.db")),
            "{files:?}"
        );
        for file in files.iter().filter(|file| !file.ends_with("config.toml")) {
            let content = std::fs::read(file).unwrap();
            assert_clean(&file.display().to_string(), &content, &secrets);
        }
    });
}

/// Makes keys, uses and revokes one; returns them.
fn use_keys(tour: &mut Tour<'_>) -> Vec<String> {
    let fields = [("Authorization", tour.admin.as_str())];
    let made = || {
        let body = Some(r#"{"name":"k","scopes":["inference","nodes"]}"#);
        let created = json(&ask(tour.router, "POST", "/api/keys", &fields, body));
        let text = |name: &str| created[name].as_str().unwrap().to_owned();
        (text("id"), text("key"))
    };
    let ((_, kept), (id, revoked)) = (made(), made());
    assert_eq!(tour.infer(&kept, r#"{"model":"m"}"#), 200);
    assert_eq!(tour.ask("DELETE", &format!("/api/keys/{id}"), None), 204);
    assert_eq!(tour.infer(&revoked, r#"{"model":"m"}"#), 401);
    vec![kept, revoked]
}

/// Registers a node twice and has it report; returns its tokens.
fn use_nodes(tour: &mut Tour<'_>, node: &ScriptedNode) -> Vec<String> {
    let body = format!(
        r#"{{"name":"r","base_url":"http://{}","models":["r"],"api_key":"{REGISTERED_KEY}"}}"#,
        node.address()
    );
    let mut tokens = Vec::new();
    for status in [201, 200] {
        let fields = [("Authorization", tour.admin.as_str())];
        let response = ask(tour.router, "POST", "/api/nodes", &fields, Some(&body));
        assert_eq!(response.status, status, "{}", response.text());
        let registered = json(&response);
        assert!(!response.text().contains(REGISTERED_KEY));
        let id = registered["node_id"].as_str().unwrap().to_owned();
        let token = registered["node_token"].as_str().unwrap().to_owned();
        let path = format!("/api/nodes/{id}/heartbeat");
        let report = Some(r#"{"cpu_usage":1,"memory_usage":2}"#);
        assert_eq!(
            tour.ask_with(&[("X-Node-Token", &token)], "POST", &path, report),
            200
        );
        let wrong = format!("{STRAY}-token");
        assert_eq!(
            tour.ask_with(&[("X-Node-Token", &wrong)], "POST", &path, report),
            401
        );
        let change = format!(r#"{{"api_key":"{REGISTERED_KEY}-2","weight":2}}"#);
        assert_eq!(
            tour.ask("PUT", &format!("/api/nodes/{id}"), Some(&change)),
            200
        );
        tokens.push(token);
    }
    tokens
}

fn use_inference(tour: &mut Tour<'_>) {
    let chat = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{PROMPT}"}}]}}"#);
    assert_eq!(tour.infer(API_KEY, &chat), 200);
    assert_eq!(tour.infer(STRAY, &chat), 401);
    assert_eq!(tour.infer(API_KEY, &chat.replace("\"m\"", "5")), 400);
    assert_eq!(tour.infer(API_KEY, &chat[..chat.len() - 3]), 400);
    assert_eq!(
        tour.infer(API_KEY, &chat.replace("\"m\"", "\"unknown\"")),
        404
    );
}

/// Everything that can be said wrongly, with a secret in the wrong place.
fn go_wrong(tour: &mut Tour<'_>) {
    let login = format!(r#"{{"username":"admin","password":"{STRAY}"}}"#);
    assert_eq!(
        tour.ask_with(&[], "POST", "/api/auth/login", Some(&login)),
        401
    );
    let login = format!(r#"{{"username":["{PASSWORD}"],"password":"x"}}"#);
    assert_eq!(
        tour.ask_with(&[], "POST", "/api/auth/login", Some(&login)),
        400
    );
    for body in [
        format!(r#"{{"name":{{"{STRAY}":1}}}}"#),
        format!(r#"{{"name":"n","scopes":["{STRAY}"]}}"#),
        format!(r#"{{"name":"n","expires_at":"{STRAY}"}}"#),
        format!(r#"{{"name":"n" "{STRAY}"}}"#),
        format!(r#"["{STRAY}"]"#),
    ] {
        assert_eq!(tour.ask("POST", "/api/keys", Some(&body)), 400, "{body}");
    }
    for body in [
        format!(r#"{{"name":"n","base_url":"http://user:{STRAY}@127.0.0.1"}}"#),
        format!(r#"{{"name":"n","base_url":"http://127.0.0.1:1","weight":"{STRAY}"}}"#),
        format!(r#"{{"name":"n","base_url":"http://127.0.0.1:1","api_key":"{STRAY} x"}}"#),
        format!(r#"{{"name":"{STRAY} x","base_url":"http://127.0.0.1:1"}}"#),
        format!(r#"{{"name":"n","base_url":"{STRAY}"}}"#),
    ] {
        assert_eq!(tour.ask("POST", "/api/nodes", Some(&body)), 400, "{body}");
    }
    let stray = bearer(STRAY);
    for fields in [
        vec![("Authorization", stray.as_str())],
        vec![("X-API-Key", STRAY)],
        vec![("Cookie", "llm_router_session=canary-stray-e6610b")],
    ] {
        assert_eq!(tour.ask_with(&fields, "GET", "/api/keys", None), 401);
    }
    for path in [
        format!("/api/keys/{STRAY}"),
        format!("/api/{STRAY}"),
        format!("/api/nodes/{STRAY}"),
        format!("/{STRAY}?key={STRAY}"),
    ] {
        assert!(
            matches!(tour.ask("DELETE", &path, None), 404 | 405),
            "{path}"
        );
    }
    for query in [
        format!("status={STRAY}"),
        format!("page={STRAY}"),
        format!("from={STRAY}"),
    ] {
        assert_eq!(tour.ask("GET", &format!("/api/history?{query}"), None), 400);
    }
    let mut client = tour.router.connect();
    client.send(
        format!("GET /api/keys HTTP/1.1\r\nHost: router\r\nCookie : {STRAY}\r\n\r\n").as_bytes(),
    );
    let rejected = client.response();
    assert_eq!(rejected.status, 400);
    tour.keep(&rejected);
}

fn look_at_everything(tour: &mut Tour<'_>) {
    for path in [
        "/api/auth/me",
        "/api/keys",
        "/api/nodes",
        "/api/nodes/config-n",
        "/api/load-status",
        "/api/queue/stats",
        "/api/history",
        "/api/history/facets",
        "/api/history/export?format=csv",
        "/api/history/export?format=json",
        "/api/openapi.json",
        "/metrics",
        "/ready",
        "/health",
        "/",
    ] {
        assert_eq!(tour.ask("GET", path, None), 200, "{path}");
    }
    assert_eq!(tour.ask("POST", "/api/reload", None), 200);
    let file = tour.router.path("config.toml");
    let whole = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        whole.replace("admin_password = ", "admin_passwort = "),
    )
    .unwrap();
    assert_eq!(tour.ask("POST", "/api/reload", None), 422);
    std::fs::write(&file, whole).unwrap();
    let mut viewer = tour.router.connect();
    let fields = [("Authorization", tour.admin.as_str())];
    viewer.send(&request("GET", "/api/events", &fields, None));
    assert_eq!(answer_head(&mut viewer), 200);
    for _ in 0..3 {
        tour.seen.extend(viewer.chunk().unwrap());
    }
}

fn answer_head(client: &mut super::support::RawClient) -> u16 {
    answer(client, "HEAD").status
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else if path.is_file() {
            files.push(path);
        }
    }
    files
}

#[track_caller]
fn assert_clean(what: &str, content: &[u8], secrets: &[String]) {
    for secret in secrets {
        if let Some(at) = memchr::memmem::find(content, secret.as_bytes()) {
            let from = at.saturating_sub(60);
            let until = (at + secret.len() + 20).min(content.len());
            let around = String::from_utf8_lossy(&content[from..until]);
            panic!("{what} holds {secret}: …{around}…");
        }
    }
}
