//! Owns latency recording: fixed arrays of buckets, one writer each, merged when metrics are read.
//! Never allocates or locks while recording.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Latencies of one worker, in log-linear buckets of nanoseconds.
///
/// Each power of two is cut into 64 equal buckets, so the middle of a bucket is at most 1/128 (0.8
/// %) from any value in it. Values below 128 ns are exact; values above [`LONGEST`] count as that.
/// Only one thread may record at a time: a second one would lose counts (but break nothing).
#[derive(Debug)]
pub struct LatencyHistogram {
    buckets: Box<[AtomicU64]>,
    /// Seconds as the bits of an `f64`, as Prometheus counts them: unlike whole nanoseconds it
    /// cannot overflow.
    sum_seconds: AtomicU64,
}

/// Latencies of all workers together.
#[derive(Debug)]
pub(super) struct MergedLatency {
    buckets: Vec<u64>,
    histogram: Histogram<u64>,
    sum_seconds: f64,
}

/// What a latency has counted at one time, to be compared with another time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencyCounts(Box<[u64]>);

impl LatencyHistogram {
    /// An empty histogram.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buckets: (0..BUCKET_COUNT).map(|_| AtomicU64::new(0)).collect(),
            sum_seconds: AtomicU64::new(0.0_f64.to_bits()),
        }
    }

    /// Records one value: two loads, two stores.
    pub(super) fn record(&self, value: Duration) {
        let value = value.min(LONGEST);
        // An hour fits easily.
        let nanoseconds = value.as_secs() * 1_000_000_000 + u64::from(value.subsec_nanos());
        if let Some(bucket) = self.buckets.get(bucket_of(nanoseconds)) {
            // Load and store instead of a read-modify-write: there is only one writer.
            bucket.store(
                bucket.load(Ordering::Relaxed).wrapping_add(1),
                Ordering::Relaxed,
            );
        }
        let sum = f64::from_bits(self.sum_seconds.load(Ordering::Relaxed)) + value.as_secs_f64();
        self.sum_seconds.store(sum.to_bits(), Ordering::Relaxed);
    }

    /// How many values there are, and their sum in seconds.
    pub(super) fn totals(&self) -> (u64, f64) {
        let counts = self
            .buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed));
        let sum_seconds = f64::from_bits(self.sum_seconds.load(Ordering::Relaxed));
        (counts.sum(), sum_seconds)
    }
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self::new()
    }
}

impl LatencyCounts {
    pub(super) fn of<'a>(workers: impl Iterator<Item = &'a LatencyHistogram>) -> Self {
        let mut sums = vec![0_u64; BUCKET_COUNT];
        for worker in workers {
            for (sum, bucket) in sums.iter_mut().zip(&worker.buckets) {
                *sum = sum.wrapping_add(bucket.load(Ordering::Relaxed));
            }
        }
        Self(sums.into())
    }

    /// The latencies in milliseconds below or at which these shares of all lie that were recorded since
    /// `earlier`; 0 if none was. The shares rise.
    #[must_use]
    pub fn quantiles_ms_since<const COUNT: usize>(
        &self,
        earlier: &Self,
        shares: [f64; COUNT],
    ) -> [f64; COUNT] {
        let recorded = || {
            let both = self.0.iter().zip(&earlier.0);
            both.map(|(now, before)| now.wrapping_sub(*before))
        };
        let total: u64 = recorded().sum();
        let ranks = shares.map(|share| ((total as f64 * share).ceil() as u64).max(1));
        let mut found = [0.0; COUNT];
        let mut sum = 0;
        for (bucket, count) in recorded().enumerate().filter(|(_, count)| *count > 0) {
            let before = sum;
            sum += count;
            for (rank, value) in ranks.iter().zip(&mut found) {
                if (before + 1..=sum).contains(rank) {
                    *value = seconds(middle_of(bucket)) * 1000.0;
                }
            }
        }
        found
    }
}

impl MergedLatency {
    /// Nothing yet. The only error is a bound that `hdrhistogram` rejects, and ours are constants.
    pub(super) fn new() -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self {
            buckets: vec![0; BUCKET_COUNT],
            histogram: Histogram::new_with_bounds(1, 1 << OCTAVES_END, SIGNIFICANT_DIGITS)?,
            sum_seconds: 0.0,
        })
    }

    /// Forgets what was merged before and adds up what the workers recorded.
    pub(super) fn merge<'a>(&mut self, workers: impl Iterator<Item = &'a LatencyHistogram>) {
        self.buckets.fill(0);
        self.histogram.reset();
        self.sum_seconds = 0.0;
        for worker in workers {
            for (sum, bucket) in self.buckets.iter_mut().zip(&worker.buckets) {
                *sum = sum.wrapping_add(bucket.load(Ordering::Relaxed));
            }
            self.sum_seconds += f64::from_bits(worker.sum_seconds.load(Ordering::Relaxed));
        }
        for (index, &count) in self
            .buckets
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
        {
            // Every middle lies within the bounds given above, so nothing is cut off.
            self.histogram.saturating_record_n(middle_of(index), count);
        }
    }

    /// The value below or at which the fraction `quantile` of all values lies, in seconds; NaN when
    /// there are none.
    pub(super) fn quantile_seconds(&self, quantile: f64) -> f64 {
        if self.histogram.is_empty() {
            return f64::NAN;
        }
        seconds(self.histogram.value_at_quantile(quantile))
    }

    /// Values at or below `bound`, to the precision of the buckets.
    pub(super) fn count_up_to(&self, bound: Duration) -> u64 {
        let bound = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        let within = self
            .buckets
            .iter()
            .enumerate()
            .take_while(|(index, _)| middle_of(*index) <= bound);
        within.map(|(_, count)| count).sum()
    }

    pub(super) fn count(&self) -> u64 {
        self.histogram.len()
    }

    pub(super) fn sum_seconds(&self) -> f64 {
        self.sum_seconds
    }
}

/// Nanoseconds as seconds; exact up to 104 days.
#[expect(
    clippy::cast_precision_loss,
    reason = "latencies are far below 2^53 ns"
)]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// The bucket a value belongs to. Bucket `64 * o + s` for `o > 0` begins at `(64 + s) << (o - 1)`.
fn bucket_of(nanoseconds: u64) -> usize {
    let octave = (u64::BITS - nanoseconds.leading_zeros()).saturating_sub(SUB_BUCKET_BITS);
    let shift = octave.saturating_sub(1);
    let sub_bucket = (nanoseconds >> shift) as usize;
    // From the first octave on the leading bit is part of `sub_bucket`, which advances by one
    // octave by itself.
    (shift as usize) * SUB_BUCKETS + sub_bucket
}

/// The middle of a bucket, in nanoseconds.
fn middle_of(bucket: usize) -> u64 {
    let octave = bucket / SUB_BUCKETS;
    if octave == 0 {
        return bucket as u64;
    }
    let shift = octave - 1;
    let begin = ((SUB_BUCKETS + bucket % SUB_BUCKETS) as u64) << shift;
    begin + (1 << shift) / 2
}

/// The longest latency that is told apart; spec and design ask for one hour.
pub const LONGEST: Duration = Duration::from_nanos((1 << OCTAVES_END) - 1);
const SUB_BUCKET_BITS: u32 = 6;
const SUB_BUCKETS: usize = 1 << SUB_BUCKET_BITS;
/// 2^42 ns is 73 minutes.
const OCTAVES_END: u32 = 42;
const BUCKET_COUNT: usize = SUB_BUCKETS * (OCTAVES_END - SUB_BUCKET_BITS + 1) as usize;
/// Adds at most 0.1 % to the error of the buckets.
const SIGNIFICANT_DIGITS: u8 = 3;

const _: () = assert!(LONGEST.as_secs() >= 3600);

#[cfg(test)]
#[cfg(not(loom))]
#[path = "histogram_tests.rs"]
mod tests;
