//! Owns the limits of `load_manager` and the backpressure state that follows from them (spec section
//! 5). Never counts anything itself.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The limits of `load_manager` (spec section 2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdmissionLimits {
    /// Requests that may be in flight at once in the whole router.
    pub max_concurrent: u32,
    /// Waiting requests that make the ratio 1.
    pub max_waiting: u32,
    /// Ratio from which the state is [`Backpressure::Warning`].
    pub warning_threshold: f64,
    /// Ratio from which the state is [`Backpressure::Overloaded`].
    pub overload_threshold: f64,
}

/// How loaded the router is, from waiting ÷ `max_waiting` (spec section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backpressure {
    /// Below the warning threshold.
    Normal = 0,
    /// From the warning threshold on.
    Warning = 1,
    /// From the overload threshold on: a request that would have to wait is refused.
    Overloaded = 2,
}

impl AdmissionLimits {
    /// The state when `waiting` requests wait. Divides instead of multiplying, because
    /// `7.0 / 100.0 == 0.07` while `0.07 * 100.0 > 7.0`: a threshold written in decimal is met
    /// exactly.
    #[must_use]
    pub fn backpressure(&self, waiting: u32) -> Backpressure {
        let ratio = self.load_ratio(waiting);
        if ratio < self.warning_threshold {
            Backpressure::Normal
        } else if ratio < self.overload_threshold {
            Backpressure::Warning
        } else {
            Backpressure::Overloaded
        }
    }

    /// Waiting ÷ `max_waiting`.
    #[must_use]
    pub fn load_ratio(&self, waiting: u32) -> f64 {
        f64::from(waiting) / f64::from(self.max_waiting.max(1))
    }

    /// The smallest count of waiting requests that is Overloaded.
    pub(super) fn waiting_until_overloaded(&self) -> u32 {
        self.waiting_until(Backpressure::Overloaded)
    }

    /// The smallest count of waiting requests with this state or a worse one, found by halving:
    /// `backpressure` never falls as the count rises.
    fn waiting_until(&self, state: Backpressure) -> u32 {
        let (mut low, mut high) = (0, self.max_waiting.max(1));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.backpressure(middle) >= state {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }
}

/// Where the states begin, for any thread to read and one to replace: as counts of waiting requests, so
/// that reading them takes no division.
#[derive(Debug)]
pub(super) struct Thresholds {
    /// `warning << 32 | overloaded`: one word, so that they never contradict each other.
    packed: AtomicU64,
    max_waiting: AtomicU32,
}

impl Thresholds {
    pub(super) fn new(limits: &AdmissionLimits) -> Self {
        let thresholds = Self {
            packed: AtomicU64::new(0),
            max_waiting: AtomicU32::new(0),
        };
        thresholds.set(limits);
        thresholds
    }

    pub(super) fn set(&self, limits: &AdmissionLimits) {
        let warning = u64::from(limits.waiting_until(Backpressure::Warning));
        let overloaded = u64::from(limits.waiting_until_overloaded());
        // Relaxed: they guard no other memory.
        self.packed
            .store(warning << 32 | overloaded, Ordering::Relaxed);
        self.max_waiting
            .store(limits.max_waiting, Ordering::Relaxed);
    }

    /// The state when `waiting` requests wait.
    pub(super) fn backpressure(&self, waiting: u32) -> Backpressure {
        let packed = self.packed.load(Ordering::Relaxed);
        let waiting = u64::from(waiting);
        if waiting >= packed & u64::from(u32::MAX) {
            Backpressure::Overloaded
        } else if waiting >= packed >> 32 {
            Backpressure::Warning
        } else {
            Backpressure::Normal
        }
    }

    pub(super) fn max_waiting(&self) -> u32 {
        self.max_waiting.load(Ordering::Relaxed)
    }
}

impl Backpressure {
    /// The word in `X-Backpressure` and in the control API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Warning => "warning",
            Self::Overloaded => "overloaded",
        }
    }
}
