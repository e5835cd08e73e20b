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
    RequestTimeout,
    /// What OpenAI's SDKs say about the time they wait.
    StainlessTimeout,
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
    RequestTimeout,
    StainlessTimeout,
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
    /// Recognises a field name: its length and first letter leave hardly any candidates.
    #[inline]
    pub(super) fn classify(name: &[u8]) -> Self {
        lookup(name).unwrap_or(Self {
            known: Known::Other,
            is_exact: true,
        })
    }

    /// `known` if `name` spells `letters`, in any case and with `_` for `-`; `letters` are in lower case
    /// without `_`.
    #[inline]
    fn of<const BYTES: usize>(name: &[u8], letters: &[u8; BYTES], known: Known) -> Option<Self> {
        let (name, []) = name.split_first_chunk::<BYTES>()? else {
            return None;
        };
        if is_same(name, letters) {
            let is_exact = true;
            return Some(Self { known, is_exact });
        }
        let is_lookalike = name.iter().zip(letters).all(|(byte, letter)| match byte {
            b'_' => *letter == b'-',
            _ => byte.to_ascii_lowercase() == *letter,
        });
        let is_exact = false;
        is_lookalike.then_some(Self { known, is_exact })
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
            (Known::RequestTimeout, true) => Meaning::RequestTimeout,
            (Known::StainlessTimeout, true) => Meaning::StainlessTimeout,
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
            | Known::StainlessTimeout
            | Known::ForRouter => matches!(direction, Direction::ToClient),
            Known::FromRouter => matches!(direction, Direction::ToNode),
            Known::ContentType | Known::ContentEncoding | Known::RequestTimeout | Known::Other => {
                true
            }
        }
    }
}

#[inline]
fn lookup(name: &[u8]) -> Option<Name> {
    let first = name.first()?.to_ascii_lowercase();
    match (name.len(), first) {
        (2, b't') => Name::of(name, b"te", Known::HopByHop),
        (4, b'h') => Name::of(name, b"host", Known::Host),
        (6, b'c') => Name::of(name, b"cookie", Known::ForRouter),
        (6, b'e') => Name::of(name, b"expect", Known::Expect),
        (7, b't') => Name::of(name, b"trailer", Known::HopByHop),
        (7, b'u') => Name::of(name, b"upgrade", Known::HopByHop),
        (9, b'f') => Name::of(name, b"forwarded", Known::ForRouter),
        (9, b'x') => Name::of(name, b"x-api-key", Known::ApiKey),
        (10, b'c') => Name::of(name, b"connection", Known::Connection),
        (10, b'k') => Name::of(name, b"keep-alive", Known::HopByHop),
        (12, b'c') => Name::of(name, b"content-type", Known::ContentType),
        (12, b'x') => Name::of(name, b"x-request-id", Known::RequestId).or_else(|| family(name)),
        (13, b'a') => Name::of(name, b"authorization", Known::Authorization),
        (14, b'c') => Name::of(name, b"content-length", Known::ContentLength),
        (14, b'h') => Name::of(name, b"http2-settings", Known::ForRouter),
        (14, b'x') => Name::of(name, b"x-backpressure", Known::FromRouter).or_else(|| family(name)),
        (16, b'c') => Name::of(name, b"content-encoding", Known::ContentEncoding),
        (16, b'p') => Name::of(name, b"proxy-connection", Known::HopByHop),
        (16, b'x') => Name::of(name, b"x-queue-position", Known::FromRouter)
            .or_else(|| Name::of(name, b"x-estimated-wait", Known::FromRouter))
            .or_else(|| family(name)),
        (17, b'x') => {
            Name::of(name, b"x-request-timeout", Known::RequestTimeout).or_else(|| family(name))
        }
        (17, b't') => Name::of(name, b"transfer-encoding", Known::TransferEncoding),
        (18, b'p') => Name::of(name, b"proxy-authenticate", Known::HopByHop),
        (19, b'x') => {
            Name::of(name, b"x-stainless-timeout", Known::StainlessTimeout).or_else(|| family(name))
        }
        (24, b'x') => Name::of(name, b"x-stainless-read-timeout", Known::StainlessTimeout)
            .or_else(|| family(name)),
        (19, b'p') => Name::of(name, b"proxy-authorization", Known::ForRouter),
        (25, b'p') => Name::of(name, b"proxy-authentication-info", Known::FromRouter),
        (_, b'x') => family(name),
        _ => None,
    }
}

/// What client libraries say about themselves, and what only we may say about the client.
#[inline(never)]
fn family(name: &[u8]) -> Option<Name> {
    let start = name.get(..b"x-forwarded-".len())?;
    Name::of(start, b"x-stainless-", Known::ForRouter)
        .or_else(|| Name::of(start, b"x-forwarded-", Known::ForRouter))
}

/// Whether two names are the same but for case; `letters` are in lower case. By words: each name of
/// each head comes through here.
#[inline]
fn is_same<const BYTES: usize>(name: &[u8; BYTES], letters: &[u8; BYTES]) -> bool {
    let (words, letter_words) = (name.as_chunks::<8>().0, letters.as_chunks::<8>().0);
    let (last, last_letters) = (name.last_chunk::<8>(), letters.last_chunk::<8>());
    if let (Some(last), Some(last_letters)) = (last, last_letters) {
        words
            .iter()
            .zip(letter_words)
            .all(|(word, letters)| is_same_word(word, letters))
            && is_same_word(last, last_letters)
    } else {
        name.eq_ignore_ascii_case(letters)
    }
}

/// Letters may differ in the one bit that tells the cases apart; of the bytes of a known name only
/// letters have the bit above it.
#[inline]
const fn is_same_word(word: &[u8; 8], letters: &[u8; 8]) -> bool {
    const CASE_BITS: u64 = u64::from_ne_bytes([0x20; 8]);
    let letters = u64::from_ne_bytes(*letters);
    let difference = u64::from_ne_bytes(*word) ^ letters;
    difference & !((letters >> 1) & CASE_BITS) == 0
}
