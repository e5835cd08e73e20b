//! Puts the layers on top of one another and gathers everything that is wrong.
//!
//! [`resolve`] is pure; only [`Sources::load`] touches the file system, and it only reads.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::environment::Environment;
use super::problem::{Origin, Problem, Problems};
use super::suggest::nearest;
use super::types::Config;
use super::value::Raw;
use super::{check, file, keys};

/// Where the configuration comes from; kept by a running router to read it again.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A file that must exist; `None` reads [`DEFAULT_FILE`] if it is there.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: Environment,
    /// Command line settings, weakest first.
    pub overrides: Vec<Override>,
}

/// One setting given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// Key path, for example `server.port`.
    pub key: String,
    /// The value as text.
    pub value: String,
    /// The option as the operator wrote it, for reports.
    pub option: String,
}

/// A valid configuration and what is worth knowing about it.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The resolved settings.
    pub config: Config,
    /// Allowed but doubtful settings, one sentence each.
    pub warnings: Vec<String>,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
}

/// The text of a configuration file with the name an operator knows it by.
#[derive(Clone, Copy, Debug)]
pub struct FileText<'a> {
    /// As given on the command line.
    pub name: &'a str,
    /// Its content.
    pub text: &'a str,
}

impl Sources {
    /// Reads the file, if any, and resolves all layers.
    ///
    /// # Errors
    /// Everything that is wrong in any layer, or the one reason why the file cannot be read.
    pub fn load(&self) -> Result<Loaded, Problems> {
        let path = self
            .file
            .as_deref()
            .unwrap_or_else(|| Path::new(DEFAULT_FILE));
        let name = path.display().to_string();
        let text = match read_text(path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.file.is_none() => None,
            Err(error) => return Err(unreadable(&name, &error).into()),
        };
        let source = text.as_ref().map(|text| FileText { name: &name, text });
        let mut loaded = resolve(source, &self.environment, &self.overrides)?;
        loaded.file = source.map(|_| path.to_path_buf());
        Ok(loaded)
    }
}

/// Resolves defaults < file < environment < command line.
///
/// # Errors
/// Everything that is wrong in any layer and between the settings.
pub fn resolve(
    source: Option<FileText<'_>>,
    environment: &Environment,
    overrides: &[Override],
) -> Result<Loaded, Problems> {
    let mut draft = Draft::default();
    if let Some(source) = source {
        file::apply(&mut draft, source);
    }
    environment.apply(&mut draft);
    for setting in overrides {
        draft.apply_override(setting);
    }
    check::between_settings(&mut draft);
    Problems::none_of(draft.problems)?;
    Ok(Loaded {
        config: draft.config,
        warnings: draft.warnings,
        file: None,
    })
}

/// The configuration while layers are being applied.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
    /// Line and path of the base URL of each node in `config.nodes`.
    pub(super) base_urls: Vec<(Origin, String)>,
    /// The layer that last spoke about a key, whether it was right or wrong.
    origins: BTreeMap<&'static str, Origin>,
}

impl Draft {
    /// Checks and stores one value of one key, or notes why not.
    pub(super) fn set(&mut self, key: &'static keys::Key, raw: Raw<'_>, origin: Origin) {
        if let Err(faults) = (key.set)(&mut self.config, raw) {
            for fault in faults.0 {
                let shown = !key.is_secret() && fault.element.is_empty();
                self.problems.push(Problem {
                    origin: origin.clone(),
                    key: format!("{}{}", key.path, fault.element),
                    value: shown.then(|| raw.shown()),
                    reason: fault.reason,
                });
            }
        }
        self.origins.insert(key.path, origin);
    }

    /// Notes a problem without a value.
    pub(super) fn problem(&mut self, origin: Origin, key: impl Into<String>, reason: String) {
        self.problems.push(Problem {
            origin,
            key: key.into(),
            value: None,
            reason,
        });
    }

    /// The strongest layer that spoke about one of the keys.
    pub(super) fn origin(&self, paths: &[&str]) -> Origin {
        paths
            .iter()
            .filter_map(|path| self.origins.get(path))
            .max()
            .cloned()
            .unwrap_or_default()
    }

    /// Whether some layer's value for the key was refused, so that its field says nothing.
    pub(super) fn is_refused(&self, path: &str) -> bool {
        self.problems.iter().any(|problem| problem.key == path)
    }

    fn apply_override(&mut self, setting: &Override) {
        let origin = Origin::CommandLine(setting.option.clone());
        match keys::find(&setting.key) {
            Some(key) if key.is_secret() => self.problem(
                origin,
                key.path,
                format!(
                    "must not be on the command line, where every user of the machine can read \
                     it; use the file or {}",
                    key.environment.join(" or ")
                ),
            ),
            Some(key) => self.set(key, Raw::Text(&setting.value), origin),
            None => self.problem(origin, setting.key.clone(), unknown_key(&setting.key)),
        }
    }
}

/// "unknown key", with the nearest known one if there is one.
pub(super) fn unknown_key(path: &str) -> String {
    match nearest(path, keys::KEYS.iter().map(|key| key.path)) {
        Some(known) => format!("unknown key; did you mean {known}?"),
        None => "unknown key".to_owned(),
    }
}

fn read_text(path: &Path) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    // One byte more than allowed tells "exactly at the limit" from "cut off".
    File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let reason = format!("is larger than {FILE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(text)
}

fn unreadable(name: &str, error: &io::Error) -> Problem {
    Problem {
        origin: Origin::File {
            name: name.to_owned(),
            line: 0,
        },
        key: String::new(),
        value: None,
        reason: format!("cannot be read: {error}"),
    }
}

/// Read from the working directory when no file is named.
pub const DEFAULT_FILE: &str = "config.toml";

/// Far above any real file: 1000 nodes with 100 models each stay below.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
