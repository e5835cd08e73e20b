//! The content of the key file: JSON that an operator can read, checked field by field.

use serde::{Deserialize, Serialize};

use crate::auth::key::{KeyHash, KeyId};
use crate::auth::scope::{Scope, Scopes};

use super::{StoredKey, is_key_name};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    keys: Vec<Record>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    id: String,
    name: String,
    sha256: String,
    last_four: String,
    created_at: u64,
    expires_at: Option<u64>,
    scopes: Vec<String>,
}

/// The file's bytes for these keys, one key per line.
///
/// # Errors
/// None that is known: texts and numbers in plain structs always serialise. Still, a failure must
/// not become an empty file.
pub(super) fn encode(keys: &[StoredKey]) -> Result<Vec<u8>, simd_json::Error> {
    let mut bytes = format!("{{\"version\": {VERSION}, \"keys\": [").into_bytes();
    for (index, key) in keys.iter().enumerate() {
        bytes.extend_from_slice(if index == 0 { b"\n" } else { b",\n" });
        bytes.extend(simd_json::to_vec(&Record::of(key))?);
    }
    bytes.extend_from_slice(b"\n]}\n");
    Ok(bytes)
}

/// The keys in the file's bytes.
///
/// # Errors
/// What is wrong, without any of the content.
pub(super) fn decode(mut bytes: Vec<u8>) -> Result<Vec<StoredKey>, String> {
    let document: Document = simd_json::from_slice(&mut bytes)
        .map_err(|_| "it is not JSON of the expected shape".to_owned())?;
    if document.version != VERSION {
        return Err(format!(
            "its version is {}, not {VERSION}",
            document.version
        ));
    }
    let records = document.keys.iter().enumerate();
    let keys: Result<Vec<StoredKey>, String> = records
        .map(|(index, record)| {
            record
                .checked()
                .ok_or_else(|| format!("key {index} is invalid"))
        })
        .collect();
    let keys = keys?;
    let mut ids: Vec<KeyId> = keys.iter().map(|key| key.id).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("two keys have the same id".to_owned());
    }
    Ok(keys)
}

impl Record {
    fn of(key: &StoredKey) -> Self {
        Self {
            id: key.id.to_string(),
            name: key.name.clone(),
            sha256: key
                .hash
                .0
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            last_four: key.last_four.clone(),
            created_at: key.created_at,
            expires_at: key.expires_at,
            scopes: key
                .scopes
                .iter()
                .map(|scope| scope.name().to_owned())
                .collect(),
        }
    }

    fn checked(&self) -> Option<StoredKey> {
        let plain = is_key_name(&self.name) && self.last_four.bytes().all(|b| b.is_ascii_graphic());
        if !plain || self.last_four.len() > 4 {
            return None;
        }
        let scopes: Option<Scopes> = self
            .scopes
            .iter()
            .map(|name| Scope::from_name(name))
            .collect();
        Some(StoredKey {
            id: KeyId::parse_stored(&self.id)?,
            name: self.name.clone(),
            hash: KeyHash(parse_digest(&self.sha256)?),
            last_four: self.last_four.clone(),
            created_at: self.created_at,
            expires_at: self.expires_at,
            scopes: scopes.filter(|scopes| !scopes.is_empty())?,
        })
    }
}

/// 64 lower-case hexadecimal digits.
fn parse_digest(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(digest)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

const VERSION: u32 = 1;
