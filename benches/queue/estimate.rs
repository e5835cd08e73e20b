//! How true the estimated wait is: `X-Estimated-Wait` beside the wait the access record tells.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::thread;
use std::time::Duration;

use super::load::{Crowd, Seen};
use super::process::pause;
use super::stage::{Node, Stage};
use super::{Bench, Failure};

/// One record, as far as it matters here.
#[derive(serde::Deserialize)]
struct Record {
    request_id: String,
    phase_us: Phases,
}

#[derive(serde::Deserialize)]
struct Phases {
    queue: u64,
}

pub(crate) fn measure(bench: &Bench<'_>) -> Result<String, Failure> {
    let settings = "[load_manager]\nmax_waiting = 200\nmax_concurrent = 1000";
    // A fast node and a slow one, so that services differ.
    let nodes = [
        Node {
            model: "m",
            slots: 4,
            service: Duration::from_millis(400),
        },
        Node {
            model: "m",
            slots: 4,
            service: Duration::from_millis(1200),
        },
    ];
    let stage = Stage::start(bench, "estimate", settings, &nodes, true)?;
    let crowd = |count| Crowd {
        router: stage.router,
        key: None,
        model: "m",
        count,
        pace: Duration::ZERO,
    };
    // The crowd grows, so that places and waits differ too.
    let seen: Vec<Seen> = thread::scope(|scope| {
        let crowds: Vec<_> = (0..4)
            .map(|wave| {
                scope.spawn(move || {
                    pause(WAVE * wave);
                    crowd(16).run(WAVE * (5 - wave))
                })
            })
            .collect();
        let mut seen = Vec::new();
        for crowd in crowds {
            seen.extend(crowd.join().map_err(|_| "a crowd failed")??);
        }
        Ok::<_, Failure>(seen)
    })?;
    // The log is written behind the requests.
    pause(Duration::from_secs(1));
    let log = fs::read_to_string(&stage.access_log)?;
    let waits: HashMap<String, f64> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Record>(line).ok())
        .map(|record| (record.request_id, record.phase_us.queue as f64 / 1e6))
        .collect();
    report(&seen, &waits)
}

fn report(seen: &[Seen], waits: &HashMap<String, f64>) -> Result<String, Failure> {
    let pairs: Vec<(f64, f64)> = seen
        .iter()
        .filter_map(|answer| {
            Some((
                f64::from(answer.estimate_secs?),
                *waits.get(&answer.request_id)?,
            ))
        })
        .collect();
    if pairs.is_empty() {
        return Err("nobody waited".into());
    }
    let mut text = String::from(
        "\n## Estimated and actual wait\n\n| estimate | requests | mean actual wait | mean error | mean size of error |\n\
         |---|---|---|---|---|\n",
    );
    let mut estimates: Vec<u32> = pairs.iter().map(|(estimate, _)| *estimate as u32).collect();
    estimates.sort_unstable();
    estimates.dedup();
    for estimate in estimates {
        let of_this = pairs.iter().filter(|(said, _)| *said as u32 == estimate);
        row(
            &mut text,
            &format!("{estimate} s"),
            &of_this.copied().collect::<Vec<_>>(),
        )?;
    }
    row(&mut text, "all", &pairs)?;
    let close = pairs
        .iter()
        .filter(|(said, was)| (said - was).abs() <= 1.0)
        .count();
    writeln!(
        text,
        "\n{:.0} % of the estimates are within one second of the wait. The estimate is rounded up to whole seconds, so a \
         perfect one is half a second too high on average. Two nodes of four slots, 0.4 s and 1.2 s per service; the \
         crowd grows from 16 to 64 clients.",
        100.0 * close as f64 / pairs.len() as f64
    )?;
    Ok(text)
}

fn row(text: &mut String, name: &str, pairs: &[(f64, f64)]) -> Result<(), Failure> {
    let mean = |value: &dyn Fn(&(f64, f64)) -> f64| {
        pairs.iter().map(value).sum::<f64>() / pairs.len().max(1) as f64
    };
    writeln!(
        text,
        "| {name} | {} | {:.2} s | {:+.2} s | {:.2} s |",
        pairs.len(),
        mean(&|(_, was)| *was),
        mean(&|(said, was)| said - was),
        mean(&|(said, was)| (said - was).abs())
    )?;
    Ok(())
}

const WAVE: Duration = Duration::from_secs(6);
