//! The key file: `api-keys.json` in the data directory.
//!
//! Readers see the old file or the new one, never half of one; two processes that write do not
//! lose each other's work; a file that cannot be understood is left as it is. The clock is passed
//! in. Everything here blocks and must never run on a worker.

mod disk;
mod document;
mod generate;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::key::{KeyEntry, KeyHash, KeyId};
use super::scope::Scopes;
use super::secret::Secret;
use super::token::random_token;

pub use disk::Stamp;

/// The keys of one data directory.
#[derive(Clone, Debug)]
pub struct KeyStore {
    directory: PathBuf,
}

/// What is kept of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// Its public name.
    pub id: KeyId,
    /// What its owner calls it; 1–64 bytes, not necessarily unique.
    pub name: String,
    /// The digest of the key.
    pub hash: KeyHash,
    /// The last four characters, so that an owner recognises the key.
    pub last_four: String,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds from which it is no longer valid.
    pub expires_at: Option<u64>,
    /// What it may be used for.
    pub scopes: Scopes,
}

/// What a new key is to be.
#[derive(Clone, Copy, Debug)]
pub struct KeyRequest<'a> {
    /// What its owner calls it; 1–64 bytes without control characters.
    pub name: &'a str,
    /// What it may be used for; at least one scope.
    pub scopes: Scopes,
    /// Unix seconds now.
    pub created_at: u64,
    /// Unix seconds from which it is no longer valid; later than `created_at`.
    pub expires_at: Option<u64>,
}

/// Why the key file could not be read or changed. Nothing has been changed then.
#[derive(Debug)]
pub enum StoreError {
    /// The system refused.
    Io {
        /// What was being done, as in "cannot … PATH".
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not what this program writes.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, without its content.
        reason: String,
    },
    /// The request breaks a rule of [`KeyRequest`].
    Invalid(&'static str),
    /// There are [`KEYS_MAX`] keys already.
    Full,
}

impl KeyStore {
    /// The store of a data directory, which need not exist yet.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self {
            directory: data_dir.to_path_buf(),
        }
    }

    /// All keys, oldest first; none if there is no file.
    ///
    /// # Errors
    /// The file cannot be read or is damaged. It is left as it is.
    pub fn list(&self) -> Result<Vec<StoredKey>, StoreError> {
        let path = disk::file_path(&self.directory);
        match disk::read(&path)? {
            Some(bytes) => {
                document::decode(bytes).map_err(|reason| StoreError::Damaged { path, reason })
            }
            None => Ok(Vec::new()),
        }
    }

    /// Makes a new key and keeps its digest. The returned text is the only copy of the key.
    ///
    /// # Errors
    /// The request is invalid, or the file cannot be read or written.
    pub fn create(&self, request: KeyRequest<'_>) -> Result<(StoredKey, Secret), StoreError> {
        request.check()?;
        let _lock = disk::lock(&self.directory)?;
        let mut keys = self.list()?;
        if keys.len() >= KEYS_MAX {
            return Err(StoreError::Full);
        }
        let secret = random_token(KEY_PREFIX).map_err(no_randomness)?;
        let id = generate::unused_id(&keys).map_err(no_randomness)?;
        let text = secret.expose();
        let key = StoredKey {
            id,
            name: request.name.to_owned(),
            hash: KeyHash::of(text.as_bytes()),
            last_four: text
                .get(text.len().saturating_sub(4)..)
                .unwrap_or_default()
                .to_owned(),
            created_at: request.created_at,
            expires_at: request.expires_at,
            scopes: request.scopes,
        };
        keys.push(key.clone());
        self.write(&keys)?;
        Ok((key, secret))
    }

    /// Removes a key and returns what it was, or `None` if there is no such key.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn revoke(&self, id: KeyId) -> Result<Option<StoredKey>, StoreError> {
        if disk::stamp(&self.directory)? == Stamp::ABSENT {
            return Ok(None);
        }
        let _lock = disk::lock(&self.directory)?;
        let mut keys = self.list()?;
        let Some(index) = keys.iter().position(|key| key.id == id) else {
            return Ok(None);
        };
        let revoked = keys.remove(index);
        self.write(&keys)?;
        Ok(Some(revoked))
    }

    fn write(&self, keys: &[StoredKey]) -> Result<(), StoreError> {
        let bytes = document::encode(keys).map_err(|error| StoreError::Io {
            action: "encode",
            path: disk::file_path(&self.directory),
            source: io::Error::other(error),
        })?;
        disk::replace(&self.directory, &bytes)
    }

    /// One `stat`: the new stamp if the file is not the one the old stamp was taken of.
    ///
    /// Ask first and [`KeyStore::list`] after: a change in between then shows in the next stamp.
    ///
    /// # Errors
    /// The system refuses to say; that a file is absent is no error.
    pub fn changed_since(&self, stamp: Stamp) -> Result<Option<Stamp>, StoreError> {
        let current = disk::stamp(&self.directory)?;
        Ok((current != stamp).then_some(current))
    }
}

impl StoredKey {
    /// What the workers need of the key.
    #[must_use]
    pub fn entry(&self) -> KeyEntry {
        KeyEntry {
            hash: self.hash,
            id: self.id,
            name: self.name.as_str().into(),
            scopes: self.scopes,
            expires_at: self.expires_at,
        }
    }
}

impl KeyRequest<'_> {
    fn check(&self) -> Result<(), StoreError> {
        if !is_key_name(self.name) {
            return Err(StoreError::Invalid(
                "the name must be 1 to 64 bytes without control characters",
            ));
        }
        if self.scopes.is_empty() {
            return Err(StoreError::Invalid("a key needs at least one scope"));
        }
        if self
            .expires_at
            .is_some_and(|expires_at| expires_at <= self.created_at)
        {
            return Err(StoreError::Invalid("the expiry must lie in the future"));
        }
        Ok(())
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io {
                action,
                path,
                source,
            } => {
                write!(f, "cannot {action} {}: {source}", path.display())
            }
            Self::Damaged { path, reason } => write!(
                f,
                "{} is damaged ({reason}); it was left as it is: restore it from a backup, or \
                 move it away to start without keys",
                path.display()
            ),
            Self::Invalid(rule) => f.write_str(rule),
            Self::Full => write!(f, "there are {KEYS_MAX} keys already; revoke some first"),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Damaged { .. } | Self::Invalid(_) | Self::Full => None,
        }
    }
}

fn is_key_name(text: &str) -> bool {
    (1..=KEY_NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn no_randomness(error: getrandom::Error) -> StoreError {
    StoreError::Io {
        action: "read random bytes from",
        path: PathBuf::from("the system"),
        source: io::Error::other(error),
    }
}

/// Most keys one file holds; the whole file is rewritten on each change.
pub const KEYS_MAX: usize = 10_000;
/// What every key of the file begins with.
const KEY_PREFIX: &str = "sk-";
/// Longest name of a key.
pub const KEY_NAME_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests;
