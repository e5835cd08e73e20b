//! The queues of history: bounded, in order, silent until half full.

use super::*;

const LIMITS: HistoryLimits = HistoryLimits {
    is_on: true,
    retention_secs: 60,
    rows_max: 1000,
};

fn record(started_unix_ms: u64) -> HistoryRecord {
    HistoryRecord {
        names: HistoryNames::new(started_unix_ms, b"req_1", 7),
        endpoint: EndpointLabel::ChatCompletions,
        status: 200,
        duration_us: 1,
        phase_us: [0; Phase::COUNT],
        tokens: None,
        request_bytes: 0,
        response_bytes: 0,
        attempts: 1,
        ended_by: EndedBy::Node,
        ended_in: Phase::Done,
        is_stream: false,
    }
}

fn taken(history: &History, max: usize) -> (Vec<u64>, bool) {
    let mut records = Vec::new();
    let is_more = history.take(&mut records, max);
    let times = records.iter().map(|record| record.names.started_unix_ms);
    (times.collect(), is_more)
}

#[test]
fn records_come_out_in_order_of_each_worker_and_no_more_than_asked_for() {
    let history = History::new(2, LIMITS);
    for time in 0..3 {
        history.offer(0, record(time)).unwrap();
        history.offer(1, record(10 + time)).unwrap();
    }
    assert_eq!(taken(&history, 4), (vec![0, 1, 2, 10], true));
    assert_eq!(taken(&history, 4), (vec![11, 12], false));
    assert_eq!(taken(&history, 4), (Vec::new(), false));
}

#[test]
fn a_full_queue_drops_and_the_thread_is_told_once_when_it_is_half_full() {
    let history = History::new(1, LIMITS);
    let half = QUEUE_RECORDS as u64 / 2;
    for time in 0..half - 1 {
        history.offer(0, record(time)).unwrap();
    }
    assert!(history.alarms().is_empty(), "told too early");
    for time in half - 1..2 * half {
        history.offer(0, record(time)).unwrap();
    }
    assert_eq!(history.offer(0, record(0)), Err(RecordDropped));
    assert_eq!(history.alarms().try_iter().count(), 1);
    let (times, is_more) = taken(&history, usize::MAX);
    assert_eq!(times, (0..2 * half).collect::<Vec<_>>());
    assert!(!is_more);
    for time in 0..half {
        history.offer(0, record(time)).unwrap();
    }
    assert_eq!(history.alarms().try_iter().count(), 1, "not told again");
}

#[test]
fn requests_without_a_key_leave_most_of_a_queue_to_the_others() {
    let history = History::new(1, LIMITS);
    let refused = |time| HistoryRecord {
        status: 401,
        ..record(time)
    };
    let share = QUEUE_RECORDS / 4;
    let offered = (0..QUEUE_RECORDS as u64).map(|time| history.offer(0, refused(time)));
    assert_eq!(offered.filter(Result::is_ok).count(), share);
    let offered = (0..QUEUE_RECORDS as u64).map(|time| history.offer(0, record(time)));
    assert_eq!(offered.filter(Result::is_ok).count(), QUEUE_RECORDS - share);

    taken(&history, usize::MAX);
    for time in 0..share as u64 {
        history.offer(0, record(time)).unwrap();
    }
    assert_eq!(history.offer(0, refused(0)), Err(RecordDropped));
    // A node that refuses a request has been tried: the client had a key.
    let mut of_node = refused(0);
    of_node.names.set_node(b"gpu-1");
    history.offer(0, of_node).unwrap();
}

#[test]
fn without_history_there_is_no_queue_until_it_is_switched_on() {
    let off = HistoryLimits {
        is_on: false,
        ..LIMITS
    };
    let history = History::new(1, off);
    assert!(!history.is_on());
    assert!(history.queues[0].records.get().is_none());
    assert_eq!(history.offer(0, record(1)), Err(RecordDropped));
    history.set_limits(LIMITS);
    assert_eq!(history.limits(), LIMITS);
    history.offer(0, record(1)).unwrap();
    // What was handed over before it was switched off is still taken.
    history.set_limits(off);
    assert_eq!(taken(&history, 9), (vec![1], false));
    assert_eq!(
        history.offer(9, record(1)),
        Err(RecordDropped),
        "no such worker"
    );
}

#[test]
fn texts_of_usual_length_lie_within_the_record_and_long_ones_are_cut() {
    let mut names = HistoryNames::new(1, b"req_0123456789abcdef0123456789abcdef", 0);
    names.set_model(&[b'm'; 64]);
    names.set_node(b"a-node-that-was-tried-before");
    names.set_node(&[b'n'; 32]);
    assert!(!names.request_id.spilled() && !names.model.spilled() && !names.node.spilled());
    assert_eq!(names.node(), &[b'n'; 32]);
    names.set_model(&[b'm'; 1000]);
    assert_eq!(names.model().len(), TEXT_BYTES_MAX);
    assert!(
        size_of::<HistoryRecord>() <= 320,
        "{}",
        size_of::<HistoryRecord>()
    );
}
