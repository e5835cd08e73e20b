//! Random tokens: API keys, sessions, nodes.

use zeroize::Zeroizing;

use super::secret::Secret;

/// `prefix` and 43 letters and digits: 256 random bits.
///
/// # Errors
/// The system has no random bytes.
pub fn random_token(prefix: &str) -> Result<Secret, getrandom::Error> {
    let length = prefix.len() + SYMBOL_COUNT;
    let mut text = String::with_capacity(length);
    text.push_str(prefix);
    let mut random = Zeroizing::new([0u8; 64]);
    while text.len() < length {
        getrandom::fill(random.as_mut_slice())?;
        let missing = length - text.len();
        text.extend(random.iter().filter_map(|byte| symbol(*byte)).take(missing));
    }
    Ok(Secret::new(text))
}

/// A letter or digit, all equally likely: the bytes that would favour the first ones are skipped.
fn symbol(byte: u8) -> Option<char> {
    let fair = 256 - 256 % SYMBOLS.len();
    let index = usize::from(byte);
    (index < fair).then(|| char::from(SYMBOLS[index % SYMBOLS.len()]))
}

/// 62^43 > 2^256.
const SYMBOL_COUNT: usize = 43;
/// No punctuation, so that a double click selects the whole token.
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
    fn a_token_has_256_bits_behind_its_prefix() {
        let (one, two) = (random_token("sk-").unwrap(), random_token("sk-").unwrap());
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
