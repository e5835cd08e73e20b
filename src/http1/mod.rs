//! HTTP/1.1 as bytes ↔ types: heads, body lengths, chunked framing and the canonical writer.
//!
//! This is the only place that decides how long a body is (RFC 9112 section 6). It reads bytes and
//! returns plain data: no I/O, no clock, no allocation while parsing, and no second opinion — a
//! message that the RFC lets a recipient either repair or reject is rejected.
//!
//! Two rules hold everywhere and are tested as properties:
//!
//! - *Split invariance*: any partition of the bytes gives the same verdict. Grammar verdicts belong
//!   to the earliest byte that decides them, so they are given early and never change afterwards.
//! - *Round trip*: what [`HeadWriter`] writes, [`parse_request`] and [`parse_response`] read back.
//!
//! How a head is read: a head that is whole in one buffer takes one pass of `httparse` and one walk
//! over its fields ([`request`], [`response`]). Whatever that pass does not accept goes through
//! [`HeadScan`], which judges line by line and alone names the verdict.

#![warn(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::string_slice
)]

mod chunked;
mod fields;
mod framing;
mod grammar;
mod name;
mod request;
mod response;
mod scan;
mod target;
mod verdict;
mod write;

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::string_slice,
    reason = "a test that panics has failed, which is its purpose"
)]
mod tests;

pub use chunked::{CHUNK_END, CHUNK_SIZE_LINE_BYTES_MAX, LAST_CHUNK, Passing};
pub use chunked::{ChunkedDecoder, Piece, PieceKind, Step, chunk_size_line};
pub use fields::{EndToEndFields, FieldIter, Fields, forwards_to_client, forwards_to_node};
pub use framing::{BodyLength, ResponseBody};
pub use grammar::is_valid_field_value;
pub use request::{Method, RequestHead, parse_request, parse_request_onward};
pub use response::{ResponseHead, parse_response, parse_response_onward};
pub use scan::{HeadLimits, HeadScan};
pub use verdict::{BadResponse, ChunkError, Reject};
pub use write::HeadWriter;

/// The protocol version of a message; nothing else is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: no chunked framing, and this router never keeps such a connection open.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// What a parser knows after looking at the bytes received so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// The head is whole and valid.
    Complete {
        /// The parsed head; it borrows from the bytes given.
        head: T,
        /// Length of the head including its final empty line (and a leading one, if sent): the
        /// body starts at this offset.
        bytes: usize,
    },
    /// Valid so far; append more bytes and call again with the same [`HeadScan`].
    Partial,
}
