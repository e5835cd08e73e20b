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
    let mut least = Least::default();
    for (key, load) in loads {
        if least.is_beaten_by(&load) {
            least.replace(key, &load);
        }
    }
    least.chosen()
}

/// Whether no node can be preferred to one whose slots stand like this, except one chosen longer ago: it has
/// a free slot and nothing in flight.
#[inline]
#[must_use]
pub fn cannot_be_beaten(slots: Occupancy) -> bool {
    slots.count == 0 && slots.has_room()
}

/// The best of the loads seen so far.
#[derive(Debug)]
pub struct Least<K> {
    chosen: Option<K>,
    rank: Rank,
}

/// All that decides between two nodes that have a free slot.
#[derive(Clone, Copy, Debug)]
pub struct Rank {
    ratio: Ratio,
    chosen_at: u64,
}

impl Rank {
    /// Stands behind every node with a free slot: an infinite ratio.
    pub const LAST: Self = Self {
        ratio: Ratio {
            in_flight: 1,
            capacity: 0,
        },
        chosen_at: u64::MAX,
    };

    /// Whether this node is to be preferred.
    #[inline]
    #[must_use]
    pub fn precedes(&self, other: &Self) -> bool {
        let (own, others) = self.ratio.cross_multiplied(other.ratio);
        own < others || (own == others && self.chosen_at < other.chosen_at)
    }

    /// Whether nothing is in flight at this node.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.ratio.in_flight == 0
    }
}

impl<K> Least<K> {
    /// Whether the best so far is to be preferred to a node whose slots stand like this, whatever else is
    /// known of that: most nodes are out of the question at this look.
    #[inline]
    #[must_use]
    pub fn precedes(&self, slots: Occupancy, weight: u32) -> bool {
        let load = Load::of(slots, weight, 0);
        let (own, others) = load.ratio().cross_multiplied(self.rank.ratio);
        own > others
    }

    /// Whether a node with this load is to be preferred; never if it has no free slot.
    #[inline]
    #[must_use]
    pub fn is_beaten_by(&self, load: &Load) -> bool {
        load.has_room() && load.rank().precedes(&self.rank)
    }

    /// The node of this key, whose load this is, is the best now.
    #[inline]
    pub fn replace(&mut self, key: K, load: &Load) {
        self.chosen = Some(key);
        self.rank = load.rank();
    }

    /// The best of all.
    #[must_use]
    pub fn chosen(self) -> Option<K> {
        self.chosen
    }
}

impl<K> Default for Least<K> {
    fn default() -> Self {
        Self {
            chosen: None,
            rank: Rank::LAST,
        }
    }
}

/// `in_flight` ÷ `capacity`.
#[derive(Clone, Copy, Debug)]
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

    /// Whether the node may be chosen.
    #[inline]
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.in_flight < self.max_concurrency && !self.is_contended
    }

    /// Where the node stands among others, if it has room.
    #[inline]
    #[must_use]
    pub fn rank(&self) -> Rank {
        Rank {
            ratio: self.ratio(),
            chosen_at: self.chosen_at,
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
