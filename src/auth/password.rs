//! The administrator's password: kept as an Argon2id hash once the router runs, checked at the same cost
//! whatever is wrong. Every check takes tens of milliseconds and 19 MiB: never on a worker.

use std::fmt;

use argon2::password_hash::phc::PasswordHash as Phc;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier};

use super::secret::Secret;

/// How the administrator's password was given, or is kept.
#[derive(Clone, PartialEq, Eq)]
pub enum AdminPassword {
    /// The documented one, which works from loopback only.
    Default,
    /// In the clear, as read from the configuration; [`AdminPassword::seal`] puts an end to that.
    Clear(Secret),
    /// As a hash.
    Hash(PasswordHash),
}

/// An Argon2id hash in the form `$argon2id$v=19$m=…,t=…,p=…$salt$hash`.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(Box<str>);

impl AdminPassword {
    /// Reads the setting: a hash if it begins like one, else a password.
    ///
    /// # Errors
    /// What a hash must be, if it begins like one and is not.
    pub fn of_setting(text: &str) -> Result<Self, &'static str> {
        if text.starts_with("$argon2") {
            PasswordHash::parse(text).map(Self::Hash)
        } else if text == DEFAULT_PASSWORD {
            Ok(Self::Default)
        } else {
            Ok(Self::Clear(Secret::new(text.to_owned())))
        }
    }

    /// The hash that was made of a password, as [`AdminPassword::hash`] has told it; `None` if it is none.
    #[must_use]
    pub fn of_hash(text: &str) -> Option<Self> {
        PasswordHash::parse(text).ok().map(Self::Hash)
    }

    /// Its hash, as text; `None` as long as it is in the clear.
    #[must_use]
    pub fn hash(&self) -> Option<&str> {
        match self {
            Self::Default => Some(DEFAULT_HASH),
            Self::Clear(_) => None,
            Self::Hash(hash) => Some(&hash.0),
        }
    }

    /// Puts a hash in the place of a password in the clear. If it is the password of `earlier`, that very
    /// hash, so that both are equal.
    ///
    /// # Errors
    /// The system has no random bytes or no memory for it.
    pub fn seal(&mut self, earlier: Option<&Self>) -> Result<(), &'static str> {
        let Self::Clear(password) = self else {
            return Ok(());
        };
        let password = password.expose().as_bytes();
        let sealed = match earlier {
            Some(Self::Hash(earlier)) if earlier.matches(password) => earlier.clone(),
            _ => PasswordHash::of(password)?,
        };
        *self = Self::Hash(sealed);
        Ok(())
    }

    /// Whether it is the one everybody knows.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::Default
    }

    /// Whether `candidate` is the password.
    #[must_use]
    pub fn matches(&self, candidate: &[u8]) -> bool {
        match self {
            Self::Default => PasswordHash(DEFAULT_HASH.into()).matches(candidate),
            Self::Clear(password) => password.matches(candidate),
            Self::Hash(hash) => hash.matches(candidate),
        }
    }
}

impl PasswordHash {
    /// Hashes a password under a random salt.
    ///
    /// # Errors
    /// The system has no random bytes or no memory for it.
    pub fn of(password: &[u8]) -> Result<Self, &'static str> {
        let hash = Argon2::default().hash_password(password);
        hash.map(|hash| Self(hash.to_string().into()))
            .map_err(|_| "the password cannot be hashed")
    }

    /// Reads a hash that was made elsewhere.
    ///
    /// # Errors
    /// What it must be.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let hash = Phc::new(text).map_err(|_| RULE)?;
        let params = Params::try_from(&hash).map_err(|_| RULE)?;
        let is_argon2id = hash.algorithm == Algorithm::Argon2id.ident();
        let is_whole = hash.salt.is_some() && hash.hash.is_some();
        // Weaker ones are guessed too fast, stronger ones let each login take the machine's memory.
        let is_bounded = params.m_cost() >= MEMORY_KIB_MIN
            && params.m_cost() <= MEMORY_KIB_MAX
            && params.t_cost() <= PASSES_MAX
            && params.p_cost() <= LANES_MAX;
        if is_argon2id && is_whole && is_bounded {
            Ok(Self(text.into()))
        } else {
            Err(RULE)
        }
    }

    /// Whether `candidate` is the password.
    #[must_use]
    pub fn matches(&self, candidate: &[u8]) -> bool {
        Argon2::default()
            .verify_password(candidate, &*self.0)
            .is_ok()
    }
}

impl fmt::Debug for AdminPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminPassword(***)")
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(***)")
    }
}

const DEFAULT_PASSWORD: &str = "test";
/// Of the default password, which is no secret: nothing is hashed at start where nobody set one.
const DEFAULT_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$kKqCnONyNEtwFSfTr14e1w$U5wU/p/IZdJq8UGTz7lq+dkhkoF6GbrdIJyNGsiyfn4";

const RULE: &str = "must be a whole Argon2id hash, $argon2id$v=19$m=…,t=…,p=…$salt$hash, with m from 7168 \
                    to 262144 KiB, t up to 16 and p up to 16";
/// The least memory of OWASP's equivalent settings.
const MEMORY_KIB_MIN: u32 = 7168;
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_password_is_recognised_by_its_built_in_hash() {
        let password = AdminPassword::of_setting("test").unwrap();
        assert!(password.is_default());
        assert!(password.matches(b"test") && !password.matches(b"tesT"));
        assert!(PasswordHash::parse(DEFAULT_HASH).is_ok());
    }

    #[test]
    fn a_sealed_password_is_a_hash_of_the_recommended_strength() {
        let mut password = AdminPassword::of_setting("hunter2").unwrap();
        assert!(password.matches(b"hunter2"));
        password.seal(None).unwrap();
        let AdminPassword::Hash(hash) = &password else {
            panic!("it is still in the clear");
        };
        assert!(
            hash.0.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{}",
            hash.0
        );
        assert!(password.matches(b"hunter2") && !password.matches(b"hunter3"));
        assert!(!format!("{password:?} {hash:?}").contains("argon2id$"));
    }

    #[test]
    fn the_same_password_sealed_again_is_equal_and_another_is_not() {
        let sealed = |text: &str, earlier: Option<&AdminPassword>| {
            let mut password = AdminPassword::of_setting(text).unwrap();
            password.seal(earlier).unwrap();
            password
        };
        let first = sealed("hunter2", None);
        assert_eq!(sealed("hunter2", Some(&first)), first);
        assert_ne!(sealed("hunter3", Some(&first)), first);
        assert_ne!(sealed("hunter2", None), first, "the salt is random");
    }

    #[test]
    fn a_hash_from_elsewhere_is_taken_if_it_is_sound() {
        let mut hash = AdminPassword::of_setting(DEFAULT_HASH).unwrap();
        assert!(matches!(hash, AdminPassword::Hash(_)) && hash.matches(b"test"));
        let before = hash.clone();
        hash.seal(None).unwrap();
        assert_eq!(hash, before);
        for broken in [
            "$argon2id$",
            "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA",
            &DEFAULT_HASH.replace("argon2id", "argon2i"),
            &DEFAULT_HASH.replace("m=19456", "m=1024"),
            &DEFAULT_HASH.replace("m=19456", "m=4000000"),
            &DEFAULT_HASH.replace("t=2", "t=1000"),
            &DEFAULT_HASH.replace("p=1", "p=1000"),
            &DEFAULT_HASH.replace("m=19456", "m=x"),
        ] {
            assert!(AdminPassword::of_setting(broken).is_err(), "{broken}");
        }
    }
}
