//! The scheduling priority of threads that must not get in the way of workers.

use std::io;

/// Lets the calling thread yield to all others that want the same core. Workers stay ahead of it, but
/// it is not starved.
///
/// # Errors
/// When the system refuses.
pub fn lower_priority() -> io::Result<()> {
    // SAFETY: plain numbers go in, none of our memory is touched. On Linux a `who` of 0 means the
    // calling thread, not the process.
    #[allow(unsafe_code, reason = "nix has no setpriority")]
    let outcome = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// About a tenth of the share that a thread of normal priority gets of a contended core.
const NICENESS: i32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_calling_thread_is_lowered() {
        let niceness = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let fields = stat.rsplit_once(')').unwrap().1.to_owned();
            fields
                .split_whitespace()
                .nth(16)
                .unwrap()
                .parse::<i32>()
                .unwrap()
        };
        let before = niceness();
        let lowered = std::thread::spawn(move || {
            lower_priority().unwrap();
            niceness()
        });
        assert_eq!(lowered.join().unwrap(), NICENESS);
        assert_eq!(niceness(), before);
    }
}
