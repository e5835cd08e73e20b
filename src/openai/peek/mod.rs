//! Reads the top-level `model` and `stream` of a JSON request body and validates all of it.
//!
//! Must never build a document, change or copy the body, or take a body for valid that a node's
//! parser could read differently: everything RFC 8259 does not allow is refused.
#![warn(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::string_slice
)]

mod string;
mod value;

use std::borrow::Cow;
use std::ops::Range;

use value::{Scanner, SyntaxError};

/// What a request body says about where it is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peek<'b> {
    /// The model name, unescaped: 1 to [`MODEL_BYTES_MAX`] bytes.
    pub model: Cow<'b, str>,
    /// Where the name stands in the body: in JSON the string token with its quotes, in multipart
    /// the value of the form field.
    pub model_range: Range<usize>,
    /// Whether the client asked for a stream; absent and `null` mean no.
    pub stream: bool,
}

/// The longest model name accepted, in bytes after unescaping.
pub const MODEL_BYTES_MAX: usize = 256;

/// The deepest nesting accepted; the request object itself is level 1.
pub const DEPTH_MAX: u32 = 64;

const _: () = assert!(MODEL_BYTES_MAX == 256, "an error message spells it");
const _: () = assert!(DEPTH_MAX <= u64::BITS, "each level takes one bit");

/// Why a request body cannot be routed. Each is a 400 of type `invalid_request_error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeekError {
    /// Not one JSON object by RFC 8259, not UTF-8, or nested deeper than [`DEPTH_MAX`].
    InvalidJson {
        /// What is wrong.
        reason: &'static str,
        /// Offset of the offending token in the body, in bytes.
        at: usize,
    },
    /// Not `multipart/form-data` by RFC 7578, or beyond the limits of the multipart reader.
    InvalidMultipart {
        /// What is wrong.
        reason: &'static str,
    },
    /// `model` is absent or empty.
    MissingModel,
    /// `model` is there twice.
    DuplicateModel,
    /// `stream` is there twice.
    DuplicateStream,
    /// `model` is not a string.
    InvalidModel,
    /// `model` is longer than [`MODEL_BYTES_MAX`].
    ModelTooLong,
    /// `stream` is neither a boolean nor null.
    InvalidStream,
}

impl PeekError {
    /// The `code` of the error body.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidJson { .. } => "invalid_json",
            Self::InvalidMultipart { .. } => "invalid_multipart",
            Self::MissingModel => "missing_model",
            Self::DuplicateModel => "duplicate_model",
            Self::DuplicateStream => "duplicate_stream",
            Self::InvalidModel | Self::ModelTooLong => "invalid_model",
            Self::InvalidStream => "invalid_stream",
        }
    }

    /// The `message` of the error body. Holds nothing from the body itself.
    pub fn message(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::InvalidJson { reason, at } => {
                return Cow::Owned(format!(
                    "The request body is not valid JSON: {reason} at byte {at}"
                ));
            }
            Self::InvalidMultipart { reason } => {
                return Cow::Owned(format!(
                    "The request body is not valid multipart/form-data: {reason}"
                ));
            }
            Self::MissingModel => "You must provide a model parameter",
            Self::DuplicateModel => "The model parameter is given more than once",
            Self::DuplicateStream => "The stream parameter is given more than once",
            Self::InvalidModel => "The model parameter must be a string",
            Self::ModelTooLong => "The model parameter must not be longer than 256 bytes",
            Self::InvalidStream => "The stream parameter must be true or false",
        })
    }
}

impl std::fmt::Display for PeekError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for PeekError {}

/// Reads `model` and `stream` from the top level of `body` and validates the whole of it.
///
/// Keys are compared after unescaping (`"mo\u0064el"` is `model`). A body that is not valid JSON is
/// reported as such whatever its fields say. Memory and stack use do not depend on the body.
///
/// # Errors
/// See [`PeekError`]; [`PeekError::InvalidMultipart`] is not among them.
pub fn peek(body: &[u8]) -> Result<Peek<'_>, PeekError> {
    let text = simdutf8::basic::from_utf8(body).map_err(|_| invalid_utf8(body))?;
    let mut scanner = Scanner::new(body);
    let mut fields = Fields::default();
    match read_object(&mut scanner, &mut fields) {
        Ok(()) => fields.into_peek(text),
        Err(error) => Err(PeekError::InvalidJson {
            reason: error.reason(),
            at: scanner.consumed(),
        }),
    }
}

/// Finds the place of the first byte that is not UTF-8, which the fast check does not tell.
#[cold]
fn invalid_utf8(body: &[u8]) -> PeekError {
    PeekError::InvalidJson {
        reason: "invalid UTF-8",
        at: std::str::from_utf8(body).map_or_else(|error| error.valid_up_to(), str::len),
    }
}

/// Reads the one object that a body is, noting the fields of interest.
fn read_object(scanner: &mut Scanner<'_>, fields: &mut Fields) -> Result<(), SyntaxError> {
    scanner.skip_whitespace();
    scanner.expect(b'{', SyntaxError::ExpectedObject)?;
    scanner.skip_whitespace();
    if !scanner.take(b'}') {
        loop {
            let key = scanner.key()?;
            if string::means(key, "model") {
                fields.read_model(scanner)?;
            } else if string::means(key, "stream") {
                fields.read_stream(scanner)?;
            } else {
                scanner.skip_value()?;
            }
            scanner.skip_whitespace();
            if scanner.take(b'}') {
                break;
            }
            scanner.expect(b',', SyntaxError::ExpectedCommaOrBrace)?;
            scanner.skip_whitespace();
        }
    }
    scanner.skip_whitespace();
    scanner.expect_end()
}

/// The fields met so far. A fault in one of them is kept until the body proved to be JSON.
#[derive(Default)]
struct Fields {
    model: Option<Range<usize>>,
    stream: Option<bool>,
    fault: Option<PeekError>,
}

impl Fields {
    fn read_model(&mut self, scanner: &mut Scanner<'_>) -> Result<(), SyntaxError> {
        let start = scanner.consumed();
        if self.model.is_some() {
            self.note(PeekError::DuplicateModel);
        }
        if scanner.string()?.is_some() {
            self.model = Some(start..scanner.consumed());
            return Ok(());
        }
        self.note(PeekError::InvalidModel);
        scanner.skip_value()
    }

    fn read_stream(&mut self, scanner: &mut Scanner<'_>) -> Result<(), SyntaxError> {
        let value = scanner.boolean_or_null()?;
        if self.stream.is_some() {
            self.note(PeekError::DuplicateStream);
        } else if value.is_none() {
            self.note(PeekError::InvalidStream);
        }
        self.stream = Some(value.unwrap_or(false));
        Ok(())
    }

    /// Keeps the first fault: it is the one nearest to what the client has to mend.
    fn note(&mut self, fault: PeekError) {
        self.fault.get_or_insert(fault);
    }

    fn into_peek(self, text: &str) -> Result<Peek<'_>, PeekError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let model_range = self.model.ok_or(PeekError::MissingModel)?;
        let content = text
            .get(model_range.clone())
            .and_then(|token| token.strip_prefix('"')?.strip_suffix('"'))
            .ok_or(PeekError::MissingModel)?;
        if content.len() > MODEL_BYTES_MAX.saturating_mul(string::ESCAPE_BYTES_MAX) {
            return Err(PeekError::ModelTooLong);
        }
        let model = string::unescape(content);
        match model.len() {
            0 => Err(PeekError::MissingModel),
            1..=MODEL_BYTES_MAX => Ok(Peek {
                model,
                model_range,
                stream: self.stream.unwrap_or(false),
            }),
            _ => Err(PeekError::ModelTooLong),
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a test fails"
)]
mod tests;
