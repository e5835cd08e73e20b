//! Choosing and starting the I/O driver: io_uring with the best set-up flags the kernel takes, else epoll.
//!
//! monoio falls back by itself only on missing opcodes, not on set-up flags a kernel does not know, so
//! each flag set is probed here once per process before any worker builds its ring.

use std::fmt;
use std::future::Future;
use std::io;
use std::time::Instant;

use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

use super::{clock, deadline, next_tick, task};

/// What the operator asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// io_uring if the kernel allows it, else epoll.
    Auto,
    /// io_uring or a start-up error.
    IoUring,
    /// epoll.
    Epoll,
}

/// A driver this machine can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// SINGLE_ISSUER + DEFER_TASKRUN (Linux 6.1): completions are reaped when the worker asks.
    IoUringDeferred,
    /// COOP_TASKRUN (Linux 5.19): no interrupts of the worker for completions.
    IoUringCooperative,
    /// No set-up flags.
    IoUringPlain,
    /// epoll, where io_uring is missing or forbidden (container seccomp profiles).
    Epoll,
}

impl Driver {
    /// The name in logs and in `llm_router_build_info{io_driver}`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IoUringDeferred => "io_uring+single_issuer+defer_taskrun",
            Self::IoUringCooperative => "io_uring+coop_taskrun",
            Self::IoUringPlain => "io_uring",
            Self::Epoll => "epoll",
        }
    }

    fn ring(self) -> Option<io_uring::Builder> {
        let mut builder = io_uring::IoUring::builder();
        builder.setup_clamp();
        match self {
            Self::IoUringDeferred => builder.setup_single_issuer().setup_defer_taskrun(),
            Self::IoUringCooperative => builder.setup_coop_taskrun(),
            Self::IoUringPlain => &mut builder,
            Self::Epoll => return None,
        };
        Some(builder)
    }

    fn probe(self) -> io::Result<()> {
        match self.ring() {
            Some(builder) => builder.build(PROBE_ENTRIES).map(drop),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The driver that was chosen and why the better ones were not.
#[derive(Debug, Clone)]
pub struct DriverChoice {
    /// Runs on every worker of the process.
    pub driver: Driver,
    /// One clause for the log.
    pub reason: String,
}

/// Probes the drivers from best to worst and takes the first that works.
///
/// # Errors
/// The last probe's error when io_uring was demanded and no flag set works.
pub fn choose(preference: Preference) -> io::Result<DriverChoice> {
    choose_by(preference, Driver::probe)
}

fn choose_by(
    preference: Preference,
    probe: impl Fn(Driver) -> io::Result<()>,
) -> io::Result<DriverChoice> {
    let candidates: &[Driver] = match preference {
        Preference::Epoll => &[Driver::Epoll],
        Preference::Auto => &ALL,
        Preference::IoUring => &ALL[..3],
    };
    let mut refused = Vec::new();
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for driver in candidates {
        match probe(*driver) {
            Ok(()) if preference == Preference::Epoll => {
                return Ok(DriverChoice {
                    driver: *driver,
                    reason: "asked for".into(),
                });
            }
            Ok(()) if refused.is_empty() => {
                return Ok(DriverChoice {
                    driver: *driver,
                    reason: "the kernel takes it".into(),
                });
            }
            Ok(()) => {
                return Ok(DriverChoice {
                    driver: *driver,
                    reason: refused.join("; "),
                });
            }
            Err(error) => {
                refused.push(format!("{driver}: {error}"));
                last = error;
            }
        }
    }
    Err(io::Error::new(
        last.kind(),
        format!("io_uring is not usable ({})", refused.join("; ")),
    ))
}

/// Runs `main` to its end on this thread with `driver`, together with the thread's deadline sweep.
///
/// Call it once per thread and let the process end afterwards: monoio leaks the tasks that are still
/// parked when a runtime is dropped.
///
/// # Errors
/// When the ring or the epoll instance cannot be created (descriptors, memory, permissions).
pub fn block_on<F: Future>(driver: Driver, main: F) -> io::Result<F::Output> {
    let main = async {
        task::spawn(sweep_forever());
        main.await
    };
    match driver.ring() {
        Some(mut builder) => {
            builder.setup_cqsize(RING_ENTRIES * 4);
            let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
                .uring_builder(builder)
                .with_entries(RING_ENTRIES)
                .enable_timer()
                .build()?;
            Ok(runtime.block_on(main))
        }
        None => {
            let mut runtime = RuntimeBuilder::<LegacyDriver>::new()
                .with_entries(RING_ENTRIES)
                .enable_timer()
                .build()?;
            Ok(runtime.block_on(main))
        }
    }
}

async fn sweep_forever() {
    let began = Instant::now();
    loop {
        task::sleep(clock::TICK).await;
        clock::advance(began);
        deadline::sweep();
        next_tick::wake_all();
    }
}

const ALL: [Driver; 4] = [
    Driver::IoUringDeferred,
    Driver::IoUringCooperative,
    Driver::IoUringPlain,
    Driver::Epoll,
];
const PROBE_ENTRIES: u32 = 8;
/// Submission queue entries of a worker's ring; the completion queue holds four times as many.
const RING_ENTRIES: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that takes only these drivers.
    fn kernel(takes: &'static [Driver]) -> impl Fn(Driver) -> io::Result<()> {
        move |driver| match takes.contains(&driver) {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    #[test]
    fn the_best_driver_the_kernel_takes_is_chosen_and_the_refusals_are_told() {
        let all = ALL;
        for (index, best) in all.into_iter().enumerate() {
            let takes: &'static [Driver] = match index {
                0 => &ALL,
                1 => &[
                    Driver::IoUringCooperative,
                    Driver::IoUringPlain,
                    Driver::Epoll,
                ],
                2 => &[Driver::IoUringPlain, Driver::Epoll],
                _ => &[Driver::Epoll],
            };
            let choice = choose_by(Preference::Auto, kernel(takes)).unwrap();
            assert_eq!(choice.driver, best);
            for refused in &all[..index] {
                assert!(choice.reason.contains(refused.name()), "{}", choice.reason);
            }
        }
    }

    #[test]
    fn demanding_io_uring_where_there_is_none_is_an_error_that_says_why() {
        let error = choose_by(Preference::IoUring, kernel(&[Driver::Epoll])).unwrap_err();
        assert!(
            error.to_string().contains("io_uring is not usable"),
            "{error}"
        );
        assert!(
            error.to_string().contains(Driver::IoUringPlain.name()),
            "{error}"
        );
    }

    #[test]
    fn asking_for_epoll_probes_nothing_else() {
        let choice = choose_by(Preference::Epoll, kernel(&[Driver::Epoll])).unwrap();
        assert_eq!(choice.driver, Driver::Epoll);
    }
}
