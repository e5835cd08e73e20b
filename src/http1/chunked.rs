//! Chunked framing (RFC 9112 section 7.1): a decoder that copies nothing, and a size-line writer.
//!
//! Owns the chunk grammar and its bounds. It must never hold body bytes: it says which ranges of
//! the caller's buffer are payload, framing worth passing on, or noise to drop.

use std::ops::Range;

use super::grammar::{TOKEN, hex_value, is_field_value_byte};
use super::verdict::ChunkError;

/// Takes a chunked body apart as its bytes arrive, whatever their split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkedDecoder {
    /// The chunk size while its digits are read, then the data bytes still to come.
    remaining: u64,
    state: State,
    /// Bytes of the current size line, without its CRLF.
    size_line_bytes: u16,
    /// Bytes of all chunk extensions of this body.
    extension_bytes: u16,
    /// Bytes of the trailer section, line ends included.
    trailer_bytes: u16,
    trailer_count: u8,
}

/// A run of bytes at the beginning of the input that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Length of the run; zero only if the input is empty or the body has ended before.
    pub len: usize,
    /// What the run is.
    pub kind: PieceKind,
}

/// What a run of a chunked body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    /// Size digits and line ends: passing them on raw, with the data, keeps the body well-formed.
    Framing,
    /// Payload.
    Data,
    /// Chunk extensions and trailer fields: never passed on.
    Skip,
    /// Framing that includes the last byte of the body; what follows is not part of it.
    End,
}

/// What the receiver of a relayed body gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// Payload in its chunked framing.
    Chunks,
    /// Payload only.
    Data,
}

/// One range to pass on, see [`ChunkedDecoder::forward_range`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The part of the input to pass on; may be empty.
    pub forward: Range<usize>,
    /// Bytes of the input dealt with, at least `forward.end`.
    pub consumed: usize,
    /// The body has ended at `consumed`.
    pub finished: bool,
}

/// The next byte is …
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// … the first digit of a size,
    Size,
    /// … another digit, an extension, or CR,
    SizeDigits,
    /// … whitespace or the `;` of an extension, but no line end,
    BeforeExtension,
    /// … whitespace or the first byte of an extension name,
    ExtensionNameStart,
    /// … within an extension name,
    ExtensionName,
    /// … whitespace, `=` or `;`, but no line end,
    AfterExtensionName,
    /// … whitespace or the first byte of an extension value,
    ExtensionValueStart,
    /// … within an unquoted extension value,
    ExtensionToken,
    /// … within a quoted extension value,
    ExtensionQuoted,
    /// … the escaped byte in a quoted extension value,
    ExtensionQuotedPair,
    /// … what may follow a closing quote,
    AfterExtensionQuoted,
    /// … the LF of a size line,
    SizeLf,
    /// … payload,
    Data,
    /// … the CR behind the payload,
    DataCr,
    /// … the LF behind the payload,
    DataLf,
    /// … the first byte of a trailer field or the CR of the final line,
    TrailerStart,
    /// … within a trailer name,
    TrailerName,
    /// … whitespace or the first byte of a trailer value,
    TrailerValueStart,
    /// … in a first word of the value that could be a method,
    TrailerFirstWord,
    /// … behind such a word and a space,
    TrailerSecondWord,
    /// … within a trailer value,
    TrailerValue,
    /// … the LF of a trailer field,
    TrailerLf,
    /// … the LF of the final line,
    EndLf,
    /// … not part of this body.
    Done,
}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkedDecoder {
    /// A decoder at the first byte of a chunked body.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            remaining: 0,
            state: State::Size,
            size_line_bytes: 0,
            extension_bytes: 0,
            trailer_bytes: 0,
            trailer_count: 0,
        }
    }

    /// Whether the last byte of the body has been seen.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.state == State::Done
    }

    /// The next range of `input` to pass on, as long as it can be: adjacent chunks are one range
    /// when `passing` is [`Passing::Chunks`].
    ///
    /// Call again with `&input[step.consumed..]` until all is consumed or `finished` is set.
    ///
    /// # Errors
    ///
    /// [`ChunkError`] when the next byte is not allowed. What precedes it was passed on by earlier
    /// calls, so the bytes passed on do not depend on how the input was split.
    pub fn forward_range(&mut self, input: &[u8], passing: Passing) -> Result<Step, ChunkError> {
        let mut step = Step {
            forward: 0..0,
            consumed: 0,
            finished: false,
        };
        while let Some(rest @ [_, ..]) = input.get(step.consumed..) {
            let piece = match self.decode(rest) {
                Ok(piece) => piece,
                Err(_) if step.consumed > 0 => break,
                Err(error) => return Err(error),
            };
            let piece_start = step.consumed;
            step.consumed = step.consumed.saturating_add(piece.len);
            step.finished = piece.kind == PieceKind::End;
            let passes = match piece.kind {
                PieceKind::Data => true,
                PieceKind::Framing | PieceKind::End => passing == Passing::Chunks,
                PieceKind::Skip => false,
            };
            if passes && step.forward.is_empty() {
                step.forward = piece_start..step.consumed;
            } else if passes {
                step.forward.end = step.consumed;
            } else if !step.forward.is_empty() {
                break;
            }
            if step.finished {
                break;
            }
        }
        Ok(step)
    }

    /// The longest run of one kind at the beginning of `input`.
    ///
    /// # Errors
    ///
    /// [`ChunkError`] when the first byte of `input` is not allowed; the decoder stays as it was.
    #[inline]
    pub fn decode(&mut self, input: &[u8]) -> Result<Piece, ChunkError> {
        match self.state {
            State::Data => Ok(self.take_data(input)),
            State::Done => Ok(Piece {
                len: 0,
                kind: PieceKind::End,
            }),
            _ => self.take_framing(input),
        }
    }

    fn take_data(&mut self, input: &[u8]) -> Piece {
        let len = usize::try_from(self.remaining).map_or(input.len(), |left| left.min(input.len()));
        self.remaining = self.remaining.saturating_sub(len as u64);
        if self.remaining == 0 {
            self.state = State::DataCr;
        }
        Piece {
            len,
            kind: PieceKind::Data,
        }
    }

    fn take_framing(&mut self, input: &[u8]) -> Result<Piece, ChunkError> {
        let mut run = Piece {
            len: 0,
            kind: PieceKind::Skip,
        };
        for &byte in input {
            let mut next = *self;
            let kind = match next.advance(byte) {
                Ok(kind) => kind,
                Err(_) if run.len > 0 => break,
                Err(error) => return Err(error),
            };
            let extends =
                run.kind == kind || (run.kind == PieceKind::Framing && kind == PieceKind::End);
            if run.len > 0 && !extends {
                break;
            }
            *self = next;
            run = Piece {
                len: run.len.saturating_add(1),
                kind,
            };
            if matches!(self.state, State::Data | State::Done) {
                break;
            }
        }
        Ok(run)
    }

    /// Moves over one byte that is not payload.
    #[inline]
    fn advance(&mut self, byte: u8) -> Result<PieceKind, ChunkError> {
        let next = match self.state {
            State::Size => self.size_digit(byte)?,
            State::SizeDigits => self.after_size_digit(byte)?,
            State::SizeLf if byte == b'\n' => self.chunk_begins(),
            State::DataCr if byte == b'\r' => State::DataLf,
            State::DataLf if byte == b'\n' => State::Size,
            State::DataCr | State::DataLf => return Err(DATA_END),
            State::EndLf if byte == b'\n' => State::Done,
            State::SizeLf | State::EndLf | State::TrailerLf if byte != b'\n' => {
                return Err(LINE_END);
            }
            State::TrailerStart if byte == b'\r' => State::EndLf,
            State::TrailerStart
            | State::TrailerName
            | State::TrailerValueStart
            | State::TrailerFirstWord
            | State::TrailerSecondWord
            | State::TrailerValue
            | State::TrailerLf => {
                self.state = self.trailer_byte(byte)?;
                return Ok(PieceKind::Skip);
            }
            _ => self.extension_byte(byte)?,
        };
        self.state = next;
        Ok(match next {
            State::Done => PieceKind::End,
            State::BeforeExtension
            | State::ExtensionNameStart
            | State::ExtensionName
            | State::AfterExtensionName
            | State::ExtensionValueStart
            | State::ExtensionToken
            | State::ExtensionQuoted
            | State::ExtensionQuotedPair
            | State::AfterExtensionQuoted => self.count_extension_byte()?,
            _ => PieceKind::Framing,
        })
    }

    fn size_digit(&mut self, byte: u8) -> Result<State, ChunkError> {
        let digit = hex_value(byte).ok_or(SIZE)?;
        // The top digit must be free: 16 significant digits fit, one more does not.
        if self.remaining >> 60 != 0 {
            return Err(SIZE_OVERFLOW);
        }
        self.remaining = (self.remaining << 4) | digit;
        self.count_size_line_byte()?;
        Ok(State::SizeDigits)
    }

    fn after_size_digit(&mut self, byte: u8) -> Result<State, ChunkError> {
        match byte {
            b'\r' => Ok(State::SizeLf),
            b';' => Ok(State::ExtensionNameStart),
            b' ' | b'\t' => Ok(State::BeforeExtension),
            _ => self.size_digit(byte),
        }
    }

    fn chunk_begins(&mut self) -> State {
        self.size_line_bytes = 0;
        if self.remaining == 0 {
            State::TrailerStart
        } else {
            State::Data
        }
    }

    /// `*( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )`, the state it leads to.
    fn extension_byte(&self, byte: u8) -> Result<State, ChunkError> {
        let is_token = TOKEN.contains(byte);
        match (self.state, byte) {
            (State::BeforeExtension | State::ExtensionNameStart, b' ' | b'\t')
            | (State::AfterExtensionName | State::ExtensionValueStart, b' ' | b'\t') => {
                Ok(self.state)
            }
            (State::ExtensionName, b' ' | b'\t') => Ok(State::AfterExtensionName),
            (State::ExtensionToken | State::AfterExtensionQuoted, b' ' | b'\t') => {
                Ok(State::BeforeExtension)
            }
            (
                State::BeforeExtension
                | State::ExtensionName
                | State::AfterExtensionName
                | State::ExtensionToken
                | State::AfterExtensionQuoted,
                b';',
            ) => Ok(State::ExtensionNameStart),
            (State::ExtensionName | State::AfterExtensionName, b'=') => {
                Ok(State::ExtensionValueStart)
            }
            (State::ExtensionName | State::ExtensionToken | State::AfterExtensionQuoted, b'\r') => {
                Ok(State::SizeLf)
            }
            (State::ExtensionNameStart | State::ExtensionName, _) if is_token => {
                Ok(State::ExtensionName)
            }
            (State::ExtensionValueStart, b'"') => Ok(State::ExtensionQuoted),
            (State::ExtensionValueStart | State::ExtensionToken, _) if is_token => {
                Ok(State::ExtensionToken)
            }
            (State::ExtensionQuoted, b'"') => Ok(State::AfterExtensionQuoted),
            (State::ExtensionQuoted, b'\\') => Ok(State::ExtensionQuotedPair),
            (State::ExtensionQuoted | State::ExtensionQuotedPair, _)
                if is_field_value_byte(byte) =>
            {
                Ok(State::ExtensionQuoted)
            }
            _ => Err(EXTENSION),
        }
    }

    /// A byte of the trailer section, the state it leads to.
    fn trailer_byte(&mut self, byte: u8) -> Result<State, ChunkError> {
        self.trailer_bytes = self.trailer_bytes.saturating_add(1);
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(TRAILERS_TOO_LARGE);
        }
        match (self.state, byte) {
            (State::TrailerLf, _) => Ok(State::TrailerStart),
            (State::TrailerStart, _) if TOKEN.contains(byte) => {
                self.trailer_count = self.trailer_count.saturating_add(1);
                if self.trailer_count > TRAILER_COUNT_MAX {
                    return Err(TRAILERS_TOO_MANY);
                }
                Ok(State::TrailerName)
            }
            (State::TrailerName, b':') => Ok(State::TrailerValueStart),
            (State::TrailerName, _) if TOKEN.contains(byte) => Ok(State::TrailerName),
            (State::TrailerStart | State::TrailerName, _) => Err(TRAILER),
            (_, b'\r') => Ok(State::TrailerLf),
            // A parser that skips two bytes where the final CRLF belongs sees a request in
            // `X:POST /admin`; no honest trailer looks like that.
            (State::TrailerSecondWord, b'/') => Err(TRAILER_REQUEST),
            (State::TrailerValueStart, b' ' | b'\t') => Ok(State::TrailerValueStart),
            (State::TrailerValueStart | State::TrailerFirstWord, b'A'..=b'Z') => {
                Ok(State::TrailerFirstWord)
            }
            (State::TrailerFirstWord, b' ') => Ok(State::TrailerSecondWord),
            _ if is_field_value_byte(byte) => Ok(State::TrailerValue),
            _ => Err(TRAILER),
        }
    }

    fn count_size_line_byte(&mut self) -> Result<(), ChunkError> {
        self.size_line_bytes = self.size_line_bytes.saturating_add(1);
        if self.size_line_bytes > SIZE_LINE_BYTES_MAX {
            return Err(SIZE_LINE_TOO_LONG);
        }
        Ok(())
    }

    fn count_extension_byte(&mut self) -> Result<PieceKind, ChunkError> {
        self.count_size_line_byte()?;
        self.extension_bytes = self.extension_bytes.saturating_add(1);
        if self.extension_bytes > EXTENSION_BYTES_MAX {
            return Err(EXTENSIONS_TOO_LARGE);
        }
        Ok(PieceKind::Skip)
    }
}

/// Writes the size line of a chunk of `len` bytes, such as `1F\r\n`, to the end of `out` and returns
/// it: the bytes to place directly before the data. Follow the data with [`CHUNK_END`].
///
/// `len` must not be zero: that is the end of the body, [`LAST_CHUNK`].
pub fn chunk_size_line(len: usize, out: &mut [u8; CHUNK_SIZE_LINE_BYTES_MAX]) -> &[u8] {
    debug_assert!(len > 0, "an empty chunk would end the body");
    let [digits @ .., cr, lf] = out;
    (*cr, *lf) = (b'\r', b'\n');
    let mut rest = len;
    let mut digit_count = 0_usize;
    for slot in digits.iter_mut().rev() {
        let [low_byte, ..] = rest.to_le_bytes();
        *slot = match low_byte & 0x0f {
            low @ 0..=9 => b'0' | low,
            // 'A' is ten.
            high => (b'A' - 10).wrapping_add(high),
        };
        digit_count = digit_count.saturating_add(1);
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    let start = CHUNK_SIZE_LINE_BYTES_MAX
        .saturating_sub(2)
        .saturating_sub(digit_count);
    out.get(start..).unwrap_or_default()
}

/// The end of every chunk that has data.
pub const CHUNK_END: &[u8; 2] = b"\r\n";

/// The end of a chunked body: the last chunk and an empty trailer section.
pub const LAST_CHUNK: &[u8; 5] = b"0\r\n\r\n";

/// Sixteen digits and CRLF.
pub const CHUNK_SIZE_LINE_BYTES_MAX: usize = 18;

const SIZE_LINE_BYTES_MAX: u16 = 256;
const EXTENSION_BYTES_MAX: u16 = 4 * 1024;
const TRAILER_BYTES_MAX: u16 = 8 * 1024;
const TRAILER_COUNT_MAX: u8 = 32;

const SIZE: ChunkError = ChunkError {
    reason: "A chunk size is invalid",
};
const SIZE_OVERFLOW: ChunkError = ChunkError {
    reason: "A chunk size is out of range",
};
const SIZE_LINE_TOO_LONG: ChunkError = ChunkError {
    reason: "A chunk size line is too long",
};
const LINE_END: ChunkError = ChunkError {
    reason: "A chunk line does not end in CRLF",
};
const DATA_END: ChunkError = ChunkError {
    reason: "The data of a chunk is not followed by CRLF",
};
const EXTENSION: ChunkError = ChunkError {
    reason: "A chunk extension is invalid",
};
const EXTENSIONS_TOO_LARGE: ChunkError = ChunkError {
    reason: "The chunk extensions are too large",
};
const TRAILER: ChunkError = ChunkError {
    reason: "A trailer field is invalid",
};
const TRAILER_REQUEST: ChunkError = ChunkError {
    reason: "A trailer field looks like a request",
};
const TRAILERS_TOO_LARGE: ChunkError = ChunkError {
    reason: "The trailer section is too large",
};
const TRAILERS_TOO_MANY: ChunkError = ChunkError {
    reason: "There are too many trailer fields",
};
