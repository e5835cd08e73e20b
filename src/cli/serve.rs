//! `llm-router serve`: composes the process from its parts.

use std::process::ExitCode;

use llm_router::config::Config;
use llm_router::control;
use llm_router::server::{Ending, Server};

use super::options::ConfigOptions;
use super::output::{refuse, warn};

/// Runs the router until it is told to stop.
pub(crate) fn serve(options: &ConfigOptions) -> ExitCode {
    let loaded = match options.sources().load() {
        Ok(loaded) => loaded,
        Err(problems) => return refuse(problems),
    };
    warn(&loaded.warnings);
    match start(loaded.config) {
        Ok(server) => exit_code(server.run()),
        Err(reason) => refuse(reason),
    }
}

/// Starts the server with its control thread.
///
/// # Errors
/// What to tell the operator.
pub(super) fn start(config: Config) -> Result<Server, String> {
    let (key_file, keys) = control::load_keys(&config).map_err(|error| error.to_string())?;
    Server::start(config, keys, |shared, inbox| {
        control::start(shared, key_file, inbox)
    })
    .map_err(|error| error.to_string())
}

/// The exit codes of spec section 1.
pub(super) fn exit_code(ending: Ending) -> ExitCode {
    match ending {
        Ending::Clean => ExitCode::SUCCESS,
        Ending::Aborted => ExitCode::from(DRAIN_ABORTED),
    }
}

/// Draining had to abort exchanges.
const DRAIN_ABORTED: u8 = 3;
