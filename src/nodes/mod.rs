//! Owns what the router knows about nodes: the table snapshot, live counters, the choice of a node
//! with its slot, and health. Plain data in, plain data out: never does I/O, reads a clock, or
//! waits.

mod availability;
mod bank;
mod board;
mod candidates;
mod contenders;
pub mod health;
mod line;
mod live;
pub mod policy;
mod revision;
mod standings;
mod table;

pub use board::{EventTime, HealthBoard, Transition};
pub use candidates::{CandidateLimits, Candidates, ResolvedModel, Selection, Slot};
pub use health::{HealthEvent, HealthTiming, NodeHealth};
pub use line::{Admission, LocalAdmission, Permit, Place, Served};
pub use live::{EJECTION_FAILURES, FailureReason, NodeLive, NodeState};
pub use table::{
    AliasSpec, Authorization, Model, ModelStats, Node, NodeDirectory, NodeId, NodeSpec, NodeTable,
    RECENT_SERVICES, TableError,
};
