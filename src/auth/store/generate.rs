//! New keys and ids from the system's random bytes.

use zeroize::Zeroizing;

use crate::auth::Secret;
use crate::auth::key::KeyId;

use super::StoredKey;

/// `sk-` and 43 letters and digits: 256 random bits.
pub(super) fn key() -> Result<Secret, getrandom::Error> {
    let mut text = String::with_capacity(PREFIX.len() + SYMBOL_COUNT);
    text.push_str(PREFIX);
    let mut random = Zeroizing::new([0u8; 64]);
    while text.len() < PREFIX.len() + SYMBOL_COUNT {
        getrandom::fill(random.as_mut_slice())?;
        let missing = PREFIX.len() + SYMBOL_COUNT - text.len();
        text.extend(random.iter().filter_map(|byte| symbol(*byte)).take(missing));
    }
    Ok(Secret::new(text))
}

/// An id no key of the file has.
pub(super) fn unused_id(keys: &[StoredKey]) -> Result<KeyId, getrandom::Error> {
    loop {
        let id = KeyId::of_store(getrandom::u64()?);
        if keys.iter().all(|key| key.id != id) {
            return Ok(id);
        }
    }
}

/// A letter or digit, all equally likely: the bytes that would favour the first ones are skipped.
fn symbol(byte: u8) -> Option<char> {
    let fair = 256 - 256 % SYMBOLS.len();
    let index = usize::from(byte);
    (index < fair).then(|| char::from(SYMBOLS[index % SYMBOLS.len()]))
}

const PREFIX: &str = "sk-";
/// 62^43 > 2^256.
const SYMBOL_COUNT: usize = 43;
/// No punctuation, so that a double click selects the whole key.
const SYMBOLS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_symbol_is_equally_likely() {
        let mut counts: BTreeMap<char, usize> = BTreeMap::new();
        for symbol in (0..=255).filter_map(symbol) {
            *counts.entry(symbol).or_default() += 1;
        }
        assert_eq!(counts.len(), 62);
        assert!(counts.values().all(|count| *count == 4), "{counts:?}");
    }

    #[test]
    fn a_key_has_256_bits_behind_its_prefix() {
        let (one, two) = (key().unwrap(), key().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.expose().len(), 46);
        assert!(one.expose().starts_with("sk-"));
        assert!(
            one.expose()[3..]
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric())
        );
    }
}
