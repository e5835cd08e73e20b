//! Iterating over validated fields, and which of them travel on.
//!
//! Owns the rule of RFC 9110 section 7.6.1; which name means what is a matter of `name`. It must never
//! forward a block of fields as bytes: they go on one by one.

use std::iter::FusedIterator;

use super::grammar::{is_token, trim_ows};
use super::name::{Direction, Name};
use super::scan::FieldLine;
use super::verdict::{self, Reject};
use super::write::HeadWriter;

/// The fields of a valid head, in order. Nothing is stored per field: the lines are taken apart
/// again while iterating, which costs a byte search per line and lets a head outlive its parser.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fields<'a> {
    /// Field lines that passed the head grammar, each with its CRLF, without the final empty line.
    block: &'a [u8],
}

/// Yields `(name, value)`; the value has no whitespace around it.
#[derive(Clone)]
pub struct FieldIter<'a> {
    rest: &'a [u8],
}

/// Yields only the fields that travel on in one direction, as `(name, value)`; a name is a token, so ASCII.
#[derive(Clone)]
pub struct EndToEndFields<'a> {
    fields: FieldIter<'a>,
    direction: Direction,
    connection: ConnectionOptions<'a>,
}

/// Where the fields that travel on are written while the walk over a head meets them.
pub(super) struct Onward<'o> {
    lines: Option<&'o mut Vec<u8>>,
    /// Bytes that stood in `lines` before.
    bytes_before: usize,
    direction: Direction,
}

/// What the Connection fields of a head say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ConnectionOptions<'a> {
    /// The option `close` is present.
    pub(super) close: bool,
    /// Values that name more than `close` and `keep-alive`: their members are hop-by-hop fields.
    lists: [&'a [u8]; CONNECTION_LINES_MAX],
    list_count: usize,
    option_count: usize,
}

impl<'a> Fields<'a> {
    pub(super) const fn new(block: &'a [u8]) -> Self {
        Self { block }
    }

    /// All fields, as received.
    #[must_use]
    pub const fn iter(&self) -> FieldIter<'a> {
        FieldIter { rest: self.block }
    }

    /// The first value of the field `name`, compared without regard to case.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<&'a [u8]> {
        self.iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

impl std::fmt::Debug for Fields<'_> {
    /// Names only: values may be credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.iter().map(|(name, _)| name))
            .finish()
    }
}

impl<'a> IntoIterator for Fields<'a> {
    type Item = (&'a str, &'a [u8]);
    type IntoIter = FieldIter<'a>;

    fn into_iter(self) -> FieldIter<'a> {
        self.iter()
    }
}

impl<'a> FieldIter<'a> {
    #[inline]
    fn next_line(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let line_end = memchr::memchr(b'\n', self.rest)?;
        let (line, rest) = self.rest.split_at_checked(line_end.checked_add(1)?)?;
        self.rest = rest;
        let line = line.strip_suffix(b"\r\n")?;
        let (name, value) = line.split_at_checked(memchr::memchr(b':', line)?)?;
        Some((name, trim_ows(value.strip_prefix(b":")?)))
    }
}

impl<'a> Iterator for FieldIter<'a> {
    type Item = (&'a str, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.next_line()?;
        Some((std::str::from_utf8(name).ok()?, value))
    }
}

impl FusedIterator for FieldIter<'_> {}

impl<'a> EndToEndFields<'a> {
    pub(super) const fn new(
        fields: Fields<'a>,
        connection: ConnectionOptions<'a>,
        direction: Direction,
    ) -> Self {
        Self {
            fields: fields.iter(),
            direction,
            connection,
        }
    }
}

impl<'a> Iterator for EndToEndFields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (name, value) = self.fields.next_line()?;
            if Name::classify(name).travels(self.direction) && !self.connection.lists_field(name) {
                return Some((name, value));
            }
        }
    }
}

impl FusedIterator for EndToEndFields<'_> {}

impl<'o> Onward<'o> {
    /// Appends to `lines`; nothing is written without them.
    pub(super) fn new(lines: Option<&'o mut Vec<u8>>, direction: Direction) -> Self {
        let bytes_before = lines.as_ref().map_or(0, |lines| lines.len());
        Self {
            lines,
            bytes_before,
            direction,
        }
    }

    /// Takes back what was written: the walk begins anew.
    pub(super) fn restart(&mut self) {
        if let Some(lines) = &mut self.lines {
            lines.truncate(self.bytes_before);
        }
    }

    /// What is to be written before the fields.
    pub(super) fn writer(&mut self) -> Option<HeadWriter<'_>> {
        self.lines.as_mut().map(|lines| HeadWriter::new(lines))
    }

    /// Writes a field that was met, if its name lets it travel on.
    #[inline]
    pub(super) fn pass(&mut self, name: Name, field: &FieldLine<'_>) {
        if let Some(lines) = &mut self.lines
            && name.travels(self.direction)
        {
            HeadWriter::new(lines).received(field);
        }
    }

    /// Once all fields were met. The Connection field may come last: only where it has named others,
    /// which hardly any peer does, all that was written since `start` is written again without them.
    pub(super) fn settle(
        &mut self,
        start: usize,
        fields: Fields<'_>,
        connection: ConnectionOptions<'_>,
    ) {
        if connection.list_count == 0 {
            return;
        }
        if let Some(lines) = &mut self.lines {
            lines.truncate(start);
            let mut writer = HeadWriter::new(lines);
            for (name, value) in EndToEndFields::new(fields, connection, self.direction) {
                writer.field(name, value);
            }
        }
    }

    /// Bytes written so far, with those that stood there before.
    pub(super) fn bytes(&self) -> usize {
        self.lines.as_ref().map_or(0, |lines| lines.len())
    }
}

impl<'a> ConnectionOptions<'a> {
    /// Takes in one Connection field: `#connection-option` (RFC 9110 section 7.6.1).
    pub(super) fn add(&mut self, value: &'a [u8]) -> Result<(), Reject> {
        // What nearly every peer says, if anything.
        if value.eq_ignore_ascii_case(b"keep-alive") && self.option_count < CONNECTION_OPTIONS_MAX {
            self.option_count = self.option_count.saturating_add(1);
            return Ok(());
        }
        let mut names_fields = false;
        for option in value.split(|&byte| byte == b',').map(trim_ows) {
            self.option_count = self.option_count.saturating_add(1);
            if self.option_count > CONNECTION_OPTIONS_MAX {
                return Err(verdict::CONNECTION_TOO_LONG);
            }
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") || option.is_empty() {
                // Nothing to remember: Keep-Alive never travels on, and a recipient ignores
                // empty list members (RFC 9110 section 5.6.1.2).
            } else if is_token(option) {
                names_fields = true;
            } else {
                return Err(verdict::CONNECTION_INVALID);
            }
        }
        if names_fields {
            let list = self
                .lists
                .get_mut(self.list_count)
                .ok_or(verdict::CONNECTION_TOO_LONG)?;
            *list = value;
            self.list_count = self.list_count.saturating_add(1);
        }
        Ok(())
    }

    /// Whether `name` was declared hop-by-hop.
    #[inline]
    fn lists_field(&self, name: &[u8]) -> bool {
        self.lists.iter().take(self.list_count).any(|list| {
            list.split(|&byte| byte == b',')
                .any(|option| trim_ows(option).eq_ignore_ascii_case(name))
        })
    }
}

/// Whether a request field of this name goes on to a node (spec section 3). Fields listed in
/// Connection are a matter of the head: [`super::RequestHead::end_to_end_fields`] applies both.
///
/// `_` counts as `-`: servers that turn fields into environment variables cannot tell them apart,
/// so `X_Forwarded_For` would speak for a field that only we may set.
#[must_use]
pub fn forwards_to_node(name: impl AsRef<[u8]>) -> bool {
    Name::classify(name.as_ref()).travels(Direction::ToNode)
}

/// Whether a response field of this name goes on to the client (spec section 3): all but
/// hop-by-hop and framing fields and the names this router answers with itself. Fields listed in
/// Connection are a matter of the head: [`super::ResponseHead::end_to_end_fields`] applies both.
#[must_use]
pub fn forwards_to_client(name: impl AsRef<[u8]>) -> bool {
    Name::classify(name.as_ref()).travels(Direction::ToClient)
}

/// Connection fields that list others; more is nothing an honest peer sends, and the bounds keep
/// the work per field constant.
const CONNECTION_LINES_MAX: usize = 4;
const CONNECTION_OPTIONS_MAX: usize = 32;
