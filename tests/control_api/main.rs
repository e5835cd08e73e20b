//! The control API over real sockets: who may ask what, how logins and keys come and go, and what becomes of
//! requests that are malformed, too large, too many or given up.

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

mod access;
mod busy;
mod canary;
mod events;
mod keys;
mod login;
mod transport;

use serde_json::Value;
use support::{Driver, RawClient, Response, Router, RouterConfig};

/// What a browser keeps after a login.
pub(crate) struct Login {
    pub(crate) token: String,
    /// As it goes back in a `Cookie` field.
    pub(crate) cookie: String,
}

/// A router without nodes, which needs API keys.
pub(crate) fn router(driver: Driver) -> Router {
    config(driver).start()
}

pub(crate) fn config(driver: Driver) -> RouterConfig {
    RouterConfig::new(driver).set("auth.required", true)
}

/// The bytes of one request.
pub(crate) fn request(
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: Option<&str>,
) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in fields {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = body {
        let is_typed = fields
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        if !is_typed {
            text.push_str("Content-Type: application/json\r\n");
        }
        text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    } else {
        text.push_str("\r\n");
    }
    text.into_bytes()
}

/// One request on a connection of its own.
#[track_caller]
pub(crate) fn ask(
    router: &Router,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: Option<&str>,
) -> Response {
    let mut client = router.connect();
    client.send(&request(method, path, fields, body));
    answer(&mut client, method)
}

#[track_caller]
pub(crate) fn answer(client: &mut RawClient, method: &str) -> Response {
    if method == "HEAD" {
        let head = client.head();
        return Response {
            status: head.status,
            head,
            body: Vec::new(),
        };
    }
    client.response()
}

pub(crate) fn json(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap()
}

/// Asserts the status and the code of an error.
#[track_caller]
pub(crate) fn expect_error(response: &Response, status: u16, code: &str) {
    assert_eq!(
        (response.status, response.error_code().as_str()),
        (status, code),
        "{}",
        response.text()
    );
}

pub(crate) fn try_login(router: &Router, username: &str, password: &str) -> Response {
    let body = serde_json::json!({"username": username, "password": password}).to_string();
    ask(router, "POST", "/api/auth/login", &[], Some(&body))
}

/// Logs in as the documented default, which loopback may.
#[track_caller]
pub(crate) fn login(router: &Router) -> Login {
    let response = try_login(router, "admin", "test");
    assert_eq!(response.status, 200, "{}", response.text());
    let token = json(&response)["token"].as_str().unwrap().to_owned();
    let cookie = response.head.field("set-cookie").unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    Login { token, cookie }
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// Makes a key with these scopes; returns its id and the key.
#[track_caller]
pub(crate) fn make_key(router: &Router, admin: &str, scopes: &[&str]) -> (String, String) {
    let body = serde_json::json!({"name": "k", "scopes": scopes}).to_string();
    let fields = [("Authorization", admin)];
    let response = ask(router, "POST", "/api/keys", &fields, Some(&body));
    assert_eq!(response.status, 201, "{}", response.text());
    let body = json(&response);
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    (text("id"), text("key"))
}
