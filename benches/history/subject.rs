//! A router under measurement: its threads, and its own figures.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::machine::Meter;
use super::stage::{Node, Stage};
use super::{Bench, Failure};

/// A router with one worker on its own core; its other threads run with the load.
pub(crate) struct Subject {
    pub(crate) stage: Stage,
    pid: u32,
}

impl Subject {
    pub(crate) fn start(bench: &Bench<'_>, name: &str, has_history: bool) -> Result<Self, Failure> {
        let settings = format!(
            "[load_manager]\nmax_concurrent = 1000\n[history]\nenabled = {has_history}\n\
             max_rows = 100000000\n"
        );
        let node = Node {
            model: MODEL,
            slots: 256,
            service: Duration::ZERO,
        };
        let stage = Stage::start(bench, name, &settings, &[node], false)?;
        let Meter::Process(pid) = stage.meter else {
            return Err("the router is no process".into());
        };
        let subject = Self { stage, pid };
        let mut load_core = CpuSet::new();
        load_core.set(bench.cores.load)?;
        for (task, name) in subject.threads()? {
            if !name.starts_with("worker") {
                sched_setaffinity(Pid::from_raw(task), &load_core)?;
            }
        }
        Ok(subject)
    }

    /// CPU time so far of the threads whose name begins so.
    pub(crate) fn cpu(&self, name: &str) -> Result<Duration, Failure> {
        let mut sum = Duration::ZERO;
        for (task, found) in self.threads()? {
            if found.starts_with(name) {
                let path = format!("/proc/{}/task/{task}/schedstat", self.pid);
                let text = fs::read_to_string(path)?;
                let nanoseconds = text.split(' ').next().unwrap_or_default().parse()?;
                sum += Duration::from_nanos(nanoseconds);
            }
        }
        Ok(sum)
    }

    /// One of the router's own figures.
    pub(crate) fn metric(&self, name: &str) -> Result<f64, Failure> {
        let mut connection = TcpStream::connect(self.stage.router)?;
        connection.set_read_timeout(Some(Duration::from_secs(10)))?;
        connection
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        connection.read_to_string(&mut text)?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.ok_or("the metric is not there")?.trim().parse()?)
    }

    fn threads(&self) -> Result<Vec<(i32, String)>, Failure> {
        let mut threads = Vec::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            let task = task?;
            let name = fs::read_to_string(task.path().join("comm"))?;
            let id = task.file_name().to_string_lossy().parse()?;
            threads.push((id, name.trim().to_owned()));
        }
        Ok(threads)
    }
}

pub(crate) const MODEL: &str = "bench-model";
pub(crate) const WRITTEN: &str = "llm_router_history_records_total";
pub(crate) const DROPPED: &str = "llm_router_history_dropped_total";
