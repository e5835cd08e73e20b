//! Judges a head line by line as its bytes arrive, and remembers how far it got.
//!
//! Owns the limits of a head and every verdict about its lines. It must never look at what a field
//! means; that takes the whole head and happens in `request` and `response`.
//!
//! Why verdicts cannot depend on how the bytes were split: each check looks only at a prefix of the
//! head, its outcome cannot change when more bytes follow, and checks run in the order of the byte
//! that decides them. So the first verdict is a property of the bytes alone.

use super::grammar::{TOKEN, is_field_value_byte};
use super::verdict::{self, Reject};

/// Bounds on one head (reliability: resource limits). All inclusive.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of a request target; one more is 414.
    pub target_bytes_max: usize,
    /// Bytes of a method; one more is 501.
    pub method_bytes_max: usize,
    /// Bytes of one field line (or a status line) without its CRLF; one more is 431.
    pub field_bytes_max: usize,
    /// Bytes of the whole head with its empty line; one more is 431.
    pub head_bytes_max: usize,
    /// Fields in one head, at most [`HeadLimits::FIELD_COUNT_CAPACITY`]; one more is 431.
    pub field_count_max: usize,
}

/// How far the lines of an unfinished head were checked, so that each byte is searched once however
/// the head is split. Start every head with a fresh one; a completed parse resets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadScan {
    /// Where the line that is not complete yet begins.
    line_start: usize,
    /// Bytes already searched for a line end.
    searched: usize,
    field_count: usize,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Nothing but (for requests) an empty line may precede the start line.
    #[default]
    Start,
    /// The one tolerated empty line was seen (RFC 9112 section 2.2).
    StartAfterEmptyLine,
    Fields,
}

/// What differs between the two roles: the grammar of the start line.
pub(super) struct StartLine {
    /// Whether one empty line may come first.
    pub(super) empty_line_allowed: bool,
    /// Judges a start line of which at least `raw` has arrived (CR included, LF not); verdicts
    /// here must hold for every continuation of `raw`.
    pub(super) check_prefix: fn(raw: &[u8], limits: &HeadLimits) -> Result<(), Reject>,
    /// Judges the complete start line without its CRLF.
    pub(super) check: fn(line: &[u8]) -> Result<(), Reject>,
}

impl HeadLimits {
    /// The largest usable `field_count_max`.
    pub const FIELD_COUNT_CAPACITY: usize = 100;

    /// 8 KiB target and field, 32 KiB head, 100 fields, 16-byte method.
    pub const DEFAULT: Self = Self {
        target_bytes_max: 8 * 1024,
        method_bytes_max: 16,
        field_bytes_max: 8 * 1024,
        head_bytes_max: 32 * 1024,
        field_count_max: Self::FIELD_COUNT_CAPACITY,
    };

    /// Bytes of a request line with the longest method and target: two spaces and `HTTP/1.1`.
    pub(super) const fn request_line_bytes_max(&self) -> usize {
        self.method_bytes_max
            .saturating_add(self.target_bytes_max)
            .saturating_add(10)
    }
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl HeadScan {
    /// A scan at the first byte of a head.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            line_start: 0,
            searched: 0,
            field_count: 0,
            stage: Stage::Start,
        }
    }

    /// Whether no byte has been looked at.
    #[must_use]
    pub const fn is_fresh(&self) -> bool {
        self.searched == 0
    }

    /// Checks what arrived since the last call; `Some` is the length of the completed head.
    pub(super) fn advance(
        &mut self,
        bytes: &[u8],
        limits: &HeadLimits,
        start_line: &StartLine,
    ) -> Result<Option<usize>, Reject> {
        let head = bytes.get(..limits.head_bytes_max).unwrap_or(bytes);
        while let Some(found) = head
            .get(self.searched..)
            .and_then(|unsearched| memchr::memchr(b'\n', unsearched))
        {
            let line_end = self.searched.saturating_add(found);
            let raw = head.get(self.line_start..line_end).unwrap_or_default();
            let ended = self.finish_line(raw, limits, start_line)?;
            self.line_start = line_end.saturating_add(1);
            self.searched = self.line_start;
            if ended {
                return Ok(Some(self.line_start));
            }
        }
        self.searched = head.len();
        let tail = head.get(self.line_start..).unwrap_or_default();
        self.check_prefix(tail, limits, start_line)?;
        if head.len() == limits.head_bytes_max {
            return Err(verdict::HEAD_TOO_LARGE);
        }
        Ok(None)
    }

    /// Judges a line up to its LF; true for the empty line that ends the head.
    fn finish_line(
        &mut self,
        raw: &[u8],
        limits: &HeadLimits,
        start_line: &StartLine,
    ) -> Result<bool, Reject> {
        self.check_prefix(raw, limits, start_line)?;
        let line = raw.strip_suffix(b"\r");
        match self.stage {
            Stage::Start if raw == b"\r" && start_line.empty_line_allowed => {
                self.stage = Stage::StartAfterEmptyLine;
            }
            Stage::StartAfterEmptyLine if raw == b"\r" => return Err(verdict::EMPTY_LINES),
            Stage::Start | Stage::StartAfterEmptyLine => {
                (start_line.check)(line.ok_or(verdict::BARE_LF)?)?;
                self.stage = Stage::Fields;
            }
            Stage::Fields if raw == b"\r" => return Ok(true),
            Stage::Fields => {
                self.field_count = self.field_count.saturating_add(1);
                if self.field_count > limits.field_count_max {
                    return Err(verdict::TOO_MANY_FIELDS);
                }
                check_field_line(line.ok_or(verdict::BARE_LF)?)?;
            }
        }
        Ok(false)
    }

    /// Gives the verdicts that hold whatever follows `raw`, the line so far.
    fn check_prefix(
        &self,
        raw: &[u8],
        limits: &HeadLimits,
        start_line: &StartLine,
    ) -> Result<(), Reject> {
        match self.stage {
            // Perhaps the tolerated empty line, perhaps half of the second one.
            Stage::Start | Stage::StartAfterEmptyLine if raw == b"\r" => Ok(()),
            Stage::Start | Stage::StartAfterEmptyLine => (start_line.check_prefix)(raw, limits),
            Stage::Fields if line_bytes_min(raw) > limits.field_bytes_max => {
                Err(verdict::FIELD_TOO_LARGE)
            }
            Stage::Fields => Ok(()),
        }
    }
}

/// The least length the line can have, not counting a CR that may belong to its end.
pub(super) fn line_bytes_min(raw: &[u8]) -> usize {
    raw.strip_suffix(b"\r").unwrap_or(raw).len()
}

/// `field-name ":" OWS field-value OWS` (RFC 9112 section 5), without the CRLF.
fn check_field_line(line: &[u8]) -> Result<(), Reject> {
    if let [b' ' | b'\t', ..] = line {
        return Err(verdict::LINE_FOLDING);
    }
    let colon = memchr::memchr(b':', line).ok_or(verdict::NO_COLON)?;
    let (name, value) = line.split_at_checked(colon).ok_or(verdict::NO_COLON)?;
    if let [.., b' ' | b'\t'] = name {
        return Err(verdict::SPACE_BEFORE_COLON);
    }
    if name.is_empty() || !TOKEN.contains_all(name) {
        return Err(verdict::FIELD_NAME);
    }
    if !value.iter().all(|&byte| is_field_value_byte(byte)) {
        return Err(verdict::FIELD_VALUE);
    }
    Ok(())
}

/// One field of a whole head, tokenised.
#[derive(Clone, Copy)]
pub(super) struct FieldLine<'a> {
    pub(super) name: &'a [u8],
    /// Without whitespace around it.
    pub(super) value: &'a [u8],
    /// The line as received, with its CRLF.
    pub(super) raw: &'a [u8],
}

/// The lines of a whole head that `httparse` accepted, held against what it is too lenient about: a
/// line not ended by CRLF, or a line beyond its limit.
pub(super) struct StrictLines<'h, 'a> {
    head: &'a [u8],
    headers: &'h [httparse::Header<'a>],
    field_bytes_max: usize,
}

impl<'h, 'a> StrictLines<'h, 'a> {
    pub(super) const fn new(
        head: &'a [u8],
        headers: &'h [httparse::Header<'a>],
        limits: &HeadLimits,
    ) -> Self {
        Self {
            head,
            headers,
            field_bytes_max: limits.field_bytes_max,
        }
    }

    /// The start line without its CRLF, and all field lines as one block; `None` where a line end is
    /// not what it has to be.
    pub(super) fn split(&self) -> Option<(&'a [u8], &'a [u8])> {
        let start_line_bytes = self.line_start(0);
        let (start_line, rest) = self.head.split_at_checked(start_line_bytes)?;
        Some((
            start_line.strip_suffix(b"\r\n")?,
            rest.strip_suffix(b"\r\n")?,
        ))
    }

    /// The fields in order, each `None` if its line is one that the line scan would refuse.
    #[inline]
    pub(super) fn fields(&self) -> impl Iterator<Item = Option<FieldLine<'a>>> {
        let mut start = self.line_start(0);
        self.headers.iter().enumerate().map(move |(index, header)| {
            let end = self.line_start(index.saturating_add(1));
            let raw = self.head.get(start..end)?;
            start = end;
            // `httparse` refuses a CR without LF but takes a LF without CR.
            let is_strict = raw.ends_with(b"\r\n")
                && raw.len() <= self.field_bytes_max.saturating_add(LINE_END_BYTES);
            is_strict.then_some(FieldLine {
                name: header.name.as_bytes(),
                value: header.value,
                raw,
            })
        })
    }

    /// Where the field of this index begins, or the empty line behind the last one: `httparse` lets
    /// nothing stand between a line end and the name that follows.
    #[inline]
    fn line_start(&self, index: usize) -> usize {
        match self.headers.get(index) {
            Some(header) => {
                let head_at = self.head.as_ptr().addr();
                header.name.as_ptr().addr().wrapping_sub(head_at)
            }
            None => self.head.len().saturating_sub(LINE_END_BYTES),
        }
    }
}

const LINE_END_BYTES: usize = 2;
