//! The control thread: everything about nodes and keys that may block, so that no worker ever does.
//!
//! It has nodes probed, takes in what they report and what operators want of them, judges failures the
//! workers report, re-reads the key file, and publishes each result as one new snapshot. It is never on
//! the way of a request: workers only ever read what it published last.

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

use crate::config::Sources;
use crate::nodes::NodeId;
use crate::proxy::{ControlInbox, Shared};
use crate::runtime::clock;
use crate::store::Store;
use crate::telemetry::{ProcessSample, StoreHealth, log};

use nodes::{Kept, Lag, NodeDesk, Nodes, OwnMarks, Tasks, Watch};
use probe::Probers;

pub use keys::{KeyFile, load_keys};
pub use reload::{ReloadRefusal, Reloaded, Reloader};

/// The control side, for whoever composes the process.
pub struct Control {
    /// Reads the configuration again.
    pub reloader: Arc<Reloader>,
    nodes: NodeDesk,
}

impl Control {
    /// Waits until every node was asked whether it is there; `false` if one was not within `limit`.
    pub fn wait_for_nodes(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while !self.nodes.is_settled() {
            if Instant::now() >= until {
                return false;
            }
            thread::park_timeout(NODES_POLL);
        }
        true
    }
}

/// Starts the control thread and the threads of the control API. The configuration is read again from
/// `sources`. The threads end with the process, or when the workers' ends of `inbox` are gone.
///
/// # Errors
/// When a thread cannot be started.
pub fn start(
    shared: Arc<Shared>,
    key_file: KeyFile,
    sources: Option<Sources>,
    store: Store,
    inbox: ControlInbox,
) -> io::Result<Control> {
    let key_file = Arc::new(key_file);
    let (desk, tasks) = NodeDesk::new(store.clone(), own_marks(&shared));
    // Before the first request: else a drained node would serve for a moment, and a registered one be unknown.
    let kept = desk.kept();
    let is_restored = kept.is_ok();
    let nodes = first_nodes(&shared, kept.ok());
    let reloader = Reloader::new(
        sources,
        Arc::clone(&shared),
        Arc::clone(&key_file),
        desk.clone(),
    );
    let reloader = Arc::new(reloader);
    api::start(&shared, &key_file, &reloader, store, &desk, &inbox.api)?;
    let failing = inbox.failing_nodes;
    let thread = thread::Builder::new().name("control".to_owned());
    let (catch_up, behind) = bounded(1);
    let store = StoreWatch {
        lag: desk.lag(),
        catch_up,
    };
    thread.spawn(move || run(&shared, &key_file, &failing, &tasks, &store, nodes))?;
    let thread = thread::Builder::new().name("catch-up".to_owned());
    let asked = desk.clone();
    thread.spawn(move || behind.iter().for_each(|()| asked.catch_up()))?;
    if !is_restored {
        log::warn(format_args!(
            "registered nodes are missing until the store can be read"
        ));
    }
    Ok(Control {
        reloader,
        nodes: desk,
    })
}

fn own_marks(shared: &Shared) -> OwnMarks {
    OwnMarks {
        listener: shared.address,
        token: shared.probe_token.clone(),
    }
}

/// The nodes of the configuration, and those that the store has kept.
fn first_nodes(shared: &Shared, kept: Option<Kept>) -> Nodes {
    let config = shared.config.current();
    let watch = Watch::of(&config, &own_marks(shared));
    let (directory, tokens) = (&shared.directory, &shared.node_tokens);
    let mut nodes = Nodes::new(&config, watch, Arc::clone(directory), Arc::clone(tokens));
    if let Some(kept) = kept {
        nodes.restore(kept, Duration::ZERO);
    }
    nodes
}

fn run(
    shared: &Shared,
    key_file: &KeyFile,
    failing: &Receiver<NodeId>,
    tasks: &Tasks,
    store: &StoreWatch,
    mut nodes: Nodes,
) {
    let origin = Instant::now();
    let probers = Probers::new();
    let mut housekeeping_at = Duration::ZERO;
    loop {
        let now = origin.elapsed();
        // Probes that had to be left for later are asked for again when one has come out.
        let wait = match nodes.request_probes(|probe| probers.request(probe), now) {
            true => nodes.next_probe_in(now),
            false => HOUSEKEEPING,
        };
        let wait = wait.min(nodes.next_event_in(now)).min(HOUSEKEEPING);
        select! {
            recv(failing) -> node => match node {
                Ok(node) => nodes.failures_reached(node, origin.elapsed()),
                Err(_) => return,
            },
            recv(probers.outcomes()) -> outcome => match outcome {
                Ok(outcome) => nodes.probed(outcome),
                Err(_) => return,
            },
            recv(tasks) -> task => match task {
                Ok(task) => task(&mut nodes, origin.elapsed()),
                Err(_) => return,
            },
            default(wait.max(PAUSE)) => {}
        }
        nodes.settle(origin.elapsed());
        nodes.tell_news(|| shared.nodes_changed());
        if origin.elapsed() >= housekeeping_at {
            housekeeping_at = origin.elapsed() + HOUSEKEEPING;
            key_file.follow(&shared.keys);
            publish_process(shared);
            store.look(&shared.store);
        }
    }
}

/// Where the control thread has what the store lacks seen to, since it waits for nobody itself.
struct StoreWatch {
    lag: Arc<Lag>,
    catch_up: Sender<()>,
}

impl StoreWatch {
    /// A store that fails is left alone: whoever waits for it would hold up every other change.
    fn look(&self, health: &StoreHealth) {
        if self.lag.is_there(health.files_begun_anew()) && !health.is_failing() {
            // A full channel: it is being seen to.
            let _ = self.catch_up.try_send(());
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

/// How often the key file is looked at: revocation is effective within a second (spec section 9).
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// The shortest pause between two looks at what is due.
const PAUSE: Duration = Duration::from_millis(1);
/// How often nodes that were not asked yet are looked at.
const NODES_POLL: Duration = Duration::from_millis(5);
