//! What the request history costs, and how fast it answers.
//!
//! `cargo bench --bench history [-- worker|stall|queries|all] [--rounds N] [--save]`; needs two cores and
//! takes about five minutes. The router's worker has one core; nodes, clients and the store share the
//! other. Must never judge by one figure: with and without history take turns in short rounds.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark talks to a terminal"
)]

#[path = "../proxy/date.rs"]
mod date;
#[path = "../queue/load.rs"]
#[allow(
    dead_code,
    reason = "shared with another benchmark, which uses the rest"
)]
mod load;
#[path = "../proxy/machine.rs"]
#[allow(
    dead_code,
    reason = "shared with another benchmark, which uses the rest"
)]
mod machine;
#[path = "../proxy/process.rs"]
#[allow(
    dead_code,
    reason = "shared with another benchmark, which uses the rest"
)]
mod process;
mod queries;
#[path = "../queue/stage.rs"]
#[allow(
    dead_code,
    reason = "shared with another benchmark, which uses the rest"
)]
mod stage;
mod stall;
mod subject;
mod worker;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use machine::{Cores, Failure};
use process::Workspace;

/// A subject: its name, and what measures it and tells of it in Markdown.
type Subject = (&'static str, fn(&Bench<'_>) -> Result<String, Failure>);

/// What every subject needs.
struct Bench<'b> {
    cores: Cores,
    workspace: &'b Workspace,
    rounds: usize,
}

const SUBJECTS: [Subject; 3] = [
    ("worker", worker::measure),
    ("stall", stall::measure),
    ("queries", queries::measure),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    // Test runners ask every target for its tests; there are none here.
    if arguments
        .iter()
        .any(|word| word == "--list" || word == "--test")
    {
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Failure> {
    let is_named = |name: &str| arguments.iter().any(|word| word == name);
    let is_wanted = |subject: &&Subject| is_named(subject.0) || is_named("all");
    let subjects: Vec<&Subject> = SUBJECTS.iter().filter(is_wanted).collect();
    if subjects.is_empty() {
        return Err("say what: worker, stall, queries or all; and --save to keep it".into());
    }
    let rounds = arguments.iter().skip_while(|word| *word != "--rounds");
    let rounds = rounds.skip(1).map(|word| word.parse::<usize>()).next();
    let workspace = Workspace::create()?;
    let bench = Bench {
        cores: Cores::claim()?,
        workspace: &workspace,
        rounds: rounds.transpose()?.unwrap_or(ROUNDS).max(1),
    };
    let router = machine::version(Path::new(stage::ROUTER), "--version");
    let mut report = format!(
        "# The request history\n\n{}; {router}\n",
        machine::description()
    );
    for (name, measure) in subjects {
        eprintln!("measuring {name} …");
        report.push_str(&measure(&bench)?);
    }
    println!("{report}");
    if is_named("--save") {
        let path = format!("benches/results/{}-history.md", date::today(""));
        fs::write(&path, &report)?;
        println!("saved as {path}");
    }
    Ok(())
}

/// Rounds of each contender.
const ROUNDS: usize = 15;
