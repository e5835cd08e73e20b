//! What the machine allows: cores and open files.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

/// The worker count for a configured one; 0 is one per core this process may use, by affinity and
/// by the processor quota of its control group.
pub(super) fn worker_count(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
}

/// The cores this process may run on, in order.
pub(super) fn available_cores() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count())
        .filter(|core| allowed.is_set(*core).unwrap_or(false))
        .collect()
}

/// Raises the limit of open files as far as the process may, and derives how many client connections
/// fit in: each may need a connection to a node as well.
///
/// # Errors
/// When the limit cannot be read.
pub(super) fn raise_and_derive(configured_max: usize) -> io::Result<u32> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let open_files_max = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    let derived = connections_within(open_files_max);
    Ok(match u32::try_from(configured_max) {
        Ok(0) => derived,
        Ok(configured) => configured.min(derived),
        Err(_) => derived,
    })
}

fn connections_within(open_files_max: u64) -> u32 {
    let reserved = RESERVED_FILES.min(open_files_max / 2);
    let connections = (open_files_max - reserved) / 2;
    u32::try_from(connections)
        .unwrap_or(u32::MAX)
        .clamp(1, CONNECTIONS_MAX)
}

/// Descriptors kept for rings, listeners, files, probes and idle connections.
const RESERVED_FILES: u64 = 256;
const CONNECTIONS_MAX: u32 = 50_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_unreserved_files_are_for_clients() {
        assert_eq!(connections_within(1024), 384);
        assert_eq!(connections_within(128), 32);
        assert_eq!(connections_within(2), 1);
        assert_eq!(connections_within(u64::MAX), CONNECTIONS_MAX);
    }

    #[test]
    fn zero_workers_means_one_per_core() {
        assert!(worker_count(0) >= 1);
        assert_eq!(worker_count(3), 3);
        assert!(!available_cores().is_empty());
    }
}
