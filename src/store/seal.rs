//! Seals what must be sent to nodes and so cannot be kept as a digest.
//!
//! The key lies beside the database in a file of its own, so that a copy of the database alone opens
//! nothing. A seal is bound to its node: moved to another row, it does not open.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::auth::Secret;

use super::files::hold;

/// The key file of a data directory.
#[derive(Debug)]
pub(super) struct Sealer {
    path: PathBuf,
}

type Key = Zeroizing<[u8; KEY_BYTES]>;

impl Sealer {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            path: directory.join("seal.key"),
        }
    }

    /// Seals `secret` for `owner`; the first call of an installation makes the key.
    pub(super) fn seal(&self, owner: u64, secret: &Secret) -> io::Result<Vec<u8>> {
        let key = match self.read()? {
            Some(key) => key,
            None => self.make()?,
        };
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        let payload = Payload {
            msg: secret.expose().as_bytes(),
            aad: &owner.to_le_bytes(),
        };
        let sealed = cipher(&key)
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| io::Error::other("it is too long to be sealed"))?;
        Ok([&[FORM], &nonce[..], &sealed].concat())
    }

    /// Opens what [`Sealer::seal`] made; `None` if the key is another one by now, or gone.
    pub(super) fn open(&self, owner: u64, sealed: &[u8]) -> Option<Secret> {
        let (&FORM, rest) = sealed.split_first()? else {
            return None;
        };
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let key = self.read().ok().flatten()?;
        let payload = Payload {
            msg: sealed,
            aad: &owner.to_le_bytes(),
        };
        let text = cipher(&key).decrypt(&XNonce::from(*nonce), payload).ok()?;
        String::from_utf8(text).ok().map(Secret::new)
    }

    /// The key; `None` if there is none, or nothing that could be one.
    fn read(&self) -> io::Result<Option<Key>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut key = Key::default();
        match file.read_exact(key.as_mut_slice()) {
            Ok(()) if file.read(&mut [0])? == 0 => Ok(Some(key)),
            Ok(()) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the key, unless another process was quicker.
    fn make(&self) -> io::Result<Key> {
        let directory = self.path.parent().unwrap_or_else(|| Path::new("."));
        let _held = hold(directory)?;
        if let Some(key) = self.read()? {
            return Ok(key);
        }
        // What is no key is moved away, should somebody still know what it was.
        match fs::rename(&self.path, self.path.with_extension("key.damaged")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut key = Key::default();
        getrandom::fill(key.as_mut_slice()).map_err(io::Error::other)?;
        let temporary = self.path.with_extension("key.tmp");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(key.as_slice())?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        // A seal must not outlive its key: the rename is durable only once the directory is.
        File::open(directory)?.sync_all()?;
        Ok(key)
    }
}

fn cipher(key: &Key) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new((&**key).into())
}

/// The first byte of a seal, should there ever be another form.
const FORM: u8 = 1;
const NONCE_BYTES: usize = 24;
const KEY_BYTES: usize = 32;

#[cfg(all(test, not(loom)))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::tests::Directory;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn what_was_sealed_opens_again_for_its_owner_only() {
        let directory = Directory::new();
        let sealer = Sealer::new(directory.path());
        let sealed = sealer.seal(7, &secret("sk-node")).unwrap();
        assert_eq!(sealer.open(7, &sealed), Some(secret("sk-node")));
        assert_eq!(sealer.open(8, &sealed), None);
        assert!(!sealed.windows(7).any(|bytes| bytes == b"sk-node"));
        let again = sealer.seal(7, &secret("sk-node")).unwrap();
        assert_ne!(again, sealed, "a nonce was used twice");
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert_eq!(sealer.open(7, &changed), None, "byte {index}");
            assert_eq!(sealer.open(7, &sealed[..index]), None, "cut at {index}");
        }
    }

    #[test]
    fn the_key_is_made_on_first_need_and_only_its_owner_may_read_it() {
        let directory = Directory::new();
        let sealer = Sealer::new(directory.path());
        assert_eq!(sealer.open(1, &[FORM; 60]), None);
        assert!(!directory.path().join("seal.key").exists());
        sealer.seal(1, &secret("x")).unwrap();
        let metadata = fs::metadata(directory.path().join("seal.key")).unwrap();
        assert_eq!(
            (metadata.len(), metadata.permissions().mode() & 0o777),
            (32, 0o600)
        );
        let entries = fs::read_dir(directory.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["llm-router.db.lock", "seal.key"]);
    }

    #[test]
    fn a_lost_or_damaged_key_opens_nothing_and_is_replaced_when_needed() {
        let directory = Directory::new();
        let sealer = Sealer::new(directory.path());
        let file = directory.path().join("seal.key");
        let sealed = sealer.seal(1, &secret("x")).unwrap();
        fs::write(&file, b"too short").unwrap();
        assert_eq!(sealer.open(1, &sealed), None);
        let second = sealer.seal(1, &secret("y")).unwrap();
        assert_eq!(sealer.open(1, &second), Some(secret("y")));
        assert_eq!(sealer.open(1, &sealed), None);
        let aside = directory.path().join("seal.key.damaged");
        assert_eq!(fs::read(aside).unwrap(), b"too short");
        fs::remove_file(&file).unwrap();
        assert_eq!(sealer.open(1, &second), None);
    }

    #[test]
    fn of_many_that_make_the_key_at_once_all_end_with_the_same() {
        let directory = Directory::new();
        let sealed: Vec<_> = std::thread::scope(|scope| {
            let seal = || Sealer::new(directory.path()).seal(1, &secret("x")).unwrap();
            let sealing: Vec<_> = (0..8).map(|_| scope.spawn(seal)).collect();
            sealing
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let sealer = Sealer::new(directory.path());
        assert!(sealed.iter().all(|sealed| sealer.open(1, sealed).is_some()));
    }
}
