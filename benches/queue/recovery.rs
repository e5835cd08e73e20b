//! A minute of far too much, then a load the nodes can take: how soon the router is itself again.

use std::fmt::Write as _;
use std::time::Duration;

use super::load::{Crowd, Seen, count, latency_quantile};
use super::stage::{Node, Stage};
use super::{Bench, Failure};

pub(crate) fn measure(bench: &Bench<'_>) -> Result<String, Failure> {
    let settings = "[load_manager]\nmax_waiting = 100\nmax_concurrent = 1000";
    let nodes = [Node {
        model: "m",
        slots: SLOTS,
        service: SERVICE,
    }];
    let stage = Stage::start(bench, "recovery", settings, &nodes, false)?;
    let crowd = |tenths: u32| {
        let per_second = SLOTS * 1000 / SERVICE.subsec_millis() * tenths / 10;
        Crowd {
            router: stage.router,
            key: None,
            model: "m",
            count: CLIENTS,
            pace: Duration::from_secs(1) * CLIENTS / per_second,
        }
    };
    let before = crowd(8).run(Duration::from_secs(10))?;
    let during = crowd(30).run(Duration::from_secs(60))?;
    let after = crowd(8).run(Duration::from_secs(15))?;
    let usual = latency_quantile(before.iter(), 200, 0.99);
    let mut text = format!(
        "\n## Recovery\n\np99 at 0.8 × capacity: {:.1} ms. Then 60 s at 3 ×: {} answered with a p99 of {:.1} ms, {} \
         refused. Then 0.8 × again:\n\n| second | answered | refused | p99 |\n|---|---|---|---|\n",
        ms(usual),
        count(&during, 200),
        ms(latency_quantile(during.iter(), 200, 0.99)),
        count(&during, 503),
    );
    for second in 0..12 {
        let of_second = of_second(&after, second);
        writeln!(
            text,
            "| {second} | {} | {} | {:.1} ms |",
            count(&of_second, 200),
            count(&of_second, 503),
            ms(latency_quantile(of_second.iter(), 200, 0.99))
        )?;
    }
    Ok(text)
}

fn of_second(seen: &[Seen], second: u64) -> Vec<Seen> {
    seen.iter()
        .filter(|answer| answer.sent.as_secs() == second)
        .cloned()
        .collect()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

const SERVICE: Duration = Duration::from_millis(20);
const SLOTS: u32 = 8;
const CLIENTS: u32 = 200;
