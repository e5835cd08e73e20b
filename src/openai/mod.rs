//! Everything that is particular to the OpenAI wire format, as plain data in and plain data out.
//!
//! Owns the routes, what a request body says about its model, the error and model-list bodies and
//! the reading of token usage. It must never do I/O, read a clock, or change a byte it was lent.

mod control_error;
pub mod error;
pub mod json;
pub mod models;
pub mod multipart;
pub mod peek;
pub mod routes;
pub mod splice;
pub mod usage;

pub use error::ApiError;
pub use peek::{Peek, PeekError};
pub use routes::{BodyKind, Endpoint, Route, RouteError, route};
pub use splice::Splice;
pub use usage::{Usage, UsageTap};
