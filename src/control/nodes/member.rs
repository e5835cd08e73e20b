//! One node as the control thread knows it: what was set, what was found out, what it reported.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use crate::auth::key::KeyHash;
use crate::config::{BaseUrl, Host, NodeConfig};
use crate::control::probe::{Answer, Engine, Probe, ProbeError};
use crate::nodes::{Authorization, HealthEvent, NodeSpec};
use crate::telemetry::log;

use super::Watch;

/// A node.
pub(super) struct Member {
    /// Rises from node to node, also from one of a name to the next.
    pub(super) serial: u64,
    pub(super) origin: Origin,
    pub(super) settings: NodeConfig,
    /// An operator wants it drained.
    pub(super) is_drained: bool,
    pub(super) found: Found,
    pub(super) last_probe: Option<LastProbe>,
    /// The last heartbeat, and when it came in Unix seconds.
    pub(super) heartbeat: Option<(u64, Heartbeat)>,
}

/// Where a node was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// In the configuration.
    File,
    /// Through the control API.
    Registered(Registration),
}

/// What only registered nodes have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registration {
    /// Random, unique.
    pub(super) id: u64,
    /// Of the token it shows with its heartbeats.
    pub(super) token: KeyHash,
    /// Unix seconds.
    pub(super) created_at: u64,
    /// Its credential was kept sealed, and the key to it is gone.
    pub(super) lost_credential: bool,
}

/// What probes found out.
#[derive(Default)]
pub(super) struct Found {
    /// Where requests go, as the last good answer said; before, the literal address of the base URL.
    pub(super) addresses: Vec<SocketAddr>,
    /// Whether there was a good answer.
    is_proven: bool,
    /// Models the node itself names; used where none are set.
    models: Vec<Box<str>>,
    pub(super) engine: Option<Engine>,
    /// Slots its engine reports; used where "auto" is set.
    slots: Option<u32>,
    /// What was asked since the node's process was last seen to begin.
    asked: Asked,
}

/// Questions about the engine that need not be asked again before the node has been away.
#[derive(Clone, Copy, Default)]
struct Asked {
    engine: bool,
    slots: bool,
    has_told_slots: bool,
}

/// How the last probe went.
#[derive(Clone, Copy)]
pub(super) struct LastProbe {
    /// Unix seconds.
    pub(super) at: u64,
    pub(super) outcome: Result<Duration, ProbeError>,
}

/// What a node reports about itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(in crate::control) struct Heartbeat {
    pub(in crate::control) cpu_usage: f64,
    pub(in crate::control) memory_usage: f64,
    pub(in crate::control) gpu_usage: Option<f64>,
    pub(in crate::control) gpu_memory_usage: Option<f64>,
    pub(in crate::control) active_requests: Option<u64>,
    pub(in crate::control) loaded_models: Option<Vec<String>>,
    pub(in crate::control) initializing: bool,
}

impl Member {
    pub(super) fn new(serial: u64, origin: Origin, settings: NodeConfig, is_drained: bool) -> Self {
        let found = Found::before_the_first_probe(&settings.base_url);
        Self {
            serial,
            origin,
            settings,
            is_drained,
            found,
            last_probe: None,
            heartbeat: None,
        }
    }

    /// Sets what can be set. A node at another address is another one: what was found out is forgotten then,
    /// and `true` returned.
    pub(super) fn set(&mut self, settings: NodeConfig) -> bool {
        let has_moved = self.settings.base_url != settings.base_url;
        if self.settings.max_concurrency.is_some() != settings.max_concurrency.is_some() {
            self.found.asked.slots = false;
        }
        self.settings = settings;
        if has_moved {
            self.found = Found::before_the_first_probe(&self.settings.base_url);
            self.last_probe = None;
            self.heartbeat = None;
        }
        has_moved
    }

    pub(super) fn probe(&self, watch: &Watch) -> Probe {
        let found = &self.found;
        let is_auto = self.settings.max_concurrency.is_none();
        let repeats =
            found.asked.has_told_slots && found.engine.is_some_and(Engine::tells_slots_cheaply);
        Probe {
            serial: self.serial,
            base_url: self.settings.base_url.clone(),
            api_key: self.settings.api_key.clone(),
            token: watch.token.clone(),
            rules: match self.origin {
                Origin::File => None,
                Origin::Registered(_) => Some(watch.rules.clone()),
            },
            proven: match found.is_proven {
                true => found.addresses.clone(),
                false => Vec::new(),
            },
            needs_models: self.settings.models.is_empty(),
            engine: found.engine.filter(|_| found.asked.engine),
            needs_slots: is_auto && (!found.asked.slots || repeats),
            timeout: watch.probe_timeout,
        }
    }

    /// Takes in a good answer; `true` if the table has to follow.
    pub(super) fn answered(&mut self, answer: Answer) -> bool {
        let is_auto = self.settings.max_concurrency.is_none();
        let found = &mut self.found;
        let mut has_changed = false;
        found.is_proven = true;
        if !same_members(&answer.addresses, &found.addresses) {
            found.addresses = answer.addresses;
            has_changed = true;
        }
        if self.settings.models.is_empty() && found.models != answer.models {
            found.models = answer.models;
            has_changed = true;
        }
        found.engine = Some(answer.engine);
        found.asked.engine = true;
        if is_auto {
            found.asked.slots = true;
            found.asked.has_told_slots |= answer.slots.is_some();
            // An engine that has told once and now does not is more likely busy than changed.
            if answer.slots.is_some() && found.slots != answer.slots {
                found.slots = answer.slots;
                has_changed = true;
            }
        }
        has_changed
    }

    /// Takes in that a probe failed: when the node is back, it may be another process.
    pub(super) fn failed(&mut self, error: ProbeError) -> HealthEvent {
        log::debug(format_args!(
            "probe of {} failed: {error}",
            self.settings.name
        ));
        self.found.may_be_another_process();
        HealthEvent::ProbeFailed
    }

    pub(super) fn models(&self) -> Vec<Box<str>> {
        match self.settings.models.as_slice() {
            [] => self.found.models.clone(),
            set => set.iter().map(|model| model.as_str().into()).collect(),
        }
    }

    /// "auto" without a report is one at a time, the rule of seed 2.
    pub(super) fn slots(&self) -> u32 {
        let set = self.settings.max_concurrency;
        set.or(self.found.slots).unwrap_or(1)
    }

    pub(super) fn spec(&self) -> NodeSpec {
        let settings = &self.settings;
        NodeSpec {
            name: settings.name.as_str().into(),
            addresses: self.found.addresses.clone(),
            host_header: settings.base_url.authority().into(),
            path_prefix: settings.base_url.path_prefix().into(),
            authorization: settings
                .api_key
                .as_ref()
                .map(|key| Authorization::new(format!("Bearer {}", key.expose()).into_bytes())),
            models: self.models(),
            max_concurrency: self.slots(),
            weight: settings.weight,
        }
    }
}

impl Found {
    /// What it runs on has to be asked again.
    pub(super) fn may_be_another_process(&mut self) {
        self.asked = Asked::default();
    }

    fn before_the_first_probe(base_url: &BaseUrl) -> Self {
        let literal = match base_url.host() {
            Host::Ip(ip) => Some(SocketAddr::new(*ip, base_url.port())),
            Host::Name(_) => None,
        };
        Self {
            addresses: literal.into_iter().collect(),
            ..Self::default()
        }
    }
}

/// Addresses of a resolver's answer may come in any order.
fn same_members(left: &[SocketAddr], right: &[SocketAddr]) -> bool {
    left.len() == right.len() && left.iter().all(|address| right.contains(address))
}
