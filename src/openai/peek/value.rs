//! Walks JSON values without building them: one cursor, one bit per open bracket, no recursion.
//! Must never accept what RFC 8259 does not.

use super::DEPTH_MAX;
use super::string;

/// What is wrong with the JSON; where is the scanner's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SyntaxError {
    ExpectedObject,
    ExpectedName,
    ExpectedColon,
    ExpectedValue,
    ExpectedCommaOrBrace,
    ExpectedCommaOrBracket,
    InvalidNumber,
    UnterminatedString,
    ControlCharacter,
    InvalidEscape,
    LoneSurrogate,
    TooDeep,
    TrailingText,
}

impl SyntaxError {
    /// What is wrong, in words that go before "at byte N".
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::ExpectedObject => "expected an object",
            Self::ExpectedName => "expected a member name",
            Self::ExpectedColon => "expected :",
            Self::ExpectedValue => "expected a value",
            Self::ExpectedCommaOrBrace => "expected , or }",
            Self::ExpectedCommaOrBracket => "expected , or ]",
            Self::InvalidNumber => "invalid number",
            Self::UnterminatedString => "unterminated string",
            Self::ControlCharacter => "control character in the string",
            Self::InvalidEscape => "invalid escape in the string",
            Self::LoneSurrogate => "lone surrogate in the string",
            Self::TooDeep => "nested too deeply",
            Self::TrailingText => "text after the object",
        }
    }
}

/// A cursor over a body. On an error it stands at the token that is wrong.
pub(super) struct Scanner<'b> {
    rest: &'b [u8],
    body_bytes: usize,
}

impl<'b> Scanner<'b> {
    pub(super) const fn new(body: &'b [u8]) -> Self {
        Self {
            rest: body,
            body_bytes: body.len(),
        }
    }

    /// How many bytes of the body are behind the cursor.
    pub(super) const fn consumed(&self) -> usize {
        self.body_bytes.saturating_sub(self.rest.len())
    }

    #[inline]
    pub(super) fn skip_whitespace(&mut self) {
        while let [b' ' | b'\n' | b'\r' | b'\t', tail @ ..] = self.rest {
            self.rest = tail;
        }
    }

    /// Consumes `byte` if it comes next.
    #[inline]
    pub(super) fn take(&mut self, byte: u8) -> bool {
        match self.rest {
            [first, tail @ ..] if *first == byte => {
                self.rest = tail;
                true
            }
            _ => false,
        }
    }

    #[inline]
    pub(super) fn expect(&mut self, byte: u8, error: SyntaxError) -> Result<(), SyntaxError> {
        if self.take(byte) { Ok(()) } else { Err(error) }
    }

    pub(super) fn expect_end(&self) -> Result<(), SyntaxError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(SyntaxError::TrailingText)
        }
    }

    /// Reads a member's name and the colon, up to the first byte of its value. Gives the name as
    /// it stands between its quotes.
    #[inline]
    pub(super) fn key(&mut self) -> Result<&'b [u8], SyntaxError> {
        let name = self.string()?.ok_or(SyntaxError::ExpectedName)?;
        self.skip_whitespace();
        self.expect(b':', SyntaxError::ExpectedColon)?;
        self.skip_whitespace();
        Ok(name)
    }

    /// Reads a string and gives what stands between its quotes, or nothing if there is none here.
    #[inline]
    pub(super) fn string(&mut self) -> Result<Option<&'b [u8]>, SyntaxError> {
        let [b'"', input @ ..] = self.rest else {
            return Ok(None);
        };
        self.rest = string::skip(input)?;
        let content_bytes = input.len().wrapping_sub(self.rest.len()).wrapping_sub(1);
        Ok(Some(input.get(..content_bytes).unwrap_or_default()))
    }

    /// Reads any value: `Some` of a boolean (null is false), `None` for every other type.
    pub(super) fn boolean_or_null(&mut self) -> Result<Option<bool>, SyntaxError> {
        let value = match self.rest {
            [b't', ..] => Some(true),
            [b'f' | b'n', ..] => Some(false),
            _ => None,
        };
        self.skip_value()?;
        Ok(value)
    }

    /// Walks over the value of a member of the request object, that is, one on level 1.
    pub(super) fn skip_value(&mut self) -> Result<(), SyntaxError> {
        let mut open = Brackets::default();
        loop {
            if self.open_or_skip(&mut open)? {
                continue;
            }
            loop {
                let Some(innermost) = open.innermost() else {
                    return Ok(());
                };
                self.skip_whitespace();
                match (innermost, self.rest) {
                    (Bracket::Object, [b',', tail @ ..]) => {
                        self.rest = tail;
                        self.skip_whitespace();
                        self.key()?;
                        break;
                    }
                    (Bracket::Array, [b',', tail @ ..]) => {
                        self.rest = tail;
                        self.skip_whitespace();
                        break;
                    }
                    (Bracket::Object, [b'}', tail @ ..]) | (Bracket::Array, [b']', tail @ ..]) => {
                        self.rest = tail;
                        open.close();
                    }
                    (Bracket::Object, _) => return Err(SyntaxError::ExpectedCommaOrBrace),
                    (Bracket::Array, _) => return Err(SyntaxError::ExpectedCommaOrBracket),
                }
            }
        }
    }

    /// Consumes one scalar or empty container, or opens a container and stops before its first
    /// value. True means that a value comes next.
    #[inline]
    fn open_or_skip(&mut self, open: &mut Brackets) -> Result<bool, SyntaxError> {
        match self.rest {
            [b'"', tail @ ..] => {
                self.rest = string::skip(tail)?;
            }
            [b'{', tail @ ..] => {
                open.open(Bracket::Object)?;
                self.rest = tail;
                self.skip_whitespace();
                if self.take(b'}') {
                    open.close();
                } else {
                    self.key()?;
                    return Ok(true);
                }
            }
            [b'[', tail @ ..] => {
                open.open(Bracket::Array)?;
                self.rest = tail;
                self.skip_whitespace();
                if self.take(b']') {
                    open.close();
                } else {
                    return Ok(true);
                }
            }
            [b'-' | b'0'..=b'9', ..] => self.rest = skip_number(self.rest)?,
            [b't', b'r', b'u', b'e', tail @ ..]
            | [b'f', b'a', b'l', b's', b'e', tail @ ..]
            | [b'n', b'u', b'l', b'l', tail @ ..] => self.rest = tail,
            _ => return Err(SyntaxError::ExpectedValue),
        }
        Ok(false)
    }
}

/// Consumes a number (RFC 8259 section 6). Its magnitude is the node's business.
fn skip_number(input: &[u8]) -> Result<&[u8], SyntaxError> {
    let unsigned = match input {
        [b'-', tail @ ..] => tail,
        _ => input,
    };
    let mut rest = match unsigned {
        [b'0', tail @ ..] => tail,
        _ => skip_digits(unsigned)?,
    };
    if let [b'.', tail @ ..] = rest {
        rest = skip_digits(tail)?;
    }
    match rest {
        [b'e' | b'E', b'+' | b'-', tail @ ..] | [b'e' | b'E', tail @ ..] => skip_digits(tail),
        _ => Ok(rest),
    }
}

/// Consumes one or more digits.
fn skip_digits(input: &[u8]) -> Result<&[u8], SyntaxError> {
    let [b'0'..=b'9', rest @ ..] = input else {
        return Err(SyntaxError::InvalidNumber);
    };
    let mut rest = rest;
    while let [b'0'..=b'9', tail @ ..] = rest {
        rest = tail;
    }
    Ok(rest)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bracket {
    Array,
    Object,
}

/// The open brackets inside the request object, one bit each, the innermost in bit 0.
#[derive(Default)]
struct Brackets {
    objects: u64,
    count: u32,
}

impl Brackets {
    #[inline]
    fn open(&mut self, bracket: Bracket) -> Result<(), SyntaxError> {
        self.count = self.count.saturating_add(1);
        // The request object is one level by itself.
        if self.count >= DEPTH_MAX {
            return Err(SyntaxError::TooDeep);
        }
        self.objects = (self.objects << 1) | u64::from(bracket == Bracket::Object);
        Ok(())
    }

    #[inline]
    fn close(&mut self) {
        self.objects >>= 1;
        self.count = self.count.saturating_sub(1);
    }

    #[inline]
    fn innermost(&self) -> Option<Bracket> {
        match (self.count, self.objects & 1) {
            (0, _) => None,
            (_, 1) => Some(Bracket::Object),
            _ => Some(Bracket::Array),
        }
    }
}
