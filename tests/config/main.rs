//! The configuration as an operator meets it: layers, reports, warnings, and secrets that stay
//! unseen.

#![expect(clippy::unwrap_used, reason = "a test stops at its first surprise")]

mod files;
mod layers;
mod nodes;
mod safety;

use llm_router::config::{Environment, FileText, Loaded, Override, Problems, resolve};

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
