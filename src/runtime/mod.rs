//! The boundary to monoio: drivers, sockets, buffers, deadlines, tasks, mailboxes.
//!
//! Everything above this folder speaks of [`Stream`], [`Buf`] and [`Reader`]; only this folder and
//! `server/` name monoio, and only this folder may contain `unsafe`.
//!
//! # Invariants
//!
//! * **A read of a live connection is never dropped.** io_uring loses the bytes of a cancelled read
//!   (`tests/cancel_unsafe.rs` pins it). A read therefore lives in its [`Reader`], not in the future
//!   that waits for it: dropping the waiting future drops nothing.
//! * **A deadline never cancels.** It shuts the socket down ([`Deadline`]), so the parked operation
//!   completes by itself and the buffer comes home.
//! * **A panic ends one task, not a core** ([`spawn`]).
//! * **Nothing is woken from another thread** except through a [`mailbox`]: monoio's `sync` feature
//!   stays off because it taxes every park.

mod buffer;
pub mod clock;
mod deadline;
mod driver;
mod listener;
pub mod mailbox;
mod next_tick;
mod passing;
mod pooled;
mod priority;
mod reader;
mod scratch;
mod stream;
mod task;

pub use buffer::{Buf, HEADROOM, LARGE, MEDIUM, SMALL};
pub use deadline::{Deadline, FRESH_GRACE, close_idle};
pub use driver::{Driver, DriverChoice, Preference, block_on, choose};
pub use listener::Listener;
pub use next_tick::NextTick;
pub use passing::{DESCRIPTORS_MAX, inherit_nothing, receive_descriptors, send_descriptors};
pub use pooled::Pooled;
pub use priority::lower_priority;
pub use reader::Reader;
pub use scratch::Scratch;
pub use stream::{Stream, Writer, is_exhaustion};
pub use task::{TURNS, give_way, panic_count, sleep, spawn, timeout};
