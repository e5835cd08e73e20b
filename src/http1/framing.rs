//! Decides how long a body is, once per message (RFC 9112 section 6.3).
//!
//! Precedence, strictest reading: Transfer-Encoding in HTTP/1.0 is an error; Transfer-Encoding with
//! Content-Length is an error; Transfer-Encoding is exactly `chunked`, once; Content-Length is one
//! field of digits. What is left has no body (requests) or ends with the connection (responses).
//! Nothing else in the program may derive a length from a field.

use super::grammar::{is_token, parse_decimal, trim_ows};
use super::verdict::{self, Reject};
use super::{Method, Version};

/// The body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// No framing field: no body. `Content-Length: 0` is `Fixed(0)`, so that a caller can tell the
    /// two apart (411).
    Empty,
    /// Exactly this many bytes follow.
    Fixed(u64),
    /// Chunked framing; see [`super::ChunkedDecoder`].
    Chunked,
}

/// The body of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseBody {
    /// None, by the request method or the status code.
    Empty,
    /// Exactly this many bytes follow.
    Fixed(u64),
    /// Chunked framing; see [`super::ChunkedDecoder`].
    Chunked,
    /// Everything until the node closes the connection.
    UntilClose,
}

/// Collects the framing fields of one head.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Framing {
    content_length: Option<u64>,
    coding: Coding,
}

/// The transfer codings seen so far, over all Transfer-Encoding fields as one list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Coding {
    #[default]
    Absent,
    /// Just `chunked`.
    Chunked,
    /// Only other codings yet: no length can be known (invalid unless `chunked` follows).
    Others,
    /// Other codings, then `chunked`: a known length of something we do not decode.
    OthersThenChunked,
    Invalid,
}

impl Framing {
    /// Takes in one Content-Length field. RFC 9110 section 8.6 allows to accept repeated identical
    /// values; we do not.
    pub(super) fn add_content_length(&mut self, value: &[u8]) -> Result<(), Reject> {
        let length = parse_decimal(value).ok_or(verdict::LENGTH_INVALID)?;
        match self.content_length.replace(length) {
            None => Ok(()),
            Some(_) => Err(verdict::LENGTH_REPEATED),
        }
    }

    /// Takes in one Transfer-Encoding field.
    pub(super) fn add_transfer_encoding(&mut self, value: &[u8]) {
        self.coding = value
            .split(|&byte| byte == b',')
            .map(trim_ows)
            .fold(self.coding, Coding::followed_by);
    }

    /// The length of a request's body.
    pub(super) fn request_body(&self, version: Version) -> Result<BodyLength, Reject> {
        Ok(match self.length(version)? {
            None => BodyLength::Empty,
            Some(Length::Fixed(bytes)) => BodyLength::Fixed(bytes),
            Some(Length::Chunked) => BodyLength::Chunked,
        })
    }

    /// The length of a response's body to a request of `method`.
    pub(super) fn response_body(
        &self,
        version: Version,
        method: Method,
        status: u16,
    ) -> Result<ResponseBody, Reject> {
        let length = self.length(version)?;
        if method == Method::Head || matches!(status, 100..=199 | 204 | 304) {
            return Ok(ResponseBody::Empty);
        }
        Ok(match length {
            None => ResponseBody::UntilClose,
            Some(Length::Fixed(bytes)) => ResponseBody::Fixed(bytes),
            Some(Length::Chunked) => ResponseBody::Chunked,
        })
    }

    /// Whether the head announces bytes after it.
    pub(super) const fn announces_bytes(&self) -> bool {
        !matches!(self.coding, Coding::Absent) || !matches!(self.content_length, None | Some(0))
    }

    /// The Content-Length field, which a response without a body may still carry.
    pub(super) const fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    fn length(&self, version: Version) -> Result<Option<Length>, Reject> {
        if self.coding == Coding::Absent {
            return Ok(self.content_length.map(Length::Fixed));
        }
        if version == Version::Http10 {
            return Err(verdict::CODING_IN_HTTP10);
        }
        if self.content_length.is_some() {
            return Err(verdict::LENGTH_AND_CODING);
        }
        match self.coding {
            Coding::Chunked => Ok(Some(Length::Chunked)),
            Coding::OthersThenChunked => Err(verdict::CODING_UNSUPPORTED),
            Coding::Absent | Coding::Others | Coding::Invalid => Err(verdict::CODING_INVALID),
        }
    }
}

enum Length {
    Fixed(u64),
    Chunked,
}

impl Coding {
    /// The list with one more member. An empty member or a parameter makes it invalid: honest
    /// senders need neither, and parsers differ about both.
    fn followed_by(self, member: &[u8]) -> Self {
        let is_chunked = member.eq_ignore_ascii_case(b"chunked");
        match self {
            _ if !is_token(member) => Self::Invalid,
            Self::Absent if is_chunked => Self::Chunked,
            Self::Others if is_chunked => Self::OthersThenChunked,
            Self::Absent | Self::Others => Self::Others,
            // Chunked is final and applied once (RFC 9112 section 6.1).
            Self::Chunked | Self::OthersThenChunked | Self::Invalid => Self::Invalid,
        }
    }
}
