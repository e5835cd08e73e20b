//! Where the operator sits: the control API, asked with the token of a login.

use std::collections::HashMap;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::clients::Seen;
use crate::support::{Metrics, RawClient, Response, ScriptedNode, eventually};

/// The control API and a login.
pub(crate) struct Office {
    address: SocketAddr,
    authorization: String,
}

/// A key that was made here.
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) secret: String,
}

impl Office {
    #[track_caller]
    pub(crate) fn log_in(address: SocketAddr) -> Self {
        let nobody = Self {
            address,
            authorization: String::new(),
        };
        let login = json!({"username": "admin", "password": "test"});
        let answer = nobody.ask("POST", "/api/auth/login", &[], Some(&login));
        assert_eq!(answer.status, 200, "{}", answer.text());
        Self {
            authorization: format!("Bearer {}", text(&value(&answer)["token"])),
            ..nobody
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn connect(&self) -> RawClient {
        RawClient::connect(self.address)
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        self.asked("GET", path, None, 200)
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        self.asked("POST", path, Some(body), 200)
    }

    #[track_caller]
    pub(crate) fn make_key(&self, scope: &str) -> Key {
        let wanted = json!({"name": scope, "scopes": [scope]});
        let made = self.asked("POST", "/api/keys", Some(&wanted), 201);
        Key {
            id: text(&made["id"]),
            secret: text(&made["key"]),
        }
    }

    #[track_caller]
    pub(crate) fn revoke(&self, id: &str) {
        let answer = self.ask("DELETE", &format!("/api/keys/{id}"), &self.bearer(), None);
        assert_eq!(answer.status, 204, "{}", answer.text());
    }

    /// What a node does with a key of its own; its id and its token.
    #[track_caller]
    pub(crate) fn register(&self, key: &str, name: &str, node: &ScriptedNode) -> (String, String) {
        let wanted = json!({
            "name": name,
            "base_url": format!("http://{}", node.address()),
            "models": [crate::support::MODEL],
            "max_concurrency": 1000,
        });
        let answer = self.ask("POST", "/api/nodes", &[("X-API-Key", key)], Some(&wanted));
        assert_eq!(answer.status, 201, "{}", answer.text());
        let made = value(&answer);
        (text(&made["node_id"]), text(&made["node_token"]))
    }

    #[track_caller]
    pub(crate) fn heartbeat(&self, id: &str, token: &str) {
        let path = format!("/api/nodes/{id}/heartbeat");
        let report = json!({"cpu_usage": 10, "memory_usage": 20});
        let answer = self.ask("POST", &path, &[("X-Node-Token", token)], Some(&report));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    #[track_caller]
    pub(crate) fn node(&self, id: &str) -> Value {
        self.get(&format!("/api/nodes/{id}"))
    }

    #[track_caller]
    pub(crate) fn act(&self, id: &str, action: &str) -> Value {
        self.asked("POST", &format!("/api/nodes/{id}/{action}"), None, 200)
    }

    #[track_caller]
    pub(crate) fn until_state(&self, id: &str, state: &str) {
        eventually(&format!("{id} is {state}"), || {
            self.node(id)["state"] == state
        });
    }

    /// Chats that the running process has answered with 200.
    pub(crate) fn answered(&self) -> f64 {
        Metrics::fetch(self.address)
            .value("llm_router_requests_total{endpoint=\"chat_completions\",status=\"200\"}")
    }

    /// Asserts that each answer is in the history exactly once, with its status.
    #[track_caller]
    pub(crate) fn history_accounts_for(&self, seen: &Seen) {
        assert!(!seen.answers.is_empty());
        eventually("the history has every answer once", || {
            let kept = self.statuses_by_request_id();
            seen.answers.iter().all(|answer| {
                kept.get(&answer.request_id)
                    .is_some_and(|statuses| statuses[..] == [u64::from(answer.status)])
            })
        });
    }

    fn statuses_by_request_id(&self) -> HashMap<String, Vec<u64>> {
        let answer = self.ask(
            "GET",
            "/api/history/export?format=json",
            &self.bearer(),
            None,
        );
        assert_eq!(answer.status, 200, "{}", answer.text());
        let exported = value(&answer);
        let mut kept: HashMap<String, Vec<u64>> = HashMap::new();
        for record in exported.as_array().unwrap() {
            let status = record["status"].as_u64().unwrap();
            kept.entry(text(&record["request_id"]))
                .or_default()
                .push(status);
        }
        kept
    }

    fn bearer(&self) -> [(&str, &str); 1] {
        [("Authorization", &self.authorization)]
    }

    #[track_caller]
    fn asked(&self, method: &str, path: &str, body: Option<&Value>, status: u16) -> Value {
        let answer = self.ask(method, path, &self.bearer(), body);
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        value(&answer)
    }

    fn ask(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Response {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        for (name, value) in fields {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        match body {
            None => request.push_str("\r\n"),
            Some(body) => {
                let body = body.to_string();
                let length = body.len();
                request.push_str(&format!(
                    "Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
                ));
            }
        }
        let mut client = self.connect();
        client.send(request.as_bytes());
        client.response()
    }
}

fn value(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap()
}

#[track_caller]
fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
