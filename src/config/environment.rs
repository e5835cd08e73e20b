//! The environment as a value: taken once, injected in tests, never written.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};

use super::keys::{self, Key};
use super::load::Draft;
use super::problem::Origin;
use super::suggest::nearest;
use super::value::Raw;

/// The variables that can concern the router. Values may be secret, so `Debug` shows names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// The process's own variables with one of our prefixes.
    #[must_use]
    pub fn of_process() -> Self {
        let named =
            env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self(named.filter(|(name, _)| is_ours(name)).collect())
    }

    /// An environment made of the given variables.
    pub fn from_pairs<N, V>(pairs: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<String>,
        V: Into<OsString>,
    {
        Self(
            pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }

    /// Applies every variable to its key. An empty value counts as not set: compose files and
    /// service managers pass optional variables that way.
    pub(super) fn apply(&self, draft: &mut Draft) {
        for key in keys::KEYS {
            for name in key.environment {
                if let Some(value) = self.0.get(*name).filter(|value| !value.is_empty()) {
                    apply_variable(draft, key, name, value);
                }
            }
        }
        self.warn_of_unknown(draft);
    }

    /// Other programs may own variables with our prefix, so unknown ones are no error.
    fn warn_of_unknown(&self, draft: &mut Draft) {
        let known = keys::KEYS
            .iter()
            .flat_map(|key| key.environment.iter().copied());
        for name in self
            .0
            .keys()
            .filter(|name| is_ours(name) && !is_service_link(name))
        {
            if known.clone().any(|known| known == name) {
                continue;
            }
            let hint = match nearest(name, known.clone()) {
                Some(known) => format!("; did you mean {known}?"),
                None => String::new(),
            };
            draft
                .warnings
                .push(format!("environment variable {name} has no effect{hint}"));
        }
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

fn apply_variable(draft: &mut Draft, key: &'static Key, name: &str, value: &OsStr) {
    let origin = Origin::Environment(name.to_owned());
    match value.to_str() {
        // Kubernetes sets LLM_ROUTER_PORT=tcp://… beside a Service called "llm-router".
        Some(text) if key.path == "server.port" && text.starts_with("tcp://") => {
            draft.warnings.push(format!(
                "environment variable {name} is a Kubernetes service link and has no effect"
            ));
        }
        Some(text) => draft.set(key, Raw::Text(text), origin),
        None => draft.problem(origin, key.path, "must be valid UTF-8".to_owned()),
    }
}

fn is_ours(name: &str) -> bool {
    name == "ROUTER_PORT" || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The other variables Kubernetes sets beside a Service called "llm-router".
fn is_service_link(name: &str) -> bool {
    name.starts_with("LLM_ROUTER_SERVICE_") || name.starts_with("LLM_ROUTER_PORT_")
}

const PREFIXES: [&str; 2] = ["LLM_ROUTER_", "LLMLB_"];
