//! The tables: to the terminal, and as Markdown and CSV into `benches/results/`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::contender::{NGINX, ROUTER};
use super::memory::{self, Footprint, Kind};
use super::series::{Series, Spread};
use super::{Failure, date};

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Lines about machine, versions and configuration.
    pub(crate) setting: Vec<String>,
    pub(crate) series: Vec<Series>,
    pub(crate) footprints: Vec<Footprint>,
}

impl Report {
    /// The whole as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut out = format!("# The router beside nginx, {}\n\n", date::today("-"));
        for line in &self.setting {
            let _ = writeln!(out, "- {line}");
        }
        let _ = writeln!(out, "\n## Method\n\n{METHOD}\n");
        if !self.series.is_empty() {
            out.push_str("## CPU and throughput\n\n");
            out.push_str(&self.series_table());
        }
        if !self.footprints.is_empty() {
            out.push_str("\n## Memory\n\n");
            out.push_str(&memory::table(&self.footprints));
        }
        out.push_str("\n## Targets\n\n");
        out.push_str(&self.target_table());
        out
    }

    /// Every single round.
    pub(crate) fn csv(&self) -> String {
        let mut out = String::from(
            "subject,case,contender,round,unit,units,seconds,cpu_us_per_unit,units_per_second,p99_ms\n",
        );
        for series in &self.series {
            for (index, round) in series.rounds.iter().enumerate() {
                for (name, outcome) in series.names.iter().zip(round) {
                    let cpu = outcome.cpu_us().map(|us| format!("{us:.3}"));
                    let _ = writeln!(
                        out,
                        "{},\"{}\",\"{name}\",{},{},{},{:.3},{},{:.0},{:.3}",
                        series.subject,
                        series.case,
                        index + 1,
                        series.unit,
                        outcome.unit_count,
                        outcome.seconds,
                        cpu.unwrap_or_default(),
                        outcome.rate(),
                        outcome.latency.p99_ms,
                    );
                }
            }
        }
        for seen in &self.footprints {
            let _ = writeln!(
                out,
                "memory,\"{}\",\"{}\",1,byte,{},,,,",
                seen.kind.name(),
                seen.name,
                seen.bytes_each().round(),
            );
        }
        out
    }

    /// Writes both files; their names carry the date and what was measured.
    pub(crate) fn save(&self, run: &str) -> Result<String, Failure> {
        let name = format!("{}-{run}", date::today(""));
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results");
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(format!("{name}.md")), self.markdown())?;
        fs::write(directory.join(format!("{name}.csv")), self.csv())?;
        Ok(name)
    }

    fn series_table(&self) -> String {
        let mut out = String::from(
            "| subject | case | proxy | CPU per unit, µs | ÷ nginx: median (min–max) | units/s | p99, ms |\n\
             |---|---|---|---|---|---|---|\n",
        );
        for series in &self.series {
            for name in &series.names {
                let cpu = series.spread(name, |outcome| outcome.cpu_us());
                let rate = series.spread(name, |outcome| Some(outcome.rate()));
                let p99 = series.spread(name, |outcome| Some(outcome.latency.p99_ms));
                let _ = writeln!(
                    out,
                    "| {} | {} | {name} | {} | {} | {} | {} |",
                    series.subject,
                    series.case,
                    cpu.map_or_else(nothing, |cpu| format!("{:.2}", cpu.median)),
                    series.ratio(name, NGINX).map_or_else(nothing, ratio),
                    rate.map_or_else(nothing, |rate| format!("{:.0}", rate.median)),
                    p99.map_or_else(nothing, |p99| format!("{:.2}", p99.median)),
                );
            }
        }
        out
    }

    fn target_table(&self) -> String {
        let mut out = String::from("| target | measured | |\n|---|---|---|\n");
        let mut row = |target: &str, measured: Option<f64>, limit: f64| {
            let Some(measured) = measured else { return };
            let verdict = if measured <= limit { "met" } else { "not met" };
            let _ = writeln!(out, "| {target} | {measured:.2} | {verdict} |");
        };
        let ratio = |subject: &str, case: &str| {
            let mut series = self.series.iter();
            let series = series.find(|it| it.subject == subject && it.case.starts_with(case))?;
            Some(series.ratio(ROUTER, NGINX)?.median)
        };
        row(
            "unary: CPU per request ÷ nginx ≤ 0.88",
            ratio("unary", "about"),
            0.88,
        );
        row("SSE: CPU per event ÷ nginx ≤ 1.0", ratio("sse", ""), 1.0);
        for case in ["16 KiB", "1024 KiB"] {
            let from = ratio("bodies", "1 KiB");
            let growth = ratio("bodies", case).zip(from).map(|(to, from)| to / from);
            let target = format!("bodies: growth from 1 KiB to {case} ÷ nginx's growth ≤ 1.25");
            row(&target, growth, 1.25);
        }
        let each = |kind: Kind| {
            let mut seen = self.footprints.iter();
            let seen = seen.find(|seen| seen.kind == kind && seen.name == ROUTER)?;
            Some(seen.bytes_each() / 1024.0)
        };
        row("idle connection ≤ 4 KiB", each(Kind::Idle), 4.0);
        row("running stream ≤ 48 KiB", each(Kind::Streaming), 48.0);
        out
    }
}

fn ratio(spread: Spread) -> String {
    let Spread { median, min, max } = spread;
    format!("{median:.3} ({min:.3}–{max:.3})")
}

fn nothing() -> String {
    "–".to_owned()
}

const METHOD: &str = "\
One worker of each proxy bound to one core; the mock node and the load bound to another. The contenders take turns
in rounds of one second, in alternating order, after a round each that does not count. CPU time is that of all threads
of the process (nginx: its worker) from `/proc/PID/task/*/schedstat`, divided by the
requests `wrk` completed or the events the client received. The machine drifts within seconds, so what counts is the
median of the ratios within a round. A run with any answer that is no success, a failed connection, or an event that is
lost, crossed or out of order fails as a whole.

- Router: key required, routing, admission and metrics on, access log and request history off. nginx: reverse proxy to the same node with
  128 kept connections, access log off, request bodies buffered in memory (up to 2 MiB; its default would be a file from
  16 KiB on), `proxy_buffering off` for streams.
- Bare relay: the router's runtime, reading, framing and forwarding, nothing else: a floor.
- unary and bodies: `wrk -t1 -c64`, chat POST with key. `no proxy`: `wrk` on the node itself, sharing its core.
- sse: 400 streams, an event each 5 ms per stream. Each contender's streams are opened, measured for one second after 60
  events each, and closed before the next one's turn: the core and the node belong to one contender at a time. p99
  is the gap between two events of a stream at the client, which shares a core with the node.
- Memory: growth of resident memory of a fresh process, divided by the number of connections. Idle: kept alive after one
  exchange, opened in batches of 64. Streaming: an event each 250 ms.";
