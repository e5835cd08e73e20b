//! The request history over real sockets: what it keeps of every way a request can end, how it is found
//! again, and what becomes of it when the database fails or the process dies.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::disallowed_types,
    reason = "the threads of a test wait for each other"
)]

mod export;
mod faults;
mod records;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use llm_router::auth::Scope;
use llm_router::auth::store::{KeyRequest, KeyStore};
use llm_router::runtime::clock;
use serde_json::Value;

use support::{Driver, Response, Router, RouterConfig, eventually};

/// A data directory with the key of an administrator in it; goes away with the test.
pub(crate) struct DataDir {
    path: PathBuf,
    key: String,
}

impl DataDir {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("llm-router-history-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        let key = make_key(&path, Scope::Admin);
        Self { path, key }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("llm-router.db")
    }

    /// Another process, as far as SQLite can tell.
    pub(crate) fn open(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.database()).unwrap()
    }

    pub(crate) fn config(&self) -> RouterConfig {
        RouterConfig::new(Driver::IoUring).data_dir(&self.path)
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

pub(crate) fn make_key(data_dir: &Path, scope: Scope) -> String {
    let request = KeyRequest {
        name: "test",
        scopes: scope.into(),
        created_at: clock::unix_secs(),
        expires_at: None,
    };
    let (_, secret) = KeyStore::new(data_dir).create(request).unwrap();
    secret.expose().to_owned()
}

/// One request to the control API, by the administrator.
pub(crate) fn call(router: &Router, data: &DataDir, method: &str, path: &str) -> Response {
    let mut client = router.connect();
    let key = &data.key;
    client.send(
        format!(
            "{method} {path} HTTP/1.1\r\nHost: router\r\nAuthorization: Bearer {key}\r\n\
             Connection: close\r\n\r\n"
        )
        .as_bytes(),
    );
    client.response()
}

/// The body of a successful `GET`.
#[track_caller]
pub(crate) fn get(router: &Router, data: &DataDir, path: &str) -> Value {
    let response = call(router, data, "GET", path);
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    serde_json::from_slice(&response.body).unwrap()
}

/// The first page, once it shows so many requests; the latest first.
#[track_caller]
pub(crate) fn records(router: &Router, data: &DataDir, count: usize) -> Vec<Value> {
    let page = || get(router, data, "/api/history?per_page=200");
    eventually(&format!("the history shows {count} requests"), || {
        page()["total"] == count
    });
    page()["records"].as_array().unwrap().clone()
}

/// How many requests fit, by the query.
pub(crate) fn total(router: &Router, data: &DataDir, query: &str) -> u64 {
    let page = get(router, data, &format!("/api/history?{query}"));
    page["total"].as_u64().unwrap()
}
