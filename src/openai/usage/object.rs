//! Reads one usage object byte by byte: the whole numbers on its first level, under known names.
//! Must never hold more than the current member's name and number.

use super::{Counts, LineStart, Member, UsageTap};

/// What one more byte brought.
#[derive(Debug)]
pub(super) enum Progress {
    /// The object goes on.
    More,
    /// The object ended with this byte.
    Complete(Counts),
    /// This is no usage object, or it is too long.
    Invalid,
}

/// The reader, created behind the opening brace.
#[derive(Clone, Debug)]
pub(super) struct ObjectReader {
    counts: Counts,
    place: Place,
    /// Open brackets inside the object.
    depth: u16,
    bytes: u16,
    line: LineStart,
    /// The last string on the first level; it is the member's name when a number follows.
    name: Name,
    number: Number,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Between,
    String,
    Escape,
}

impl Default for ObjectReader {
    fn default() -> Self {
        Self {
            counts: Counts::default(),
            place: Place::Between,
            depth: 0,
            bytes: 0,
            line: LineStart::default(),
            name: Name::default(),
            number: Number::None,
        }
    }
}

/// Reads the plainest and most frequent form at once: a colon, an object of whole numbers on one line,
/// and all of it in this slice. Gives the counts and what follows the object.
///
/// `None` for anything else: the careful reader then decides, and decides the same (a property test
/// compares every split with the whole).
pub(super) fn read_plain(slice: &[u8]) -> Option<(Counts, &[u8])> {
    let mut counts = Counts::default();
    let object = skip_space(skip_space(slice).strip_prefix(b":")?).strip_prefix(b"{")?;
    let mut rest = object;
    loop {
        rest = skip_space(rest);
        let (member, number) = match usual_member(rest) {
            Some(member) => member,
            None => plain_member(rest)?,
        };
        let (value, behind) = plain_number(skip_space(number))?;
        counts.file(member, value);
        match skip_space(behind) {
            [b',', tail @ ..] => rest = tail,
            [b'}', tail @ ..] => {
                let object_bytes = object.len().saturating_sub(tail.len());
                let is_bounded = object_bytes < usize::from(UsageTap::OBJECT_BYTES_MAX);
                return is_bounded.then_some((counts, tail));
            }
            _ => return None,
        }
    }
}

/// A member in the form that most nodes write, and what follows its colon.
#[inline]
fn usual_member(input: &[u8]) -> Option<(Member, &[u8])> {
    const PROMPT: &[u8; 16] = b"\"prompt_tokens\":";
    const COMPLETION: &[u8; 20] = b"\"completion_tokens\":";
    const TOTAL: &[u8; 15] = b"\"total_tokens\":";
    match input.get(1)? {
        b'p' => Some((Member::Prompt, input.strip_prefix(PROMPT)?)),
        b'c' => Some((Member::Completion, input.strip_prefix(COMPLETION)?)),
        b't' => Some((Member::Total, input.strip_prefix(TOTAL)?)),
        _ => None,
    }
}

/// A member of any name that holds nothing to be unescaped or looked at closely.
fn plain_member(input: &[u8]) -> Option<(Member, &[u8])> {
    let input = input.strip_prefix(b"\"")?;
    let (name, behind) = input.split_at_checked(memchr::memchr(b'"', input)?)?;
    let is_plain = |byte: &u8| byte.is_ascii_lowercase() || *byte == b'_';
    let number = skip_space(behind.strip_prefix(b"\"")?).strip_prefix(b":")?;
    name.iter()
        .all(is_plain)
        .then(|| (Member::of(name), number))
}

/// `1*18DIGIT` as a number, and what follows it.
#[inline]
fn plain_number(input: &[u8]) -> Option<(u64, &[u8])> {
    let (mut value, mut rest) = (0_u64, input);
    while let [digit @ b'0'..=b'9', tail @ ..] = rest {
        value = value
            .wrapping_mul(10)
            .wrapping_add(u64::from(digit.wrapping_sub(b'0')));
        rest = tail;
    }
    let digit_count = input.len().saturating_sub(rest.len());
    (1..=PLAIN_DIGITS_MAX)
        .contains(&digit_count)
        .then_some((value, rest))
}

fn skip_space(slice: &[u8]) -> &[u8] {
    match slice {
        [b' ', tail @ ..] => tail,
        _ => slice,
    }
}

/// Digits that surely fit in 64 bits.
const PLAIN_DIGITS_MAX: usize = 18;

impl ObjectReader {
    pub(super) fn read(&mut self, byte: u8) -> Progress {
        self.bytes = self.bytes.saturating_add(1);
        if self.bytes >= UsageTap::OBJECT_BYTES_MAX {
            return Progress::Invalid;
        }
        match (self.place, byte) {
            (Place::String, b'"') => self.place = Place::Between,
            (Place::String, b'\\') => {
                self.place = Place::Escape;
                self.name.spoil();
            }
            (Place::String, 0..=0x1f) => return Progress::Invalid,
            (Place::String, _) => self.name.push(byte),
            (Place::Escape, _) => self.place = Place::String,
            (Place::Between, _) => return self.read_between(byte),
        }
        Progress::More
    }

    fn read_between(&mut self, byte: u8) -> Progress {
        if self.line.skips(byte) {
            self.number.end();
            return Progress::More;
        }
        match byte {
            b'"' => {
                self.place = Place::String;
                self.name = Name::default();
                self.number = Number::None;
            }
            // The number was cleared when the name began.
            b':' => {}
            b',' => self.take_number(),
            b'{' | b'[' => {
                self.depth = self.depth.saturating_add(1);
                self.name = Name::default();
            }
            b'}' | b']' => {
                self.take_number();
                let Some(depth) = self.depth.checked_sub(1) else {
                    return match byte {
                        b'}' => Progress::Complete(self.counts),
                        _ => Progress::Invalid,
                    };
                };
                self.depth = depth;
            }
            _ => self.number.push(byte),
        }
        Progress::More
    }

    /// Files the number that just ended under the name before it.
    fn take_number(&mut self) {
        let number = std::mem::replace(&mut self.number, Number::None);
        let name = std::mem::take(&mut self.name);
        let (Number::Whole(value) | Number::Ended(value)) = number else {
            return;
        };
        if self.depth > 0 {
            return;
        }
        self.counts.file(Member::of(name.bytes()), value);
    }
}

/// A member name, if it is short enough to be one of ours.
#[derive(Clone, Copy, Debug, Default)]
struct Name {
    buffer: [u8; NAME_BYTES_MAX],
    length: u8,
}

/// One more than the longest name of interest, `completion_tokens`.
const NAME_BYTES_MAX: usize = 18;

impl Name {
    fn push(&mut self, byte: u8) {
        match self.buffer.get_mut(usize::from(self.length)) {
            Some(place) => {
                *place = byte;
                self.length = self.length.saturating_add(1);
            }
            None => self.spoil(),
        }
    }

    /// Makes the name none of ours, for good.
    fn spoil(&mut self) {
        self.length = u8::MAX;
    }

    fn bytes(&self) -> &[u8] {
        self.buffer
            .get(..usize::from(self.length))
            .unwrap_or_default()
    }
}

/// The scalar being read.
#[derive(Clone, Copy, Debug)]
enum Number {
    /// Nothing yet.
    None,
    /// Digits, and nothing else, so far.
    Whole(u64),
    /// Digits followed by white space.
    Ended(u64),
    /// Anything else: a fraction, a negative number, a literal.
    Other,
}

impl Number {
    fn push(&mut self, byte: u8) {
        let digit = match byte {
            b'0'..=b'9' => u64::from(byte & 0xf),
            _ => {
                *self = Self::Other;
                return;
            }
        };
        *self = match *self {
            Self::None => Self::Whole(digit),
            Self::Whole(value) => Self::Whole(value.saturating_mul(10).saturating_add(digit)),
            Self::Ended(_) | Self::Other => Self::Other,
        };
    }

    fn end(&mut self) {
        if let Self::Whole(value) = *self {
            *self = Self::Ended(value);
        }
    }
}
