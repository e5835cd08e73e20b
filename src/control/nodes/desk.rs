//! Where other threads ask about nodes and change them: each question is a task for the control thread, each
//! lasting change is kept by the store first. One change is made at a time, from its check to its effect.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::auth::Secret;
use crate::auth::key::KeyHash;
use crate::config::{BaseUrl, Config, Host, NodeConfig};
use crate::control::probe::{AddressError, RegistrationRules, resolve};
use crate::runtime::clock;
use crate::store::{Credential, Store, StoreError, StoredNode};
use crate::telemetry::log;

use super::member::{Heartbeat, Registration};
use super::tasks::{Plan, of_store};
use super::token::{Power, random};
use super::{NodeRef, NodeView, Nodes, OwnMarks, Watch};

/// Work for the control thread, which tells it the time.
type Task = Box<dyn FnOnce(&mut Nodes, Duration) + Send>;

/// What the control thread is asked to do.
pub(in crate::control) type Tasks = Receiver<Task>;

/// A way to the nodes; clones lead to the same ones. Every call blocks for a few seconds at most: never on a
/// worker.
#[derive(Clone)]
pub(in crate::control) struct NodeDesk {
    tasks: Sender<Task>,
    store: Store,
    own: OwnMarks,
    /// Holds one token while a change is under way.
    changing: (Sender<()>, Receiver<()>),
    /// Holds one for each name that is being resolved.
    resolving: (Sender<()>, Receiver<()>),
    lag: Arc<Lag>,
}

/// Whether the store lacks something that is to be kept, or has something that is to be read.
#[derive(Default)]
pub(in crate::control) struct Lag {
    is_behind: AtomicBool,
    /// How often its file had been begun anew when all that is known here was in it.
    whole_at: AtomicU64,
}

/// What the store has kept about nodes.
#[derive(Default)]
pub(in crate::control) struct Kept {
    pub(super) nodes: Vec<StoredNode>,
    /// Names of those that are to be drained.
    pub(super) drains: Vec<String>,
}

/// Why nothing came of it. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::control) enum NodesError {
    /// The control thread has too much to do.
    Busy,
    /// The store cannot keep it.
    StoreUnavailable,
    NotFound,
    /// Another node has this name.
    NameTaken,
    /// A node of the file is changed in the file.
    IsOfFile,
    TooMany,
    WrongToken,
    /// A stored credential is not sent to another place than the one it was given for.
    CredentialNeeded,
    Address(AddressError),
}

/// What a registration says besides the settings.
#[derive(Clone, Copy)]
pub(in crate::control) struct Claim {
    /// The digest of the token it shows, and what that is for.
    pub(super) token: Option<(KeyHash, Power)>,
    /// It says what the node's credential is, or that there is none.
    pub(super) names_credential: bool,
    /// It comes from somebody who may change any node.
    pub(super) is_by_admin: bool,
}

/// A node that has just registered.
pub(in crate::control) struct NewNode {
    pub(in crate::control) view: NodeView,
    /// What it proves itself with; shown this once.
    pub(in crate::control) token: Secret,
    /// It was not registered before.
    pub(in crate::control) is_new: bool,
}

/// What is to become of a registered node; `None` leaves it as it is.
#[derive(Default)]
pub(in crate::control) struct NodeChange {
    pub(in crate::control) base_url: Option<BaseUrl>,
    pub(in crate::control) models: Option<Vec<String>>,
    pub(in crate::control) api_key: Option<Option<Secret>>,
    pub(in crate::control) max_concurrency: Option<Option<u32>>,
    pub(in crate::control) weight: Option<u32>,
}

/// The right to change something, for as long as it lives.
struct Changing<'d>(&'d Receiver<()>);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let _ = self.0.try_recv();
    }
}

impl Claim {
    /// `token` as it was shown.
    pub(in crate::control) fn new(
        token: Option<&[u8]>,
        names_credential: bool,
        is_by_admin: bool,
    ) -> Self {
        Self {
            token: token.map(|token| (KeyHash::of(token), Power::of(token))),
            names_credential,
            is_by_admin,
        }
    }
}

impl Lag {
    /// `files_begun_anew`: how often that has happened by now.
    pub(in crate::control) fn is_there(&self, files_begun_anew: u64) -> bool {
        self.is_behind.load(Ordering::Acquire)
            || self.whole_at.load(Ordering::Acquire) != files_begun_anew
    }
}

impl NodeDesk {
    /// A desk, and where its tasks arrive.
    pub(in crate::control) fn new(store: Store, own: OwnMarks) -> (Self, Tasks) {
        let (tasks, arriving) = bounded(TASKS_MAX);
        let lag = Lag {
            whole_at: AtomicU64::new(store.files_begun_anew()),
            ..Lag::default()
        };
        let desk = Self {
            tasks,
            store,
            own,
            changing: bounded(1),
            resolving: bounded(RESOLVERS_MAX),
            lag: Arc::new(lag),
        };
        (desk, arriving)
    }

    pub(in crate::control) fn list(&self) -> Result<Vec<NodeView>, NodesError> {
        self.ask(|nodes, _| nodes.list())
    }

    pub(in crate::control) fn get(&self, node: &NodeRef) -> Result<NodeView, NodesError> {
        let node = node.clone();
        self.ask(move |nodes, _| nodes.get(&node))?
    }

    /// Registers a node, or takes in one that registers again, at the same address or with its token: it gets a
    /// new token, and what it says now counts. A credential that it does not speak of stays.
    pub(in crate::control) fn register(
        &self,
        mut settings: NodeConfig,
        claim: Claim,
    ) -> Result<NewNode, NodesError> {
        self.check_address(&settings.base_url)?;
        let _changing = self.change_alone()?;
        let planned = settings.clone();
        let plan = self.ask(move |nodes, _| nodes.plan(&planned, claim))??;
        let token = match &plan {
            Plan::New => Power::Move,
            Plan::Again { power, .. } => *power,
        };
        let token = token.new_token()?;
        let digest = KeyHash::of(token.expose().as_bytes());
        let (stored, is_new) = match plan {
            Plan::New => {
                let new = stored_node(new_id()?, clock::unix_secs(), digest, &settings);
                self.keep_new(&new)?;
                (new, true)
            }
            Plan::Again { known, .. } => {
                let keeps_credential = !claim.names_credential;
                if keeps_credential && let Credential::Known(secret) = &known.api_key {
                    settings.api_key = Some(secret.clone());
                }
                let mut again = stored_node(known.id, known.created_at, digest, &settings);
                if keeps_credential {
                    again.api_key = known.api_key;
                }
                self.keep_change(&again)?;
                (again, false)
            }
        };
        let view = self.admit(&stored, settings);
        if view.is_err() && is_new {
            // Else it would come back with the next start.
            let _ = self.store.remove_node(stored.id);
        }
        Ok(NewNode {
            view: view?,
            token,
            is_new,
        })
    }

    /// Changes what is set for a registered node.
    pub(in crate::control) fn change(
        &self,
        node: &NodeRef,
        change: NodeChange,
    ) -> Result<NodeView, NodesError> {
        if let Some(base_url) = &change.base_url {
            self.check_address(base_url)?;
        }
        let _changing = self.change_alone()?;
        let wanted = node.clone();
        let known = self.ask(move |nodes, _| nodes.stored(&wanted))??;
        let (id, created_at, token) = (known.id, known.created_at, known.token_digest);
        let keeps_lost = change.api_key.is_none();
        // The address was valid when it was taken in.
        let (registration, mut settings) = of_store(known).ok_or(NodesError::NotFound)?;
        let has_credential = settings.api_key.is_some() || registration.lost_credential;
        let new = change.base_url.as_ref();
        let leaves = new.is_some_and(|new| leaves_for_elsewhere(new, &settings.base_url));
        if leaves && keeps_lost && has_credential {
            return Err(NodesError::CredentialNeeded);
        }
        change.apply_to(&mut settings);
        let mut stored = stored_node(id, created_at, token, &settings);
        if registration.lost_credential && keeps_lost {
            stored.api_key = Credential::Lost;
        }
        self.keep_change(&stored)?;
        self.admit(&stored, settings)
    }

    pub(in crate::control) fn remove(&self, node: &NodeRef) -> Result<(), NodesError> {
        let _changing = self.change_alone()?;
        let wanted = node.clone();
        let known = self.ask(move |nodes, _| nodes.stored(&wanted))??;
        self.store
            .remove_node(known.id)
            .map_err(NodesError::of_store)?;
        self.ask(move |nodes, now| nodes.remove(known.id, now))??;
        self.keep_drain(known.name, false);
        Ok(())
    }

    /// Drains a node, or puts it back into service. What the store cannot keep holds all the same, and is tried
    /// again: an operator who drains a node is not to be refused because a disk is full.
    pub(in crate::control) fn set_drained(
        &self,
        node: &NodeRef,
        is_drained: bool,
    ) -> Result<NodeView, NodesError> {
        let _changing = self.change_alone()?;
        let wanted = node.clone();
        let view = self.ask(move |nodes, now| nodes.set_drained(&wanted, is_drained, now))??;
        self.keep_drain(view.name.clone(), is_drained);
        Ok(view)
    }

    /// Whether this is the node's token: else [`NodesError::WrongToken`], also if there is no such node.
    pub(in crate::control) fn check_token(
        &self,
        node: &NodeRef,
        token: &[u8],
    ) -> Result<(), NodesError> {
        let (node, token) = (node.clone(), KeyHash::of(token));
        self.ask(move |nodes, _| nodes.check_token(&node, token).map(drop))?
    }

    /// Takes in what a node reports about itself; returns its state.
    pub(in crate::control) fn heartbeat(
        &self,
        node: &NodeRef,
        token: &[u8],
        report: Heartbeat,
    ) -> Result<&'static str, NodesError> {
        let (node, token) = (node.clone(), KeyHash::of(token));
        self.ask(move |nodes, now| nodes.heartbeat(&node, token, report, now))?
    }

    /// Whether every node there is was asked, and the table shows what came of it.
    pub(in crate::control) fn is_settled(&self) -> bool {
        self.ask(|nodes, _| nodes.is_settled()).unwrap_or(false)
    }

    /// Replaces everything about nodes that comes from the configuration: nodes, aliases, how they are watched.
    /// Nodes that are gone get no new requests while running ones finish, new ones start pending, those that
    /// stay keep their state. The inner error is the names of the configuration that registered nodes have;
    /// nothing has changed then.
    pub(in crate::control) fn replace_configured(
        &self,
        config: Arc<Config>,
    ) -> Result<Result<(), Vec<String>>, NodesError> {
        let watch = Watch::of(&config, &self.own);
        let _changing = self.change_alone()?;
        let replaced = self.ask(move |nodes, now| nodes.replace_configured(&config, watch, now))?;
        if replaced.is_ok() {
            // First: the next node of a name that is free now is not to be drained for the last one.
            self.keep_drains();
            // A registered node may have been left out because of such a name.
            if self.restore_alone().is_err() {
                log::warn(format_args!("the registered nodes were not read again"));
            }
        }
        Ok(replaced)
    }

    /// Whether there is something to [`catch_up`](Self::catch_up) with.
    pub(in crate::control) fn lag(&self) -> Arc<Lag> {
        Arc::clone(&self.lag)
    }

    /// Takes in what the store has kept, if that could not be read yet, and has it keep what it could not, or
    /// has lost with its file.
    pub(in crate::control) fn catch_up(&self) {
        let Ok(_changing) = self.change_alone() else {
            return;
        };
        // Before anything is written: a file that is begun after this does not have it.
        let files = self.store.files_begun_anew();
        let is_anew = self.lag.whole_at.load(Ordering::Acquire) != files;
        let done = match self.ask(|nodes, _| nodes.is_restored()) {
            Ok(false) => self.restore_alone(),
            Ok(true) if is_anew => self.keep_again(),
            Ok(true) => Ok(()),
            Err(_) => return,
        };
        if done.is_ok() {
            self.lag.whole_at.store(files, Ordering::Release);
            self.keep_drains();
        }
    }

    /// Has a file that was begun anew keep the nodes of before, and takes in what somebody else may have put
    /// into it.
    fn keep_again(&self) -> Result<(), NodesError> {
        let known = self.ask(|nodes, _| nodes.all_stored())?;
        let missing = self.store.add_missing_nodes(known);
        let missing = missing.map_err(NodesError::of_store)?;
        if missing > 0 {
            log::info(format_args!(
                "{missing} registered nodes were written to the database again"
            ));
        }
        self.restore_alone()
    }

    /// Has the store keep exactly the drains there are.
    fn keep_drains(&self) {
        let kept = match self.ask(|nodes, _| nodes.drains()) {
            Ok(Some(drains)) => self.store.set_drains(drains).is_ok(),
            // What the store has is to be read first.
            Ok(None) | Err(_) => false,
        };
        self.set_behind(!kept);
    }

    /// From now on there is, or is not, something to [`catch_up`](Self::catch_up) with.
    fn set_behind(&self, is_behind: bool) {
        self.lag.is_behind.store(is_behind, Ordering::Release);
    }

    /// What the store has kept.
    ///
    /// # Errors
    /// [`NodesError::StoreUnavailable`]: to be [tried again](Self::catch_up).
    pub(in crate::control) fn kept(&self) -> Result<Kept, NodesError> {
        let read = || {
            let nodes = self.store.nodes()?;
            let drains = self.store.drains()?;
            Ok(Kept { nodes, drains })
        };
        read().map_err(|error| {
            self.set_behind(true);
            NodesError::of_store(error)
        })
    }

    fn restore_alone(&self) -> Result<(), NodesError> {
        let kept = self.kept()?;
        self.ask(move |nodes, now| nodes.restore(kept, now))
    }

    fn admit(&self, stored: &StoredNode, settings: NodeConfig) -> Result<NodeView, NodesError> {
        let registration = Registration {
            id: stored.id,
            token: stored.token_digest,
            created_at: stored.created_at,
            lost_credential: stored.api_key == Credential::Lost,
        };
        self.ask(move |nodes, now| nodes.admit(registration, settings, now))?
    }

    fn keep_new(&self, node: &StoredNode) -> Result<(), NodesError> {
        match self.store.add_node(node.clone()) {
            // A registration that was given up for lost has been kept after all.
            Err(StoreError::Conflict) => {
                let kept = self.store.nodes().map_err(NodesError::of_store)?;
                for other in kept.iter().filter(|other| other.name == node.name) {
                    self.store
                        .remove_node(other.id)
                        .map_err(NodesError::of_store)?;
                }
                self.store
                    .add_node(node.clone())
                    .map_err(NodesError::of_store)
            }
            kept => kept.map_err(NodesError::of_store),
        }
    }

    fn keep_change(&self, node: &StoredNode) -> Result<(), NodesError> {
        let is_kept = self.store.update_node(node.clone());
        if is_kept.map_err(NodesError::of_store)? {
            return Ok(());
        }
        // The database was moved away since: what is known here is all there is.
        self.keep_new(node)
    }

    fn keep_drain(&self, name: String, is_drained: bool) {
        let kept = match is_drained {
            true => self.store.add_drain(name.clone()),
            false => self.store.remove_drain(name.clone()).map(drop),
        };
        if kept.is_err() {
            log::warn(format_args!(
                "the wish to drain or enable node {name} is not kept yet; it is tried again"
            ));
            self.set_behind(true);
        }
    }

    /// Refuses an address that a node may not have. A name that is not resolved in time is let pass: probes
    /// check it again, and until one has succeeded the node gets nothing.
    fn check_address(&self, base_url: &BaseUrl) -> Result<(), NodesError> {
        let rules = self.ask(|nodes, _| nodes.rules())?;
        if matches!(base_url.host(), Host::Ip(_)) {
            return resolve(base_url, Some(&rules))
                .map(drop)
                .map_err(NodesError::Address);
        }
        let resolved = self.resolve_apart(base_url.clone(), rules);
        match resolved.and_then(|resolved| resolved.recv_timeout(REPLY_TIMEOUT).ok()) {
            Some(Err(error)) => Err(NodesError::Address(error)),
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// Resolves a name on a thread of its own, which a slow name server may hold up.
    fn resolve_apart(
        &self,
        base_url: BaseUrl,
        rules: Arc<RegistrationRules>,
    ) -> Option<Receiver<Result<(), AddressError>>> {
        self.resolving.0.try_send(()).ok()?;
        let (reply, answer) = bounded(1);
        let resolving = self.resolving.1.clone();
        let thread = std::thread::Builder::new().name("resolve".to_owned());
        let started = thread.spawn(move || {
            let _done = Changing(&resolving);
            let _ = reply.send(resolve(&base_url, Some(&rules)).map(drop));
        });
        if started.is_err() {
            let _ = self.resolving.1.try_recv();
        }
        started.is_ok().then_some(answer)
    }

    fn change_alone(&self) -> Result<Changing<'_>, NodesError> {
        let (enter, leave) = &self.changing;
        enter
            .send_timeout((), REPLY_TIMEOUT)
            .map_err(|_| NodesError::Busy)?;
        Ok(Changing(leave))
    }

    /// Has the control thread do something; it is not begun after nobody waits for it any more.
    fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Nodes, Duration) -> T + Send + 'static,
    ) -> Result<T, NodesError> {
        let until = Instant::now() + REPLY_TIMEOUT;
        let (reply, answer) = bounded(1);
        let task: Task = Box::new(move |nodes, now| {
            if Instant::now() < until {
                let _ = reply.send(work(nodes, now));
            }
        });
        self.tasks
            .send_deadline(task, until)
            .map_err(|_| NodesError::Busy)?;
        answer.recv_deadline(until).map_err(|_| NodesError::Busy)
    }
}

/// Whether a node that was `known` here would be reached at another host or port.
pub(super) fn leaves_for_elsewhere(new: &BaseUrl, known: &BaseUrl) -> bool {
    new.authority() != known.authority() || new.port() != known.port()
}

impl NodesError {
    fn of_store(error: StoreError) -> Self {
        match error {
            StoreError::Busy | StoreError::Unavailable => Self::StoreUnavailable,
            StoreError::Conflict => Self::NameTaken,
        }
    }
}

impl NodeChange {
    fn apply_to(self, settings: &mut NodeConfig) {
        fn set<T>(place: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *place = value;
            }
        }
        set(&mut settings.base_url, self.base_url);
        set(&mut settings.models, self.models);
        set(&mut settings.api_key, self.api_key);
        set(&mut settings.max_concurrency, self.max_concurrency);
        set(&mut settings.weight, self.weight);
    }
}

fn stored_node(id: u64, created_at: u64, token: KeyHash, settings: &NodeConfig) -> StoredNode {
    StoredNode {
        id,
        name: settings.name.clone(),
        base_url: settings.base_url.to_string(),
        models: settings.models.clone(),
        api_key: match &settings.api_key {
            Some(secret) => Credential::Known(secret.clone()),
            None => Credential::None,
        },
        max_concurrency: settings.max_concurrency,
        weight: settings.weight,
        token_digest: token,
        created_at,
    }
}

fn new_id() -> Result<u64, NodesError> {
    random().map(u64::from_ne_bytes)
}

/// How long the control thread, or another change, is waited for.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// Tasks that may wait; the control thread does each within microseconds.
const TASKS_MAX: usize = 256;
/// Names that are being resolved at once; a slow name server holds up no more threads than this.
const RESOLVERS_MAX: usize = 16;
