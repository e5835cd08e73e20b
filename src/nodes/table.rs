//! Owns the immutable snapshot of nodes, models and aliases, and how the next one is built from it.
//! Never changes a published snapshot; what changes all the time lives in [`NodeLive`] and
//! [`ModelStats`], which outlive snapshots.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam_utils::CachePadded;

use super::bank::Banks;
use super::live::NodeLive;

/// One node as configured, registered or discovered.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Unique name; counters and metrics belong to it.
    pub name: Box<str>,
    /// Resolved addresses, in order of preference; empty while unresolved.
    pub addresses: Vec<SocketAddr>,
    /// Value of the `Host` field.
    pub host_header: Box<str>,
    /// Prefix of every path, without a trailing slash; often empty.
    pub path_prefix: Box<str>,
    /// The node's own credential.
    pub authorization: Option<Authorization>,
    /// Models it serves.
    pub models: Vec<Box<str>>,
    /// Slots.
    pub max_concurrency: u32,
    /// Scales its share; 0 counts as 1.
    pub weight: u32,
}

/// Another name for a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasSpec {
    /// The name clients use. It hides a model of the same name.
    pub model: Box<str>,
    /// The model, or another alias, it stands for.
    pub to: Box<str>,
}

/// Bytes of an `Authorization` field value. Cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorization(Box<[u8]>);

/// Identifies a node at one set of addresses: it is kept by a rebuild unless the name or the
/// addresses change, so connections pooled under it always lead to the right place. Never reused
/// within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// One node of a snapshot.
#[derive(Debug)]
pub struct Node {
    /// Identity for pools and for excluding tried nodes.
    pub id: NodeId,
    /// Unique name.
    pub name: Box<str>,
    /// Resolved addresses, in order of preference; empty while unresolved.
    pub addresses: Vec<SocketAddr>,
    /// Value of the `Host` field.
    pub host_header: Box<str>,
    /// Prefix of every path, without a trailing slash.
    pub path_prefix: Box<str>,
    /// The node's own credential.
    pub authorization: Option<Authorization>,
    /// Models it serves.
    pub models: Vec<Box<str>>,
    /// Scales its share.
    pub weight: u32,
    /// Counters, shared with other snapshots.
    pub live: Arc<NodeLive>,
}

/// One model of a snapshot.
#[derive(Debug)]
pub struct Model {
    /// The name nodes know it by.
    pub name: Box<str>,
    /// Nodes that serve it, in the order of the table; empty for the target of an alias that no
    /// node serves.
    pub nodes: Vec<Arc<Node>>,
    /// Totals, shared with other snapshots.
    pub stats: Arc<ModelStats>,
}

/// Totals of one model over all workers.
#[derive(Debug, Default)]
pub struct ModelStats {
    totals: CachePadded<ModelTotals>,
}

#[derive(Debug, Default)]
struct ModelTotals {
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    /// Recent services: how many, and the time their slots were held; see [`RecentServices`].
    recent: AtomicU64,
    /// Requests that wait for a slot now.
    waiting: AtomicU32,
}

/// The number and the total of recent service times in one word, so that they never disagree.
#[derive(Clone, Copy)]
struct RecentServices {
    /// At most [`RECENT_SERVICES`].
    count: u64,
    /// Below 2^48: services are far shorter than three days.
    total_us: u64,
}

/// An immutable snapshot of everything routing needs to know.
#[derive(Debug, Default)]
pub struct NodeTable {
    generation: u64,
    next_id: u32,
    nodes: Vec<Arc<Node>>,
    /// Places in `nodes`.
    by_name: HashMap<Box<str>, usize>,
    by_id: HashMap<NodeId, usize>,
    banks: Banks,
    models: BTreeMap<Box<str>, Arc<Model>>,
    aliases: BTreeMap<Box<str>, Arc<Model>>,
}

/// The current snapshot: read by all workers, replaced whole by the control thread.
#[derive(Debug, Default)]
pub struct NodeDirectory {
    current: ArcSwap<NodeTable>,
}

/// Why a table could not be built. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableError {
    /// Two nodes bear this name.
    DuplicateNode(Box<str>),
    /// Two aliases bear this name.
    DuplicateAlias(Box<str>),
    /// Following this alias never ends.
    AliasLoop(Box<str>),
}

impl Authorization {
    /// Takes a complete field value, such as `Bearer KEY`. The configuration has checked that it is
    /// one.
    #[must_use]
    pub fn new(field_value: impl Into<Box<[u8]>>) -> Self {
        Self(field_value.into())
    }

    /// The bytes to send to this node, and to nobody else.
    #[must_use]
    pub fn field_value(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

impl Model {
    /// Whether `node` is one of its nodes.
    #[must_use]
    pub fn is_served_by(&self, node: &Node) -> bool {
        self.nodes.iter().any(|own| own.id == node.id)
    }
}

impl ModelStats {
    /// Adds the usage one response reported.
    pub fn add_tokens(&self, prompt: u64, completion: u64) {
        self.totals
            .prompt_tokens
            .fetch_add(prompt, Ordering::Relaxed);
        self.totals
            .completion_tokens
            .fetch_add(completion, Ordering::Relaxed);
    }

    /// Adds one service that has ended: the time its slot was held.
    pub fn add_service(&self, held: Duration) {
        let held_us = u64::try_from(held.as_micros()).unwrap_or(u64::MAX);
        let mut seen = self.totals.recent.load(Ordering::Relaxed);
        loop {
            let next = RecentServices::unpack(seen).with(held_us).pack();
            // Relaxed: the word guards nothing else.
            match self.totals.recent.compare_exchange_weak(
                seen,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// So many requests wait for a slot from now on. Only the queues call this.
    pub(super) fn publish_waiting(&self, waiting: u32) {
        self.totals.waiting.store(waiting, Ordering::Relaxed);
    }

    /// Requests that wait for a slot.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.totals.waiting.load(Ordering::Relaxed)
    }

    /// Prompt tokens in all.
    #[must_use]
    pub fn prompt_tokens(&self) -> u64 {
        self.totals.prompt_tokens.load(Ordering::Relaxed)
    }

    /// Completion tokens in all.
    #[must_use]
    pub fn completion_tokens(&self) -> u64 {
        self.totals.completion_tokens.load(Ordering::Relaxed)
    }

    /// Mean time a slot was held, over the last [`RECENT_SERVICES`] services at most and half as many
    /// at least; `None` before the first has ended.
    #[must_use]
    pub fn mean_service(&self) -> Option<Duration> {
        let recent = RecentServices::unpack(self.totals.recent.load(Ordering::Relaxed));
        let mean_us = recent.total_us.checked_div(recent.count);
        mean_us.map(Duration::from_micros)
    }
}

impl RecentServices {
    fn unpack(packed: u64) -> Self {
        Self {
            count: packed >> TOTAL_BITS,
            total_us: packed & TOTAL_MAX,
        }
    }

    fn pack(self) -> u64 {
        self.count << TOTAL_BITS | self.total_us
    }

    /// One more. Once there are many, the older half fades: the mean follows what services take now.
    fn with(self, held_us: u64) -> Self {
        let shift = u32::from(self.count >= RECENT_SERVICES);
        Self {
            count: (self.count >> shift) + 1,
            total_us: (self.total_us >> shift)
                .saturating_add(held_us)
                .min(TOTAL_MAX),
        }
    }
}

impl NodeDirectory {
    /// The snapshot now. Workers read through [`Candidates`](super::Candidates) instead, which
    /// costs one load.
    #[must_use]
    pub fn snapshot(&self) -> Arc<NodeTable> {
        self.current.load_full()
    }

    /// Builds the next snapshot from these nodes and publishes it. Only the control thread calls
    /// this.
    ///
    /// # Errors
    /// [`TableError`] when the names contradict one another; the current snapshot stays.
    pub fn publish(
        &self,
        specs: &[NodeSpec],
        aliases: &[AliasSpec],
    ) -> Result<Arc<NodeTable>, TableError> {
        let table = Arc::new(self.current.load().rebuild(specs, aliases)?);
        // Only now: a table that could not be built must not have changed a limit.
        for (node, spec) in table.nodes.iter().zip(specs) {
            node.live.set_max_concurrency(spec.max_concurrency);
        }
        self.current.store(Arc::clone(&table));
        Ok(table)
    }

    pub(super) fn swap(&self) -> &ArcSwap<NodeTable> {
        &self.current
    }
}

impl NodeTable {
    /// Rises by one with every snapshot; the empty one before the first has 0.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// All nodes, in the order they were given.
    #[must_use]
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// The node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(*self.by_name.get(name)?)
    }

    /// The node of this identity; `None` once it was removed or its addresses changed.
    #[must_use]
    pub fn node_by_id(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(*self.by_id.get(&id)?)
    }

    /// All models by name, without aliases.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.models.values()
    }

    /// All aliases by name, with the model each stands for.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &Arc<Model>)> {
        self.aliases.iter().map(|(name, model)| (&**name, model))
    }

    /// The model nodes know by `name`.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&Arc<Model>> {
        self.models.get(name)
    }

    /// The model a client means by `name`, following aliases.
    #[must_use]
    pub fn resolve(&self, name: &str) -> Option<&Arc<Model>> {
        self.aliases.get(name).or_else(|| self.models.get(name))
    }

    fn rebuild(&self, specs: &[NodeSpec], aliases: &[AliasSpec]) -> Result<Self, TableError> {
        let mut next = Self {
            generation: self.generation + 1,
            next_id: self.next_id,
            banks: self.banks.clone(),
            ..Self::default()
        };
        next.add_nodes(self, specs)?;
        let targets = alias_targets(aliases)?;
        next.add_models(self, targets.values().copied());
        for (alias, target) in targets {
            // `add_models` has just made sure that every target exists.
            if let Some(model) = next.models.get(target) {
                next.aliases.insert(alias.into(), Arc::clone(model));
            }
        }
        Ok(next)
    }

    fn add_nodes(&mut self, previous: &Self, specs: &[NodeSpec]) -> Result<(), TableError> {
        for (place, spec) in specs.iter().enumerate() {
            if self.by_name.insert(spec.name.clone(), place).is_some() {
                return Err(TableError::DuplicateNode(spec.name.clone()));
            }
            let before = previous.node(&spec.name);
            let id = match before.filter(|node| same_places(&node.addresses, &spec.addresses)) {
                Some(node) => node.id,
                None => self.new_id(),
            };
            self.by_id.insert(id, place);
            let live = before
                .map(|node| Arc::clone(&node.live))
                .unwrap_or_else(|| {
                    let live = NodeLive::new(&mut self.banks, place, spec.max_concurrency);
                    Arc::new(live)
                });
            self.nodes.push(Arc::new(Node::new(id, spec, live)));
        }
        Ok(())
    }

    fn new_id(&mut self) -> NodeId {
        let id = NodeId(self.next_id);
        self.next_id += 1;
        id
    }

    fn add_models<'a>(&mut self, previous: &Self, targets: impl Iterator<Item = &'a str>) {
        let mut served: BTreeMap<&str, Vec<Arc<Node>>> = BTreeMap::new();
        for node in &self.nodes {
            for model in &node.models {
                let nodes = served.entry(model).or_default();
                if nodes.last().is_none_or(|last| last.id != node.id) {
                    nodes.push(Arc::clone(node));
                }
            }
        }
        for target in targets {
            served.entry(target).or_default();
        }
        for (name, nodes) in served {
            let stats = previous
                .models
                .get(name)
                .map(|model| Arc::clone(&model.stats));
            let model = Model {
                name: name.into(),
                nodes,
                stats: stats.unwrap_or_default(),
            };
            self.models.insert(name.into(), Arc::new(model));
        }
    }
}

impl Node {
    fn new(id: NodeId, spec: &NodeSpec, live: Arc<NodeLive>) -> Self {
        Self {
            id,
            name: spec.name.clone(),
            addresses: spec.addresses.clone(),
            host_header: spec.host_header.clone(),
            path_prefix: spec.path_prefix.clone(),
            authorization: spec.authorization.clone(),
            models: spec.models.clone(),
            weight: spec.weight,
            live,
        }
    }
}

impl fmt::Display for TableError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DuplicateNode(name) => write!(formatter, "two nodes are named {name:?}"),
            Self::DuplicateAlias(name) => write!(formatter, "two aliases are named {name:?}"),
            Self::AliasLoop(name) => write!(formatter, "the alias {name:?} leads back to itself"),
        }
    }
}

impl std::error::Error for TableError {}

/// Every alias with the name at the end of its chain.
fn alias_targets(aliases: &[AliasSpec]) -> Result<BTreeMap<&str, &str>, TableError> {
    let mut steps = BTreeMap::new();
    for alias in aliases {
        if steps.insert(&*alias.model, &*alias.to).is_some() {
            return Err(TableError::DuplicateAlias(alias.model.clone()));
        }
    }
    let mut targets = BTreeMap::new();
    for (&alias, &first) in &steps {
        let mut target = first;
        let mut steps_left = steps.len();
        while let Some(&further) = steps.get(target) {
            if steps_left == 0 {
                return Err(TableError::AliasLoop(alias.into()));
            }
            steps_left -= 1;
            target = further;
        }
        targets.insert(alias, target);
    }
    Ok(targets)
}

/// Whether two lists name the same places; a resolver may answer in any order.
fn same_places(before: &[SocketAddr], now: &[SocketAddr]) -> bool {
    before.len() == now.len() && now.iter().all(|address| before.contains(address))
}

/// Service times that make up a mean.
pub const RECENT_SERVICES: u64 = 128;
const TOTAL_BITS: u32 = 48;
const TOTAL_MAX: u64 = (1 << TOTAL_BITS) - 1;

#[cfg(test)]
#[cfg(not(loom))]
#[path = "table_tests.rs"]
pub(crate) mod tests;
