//! The process: worker threads, listeners, signals, drain.
//!
//! ```text
//! main thread   binds the listeners, starts everything, then waits for signals
//! worker × n    one runtime each, pinned: accept tasks, connections, its pool     (worker.rs)
//! handover      waits for a process that takes over                               (handover/)
//! control       probes, keys, snapshots; started by whoever composes the process  (control/)
//! api × 4       the control API; started with it                                  (control/api/)
//! live          samples what viewers of the control API see                       (control/api/)
//! access-log    writes access records, if they are on                             (telemetry/)
//! ```

mod handover;
mod limits;
mod signals;
mod sockets;
mod supervisor;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use crossbeam_channel::{Receiver, Sender};

use crate::admission::BufferBudget;
use crate::auth::key::KeySet;
use crate::config::{self, AccessLog as AccessLogTarget, Config, IoDriver, ServerConfig};
use crate::nodes::{Admission, NodeId};
use crate::proxy::api::{self, ApiCalls, Live};
use crate::proxy::{self, ControlInbox, DrainPhase, LiveConfig, Notice, Shared};
use crate::runtime::{self, Driver, Preference, clock, mailbox};
use crate::telemetry::{AccessLog, AccessLogWriter, Gauge, History, Reloads, WorkerMetrics, log};

use handover::{Giver, Offer, Taken};
use signals::{Request, Signals};
use sockets::Sockets;
use supervisor::Supervisor;
use worker::{Connections, Losses, WorkerStart};

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
    /// A worker had ended by a fault, and what it was serving with it. The router is to be started again.
    Failed,
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

/// Where the process gets its listening sockets from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    /// It binds them.
    First,
    /// From the process that runs on its data directory, which it succeeds.
    Upgrade,
}

/// The process that runs on a data directory. It has given its listening sockets, and makes no change of nodes
/// or configuration until this process has taken over or has gone.
pub struct Predecessor(Taken);

impl Predecessor {
    /// Asks it for its sockets. The configuration is to be read again afterwards: only from now on it stays as
    /// that process knows it.
    ///
    /// # Errors
    /// When there is none, or when it does not hand over.
    pub fn meet(server: &ServerConfig) -> Result<Self, StartError> {
        handover::take(&server.data_dir, server.host, server.port)
            .map(Self)
            .map_err(StartError::Config)
    }
}

/// What signals other than those that end the process ask for; called on the thread that runs the server.
pub struct Orders<'o> {
    /// Read the configuration again, and say in a few words what came of it.
    pub reload: &'o dyn Fn() -> String,
    /// Start the process that is to take over.
    pub upgrade: &'o dyn Fn(),
}

/// Why the process leaves.
#[derive(Debug, Clone, Copy)]
enum Leaving {
    /// A signal.
    Told,
    /// A worker has ended, and others shall not take its place.
    Failed,
    /// This process has taken over.
    HandedOver(u32),
}

impl Leaving {
    /// What the workers are to do.
    fn notice(self) -> Notice {
        match self {
            Self::Told | Self::Failed => Notice::CloseListeners,
            Self::HandedOver(_) => Notice::ReleaseListeners,
        }
    }
}

/// A router that accepts connections.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Accept tasks that run, of all workers.
    accepting: Arc<AtomicUsize>,
    losses: Arc<Losses>,
    signals: Signals,
    supervisor: Arc<Supervisor>,
    /// Waits for a process that takes over, where that is possible.
    giver: Option<Giver>,
    access_log: Option<AccessLogWriter>,
}

impl Server {
    /// Starts the workers and listens: on sockets of its own, or on those of `predecessor`. Call it before any
    /// other thread is started: it blocks the signals it waits for. `start_control` starts the threads that may
    /// block; they are given what they publish to and what the workers send them. Connections are accepted only
    /// once it has returned.
    ///
    /// # Errors
    /// [`StartError`]; threads that were started already end with the process.
    pub fn start(
        config: Config,
        keys: KeySet,
        predecessor: Option<Predecessor>,
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
        let arrival = match &predecessor {
            Some(_) => Arrival::Upgrade,
            None => Arrival::First,
        };
        let mut sockets = Sockets::of(predecessor, &config, worker_count)?;
        let (access_log, access_log_writer) = start_access_log(&config.log.access)
            .map_err(system("open the access log"))?
            .unzip();
        let base = Base {
            address: sockets.address,
            driver,
            worker_count,
            access_log,
        };
        let (shared, control_inbox, inboxes) = base
            .shared(config, keys)
            .map_err(system("create a worker's mailbox"))?;
        start_control(Arc::clone(&shared), control_inbox)
            .map_err(system("start the control threads"))?;
        let accepting = Arc::default();
        let knocker = signals.knocker().map_err(system("start a worker"))?;
        let losses = Arc::new(Losses::new(knocker));
        let seats = inboxes.into_iter().zip(sockets.shares(worker_count)?);
        let seats = seats.collect();
        let workers = start_workers(&shared, seats, connection_count_max, &accepting, &losses)?;
        if arrival == Arrival::Upgrade && signals.end_is_pending() {
            // The process before goes on; had it left by now, nobody would serve.
            return Err(StartError::Config(ENDED_EARLY.to_owned()));
        }
        sockets.succeed()?;
        open_listeners(&shared, &workers)?;
        let address = sockets.address;
        log::info(format_args!(
            "listening on {address} with {worker_count} workers, at most {connection_count_max} \
             connections"
        ));
        let supervisor = Arc::new(Supervisor::of_environment());
        let giver = offer(&shared, sockets, arrival, &signals, &supervisor);
        supervisor.ready(&format!("listening on {address}"));
        Ok(Self {
            address,
            shared,
            accepting,
            losses,
            signals,
            supervisor,
            giver,
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

    /// Serves until a signal ends it, another process has taken over or a worker has ended, then drains.
    pub fn run(self, orders: &Orders<'_>) -> Ending {
        let leaving = loop {
            if self.losses.any() {
                break self.end(Leaving::Failed);
            }
            match self.signals.wait_for_request() {
                Request::End => break self.end(Leaving::Told),
                Request::HandedOver(process) => break Leaving::HandedOver(process),
                Request::WorkerEnded => {}
                Request::Upgrade => (orders.upgrade)(),
                Request::Reload => {
                    self.supervisor.reloading();
                    self.supervisor.ready(&(orders.reload)());
                }
            }
        };
        let mut ending = self.drain(leaving);
        if self.losses.any() {
            log::error(format_args!(
                "a worker has ended by a fault: this process has failed, and is to be started again"
            ));
            ending = Ending::Failed;
        }
        if let Some(writer) = self.access_log {
            writer.finish();
        }
        ending
    }

    /// The end has come for this reason.
    fn end(&self, reason: Leaving) -> Leaving {
        if self.giver.as_ref().is_none_or(Giver::stop) {
            self.supervisor.stopping();
            return reason;
        }
        // Another process has just taken over: its sockets must be left alone.
        match self.signals.wait_for_handover() {
            Some(process) => Leaving::HandedOver(process),
            None => reason,
        }
    }

    /// Readiness fails at once; listeners close after the announce time; exchanges get the grace
    /// time to finish. Another signal ends it where it is. Where another process accepts, there is nothing
    /// to announce, and where a worker is missing, there is no time for it.
    fn drain(&self, leaving: Leaving) -> Ending {
        let server = &self.shared.config.current().server;
        let (announce, mut signals_left) = match leaving {
            Leaving::Told => {
                log::info(format_args!(
                    "draining: closing the listeners in {:?}, then waiting up to {:?} for exchanges",
                    server.drain_announce, server.drain_grace
                ));
                (server.drain_announce, 1)
            }
            Leaving::Failed => {
                log::warn(format_args!(
                    "draining: closing the listeners, then waiting up to {:?} for exchanges",
                    server.drain_grace
                ));
                (Duration::ZERO, 1)
            }
            Leaving::HandedOver(process) => {
                log::info(format_args!(
                    "upgrade: process {process} has taken over; waiting up to {:?} for exchanges",
                    server.drain_grace
                ));
                // The first one asks for what is done already.
                (Duration::ZERO, 2)
            }
        };
        self.shared.drain.begin();
        let mut is_aborted = |until: Instant| {
            if self.signals.wait_until(until) == Some(Request::End) {
                signals_left -= 1;
            }
            signals_left == 0
        };
        if is_aborted(Instant::now() + announce) {
            return self.abort();
        }
        let mut unsent: Vec<_> = self.shared.mailboxes.iter().collect();
        let until = Instant::now() + server.drain_grace;
        loop {
            // A mailbox may be full for a moment of a storm.
            unsent.retain(|mailbox| mailbox.send(leaving.notice()).is_err());
            // Connections are counted until their last byte is out, exchanges only while they run.
            // What an accept task has taken is counted before the task ends.
            if unsent.is_empty()
                && self.accepting.load(Ordering::Acquire) == 0
                && self.gauge(Gauge::ConnectionsActive) == 0
            {
                log::info(format_args!("drained"));
                return Ending::Clean;
            }
            let look_again = (Instant::now() + DRAIN_POLL).min(until);
            if is_aborted(look_again) || Instant::now() >= until {
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

/// What is known before anything is shared.
struct Base {
    address: SocketAddr,
    driver: Driver,
    worker_count: usize,
    access_log: Option<AccessLog>,
}

impl Base {
    /// What all threads share, and where the control side and each worker receive.
    fn shared(
        self,
        config: Config,
        keys: KeySet,
    ) -> io::Result<(Arc<Shared>, ControlInbox, Inboxes)> {
        let (failing_nodes, api, inbox) = control_channels();
        let now = clock::unix_secs();
        let (mailboxes, inboxes) = mailboxes(self.worker_count)?;
        let wake = proxy::wake_by(mailboxes.clone());
        let shared = Shared {
            address: self.address,
            directory: Arc::default(),
            keys: Arc::new(ArcSwap::from_pointee(keys)),
            admission: Arc::new(Admission::new(proxy::admission_limits(&config), wake)),
            mailboxes,
            budget: Arc::new(BufferBudget::new(config.proxy.max_buffered_bytes)),
            metrics: (0..self.worker_count)
                .map(|_| WorkerMetrics::new())
                .collect(),
            access_log: self.access_log,
            history: Arc::new(History::new(
                self.worker_count,
                proxy::history_limits(&config),
            )),
            store: Arc::default(),
            reloads: Reloads::since(now),
            process: ArcSwapOption::empty(),
            driver: self.driver,
            drain: DrainPhase::default(),
            changes: Arc::default(),
            failing_nodes,
            api,
            live: Live::new(),
            unix_secs: AtomicU64::new(now),
            started_unix_secs: now,
            config: LiveConfig::new(config, self.worker_count),
        };
        Ok((Arc::new(shared), inbox, inboxes))
    }
}

/// What workers send to the control side with, and what it receives with.
fn control_channels() -> (Sender<NodeId>, ApiCalls, ControlInbox) {
    let (failing_nodes, failures) = crossbeam_channel::bounded(FAILURE_REPORTS);
    let (api, calls) = ApiCalls::new();
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
    let room = turns + api::CALLS_MAX + api::QUEUED_MAX + OTHER_NOTICES_MAX;
    (0..count).map(|_| mailbox::new(room)).collect()
}

/// The workers' words: each is a step that one of them has done.
struct Steps {
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
fn start_workers(
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
fn open_listeners(shared: &Shared, workers: &Steps) -> Result<(), StartError> {
    for mailbox in &shared.mailboxes {
        if mailbox.send(Notice::OpenListeners).is_err() {
            let full = io::Error::other("its mailbox is full");
            return Err(system("have a worker listen")(full));
        }
    }
    workers.wait()
}

/// Lets another process take over, from now on. A router that cannot be upgraded serves all the same.
fn offer(
    shared: &Shared,
    sockets: Sockets,
    arrival: Arrival,
    signals: &Signals,
    supervisor: &Arc<Supervisor>,
) -> Option<Giver> {
    let config = shared.config.current();
    let directory = &config.server.data_dir;
    let offer = Offer {
        directory: directory.clone(),
        host: config.server.host,
        port: config.server.port,
        address: sockets.address,
        listeners: sockets.listeners,
    };
    let supervisor = Arc::clone(supervisor);
    let giver = signals.knocker().and_then(|knocker| {
        let announce = move |process| supervisor.successor(process);
        let changes = Arc::clone(&shared.changes);
        Giver::start(offer, arrival, changes, announce, move |process| {
            knocker.handed_over(process);
        })
    });
    let reason = match giver {
        Ok(giver) => return Some(giver),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            "another router runs on it".to_owned()
        }
        Err(error) => error.to_string(),
    };
    log::warn(format_args!(
        "this process cannot hand over to another one in the data directory {}: {reason}",
        directory.display()
    ));
    None
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

/// What a worker says at most: two steps that it has done, and that it has ended, perhaps with a reason.
const WORDS_MAX: usize = 4;
/// Reports of failing nodes that may wait for the control thread; it needs only one per node.
const FAILURE_REPORTS: usize = 1024;
/// Access records that may wait for the writing thread; more are dropped and counted.
const ACCESS_RECORDS_MAX: usize = 16 * 1024;
/// Notices to a worker, other than about turns, that it may not have read yet.
const OTHER_NOTICES_MAX: usize = 8;
/// How often a draining process looks whether it is done.
const DRAIN_POLL: Duration = Duration::from_millis(10);
/// How often a starting process looks whether a node is online.
const READY_POLL: Duration = Duration::from_millis(10);
const ENDED_EARLY: &str = "it was told to end before it had taken over";
