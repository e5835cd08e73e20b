//! Holds the README to what the code has: every command and option, configuration key, environment
//! variable, metric, error code and linked file it names exists, its configuration example is valid,
//! and no metric or error code is missing. What the demo answers is tested by `tests/sdk`, against the binary.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use llm_router::telemetry::names;

fn repository_file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn readme() -> String {
    repository_file("README.md")
}

/// Runs the binary with nothing of this environment in it.
fn llm_router(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llm-router"))
        .args(arguments)
        .env_clear()
        .output()
        .unwrap()
}

/// The content of the fenced blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let opening = format!("```{language}\n");
    text.split(&opening)
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

/// The words of a text that consist of `allowed` characters and pass `wanted`.
fn words(text: &str, allowed: fn(char) -> bool, wanted: fn(&str) -> bool) -> BTreeSet<&str> {
    text.split(|c: char| !allowed(c))
        .filter(|word| wanted(word))
        .collect()
}

fn is_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

#[track_caller]
fn assert_known(
    what: &str,
    named: &BTreeSet<&str>,
    count_min: usize,
    known: impl Fn(&str) -> bool,
) {
    assert!(
        named.len() >= count_min,
        "the README names almost no {what}: {named:?}"
    );
    let unknown: Vec<_> = named.iter().filter(|name| !known(name)).collect();
    assert!(
        unknown.is_empty(),
        "the README names {what} that do not exist: {unknown:?}"
    );
}

#[test]
fn every_metric_it_names_exists_and_none_is_missing() {
    let readme = readme();
    let is_metric = |word: &str| word.starts_with("llm_router_") || word.starts_with("process_");
    let named = words(&readme, is_name, is_metric);
    assert_known("metrics", &named, 20, |name| {
        names::ALL.iter().any(|metric| metric.name == name)
    });
    let missing: Vec<_> = names::ALL
        .iter()
        .map(|metric| metric.name)
        .filter(|name| !named.contains(name))
        .collect();
    assert!(
        missing.is_empty(),
        "the README does not explain {missing:?}"
    );
}

#[test]
fn every_configuration_key_it_names_exists() {
    let example = repository_file("config.toml");
    let (mut sections, mut keys) = (BTreeSet::new(), BTreeSet::new());
    let mut section = "";
    for line in example.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
            sections.insert(section);
        } else if let Some((key, _)) = line.split_once(" = ")
            && !line.starts_with('#')
        {
            keys.insert(format!("{section}.{key}"));
        }
    }
    let readme = readme();
    let named: BTreeSet<&str> = words(
        &readme,
        |c| is_name(c) || c == '.',
        |word| word.contains('.'),
    )
    .into_iter()
    .map(|word| word.trim_end_matches('.'))
    .filter(|word| {
        word.split_once('.').is_some_and(|(section, key)| {
            sections.contains(section) && !key.is_empty() && key != "rs" && key != "toml"
        })
    })
    .collect();
    assert_known("configuration keys", &named, 10, |key| keys.contains(key));
}

#[test]
fn every_environment_variable_it_names_exists() {
    let example = repository_file("config.toml");
    let is_variable = |word: &str| word.starts_with("LLM_ROUTER_") || word.starts_with("LLMLB_");
    let known = words(&example, is_name, is_variable);
    let readme = readme();
    let named = words(&readme, is_name, is_variable);
    assert_known("environment variables", &named, 2, |name| {
        known.contains(name)
    });
}

#[test]
fn its_configuration_example_is_valid() {
    let readme = readme();
    let example = blocks(&readme, "toml");
    assert_eq!(example.len(), 1);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join("readme-config.toml");
    // Where the keys of this machine would be must not matter.
    let data = folder.join("readme-data");
    fs::write(&file, &example[0]).unwrap();
    let checked = llm_router(&[
        "check",
        "--config",
        file.to_str().unwrap(),
        "--data-dir",
        data.to_str().unwrap(),
    ]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
}

#[test]
fn every_command_and_option_it_names_exists() {
    let readme = readme();
    let lines = blocks(&readme, "sh").join("\n");
    let inline = readme.split('`').filter(|code| !code.contains('\n'));
    let mut tried = 0;
    for code in lines.lines().chain(inline) {
        let Some(rest) = code
            .strip_prefix("llm-router ")
            .or_else(|| code.strip_prefix("cargo run --release -- "))
        else {
            continue;
        };
        let arguments: Vec<&str> = rest.split_whitespace().collect();
        let command: Vec<&str> = arguments
            .iter()
            .copied()
            .take_while(|word| word.starts_with(char::is_lowercase))
            .collect();
        let help = llm_router(&[&command[..], &["--help"]].concat());
        assert!(
            help.status.success(),
            "there is no `llm-router {}`",
            command.join(" ")
        );
        let help = String::from_utf8(help.stdout).unwrap();
        for option in arguments.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(option), "`{code}`: there is no {option}");
        }
        tried += 1;
    }
    assert!(tried >= 5, "only {tried} commands found");
    let serve = String::from_utf8(llm_router(&["serve", "--help"]).stdout).unwrap();
    for option in ["--port", "--workers", "--set"] {
        assert!(
            readme.contains(option) && serve.contains(option),
            "{option}"
        );
    }
}

#[test]
fn its_error_table_has_exactly_the_codes_the_router_sends() {
    let readme = readme();
    let table = readme.split("## Errors").nth(1).unwrap();
    let table = table.split("## ").next().unwrap();
    let rows = table
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'));
    let named: BTreeSet<&str> = rows
        .flat_map(|row| row.split('|').nth(2).unwrap().split('`').skip(1).step_by(2))
        .collect();
    let sources = [
        "src/openai/error.rs",
        "src/openai/peek/mod.rs",
        "src/http1/verdict.rs",
    ]
    .map(repository_file)
    .concat();
    // Messages have capitals and spaces: a literal of nothing but this is a code or a type, save in
    // lines that write JSON or compare the keys of a request.
    let mut sent: BTreeSet<&str> = sources
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .filter(|line| !line.contains("br#") && !line.contains("means(key"))
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .filter(|text| !["second", "seconds"].contains(text))
        .filter(|text| !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .collect();
    for kind in [
        "authentication_error",
        "bad_gateway",
        "gateway_timeout",
        "invalid_request_error",
        "service_unavailable",
    ] {
        assert!(sent.remove(kind), "no error is of type {kind}");
    }
    assert_known("error codes", &named, 20, |code| sent.contains(code));
    let missing: Vec<_> = sent.difference(&named).collect();
    assert!(
        missing.is_empty(),
        "the README does not explain {missing:?}"
    );
}

#[test]
fn its_table_of_the_control_api_has_exactly_the_codes_that_api_sends() {
    let readme = readme();
    let section = readme.split("\n## Control API").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section
        .lines()
        .filter(|line| line.starts_with("| 4") || line.starts_with("| 5"));
    let named: BTreeSet<&str> = rows
        .flat_map(|row| row.split('|').nth(2).unwrap().split('`').skip(1).step_by(2))
        .collect();
    let own = repository_file("src/openai/control_error.rs");
    let is_code = |text: &&str| {
        text.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let mut sent: BTreeSet<&str> = own
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .filter(is_code)
        .filter(|text| !text.is_empty())
        .collect();
    for kind in ["authentication_error", "permission_error", "server_error"] {
        assert!(sent.remove(kind), "no error is of type {kind}");
    }
    let handlers = ["keys", "nodes"].map(|name| format!("src/control/api/{name}.rs"));
    let handlers = handlers.map(|path| repository_file(&path)).concat();
    for call in ["::conflict(", "::no_such(", "::forbidden("] {
        let calls = handlers.split(call).skip(1);
        sent.extend(calls.map(|call| call.split('"').nth(1).unwrap()));
    }
    assert_eq!(named, sent);
}

#[test]
fn every_file_it_links_or_runs_exists() {
    let readme = readme();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let links = readme
        .split("](")
        .skip(1)
        .map(|rest| rest.split(')').next().unwrap());
    let links: Vec<&str> = links.collect();
    assert!(links.len() >= 10);
    for link in links {
        match link.strip_prefix('#') {
            None => assert!(root.join(link).exists(), "{link} does not exist"),
            Some(anchor) => {
                let is_heading = |line: &&str| {
                    let slug = line.trim_start_matches('#').trim().to_lowercase();
                    line.starts_with("##") && slug.replace(' ', "-") == anchor
                };
                assert!(
                    readme.lines().any(|line| is_heading(&line)),
                    "no heading for {link}"
                );
            }
        }
    }
    for path in ["tools/test", "tools/setup", ".ci/run", "tests/structure"] {
        assert!(readme.contains(path) && root.join(path).exists(), "{path}");
    }
}
