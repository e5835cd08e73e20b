//! Owns the lifecycle log: one line per event on standard error. For the main and control threads
//! only, because standard error may block; workers count instead. Values from the network must be
//! escaped by the caller or not appear at all.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::atomic::{AtomicU8, Ordering};

/// How important a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// An operator must act.
    Error = 0,
    /// The service is degraded.
    Warn = 1,
    /// Lifecycle.
    Info = 2,
    /// For finding faults.
    Debug = 3,
}

/// Lines less important than `level` are not written from now on.
pub fn set_level(level: Level) {
    MOST_VERBOSE.store(level as u8, Ordering::Relaxed);
}

/// An operator must act.
pub fn error(line: Arguments<'_>) {
    write(Level::Error, "error", line);
}

/// The service is degraded.
pub fn warn(line: Arguments<'_>) {
    write(Level::Warn, "warn", line);
}

/// Lifecycle.
pub fn info(line: Arguments<'_>) {
    write(Level::Info, "info", line);
}

/// For finding faults.
pub fn debug(line: Arguments<'_>) {
    write(Level::Debug, "debug", line);
}

fn write(level: Level, word: &str, line: Arguments<'_>) {
    if level as u8 <= MOST_VERBOSE.load(Ordering::Relaxed) {
        // One write per line, so that lines of several threads do not mix. Nobody to tell if it fails.
        let text = format!("{word}: {line}\n");
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}

static MOST_VERBOSE: AtomicU8 = AtomicU8::new(Level::Info as u8);
