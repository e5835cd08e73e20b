//! Owns one worker's view of the node table: the cached candidate lists, and slots. Never shared
//! between threads, never waits: a choice either takes a slot now or says why not.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};

use super::contenders::{Contenders, Found};
use super::line::{LocalAdmission, Served};
use super::live::{NodeLive, NodeState};
use super::table::{Model, ModelStats, Node, NodeDirectory, NodeId, NodeTable};

/// Bounds of the candidate cache (`node_cache`, spec section 2).
#[derive(Clone, Copy, Debug)]
pub struct CandidateLimits {
    /// Entries at most; 0 counts as 1.
    pub max_capacity: usize,
    /// Age at which an entry is looked up again.
    pub ttl: Duration,
}

/// One worker's cached candidate lists.
///
/// Only names the table knows are cached, so clients cannot fill it with inventions.
#[derive(Debug)]
pub struct Candidates {
    table: Cache<TableHandle, Arc<NodeTable>>,
    limits: CandidateLimits,
    generation: u64,
    nodes: HashMap<NodeId, Rc<WorkerNode>>,
    entries: Vec<Entry>,
    /// Holds names of the table only: what a client asks for can be found in it, never put there.
    index: HashMap<Box<str>, usize, foldhash::fast::RandomState>,
    /// Where the search for an entry to replace goes on (second chance).
    hand: usize,
    clock: Rc<Cell<u64>>,
    worker_index: usize,
    admission: LocalAdmission,
    hits: u64,
    misses: u64,
}

/// What became of a request for a slot.
#[derive(Debug)]
pub enum Selection {
    /// A node was chosen and one of its slots taken.
    Slot(Slot, Rc<ResolvedModel>),
    /// Online nodes serve the model, but none outside `exclude` has a free slot.
    NoSlot(Rc<ResolvedModel>),
    /// The model is known, but no node that serves it is online.
    NoOnlineNode(Rc<ResolvedModel>),
    /// No node serves the model and no alias names it.
    UnknownModel,
}

/// One unit of a node's concurrency; given back exactly once, on drop, to whoever waits for it.
#[derive(Debug)]
#[must_use = "dropping the slot gives it back at once"]
pub struct Slot {
    node: Rc<WorkerNode>,
}

/// What a client's model name means, as one worker keeps it.
#[derive(Debug)]
pub struct ResolvedModel {
    model: Arc<Model>,
    /// Of the table it was found in.
    generation: u64,
    is_alias: bool,
    nodes: Box<[Rc<WorkerNode>]>,
    /// The same nodes, laid out for the choice.
    contenders: Contenders,
    clock: Rc<Cell<u64>>,
}

/// A node as one worker keeps it: slots count references here instead of on a line shared by all
/// cores.
#[derive(Debug)]
struct WorkerNode {
    node: Arc<Node>,
    /// The node's own, within one step instead of two: the choice looks at every node's.
    live: Arc<NodeLive>,
    /// For whatever model; where the rotation of a model begins when it is looked up again.
    chosen_at: Cell<u64>,
    /// Where a slot somebody waits for is handed over.
    admission: LocalAdmission,
}

#[derive(Debug)]
struct Entry {
    name: Box<str>,
    resolved: Rc<ResolvedModel>,
    expires_at: Duration,
    used: bool,
}

/// Lets `arc_swap::Cache` own its directory.
#[derive(Clone, Debug)]
struct TableHandle(Arc<NodeDirectory>);

impl std::ops::Deref for TableHandle {
    type Target = ArcSwap<NodeTable>;

    fn deref(&self) -> &ArcSwap<NodeTable> {
        self.0.swap()
    }
}

impl Candidates {
    /// An empty cache. `worker_index` staggers where workers begin their rotation; slots are given
    /// back to those who wait through `admission`.
    #[must_use]
    pub fn new(
        directory: Arc<NodeDirectory>,
        limits: CandidateLimits,
        worker_index: usize,
        admission: LocalAdmission,
    ) -> Self {
        Self {
            table: Cache::new(TableHandle(directory)),
            limits,
            // No published table has this generation, so the first use reads the nodes.
            generation: u64::MAX,
            nodes: HashMap::new(),
            entries: Vec::new(),
            index: HashMap::default(),
            hand: 0,
            clock: Rc::new(Cell::new(0)),
            worker_index,
            admission,
            hits: 0,
            misses: 0,
        }
    }

    /// Changes the bounds. Everything cached is looked up again, so that no entry outlives a shorter TTL.
    pub fn set_limits(&mut self, limits: CandidateLimits) {
        self.limits = limits;
        self.forget();
    }

    /// Chooses a node for `model` and takes a slot of it. Nodes in `exclude`, those already tried,
    /// count as full. `now` is a coarse monotonic time. A hit neither allocates nor touches a
    /// shared line other than the nodes' own.
    pub fn select(&mut self, model: &str, exclude: &[NodeId], now: Duration) -> Selection {
        match self.resolve(model, now) {
            Some(resolved) => resolved.select(exclude),
            None => Selection::UnknownModel,
        }
    }

    /// What `name` means, from the cache if possible.
    pub fn resolve(&mut self, name: &str, now: Duration) -> Option<Rc<ResolvedModel>> {
        self.follow_table();
        let known = self.index.get(name).copied();
        if let Some(entry) = known.and_then(|position| self.entries.get_mut(position))
            && now < entry.expires_at
        {
            entry.used = true;
            self.hits += 1;
            return Some(Rc::clone(&entry.resolved));
        }
        self.misses += 1;
        let resolved = self.look_up(name)?;
        let expires_at = now.saturating_add(self.limits.ttl);
        let entry = Entry {
            name: name.into(),
            resolved: Rc::clone(&resolved),
            expires_at,
            used: false,
        };
        self.store(known, entry);
        Some(resolved)
    }

    /// The guard of a slot that was handed over, from the moment it is here.
    pub fn adopt(&mut self, served: Served) -> Option<Slot> {
        self.follow_table();
        let node = served.server()?;
        // A table published since may not have the node any more; its slots still count.
        let known = self
            .nodes
            .get(&node.id)
            .filter(|known| Arc::ptr_eq(&known.live, &node.live));
        let known = known.cloned().unwrap_or_else(|| {
            Rc::new(WorkerNode {
                live: Arc::clone(&node.live),
                chosen_at: Cell::new(0),
                admission: self.admission.clone(),
                node: Arc::clone(node),
            })
        });
        let slot = Slot { node: known };
        // Nothing in between can fail: exactly one of the two guards gives the slot back.
        served.into_server().map(|_| slot)
    }

    /// The snapshot this worker uses now.
    #[must_use]
    pub fn table(&mut self) -> &Arc<NodeTable> {
        self.follow_table();
        self.table.load()
    }

    /// Lookups answered from the cache.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// Lookups that had to read the table, those for unknown models among them.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.misses
    }

    /// Drops everything cached as soon as the table has changed.
    fn follow_table(&mut self) {
        let table = self.table.load();
        if table.generation() == self.generation {
            return;
        }
        self.generation = table.generation();
        let count = table.nodes().len();
        let first = self.worker_index.checked_rem(count).unwrap_or(0);
        let mut nodes = HashMap::with_capacity(count);
        for (position, node) in table.nodes().iter().enumerate() {
            let chosen_at = match self.nodes.get(&node.id) {
                Some(known) => known.chosen_at.get(),
                // Not chosen yet: ordered by distance from where this worker begins.
                None => ((position + count - first) % count) as u64,
            };
            let known = WorkerNode {
                node: Arc::clone(node),
                live: Arc::clone(&node.live),
                chosen_at: Cell::new(chosen_at),
                admission: self.admission.clone(),
            };
            nodes.insert(node.id, Rc::new(known));
        }
        self.nodes = nodes;
        self.forget();
        // Every later choice must be younger than these starting positions.
        self.clock.set(self.clock.get().max(count as u64));
    }

    fn forget(&mut self) {
        self.entries.clear();
        self.index.clear();
        self.hand = 0;
    }

    fn look_up(&mut self, name: &str) -> Option<Rc<ResolvedModel>> {
        let model = Arc::clone(self.table.load().resolve(name)?);
        let known = model.nodes.iter();
        let nodes: Box<[_]> = known
            .filter_map(|node| self.nodes.get(&node.id).cloned())
            .collect();
        let contenders = nodes.iter().map(|known| {
            let live = Arc::clone(&known.live);
            (live, known.node.weight, known.chosen_at.get())
        });
        Some(Rc::new(ResolvedModel {
            contenders: Contenders::new(contenders),
            is_alias: *model.name != *name,
            generation: self.generation,
            nodes,
            model,
            clock: Rc::clone(&self.clock),
        }))
    }

    /// Stores an entry in place of its stale self, in free room, or in place of one not used
    /// lately.
    fn store(&mut self, stale: Option<usize>, entry: Entry) {
        let position = match stale {
            Some(position) => position,
            None if self.entries.len() < self.limits.max_capacity.max(1) => {
                self.index.insert(entry.name.clone(), self.entries.len());
                self.entries.push(entry);
                return;
            }
            None => self.replaceable(),
        };
        let Some(place) = self.entries.get_mut(position) else {
            return;
        };
        if place.name != entry.name {
            self.index.remove(&place.name);
            self.index.insert(entry.name.clone(), position);
        }
        *place = entry;
    }

    /// The first entry from the hand on that was not used since the hand last passed; one round
    /// clears all marks, so the search ends in the second.
    fn replaceable(&mut self) -> usize {
        loop {
            let position = self.hand;
            self.hand = (self.hand + 1) % self.entries.len().max(1);
            match self.entries.get_mut(position) {
                Some(entry) if entry.used => entry.used = false,
                _ => return position,
            }
        }
    }
}

impl ResolvedModel {
    /// The name nodes know the model by; to be spliced into the body when
    /// [`is_alias`](Self::is_alias).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.model.name
    }

    /// Whether the client's name differs from [`name`](Self::name).
    #[must_use]
    pub fn is_alias(&self) -> bool {
        self.is_alias
    }

    /// The model's totals.
    #[must_use]
    pub fn stats(&self) -> &Arc<ModelStats> {
        &self.model.stats
    }

    /// The model in the table it was found in, for the queues.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The generation of that table.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Slots of its online nodes.
    #[must_use]
    pub fn slot_count(&self) -> u64 {
        self.nodes
            .iter()
            .filter(|known| known.live.state() == NodeState::Online)
            .map(|known| u64::from(known.live.slots().limit))
            .sum()
    }

    /// Whether a node outside `exclude` is online, be it full or not.
    #[must_use]
    pub fn has_online_outside(&self, exclude: &[NodeId]) -> bool {
        self.nodes.iter().any(|known| {
            known.live.state() == NodeState::Online && !exclude.contains(&known.node.id)
        })
    }

    /// Chooses a node outside `exclude` and takes a slot of it.
    pub fn select(self: Rc<Self>, exclude: &[NodeId]) -> Selection {
        // Each round sees fresh loads: a node whose last slot another core took meanwhile has
        // dropped out.
        for _ in 0..CHOICE_ROUNDS {
            let found = self.contenders.find(|position| {
                let known = self.nodes.get(position);
                !exclude.is_empty() && known.is_some_and(|known| exclude.contains(&known.node.id))
            });
            match found {
                Found::Node(position) => {
                    if let Some(slot) = self.take(position) {
                        return Selection::Slot(slot, self);
                    }
                }
                Found::AllFull => return Selection::NoSlot(self),
                Found::NoneOnline => return Selection::NoOnlineNode(self),
            }
        }
        self.select_any(exclude)
    }

    /// Under a storm of rivals any free slot is better than a further round.
    fn select_any(self: Rc<Self>, exclude: &[NodeId]) -> Selection {
        let mut usable = self.nodes.iter().enumerate().filter(|(_, known)| {
            known.live.state() == NodeState::Online && !exclude.contains(&known.node.id)
        });
        match usable.find_map(|(position, _)| self.take(position)) {
            Some(slot) => Selection::Slot(slot, self),
            None => Selection::NoSlot(self),
        }
    }

    fn take(&self, position: usize) -> Option<Slot> {
        let known = self.nodes.get(position)?;
        known.live.try_take_slot().then(|| {
            let stamp = self.clock.get() + 1;
            self.clock.set(stamp);
            known.chosen_at.set(stamp);
            self.contenders.chosen(position, stamp);
            Slot {
                node: Rc::clone(known),
            }
        })
    }
}

impl Slot {
    /// The node this slot belongs to, as it was when the slot was taken.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node.node
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.node.live.release_slot() {
            self.node.admission.slot_freed(&self.node.node);
        }
    }
}

/// Losing this many races in a row means that slots are taken faster than they can be compared.
const CHOICE_ROUNDS: usize = 8;

#[cfg(test)]
#[cfg(not(loom))]
#[path = "candidates_tests.rs"]
pub(crate) mod tests;
