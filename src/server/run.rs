//! Serves until there is a reason to leave, then drains: what has begun is finished, nothing new begins.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::proxy::Notice;
use crate::telemetry::{Gauge, log};

use super::handover::Giver;
use super::signals::Request;
use super::{Ending, Orders, Server};

/// Why the process leaves.
#[derive(Debug, Clone, Copy)]
enum Leaving {
    /// A signal.
    Told,
    /// A worker has ended, and others shall not take its place.
    Failed,
    /// This process has taken over.
    HandedOver(u32),
}

impl Leaving {
    /// What the workers are to do.
    fn notice(self) -> Notice {
        match self {
            Self::Told | Self::Failed => Notice::CloseListeners,
            Self::HandedOver(_) => Notice::ReleaseListeners,
        }
    }
}

impl Server {
    /// Serves until a signal ends it, another process has taken over or a worker has ended, then drains.
    pub fn run(self, orders: &Orders<'_>) -> Ending {
        let leaving = loop {
            if self.losses.any() {
                break self.end(Leaving::Failed);
            }
            match self.signals.wait_for_request() {
                Request::End => break self.end(Leaving::Told),
                Request::HandedOver(process) => break Leaving::HandedOver(process),
                Request::WorkerEnded => {}
                Request::Upgrade => (orders.upgrade)(),
                Request::Reload => {
                    self.supervisor.reloading();
                    self.supervisor.ready(&(orders.reload)());
                }
            }
        };
        let mut ending = self.drain(leaving);
        if self.losses.any() {
            log::error(format_args!(
                "a worker has ended by a fault: this process has failed, and is to be started again"
            ));
            ending = Ending::Failed;
        }
        if let Some(writer) = self.access_log {
            writer.finish();
        }
        ending
    }

    /// The end has come for this reason.
    fn end(&self, reason: Leaving) -> Leaving {
        if self.giver.as_ref().is_none_or(Giver::stop) {
            self.supervisor.stopping();
            return reason;
        }
        // Another process has just taken over: its sockets must be left alone.
        match self.signals.wait_for_handover() {
            Some(process) => Leaving::HandedOver(process),
            None => reason,
        }
    }

    /// Readiness fails at once; listeners close after the announce time; exchanges get the grace
    /// time to finish. Another signal ends it where it is. Where another process accepts, there is nothing
    /// to announce, and where a worker is missing, there is no time for it.
    fn drain(&self, leaving: Leaving) -> Ending {
        let server = &self.shared.config.current().server;
        let (announce, mut signals_left) = match leaving {
            Leaving::Told => {
                log::info(format_args!(
                    "draining: closing the listeners in {:?}, then waiting up to {:?} for exchanges",
                    server.drain_announce, server.drain_grace
                ));
                (server.drain_announce, 1)
            }
            Leaving::Failed => {
                log::warn(format_args!(
                    "draining: closing the listeners, then waiting up to {:?} for exchanges",
                    server.drain_grace
                ));
                (Duration::ZERO, 1)
            }
            Leaving::HandedOver(process) => {
                log::info(format_args!(
                    "upgrade: process {process} has taken over; waiting up to {:?} for exchanges",
                    server.drain_grace
                ));
                // The first one asks for what is done already.
                (Duration::ZERO, 2)
            }
        };
        self.shared.drain.begin();
        let mut is_aborted = |until: Instant| {
            if self.signals.wait_until(until) == Some(Request::End) {
                signals_left -= 1;
            }
            signals_left == 0
        };
        if is_aborted(Instant::now() + announce) {
            return self.abort();
        }
        let mut unsent: Vec<_> = self.shared.mailboxes.iter().collect();
        let until = Instant::now() + server.drain_grace;
        loop {
            // A mailbox may be full for a moment of a storm.
            unsent.retain(|mailbox| mailbox.send(leaving.notice()).is_err());
            // Connections are counted until their last byte is out, exchanges only while they run.
            // What an accept task has taken is counted before the task ends.
            if unsent.is_empty()
                && self.accepting.load(Ordering::Acquire) == 0
                && self.gauge(Gauge::ConnectionsActive) == 0
            {
                log::info(format_args!("drained"));
                return Ending::Clean;
            }
            let look_again = (Instant::now() + DRAIN_POLL).min(until);
            if is_aborted(look_again) || Instant::now() >= until {
                return self.abort();
            }
        }
    }

    fn abort(&self) -> Ending {
        let exchange_count = self.gauge(Gauge::RequestsInFlight);
        if exchange_count == 0 {
            return Ending::Clean;
        }
        log::warn(format_args!("aborting {exchange_count} exchanges"));
        Ending::Aborted
    }

    fn gauge(&self, gauge: Gauge) -> u64 {
        self.shared
            .metrics
            .iter()
            .map(|worker| worker.gauge(gauge))
            .sum()
    }
}

/// How often a draining process looks whether it is done.
const DRAIN_POLL: Duration = Duration::from_millis(10);
