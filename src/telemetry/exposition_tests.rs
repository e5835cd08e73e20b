//! Tests of the exposition: the whole text of a known state, and what must hold for any.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::*;
use crate::admission::{AdmissionLimits, Admittance, Demand, LocalBudget, QueueLimits};
use crate::nodes::{AliasSpec, LocalAdmission, NodeDirectory, NodeSpec};

/// What the router shows after a little traffic on two workers; one name of each kind is awkward.
fn known_text() -> String {
    let limits = AdmissionLimits {
        max_concurrent: 0,
        max_waiting: 2,
        warning_threshold: 0.5,
        overload_threshold: 0.8,
    };
    let admission = Arc::new(Admission::new(limits, |_| {}));
    let table = known_table();
    let local = LocalAdmission::new(Arc::clone(&admission), 0);
    // Nobody may be in flight: one request waits.
    let waiting = local.ask(&Demand {
        group: table.model("llama").unwrap(),
        generation: table.generation(),
        key: 0,
        limits: QueueLimits {
            max_size: 1,
            max_place: 1,
        },
    });
    assert!(matches!(waiting, Admittance::Waits(_)), "{waiting:?}");
    let budget = Arc::new(BufferBudget::new(1000));
    let _reserved = LocalBudget::new(Arc::clone(&budget)).try_reserve(640);
    let workers = [WorkerMetrics::new(), WorkerMetrics::new()];
    let recorders: Vec<_> = workers
        .iter()
        .map(|worker| worker.recorder().unwrap())
        .collect();
    let _guards = (
        recorders[0].gauge(Gauge::ConnectionsActive),
        recorders[1].gauge(Gauge::ConnectionsActive),
    );
    let _connection = recorders[1].pool("gpu-1").connection(PoolState::Idle);
    recorders[0].request(EndpointLabel::ChatCompletions, 200);
    recorders[1].request(EndpointLabel::ChatCompletions, 200);
    recorders[1].request(EndpointLabel::Other, 799);
    recorders[1].rejected(RejectionReason::Overloaded);
    recorders[0].cache_totals(9000, 300);
    recorders[1].cache_totals(500, 200);
    recorders[0].latency(Latency::Request, Duration::from_millis(20));
    recorders[1].latency(Latency::Request, Duration::from_millis(400));
    let store = StoreHealth::default();
    store.failed();
    store.history_written(5);
    store.history_lost(2);
    recorders[1].count(Occurrence::HistoryRecordDropped);
    let reloads = Reloads::since(1_700_000_000);
    reloads.succeeded(1_700_000_100);
    reloads.failed();
    reloads.failed();
    let process = ProcessSample {
        cpu: Duration::from_millis(1500),
        resident_bytes: 1 << 20,
        open_fds: 12,
        max_fds: 1024,
        started_unix_seconds: 1_700_000_000.25,
    };
    let mut text = String::new();
    Scrape {
        workers: &workers,
        table: &table,
        admission: &admission,
        budget: &budget,
        access_log: None,
        store: &store,
        reloads: &reloads,
        process: Some(&process),
        build: BuildLabels {
            version: "0.1.0",
            io_driver: "io_uring",
        },
    }
    .render(&mut text);
    text
}

fn known_table() -> Arc<NodeTable> {
    let node = |name: &str, model: &str| NodeSpec {
        name: name.into(),
        addresses: vec![],
        host_header: "h".into(),
        path_prefix: "".into(),
        authorization: None,
        models: vec![model.into()],
        max_concurrency: 4,
        weight: 1,
    };
    let aliases = [AliasSpec {
        model: "fast".into(),
        to: "my \"model\"".into(),
    }];
    let specs = [node("gpu-1", "llama"), node("rack 2", "my \"model\"")];
    let table = NodeDirectory::default().publish(&specs, &aliases).unwrap();
    table.nodes()[0].live.publish_state(NodeState::Online);
    let _reached = table.nodes()[1].live.record_failure(FailureReason::Connect);
    table.resolve("fast").unwrap().stats.add_tokens(30, 4);
    table
}

#[test]
fn a_known_state_has_exactly_this_text() {
    let text = known_text();
    let golden = include_str!("exposition_golden.txt");
    for (line, (shown, expected)) in text.lines().zip(golden.lines()).enumerate() {
        assert_eq!(shown, expected, "line {}", line + 1);
    }
    assert_eq!(text, golden);
}

#[test]
fn the_parser_of_the_quick_start_reads_every_sample() {
    // As its users wrote it in Python: lines that are not comments, split at spaces, first part
    // name, second part number.
    let text = known_text();
    let mut metrics = HashMap::new();
    for line in text
        .split('\n')
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let parts: Vec<_> = line.split(' ').collect();
        assert_eq!(parts.len(), 2, "{line}");
        let value: f64 = parts[1].parse().unwrap();
        assert!(
            metrics.insert(parts[0], value).is_none(),
            "{line} appears twice"
        );
    }
    let value = |name: &str| metrics[name];
    assert!((value("llm_router_queue_size") - 1.0).abs() < f64::EPSILON);
    assert!((value("llm_router_backpressure_rejections_total") - 1.0).abs() < f64::EPSILON);
    let p95 = value("llm_router_request_duration_seconds{quantile=\"0.95\"}");
    assert!((p95 - 0.4).abs() < 0.004, "{p95}");
    let (hits, misses) = (
        value("llm_router_cache_hits_total"),
        value("llm_router_cache_misses_total"),
    );
    assert!((hits / (hits + misses) - 0.95).abs() < 1e-9);
}

#[test]
fn every_family_is_shown_once_with_its_type_and_only_its_samples() {
    let text = known_text();
    let mut shown = HashSet::new();
    let mut current = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            current = rest.split(' ').next().unwrap();
            assert!(shown.insert(current), "{current} is shown twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert_eq!(rest.split(' ').next().unwrap(), current);
        } else {
            let name = line.split(['{', ' ']).next().unwrap();
            let suffix = name.strip_prefix(current).unwrap();
            assert!(
                ["", "_sum", "_count", "_bucket"].contains(&suffix),
                "{line} in {current}"
            );
        }
    }
    let named: HashSet<_> = names::ALL.iter().map(|metric| metric.name).collect();
    assert_eq!(shown, named);
    assert_eq!(named.len(), names::ALL.len(), "two metrics share a name");
}

#[test]
fn the_number_of_series_does_not_depend_on_what_clients_and_nodes_send() {
    let metrics = WorkerMetrics::new();
    let recorder = metrics.recorder().unwrap();
    for status in 0..=u16::MAX {
        EndpointLabel::ALL
            .iter()
            .for_each(|&endpoint| recorder.request(endpoint, status));
    }
    let shown = StatusLabel::COUNT * EndpointLabel::COUNT;
    let admission = Admission::new(
        AdmissionLimits {
            max_concurrent: 1,
            max_waiting: 1,
            warning_threshold: 0.5,
            overload_threshold: 0.8,
        },
        |_| {},
    );
    let mut text = String::new();
    Scrape {
        workers: &[metrics],
        table: &NodeTable::default(),
        admission: &admission,
        budget: &BufferBudget::new(1),
        access_log: None,
        store: &StoreHealth::default(),
        reloads: &Reloads::since(0),
        process: None,
        build: BuildLabels {
            version: "0",
            io_driver: "epoll",
        },
    }
    .render(&mut text);
    let series = text
        .lines()
        .filter(|line| line.starts_with("llm_router_requests_total{"));
    assert_eq!(series.count(), shown);
}
