//! Reads the head of a node's response.
//!
//! Owns the status line and what the fields of a response mean together. A node is assumed buggy,
//! not malicious, and verified all the same: a head that RFC 9112 forbids is never interpreted.

use std::mem::MaybeUninit;

use http::StatusCode;

use super::fields::{ConnectionOptions, EndToEndFields, Fields, Onward};
use super::framing::{Framing, ResponseBody};
use super::grammar::is_field_value_byte;
use super::name::{Direction, Meaning, Name};
use super::request::Method;
use super::scan::{HeadLimits, HeadScan, StartLine, StrictLines, line_bytes_min};
use super::verdict::{self, BadResponse, Reject};
use super::{Parsed, Version};

/// A valid response head. Every slice borrows from the bytes that were parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead<'a> {
    /// The status code, 100 to 599. The reason phrase of the node is not kept.
    pub status: StatusCode,
    /// The protocol version.
    pub version: Version,
    /// How long the body is.
    pub body: ResponseBody,
    /// The Content-Length field, if any; a response without a body (to HEAD, or 304) may carry
    /// one. Never a substitute for `body`.
    pub content_length: Option<u64>,
    /// Whether the connection may serve another request once the body has ended.
    pub keep_alive: bool,
    /// A 1xx response: the final one follows on the same connection.
    pub interim: bool,
    /// The media type; of several fields the first.
    pub content_type: Option<&'a [u8]>,
    /// All fields in order, those above included.
    pub fields: Fields<'a>,
    connection: ConnectionOptions<'a>,
}

/// Reads a response head from the beginning of `bytes`; `request_method` is what the node was
/// asked. After an interim response, call it again on the bytes behind it.
///
/// # Errors
///
/// [`BadResponse`] as soon as the bytes decide it; the upstream connection must be closed. The
/// result does not depend on how the bytes were split.
pub fn parse_response<'a>(
    bytes: &'a [u8],
    request_method: Method,
    scan: &mut HeadScan,
    limits: &HeadLimits,
) -> Result<Parsed<ResponseHead<'a>>, BadResponse> {
    let onward = Onward::new(None, Direction::ToClient);
    read(bytes, request_method, scan, limits, onward)
}

/// [`parse_response`] that also appends to `lines`, once the head is complete, its status line and each
/// of its [`ResponseHead::end_to_end_fields`] as [`super::HeadWriter`] writes them: in the same walk
/// instead of a further one. Before that, and after an error, `lines` is as it was.
///
/// # Errors
///
/// As [`parse_response`].
pub fn parse_response_onward<'a>(
    bytes: &'a [u8],
    request_method: Method,
    scan: &mut HeadScan,
    limits: &HeadLimits,
    lines: &mut Vec<u8>,
) -> Result<Parsed<ResponseHead<'a>>, BadResponse> {
    let onward = Onward::new(Some(lines), Direction::ToClient);
    read(bytes, request_method, scan, limits, onward)
}

#[inline]
fn read<'a>(
    bytes: &'a [u8],
    request_method: Method,
    scan: &mut HeadScan,
    limits: &HeadLimits,
    mut onward: Onward<'_>,
) -> Result<Parsed<ResponseHead<'a>>, BadResponse> {
    if scan.is_fresh()
        && let Ok(parsed) = read_whole(bytes, request_method, limits, &mut onward)
    {
        return Ok(parsed);
    }
    read_by_lines(bytes, request_method, scan, limits, onward)
}

/// What the first look at a head does not accept: it is not whole yet, or it is not valid.
#[cold]
#[inline(never)]
fn read_by_lines<'a>(
    bytes: &'a [u8],
    request_method: Method,
    scan: &mut HeadScan,
    limits: &HeadLimits,
    mut onward: Onward<'_>,
) -> Result<Parsed<ResponseHead<'a>>, BadResponse> {
    onward.restart();
    let Some(bytes_consumed) = scan.advance(bytes, limits, &START_LINE)? else {
        return Ok(Parsed::Partial);
    };
    *scan = HeadScan::new();
    let whole = bytes.get(..bytes_consumed).unwrap_or(bytes);
    let read = read_whole(whole, request_method, limits, &mut onward);
    Ok(read.inspect_err(|_| onward.restart())?)
}

impl<'a> ResponseHead<'a> {
    /// The fields that go on to the client, in order: see [`super::forwards_to_client`], less those
    /// the node listed in Connection.
    #[must_use]
    pub const fn end_to_end_fields(&self) -> EndToEndFields<'a> {
        EndToEndFields::new(self.fields, self.connection, Direction::ToClient)
    }
}

/// Reads a head that is whole in `bytes`, at least as strictly as the line scan. An error only
/// means "not accepted here"; it is the verdict if the scan has nothing to say about the bytes.
#[inline(always)]
fn read_whole<'a>(
    bytes: &'a [u8],
    request_method: Method,
    limits: &HeadLimits,
    onward: &mut Onward<'_>,
) -> Result<Parsed<ResponseHead<'a>>, Reject> {
    let bytes = bytes.get(..limits.head_bytes_max).unwrap_or(bytes);
    let mut storage = [const { MaybeUninit::uninit() }; HeadLimits::FIELD_COUNT_CAPACITY];
    let storage = storage
        .get_mut(..limits.field_count_max)
        .ok_or(verdict::MALFORMED_HEAD)?;
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let Ok(httparse::Status::Complete(head_bytes)) =
        config.parse_response_with_uninit_headers(&mut parsed, bytes, storage)
    else {
        return Err(verdict::MALFORMED_HEAD);
    };
    let head = bytes.get(..head_bytes).ok_or(verdict::MALFORMED_HEAD)?;
    let lines = StrictLines::new(head, parsed.headers, limits);
    let (status_line, block) = lines.split().ok_or(verdict::MALFORMED_HEAD)?;
    if status_line.len() > limits.field_bytes_max {
        return Err(verdict::MALFORMED_HEAD);
    }
    let (version, status) = parse_status_line(head.get(..STATUS_LINE_BYTES_MIN).unwrap_or(head))?;
    let fields = Fields::new(block);
    if let Some(mut writer) = onward.writer() {
        writer.status_line(status);
    }
    let start = onward.bytes();
    let mut framing = Framing::default();
    let mut connection = ConnectionOptions::default();
    let mut content_type = None;
    for line in lines.fields() {
        let line = line.ok_or(verdict::MALFORMED_HEAD)?;
        let name = Name::classify(line.name);
        match name.meaning() {
            Meaning::ContentLength => framing.add_content_length(line.value)?,
            Meaning::TransferEncoding => framing.add_transfer_encoding(line.value),
            Meaning::FramingLookalike => return Err(verdict::FRAMING_LOOKALIKE),
            Meaning::Connection => connection.add(line.value)?,
            Meaning::ContentType => content_type = content_type.or(Some(line.value)),
            _ => {}
        }
        onward.pass(name, &line);
    }
    onward.settle(start, fields, connection);
    let body = framing.response_body(version, request_method, status.as_u16())?;
    // Such a node may well send the bytes it announced where no body can be.
    let bytes_to_come = status == StatusCode::NO_CONTENT && framing.announces_bytes();
    let keep_alive = version == Version::Http11
        && !connection.close
        && body != ResponseBody::UntilClose
        && !bytes_to_come;
    let head = ResponseHead {
        status,
        version,
        body,
        content_length: framing.content_length(),
        keep_alive,
        interim: status.is_informational(),
        content_type,
        fields,
        connection,
    };
    Ok(Parsed::Complete {
        head,
        bytes: head_bytes,
    })
}

/// `HTTP-version SP status-code SP [ reason-phrase ]` (RFC 9112 section 4), without the CRLF.
fn check_status_line(line: &[u8]) -> Result<(), Reject> {
    parse_status_line(line)?;
    let reason_phrase = line.get(STATUS_LINE_BYTES_MIN..).unwrap_or_default();
    if reason_phrase.iter().all(|&byte| is_field_value_byte(byte)) {
        Ok(())
    } else {
        Err(verdict::STATUS_LINE)
    }
}

fn parse_status_line(line: &[u8]) -> Result<(Version, StatusCode), Reject> {
    let (version, rest) = line.split_at_checked(8).ok_or(verdict::STATUS_LINE)?;
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        _ => return Err(verdict::STATUS_LINE),
    };
    let [b' ', code @ .., _] = rest.get(..5).ok_or(verdict::STATUS_LINE)? else {
        return Err(verdict::STATUS_LINE);
    };
    if !code.iter().all(u8::is_ascii_digit) || rest.get(4) != Some(&b' ') {
        return Err(verdict::STATUS_LINE);
    }
    match StatusCode::from_bytes(code) {
        // Codes from 600 mean nothing in HTTP (RFC 9110 section 15).
        Ok(status) if status.as_u16() >= 600 => Err(verdict::STATUS_RANGE),
        // We never ask for an upgrade; what follows would not be HTTP.
        Ok(StatusCode::SWITCHING_PROTOCOLS) => Err(verdict::UNASKED_UPGRADE),
        Ok(status) => Ok((version, status)),
        Err(_) => Err(verdict::STATUS_RANGE),
    }
}

/// A peer that does not speak HTTP/1 is found out at its first bytes, not at a line end that may
/// never come.
fn check_status_line_prefix(raw: &[u8], limits: &HeadLimits) -> Result<(), Reject> {
    let is_http = raw
        .iter()
        .zip(b"HTTP/1.")
        .all(|(byte, expected)| byte == expected);
    if !is_http || line_bytes_min(raw) > limits.field_bytes_max {
        return Err(verdict::STATUS_LINE);
    }
    Ok(())
}

const START_LINE: StartLine = StartLine {
    empty_line_allowed: false,
    check_prefix: check_status_line_prefix,
    check: check_status_line,
};

/// `HTTP/1.1 200 `: a reason phrase may be missing, its space may not.
const STATUS_LINE_BYTES_MIN: usize = 13;
