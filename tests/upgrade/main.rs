//! A new process takes over from the one that runs: no connection is refused, reset or left unanswered, what
//! has begun is finished, and a new process that fails changes nothing.

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

mod changes;
mod failures;
mod handover;
mod storm;
mod supervisor;
