//! Server-sent events (WHATWG HTML, section 9.2): an incremental reader and the writers.
//!
//! The data plane relays streams without looking; this is for what produces or checks them: the
//! mock node, tests, benches and the dashboard feed. The reader must never hold more than the
//! limit it was given.
#![warn(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::string_slice
)]

mod write;

pub use write::{DONE, write_comment, write_data, write_event};

/// One dispatched event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'e> {
    /// The `event` field; empty means `message`.
    pub name: &'e [u8],
    /// The `data` lines joined with LF.
    pub data: &'e [u8],
    /// The last `id` seen in the stream so far, empty if none.
    pub last_id: &'e [u8],
}

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SseError {
    /// One event is larger than the scanner's limit.
    EventTooLarge,
}

impl std::fmt::Display for SseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::EventTooLarge => f.write_str("an event is larger than the limit"),
        }
    }
}

impl std::error::Error for SseError {}

/// Splits a byte stream, fed in slices of any size, into events.
///
/// Lines end with CRLF, LF or CR; comments are skipped; a byte-order mark at the start is skipped;
/// an event without data is not dispatched; what follows the last empty line is not an event.
#[derive(Clone, Debug)]
pub struct EventScanner {
    event_bytes_max: usize,
    /// The current line as far as it has arrived.
    line: Vec<u8>,
    name: Vec<u8>,
    data: Vec<u8>,
    last_id: Vec<u8>,
    /// Whether a `data` field was seen since the last dispatch.
    has_data: bool,
    /// Whether the last line ended with CR, so that an LF right behind belongs to it.
    after_cr: bool,
    /// Whether the first line is still to come, which may begin with a byte-order mark.
    at_start: bool,
    failed: bool,
    event_count: u64,
    retry_ms: Option<u64>,
}

impl EventScanner {
    /// A scanner that holds at most `event_bytes_max` bytes of each kind: of a line, of the data of
    /// an event.
    pub const fn new(event_bytes_max: usize) -> Self {
        Self {
            event_bytes_max,
            line: Vec::new(),
            name: Vec::new(),
            data: Vec::new(),
            last_id: Vec::new(),
            has_data: false,
            after_cr: false,
            at_start: true,
            failed: false,
            event_count: 0,
            retry_ms: None,
        }
    }

    /// Reads the next slice of the stream and hands each event that ends in it to `on_event`.
    ///
    /// # Errors
    /// [`SseError::EventTooLarge`] once a line or an event's data passes the limit, and from then on.
    pub fn feed(
        &mut self,
        slice: &[u8],
        mut on_event: impl FnMut(Event<'_>),
    ) -> Result<(), SseError> {
        let mut rest = slice;
        while !self.failed {
            if self.after_cr {
                match rest {
                    [] => return Ok(()),
                    [b'\n', tail @ ..] => rest = tail,
                    _ => {}
                }
                self.after_cr = false;
            }
            let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            let (part, tail) = rest.split_at(end);
            let Some((line_end, tail)) = tail.split_first() else {
                self.hold(part);
                break;
            };
            self.after_cr = *line_end == b'\r';
            rest = tail;
            self.end_line(part, &mut on_event);
        }
        if self.failed {
            Err(SseError::EventTooLarge)
        } else {
            Ok(())
        }
    }

    /// How many events have been dispatched.
    pub const fn event_count(&self) -> u64 {
        self.event_count
    }

    /// The last valid `retry` value, in milliseconds.
    pub const fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// Whether the stream could end here without losing a begun event.
    pub const fn is_between_events(&self) -> bool {
        self.line.is_empty() && self.name.is_empty() && !self.has_data && !self.failed
    }

    /// Adds to the current line.
    fn hold(&mut self, part: &[u8]) {
        if self.line.len().saturating_add(part.len()) > self.event_bytes_max {
            self.failed = true;
        } else {
            self.line.extend_from_slice(part);
        }
    }

    /// Reads the line that ends with `part`.
    fn end_line(&mut self, part: &[u8], on_event: &mut impl FnMut(Event<'_>)) {
        if self.line.is_empty() && part.len() <= self.event_bytes_max {
            self.read_line(part, on_event);
            return;
        }
        self.hold(part);
        if self.failed {
            return;
        }
        let mut line = std::mem::take(&mut self.line);
        self.read_line(&line, on_event);
        // Keep the allocation for the next line.
        line.clear();
        self.line = line;
    }

    fn read_line(&mut self, line: &[u8], on_event: &mut impl FnMut(Event<'_>)) {
        let text = match line.strip_prefix(BYTE_ORDER_MARK) {
            Some(text) if self.at_start => text,
            _ => line,
        };
        self.at_start = false;
        if text.is_empty() {
            self.dispatch(on_event);
        } else {
            self.read_field(text);
        }
    }

    fn read_field(&mut self, line: &[u8]) {
        let (field, value) = match memchr::memchr(b':', line) {
            Some(colon) => {
                let (field, value) = line.split_at(colon);
                let value = value.strip_prefix(b":").unwrap_or(value);
                (field, value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &[][..]),
        };
        match field {
            b"data" => self.add_data(value),
            b"event" => replace(&mut self.name, value),
            b"id" if !value.contains(&0) => replace(&mut self.last_id, value),
            b"retry" => self.retry_ms = decimal(value).or(self.retry_ms),
            // A comment has an empty field name; unknown fields are ignored.
            _ => {}
        }
    }

    fn add_data(&mut self, value: &[u8]) {
        let length = self
            .data
            .len()
            .saturating_add(value.len())
            .saturating_add(1);
        if length > self.event_bytes_max {
            self.failed = true;
            return;
        }
        self.has_data = true;
        self.data.extend_from_slice(value);
        self.data.push(b'\n');
    }

    fn dispatch(&mut self, on_event: &mut impl FnMut(Event<'_>)) {
        if self.has_data {
            self.event_count = self.event_count.saturating_add(1);
            on_event(Event {
                name: &self.name,
                data: self.data.strip_suffix(b"\n").unwrap_or(&self.data),
                last_id: &self.last_id,
            });
        }
        self.has_data = false;
        self.data.clear();
        self.name.clear();
    }
}

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

fn replace(target: &mut Vec<u8>, value: &[u8]) {
    target.clear();
    target.extend_from_slice(value);
}

/// Reads ASCII digits and nothing else.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, &byte| {
        let digit = char::from(byte).to_digit(10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a test fails"
)]
mod tests;
