//! `llm-router serve`: composes the process from its parts.

use std::process::ExitCode;
use std::sync::Arc;

use llm_router::config::{Config, Sources};
use llm_router::control::{self, Reloader};
use llm_router::server::{Ending, Server};
use llm_router::store::{self, StoreThread};

use super::options::ConfigOptions;
use super::output::{refuse, warn};

/// A server, and the threads that end after it.
pub(super) struct Running {
    pub(super) server: Server,
    store: Option<StoreThread>,
    reloader: Option<Arc<Reloader>>,
}

/// Runs the router until it is told to stop.
pub(crate) fn serve(options: &ConfigOptions) -> ExitCode {
    let mut sources = options.sources();
    let loaded = match sources.load() {
        Ok(loaded) => loaded,
        Err(problems) => return refuse(problems),
    };
    warn(&loaded.warnings);
    // A file that was there and is gone is no configuration of defaults, but a mistake.
    sources.file = loaded.file;
    match start(loaded.config, Some(sources)) {
        Ok(running) => running.run(),
        Err(reason) => refuse(reason),
    }
}

/// Starts the server with its store and control threads.
///
/// # Errors
/// What to tell the operator.
pub(super) fn start(mut config: Config, sources: Option<Sources>) -> Result<Running, String> {
    config.seal(None).map_err(ToOwned::to_owned)?;
    let (key_file, keys) = control::load_keys(&config).map_err(|error| error.to_string())?;
    let data_dir = config.server.data_dir.clone();
    let mut store_thread = None;
    let mut reloader = None;
    let server = Server::start(config, keys, |shared, inbox| {
        let history = Arc::clone(&shared.history);
        let (store, thread) = store::start(data_dir, history, Arc::clone(&shared.store))?;
        store_thread = Some(thread);
        reloader = Some(control::start(shared, key_file, sources, store, inbox)?);
        Ok(())
    })
    .map_err(|error| error.to_string())?;
    Ok(Running {
        server,
        store: store_thread,
        reloader,
    })
}

impl Running {
    /// Serves until a signal ends it, then writes what is still to be written.
    pub(super) fn run(self) -> ExitCode {
        let ending = self.server.run(|| match &self.reloader {
            Some(reloader) => match reloader.reload() {
                Ok(reloaded) => reloaded.to_string(),
                Err(_) => "the last reload was refused; the log says why".to_owned(),
            },
            None => String::new(),
        });
        if let Some(store) = self.store {
            store.finish();
        }
        exit_code(ending)
    }
}

/// The exit codes of spec section 1.
fn exit_code(ending: Ending) -> ExitCode {
    match ending {
        Ending::Clean => ExitCode::SUCCESS,
        Ending::Aborted => ExitCode::from(DRAIN_ABORTED),
    }
}

/// Draining had to abort exchanges.
const DRAIN_ABORTED: u8 = 3;
