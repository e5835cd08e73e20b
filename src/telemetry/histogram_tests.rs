//! Tests of latency recording: the error of a bucket, and that merging equals recording everything
//! in one HdrHistogram.

use proptest::prelude::*;

use super::*;

const HOUR_NS: u64 = 3_600_000_000_000;

fn recorded(values: &[u64]) -> LatencyHistogram {
    let histogram = LatencyHistogram::new();
    values
        .iter()
        .for_each(|&value| histogram.record(Duration::from_nanos(value)));
    histogram
}

fn merged(workers: &[LatencyHistogram]) -> MergedLatency {
    let mut merged = MergedLatency::new().unwrap();
    merged.merge(workers.iter());
    merged
}

fn is_close(value: f64, expected: f64, relative: f64) -> bool {
    (value - expected).abs() <= expected * relative
}

#[test]
fn buckets_follow_one_another_without_a_gap_from_the_first_to_the_last() {
    let mut previous = 0;
    for bucket in 0..BUCKET_COUNT {
        let middle = middle_of(bucket);
        assert_eq!(bucket_of(middle), bucket);
        assert!(bucket == 0 || middle > previous);
        previous = middle;
    }
    let longest = u64::try_from(LONGEST.as_nanos()).unwrap();
    assert_eq!(bucket_of(longest), BUCKET_COUNT - 1);
    for octave in 0..42 {
        let edge = 1_u64 << octave;
        assert!(
            bucket_of(edge) > bucket_of(edge - 1) && bucket_of(edge) - bucket_of(edge - 1) == 1
        );
    }
}

#[test]
fn nothing_recorded_has_no_quantiles() {
    let merged = merged(&[LatencyHistogram::new()]);
    assert!(merged.quantile_seconds(0.5).is_nan());
    assert_eq!((merged.count(), merged.sum_seconds().to_bits()), (0, 0));
}

#[test]
fn the_extremes_are_counted_and_longer_values_count_as_the_longest() {
    let histogram = recorded(&[0, 1, HOUR_NS]);
    histogram.record(Duration::MAX);
    let merged = merged(&[histogram]);
    assert_eq!(merged.count(), 4);
    assert!(is_close(
        merged.quantile_seconds(1.0),
        LONGEST.as_secs_f64(),
        0.01
    ));
    assert!(is_close(merged.quantile_seconds(0.75), 3600.0, 0.01));
    assert_eq!(merged.count_up_to(Duration::from_nanos(1)), 2);
    assert_eq!(merged.count_up_to(LONGEST * 2), 4);
}

#[test]
fn the_sum_is_that_of_the_values_and_not_of_their_buckets() {
    let histogram = recorded(&[1_234_567; 1000]);
    let merged = merged(&[histogram]);
    assert!(is_close(merged.sum_seconds(), 1.234_567, 1e-12));
}

fn any_latency_ns() -> impl Strategy<Value = u64> {
    // Spread over all magnitudes from 1 µs to 1 h.
    (10_u32..42, any::<u64>()).prop_map(|(octave, low)| {
        ((1_u64 << octave) | (low & ((1 << octave) - 1))).clamp(1000, HOUR_NS)
    })
}

proptest! {
    #[test]
    fn a_value_is_shown_within_one_per_cent(value in any_latency_ns()) {
        let merged = merged(&[recorded(&[value])]);
        let shown = merged.quantile_seconds(0.5);
        prop_assert!(is_close(shown, seconds(value), 0.01), "{value} ns is shown as {shown} s");
    }

    #[test]
    fn merging_workers_equals_recording_everything_in_one_histogram(
        workers in prop::collection::vec(prop::collection::vec(any_latency_ns(), 0..200), 1..5),
    ) {
        let mut direct = Histogram::<u64>::new_with_bounds(1, 1 << 42, 3).unwrap();
        workers.iter().flatten().for_each(|&value| direct.record(value).unwrap());
        let histograms: Vec<_> = workers.iter().map(|values| recorded(values)).collect();
        let merged = merged(&histograms);
        prop_assert_eq!(merged.count(), direct.len());
        for quantile in [0.5, 0.9, 0.95, 0.99, 0.999, 1.0] {
            if !direct.is_empty() {
                let expected = seconds(direct.value_at_quantile(quantile));
                let shown = merged.quantile_seconds(quantile);
                prop_assert!(is_close(shown, expected, 0.01), "{quantile}: {shown} for {expected}");
            }
        }
        let bound = Duration::from_secs(1);
        let below = |limit: u64| workers.iter().flatten().filter(|value| **value <= limit).count();
        let counted = merged.count_up_to(bound) as usize;
        prop_assert!(counted >= below(990_000_000) && counted <= below(1_010_000_000));
    }
}

#[test]
fn counts_of_two_times_tell_what_came_between() {
    let workers = [LatencyHistogram::new(), LatencyHistogram::new()];
    let counts = || LatencyCounts::of(workers.iter());
    let start = counts();
    let shares = [0.5, 0.95, 0.99];
    assert_eq!(counts().quantiles_ms_since(&start, shares), [0.0; 3]);
    for millis in 1..=50 {
        workers[0].record(Duration::from_millis(millis));
        workers[1].record(Duration::from_millis(50 + millis));
    }
    let first = counts();
    let [p50, p95, p99] = first.quantiles_ms_since(&start, shares);
    for (found, exact) in [(p50, 50.0), (p95, 95.0), (p99, 99.0)] {
        assert!((found - exact).abs() <= exact / 64.0, "{found} for {exact}");
    }
    workers[0].record(Duration::from_secs(7));
    let [median] = counts().quantiles_ms_since(&first, [0.5]);
    assert!(
        (median - 7000.0).abs() <= 7000.0 / 64.0,
        "only what came since: {median}"
    );
}
