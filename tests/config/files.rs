//! Configuration files on disk.

use std::fs;
use std::path::PathBuf;

use llm_router::config::{AccessLog, Sources};

use crate::file;

#[test]
fn the_file_may_say_where_access_records_go() {
    let access = |value: &str| {
        file(&format!("[log]\naccess = '{value}'"))
            .unwrap()
            .config
            .log
    };
    assert_eq!(access("stderr").access, AccessLog::Stderr);
    assert_eq!(
        access("./a.log").access,
        AccessLog::File(PathBuf::from("./a.log"))
    );
}

/// A directory that goes away with the test.
struct TestDir(PathBuf);

impl TestDir {
    fn new(name: &str) -> Self {
        let name = format!("llm-router-config-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_named_file_is_read_each_time_and_must_exist() {
    let dir = TestDir::new("named");
    let path = dir.0.join("router.toml");
    let sources = Sources {
        file: Some(path.clone()),
        ..Sources::default()
    };
    let missing = sources.load().unwrap_err().to_string();
    assert!(
        missing.contains("router.toml: cannot be read: No such file"),
        "{missing}"
    );
    fs::write(&path, "[server]\nport = 1\n").unwrap();
    let loaded = sources.load().unwrap();
    assert_eq!(
        (loaded.config.server.port, loaded.file),
        (1, Some(path.clone()))
    );
    fs::write(&path, "[server]\nport = 2\n").unwrap();
    assert_eq!(sources.load().unwrap().config.server.port, 2);
}

#[test]
fn a_file_that_is_no_text_or_far_too_large_is_refused() {
    let dir = TestDir::new("unreadable");
    let path = dir.0.join("router.toml");
    let sources = Sources {
        file: Some(path.clone()),
        ..Sources::default()
    };
    fs::write(&path, b"[server]\nport = \xff").unwrap();
    assert!(sources.load().unwrap_err().to_string().contains("UTF-8"));
    fs::write(&path, vec![b'#'; 8 * 1024 * 1024 + 1]).unwrap();
    assert!(
        sources
            .load()
            .unwrap_err()
            .to_string()
            .contains("larger than 8388608 bytes")
    );
    fs::write(&path, vec![b'#'; 8 * 1024 * 1024]).unwrap();
    assert!(sources.load().is_ok());
    let sources = Sources {
        file: Some(dir.0.clone()),
        ..Sources::default()
    };
    assert!(sources.load().is_err(), "a directory is no file");
}
