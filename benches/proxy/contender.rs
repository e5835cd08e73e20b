//! The proxies that are compared: the router, nginx, a bare relay; and their configurations.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::machine::{Cores, Meter, OPEN_FILES, child_of};
use super::options::Options;
use super::process::{Process, Workspace, free_address, wait_until};
use super::{Failure, client, role};

/// One proxy in front of the node.
#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) meter: Meter,
    /// Ends with the contender.
    _process: Option<Process>,
}

/// What contenders are started with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stage<'s> {
    pub(crate) options: &'s Options,
    pub(crate) cores: Cores,
    pub(crate) workspace: &'s Workspace,
    pub(crate) nginx: &'s Path,
    pub(crate) node: SocketAddr,
    /// Whether nginx passes on each piece of an answer at once.
    pub(crate) streaming: bool,
    /// Idle connections to the node that each of them keeps.
    pub(crate) kept: usize,
    /// Requests the node works on at once, as far as a proxy can be told; `None`: any number.
    pub(crate) slots: Option<u32>,
    /// Whether the router keeps the request history, which the others have nothing like.
    pub(crate) has_history: bool,
}

impl Stage<'_> {
    /// The router, nginx and the bare relay, and the router with access records if it is wanted.
    pub(crate) fn all(&self) -> Result<Vec<Contender>, Failure> {
        let mut contenders = vec![self.router(ROUTER, None)?, self.nginx()?, self.relay()?];
        if self.options.access_log {
            let log = self
                .workspace
                .directory("router-access")?
                .join("access.log");
            contenders.push(self.router(ROUTER_LOGGING, Some(&log))?);
        }
        Ok(contenders)
    }

    /// The router with one worker.
    pub(crate) fn router(
        &self,
        name: &'static str,
        access_log: Option<&Path>,
    ) -> Result<Contender, Failure> {
        self.router_on(name, self.options.io_driver_name(), access_log)
    }

    /// The router with one worker on this I/O driver.
    pub(crate) fn router_on(
        &self,
        name: &'static str,
        io_driver: &str,
        access_log: Option<&Path>,
    ) -> Result<Contender, Failure> {
        let directory = self.workspace.directory(&name.replace([' ', ','], "-"))?;
        let address = free_address()?;
        let config = directory.join("config.toml");
        fs::write(&config, self.router_config(address, &directory))?;
        let mut command = Command::new(&self.options.router);
        command
            .args(["serve", "--io-driver", io_driver])
            .arg("--config")
            .arg(&config)
            .current_dir(&directory);
        if let Some(path) = access_log {
            command.arg("--access-log").arg(path);
        }
        let log = directory.join("log");
        let process = self
            .cores
            .on_proxy_core(|| Process::start(&mut command, &log))??;
        let meter = Meter::Process(process.pid());
        ready(name, address, meter, process, &log)
    }

    /// nginx with one worker process.
    pub(crate) fn nginx(&self) -> Result<Contender, Failure> {
        let directory = self.workspace.directory("nginx")?;
        let address = free_address()?;
        let config = directory.join("nginx.conf");
        fs::write(&config, self.nginx_config(address))?;
        let mut command = Command::new(self.nginx);
        command.arg("-p").arg(&directory).arg("-c").arg(&config);
        command.args(["-e", "error.log"]);
        let log = directory.join("log");
        let process = self
            .cores
            .on_proxy_core(|| Process::start(&mut command, &log))??;
        let mut worker = Err("nginx started no worker".into());
        wait_until("nginx starts its worker", START_TIME, || {
            worker = child_of(process.pid());
            worker.is_ok()
        })?;
        ready(NGINX, address, Meter::Process(worker?), process, &log)
    }

    fn nginx_config(&self, address: SocketAddr) -> String {
        let (node, kept) = (self.node, self.kept);
        let buffering = if self.streaming { "off" } else { "on" };
        format!(
            r#"daemon off;
worker_processes 1;
worker_rlimit_nofile {OPEN_FILES};
pid nginx.pid;
error_log error.log;
events {{
    worker_connections 24000;
}}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_timeout 3600;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    # Larger bodies would go through a file.
    client_body_buffer_size 2m;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream node {{
        server {node};
        keepalive {kept};
        keepalive_requests 1000000000;
        keepalive_timeout 3600;
    }}
    server {{
        listen {address} backlog=4096;
        location / {{
            proxy_pass http://node;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering {buffering};
            proxy_read_timeout 3600;
        }}
    }}
}}
"#
        )
    }

    /// The configuration of the router and of the builds on tokio.
    pub(crate) fn router_config(&self, address: SocketAddr, directory: &Path) -> String {
        let (node, kept) = (self.node, self.kept);
        let (host, port) = (address.ip(), address.port());
        let data = directory.join("data");
        let (data, key, model) = (data.display(), client::KEY, client::MODEL);
        let slots = self.slots.unwrap_or(100_000);
        let has_history = self.has_history;
        format!(
            r#"[server]
host = "{host}"
port = {port}
workers = 1
data_dir = "{data}"
drain_announce_secs = 0
drain_grace_secs = 0
[load_manager]
max_concurrent = 100000
[connection_pool]
# What nginx is given.
max_idle_per_host = {kept}
[http]
idle_timeout_secs = 3600
[history]
enabled = {has_history}
[auth]
api_keys = ["{key}"]
[[nodes]]
name = "node"
base_url = "http://{node}"
models = ["{model}"]
max_concurrency = {slots}
"#
        )
    }

    /// The floor: a relay on the same runtime that reads, frames and forwards, nothing else.
    pub(crate) fn relay(&self) -> Result<Contender, Failure> {
        let arguments = [
            role::RELAY.to_owned(),
            self.node.to_string(),
            self.options.io_driver_name().to_owned(),
        ];
        let start = || role::start(self.workspace, &arguments);
        let (process, address) = self.cores.on_proxy_core(start)??;
        let meter = Meter::Process(process.pid());
        Ok(Contender::of(RELAY, address, meter, process))
    }
}

impl Contender {
    fn of(name: &'static str, address: SocketAddr, meter: Meter, process: Process) -> Self {
        Self {
            name,
            address,
            meter,
            _process: Some(process),
        }
    }

    /// Something that is no proxy started here.
    pub(crate) const fn other(name: &'static str, address: SocketAddr, meter: Meter) -> Self {
        Self {
            name,
            address,
            meter,
            _process: None,
        }
    }
}

/// Waits until a first exchange through the proxy succeeds.
pub(crate) fn ready(
    name: &'static str,
    address: SocketAddr,
    meter: Meter,
    mut process: Process,
    log: &PathBuf,
) -> Result<Contender, Failure> {
    let mut last = None;
    let waited = wait_until("its first answer", START_TIME, || {
        match client::try_out(address) {
            Ok(()) => return true,
            Err(error) => last = Some(error),
        }
        process.has_ended()
    });
    if waited.is_err() || process.has_ended() {
        let said = fs::read_to_string(log).unwrap_or_default();
        return Err(format!("{name} does not work: {last:?}\n{said}").into());
    }
    Ok(Contender::of(name, address, meter, process))
}

pub(crate) const ROUTER: &str = "router";
pub(crate) const ROUTER_LOGGING: &str = "router, access log";
pub(crate) const ROUTER_HISTORY: &str = "router, history";
pub(crate) const NGINX: &str = "nginx";
pub(crate) const RELAY: &str = "bare relay";
/// Idle connections to the node that each proxy keeps, unless more are measured.
pub(crate) const KEPT: usize = 128;
pub(crate) const START_TIME: Duration = Duration::from_secs(10);
