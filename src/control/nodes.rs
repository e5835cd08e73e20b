//! Keeps the node table true: what probes find out about nodes becomes the next snapshot, and what
//! happens to them becomes their state.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{AliasConfig, BaseUrl, Config, Host, NodeConfig};
use crate::nodes::{
    AliasSpec, Authorization, EventTime, HealthBoard, HealthEvent, Node, NodeDirectory, NodeId,
    NodeSpec, NodeState, NodeTable, Transition,
};
use crate::telemetry::log;

use super::probe::{Outcome, Probe, Probers};

/// All nodes, as configured and as found.
pub(super) struct Nodes {
    directory: Arc<NodeDirectory>,
    table: Arc<NodeTable>,
    aliases: Vec<AliasSpec>,
    known: Vec<Known>,
    board: HealthBoard,
    /// Nodes whose probe is under way.
    probing: HashSet<Box<str>>,
    /// Of these, those that became other nodes meanwhile: what the probe finds out is not about them.
    outdated: HashSet<Box<str>>,
    /// Whether waiting requests have not been told of a change yet.
    has_news: bool,
}

struct Known {
    config: NodeConfig,
    addresses: Vec<SocketAddr>,
    /// Models the node itself names; used where the file names none.
    discovered: Vec<Box<str>>,
    /// Slots its engine reports; used where the file says "auto".
    slots: Option<u32>,
}

impl Nodes {
    pub(super) fn new(config: &Config, directory: Arc<NodeDirectory>) -> Self {
        let known = config.nodes.iter().map(Known::new);
        let mut nodes = Self {
            table: directory.snapshot(),
            directory,
            aliases: config.aliases.iter().map(alias_spec).collect(),
            known: known.collect(),
            board: HealthBoard::new(PROBE_INTERVAL),
            probing: HashSet::new(),
            outdated: HashSet::new(),
            has_news: false,
        };
        nodes.publish(Duration::ZERO);
        nodes
    }

    /// Follows another configuration: nodes that are not in it any more get nothing new, what they are doing
    /// they finish; new ones, and those at a new address, begin as at the start.
    pub(super) fn reconfigure(&mut self, config: &Config, now: Duration) {
        let mut before: HashMap<String, Known> = std::mem::take(&mut self.known)
            .into_iter()
            .map(|known| (known.config.name.clone(), known))
            .collect();
        for node in &config.nodes {
            let known = match before.remove(&node.name) {
                Some(known) if known.is_still(node) => known.with(node),
                Some(_) => {
                    self.is_another(&node.name);
                    Known::new(node)
                }
                None => Known::new(node),
            };
            self.known.push(known);
        }
        for name in before.keys() {
            self.is_another(name);
        }
        self.aliases = config.aliases.iter().map(alias_spec).collect();
        self.publish(now);
    }

    /// What was known of the node of this name is not true of the next one of this name.
    fn is_another(&mut self, name: &str) {
        self.board.forget(&self.table, name);
        if self.probing.contains(name) {
            self.outdated.insert(name.into());
        }
    }

    /// Hands every probe that is due to the probers.
    pub(super) fn request_probes(&mut self, probers: &Probers, now: Duration) {
        let due: Vec<Box<str>> = self.board.probes_due(now).map(Into::into).collect();
        for name in due {
            let Some(known) = self.known.iter().find(|known| *known.config.name == *name) else {
                continue;
            };
            if self.probing.contains(&name) {
                continue;
            }
            let probe = Probe {
                node: name.clone(),
                base_url: known.config.base_url.clone(),
                api_key: known.config.api_key.clone(),
                needs_models: known.config.models.is_empty(),
                needs_slots: known.config.max_concurrency.is_none(),
            };
            if probers.request(probe) {
                self.probing.insert(name);
            }
        }
    }

    /// How long nothing is due.
    pub(super) fn next_probe_in(&self, now: Duration) -> Duration {
        let waiting = self
            .known
            .iter()
            .filter(|known| !self.probing.contains(&*known.config.name));
        waiting
            .filter_map(|known| self.board.health(&known.config.name))
            .map(|health| health.probe_at().saturating_sub(now))
            .min()
            .unwrap_or(PROBE_INTERVAL)
            .max(PROBE_PAUSE)
    }

    /// Takes in what a probe found out.
    pub(super) fn probed(&mut self, outcome: Outcome, now: Duration) {
        self.probing.remove(&outcome.node);
        if self.outdated.remove(&outcome.node) {
            return;
        }
        let Some(known) = self
            .known
            .iter_mut()
            .find(|known| *known.config.name == *outcome.node)
        else {
            return;
        };
        let mut has_changed = false;
        if let Some(addresses) = outcome.addresses
            && !same_members(&addresses, &known.addresses)
        {
            known.addresses = addresses;
            has_changed = true;
        }
        let event = match outcome.answer {
            Ok(answer) => {
                if known.config.models.is_empty() && known.discovered != answer.models {
                    known.discovered = answer.models;
                    has_changed = true;
                }
                // An engine that has told once and now does not is more likely busy than changed.
                if answer.slots.is_some() && known.slots != answer.slots {
                    known.slots = answer.slots;
                    has_changed = true;
                }
                HealthEvent::ProbeSucceeded
            }
            Err(error) => {
                log::debug(format_args!("probe of {} failed: {error}", outcome.node));
                HealthEvent::ProbeFailed
            }
        };
        if has_changed {
            self.publish(now);
        }
        if let Some(node) = self.table.node(&outcome.node).cloned() {
            self.apply(&node, event, now);
        }
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
        let specs: Vec<NodeSpec> = self.known.iter().map(Known::spec).collect();
        match self.directory.publish(&specs, &self.aliases) {
            Ok(table) => {
                self.board.follow(&table, now);
                self.has_news = true;
                self.table = table;
            }
            // Names were checked with the configuration; discovery adds none.
            Err(error) => log::error(format_args!("the node table stays as it was: {error}")),
        }
    }
}

impl Known {
    fn new(config: &NodeConfig) -> Self {
        Self {
            addresses: literal_address(&config.base_url).into_iter().collect(),
            config: config.clone(),
            discovered: Vec::new(),
            slots: None,
        }
    }

    /// Whether what is known of it holds under other settings as well.
    fn is_still(&self, config: &NodeConfig) -> bool {
        let needs_models = config.models.is_empty() && !self.config.models.is_empty();
        self.config.base_url == config.base_url && !needs_models
    }

    /// The same node with other settings.
    fn with(self, config: &NodeConfig) -> Self {
        Self {
            config: config.clone(),
            ..self
        }
    }

    fn spec(&self) -> NodeSpec {
        let config = &self.config;
        let configured = || {
            config
                .models
                .iter()
                .map(|model| model.as_str().into())
                .collect()
        };
        NodeSpec {
            name: config.name.as_str().into(),
            addresses: self.addresses.clone(),
            host_header: config.base_url.authority().into(),
            path_prefix: config.base_url.path_prefix().into(),
            authorization: config
                .api_key
                .as_ref()
                .map(|key| Authorization::new(format!("Bearer {}", key.expose()).into_bytes())),
            models: if config.models.is_empty() {
                self.discovered.clone()
            } else {
                configured()
            },
            // "auto" without a report is one at a time, the rule of seed 2.
            max_concurrency: config.max_concurrency.or(self.slots).unwrap_or(1),
            weight: config.weight,
        }
    }
}

/// Addresses of a resolver's answer may come in any order.
fn same_members(left: &[SocketAddr], right: &[SocketAddr]) -> bool {
    left.len() == right.len() && left.iter().all(|address| right.contains(address))
}

fn alias_spec(alias: &AliasConfig) -> AliasSpec {
    AliasSpec {
        model: alias.model.as_str().into(),
        to: alias.to.as_str().into(),
    }
}

/// The address of a base URL that needs no resolver.
fn literal_address(base_url: &BaseUrl) -> Option<SocketAddr> {
    match base_url.host() {
        Host::Ip(ip) => Some(SocketAddr::new(*ip, base_url.port())),
        Host::Name(_) => None,
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

/// How often a node is asked whether it is there (spec section 9).
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// The shortest pause between two looks at what is due.
const PROBE_PAUSE: Duration = Duration::from_millis(5);
