//! Owns the way of a request's record from its worker to the database: one bounded queue per worker,
//! looked through by the store thread. A worker never waits and wakes nobody for a record: one that
//! finds its queue full is dropped and counted, one of a request without a valid key earlier: whoever
//! floods the router with those has a share of the queue, and cannot have others dropped. Prompts and
//! completions have no field here.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use crossbeam_queue::ArrayQueue;
use smallvec::SmallVec;

use super::access::RecordDropped;
use super::labels::{EndedBy, EndpointLabel, Phase};

/// What is kept of one inference request.
#[derive(Clone, Debug)]
pub struct HistoryRecord {
    /// What was known at its begin or in between.
    pub names: HistoryNames,
    /// What was asked for.
    pub endpoint: EndpointLabel,
    /// Status sent to the client; 0 if it left before.
    pub status: u16,
    /// From the whole head to the end.
    pub duration_us: u64,
    /// Microseconds spent in each phase, by discriminant.
    pub phase_us: [u64; Phase::COUNT],
    /// Tokens of the prompt and of the completion, if the response reported them.
    pub tokens: Option<(u64, u64)>,
    /// Body bytes received from the client.
    pub request_bytes: u64,
    /// Body bytes sent to the client.
    pub response_bytes: u64,
    /// Nodes tried.
    pub attempts: u32,
    /// Who ended it.
    pub ended_by: EndedBy,
    /// In which phase.
    pub ended_in: Phase,
    /// Whether the response was a stream of events.
    pub is_stream: bool,
}

/// The part of a record that is gathered while the request runs. Texts of usual length lie within.
#[derive(Clone, Debug)]
pub struct HistoryNames {
    /// Its begin, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// The number of the API key; 0 if none was needed or shown.
    pub key: u64,
    request_id: SmallVec<[u8; 40]>,
    model: SmallVec<[u8; 64]>,
    node: SmallVec<[u8; 32]>,
}

/// The queues of all workers, and what is to be kept for how long. Changes while the process runs.
pub struct History {
    is_on: AtomicBool,
    retention_secs: AtomicU64,
    rows_max: AtomicU64,
    queues: Box<[Queue]>,
    /// Tells the store thread that a queue is half full.
    alarm: Sender<()>,
    alarms: Receiver<()>,
}

/// How much history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Whether records are made at all.
    pub is_on: bool,
    /// Older ones are deleted.
    pub retention_secs: u64,
    /// Of more, the oldest are deleted.
    pub rows_max: u64,
}

#[derive(Default)]
struct Queue {
    /// Made when history is first on: without it there is none.
    records: OnceLock<ArrayQueue<HistoryRecord>>,
    has_alarmed: AtomicBool,
}

impl HistoryRecord {
    /// Whether it is of a request that was refused for want of a valid key: nothing else has this status
    /// before a node was tried.
    fn is_without_key(&self) -> bool {
        self.status == UNAUTHORIZED && self.names.node.is_empty()
    }
}

impl HistoryNames {
    /// The names of a request that begins.
    #[must_use]
    pub fn new(started_unix_ms: u64, request_id: &[u8], key: u64) -> Self {
        Self {
            started_unix_ms,
            key,
            request_id: SmallVec::from_slice(clip(request_id)),
            model: SmallVec::new(),
            node: SmallVec::new(),
        }
    }

    /// The model as the client names it; the beginning, if it is very long.
    pub fn set_model(&mut self, name: &[u8]) {
        self.model.clear();
        self.model.extend_from_slice(clip(name));
    }

    /// The node that is tried.
    pub fn set_node(&mut self, name: &[u8]) {
        self.node.clear();
        self.node.extend_from_slice(clip(name));
    }

    /// `X-Request-Id`.
    #[must_use]
    pub fn request_id(&self) -> &[u8] {
        &self.request_id
    }

    /// Empty before it was read.
    #[must_use]
    pub fn model(&self) -> &[u8] {
        &self.model
    }

    /// The node of the last attempt; empty if there was none.
    #[must_use]
    pub fn node(&self) -> &[u8] {
        &self.node
    }
}

impl History {
    /// The queues of so many workers.
    #[must_use]
    pub fn new(worker_count: usize, limits: HistoryLimits) -> Self {
        let (alarm, alarms) = bounded(1);
        let history = Self {
            is_on: AtomicBool::new(false),
            retention_secs: AtomicU64::default(),
            rows_max: AtomicU64::default(),
            queues: (0..worker_count).map(|_| Queue::default()).collect(),
            alarm,
            alarms,
        };
        history.set_limits(limits);
        history
    }

    /// Follows a change of the configuration.
    pub fn set_limits(&self, limits: HistoryLimits) {
        if limits.is_on {
            for queue in &self.queues {
                queue.records.get_or_init(|| ArrayQueue::new(QUEUE_RECORDS));
            }
        }
        self.retention_secs
            .store(limits.retention_secs, Ordering::Relaxed);
        self.rows_max.store(limits.rows_max, Ordering::Relaxed);
        // Release: whoever sees it on finds the queues.
        self.is_on.store(limits.is_on, Ordering::Release);
    }

    /// What is kept now.
    #[must_use]
    pub fn limits(&self) -> HistoryLimits {
        HistoryLimits {
            is_on: self.is_on(),
            retention_secs: self.retention_secs.load(Ordering::Relaxed),
            rows_max: self.rows_max.load(Ordering::Relaxed),
        }
    }

    /// Whether records are wanted.
    #[must_use]
    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// Hands a record of this worker over without waiting.
    ///
    /// # Errors
    /// [`RecordDropped`] when there is no room: count it as
    /// [`Occurrence::HistoryRecordDropped`](super::Occurrence).
    pub fn offer(&self, worker: usize, record: HistoryRecord) -> Result<(), RecordDropped> {
        let queue = self.queues.get(worker).ok_or(RecordDropped)?;
        let records = queue.records.get().ok_or(RecordDropped)?;
        if record.is_without_key() && records.len() >= QUEUE_RECORDS_WITHOUT_KEY {
            return Err(RecordDropped);
        }
        let pushed = records.push(record);
        if records.len() >= QUEUE_RECORDS / 2 && !queue.has_alarmed.load(Ordering::Relaxed) {
            queue.has_alarmed.store(true, Ordering::Relaxed);
            // Full means that the thread is told already.
            let _ = self.alarm.try_send(());
        }
        pushed.map_err(|_| RecordDropped)
    }

    /// Where the thread that takes records hears that it should not wait any longer.
    #[must_use]
    pub fn alarms(&self) -> &Receiver<()> {
        &self.alarms
    }

    /// Moves records that wait to `out`, at most `max`; whether there are more.
    pub fn take(&self, out: &mut Vec<HistoryRecord>, max: usize) -> bool {
        let mut room = max;
        for queue in &self.queues {
            let Some(records) = queue.records.get() else {
                continue;
            };
            queue.has_alarmed.store(false, Ordering::Relaxed);
            while room > 0
                && let Some(record) = records.pop()
            {
                out.push(record);
                room -= 1;
            }
        }
        room == 0
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History")
            .field("limits", &self.limits())
            .finish_non_exhaustive()
    }
}

/// The beginning of a text that a client may have chosen.
fn clip(text: &[u8]) -> &[u8] {
    text.get(..TEXT_BYTES_MAX).unwrap_or(text)
}

/// Records of one worker that may wait: at a few hundred requests a second, what a database that
/// stands still for ten seconds and more leaves unwritten.
pub const QUEUE_RECORDS: usize = 8192;
/// Records of requests without a valid key are dropped when so many records wait.
const QUEUE_RECORDS_WITHOUT_KEY: usize = QUEUE_RECORDS / 4;
const UNAUTHORIZED: u16 = 401;
/// Bytes kept of a text.
const TEXT_BYTES_MAX: usize = 256;

#[cfg(test)]
#[cfg(not(loom))]
#[path = "history_tests.rs"]
mod tests;
