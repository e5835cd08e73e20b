//! The real binary as a child process on a port of its own, and its configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait::{DEADLINE, eventually, pause};
use super::{MODEL, Metrics, RawClient, ScriptedNode};

/// What a worker's runtime stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    IoUring,
    Epoll,
}

impl Driver {
    pub fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// Runs `scenario` on both drivers at once; says on which it failed.
pub fn on_both_drivers(scenario: impl Fn(Driver) + Sync) {
    let failed: Vec<Driver> = std::thread::scope(|scope| {
        [Driver::IoUring, Driver::Epoll]
            .map(|driver| {
                let scenario = &scenario;
                let run = std::thread::Builder::new()
                    .name(driver.name().to_owned())
                    .spawn_scoped(scope, move || scenario(driver))
                    .unwrap();
                (driver, run)
            })
            .into_iter()
            .filter_map(|(driver, run)| run.join().is_err().then_some(driver))
            .collect()
    });
    assert!(failed.is_empty(), "failed on {failed:?}");
}

/// A configuration file in the making. Without further ado: loopback, a free port, two workers, no
/// keys, no announced drain.
#[derive(Clone)]
pub struct RouterConfig {
    sections: BTreeMap<&'static str, BTreeMap<&'static str, String>>,
    tables: String,
    open_files: Option<u32>,
    waits_for_nodes: bool,
    data_dir: Option<PathBuf>,
}

impl RouterConfig {
    pub fn new(driver: Driver) -> Self {
        let config = Self {
            sections: BTreeMap::new(),
            tables: String::new(),
            open_files: None,
            waits_for_nodes: true,
            data_dir: None,
        };
        config
            .set("server.host", "\"127.0.0.1\"")
            .set("server.port", 0)
            .set("server.workers", 2)
            .set("server.pin_workers", false)
            .set("server.io_driver", format!("{:?}", driver.name()))
            .set("server.drain_announce_secs", 0)
            .set("server.drain_grace_secs", 20)
            .set("auth.required", false)
    }

    /// Sets `section.key` to a value in TOML.
    pub fn set(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        let (section, key) = key.split_once('.').unwrap();
        self.sections
            .entry(section)
            .or_default()
            .insert(key, value.to_string());
        self
    }

    /// Adds a node that serves [`MODEL`] in plenty of slots.
    pub fn node(self, name: &str, node: &ScriptedNode) -> Self {
        self.node_with(name, node, MODEL, 1000, "")
    }

    /// Adds a node that serves `model` in `slots` slots; `more` is further TOML.
    pub fn node_with(
        self,
        name: &str,
        node: &ScriptedNode,
        model: &str,
        slots: u32,
        more: &str,
    ) -> Self {
        self.node_at(
            name,
            &format!("http://{}", node.address()),
            model,
            slots,
            more,
        )
    }

    pub fn node_at(
        mut self,
        name: &str,
        base_url: &str,
        model: &str,
        slots: u32,
        more: &str,
    ) -> Self {
        self.tables.push_str(&format!(
            "\n[[nodes]]\nname = {name:?}\nbase_url = {base_url:?}\nmodels = [{model:?}]\n\
             max_concurrency = {slots}\n{more}\n",
        ));
        self
    }

    /// Adds a node that serves several models; `slots` may be `"auto"`.
    pub fn node_serving(
        mut self,
        name: &str,
        node: &ScriptedNode,
        models: &[&str],
        slots: impl fmt::Display,
    ) -> Self {
        self.tables.push_str(&format!(
            "\n[[nodes]]\nname = {name:?}\nbase_url = \"http://{}\"\nmodels = {models:?}\n\
             max_concurrency = {slots}\n",
            node.address()
        ));
        self
    }

    pub fn alias(mut self, model: &str, to: &str) -> Self {
        self.tables
            .push_str(&format!("\n[[aliases]]\nmodel = {model:?}\nto = {to:?}\n"));
        self
    }

    /// Limits the open files of the router.
    pub fn open_files(mut self, count: u32) -> Self {
        self.open_files = Some(count);
        self
    }

    /// Does not wait for every node to be online.
    pub fn without_waiting_for_nodes(mut self) -> Self {
        self.waits_for_nodes = false;
        self
    }

    /// Keeps its data in a directory of the test's own, which outlives the router.
    pub fn data_dir(mut self, directory: &Path) -> Self {
        self.data_dir = Some(directory.to_path_buf());
        self
    }

    pub fn start(self) -> Router {
        Router::start(&self)
    }

    pub fn to_toml(&self, data_dir: &str) -> String {
        let mut toml = String::new();
        let data_dir = match &self.data_dir {
            Some(own) => own.to_str().unwrap(),
            None => data_dir,
        };
        let with_data_dir = self.clone().set("server.data_dir", format!("{data_dir:?}"));
        for (section, keys) in &with_data_dir.sections {
            toml.push_str(&format!("[{section}]\n"));
            for (key, value) in keys {
                toml.push_str(&format!("{key} = {value}\n"));
            }
        }
        toml + &self.tables
    }

    fn node_count(&self) -> usize {
        self.tables.matches("[[nodes]]").count()
    }
}

/// A running router; killed when dropped.
pub struct Router {
    child: Mutex<Child>,
    pid: Pid,
    address: SocketAddr,
    stderr: Arc<Mutex<Vec<String>>>,
    config: RouterConfig,
    directory: Arc<Directory>,
}

/// The working and data directory of a router; removed with the last router in it.
struct Directory(PathBuf);

impl Router {
    /// Starts the binary and waits until it is ready.
    fn start(config: &RouterConfig) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory =
            std::env::temp_dir().join(format!("llm-router-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        Self::start_in(Arc::new(Directory(directory)), config)
    }

    fn start_in(directory: Arc<Directory>, config: &RouterConfig) -> Self {
        let path = &directory.0;
        let file = path.join("config.toml");
        fs::write(&file, config.to_toml(path.to_str().unwrap())).unwrap();

        let binary = env!("CARGO_BIN_EXE_llm-router");
        let mut command = match config.open_files {
            None => Command::new(binary),
            Some(count) => {
                let mut command = Command::new("sh");
                command.args([
                    "-c",
                    &format!("ulimit -n {count}; exec \"$0\" \"$@\""),
                    binary,
                ]);
                command
            }
        };
        let mut child = command
            .args(["serve", "--config"])
            .arg(&file)
            .env_clear()
            .env("RUST_BACKTRACE", "1")
            .current_dir(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let collected = Arc::clone(&stderr);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                collected.lock().unwrap().push(line);
            }
        });
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let mut router = Self {
            child: Mutex::new(child),
            pid,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            stderr,
            config: config.clone(),
            directory,
        };
        router.address = router.wait_for_address();
        if config.waits_for_nodes && config.node_count() > 0 {
            router.wait_until_ready(config.node_count());
        }
        router
    }

    fn wait_for_address(&self) -> SocketAddr {
        let began = Instant::now();
        loop {
            let announced = self.stderr.lock().unwrap().iter().find_map(|line| {
                let (_, rest) = line.split_once("listening on ")?;
                let end = rest
                    .find(|character: char| {
                        !(character.is_ascii_hexdigit() || ".:[]".contains(character))
                    })
                    .unwrap_or(rest.len());
                rest[..end].parse().ok()
            });
            if let Some(address) = announced {
                return address;
            }
            let exited = self.child.lock().unwrap().try_wait().unwrap();
            assert!(
                exited.is_none() && began.elapsed() < DEADLINE,
                "the router did not listen ({exited:?}):\n{}",
                self.stderr()
            );
            pause(Duration::from_millis(2));
        }
    }

    fn wait_until_ready(&self, node_count: usize) {
        eventually("/ready is 200", || {
            self.get("/ready")
                .is_some_and(|response| response.status == 200)
        });
        eventually("every node is online", || {
            let metrics = self.metrics();
            let online = metrics
                .names()
                .filter(|name| {
                    name.starts_with("llm_router_node_state{")
                        && name.contains("state=\"online\"")
                        && metrics.value(name) == 1.0
                })
                .count();
            online == node_count
        });
    }

    /// Kills the process and starts another one with the same configuration and data; does not wait for its
    /// nodes.
    pub fn killed_and_started_again(self) -> Self {
        {
            let mut child = self.child.lock().unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let config = self.config.clone().without_waiting_for_nodes();
        Self::start_in(Arc::clone(&self.directory), &config)
    }

    /// Makes an API key with this scope, as an operator does on the command line, and waits until the router
    /// knows it.
    pub fn make_key(&self, scope: &str) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_llm-router"))
            .args(["keys", "create", "--name", "test", "--scopes", scope])
            .arg("--config")
            .arg(self.directory.0.join("config.toml"))
            .env_clear()
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let key = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        eventually("the key is known", || {
            let mut client = self.connect();
            let request = format!(
                "GET /api/nodes HTTP/1.1\r\nHost: router\r\nAuthorization: Bearer {key}\r\n\r\n"
            );
            client.send(request.as_bytes());
            client.response().status != 401
        });
        key
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn connect(&self) -> RawClient {
        RawClient::connect(self.address)
    }

    /// One GET on a connection of its own; nothing when the connection fails.
    pub fn get(&self, path: &str) -> Option<super::Response> {
        let mut client = RawClient::try_connect(self.address)?;
        client.send(
            format!("GET {path} HTTP/1.1\r\nHost: router\r\nConnection: close\r\n\r\n").as_bytes(),
        );
        client.try_response()
    }

    pub fn metrics(&self) -> Metrics {
        Metrics::fetch(self.address)
    }

    /// Waits until exactly this many requests wait.
    #[track_caller]
    pub fn until_waiting(&self, count: usize) {
        eventually(&format!("{count} requests wait"), || {
            self.metrics().value("llm_router_queue_size") == count as f64
        });
    }

    /// Waits until nothing is under way, at most a second; returns how long it took.
    #[track_caller]
    pub fn settles(&self) -> Duration {
        let began = Instant::now();
        loop {
            let metrics = self.metrics();
            if metrics.is_quiet() {
                return began.elapsed();
            }
            assert!(
                began.elapsed() < Duration::from_secs(1),
                "gauges not back within 1 s:\n{}",
                metrics.gauges()
            );
            pause(Duration::from_millis(5));
        }
    }

    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Replaces the configuration file, as an editor does; nothing reads it before it is told to.
    pub fn rewrite(&self, config: &RouterConfig) {
        let directory = self.directory.0.to_str().unwrap();
        self.rewrite_with(&config.to_toml(directory));
    }

    /// The same with any text.
    pub fn rewrite_with(&self, text: &str) {
        let written = self.directory.0.join("config.toml.new");
        fs::write(&written, text).unwrap();
        fs::rename(&written, self.directory.0.join("config.toml")).unwrap();
    }

    pub fn remove_config(&self) {
        fs::remove_file(self.directory.0.join("config.toml")).unwrap();
    }

    /// Asks for a drain.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Waits for the process to end by itself and returns its exit code, or a negative signal.
    #[track_caller]
    pub fn wait_exit(&self, limit: Duration) -> i32 {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.lock().unwrap().try_wait().unwrap() {
                return status
                    .code()
                    .unwrap_or_else(|| -status.signal().unwrap_or_default());
            }
            assert!(
                began.elapsed() < limit,
                "still running after {limit:?}:\n{}",
                self.stderr()
            );
            pause(Duration::from_millis(5));
        }
    }

    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().join("\n")
    }

    /// Where a file of the router's working and data directory is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.0.join(name)
    }

    /// A file in the router's working directory; empty when there is none.
    pub fn file(&self, name: &str) -> String {
        fs::read_to_string(self.directory.0.join(name)).unwrap_or_default()
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib * 1024
    }

    /// User and system time used so far.
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // USER_HZ is 100 on every Linux that runs here.
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        {
            let mut child = self
                .child
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            let _ = child.kill();
            let _ = child.wait();
        }
        let stderr = self
            .stderr
            .lock()
            .map(|lines| lines.join("\n"))
            .unwrap_or_default();
        if std::thread::panicking() {
            eprintln!("--- stderr of the router\n{stderr}\n---");
        } else {
            assert!(
                !stderr.contains("panicked at"),
                "the router panicked:\n{stderr}"
            );
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
