//! Time as a worker sees it: precise for measurements, coarse for deadlines. Monotonic only.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

/// Length of one coarse tick: the period of the deadline sweep.
pub const TICK: Duration = Duration::from_millis(50);

/// The precise monotonic time.
#[inline]
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock, for what humans read and for expiry dates: time since the Unix epoch.
pub fn unix_time() -> Duration {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the wall clock"
    )]
    let now = SystemTime::now();
    now.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// [`unix_time`] in whole seconds.
pub fn unix_secs() -> u64 {
    unix_time().as_secs()
}

/// Ticks of [`TICK`] since this thread's sweep began; at most one tick behind unless the core is busy.
#[inline]
pub(crate) fn tick() -> u64 {
    NOW.get()
}

/// Coarse monotonic time since this thread's sweep began.
#[inline]
pub fn coarse() -> Duration {
    TICK.saturating_mul(u32::try_from(tick()).unwrap_or(u32::MAX))
}

/// The first tick at which at least `after` has certainly passed.
#[inline]
pub(crate) fn tick_after(after: Duration) -> u64 {
    let ticks = after.as_millis().div_ceil(TICK.as_millis());
    // One more: the present tick may be nearly over.
    tick()
        .saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX - 1))
        .saturating_add(1)
}

/// Advances the coarse clock to the time passed since `began`.
pub(crate) fn advance(began: Instant) {
    NOW.set((began.elapsed().as_millis() / TICK.as_millis()) as u64);
}

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}
