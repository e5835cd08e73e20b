//! JSON strings: finding their end, checking their escapes, unescaping the few that matter.
//! Nearly every byte of a request passes through [`skip_plain`]; it must stay branch-poor.

/// A string token that was found valid.
#[derive(Clone, Copy)]
pub(super) struct StringToken<'b> {
    /// What stands between the quotes, still escaped.
    pub(super) content: &'b [u8],
    /// Whether it holds a backslash.
    pub(super) escaped: bool,
}

impl StringToken<'_> {
    /// Whether the unescaped string is `name`.
    pub(super) fn is(&self, name: &str) -> bool {
        if self.escaped {
            self.is_escaped_form_of(name)
        } else {
            self.content == name.as_bytes()
        }
    }

    #[cold]
    fn is_escaped_form_of(&self, name: &str) -> bool {
        self.content.len() <= name.len().saturating_mul(ESCAPE_BYTES_MAX)
            && std::str::from_utf8(self.content).is_ok_and(|content| unescape(content) == name)
    }
}

/// The most bytes one byte of a string can take in escaped form: `\u0061`.
pub(super) const ESCAPE_BYTES_MAX: usize = 6;

/// Reads a string whose opening quote is already consumed. Gives the token and what follows the
/// closing quote, or what is wrong.
pub(super) fn read(input: &[u8]) -> Result<(StringToken<'_>, &[u8]), &'static str> {
    let mut rest = skip_plain(input);
    let mut escaped = false;
    loop {
        match rest {
            [b'"', tail @ ..] => {
                let length = input.len().saturating_sub(rest.len());
                let content = input.get(..length).unwrap_or_default();
                return Ok((StringToken { content, escaped }, tail));
            }
            [b'\\', tail @ ..] => {
                escaped = true;
                rest = skip_plain(skip_escape(tail)?);
            }
            [] => return Err("unterminated string"),
            _ => return Err("control character in string"),
        }
    }
}

/// Skips to the first quote, backslash or control character.
#[inline]
fn skip_plain(input: &[u8]) -> &[u8] {
    let mut rest = input;
    while let Some((word, tail)) = rest.split_first_chunk::<8>() {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            let at = (special.trailing_zeros() >> 3) as usize;
            return rest.get(at..).unwrap_or_default();
        }
        rest = tail;
    }
    while let [byte, tail @ ..] = rest {
        if *byte < 0x20 || *byte == b'"' || *byte == b'\\' {
            break;
        }
        rest = tail;
    }
    rest
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
fn skip_escape(input: &[u8]) -> Result<&[u8], &'static str> {
    match input {
        [
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't',
            tail @ ..,
        ] => Ok(tail),
        [b'u', tail @ ..] => skip_unicode_escape(tail),
        _ => Err("invalid escape"),
    }
}

fn skip_unicode_escape(input: &[u8]) -> Result<&[u8], &'static str> {
    const INVALID: &str = "invalid unicode escape";
    const LONE: &str = "lone surrogate";
    let (unit, tail) = code_unit(input).ok_or(INVALID)?;
    match unit {
        0xd800..=0xdbff => {
            let [b'\\', b'u', low @ ..] = tail else {
                return Err(LONE);
            };
            match code_unit(low).ok_or(INVALID)? {
                (0xdc00..=0xdfff, tail) => Ok(tail),
                _ => Err(LONE),
            }
        }
        0xdc00..=0xdfff => Err(LONE),
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

/// Unescapes the content of a valid string token. What is not valid is left out.
pub(super) fn unescape(content: &str) -> String {
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
