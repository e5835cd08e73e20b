//! The key table against its documentation, its ranges and its layers.

use std::time::Duration;

use super::keys::KEYS;
use super::*;

/// Path, accepted texts (both ends of the range), refused texts (just outside, wrong type).
#[rustfmt::skip]
const EDGES: &[(&str, &[&str], &[&str])] = &[
    ("server.host", &["0.0.0.0", "127.0.0.1", "::", "::1", "localhost"],
        &["example.com", "0.0.0.0:80", "[::]", "127.1", "256.0.0.1"]),
    ("server.port", &["0", "65535"], &["65536", "-1", "+1", "80.0", "http", " 80"]),
    ("server.workers", &["0", "1024"], &["1025", "-1", "auto"]),
    ("server.pin_workers", &["true", "false", "1", "0"], &["yes", "TRUE", "2"]),
    ("server.io_driver", &["auto", "io_uring", "epoll"], &["iouring", "Auto", "kqueue"]),
    ("server.data_dir", &["data", "/var/lib/llm-router"], &["da\nta"]),
    ("server.max_connections", &["0", "1000000"], &["1000001", "-1"]),
    ("server.drain_announce_secs", &["0", "0.5", "300"], &["300.1", "-1"]),
    ("server.drain_grace_secs", &["0", "86400"], &["86400.1", "-0.1"]),
    ("load_manager.max_waiting", &["1", "1000"], &["0", "1001", "1.5"]),
    ("load_manager.default_timeout_secs", &["1", "1.5", "300"],
        &["0.9", "300.1", "nan", "inf", "1e2"]),
    ("load_manager.warning_threshold", &["0", "0.79"], &["-0.1", "1.01", "50%", "0.8"]),
    ("load_manager.overload_threshold", &["0.51", "1"], &["0.5", "1.01", "nan"]),
    ("load_manager.max_concurrent", &["1", "1000000"], &["0", "1000001"]),
    ("queue.max_size", &["1", "10000"], &["0", "10001"]),
    ("queue.timeout_secs", &["1", "3600"], &["0.99", "3600.5"]),
    ("queue.enable_fairness", &["true", "false"], &["on"]),
    ("queue.stream_position", &["true", "false"], &["on"]),
    ("queue.deadline_aware", &["true", "false"], &["yes"]),
    ("connection_pool.max_idle_per_host", &["1", "1000"], &["0", "1001"]),
    ("connection_pool.idle_timeout_secs", &["1", "3600"], &["0.5", "3601"]),
    ("node_cache.max_capacity", &["1", "1000000"], &["0", "1000001"]),
    ("node_cache.ttl_secs", &["0.1", "60"], &["0.09", "60.1"]),
    ("proxy.request_timeout_secs", &["1", "86400"], &["0.9", "86401"]),
    ("proxy.connect_timeout_secs", &["0.1", "300"], &["0.09", "300.1"]),
    ("proxy.stream_idle_timeout_secs", &["1", "86400"], &["0.9", "86401"]),
    ("proxy.max_body_bytes", &["1024", "268435456"], &["1023", "1073741825", "32MiB", "1e6"]),
    ("proxy.max_buffered_bytes", &["67108864", "1099511627776"],
        &["67108863", "1023", "1099511627777"]),
    ("http.head_timeout_secs", &["0.1", "300"], &["0.09", "300.1"]),
    ("http.idle_timeout_secs", &["1", "86400"], &["0.9", "86401"]),
    ("http.body_idle_timeout_secs", &["0.1", "3600"], &["0.09", "3600.1"]),
    ("http.body_timeout_secs", &["1", "86400"], &["0.9", "86401"]),
    ("http.write_stall_timeout_secs", &["1", "3600"], &["0.9", "3601"]),
    ("http.first_byte_timeout_secs", &["0.1", "300"], &["0.09", "300.1"]),
    ("health.probe_interval_secs", &["1", "3600"], &["0.9", "3601"]),
    ("health.probe_timeout_secs", &["0.1", "60"], &["0.09", "60.1"]),
    ("health.heartbeat_timeout_secs", &["5", "3600"], &["4.9", "3601"]),
    ("registration.allowed_networks", &["10.0.0.0/8", "10.0.0.0/8, fc00::/7", "192.168.1.20"],
        &["10.0.0.1/8", "10.0.0.0/33", "gpu-1", "10.0.0.0/8,,::1", "010.0.0.0/8"]),
    ("auth.required", &["true", "false"], &["maybe"]),
    ("auth.api_keys", &["k", "sk-one,sk-two", "sk-one , sk-two"],
        &["sk one", "sk-ä", "a,a", "a,,b", ","]),
    ("auth.admin_username", &["root", "管理者"], &["a\tb"]),
    ("auth.admin_password", &["p", "two words"], &["a\0b", "$argon2id$v=19"]),
    ("auth.session_hours", &["1", "720"], &["0", "721", "1.5"]),
    ("auth.session_idle_minutes", &["1", "1440"], &["0", "1441"]),
    ("metrics.require_key", &["true", "false"], &["none"]),
    ("history.enabled", &["true", "false"], &["on"]),
    ("history.retention_days", &["1", "3650"], &["0", "3651", "0.5"]),
    ("history.max_rows", &["1000", "100000000"], &["999", "100000001"]),
    ("log.access", &["off", "stdout", "stderr", "./a.log", "/var/log/a"],
        &["stdou", "a.log", "/a\nb"]),
    ("log.level", &["error", "warn", "info", "debug"], &["warning", "INFO", "trace"]),
];

/// Gives one setting a value other than its default.
pub(super) fn change_one(config: &mut Config, path: &str) -> bool {
    let Some((_, accepted, _)) = EDGES.iter().find(|(known, ..)| *known == path) else {
        return false;
    };
    let key = keys::find(path).unwrap();
    accepted.iter().any(|text| {
        (key.set)(config, value::Raw::Text(text)).is_ok()
            && !(key.is_same)(config, &Config::default())
    })
}

fn load_text(path: &str, text: &str) -> Result<Loaded, Problems> {
    let key = keys::find(path).unwrap();
    let name = key.environment.last().copied().unwrap();
    resolve(None, &Environment::from_pairs([(name, text)]), &[])
}

/// The same through the file, where numbers and truth values have their own types.
fn load_toml(path: &str, text: &str) -> Result<Loaded, Problems> {
    let (section, name) = path.split_once('.').unwrap();
    let is_list = ["auth.api_keys", "registration.allowed_networks"].contains(&path);
    let is_bare = text.parse::<f64>().is_ok() || text == "true" || text == "false";
    let value = match text {
        _ if is_list => format!("{:?}", text.split(',').map(str::trim).collect::<Vec<_>>()),
        _ if is_bare => text.to_owned(),
        _ => format!("{:?}", text.replace('\0', "\u{1}")).replace("\\u{1}", "\\u0001"),
    };
    let text = format!("[{section}]\n{name} = {value}\n");
    resolve(
        Some(FileText {
            name: "test.toml",
            text: &text,
        }),
        &Environment::default(),
        &[],
    )
}

#[test]
fn every_key_has_its_edges_tested() {
    let tested: Vec<&str> = EDGES.iter().map(|(path, ..)| *path).collect();
    let known: Vec<&str> = KEYS.iter().map(|key| key.path).collect();
    assert_eq!(tested, known);
}

#[test]
fn every_key_accepts_both_ends_of_its_range_from_environment_and_file() {
    for (path, accepted, _) in EDGES {
        for text in *accepted {
            let from_text = load_text(path, text).map(|loaded| loaded.config);
            assert!(from_text.is_ok(), "{path} = {text}: {from_text:?}");
            // Truth values are typed in the file; 0 and 1 are for shells.
            if !matches!((*path, *text), ("server.pin_workers", "0" | "1")) {
                let from_file = load_toml(path, text).map(|loaded| loaded.config);
                assert_eq!(from_file, from_text, "{path} = {text}");
            }
        }
    }
}

#[test]
fn every_key_refuses_what_lies_outside_its_range() {
    for (path, _, refused) in EDGES {
        for text in *refused {
            let problems = load_text(path, text).unwrap_err();
            let section = path.split('.').next().unwrap();
            for problem in problems.as_slice() {
                assert!(
                    problem.key.starts_with(section),
                    "{path} = {text}: {problem}"
                );
                assert!(
                    matches!(problem.origin, Origin::Environment(_)),
                    "{problem}"
                );
            }
        }
    }
}

#[test]
fn the_file_refuses_what_the_environment_refuses() {
    for (path, _, refused) in EDGES {
        for text in *refused {
            // TOML has a sign and an exponent for numbers, which are legal spellings there.
            if !["+1", "1e2", "1e6"].contains(text) {
                assert!(load_toml(path, text).is_err(), "{path} = {text}");
            }
        }
    }
}

#[test]
fn every_key_and_variable_is_documented_in_the_configuration_file() {
    let text = include_str!("../../config.toml");
    let table: toml::Table = text.parse().unwrap();
    for key in KEYS {
        let (section, name) = key.path.split_once('.').unwrap();
        assert!(
            table[section].as_table().unwrap().contains_key(name),
            "{}",
            key.path
        );
        for variable in key.environment {
            assert!(text.contains(variable), "{variable}");
        }
    }
}

#[test]
fn the_documented_file_equals_no_file() {
    let source = FileText {
        name: "config.toml",
        text: include_str!("../../config.toml"),
    };
    let documented = resolve(Some(source), &Environment::default(), &[]).unwrap();
    let nothing = resolve(None, &Environment::default(), &[]).unwrap();
    assert_eq!(documented.config, nothing.config);
    assert_eq!(nothing.config, Config::default());
    assert_eq!(documented.warnings, nothing.warnings);
}

#[test]
fn no_two_keys_share_a_variable() {
    let mut names: Vec<&str> = KEYS
        .iter()
        .flat_map(|key| key.environment)
        .copied()
        .collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn durations_keep_their_fraction() {
    let loaded = load_toml("node_cache.ttl_secs", "0.1").unwrap();
    assert_eq!(loaded.config.node_cache.ttl, Duration::from_millis(100));
    let loaded = load_text("queue.timeout_secs", "1.25").unwrap();
    assert_eq!(loaded.config.queue.timeout, Duration::from_millis(1250));
}
