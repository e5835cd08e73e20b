//! `llm-router demo`.

use std::process::ExitCode;

use super::options::DemoOptions;
use super::output::refuse;

/// Runs the router on 127.0.0.1 with three mock nodes.
pub(crate) fn demo(options: &DemoOptions) -> ExitCode {
    run_demo(options)
}

/// The seam to the server and its mock nodes.
fn run_demo(options: &DemoOptions) -> ExitCode {
    refuse(format_args!(
        "this build has no server to listen on port {}",
        options.port
    ))
}
