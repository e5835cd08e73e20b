//! `llm-router serve`.

use std::process::ExitCode;

use llm_router::auth::store::KeyStore;
use llm_router::config::{Loaded, Sources, fail_closed};

use super::options::ConfigOptions;
use super::output::{refuse, warn};

/// Runs the router until it is told to stop.
pub(crate) fn serve(options: &ConfigOptions) -> ExitCode {
    let sources = options.sources();
    let loaded = match sources.load() {
        Ok(loaded) => loaded,
        Err(problems) => return refuse(problems),
    };
    warn(&loaded.warnings);
    let stored = match KeyStore::new(&loaded.config.server.data_dir).list() {
        Ok(keys) => keys,
        Err(error) => return refuse(error),
    };
    if let Err(problem) = fail_closed(&loaded.config, !stored.is_empty()) {
        return refuse(problem);
    }
    run_router(loaded, sources)
}

/// The seam to the server: everything before it has been checked, and `sources` is what a reload
/// reads again.
fn run_router(_loaded: Loaded, _sources: Sources) -> ExitCode {
    refuse("this build has no server")
}
