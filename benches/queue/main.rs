//! What the queue does under load: what a refusal costs, whether a flood of them is felt by others, how
//! soon the router is itself again, and how true its estimates are.
//!
//! `cargo bench --bench queue [-- overload|recovery|estimate|all] [--save]`; needs two cores and takes
//! about four minutes. The router runs alone on one core; nodes and clients share the other.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark talks to a terminal"
)]

#[path = "../proxy/date.rs"]
mod date;
mod estimate;
mod load;
#[path = "../proxy/machine.rs"]
#[allow(
    dead_code,
    reason = "shared with another benchmark, which uses the rest"
)]
mod machine;
mod overload;
#[path = "../proxy/process.rs"]
#[allow(
    dead_code,
    reason = "shared with another benchmark, which uses the rest"
)]
mod process;
mod recovery;
mod stage;

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
}

const SUBJECTS: [Subject; 3] = [
    ("overload", overload::measure),
    ("recovery", recovery::measure),
    ("estimate", estimate::measure),
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
    let wanted: Vec<&String> = arguments
        .iter()
        .filter(|word| !word.starts_with("--"))
        .collect();
    let is_wanted = |name: &str| wanted.iter().any(|word| *word == name || *word == "all");
    let subjects: Vec<&Subject> = SUBJECTS
        .iter()
        .filter(|(name, _)| is_wanted(name))
        .collect();
    if subjects.is_empty() {
        return Err("say what: overload, recovery, estimate or all; and --save to keep it".into());
    }
    let workspace = Workspace::create()?;
    let bench = Bench {
        cores: Cores::claim()?,
        workspace: &workspace,
    };
    let router = machine::version(Path::new(stage::ROUTER), "--version");
    let mut report = format!(
        "# The queue under load\n\n{}; {router}\n",
        machine::description()
    );
    for (name, measure) in subjects {
        eprintln!("measuring {name} …");
        report.push_str(&measure(&bench)?);
    }
    println!("{report}");
    if arguments.iter().any(|word| word == "--save") {
        let path = format!("benches/results/{}-queue.md", date::today(""));
        fs::write(&path, &report)?;
        println!("saved as {path}");
    }
    Ok(())
}
