//! A running router reads its configuration again: what changes holds at once, what cannot change is told,
//! what is wrong changes nothing, and no request notices.

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

#[path = "../support/mod.rs"]
mod support;

mod live;
mod refusals;
mod under_load;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use llm_router::auth::Scope;
use llm_router::auth::store::{KeyRequest, KeyStore};
use llm_router::runtime::clock;
use nix::sys::signal::Signal;
use serde_json::Value;

use support::{Driver, Response, Router, RouterConfig, eventually};

/// A router with an administrator.
pub(crate) struct Setting {
    pub(crate) router: Router,
    pub(crate) config: RouterConfig,
    key: String,
    data_dir: PathBuf,
}

impl Setting {
    pub(crate) fn start(config: RouterConfig) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let data_dir =
            std::env::temp_dir().join(format!("llm-router-reload-{}-{number}", std::process::id()));
        fs::create_dir_all(&data_dir).unwrap();
        let key = make_key(&data_dir, Scope::Admin);
        let config = config.data_dir(&data_dir);
        Self {
            router: config.clone().start(),
            config,
            key,
            data_dir,
        }
    }

    /// Writes another configuration, has it read, and returns what came of it.
    pub(crate) fn reload(&mut self, config: RouterConfig) -> Value {
        self.config = config.data_dir(&self.data_dir);
        self.router.rewrite(&self.config);
        let response = self.post_reload();
        assert_eq!(response.status, 200, "{}", response.text());
        serde_json::from_slice(&response.body).unwrap()
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Takes away every key that was made in the data directory.
    pub(crate) fn revoke_all_keys(&self) {
        let store = KeyStore::new(&self.data_dir);
        for key in store.list().unwrap() {
            store.revoke(key.id).unwrap();
        }
    }

    pub(crate) fn post_reload(&self) -> Response {
        self.post("/api/reload")
    }

    pub(crate) fn post(&self, path: &str) -> Response {
        let mut client = self.router.connect();
        client.send(
            format!(
                "POST {path} HTTP/1.1\r\nHost: router\r\nAuthorization: Bearer {}\r\n\
                 Content-Length: 0\r\nConnection: close\r\n\r\n",
                self.key
            )
            .as_bytes(),
        );
        client.response()
    }

    /// Has the configuration read by signal, and waits until that has come to something.
    pub(crate) fn hang_up(&self) {
        let before = self.outcomes();
        self.router.signal(Signal::SIGHUP);
        eventually("the reload has an outcome", || self.outcomes() != before);
    }

    /// Reloads that succeeded, and that failed.
    pub(crate) fn outcomes(&self) -> (f64, f64) {
        let metrics = self.router.metrics();
        let count = |outcome| {
            metrics.value(&format!(
                "llm_router_config_reloads_total{{outcome=\"{outcome}\"}}"
            ))
        };
        (count("success"), count("failure"))
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.data_dir);
    }
}

/// Loopback, no data directory yet; the rest as the tests of everything else have it.
pub(crate) fn config(driver: Driver) -> RouterConfig {
    RouterConfig::new(driver)
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
