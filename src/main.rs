//! The `llm-router` command.

mod cli;

use std::process::ExitCode;

use cli::Command;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(usage) => return cli::report_usage(&usage),
    };
    match command {
        Command::Serve(options) => cli::serve(&options),
        Command::Demo(options) => cli::demo(&options),
        Command::MockNode(options) => cli::mock_node(&options),
        Command::Check(options) => cli::check(&options),
        Command::Keys(options) => cli::keys(&options),
    }
}
