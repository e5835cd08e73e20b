//! The store thread: does what it is told, one after the other, and looks after the file in between.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::runtime;
use crate::telemetry::{StoreHealth, log};

use super::keeper::Keeper;
use super::{COMMANDS_MAX, Command, Store};

/// The owner of the thread.
#[derive(Debug)]
pub struct StoreThread {
    commands: Sender<Command>,
    thread: JoinHandle<()>,
}

/// Starts the thread on the database of a data directory, and waits a moment for it to be open.
///
/// # Errors
/// When the thread cannot be started. A database that cannot be opened is no error: the router serves
/// without it.
pub fn start(data_dir: PathBuf, health: Arc<StoreHealth>) -> io::Result<(Store, StoreThread)> {
    let (commands, inbox) = bounded(COMMANDS_MAX);
    let (opened, is_open) = bounded::<()>(0);
    let thread = thread::Builder::new()
        .name("store".to_owned())
        .spawn(move || run(&data_dir, health, &inbox, opened))?;
    // Nothing is ever sent: the channel ends when the first attempt to open the file has.
    let _ = is_open.recv_timeout(OPEN_PATIENCE);
    let store = Store {
        commands: commands.clone(),
    };
    Ok((store, StoreThread { commands, thread }))
}

impl StoreThread {
    /// Has everything written that waits, and ends the thread. Later calls of a [`Store`] get
    /// [`StoreError::Busy`](super::StoreError).
    pub fn finish(self) {
        // Fails only if the thread is already gone, and then there is nothing left to end.
        if self.commands.send(Command::Finish).is_ok() {
            drop(self.thread.join());
        }
    }
}

fn run(
    data_dir: &std::path::Path,
    health: Arc<StoreHealth>,
    inbox: &Receiver<Command>,
    opened: Sender<()>,
) {
    if let Err(error) = runtime::lower_priority() {
        log::debug(format_args!("the store runs at full priority: {error}"));
    }
    let mut keeper = Keeper::open(data_dir, health);
    drop(opened);
    let mut look_after_at = Instant::now() + LOOK_AFTER_INTERVAL;
    loop {
        match inbox.recv_deadline(look_after_at) {
            Ok(Command::Run(job)) if Instant::now() < job.until => {
                (job.work)(&mut keeper, job.until);
            }
            // Its caller has given up.
            Ok(Command::Run(_)) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Command::Finish) | Err(RecvTimeoutError::Disconnected) => return,
        }
        // Not only when nobody calls: it would never be its turn.
        let now = Instant::now();
        if now >= look_after_at {
            keeper.look_after(now);
            look_after_at = now + LOOK_AFTER_INTERVAL;
        }
    }
}

/// How long the start of the process waits for the file to be opened.
const OPEN_PATIENCE: Duration = Duration::from_secs(1);
const LOOK_AFTER_INTERVAL: Duration = Duration::from_millis(500);
