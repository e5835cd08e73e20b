//! Owns the access log: one record per exchange, handed by workers to one writing thread through a
//! bounded queue. A worker never waits for it: a record that finds the queue full is dropped and
//! counted. Prompts and completions have no field here.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use super::labels::{EndedBy, EndpointLabel, Phase};
use super::line;

/// What one exchange was (spec section 8).
#[derive(Clone, Debug)]
pub struct AccessRecord {
    /// Its begin, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// `X-Request-Id`.
    pub request_id: ClientText,
    /// What was asked for.
    pub endpoint: EndpointLabel,
    /// The model as the client named it; empty before it was read.
    pub model: ClientText,
    /// The node of the last attempt; empty if there was none.
    pub node: ClientText,
    /// Status sent to the client; 0 if it left before.
    pub status: u16,
    /// Microseconds spent in each phase, by discriminant; that of `Done` stays 0.
    pub phase_us: [u64; Phase::COUNT],
    /// Body bytes received from the client.
    pub request_bytes: u64,
    /// Body bytes sent to the client.
    pub response_bytes: u64,
    /// Tokens of the prompt, if the response reported them.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the completion, if the response reported them.
    pub completion_tokens: Option<u64>,
    /// Nodes tried.
    pub attempts: u32,
    /// Who ended it.
    pub ended_by: EndedBy,
    /// In which phase.
    pub ended_in: Phase,
}

/// Text a client may have chosen: at most [`ClientText::BYTES_MAX`] bytes are kept, and it is
/// escaped when written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientText {
    kept: Box<[u8]>,
    truncated: bool,
}

/// The workers' end of the access log.
#[derive(Clone, Debug)]
pub struct AccessLog {
    queue: Sender<Message>,
    unwritten: Arc<AtomicU64>,
}

/// The owner of the writing thread.
#[derive(Debug)]
pub struct AccessLogWriter {
    queue: Sender<Message>,
    thread: JoinHandle<()>,
}

/// The queue was full, or the log has ended; the record is lost and must be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordDropped;

#[derive(Debug)]
enum Message {
    Record(Box<AccessRecord>),
    Finish,
}

impl ClientText {
    /// Bytes kept, before escaping.
    pub const BYTES_MAX: usize = 256;

    /// Keeps the beginning of `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let kept = bytes.get(..Self::BYTES_MAX).unwrap_or(bytes);
        Self {
            kept: kept.into(),
            truncated: kept.len() < bytes.len(),
        }
    }

    pub(super) fn kept(&self) -> &[u8] {
        &self.kept
    }

    pub(super) fn is_truncated(&self) -> bool {
        self.truncated
    }
}

impl AccessLog {
    /// Starts the thread that writes to `sink`, with room for `capacity` records in between (0
    /// counts as 1).
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        sink: impl Write + Send + 'static,
        capacity: usize,
    ) -> io::Result<(Self, AccessLogWriter)> {
        let (sender, receiver) = bounded(capacity.max(1));
        let unwritten = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&unwritten);
        let thread = thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_records(sink, &receiver, &counter))?;
        let writer = AccessLogWriter {
            queue: sender.clone(),
            thread,
        };
        Ok((
            Self {
                queue: sender,
                unwritten,
            },
            writer,
        ))
    }

    /// Hands a record over without waiting.
    ///
    /// # Errors
    /// [`RecordDropped`] when there is no room: count it as
    /// [`Occurrence::AccessRecordDropped`](super::Occurrence).
    pub fn offer(&self, record: Box<AccessRecord>) -> Result<(), RecordDropped> {
        self.queue
            .try_send(Message::Record(record))
            .map_err(|_| RecordDropped)
    }

    /// Records that were taken over but could not be written.
    #[must_use]
    pub fn unwritten_total(&self) -> u64 {
        self.unwritten.load(Ordering::Relaxed)
    }
}

impl AccessLogWriter {
    /// Writes what was handed over before this call, flushes and ends the thread. Records offered
    /// later are dropped. Blocks as long as the sink does.
    pub fn finish(self) {
        // Both fail only if the thread is already gone, and then there is nothing left to end.
        if self.queue.send(Message::Finish).is_ok() {
            drop(self.thread.join());
        }
    }
}

/// The writing thread: writes until it is told to finish, flushes whenever the queue runs dry.
fn write_records(sink: impl Write, queue: &Receiver<Message>, unwritten: &AtomicU64) {
    let mut sink = BufWriter::new(sink);
    let mut line = Vec::with_capacity(line::BYTES_MAX);
    // Records in the buffer: lost together if it cannot be written.
    let mut buffered = 0;
    loop {
        let message = match queue.try_recv() {
            Ok(message) => Some(message),
            Err(TryRecvError::Empty) => {
                settle(sink.flush(), &mut buffered, unwritten);
                queue.recv().ok()
            }
            Err(TryRecvError::Disconnected) => None,
        };
        let Some(Message::Record(record)) = message else {
            break;
        };
        line.clear();
        line::write(&record, &mut line);
        buffered += 1;
        if let Err(error) = sink.write_all(&line) {
            settle(Err(error), &mut buffered, unwritten);
        }
    }
    settle(sink.flush(), &mut buffered, unwritten);
}

/// Counts the buffered records as lost if writing them failed; either way none is outstanding any
/// more.
fn settle(outcome: io::Result<()>, buffered: &mut u64, unwritten: &AtomicU64) {
    if outcome.is_err() {
        unwritten.fetch_add(*buffered, Ordering::Relaxed);
    }
    *buffered = 0;
}

#[cfg(test)]
#[cfg(not(loom))]
#[path = "access_tests.rs"]
mod tests;
