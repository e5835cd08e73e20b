//! The router beside nginx: CPU per request and per event, body sizes, memory per connection.
//!
//! `cargo bench --bench proxy [-- unary|sse|bodies|memory|all] [--rounds N] [--io-driver NAME]`; needs
//! `wrk`, `nginx` and two cores. `-- compare [unary|bodies|sse|latency|overload|memory]` measures the router beside its epoll
//! driver, nginx, HAProxy where it is installed, the builds on tokio of `benches/tokio` and a bare relay.
//! Must never judge by one figure: contenders take turns in short rounds and only ratios within a round
//! count, because machines drift. Must never touch a process it did not start.
//!
//! On a busy machine let the run go before the rest: `nice -n -20`, and where the kernel groups by
//! session (`/proc/self/autogroup` exists) `echo -20 > /proc/self/autogroup` in the shell. Real-time
//! priority is worse: the kernel takes a pause of 50 ms in each second from it.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark talks to a terminal"
)]

mod client;
mod compare;
mod comparison;
mod contender;
mod date;
#[path = "../queue/load.rs"]
#[allow(
    dead_code,
    reason = "shared with another benchmark, which uses the rest"
)]
mod load;
mod machine;
mod memory;
mod options;
mod overload;
mod process;
mod relay;
mod report;
mod rivals;
mod role;
mod series;
mod streams;
mod targets;
mod throughput;
mod wrk;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use llm_router::runtime;

use contender::Stage;
use machine::{Cores, Failure};
use options::{Options, Subject};
use process::{Process, Workspace};
use report::Report;

/// What every subject needs.
struct Bench<'b> {
    options: &'b Options,
    cores: Cores,
    workspace: &'b Workspace,
    wrk: &'b Path,
    nginx: &'b Path,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = role::play(&arguments).unwrap_or_else(|| {
        Options::read(arguments.into_iter())?.map_or(Ok(()), |options| run(&options))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    let wrk = machine::tool("wrk", "-v")?;
    let nginx = machine::tool("nginx", "-v")?;
    let cores = Cores::claim()?;
    let workspace = Workspace::create()?;
    let bench = Bench {
        options,
        cores,
        workspace: &workspace,
        wrk: &wrk,
        nginx: &nginx,
    };
    if options.compare {
        return compare_all(&bench);
    }
    let mut report = Report {
        setting: bench.setting()?,
        ..Report::default()
    };
    for subject in &options.subjects {
        bench.say(&format!("measuring {} …", subject.name()));
        match subject {
            Subject::Unary => report.series.extend(throughput::unary(&bench)?),
            Subject::Sse => report.series.extend(throughput::sse(&bench)?),
            Subject::Bodies => report.series.extend(throughput::bodies(&bench)?),
            Subject::Memory => report.footprints.extend(memory::memory(&bench)?),
            Subject::Latency | Subject::Overload => {
                return Err(format!("{} is a part of compare", subject.name()).into());
            }
        }
    }
    println!("\n{}", report.markdown());
    if options.save {
        let run = match options.subjects.as_slice() {
            [only] => format!("proxy-{}", only.name()),
            _ => "proxy".to_owned(),
        };
        println!("saved as benches/results/{}", report.save(&run)?);
    }
    Ok(())
}

/// The results go to `benches/results/` with `--save`, else beside the builds: they take long to get.
fn compare_all(bench: &Bench<'_>) -> Result<(), Failure> {
    let comparison = compare::compare(bench)?;
    println!("\n{}", comparison.markdown());
    let directory = match bench.options.save {
        true => Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results"),
        false => Path::new(env!("CARGO_TARGET_TMPDIR")).join("compare"),
    };
    for path in comparison.save(&directory)? {
        println!("saved as {}", path.display());
    }
    Ok(())
}

impl<'b> Bench<'b> {
    /// Starts a mock node on the load's core; with an interval of zero it answers at once, else its
    /// streams have an event each interval.
    fn start_node(&self, interval: Duration) -> Result<(Process, SocketAddr), Failure> {
        let interval_ms = interval.as_millis().to_string();
        let arguments = [role::NODE, &interval_ms, "0", "0"].map(str::to_owned);
        role::start(self.workspace, &arguments)
    }

    /// Starts a mock node that works on so many requests at once, on each for so long, and refuses more.
    fn start_limited_node(
        &self,
        slots: u32,
        service: Duration,
    ) -> Result<(Process, SocketAddr), Failure> {
        let (slots, service_ms) = (slots.to_string(), service.as_millis().to_string());
        let arguments = [role::NODE, "0", &slots, &service_ms].map(str::to_owned);
        role::start(self.workspace, &arguments)
    }

    fn stage(&self, node: SocketAddr, streaming: bool) -> Stage<'b> {
        Stage {
            options: self.options,
            cores: self.cores,
            workspace: self.workspace,
            nginx: self.nginx,
            node,
            streaming,
            kept: contender::KEPT,
            slots: None,
            has_history: false,
        }
    }

    /// Tells whoever waits how far it is.
    fn say(&self, message: &str) {
        eprintln!("{message}");
    }

    fn setting(&self) -> Result<Vec<String>, Failure> {
        let driver = runtime::choose(self.options.io_driver)?.driver;
        let router = machine::version(&self.options.router, "--version");
        let wrk = machine::version(self.wrk, "-v");
        let wrk = wrk.split(" Copyright").next().unwrap_or_default();
        Ok(vec![
            machine::description(),
            format!(
                "{router}, I/O driver {driver}; {}; {wrk}; {}",
                machine::version(self.nginx, "-v"),
                machine::version(Path::new("rustc"), "--version"),
            ),
        ])
    }
}
