//! The resolved configuration as plain types, with the built-in defaults.
//!
//! Values here have passed every range check of the key table and the cross checks. This file must
//! never read a file, a variable or an argument: that is `load` and `keys`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use crate::auth::key::KeyHash;
use crate::auth::{AdminPassword, Secret};

use super::base_url::BaseUrl;
use super::network::{Network, private_networks};

/// The whole configuration. `Default` is the built-in defaults of spec section 2.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Listener, workers and process-wide settings.
    pub server: ServerConfig,
    /// The router-wide admission limit (seed 1).
    pub load_manager: LoadManagerConfig,
    /// The per-model wait queue (seed 2).
    pub queue: QueueConfig,
    /// Idle connections to nodes.
    pub connection_pool: ConnectionPoolConfig,
    /// The per-worker cache of a model's candidate nodes.
    pub node_cache: NodeCacheConfig,
    /// Limits of the upstream side of an exchange.
    pub proxy: ProxyConfig,
    /// Limits of the downstream side of a connection.
    pub http: HttpConfig,
    /// How nodes are watched.
    pub health: HealthConfig,
    /// Nodes that are given through the control API.
    pub registration: RegistrationConfig,
    /// API keys and the administrator's login.
    pub auth: AuthConfig,
    /// The metrics endpoint.
    pub metrics: MetricsConfig,
    /// What is kept of past requests.
    pub history: HistoryConfig,
    /// Lifecycle log and access records.
    pub log: LogConfig,
    /// Nodes named in the file, in file order; names are unique.
    pub nodes: Vec<NodeConfig>,
    /// Model aliases, in file order; alias names are unique and never point at another alias.
    pub aliases: Vec<AliasConfig>,
}

impl Config {
    /// Puts hashes in the place of passwords in the clear. To be called before the configuration is run with,
    /// or compared with one that runs, whose password is `earlier`: what stayed the same is equal then.
    ///
    /// # Errors
    /// The system has no random bytes or no memory for it.
    pub fn seal(&mut self, earlier: Option<&AdminPassword>) -> Result<(), &'static str> {
        self.auth.admin_password.seal(earlier)
    }
}

/// `[server]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    /// Address to listen on; `localhost` in the file becomes 127.0.0.1.
    pub host: IpAddr,
    /// Port to listen on; 0 lets the system pick one.
    pub port: u16,
    /// Worker threads, 0–1024; 0 is one per available core.
    pub workers: usize,
    /// Whether each worker is bound to one core.
    pub pin_workers: bool,
    /// Which monoio driver the workers use.
    pub io_driver: IoDriver,
    /// Directory of the key file and the database.
    pub data_dir: PathBuf,
    /// Downstream connections of the whole process; 0 derives it from the open-file limit.
    pub max_connections: usize,
    /// How long readiness fails before the listeners close, 0–300 s.
    pub drain_announce: Duration,
    /// How long running exchanges may take to finish while draining, 0–86400 s.
    pub drain_grace: Duration,
}

/// The driver of the worker runtimes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoDriver {
    /// `io_uring` where the kernel allows it, else epoll.
    #[default]
    Auto,
    /// `io_uring` or refuse to start.
    IoUring,
    /// epoll.
    Epoll,
}

/// `[load_manager]`: admission over all models and workers.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadManagerConfig {
    /// Waiting requests that count as a full queue, 1–1000.
    pub max_waiting: u32,
    /// Longest wait before 504 `wait_timeout`, 1–300 s.
    pub default_timeout: Duration,
    /// Load ratio from which the state is Warning; 0 ≤ warning < overload.
    pub warning_threshold: f64,
    /// Load ratio from which the state is Overloaded; warning < overload ≤ 1.
    pub overload_threshold: f64,
    /// Requests in flight over all nodes, 1–1 000 000.
    pub max_concurrent: u32,
}

/// `[queue]`: the wait queue of each model.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueConfig {
    /// Requests one model's queue holds, 1–10000.
    pub max_size: u32,
    /// Longest wait before 504 `queue_timeout`, 1–3600 s.
    pub timeout: Duration,
    /// Whether keys take turns.
    pub enable_fairness: bool,
    /// Whether a waiting stream begins at once and is told its place in comments.
    pub stream_position: bool,
    /// Whether a request whose client would leave before its turn is refused at once.
    pub deadline_aware: bool,
}

/// `[connection_pool]`: idle upstream connections.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionPoolConfig {
    /// Idle connections kept per worker and node, 1–1000.
    pub max_idle_per_host: usize,
    /// How long an idle connection is kept, 1–3600 s.
    pub idle_timeout: Duration,
}

/// `[node_cache]`: candidate lists per model.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeCacheConfig {
    /// Entries per worker, 1–1 000 000.
    pub max_capacity: usize,
    /// Lifetime of an entry, 0.1–60 s.
    pub ttl: Duration,
}

/// `[proxy]`: the upstream side of an exchange.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyConfig {
    /// Longest wait for the first response byte of a node, 1–86400 s.
    pub request_timeout: Duration,
    /// Longest time to connect to a node, 0.1–300 s.
    pub connect_timeout: Duration,
    /// Longest silence within a response body, 1–86400 s.
    pub stream_idle_timeout: Duration,
    /// Largest request body, 1 KiB – 1 GiB; half of it for embeddings, twice for audio and images.
    pub max_body_bytes: u64,
    /// Request bodies held in memory by the whole process, 2 × `max_body_bytes` – 1 TiB.
    /// Counts bodies above 16 KiB.
    pub max_buffered_bytes: u64,
}

/// `[http]`: what a client may take its time for.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpConfig {
    /// From the first byte of a request head to its end, 0.1–300 s.
    pub head_timeout: Duration,
    /// Keep-alive silence between two requests, 1–86400 s.
    pub idle_timeout: Duration,
    /// Longest gap within a request body, 0.1–3600 s.
    pub body_idle_timeout: Duration,
    /// Whole request body, 1–86400 s.
    pub body_timeout: Duration,
    /// Longest time without progress when writing to a client, 1–3600 s.
    pub write_stall_timeout: Duration,
    /// From accepting a connection to its first byte, 0.1–300 s.
    pub first_byte_timeout: Duration,
}

/// `[health]`: when a node counts as there.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthConfig {
    /// How often a node is asked whether it is there, 1–3600 s.
    pub probe_interval: Duration,
    /// How long it may take to answer, 0.1–60 s.
    pub probe_timeout: Duration,
    /// Silence of a node that reports itself, after which it counts as gone, 5–3600 s.
    pub heartbeat_timeout: Duration,
}

/// `[registration]`: nodes given through the control API.
#[derive(Clone, Debug, PartialEq)]
pub struct RegistrationConfig {
    /// Where such nodes may live. Nodes of the file may live anywhere.
    pub allowed_networks: Vec<Network>,
}

/// `[auth]`.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthConfig {
    /// Whether inference needs an API key.
    pub required: bool,
    /// Digests of the keys in the configuration; the keys themselves are not kept.
    pub api_keys: Vec<KeyHash>,
    /// The administrator's login name.
    pub admin_username: String,
    /// The administrator's password, or its Argon2id hash.
    pub admin_password: AdminPassword,
    /// How long a login lasts, 1–720 h.
    pub session_lifetime: Duration,
    /// How long a login lasts without being used, 1–1440 min.
    pub session_idle: Duration,
}

/// `[metrics]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricsConfig {
    /// Whether `GET /metrics` needs an API key.
    pub require_key: bool,
}

/// `[history]`: what is kept of past requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryConfig {
    /// Whether anything is.
    pub enabled: bool,
    /// For how long, 1–3650 days.
    pub retention_days: u32,
    /// How many requests at most, 1000–100 000 000.
    pub max_rows: u32,
}

/// `[log]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogConfig {
    /// Where access records go.
    pub access: AccessLog,
    /// The least important lifecycle message that is printed.
    pub level: LogLevel,
}

/// Destination of access records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// No records.
    #[default]
    Off,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Appended to a file.
    File(PathBuf),
}

/// Importance of lifecycle messages, most important first (style A9.12).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// An operator must act.
    Error,
    /// The service is degraded.
    Warn,
    /// Lifecycle.
    #[default]
    Info,
    /// Per exchange.
    Debug,
}

/// One `[[nodes]]` entry.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    /// 1–64 characters of `A-Z a-z 0-9 . _ -`, unique.
    pub name: String,
    /// Where the node answers.
    pub base_url: BaseUrl,
    /// Models it serves; empty means "ask the node".
    pub models: Vec<String>,
    /// Credential sent to the node in place of the client's.
    pub api_key: Option<Secret>,
    /// Slots; `None` is `"auto"`: what the engine reports, else 1.
    pub max_concurrency: Option<u32>,
    /// Relative share, 1–1000.
    pub weight: u32,
}

/// One `[[aliases]]` entry: requests for `model` are served by `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasConfig {
    /// The name clients ask for.
    pub model: String,
    /// The model nodes are asked for.
    pub to: String,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 8080,
            workers: 0,
            pin_workers: true,
            io_driver: IoDriver::Auto,
            data_dir: PathBuf::from("data"),
            max_connections: 0,
            // Long enough for a balancer that polls readiness every 2 s to see two failures.
            drain_announce: Duration::from_secs(5),
            drain_grace: Duration::from_secs(300),
        }
    }
}

impl IoDriver {
    /// The name used in the configuration and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

impl fmt::Display for IoDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Default for LoadManagerConfig {
    fn default() -> Self {
        Self {
            max_waiting: 100,
            default_timeout: Duration::from_secs(30),
            warning_threshold: 0.5,
            overload_threshold: 0.8,
            max_concurrent: 100,
        }
    }
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            max_size: 100,
            timeout: Duration::from_secs(60),
            enable_fairness: true,
            stream_position: false,
            deadline_aware: true,
        }
    }
}

impl Default for ConnectionPoolConfig {
    fn default() -> Self {
        Self {
            max_idle_per_host: 32,
            idle_timeout: Duration::from_secs(90),
        }
    }
}

impl Default for NodeCacheConfig {
    fn default() -> Self {
        Self {
            max_capacity: 1000,
            ttl: Duration::from_secs(5),
        }
    }
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(5),
            stream_idle_timeout: Duration::from_secs(120),
            max_body_bytes: 32 * 1024 * 1024,
            max_buffered_bytes: 512 * 1024 * 1024,
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_idle_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(120),
            write_stall_timeout: Duration::from_secs(30),
            first_byte_timeout: Duration::from_secs(15),
        }
    }
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_secs(10),
            probe_timeout: Duration::from_secs(5),
            heartbeat_timeout: Duration::from_secs(60),
        }
    }
}

impl Default for RegistrationConfig {
    fn default() -> Self {
        Self {
            allowed_networks: private_networks(),
        }
    }
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            required: true,
            api_keys: Vec::new(),
            admin_username: "admin".to_owned(),
            admin_password: AdminPassword::Default,
            session_lifetime: Duration::from_secs(12 * 3600),
            session_idle: Duration::from_secs(30 * 60),
        }
    }
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            retention_days: 7,
            max_rows: 1_000_000,
        }
    }
}
