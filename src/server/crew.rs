//! Starts the workers and has them listen, step by step: each waits until every worker has done it.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crossbeam_channel::Receiver;

use crate::proxy::{Notice, Shared};
use crate::runtime::mailbox;

use super::worker::{self, Connections, Losses, WorkerStart};
use super::{StartError, limits, system};

/// The workers' words: each is a step that one of them has done.
pub(super) struct Steps {
    worker_count: usize,
    outcomes: Receiver<io::Result<()>>,
}

impl Steps {
    /// Waits until every worker has done the next one.
    fn wait(&self) -> Result<(), StartError> {
        for _ in 0..self.worker_count {
            let outcome = self
                .outcomes
                .recv()
                .unwrap_or_else(|_| Err(io::Error::other("it ended")));
            outcome.map_err(system("start a worker"))?;
        }
        Ok(())
    }
}

/// Starts the workers; they accept nothing yet.
pub(super) fn start_workers(
    shared: &Arc<Shared>,
    seats: Vec<(mailbox::Receiver<Notice>, Vec<TcpListener>)>,
    connection_count_max: u32,
    accepting: &Arc<AtomicUsize>,
    losses: &Arc<Losses>,
) -> Result<Steps, StartError> {
    let connections = Arc::new(Connections::new(connection_count_max));
    let is_pinned = shared.config.current().server.pin_workers;
    let cores = limits::available_cores();
    let worker_count = seats.len();
    let (started, outcomes) = crossbeam_channel::bounded(WORDS_MAX * worker_count);
    for (index, (inbox, listeners)) in seats.into_iter().enumerate() {
        let pinned_core = match is_pinned {
            true => cores.get(index % cores.len().max(1)).copied(),
            false => None,
        };
        worker::start(WorkerStart {
            index,
            pinned_core,
            listeners,
            inbox,
            connections: Arc::clone(&connections),
            shared: Arc::clone(shared),
            accepting: Arc::clone(accepting),
            started: started.clone(),
            losses: Arc::clone(losses),
        })
        .map_err(system("start a worker"))?;
    }
    // A worker that ends without a word shows as a closed channel.
    drop(started);
    let steps = Steps {
        worker_count,
        outcomes,
    };
    steps.wait()?;
    Ok(steps)
}

/// Has the workers accept connections.
pub(super) fn open_listeners(shared: &Shared, workers: &Steps) -> Result<(), StartError> {
    for mailbox in &shared.mailboxes {
        if mailbox.send(Notice::OpenListeners).is_err() {
            let full = io::Error::other("its mailbox is full");
            return Err(system("have a worker listen")(full));
        }
    }
    workers.wait()
}

/// What a worker says at most: two steps that it has done, and that it has ended, perhaps with a reason.
const WORDS_MAX: usize = 4;
