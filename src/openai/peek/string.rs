//! JSON strings: finding their end, checking their escapes, unescaping the few that matter.
//! Nearly every byte of a request passes through [`skip_plain`]; it must stay branch-poor.

use std::borrow::Cow;

use super::value::SyntaxError;

/// The most bytes one byte of a string can take in escaped form: `\u0061`.
pub(super) const ESCAPE_BYTES_MAX: usize = 6;

/// Skips a string whose opening quote is already consumed, to behind its closing quote.
#[inline]
pub(super) fn skip(input: &[u8]) -> Result<&[u8], SyntaxError> {
    let mut rest = input;
    loop {
        rest = match skip_plain(rest) {
            [b'"', tail @ ..] => return Ok(tail),
            [b'\\', tail @ ..] => skip_escape(tail)?,
            [] => return Err(SyntaxError::UnterminatedString),
            _ => return Err(SyntaxError::ControlCharacter),
        };
    }
}

/// Skips to the first quote, backslash or control character: a word at a time where such a byte is
/// near, as in names and short values, and a block at a time in long text.
#[inline]
fn skip_plain(input: &[u8]) -> &[u8] {
    let Some((word, tail)) = input.split_first_chunk::<8>() else {
        return skip_plain_bytes(input);
    };
    let special = special_bytes(u64::from_le_bytes(*word));
    if special != 0 {
        return input.get(first_marked(special)..).unwrap_or_default();
    }
    let mut rest = tail;
    while let Some((block, tail)) = rest.split_first_chunk::<BLOCK_BYTES>() {
        if block
            .iter()
            .fold(false, |found, &byte| found | is_special(byte))
        {
            break;
        }
        rest = tail;
    }
    while let Some((word, tail)) = rest.split_first_chunk::<8>() {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return rest.get(first_marked(special)..).unwrap_or_default();
        }
        rest = tail;
    }
    skip_plain_bytes(rest)
}

/// How much is looked at in one step of a long text; the loop over it becomes vector code.
const BLOCK_BYTES: usize = 16;

fn skip_plain_bytes(input: &[u8]) -> &[u8] {
    let mut rest = input;
    while let [byte, tail @ ..] = rest {
        if is_special(*byte) {
            break;
        }
        rest = tail;
    }
    rest
}

#[inline]
fn is_special(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

/// The index of the byte with the lowest mark.
#[inline]
fn first_marked(special: u64) -> usize {
    (special.trailing_zeros() >> 3) as usize
}

/// Marks the high bit of bytes that end a plain run. Bits above the lowest mark may be wrong (a
/// borrow travels upwards), the lowest one never is.
#[inline]
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    const QUOTES: u64 = 0x2222_2222_2222_2222;
    const BACKSLASHES: u64 = 0x5c5c_5c5c_5c5c_5c5c;
    const SPACES: u64 = 0x2020_2020_2020_2020;
    let control = word.wrapping_sub(SPACES) & !word;
    let quote = word ^ QUOTES;
    let quote = quote.wrapping_sub(ONES) & !quote;
    let backslash = word ^ BACKSLASHES;
    let backslash = backslash.wrapping_sub(ONES) & !backslash;
    (control | quote | backslash) & HIGH
}

/// Checks one escape after its backslash (RFC 8259 section 7). A surrogate must be half of a pair:
/// a lone one has no UTF-8 form, so no two parsers agree on it.
#[inline]
fn skip_escape(input: &[u8]) -> Result<&[u8], SyntaxError> {
    match input {
        [
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't',
            tail @ ..,
        ] => Ok(tail),
        [b'u', tail @ ..] => skip_unicode_escape(tail),
        _ => Err(SyntaxError::InvalidEscape),
    }
}

fn skip_unicode_escape(input: &[u8]) -> Result<&[u8], SyntaxError> {
    let (unit, tail) = code_unit(input).ok_or(SyntaxError::InvalidEscape)?;
    match unit {
        0xd800..=0xdbff => {
            let [b'\\', b'u', low @ ..] = tail else {
                return Err(SyntaxError::LoneSurrogate);
            };
            match code_unit(low).ok_or(SyntaxError::InvalidEscape)? {
                (0xdc00..=0xdfff, tail) => Ok(tail),
                _ => Err(SyntaxError::LoneSurrogate),
            }
        }
        0xdc00..=0xdfff => Err(SyntaxError::LoneSurrogate),
        _ => Ok(tail),
    }
}

/// Reads four hex digits.
fn code_unit(input: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, tail) = input.split_first_chunk::<4>()?;
    let mut unit = 0_u32;
    for &digit in digits {
        unit = (unit << 4) | char::from(digit).to_digit(16)?;
    }
    Some((unit, tail))
}

/// Whether the content of a valid string token means `name`.
#[inline]
pub(super) fn means(content: &[u8], name: &str) -> bool {
    let common = content
        .iter()
        .zip(name.as_bytes())
        .take_while(|(byte, expected)| byte == expected)
        .count();
    // A byte that does not begin an escape means itself.
    match content.get(common) {
        None => common == name.len(),
        Some(b'\\') => means_escaped(content, name),
        Some(_) => false,
    }
}

#[cold]
fn means_escaped(content: &[u8], name: &str) -> bool {
    content.len() <= name.len().saturating_mul(ESCAPE_BYTES_MAX)
        && std::str::from_utf8(content).is_ok_and(|content| unescape(content) == name)
}

/// Unescapes the content of a valid string token. What is not valid is left out.
pub(super) fn unescape(content: &str) -> Cow<'_, str> {
    if memchr::memchr(b'\\', content.as_bytes()).is_some() {
        Cow::Owned(unescape_owned(content))
    } else {
        Cow::Borrowed(content)
    }
}

fn unescape_owned(content: &str) -> String {
    let mut text = String::with_capacity(content.len());
    let mut rest = content;
    while let Some((plain, escape)) = rest.split_once('\\') {
        text.push_str(plain);
        let mut characters = escape.chars();
        let character = match characters.next() {
            Some('b') => Some('\u{8}'),
            Some('f') => Some('\u{c}'),
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            Some('u') => unescape_unicode(&mut characters),
            other => other,
        };
        text.extend(character);
        rest = characters.as_str();
    }
    text.push_str(rest);
    text
}

fn unescape_unicode(characters: &mut std::str::Chars<'_>) -> Option<char> {
    let (first, tail) = code_unit(characters.as_str().as_bytes())?;
    let consumed = characters.as_str().len().saturating_sub(tail.len());
    *characters = characters.as_str().get(consumed..)?.chars();
    if !(0xd800..0xdc00).contains(&first) {
        return char::from_u32(first);
    }
    let low = characters.as_str().strip_prefix("\\u")?;
    let (second, tail) = code_unit(low.as_bytes())?;
    let consumed = low.len().saturating_sub(tail.len());
    *characters = low.get(consumed..)?.chars();
    char::from_u32((((first & 0x3ff) << 10) | (second & 0x3ff)).wrapping_add(0x1_0000))
}
