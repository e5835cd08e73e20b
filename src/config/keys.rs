//! The table of keys: path, environment names, range and destination of every setting.
//!
//! One line here is all a scalar setting needs besides its field and its line in `config.toml`;
//! tests hold the three together. `[[nodes]]` and `[[aliases]]` are in `nodes`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use crate::auth::AdminPassword;
use crate::auth::key::{KEY_BYTES_MAX, KeyHash, is_key};

use super::network::{Network, NetworkError};
use super::types::{AccessLog, Config, IoDriver, LogLevel};
use super::value::{Fault, Faults, Raw};

/// One setting.
pub(super) struct Key {
    /// `section.name` in the file.
    pub(super) path: &'static str,
    /// Environment variables, weakest first.
    pub(super) environment: &'static [&'static str],
    /// Checks a raw value and stores it.
    pub(super) set: fn(&mut Config, Raw<'_>) -> Result<(), Faults>,
    /// Whether two configurations agree about it.
    pub(super) is_same: fn(&Config, &Config) -> bool,
    /// Takes the value over from one configuration into another.
    pub(super) carry: fn(&Config, &mut Config),
}

impl Key {
    /// Whether the value must never be shown, nor be given where other users can see it.
    pub(super) fn is_secret(&self) -> bool {
        SECRETS.contains(&self.path)
    }

    /// Whether a running router keeps its value until it is started again.
    pub(super) fn needs_restart(&self) -> bool {
        NEEDS_RESTART.contains(&self.path)
    }

    /// `section` of `section.name`.
    pub(super) fn section(&self) -> &'static str {
        self.path.split('.').next().unwrap_or(self.path)
    }
}

/// Finds the setting of a key path.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

const SECRETS: &[&str] = &["auth.api_keys", "auth.admin_password"];

/// What is made once, at the start: listeners, threads, and files that are held open.
pub(super) const NEEDS_RESTART: &[&str] = &[
    "server.host",
    "server.port",
    "server.workers",
    "server.pin_workers",
    "server.io_driver",
    "server.data_dir",
    "server.max_connections",
    "log.access",
];

/// Shortens the table below: an assignment that stores a checked value says all there is to know.
macro_rules! key {
    ($path:literal, [$($name:literal),+],
     |$config:ident, $value:ident| $place:ident.$section:ident.$field:ident = $store:expr) => {
        Key {
            path: $path,
            environment: &[$($name),+],
            set: |$config, $value| {
                $place.$section.$field = $store;
                Ok(())
            },
            is_same: |left, right| left.$section.$field == right.$section.$field,
            carry: |from, to| to.$section.$field.clone_from(&from.$section.$field),
        }
    };
}

/// Every scalar setting, in the order of `config.toml`.
#[rustfmt::skip]
pub(super) const KEYS: &[Key] = &[
    key!("server.host", ["LLM_ROUTER_HOST"],
        |c, v| c.server.host = listen_address(v)?),
    key!("server.port", ["ROUTER_PORT", "LLM_ROUTER_PORT"],
        |c, v| c.server.port = narrow(v.integer(0..=65535)?)?),
    key!("server.workers", ["LLM_ROUTER_WORKERS"],
        |c, v| c.server.workers = narrow(v.integer(0..=1024)?)?),
    key!("server.pin_workers", ["LLM_ROUTER_PIN_WORKERS"],
        |c, v| c.server.pin_workers = v.boolean()?),
    key!("server.io_driver", ["LLM_ROUTER_IO_DRIVER"],
        |c, v| c.server.io_driver = v.choice(IO_DRIVERS)?),
    key!("server.data_dir", ["LLM_ROUTER_DATA_DIR"],
        |c, v| c.server.data_dir = PathBuf::from(v.text(PATH_BYTES_MAX)?)),
    key!("server.max_connections", ["LLM_ROUTER_MAX_CONNECTIONS"],
        |c, v| c.server.max_connections = narrow(v.integer(0..=1_000_000)?)?),
    key!("server.drain_announce_secs", ["LLM_ROUTER_DRAIN_ANNOUNCE_SECS"],
        |c, v| c.server.drain_announce = v.seconds(0.0..=300.0)?),
    key!("server.drain_grace_secs", ["LLM_ROUTER_DRAIN_GRACE_SECS"],
        |c, v| c.server.drain_grace = v.seconds(0.0..=DAY)?),

    key!("load_manager.max_waiting", ["LLM_ROUTER_MAX_WAITING"],
        |c, v| c.load_manager.max_waiting = narrow(v.integer(1..=u64::from(MAX_WAITING_MAX))?)?),
    key!("load_manager.default_timeout_secs", ["LLM_ROUTER_WAIT_TIMEOUT_SECS"],
        |c, v| c.load_manager.default_timeout = v.seconds(1.0..=300.0)?),
    key!("load_manager.warning_threshold", ["LLM_ROUTER_WARNING_THRESHOLD"],
        |c, v| c.load_manager.warning_threshold = v.number(0.0..=1.0)?),
    key!("load_manager.overload_threshold", ["LLM_ROUTER_OVERLOAD_THRESHOLD"],
        |c, v| c.load_manager.overload_threshold = v.number(0.0..=1.0)?),
    key!("load_manager.max_concurrent", ["LLM_ROUTER_MAX_CONCURRENT"],
        |c, v| c.load_manager.max_concurrent = narrow(v.integer(1..=1_000_000)?)?),

    key!("queue.max_size", ["LLMLB_QUEUE_MAX_SIZE"],
        |c, v| c.queue.max_size = narrow(v.integer(1..=10_000)?)?),
    key!("queue.timeout_secs", ["LLMLB_QUEUE_TIMEOUT_SECS"],
        |c, v| c.queue.timeout = v.seconds(1.0..=3600.0)?),
    key!("queue.enable_fairness", ["LLMLB_QUEUE_ENABLE_FAIRNESS"],
        |c, v| c.queue.enable_fairness = v.boolean()?),
    key!("queue.stream_position", ["LLM_ROUTER_QUEUE_STREAM_POSITION"],
        |c, v| c.queue.stream_position = v.boolean()?),
    key!("queue.deadline_aware", ["LLM_ROUTER_QUEUE_DEADLINE_AWARE"],
        |c, v| c.queue.deadline_aware = v.boolean()?),

    key!("connection_pool.max_idle_per_host", ["LLM_ROUTER_POOL_MAX_IDLE"],
        |c, v| c.connection_pool.max_idle_per_host = narrow(v.integer(1..=1000)?)?),
    key!("connection_pool.idle_timeout_secs", ["LLM_ROUTER_POOL_IDLE_TIMEOUT_SECS"],
        |c, v| c.connection_pool.idle_timeout = v.seconds(1.0..=3600.0)?),

    key!("node_cache.max_capacity", ["LLM_ROUTER_CACHE_MAX_CAPACITY"],
        |c, v| c.node_cache.max_capacity = narrow(v.integer(1..=1_000_000)?)?),
    key!("node_cache.ttl_secs", ["LLM_ROUTER_CACHE_TTL_SECS"],
        |c, v| c.node_cache.ttl = v.seconds(0.1..=60.0)?),

    key!("proxy.request_timeout_secs", ["LLM_ROUTER_REQUEST_TIMEOUT"],
        |c, v| c.proxy.request_timeout = v.seconds(1.0..=DAY)?),
    key!("proxy.connect_timeout_secs", ["LLM_ROUTER_CONNECT_TIMEOUT"],
        |c, v| c.proxy.connect_timeout = v.seconds(0.1..=300.0)?),
    key!("proxy.stream_idle_timeout_secs", ["LLM_ROUTER_STREAM_IDLE_TIMEOUT"],
        |c, v| c.proxy.stream_idle_timeout = v.seconds(1.0..=DAY)?),
    key!("proxy.max_body_bytes", ["LLM_ROUTER_MAX_BODY_BYTES"],
        |c, v| c.proxy.max_body_bytes = v.integer(KIB..=KIB * KIB * KIB)?),
    key!("proxy.max_buffered_bytes", ["LLM_ROUTER_MAX_BUFFERED_BYTES"],
        |c, v| c.proxy.max_buffered_bytes = v.integer(KIB..=KIB * KIB * KIB * KIB)?),

    key!("http.head_timeout_secs", ["LLM_ROUTER_HTTP_HEAD_TIMEOUT_SECS"],
        |c, v| c.http.head_timeout = v.seconds(0.1..=300.0)?),
    key!("http.idle_timeout_secs", ["LLM_ROUTER_HTTP_IDLE_TIMEOUT_SECS"],
        |c, v| c.http.idle_timeout = v.seconds(1.0..=DAY)?),
    key!("http.body_idle_timeout_secs", ["LLM_ROUTER_HTTP_BODY_IDLE_TIMEOUT_SECS"],
        |c, v| c.http.body_idle_timeout = v.seconds(0.1..=3600.0)?),
    key!("http.body_timeout_secs", ["LLM_ROUTER_HTTP_BODY_TIMEOUT_SECS"],
        |c, v| c.http.body_timeout = v.seconds(1.0..=DAY)?),
    key!("http.write_stall_timeout_secs", ["LLM_ROUTER_HTTP_WRITE_STALL_TIMEOUT_SECS"],
        |c, v| c.http.write_stall_timeout = v.seconds(1.0..=3600.0)?),
    key!("http.first_byte_timeout_secs", ["LLM_ROUTER_HTTP_FIRST_BYTE_TIMEOUT_SECS"],
        |c, v| c.http.first_byte_timeout = v.seconds(0.1..=300.0)?),

    key!("health.probe_interval_secs", ["LLM_ROUTER_PROBE_INTERVAL_SECS"],
        |c, v| c.health.probe_interval = v.seconds(1.0..=3600.0)?),
    key!("health.probe_timeout_secs", ["LLM_ROUTER_PROBE_TIMEOUT_SECS"],
        |c, v| c.health.probe_timeout = v.seconds(0.1..=60.0)?),
    key!("health.heartbeat_timeout_secs", ["LLM_ROUTER_HEARTBEAT_TIMEOUT_SECS"],
        |c, v| c.health.heartbeat_timeout = v.seconds(5.0..=3600.0)?),

    key!("registration.allowed_networks", ["LLM_ROUTER_REGISTRATION_NETWORKS"],
        |c, v| c.registration.allowed_networks = networks(v)?),

    key!("auth.required", ["LLM_ROUTER_AUTH_REQUIRED"],
        |c, v| c.auth.required = v.boolean()?),
    key!("auth.api_keys", ["LLM_ROUTER_API_KEYS"],
        |c, v| c.auth.api_keys = api_keys(v)?),
    key!("auth.admin_username", ["LLM_ROUTER_ADMIN_USERNAME"],
        |c, v| c.auth.admin_username = v.text(64)?.to_owned()),
    key!("auth.admin_password", ["LLM_ROUTER_ADMIN_PASSWORD"],
        |c, v| c.auth.admin_password = admin_password(v)?),
    key!("auth.session_hours", ["LLM_ROUTER_SESSION_HOURS"],
        |c, v| c.auth.session_lifetime = Duration::from_secs(3600 * v.integer(1..=720)?)),
    key!("auth.session_idle_minutes", ["LLM_ROUTER_SESSION_IDLE_MINUTES"],
        |c, v| c.auth.session_idle = Duration::from_secs(60 * v.integer(1..=1440)?)),

    key!("metrics.require_key", ["LLM_ROUTER_METRICS_REQUIRE_KEY"],
        |c, v| c.metrics.require_key = v.boolean()?),

    key!("history.enabled", ["LLM_ROUTER_HISTORY_ENABLED"],
        |c, v| c.history.enabled = v.boolean()?),
    key!("history.retention_days", ["LLM_ROUTER_HISTORY_RETENTION_DAYS"],
        |c, v| c.history.retention_days = narrow(v.integer(1..=3650)?)?),
    key!("history.max_rows", ["LLM_ROUTER_HISTORY_MAX_ROWS"],
        |c, v| c.history.max_rows = narrow(v.integer(1000..=100_000_000)?)?),

    key!("log.access", ["LLM_ROUTER_LOG_ACCESS"],
        |c, v| c.log.access = access_log(v)?),
    key!("log.level", ["LLM_ROUTER_LOG_LEVEL"],
        |c, v| c.log.level = v.choice(LOG_LEVELS)?),
];

fn listen_address(value: Raw<'_>) -> Result<IpAddr, Fault> {
    match value.string() {
        Some("localhost") => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Some(text) => text.parse().ok(),
        None => None,
    }
    .ok_or_else(|| {
        Fault::rule("must be an IP address such as 0.0.0.0, 127.0.0.1 or ::, or localhost".into())
    })
}

fn access_log(value: Raw<'_>) -> Result<AccessLog, Fault> {
    match value.string() {
        Some("off") => Ok(AccessLog::Off),
        Some("stdout") => Ok(AccessLog::Stdout),
        Some("stderr") => Ok(AccessLog::Stderr),
        // A slash is demanded so that a misspelt word does not become a file.
        Some(path) if path.contains('/') && value.text(PATH_BYTES_MAX).is_ok() => {
            Ok(AccessLog::File(PathBuf::from(path)))
        }
        _ => Err(Fault::rule(
            "must be off, stdout, stderr or a file path with a /, such as ./access.log".into(),
        )),
    }
}

fn admin_password(value: Raw<'_>) -> Result<AdminPassword, Fault> {
    AdminPassword::of_setting(value.text(1024)?).map_err(|rule| Fault::rule(rule.to_owned()))
}

fn networks(value: Raw<'_>) -> Result<Vec<Network>, Faults> {
    let elements = value.list()?;
    let mut networks = Vec::new();
    let mut faults = Vec::new();
    if elements.len() > NETWORKS_MAX {
        faults.push(Fault::rule(format!(
            "must be at most {NETWORKS_MAX} ranges"
        )));
    }
    for (index, element) in elements.into_iter().take(NETWORKS_MAX).enumerate() {
        match element.string().unwrap_or_default().parse() {
            Ok(network) => networks.push(network),
            Err(error) => {
                let reason = NetworkError::to_string(&error);
                faults.push(Fault::rule(reason).of_element(index));
            }
        }
    }
    if faults.is_empty() {
        Ok(networks)
    } else {
        Err(Faults(faults))
    }
}

/// Digests each key; the texts are dropped with the source they came from.
fn api_keys(value: Raw<'_>) -> Result<Vec<KeyHash>, Faults> {
    let mut hashes: Vec<KeyHash> = Vec::new();
    let mut faults = Vec::new();
    for (index, element) in value.list()?.into_iter().enumerate() {
        match api_key(element, &hashes) {
            Ok(hash) => hashes.push(hash),
            Err(fault) => faults.push(fault.of_element(index)),
        }
    }
    if hashes.len() > API_KEYS_MAX {
        faults.push(Fault::rule(format!("must be at most {API_KEYS_MAX} keys")));
    }
    if faults.is_empty() {
        Ok(hashes)
    } else {
        Err(Faults(faults))
    }
}

fn api_key(value: Raw<'_>, earlier: &[KeyHash]) -> Result<KeyHash, Fault> {
    let key = value
        .string()
        .map(str::as_bytes)
        .filter(|key| is_key(key))
        .ok_or_else(|| {
            Fault::rule(format!(
                "must be 1 to {KEY_BYTES_MAX} visible ASCII characters without blanks"
            ))
        })?;
    let hash = KeyHash::of(key);
    if earlier.contains(&hash) {
        return Err(Fault::rule("is the same as an earlier key".to_owned()));
    }
    Ok(hash)
}

/// Into the field's type, after the range check has made sure that it fits.
fn narrow<T: TryFrom<u64>>(value: u64) -> Result<T, Fault> {
    T::try_from(value).map_err(|_| Fault::rule("is too large for this machine".to_owned()))
}

const IO_DRIVERS: &[(&str, IoDriver)] = &[
    ("auto", IoDriver::Auto),
    ("io_uring", IoDriver::IoUring),
    ("epoll", IoDriver::Epoll),
];

const LOG_LEVELS: &[(&str, LogLevel)] = &[
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
];

/// Largest `load_manager.max_waiting`.
pub const MAX_WAITING_MAX: u32 = 1000;
/// Linux's PATH_MAX.
const PATH_BYTES_MAX: usize = 4096;
/// More keys than this belong into the key file; it also bounds the quadratic duplicate check.
const API_KEYS_MAX: usize = 1000;
/// Each address of a node is compared with all of them.
const NETWORKS_MAX: usize = 100;
const DAY: f64 = 86_400.0;
const KIB: u64 = 1024;
