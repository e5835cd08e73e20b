//! The valid API keys: those of the configuration and those of the key file, re-read when it changes.
#![expect(
    clippy::disallowed_types,
    reason = "only threads that may block take the lock"
)]

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::auth::key::{KeyEntry, KeyHash, KeySet};
use crate::auth::store::{KeyStore, Stamp, StoreError};
use crate::config::Config;
use crate::telemetry::log;

/// The key file as it was read last. Whoever reads it also publishes it, one at a time: else what was read
/// first could be published last, and a revoked key come back for a moment.
pub struct KeyFile(Mutex<Seen>);

struct Seen {
    store: KeyStore,
    configured: Vec<KeyEntry>,
    /// Of the key file, as it was read last.
    stored: Vec<KeyEntry>,
    stamp: Stamp,
    /// Whether the last look at the file failed; it is reported once.
    is_broken: bool,
}

/// Reads all keys for the first time.
///
/// # Errors
/// When the key file is there but cannot be read: starting with fewer keys than were made would lock
/// clients out without a word.
pub fn load_keys(config: &Config) -> Result<(KeyFile, KeySet), StoreError> {
    let mut seen = Seen {
        store: KeyStore::new(&config.server.data_dir),
        configured: entries(&config.auth.api_keys),
        stored: Vec::new(),
        stamp: Stamp::ABSENT,
        is_broken: false,
    };
    seen.read_if_changed()?;
    let keys = seen.all();
    Ok((KeyFile(Mutex::new(seen)), keys))
}

impl KeyFile {
    /// Publishes the keys anew if the file has changed. A file that cannot be read changes nothing.
    pub(super) fn follow(&self, published: &ArcSwap<KeySet>) {
        // Whoever panicked here left a stamp that is at worst too old.
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.read_if_changed() {
            Ok(false) => seen.is_broken = false,
            Ok(true) => {
                seen.is_broken = false;
                let keys = seen.all();
                log::info(format_args!(
                    "the key file has changed: {} keys are valid",
                    keys.len()
                ));
                published.store(Arc::new(keys));
            }
            Err(error) if !seen.is_broken => {
                seen.is_broken = true;
                log::error(format_args!("the keys stay as they were: {error}"));
            }
            Err(_) => {}
        }
    }

    /// Publishes these keys of the configuration instead of those before, beside those of the file.
    pub(super) fn configure(&self, api_keys: &[KeyHash], published: &ArcSwap<KeySet>) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.configured = entries(api_keys);
        published.store(Arc::new(seen.all()));
    }

    /// Whether the file held a key when it was read last.
    pub(super) fn has_stored(&self) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !seen.stored.is_empty()
    }
}

impl Seen {
    /// Reads the file if it has changed; whether it has.
    fn read_if_changed(&mut self) -> Result<bool, StoreError> {
        let Some(stamp) = self.store.changed_since(self.stamp)? else {
            return Ok(false);
        };
        let stored = self.store.list()?;
        self.stamp = stamp;
        self.stored = stored.iter().map(|key| key.entry()).collect();
        Ok(true)
    }

    fn all(&self) -> KeySet {
        let configured = self.configured.iter();
        KeySet::new(configured.chain(&self.stored).cloned().collect())
    }
}

fn entries(api_keys: &[KeyHash]) -> Vec<KeyEntry> {
    let numbered = (1..).zip(api_keys);
    numbered
        .map(|(place, hash)| KeyEntry::of_config(place, *hash))
        .collect()
}
