//! Owns what `process_*` metrics show. Reading it is file I/O: the control thread does that,
//! workers only see the sample.

use std::fs;
use std::io;
use std::time::Duration;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeVal;

/// The state of this process at one instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProcessSample {
    /// User and system CPU time since the start.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// File descriptors that may be open (soft limit).
    pub max_fds: u64,
    /// Start of the process in seconds since the Unix epoch, to 10 ms.
    pub started_unix_seconds: f64,
}

impl ProcessSample {
    /// Reads the state of this process. Blocks on `/proc`: not for workers.
    ///
    /// # Errors
    /// When `/proc` cannot be read or does not have the form of proc(5).
    pub fn read() -> io::Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let (max_fds, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
        // Listing the directory opens one descriptor itself.
        let open_fds = (fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1);
        let status = fs::read_to_string("/proc/self/status")?;
        let stat = fs::read_to_string("/proc/self/stat")?;
        let system = fs::read_to_string("/proc/stat")?;
        Ok(Self {
            cpu: duration(usage.user_time()).saturating_add(duration(usage.system_time())),
            resident_bytes: resident_bytes(&status).ok_or_else(unexpected_form)?,
            open_fds,
            max_fds,
            started_unix_seconds: started(&stat, &system).ok_or_else(unexpected_form)?,
        })
    }
}

fn duration(time: TimeVal) -> Duration {
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let microseconds = u64::try_from(time.tv_usec()).unwrap_or(0);
    Duration::from_secs(seconds).saturating_add(Duration::from_micros(microseconds))
}

/// `VmRSS` of `/proc/PID/status`, there in units of 1024 bytes.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Field 22 of `/proc/PID/stat`, in ticks since boot, added to `btime` of `/proc/stat`.
fn started(stat: &str, system: &str) -> Option<f64> {
    // Field 2 is the command in parentheses and may itself hold spaces and parentheses; field 3
    // follows the last one.
    let (_, from_field_3) = stat.rsplit_once(')')?;
    let ticks: u32 = from_field_3
        .split_ascii_whitespace()
        .nth(22 - 3)?
        .parse()
        .ok()?;
    let boot = system
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?;
    let boot_seconds: u32 = boot.trim().parse().ok()?;
    Some(f64::from(boot_seconds) + f64::from(ticks) / TICKS_PER_SECOND)
}

fn unexpected_form() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "/proc does not have the form of proc(5)",
    )
}

/// `USER_HZ`, which Linux fixes at 100 towards user space on every architecture this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn start_time_survives_a_command_name_with_spaces_and_parentheses() {
        let fields = (4..22)
            .map(|field| field.to_string())
            .collect::<Vec<_>>()
            .join(" ");
        let stat = format!("77 (a ) (b c) S {fields} 12345 0 0\n");
        let started = started(&stat, "cpu 1 2\nbtime 1700000000\nprocesses 3\n").unwrap();
        assert!((started - 1_700_000_123.45).abs() < 1e-6, "{started}");
    }

    #[test]
    fn resident_memory_is_given_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t  900 kB\nVmRSS:\t    1234 kB\nThreads:\t1\n";
        assert_eq!(resident_bytes(status), Some(1234 * 1024));
        assert_eq!(resident_bytes("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_has_a_plausible_sample() {
        let sample = ProcessSample::read().unwrap();
        assert!(sample.resident_bytes > 1 << 20, "{sample:?}");
        assert!(
            sample.open_fds >= 3 && sample.open_fds <= sample.max_fds,
            "{sample:?}"
        );
        assert!(sample.started_unix_seconds > 1_577_836_800.0, "{sample:?}");
    }
}
