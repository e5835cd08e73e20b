//! Reads a request head.
//!
//! Owns the request line and what the fields of a request mean together. It must never decide what
//! is done about a request (routes, keys, limits of a body).

use std::mem::MaybeUninit;

use super::fields::{ConnectionOptions, EndToEndFields, Fields, Onward};
use super::framing::{BodyLength, Framing};
use super::grammar::TOKEN;
use super::name::{Direction, Meaning, Name};
use super::scan::{HeadLimits, HeadScan, StartLine, StrictLines, line_bytes_min};
use super::target::{Target, is_valid_host};
use super::verdict::{self, Reject};
use super::{Parsed, Version};

/// The methods this router knows; any other is 501, CONNECT is 405.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(
    missing_docs,
    reason = "the names are the methods of RFC 9110 section 9 and RFC 5789"
)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
}

/// A valid request head. Every slice borrows from the bytes that were parsed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: Method,
    /// Begins with `/` (or is `*` for `OPTIONS *`), as sent: nothing is decoded or normalised.
    pub path: &'a str,
    /// What follows the first `?`, as sent.
    pub query: Option<&'a str>,
    /// The protocol version.
    pub version: Version,
    /// Host and port the client meant, in ASCII; `None` only in HTTP/1.0.
    pub host: Option<&'a [u8]>,
    /// How long the body is.
    pub body: BodyLength,
    /// Whether the client lets the connection stay open; never for HTTP/1.0.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// All fields in order, those above included.
    pub fields: Fields<'a>,
    /// The credentials; at most one field was sent.
    pub authorization: Option<&'a [u8]>,
    /// The key as `X-API-Key`; at most one field was sent.
    pub x_api_key: Option<&'a [u8]>,
    /// The client's own request id; `None` when it sent two.
    pub x_request_id: Option<&'a [u8]>,
    /// The media type; at most one field was sent.
    pub content_type: Option<&'a [u8]>,
    /// The content coding; of several fields the first that is not `identity`.
    pub content_encoding: Option<&'a [u8]>,
    /// How long the client waits, in seconds, as it says: `X-Request-Timeout`, else
    /// `X-Stainless-Read-Timeout` or `X-Stainless-Timeout`. Not checked.
    pub patience: Option<&'a [u8]>,
    connection: ConnectionOptions<'a>,
}

/// Reads a request head from the beginning of `bytes`, which hold everything received since the
/// end of the previous message.
///
/// Call again with the same `scan` and more bytes while the result is [`Parsed::Partial`]. Neither
/// the verdict nor the head depends on how the bytes were split.
///
/// # Errors
///
/// The one [`Reject`] that RFC 9110/9112 and `limits` give the bytes, as soon as they decide it:
/// within a line for limits, at its end for its grammar, at the end of the head for its meaning.
pub fn parse_request<'a>(
    bytes: &'a [u8],
    scan: &mut HeadScan,
    limits: &HeadLimits,
) -> Result<Parsed<RequestHead<'a>>, Reject> {
    read(bytes, scan, limits, Onward::new(None, Direction::ToNode))
}

/// [`parse_request`] that also appends to `lines`, once the head is complete, each of its
/// [`RequestHead::end_to_end_fields`] as [`super::HeadWriter`] writes it: in the same walk instead of a
/// further one. Before that, and after an error, `lines` is as it was.
///
/// # Errors
///
/// As [`parse_request`].
pub fn parse_request_onward<'a>(
    bytes: &'a [u8],
    scan: &mut HeadScan,
    limits: &HeadLimits,
    lines: &mut Vec<u8>,
) -> Result<Parsed<RequestHead<'a>>, Reject> {
    read(
        bytes,
        scan,
        limits,
        Onward::new(Some(lines), Direction::ToNode),
    )
}

#[inline]
fn read<'a>(
    bytes: &'a [u8],
    scan: &mut HeadScan,
    limits: &HeadLimits,
    mut onward: Onward<'_>,
) -> Result<Parsed<RequestHead<'a>>, Reject> {
    if scan.is_fresh()
        && let Ok(parsed) = read_whole(bytes, limits, &mut onward)
    {
        return Ok(parsed);
    }
    read_by_lines(bytes, scan, limits, onward)
}

/// What the first look at a head does not accept: it is not whole yet, or it is not valid.
#[cold]
#[inline(never)]
fn read_by_lines<'a>(
    bytes: &'a [u8],
    scan: &mut HeadScan,
    limits: &HeadLimits,
    mut onward: Onward<'_>,
) -> Result<Parsed<RequestHead<'a>>, Reject> {
    onward.restart();
    let Some(bytes_consumed) = scan.advance(bytes, limits, &START_LINE)? else {
        return Ok(Parsed::Partial);
    };
    *scan = HeadScan::new();
    let whole = bytes.get(..bytes_consumed).unwrap_or(bytes);
    read_whole(whole, limits, &mut onward).inspect_err(|_| onward.restart())
}

impl Method {
    /// The method as it stands in a request line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
        }
    }

    /// Methods are case-sensitive (RFC 9110 section 9.1).
    fn parse(name: &str) -> Result<Self, Reject> {
        match name {
            "GET" => Ok(Self::Get),
            "HEAD" => Ok(Self::Head),
            "POST" => Ok(Self::Post),
            "PUT" => Ok(Self::Put),
            "DELETE" => Ok(Self::Delete),
            "OPTIONS" => Ok(Self::Options),
            "PATCH" => Ok(Self::Patch),
            "CONNECT" => Err(verdict::CONNECT),
            _ => Err(verdict::METHOD_UNKNOWN),
        }
    }
}

impl From<Method> for http::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Get => Self::GET,
            Method::Head => Self::HEAD,
            Method::Post => Self::POST,
            Method::Put => Self::PUT,
            Method::Delete => Self::DELETE,
            Method::Options => Self::OPTIONS,
            Method::Patch => Self::PATCH,
        }
    }
}

impl<'a> RequestHead<'a> {
    /// The fields that go on to a node, in order: see [`super::forwards_to_node`], less those the
    /// client listed in Connection.
    #[must_use]
    pub const fn end_to_end_fields(&self) -> EndToEndFields<'a> {
        EndToEndFields::new(self.fields, self.connection, Direction::ToNode)
    }
}

impl std::fmt::Debug for RequestHead<'_> {
    /// Field values and the query stay out: they may be credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("version", &self.version)
            .field("body", &self.body)
            .field("keep_alive", &self.keep_alive)
            .field("expect_continue", &self.expect_continue)
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

/// Reads a head that is whole in `bytes`, at least as strictly as the line scan. An error only
/// means "not accepted here"; it is the verdict if the scan has nothing to say about the bytes.
#[inline(always)]
fn read_whole<'a>(
    bytes: &'a [u8],
    limits: &HeadLimits,
    onward: &mut Onward<'_>,
) -> Result<Parsed<RequestHead<'a>>, Reject> {
    let bytes = bytes.get(..limits.head_bytes_max).unwrap_or(bytes);
    let head = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let empty_line_bytes = bytes.len().saturating_sub(head.len());
    // httparse skips any number of empty lines, however they end.
    if let [b'\r' | b'\n', ..] = head {
        return Err(verdict::MALFORMED_HEAD);
    }
    let mut storage = [const { MaybeUninit::uninit() }; HeadLimits::FIELD_COUNT_CAPACITY];
    let storage = storage
        .get_mut(..limits.field_count_max)
        .ok_or(verdict::MALFORMED_HEAD)?;
    let mut parsed = httparse::Request::new(&mut []);
    let Ok(httparse::Status::Complete(head_bytes)) =
        parsed.parse_with_uninit_headers(head, storage)
    else {
        return Err(verdict::MALFORMED_HEAD);
    };
    let head = head.get(..head_bytes).ok_or(verdict::MALFORMED_HEAD)?;
    let (Some(method), Some(target), Some(minor_version)) =
        (parsed.method, parsed.path, parsed.version)
    else {
        return Err(verdict::MALFORMED_HEAD);
    };
    if method.len() > limits.method_bytes_max || target.len() > limits.target_bytes_max {
        return Err(verdict::MALFORMED_HEAD);
    }
    let lines = StrictLines::new(head, parsed.headers, limits);
    let (_, block) = lines.split().ok_or(verdict::MALFORMED_HEAD)?;
    let method = Method::parse(method)?;
    let target = Target::parse(method, target)?;
    let version = if minor_version == 0 {
        Version::Http10
    } else {
        Version::Http11
    };
    let fields = Fields::new(block);
    let start = onward.bytes();
    let mut walk = Walk::default();
    for line in lines.fields() {
        let line = line.ok_or(verdict::MALFORMED_HEAD)?;
        let name = Name::classify(line.name);
        walk.field(name.meaning(), line.value)?;
        onward.pass(name, &line);
    }
    onward.settle(start, fields, walk.connection);
    let head = walk.finish(method, target, version, fields)?;
    Ok(Parsed::Complete {
        head,
        bytes: empty_line_bytes.saturating_add(head_bytes),
    })
}

/// Collects what the fields mean, in one pass.
#[derive(Default)]
struct Walk<'a> {
    host: Option<&'a [u8]>,
    framing: Framing,
    connection: ConnectionOptions<'a>,
    expects_continue: bool,
    authorization: Option<&'a [u8]>,
    x_api_key: Option<&'a [u8]>,
    x_request_id: Option<&'a [u8]>,
    request_id_repeated: bool,
    content_type: Option<&'a [u8]>,
    content_encoding: Option<&'a [u8]>,
    request_timeout: Option<&'a [u8]>,
    stainless_timeout: Option<&'a [u8]>,
}

impl<'a> Walk<'a> {
    #[inline]
    fn field(&mut self, meaning: Meaning, value: &'a [u8]) -> Result<(), Reject> {
        match meaning {
            Meaning::Nothing => Ok(()),
            Meaning::Host => set_once(&mut self.host, value, verdict::HOST_REPEATED),
            Meaning::ContentLength => self.framing.add_content_length(value),
            Meaning::TransferEncoding => {
                self.framing.add_transfer_encoding(value);
                Ok(())
            }
            Meaning::FramingLookalike => Err(verdict::FRAMING_LOOKALIKE),
            Meaning::Connection => self.connection.add(value),
            Meaning::Expect if value.eq_ignore_ascii_case(b"100-continue") => {
                self.expects_continue = true;
                Ok(())
            }
            Meaning::Expect => Err(verdict::EXPECTATION),
            Meaning::Authorization => set_once(
                &mut self.authorization,
                value,
                verdict::AUTHORIZATION_REPEATED,
            ),
            Meaning::ApiKey => set_once(&mut self.x_api_key, value, verdict::API_KEY_REPEATED),
            Meaning::ContentType => set_once(
                &mut self.content_type,
                value,
                verdict::CONTENT_TYPE_REPEATED,
            ),
            Meaning::RequestId => {
                self.request_id_repeated |= self.x_request_id.replace(value).is_some();
                Ok(())
            }
            Meaning::RequestTimeout => {
                self.request_timeout = Some(value);
                Ok(())
            }
            Meaning::StainlessTimeout => {
                self.stainless_timeout = Some(value);
                Ok(())
            }
            Meaning::ContentEncoding => {
                // A coding must not hide behind `identity`, whichever comes first.
                if self
                    .content_encoding
                    .is_none_or(|seen| seen.eq_ignore_ascii_case(b"identity"))
                {
                    self.content_encoding = Some(value);
                }
                Ok(())
            }
        }
    }

    fn finish(
        self,
        method: Method,
        target: Target<'a>,
        version: Version,
        fields: Fields<'a>,
    ) -> Result<RequestHead<'a>, Reject> {
        let body = self.framing.request_body(version)?;
        Ok(RequestHead {
            method,
            path: target.path,
            query: target.query,
            version,
            host: effective_host(self.host, target.authority, version)?,
            body,
            keep_alive: version == Version::Http11 && !self.connection.close,
            // RFC 9110 section 10.1.1: ignored in HTTP/1.0, pointless without a body.
            expect_continue: self.expects_continue
                && version == Version::Http11
                && self.framing.announces_bytes(),
            fields,
            authorization: self.authorization,
            x_api_key: self.x_api_key,
            x_request_id: self.x_request_id.filter(|_| !self.request_id_repeated),
            content_type: self.content_type,
            content_encoding: self.content_encoding,
            patience: self.request_timeout.or(self.stainless_timeout),
            connection: self.connection,
        })
    }
}

fn set_once<'a>(
    slot: &mut Option<&'a [u8]>,
    value: &'a [u8],
    repeated: Reject,
) -> Result<(), Reject> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(repeated),
    }
}

/// RFC 9112 section 3.2 and 3.2.2. A target with an authority of its own overrides Host there; we
/// insist that both agree, because someone on the way may have looked at the other one.
fn effective_host<'a>(
    host: Option<&'a [u8]>,
    authority: Option<&'a str>,
    version: Version,
) -> Result<Option<&'a [u8]>, Reject> {
    let authority = authority.map(str::as_bytes);
    let Some(host) = host else {
        return match version {
            Version::Http10 => Ok(authority),
            Version::Http11 => Err(verdict::HOST_MISSING),
        };
    };
    if !is_valid_host(host) {
        return Err(verdict::HOST_INVALID);
    }
    if authority.is_some_and(|authority| !authority.eq_ignore_ascii_case(host)) {
        return Err(verdict::HOST_MISMATCH);
    }
    Ok(Some(host))
}

/// `method SP request-target SP HTTP-version` (RFC 9112 section 3), without the CRLF. The version
/// is judged first, so that an HTTP/2 preface is told about its version.
fn check_request_line(line: &[u8]) -> Result<(), Reject> {
    let mut parts = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(verdict::REQUEST_LINE);
    };
    match version {
        b"HTTP/1.1" | b"HTTP/1.0" => {}
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            return Err(verdict::VERSION_UNSUPPORTED);
        }
        _ => return Err(verdict::VERSION_SYNTAX),
    }
    let method = std::str::from_utf8(method).map_err(|_| verdict::REQUEST_LINE)?;
    let method = Method::parse(method)?;
    let target = std::str::from_utf8(target).map_err(|_| verdict::TARGET)?;
    Target::parse(method, target).map(drop)
}

/// The verdicts on a request line that need not wait for its end. Method and target are bounded
/// separately, so a target of exactly the limit fits behind any method.
fn check_request_line_prefix(raw: &[u8], limits: &HeadLimits) -> Result<(), Reject> {
    let method_bytes = raw
        .iter()
        .take(limits.method_bytes_max.saturating_add(1))
        .take_while(|&&byte| TOKEN.contains(byte))
        .count();
    if method_bytes > limits.method_bytes_max {
        return Err(verdict::METHOD_UNKNOWN);
    }
    let target = match raw.get(method_bytes..) {
        None | Some([]) => return Ok(()),
        Some([b' ', target @ ..]) if method_bytes > 0 => target,
        Some(_) => return Err(verdict::REQUEST_LINE),
    };
    if let Some(longest) = target.get(..=limits.target_bytes_max)
        && memchr::memchr2(b' ', b'\r', longest).is_none()
    {
        return Err(verdict::URI_TOO_LONG);
    }
    if line_bytes_min(raw) > limits.request_line_bytes_max() {
        return Err(verdict::URI_TOO_LONG);
    }
    Ok(())
}

const START_LINE: StartLine = StartLine {
    empty_line_allowed: true,
    check_prefix: check_request_line_prefix,
    check: check_request_line,
};
