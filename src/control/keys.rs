//! The valid API keys: those of the configuration and those of the key file, re-read when it changes.
#![expect(
    clippy::disallowed_types,
    reason = "only threads that may block take the lock"
)]

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::auth::key::{KeyEntry, KeySet};
use crate::auth::store::{KeyStore, Stamp, StoreError};
use crate::config::Config;
use crate::telemetry::log;

/// The key file as it was read last. Whoever reads it also publishes it, one at a time: else what was read
/// first could be published last, and a revoked key come back for a moment.
pub struct KeyFile(Mutex<Seen>);

struct Seen {
    store: KeyStore,
    configured: Vec<KeyEntry>,
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
    let configured = (1..).zip(&config.auth.api_keys);
    let mut seen = Seen {
        store: KeyStore::new(&config.server.data_dir),
        configured: configured
            .map(|(place, hash)| KeyEntry::of_config(place, *hash))
            .collect(),
        stamp: Stamp::ABSENT,
        is_broken: false,
    };
    let keys = seen
        .read_if_changed()?
        .unwrap_or_else(|| KeySet::new(seen.configured.clone()));
    Ok((KeyFile(Mutex::new(seen)), keys))
}

impl KeyFile {
    /// Publishes the keys anew if the file has changed. A file that cannot be read changes nothing.
    pub(super) fn follow(&self, published: &ArcSwap<KeySet>) {
        // Whoever panicked here left a stamp that is at worst too old.
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.read_if_changed() {
            Ok(None) => seen.is_broken = false,
            Ok(Some(keys)) => {
                seen.is_broken = false;
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
}

impl Seen {
    fn read_if_changed(&mut self) -> Result<Option<KeySet>, StoreError> {
        let Some(stamp) = self.store.changed_since(self.stamp)? else {
            return Ok(None);
        };
        let stored = self.store.list()?;
        self.stamp = stamp;
        let stored = stored.iter().map(|key| key.entry());
        Ok(Some(KeySet::new(
            self.configured.iter().cloned().chain(stored).collect(),
        )))
    }
}
