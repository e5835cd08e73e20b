//! The router and the nodes of a scene.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::machine::Meter;
use super::process::{Process, free_address, wait_until};
use super::{Bench, Failure};

/// The router, alone on its core, with its nodes on the other.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) router: SocketAddr,
    pub(crate) meter: Meter,
    pub(crate) access_log: PathBuf,
    _processes: Vec<Process>,
}

/// A node that answers each request after the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub(crate) model: &'static str,
    pub(crate) slots: u32,
    pub(crate) service: Duration,
}

impl Stage {
    /// Starts everything; `settings` are more lines of the router's configuration, and `keeps_records`
    /// says whether it writes its access log.
    pub(crate) fn start(
        bench: &Bench<'_>,
        name: &str,
        settings: &str,
        nodes: &[Node],
        keeps_records: bool,
    ) -> Result<Self, Failure> {
        let directory = bench.workspace.directory(name)?;
        let router = free_address()?;
        let access_log = directory.join("access.log");
        let mut config = format!(
            "[server]\nhost = \"127.0.0.1\"\nport = {}\nworkers = 1\ndrain_announce_secs = 0\n\
             drain_grace_secs = 0\n[auth]\nrequired = false\n{settings}\n",
            router.port(),
        );
        let mut processes = Vec::new();
        for (number, node) in nodes.iter().enumerate() {
            let address = free_address()?;
            let mut command = Command::new(ROUTER);
            command
                .args([
                    "mock-node",
                    "--models",
                    node.model,
                    "--token-interval-ms",
                    "0",
                ])
                .args(["--port", &address.port().to_string()])
                .args(["--slots", &node.slots.to_string()])
                .args(["--first-token-ms", &node.service.as_millis().to_string()]);
            let log = directory.join(format!("node-{number}.log"));
            processes.push(Process::start(&mut command, &log)?);
            config.push_str(&format!(
                "[[nodes]]\nname = \"node-{number}\"\nbase_url = \"http://{address}\"\n\
                 models = [\"{}\"]\nmax_concurrency = {}\n",
                node.model, node.slots
            ));
        }
        let path = directory.join("config.toml");
        fs::write(&path, config)?;
        let mut command = Command::new(ROUTER);
        command
            .arg("serve")
            .arg("--config")
            .arg(&path)
            .current_dir(&directory);
        if keeps_records {
            command.arg("--access-log").arg(&access_log);
        }
        let log = directory.join("router.log");
        let process = bench
            .cores
            .on_proxy_core(|| Process::start(&mut command, &log))??;
        let meter = Meter::Process(process.pid());
        processes.push(process);
        wait_until("the router and its nodes are there", START_TIME, || {
            let said = fs::read_to_string(&log).unwrap_or_default();
            said.matches("is online").count() == nodes.len() && said.contains("listening on")
        })?;
        Ok(Self {
            router,
            meter,
            access_log,
            _processes: processes,
        })
    }

    /// CPU time of the router so far.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        Ok(self.meter.cpu()?.ok_or("no CPU time of the router")?)
    }
}

/// Router and mock node are one binary.
pub(crate) const ROUTER: &str = env!("CARGO_BIN_EXE_llm-router");
const START_TIME: Duration = Duration::from_secs(15);
