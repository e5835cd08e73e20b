//! `llm-router serve`: composes the process from its parts.

use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use llm_router::auth::AdminPassword;
use llm_router::auth::store::StoreError;
use llm_router::config::{Config, Sources};
use llm_router::control::{self, Reloader};
use llm_router::server::{Ending, Orders, Predecessor, Server, StartError};
use llm_router::store::{self, StoreThread};

use super::options::ServeOptions;
use super::output::{fail, note, refuse, warn};
use super::successor::Successor;

/// A server, and what goes with it.
pub(super) struct Running {
    pub(super) server: Server,
    store: Option<StoreThread>,
    reloader: Option<Arc<Reloader>>,
    /// How the process that takes over is started; nobody takes over from a demo.
    successor: Option<Successor>,
}

/// Why the router does not run.
pub(super) enum StartFailure {
    /// It is not to run like this: starting it again changes nothing.
    Configuration(String),
    /// The system refused something, perhaps only for now.
    System(String),
}

/// Runs the router until it is told to stop.
pub(crate) fn serve(options: &ServeOptions) -> ExitCode {
    let successor = Successor::of_process();
    let mut sources = options.config.sources();
    let mut loaded = match sources.load() {
        Ok(loaded) => loaded,
        Err(problems) => return refuse(problems),
    };
    // A file that was there and is gone is no configuration of defaults, but a mistake.
    sources.file = loaded.file;
    let mut predecessor = None;
    if options.upgrade {
        predecessor = match Predecessor::meet(&loaded.config.server) {
            Ok(process) => Some(process),
            Err(reason) => return refuse(reason),
        };
        // What that process has read last counts; it reads nothing more.
        loaded = match sources.load() {
            Ok(loaded) => loaded,
            Err(problems) => return refuse(problems),
        };
    }
    warn(&loaded.warnings);
    match start(loaded.config, Some(sources), predecessor) {
        Ok(running) => Running {
            successor: Some(successor),
            ..running
        }
        .run(),
        Err(failure) => failure.report(),
    }
}

/// Starts the server with its store and control threads.
///
/// # Errors
/// What to tell the operator.
pub(super) fn start(
    mut config: Config,
    sources: Option<Sources>,
    predecessor: Option<Predecessor>,
) -> Result<Running, StartFailure> {
    seal(&mut config).map_err(StartFailure::System)?;
    let loaded = control::load_keys(&config);
    let (key_file, keys) = loaded.map_err(|error| StartFailure::of_keys(&error))?;
    let data_dir = config.server.data_dir.clone();
    let nodes_patience = config.health.probe_timeout + NODES_MARGIN;
    let is_upgrade = predecessor.is_some();
    let mut store_thread = None;
    let mut reloader = None;
    let server = Server::start(config, keys, predecessor, |shared, inbox| {
        let history = Arc::clone(&shared.history);
        let (store, thread) = store::start(data_dir, history, Arc::clone(&shared.store))?;
        store_thread = Some(thread);
        let control = control::start(shared, key_file, sources, store, inbox)?;
        // Until then the process before serves, and knows its nodes.
        if is_upgrade && !control.wait_for_nodes(nodes_patience) {
            note("warning: some nodes have not answered yet; taking over all the same");
        }
        reloader = Some(control.reloader);
        Ok(())
    })
    .map_err(StartFailure::of)?;
    Ok(Running {
        server,
        store: store_thread,
        reloader,
        successor: None,
    })
}

impl StartFailure {
    fn of(error: StartError) -> Self {
        match error {
            StartError::Config(_) => Self::Configuration(error.to_string()),
            StartError::System { .. } => Self::System(error.to_string()),
        }
    }

    fn of_keys(error: &StoreError) -> Self {
        match error {
            StoreError::Io { .. } => Self::System(error.to_string()),
            _ => Self::Configuration(error.to_string()),
        }
    }

    fn report(&self) -> ExitCode {
        match self {
            Self::Configuration(words) => refuse(words),
            Self::System(words) => fail(words),
        }
    }
}

impl fmt::Display for StartFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Configuration(words) | Self::System(words)) = self;
        formatter.write_str(words)
    }
}

/// Hashes the password. That of the sessions there are gets its hash of before, so that they stay.
fn seal(config: &mut Config) -> Result<(), String> {
    let earlier = store::last_session_password(&config.server.data_dir);
    let earlier = earlier.and_then(|hash| AdminPassword::of_hash(&hash));
    config.seal(earlier.as_ref()).map_err(ToOwned::to_owned)
}

impl Running {
    /// Serves until a signal ends it or another process has taken over, then writes what is still to be
    /// written.
    pub(super) fn run(self) -> ExitCode {
        let ending = self.server.run(&Orders {
            reload: &|| reload(self.reloader.as_deref()),
            upgrade: &|| match &self.successor {
                Some(successor) => successor.start(),
                None => note("warning: a demo cannot be upgraded"),
            },
        });
        if let Some(store) = self.store {
            store.finish();
        }
        exit_code(ending)
    }
}

/// Reads the configuration again; what came of it, for the supervisor. The log tells more.
fn reload(reloader: Option<&Reloader>) -> String {
    match reloader.map(Reloader::reload) {
        Some(Ok(reloaded)) => reloaded.to_string(),
        Some(Err(_)) | None => "the last reload was refused; the log says why".to_owned(),
    }
}

/// The exit codes of spec section 1.
fn exit_code(ending: Ending) -> ExitCode {
    match ending {
        Ending::Clean => ExitCode::SUCCESS,
        Ending::Aborted => ExitCode::from(DRAIN_ABORTED),
        // As at the start: whoever started it may try again.
        Ending::Failed => ExitCode::FAILURE,
    }
}

/// Draining had to abort exchanges.
const DRAIN_ABORTED: u8 = 3;
/// What is left of the time for a node to answer once a probe has run out of its own.
const NODES_MARGIN: Duration = Duration::from_secs(2);
