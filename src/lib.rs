//! One OpenAI-compatible address in front of many inference nodes.

pub mod admission;
pub mod auth;
pub mod config;
pub mod control;
pub mod http1;
pub mod mock;
pub mod nodes;
pub mod openai;
pub mod proxy;
pub mod runtime;
pub mod server;
pub mod sse;
pub mod telemetry;
pub mod upstream;
