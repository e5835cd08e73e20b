//! Who may use the router: API keys, their digests and the file that keeps them.
//!
//! It must never keep, log or compare a key in the clear, and never fail open.

pub mod key;
