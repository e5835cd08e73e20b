//! One entry of a list in the file, read field by field.
//!
//! Owns how a problem of a field is located and shown; the rules themselves are the caller's.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::Lines;
use super::load::Draft;
use super::problem::{Origin, Problem, quoted};
use super::suggest::nearest;
use super::value::{Faults, Raw};

/// One table of a list, with the report that its problems go to.
pub(super) struct Fields<'a> {
    draft: &'a mut Draft,
    lines: &'a Lines<'a>,
    /// `nodes[2]`.
    path: String,
    table: &'a DeTable<'a>,
    /// Where the entry begins, for fields that are missing.
    start: Origin,
}

impl<'a> Fields<'a> {
    /// The fields of an entry; `None`, with a problem noted, if it is not a table.
    pub(super) fn of(
        draft: &'a mut Draft,
        lines: &'a Lines<'a>,
        path: String,
        entry: &'a Spanned<DeValue<'a>>,
    ) -> Option<Self> {
        let start = lines.at(&entry.span());
        match entry.get_ref().as_table() {
            Some(table) => Some(Self {
                draft,
                lines,
                path,
                table,
                start,
            }),
            None => {
                draft.problem(start, path, "must be a table".to_owned());
                None
            }
        }
    }

    /// A field that must be there.
    pub(super) fn required<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(Raw<'a>) -> Result<T, Faults>,
    ) -> Option<T> {
        if !self.table.contains_key(name) {
            self.draft
                .problem(self.start.clone(), self.path(name), "is missing".to_owned());
            return None;
        }
        self.optional(name, parse)
    }

    /// A field that may be left out.
    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(Raw<'a>) -> Result<T, Faults>,
    ) -> Option<T> {
        self.read(name, shown, parse)
    }

    /// A field that may be left out and whose value is never shown.
    pub(super) fn optional_secret<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(Raw<'a>) -> Result<T, Faults>,
    ) -> Option<T> {
        self.read(name, |_| None, parse)
    }

    /// Notes a problem that only shows beside other entries.
    pub(super) fn refuse(&mut self, name: &str, value: &str, reason: &str) {
        self.draft.problems.push(Problem {
            origin: self.origin(name),
            key: self.path(name),
            value: Some(quoted(value)),
            reason: reason.to_owned(),
        });
    }

    /// Notes every field whose name is not among the known ones.
    pub(super) fn refuse_unknown(&mut self, known: &[&str]) {
        for (name, _) in self.table {
            let text = name.get_ref().as_ref();
            if known.contains(&text) {
                continue;
            }
            let reason = match nearest(text, known.iter().copied()) {
                Some(known) => format!("unknown key; did you mean {known}?"),
                None => format!("unknown key; known are: {}", known.join(", ")),
            };
            self.draft
                .problem(self.lines.at(&name.span()), self.path(text), reason);
        }
    }

    /// `nodes[2].weight`.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// The line of a field, or of the entry if the field is missing.
    pub(super) fn origin(&self, name: &str) -> Origin {
        match self.table.get(name) {
            Some(value) => self.lines.at(&value.span()),
            None => self.start.clone(),
        }
    }

    fn read<T>(
        &mut self,
        name: &str,
        shown: impl Fn(Raw<'a>) -> Option<String>,
        parse: impl FnOnce(Raw<'a>) -> Result<T, Faults>,
    ) -> Option<T> {
        let raw = Raw::Toml(self.table.get(name)?.get_ref());
        match parse(raw) {
            Ok(value) => Some(value),
            Err(faults) => {
                for fault in faults.0 {
                    self.draft.problems.push(Problem {
                        origin: self.origin(name),
                        key: format!("{}{}", self.path(name), fault.element),
                        value: if fault.element.is_empty() {
                            shown(raw)
                        } else {
                            None
                        },
                        reason: fault.reason,
                    });
                }
                None
            }
        }
    }
}

/// The value as a report may show it; a URL with credentials or a query may hold a secret.
fn shown(raw: Raw<'_>) -> Option<String> {
    let hides_secret = |text: &str| text.contains("://") && text.contains(['@', '?', '#']);
    (!raw.string().is_some_and(hides_secret)).then(|| raw.shown())
}
