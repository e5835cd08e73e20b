//! The tokens of the registered nodes, as digests: by them a worker tells the report of a node from what anybody
//! may send. Immutable; replaced whole by the control side, as the keys are.

use std::collections::HashMap;

use crate::auth::key::KeyHash;

/// All tokens of one moment.
pub struct NodeTokens {
    by_id: HashMap<u64, KeyHash>,
    is_complete: bool,
    /// What the token of an unknown id is compared with.
    nobody: KeyHash,
}

impl Default for NodeTokens {
    /// None yet.
    fn default() -> Self {
        Self::new([], false)
    }
}

impl NodeTokens {
    /// The tokens of the nodes with these ids. Unless it `is_complete`, there may be more nodes.
    #[must_use]
    pub fn new(tokens: impl IntoIterator<Item = (u64, KeyHash)>, is_complete: bool) -> Self {
        Self {
            by_id: tokens.into_iter().collect(),
            is_complete,
            nobody: KeyHash::of(b""),
        }
    }

    /// Whether the node with this id has this token, compared in constant time; none while it cannot be told.
    #[must_use]
    pub fn is_of(&self, id: u64, token: &[u8]) -> Option<bool> {
        // An id is not to be found out by the time an answer takes: an unknown one is compared as well.
        let token = KeyHash::of(token);
        let known = self.by_id.get(&id);
        let is_same = *known.unwrap_or(&self.nobody) == token;
        match known {
            Some(_) => Some(is_same),
            None => self.is_complete.then_some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_of_one_node_and_what_is_not_known_yet_is_not_denied() {
        let tokens = |is_complete| NodeTokens::new([(7, KeyHash::of(b"seven"))], is_complete);
        assert_eq!(NodeTokens::default().is_of(7, b"seven"), None);
        for is_complete in [false, true] {
            let tokens = tokens(is_complete);
            assert_eq!(tokens.is_of(7, b"seven"), Some(true));
            assert_eq!(tokens.is_of(7, b"eight"), Some(false));
        }
        assert_eq!(tokens(false).is_of(8, b"seven"), None);
        assert_eq!(tokens(true).is_of(8, b"seven"), Some(false));
    }
}
