//! What of a snapshot can be used now: states change under a table that stays the same. Never decides a state.

use super::live::NodeState;
use super::table::{Model, NodeTable};

impl NodeTable {
    /// Whether any node is online.
    #[must_use]
    pub fn has_online_node(&self) -> bool {
        self.nodes()
            .iter()
            .any(|node| node.live.state() == NodeState::Online)
    }

    /// The names clients can ask for now: models and aliases that an online node serves, sorted and each once.
    #[must_use]
    pub fn available_names(&self) -> Vec<&str> {
        let models = self.models().map(|model| (&*model.name, model));
        let mut names: Vec<&str> = models
            .chain(self.aliases())
            .filter(|(name, _)| self.is_available(name))
            .map(|(name, _)| name)
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether an online node serves what clients mean by `name`.
    #[must_use]
    pub fn is_available(&self, name: &str) -> bool {
        self.resolve(name)
            .is_some_and(|model| model.has_online_node())
    }
}

impl Model {
    /// Whether any of its nodes is online.
    #[must_use]
    pub fn has_online_node(&self) -> bool {
        self.nodes
            .iter()
            .any(|node| node.live.state() == NodeState::Online)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{AliasSpec, NodeDirectory, NodeSpec, NodeState};

    fn node(name: &str, models: &[&str]) -> NodeSpec {
        NodeSpec {
            name: name.into(),
            addresses: Vec::new(),
            host_header: "h".into(),
            path_prefix: "".into(),
            authorization: None,
            models: models.iter().map(|model| (*model).into()).collect(),
            max_concurrency: 1,
            weight: 1,
        }
    }

    #[test]
    fn only_names_with_an_online_node_are_available() {
        let directory = NodeDirectory::default();
        let aliases = [("gpt", "b"), ("old", "a")].map(|(model, to)| AliasSpec {
            model: model.into(),
            to: to.into(),
        });
        let table = directory
            .publish(
                &[node("one", &["a", "b"]), node("two", &["b", "c"])],
                &aliases,
            )
            .unwrap();
        assert!(!table.has_online_node());
        assert!(table.available_names().is_empty());

        table
            .node("two")
            .unwrap()
            .live
            .publish_state(NodeState::Online);
        assert!(table.has_online_node());
        assert_eq!(table.available_names(), ["b", "c", "gpt"]);
        assert!(table.is_available("gpt") && !table.is_available("old"));
        assert!(!table.is_available("nothing"));
    }
}
