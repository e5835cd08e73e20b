//! From the command line to listening sockets. The same for both builds.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;

use llm_router::config::Config;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use socket2::{Domain, Protocol, Socket, Type};

use crate::gateway::Gateway;

/// Reads `--config FILE`, loads it and runs; says what is wrong otherwise.
pub fn run(serve: impl FnOnce(Gateway) -> io::Result<()>) -> ExitCode {
    let outcome = config_file()
        .and_then(|file| Gateway::load(&file))
        .and_then(|gateway| {
            raise_open_files();
            serve(gateway).map_err(|error| error.to_string())
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn config_file() -> Result<PathBuf, String> {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next(), arguments.next()) {
        (Some(option), Some(file), None) if option == "--config" => Ok(PathBuf::from(file)),
        _ => Err("usage: --config FILE".to_owned()),
    }
}

/// Threads: the configured count, or one per core.
#[must_use]
pub fn worker_count(config: &Config) -> usize {
    match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
}

/// A listener on the configured address that other threads may share.
///
/// # Errors
/// When the address cannot be bound.
pub fn listen(config: &Config) -> io::Result<TcpListener> {
    let address = SocketAddr::new(config.server.host, config.server.port);
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The cores this process may run on.
#[must_use]
pub fn available_cores() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count())
        .filter(|core| allowed.is_set(*core).unwrap_or(false))
        .collect()
}

/// Binds the calling thread to a core.
///
/// # Errors
/// When the core is not available.
pub fn pin(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cores)?)
}

fn raise_open_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // As far as it goes; too few show in the first refused connection.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

const BACKLOG: i32 = 4096;
