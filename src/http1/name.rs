//! Which field names this router knows, and what each means to a proxy.
//!
//! Owns the only list of field names. It must never look at a value.

/// A field name, recognised once when its head is read.
///
/// `_` counts as `-`: servers that turn fields into environment variables cannot tell them apart, so
/// `X_Forwarded_For` would speak for a field that only we may set. Such a spelling never has the
/// meaning of the name, see [`Name::meaning`]; it only keeps the field from travelling on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    known: Known,
    /// Spelled as registered, but for case.
    is_exact: bool,
}

/// What the codec itself reads out of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Host,
    ContentLength,
    TransferEncoding,
    /// `Content_Length` or `Transfer_Encoding`.
    FramingLookalike,
    Connection,
    Expect,
    Authorization,
    ApiKey,
    RequestId,
    ContentType,
    ContentEncoding,
    Nothing,
}

/// Which way a field would travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    ToNode,
    ToClient,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Expect,
    Authorization,
    ApiKey,
    RequestId,
    ContentType,
    ContentEncoding,
    /// Means something to the next hop only (RFC 9110 section 7.6.1).
    HopByHop,
    /// A request field that is for this router only, or that only we may say to a node.
    ForRouter,
    /// A response field that this router says itself, or that is for it only.
    FromRouter,
    /// Everything else.
    Other,
}

impl Name {
    /// Recognises a field name: its length and first letter leave at most two candidates.
    #[inline]
    pub(super) fn classify(name: &[u8]) -> Self {
        let (known, is_exact) = match lookup(name) {
            Known::Other => (Known::Other, true),
            // No early exit here either: known names are short.
            known => (
                known,
                name.iter()
                    .fold(true, |is_exact, &byte| is_exact & (byte != b'_')),
            ),
        };
        Self { known, is_exact }
    }

    /// What the codec is to read out of the field.
    #[inline]
    pub(super) const fn meaning(self) -> Meaning {
        match (self.known, self.is_exact) {
            (Known::ContentLength | Known::TransferEncoding, false) => Meaning::FramingLookalike,
            (Known::Host, true) => Meaning::Host,
            (Known::ContentLength, true) => Meaning::ContentLength,
            (Known::TransferEncoding, true) => Meaning::TransferEncoding,
            (Known::Connection, true) => Meaning::Connection,
            (Known::Expect, true) => Meaning::Expect,
            (Known::Authorization, true) => Meaning::Authorization,
            (Known::ApiKey, true) => Meaning::ApiKey,
            (Known::RequestId, true) => Meaning::RequestId,
            (Known::ContentType, true) => Meaning::ContentType,
            (Known::ContentEncoding, true) => Meaning::ContentEncoding,
            _ => Meaning::Nothing,
        }
    }

    /// Whether a field of this name goes on, as far as its name decides it (spec section 3).
    #[inline]
    pub(super) const fn travels(self, direction: Direction) -> bool {
        match self.known {
            Known::ContentLength
            | Known::TransferEncoding
            | Known::Connection
            | Known::RequestId
            | Known::HopByHop => false,
            Known::Host
            | Known::Expect
            | Known::Authorization
            | Known::ApiKey
            | Known::ForRouter => matches!(direction, Direction::ToClient),
            Known::FromRouter => matches!(direction, Direction::ToNode),
            Known::ContentType | Known::ContentEncoding | Known::Other => true,
        }
    }
}

/// The known name that `name` spells, in any case and with `_` for `-`.
#[inline]
fn lookup(name: &[u8]) -> Known {
    let [first, ..] = name else {
        return Known::Other;
    };
    match (name.len(), fold(*first)) {
        (2, b't') if spells(name, b"te") => Known::HopByHop,
        (4, b'h') if spells(name, b"host") => Known::Host,
        (6, b'c') if spells(name, b"cookie") => Known::ForRouter,
        (6, b'e') if spells(name, b"expect") => Known::Expect,
        (7, b't') if spells(name, b"trailer") => Known::HopByHop,
        (7, b'u') if spells(name, b"upgrade") => Known::HopByHop,
        (9, b'f') if spells(name, b"forwarded") => Known::ForRouter,
        (9, b'x') if spells(name, b"x-api-key") => Known::ApiKey,
        (10, b'c') if spells(name, b"connection") => Known::Connection,
        (10, b'k') if spells(name, b"keep-alive") => Known::HopByHop,
        (12, b'c') if spells(name, b"content-type") => Known::ContentType,
        (12, b'x') if spells(name, b"x-request-id") => Known::RequestId,
        (13, b'a') if spells(name, b"authorization") => Known::Authorization,
        (14, b'c') if spells(name, b"content-length") => Known::ContentLength,
        (14, b'h') if spells(name, b"http2-settings") => Known::ForRouter,
        (14, b'x') if spells(name, b"x-backpressure") => Known::FromRouter,
        (16, b'c') if spells(name, b"content-encoding") => Known::ContentEncoding,
        (16, b'p') if spells(name, b"proxy-connection") => Known::HopByHop,
        (16, b'x') if spells(name, b"x-queue-position") => Known::FromRouter,
        (16, b'x') if spells(name, b"x-estimated-wait") => Known::FromRouter,
        (17, b't') if spells(name, b"transfer-encoding") => Known::TransferEncoding,
        (18, b'p') if spells(name, b"proxy-authenticate") => Known::HopByHop,
        (19, b'p') if spells(name, b"proxy-authorization") => Known::ForRouter,
        (25, b'p') if spells(name, b"proxy-authentication-info") => Known::FromRouter,
        // What client libraries say about themselves, and what only we may say about the client.
        (12.., b'x') if begins(name, b"x-stainless-") || begins(name, b"x-forwarded-") => {
            Known::ForRouter
        }
        _ => Known::Other,
    }
}

/// Whether `name` is `known`, in any case and with `_` for `-`; `known` is in lower case without `_`.
/// Without an early exit, so that it becomes vector code.
#[inline]
fn spells<const BYTES: usize>(name: &[u8], known: &[u8; BYTES]) -> bool {
    let Some((name, [])) = name.split_first_chunk::<BYTES>() else {
        return false;
    };
    let pairs = name.iter().zip(known);
    let difference = pairs.fold(0, |difference, (byte, expected)| {
        difference | (fold(*byte) ^ expected)
    });
    difference == 0
}

#[inline]
fn begins<const BYTES: usize>(name: &[u8], known: &[u8; BYTES]) -> bool {
    name.get(..BYTES).is_some_and(|start| spells(start, known))
}

/// In lower case, and `_` as `-`.
#[inline]
const fn fold(byte: u8) -> u8 {
    match byte {
        b'_' => b'-',
        _ => byte.to_ascii_lowercase(),
    }
}
