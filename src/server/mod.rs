//! The process: worker threads, listeners, signals, drain.
//!
//! ```text
//! main thread   binds the listeners, starts everything, then waits for signals
//! worker × n    one runtime each, pinned: accept tasks, connections, its pool     (worker.rs)
//! control       probes, keys, snapshots; started by whoever composes the process  (control/)
//! api × 4       the control API; started with it                                  (control/api/)
//! access-log    writes access records, if they are on                             (telemetry/)
//! ```

mod limits;
mod signals;
mod supervisor;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use crossbeam_channel::Sender;

use crate::admission::BufferBudget;
use crate::auth::key::KeySet;
use crate::config::{self, AccessLog as AccessLogTarget, Config, IoDriver};
use crate::nodes::{Admission, NodeId};
use crate::proxy::api::{self, ApiCall, Live};
use crate::proxy::{self, ControlInbox, DrainPhase, LiveConfig, Notice, Shared};
use crate::runtime::{self, Driver, Listener, Preference, clock, mailbox};
use crate::telemetry::{AccessLog, AccessLogWriter, Gauge, History, Reloads, WorkerMetrics, log};

use signals::{Request, Signals};
use supervisor::Supervisor;
use worker::{Connections, WorkerStart};

/// Blocks the signals a server waits for, in this thread and every thread it starts from now on. Only
/// needed when other threads are started before [`Server::start`], which does it too.
///
/// # Errors
/// When the system refuses.
pub fn block_signals() -> io::Result<()> {
    Signals::block().map(drop)
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Every exchange that had begun was finished.
    Clean,
    /// Exchanges had to be aborted: the grace period was over, or a second signal came.
    Aborted,
}

/// Why the server could not start.
#[derive(Debug)]
pub enum StartError {
    /// A setting that only shows at start to be wrong.
    Config(String),
    /// The system refused something.
    System {
        /// What was being done, as in "cannot … ".
        action: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A router that accepts connections.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Accept tasks that run, of all workers.
    accepting: Arc<AtomicUsize>,
    signals: Signals,
    supervisor: Supervisor,
    access_log: Option<AccessLogWriter>,
}

impl Server {
    /// Starts the workers and listens. Call it before any other thread is started: it blocks the
    /// signals it waits for. `start_control` starts the threads that may block; they are given what they
    /// publish to and what the workers send them.
    ///
    /// # Errors
    /// [`StartError`]; threads that were started already end with the process.
    pub fn start(
        config: Config,
        keys: KeySet,
        start_control: impl FnOnce(Arc<Shared>, ControlInbox) -> io::Result<()>,
    ) -> Result<Self, StartError> {
        proxy::apply_log_level(&config);
        let signals = Signals::block().map_err(system("block signals"))?;
        let driver = choose_driver(config.server.io_driver)?;
        config::fail_closed(&config, !keys.is_empty())
            .map_err(|problem| StartError::Config(problem.to_string()))?;

        let worker_count = limits::worker_count(config.server.workers);
        let connection_count_max = limits::raise_and_derive(config.server.max_connections)
            .map_err(system("read the limit of open files"))?;
        let listeners = bind_all(&config, worker_count)?;
        let address = listeners
            .first()
            .and_then(|listener| listener.local_addr().ok())
            .ok_or_else(|| StartError::Config("server.workers is 0".to_owned()))?;
        let (access_log, access_log_writer) = start_access_log(&config.log.access)
            .map_err(system("open the access log"))?
            .unzip();
        let (failing_nodes, api, inbox) = control_channels();
        let now = clock::unix_secs();
        let (mailboxes, inboxes) =
            mailboxes(worker_count).map_err(system("create a worker's mailbox"))?;
        let wake = proxy::wake_by(mailboxes.clone());
        let shared = Arc::new(Shared {
            address,
            directory: Arc::default(),
            keys: Arc::new(ArcSwap::from_pointee(keys)),
            admission: Arc::new(Admission::new(proxy::admission_limits(&config), wake)),
            mailboxes,
            budget: Arc::new(BufferBudget::new(config.proxy.max_buffered_bytes)),
            metrics: (0..worker_count).map(|_| WorkerMetrics::new()).collect(),
            access_log,
            history: Arc::new(History::new(worker_count, proxy::history_limits(&config))),
            store: Arc::default(),
            reloads: Reloads::since(now),
            process: ArcSwapOption::empty(),
            driver,
            drain: DrainPhase::default(),
            failing_nodes,
            api,
            live: Live::new(),
            unix_secs: AtomicU64::new(now),
            started_unix_secs: now,
            config: LiveConfig::new(config, worker_count),
        });
        start_control(Arc::clone(&shared), inbox).map_err(system("start the control threads"))?;
        let accepting = Arc::default();
        let seats = inboxes.into_iter().zip(listeners).collect();
        start_workers(&shared, seats, connection_count_max, &accepting)?;
        log::info(format_args!(
            "listening on {address} with {worker_count} workers, at most {connection_count_max} \
             connections"
        ));
        let supervisor = Supervisor::of_environment();
        supervisor.ready(&format!("listening on {address}"));
        Ok(Self {
            address,
            shared,
            accepting,
            signals,
            supervisor,
            access_log: access_log_writer,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until a node is online; false if none is after `limit`.
    pub fn wait_until_ready(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        loop {
            if self.shared.directory.snapshot().has_online_node() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::park_timeout(READY_POLL);
        }
    }

    /// Serves until a signal ends it, then drains. `reload` reads the configuration again when a signal
    /// asks for it, and says in a few words what came of it.
    pub fn run(self, reload: impl Fn() -> String) -> Ending {
        while self.signals.wait_for_request() != Request::End {
            self.supervisor.reloading();
            self.supervisor.ready(&reload());
        }
        self.supervisor.stopping();
        let ending = self.drain();
        if let Some(writer) = self.access_log {
            writer.finish();
        }
        ending
    }

    /// Readiness fails at once; listeners close after the announce time; exchanges get the grace
    /// time to finish. A second signal ends it where it is.
    fn drain(&self) -> Ending {
        let server = &self.shared.config.current().server;
        log::info(format_args!(
            "draining: closing the listeners in {:?}, then waiting up to {:?} for exchanges",
            server.drain_announce, server.drain_grace
        ));
        self.shared.drain.begin();
        if self
            .signals
            .wait_until(Instant::now() + server.drain_announce)
            == Some(Request::End)
        {
            return self.abort();
        }
        let mut unsent: Vec<_> = self.shared.mailboxes.iter().collect();
        let until = Instant::now() + server.drain_grace;
        loop {
            // A mailbox may be full for a moment of a storm.
            unsent.retain(|mailbox| mailbox.send(Notice::CloseListener).is_err());
            // Connections are counted until their last byte is out, exchanges only while they run.
            // What an accept task has taken is counted before the task ends.
            if self.accepting.load(Ordering::Acquire) == 0
                && self.gauge(Gauge::ConnectionsActive) == 0
            {
                log::info(format_args!("drained"));
                return Ending::Clean;
            }
            let look_again = (Instant::now() + DRAIN_POLL).min(until);
            if self.signals.wait_until(look_again) == Some(Request::End) || Instant::now() >= until
            {
                return self.abort();
            }
        }
    }

    fn abort(&self) -> Ending {
        let exchange_count = self.gauge(Gauge::RequestsInFlight);
        if exchange_count == 0 {
            return Ending::Clean;
        }
        log::warn(format_args!("aborting {exchange_count} exchanges"));
        Ending::Aborted
    }

    fn gauge(&self, gauge: Gauge) -> u64 {
        self.shared
            .metrics
            .iter()
            .map(|worker| worker.gauge(gauge))
            .sum()
    }
}

/// What workers send to the control side with, and what it receives with.
fn control_channels() -> (Sender<NodeId>, Sender<ApiCall>, ControlInbox) {
    let (failing_nodes, failures) = crossbeam_channel::bounded(FAILURE_REPORTS);
    let (api, calls) = crossbeam_channel::bounded(API_CALLS_MAX);
    let inbox = ControlInbox {
        failing_nodes: failures,
        api: calls,
    };
    (failing_nodes, api, inbox)
}

type Mailboxes = Vec<mailbox::Sender<Notice>>;
type Inboxes = Vec<mailbox::Receiver<Notice>>;

/// A mailbox for each worker. There is room for a word to every request that may ever wait, twice over, for
/// an answer to every call of the control API, those that were given up included, and for the few other
/// notices.
fn mailboxes(count: usize) -> io::Result<(Mailboxes, Inboxes)> {
    let turns = 2 * config::MAX_WAITING_MAX as usize;
    let room = turns + api::CALLS_MAX + API_CALLS_MAX + OTHER_NOTICES_MAX;
    (0..count).map(|_| mailbox::new(room)).collect()
}

fn start_workers(
    shared: &Arc<Shared>,
    seats: Vec<(mailbox::Receiver<Notice>, TcpListener)>,
    connection_count_max: u32,
    accepting: &Arc<AtomicUsize>,
) -> Result<(), StartError> {
    let connections = Arc::new(Connections::new(connection_count_max));
    let is_pinned = shared.config.current().server.pin_workers;
    let cores = limits::available_cores();
    let worker_count = seats.len();
    let (started, outcomes) = crossbeam_channel::bounded(worker_count);
    for (index, (inbox, listener)) in seats.into_iter().enumerate() {
        let pinned_core = match is_pinned {
            true => cores.get(index % cores.len().max(1)).copied(),
            false => None,
        };
        worker::start(WorkerStart {
            index,
            pinned_core,
            listener,
            inbox,
            connections: Arc::clone(&connections),
            shared: Arc::clone(shared),
            accepting: Arc::clone(accepting),
            started: started.clone(),
        })
        .map_err(system("start a worker"))?;
    }
    // A worker that ends without a word shows as a closed channel.
    drop(started);
    for _ in 0..worker_count {
        let outcome = outcomes
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("it ended")));
        outcome.map_err(system("start a worker"))?;
    }
    Ok(())
}

/// One listener per worker on the same port; a port of 0 is picked by the first.
fn bind_all(config: &Config, count: usize) -> Result<Vec<TcpListener>, StartError> {
    let mut address = SocketAddr::new(config.server.host, config.server.port);
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        let listener = Listener::bind(address).map_err(system(&format!("listen on {address}")))?;
        address = listener
            .local_addr()
            .map_err(system("read the listening address"))?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn choose_driver(wanted: IoDriver) -> Result<Driver, StartError> {
    let preference = match wanted {
        IoDriver::Auto => Preference::Auto,
        IoDriver::IoUring => Preference::IoUring,
        IoDriver::Epoll => Preference::Epoll,
    };
    let choice = runtime::choose(preference).map_err(system("use the I/O driver"))?;
    log::info(format_args!(
        "I/O driver: {} ({})",
        choice.driver, choice.reason
    ));
    Ok(choice.driver)
}

fn start_access_log(target: &AccessLogTarget) -> io::Result<Option<(AccessLog, AccessLogWriter)>> {
    let started = match target {
        AccessLogTarget::Off => return Ok(None),
        AccessLogTarget::Stdout => AccessLog::start(io::stdout(), ACCESS_RECORDS_MAX),
        AccessLogTarget::Stderr => AccessLog::start(io::stderr(), ACCESS_RECORDS_MAX),
        AccessLogTarget::File(path) => {
            let file = std::fs::File::options()
                .create(true)
                .append(true)
                .open(path)?;
            AccessLog::start(file, ACCESS_RECORDS_MAX)
        }
    };
    started.map(Some)
}

fn system(action: &str) -> impl FnOnce(io::Error) -> StartError {
    let action = action.to_owned();
    move |source| StartError::System { action, source }
}

impl std::fmt::Display for StartError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Config(problem) => formatter.write_str(problem),
            Self::System { action, source } => write!(formatter, "cannot {action}: {source}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Reports of failing nodes that may wait for the control thread; it needs only one per node.
const FAILURE_REPORTS: usize = 1024;
/// Calls of the control API that may wait for a thread; further ones are refused.
const API_CALLS_MAX: usize = 256;
/// Access records that may wait for the writing thread; more are dropped and counted.
const ACCESS_RECORDS_MAX: usize = 16 * 1024;
/// Notices to a worker, other than about turns, that it may not have read yet.
const OTHER_NOTICES_MAX: usize = 8;
/// How often a draining process looks whether it is done.
const DRAIN_POLL: Duration = Duration::from_millis(10);
/// How often a starting process looks whether a node is online.
const READY_POLL: Duration = Duration::from_millis(10);
