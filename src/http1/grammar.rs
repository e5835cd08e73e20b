//! The byte classes and small lexical rules of RFC 9110 section 5.6 and RFC 3986.
//!
//! Owns "is this byte allowed here" and "which number is this". It must never know what a field
//! means.

/// A set of bytes as a table of marks: one load per byte, and no branch, tells what a text holds.
pub(super) struct ByteSet([u8; 256]);

/// What the bytes of a text are, seen against a [`ByteSet`].
#[derive(Clone, Copy)]
pub(super) struct Marks(u8);

impl Marks {
    const OUTSIDE: u8 = 1;
    const PERCENT: u8 = 2;
    const QUESTION: u8 = 4;

    /// Whether all bytes belong to the set.
    #[inline]
    pub(super) const fn all_belong(self) -> bool {
        self.0 & Self::OUTSIDE == 0
    }

    /// Whether there is a `?`, in a set that has it.
    #[inline]
    pub(super) const fn has_question(self) -> bool {
        self.0 & Self::QUESTION != 0
    }

    /// Whether all bytes of `bytes`, whose marks these are, belong to the set, which has `%` in it, and
    /// every `%` is followed by two hexadecimal digits (RFC 3986 section 2.1).
    #[inline]
    pub(super) fn are_percent_encoded(self, bytes: &[u8]) -> bool {
        self.all_belong() && (self.0 & Self::PERCENT == 0 || has_valid_percent_encoding(bytes))
    }
}

impl ByteSet {
    /// ASCII letters and digits plus `others`.
    const fn alphanumeric_and(others: &[u8]) -> Self {
        let mut set = [Marks::OUTSIDE; 256];
        let mut byte = 0_u8;
        while byte < 128 {
            if byte.is_ascii_alphanumeric() {
                put(&mut set, byte, 0);
            }
            byte = byte.wrapping_add(1);
        }
        let mut rest = others;
        while let [byte, tail @ ..] = rest {
            let marks = match *byte {
                b'%' => Marks::PERCENT,
                b'?' => Marks::QUESTION,
                _ => 0,
            };
            put(&mut set, *byte, marks);
            rest = tail;
        }
        Self(set)
    }

    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "any byte is an index of a table of 256"
    )]
    const fn marks_of(&self, byte: u8) -> u8 {
        self.0[byte as usize]
    }

    #[inline]
    pub(super) const fn contains(&self, byte: u8) -> bool {
        Marks(self.marks_of(byte)).all_belong()
    }

    #[inline]
    pub(super) fn marks(&self, bytes: &[u8]) -> Marks {
        let marks = bytes
            .iter()
            .fold(0, |marks, &byte| marks | self.marks_of(byte));
        Marks(marks)
    }

    #[inline]
    pub(super) fn contains_all(&self, bytes: &[u8]) -> bool {
        self.marks(bytes).all_belong()
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "any byte is an index of a table of 256"
)]
const fn put(set: &mut [u8; 256], byte: u8, marks: u8) {
    set[byte as usize] = marks;
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
