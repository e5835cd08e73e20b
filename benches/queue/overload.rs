//! A flood of requests that are refused: what one costs, and whether others feel it.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use super::load::{Crowd, Seen, count, latency_quantile};
use super::stage::{Node, Stage};
use super::{Bench, Failure};

/// One round: what the steady clients and the flood saw, and the router's CPU time.
struct Round {
    steady: Vec<Seen>,
    flood: Vec<Seen>,
    cpu: Duration,
}

/// Clients of one model that never waits, beside a flood at 1 × and at 10 × of what another model can take.
pub(crate) fn measure(bench: &Bench<'_>) -> Result<String, Failure> {
    let settings = "[load_manager]\nmax_waiting = 20\nmax_concurrent = 1000";
    let nodes = [
        Node {
            model: "steady",
            slots: 64,
            service: SERVICE,
        },
        Node {
            model: "busy",
            slots: BUSY_SLOTS,
            service: SERVICE,
        },
    ];
    let stage = Stage::start(bench, "overload", settings, &nodes, false)?;
    let mut text = String::from(
        "\n## Overload\n\n| flood | refused/s | CPU per refusal | p99 of others, calm | in the flood | ratio |\n\
         |---|---|---|---|---|---|\n",
    );
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let calm = round(&stage, 1)?;
        let flooded = round(&stage, FLOOD)?;
        let refused = count(&flooded.flood, 503).saturating_sub(count(&calm.flood, 503));
        let cost = flooded.cpu.saturating_sub(calm.cpu).as_secs_f64() * 1e6 / refused.max(1) as f64;
        let p99 =
            |round: &Round| latency_quantile(round.steady.iter(), 200, 0.99).as_secs_f64() * 1e3;
        let (before, within) = (p99(&calm), p99(&flooded));
        ratios.push(within / before);
        writeln!(
            text,
            "| {FLOOD} × | {:.0} | {cost:.1} µs | {before:.2} ms | {within:.2} ms | {:.2} |",
            refused as f64 / TIME.as_secs_f64(),
            within / before
        )?;
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len() / 2).copied().unwrap_or_default();
    writeln!(
        text,
        "\nThe flood asks for a model whose queue is full, {} × as fast as its node can answer. The others ask for \
         another model on the same worker. *Calm* is the same with a flood of 1 ×. CPU per refusal is the CPU time \
         of the whole router in the flood less that in the calm, by refusals. Median ratio of the p99: {median:.2}.",
        FLOOD
    )?;
    let calm = round(&stage, 1)?;
    let full = round(&stage, FULL_SPEED)?;
    let refused = count(&full.flood, 503).saturating_sub(count(&calm.flood, 503));
    writeln!(
        text,
        "\nAt full speed, {FLOOD_CLIENTS} clients that ask again as soon as they are refused: {:.0} refusals per second, \
         {:.1} µs of CPU each.",
        refused as f64 / TIME.as_secs_f64(),
        full.cpu.saturating_sub(calm.cpu).as_secs_f64() * 1e6 / refused.max(1) as f64
    )?;
    Ok(text)
}

fn round(stage: &Stage, factor: u32) -> Result<Round, Failure> {
    let router = stage.router;
    let capacity = BUSY_SLOTS * 1000 / SERVICE.subsec_millis();
    let flood = Crowd {
        router,
        key: None,
        model: "busy",
        count: FLOOD_CLIENTS,
        pace: match factor {
            FULL_SPEED => Duration::ZERO,
            _ => Duration::from_secs(1) * FLOOD_CLIENTS / (capacity * factor),
        },
    };
    let steady = Crowd {
        router,
        key: None,
        model: "steady",
        count: 8,
        pace: Duration::from_millis(20),
    };
    let before = stage.cpu()?;
    let (steady, flood) = thread::scope(|scope| {
        let flood = scope.spawn(move || flood.run(TIME));
        (steady.run(TIME), flood.join())
    });
    Ok(Round {
        steady: steady?,
        flood: flood.map_err(|_| "the flood failed")??,
        cpu: stage.cpu()?.saturating_sub(before),
    })
}

const SERVICE: Duration = Duration::from_millis(10);
const BUSY_SLOTS: u32 = 8;
const FLOOD: u32 = 10;
/// Stands for no pace at all.
const FULL_SPEED: u32 = u32::MAX;
const FLOOD_CLIENTS: u32 = 64;
const TIME: Duration = Duration::from_secs(4);
const ROUNDS: usize = 5;
