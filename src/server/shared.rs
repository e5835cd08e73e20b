//! Makes what all threads share, and the ways between them: the channels to the control side, a mailbox for
//! each worker. Owns how much may be under way on each.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::{ArcSwap, ArcSwapOption};
use crossbeam_channel::Sender;

use crate::admission::BufferBudget;
use crate::auth::key::KeySet;
use crate::config::{self, Config};
use crate::nodes::{Admission, NodeId};
use crate::proxy::api::{self, ApiCalls, Live};
use crate::proxy::{self, ControlInbox, DrainPhase, LiveConfig, Notice, ProbeToken, Shared};
use crate::runtime::{Driver, clock, mailbox};
use crate::telemetry::{AccessLog, History, Reloads, WorkerMetrics};

/// What is known before anything is shared.
pub(super) struct Base {
    pub(super) address: SocketAddr,
    pub(super) driver: Driver,
    pub(super) worker_count: usize,
    pub(super) access_log: Option<AccessLog>,
}

impl Base {
    /// What all threads share, and where the control side and each worker receive.
    pub(super) fn shared(
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
            probe_token: ProbeToken::random().map_err(io::Error::other)?,
            directory: Arc::default(),
            keys: Arc::new(ArcSwap::from_pointee(keys)),
            node_tokens: Arc::default(),
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
/// Where each worker receives notices.
pub(super) type Inboxes = Vec<mailbox::Receiver<Notice>>;

/// A mailbox for each worker. There is room for a word to every request that may ever wait, twice over, for
/// an answer to every call of the control API, those that were given up included, and for the few other
/// notices.
fn mailboxes(count: usize) -> io::Result<(Mailboxes, Inboxes)> {
    let turns = 2 * config::MAX_WAITING_MAX as usize;
    let room = turns + api::CALLS_MAX + api::QUEUED_MAX + OTHER_NOTICES_MAX;
    (0..count).map(|_| mailbox::new(room)).collect()
}

/// Reports of failing nodes that may wait for the control thread; it needs only one per node.
const FAILURE_REPORTS: usize = 1024;
/// Notices to a worker, other than about turns, that it may not have read yet.
const OTHER_NOTICES_MAX: usize = 8;
