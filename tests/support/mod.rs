//! What the socket tests share: the router as a child process, nodes that follow a script, clients
//! that see every byte, and a reader of metrics. Nothing here may decide what is right: that is for
//! the tests, each of which asserts one outcome.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "every test file uses a part of this; a test fails by panicking"
)]

mod client;
pub mod corpus;
mod desk;
mod metrics;
mod node;
mod payload;
mod router;
mod site;
mod wait;

pub use client::{End, RawClient, Response, ResponseHead};
pub use desk::{Desk, answer_with_tag};
pub use metrics::Metrics;
pub use node::{Call, Leaving, Presence, ScriptedNode};
pub use payload::{Ask, Prng, ask, chat, chat_body, event, fixed, post, sse_head};
pub use router::{Driver, Router, RouterConfig, on_both_drivers};
pub use site::{Process, Site, is_ready};
pub use wait::{DEADLINE, Gate, blackhole, eventually, eventually_within, note, pause};

/// The model that scripted nodes serve unless a test says otherwise.
pub const MODEL: &str = "m";
