//! Twice as many requests as the node can take: how many get an answer, how long that takes, and who
//! is turned away.

use std::time::Duration;

use super::client::{KEY, MODEL};
use super::contender::{Contender, Stage};
use super::load::{Crowd, Seen};
use super::rivals::Rivals;
use super::series::{Outcome, Percentiles, Series};
use super::{Bench, Failure};

/// All contenders in front of a node that works on [`SLOTS`] requests at once and refuses more.
pub(crate) fn overload(
    bench: &Bench<'_>,
    rivals: &Rivals,
    rounds: usize,
) -> Result<Vec<Series>, Failure> {
    let (_process, node) = bench.start_limited_node(SLOTS, SERVICE)?;
    let contenders = rivals.all(&Stage {
        slots: Some(SLOTS),
        ..bench.stage(node, false)
    })?;
    let what = ("overload", CASE, "request");
    let series = Series::measure(what, &contenders, rounds, flood)?;
    Ok(vec![series])
}

fn flood(contender: &Contender) -> Result<Outcome, Failure> {
    let crowd = Crowd {
        router: contender.address,
        key: Some(KEY),
        model: MODEL,
        count: CLIENTS,
        pace: PACE,
    };
    let before = contender.meter.cpu()?;
    let seen = crowd.run(TIME)?;
    let after = contender.meter.cpu()?;
    let (answered, refused): (Vec<&Seen>, Vec<&Seen>) =
        seen.iter().partition(|answer| answer.status == 200);
    if let Some(other) = refused.iter().find(|answer| !is_refusal(answer.status)) {
        return Err(format!("an answer with status {}", other.status).into());
    }
    let micros = |answer: &&Seen| u32::try_from(answer.latency.as_micros()).unwrap_or(u32::MAX);
    let mut latencies: Vec<u32> = answered.iter().map(micros).collect();
    Ok(Outcome {
        unit_count: answered.len() as u64,
        seconds: TIME.as_secs_f64(),
        cpu: after.zip(before).map(|(after, before)| after - before),
        latency: Percentiles::of_us(&mut latencies),
        first_byte: None,
        refused_count: refused.len() as u64,
    })
}

/// Not now: what a client may try again.
const fn is_refusal(status: u16) -> bool {
    matches!(status, 429 | 502 | 503 | 504)
}

const SLOTS: u32 = 8;
const SERVICE: Duration = Duration::from_millis(10);
const CLIENTS: u32 = 64;
/// Of each client: 1600 requests per second in all, where the node can answer 800.
const PACE: Duration = Duration::from_millis(40);
const TIME: Duration = Duration::from_secs(2);
const CASE: &str = "1600/s, the node can take 800/s";
