//! Who has guessed too often. Times come in as Unix seconds; nothing is kept on disk.
#![expect(
    clippy::disallowed_types,
    reason = "only threads that may block take the lock"
)]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Failed logins by source.
pub(super) struct Lockout(Mutex<HashMap<IpAddr, Failures>>);

/// The times of the last failures of one source, oldest first; at most [`FAILURES_MAX`].
#[derive(Default)]
struct Failures(Vec<u64>);

impl Lockout {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    /// A login of `peer` begins: counts as failed until it has succeeded.
    ///
    /// # Errors
    /// It has failed too often; in so many seconds it may try again.
    pub(super) fn begin(&self, peer: IpAddr, now: u64) -> Result<(), u32> {
        let mut sources = self.sources();
        let source = source(peer);
        if !sources.contains_key(&source) && sources.len() >= SOURCES_MAX {
            make_room(&mut sources, now);
        }
        let failures = sources.entry(source).or_default();
        failures
            .0
            .retain(|at| now.saturating_sub(*at) < WINDOW_SECS);
        match failures.0.first() {
            Some(oldest) if failures.0.len() >= FAILURES_MAX => {
                let wait = (oldest + WINDOW_SECS).saturating_sub(now).max(1);
                Err(u32::try_from(wait).unwrap_or(u32::MAX))
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
fn make_room(sources: &mut HashMap<IpAddr, Failures>, now: u64) {
    let is_over = |failures: &Failures| {
        let last = failures.0.last();
        last.is_none_or(|at| now.saturating_sub(*at) >= WINDOW_SECS)
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
const WINDOW_SECS: u64 = 15 * 60;
/// Sources that are kept apart; some 400 KiB.
const SOURCES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn five_failures_lock_a_source_out_until_the_first_is_old() {
        let lockout = Lockout::new();
        let peer = ip("192.0.2.1");
        for minute in 0..5 {
            assert_eq!(lockout.begin(peer, 1000 + 60 * minute), Ok(()));
        }
        assert_eq!(lockout.begin(peer, 1240), Err(900 - 240));
        assert_eq!(
            lockout.begin(ip("192.0.2.2"), 1240),
            Ok(()),
            "only this one"
        );
        assert_eq!(lockout.begin(peer, 1899), Err(1));
        assert_eq!(lockout.begin(peer, 1900), Ok(()));
        assert_eq!(
            lockout.begin(peer, 1900),
            Err(60),
            "the second counts still"
        );
    }

    #[test]
    fn a_success_forgets_and_what_was_not_tried_does_not_count() {
        let lockout = Lockout::new();
        let peer = ip("::1");
        for _ in 0..20 {
            assert_eq!(lockout.begin(peer, 1), Ok(()));
            lockout.take_back(peer);
        }
        for _ in 0..3 {
            for _ in 0..4 {
                assert_eq!(lockout.begin(peer, 1), Ok(()));
            }
            lockout.succeeded(peer);
        }
    }

    #[test]
    fn a_whole_ipv6_network_is_one_source_and_a_mapped_address_is_its_own() {
        let lockout = Lockout::new();
        for host in 1..=5 {
            assert_eq!(lockout.begin(ip(&format!("2001:db8::{host}")), 1), Ok(()));
        }
        assert!(lockout.begin(ip("2001:db8::ffff:1"), 1).is_err());
        assert_eq!(lockout.begin(ip("2001:db8:0:1::1"), 1), Ok(()));
        for _ in 0..5 {
            assert_eq!(lockout.begin(ip("::ffff:192.0.2.1"), 1), Ok(()));
        }
        assert!(lockout.begin(ip("192.0.2.1"), 1).is_err());
    }

    #[test]
    fn the_table_is_bounded_and_gives_up_the_oldest_first() {
        let lockout = Lockout::new();
        let peer = |number: u32| IpAddr::V4(number.into());
        for _ in 0..5 {
            lockout.begin(peer(0), 1000).unwrap();
        }
        for number in 1..=2 * SOURCES_MAX as u32 {
            lockout.begin(peer(number), 900).unwrap();
        }
        assert_eq!(lockout.sources().len(), SOURCES_MAX);
        assert!(
            lockout.begin(peer(0), 1000).is_err(),
            "the latest is still there"
        );
        lockout.begin(peer(9_999_999), 5000).unwrap();
        assert_eq!(lockout.sources().len(), 1, "all the others were over");
    }
}
