//! `llm-router mock-node`.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use llm_router::mock::{self, MockOptions};

use super::options::MockNodeOptions;
use super::output::refuse;

/// Runs one mock inference node until it is told to stop.
pub(crate) fn mock_node(options: &MockNodeOptions) -> ExitCode {
    match mock::run(mock_options(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(error),
    }
}

fn mock_options(options: &MockNodeOptions) -> MockOptions {
    let milliseconds = |count: f64| Duration::from_secs_f64(count / 1000.0);
    let workers = match usize::try_from(options.workers) {
        Ok(0) | Err(_) => std::thread::available_parallelism().map_or(1, usize::from),
        Ok(count) => count,
    };
    MockOptions {
        listen: SocketAddr::new(options.host, options.port),
        name: options.name.clone(),
        models: options.models.clone(),
        slots: Some(options.slots),
        first_token_delay: milliseconds(options.first_token_ms),
        token_interval: milliseconds(options.token_interval_ms),
        token_count: options.tokens,
        body_bytes: usize::try_from(options.body_bytes)
            .ok()
            .filter(|bytes| *bytes > 0),
        error_rate: options.error_rate,
        disconnect_rate: options.disconnect_rate,
        keep_alive: Duration::from_secs_f64(options.keep_alive_secs),
        workers,
        ..MockOptions::default()
    }
}
