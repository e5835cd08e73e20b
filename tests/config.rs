//! The configuration as an operator meets it: layers, reports, warnings, and secrets that stay
//! unseen.

use std::fs;
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use llm_router::auth::key::KeyHash;
use llm_router::config::{
    AccessLog, Config, Environment, FileText, IoDriver, Loaded, Override, Problems, Sources,
    fail_closed, resolve,
};

const NODE: &str = "[[nodes]]\nname = 'gpu-1'\nbase_url = 'http://10.0.0.1:8000'\n";

fn file(text: &str) -> Result<Loaded, Problems> {
    layers(text, &[], &[])
}

fn layers(
    text: &str,
    environment: &[(&str, &str)],
    overrides: &[(&str, &str)],
) -> Result<Loaded, Problems> {
    let environment = Environment::from_pairs(environment.iter().copied());
    let overrides: Vec<Override> = overrides
        .iter()
        .map(|(key, value)| Override {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
            option: format!("--set {key}"),
        })
        .collect();
    resolve(
        Some(FileText {
            name: "config.toml",
            text,
        }),
        &environment,
        &overrides,
    )
}

/// The report without its heading, one line per problem.
fn report(result: Result<Loaded, Problems>) -> Vec<String> {
    let report = result.unwrap_err().to_string();
    report
        .lines()
        .skip(1)
        .map(|line| line.trim_start().to_owned())
        .collect()
}

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
    let bytes = std::ffi::OsString::from_vec(vec![b'8', 0xff]);
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
                    proxy.max_body_bytes = 33554432";
    assert_eq!(lines, [expected]);
}

#[test]
fn a_refused_value_is_not_blamed_twice() {
    let lines = report(file(
        "[load_manager]\nwarning_threshold = 0.9\noverload_threshold = 7\n",
    ));
    assert_eq!(lines.len(), 1, "{lines:#?}");
}

#[test]
fn a_node_has_defaults_for_all_but_its_name_and_address() {
    let loaded = file(NODE).unwrap();
    let node = &loaded.config.nodes[0];
    assert_eq!((node.name.as_str(), node.weight), ("gpu-1", 1));
    assert_eq!(node.base_url.authority(), "10.0.0.1:8000");
    assert!(node.models.is_empty() && node.api_key.is_none() && node.max_concurrency.is_none());
}

#[test]
fn the_fields_of_a_node_are_read() {
    let text = format!(
        "{NODE}models = ['a', 'b']\napi_key = 'node-key'\nmax_concurrency = 8\nweight = 1000\n"
    );
    let node = file(&text).unwrap().config.nodes.remove(0);
    assert_eq!(
        (node.models.as_slice(), node.weight),
        (["a".into(), "b".into()].as_slice(), 1000)
    );
    assert_eq!(node.max_concurrency, Some(8));
    assert_eq!(node.api_key.unwrap().expose(), "node-key");
    let auto = file(&format!("{NODE}max_concurrency = 'auto'")).unwrap();
    assert_eq!(auto.config.nodes[0].max_concurrency, None);
}

#[test]
fn every_field_of_a_node_has_its_limits() {
    let long_model = format!("models = ['{}']", "m".repeat(257));
    let cases = [
        (
            "models = 'a'",
            "nodes[0].models = \"a\": must be a list of texts",
        ),
        ("models = ['a', 'a']", "nodes[0].models[1]: is listed twice"),
        (
            "models = ['', 1]",
            "nodes[0].models[0]: must be a text of 1 to 256 bytes",
        ),
        (
            "models = [\"a\\n\"]",
            "nodes[0].models[0]: must be a text of 1 to 256 bytes",
        ),
        (
            &long_model,
            "nodes[0].models[0]: must be a text of 1 to 256 bytes",
        ),
        (
            "api_key = 'two words'",
            "nodes[0].api_key: must be 1 to 4096 visible ASCII",
        ),
        (
            "api_key = ''",
            "nodes[0].api_key: must be 1 to 4096 visible ASCII",
        ),
        (
            "max_concurrency = 0",
            "nodes[0].max_concurrency = 0: must be \"auto\" or a whole number",
        ),
        (
            "max_concurrency = 1000001",
            "nodes[0].max_concurrency = 1000001: must be \"auto\"",
        ),
        (
            "max_concurrency = 'many'",
            "nodes[0].max_concurrency = \"many\": must be \"auto\"",
        ),
        (
            "weight = 0",
            "nodes[0].weight = 0: must be a whole number from 1 to 1000",
        ),
        (
            "weight = 1001",
            "nodes[0].weight = 1001: must be a whole number from 1 to 1000",
        ),
        (
            "weight = 1.5",
            "nodes[0].weight = 1.5: must be a whole number from 1 to 1000",
        ),
        (
            "colour = 1",
            "nodes[0].colour: unknown key; known are: name, base_url, models,",
        ),
    ];
    for (line, expected) in cases {
        let lines = report(file(&format!("{NODE}{line}\n")));
        assert!(
            lines[0].starts_with(&format!("config.toml:4: {expected}")),
            "{lines:#?}"
        );
    }
    assert_eq!(
        file(&format!("{NODE}models = ['{}']", "m".repeat(256)))
            .unwrap()
            .warnings
            .len(),
        1
    );
}

#[test]
fn a_name_of_a_node_is_bounded_and_unique() {
    let named = |name: &str| format!("[[nodes]]\nname = {name:?}\nbase_url = 'http://h'\n");
    let longest = "n".repeat(64);
    for name in ["a", "GPU_1.rack-2", &longest] {
        assert!(file(&named(name)).is_ok(), "{name}");
    }
    for name in ["", "a b", "a/b", "ä", "a\"", &format!("{longest}n")] {
        assert_eq!(report(file(&named(name))).len(), 1, "{name}");
    }
    let lines = report(file(&[named("a"), named("b"), named("a")].concat()));
    let expected =
        "config.toml:8: nodes[2].name = \"a\": is already the name of another node".to_owned();
    assert_eq!(lines, [expected]);
}

#[test]
fn an_entry_of_the_wrong_shape_is_located() {
    let lines = report(file("nodes = 1\naliases = ['x']\nport = 3\nserver = 4\n"));
    let expected = [
        "config.toml:1: nodes: must be written as [[nodes]] entries",
        "config.toml:2: aliases[0]: must be a table",
        "config.toml:3: port: unknown key; did you mean server.port?",
        "config.toml:4: server: must be a section: [server]",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_node_that_is_the_router_itself_is_refused() {
    let node = |url: &str| format!("[[nodes]]\nname = 'a'\nbase_url = '{url}'\n");
    for (host, url) in [
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://localhost:8080/v1"),
        ("::", "http://[::1]:8080"),
        ("127.0.0.1", "http://localhost:8080"),
        ("10.0.0.1", "http://10.0.0.1:8080"),
    ] {
        let lines = report(layers(&node(url), &[], &[("server.host", host)]));
        assert!(
            lines[0].starts_with("config.toml:3: nodes[0].base_url = \"http://"),
            "{lines:#?}"
        );
        assert!(
            lines[0].ends_with("is the address of the router itself"),
            "{lines:#?}"
        );
    }
    for (host, url) in [
        ("0.0.0.0", "http://127.0.0.1:8081"),
        ("10.0.0.1", "http://127.0.0.1:8080"),
        ("10.0.0.1", "http://localhost:8080"),
        ("0.0.0.0", "http://10.0.0.1:8080"),
    ] {
        assert!(
            layers(&node(url), &[], &[("server.host", host)]).is_ok(),
            "{host} {url}"
        );
    }
}

#[test]
fn an_alias_points_at_a_model_and_never_at_an_alias() {
    let alias = |model: &str, to: &str| format!("[[aliases]]\nmodel = '{model}'\nto = '{to}'\n");
    let nodes = format!("{NODE}models = ['llama']\n");
    assert!(file(&[nodes.clone(), alias("small", "llama")].concat()).is_ok());
    assert!(file(&[nodes.clone(), alias("small", "openai:gpt-4o")].concat()).is_ok());
    let aliases = [
        alias("a", "a"),
        alias("b", "c"),
        alias("c", "llama"),
        alias("d", "lama"),
        alias("c", "llama"),
    ];
    let expected = [
        "config.toml:7: aliases[0].to = \"a\": must be another name than the alias itself",
        "config.toml:10: aliases[1].to = \"c\": must be a model of a node, not another alias",
        "config.toml:16: aliases[3].to = \"lama\": is a model that no node lists",
        "config.toml:18: aliases[4].model = \"c\": is already the name of another alias",
    ];
    assert_eq!(report(file(&(nodes + &aliases.concat()))), expected);
}

#[test]
fn the_target_of_an_alias_is_not_checked_while_some_node_is_to_be_asked() {
    let alias = "[[aliases]]\nmodel = 'a'\nto = 'unknown-yet'\n";
    assert!(file(alias).is_ok());
    assert!(file(&format!("{NODE}{alias}")).is_ok());
}

#[test]
fn an_alias_that_hides_a_model_is_a_warning() {
    let text = format!(
        "[server]\nhost = '::1'\n{NODE}models = ['a', 'b']\n[[aliases]]\nmodel = 'a'\nto = 'b'\n"
    );
    let warnings = file(&text).unwrap().warnings;
    assert_eq!(
        warnings,
        ["the alias \"a\" hides a node's model of the same name"]
    );
}

#[test]
fn open_doors_are_warned_of_unless_only_this_machine_can_knock() {
    let open = "[auth]\nrequired = false\n";
    let warnings = file(open).unwrap().warnings;
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[0].starts_with("auth.required = false"));
    assert!(warnings[1].starts_with("auth.admin_password is the documented default"));
    for host in [
        "127.0.0.1",
        "127.8.8.8",
        "::1",
        "::ffff:127.0.0.1",
        "localhost",
    ] {
        let loaded = layers(open, &[], &[("server.host", host)]).unwrap();
        assert_eq!(loaded.warnings, Vec::<String>::new(), "{host}");
    }
}

#[test]
fn a_reachable_listener_without_any_key_is_refused() {
    let config = |host: &str, auth: &str| {
        layers(&format!("[auth]\n{auth}\n"), &[], &[("server.host", host)])
            .unwrap()
            .config
    };
    let closed = config("0.0.0.0", "");
    let problem = fail_closed(&closed, false).unwrap_err().to_string();
    assert!(problem.contains("llm-router keys create"), "{problem}");
    assert_eq!(fail_closed(&closed, true), Ok(()));
    assert_eq!(fail_closed(&config("127.0.0.1", ""), false), Ok(()));
    assert_eq!(
        fail_closed(&config("10.0.0.1", "required = false"), false),
        Ok(())
    );
    assert_eq!(
        fail_closed(&config("10.0.0.1", "api_keys = ['sk-1']"), false),
        Ok(())
    );
    assert!(fail_closed(&config("::", ""), false).is_err());
}

/// Plants a canary wherever a secret can stand, rightly and wrongly, and looks for it in every
/// text the configuration can produce.
#[test]
fn no_secret_appears_in_any_report_or_debug_output() {
    let canary = "CANARY";
    let good = format!(
        "[auth]\napi_keys = ['sk-{canary}']\nadmin_password = '{canary}'\n{NODE}api_key = '{canary}'\n"
    );
    let environment = Environment::from_pairs([
        ("LLM_ROUTER_API_KEYS", canary),
        ("LLM_ROUTER_ADMIN_PASSWORD", canary),
    ]);
    let loaded = resolve(
        Some(FileText {
            name: "f",
            text: &good,
        }),
        &environment,
        &[],
    )
    .unwrap();
    assert!(!format!("{loaded:?} {environment:?}").contains(canary));

    let bad = [
        format!("[auth]\napi_keys = ['{canary} with blanks', '{canary}', '{canary}']"),
        format!("[auth]\napi_keys = '{canary}'"),
        format!("[auth]\nadmin_password = ['{canary}']"),
        format!("[auth]\nadmin_password = \"{canary}\\n\""),
        format!("[auth]\nadmin_passwort = '{canary}'"),
        format!("[auth]\nadmin_password = '{canary}"),
        format!("[auth]\nadmin_password = {canary}"),
        format!("[autth]\nadmin_password = '{canary}'"),
        format!("auth = '{canary}'"),
        format!("{NODE}api_key = '{canary} {canary}'"),
        format!("{NODE}apikey = '{canary}'"),
        format!("[[nodes]]\nname = 'a'\nbase_url = 'http://user:{canary}@gpu-1'"),
        format!("[[nodes]]\nname = 'a'\nbase_url = 'https://user:{canary}@gpu-1'"),
        format!("[[nodes]]\nname = 'a'\nbase_url = 'http://gpu-1/?key={canary}'"),
    ];
    for text in bad {
        let problems = file(&text).unwrap_err();
        assert!(
            !format!("{problems} {problems:?}").contains(canary),
            "{problems}"
        );
    }
    let overrides = [("auth.admin_password", canary)];
    let problems = layers("", &[("LLM_ROUTER_API_KEYS", "CANARY ä")], &overrides).unwrap_err();
    assert!(
        !format!("{problems} {problems:?}").contains(canary),
        "{problems}"
    );
}

#[test]
fn a_hostile_value_is_shown_escaped_and_short() {
    let text = format!("[server]\nhost = \"\\u001b[31m{}\"", "x".repeat(10_000));
    let lines = report(file(&text));
    assert!(
        lines[0].contains("\\u{1b}[31mxxx") && lines[0].len() < 250,
        "{lines:#?}"
    );
}

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
