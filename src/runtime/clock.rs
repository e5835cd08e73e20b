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

/// A reading of the precise monotonic clock that is cheap to take and to compare: a plain count of
/// nanoseconds, which lasts for 584 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// The present moment.
    #[inline]
    pub fn now() -> Self {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the call writes one timespec, which lives through it. It cannot fail: every Linux has
        // this clock.
        #[allow(unsafe_code, reason = "`Instant` does not tell its number")]
        unsafe {
            libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time);
        }
        Self(time.tv_sec as u64 * NANOS_PER_SEC + time.tv_nsec as u64)
    }

    /// Nanoseconds from `earlier` to this moment; 0 if it is not earlier.
    #[inline]
    pub fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
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
    NOW.get().tick
}

/// Coarse monotonic time since this thread's sweep began.
#[inline]
pub fn coarse() -> Duration {
    NOW.get().time
}

/// The first tick at which at least `after` has certainly passed.
#[inline]
pub(crate) fn tick_after(after: Duration) -> u64 {
    let ticks = after
        .as_secs()
        .saturating_mul(TICKS_PER_SEC)
        .saturating_add(u64::from(after.subsec_nanos().div_ceil(TICK_NANOS)));
    // One more: the present tick may be nearly over.
    tick().saturating_add(ticks).saturating_add(1)
}

/// Advances the coarse clock to the time passed since `began`.
pub(crate) fn advance(began: Instant) {
    let tick = (began.elapsed().as_millis() / TICK.as_millis()) as u64;
    NOW.set(Coarse {
        tick,
        time: TICK.saturating_mul(u32::try_from(tick).unwrap_or(u32::MAX)),
    });
}

/// The coarse clock in both its forms: every request asks several times, a tick comes twenty times a
/// second.
#[derive(Clone, Copy)]
struct Coarse {
    tick: u64,
    time: Duration,
}

const NANOS_PER_SEC: u64 = 1_000_000_000;
const TICK_NANOS: u32 = TICK.subsec_nanos();
const TICKS_PER_SEC: u64 = NANOS_PER_SEC / TICK_NANOS as u64;
const _: () = assert!(TICK.as_secs() == 0 && TICKS_PER_SEC * TICK_NANOS as u64 == NANOS_PER_SEC);

thread_local! {
    static NOW: Cell<Coarse> = const { Cell::new(Coarse { tick: 0, time: Duration::ZERO }) };
}
