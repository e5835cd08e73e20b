//! Keeps the node table true: which nodes there are, what probes find out about them and what they report
//! becomes the next snapshot, and what happens to them becomes their state. Runs on the control thread and
//! never blocks: who waits for a probe, a name or the store is another thread.

mod desk;
mod member;
mod name;
mod tasks;
mod token;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::config::{AliasConfig, Config, NodeConfig};
use crate::nodes::{
    AliasSpec, EventTime, HealthBoard, HealthEvent, HealthTiming, Node, NodeDirectory, NodeId,
    NodeSpec, NodeState, NodeTable, Transition,
};
use crate::proxy::ProbeToken;
use crate::proxy::api::NodeTokens;
use crate::runtime::clock;
use crate::telemetry::log;

use super::probe::{Outcome, PROBERS_MAX, Probe, RegistrationRules};

use member::{LastProbe, Member, Origin, Registration};

pub(super) use desk::{Claim, Kept, Lag, NodeChange, NodeDesk, NodesError, Tasks};
pub(super) use member::Heartbeat;
pub(super) use name::NodeRef;
pub(super) use view::NodeView;

/// All nodes, as set and as found.
pub(super) struct Nodes {
    directory: Arc<NodeDirectory>,
    /// Where workers see the tokens of the registered nodes.
    tokens: Arc<ArcSwap<NodeTokens>>,
    table: Arc<NodeTable>,
    aliases: Vec<AliasSpec>,
    /// By serial, so in the order they came.
    members: BTreeMap<u64, Member>,
    by_name: HashMap<Box<str>, u64>,
    /// Registered nodes by their id.
    by_id: HashMap<u64, u64>,
    serials_used: u64,
    board: HealthBoard,
    watch: Watch,
    /// Nodes whose probe is under way; `true` for those that are not in service.
    probing: HashMap<u64, bool>,
    /// The table does not show what was found out since [`published_at`](Self::published_at).
    is_stale: bool,
    published_at: Duration,
    /// Verdicts that must not be published before what was found out with them.
    verdicts: Vec<(u64, HealthEvent)>,
    /// Whether what the store has kept was taken in.
    is_restored: bool,
    /// Whether waiting requests have not been told of a change yet.
    has_news: bool,
}

/// How nodes are watched.
pub(in crate::control) struct Watch {
    timing: HealthTiming,
    probe_timeout: Duration,
    rules: Arc<RegistrationRules>,
    token: ProbeToken,
}

/// By what this router is known among its nodes.
#[derive(Clone)]
pub(in crate::control) struct OwnMarks {
    /// Where it listens.
    pub(in crate::control) listener: SocketAddr,
    /// What its probes carry.
    pub(in crate::control) token: ProbeToken,
}

impl Nodes {
    /// The nodes of the configuration, all of them pending.
    pub(super) fn new(
        config: &Config,
        watch: Watch,
        directory: Arc<NodeDirectory>,
        tokens: Arc<ArcSwap<NodeTokens>>,
    ) -> Self {
        let mut nodes = Self {
            table: directory.snapshot(),
            directory,
            tokens,
            aliases: config.aliases.iter().map(alias_spec).collect(),
            members: BTreeMap::new(),
            by_name: HashMap::new(),
            by_id: HashMap::new(),
            serials_used: 0,
            board: HealthBoard::new(watch.timing),
            watch,
            probing: HashMap::new(),
            is_stale: false,
            published_at: Duration::ZERO,
            verdicts: Vec::new(),
            is_restored: false,
            has_news: false,
        };
        for settings in &config.nodes {
            nodes.insert(Origin::File, settings.clone(), false);
        }
        nodes.publish(Duration::ZERO);
        nodes
    }

    /// Hands over every probe that is due, those of nodes in service first; `false` if some had to be left for
    /// later, because nobody took them or because there are too many of nodes not in service.
    pub(super) fn request_probes(
        &mut self,
        mut hand_over: impl FnMut(Probe) -> bool,
        now: Duration,
    ) -> bool {
        let due = self.board.probes_due(now);
        let serials = due.filter_map(|name| self.by_name.get(name).copied());
        let (mut serving, mut awaited) = (Vec::new(), Vec::new());
        for serial in serials {
            match self.members.get(&serial).map(|member| self.state(member)) {
                Some(NodeState::Online | NodeState::Draining) => serving.push(serial),
                Some(_) => awaited.push(serial),
                None => {}
            }
        }
        let awaited_now = self
            .probing
            .values()
            .filter(|is_awaited| **is_awaited)
            .count();
        let room = AWAITED_PROBES_MAX.saturating_sub(awaited_now);
        let all = awaited.len() <= room;
        let awaited = awaited.into_iter().take(room).map(|serial| (serial, true));
        let due = serving.into_iter().map(|serial| (serial, false));
        for (serial, is_awaited) in due.chain(awaited) {
            let Some(member) = self.members.get(&serial) else {
                continue;
            };
            if !hand_over(member.probe(&self.watch)) {
                return false;
            }
            self.board.probe_began(&member.settings.name);
            self.probing.insert(serial, is_awaited);
        }
        all
    }

    /// How long no probe is due that is not under way.
    pub(super) fn next_probe_in(&self, now: Duration) -> Duration {
        let next = self.board.next_probe_at();
        next.map_or(Duration::MAX, |next| next.saturating_sub(now))
    }

    /// How long nothing else is due.
    pub(super) fn next_event_in(&self, now: Duration) -> Duration {
        let publication = self.is_stale.then(|| self.published_at + PUBLISH_PAUSE);
        let due = [self.board.next_heartbeat_at(), publication];
        let next = due.into_iter().flatten().min();
        next.map_or(Duration::MAX, |next| next.saturating_sub(now))
    }

    /// Publication that was put off until now, verdicts that waited for it, and nodes that are missed. To be
    /// called after every other call.
    pub(super) fn settle(&mut self, now: Duration) {
        if self.is_stale && now >= self.published_at + PUBLISH_PAUSE {
            self.publish(now);
        }
        if !self.is_stale {
            for (serial, event) in std::mem::take(&mut self.verdicts) {
                self.judge(serial, event, now);
            }
        }
        let silent: Vec<Box<str>> = self.board.heartbeats_due(now).map(Into::into).collect();
        for name in silent {
            log::warn(format_args!("node {name} sends no heartbeat any more"));
            if let Some(serial) = self.by_name.get(&name) {
                self.judge(*serial, HealthEvent::HeartbeatLost, now);
            }
        }
    }

    /// Takes in what a probe found out.
    pub(super) fn probed(&mut self, outcome: Outcome) {
        self.probing.remove(&outcome.serial);
        // A node that was removed or has moved meanwhile has nothing to do with the answer.
        let Some(member) = self.members.get_mut(&outcome.serial) else {
            return;
        };
        member.last_probe = Some(LastProbe {
            at: clock::unix_secs(),
            outcome: (outcome.answer.as_ref())
                .map(|answer| answer.latency)
                .map_err(|error| *error),
        });
        let event = match outcome.answer {
            Ok(answer) => {
                self.is_stale |= member.answered(answer);
                HealthEvent::ProbeSucceeded
            }
            Err(error) => member.failed(error),
        };
        self.verdicts.push((outcome.serial, event));
    }

    /// Tells of a change, if there is one to tell of; again at the next call if `tell` could not.
    pub(super) fn tell_news(&mut self, tell: impl FnOnce() -> bool) {
        if self.has_news {
            self.has_news = !tell();
        }
    }

    /// A worker saw this node fail too often in a row.
    pub(super) fn failures_reached(&mut self, node: NodeId, now: Duration) {
        if let Some(node) = self.table.node_by_id(node).cloned() {
            self.apply(&node, HealthEvent::FailuresReached, now);
        }
    }

    fn insert(&mut self, origin: Origin, settings: NodeConfig, is_drained: bool) -> u64 {
        self.serials_used += 1;
        let serial = self.serials_used;
        if let Origin::Registered(Registration { id, .. }) = origin {
            self.by_id.insert(id, serial);
        }
        self.by_name.insert(settings.name.as_str().into(), serial);
        let member = Member::new(serial, origin, settings, is_drained);
        self.members.insert(serial, member);
        self.is_stale = true;
        serial
    }

    fn take_out(&mut self, serial: u64) {
        if let Some(member) = self.members.remove(&serial) {
            self.by_name.remove(member.settings.name.as_str());
            if let Origin::Registered(registration) = &member.origin {
                self.by_id.remove(&registration.id);
            }
            self.is_stale = true;
        }
    }

    /// Changes what is set for a node. One that moved gets a new serial: a probe of its old address that is
    /// still under way must not speak for the new one.
    fn set(&mut self, serial: u64, settings: NodeConfig, now: Duration) {
        let Some(mut member) = self.members.remove(&serial) else {
            return;
        };
        let has_moved = member.set(settings);
        if has_moved {
            self.serials_used += 1;
            member.serial = self.serials_used;
        }
        self.is_stale = true;
        let (name, serial) = (member.settings.name.clone(), member.serial);
        let is_drained = member.is_drained;
        if let Origin::Registered(registration) = &member.origin {
            self.by_id.insert(registration.id, serial);
        }
        self.by_name.insert(name.as_str().into(), serial);
        self.members.insert(serial, member);
        if has_moved && let Some(node) = self.table.node(&name).cloned() {
            self.board.restart(&node, now);
            if is_drained {
                self.apply(&node, HealthEvent::Drain, now);
            }
            self.has_news = true;
        }
    }

    fn judge(&mut self, serial: u64, event: HealthEvent, now: Duration) {
        let name = self
            .members
            .get(&serial)
            .map(|member| &member.settings.name);
        if let Some(node) = name.and_then(|name| self.table.node(name)).cloned() {
            self.apply(&node, event, now);
        }
    }

    fn apply(&mut self, node: &Node, event: HealthEvent, now: Duration) {
        let at = EventTime {
            now,
            random: random(),
        };
        if let Some(transition) = self.board.apply(&self.table, node, event, at) {
            self.has_news = true;
            report(node, transition);
        }
    }

    fn publish(&mut self, now: Duration) {
        let specs: Vec<NodeSpec> = self.members.values().map(Member::spec).collect();
        match self.directory.publish(&specs, &self.aliases) {
            Ok(table) => {
                let newcomers: Vec<u64> = (self.members.values())
                    .filter(|member| member.is_drained)
                    .filter(|member| self.board.health(&member.settings.name).is_none())
                    .map(|member| member.serial)
                    .collect();
                self.board.follow(&table, now);
                self.has_news = true;
                self.table = table;
                for serial in newcomers {
                    self.judge(serial, HealthEvent::Drain, now);
                }
            }
            // Names were checked with the configuration and at registration; discovery adds none.
            Err(error) => log::error(format_args!("the node table stays as it was: {error}")),
        }
        self.is_stale = false;
        self.published_at = now;
    }

    /// To be called after every change of registered nodes, before anybody hears of it.
    fn publish_tokens(&self) {
        let registered = self.members.values().filter_map(Member::registration);
        let tokens = registered.map(|registration| (registration.id, registration.token));
        let tokens = NodeTokens::new(tokens, self.is_restored);
        self.tokens.store(Arc::new(tokens));
    }

    fn state(&self, member: &Member) -> NodeState {
        let health = self.board.health(&member.settings.name);
        let newcomer = match member.is_drained {
            true => NodeState::Draining,
            false => NodeState::Pending,
        };
        health.map_or(newcomer, |health| health.state())
    }

    fn view(&self, member: &Member) -> NodeView {
        NodeView::of(member, self.state(member), &self.table)
    }

    /// The node, or why it is not known.
    fn find_or_say(&self, node: &NodeRef) -> Result<&Member, NodesError> {
        let is_awaited = matches!(node, NodeRef::Registered(_)) && !self.is_restored;
        self.find(node).ok_or(match is_awaited {
            true => NodesError::StoreUnavailable,
            false => NodesError::NotFound,
        })
    }

    fn find(&self, node: &NodeRef) -> Option<&Member> {
        let serial = match node {
            NodeRef::Registered(id) => self.by_id.get(id)?,
            NodeRef::OfFile(name) => self.by_name.get(name.as_str())?,
        };
        let member = self.members.get(serial)?;
        // A registered node is not found under its name.
        (member.id() == *node).then_some(member)
    }
}

impl Watch {
    /// As the configuration says, for this router.
    pub(super) fn of(config: &Config, own: &OwnMarks) -> Self {
        Self {
            timing: HealthTiming {
                probe_interval: config.health.probe_interval,
                heartbeat_timeout: config.health.heartbeat_timeout,
            },
            probe_timeout: config.health.probe_timeout,
            rules: Arc::new(RegistrationRules {
                networks: config.registration.allowed_networks.clone(),
                listener: own.listener,
            }),
            token: own.token.clone(),
        }
    }
}

impl Member {
    fn id(&self) -> NodeRef {
        match &self.origin {
            Origin::File => NodeRef::OfFile(self.settings.name.clone()),
            Origin::Registered(registration) => NodeRef::Registered(registration.id),
        }
    }

    fn registration(&self) -> Option<&Registration> {
        match &self.origin {
            Origin::File => None,
            Origin::Registered(registration) => Some(registration),
        }
    }
}

fn alias_spec(alias: &AliasConfig) -> AliasSpec {
    AliasSpec {
        model: alias.model.as_str().into(),
        to: alias.to.as_str().into(),
    }
}

fn report(node: &Node, Transition { from, to }: Transition) {
    let line = format_args!(
        "node {} is {} (was {})",
        node.name,
        to.as_str(),
        from.as_str()
    );
    match to {
        NodeState::Offline | NodeState::Ejected => log::warn(line),
        NodeState::Pending | NodeState::Online | NodeState::Draining => log::info(line),
    }
}

/// Spreads the returns of nodes that were ejected together; without randomness they return together.
fn random() -> u32 {
    let mut bytes = [0; 4];
    let _ = getrandom::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}

/// What probes find out is published this long after the last publication at the earliest: a thousand nodes
/// that are found at once make a few tables, not a thousand.
const PUBLISH_PAUSE: Duration = Duration::from_millis(20);
/// Probes of nodes that are not in service, at most: however many are dead, those in service are asked in
/// time.
const AWAITED_PROBES_MAX: usize = PROBERS_MAX / 2;

#[cfg(test)]
mod tests;
