//! One configuration file and data directory, and the processes that run on it one after the other.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait::{DEADLINE, eventually, note, pause};
use super::{RawClient, RouterConfig};

pub struct Site {
    pub directory: PathBuf,
}

/// A process of the router; killed when dropped.
pub struct Process {
    child: Child,
    stderr: Arc<Mutex<Vec<String>>>,
}

impl Site {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!(
            "llm-router-upgrade-{}-{number}",
            std::process::id()
        ));
        fs::create_dir_all(&directory).unwrap();
        Self { directory }
    }

    fn notify_socket(&self) -> Option<(&'static str, PathBuf)> {
        let socket = self.directory.join("notify");
        socket.exists().then_some(("NOTIFY_SOCKET", socket))
    }

    pub fn write(&self, config: &RouterConfig) {
        let text = config.to_toml(self.directory.to_str().unwrap());
        // As an editor does: whoever reads finds the old file or the new one.
        let written = self.directory.join("config.toml.new");
        fs::write(&written, text).unwrap();
        fs::rename(&written, self.directory.join("config.toml")).unwrap();
    }

    /// Starts the first process and waits until its nodes are online.
    pub fn start(&self, config: &RouterConfig) -> (Process, SocketAddr) {
        self.write(config);
        let process = self.spawn(&[]);
        let address = process.wait_for_address();
        eventually("/ready is 200", || is_ready(address));
        (process, address)
    }

    /// Starts one that is to take over, without waiting for it.
    pub fn upgrade(&self, config: &RouterConfig) -> Process {
        self.write(config);
        self.spawn(&["--upgrade"])
    }

    /// Starts a first process without waiting for it.
    pub fn start_alone(&self, config: &RouterConfig) -> Process {
        self.write(config);
        self.spawn(&[])
    }

    fn spawn(&self, options: &[&str]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llm-router"));
        command
            .args(["serve", "--config", "config.toml"])
            .args(options)
            .env_clear()
            .env("RUST_BACKTRACE", "1")
            // Nobody listens there but in the tests that want to hear.
            .envs(self.notify_socket())
            .current_dir(&self.directory);
        Process::start(command)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Process {
    pub fn start(mut command: Command) -> Self {
        let mut child = command
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
        Self { child, stderr }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().join("\n")
    }

    /// Waits until the log has this; returns what stands behind it in the line.
    #[track_caller]
    pub fn wait_for_line(&self, words: &str) -> String {
        let began = Instant::now();
        loop {
            let lines = self.stderr.lock().unwrap();
            let found = lines.iter().find_map(|line| line.split_once(words));
            if let Some((_, rest)) = found {
                return rest.to_owned();
            }
            drop(lines);
            assert!(
                began.elapsed() < DEADLINE,
                "never said {words:?}:\n{}",
                self.stderr()
            );
            pause(Duration::from_millis(2));
        }
    }

    #[track_caller]
    pub fn wait_for_address(&self) -> SocketAddr {
        let rest = self.wait_for_line("listening on ");
        rest.split(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until the process has taken over.
    #[track_caller]
    pub fn wait_until_serving(&self) {
        self.wait_for_address();
    }

    /// Waits until a process can take over from this one.
    #[track_caller]
    pub fn wait_until_meeting(&self, site: &Site) {
        let socket = site.directory.join("handover.sock");
        eventually("it can be taken over", || socket.exists());
    }

    /// Waits for the process to end by itself; its exit code, or a negative signal.
    #[track_caller]
    pub fn wait_exit(&mut self) -> i32 {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status
                    .code()
                    .unwrap_or_else(|| -status.signal().unwrap_or_default());
            }
            assert!(
                began.elapsed() < DEADLINE,
                "still running:\n{}",
                self.stderr()
            );
            pause(Duration::from_millis(2));
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let stderr = self.stderr();
        if std::thread::panicking() {
            note(&format!(
                "--- stderr of process {}\n{stderr}\n---",
                self.pid()
            ));
        } else {
            assert!(!stderr.contains("panicked at"), "it panicked:\n{stderr}");
        }
    }
}

pub fn is_ready(address: SocketAddr) -> bool {
    let Some(mut client) = RawClient::try_connect(address) else {
        return false;
    };
    client.send(b"GET /ready HTTP/1.1\r\nHost: router\r\nConnection: close\r\n\r\n");
    client
        .try_response()
        .is_some_and(|response| response.status == 200)
}
