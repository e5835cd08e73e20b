//! What an exchange works with: the process-wide snapshot and counters, and one worker's own part.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption, Cache};
use crossbeam_channel::{Receiver, Sender};

use crate::admission::{BufferBudget, LocalBudget, PerWorker, SeatAddress, TurnKey};
use crate::auth::Scope;
use crate::auth::key::{AuthError, KeyMemory, KeySet};
use crate::config::Config;
use crate::nodes::{
    Admission, Candidates, FailureReason, LocalAdmission, Node, NodeDirectory, NodeId, NodeTable,
    ResolvedModel, Selection, Served, Slot,
};
use crate::runtime::mailbox::Sender as Mailbox;
use crate::runtime::{self, Driver, clock};
use crate::telemetry::{
    AccessLog, BuildLabels, History, HourEvent, Occurrence, ProcessSample, Recorder,
    RejectionReason, Reloads, Scrape, StoreHealth, WorkerMetrics,
};
use crate::upstream::Pool;

use super::api::{Answer, ApiCalls, ApiInbox, Desk, Frame, Live, NodeTokens, Viewers};
use super::changes::{Change, Changes};
use super::probe_token::ProbeToken;
use super::request_id::{RequestId, RequestIds};
use super::settings::{self, LiveConfig};

/// A message to one worker.
pub enum Notice {
    /// The turn of the request on this seat has come.
    Turn {
        /// See [`SeatAddress`].
        seat: usize,
    },
    /// The node table or the state of a node has changed: waiting requests are to follow.
    NodesChanged,
    /// The control side has answered a call of this worker.
    Answer(Box<Answer>),
    /// There is something new for those who watch.
    Frame,
    /// The configuration has been replaced.
    ConfigChanged,
    /// Begin to accept connections.
    OpenListeners,
    /// Stop listening, and close the connections that only wait for work.
    CloseListeners,
    /// Stop accepting, leave the listening sockets to the process that has taken over, and close the
    /// connections that only wait for work.
    ReleaseListeners,
}

/// What all workers share. Immutable, or replaced whole, or atomic.
pub struct Shared {
    /// The configuration this process runs with now.
    pub config: LiveConfig,
    /// Where the router listens.
    pub address: SocketAddr,
    /// By what it knows itself among its nodes.
    pub probe_token: ProbeToken,
    /// The node table.
    pub directory: Arc<NodeDirectory>,
    /// The API keys that are valid now.
    pub keys: Arc<ArcSwap<KeySet>>,
    /// The tokens of the registered nodes.
    pub node_tokens: Arc<ArcSwap<NodeTokens>>,
    /// Router-wide counters, and the queues.
    pub admission: Arc<Admission>,
    /// Where each worker receives notices.
    pub mailboxes: Vec<Mailbox<Notice>>,
    /// Bytes of large request bodies held by the process.
    pub budget: Arc<BufferBudget>,
    /// The metric blocks of all workers.
    pub metrics: Vec<Arc<WorkerMetrics>>,
    /// Where access records go, if anywhere.
    pub access_log: Option<AccessLog>,
    /// Where the records of requests wait to be written.
    pub history: Arc<History>,
    /// Whether the database works, for `/ready` and the metrics.
    pub store: Arc<StoreHealth>,
    /// How reloads of the configuration went.
    pub reloads: Reloads,
    /// The latest sample of the process.
    pub process: ArcSwapOption<ProcessSample>,
    /// The driver all workers run on.
    pub driver: Driver,
    /// How far the process is on its way out.
    pub drain: DrainPhase,
    /// Changes of nodes and configuration that somebody asks for.
    pub changes: Arc<Changes>,
    /// Nodes that failed too often in a row, for the control thread to judge.
    pub failing_nodes: Sender<NodeId>,
    /// Calls of the control API, for the threads that may block.
    pub api: ApiCalls,
    /// What those see who watch the router live.
    pub live: Live,
    /// The wall clock in seconds since the Unix epoch, kept within a second by the control thread.
    pub unix_secs: AtomicU64,
    /// Start of the process, seconds since the Unix epoch.
    pub started_unix_secs: u64,
}

/// What the workers send to the control side, as it receives it.
pub struct ControlInbox {
    /// Nodes that failed too often in a row.
    pub failing_nodes: Receiver<NodeId>,
    /// Calls of the control API.
    pub api: ApiInbox,
}

impl Shared {
    /// Begins a change of nodes or configuration; `None` when this process is on its way out, or may be: what
    /// it were told now might be lost.
    pub fn begin_change(&self) -> Option<Change> {
        match self.drain.is_draining() {
            true => None,
            false => self.changes.begin(),
        }
    }

    /// What there is to be told about the process and all workers now.
    pub fn scrape<'a>(
        &'a self,
        table: &'a NodeTable,
        process: Option<&'a ProcessSample>,
    ) -> Scrape<'a> {
        Scrape {
            workers: &self.metrics,
            table,
            admission: &self.admission,
            budget: &self.budget,
            access_log: self.access_log.as_ref(),
            store: &self.store,
            reloads: &self.reloads,
            process,
            build: BuildLabels {
                version: env!("CARGO_PKG_VERSION"),
                io_driver: self.driver.name(),
            },
        }
    }

    /// Shows a frame to those who watch.
    pub fn show(&self, frame: Frame) {
        self.live.show(frame);
        for mailbox in &self.mailboxes {
            // Where the mailbox is full, the next frame will do.
            let _ = mailbox.send(Notice::Frame);
        }
    }

    /// Has the waiting requests follow a change of the nodes; `false` if it must be tried again.
    pub fn nodes_changed(&self) -> bool {
        // Any worker will do; the thread that publishes must not hold the queues' lock, because it may
        // be put aside by the scheduler for longer than a worker.
        let first = self.mailboxes.first();
        first.is_none_or(|mailbox| mailbox.send(Notice::NodesChanged).is_ok())
    }

    /// Replaces the configuration: what the process has in common at once, what each worker keeps as soon
    /// as it hears of it, see [`LiveConfig::is_followed`]. The caller makes sure that nobody else does so
    /// meanwhile, and publishes keys and nodes itself.
    pub fn reconfigure(&self, config: Config) {
        settings::apply(&config, self);
        self.config.replace(config);
        for mailbox in &self.mailboxes {
            // A full mailbox delays it until that worker's next [`Worker::tidy`].
            let _ = mailbox.send(Notice::ConfigChanged);
        }
    }
}

/// Carries word to a seat of another worker. A full mailbox delays it until that worker's next
/// [`Worker::tidy`].
pub fn wake_by(mailboxes: Vec<Mailbox<Notice>>) -> impl Fn(SeatAddress) + Send + Sync {
    move |SeatAddress { worker, seat }| {
        if let Some(mailbox) = mailboxes.get(worker) {
            let _ = mailbox.send(Notice::Turn { seat });
        }
    }
}

/// Whether the process is on its way out.
#[derive(Debug, Default)]
pub struct DrainPhase(AtomicU8);

impl DrainPhase {
    /// Readiness fails from now on and every response closes its connection.
    pub fn begin(&self) {
        self.0.store(1, Ordering::Relaxed);
    }

    /// Whether [`DrainPhase::begin`] was called.
    pub fn is_draining(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }
}

/// One worker's part: everything here stays on its thread.
pub struct Worker {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Which of the workers it is.
    pub(super) index: usize,
    /// The configuration this worker follows, and its generation.
    config: RefCell<PerWorker<Config>>,
    config_generation: Cell<u64>,
    /// This worker's metric block.
    pub metrics: Recorder,
    /// This worker's connections to nodes.
    pub pool: Pool,
    pub(super) admission: LocalAdmission,
    pub(super) budget: LocalBudget,
    candidates: RefCell<Candidates>,
    keys: RefCell<Cache<Arc<ArcSwap<KeySet>>, Arc<KeySet>>>,
    /// Where exchanges wait for the control side.
    pub(super) desk: Desk,
    /// Exchanges that watch.
    pub(super) viewers: Viewers,
    request_ids: RequestIds,
    /// Panics of this worker's tasks that the metrics know of.
    panics_counted: Cell<u64>,
}

impl Worker {
    /// The worker of this index, to be made on its own thread. `seed` is random.
    ///
    /// `None` if the index has no metric block or another worker has taken it: two writers would lose
    /// counts.
    pub fn new(shared: Arc<Shared>, index: usize, seed: [u64; 2]) -> Option<Self> {
        let metrics = shared.metrics.get(index)?.recorder()?;
        let (config, config_generation) = shared.config.load();
        let pool = Pool::new(settings::pool_limits(&config), metrics.clone());
        let limits = settings::candidate_limits(&config);
        let admission = LocalAdmission::new(Arc::clone(&shared.admission), index);
        let directory = Arc::clone(&shared.directory);
        let candidates = Candidates::new(directory, limits, index, admission.clone());
        shared.config.followed_by(index, config_generation);
        Some(Self {
            index,
            config: RefCell::new(PerWorker::new(config)),
            config_generation: Cell::new(config_generation),
            metrics,
            pool,
            admission,
            budget: LocalBudget::new(Arc::clone(&shared.budget)),
            candidates: RefCell::new(candidates),
            keys: RefCell::new(Cache::new(Arc::clone(&shared.keys))),
            desk: Desk::new(),
            viewers: Viewers::default(),
            request_ids: RequestIds::new(seed),
            panics_counted: Cell::new(0),
            shared,
        })
    }

    /// The configuration now. It costs a count on this core; whoever keeps it over an await goes on with
    /// what it was.
    pub(super) fn config(&self) -> PerWorker<Config> {
        self.config.borrow().clone()
    }

    /// Whether the process is on its way out.
    pub fn is_draining(&self) -> bool {
        self.shared.drain.is_draining()
    }

    /// What is to be done about once a second: idle connections that have aged, counters that are
    /// published in batches.
    pub fn tidy(&self) {
        self.follow_config();
        self.publish_counts();
        self.pool.sweep(self.candidates.borrow_mut().table());
        self.admission.wake_all();
    }

    /// Follows [`Notice::ConfigChanged`].
    pub fn follow_config(&self) {
        let (config, generation) = self.shared.config.load();
        if self.config_generation.replace(generation) == generation {
            return;
        }
        self.pool.set_limits(settings::pool_limits(&config));
        let limits = settings::candidate_limits(&config);
        self.candidates.borrow_mut().set_limits(limits);
        self.config.replace(PerWorker::new(config));
        self.admission.limits_changed();
        self.shared.config.followed_by(self.index, generation);
    }

    /// Follows [`Notice::Turn`].
    pub fn turn_came(&self, seat: usize) {
        self.admission.wake(seat);
    }

    /// Follows [`Notice::NodesChanged`].
    pub fn nodes_changed(&self) {
        let table = self.node_table();
        self.admission
            .refresh(table.generation(), |name| table.model(name).map(Arc::clone));
    }

    /// Follows [`Notice::Answer`].
    pub fn answer_came(&self, answer: Answer) {
        self.desk.answer(answer);
    }

    /// Follows [`Notice::Frame`].
    pub fn frame_came(&self) {
        self.viewers.wake();
    }

    /// Brings counters up to date that are kept elsewhere while requests run.
    fn publish_counts(&self) {
        let candidates = self.candidates.borrow();
        self.metrics
            .cache_totals(candidates.hits(), candidates.misses());
        let panics = runtime::panic_count();
        for _ in self.panics_counted.replace(panics)..panics {
            self.metrics.count(Occurrence::Panic);
        }
    }

    pub(super) fn new_request_id(&self) -> RequestId {
        self.request_ids.next()
    }

    pub(super) fn authenticate(
        &self,
        memory: &mut KeyMemory,
        authorization: Option<&[u8]>,
        x_api_key: Option<&[u8]>,
    ) -> Result<TurnKey, AuthError> {
        if !self.config.borrow().auth.required {
            return Ok(ANYBODY);
        }
        let mut keys = self.keys.borrow_mut();
        let now_unix = self.shared.unix_secs.load(Ordering::Relaxed);
        let identity = memory.authenticate(keys.load(), authorization, x_api_key, now_unix)?;
        // A key made for something else is as good as none here, and is not told apart.
        if identity.scopes.contains(Scope::Inference) {
            Ok(identity.id.get())
        } else {
            Err(AuthError::Unknown)
        }
    }

    /// What a client means by `model`.
    pub(super) fn resolve(&self, model: &str) -> Option<Rc<ResolvedModel>> {
        self.candidates.borrow_mut().resolve(model, clock::coarse())
    }

    /// Takes over a slot that was handed over.
    pub(super) fn adopt(&self, served: Served) -> Option<Slot> {
        self.candidates.borrow_mut().adopt(served)
    }

    /// A slot of a node that was not tried yet, for a request that keeps its permit.
    pub(super) fn select_again(&self, model: Rc<ResolvedModel>, tried: &[NodeId]) -> Option<Slot> {
        match model.select(tried) {
            Selection::Slot(slot, _) => Some(slot),
            Selection::NoSlot(model) => {
                let is_untried = |node: &Arc<Node>| !tried.contains(&node.id);
                self.adopt(self.admission.move_on(model.model(), is_untried)?)
            }
            Selection::NoOnlineNode(_) | Selection::UnknownModel => None,
        }
    }

    pub(super) fn node_table(&self) -> Arc<NodeTable> {
        Arc::clone(self.candidates.borrow_mut().table())
    }

    /// Counts a refusal.
    pub(super) fn count_rejection(&self, reason: RejectionReason) {
        self.metrics.rejected(reason);
        if let Some(event) = reason.hour_event() {
            self.count_in_hour(event);
        }
    }

    /// Counts what the figures of the last hour are made of.
    pub(super) fn count_in_hour(&self, event: HourEvent) {
        let minute = self.shared.unix_secs.load(Ordering::Relaxed) / 60;
        self.metrics.in_hour(minute, event);
    }

    /// Counts a failure that is the node's own, and tells the control thread when there are too many.
    pub(super) fn count_node_failure(&self, node: &Node, reason: FailureReason) {
        if node.live.record_failure(reason) {
            // Full means that the control thread has more failures to judge than there are nodes.
            let _ = self.shared.failing_nodes.try_send(node.id);
        }
    }

    pub(super) fn write_metrics(&self, out: &mut Vec<u8>) {
        self.publish_counts();
        let process = self.shared.process.load();
        let mut text = String::with_capacity(METRICS_BYTES_USUAL);
        self.shared
            .scrape(&self.node_table(), process.as_deref())
            .render(&mut text);
        out.extend_from_slice(text.as_bytes());
    }
}

/// Whose turn a request counts as where no key is needed. Keys are numbered from 1.
const ANYBODY: TurnKey = 0;
const METRICS_BYTES_USUAL: usize = 32 * 1024;
