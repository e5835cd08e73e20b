//! The configuration file: TOML with line numbers, applied key by key.
//!
//! A line of the file is never quoted in a report: it may hold a secret.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys;
use super::load::{Draft, FileText, unknown_key};
use super::nodes;
use super::problem::Origin;
use super::value::Raw;

/// Turns positions in the text into the origin of a problem.
pub(super) struct Lines<'a> {
    source: FileText<'a>,
}

impl Lines<'_> {
    /// The 1-based line of a position.
    pub(super) fn at(&self, span: &Range<usize>) -> Origin {
        let before = self
            .source
            .text
            .as_bytes()
            .get(..span.start)
            .unwrap_or_default();
        let line = 1 + memchr::memchr_iter(b'\n', before).count();
        Origin::File {
            name: self.source.name.to_owned(),
            line,
        }
    }
}

/// Applies the whole file. When it is not valid TOML, only the errors of syntax are noted: what
/// the parser guesses behind them would only add noise.
pub(super) fn apply(draft: &mut Draft, source: FileText<'_>) {
    let lines = Lines { source };
    let (root, errors) = DeTable::parse_recoverable(source.text);
    if !errors.is_empty() {
        note_syntax_errors(draft, &lines, &errors);
        return;
    }
    for (name, value) in root.get_ref() {
        match name.get_ref().as_ref() {
            "nodes" | "aliases" => {}
            section if is_section(section) => apply_section(draft, &lines, section, value),
            other => draft.problem(lines.at(&name.span()), other, unknown_top_level(other)),
        }
    }
    // Aliases are checked against the nodes.
    if let Some(value) = root.get_ref().get("nodes") {
        nodes::apply_nodes(draft, &lines, value);
    }
    if let Some(value) = root.get_ref().get("aliases") {
        nodes::apply_aliases(draft, &lines, value);
    }
}

fn note_syntax_errors(draft: &mut Draft, lines: &Lines<'_>, errors: &[toml::de::Error]) {
    let mut last = Origin::default();
    for error in errors {
        let origin = lines.at(&error.span().unwrap_or(0..0));
        // One mistake often confuses the parser several times on its line.
        if origin != last {
            draft.problem(
                origin.clone(),
                "",
                format!("not valid TOML: {}", error.message()),
            );
            last = origin;
        }
    }
}

fn apply_section(
    draft: &mut Draft,
    lines: &Lines<'_>,
    section: &str,
    value: &Spanned<DeValue<'_>>,
) {
    let Some(table) = value.get_ref().as_table() else {
        let reason = format!("must be a section: [{section}]");
        return draft.problem(lines.at(&value.span()), section, reason);
    };
    for (name, value) in table {
        let path = format!("{section}.{}", name.get_ref());
        let origin = lines.at(&name.span());
        match keys::find(&path) {
            Some(key) => draft.set(key, Raw::Toml(value.get_ref()), origin),
            None => {
                let reason = unknown_key(&path);
                draft.problem(origin, path, reason);
            }
        }
    }
}

fn is_section(name: &str) -> bool {
    keys::KEYS.iter().any(|key| key.section() == name)
}

fn unknown_top_level(name: &str) -> String {
    let sections = keys::KEYS
        .iter()
        .map(keys::Key::section)
        .chain(["nodes", "aliases"]);
    match super::suggest::nearest(name, sections) {
        Some(section) => format!("unknown section; did you mean {section}?"),
        None => unknown_key(name),
    }
}
