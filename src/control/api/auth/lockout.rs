//! Who has guessed too often. Times come in, of a clock that never steps: whoever set the wall clock forward
//! would let a guesser in, and setting it back would lock an operator out. Nothing is kept on disk.
#![expect(
    clippy::disallowed_types,
    reason = "only threads that may block take the lock"
)]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failed logins by source.
pub(super) struct Lockout(Mutex<HashMap<IpAddr, Failures>>);

/// The times of the last failures of one source, oldest first; at most [`FAILURES_MAX`].
#[derive(Default)]
struct Failures(Vec<Instant>);

impl Lockout {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    /// A login of `peer` begins: counts as failed until it has succeeded.
    ///
    /// # Errors
    /// It has failed too often; in so many seconds it may try again.
    pub(super) fn begin(&self, peer: IpAddr, now: Instant) -> Result<(), u32> {
        let mut sources = self.sources();
        let source = source(peer);
        if !sources.contains_key(&source) && sources.len() >= SOURCES_MAX {
            make_room(&mut sources, now);
        }
        let failures = sources.entry(source).or_default();
        failures
            .0
            .retain(|at| now.saturating_duration_since(*at) < WINDOW);
        match failures.0.first() {
            Some(oldest) if failures.0.len() >= FAILURES_MAX => {
                let wait = (*oldest + WINDOW).saturating_duration_since(now);
                // Whoever comes back after so many whole seconds comes late enough.
                let secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                Err(u32::try_from(secs.max(1)).unwrap_or(u32::MAX))
            }
            _ => {
                failures.0.push(now);
                Ok(())
            }
        }
    }

    /// It has succeeded: what came before is forgotten.
    pub(super) fn succeeded(&self, peer: IpAddr) {
        self.sources().remove(&source(peer));
    }

    /// It was not even tried.
    pub(super) fn take_back(&self, peer: IpAddr) {
        if let Some(failures) = self.sources().get_mut(&source(peer)) {
            failures.0.pop();
        }
    }

    fn sources(&self) -> MutexGuard<'_, HashMap<IpAddr, Failures>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets what is over; if nothing is, the source that has failed least lately.
fn make_room(sources: &mut HashMap<IpAddr, Failures>, now: Instant) {
    let is_over = |failures: &Failures| {
        let last = failures.0.last();
        last.is_none_or(|at| now.saturating_duration_since(*at) >= WINDOW)
    };
    sources.retain(|_, failures| !is_over(failures));
    if sources.len() >= SOURCES_MAX {
        let least = sources.iter().min_by_key(|(_, failures)| failures.0.last());
        if let Some(source) = least.map(|(source, _)| *source) {
            sources.remove(&source);
        }
    }
}

/// Whoever has one IPv6 address has all of its /64.
fn source(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// Failures after which a source must wait.
const FAILURES_MAX: usize = 5;
/// How long a failure counts.
const WINDOW: Duration = Duration::from_secs(15 * 60);
/// Sources that are kept apart; some 400 KiB.
const SOURCES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A clock that stands still until it is told how late it is.
    struct Clock(Instant);

    impl Clock {
        fn new() -> Self {
            Self(Instant::now())
        }

        fn at(&self, secs: f64) -> Instant {
            self.0 + Duration::from_secs_f64(secs)
        }
    }

    #[test]
    fn five_failures_lock_a_source_out_until_the_first_is_old() {
        let (lockout, clock) = (Lockout::new(), Clock::new());
        let peer = ip("192.0.2.1");
        for minute in 0..5 {
            assert_eq!(
                lockout.begin(peer, clock.at(60.0 * f64::from(minute))),
                Ok(())
            );
        }
        assert_eq!(lockout.begin(peer, clock.at(240.0)), Err(900 - 240));
        assert_eq!(
            lockout.begin(ip("192.0.2.2"), clock.at(240.0)),
            Ok(()),
            "only this one"
        );
        for (at, wait) in [(240.5, 660), (898.0, 2), (898.5, 2), (899.0, 1), (899.9, 1)] {
            assert_eq!(lockout.begin(peer, clock.at(at)), Err(wait), "{at}");
        }
        assert_eq!(lockout.begin(peer, clock.at(900.0)), Ok(()));
        assert_eq!(
            lockout.begin(peer, clock.at(900.0)),
            Err(60),
            "the second counts still"
        );
    }

    #[test]
    fn a_thread_that_read_the_clock_before_another_one_is_no_surprise() {
        let (lockout, clock) = (Lockout::new(), Clock::new());
        let peer = ip("192.0.2.1");
        for at in [10.0, 10.0, 10.0, 10.0, 9.0] {
            assert_eq!(lockout.begin(peer, clock.at(at)), Ok(()));
        }
        assert_eq!(lockout.begin(peer, clock.at(8.0)), Err(902));
        assert_eq!(lockout.begin(peer, clock.at(908.0)), Err(2));
        assert_eq!(lockout.begin(peer, clock.at(909.0)), Ok(()));
    }

    #[test]
    fn a_success_forgets_and_what_was_not_tried_does_not_count() {
        let lockout = Lockout::new();
        let (peer, now) = (ip("::1"), Clock::new().at(0.0));
        for _ in 0..20 {
            assert_eq!(lockout.begin(peer, now), Ok(()));
            lockout.take_back(peer);
        }
        for _ in 0..3 {
            for _ in 0..4 {
                assert_eq!(lockout.begin(peer, now), Ok(()));
            }
            lockout.succeeded(peer);
        }
    }

    #[test]
    fn a_whole_ipv6_network_is_one_source_and_a_mapped_address_is_its_own() {
        let (lockout, now) = (Lockout::new(), Clock::new().at(0.0));
        for host in 1..=5 {
            assert_eq!(lockout.begin(ip(&format!("2001:db8::{host}")), now), Ok(()));
        }
        assert!(lockout.begin(ip("2001:db8::ffff:1"), now).is_err());
        assert_eq!(lockout.begin(ip("2001:db8:0:1::1"), now), Ok(()));
        for _ in 0..5 {
            assert_eq!(lockout.begin(ip("::ffff:192.0.2.1"), now), Ok(()));
        }
        assert!(lockout.begin(ip("192.0.2.1"), now).is_err());
    }

    #[test]
    fn the_table_is_bounded_and_gives_up_the_oldest_first() {
        let (lockout, clock) = (Lockout::new(), Clock::new());
        let peer = |number: u32| IpAddr::V4(number.into());
        for _ in 0..5 {
            lockout.begin(peer(0), clock.at(100.0)).unwrap();
        }
        for number in 1..=2 * SOURCES_MAX as u32 {
            lockout.begin(peer(number), clock.at(0.0)).unwrap();
        }
        assert_eq!(lockout.sources().len(), SOURCES_MAX);
        assert!(
            lockout.begin(peer(0), clock.at(100.0)).is_err(),
            "the latest is still there"
        );
        lockout.begin(peer(9_999_999), clock.at(4100.0)).unwrap();
        assert_eq!(lockout.sources().len(), 1, "all the others were over");
    }
}
