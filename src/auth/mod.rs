//! Who may use the router: API keys, their digests and the file that keeps them.
//!
//! It must never keep, log or compare a key in the clear, and never fail open.

pub mod key;
mod scope;
mod secret;
pub mod store;

pub use scope::{Scope, Scopes};
pub use secret::Secret;
