//! Credentials in every spelling, and lookups whose work does not depend on the key.

use super::*;

const NOW: u64 = 1_800_000_000;

fn stored(key: &str, number: u64) -> KeyEntry {
    KeyEntry {
        hash: KeyHash::of(key.as_bytes()),
        id: KeyId::of_store(number),
        name: key.into(),
        scopes: Scope::Inference.into(),
        expires_at: None,
    }
}

fn set_of(count: u64) -> KeySet {
    KeySet::new(
        (0..count)
            .map(|number| stored(&format!("sk-{number}"), number))
            .collect(),
    )
}

fn bearer(keys: &KeySet, value: &[u8]) -> Result<KeyIdentity, AuthError> {
    authenticate(keys, Some(value), None, NOW)
}

#[test]
fn a_digest_is_sha_256() {
    // FIPS 180-2 appendix B.1.
    let expected = [0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea];
    assert_eq!(KeyHash::of(b"abc").0[..8], expected);
}

#[test]
fn a_digest_is_never_printed() {
    let entry = stored("sk-1", 1);
    assert!(!format!("{entry:?} {:?}", set_of(3)).contains(&format!("{:?}", entry.hash.0)));
    assert_eq!(format!("{:?}", entry.hash), "KeyHash(***)");
}

#[test]
fn every_key_of_a_set_is_recognised_as_itself() {
    for count in [1, 2, 3, 8, 100, 1000] {
        let keys = set_of(count);
        assert_eq!(keys.len(), usize::try_from(count).unwrap());
        for number in 0..count {
            let value = format!("Bearer sk-{number}");
            let identity = bearer(&keys, value.as_bytes()).unwrap();
            assert_eq!(identity.id, KeyId::of_store(number));
            assert_eq!(
                *keys.entry(identity).unwrap().name,
                value["Bearer ".len()..]
            );
        }
        assert_eq!(bearer(&keys, b"Bearer sk-unknown"), Err(AuthError::Unknown));
    }
}

#[test]
fn an_empty_set_recognises_nobody() {
    let keys = KeySet::new(Vec::new());
    assert!(keys.is_empty());
    assert_eq!(bearer(&keys, b"Bearer sk-1"), Err(AuthError::Unknown));
    assert!(
        keys.find(&KeyHash([0; 32])).is_none(),
        "a vacant slot is no key"
    );
}

#[test]
fn either_field_carries_a_key() {
    let keys = set_of(2);
    let id = KeyId::of_store(1);
    for value in ["Bearer sk-1", "bearer sk-1", "BEARER sk-1", "bEaReR   sk-1"] {
        assert_eq!(
            bearer(&keys, value.as_bytes()).map(|who| who.id),
            Ok(id),
            "{value}"
        );
    }
    let result = authenticate(&keys, None, Some(b"sk-1"), NOW);
    assert_eq!(result.map(|who| who.id), Ok(id));
}

#[test]
fn a_malformed_credential_is_refused_whatever_the_other_field_says() {
    let keys = set_of(2);
    let long = [b"Bearer ".as_slice(), &[b'k'; KEY_BYTES_MAX + 1]].concat();
    let values: [&[u8]; 14] = [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearersk-1",
        b"Bearer\tsk-1",
        b"Basic sk-1",
        b"sk-1",
        b"Bearer sk-1 ",
        b"Bearer sk-1 sk-1",
        b"Bearer sk-1\0",
        b"Bearer \xffsk-1",
        b" Bearer sk-1",
        b"Bearer sk\r\n-1",
        &long,
    ];
    for value in values {
        assert_eq!(bearer(&keys, value), Err(AuthError::Malformed), "{value:?}");
        let beside = authenticate(&keys, Some(value), Some(b"sk-1"), NOW);
        assert_eq!(beside, Err(AuthError::Malformed), "{value:?}");
    }
    for value in [
        b"".as_slice(),
        b"sk 1",
        b" sk-1",
        b"sk-1\n",
        &[b'k'; KEY_BYTES_MAX + 1],
    ] {
        let alone = authenticate(&keys, None, Some(value), NOW);
        let beside = authenticate(&keys, Some(b"Bearer sk-1"), Some(value), NOW);
        assert_eq!(
            (alone, beside),
            (Err(AuthError::Malformed), Err(AuthError::Malformed))
        );
    }
}

#[test]
fn a_key_of_the_longest_length_is_accepted() {
    let key = "k".repeat(KEY_BYTES_MAX);
    let keys = KeySet::new(vec![stored(&key, 1)]);
    assert!(bearer(&keys, format!("Bearer {key}").as_bytes()).is_ok());
}

#[test]
fn two_fields_must_say_the_same() {
    let keys = set_of(2);
    let same = authenticate(&keys, Some(b"Bearer sk-1"), Some(b"sk-1"), NOW);
    assert!(same.is_ok());
    let different = authenticate(&keys, Some(b"Bearer sk-1"), Some(b"sk-0"), NOW);
    assert_eq!(different, Err(AuthError::Conflicting));
    assert_eq!(
        authenticate(&keys, None, None, NOW),
        Err(AuthError::Missing)
    );
}

#[test]
fn a_key_is_valid_until_the_second_before_its_expiry() {
    let keys = KeySet::new(vec![KeyEntry {
        expires_at: Some(NOW),
        ..stored("sk-1", 1)
    }]);
    let at = |now| authenticate(&keys, None, Some(b"sk-1"), now).map(|who| who.id);
    assert_eq!(at(NOW - 1), Ok(KeyId::of_store(1)));
    assert_eq!(at(NOW), Err(AuthError::Expired));
}

#[test]
fn of_two_entries_for_one_key_the_first_counts() {
    let config = KeyEntry::of_config(1, KeyHash::of(b"sk-1"));
    let admin = KeyEntry {
        scopes: Scope::Admin.into(),
        ..stored("sk-1", 1)
    };
    let keys = KeySet::new(vec![config, admin]);
    let identity = bearer(&keys, b"Bearer sk-1").unwrap();
    assert_eq!(identity.id.to_string(), "config-1");
    assert!(!identity.scopes.contains(Scope::Admin));
}

/// The structure behind constant time: the number of comparisons is the same for the first key,
/// the last key, a key in a crowded place and a key that does not exist.
#[test]
fn every_lookup_makes_the_same_number_of_comparisons() {
    for count in [0, 1, 2, 7, 100, 1000] {
        let keys = set_of(count);
        let comparisons = |key: &str| {
            let mut calls = 0;
            keys.probe(&KeyHash::of(key.as_bytes()), |a, b| {
                calls += 1;
                a.ct_eq(b)
            });
            calls
        };
        for number in 0..count * 2 + 10 {
            assert_eq!(comparisons(&format!("sk-{number}")), keys.probe_count);
        }
        assert!(
            keys.probe_count <= 16,
            "{count} keys need {} probes",
            keys.probe_count
        );
    }
}

#[test]
fn digests_that_begin_alike_are_told_apart_by_their_last_byte() {
    let entry = |last: u8, number| {
        let mut hash = [7; 32];
        hash[31] = last;
        KeyEntry {
            hash: KeyHash(hash),
            ..stored("same place", number)
        }
    };
    let keys = KeySet::new((0..20).map(|last| entry(last, u64::from(last))).collect());
    for last in 0..20 {
        let (_, found) = keys.find(&entry(last, 0).hash).unwrap();
        assert_eq!(found.id, KeyId::of_store(u64::from(last)));
    }
    assert!(keys.find(&entry(20, 0).hash).is_none());
}

#[test]
fn ids_are_read_as_they_are_written() {
    let id = KeyId::of_store(0x1234);
    assert_eq!(id.to_string(), "8000000000001234");
    assert_eq!(KeyId::parse_stored("8000000000001234"), Some(id));
    for text in [
        "",
        "config-1",
        "1234",
        "0000000000001234",
        "800000000000123G",
        "800000000000123A",
    ] {
        assert_eq!(KeyId::parse_stored(text), None, "{text}");
    }
}

#[test]
fn an_identity_is_small_enough_to_copy_around() {
    assert!(size_of::<KeyIdentity>() <= 16);
}

/// Where what is remembered lies: it stays there as long as the key is not recognised anew.
fn remembered_at(memory: &KeyMemory) -> Option<*const Known> {
    memory.known.as_deref().map(std::ptr::from_ref)
}

#[test]
fn a_connection_is_asked_for_the_same_answer_without_a_digest_when_it_repeats_itself() {
    let keys = Arc::new(set_of(3));
    let mut memory = KeyMemory::new();
    for (authorization, x_api_key) in [
        (Some(&b"Bearer sk-1"[..]), None),
        (None, Some(&b"sk-2"[..])),
        (Some(&b"bearer  sk-2"[..]), None),
    ] {
        let plain = authenticate(&keys, authorization, x_api_key, NOW);
        assert!(plain.is_ok());
        let mut ask = || memory.authenticate(&keys, authorization, x_api_key, NOW);
        assert_eq!(ask(), plain);
        let place = remembered_at(&memory);
        assert!(place.is_some());
        assert_eq!(
            memory.authenticate(&keys, authorization, x_api_key, NOW),
            plain
        );
        assert_eq!(remembered_at(&memory), place);
    }
}

#[test]
fn what_a_connection_remembers_lets_nothing_else_in() {
    let keys = Arc::new(set_of(3));
    let mut memory = KeyMemory::new();
    let mut ask = |authorization: Option<&[u8]>, x_api_key: Option<&[u8]>| {
        memory.authenticate(&keys, authorization, x_api_key, NOW)
    };
    assert!(ask(Some(b"Bearer sk-1"), None).is_ok());
    assert_eq!(ask(Some(b"Bearer sk-9"), None), Err(AuthError::Unknown));
    assert_eq!(ask(Some(b"Bearer sk-1 "), None), Err(AuthError::Malformed));
    assert_eq!(ask(Some(b"sk-1"), None), Err(AuthError::Malformed));
    assert_eq!(ask(None, Some(b"Bearer sk-1")), Err(AuthError::Malformed));
    assert_eq!(ask(None, None), Err(AuthError::Missing));
    let both = ask(Some(b"Bearer sk-1"), Some(b"sk-2"));
    assert_eq!(both, Err(AuthError::Conflicting));
    assert!(ask(Some(b"Bearer sk-1"), Some(b"sk-1")).is_ok());
    assert!(ask(Some(b"Bearer sk-1"), None).is_ok());
}

#[test]
fn a_revoked_key_is_refused_at_once_although_its_connection_remembers_it() {
    let mut memory = KeyMemory::new();
    let before = Arc::new(set_of(3));
    let value = Some(&b"Bearer sk-2"[..]);
    assert!(memory.authenticate(&before, value, None, NOW).is_ok());
    let after = Arc::new(set_of(2));
    drop(before);
    let refused = memory.authenticate(&after, value, None, NOW);
    assert_eq!(refused, Err(AuthError::Unknown));
    let again = Arc::new(set_of(3));
    assert!(memory.authenticate(&again, value, None, NOW).is_ok());
}

#[test]
fn a_remembered_key_expires_on_time() {
    let mut entry = stored("sk-1", 1);
    entry.expires_at = Some(NOW + 1);
    let keys = Arc::new(KeySet::new(vec![entry]));
    let mut memory = KeyMemory::new();
    let mut ask = |now| memory.authenticate(&keys, Some(b"Bearer sk-1"), None, now);
    assert!(ask(NOW).is_ok());
    assert!(ask(NOW).is_ok());
    assert_eq!(ask(NOW + 1), Err(AuthError::Expired));
}

#[test]
fn a_connection_never_prints_the_key_it_remembers() {
    let keys = Arc::new(set_of(3));
    let mut memory = KeyMemory::new();
    let value = Some(&b"Bearer sk-1"[..]);
    assert!(memory.authenticate(&keys, value, None, NOW).is_ok());
    assert_eq!(format!("{memory:?}"), "KeyMemory(***)");
}

#[test]
fn bytes_are_equal_only_if_each_of_them_is() {
    for length in 0..40 {
        let one = vec![b'a'; length];
        assert!(bool::from(ct_eq(&one, &one)));
        assert!(!bool::from(ct_eq(&one, &vec![b'a'; length + 1])));
        for at in 0..length {
            let mut other = one.clone();
            other[at] ^= 0x80;
            assert!(!bool::from(ct_eq(&one, &other)), "{length} at {at}");
        }
    }
}
