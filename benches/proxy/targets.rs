//! What the comparison has to reach, and whether it did.

use std::fmt::Write as _;

use super::comparison::{Comparison, LATENCY};
use super::contender::{NGINX, RELAY, ROUTER};
use super::memory::{Footprint, Kind, mebibytes};
use super::rivals::{AXUM, HAPROXY, HYPER};
use super::series::{Outcome, Series};
use super::throughput::NO_PROXY;

/// The targets as Markdown; those of parts that were not measured are left out.
pub(crate) fn table(comparison: &Comparison) -> String {
    let mut rows = Rows {
        text: String::from("| measure | target | measured | |\n|---|---|---|---|\n"),
    };
    let series = |subject, case| find(comparison, subject, case);
    if let Some(unary) = series("unary", "64 connections") {
        requests(&mut rows, unary);
    }
    if let Some(streams) = series("sse", "400 streams") {
        for (base, limit) in [(NGINX, 0.95), (HYPER, 0.60)] {
            let what = format!("CPU per event, 400 streams ÷ {base}");
            rows.at_most(&what, limit, cpu_ratio(streams, base), 2);
        }
    }
    if let Some(requests) = series(LATENCY, "a request") {
        let added = |figure| added_us(requests, figure);
        let what = "added to a request at 1 connection, µs:";
        let p50 = added(|outcome| outcome.latency.p50_ms);
        rows.at_most(&format!("{what} p50"), 25.0, p50, 0);
        let p99 = added(|outcome| outcome.latency.p99_ms);
        rows.at_most(&format!("{what} p99"), 60.0, p99, 0);
    }
    if let Some(gaps) = series(LATENCY, "a gap") {
        let p99 = added_us(gaps, |outcome| outcome.latency.p99_ms);
        rows.at_most("added to the gap p99 of 100 streams, µs", 50.0, p99, 0);
    }
    if let Some((small, large)) = series("bodies", "1 KiB").zip(series("bodies", "16 KiB")) {
        let fall = |name| Some(100.0 * (1.0 - rate(large, name)? / rate(small, name)?));
        let what = "RPS falls from 1 KiB to 16 KiB bodies, points more than nginx's";
        let more = fall(ROUTER).zip(fall(NGINX));
        rows.at_most(what, 5.0, more.map(|(own, nginx)| own - nginx), 1);
    }
    memory(&mut rows, &comparison.footprints);
    rows.text
}

fn requests(rows: &mut Rows, unary: &Series) {
    for (base, limit) in [(NGINX, 0.80), (HAPROXY, 0.72), (RELAY, 1.12)] {
        let what = format!("CPU per request, 64 connections ÷ {base}");
        rows.at_most(&what, limit, cpu_ratio(unary, base), 2);
    }
    for (base, limit) in [(NGINX, 1.2), (HYPER, 1.5), (AXUM, 3.0)] {
        let ratio = unary.ratio_of(ROUTER, base, |outcome| Some(outcome.rate()));
        let what = format!("RPS, 64 connections ÷ {base}");
        rows.at_least(&what, limit, ratio.map(|ratio| ratio.median));
    }
}

fn memory(rows: &mut Rows, footprints: &[Footprint]) {
    let own = |kind| {
        let mut own = footprints.iter().filter(|seen| seen.name == ROUTER);
        own.find(|seen| seen.kind == kind)
    };
    let each = |kind| Some(own(kind)?.bytes_each() / 1024.0);
    rows.at_most("an idle connection, KiB", 4.0, each(Kind::Idle), 1);
    rows.at_most("a running stream, KiB", 48.0, each(Kind::Streaming), 1);
    let at_rest = own(Kind::Idle).map(|seen| mebibytes(seen.bytes_at_rest));
    rows.at_most("the process at rest, MiB", 16.0, at_rest, 1);
}

struct Rows {
    text: String,
}

impl Rows {
    fn at_most(&mut self, what: &str, limit: f64, measured: Option<f64>, digits: usize) {
        if let Some(measured) = measured {
            let verdict = if measured <= limit { "met" } else { "not met" };
            let _ = writeln!(
                self.text,
                "| {what} | ≤ {limit:.digits$} | {measured:.digits$} | {verdict} |"
            );
        }
    }

    fn at_least(&mut self, what: &str, limit: f64, measured: Option<f64>) {
        if let Some(measured) = measured {
            let verdict = if measured >= limit { "met" } else { "not met" };
            let _ = writeln!(
                self.text,
                "| {what} | ≥ {limit:.2} | {measured:.2} | {verdict} |"
            );
        }
    }
}

fn find<'c>(comparison: &'c Comparison, subject: &str, case: &str) -> Option<&'c Series> {
    let mut series = comparison.series.iter();
    series.find(|series| series.subject == subject && series.case.starts_with(case))
}

/// The median of the ratios within a round.
fn cpu_ratio(series: &Series, base: &str) -> Option<f64> {
    Some(series.ratio(ROUTER, base)?.median)
}

fn rate(series: &Series, name: &str) -> Option<f64> {
    let spread = series.spread(name, |outcome| Some(outcome.rate()));
    Some(spread?.median)
}

fn added_us(series: &Series, figure: fn(&Outcome) -> f64) -> Option<f64> {
    let added = series.difference(ROUTER, NO_PROXY, figure);
    Some(added?.median * 1000.0)
}
