//! Ids of new keys from the system's random bytes.

use crate::auth::key::KeyId;

use super::StoredKey;

/// An id no key of the file has.
pub(super) fn unused_id(keys: &[StoredKey]) -> Result<KeyId, getrandom::Error> {
    loop {
        let id = KeyId::of_store(getrandom::u64()?);
        if keys.iter().all(|key| key.id != id) {
            return Ok(id);
        }
    }
}
