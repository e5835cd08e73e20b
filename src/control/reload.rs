//! Reading the configuration again while the router runs: everything is checked before anything changes,
//! and what has changed holds on every worker when the answer is given.
#![expect(
    clippy::disallowed_types,
    reason = "reloads wait for each other; no worker ever takes the lock"
)]

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::{Change, Config, Origin, Problem, Problems, Sources, fail_closed};
use crate::proxy::Shared;
use crate::runtime::clock;
use crate::telemetry::log;

use super::keys::KeyFile;
use super::nodes::{NodeDesk, NodesError};

/// Replaces the configuration of a running router.
pub struct Reloader {
    /// What the process was started with; `None` if its configuration comes from nowhere.
    sources: Option<Sources>,
    shared: Arc<Shared>,
    key_file: Arc<KeyFile>,
    nodes: NodeDesk,
    /// Held by the reload under way: the next one begins with what it has left behind.
    turn: Mutex<()>,
}

/// What a reload has changed, as key paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Differs from before and applies now.
    pub applied: Vec<&'static str>,
    /// Differs from what runs and applies after a restart.
    pub needs_restart: Vec<&'static str>,
}

/// Why a reload changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadRefusal {
    /// The configuration is not valid.
    Invalid(Problems),
    /// The control thread has too much to do.
    Busy,
    /// The process is on its way out, or another one is about to take over.
    HandingOver,
}

impl Reloader {
    pub(super) fn new(
        sources: Option<Sources>,
        shared: Arc<Shared>,
        key_file: Arc<KeyFile>,
        nodes: NodeDesk,
    ) -> Self {
        Self {
            sources,
            shared,
            key_file,
            nodes,
            turn: Mutex::new(()),
        }
    }

    /// Reads all sources again, checks the whole, and only then replaces what differs. The outcome is
    /// logged and counted.
    ///
    /// # Errors
    /// [`ReloadRefusal`]; then nothing has changed.
    pub fn reload(&self) -> Result<Reloaded, ReloadRefusal> {
        // Whoever panicked here left either the old configuration or the new one behind.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match self.shared.begin_change() {
            Some(_change) => self.read().and_then(|change| self.apply(change)),
            None => Err(ReloadRefusal::HandingOver),
        };
        match &outcome {
            Ok(reloaded) => {
                self.shared.reloads.succeeded(clock::unix_secs());
                log::info(format_args!("reload: {reloaded}"));
            }
            Err(refusal) => {
                self.shared.reloads.failed();
                log::error(format_args!("reload: nothing has changed: {refusal}"));
            }
        }
        outcome
    }

    fn read(&self) -> Result<Change, ReloadRefusal> {
        let sources = self.sources.as_ref().ok_or_else(no_sources)?;
        let mut loaded = sources.load()?;
        let running = self.shared.config.current();
        let sealed = loaded.config.seal(Some(&running.auth.admin_password));
        sealed.map_err(|_| ReloadRefusal::Busy)?;
        for warning in &loaded.warnings {
            log::warn(format_args!("{warning}"));
        }
        // A key made a moment ago counts.
        self.key_file.follow(&self.shared.keys);
        let has_stored_keys = self.key_file.has_stored();
        // As it was read it must be fit for the next start, mixed with what runs it must be fit for now.
        let read = fail_closed(&loaded.config, has_stored_keys);
        read.map_err(Problems::from)?;
        let change = Change::between(&running, loaded.config)?;
        let mixed = fail_closed(&change.config, has_stored_keys);
        mixed.map_err(Problems::from)?;
        Ok(change)
    }

    fn apply(&self, change: Change) -> Result<Reloaded, ReloadRefusal> {
        let Change {
            config,
            applied,
            needs_restart,
        } = change;
        // First what can fail: from here on nothing does.
        self.change_nodes(&config)?;
        let keys = config.auth.api_keys.clone();
        let is_opening = !config.auth.required;
        // Nobody is refused in between: keys come before they are asked for, and go after.
        if !is_opening {
            self.key_file.configure(&keys, &self.shared.keys);
        }
        self.shared.reconfigure(config);
        self.wait_for_workers();
        if is_opening {
            self.key_file.configure(&keys, &self.shared.keys);
        }
        Ok(Reloaded {
            applied,
            needs_restart,
        })
    }

    fn change_nodes(&self, config: &Config) -> Result<(), ReloadRefusal> {
        let replaced = self.nodes.replace_configured(Arc::new(config.clone()));
        let Err(taken) = replaced.map_err(|_: NodesError| ReloadRefusal::Busy)? else {
            return Ok(());
        };
        let problems = taken.iter().map(|name| name_taken(config, name));
        Ok(Problems::none_of(problems.collect())?)
    }

    fn wait_for_workers(&self) {
        let until = Instant::now() + WORKERS_PATIENCE;
        while !self.shared.config.is_followed() {
            if Instant::now() >= until {
                log::warn(format_args!("reload: a worker is slow to follow"));
                return;
            }
            thread::park_timeout(WORKERS_POLL);
        }
    }
}

/// A node of the file that bears the name of a registered one.
fn name_taken(config: &Config, name: &str) -> Problem {
    let index = config.nodes.iter().position(|node| node.name == name);
    Problem {
        origin: Origin::Defaults,
        key: format!("nodes[{}].name", index.unwrap_or_default()),
        value: Some(format!("{name:?}")),
        reason: "is the name of a registered node; remove one of the two".to_owned(),
    }
}

fn no_sources() -> Problems {
    Problems::from(Problem {
        origin: Origin::Defaults,
        key: String::new(),
        value: None,
        reason: "there is none that could be read again: this is a demo".to_owned(),
    })
}

impl From<Problems> for ReloadRefusal {
    fn from(problems: Problems) -> Self {
        Self::Invalid(problems)
    }
}

impl ReloadRefusal {
    /// What is wrong, one sentence each, for those who must not learn where files lie.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        match self {
            Self::Invalid(problems) => problems
                .as_slice()
                .iter()
                .map(|problem| without_directory(problem).to_string())
                .collect(),
            Self::Busy | Self::HandingOver => Vec::new(),
        }
    }
}

fn without_directory(problem: &Problem) -> Problem {
    let mut problem = problem.clone();
    if let Origin::File { name, .. } = &mut problem.origin
        && let Some(last) = Path::new(name.as_str()).file_name()
    {
        *name = last.to_string_lossy().into_owned();
    }
    problem
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.applied.as_slice() {
            [] => f.write_str("nothing to apply")?,
            applied => write!(f, "applied {}", applied.join(", "))?,
        }
        match self.needs_restart.as_slice() {
            [] => Ok(()),
            paths => write!(f, "; needs a restart: {}", paths.join(", ")),
        }
    }
}

impl fmt::Display for ReloadRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(problems) => problems.fmt(f),
            Self::Busy => f.write_str("the control thread is busy; please retry"),
            Self::HandingOver => {
                f.write_str("another process takes over or this one is draining; please retry")
            }
        }
    }
}

impl std::error::Error for ReloadRefusal {}

/// How long the workers may take; one whose mailbox is full looks by itself within a second.
const WORKERS_PATIENCE: Duration = Duration::from_secs(2);
const WORKERS_POLL: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_reads_like_a_sentence() {
        let mut reloaded = Reloaded {
            applied: Vec::new(),
            needs_restart: Vec::new(),
        };
        assert_eq!(reloaded.to_string(), "nothing to apply");
        reloaded.needs_restart = vec!["server.port", "log.access"];
        assert_eq!(
            reloaded.to_string(),
            "nothing to apply; needs a restart: server.port, log.access"
        );
        reloaded.applied = vec!["queue.max_size", "nodes"];
        reloaded.needs_restart.clear();
        assert_eq!(reloaded.to_string(), "applied queue.max_size, nodes");
    }

    #[test]
    fn a_client_is_not_told_where_the_file_lies() {
        let problem = Problem {
            origin: Origin::File {
                name: "/etc/llm-router/config.toml".to_owned(),
                line: 3,
            },
            key: "queue.max_size".to_owned(),
            value: Some("0".to_owned()),
            reason: "must be 1 to 10000".to_owned(),
        };
        let refusal = ReloadRefusal::from(Problems::from(problem));
        assert_eq!(
            refusal.problems(),
            ["config.toml:3: queue.max_size = 0: must be 1 to 10000"]
        );
        assert!(
            refusal
                .to_string()
                .contains("/etc/llm-router/config.toml:3")
        );
    }
}
