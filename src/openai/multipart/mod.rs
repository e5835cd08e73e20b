//! Reads the `model` and `stream` fields of a `multipart/form-data` body (RFC 7578, RFC 2046).
//!
//! Must never copy file data, and must never be more lenient than the nodes' parsers: a form that
//! could be split in two ways is refused.

mod head;

use std::borrow::Cow;
use std::ops::Range;

use memchr::memmem;

use super::peek::{MODEL_BYTES_MAX, Peek, PeekError};
use head::FieldName;

/// The most parts a form may have.
pub const PARTS_MAX: usize = 64;

/// The longest head of one part, in bytes with its empty line.
pub const PART_HEAD_BYTES_MAX: usize = 4096;

/// Reads `model` and `stream` from a form, given the value of the request's `Content-Type`.
///
/// The range of the answer is the value of the `model` field as it stands in the body.
///
/// # Errors
/// [`PeekError::InvalidMultipart`] if the boundary or the framing is wrong, or a limit is
/// passed; else the same errors as for JSON bodies.
pub fn peek<'b>(content_type: &str, body: &'b [u8]) -> Result<Peek<'b>, PeekError> {
    let boundary = head::boundary(content_type)?;
    let mut fields = Fields::default();
    for part in Parts::new(body, &boundary)? {
        let part = part?;
        fields.read(body, &part)?;
    }
    fields.into_peek()
}

/// One part: its head without the empty line, and where its content stands in the body.
struct Part<'b> {
    head: &'b [u8],
    content: Range<usize>,
}

/// The parts of a form, in order. Ends after the close delimiter or the first error.
struct Parts<'b> {
    body: &'b [u8],
    delimiter: memmem::Finder<'static>,
    /// Where the rest of the current delimiter line begins; `None` at the end.
    at: Option<usize>,
    count: usize,
}

impl<'b> Parts<'b> {
    /// Begins at the first delimiter. A delimiter is CRLF, `--` and the boundary; the first one
    /// may lack its CRLF.
    ///
    /// RFC 2046 lets a preamble and an epilogue stand around the parts, which no client sends and
    /// parsers do not agree on where they end; both are refused.
    fn new(body: &'b [u8], boundary: &str) -> Result<Self, PeekError> {
        let line = format!("\r\n--{boundary}");
        let delimiter = memmem::Finder::new(&line).into_owned();
        let start = if body.starts_with(b"\r\n") { 0 } else { 2 };
        let opening = line.as_bytes().get(start..).unwrap_or_default();
        if !body.starts_with(opening) {
            return Err(invalid("the body does not begin with the boundary"));
        }
        Ok(Self {
            body,
            delimiter,
            at: Some(opening.len()),
            count: 0,
        })
    }

    /// Reads the part after the delimiter that ends at `at`. `None` after the close delimiter.
    fn part(&mut self, at: usize) -> Result<Option<Part<'b>>, PeekError> {
        let rest = self.body.get(at..).unwrap_or_default();
        let (rest, last) = match rest {
            [b'-', b'-', tail @ ..] => (tail, true),
            _ => (rest, false),
        };
        let rest = head::skip_padding(rest);
        match (rest, last) {
            ([] | [b'\r', b'\n'], true) => return Ok(None),
            (_, true) => return Err(invalid("the body does not end with the boundary")),
            ([b'\r', b'\n', ..], false) => {}
            _ => return Err(invalid("the boundary is not alone on its line")),
        }
        self.count = self.count.saturating_add(1);
        if self.count > PARTS_MAX {
            return Err(invalid("too many parts"));
        }
        // The line end stays in front of the head, so that an empty head is found as well.
        let start = self.body.len().saturating_sub(rest.len());
        let window = rest.get(..PART_HEAD_BYTES_MAX).unwrap_or(rest);
        let head_bytes =
            memmem::find(window, b"\r\n\r\n").ok_or(invalid("a part has no end of its head"))?;
        let head = window.get(2..head_bytes).unwrap_or_default();
        let content_start = start.saturating_add(head_bytes).saturating_add(4);
        // An empty content shares its line end with the empty line that ends the head.
        let search_start = content_start.saturating_sub(2);
        let found = self
            .delimiter
            .find(self.body.get(search_start..).unwrap_or_default())
            .ok_or(invalid("a part has no end"))?;
        let content_end = search_start.saturating_add(found);
        if content_end < content_start {
            return Err(invalid("a part has no content"));
        }
        self.at = Some(content_end.saturating_add(self.delimiter.needle().len()));
        Ok(Some(Part {
            head,
            content: content_start..content_end,
        }))
    }
}

impl<'b> Iterator for Parts<'b> {
    type Item = Result<Part<'b>, PeekError>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at.take()?;
        self.part(at).transpose()
    }
}

/// The fields met so far.
#[derive(Default)]
struct Fields<'b> {
    model: Option<(&'b str, Range<usize>)>,
    stream: Option<bool>,
}

impl<'b> Fields<'b> {
    fn read(&mut self, body: &'b [u8], part: &Part<'b>) -> Result<(), PeekError> {
        let content = body.get(part.content.clone()).unwrap_or_default();
        match head::field_name(part.head)? {
            FieldName::Model => {
                if self.model.is_some() {
                    return Err(PeekError::DuplicateModel);
                }
                if content.len() > MODEL_BYTES_MAX {
                    return Err(PeekError::ModelTooLong);
                }
                let model = std::str::from_utf8(content).map_err(|_| PeekError::InvalidModel)?;
                self.model = Some((model, part.content.clone()));
            }
            FieldName::ModelFile => return Err(PeekError::InvalidModel),
            FieldName::Stream => {
                if self.stream.is_some() {
                    return Err(PeekError::DuplicateStream);
                }
                self.stream = Some(boolean(content).ok_or(PeekError::InvalidStream)?);
            }
            FieldName::Other => {}
        }
        Ok(())
    }

    fn into_peek(self) -> Result<Peek<'b>, PeekError> {
        match self.model {
            Some((model, model_range)) if !model.is_empty() => Ok(Peek {
                model: Cow::Borrowed(model),
                model_range,
                stream: self.stream.unwrap_or(false),
            }),
            _ => Err(PeekError::MissingModel),
        }
    }
}

/// Forms have no types; SDKs spell booleans `true` or `True`.
fn boolean(content: &[u8]) -> Option<bool> {
    if content.eq_ignore_ascii_case(b"true") {
        Some(true)
    } else if content.eq_ignore_ascii_case(b"false") {
        Some(false)
    } else {
        None
    }
}

const fn invalid(reason: &'static str) -> PeekError {
    PeekError::InvalidMultipart { reason }
}

#[cfg(test)]
mod tests;
