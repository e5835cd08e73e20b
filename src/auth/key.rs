//! API keys as digests, and the decision whether a request carries a known one.
//!
//! Plain data in, plain data out: no file, no clock, no allocation per request. A key itself is kept
//! nowhere but in the memory of the connection that presents it.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock, Weak};

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::scope::{Scope, Scopes};

/// The SHA-256 digest of an API key; compared in constant time, never printed.
///
/// Keys carry at least 192 random bits, so no slow hash is needed (reliability B8).
#[derive(Clone, Copy)]
pub struct KeyHash(pub [u8; 32]);

/// The public name of a key: what logs, lists and `keys revoke` use. It reveals nothing about
/// the key.
///
/// Keys of the configuration are numbered from 1; keys of the key file have a random number with
/// the top bit set, so that the two never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(u64);

/// One key that opens the router.
#[derive(Clone, Debug)]
pub struct KeyEntry {
    /// The digest of the key.
    pub hash: KeyHash,
    /// Its public name.
    pub id: KeyId,
    /// What its owner calls it.
    pub name: Box<str>,
    /// What it may be used for.
    pub scopes: Scopes,
    /// Unix seconds from which it is no longer valid.
    pub expires_at: Option<u64>,
}

/// Who is asking, once a key has been recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyIdentity {
    /// The key's public name, stable over reloads for keys of the key file.
    pub id: KeyId,
    /// What the key may be used for; checking it is the caller's part.
    pub scopes: Scopes,
    /// Where [`KeySet::entry`] finds the rest, in the set that recognised the key.
    pub index: u32,
}

/// Why a request is not let in. All of them are answered with one identical 401 (spec section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// Neither field is present.
    Missing,
    /// Another scheme than Bearer, or a key that no key can look like.
    Malformed,
    /// Both fields are present with different keys.
    Conflicting,
    /// A well-formed key that is not, or no longer, in the set.
    Unknown,
    /// A known key past its expiry.
    Expired,
}

/// All keys of one moment, immutable, shared by the workers.
///
/// An open-addressed table: a digest's first bytes choose where to begin, and every lookup
/// compares exactly `probe_count` slots, whatever it finds.
///
/// Invariants: the slot count is a power of two and at least four times the entry count; every
/// digest lies within `probe_count` slots of where its lookup begins.
pub struct KeySet {
    slots: Box<[Slot]>,
    probe_count: usize,
    entries: Box<[KeyEntry]>,
}

/// The key a connection has presented last, if it was recognised: not the key itself, but a keyed hash of
/// it whose own key is random and never leaves the process.
#[derive(Default)]
pub struct KeyMemory {
    known: Option<Box<Known>>,
}

struct Known {
    /// The set that recognised it. A weak reference keeps the set's address from being used again, but
    /// not its keys.
    keys: Weak<KeySet>,
    field: Field,
    /// Of the field value as it came.
    fingerprint: u64,
    identity: KeyIdentity,
    expires_at: Option<u64>,
}

/// The field that carried a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Authorization,
    ApiKey,
}

#[derive(Clone, Copy)]
struct Slot {
    hash: KeyHash,
    /// Index into `entries`, or [`VACANT`].
    entry: u32,
}

impl KeyHash {
    /// Digests a key.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    fn first_slot(&self, slot_count: usize) -> usize {
        let [a, b, c, d, ..] = self.0;
        // A lossless widening; the mask bounds the result by the slot count.
        u32::from_le_bytes([a, b, c, d]) as usize & (slot_count - 1)
    }
}

impl ConstantTimeEq for KeyHash {
    fn ct_eq(&self, other: &Self) -> Choice {
        ct_eq(&self.0, &other.0)
    }
}

impl PartialEq for KeyHash {
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl Eq for KeyHash {}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(***)")
    }
}

impl KeyId {
    /// The name of the key at a 1-based position of `auth.api_keys`.
    #[must_use]
    pub fn of_config(position: u32) -> Self {
        Self(u64::from(position))
    }

    /// The name of a stored key, from random bits.
    #[must_use]
    pub fn of_store(random: u64) -> Self {
        Self(random | STORED)
    }

    /// Reads what [`fmt::Display`] writes for a stored key: 16 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse_stored(text: &str) -> Option<Self> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 16 || !text.bytes().all(digit) {
            return None;
        }
        let number = u64::from_str_radix(text, 16).ok()?;
        (number & STORED != 0).then_some(Self(number))
    }

    /// The name of which this is the [number](KeyId::get); `None` for 0, which stands for no key.
    #[must_use]
    pub fn of_number(number: u64) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }

    /// The number itself, for counters and fairness.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 & STORED == 0 {
            write!(f, "config-{}", self.0)
        } else {
            write!(f, "{:016x}", self.0)
        }
    }
}

impl KeyEntry {
    /// The entry of a key written into the configuration: inference only, never expires.
    #[must_use]
    pub fn of_config(position: u32, hash: KeyHash) -> Self {
        let id = KeyId::of_config(position);
        let name = id.to_string().into_boxed_str();
        Self {
            hash,
            id,
            name,
            scopes: Scope::Inference.into(),
            expires_at: None,
        }
    }
}

impl KeySet {
    /// Builds the table. Of two entries with the same digest the first one counts.
    #[must_use]
    pub fn new(entries: Vec<KeyEntry>) -> Self {
        let slot_count = (entries.len() * 4).next_power_of_two().max(8);
        let vacant = Slot {
            hash: KeyHash([0; 32]),
            entry: VACANT,
        };
        let mut slots = vec![vacant; slot_count];
        let mut probe_count = 1;
        for (index, entry) in (0u32..).zip(&entries) {
            let first = entry.hash.first_slot(slot_count);
            // Ends: three quarters of the slots stay vacant.
            for step in 0..slot_count {
                let slot = &mut slots[(first + step) & (slot_count - 1)];
                if slot.entry == VACANT {
                    *slot = Slot {
                        hash: entry.hash,
                        entry: index,
                    };
                    probe_count = probe_count.max(step + 1);
                    break;
                }
                if slot.hash == entry.hash {
                    break;
                }
            }
        }
        Self {
            slots: slots.into(),
            probe_count,
            entries: entries.into(),
        }
    }

    /// How many entries the set was built from.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no key opens the router.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry behind an identity that this set produced.
    #[must_use]
    pub fn entry(&self, identity: KeyIdentity) -> Option<&KeyEntry> {
        let entry = self.entries.get(identity.index as usize)?;
        (entry.id == identity.id).then_some(entry)
    }

    /// Finds the entry of a digest, with the same work for every digest.
    fn find(&self, hash: &KeyHash) -> Option<(u32, &KeyEntry)> {
        let index = self.probe(hash, ConstantTimeEq::ct_eq);
        self.entries.get(index as usize).map(|entry| (index, entry))
    }

    /// Compares the digest with `probe_count` slots, none more and none fewer, and selects without
    /// a branch; [`VACANT`] if none is equal. No digest equals a vacant slot's zeros, and if one
    /// did it would still select [`VACANT`].
    fn probe(&self, hash: &KeyHash, mut equal: impl FnMut(&KeyHash, &KeyHash) -> Choice) -> u32 {
        let first = hash.first_slot(self.slots.len());
        let mut found = VACANT;
        for step in 0..self.probe_count {
            let slot = &self.slots[(first + step) & (self.slots.len() - 1)];
            found.conditional_assign(&slot.entry, equal(&slot.hash, hash));
        }
        found
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet({} keys)", self.entries.len())
    }
}

/// Decides whether a request may enter.
///
/// The two arguments are the values of `Authorization` and `X-API-Key` without surrounding blanks;
/// a repeated field must have been refused before. `now_unix` is the wall clock in Unix seconds,
/// read only for keys that expire. Allocates nothing.
///
/// # Errors
/// See [`AuthError`]; the client must not learn which one it was.
pub fn authenticate(
    keys: &KeySet,
    authorization: Option<&[u8]>,
    x_api_key: Option<&[u8]>,
    now_unix: u64,
) -> Result<KeyIdentity, AuthError> {
    let (identity, expires_at) = recognise(keys, authorization, x_api_key)?;
    check_expiry(expires_at, now_unix).map(|()| identity)
}

/// The key of a request and when it expires.
fn recognise(
    keys: &KeySet,
    authorization: Option<&[u8]>,
    x_api_key: Option<&[u8]>,
) -> Result<(KeyIdentity, Option<u64>), AuthError> {
    let key = presented_key(authorization, x_api_key)?;
    let (index, entry) = keys.find(&KeyHash::of(key)).ok_or(AuthError::Unknown)?;
    let identity = KeyIdentity {
        id: entry.id,
        scopes: entry.scopes,
        index,
    };
    Ok((identity, entry.expires_at))
}

fn check_expiry(expires_at: Option<u64>, now_unix: u64) -> Result<(), AuthError> {
    match expires_at {
        Some(expires_at) if now_unix >= expires_at => Err(AuthError::Expired),
        _ => Ok(()),
    }
}

/// Equality in time that depends on the lengths only; by words, since every request pays for it.
fn ct_eq(left: &[u8], right: &[u8]) -> Choice {
    if left.len() != right.len() {
        return Choice::from(0);
    }
    let (left_words, left_rest) = left.as_chunks::<8>();
    let (right_words, right_rest) = right.as_chunks::<8>();
    let difference = (left_words.iter().zip(right_words)).fold(0, |difference, (left, right)| {
        difference | (u64::from_le_bytes(*left) ^ u64::from_le_bytes(*right))
    });
    let difference = (left_rest.iter().zip(right_rest))
        .fold(difference, |difference, (left, right)| {
            difference | u64::from(left ^ right)
        });
    difference.ct_eq(&0)
}

impl KeyMemory {
    /// Nothing is remembered.
    #[must_use]
    pub const fn new() -> Self {
        Self { known: None }
    }

    /// [`authenticate`], without a digest where the very field value that was recognised last comes again
    /// under the very same set: a set that replaces it, because a key was revoked, is asked anew. Expiry is
    /// checked each time.
    ///
    /// # Errors
    /// As [`authenticate`].
    pub fn authenticate(
        &mut self,
        keys: &Arc<KeySet>,
        authorization: Option<&[u8]>,
        x_api_key: Option<&[u8]>,
        now_unix: u64,
    ) -> Result<KeyIdentity, AuthError> {
        let presented = match (authorization, x_api_key) {
            (Some(value), None) => Some((Field::Authorization, value)),
            (None, Some(value)) => Some((Field::ApiKey, value)),
            _ => None,
        };
        if let (Some(known), Some((field, value))) = (&self.known, presented)
            && known.field == field
            && std::ptr::eq(known.keys.as_ptr(), Arc::as_ptr(keys))
            && known.fingerprint == FINGERPRINT.hash_one(value)
        {
            return check_expiry(known.expires_at, now_unix).map(|()| known.identity);
        }
        let (identity, expires_at) = recognise(keys, authorization, x_api_key)?;
        self.known = presented.map(|(field, value)| {
            Box::new(Known {
                keys: Arc::downgrade(keys),
                field,
                fingerprint: FINGERPRINT.hash_one(value),
                identity,
                expires_at,
            })
        });
        check_expiry(expires_at, now_unix).map(|()| identity)
    }
}

/// SipHash under a random key. To be taken for a known key, another value would have to meet its 64 bits on
/// the same connection without knowing the key of the hash.
static FINGERPRINT: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl fmt::Debug for KeyMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyMemory(***)")
    }
}

/// Whether a text can be an API key: 1–256 visible ASCII characters.
#[must_use]
pub fn is_key(key: &[u8]) -> bool {
    (1..=KEY_BYTES_MAX).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic)
}

/// The one key of a request. A field that is present must be well formed even if the other one
/// would do: a request that says two things is refused, not interpreted.
fn presented_key<'a>(
    authorization: Option<&'a [u8]>,
    x_api_key: Option<&'a [u8]>,
) -> Result<&'a [u8], AuthError> {
    let bearer = authorization.map(bearer_key).transpose()?;
    if x_api_key.is_some_and(|key| !is_key(key)) {
        return Err(AuthError::Malformed);
    }
    match (bearer, x_api_key) {
        (Some(bearer), Some(key)) if bearer != key => Err(AuthError::Conflicting),
        (Some(key), _) | (None, Some(key)) => Ok(key),
        (None, None) => Err(AuthError::Missing),
    }
}

/// `auth-scheme 1*SP token` with the scheme in any case (RFC 9110 section 11.4).
fn bearer_key(value: &[u8]) -> Result<&[u8], AuthError> {
    let (scheme, rest) = value
        .split_at_checked(BEARER.len())
        .ok_or(AuthError::Malformed)?;
    let blanks = rest.iter().take_while(|byte| **byte == b' ').count();
    let key = rest.get(blanks..).unwrap_or_default();
    if blanks == 0 || !scheme.eq_ignore_ascii_case(BEARER) || !is_key(key) {
        return Err(AuthError::Malformed);
    }
    Ok(key)
}

/// Longest API key.
pub const KEY_BYTES_MAX: usize = 256;

const BEARER: &[u8] = b"Bearer";
/// The bit that tells ids of stored keys from positions in the configuration.
const STORED: u64 = 1 << 63;
/// The entry index of an empty slot.
const VACANT: u32 = u32::MAX;

#[cfg(test)]
mod tests;
