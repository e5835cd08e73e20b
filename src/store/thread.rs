//! The store thread: does what it is told, one after the other, and looks after the file in between.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use nix::sys::signal::{SigSet, Signal};

use crate::runtime;
use crate::telemetry::{History, StoreHealth, log};

use super::history::Collector;
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
pub fn start(
    data_dir: PathBuf,
    history: Arc<History>,
    health: Arc<StoreHealth>,
) -> io::Result<(Store, StoreThread)> {
    let (commands, inbox) = bounded(COMMANDS_MAX);
    let (opened, is_open) = bounded::<()>(0);
    let shown = Arc::clone(&health);
    let thread = thread::Builder::new().name("store".to_owned());
    let thread = thread.spawn(move || {
        let _watch = Watch(Arc::clone(&health));
        // A file that may not grow any more is to be told as an error, not to end the process.
        if let Err(error) = SigSet::from(Signal::SIGXFSZ).thread_block() {
            log::debug(format_args!("cannot block SIGXFSZ: {error}"));
        }
        if let Err(error) = runtime::lower_priority() {
            log::debug(format_args!("the store runs at full priority: {error}"));
        }
        let collector = Collector::new(history, Arc::clone(&health));
        let keeper = Keeper::open(&data_dir, health);
        drop(opened);
        run(&inbox, keeper, collector);
    })?;
    // Nothing is ever sent: the channel ends when the first attempt to open the file has.
    let _ = is_open.recv_timeout(OPEN_PATIENCE);
    let store = Store {
        commands: commands.clone(),
        health: shown,
    };
    Ok((store, StoreThread { commands, thread }))
}

/// Tells that nobody looks after the database any more, should the thread panic.
struct Watch(Arc<StoreHealth>);

impl Drop for Watch {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failed();
            log::error(format_args!("the store thread has ended; this is a bug"));
        }
    }
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

fn run(inbox: &Receiver<Command>, mut keeper: Keeper, mut collector: Collector) {
    let alarms = collector.alarms().clone();
    let mut collect_at = Instant::now();
    let mut look_after_at = Instant::now() + LOOK_AFTER_INTERVAL;
    loop {
        let wait = collect_at.saturating_duration_since(Instant::now());
        select! {
            recv(inbox) -> command => match command {
                Ok(Command::Run(job)) if Instant::now() < job.until => {
                    (job.work)(&mut keeper, job.until);
                }
                // Its caller has given up.
                Ok(Command::Run(_)) => {}
                Ok(Command::Finish) | Err(_) => break,
            },
            recv(alarms) -> _ => collect_at = Instant::now(),
            default(wait) => {}
        }
        // By the clock, not only when nobody calls: else it would never be its turn.
        let now = Instant::now();
        if now >= collect_at {
            collect_at = match collector.work(&mut keeper) {
                true => now,
                false => now + collector.interval(),
            };
        }
        if now >= look_after_at {
            keeper.look_after(now);
            look_after_at = now + LOOK_AFTER_INTERVAL;
        }
    }
    collector.finish(&mut keeper, Instant::now() + FINISH_PATIENCE);
}

/// How long the start of the process waits for the file to be opened.
const OPEN_PATIENCE: Duration = Duration::from_secs(1);
const LOOK_AFTER_INTERVAL: Duration = Duration::from_millis(500);
/// How long the end of the process waits for the last records to be written.
const FINISH_PATIENCE: Duration = Duration::from_secs(5);
