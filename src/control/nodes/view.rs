//! A node as the control API shows it.

use serde::Serialize;

use crate::nodes::{FailureReason, NodeState, NodeTable};

use super::member::{Heartbeat, Member, Origin};

/// A node as the control API shows it. Times are Unix seconds unless their name says otherwise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(in crate::control) struct NodeView {
    pub(in crate::control) id: String,
    pub(in crate::control) name: String,
    pub(in crate::control) base_url: String,
    pub(in crate::control) source: &'static str,
    pub(in crate::control) state: &'static str,
    pub(in crate::control) engine: Option<&'static str>,
    pub(in crate::control) models: Vec<Box<str>>,
    pub(in crate::control) max_concurrency: SlotSetting,
    pub(in crate::control) slots_used: u32,
    pub(in crate::control) slots_total: u32,
    pub(in crate::control) weight: u32,
    pub(in crate::control) latency_ms: Option<f64>,
    pub(in crate::control) last_probe_at: Option<u64>,
    pub(in crate::control) last_error: Option<&'static str>,
    pub(in crate::control) last_heartbeat_at: Option<u64>,
    pub(in crate::control) heartbeat: Option<Heartbeat>,
    pub(in crate::control) selections_total: u64,
    pub(in crate::control) failures_total: u64,
    pub(in crate::control) created_at: Option<u64>,
}

/// `max_concurrency` as it was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(in crate::control) enum SlotSetting {
    Auto(Auto),
    Slots(u32),
}

/// The word `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::control) enum Auto {
    Auto,
}

impl NodeView {
    pub(super) fn of(member: &Member, state: NodeState, table: &NodeTable) -> Self {
        let settings = &member.settings;
        let node = table.node(&settings.name);
        let live = node.map(|node| &node.live);
        let failures = |live: &std::sync::Arc<crate::nodes::NodeLive>| {
            FailureReason::ALL
                .iter()
                .map(|reason| live.failures_total(*reason))
                .sum()
        };
        let (source, created_at) = match &member.origin {
            Origin::File => ("config", None),
            Origin::Registered(registration) => ("registered", Some(registration.created_at)),
        };
        let last_probe = member.last_probe;
        Self {
            id: member.id().to_string(),
            name: settings.name.clone(),
            base_url: settings.base_url.to_string(),
            source,
            state: state.as_str(),
            engine: member.found.engine.map(|engine| engine.as_str()),
            models: member.models(),
            max_concurrency: match settings.max_concurrency {
                None => SlotSetting::Auto(Auto::Auto),
                Some(slots) => SlotSetting::Slots(slots),
            },
            slots_used: live.map_or(0, |live| live.slots().count),
            slots_total: member.slots(),
            weight: settings.weight,
            latency_ms: last_probe
                .and_then(|probe| probe.outcome.ok())
                .map(|latency| latency.as_micros() as f64 / 1000.0),
            last_probe_at: last_probe.map(|probe| probe.at),
            last_error: last_probe
                .and_then(|probe| probe.outcome.err())
                .map(|error| error.as_str()),
            last_heartbeat_at: member.heartbeat.as_ref().map(|(at, _)| *at),
            heartbeat: member.heartbeat.as_ref().map(|(_, report)| report.clone()),
            selections_total: live.map_or(0, |live| live.selections_total()),
            failures_total: live.map_or(0, failures),
            created_at,
        }
    }
}
