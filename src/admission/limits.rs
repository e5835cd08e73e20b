//! Owns the limits of `load_manager` and the backpressure state that follows from them (spec section
//! 5). Never counts anything itself.

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

    /// The smallest count of waiting requests that is Overloaded, found by halving: `backpressure`
    /// never falls as the count rises.
    pub(super) fn waiting_until_overloaded(&self) -> u32 {
        let (mut low, mut high) = (0, self.max_waiting.max(1));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.backpressure(middle) == Backpressure::Overloaded {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
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
