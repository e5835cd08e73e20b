//! The process: worker threads, listeners, signals, drain. All its threads are told of in the crate's own
//! documentation; this module starts the workers, the hand-over and the access log, and waits on the main
//! thread.
//!
//! Here is what others see of it; `start` brings the parts up in order, `shared` makes what they have in common,
//! `crew` starts the workers, and `run` serves until the end and drains.

mod crew;
mod handover;
mod limits;
mod run;
mod shared;
mod signals;
mod sockets;
mod start;
mod supervisor;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use crate::config::ServerConfig;
use crate::proxy::Shared;
use crate::telemetry::AccessLogWriter;

use handover::{Giver, Taken};
use signals::Signals;
use supervisor::Supervisor;
use worker::Losses;

/// Blocks the signals a server waits for, in this thread and every thread it starts from now on. Only
/// needed when other threads are started before [`Server::start`], which does it too.
///
/// # Errors
/// When the system refuses.
pub fn block_signals() -> io::Result<()> {
    Signals::block().map(drop)
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Every exchange that had begun was finished.
    Clean,
    /// Exchanges had to be aborted: the grace period was over, or a second signal came.
    Aborted,
    /// A worker had ended by a fault, and what it was serving with it. The router is to be started again.
    Failed,
}

/// Why the server could not start.
#[derive(Debug)]
pub enum StartError {
    /// A setting that only shows at start to be wrong.
    Config(String),
    /// The system refused something.
    System {
        /// What was being done, as in "cannot … ".
        action: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Where the process gets its listening sockets from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    /// It binds them.
    First,
    /// From the process that runs on its data directory, which it succeeds.
    Upgrade,
}

/// The process that runs on a data directory. It has given its listening sockets, and makes no change of nodes
/// or configuration until this process has taken over or has gone.
pub struct Predecessor(Taken);

impl Predecessor {
    /// Asks it for its sockets. The configuration is to be read again afterwards: only from now on it stays as
    /// that process knows it.
    ///
    /// # Errors
    /// When there is none, or when it does not hand over.
    pub fn meet(server: &ServerConfig) -> Result<Self, StartError> {
        handover::take(&server.data_dir, server.host, server.port)
            .map(Self)
            .map_err(StartError::Config)
    }
}

/// What signals other than those that end the process ask for; called on the thread that runs the server.
pub struct Orders<'o> {
    /// Read the configuration again, and say in a few words what came of it.
    pub reload: &'o dyn Fn() -> String,
    /// Start the process that is to take over.
    pub upgrade: &'o dyn Fn(),
}

/// A router that accepts connections.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Accept tasks that run, of all workers.
    accepting: Arc<AtomicUsize>,
    losses: Arc<Losses>,
    signals: Signals,
    supervisor: Arc<Supervisor>,
    /// Waits for a process that takes over, where that is possible.
    giver: Option<Giver>,
    access_log: Option<AccessLogWriter>,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until a node is online; false if none is after `limit`.
    pub fn wait_until_ready(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        loop {
            if self.shared.directory.snapshot().has_online_node() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::park_timeout(READY_POLL);
        }
    }
}

fn system(action: &str) -> impl FnOnce(io::Error) -> StartError {
    let action = action.to_owned();
    move |source| StartError::System { action, source }
}

impl std::fmt::Display for StartError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Config(problem) => formatter.write_str(problem),
            Self::System { action, source } => write!(formatter, "cannot {action}: {source}"),
        }
    }
}

impl std::error::Error for StartError {}

/// How often a starting process looks whether a node is online.
const READY_POLL: Duration = Duration::from_millis(10);
