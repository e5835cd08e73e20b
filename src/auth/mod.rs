//! Who may use the router: API keys, their digests and the file that keeps them; the administrator's
//! password.
//!
//! It must never keep, log or compare a key in the clear, and never fail open.

pub mod key;
mod password;
mod scope;
mod secret;
pub mod store;
mod token;

pub use password::{AdminPassword, PasswordHash};
pub use scope::{Scope, Scopes};
pub use secret::Secret;
pub use token::random_token;
