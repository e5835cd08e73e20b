//! Watches a response body in passing and notes the token usage it reports.
//!
//! Owns one small fixed state per response. Must never hold back, copy or change a byte, and must
//! never allocate: it sees each slice of the body once, on its way out.
#![warn(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::string_slice
)]

mod object;

use std::sync::LazyLock;

use memchr::memmem;

use object::{ObjectReader, Progress};

/// Token counts as the node reported them; 0 where it reported none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens read: `prompt_tokens` or `input_tokens`.
    pub prompt_tokens: u64,
    /// Tokens written: `completion_tokens` or `output_tokens`.
    pub completion_tokens: u64,
    /// `total_tokens`, or the sum of the other two where the node gave no total.
    pub total_tokens: u64,
}

impl Usage {
    /// Takes over what a later object says. A zero there does not erase what an earlier object
    /// said: in the messages protocol `message_start` brings the input tokens and `message_delta`
    /// the output tokens.
    fn merge(&mut self, later: &Counts) {
        for (field, value) in [
            (&mut self.prompt_tokens, later.prompt_tokens),
            (&mut self.completion_tokens, later.completion_tokens),
        ] {
            if value != 0 {
                *field = value;
            }
        }
        self.total_tokens = match later.total_tokens {
            0 => self.prompt_tokens.saturating_add(self.completion_tokens),
            total => total,
        };
    }
}

/// The counts of one usage object; 0 where absent.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
}

impl Counts {
    /// Files a number of a member.
    #[inline]
    fn file(&mut self, member: Member, value: u64) {
        match member {
            Member::Prompt => self.prompt_tokens = value,
            Member::Completion => self.completion_tokens = value,
            Member::Total => self.total_tokens = value,
            Member::Other => {}
        }
    }
}

/// What a member of a usage object counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    Prompt,
    Completion,
    Total,
    Other,
}

impl Member {
    fn of(name: &[u8]) -> Self {
        match name {
            b"prompt_tokens" | b"input_tokens" => Self::Prompt,
            b"completion_tokens" | b"output_tokens" => Self::Completion,
            b"total_tokens" => Self::Total,
            _ => Self::Other,
        }
    }
}

/// Finds the `"usage":{…}` objects of a JSON body or event stream fed to it in slices of any size,
/// and keeps the last word on each count.
///
/// An object counts when it is complete and not longer than
/// [`OBJECT_BYTES_MAX`](Self::OBJECT_BYTES_MAX). Feeding costs one substring search per slice.
#[derive(Clone, Debug)]
pub struct UsageTap {
    state: State,
    found: Option<Usage>,
}

#[derive(Clone, Debug)]
enum State {
    /// Looking for the key.
    Searching(KeyMatch),
    /// Behind the key, before its colon.
    Key(LineStart),
    /// Behind the colon, before the value.
    Colon(LineStart),
    /// Inside the object.
    Object(ObjectReader),
}

impl UsageTap {
    /// The longest usage object read, in bytes. A longer one is passed over.
    pub const OBJECT_BYTES_MAX: u16 = 2048;

    /// A tap for one response.
    pub const fn new() -> Self {
        Self {
            state: State::Searching(KeyMatch::START),
            found: None,
        }
    }

    /// What the body has reported so far, if anything.
    pub const fn usage(&self) -> Option<Usage> {
        self.found
    }

    /// Looks at the next slice of the body.
    #[inline]
    pub fn feed(&mut self, slice: &[u8]) {
        let mut rest = slice;
        while !rest.is_empty() {
            rest = match &mut self.state {
                State::Searching(key) => match key.search(rest) {
                    Some(tail) => match object::read_plain(tail) {
                        Some((counts, behind)) => {
                            self.found.get_or_insert_default().merge(&counts);
                            behind
                        }
                        None => {
                            self.state = State::Key(LineStart::default());
                            tail
                        }
                    },
                    None => return,
                },
                _ => self.read(rest),
            };
        }
    }

    /// Reads on behind a key. Gives the unread rest once the state has changed.
    fn read<'s>(&mut self, slice: &'s [u8]) -> &'s [u8] {
        let mut rest = slice;
        while let [byte, tail @ ..] = rest {
            let next = match &mut self.state {
                State::Searching(_) => return rest,
                State::Key(line) => match byte {
                    _ if line.skips(*byte) => None,
                    b':' => Some(State::Colon(LineStart::default())),
                    _ => return self.search_again(rest),
                },
                State::Colon(line) => match byte {
                    _ if line.skips(*byte) => None,
                    b'{' => Some(State::Object(ObjectReader::default())),
                    _ => return self.search_again(rest),
                },
                State::Object(object) => match object.read(*byte) {
                    Progress::More => None,
                    Progress::Complete(counts) => {
                        self.found.get_or_insert_default().merge(&counts);
                        return self.search_again(tail);
                    }
                    Progress::Invalid => return self.search_again(rest),
                },
            };
            if let Some(next) = next {
                self.state = next;
            }
            rest = tail;
        }
        rest
    }

    fn search_again<'s>(&mut self, rest: &'s [u8]) -> &'s [u8] {
        self.state = State::Searching(KeyMatch::START);
        rest
    }
}

impl Default for UsageTap {
    fn default() -> Self {
        Self::new()
    }
}

/// How much of the key has been seen at the end of the last slice.
///
/// Within a JSON string every quote stands behind a backslash, so [`KEY`] not preceded by one can
/// only be a token of its own, never text that a model wrote.
#[derive(Clone, Copy, Debug)]
struct KeyMatch {
    /// Bytes of the key matched so far, less than its length.
    matched: u8,
    /// Whether the last byte was a backslash.
    escaped: bool,
}

const KEY: &[u8; 7] = b"\"usage\"";

static KEY_FINDER: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(KEY));

impl KeyMatch {
    const START: Self = Self {
        matched: 0,
        escaped: false,
    };

    /// Gives what follows the key if the key ends in this slice.
    fn search<'s>(&mut self, slice: &'s [u8]) -> Option<&'s [u8]> {
        let mut rest = slice;
        // First what spans the border to the last slice.
        while self.matched > 0 || self.escaped {
            let [byte, tail @ ..] = rest else { return None };
            rest = tail;
            if self.step(*byte) {
                return Some(rest);
            }
        }
        loop {
            let Some(start) = KEY_FINDER.find(rest) else {
                self.note_end(rest);
                return None;
            };
            let tail = rest
                .get(start.saturating_add(KEY.len())..)
                .unwrap_or_default();
            let escaped = start > 0 && rest.get(start.wrapping_sub(1)) == Some(&b'\\');
            if !escaped {
                *self = Self::START;
                return Some(tail);
            }
            // The quote that ends the match may open the next one.
            rest = rest
                .get(start.saturating_add(KEY.len()).wrapping_sub(1)..)
                .unwrap_or_default();
        }
    }

    /// Notes a key that may have begun at the very end of a slice without a whole one.
    fn note_end(&mut self, slice: &[u8]) {
        let window_start = slice.len().saturating_sub(KEY.len());
        for &byte in slice.get(window_start..).unwrap_or_default() {
            self.step(byte);
        }
    }

    /// Moves on by one byte. True when it completes the key.
    fn step(&mut self, byte: u8) -> bool {
        let expected = KEY.get(usize::from(self.matched)).copied();
        if self.matched > 0 && expected == Some(byte) {
            self.matched = self.matched.saturating_add(1);
            self.escaped = false;
            if usize::from(self.matched) == KEY.len() {
                *self = Self::START;
                return true;
            }
            return false;
        }
        self.matched = u8::from(byte == b'"' && !self.escaped);
        self.escaped = byte == b'\\';
        false
    }
}

/// Skips what may stand between two tokens: white space and, where an event stream has split its
/// data over several lines, the `data:` that begins each of them.
#[derive(Clone, Copy, Debug, Default)]
struct LineStart {
    /// Bytes of [`LINE_PREFIX`] seen since the line end, plus one; 0 elsewhere.
    seen: u8,
}

const LINE_PREFIX: &[u8; 5] = b"data:";

impl LineStart {
    #[inline]
    fn skips(&mut self, byte: u8) -> bool {
        if byte == b'\n' || byte == b'\r' {
            self.seen = 1;
            return true;
        }
        if self.seen > 0 && LINE_PREFIX.get(usize::from(self.seen).wrapping_sub(1)) == Some(&byte) {
            self.seen = self.seen.saturating_add(1);
            return true;
        }
        self.seen = 0;
        byte == b' ' || byte == b'\t'
    }
}

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a test fails"
)]
mod tests;
