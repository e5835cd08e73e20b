//! Owns the choice among nodes: one replaceable function of plain data. Never reads a counter,
//! takes a slot or allocates.

use crate::admission::Occupancy;

/// What the policy knows about one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Slots taken.
    pub in_flight: u32,
    /// Slots in all.
    pub max_concurrency: u32,
    /// Whether others wait for its slots: to whoever is not in the queue it counts as full.
    pub is_contended: bool,
    /// Scales `max_concurrency`; 0 counts as 1.
    pub weight: u32,
    /// When this worker chose the node last, as a count of its choices; the rotation among equals.
    pub chosen_at: u64,
}

/// The key of the node with the fewest requests in flight relative to `max_concurrency` × `weight`;
/// among equals the one chosen longest ago. `None` if no node has a free slot.
///
/// "Longest ago" instead of a rotating index: an index modulo the number of equals favours some
/// nodes when that number keeps changing. One pass, no allocation.
pub fn choose<K>(loads: impl Iterator<Item = (K, Load)>) -> Option<K> {
    let mut chosen = None;
    // Stands for an infinite ratio, so every node with a free slot precedes it.
    let mut least = Ratio {
        in_flight: 1,
        capacity: 0,
    };
    let mut least_chosen_at = u64::MAX;
    for (key, load) in loads {
        if load.in_flight >= load.max_concurrency || load.is_contended {
            continue;
        }
        let ratio = load.ratio();
        let (own, others) = ratio.cross_multiplied(least);
        if own < others || (own == others && load.chosen_at < least_chosen_at) {
            chosen = Some(key);
            least = ratio;
            least_chosen_at = load.chosen_at;
        }
    }
    chosen
}

/// `in_flight` ÷ `capacity`.
#[derive(Clone, Copy)]
struct Ratio {
    in_flight: u32,
    capacity: u64,
}

impl Load {
    /// The load of a node whose slots stand like this.
    #[must_use]
    pub fn of(slots: Occupancy, weight: u32, chosen_at: u64) -> Self {
        Self {
            in_flight: slots.count,
            max_concurrency: slots.limit,
            is_contended: slots.is_contended,
            weight,
            chosen_at,
        }
    }

    fn ratio(&self) -> Ratio {
        let weight = u64::from(self.weight.max(1));
        Ratio {
            in_flight: self.in_flight,
            capacity: u64::from(self.max_concurrency) * weight,
        }
    }
}

impl Ratio {
    /// Two numbers that compare as the two ratios do: exact, and 32 + 64 bits fit.
    fn cross_multiplied(self, other: Self) -> (u128, u128) {
        let own = u128::from(self.in_flight) * u128::from(other.capacity);
        let others = u128::from(other.in_flight) * u128::from(self.capacity);
        (own, others)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "policy_tests.rs"]
mod tests;
