//! The control thread: everything about nodes and keys that may block, so that no worker ever does.
//!
//! It probes nodes, resolves their names, judges failures the workers report, re-reads the key file,
//! and publishes each result as one new snapshot. It is never on the way of a request: workers only
//! ever read what it published last.

pub mod api;
mod keys;
mod nodes;
mod probe;
mod reload;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};

use crate::config::{Config, Sources};
use crate::nodes::NodeId;
use crate::proxy::{ControlInbox, Shared};
use crate::runtime::clock;
use crate::telemetry::{ProcessSample, log};

use nodes::Nodes;

pub use keys::{KeyFile, load_keys};
pub use reload::{ReloadRefusal, Reloaded, Reloader};

/// What the control thread is told to do.
enum Command {
    /// Follow the nodes and aliases of a configuration.
    Reconfigure {
        config: Box<Config>,
        done: Sender<()>,
    },
}

/// Starts the control thread and the threads of the control API, and returns who reads the configuration
/// again, from `sources`. The threads end with the process, or when the workers' ends of `inbox` are gone.
///
/// # Errors
/// When a thread cannot be started.
pub fn start(
    shared: Arc<Shared>,
    key_file: KeyFile,
    sources: Option<Sources>,
    inbox: ControlInbox,
) -> io::Result<Arc<Reloader>> {
    let key_file = Arc::new(key_file);
    let (commands, orders) = bounded(COMMANDS_MAX);
    let reloader = Reloader::new(
        sources,
        Arc::clone(&shared),
        Arc::clone(&key_file),
        commands,
    );
    let reloader = Arc::new(reloader);
    api::start(&shared, &key_file, &reloader, &inbox.api)?;
    let probers = probe::start(PROBERS)?;
    let failing = inbox.failing_nodes;
    let thread = thread::Builder::new().name("control".to_owned());
    thread.spawn(move || run(&shared, &key_file, &failing, &orders, probers))?;
    Ok(reloader)
}

fn run(
    shared: &Shared,
    key_file: &KeyFile,
    failing: &Receiver<NodeId>,
    orders: &Receiver<Command>,
    probers: probe::Probers,
) {
    let origin = Instant::now();
    let mut nodes = Nodes::new(&shared.config.current(), Arc::clone(&shared.directory));
    let mut housekeeping_at = Duration::ZERO;
    loop {
        nodes.request_probes(&probers, origin.elapsed());
        let wait = nodes.next_probe_in(origin.elapsed()).min(HOUSEKEEPING);
        select! {
            recv(failing) -> node => match node {
                Ok(node) => nodes.failures_reached(node, origin.elapsed()),
                Err(_) => return,
            },
            recv(probers.outcomes()) -> outcome => match outcome {
                Ok(outcome) => nodes.probed(outcome, origin.elapsed()),
                Err(_) => return,
            },
            recv(orders) -> command => match command {
                Ok(Command::Reconfigure { config, done }) => {
                    nodes.reconfigure(&config, origin.elapsed());
                    // Nobody listens any more when it took too long.
                    let _ = done.try_send(());
                }
                Err(_) => return,
            },
            default(wait) => {}
        }
        nodes.tell_news(|| shared.nodes_changed());
        if origin.elapsed() >= housekeeping_at {
            housekeeping_at = origin.elapsed() + HOUSEKEEPING;
            key_file.follow(&shared.keys);
            publish_process(shared);
        }
    }
}

fn publish_process(shared: &Shared) {
    shared
        .unix_secs
        .store(clock::unix_secs(), Ordering::Relaxed);
    match ProcessSample::read() {
        Ok(sample) => shared.process.store(Some(Arc::new(sample))),
        Err(error) => log::debug(format_args!("cannot read the process state: {error}")),
    }
}

/// Probes under way at once: dead nodes that take the whole time limit must not hold up the others.
const PROBERS: usize = 8;
/// Orders that may wait for the control thread.
const COMMANDS_MAX: usize = 16;
/// How often the key file is looked at: revocation is effective within a second (spec section 9).
const HOUSEKEEPING: Duration = Duration::from_millis(500);
