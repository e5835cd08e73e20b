//! Iterating over validated fields, and which of them travel on.
//!
//! Owns the lists of field names with a meaning to a proxy and the rule of RFC 9110 section 7.6.1.
//! It must never forward a block of fields as bytes: they go on one by one.

use std::iter::FusedIterator;

use super::grammar::{is_token, trim_ows};
use super::verdict::{self, Reject};

/// The fields of a valid head, in order. Nothing is stored per field: the lines are taken apart
/// again while iterating, which costs a byte search per line and lets a head outlive its parser.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fields<'a> {
    /// Field lines that passed the head grammar, each with its CRLF, without the final empty line.
    block: &'a [u8],
}

/// Yields `(name, value)`; the value has no whitespace around it.
#[derive(Clone)]
pub struct FieldIter<'a> {
    rest: &'a [u8],
}

/// Yields only the fields that travel on in one direction, as `(name, value)`; a name is a token, so ASCII.
#[derive(Clone)]
pub struct EndToEndFields<'a> {
    fields: FieldIter<'a>,
    forwards: fn(&[u8]) -> bool,
    connection: ConnectionOptions<'a>,
}

/// What the Connection fields of a head say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ConnectionOptions<'a> {
    /// The option `close` is present.
    pub(super) close: bool,
    /// Values that name more than `close` and `keep-alive`: their members are hop-by-hop fields.
    lists: [&'a [u8]; CONNECTION_LINES_MAX],
    list_count: usize,
    option_count: usize,
}

/// The request and response fields this codec gives a meaning to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Host,
    ContentLength,
    TransferEncoding,
    /// `Content_Length` or `Transfer_Encoding`: some servers fold `_` and `-` into one.
    FramingLookalike,
    Connection,
    Expect,
    Authorization,
    ApiKey,
    RequestId,
    ContentType,
    ContentEncoding,
    RequestTimeout,
    /// What OpenAI's SDKs say about the time they wait.
    StainlessTimeout,
    Other,
}

impl<'a> Fields<'a> {
    pub(super) const fn new(block: &'a [u8]) -> Self {
        Self { block }
    }

    /// All fields, as received.
    #[must_use]
    pub const fn iter(&self) -> FieldIter<'a> {
        FieldIter { rest: self.block }
    }

    /// The first value of the field `name`, compared without regard to case.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<&'a [u8]> {
        self.iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

impl std::fmt::Debug for Fields<'_> {
    /// Names only: values may be credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.iter().map(|(name, _)| name))
            .finish()
    }
}

impl<'a> IntoIterator for Fields<'a> {
    type Item = (&'a str, &'a [u8]);
    type IntoIter = FieldIter<'a>;

    fn into_iter(self) -> FieldIter<'a> {
        self.iter()
    }
}

impl<'a> FieldIter<'a> {
    #[inline]
    fn next_line(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let line_end = memchr::memchr(b'\n', self.rest)?;
        let (line, rest) = self.rest.split_at_checked(line_end.checked_add(1)?)?;
        self.rest = rest;
        let line = line.strip_suffix(b"\r\n")?;
        let (name, value) = line.split_at_checked(memchr::memchr(b':', line)?)?;
        Some((name, trim_ows(value.strip_prefix(b":")?)))
    }
}

impl<'a> Iterator for FieldIter<'a> {
    type Item = (&'a str, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.next_line()?;
        Some((std::str::from_utf8(name).ok()?, value))
    }
}

impl FusedIterator for FieldIter<'_> {}

impl<'a> EndToEndFields<'a> {
    pub(super) const fn toward_node(fields: Fields<'a>, connection: ConnectionOptions<'a>) -> Self {
        Self {
            fields: fields.iter(),
            forwards: travels_to_node,
            connection,
        }
    }

    pub(super) const fn toward_client(
        fields: Fields<'a>,
        connection: ConnectionOptions<'a>,
    ) -> Self {
        Self {
            fields: fields.iter(),
            forwards: travels_to_client,
            connection,
        }
    }
}

impl<'a> Iterator for EndToEndFields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (name, value) = self.fields.next_line()?;
            if (self.forwards)(name) && !self.connection.lists_field(name) {
                return Some((name, value));
            }
        }
    }
}

impl FusedIterator for EndToEndFields<'_> {}

impl<'a> ConnectionOptions<'a> {
    /// Takes in one Connection field: `#connection-option` (RFC 9110 section 7.6.1).
    pub(super) fn add(&mut self, value: &'a [u8]) -> Result<(), Reject> {
        let mut names_fields = false;
        for option in value.split(|&byte| byte == b',').map(trim_ows) {
            self.option_count = self.option_count.saturating_add(1);
            if self.option_count > CONNECTION_OPTIONS_MAX {
                return Err(verdict::CONNECTION_TOO_LONG);
            }
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") || option.is_empty() {
                // Nothing to remember: Keep-Alive never travels on, and a recipient ignores
                // empty list members (RFC 9110 section 5.6.1.2).
            } else if is_token(option) {
                names_fields = true;
            } else {
                return Err(verdict::CONNECTION_INVALID);
            }
        }
        if names_fields {
            let list = self
                .lists
                .get_mut(self.list_count)
                .ok_or(verdict::CONNECTION_TOO_LONG)?;
            *list = value;
            self.list_count = self.list_count.saturating_add(1);
        }
        Ok(())
    }

    /// Whether `name` was declared hop-by-hop.
    #[inline]
    fn lists_field(&self, name: &[u8]) -> bool {
        self.lists.iter().take(self.list_count).any(|list| {
            list.split(|&byte| byte == b',')
                .any(|option| trim_ows(option).eq_ignore_ascii_case(name))
        })
    }
}

impl Name {
    /// Recognises a field name; the length decides first, so most names cost one comparison.
    #[inline]
    pub(super) fn classify(name: &str) -> Self {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is("host") => Self::Host,
            6 if is("expect") => Self::Expect,
            9 if is("x-api-key") => Self::ApiKey,
            10 if is("connection") => Self::Connection,
            12 if is("content-type") => Self::ContentType,
            12 if is("x-request-id") => Self::RequestId,
            13 if is("authorization") => Self::Authorization,
            14 if is("content-length") => Self::ContentLength,
            14 if folded_eq(name.as_bytes(), b"content-length") => Self::FramingLookalike,
            16 if is("content-encoding") => Self::ContentEncoding,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            17 if is("x-request-timeout") => Self::RequestTimeout,
            17 if folded_eq(name.as_bytes(), b"transfer-encoding") => Self::FramingLookalike,
            19 if is("x-stainless-timeout") => Self::StainlessTimeout,
            24 if is("x-stainless-read-timeout") => Self::StainlessTimeout,
            _ => Self::Other,
        }
    }
}

/// Whether a request field of this name goes on to a node (spec section 3). Fields listed in
/// Connection are a matter of the head: [`super::RequestHead::end_to_end_fields`] applies both.
///
/// `_` counts as `-`: servers that turn fields into environment variables cannot tell them apart,
/// so `X_Forwarded_For` would speak for a field that only we may set.
#[must_use]
pub fn forwards_to_node(name: impl AsRef<[u8]>) -> bool {
    travels_to_node(name.as_ref())
}

/// Whether a response field of this name goes on to the client (spec section 3): all but
/// hop-by-hop and framing fields and the names this router answers with itself. Fields listed in
/// Connection are a matter of the head: [`super::ResponseHead::end_to_end_fields`] applies both.
#[must_use]
pub fn forwards_to_client(name: impl AsRef<[u8]>) -> bool {
    travels_to_client(name.as_ref())
}

fn travels_to_node(name: &[u8]) -> bool {
    let dropped: &[&[u8]] = match name.len() {
        2 => &[b"te"],
        4 => &[b"host"],
        6 => &[b"cookie", b"expect"],
        7 => &[b"trailer", b"upgrade"],
        9 => &[b"x-api-key", b"forwarded"],
        10 => &[b"connection", b"keep-alive"],
        12 => &[b"x-request-id"],
        13 => &[b"authorization"],
        14 => &[b"content-length", b"http2-settings"],
        16 => &[b"proxy-connection"],
        17 => &[b"transfer-encoding"],
        18 => &[b"proxy-authenticate"],
        19 => &[b"proxy-authorization"],
        _ => &[],
    };
    let is_dropped = dropped.iter().any(|known| folded_eq(name, known));
    let is_of_dropped_family = matches!(name, [b'x' | b'X', ..])
        && DROPPED_PREFIXES.iter().any(|prefix| {
            name.get(..prefix.len())
                .is_some_and(|start| folded_eq(start, prefix))
        });
    !is_dropped && !is_of_dropped_family
}

fn travels_to_client(name: &[u8]) -> bool {
    let dropped: &[&[u8]] = match name.len() {
        2 => &[b"te"],
        7 => &[b"trailer", b"upgrade"],
        10 => &[b"connection", b"keep-alive"],
        12 => &[b"x-request-id"],
        14 => &[b"content-length", b"x-backpressure"],
        16 => &[
            b"proxy-connection",
            b"x-queue-position",
            b"x-estimated-wait",
        ],
        17 => &[b"transfer-encoding"],
        18 => &[b"proxy-authenticate"],
        25 => &[b"proxy-authentication-info"],
        _ => &[],
    };
    !dropped.iter().any(|known| folded_eq(name, known))
}

/// Equality without regard to case, with `_` equal to `-`. `known` is in lower case without `_`.
#[inline]
fn folded_eq(name: &[u8], known: &[u8]) -> bool {
    name.len() == known.len()
        && name.iter().zip(known).all(|(byte, expected)| match byte {
            b'_' => *expected == b'-',
            _ => byte.to_ascii_lowercase() == *expected,
        })
}

/// What client libraries say about themselves, and what only we may say about the client.
const DROPPED_PREFIXES: [&[u8]; 2] = [b"x-stainless-", b"x-forwarded-"];

/// Connection fields that list others; more is nothing an honest peer sends, and the bounds keep
/// the work per field constant.
const CONNECTION_LINES_MAX: usize = 4;
const CONNECTION_OPTIONS_MAX: usize = 32;
