//! `promtool check metrics`, the judge of spec section 8, on the text the router shows with and
//! without traffic.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, in its helper functions too"
)]

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use llm_router::admission::{AdmissionLimits, BufferBudget};
use llm_router::nodes::{Admission, NodeDirectory, NodeSpec};
use llm_router::telemetry::{
    AccessLog, BuildLabels, EndpointLabel, Latency, ProcessSample, Reloads, Scrape, StoreHealth,
    WorkerMetrics,
};

fn text(workers: &[Arc<WorkerMetrics>]) -> String {
    let names = [
        "plain",
        "two words",
        "quote\"back\\slash",
        "line\nfeed",
        "100%",
        "a",
        "a%20b",
        "a b",
    ];
    let specs = names.map(|name| NodeSpec {
        name: name.into(),
        addresses: vec![],
        host_header: "h".into(),
        path_prefix: "".into(),
        authorization: None,
        models: vec![name.into()],
        max_concurrency: 1,
        weight: 1,
    });
    let table = NodeDirectory::default().publish(&specs, &[]).unwrap();
    let limits = AdmissionLimits {
        max_concurrent: 1,
        max_waiting: 1,
        warning_threshold: 0.5,
        overload_threshold: 0.8,
    };
    let (log, writer) = AccessLog::start(std::io::sink(), 1).unwrap();
    let mut text = String::new();
    Scrape {
        workers,
        table: &table,
        admission: &Admission::new(limits, |_| {}),
        budget: &BufferBudget::new(1),
        access_log: Some(&log),
        store: &StoreHealth::default(),
        reloads: &Reloads::since(0),
        process: Some(&ProcessSample::read().unwrap()),
        build: BuildLabels {
            version: env!("CARGO_PKG_VERSION"),
            io_driver: "io_uring",
        },
    }
    .render(&mut text);
    writer.finish();
    text
}

fn assert_promtool_accepts(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this test needs `promtool`: install the package `prometheus`");
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let complaints = [output.stdout, output.stderr].concat();
    let complaints = String::from_utf8_lossy(&complaints);
    assert!(
        output.status.success() && complaints.is_empty(),
        "{complaints}\n{text}"
    );
}

#[test]
fn promtool_accepts_a_router_without_traffic() {
    assert_promtool_accepts(&text(&[WorkerMetrics::new()]));
}

#[test]
fn promtool_accepts_a_router_with_traffic() {
    let workers = [WorkerMetrics::new(), WorkerMetrics::new()];
    for worker in &workers {
        let recorder = worker.recorder().unwrap();
        for &endpoint in EndpointLabel::ALL {
            for status in [0, 200, 404, 503, 999] {
                recorder.request(endpoint, status);
            }
        }
        for latency in [
            Latency::Request,
            Latency::FirstByte,
            Latency::QueueWait,
            Latency::Overhead,
        ] {
            for step in 0..42 {
                recorder.latency(latency, Duration::from_nanos(1 << step));
            }
        }
    }
    assert_promtool_accepts(&text(&workers));
}

#[test]
fn promtool_rejects_what_is_wrong() {
    let wrong = "# HELP a A.\n# TYPE a counter\na 1\n";
    let outcome = std::panic::catch_unwind(|| assert_promtool_accepts(wrong));
    assert!(
        outcome.is_err(),
        "a counter without `_total` was accepted: the check checks nothing"
    );
}
