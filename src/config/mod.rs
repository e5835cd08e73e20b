//! The typed configuration: built-in defaults < file < environment < command line.
//!
//! Owns every key's name, range and default, and the report of *all* that is wrong. It must never
//! change the process environment, print, or keep an API key in the clear.

pub mod base_url;
mod change;
mod check;
mod environment;
mod fields;
mod file;
mod keys;
mod load;
mod network;
mod nodes;
mod problem;
mod suggest;
mod types;
mod value;

pub use crate::auth::Secret;

pub use base_url::{BaseUrl, BaseUrlError, Host};
pub use change::Change;
pub use check::{fail_closed, is_loopback};
pub use environment::Environment;
pub use keys::MAX_WAITING_MAX;
pub use load::{DEFAULT_FILE, FileText, Loaded, Override, Sources, resolve};
pub use network::{Network, NetworkError};
pub use nodes::{
    CONCURRENCY_MAX, CREDENTIAL_BYTES_MAX, MODEL_NAME_BYTES_MAX, MODELS_PER_NODE_MAX,
    NODE_NAME_BYTES_MAX, WEIGHT_MAX, is_credential, is_model_name, is_node_name,
};
pub use problem::{Origin, Problem, Problems};
pub use types::{
    AccessLog, AliasConfig, AuthConfig, Config, ConnectionPoolConfig, HealthConfig, HistoryConfig,
    HttpConfig, IoDriver, LoadManagerConfig, LogConfig, LogLevel, MetricsConfig, NodeCacheConfig,
    NodeConfig, ProxyConfig, QueueConfig, RegistrationConfig, ServerConfig,
};

#[cfg(test)]
mod tests;
