//! Turns Rust source into the few kinds of token the rules need: words, punctuation and string
//! literals, each with its line. Comments vanish. Never judges; knows no rule.

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An identifier, keyword or number.
    Word(String),
    /// One punctuation character; `::` is the only pair, because paths are what most rules read.
    Mark(char),
    /// `::`.
    PathSeparator,
    /// The content of a string or byte string literal, escapes left as written.
    Text(String),
}

/// One token and the line it begins on, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// What it is.
    pub(crate) kind: Kind,
    /// Its line, from 1.
    pub(crate) line: usize,
}

impl Token {
    /// Whether this is the word `text`.
    pub(crate) fn is_word(&self, text: &str) -> bool {
        self.word() == Some(text)
    }

    /// The word, if it is one.
    pub(crate) fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(word) => Some(word),
            _ => None,
        }
    }

    /// Whether this is the punctuation `mark`.
    pub(crate) fn is_mark(&self, mark: char) -> bool {
        self.kind == Kind::Mark(mark)
    }
}

/// All tokens of a source text, in order.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let mut lexer = Lexer {
        rest: source,
        line: 1,
        out: Vec::new(),
    };
    while lexer.step() {}
    lexer.out
}

struct Lexer<'s> {
    rest: &'s str,
    line: usize,
    out: Vec<Token>,
}

impl Lexer<'_> {
    /// Consumes one token, comment or blank; false at the end.
    fn step(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else {
            return false;
        };
        if self.rest.starts_with("//") {
            self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
        } else if self.rest.starts_with("/*") {
            self.block_comment();
        } else if let Some(hashes) = raw_string_hashes(self.rest) {
            self.raw_string(hashes);
        } else if ["\"", "b\"", "c\""]
            .iter()
            .any(|p| self.rest.starts_with(p))
        {
            self.string();
        } else if first == '\'' || self.rest.starts_with("b'") {
            self.character_or_lifetime();
        } else if first.is_alphanumeric() || first == '_' {
            self.rest = self.rest.strip_prefix("r#").unwrap_or(self.rest);
            let length = word_length(self.rest);
            let word = self.rest[..length].to_owned();
            self.push(Kind::Word(word), length);
        } else if self.rest.starts_with("::") {
            self.push(Kind::PathSeparator, 2);
        } else if first.is_whitespace() {
            self.skip(first.len_utf8());
        } else {
            self.push(Kind::Mark(first), first.len_utf8());
        }
        true
    }

    fn push(&mut self, kind: Kind, length: usize) {
        self.out.push(Token {
            kind,
            line: self.line,
        });
        self.skip(length);
    }

    fn skip(&mut self, length: usize) {
        let (taken, rest) = self.rest.split_at(length);
        self.line += taken.matches('\n').count();
        self.rest = rest;
    }

    /// Block comments nest.
    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        loop {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if self.rest.starts_with("*/") {
                depth -= 1;
                self.skip(2);
                if depth == 0 {
                    return;
                }
            } else {
                match self.rest.chars().next() {
                    Some(character) => self.skip(character.len_utf8()),
                    None => return,
                }
            }
        }
    }

    fn string(&mut self) {
        let start = self.rest.find('"').map_or(0, |at| at + 1);
        let mut end = start;
        let mut escaped = false;
        for character in self.rest[start..].chars() {
            if !escaped && character == '"' {
                break;
            }
            escaped = !escaped && character == '\\';
            end += character.len_utf8();
        }
        let text = self.rest[start..end].to_owned();
        self.push(Kind::Text(text), (end + 1).min(self.rest.len()));
    }

    fn raw_string(&mut self, hashes: usize) {
        let start = self.rest.find('"').map_or(0, |at| at + 1);
        let closing = format!("\"{}", "#".repeat(hashes));
        let length = self.rest[start..]
            .find(&closing)
            .unwrap_or(self.rest.len() - start);
        let text = self.rest[start..start + length].to_owned();
        let end = (start + length + closing.len()).min(self.rest.len());
        self.push(Kind::Text(text), end);
    }

    /// `'a'` and `b'\n'` are dropped, no rule reads them; so are lifetimes.
    fn character_or_lifetime(&mut self) {
        let quote = usize::from(self.rest.starts_with('b'));
        let inside = &self.rest[quote + 1..];
        let length = match inside.chars().next() {
            Some('\\') => {
                let escape = inside.chars().nth(1).map_or(0, char::len_utf8);
                inside[1 + escape..]
                    .find('\'')
                    .map_or(inside.len(), |at| 2 + escape + at)
            }
            Some(one) if inside[one.len_utf8()..].starts_with('\'') => one.len_utf8() + 1,
            _ => word_length(inside),
        };
        self.skip(quote + 1 + length);
    }
}

/// The number of `#` of a raw string literal that starts here.
fn raw_string_hashes(rest: &str) -> Option<usize> {
    let after = ["r", "br", "cr"].iter().find_map(|prefix| {
        rest.strip_prefix(prefix)
            .filter(|r| r.starts_with(['"', '#']))
    })?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

fn word_length(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len())
}
