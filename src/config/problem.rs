//! What is wrong with a configuration, told so that an operator can mend it without the manual.
//!
//! Texts here must never contain a secret; values are shown escaped and shortened.

use std::fmt;

/// One thing that is wrong: where, which key, what it holds and what it may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where the value came from.
    pub origin: Origin,
    /// The key path, for example `load_manager.max_waiting` or `nodes[2].base_url`; empty when the
    /// problem is not about one key.
    pub key: String,
    /// The offending value as text; `None` for secrets and missing values.
    pub value: Option<String>,
    /// The rule it breaks, with the allowed range.
    pub reason: String,
}

/// The layer a value came from, weakest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Built in.
    #[default]
    Defaults,
    /// The configuration file.
    File {
        /// As the operator named it.
        name: String,
        /// 1-based; 0 when the file as a whole is meant.
        line: usize,
    },
    /// An environment variable, by name.
    Environment(String),
    /// A command line option, as written.
    CommandLine(String),
}

/// All problems of one configuration, in the order of the layers and the lines of the file.
///
/// Invariant: never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Whether nothing was found.
    ///
    /// # Errors
    /// Everything that was.
    pub fn none_of(mut found: Vec<Problem>) -> Result<(), Self> {
        if found.is_empty() {
            return Ok(());
        }
        found.sort_by(|a, b| a.origin.cmp(&b.origin));
        Err(Self(found))
    }

    /// The problems, at least one.
    #[must_use]
    pub fn as_slice(&self) -> &[Problem] {
        &self.0
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("1 problem in the configuration:")?,
            count => write!(f, "{count} problems in the configuration:")?,
        }
        for problem in &self.0 {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        match (self.key.is_empty(), &self.value) {
            (true, _) => {}
            (false, Some(value)) => write!(f, "{} = {value}: ", self.key)?,
            (false, None) => write!(f, "{}: ", self.key)?,
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Problem {}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Defaults => f.write_str("configuration"),
            Self::File { name, line: 0 } => f.write_str(name),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Environment(name) => f.write_str(name),
            Self::CommandLine(option) => f.write_str(option),
        }
    }
}

/// A text as it may be shown: quoted, control characters escaped, at most 64 characters.
pub(super) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

const SHOWN_CHARS_MAX: usize = 64;
