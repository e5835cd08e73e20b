//! Every verdict this codec can give about bytes it refuses, in one table.
//!
//! Owns the mapping from a protocol fault to status, error code and English reason. It must never
//! quote the peer's bytes: reasons are constants.

use http::StatusCode;

/// A request that is answered with an error instead of being routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The status to answer with.
    pub status: StatusCode,
    /// The `code` of the error body (spec section 7).
    pub code: &'static str,
    /// One English sentence without its period, for the error body; never contains bytes of the
    /// peer.
    pub reason: &'static str,
    /// Whether the connection ends after the answer. Always true for a verdict of this module: what
    /// follows a refused head or chunk cannot be attributed to a message any more.
    pub close: bool,
}

/// A response of a node that cannot be understood: the exchange fails (502 if nothing was sent
/// yet) and the upstream connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadResponse {
    /// What is wrong, for whoever debugs a node; never contains bytes of the node.
    pub reason: &'static str,
}

/// A chunked body that violates RFC 9112 section 7.1 or one of our bounds.
///
/// Downstream it is a 400 (`Reject::from`), upstream it aborts the relay (`BadResponse::from`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkError {
    /// What is wrong; never contains bytes of the peer.
    pub reason: &'static str,
}

impl Reject {
    const fn new(status: StatusCode, code: &'static str, reason: &'static str) -> Self {
        Self {
            status,
            code,
            reason,
            close: true,
        }
    }

    pub(super) const fn bad(reason: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", reason)
    }

    pub(super) const fn too_large(reason: &'static str) -> Self {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Self::new(status, "request_header_fields_too_large", reason)
    }

    pub(super) const fn not_implemented(reason: &'static str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "not_implemented", reason)
    }
}

impl std::fmt::Display for Reject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason)
    }
}

impl std::error::Error for Reject {}

impl From<ChunkError> for Reject {
    fn from(error: ChunkError) -> Self {
        Self::bad(error.reason)
    }
}

impl std::fmt::Display for BadResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason)
    }
}

impl std::error::Error for BadResponse {}

/// Both roles share the field grammar; only the reason survives on the upstream side.
impl From<Reject> for BadResponse {
    fn from(reject: Reject) -> Self {
        Self {
            reason: reject.reason,
        }
    }
}

impl From<ChunkError> for BadResponse {
    fn from(error: ChunkError) -> Self {
        Self {
            reason: error.reason,
        }
    }
}

impl std::fmt::Display for ChunkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason)
    }
}

impl std::error::Error for ChunkError {}

// Lines and limits.
pub(super) const EMPTY_LINES: Reject = Reject::bad("More than one empty line precedes the request");
pub(super) const BARE_LF: Reject = Reject::bad("A line does not end in CRLF");
pub(super) const LINE_FOLDING: Reject = Reject::bad("Whitespace precedes a field name");
pub(super) const NO_COLON: Reject = Reject::bad("A field line has no colon");
pub(super) const SPACE_BEFORE_COLON: Reject =
    Reject::bad("Whitespace precedes the colon of a field");
pub(super) const FIELD_NAME: Reject = Reject::bad("A field name is invalid");
pub(super) const FIELD_VALUE: Reject = Reject::bad("A field value contains a control character");
pub(super) const FIELD_TOO_LARGE: Reject = Reject::too_large("A field line is too long");
pub(super) const HEAD_TOO_LARGE: Reject = Reject::too_large("The header section is too large");
pub(super) const TOO_MANY_FIELDS: Reject = Reject::too_large("There are too many header fields");
/// Not reachable as long as the line scan is at least as strict as `httparse`; the fuzz targets
/// assert that it is never returned.
pub(super) const MALFORMED_HEAD: Reject = Reject::bad("The head is malformed");

// Request line.
pub(super) const REQUEST_LINE: Reject = Reject::bad("The request line is malformed");
pub(super) const VERSION_SYNTAX: Reject = Reject::bad("The protocol version is malformed");
pub(super) const TARGET: Reject = Reject::bad("The request target is invalid");
pub(super) const URI_TOO_LONG: Reject = Reject::new(
    StatusCode::URI_TOO_LONG,
    "uri_too_long",
    "The request target is too long",
);
pub(super) const METHOD_UNKNOWN: Reject = Reject::not_implemented("This method is not implemented");
pub(super) const CONNECT: Reject = Reject::new(
    StatusCode::METHOD_NOT_ALLOWED,
    "method_not_allowed",
    "CONNECT is not supported; this is not a tunnel",
);
pub(super) const VERSION_UNSUPPORTED: Reject = Reject::new(
    StatusCode::HTTP_VERSION_NOT_SUPPORTED,
    "http_version_not_supported",
    "Only HTTP/1.1 and HTTP/1.0 are supported",
);

// Host.
pub(super) const HOST_MISSING: Reject = Reject::bad("The Host field is missing");
pub(super) const HOST_REPEATED: Reject = Reject::bad("There is more than one Host field");
pub(super) const HOST_INVALID: Reject = Reject::bad("The Host field is invalid");
pub(super) const HOST_MISMATCH: Reject =
    Reject::bad("The authority of the request target differs from the Host field");

// Framing.
pub(super) const LENGTH_INVALID: Reject = Reject::bad("The Content-Length field is invalid");
pub(super) const LENGTH_REPEATED: Reject =
    Reject::bad("There is more than one Content-Length field");
pub(super) const LENGTH_AND_CODING: Reject =
    Reject::bad("Content-Length and Transfer-Encoding exclude each other");
pub(super) const CODING_INVALID: Reject = Reject::bad("The Transfer-Encoding field is invalid");
pub(super) const CODING_UNSUPPORTED: Reject =
    Reject::not_implemented("Only the transfer coding chunked is supported");
pub(super) const CODING_IN_HTTP10: Reject = Reject::bad("HTTP/1.0 has no Transfer-Encoding");
pub(super) const FRAMING_LOOKALIKE: Reject =
    Reject::bad("The name of a framing field contains an underscore");

// Other fields.
pub(super) const CONNECTION_INVALID: Reject = Reject::bad("The Connection field is invalid");
pub(super) const CONNECTION_TOO_LONG: Reject = Reject::bad("There are too many Connection options");
pub(super) const AUTHORIZATION_REPEATED: Reject =
    Reject::bad("There is more than one Authorization field");
pub(super) const API_KEY_REPEATED: Reject = Reject::bad("There is more than one X-API-Key field");
pub(super) const CONTENT_TYPE_REPEATED: Reject =
    Reject::bad("There is more than one Content-Type field");
pub(super) const EXPECTATION: Reject = Reject::new(
    StatusCode::EXPECTATION_FAILED,
    "expectation_failed",
    "Only the expectation 100-continue is supported",
);

// Responses only.
pub(super) const STATUS_LINE: Reject = Reject::bad("The status line is malformed");
pub(super) const STATUS_RANGE: Reject = Reject::bad("The status code is outside 100 to 599");
pub(super) const UNASKED_UPGRADE: Reject =
    Reject::bad("The node switched protocols without an Upgrade request");
