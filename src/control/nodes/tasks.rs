//! What the control API asks of the nodes: each is one short piece of work on the control thread, so that
//! two of them never mix.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::key::KeyHash;
use crate::config::{Config, NodeConfig};
use crate::nodes::HealthEvent;
use crate::runtime::clock;
use crate::store::{Credential, StoredNode};
use crate::telemetry::log;

use super::desk::{Claim, Kept, NodesError, leaves_for_elsewhere};
use super::member::{Heartbeat, Member, Origin, Registration};
use super::token::Power;
use super::{NodeRef, NodeView, Nodes, Watch, alias_spec};

/// What a registration comes to.
#[derive(Debug)]
pub(super) enum Plan {
    /// The name is free.
    New,
    /// A node of this name is registered at this address, or shows its token: it comes again.
    Again {
        /// As the store has it.
        known: StoredNode,
        /// What its new token is for.
        power: Power,
    },
}

impl Nodes {
    pub(super) fn list(&self) -> Vec<NodeView> {
        self.members
            .values()
            .map(|member| self.view(member))
            .collect()
    }

    pub(super) fn get(&self, node: &NodeRef) -> Result<NodeView, NodesError> {
        let member = self.find_or_say(node)?;
        Ok(self.view(member))
    }

    /// What registering a node with these settings would be.
    pub(super) fn plan(&self, settings: &NodeConfig, claim: Claim) -> Result<Plan, NodesError> {
        let known = self.by_name.get(settings.name.as_str());
        match known.and_then(|serial| self.members.get(serial)) {
            Some(member) => member.planned_again(settings, claim),
            None if !self.is_restored => Err(NodesError::StoreUnavailable),
            None if self.members.len() >= NODES_MAX => Err(NodesError::TooMany),
            None => Ok(Plan::New),
        }
    }

    /// Takes in a registration that the store has kept. The name may have been taken since it was planned, by
    /// a new configuration only.
    pub(super) fn admit(
        &mut self,
        registration: Registration,
        settings: NodeConfig,
        now: Duration,
    ) -> Result<NodeView, NodesError> {
        let node = NodeRef::Registered(registration.id);
        if let Some(serial) = self.by_id.get(&registration.id).copied() {
            if let Some(member) = self.members.get_mut(&serial) {
                member.origin = Origin::Registered(registration);
                member.found.may_be_another_process();
            }
            self.set(serial, settings, now);
            self.look_at(&node, now);
        } else if self.by_name.contains_key(settings.name.as_str()) {
            return Err(NodesError::NameTaken);
        } else {
            log::info(format_args!("node {} has registered", settings.name));
            self.insert(Origin::Registered(registration), settings, false);
        }
        self.publish_tokens();
        self.publish(now);
        self.get(&node)
    }

    /// Has a node probed at once, unless it is drained.
    fn look_at(&mut self, node: &NodeRef, now: Duration) {
        let member = self.find(node).filter(|member| !member.is_drained);
        if let Some(serial) = member.map(|member| member.serial) {
            self.judge(serial, HealthEvent::Enable, now);
        }
    }

    /// A registered node as the store keeps it.
    pub(super) fn stored(&self, node: &NodeRef) -> Result<StoredNode, NodesError> {
        let member = self.find_or_say(node)?;
        member.stored().ok_or(NodesError::IsOfFile)
    }

    /// All registered nodes, as the store keeps them.
    pub(super) fn all_stored(&self) -> Vec<StoredNode> {
        self.members.values().filter_map(Member::stored).collect()
    }

    pub(super) fn remove(&mut self, id: u64, now: Duration) -> Result<(), NodesError> {
        let serial = self.by_id.get(&id).copied().ok_or(NodesError::NotFound)?;
        if let Some(member) = self.members.get(&serial) {
            log::info(format_args!("node {} was removed", member.settings.name));
        }
        self.take_out(serial);
        self.publish_tokens();
        self.publish(now);
        Ok(())
    }

    /// Drains a node or puts it back into service.
    pub(super) fn set_drained(
        &mut self,
        node: &NodeRef,
        is_drained: bool,
        now: Duration,
    ) -> Result<NodeView, NodesError> {
        let serial = self.find_or_say(node)?.serial;
        if self.is_stale {
            // The node may be newer than the table.
            self.publish(now);
        }
        if let Some(member) = self.members.get_mut(&serial) {
            member.is_drained = is_drained;
        }
        let event = match is_drained {
            true => HealthEvent::Drain,
            false => HealthEvent::Enable,
        };
        self.judge(serial, event, now);
        self.get(node)
    }

    /// The serial of the node that has this token. An unknown node is answered as a wrong token is: an id is
    /// not to be found out by trying.
    pub(super) fn check_token(&self, node: &NodeRef, token: KeyHash) -> Result<u64, NodesError> {
        let member = match self.find_or_say(node) {
            Err(NodesError::NotFound) => return Err(NodesError::WrongToken),
            found => found?,
        };
        // In constant time; a node of the file has no token, so nothing is the right one.
        match member.registration() {
            Some(own) if own.token == token => Ok(member.serial),
            _ => Err(NodesError::WrongToken),
        }
    }

    /// Takes in what a node reports about itself; returns its state.
    pub(super) fn heartbeat(
        &mut self,
        node: &NodeRef,
        token: KeyHash,
        report: Heartbeat,
        now: Duration,
    ) -> Result<&'static str, NodesError> {
        let serial = self.check_token(node, token)?;
        let initializing = report.initializing;
        if let Some(member) = self.members.get_mut(&serial) {
            member.heartbeat = Some((clock::unix_secs(), report));
        }
        if self.is_stale {
            self.publish(now);
        }
        self.judge(serial, HealthEvent::HeartbeatReceived { initializing }, now);
        let member = self.find_or_say(node)?;
        Ok(self.state(member).as_str())
    }

    /// Takes in what the store has kept: nodes that are not known yet, and which are to be drained. Names of
    /// the configuration come first. What an operator wants of a node that is known counts from the first
    /// time on, not what the store has: it may not have been able to keep that.
    pub(in crate::control) fn restore(&mut self, kept: Kept, now: Duration) {
        let drains = kept.drains;
        for stored in kept.nodes {
            if self.by_id.contains_key(&stored.id) {
                continue;
            }
            if self.by_name.contains_key(stored.name.as_str()) {
                log::warn(format_args!(
                    "the registered node {} is left out: the configuration has a node of this name",
                    stored.name
                ));
                continue;
            }
            let name = stored.name.clone();
            match of_store(stored) {
                Some((registration, settings)) => {
                    let is_drained = drains.contains(&name);
                    self.insert(Origin::Registered(registration), settings, is_drained);
                }
                None => log::error(format_args!(
                    "the registered node {name} is left out: its address is not valid"
                )),
            }
        }
        let was_restored = std::mem::replace(&mut self.is_restored, true);
        self.publish_tokens();
        self.publish(now);
        for name in drains.into_iter().filter(|_| !was_restored) {
            let known = self.by_name.get(name.as_str()).copied();
            let member = known.and_then(|serial| self.members.get_mut(&serial));
            if let Some(member) = member.filter(|member| !member.is_drained) {
                member.is_drained = true;
                let serial = member.serial;
                self.judge(serial, HealthEvent::Drain, now);
            }
        }
    }

    /// Whether what the store has kept was taken in.
    pub(super) fn is_restored(&self) -> bool {
        self.is_restored
    }

    /// Names of the nodes an operator wants drained; `None` as long as the store may know of more.
    pub(super) fn drains(&self) -> Option<Vec<String>> {
        let drained = self.members.values().filter(|member| member.is_drained);
        let names = drained.map(|member| member.settings.name.clone());
        self.is_restored.then(|| names.collect())
    }

    /// Whether every node there is was asked, and the table shows what came of it.
    pub(super) fn is_settled(&self) -> bool {
        let is_known = |member: &Member| member.is_drained || member.last_probe.is_some();
        let is_told = !self.is_stale && self.verdicts.is_empty();
        self.is_restored && is_told && self.members.values().all(is_known)
    }

    /// See [`NodeDesk::replace_configured`](super::NodeDesk::replace_configured).
    pub(super) fn replace_configured(
        &mut self,
        config: &Config,
        watch: Watch,
        now: Duration,
    ) -> Result<(), Vec<String>> {
        let taken = self.taken_names(&config.nodes);
        if !taken.is_empty() {
            return Err(taken);
        }
        let gone: Vec<u64> = (self.members.values())
            .filter(|member| member.origin == Origin::File)
            .filter(|member| {
                !config
                    .nodes
                    .iter()
                    .any(|node| node.name == member.settings.name)
            })
            .map(|member| member.serial)
            .collect();
        for serial in gone {
            self.take_out(serial);
        }
        for settings in &config.nodes {
            match self.by_name.get(settings.name.as_str()).copied() {
                Some(serial) => self.set(serial, settings.clone(), now),
                None => {
                    self.insert(Origin::File, settings.clone(), false);
                }
            }
        }
        self.aliases = config.aliases.iter().map(alias_spec).collect();
        self.board.set_timing(watch.timing, now);
        self.watch = watch;
        self.publish(now);
        Ok(())
    }

    /// Which of these names registered nodes have.
    fn taken_names(&self, nodes: &[NodeConfig]) -> Vec<String> {
        let is_taken = |name: &str| {
            let known = self.by_name.get(name);
            known
                .and_then(|serial| self.members.get(serial))
                .is_some_and(|member| member.origin != Origin::File)
        };
        let names = nodes.iter().map(|node| &node.name);
        names.filter(|name| is_taken(name)).cloned().collect()
    }

    pub(super) fn rules(&self) -> Arc<super::RegistrationRules> {
        Arc::clone(&self.watch.rules)
    }
}

impl Member {
    /// What it comes to if this node registers again, or another one under its name.
    fn planned_again(&self, settings: &NodeConfig, claim: Claim) -> Result<Plan, NodesError> {
        let known = self.stored().ok_or(NodesError::NameTaken)?;
        let (there, here) = (&settings.base_url, &self.settings.base_url);
        // In constant time; a wrong token is no better than none.
        let may_move = (claim.token)
            .is_some_and(|(token, power)| token == known.token_digest && power == Power::Move);
        if there != here && !may_move {
            return Err(NodesError::NameTaken);
        }
        let has_credential = known.api_key != Credential::None;
        if leaves_for_elsewhere(there, here) && has_credential && !claim.names_credential {
            return Err(NodesError::CredentialNeeded);
        }
        // Anybody with a key for nodes can name a node and its address: that alone brings no node elsewhere.
        let power = match may_move || claim.is_by_admin {
            true => Power::Move,
            false => Power::Report,
        };
        Ok(Plan::Again { known, power })
    }

    fn stored(&self) -> Option<StoredNode> {
        let registration = self.registration()?;
        let settings = &self.settings;
        Some(StoredNode {
            id: registration.id,
            name: settings.name.clone(),
            base_url: settings.base_url.to_string(),
            models: settings.models.clone(),
            api_key: match &settings.api_key {
                Some(secret) => Credential::Known(secret.clone()),
                None if registration.lost_credential => Credential::Lost,
                None => Credential::None,
            },
            max_concurrency: settings.max_concurrency,
            weight: settings.weight,
            token_digest: registration.token,
            created_at: registration.created_at,
        })
    }
}

/// What the store has kept, checked as if it had just been given.
pub(super) fn of_store(stored: StoredNode) -> Option<(Registration, NodeConfig)> {
    let base_url = crate::config::BaseUrl::parse(&stored.base_url).ok()?;
    let (api_key, lost_credential) = match stored.api_key {
        Credential::None => (None, false),
        Credential::Known(secret) => (Some(secret), false),
        Credential::Lost => (None, true),
    };
    if lost_credential {
        log::warn(format_args!(
            "the api_key of node {} cannot be read any more; give it again",
            stored.name
        ));
    }
    let registration = Registration {
        id: stored.id,
        token: stored.token_digest,
        created_at: stored.created_at,
        lost_credential,
    };
    let settings = NodeConfig {
        name: stored.name,
        base_url,
        models: stored.models,
        api_key,
        max_concurrency: stored.max_concurrency,
        weight: stored.weight,
    };
    Some((registration, settings))
}

/// Nodes of the file and registered ones together: a table of more is copied and searched too slowly.
const NODES_MAX: usize = 10_000;
