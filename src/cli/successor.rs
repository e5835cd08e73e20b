//! Starting the process that is to take over: this program again, as it was started.

use std::ffi::OsString;
use std::io;
use std::process::{Child, Command, Stdio};
use std::thread;

use llm_router::runtime;

use super::output::note;

/// How this process was started, and so how the next one is.
pub(super) struct Successor {
    /// As it was typed: the file behind it may be a newer one by now, and the link to it may lead elsewhere.
    program: OsString,
    arguments: Vec<OsString>,
}

impl Successor {
    pub(super) fn of_process() -> Self {
        let mut words = std::env::args_os();
        let program = words.next().unwrap_or_default();
        let mut arguments: Vec<OsString> = words.filter(|word| *word != *OPTION).collect();
        arguments.push(OPTION.into());
        Self { program, arguments }
    }

    /// Starts it. Whether it takes over is between it and the server; how it ends is told.
    pub(super) fn start(&self) {
        if std::process::id() == INIT {
            // With the first process of a container the container ends, and all that it has started.
            return note("error: upgrade: this is process 1, which nobody can take over from");
        }
        match self.spawn().and_then(watch) {
            Ok(process) => note(format_args!("info: upgrade: process {process} was started")),
            Err(error) => note(format_args!(
                "error: upgrade: the new process cannot be started, this one goes on: {error}"
            )),
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null());
        runtime::inherit_nothing(&mut command).spawn()
    }
}

/// Waits for its end on a thread of its own, so that it leaves nothing behind.
fn watch(mut child: Child) -> io::Result<u32> {
    let process = child.id();
    let thread = thread::Builder::new().name("successor".to_owned());
    thread.spawn(move || {
        if let Ok(status) = child.wait()
            && !status.success()
        {
            note(format_args!(
                "error: upgrade: process {process} has ended ({status})"
            ));
        }
    })?;
    Ok(process)
}

const INIT: u32 = 1;
const OPTION: &str = "--upgrade";
