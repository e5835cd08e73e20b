//! Signals as something to wait for: blocked in every thread, received by the main thread only.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals this process answers to, received in order.
pub(super) struct Signals {
    receiver: SignalFd,
    knocks: UnixStream,
    knocker: UnixStream,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// SIGTERM or SIGINT.
    End,
    /// SIGHUP.
    Reload,
    /// SIGUSR2.
    Upgrade,
    /// No signal: the process of this number has taken over.
    HandedOver(u32),
    /// No signal: a worker has ended.
    WorkerEnded,
}

/// Tells the main thread, from another one, what has happened.
pub(super) struct Knocker(UnixStream);

impl Knocker {
    /// The process of this number has taken over.
    pub(super) fn handed_over(&self, process: u32) {
        self.knock(process);
    }

    pub(super) fn worker_ended(&self) {
        self.knock(NO_PROCESS);
    }

    fn knock(&self, process: u32) {
        // There is room, and the main thread ends with the process.
        let _ = (&self.0).write_all(&process.to_ne_bytes());
    }
}

impl Signals {
    /// Blocks the signals in this thread and every thread it starts from now on.
    pub(super) fn block() -> io::Result<Self> {
        let set: SigSet = [
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGUSR2,
        ]
        .into_iter()
        .collect();
        set.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let (knocks, knocker) = UnixStream::pair()?;
        knocks.set_nonblocking(true)?;
        Ok(Self {
            receiver: SignalFd::with_flags(&set, flags)?,
            knocks,
            knocker,
        })
    }

    /// For another thread.
    pub(super) fn knocker(&self) -> io::Result<Knocker> {
        self.knocker.try_clone().map(Knocker)
    }

    /// Waits until the process is asked for something.
    pub(super) fn wait_for_request(&self) -> Request {
        loop {
            if let Some(request) = self.wait(PollTimeout::NONE) {
                return request;
            }
        }
    }

    /// Waits for the number of the process that has taken over; it is under way.
    pub(super) fn wait_for_handover(&self) -> Option<u32> {
        let until = Instant::now() + KNOCK_PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.wait(PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Some(Request::HandedOver(process)) => return Some(process),
                None if left.is_zero() => return None,
                _ => {}
            }
        }
    }

    /// Waits until `until` for being asked to end; `None` if nobody asked. Whoever asks for something else
    /// comes too late.
    pub(super) fn wait_until(&self, until: Instant) -> Option<Request> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match self.wait(timeout) {
                Some(Request::End) => return Some(Request::End),
                None if left.is_zero() => return None,
                _ => {}
            }
        }
    }

    /// Whether an end was asked for by now. Whoever asked for something else came too early.
    pub(super) fn end_is_pending(&self) -> bool {
        while let Some(request) = self.wait(PollTimeout::ZERO) {
            if request == Request::End {
                return true;
            }
        }
        false
    }

    fn wait(&self, timeout: PollTimeout) -> Option<Request> {
        let mut watched = [
            PollFd::new(self.receiver.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.knocks.as_fd(), PollFlags::POLLIN),
        ];
        // Interrupted or timed out: then there is no signal to read.
        let _ = poll(&mut watched, timeout);
        let mut process = [0; 4];
        if (&self.knocks).read_exact(&mut process).is_ok() {
            return Some(match u32::from_ne_bytes(process) {
                NO_PROCESS => Request::WorkerEnded,
                process => Request::HandedOver(process),
            });
        }
        let signal = self.receiver.read_signal().ok()??;
        match Signal::try_from(i32::try_from(signal.ssi_signo).ok()?).ok()? {
            Signal::SIGTERM | Signal::SIGINT => Some(Request::End),
            Signal::SIGUSR2 => Some(Request::Upgrade),
            _ => Some(Request::Reload),
        }
    }
}

/// The number of no process.
const NO_PROCESS: u32 = 0;
/// How long a word of another thread of this process may take.
const KNOCK_PATIENCE: Duration = Duration::from_secs(5);
