//! Signals as something to wait for: blocked in every thread, received by the main thread only.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals this process answers to, received in order.
pub(super) struct Signals {
    receiver: SignalFd,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// SIGTERM or SIGINT.
    End,
    /// SIGHUP.
    Reload,
}

impl Signals {
    /// Blocks the signals in this thread and every thread it starts from now on.
    pub(super) fn block() -> io::Result<Self> {
        let set: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
            .into_iter()
            .collect();
        set.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self {
            receiver: SignalFd::with_flags(&set, flags)?,
        })
    }

    /// Waits until the process is asked for something.
    pub(super) fn wait_for_request(&self) -> Request {
        loop {
            if let Some(request) = self.wait(PollTimeout::NONE) {
                return request;
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
                Some(Request::Reload) => {}
                None if left.is_zero() => return None,
                None => {}
            }
        }
    }

    fn wait(&self, timeout: PollTimeout) -> Option<Request> {
        let mut watched = [PollFd::new(self.receiver.as_fd(), PollFlags::POLLIN)];
        // Interrupted or timed out: then there is no signal to read.
        let _ = poll(&mut watched, timeout);
        let signal = self.receiver.read_signal().ok()??;
        match Signal::try_from(i32::try_from(signal.ssi_signo).ok()?).ok()? {
            Signal::SIGTERM | Signal::SIGINT => Some(Request::End),
            _ => Some(Request::Reload),
        }
    }
}
