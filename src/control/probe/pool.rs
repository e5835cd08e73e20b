//! The threads that probe: as many as there are probes to wait for, within a bound, and none when there is
//! nothing to do. A probe never waits behind another one's dead node as long as the bound is not reached.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::{Outcome, Probe, carry_out};
use crate::telemetry::log;

/// The threads that probe, seen from the one that asks them.
pub(in crate::control) struct Probers {
    /// Without room: a probe is handed to a thread that waits for one, or to nobody.
    hand_over: Sender<Probe>,
    waiting: Receiver<Probe>,
    results: Sender<Outcome>,
    outcomes: Receiver<Outcome>,
    running: Arc<AtomicUsize>,
}

/// A thread that counts as running.
struct Running(Arc<AtomicUsize>);

impl Probers {
    pub(in crate::control) fn new() -> Self {
        let (hand_over, waiting) = bounded(0);
        let (results, outcomes) = bounded(PROBERS_MAX);
        Self {
            hand_over,
            waiting,
            results,
            outcomes,
            running: Arc::default(),
        }
    }

    /// Hands a probe over; false when all threads are busy: it is then asked for again.
    pub(in crate::control) fn request(&self, probe: Probe) -> bool {
        let probe = match self.hand_over.try_send(probe) {
            Ok(()) => return true,
            Err(TrySendError::Full(probe) | TrySendError::Disconnected(probe)) => probe,
        };
        // Only this thread starts others, so the count cannot pass the bound in between.
        if self.running.load(Ordering::Acquire) >= PROBERS_MAX {
            return false;
        }
        let started = self.start(probe);
        if let Err(error) = &started {
            log::debug(format_args!("cannot start a thread for a probe: {error}"));
        }
        started.is_ok()
    }

    pub(in crate::control) fn outcomes(&self) -> &Receiver<Outcome> {
        &self.outcomes
    }

    fn start(&self, first: Probe) -> io::Result<()> {
        let running = Running::new(&self.running);
        let (waiting, results) = (self.waiting.clone(), self.results.clone());
        let thread = thread::Builder::new()
            .name("probe".to_owned())
            .stack_size(STACK_BYTES);
        thread
            .spawn(move || {
                let _running = running;
                let mut next = Some(first);
                while let Some(probe) = next {
                    if results.send(carry_out(probe)).is_err() {
                        return;
                    }
                    next = waiting.recv_timeout(IDLE_MAX).ok();
                }
            })
            .map(drop)
    }
}

impl Running {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Threads at most. A thousand nodes that swallow every packet are found out within two rounds of four
/// time limits each.
pub(in crate::control) const PROBERS_MAX: usize = 256;
/// How long a thread waits for its next probe; longer than the default interval, so that a steady number of
/// nodes keeps its threads.
const IDLE_MAX: Duration = Duration::from_secs(15);
/// A resolver needs some; the rest of a probe little.
const STACK_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use super::super::tests::probe_of;
    use super::*;

    #[test]
    fn dead_nodes_delay_neither_one_another_nor_the_living() {
        // They accept, by way of the backlog, and never answer.
        let dead: Vec<TcpListener> = (0..20)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let probers = Probers::new();
        let began = Instant::now();
        for socket in &dead {
            assert!(probers.request(probe_of(socket.local_addr().unwrap(), true)));
        }
        let refusing = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let refused = Probe {
            serial: 8,
            ..probe_of(refusing, true)
        };
        assert!(probers.request(refused));
        let first = probers.outcomes().recv().unwrap();
        assert_eq!(first.serial, 8);
        for _ in &dead {
            assert!(probers.outcomes().recv().unwrap().answer.is_err());
        }
        // All waited at the same time: one after the other would take twenty time limits.
        assert!(began.elapsed() < 10 * super::super::tests::TIMEOUT);
        assert!(probers.running.load(Ordering::Acquire) <= 21);
    }

    #[test]
    fn a_full_pool_says_so_and_takes_probes_again_once_one_has_come_out() {
        let dead = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = dead.local_addr().unwrap();
        let probers = Probers::new();
        let mut accepted = 0;
        while probers.request(probe_of(address, true)) {
            accepted += 1;
            assert!(accepted <= PROBERS_MAX);
        }
        assert_eq!(accepted, PROBERS_MAX);
        for _ in 0..PROBERS_MAX {
            probers.outcomes().recv().unwrap();
        }
        let until = Instant::now() + Duration::from_secs(10);
        while !probers.request(probe_of(address, true)) {
            assert!(Instant::now() < until, "no thread became free");
            thread::yield_now();
        }
    }
}
