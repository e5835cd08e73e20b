//! Brings the process up, each part once what it needs is there: sockets, what all share, the control threads,
//! the workers; connections are accepted last.

use std::io;
use std::sync::Arc;

use crate::auth::key::KeySet;
use crate::config::{self, AccessLog as AccessLogTarget, Config, IoDriver};
use crate::proxy::{self, ControlInbox, Shared};
use crate::runtime::{self, Driver, Preference};
use crate::telemetry::{AccessLog, AccessLogWriter, log};

use super::crew::{open_listeners, start_workers};
use super::handover::{Giver, Offer};
use super::shared::Base;
use super::signals::Signals;
use super::sockets::Sockets;
use super::supervisor::Supervisor;
use super::worker::Losses;
use super::{Arrival, Predecessor, Server, StartError, limits, system};

impl Server {
    /// Starts the workers and listens: on sockets of its own, or on those of `predecessor`. Call it before any
    /// other thread is started: it blocks the signals it waits for. `start_control` starts the threads that may
    /// block; they are given what they publish to and what the workers send them. Connections are accepted only
    /// once it has returned.
    ///
    /// # Errors
    /// [`StartError`]; threads that were started already end with the process.
    pub fn start(
        config: Config,
        keys: KeySet,
        predecessor: Option<Predecessor>,
        start_control: impl FnOnce(Arc<Shared>, ControlInbox) -> io::Result<()>,
    ) -> Result<Self, StartError> {
        proxy::apply_log_level(&config);
        let signals = Signals::block().map_err(system("block signals"))?;
        let driver = choose_driver(config.server.io_driver)?;
        config::fail_closed(&config, !keys.is_empty())
            .map_err(|problem| StartError::Config(problem.to_string()))?;
        let worker_count = limits::worker_count(config.server.workers);
        let connection_count_max = limits::raise_and_derive(config.server.max_connections)
            .map_err(system("read the limit of open files"))?;
        let arrival = match &predecessor {
            Some(_) => Arrival::Upgrade,
            None => Arrival::First,
        };
        let mut sockets = Sockets::of(predecessor, &config, worker_count)?;
        let (access_log, access_log_writer) = start_access_log(&config.log.access)
            .map_err(system("open the access log"))?
            .unzip();
        let base = Base {
            address: sockets.address,
            driver,
            worker_count,
            access_log,
        };
        let (shared, control_inbox, inboxes) = base
            .shared(config, keys)
            .map_err(system("make what the workers share"))?;
        start_control(Arc::clone(&shared), control_inbox)
            .map_err(system("start the control threads"))?;
        let accepting = Arc::default();
        let knocker = signals.knocker().map_err(system("start a worker"))?;
        let losses = Arc::new(Losses::new(knocker));
        let seats = inboxes.into_iter().zip(sockets.shares(worker_count)?);
        let seats = seats.collect();
        let workers = start_workers(&shared, seats, connection_count_max, &accepting, &losses)?;
        if arrival == Arrival::Upgrade && signals.end_is_pending() {
            // The process before goes on; had it left by now, nobody would serve.
            return Err(StartError::Config(ENDED_EARLY.to_owned()));
        }
        sockets.succeed()?;
        open_listeners(&shared, &workers)?;
        let address = sockets.address;
        log::info(format_args!(
            "listening on {address} with {worker_count} workers, at most {connection_count_max} \
             connections"
        ));
        let supervisor = Arc::new(Supervisor::of_environment());
        let giver = offer(&shared, sockets, arrival, &signals, &supervisor);
        supervisor.ready(&format!("listening on {address}"));
        Ok(Self {
            address,
            shared,
            accepting,
            losses,
            signals,
            supervisor,
            giver,
            access_log: access_log_writer,
        })
    }
}

/// Lets another process take over, from now on. A router that cannot be upgraded serves all the same.
fn offer(
    shared: &Shared,
    sockets: Sockets,
    arrival: Arrival,
    signals: &Signals,
    supervisor: &Arc<Supervisor>,
) -> Option<Giver> {
    let config = shared.config.current();
    let directory = &config.server.data_dir;
    let offer = Offer {
        directory: directory.clone(),
        host: config.server.host,
        port: config.server.port,
        address: sockets.address,
        listeners: sockets.listeners,
    };
    let supervisor = Arc::clone(supervisor);
    let giver = signals.knocker().and_then(|knocker| {
        let announce = move |process| supervisor.successor(process);
        let changes = Arc::clone(&shared.changes);
        Giver::start(offer, arrival, changes, announce, move |process| {
            knocker.handed_over(process);
        })
    });
    let reason = match giver {
        Ok(giver) => return Some(giver),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            "another router runs on it".to_owned()
        }
        Err(error) => error.to_string(),
    };
    log::warn(format_args!(
        "this process cannot hand over to another one in the data directory {}: {reason}",
        directory.display()
    ));
    None
}

fn choose_driver(wanted: IoDriver) -> Result<Driver, StartError> {
    let preference = match wanted {
        IoDriver::Auto => Preference::Auto,
        IoDriver::IoUring => Preference::IoUring,
        IoDriver::Epoll => Preference::Epoll,
    };
    let choice = runtime::choose(preference).map_err(system("use the I/O driver"))?;
    log::info(format_args!(
        "I/O driver: {} ({})",
        choice.driver, choice.reason
    ));
    Ok(choice.driver)
}

fn start_access_log(target: &AccessLogTarget) -> io::Result<Option<(AccessLog, AccessLogWriter)>> {
    let started = match target {
        AccessLogTarget::Off => return Ok(None),
        AccessLogTarget::Stdout => AccessLog::start(io::stdout(), ACCESS_RECORDS_MAX),
        AccessLogTarget::Stderr => AccessLog::start(io::stderr(), ACCESS_RECORDS_MAX),
        AccessLogTarget::File(path) => {
            let file = std::fs::File::options()
                .create(true)
                .append(true)
                .open(path)?;
            AccessLog::start(file, ACCESS_RECORDS_MAX)
        }
    };
    started.map(Some)
}

/// Access records that may wait for the writing thread; more are dropped and counted.
const ACCESS_RECORDS_MAX: usize = 16 * 1024;
const ENDED_EARLY: &str = "it was told to end before it had taken over";
