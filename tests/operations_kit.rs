//! The files under `tools/` that operators load into Prometheus, Grafana and systemd speak of this router
//! as it is: every metric and label they name is on the page of a running one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::disallowed_types,
    reason = "the scripted node hands over in turn"
)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use support::{Driver, Metrics, RawClient, RouterConfig, ScriptedNode, chat, fixed};

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The queries of the dashboard.
fn dashboard_queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&file("tools/grafana/llm-router.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let queries: Vec<String> = targets
        .flatten()
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect();
    assert!(queries.len() > 20, "{} queries", queries.len());
    queries
}

/// The queries of the alert rules, which stand in one line each.
fn alert_queries() -> Vec<String> {
    let rules = file("tools/prometheus/alerts.yml");
    let lines = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "));
    let queries: Vec<String> = lines.map(str::to_owned).collect();
    assert!(queries.len() >= 10, "{} rules", queries.len());
    queries
}

/// A metric in a query, and the labels asked for in the braces behind it.
fn selectors(query: &str) -> Vec<(String, Vec<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        let before_is_name = rest[..start].ends_with(is_name);
        let word: String = rest[start..].chars().take_while(|c| is_name(*c)).collect();
        rest = &rest[start + word.len()..];
        if before_is_name || !(word.starts_with("llm_router_") || word.starts_with("process_")) {
            continue;
        }
        let braces = rest
            .strip_prefix('{')
            .and_then(|inside| inside.split('}').next());
        let labels = braces.unwrap_or_default().split(',').filter_map(|matcher| {
            let name = matcher.split(['=', '!']).next()?.trim();
            (!name.is_empty()).then(|| name.to_owned())
        });
        found.push((word, labels.collect()));
    }
    found
}

/// The names and labels on the page of a router that has served.
fn page() -> Vec<(String, BTreeSet<String>)> {
    let body = br#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
    let node = ScriptedNode::answering(fixed(body));
    let router = RouterConfig::new(Driver::Epoll).node("one", &node).start();
    let mut client = RawClient::connect(router.address());
    client.send(&chat());
    assert_eq!(client.response().status, 200);
    let metrics = Metrics::fetch(router.address());
    let samples = metrics.names().map(|sample| {
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        let labels = labels
            .trim_end_matches('}')
            .split("\",")
            .filter_map(|label| {
                let name = label.split('=').next()?;
                (!name.is_empty()).then(|| name.to_owned())
            });
        (name.to_owned(), labels.collect())
    });
    samples.collect()
}

#[test]
fn every_metric_and_label_they_name_is_on_the_page() {
    let page = page();
    let queries = [dashboard_queries(), alert_queries()].concat();
    let mut named = 0;
    for query in &queries {
        for (metric, labels) in selectors(query) {
            named += 1;
            let samples: Vec<_> = page.iter().filter(|(name, _)| *name == metric).collect();
            assert!(!samples.is_empty(), "{metric} is not on the page: {query}");
            for label in labels {
                // What Prometheus itself adds.
                if label == "job" || label == "instance" {
                    continue;
                }
                let known = samples.iter().any(|(_, labels)| labels.contains(&label));
                assert!(known, "{metric} has no label {label}: {query}");
            }
        }
    }
    assert!(named > 50, "only {named} metrics were looked at");
}

#[test]
fn promtool_understands_every_query_of_the_dashboard() {
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, query) in dashboard_queries().iter().enumerate() {
        let query = query.replace("$__rate_interval", "5m").replace('\'', "''");
        rules.push_str(&format!(
            "      - record: q{number}\n        expr: '{query}'\n"
        ));
    }
    let path = std::env::temp_dir().join(format!("llm-router-dashboard-{}", std::process::id()));
    std::fs::write(&path, rules).unwrap();
    let output = promtool(&["check", "rules", path.to_str().unwrap()]);
    std::fs::remove_file(&path).unwrap();
    assert!(output.contains("SUCCESS"), "{output}");
}

#[test]
fn the_alerts_fire_when_they_should_and_only_then() {
    let rules = promtool(&["check", "rules", "tools/prometheus/alerts.yml"]);
    assert!(rules.contains("SUCCESS"), "{rules}");
    let tests = promtool(&["test", "rules", "tools/prometheus/alerts_test.yml"]);
    assert!(
        tests.contains("SUCCESS") && !tests.contains("FAILED"),
        "{tests}"
    );
    let tested = file("tools/prometheus/alerts_test.yml");
    for line in file("tools/prometheus/alerts.yml").lines() {
        if let Some(alert) = line.trim().strip_prefix("- alert: ") {
            assert!(
                tested.contains(&format!("alertname: {alert}")),
                "{alert} is not tested"
            );
        }
    }
}

fn promtool(arguments: &[&str]) -> String {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("this test needs `promtool`: install the package `prometheus`");
    [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat()
}
