//! Writes heads in one canonical form.
//!
//! Owns every head byte this router emits. It must never copy a peer's head as bytes: fields
//! arrive here one by one, already validated.

use http::StatusCode;

use super::grammar::{PATH_AND_QUERY, is_token, is_valid_field_value};
use super::request::Method;
use super::scan::FieldLine;

/// Appends one head to a buffer: a start line, fields, then [`HeadWriter::end`].
///
/// What is written must be valid already: values come from a parsed head, from configuration that
/// was checked with [`is_valid_field_value`], or from constants. Debug builds assert it.
#[derive(Debug)]
pub struct HeadWriter<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> HeadWriter<'a> {
    /// A writer that appends to `out`.
    pub const fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// `METHOD prefix+path?query HTTP/1.1`. `path_prefix` is the base path of a node ("" or
    /// `/base`), `path` begins with `/`.
    pub fn request_line(
        &mut self,
        method: Method,
        path_prefix: &str,
        path: impl AsRef<[u8]>,
        query: Option<&str>,
    ) -> &mut Self {
        let path = path.as_ref();
        debug_assert!(path_prefix.is_empty() || path_prefix.starts_with('/'));
        debug_assert!(path.starts_with(b"/") || (path == b"*" && path_prefix.is_empty()));
        debug_assert!(PATH_AND_QUERY.contains_all(path_prefix.as_bytes()));
        debug_assert!(PATH_AND_QUERY.contains_all(path));
        debug_assert!(query.is_none_or(|query| PATH_AND_QUERY.contains_all(query.as_bytes())));
        self.put(method.as_str().as_bytes());
        self.put(b" ");
        self.put(path_prefix.as_bytes());
        self.put(path);
        if let Some(query) = query {
            self.put(b"?");
            self.put(query.as_bytes());
        }
        self.put(b" HTTP/1.1\r\n");
        self
    }

    /// `HTTP/1.1 code reason` with the registered reason phrase, empty for an unregistered code.
    /// Also for HTTP/1.0 clients: RFC 9110 section 2.5 has a server state its own version.
    pub fn status_line(&mut self, status: StatusCode) -> &mut Self {
        // What nearly every answer begins with.
        if status == StatusCode::OK {
            self.put(b"HTTP/1.1 200 OK\r\n");
            return self;
        }
        self.put(b"HTTP/1.1 ");
        self.put(status.as_str().as_bytes());
        self.put(b" ");
        self.put(status.canonical_reason().unwrap_or_default().as_bytes());
        self.put(b"\r\n");
        self
    }

    /// One field.
    pub fn field(&mut self, name: impl AsRef<[u8]>, value: &[u8]) -> &mut Self {
        let name = name.as_ref();
        debug_assert!(is_token(name), "a field name is a token");
        debug_assert!(
            is_valid_field_value(value),
            "a field value was validated before"
        );
        self.put(name);
        self.put(b": ");
        self.put(value);
        self.put(b"\r\n");
        self
    }

    /// One field as the line that [`HeadWriter::field`] wrote for it before, or would write.
    pub fn line(&mut self, line: &[u8]) -> &mut Self {
        debug_assert!(
            line.strip_suffix(b"\r\n").is_some_and(|line| {
                let colon = line.iter().position(|byte| *byte == b':');
                let field = colon.and_then(|at| line.split_at_checked(at));
                field.is_some_and(|(name, value)| {
                    let value = value.strip_prefix(b": ");
                    is_token(name) && value.is_some_and(is_valid_field_value)
                })
            }),
            "a field line in canonical form"
        );
        self.put(line);
        self
    }

    /// A field just received and validated. Nearly every peer writes the form that this writer does; then
    /// the line is written as it came, which is the same bytes in one step.
    #[inline]
    pub(super) fn received(&mut self, line: &FieldLine<'_>) {
        let FieldLine { name, value, raw } = *line;
        // With nothing but one SP around the value (and the colon and CRLF).
        let is_canonical = raw.len() == name.len().saturating_add(value.len()).saturating_add(4)
            && raw.get(name.len().saturating_add(1)) == Some(&b' ');
        if is_canonical {
            debug_assert!(
                raw.strip_prefix(name)
                    .and_then(|rest| rest.strip_prefix(b": "))
                    .and_then(|rest| rest.strip_prefix(value))
                    == Some(b"\r\n")
            );
            self.put(raw);
        } else {
            self.field(name, value);
        }
    }

    /// The body has `bytes` bytes.
    pub fn content_length(&mut self, bytes: u64) -> &mut Self {
        self.field(
            "Content-Length",
            itoa::Buffer::new().format(bytes).as_bytes(),
        )
    }

    /// The body is chunked.
    pub fn chunked(&mut self) -> &mut Self {
        self.field("Transfer-Encoding", b"chunked")
    }

    /// The empty line; the body follows.
    pub fn end(&mut self) {
        self.put(b"\r\n");
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }
}
