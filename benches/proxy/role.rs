//! The other parts this program plays, as processes of their own: the mock node and the bare relay.
//!
//! They are not threads because the measuring process starts `wrk`, and a child inherits the sockets an
//! io_uring accept has made: `wrk` refuses descriptors beyond the number it expects.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use llm_router::mock::{self, MockOptions};
use llm_router::runtime::{self, Preference};
use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::machine::OPEN_FILES;
use super::options::driver;
use super::process::{Process, Workspace, wait_until};
use super::{Failure, client, machine, relay};

/// Starts this program again in the role the arguments name, and reads where it listens.
pub(crate) fn start(
    workspace: &Workspace,
    arguments: &[String],
) -> Result<(Process, SocketAddr), Failure> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let log = workspace.directory("roles")?.join(format!("log-{number}"));
    let mut command = Command::new(std::env::current_exe()?);
    let process = Process::start(command.args(arguments), &log)?;
    let mut said = String::new();
    wait_until("a mock node or relay says its address", START_TIME, || {
        said = fs::read_to_string(&log).unwrap_or_default();
        said.ends_with('\n')
    })?;
    let address = said.trim().parse().map_err(|_| said)?;
    Ok((process, address))
}

/// Plays the role the arguments name until this process is ended; `None` if they name none.
pub(crate) fn play(arguments: &[String]) -> Option<Result<(), Failure>> {
    match arguments {
        [role, interval_ms, slots, service_ms] if role == NODE => {
            Some(node(interval_ms, slots, service_ms))
        }
        [role, node, driver] if role == RELAY => Some(bare_relay(node, driver)),
        _ => None,
    }
}

fn node(interval_ms: &str, slots: &str, service_ms: &str) -> Result<(), Failure> {
    prepare()?;
    let interval = Duration::from_millis(interval_ms.parse()?);
    let options = MockOptions {
        slots: Some(slots.parse()?).filter(|slots| *slots > 0),
        first_token_delay: Duration::from_millis(service_ms.parse()?),
        models: vec![client::MODEL.to_owned()],
        keep_alive: Duration::from_secs(3600),
        token_interval: interval,
        token_count: if interval.is_zero() { 16 } else { ENDLESS },
        ..MockOptions::default()
    };
    let driver = runtime::choose(Preference::Auto)?.driver;
    say(mock::start(options, driver)?.address);
    loop {
        std::thread::park();
    }
}

fn bare_relay(node: &str, driver_name: &str) -> Result<(), Failure> {
    prepare()?;
    let driver = runtime::choose(driver(driver_name)?)?.driver;
    relay::serve(driver, node.parse()?, say)
}

/// Does not outlive the measuring process, and may open as many connections as it wants to.
fn prepare() -> Result<(), Failure> {
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    machine::raise_open_files(OPEN_FILES)?;
    Ok(())
}

fn say(address: SocketAddr) {
    // If nobody reads it, nobody will come.
    let _ = writeln!(std::io::stdout(), "{address}");
}

pub(crate) const NODE: &str = "--play-node";
pub(crate) const RELAY: &str = "--play-relay";
/// Tokens of a stream that nobody reads to its end.
const ENDLESS: u32 = 1_000_000;
const START_TIME: Duration = Duration::from_secs(10);
