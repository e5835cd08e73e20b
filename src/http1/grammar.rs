//! The byte classes and small lexical rules of RFC 9110 section 5.6 and RFC 3986.
//!
//! Owns "is this byte allowed here" and "which number is this". It must never know what a field
//! means.

/// A set of bytes as a table: one load per question.
pub(super) struct ByteSet([bool; 256]);

impl ByteSet {
    /// ASCII letters and digits plus `others`.
    const fn alphanumeric_and(others: &[u8]) -> Self {
        let mut set = [false; 256];
        let mut byte = 0_u8;
        while byte < 128 {
            add(&mut set, byte, byte.is_ascii_alphanumeric());
            byte = byte.wrapping_add(1);
        }
        let mut rest = others;
        while let [byte, tail @ ..] = rest {
            add(&mut set, *byte, true);
            rest = tail;
        }
        Self(set)
    }

    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "any byte is an index of a table of 256"
    )]
    pub(super) const fn contains(&self, byte: u8) -> bool {
        self.0[byte as usize]
    }

    #[inline]
    pub(super) fn contains_all(&self, bytes: &[u8]) -> bool {
        bytes.iter().all(|&byte| self.contains(byte))
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "any byte is an index of a table of 256"
)]
const fn add(set: &mut [bool; 256], byte: u8, member: bool) {
    set[byte as usize] |= member;
}

/// `tchar` (RFC 9110 section 5.6.2).
pub(super) static TOKEN: ByteSet = ByteSet::alphanumeric_and(b"!#$%&'*+-.^_`|~");

/// What may stand in a path or query: `pchar` with `%`, and `/` and `?` (RFC 3986 section 3.3, 3.4).
pub(super) static PATH_AND_QUERY: ByteSet = ByteSet::alphanumeric_and(b"-._~%!$&'()*+,;=:@/?");

/// `reg-name` with `%` (RFC 3986 section 3.2.2).
pub(super) static REG_NAME: ByteSet = ByteSet::alphanumeric_and(b"-._~%!$&'()*+,;=");

/// `IPvFuture` after its dot (RFC 3986 section 3.2.2).
pub(super) static IPV_FUTURE: ByteSet = ByteSet::alphanumeric_and(b"-._~!$&'()*+,;=:");

/// `1*tchar`.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && TOKEN.contains_all(bytes)
}

/// Whether `byte` may stand inside a field value: HTAB, SP, VCHAR or obs-text.
#[inline]
pub(super) const fn is_field_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// Whether `value` may be written as a field value (RFC 9110 section 5.5): no control character
/// except HTAB, and no whitespace at either end, which a parser would not give back.
#[must_use]
pub fn is_valid_field_value(value: &[u8]) -> bool {
    value.iter().all(|&byte| is_field_value_byte(byte)) && trim_ows(value).len() == value.len()
}

/// Removes optional whitespace (SP and HTAB) from both ends.
#[inline]
pub(super) fn trim_ows(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// `1*DIGIT` as a number; `None` for anything else, including a value above `u64::MAX`.
///
/// By hand because the standard parser accepts a leading plus sign, which on the wire is how two
/// parsers come to disagree about a length.
pub(super) fn parse_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, &digit| {
        let value = decimal_value(digit)?;
        number.checked_mul(10)?.checked_add(value)
    })
}

const fn decimal_value(digit: u8) -> Option<u64> {
    match digit {
        b'0'..=b'9' => Some((digit ^ b'0') as u64),
        _ => None,
    }
}

/// The value of one hexadecimal digit.
#[inline]
pub(super) const fn hex_value(digit: u8) -> Option<u64> {
    match digit {
        b'0'..=b'9' => Some((digit ^ b'0') as u64),
        // 'a' and 'A' have 1 in the low four bits.
        b'a'..=b'f' | b'A'..=b'F' => Some((digit & 0x0f).wrapping_add(9) as u64),
        _ => None,
    }
}

/// Whether `bytes` are of `set`, which has `%` in it, and every `%` is followed by two hexadecimal digits
/// (RFC 3986 section 2.1).
pub(super) fn is_percent_encoded(bytes: &[u8], set: &ByteSet) -> bool {
    let mut has_percent = false;
    for &byte in bytes {
        if !set.contains(byte) {
            return false;
        }
        has_percent |= byte == b'%';
    }
    !has_percent || has_valid_percent_encoding(bytes)
}

#[cold]
fn has_valid_percent_encoding(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = memchr::memchr(b'%', rest) {
        match rest.get(at..) {
            Some([_, high, low, tail @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                rest = tail;
            }
            _ => return false,
        }
    }
    true
}
