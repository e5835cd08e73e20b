//! What becomes of a running router's configuration when its sources are read again: what applies at
//! once, and what has to wait for a restart.

use super::check;
use super::keys::KEYS;
use super::load::Draft;
use super::problem::{Origin, Problems};
use super::types::Config;

/// A new configuration for a running router, and how it differs from the one before.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// To run with from now on: what was read, except that settings that need a restart are as they were.
    pub config: Config,
    /// Key paths of what differs from before and applies now.
    pub applied: Vec<&'static str>,
    /// Key paths of what was read and applies after a restart only.
    pub needs_restart: Vec<&'static str>,
}

impl Change {
    /// From what runs and what was read.
    ///
    /// # Errors
    /// What was read is valid, but not together with what only a restart would change.
    pub fn between(running: &Config, read: Config) -> Result<Self, Problems> {
        let mut change = Self {
            config: read,
            applied: Vec::new(),
            needs_restart: Vec::new(),
        };
        for key in KEYS {
            if (key.is_same)(running, &change.config) {
                continue;
            }
            if key.needs_restart() {
                (key.carry)(running, &mut change.config);
                change.needs_restart.push(key.path);
            } else {
                change.applied.push(key.path);
            }
        }
        if running.nodes != change.config.nodes {
            change.applied.push(NODES);
        }
        if running.aliases != change.config.aliases {
            change.applied.push(ALIASES);
        }
        check_again(&change.config)?;
        Ok(change)
    }
}

/// Checks the mixture as if it had been read. Where a value came from is not known any more.
fn check_again(config: &Config) -> Result<(), Problems> {
    let base_urls = (0..config.nodes.len())
        .map(|index| (Origin::Defaults, format!("{NODES}[{index}].base_url")))
        .collect();
    let mut draft = Draft::default();
    draft.config = config.clone();
    draft.base_urls = base_urls;
    check::between_settings(&mut draft);
    Problems::none_of(draft.problems)
}

const NODES: &str = "nodes";
const ALIASES: &str = "aliases";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::change_one;
    use super::super::{BaseUrl, LogLevel, NodeConfig, keys};
    use super::*;

    fn node(base_url: &str) -> NodeConfig {
        NodeConfig {
            name: "n".to_owned(),
            base_url: BaseUrl::parse(base_url).unwrap(),
            models: Vec::new(),
            api_key: None,
            max_concurrency: None,
            weight: 1,
        }
    }

    #[test]
    fn nothing_new_changes_nothing() {
        let change = Change::between(&Config::default(), Config::default()).unwrap();
        assert_eq!(change.config, Config::default());
        assert!(change.applied.is_empty() && change.needs_restart.is_empty());
    }

    #[test]
    fn live_settings_apply_and_the_others_stay_as_they_run() {
        let running = Config::default();
        let mut read = Config::default();
        read.server.port = 9000;
        read.server.workers = 3;
        read.server.drain_grace = Duration::from_secs(1);
        read.load_manager.max_concurrent = 7;
        read.log.level = LogLevel::Debug;
        read.nodes = vec![node("http://10.0.0.1:8000")];
        let change = Change::between(&running, read.clone()).unwrap();
        assert_eq!(change.needs_restart, ["server.port", "server.workers"]);
        assert_eq!(
            change.applied,
            [
                "server.drain_grace_secs",
                "load_manager.max_concurrent",
                "log.level",
                "nodes"
            ]
        );
        assert_eq!(change.config.server.port, 8080);
        assert_eq!(change.config.load_manager.max_concurrent, 7);
        // What waits for a restart is told again each time, what applies only once.
        let again = Change::between(&change.config, read).unwrap();
        assert_eq!(again.needs_restart, ["server.port", "server.workers"]);
        assert!(again.applied.is_empty());
    }

    #[test]
    fn what_was_read_must_also_go_with_what_still_runs() {
        let mut read = Config::default();
        read.server.port = 9000;
        read.nodes = vec![node("http://127.0.0.1:8080")];
        let problems = Change::between(&Config::default(), read).unwrap_err();
        let text = problems.to_string();
        assert!(text.contains("nodes[0].base_url"), "{text}");
        assert!(text.contains("the router itself"), "{text}");
    }

    #[test]
    fn every_setting_is_compared_and_carried_by_its_own_field() {
        let default = Config::default();
        for key in KEYS {
            let mut changed = Config::default();
            assert!(change_one(&mut changed, key.path), "{}", key.path);
            for other in KEYS {
                let is_same = (other.is_same)(&default, &changed);
                assert_eq!(
                    is_same,
                    key.path != other.path,
                    "{} {}",
                    key.path,
                    other.path
                );
            }
            let mut carried = Config::default();
            (key.carry)(&changed, &mut carried);
            assert_eq!(carried, changed, "{}", key.path);
        }
    }

    #[test]
    fn every_setting_that_needs_a_restart_exists() {
        for path in keys::NEEDS_RESTART {
            assert!(keys::find(path).is_some(), "{path}");
        }
    }
}
