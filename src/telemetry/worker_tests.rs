//! Tests of a worker's block and its guards.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use super::*;

fn pool_connections(metrics: &WorkerMetrics, node: &str, state: PoolState) -> u64 {
    let mut totals = HashMap::new();
    metrics.add_pool_connections(&mut totals);
    totals.get(node).map_or(0, |counts| counts[state as usize])
}

#[test]
fn a_block_has_one_recorder_at_a_time() {
    let metrics = WorkerMetrics::new();
    let recorder = metrics.recorder().unwrap();
    assert!(metrics.recorder().is_none());
    let guard = recorder.gauge(Gauge::StreamsActive);
    drop(recorder);
    // A guard will still write when it is dropped.
    assert!(metrics.recorder().is_none());
    drop(guard);
    assert!(metrics.recorder().is_some());
}

#[test]
fn gauges_return_to_zero_however_their_guards_end() {
    let metrics = WorkerMetrics::new();
    let recorder = metrics.recorder().unwrap();
    let first = recorder.gauge(Gauge::RequestsInFlight);
    let other_task = recorder.clone();
    let second = other_task.gauge(Gauge::RequestsInFlight);
    drop((recorder, other_task));
    assert_eq!(metrics.gauge(Gauge::RequestsInFlight), 2);
    assert_eq!(metrics.gauge(Gauge::ConnectionsActive), 0);
    drop(first);
    let outcome = catch_unwind(AssertUnwindSafe(move || {
        let _moved = second;
        panic!("an exchange fails");
    }));
    assert!(outcome.is_err());
    assert_eq!(metrics.gauge(Gauge::RequestsInFlight), 0);
}

#[test]
fn counts_go_where_they_belong() {
    let metrics = WorkerMetrics::new();
    let recorder = metrics.recorder().unwrap();
    recorder.cancelled(Phase::Admit);
    recorder.retried(RetryReason::StaleConnection);
    recorder.rejected(RejectionReason::Overloaded);
    recorder.body_bytes(Direction::ToClient, 700);
    recorder.body_bytes(Direction::ToClient, 77);
    recorder.count(Occurrence::Panic);
    recorder.cache_totals(9500, 500);
    assert_eq!(
        Phase::ALL
            .iter()
            .map(|&phase| metrics.cancelled(phase))
            .sum::<u64>(),
        1
    );
    assert_eq!(metrics.cancelled(Phase::Admit), 1);
    assert_eq!(metrics.retries(RetryReason::StaleConnection), 1);
    assert_eq!(metrics.rejections(RejectionReason::Overloaded), 1);
    assert_eq!(metrics.body_bytes(Direction::ToClient), 777);
    assert_eq!(metrics.body_bytes(Direction::FromClient), 0);
    assert_eq!(metrics.occurrences(Occurrence::Panic), 1);
    assert_eq!(metrics.occurrences(Occurrence::AcceptError), 0);
    assert_eq!(metrics.cache_totals(), (9500, 500));
}

#[test]
fn every_status_has_a_label_and_only_registered_ones_have_their_own() {
    let metrics = WorkerMetrics::new();
    let recorder = metrics.recorder().unwrap();
    let endpoint = EndpointLabel::Embeddings;
    (0..=u16::MAX).for_each(|status| recorder.request(endpoint, status));
    let counts: Vec<_> = StatusLabel::all()
        .map(|label| (label.text(), metrics.requests_labelled(endpoint, label)))
        .collect();
    assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 65_536);
    for (text, count) in &counts {
        match text.as_str() {
            "other" => assert_eq!(*count, 65_536 - 2 - (counts.len() as u64 - 2)),
            "499" => assert_eq!(*count, 2),
            _ => assert_eq!((*count, text.len()), (1, 3), "{text}"),
        }
    }
    assert_eq!(metrics.requests(EndpointLabel::Other, 200), 0);
}

#[test]
fn pool_connections_are_counted_by_node_and_state() {
    let metrics = WorkerMetrics::new();
    let recorder = metrics.recorder().unwrap();
    let (a, b) = (recorder.pool("a"), recorder.pool("b"));
    let mut connection = a.connection(PoolState::Active);
    let other = b.connection(PoolState::Idle);
    let shown = |node, state| pool_connections(&metrics, node, state);
    assert_eq!(
        (shown("a", PoolState::Active), shown("a", PoolState::Idle)),
        (1, 0)
    );
    connection.change(PoolState::Idle);
    assert_eq!(
        (shown("a", PoolState::Active), shown("a", PoolState::Idle)),
        (0, 1)
    );
    assert_eq!(shown("b", PoolState::Idle), 1);
    drop((connection, other));
    assert_eq!(shown("a", PoolState::Idle) + shown("b", PoolState::Idle), 0);
}

#[test]
fn pools_that_are_gone_leave_nothing_behind() {
    let metrics = WorkerMetrics::new();
    let recorder = metrics.recorder().unwrap();
    let kept = recorder.pool("kept");
    // A connection outlives the pool that counted it.
    let outliving = recorder.pool("a").connection(PoolState::Active);
    for _ in 0..100 {
        drop(recorder.pool("a"));
    }
    assert!(metrics.pools.load().len() <= 3);
    assert_eq!(pool_connections(&metrics, "a", PoolState::Active), 1);
    drop(outliving);
    let idle = kept.connection(PoolState::Idle);
    assert_eq!(pool_connections(&metrics, "a", PoolState::Active), 0);
    assert_eq!(pool_connections(&metrics, "kept", PoolState::Idle), 1);
    drop(idle);
}

#[test]
fn a_reader_on_another_thread_sees_every_count_in_the_end_and_never_too_many() {
    const REQUESTS: u64 = 50_000;
    let metrics = WorkerMetrics::new();
    let reader = Arc::clone(&metrics);
    let (endpoint, status) = (EndpointLabel::ChatCompletions, 200);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = 0;
            while last < REQUESTS {
                let now = reader.requests(endpoint, status);
                assert!(now >= last && now <= REQUESTS);
                assert!(reader.gauge(Gauge::RequestsInFlight) <= 1);
                last = now;
            }
        });
        let recorder = metrics.recorder().unwrap();
        for _ in 0..REQUESTS {
            let _in_flight = recorder.gauge(Gauge::RequestsInFlight);
            recorder.request(endpoint, status);
        }
    });
    assert_eq!(metrics.requests(endpoint, status), REQUESTS);
    assert_eq!(metrics.gauge(Gauge::RequestsInFlight), 0);
}
