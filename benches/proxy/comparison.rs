//! What the comparison found: a table, every round as CSV, and the medians in the columns that
//! `tools/benchmarks/plot_csv.py` draws.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::contender::ROUTER;
use super::memory::{self, Footprint};
use super::series::{Outcome, Percentiles, Series, Spread};
use super::throughput::NO_PROXY;
use super::{Failure, date, targets};

/// Everything that was compared.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// Lines about machine, versions and configuration.
    pub(crate) setting: Vec<String>,
    pub(crate) series: Vec<Series>,
    pub(crate) footprints: Vec<Footprint>,
}

impl Comparison {
    /// The whole as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut out = format!("# The router beside others, {}\n\n", date::today("-"));
        for line in &self.setting {
            let _ = writeln!(out, "- {line}");
        }
        let rounds = self.series.iter().map(|series| series.rounds.len()).max();
        let _ = writeln!(out, "- {} rounds of each case", rounds.unwrap_or_default());
        let _ = writeln!(out, "\n## Method\n\n{METHOD}");
        for (subject, title) in SUBJECTS {
            let series: Vec<&Series> = self.of(subject).collect();
            if !series.is_empty() {
                let table = match subject {
                    LATENCY => added_latency(&series),
                    OVERLOAD => goodput(&series),
                    _ => table(&series),
                };
                let _ = writeln!(out, "\n## {title}\n\n{}", table.trim_end());
            }
        }
        if !self.footprints.is_empty() {
            let table = memory::table(&self.footprints);
            let _ = writeln!(out, "\n## Memory\n\n{}", table.trim_end());
        }
        let _ = writeln!(out, "\n## Targets\n\n{}", targets::table(self).trim_end());
        out
    }

    /// Writes Markdown and CSV into a directory and draws what can be drawn; the files.
    pub(crate) fn save(&self, directory: &Path) -> Result<Vec<PathBuf>, Failure> {
        fs::create_dir_all(directory)?;
        let run = format!("{}-compare", date::today(""));
        let mut written = Vec::new();
        let mut write = |name: String, text: String| -> Result<PathBuf, Failure> {
            let path = directory.join(name);
            fs::write(&path, text)?;
            written.push(path.clone());
            Ok(path)
        };
        write(format!("{run}.md"), self.markdown())?;
        write(format!("{run}.csv"), self.rounds_csv())?;
        let mut medians = Vec::new();
        for (subject, title) in SUBJECTS {
            if self.of(subject).next().is_some() {
                let name = format!("{run}-{subject}.csv");
                medians.push((write(name, self.medians_csv(subject))?, title));
            }
        }
        for (csv, title) in medians {
            written.extend(draw(&csv, title)?);
        }
        Ok(written)
    }

    fn of<'c>(&'c self, subject: &'c str) -> impl Iterator<Item = &'c Series> {
        self.series
            .iter()
            .filter(move |series| series.subject == subject)
    }

    /// Every single round.
    fn rounds_csv(&self) -> String {
        let mut out = String::from(
            "subject,case,contender,round,unit,units,seconds,cpu_us_per_unit,units_per_second,\
             p50_ms,p95_ms,p99_ms,first_byte_p50_ms,first_byte_p99_ms\n",
        );
        for series in &self.series {
            for (index, round) in series.rounds.iter().enumerate() {
                for (name, outcome) in series.names.iter().zip(round) {
                    let cpu = outcome.cpu_us().map(|us| format!("{us:.3}"));
                    let first = outcome.first_byte;
                    let first =
                        first.map(|first| format!("{:.3},{:.3}", first.p50_ms, first.p99_ms));
                    let Percentiles {
                        p50_ms,
                        p95_ms,
                        p99_ms,
                        ..
                    } = outcome.latency;
                    let _ = writeln!(
                        out,
                        "{},\"{}\",\"{name}\",{},{},{},{:.3},{},{:.0},{p50_ms:.3},{p95_ms:.3},{p99_ms:.3},{}",
                        series.subject,
                        series.case,
                        index + 1,
                        series.unit,
                        outcome.unit_count,
                        outcome.seconds,
                        cpu.unwrap_or_default(),
                        outcome.rate(),
                        first.unwrap_or_else(|| ",".to_owned()),
                    );
                }
            }
        }
        out
    }

    /// The medians over the rounds, one row for each case and contender. A run with failures has no
    /// rows: it failed.
    fn medians_csv(&self, subject: &str) -> String {
        let mut out = String::from(
            "label,rps,p50_ms,p75_ms,p90_ms,p95_ms,p99_ms,non2xx,socket_errors,requests,duration_s\n",
        );
        for series in self.of(subject) {
            for name in &series.names {
                let median = |figure: fn(&Outcome) -> f64| {
                    let spread = series.spread(name, |outcome| Some(figure(outcome)));
                    spread.map_or(0.0, |spread| spread.median)
                };
                let sum = |figure: fn(&Outcome) -> f64| {
                    let at = series.names.iter().position(|other| other == name);
                    let at = at.unwrap_or_default();
                    let rounds = series.rounds.iter().filter_map(|round| round.get(at));
                    rounds.map(figure).sum::<f64>()
                };
                let _ = writeln!(
                    out,
                    "\"{} {name}\",{:.3},{:.3},{:.3},{:.3},{:.3},{:.3},0,0,{},{:.3}",
                    series.case,
                    median(|outcome| outcome.rate()),
                    median(|outcome| outcome.latency.p50_ms),
                    median(|outcome| outcome.latency.p75_ms),
                    median(|outcome| outcome.latency.p90_ms),
                    median(|outcome| outcome.latency.p95_ms),
                    median(|outcome| outcome.latency.p99_ms),
                    sum(|outcome| outcome.unit_count as f64),
                    sum(|outcome| outcome.seconds),
                );
            }
        }
        out
    }
}

fn table(series: &[&Series]) -> String {
    let is_streaming = series.iter().any(|series| series.unit == "event");
    let mut out = String::from(match is_streaming {
        true => STREAM_COLUMNS,
        false => REQUEST_COLUMNS,
    });
    for series in series {
        for name in &series.names {
            let of = |figure: fn(&Outcome) -> Option<f64>| series.spread(name, figure);
            let against =
                |figure: fn(&Outcome) -> Option<f64>| series.ratio_of(name, ROUTER, figure);
            let _ = write!(
                out,
                "| {} | {name} | {} | {} | {} | {} | {} | {} |",
                series.case,
                plain(of(Outcome::cpu_us), 2),
                ratio(against(Outcome::cpu_us)),
                plain(of(|outcome| Some(outcome.rate())), 0),
                ratio(against(|outcome| Some(outcome.rate()))),
                plain(of(|outcome| Some(outcome.latency.p50_ms)), 2),
                plain(of(|outcome| Some(outcome.latency.p99_ms)), 2),
            );
            if is_streaming {
                let _ = write!(
                    out,
                    " {} | {} |",
                    plain(of(|outcome| Some(outcome.first_byte?.p50_ms)), 2),
                    plain(of(|outcome| Some(outcome.first_byte?.p99_ms)), 2),
                );
            }
            out.push('\n');
        }
    }
    out
}

/// What gets through when more is asked than a node can take.
fn goodput(series: &[&Series]) -> String {
    let mut out = String::from(OVERLOAD_COLUMNS);
    for series in series {
        for name in &series.names {
            let of = |figure: fn(&Outcome) -> Option<f64>| series.spread(name, figure);
            let _ = writeln!(
                out,
                "| {} | {name} | {} | {} | {} | {} | {} | {} |",
                series.case,
                plain(of(|outcome| Some(outcome.rate())), 0),
                ratio(series.ratio_of(name, ROUTER, |outcome| Some(outcome.rate()))),
                plain(of(|outcome| Some(outcome.refused_share() * 100.0)), 1),
                plain(of(|outcome| Some(outcome.latency.p50_ms)), 1),
                plain(of(|outcome| Some(outcome.latency.p99_ms)), 1),
                plain(of(Outcome::cpu_us), 1),
            );
        }
    }
    out
}

/// What stands between a client and a node that it could also ask itself.
fn added_latency(series: &[&Series]) -> String {
    let mut out = String::from(LATENCY_COLUMNS);
    for series in series {
        for name in &series.names {
            let _ = write!(out, "| {} | {name} |", series.case);
            for figure in [
                |outcome: &Outcome| outcome.latency.p50_ms * 1000.0,
                |outcome: &Outcome| outcome.latency.p99_ms * 1000.0,
            ] {
                let own = plain(series.spread(name, |outcome| Some(figure(outcome))), 0);
                let added = series.difference(name, NO_PROXY, figure);
                let added = added.map_or_else(String::new, |it| {
                    format!("{:+.0} ({:+.0} to {:+.0})", it.median, it.min, it.max)
                });
                let _ = write!(out, " {own} | {added} |");
            }
            out.push('\n');
        }
    }
    out
}

fn plain(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(|| "–".to_owned(), |it| format!("{:.digits$}", it.median))
}

fn ratio(spread: Option<Spread>) -> String {
    spread.map_or_else(
        || "–".to_owned(),
        |it| format!("{:.3} ({:.3}–{:.3})", it.median, it.min, it.max),
    )
}

/// Draws a file of medians with the benchmark tools; nothing if matplotlib is not there.
fn draw(csv: &Path, title: &str) -> Result<Option<PathBuf>, Failure> {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/benchmarks/plot_csv.py");
    let picture = csv.with_extension("png");
    let Ok(output) = Command::new("python3")
        .arg(tool)
        .arg("-o")
        .arg(&picture)
        .args(["--title", title])
        .arg(csv)
        .output()
    else {
        return Ok(None);
    };
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(Some(picture)),
        false if said.contains("matplotlib is needed") => Ok(None),
        false => Err(format!("cannot draw {}: {said}", csv.display()).into()),
    }
}

/// Subjects and what they are called.
const SUBJECTS: [(&str, &str); 5] = [
    ("unary", "Short chats, by connections"),
    ("bodies", "Chats by size, 64 connections"),
    (
        "sse",
        "Streams (latency: the gap between two events; a request: an event)",
    ),
    (
        LATENCY,
        "Added latency: less that without a proxy, within a round",
    ),
    (
        OVERLOAD,
        "Overload: twice as many requests as the node can take",
    ),
];
pub(crate) const LATENCY: &str = "latency";
const OVERLOAD: &str = "overload";
const OVERLOAD_COLUMNS: &str = "\
| case | contender | answers/s | ÷ router: median (min–max) | refused, % | p50, ms | p99, ms | CPU per answer, µs |
|---|---|---|---|---|---|---|---|
";
const REQUEST_COLUMNS: &str = "\
| case | contender | CPU per request, µs | ÷ router: median (min–max) | requests/s | ÷ router | p50, ms | p99, ms |
|---|---|---|---|---|---|---|---|
";
const LATENCY_COLUMNS: &str = "\
| case | contender | p50, µs | added: median (min to max) | p99, µs | added: median (min to max) |
|---|---|---|---|---|---|
";
const STREAM_COLUMNS: &str = "\
| case | contender | CPU per event, µs | ÷ router: median (min–max) | events/s | ÷ router | gap p50, ms | gap p99, ms | first byte p50, ms | first byte p99, ms |
|---|---|---|---|---|---|---|---|---|---|
";
const METHOD: &str = "\
One worker of each contender bound to one core; the mock node and the load bound to another. The contenders take turns
in rounds of one second, in alternating order, after a round each that does not count. CPU time is that of all threads
of the process (nginx: its worker) from `/proc/PID/task/*/schedstat`, divided by the requests `wrk` completed or the
events the client received. What counts is the median of the ratios within a round, because the machine drifts. A run
with any answer that is no success, a failed connection, or an event that is lost, crossed or out of order fails as a
whole.

- router: key required, routing, admission, queue and metrics on; access log and request history off, like the others';
  on io_uring, and on epoll. `router, history` is the router as it comes: each request becomes a row of its database,
  written by a thread of its own, whose CPU time is in the figure and which shares the one core with the worker here.
- nginx and haproxy: reverse proxies without key check or routing, no log; request bodies in memory, streams unbuffered
  (`proxy_buffering off`, `option http-no-delay`).
- hyper-per-core and axum-reqwest: `benches/tokio`, with the router's own configuration, key check, model peek,
  admission and node selection, without queue, probes, metrics and stream timeouts. The one: a pinned single-threaded
  tokio runtime per core, hyper on both sides. The other: axum and reqwest on the work-stealing runtime.
- Each keeps up to 512 idle connections to the node. unary and bodies: `wrk -t1`, chat POST with key.
- Streams: opened anew for each round and watched for one second after three events each; 20 000 events per second over
  all streams. Client and node share a core, which is part of every gap.
- Added latency: the same client asks the node itself (`no proxy`) in a turn of each round; its figure is taken off the
  others'. Without a proxy client and node take turns on one core, with one they work beside it: on two cores the
  difference contains the wake-ups between cores. The streams have 5000 events per second in all.
- Overload: a node that works on 8 requests at once for 10 ms each and refuses more with 503; 64 clients ask every 40 ms
  each, unless they still wait. The router and HAProxy (`maxconn 8`) know the node's slots and let the rest wait, the
  builds on tokio know them and refuse, nginx passes everything on. Latency is that of the answers with 200.
- Memory: growth of resident memory of a fresh process, by connections. Idle: kept alive after one exchange, opened in
  batches of 64. Streaming: an event each 250 ms.
- bare relay: the router's runtime, reading, framing and forwarding, nothing else: what no proxy on it can be below.";
