//! The contenders that only take part in the comparison: the router on epoll, HAProxy, and the builds
//! on tokio, which are built here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Failure;
use super::contender::{Contender, ROUTER, Stage, ready};
use super::machine::{self, Meter, OPEN_FILES, raise_open_files};
use super::process::{Process, free_address};

/// Programs beside the router and nginx.
#[derive(Debug)]
pub(crate) struct Rivals {
    /// `None`: not installed.
    haproxy: Option<PathBuf>,
    /// Where the builds on tokio are.
    directory: PathBuf,
}

impl Rivals {
    /// Builds what is built from source, in the profile of this program, and looks for the rest.
    pub(crate) fn prepare() -> Result<Self, Failure> {
        let directory = Path::new(env!("CARGO_BIN_EXE_llm-router"))
            .parent()
            .ok_or("the router lies in no directory")?;
        let target = directory.parent().ok_or("no target directory")?;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build
            .args([
                "build",
                "--locked",
                "--bins",
                "-p",
                "llm-router-tokio-bench",
            ])
            .arg("--manifest-path")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
            .arg("--target-dir")
            .arg(target);
        if directory.ends_with("release") {
            build.arg("--release");
        }
        if !build.status()?.success() {
            return Err("the builds on tokio cannot be built".into());
        }
        Ok(Self {
            haproxy: machine::tool("haproxy", "-v").ok(),
            directory: directory.to_path_buf(),
        })
    }

    /// All contenders of the comparison, ready; the router comes first.
    pub(crate) fn all(&self, stage: &Stage<'_>) -> Result<Vec<Contender>, Failure> {
        let mut contenders = vec![
            stage.router(ROUTER, None)?,
            stage.router_on(ROUTER_EPOLL, "epoll", None)?,
            stage.nginx()?,
        ];
        if let Some(program) = &self.haproxy {
            contenders.push(haproxy(stage, program)?);
        }
        for name in [HYPER, AXUM] {
            contenders.push(self.on_tokio(stage, name)?);
        }
        contenders.push(stage.relay()?);
        Ok(contenders)
    }

    /// A line about each program, with versions.
    pub(crate) fn versions(&self) -> Vec<String> {
        let haproxy = match &self.haproxy {
            Some(program) => machine::version(program, "-v"),
            None => "HAProxy is not installed and does not take part".to_owned(),
        };
        let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
        let lock = fs::read_to_string(lock).unwrap_or_default();
        let libraries = ["tokio", "hyper", "axum", "reqwest"]
            .map(|name| format!("{name} {}", locked(&lock, name).unwrap_or("?")));
        vec![haproxy, libraries.join(", ")]
    }

    fn on_tokio(&self, stage: &Stage<'_>, name: &'static str) -> Result<Contender, Failure> {
        let directory = stage.workspace.directory(name)?;
        let address = free_address()?;
        let config = directory.join("config.toml");
        fs::write(&config, stage.router_config(address, &directory))?;
        let mut command = Command::new(self.directory.join(name));
        command.arg("--config").arg(&config).current_dir(&directory);
        let log = directory.join("log");
        let process = stage
            .cores
            .on_proxy_core(|| Process::start(&mut command, &log))??;
        let meter = Meter::Process(process.pid());
        ready(name, address, meter, process, &log)
    }
}

/// HAProxy with one thread, in one process.
fn haproxy(stage: &Stage<'_>, program: &Path) -> Result<Contender, Failure> {
    let directory = stage.workspace.directory(HAPROXY)?;
    let address = free_address()?;
    let (node, kept) = (stage.node, stage.kept);
    // Pieces of a stream go on at once; it is not meant for anything else.
    let no_delay = if stage.streaming {
        "option http-no-delay"
    } else {
        ""
    };
    // Each connection is two descriptors, of which not every machine has as many as it likes.
    let connections_max = raise_open_files(OPEN_FILES)?.saturating_sub(256) / 2;
    // What does not fit onto the node waits in its queue.
    let slots = stage
        .slots
        .map_or_else(String::new, |slots| format!("maxconn {slots}"));
    let config = directory.join("haproxy.cfg");
    fs::write(
        &config,
        format!(
            "global
    nbthread 1
    maxconn {connections_max}
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout http-request 1h
    timeout http-keep-alive 1h
    {no_delay}
frontend clients
    bind {address} backlog 4096
    default_backend nodes
backend nodes
    http-reuse always
    server node {node} pool-max-conn {kept} pool-purge-delay 1h {slots}
"
        ),
    )?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(&config);
    let log = directory.join("log");
    let process = stage
        .cores
        .on_proxy_core(|| Process::start(&mut command, &log))??;
    let meter = Meter::Process(process.pid());
    ready(HAPROXY, address, meter, process, &log)
}

/// The version of a package in a lock file.
fn locked<'l>(lock: &'l str, name: &str) -> Option<&'l str> {
    let entry = format!("name = \"{name}\"\nversion = \"");
    let (_, behind) = lock.split_once(&entry)?;
    behind.split('"').next()
}

pub(crate) const ROUTER_EPOLL: &str = "router, epoll";
pub(crate) const HAPROXY: &str = "haproxy";
/// The binaries of the member that is built for the comparison.
pub(crate) const HYPER: &str = "hyper-per-core";
pub(crate) const AXUM: &str = "axum-reqwest";
