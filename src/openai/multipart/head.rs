//! The small grammars around a form: the boundary parameter and the head of a part.

use std::borrow::Cow;

use super::invalid;
use crate::openai::peek::PeekError;

/// The longest boundary, in bytes (RFC 2046 section 5.1.1).
const BOUNDARY_BYTES_MAX: usize = 70;

/// What a part holds, as far as routing is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldName {
    Model,
    /// A file under the name `model`: not a model name.
    ModelFile,
    Stream,
    Other,
}

/// Reads the boundary from a `Content-Type` value.
pub(super) fn boundary(content_type: &str) -> Result<String, PeekError> {
    let (media_type, parameters) = content_type
        .split_once(';')
        .ok_or(invalid("the content type has no boundary"))?;
    if !media_type
        .trim_matches([' ', '\t'])
        .eq_ignore_ascii_case("multipart/form-data")
    {
        return Err(invalid("the content type is not multipart/form-data"));
    }
    let mut boundary = None;
    for parameter in Parameters::new(parameters.as_bytes()) {
        let Parameter { name, value } =
            parameter.ok_or(invalid("the content type is malformed"))?;
        if name.eq_ignore_ascii_case(b"boundary") && boundary.replace(value).is_some() {
            return Err(invalid("the boundary is given more than once"));
        }
    }
    let boundary = boundary.ok_or(invalid("the content type has no boundary"))?;
    let length_fits = (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len());
    if !length_fits || boundary.ends_with(b" ") || !boundary.iter().all(|&b| is_boundary_byte(b)) {
        return Err(invalid("the boundary is malformed"));
    }
    String::from_utf8(boundary.into_owned()).map_err(|_| invalid("the boundary is malformed"))
}

/// Reads the field name from the head of a part: field lines separated by CRLF.
pub(super) fn field_name(head: &[u8]) -> Result<FieldName, PeekError> {
    let mut disposition = None;
    let mut encoded = false;
    for line in Lines(Some(head)) {
        let colon = memchr::memchr(b':', line).ok_or(invalid("a part has a malformed head"))?;
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default();
        if name.is_empty() || !name.iter().all(|&byte| is_token_byte(byte)) {
            return Err(invalid("a part has a malformed head"));
        }
        if value.iter().any(|&byte| byte < b' ' && byte != b'\t') {
            return Err(invalid("a part has a malformed head"));
        }
        if name.eq_ignore_ascii_case(b"content-disposition") {
            if disposition.replace(value).is_some() {
                return Err(invalid("a part has two dispositions"));
            }
        } else if name.eq_ignore_ascii_case(b"content-transfer-encoding") {
            encoded |= !is_identity_encoding(value.trim_ascii());
        }
    }
    let disposition = disposition.ok_or(invalid("a part has no disposition"))?;
    match disposed_name(disposition)? {
        // A node may or may not decode it (RFC 7578 section 4.7 deprecates the field).
        FieldName::Model | FieldName::Stream if encoded => {
            Err(invalid("a field has a transfer encoding"))
        }
        name => Ok(name),
    }
}

fn disposed_name(disposition: &[u8]) -> Result<FieldName, PeekError> {
    const MALFORMED: PeekError = invalid("a part has a malformed disposition");
    let semicolon = memchr::memchr(b';', disposition).ok_or(MALFORMED)?;
    let (kind, parameters) = disposition.split_at(semicolon);
    if !kind.trim_ascii().eq_ignore_ascii_case(b"form-data") {
        return Err(MALFORMED);
    }
    let mut name = None;
    let mut is_file = false;
    for parameter in Parameters::new(parameters.get(1..).unwrap_or_default()) {
        let Parameter { name: key, value } = parameter.ok_or(MALFORMED)?;
        if key.eq_ignore_ascii_case(b"name") {
            if name.replace(value).is_some() {
                return Err(MALFORMED);
            }
        } else if key.eq_ignore_ascii_case(b"name*") {
            // RFC 7578 section 4.2 forbids it, and parsers differ on which of the two counts.
            return Err(MALFORMED);
        } else if key.eq_ignore_ascii_case(b"filename") || key.eq_ignore_ascii_case(b"filename*") {
            is_file = true;
        }
    }
    Ok(match (name.ok_or(MALFORMED)?.as_ref(), is_file) {
        (b"model", false) => FieldName::Model,
        (b"model", true) => FieldName::ModelFile,
        (b"stream", _) => FieldName::Stream,
        _ => FieldName::Other,
    })
}

/// The lines of a part head. An empty head has one empty line, which is malformed.
struct Lines<'h>(Option<&'h [u8]>);

impl<'h> Iterator for Lines<'h> {
    type Item = &'h [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.0?;
        match memchr::memmem::find(rest, b"\r\n") {
            Some(end) => {
                self.0 = rest.get(end.saturating_add(2)..);
                rest.get(..end)
            }
            None => {
                self.0 = None;
                Some(rest)
            }
        }
    }
}

/// One `name=value`, the value without quotes and quoted pairs.
struct Parameter<'v> {
    name: &'v [u8],
    value: Cow<'v, [u8]>,
}

/// The parameters of a field value, after its first semicolon. Yields `None` once if malformed.
struct Parameters<'v> {
    rest: &'v [u8],
}

impl<'v> Parameters<'v> {
    const fn new(rest: &'v [u8]) -> Self {
        Self { rest }
    }

    fn parameter(&mut self) -> Option<Parameter<'v>> {
        let length = self
            .rest
            .iter()
            .take_while(|&&byte| is_token_byte(byte))
            .count();
        let (name, tail) = self.rest.split_at_checked(length)?;
        let [b'=', tail @ ..] = tail else { return None };
        let (value, tail) = match tail {
            [b'"', tail @ ..] => quoted_string(tail)?,
            _ => {
                let length = tail.iter().take_while(|&&byte| is_token_byte(byte)).count();
                let (value, tail) = tail.split_at_checked(length)?;
                (Cow::Borrowed(value), tail)
            }
        };
        if name.is_empty() {
            return None;
        }
        self.rest = match skip_padding(tail) {
            [] => &[],
            [b';', tail @ ..] => tail,
            _ => return None,
        };
        Some(Parameter { name, value })
    }
}

impl<'v> Iterator for Parameters<'v> {
    type Item = Option<Parameter<'v>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rest = skip_padding(self.rest);
        if self.rest.is_empty() {
            return None;
        }
        let parameter = self.parameter();
        if parameter.is_none() {
            self.rest = &[];
        }
        Some(parameter)
    }
}

/// Reads a quoted string after its opening quote (RFC 9110 section 5.6.4).
fn quoted_string(input: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let end = memchr::memchr2(b'"', b'\\', input)?;
    if let (value, [b'"', tail @ ..]) = input.split_at_checked(end)? {
        return Some((Cow::Borrowed(value), tail));
    }
    let mut value = Vec::new();
    let mut rest = input;
    loop {
        rest = match rest {
            [b'"', tail @ ..] => return Some((Cow::Owned(value), tail)),
            [b'\\', byte, tail @ ..] | [byte, tail @ ..] => {
                value.push(*byte);
                tail
            }
            [] => return None,
        };
    }
}

/// Skips spaces and tabs.
pub(super) fn skip_padding(input: &[u8]) -> &[u8] {
    let mut rest = input;
    while let [b' ' | b'\t', tail @ ..] = rest {
        rest = tail;
    }
    rest
}

fn is_identity_encoding(value: &[u8]) -> bool {
    [&b"7bit"[..], b"8bit", b"binary"]
        .iter()
        .any(|name| value.eq_ignore_ascii_case(name))
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// `bchars` of RFC 2046 section 5.1.1.
fn is_boundary_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte)
}
