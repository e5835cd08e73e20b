//! The key file through ordinary days, two writers at once, crashes and damage.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::*;
use crate::auth::Scope;
use crate::auth::key::{AuthError, KeySet, authenticate};

const NOW: u64 = 1_800_000_000;

/// A data directory that goes away with the test.
struct TestDir(PathBuf);

impl TestDir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("llm-router-keys-{}-{count}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn store(&self) -> KeyStore {
        KeyStore::new(&self.0)
    }

    fn file(&self) -> PathBuf {
        self.0.join("api-keys.json")
    }

    fn temporary(&self) -> PathBuf {
        self.0.join("api-keys.json.tmp")
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn request(name: &str) -> KeyRequest<'_> {
    KeyRequest {
        name,
        scopes: Scope::Inference.into(),
        created_at: NOW,
        expires_at: None,
    }
}

#[test]
fn a_created_key_is_listed_opens_the_router_and_stops_when_revoked() {
    let dir = TestDir::new();
    let store = dir.store();
    let (created, secret) = store.create(request("alice")).unwrap();
    let (other, _) = store.create(request("bob")).unwrap();
    assert_eq!(store.list().unwrap(), [created.clone(), other.clone()]);
    assert_eq!(
        created.last_four,
        secret.expose()[secret.expose().len() - 4..]
    );

    let admit = || {
        let keys = store.list().unwrap();
        let set = KeySet::new(keys.iter().map(StoredKey::entry).collect());
        authenticate(&set, None, Some(secret.expose().as_bytes()), NOW).map(|who| who.id)
    };
    assert_eq!(admit(), Ok(created.id));
    assert_eq!(store.revoke(created.id).unwrap(), Some(created.clone()));
    assert_eq!(admit(), Err(AuthError::Unknown));
    assert_eq!(store.list().unwrap(), [other]);
    assert_eq!(
        store.revoke(created.id).unwrap(),
        None,
        "revoking twice is harmless"
    );
}

#[test]
fn every_field_survives_the_file() {
    let dir = TestDir::new();
    let scopes = Scope::ALL.into_iter().collect();
    let name = "名前 \"with\" \\ quotes";
    let request = KeyRequest {
        name,
        scopes,
        created_at: 1,
        expires_at: Some(u64::MAX),
    };
    let (created, _) = dir.store().create(request).unwrap();
    assert_eq!(dir.store().list().unwrap(), std::slice::from_ref(&created));
    assert_eq!(
        (created.scopes, created.expires_at),
        (scopes, Some(u64::MAX))
    );
}

#[test]
fn the_file_holds_no_key_and_only_its_owner_may_read_it() {
    let dir = TestDir::new();
    let (_, secret) = dir.store().create(request("alice")).unwrap();
    let text = fs::read_to_string(dir.file()).unwrap();
    assert!(!text.contains(&secret.expose()[3..]));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.file()), 0o600);
    assert_eq!(mode(&dir.0.join("api-keys.lock")), 0o600);
    assert_eq!(mode(&dir.0), 0o700);
}

#[test]
fn a_directory_without_a_file_has_no_keys_and_reading_makes_none() {
    let dir = TestDir::new();
    assert_eq!(dir.store().list().unwrap(), []);
    assert_eq!(dir.store().revoke(KeyId::of_store(1)).unwrap(), None);
    assert!(!dir.0.exists());
}

#[test]
fn writers_at_the_same_time_lose_nothing() {
    let dir = TestDir::new();
    thread::scope(|scope| {
        for writer in 0..8 {
            let store = dir.store();
            scope.spawn(move || {
                for number in 0..5 {
                    until_created(&store, &format!("{writer}-{number}"));
                }
            });
        }
    });
    let keys = dir.store().list().unwrap();
    let mut names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 40);
}

/// Tries again when others kept the lock for longer than a writer waits, as a slow disk may make them.
fn until_created(store: &KeyStore, name: &str) {
    let is_busy = |error: &StoreError| {
        matches!(error, StoreError::Io { action: "lock", source, .. }
            if source.kind() == io::ErrorKind::WouldBlock)
    };
    for _ in 0..30 {
        match store.create(request(name)) {
            Err(error) if is_busy(&error) => {}
            created => return drop(created.unwrap()),
        }
    }
    panic!("the lock never came free");
}

#[test]
fn a_reader_beside_a_writer_sees_whole_files_only() {
    let dir = TestDir::new();
    let store = dir.store();
    store.create(request("first")).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..20 {
                store.create(request(&number.to_string())).unwrap();
            }
        });
        let mut seen = 1;
        while !writer.is_finished() {
            let count = dir.store().list().unwrap().len();
            assert!(count >= seen, "{count} keys after {seen}");
            seen = count;
        }
    });
    assert_eq!(dir.store().list().unwrap().len(), 21);
}

#[test]
fn a_half_written_temporary_file_is_ignored_and_replaced() {
    let dir = TestDir::new();
    let (created, _) = dir.store().create(request("alice")).unwrap();
    fs::write(dir.temporary(), b"{\"version\":1,\"keys\":[{\"id\":\"80").unwrap();
    fs::set_permissions(dir.temporary(), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(dir.store().list().unwrap(), [created]);
    dir.store().create(request("bob")).unwrap();
    assert!(!dir.temporary().exists());
    assert_eq!(dir.store().list().unwrap().len(), 2);
    let mode = fs::metadata(dir.file()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
}

#[test]
fn a_temporary_name_that_is_someones_link_is_not_followed() {
    let dir = TestDir::new();
    dir.store().create(request("alice")).unwrap();
    let victim = dir.0.join("victim");
    fs::write(&victim, b"precious").unwrap();
    std::os::unix::fs::symlink(&victim, dir.temporary()).unwrap();
    dir.store().create(request("bob")).unwrap();
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert_eq!(dir.store().list().unwrap().len(), 2);
}

#[test]
fn a_damaged_file_is_reported_and_never_overwritten() {
    let dir = TestDir::new();
    let (created, secret) = dir.store().create(request("alice")).unwrap();
    let whole = fs::read_to_string(dir.file()).unwrap();
    let record = &whole[whole.find('{').unwrap()..];
    let digest = &whole[whole.find("sha256").unwrap() + 9..][..64];
    let damaged = [
        String::new(),
        "[]".to_owned(),
        whole[..whole.len() / 2].to_owned(),
        whole.replace("\"version\": 1", "\"version\": 2"),
        whole.replace("\"keys\"", "\"kees\""),
        whole.replace("\"name\"", "\"extra\": 1, \"name\""),
        whole.replace("inference", "everything"),
        whole.replace("\"inference\"", ""),
        whole.replace(digest, &digest[1..]),
        whole.replace(
            digest,
            &digest.to_uppercase().replace(char::is_numeric, "G"),
        ),
        whole.replace(&created.id.to_string(), "0000000000000001"),
        whole.replace("\"alice\"", "\"\""),
        whole.replace("\"alice\"", "\"a\\nb\""),
        whole.replace(&format!("\"{}\"", created.last_four), "\"12345\""),
        format!("{record}{record}"),
    ];
    for text in damaged {
        assert_ne!(text, whole);
        fs::write(dir.file(), &text).unwrap();
        let results = [
            dir.store().list().map(|_| ()),
            dir.store().create(request("bob")).map(|_| ()),
            dir.store().revoke(created.id).map(|_| ()),
        ];
        for result in results {
            let error = result.unwrap_err();
            assert!(
                matches!(error, StoreError::Damaged { .. }),
                "{error} for {text}"
            );
            let message = error.to_string();
            assert!(message.contains("api-keys.json") && message.contains("left as it is"));
            assert!(!message.contains(digest) && !message.contains(secret.expose()));
        }
        assert_eq!(
            fs::read_to_string(dir.file()).unwrap(),
            text,
            "nothing lost"
        );
    }
}

#[test]
fn two_keys_with_one_id_are_damage() {
    let dir = TestDir::new();
    let (one, _) = dir.store().create(request("alice")).unwrap();
    let (two, _) = dir.store().create(request("bob")).unwrap();
    let whole = fs::read_to_string(dir.file()).unwrap();
    fs::write(
        dir.file(),
        whole.replace(&two.id.to_string(), &one.id.to_string()),
    )
    .unwrap();
    assert!(matches!(
        dir.store().list(),
        Err(StoreError::Damaged { .. })
    ));
}

#[test]
fn every_change_of_the_file_shows_in_its_stamp() {
    let dir = TestDir::new();
    let store = dir.store();
    assert_eq!(store.changed_since(Stamp::ABSENT).unwrap(), None);
    let (one, _) = store.create(request("alice")).unwrap();
    let first = store.changed_since(Stamp::ABSENT).unwrap().unwrap();
    assert_eq!(store.changed_since(first).unwrap(), None);
    store.create(request("bob")).unwrap();
    let second = store.changed_since(first).unwrap().unwrap();
    store.revoke(one.id).unwrap();
    let third = store.changed_since(second).unwrap().unwrap();
    assert_ne!(first, third);
    fs::remove_file(dir.file()).unwrap();
    assert_eq!(store.changed_since(third).unwrap(), Some(Stamp::ABSENT));
}

#[test]
fn an_invalid_request_makes_no_key() {
    let dir = TestDir::new();
    let long = "n".repeat(KEY_NAME_BYTES_MAX + 1);
    let requests = [
        request(""),
        request("a\nb"),
        request(&long),
        KeyRequest {
            scopes: Scopes::NONE,
            ..request("alice")
        },
        KeyRequest {
            expires_at: Some(NOW),
            ..request("alice")
        },
    ];
    for request in requests {
        let result = dir.store().create(request);
        assert!(matches!(result, Err(StoreError::Invalid(_))), "{request:?}");
    }
    assert!(!dir.0.exists());
    assert!(dir.store().create(request(&long[1..])).is_ok());
}

#[test]
fn a_directory_that_cannot_be_made_is_named_in_the_error() {
    let dir = TestDir::new();
    fs::write(&dir.0, b"a file").unwrap();
    let error = dir.store().create(request("alice")).unwrap_err();
    assert!(
        error.to_string().contains(&dir.0.display().to_string()),
        "{error}"
    );
    fs::remove_file(&dir.0).unwrap();
}
