//! What a command says, and with which exit code it says it.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use super::BAD_CONFIGURATION;

/// Prints the result of a command to standard output.
///
/// A reader that went away (`llm-router keys list | head -1`) is no failure, so errors of writing
/// are ignored, where the printing macros would panic.
pub(super) fn say(text: impl Display) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Prints a warning or a note beside the result to standard error.
pub(super) fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints why a command could not be carried out: exit code 2.
pub(super) fn refuse(reason: impl Display) -> ExitCode {
    note(format_args!("llm-router: {reason}"));
    ExitCode::from(BAD_CONFIGURATION)
}

/// Prints what the system refused, and the exit code of whoever may try again.
pub(super) fn fail(reason: impl Display) -> ExitCode {
    note(format_args!("llm-router: {reason}"));
    ExitCode::FAILURE
}

/// Prints one warning per line.
pub(super) fn warn(warnings: &[String]) {
    for warning in warnings {
        note(format_args!("warning: {warning}"));
    }
}
