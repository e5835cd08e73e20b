//! What admitting a request costs, alone and with all cores at it.
//!
//! Run: `cargo bench --bench admission`. Figures of an AMD EPYC with two cores, in ns for one request,
//! entering and leaving; the best of 40 rounds alone, the middle one together:
//!
//! | | alone | 2 cores at it |
//! |---|---|---|
//! | permit | 7 | 47 |
//! | permit and slot | 44 | 174 |
//! | queued | 415 | 1069 |
//!
//! *Permit* is the router-wide counter; *permit and slot* is all of what a request does that need not wait:
//! look its model up, enter, choose among three nodes, take a slot, give both back, which are four changes
//! of lines the cores share. *Queued* joins a line and leaves it again. Further tables show the choice among up
//! to a thousand nodes at several loads, alone and with all cores at it; its figures are in `benches/results/20261126-nodes.md`.
#![expect(clippy::print_stdout, reason = "a benchmark reports")]

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use llm_router::admission::{AdmissionLimits, Demand, QueueLimits};
use llm_router::nodes::{
    Admission, AliasSpec, CandidateLimits, Candidates, LocalAdmission, NodeDirectory, NodeSpec,
    NodeState, Selection, Slot,
};

/// What one worker has.
struct Worker {
    admission: LocalAdmission,
    candidates: Candidates,
}

/// One kind of work; `true` if it went as meant.
type Work = fn(&mut Worker) -> bool;

fn main() {
    let core_count = thread::available_parallelism().map_or(1, usize::from);
    println!(
        "{:<18}{:>12}{:>20}",
        "",
        "alone",
        format!("{core_count} cores at it")
    );
    let cases: [(&str, Work); 3] = [
        ("permit", enter),
        ("permit and slot", enter_and_choose),
        ("queued", wait_and_leave),
    ];
    for (name, work) in cases {
        let alone = nanos(1, work);
        let together = nanos(core_count, work);
        println!("{name:<18}{alone:>9.1} ns{together:>17.1} ns");
    }
    for thread_count in [1, core_count] {
        let title = format!("one slot among, {thread_count} cores");
        println!("\n{title:<34}{:>10}{:>10}{:>10}{:>10}", 3, 10, 100, 1000);
        for (name, held_per_node) in LOADS {
            let [three, ten, hundred, thousand] =
                [3, 10, 100, 1000].map(|count| choice_nanos(thread_count, count, held_per_node));
            println!("{name:<34}{three:>7.0} ns{ten:>7.0} ns{hundred:>7.0} ns{thousand:>7.0} ns");
        }
    }
}

/// Nanoseconds for choosing among so many nodes, taking a slot and giving one back, while so many slots of each
/// node are taken on average: those that are given back are picked at random, so loads are uneven. On so many
/// threads at once, each for itself.
fn choice_nanos(thread_count: usize, node_count: usize, held_per_node: f64) -> f64 {
    let nodes: Vec<NodeSpec> = (0..node_count)
        .map(|index| node(&index.to_string(), "m", SLOTS))
        .collect();
    let directory = online(&nodes);
    let limits = AdmissionLimits {
        max_concurrent: 1000,
        max_waiting: 1000,
        warning_threshold: 0.5,
        overload_threshold: 0.8,
    };
    let admission = Arc::new(Admission::new(limits, |_| {}));
    let held_count = (node_count as f64 * held_per_node) as usize / thread_count;
    let start = Barrier::new(thread_count);
    let times: Vec<f64> = thread::scope(|scope| {
        let threads: Vec<_> = (0..thread_count)
            .map(|index| {
                let (directory, admission) = (Arc::clone(&directory), Arc::clone(&admission));
                let start = &start;
                scope.spawn(move || {
                    let admission = LocalAdmission::new(admission, index);
                    let candidates = Candidates::new(directory, LIMITS, index, admission);
                    choices(candidates, held_count, start)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or(f64::NAN))
            .collect()
    });
    times.into_iter().fold(0.0, f64::max)
}

/// Nanoseconds of one choice of one worker that holds so many slots: the middle round.
fn choices(mut candidates: Candidates, held_count: usize, start: &Barrier) -> f64 {
    let mut select = || match candidates.select(black_box("m"), &[], NOW) {
        Selection::Slot(slot, _) => Some(slot),
        _ => None,
    };
    let mut held: Vec<Slot> = (0..held_count).filter_map(|_| select()).collect();
    assert_eq!(held.len(), held_count);
    start.wait();
    // Nothing is left to choose: what is timed is to find that out.
    let is_full = select().is_none();
    let mut random = 1_u64;
    let mut rounds: Vec<f64> = (0..SHORT_ROUNDS)
        .map(|_| {
            start.wait();
            let began = Instant::now();
            for _ in 0..CHOICES {
                let Some(slot) = select() else {
                    if is_full {
                        continue;
                    }
                    return f64::NAN;
                };
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let place = (random >> 33) as usize % held.len().max(1);
                match held.get_mut(place) {
                    Some(place) => drop(std::mem::replace(place, slot)),
                    None => drop(slot),
                }
            }
            began.elapsed().as_secs_f64() * 1e9 / f64::from(CHOICES)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds.get(SHORT_ROUNDS / 2).copied().unwrap_or(f64::NAN)
}

fn enter(worker: &mut Worker) -> bool {
    black_box(worker.admission.try_enter()).is_some()
}

fn enter_and_choose(worker: &mut Worker) -> bool {
    let permit = worker.admission.try_enter();
    let Some(model) = worker.candidates.resolve(black_box("m"), NOW) else {
        return false;
    };
    let selection = model.select(&[]);
    permit.is_some() && matches!(black_box(selection), Selection::Slot(..))
}

fn wait_and_leave(worker: &mut Worker) -> bool {
    let Some(model) = worker.candidates.resolve(black_box("full"), NOW) else {
        return false;
    };
    let limits = QueueLimits {
        max_size: 1000,
        max_place: usize::MAX,
    };
    let demand = Demand {
        group: model.model(),
        generation: model.generation(),
        key: 1,
        limits,
    };
    matches!(
        black_box(worker.admission.ask(&demand)),
        llm_router::admission::Admittance::Waits(_)
    )
}

/// Nanoseconds of one turn on `thread_count` threads at once: of many rounds the best one alone, the middle
/// one together.
fn nanos(thread_count: usize, work: Work) -> f64 {
    let directory = directory();
    let limits = AdmissionLimits {
        max_concurrent: 1000,
        max_waiting: 1000,
        warning_threshold: 0.5,
        overload_threshold: 0.8,
    };
    let admission = Arc::new(Admission::new(limits, |_| {}));
    let start = Barrier::new(thread_count);
    let times: Vec<f64> = thread::scope(|scope| {
        let threads: Vec<_> = (0..thread_count)
            .map(|index| {
                let (directory, admission) = (Arc::clone(&directory), Arc::clone(&admission));
                let start = &start;
                scope.spawn(move || {
                    let admission = LocalAdmission::new(admission, index);
                    let mut worker = Worker {
                        candidates: Candidates::new(directory, LIMITS, index, admission.clone()),
                        admission,
                    };
                    let round = |_| {
                        start.wait();
                        let began = Instant::now();
                        for _ in 0..TURNS {
                            assert!(work(&mut worker), "the work goes as meant");
                        }
                        began.elapsed().as_secs_f64() * 1e9 / f64::from(TURNS)
                    };
                    let mut rounds: Vec<f64> = (0..ROUNDS).map(round).collect();
                    rounds.sort_by(f64::total_cmp);
                    // Alone, all that is added is noise; together, the best round is one in which the others
                    // were put aside.
                    let chosen = if thread_count == 1 { 0 } else { ROUNDS / 2 };
                    rounds.get(chosen).copied().unwrap_or(f64::NAN)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or(f64::NAN))
            .collect()
    });
    times.into_iter().fold(0.0, f64::max)
}

/// Three nodes that serve `m`, and one without slots that serves `full`.
fn directory() -> Arc<NodeDirectory> {
    online(&[
        node("1", "m", 100),
        node("2", "m", 100),
        node("3", "m", 100),
        node("4", "full", 0),
    ])
}

fn online(specs: &[NodeSpec]) -> Arc<NodeDirectory> {
    let directory = Arc::new(NodeDirectory::default());
    let aliases: [AliasSpec; 0] = [];
    if let Ok(table) = directory.publish(specs, &aliases) {
        for node in table.nodes() {
            node.live.publish_state(NodeState::Online);
        }
    }
    directory
}

fn node(name: &str, model: &str, max_concurrency: u32) -> NodeSpec {
    NodeSpec {
        name: name.into(),
        addresses: Vec::new(),
        host_header: "h".into(),
        path_prefix: "".into(),
        authorization: None,
        models: vec![model.into()],
        max_concurrency,
        weight: 1,
    }
}

/// Taken slots of each node, of [`SLOTS`], on average.
const LOADS: [(&str, f64); 6] = [
    ("idle", 0.0),
    ("a tenth of the slots taken", 0.4),
    ("half of them", 2.0),
    ("nine tenths", 3.6),
    ("all but one in a hundred", 3.96),
    ("all: none is to be had", 4.0),
];
const SLOTS: u32 = 4;
/// So few that a round is mostly over before the machine turns to something else.
const CHOICES: u32 = 1000;
const SHORT_ROUNDS: usize = 400;
const NOW: Duration = Duration::from_secs(1000);
const LIMITS: CandidateLimits = CandidateLimits {
    max_capacity: 100,
    ttl: Duration::from_secs(5),
};
const TURNS: u32 = 100_000;
const ROUNDS: usize = 40;
