//! `llm-router mock-node`.

use std::process::ExitCode;

use super::options::MockNodeOptions;
use super::output::refuse;

/// Runs one mock inference node until it is told to stop.
pub(crate) fn mock_node(options: &MockNodeOptions) -> ExitCode {
    run_mock_node(options)
}

/// The seam to the mock node.
fn run_mock_node(options: &MockNodeOptions) -> ExitCode {
    refuse(format_args!("this build has no mock node: {options:?}"))
}
