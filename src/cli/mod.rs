//! The command line: options in, one function per command, exit codes out.
//!
//! The only place that prints for a human. It must never take a secret as an argument, because
//! every user of the machine can read those.

mod check;
mod demo;
mod keys;
mod mock_node;
mod options;
mod output;
mod serve;
mod successor;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

pub(crate) use check::check;
pub(crate) use demo::demo;
pub(crate) use keys::keys;
pub(crate) use mock_node::mock_node;
pub(crate) use options::Command;
pub(crate) use serve::serve;

use options::Arguments;

/// Reads the arguments.
///
/// # Errors
/// What clap has to say: a mistake, or the help and version that were asked for.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Command, Box<clap::Error>> {
    Arguments::try_parse_from(arguments)
        .map(|arguments| arguments.command)
        .map_err(Box::new)
}

/// Prints help, version or a mistake where it belongs: exit code 0 for the first two, 2 else.
pub(crate) fn report_usage(usage: &clap::Error) -> ExitCode {
    // Nobody is left to tell when the terminal is gone.
    let _ = usage.print();
    if usage.use_stderr() {
        ExitCode::from(BAD_CONFIGURATION)
    } else {
        ExitCode::SUCCESS
    }
}

/// Bad configuration or arguments (spec section 1).
const BAD_CONFIGURATION: u8 = 2;
