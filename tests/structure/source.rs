//! A source file as the rules see it: where it stands in the module tree, its tokens, which of
//! them are test code, the paths it names and its functions. Never judges; knows no rule.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use super::lexer::{Kind, Token, tokens};

/// One Rust file.
pub(crate) struct Source {
    /// Relative to the repository, with `/`.
    pub(crate) path: String,
    /// The text as it stands.
    pub(crate) text: String,
    /// The text as tokens.
    pub(crate) tokens: Vec<Token>,
    /// Whether the whole file is compiled for tests only.
    pub(crate) is_test: bool,
    test_ranges: Vec<Range<usize>>,
}

/// A path as written, `use` trees spread out: `crate::a::b`, `std::fs`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// The segments, `super` and `self` not yet resolved.
    pub(crate) segments: Vec<String>,
    /// Index of the first token, for [`Source::is_test_code`].
    pub(crate) token: usize,
    /// The line it begins on.
    pub(crate) line: usize,
}

/// A function with a body.
pub(crate) struct Function {
    /// Its name.
    pub(crate) name: String,
    /// The line of `fn`.
    pub(crate) line: usize,
    /// From the line of `fn` to the line of the closing brace, both counted.
    pub(crate) lines: usize,
}

impl Source {
    /// Reads a text as the file `path`.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let tokens = tokens(text);
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            is_test: path.starts_with("tests/"),
            test_ranges: test_ranges(&tokens),
            tokens,
        }
    }

    /// The module path below the crate root: `["proxy", "relay"]`; empty for `lib.rs` and `main.rs`.
    pub(crate) fn module(&self) -> Vec<&str> {
        let inner = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let mut segments: Vec<&str> = inner.trim_end_matches(".rs").split('/').collect();
        if matches!(segments.last(), Some(&("mod" | "lib" | "main"))) {
            segments.pop();
        }
        segments
    }

    /// The module directly below the crate root; `main` for the command, `lib` for the root.
    pub(crate) fn top_module(&self) -> &str {
        match self.path.as_str() {
            "src/main.rs" => "main",
            "src/lib.rs" => "lib",
            _ => self.module().first().copied().unwrap_or("lib"),
        }
    }

    /// Whether the token at `index` is compiled for tests only.
    pub(crate) fn is_test_code(&self, index: usize) -> bool {
        self.is_test || self.test_ranges.iter().any(|range| range.contains(&index))
    }

    /// Files this one declares with `#[cfg(test)] mod name;`.
    pub(crate) fn test_files(&self) -> Vec<String> {
        let folder = self.child_folder();
        let mut files = Vec::new();
        for range in &self.test_ranges {
            let item = &self.tokens[range.clone()];
            let Some(name) = declared_module(item) else {
                continue;
            };
            match path_attribute(item) {
                Some(file) => {
                    let beside = Path::new(&self.path).parent().unwrap_or(Path::new(""));
                    files.push(beside.join(file).to_string_lossy().into_owned());
                }
                None => {
                    files.push(format!("{folder}/{name}.rs"));
                    files.push(format!("{folder}/{name}/mod.rs"));
                }
            }
        }
        files
    }

    /// Every path of two or more segments, and every single word of a `use`.
    pub(crate) fn paths(&self) -> Vec<Named> {
        let mut out = Vec::new();
        let mut index = 0;
        while index < self.tokens.len() {
            if self.tokens[index].is_word("use") {
                index = self.use_tree(index + 1, &mut Vec::new(), &mut out);
            } else if self.tokens[index].word().is_some() {
                index = self.inline_path(index, &mut out);
            } else {
                index += 1;
            }
        }
        out
    }

    /// The functions that have a body, nested ones too.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let mut out = Vec::new();
        for (index, token) in self.tokens.iter().enumerate() {
            let name = self.tokens.get(index + 1).and_then(Token::word);
            if let (true, Some(name)) = (token.is_word("fn"), name)
                && let Some(end) = body_end(&self.tokens, index)
            {
                out.push(Function {
                    name: name.to_owned(),
                    line: token.line,
                    lines: self.tokens[end].line - token.line + 1,
                });
            }
        }
        out
    }

    /// How many `mod name { … }` enclose the token at `index`.
    pub(crate) fn inline_module_depth(&self, index: usize) -> usize {
        let opens = |at: &usize| {
            self.tokens[*at].is_word("mod")
                && self.tokens.get(at + 2).is_some_and(|t| t.is_mark('{'))
                && closing(&self.tokens, at + 2).is_some_and(|end| end > index)
        };
        (0..index).filter(opens).count()
    }

    fn child_folder(&self) -> String {
        let own = self.path.trim_end_matches(".rs");
        own.strip_suffix("/mod")
            .or_else(|| own.strip_suffix("/lib"))
            .or_else(|| own.strip_suffix("/main"))
            .unwrap_or(own)
            .to_owned()
    }

    fn inline_path(&self, start: usize, out: &mut Vec<Named>) -> usize {
        let mut segments = Vec::new();
        let mut index = start;
        while let Some(word) = self.tokens.get(index).and_then(Token::word) {
            segments.push(word.to_owned());
            index += 1;
            let goes_on = self.tokens.get(index).map(|t| &t.kind) == Some(&Kind::PathSeparator);
            if !goes_on {
                break;
            }
            index += 1;
        }
        if segments.len() > 1 {
            out.push(self.named(segments, start));
        }
        index.max(start + 1)
    }

    /// Spreads `a::{b, c::d}` into its paths; returns the index after the tree.
    fn use_tree(&self, start: usize, prefix: &mut Vec<String>, out: &mut Vec<Named>) -> usize {
        let depth = prefix.len();
        let mut index = start;
        while let Some(token) = self.tokens.get(index) {
            match &token.kind {
                Kind::Word(word) if word == "as" => index += 2,
                Kind::Word(word) => {
                    prefix.push(word.clone());
                    index += 1;
                }
                Kind::PathSeparator => index += 1,
                Kind::Mark('{') => {
                    index = self.use_group(index + 1, prefix, out);
                    prefix.truncate(depth);
                    return index;
                }
                Kind::Mark('*') => index += 1,
                _ => break,
            }
        }
        if prefix.len() > depth {
            out.push(self.named(prefix.clone(), start));
        }
        prefix.truncate(depth);
        index
    }

    fn use_group(&self, start: usize, prefix: &mut Vec<String>, out: &mut Vec<Named>) -> usize {
        let mut index = start;
        loop {
            let next = self.use_tree(index, prefix, out);
            match self.tokens.get(next) {
                Some(token) if token.is_mark(',') => index = next + 1,
                Some(_) => return next + 1,
                None => return next,
            }
        }
    }

    fn named(&self, segments: Vec<String>, token: usize) -> Named {
        Named {
            segments,
            token,
            line: self.tokens[token].line,
        }
    }
}

/// Marks every file that another one declares for tests only, and what those declare in turn.
pub(crate) fn mark_test_files(sources: &mut [Source]) {
    loop {
        let declared: BTreeSet<String> = sources
            .iter()
            .flat_map(|source| match source.is_test {
                true => all_children(source),
                false => source.test_files(),
            })
            .collect();
        let mut changed = false;
        for source in sources.iter_mut() {
            if !source.is_test && declared.contains(&source.path) {
                source.is_test = true;
                changed = true;
            }
        }
        if !changed {
            return;
        }
    }
}

/// Whatever a test file declares is test code as well.
fn all_children(source: &Source) -> Vec<String> {
    let folder = source.child_folder();
    let names = source.tokens.windows(3).filter_map(|three| {
        (three[0].is_word("mod") && three[2].is_mark(';')).then(|| three[1].word())?
    });
    names
        .flat_map(|name| {
            [
                format!("{folder}/{name}.rs"),
                format!("{folder}/{name}/mod.rs"),
            ]
        })
        .collect()
}

/// The token ranges of items under `#[cfg(test)]`, `#[cfg(all(test, …))]` and `#[test]`,
/// attributes included.
fn test_ranges(tokens: &[Token]) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for start in 0..tokens.len() {
        let is_attribute =
            tokens[start].is_mark('#') && tokens.get(start + 1).is_some_and(|t| t.is_mark('['));
        if !is_attribute || ranges.iter().any(|range| range.contains(&start)) {
            continue;
        }
        let Some(end) = closing(tokens, start + 1) else {
            continue;
        };
        let words: Vec<&str> = tokens[start..end].iter().filter_map(Token::word).collect();
        let is_test = match words.first() {
            Some(&"cfg") => words.contains(&"test") && !words.contains(&"not"),
            Some(&"test") => true,
            _ => false,
        };
        if is_test {
            ranges.push(start..item_end(tokens, end + 1));
        }
    }
    ranges
}

/// The index after the item that starts at `start`: behind its `;` or its closing brace.
fn item_end(tokens: &[Token], start: usize) -> usize {
    let mut index = start;
    while let Some(token) = tokens.get(index) {
        if token.is_mark(';') {
            return index + 1;
        }
        if token.is_mark('{') {
            return closing(tokens, index).map_or(tokens.len(), |end| end + 1);
        }
        index = match token.kind {
            Kind::Mark('(' | '[') => closing(tokens, index).map_or(tokens.len(), |end| end + 1),
            _ => index + 1,
        };
    }
    tokens.len()
}

/// The index of the brace that ends the body of the function at `start`; `None` without a body.
fn body_end(tokens: &[Token], start: usize) -> Option<usize> {
    let mut index = start;
    loop {
        match tokens.get(index)?.kind {
            Kind::Mark('{') => return closing(tokens, index),
            Kind::Mark(';') => return None,
            Kind::Mark('(' | '[') => index = closing(tokens, index)? + 1,
            _ => index += 1,
        }
    }
}

/// The index of the bracket that closes the one at `open`.
fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::Mark('(' | '[' | '{') => depth += 1,
            Kind::Mark(')' | ']' | '}') => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(index);
                }
            }
            _ => {}
        }
    }
    None
}

/// The name in `mod name;`.
fn declared_module(item: &[Token]) -> Option<&str> {
    item.windows(3).find_map(|three| {
        (three[0].is_word("mod") && three[2].is_mark(';')).then(|| three[1].word())?
    })
}

/// The file in `#[path = "file"]`.
fn path_attribute(item: &[Token]) -> Option<&str> {
    item.windows(3).find_map(|three| match &three[2].kind {
        Kind::Text(file) if three[0].is_word("path") => Some(file.as_str()),
        _ => None,
    })
}
