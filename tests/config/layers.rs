//! Which layer wins, and how what is wrong in each of them is reported.

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use llm_router::auth::key::KeyHash;
use llm_router::config::{Config, Environment, IoDriver, resolve};

use crate::{file, layers, report};

#[test]
fn everything_wrong_in_all_layers_is_reported_at_once() {
    let text = "\
[server]
prot = 8080
workers = 5000

[load_manager]
warning_threshold = 0.9
max_waiting = '100'

[proxie]
request_timeout_secs = 10

[auth]
admin_password = 7

[[nodes]]
name = 'gpu 1'
base_url = 'https://gpu-1'
wieght = 2

[[aliases]]
model = 'small'
";
    let environment = [("LLM_ROUTER_CONNECT_TIMEOUT", "soon")];
    let overrides = [
        ("server.port", "99999"),
        ("queue.size", "5"),
        ("auth.api_keys", "sk-1"),
    ];
    let result = layers(text, &environment, &overrides);
    let heading = result.as_ref().unwrap_err().to_string();
    assert!(
        heading.starts_with("14 problems in the configuration:\n"),
        "{heading}"
    );
    let expected = [
        "config.toml:2: server.prot: unknown key; did you mean server.port?",
        "config.toml:3: server.workers = 5000: must be a whole number from 0 to 1024",
        "config.toml:6: load_manager.warning_threshold = 0.9: must be below \
         load_manager.overload_threshold = 0.8",
        "config.toml:7: load_manager.max_waiting = \"100\": must be a whole number from 1 to 1000",
        "config.toml:9: proxie: unknown section; did you mean proxy?",
        "config.toml:13: auth.admin_password: must be a text of 1 to 1024 bytes without control \
         characters",
        "config.toml:16: nodes[0].name = \"gpu 1\": must be 1 to 64 letters, digits, dots, dashes \
         or underscores",
        "config.toml:17: nodes[0].base_url = \"https://gpu-1\": https nodes are not supported \
         yet; use http://",
        "config.toml:18: nodes[0].wieght: unknown key; did you mean weight?",
        "config.toml:20: aliases[0].to: is missing",
        "LLM_ROUTER_CONNECT_TIMEOUT: proxy.connect_timeout_secs = \"soon\": must be a number of \
         seconds from 0.1 to 300",
        "--set auth.api_keys: auth.api_keys: must not be on the command line, where every user of \
         the machine can read it; use the file or LLM_ROUTER_API_KEYS",
        "--set queue.size: queue.size: unknown key; did you mean queue.max_size?",
        "--set server.port: server.port = \"99999\": must be a whole number from 0 to 65535",
    ];
    assert_eq!(report(result), expected);
}

#[test]
fn each_layer_overrides_the_one_below() {
    let text = "[server]\nport = 1\nworkers = 1\nhost = '10.0.0.1'\nio_driver = 'epoll'\n";
    let environment = [("LLM_ROUTER_PORT", "2"), ("LLM_ROUTER_WORKERS", "2")];
    let loaded = layers(text, &environment, &[("server.port", "3")]).unwrap();
    let server = loaded.config.server;
    assert_eq!((server.port, server.workers), (3, 2));
    assert_eq!(server.host, "10.0.0.1".parse::<IpAddr>().unwrap());
    assert_eq!(server.io_driver, IoDriver::Epoll);
    assert_eq!(server.drain_grace, Duration::from_secs(300));
}

#[test]
fn of_two_settings_on_the_command_line_the_last_counts() {
    let loaded = layers("", &[], &[("server.port", "3"), ("server.port", "4")]).unwrap();
    assert_eq!(loaded.config.server.port, 4);
}

#[test]
fn a_wrong_value_is_reported_even_where_a_stronger_layer_replaces_it() {
    let lines = report(layers(
        "[server]\nport = -1",
        &[("LLM_ROUTER_PORT", "2")],
        &[],
    ));
    assert_eq!(
        lines,
        ["config.toml:2: server.port = -1: must be a whole number from 0 to 65535"]
    );
}

#[test]
fn the_specific_port_variable_wins_over_the_short_one() {
    let both = [("ROUTER_PORT", "1"), ("LLM_ROUTER_PORT", "2")];
    assert_eq!(layers("", &both, &[]).unwrap().config.server.port, 2);
    assert_eq!(layers("", &both[..1], &[]).unwrap().config.server.port, 1);
}

#[test]
fn the_variables_and_the_file_of_the_quick_starts_are_understood() {
    let environment = [
        ("LLM_ROUTER_MAX_WAITING", "200"),
        ("LLM_ROUTER_WAIT_TIMEOUT_SECS", "60"),
        ("LLM_ROUTER_WARNING_THRESHOLD", "0.4"),
        ("LLM_ROUTER_OVERLOAD_THRESHOLD", "0.6"),
        ("LLM_ROUTER_POOL_MAX_IDLE", "64"),
        ("LLM_ROUTER_POOL_IDLE_TIMEOUT_SECS", "30"),
        ("LLM_ROUTER_CACHE_MAX_CAPACITY", "2000"),
        ("LLM_ROUTER_CACHE_TTL_SECS", "10"),
        ("LLMLB_QUEUE_MAX_SIZE", "300"),
        ("LLMLB_QUEUE_TIMEOUT_SECS", "120"),
        ("LLM_ROUTER_REQUEST_TIMEOUT", "90"),
        ("LLM_ROUTER_CONNECT_TIMEOUT", "2"),
        ("LLM_ROUTER_MAX_CONCURRENT", "50"),
    ];
    let text = "\
[load_manager]
max_waiting = 200
default_timeout_secs = 60
warning_threshold = 0.4
overload_threshold = 0.6
max_concurrent = 50
[connection_pool]
max_idle_per_host = 64
idle_timeout_secs = 30
[node_cache]
max_capacity = 2000
ttl_secs = 10
[queue]
max_size = 300
timeout_secs = 120
[proxy]
request_timeout_secs = 90
connect_timeout_secs = 2
";
    let from_environment = layers("", &environment, &[]).unwrap();
    assert_eq!(from_environment.config, file(text).unwrap().config);
    assert_ne!(from_environment.config, Config::default());
    assert!(
        from_environment
            .warnings
            .iter()
            .all(|warning| !warning.contains("no effect"))
    );
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let empty = [("LLM_ROUTER_PORT", ""), ("LLM_ROUTER_API_KEYS", "")];
    let loaded = layers("[auth]\napi_keys = ['sk-1']", &empty, &[]).unwrap();
    assert_eq!(loaded.config.auth.api_keys, [KeyHash::of(b"sk-1")]);
}

#[test]
fn a_variable_that_is_not_text_is_a_problem() {
    let bytes = OsString::from_vec(vec![b'8', 0xff]);
    let environment = Environment::from_pairs([("LLM_ROUTER_PORT", bytes)]);
    let lines = report(resolve(None, &environment, &[]));
    assert_eq!(lines, ["LLM_ROUTER_PORT: server.port: must be valid UTF-8"]);
}

#[test]
fn a_misspelt_variable_is_a_warning_and_those_of_kubernetes_are_not() {
    let environment = [
        ("LLM_ROUTER_MAX_WAITNG", "5"),
        ("LLM_ROUTER_PORT", "tcp://10.0.0.1:8080"),
        ("LLM_ROUTER_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("LLM_ROUTER_SERVICE_HOST", "10.0.0.1"),
    ];
    let loaded = layers("[server]\nhost = '127.0.0.1'", &environment, &[]).unwrap();
    assert_eq!(loaded.config.server.port, 8080);
    let expected = [
        "environment variable LLM_ROUTER_PORT is a Kubernetes service link and has no effect",
        "environment variable LLM_ROUTER_MAX_WAITNG has no effect; did you mean \
         LLM_ROUTER_MAX_WAITING?",
    ];
    assert_eq!(loaded.warnings, expected);
}

#[test]
fn every_error_of_syntax_is_reported_with_its_line() {
    let lines = report(file(
        "[server\nport = 1\n[queue]\nmax_size = = 3\n[log]\nlevel = 'info\n",
    ));
    let places: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.split(": ").next())
        .collect();
    assert_eq!(
        places,
        ["config.toml:1", "config.toml:4", "config.toml:6"],
        "{lines:#?}"
    );
    let lines = report(file("[server]\nport = 1\nport = 2\n"));
    assert_eq!(lines, ["config.toml:3: not valid TOML: duplicate key"]);
}

#[test]
fn a_rule_between_two_settings_names_the_layer_that_broke_it() {
    let text = "[load_manager]\nwarning_threshold = 0.7\n";
    let lines = report(layers(
        text,
        &[("LLM_ROUTER_OVERLOAD_THRESHOLD", "0.7")],
        &[],
    ));
    let expected = "LLM_ROUTER_OVERLOAD_THRESHOLD: load_manager.warning_threshold = 0.7: must be \
                    below load_manager.overload_threshold = 0.7";
    assert_eq!(lines, [expected]);
    let lines = report(file("[proxy]\nmax_buffered_bytes = 1024\n"));
    let expected = "config.toml:2: proxy.max_buffered_bytes = 1024: must be at least \
                    67108864, twice proxy.max_body_bytes";
    assert_eq!(lines, [expected]);
}

#[test]
fn a_refused_value_is_not_blamed_twice() {
    let lines = report(file(
        "[load_manager]\nwarning_threshold = 0.9\noverload_threshold = 7\n",
    ));
    assert_eq!(lines.len(), 1, "{lines:#?}");
}
