//! What requests notice when another process keeps the database locked for ten seconds.

use std::path::Path;
use std::time::{Duration, Instant};

use super::load::{Crowd, Seen, count, latency_quantile};
use super::process::{pause, wait_until};
use super::subject::{DROPPED, MODEL, Subject, WRITTEN};
use super::{Bench, Failure};

pub(crate) fn measure(bench: &Bench<'_>) -> Result<String, Failure> {
    let subject = Subject::start(bench, "stalled", true)?;
    let database = subject.stage.access_log.with_file_name("data");
    let database = database.join("llm-router.db");
    crowd(&subject).run(Duration::from_secs(2))?;
    let calm = crowd(&subject).run(STALL)?;
    let seen = std::thread::scope(|scope| {
        let locking = scope.spawn(|| lock(&database));
        let seen = crowd(&subject).run(STALL + LEAD);
        locking.join().map_err(|_| "locking failed")??;
        seen
    })?;
    let began = Instant::now();
    let total =
        || -> Result<f64, Failure> { Ok(subject.metric(WRITTEN)? + subject.metric(DROPPED)?) };
    let mut last = total()?;
    // Written when nothing more comes in for a second.
    wait_until("the records are written", Duration::from_secs(60), || {
        pause(Duration::from_secs(1));
        let now = total().unwrap_or(last);
        std::mem::replace(&mut last, now) == now
    })?;
    let caught_up = began.elapsed().saturating_sub(Duration::from_secs(1));
    let (written, dropped) = (subject.metric(WRITTEN)?, subject.metric(DROPPED)?);
    let stalled: Vec<Seen> = seen
        .into_iter()
        .filter(|answer| answer.sent >= LEAD)
        .collect();
    let row = |name: &str, seen: &[Seen]| {
        let quantile = |quantile| latency_quantile(seen.iter(), 200, quantile).as_secs_f64() * 1e3;
        format!(
            "| {name} | {} | {:.2} ms | {:.2} ms | {:.2} ms | {:.2} ms |\n",
            count(seen, 200),
            quantile(0.5),
            quantile(0.99),
            quantile(0.999),
            quantile(1.0),
        )
    };
    Ok(format!(
        "\n## While the database stands still\n\n\
         | | requests | p50 | p99 | p99.9 | longest |\n|---|---|---|---|---|---|\n{}{}\n\
         {CLIENTS} clients, a request every {} ms each. For {} s another process holds the database \
         locked against writers; then the router writes what waited, within {:.1} s. {written:.0} records \
         were written in all, {dropped:.0} dropped.\n",
        row("calm", &calm),
        row("locked", &stalled),
        PACE.as_millis(),
        STALL.as_secs(),
        caught_up.as_secs_f64(),
    ))
}

fn crowd(subject: &Subject) -> Crowd {
    Crowd {
        router: subject.stage.router,
        key: None,
        model: MODEL,
        count: CLIENTS,
        pace: PACE,
    }
}

/// Keeps everyone else from writing.
fn lock(database: &Path) -> Result<(), Failure> {
    let stranger = rusqlite::Connection::open(database)?;
    stranger.busy_timeout(Duration::from_secs(1))?;
    stranger.execute_batch("BEGIN EXCLUSIVE")?;
    pause(LEAD + STALL);
    stranger.execute_batch("COMMIT")?;
    Ok(())
}

const CLIENTS: u32 = 16;
const PACE: Duration = Duration::from_millis(20);
const STALL: Duration = Duration::from_secs(10);
/// Until the lock is certainly held.
const LEAD: Duration = Duration::from_secs(1);
