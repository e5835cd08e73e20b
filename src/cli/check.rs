//! `llm-router check`.

use std::process::ExitCode;

use llm_router::auth::store::KeyStore;
use llm_router::config::{Loaded, fail_closed};

use super::options::ConfigOptions;
use super::output::{note, refuse, say, warn};

/// Prints every problem of the configuration, or that there is none.
pub(crate) fn check(options: &ConfigOptions) -> ExitCode {
    let loaded = match options.load() {
        Ok(loaded) => loaded,
        Err(problems) => return refuse(problems),
    };
    warn(&loaded.warnings);
    warn_of_missing_keys(&loaded);
    say(summary(&loaded));
    ExitCode::SUCCESS
}

/// The data directory may be another one where the file is checked than where it is used, so what
/// stops `serve` is a warning here.
fn warn_of_missing_keys(loaded: &Loaded) {
    match KeyStore::new(&loaded.config.server.data_dir).list() {
        Ok(keys) => {
            if let Err(problem) = fail_closed(&loaded.config, !keys.is_empty()) {
                note(format_args!("warning: {problem}"));
            }
        }
        Err(error) => note(format_args!("warning: {error}")),
    }
}

fn summary(loaded: &Loaded) -> String {
    let source = match &loaded.file {
        Some(path) => path.display().to_string(),
        None => "no file, defaults".to_owned(),
    };
    let config = &loaded.config;
    format!(
        "configuration is valid ({source}): listens on {}, {}, {}",
        std::net::SocketAddr::new(config.server.host, config.server.port),
        counted(config.nodes.len(), "node"),
        counted(config.aliases.len(), "alias"),
    )
}

fn counted(count: usize, noun: &str) -> String {
    match (count, noun.ends_with('s')) {
        (1, _) => format!("1 {noun}"),
        (_, true) => format!("{count} {noun}es"),
        (_, false) => format!("{count} {noun}s"),
    }
}
