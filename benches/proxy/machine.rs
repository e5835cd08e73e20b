//! The machine: cores, tools, figures from `/proc`. The only place here that reads them.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

/// Why a benchmark could not be carried out.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// The two cores in use: one for whatever is measured, one for everything else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    pub(crate) proxy: usize,
    pub(crate) load: usize,
}

/// Whose CPU time and memory are taken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Meter {
    /// All threads of a process.
    Process(u32),
    /// Nobody's.
    None,
}

impl Cores {
    /// Takes the first two cores this process may use and binds the caller to the load's.
    pub(crate) fn claim() -> Result<Self, Failure> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let mut allowed =
            (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false));
        let (Some(proxy), Some(load)) = (allowed.next(), allowed.next()) else {
            return Err("needs two cores: one for the proxies, one for the load".into());
        };
        bind(load)?;
        Ok(Self { proxy, load })
    }

    /// Does `act` bound to the proxies' core; processes and threads started there stay there.
    pub(crate) fn on_proxy_core<T>(self, act: impl FnOnce() -> T) -> Result<T, Failure> {
        bind(self.proxy)?;
        let outcome = act();
        bind(self.load)?;
        Ok(outcome)
    }
}

impl Meter {
    /// CPU time used so far by all its threads, or nothing to be measured.
    pub(crate) fn cpu(self) -> Result<Option<Duration>, Failure> {
        match self {
            Self::Process(pid) => {
                let mut sum = Duration::ZERO;
                for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                    // A thread may end between being listed and being read.
                    if let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) {
                        sum += running(&text)?;
                    }
                }
                Ok(Some(sum))
            }
            Self::None => Ok(None),
        }
    }

    /// Resident memory in bytes; nothing for what is no process of its own.
    pub(crate) fn resident(self) -> Result<Option<u64>, Failure> {
        let Self::Process(pid) = self else {
            return Ok(None);
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kibibytes: u64 = field(&status, "VmRSS:")
            .and_then(|value| value.trim_end_matches("kB").trim().parse().ok())
            .ok_or("no VmRSS: the process has ended")?;
        Ok(Some(kibibytes * 1024))
    }
}

/// Raises the limit of open files to `wanted` for this process and its children, or as far as it goes.
pub(crate) fn raise_open_files(wanted: u64) -> Result<u64, Failure> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= wanted {
        return Ok(soft);
    }
    // Only the administrator may raise the hard limit.
    if hard < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return Ok(wanted);
    }
    let reachable = wanted.min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, reachable, hard)?;
    Ok(reachable)
}

/// Where a tool is, or how to get it.
pub(crate) fn tool(name: &str, version_argument: &str) -> Result<PathBuf, Failure> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&places)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|place| place.join(name))
        // wrk ends with an error after saying its version.
        .find(|path| Command::new(path).arg(version_argument).output().is_ok())
        .ok_or_else(|| {
            format!("{name} is needed and was not found; on Debian: apt-get install {name}").into()
        })
}

/// The first line a program prints about itself.
pub(crate) fn version(program: &Path, argument: &str) -> String {
    let Ok(output) = Command::new(program).arg(argument).output() else {
        return "unknown".to_owned();
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// One line about the machine: kind and count of cores, kernel.
pub(crate) fn description() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown CPU", |rest| rest.trim_matches([' ', '\t', ':']));
    let core_count = cpu
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.split(['-', '\n']).next().unwrap_or_default();
    let congestion = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    format!(
        "{model}, {core_count} cores; Linux {kernel}, TCP congestion control {}, {}",
        congestion.unwrap_or_default().trim(),
        scheduling()
    )
}

/// How busy the machine is besides, and whether this run goes before the rest.
fn scheduling() -> String {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // proc(5): the policy is field 41, the 39th behind the name in brackets.
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    let policy = match behind_name.split_ascii_whitespace().nth(38) {
        Some("1" | "2") => "real-time scheduling of all participants",
        _ if is_preferred() => "all participants preferred by their nice value",
        _ => "normal scheduling",
    };
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!("{policy}, load average {load} at the start")
}

/// Whether this session or process goes before others. Where the kernel groups by session, the group's
/// value is what counts against other sessions.
fn is_preferred() -> bool {
    let group = fs::read_to_string("/proc/self/autogroup").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    // proc(5): nice is field 19.
    let own = behind_name.split_ascii_whitespace().nth(16);
    group.trim().contains("nice -") || own.is_some_and(|nice| nice.starts_with('-'))
}

/// The child of `parent`: nginx's one worker.
pub(crate) fn child_of(parent: u32) -> Result<u32, Failure> {
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        if field(&status, "PPid:").and_then(|value| value.parse().ok()) == Some(parent) {
            return Ok(pid);
        }
    }
    Err(format!("process {parent} has no child").into())
}

fn field<'s>(status: &'s str, name: &str) -> Option<&'s str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim())
}

/// The first figure of `schedstat`: nanoseconds on a core.
fn running(schedstat: &str) -> Result<Duration, Failure> {
    let nanoseconds = schedstat.split(' ').next().unwrap_or_default().parse()?;
    Ok(Duration::from_nanos(nanoseconds))
}

fn bind(core: usize) -> Result<(), Failure> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &cores)?)
}

/// Enough for ten thousand clients and as many connections to nodes.
pub(crate) const OPEN_FILES: u64 = 65_536;
