//! Nodes that are given through the control API, over real sockets: how they come, serve, report themselves,
//! are drained, die and return; who may do what; and where they may not be.

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

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod changes;
mod life;
mod loops;
mod many;
mod restart;
mod rights;

use serde_json::{Value, json};
use support::{Driver, Response, Router, RouterConfig, ScriptedNode, ask, eventually};

/// A router and the keys its control API is asked with.
pub(crate) struct Api {
    pub(crate) router: Router,
    pub(crate) admin: String,
    /// A key with which nodes register themselves.
    pub(crate) joining: String,
}

/// A router that looks at its nodes often, so that tests need not wait.
pub(crate) fn config(driver: Driver) -> RouterConfig {
    RouterConfig::new(driver)
        .set("health.probe_interval_secs", 1)
        .set("health.probe_timeout_secs", 1)
}

impl Api {
    pub(crate) fn start(config: RouterConfig) -> Self {
        Self::of(config.start())
    }

    pub(crate) fn of(router: Router) -> Self {
        Self {
            admin: router.make_key("admin"),
            joining: router.make_key("nodes"),
            router,
        }
    }

    /// One request with fields of the test's choice.
    #[track_caller]
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Response {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: router\r\n");
        for (name, value) in fields {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        if !body.is_empty() {
            text.push_str("Content-Type: application/json\r\n");
        }
        text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        let mut client = self.router.connect();
        client.send(text.as_bytes());
        client.response()
    }

    #[track_caller]
    pub(crate) fn as_admin(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        self.send(method, path, &[("X-API-Key", &self.admin)], body)
    }

    /// What a node does that wants to join.
    #[track_caller]
    pub(crate) fn register(&self, body: &Value) -> Response {
        let bearer = format!("Bearer {}", self.joining);
        self.send(
            "POST",
            "/api/nodes",
            &[("Authorization", &bearer)],
            Some(body),
        )
    }

    /// What a node does that comes again, with the token it was given.
    #[track_caller]
    pub(crate) fn register_with(&self, token: &str, body: &Value) -> Response {
        let fields = [
            ("X-API-Key", self.joining.as_str()),
            ("X-Node-Token", token),
        ];
        self.send("POST", "/api/nodes", &fields, Some(body))
    }

    #[track_caller]
    pub(crate) fn registered(&self, body: &Value) -> Joined {
        let response = self.register(body);
        assert_eq!(response.status, 201, "{}", response.text());
        Joined::of(&value(&response))
    }

    /// A node that serves `m` in `slots` slots.
    #[track_caller]
    pub(crate) fn join(&self, name: &str, node: &ScriptedNode, slots: u32) -> Joined {
        self.registered(&json!({
            "name": name,
            "base_url": format!("http://{}", node.address()),
            "models": ["m"],
            "max_concurrency": slots,
        }))
    }

    #[track_caller]
    pub(crate) fn heartbeat(&self, id: &str, token: &str, initializing: bool) -> Response {
        let report = json!({
            "cpu_usage": 12.5, "memory_usage": 40, "gpu_usage": 99.9, "active_requests": 3,
            "loaded_models": ["m"], "initializing": initializing,
        });
        let path = format!("/api/nodes/{id}/heartbeat");
        self.send("POST", &path, &[("X-Node-Token", token)], Some(&report))
    }

    #[track_caller]
    pub(crate) fn node(&self, id: &str) -> Value {
        let response = self.as_admin("GET", &format!("/api/nodes/{id}"), None);
        assert_eq!(response.status, 200, "{}", response.text());
        value(&response)
    }

    #[track_caller]
    pub(crate) fn act(&self, id: &str, action: &str) -> Value {
        let response = self.as_admin("POST", &format!("/api/nodes/{id}/{action}"), None);
        assert_eq!(response.status, 200, "{}", response.text());
        value(&response)
    }

    #[track_caller]
    pub(crate) fn until_state(&self, id: &str, state: &str) {
        eventually(&format!("{id} is {state}"), || {
            self.node(id)["state"] == state
        });
    }

    /// The status of one chat with model `m`.
    #[track_caller]
    pub(crate) fn chat(&self) -> Response {
        let mut client = self.router.connect();
        client.send(&ask("one").bytes());
        client.response()
    }
}

/// What a node knows once it has registered.
pub(crate) struct Joined {
    pub(crate) id: String,
    pub(crate) token: String,
}

impl Joined {
    pub(crate) fn of(body: &Value) -> Self {
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        assert_eq!(body["node_id"], body["id"]);
        Self {
            id: text("node_id"),
            token: text("node_token"),
        }
    }
}

#[track_caller]
pub(crate) fn value(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap()
}

/// Asserts the status and the code of an error; returns its message.
#[track_caller]
pub(crate) fn refusal(response: &Response, status: u16, code: &str) -> String {
    assert_eq!(
        (response.status, response.error_code().as_str()),
        (status, code),
        "{}",
        response.text()
    );
    value(response)["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned()
}
