//! Owns the choice among nodes: one replaceable function of plain data. Never reads a counter, takes a slot or allocates.

/// What the policy knows about one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Slots taken.
    pub in_flight: u32,
    /// Slots in all.
    pub max_concurrency: u32,
    /// Scales `max_concurrency`; 0 counts as 1.
    pub weight: u32,
    /// When this worker chose the node last, as a count of its choices; the rotation among equals.
    pub chosen_at: u64,
}

/// The key of the node with the fewest requests in flight relative to `max_concurrency` × `weight`; among equals the one
/// chosen longest ago. `None` if no node has a free slot.
///
/// "Longest ago" instead of a rotating index: an index modulo the number of equals favours some nodes when that number keeps
/// changing. One pass, no allocation.
pub fn choose<K>(loads: impl Iterator<Item = (K, Load)>) -> Option<K> {
    let mut best: Option<(K, Load)> = None;
    for (key, load) in loads {
        if load.in_flight >= load.max_concurrency {
            continue;
        }
        let better = match &best {
            Some((_, least)) => load.precedes(least),
            None => true,
        };
        if better {
            best = Some((key, load));
        }
    }
    best.map(|(key, _)| key)
}

impl Load {
    /// Whether this node is to be preferred. Ratios are compared by cross multiplication: exact, and 32 + 64 bits fit.
    fn precedes(&self, other: &Self) -> bool {
        let own = u128::from(self.in_flight) * u128::from(other.capacity());
        let others = u128::from(other.in_flight) * u128::from(self.capacity());
        own < others || (own == others && self.chosen_at < other.chosen_at)
    }

    fn capacity(&self) -> u64 {
        u64::from(self.max_concurrency) * u64::from(self.weight.max(1))
    }
}

#[cfg(all(test, not(loom)))]
#[path = "policy_tests.rs"]
mod tests;
