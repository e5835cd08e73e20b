//! The data plane: from an accepted connection to the last byte of each answer.
//!
//! Read [`exchange`] first: it is the whole way of a request in order. Each step it names is a file
//! here; everything those steps decide with lives in the sans-I/O modules (`http1`, `openai`,
//! `nodes`, `admission`, `auth`).
//!
//! # Invariants
//!
//! * Every request that was read whole ends in exactly one [`trace::Trace`], whatever happens to it.
//! * A slot, a permit, a buffered byte and a gauge are guards: every way out gives them back.
//! * No byte of a refused request reaches a node; nothing is sent again once a response byte came.
//! * Truncation stays visible: a response that was cut is never given a clean end.

pub mod api;
mod attempt;
mod body;
mod changes;
mod connection;
mod downstream;
mod early;
mod exchange;
mod local;
mod page;
mod passage;
mod probe_token;
mod queue;
mod relay;
mod request;
mod request_id;
mod respond;
mod settings;
mod trace;
mod worker;

pub use changes::{Change, Changes};
pub use connection::serve;
pub use probe_token::ProbeToken;
pub use settings::{LiveConfig, admission_limits, apply_log_level, history_limits};
pub use worker::{ControlInbox, DrainPhase, Notice, Shared, Worker, wake_by};
