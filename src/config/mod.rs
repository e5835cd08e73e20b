//! The typed configuration: built-in defaults < file < environment < command line.
//!
//! Owns every key's name, range and default, and the report of *all* that is wrong. It must never
//! change the process environment, print, or keep an API key in the clear.

pub mod base_url;
pub mod secret;
mod types;

pub use base_url::{BaseUrl, BaseUrlError, Host};
pub use secret::Secret;
pub use types::{
    AccessLog, AliasConfig, AuthConfig, Config, ConnectionPoolConfig, HttpConfig, IoDriver,
    LoadManagerConfig, LogConfig, LogLevel, MetricsConfig, NodeCacheConfig, NodeConfig,
    ProxyConfig, QueueConfig, ServerConfig,
};
