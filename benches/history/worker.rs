//! CPU per request of the worker, with history and without, in turns.

use std::time::Duration;

use super::load::{Crowd, count, latency_quantile};
use super::subject::{DROPPED, MODEL, Subject, WRITTEN};
use super::{Bench, Failure};

/// One contender in one round.
#[derive(Clone, Copy)]
struct Outcome {
    worker_us: f64,
    store_us: f64,
    per_second: f64,
    p99_ms: f64,
}

pub(crate) fn measure(bench: &Bench<'_>) -> Result<String, Failure> {
    let off = Subject::start(bench, "without", false)?;
    let on = Subject::start(bench, "with", true)?;
    // Both warm: pools, caches, the file.
    round(&off)?;
    round(&on)?;
    let mut pairs = Vec::new();
    for number in 0..bench.rounds {
        // Who begins changes, so that a drift hits both alike.
        pairs.push(if number % 2 == 0 {
            let first = round(&off)?;
            (first, round(&on)?)
        } else {
            let first = round(&on)?;
            (round(&off)?, first)
        });
    }
    let (written, dropped) = (on.metric(WRITTEN)?, on.metric(DROPPED)?);
    Ok(tell(&pairs, written, dropped))
}

fn round(subject: &Subject) -> Result<Outcome, Failure> {
    let cpu = || -> Result<(Duration, Duration), Failure> {
        Ok((subject.cpu("worker")?, subject.cpu("store")?))
    };
    let (worker, store) = cpu()?;
    let crowd = Crowd {
        router: subject.stage.router,
        key: None,
        model: MODEL,
        count: CLIENTS,
        pace: Duration::ZERO,
    };
    let seen = crowd.run(ROUND)?;
    let (worker_after, store_after) = cpu()?;
    let requests = count(&seen, 200) as f64;
    let per_request = |spent: Duration| spent.as_secs_f64() * 1e6 / requests;
    Ok(Outcome {
        worker_us: per_request(worker_after.saturating_sub(worker)),
        store_us: per_request(store_after.saturating_sub(store)),
        per_second: requests / ROUND.as_secs_f64(),
        p99_ms: latency_quantile(seen.iter(), 200, 0.99).as_secs_f64() * 1e3,
    })
}

fn tell(pairs: &[(Outcome, Outcome)], written: f64, dropped: f64) -> String {
    let of = |value: fn(&Outcome) -> f64| {
        let without = median(pairs.iter().map(|(off, _)| value(off)));
        let with = median(pairs.iter().map(|(_, on)| value(on)));
        let ratio = median(pairs.iter().map(|(off, on)| value(on) / value(off)));
        (without, with, ratio)
    };
    let (worker_off, worker_on, worker_ratio) = of(|outcome| outcome.worker_us);
    let (rate_off, rate_on, rate_ratio) = of(|outcome| outcome.per_second);
    let (p99_off, p99_on, p99_ratio) = of(|outcome| outcome.p99_ms);
    let (store_off, store_on, _) = of(|outcome| outcome.store_us);
    let mut ratios: Vec<_> = pairs
        .iter()
        .map(|(off, on)| on.worker_us / off.worker_us)
        .collect();
    ratios.sort_by(f64::total_cmp);
    let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
    let share = 100.0 * dropped / (written + dropped).max(1.0);
    format!(
        "\n## What it costs the worker\n\n\
         | | without | with | ratio, median of rounds |\n|---|---|---|---|\n\
         | CPU of the worker per request | {worker_off:.2} µs | {worker_on:.2} µs | {worker_ratio:.3} |\n\
         | CPU of the store thread per request | {store_off:.2} µs | {store_on:.2} µs | |\n\
         | requests/s | {rate_off:.0} | {rate_on:.0} | {rate_ratio:.3} |\n\
         | p99 | {p99_off:.2} ms | {p99_on:.2} ms | {p99_ratio:.3} |\n\n\
         {CLIENTS} clients that ask again at once, {} rounds of {} s each, in turns; the ratio of the \
         worker's CPU lay between {least:.3} and {most:.3}. The worker has a core of its own; the store \
         thread, at its low priority, shares the other with node and clients. {written:.0} records \
         were written, {dropped:.0} dropped ({share:.1} %).\n",
        pairs.len(),
        ROUND.as_secs(),
    )
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

const CLIENTS: u32 = 16;
const ROUND: Duration = Duration::from_secs(1);
