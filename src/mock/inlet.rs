//! What the peer of a connection sends: bytes received and not yet used, and noticing that it left.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use crate::runtime::{Buf, LARGE, Reader};

/// The peer has left, or was idle for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// The receiving half of a connection with its buffer, which is in one place at a time: held here,
/// or with the read that stands.
pub(super) struct Inlet {
    reader: Reader,
    held: Option<Buf>,
    is_gone: bool,
}

impl Inlet {
    pub(super) fn new(reader: Reader) -> Self {
        Self {
            reader,
            held: Some(Buf::medium()),
            is_gone: false,
        }
    }

    /// The bytes received and not yet used; none while a read stands.
    pub(super) fn held(&self) -> &[u8] {
        self.held.as_ref().map_or(&[], Buf::filled)
    }

    /// Marks the first `bytes` of [`Inlet::held`] as used.
    pub(super) fn consume(&mut self, bytes: usize) {
        if let Some(buf) = &mut self.held {
            buf.consume(bytes);
            if buf.is_empty() && buf.block_bytes() > LARGE {
                // One large request must not cost its memory for as long as the connection lives.
                *buf = Buf::medium();
            } else if buf.is_empty() {
                buf.set_window(0..0);
            }
        }
    }

    /// Waits until more is held, in a buffer for `bytes` in all if that is known.
    ///
    /// # Errors
    /// [`Gone`] at the end of the stream or a deadline.
    pub(super) async fn receive(&mut self, bytes: usize) -> Result<(), Gone> {
        if !self.reader.is_armed() {
            let buf = self.held.take().unwrap_or_else(Buf::medium);
            self.reader.arm(with_room(buf, bytes));
        }
        let (received, buf) = self.reader.finish().await;
        self.held = Some(buf);
        self.accept_count(&received)
    }

    /// Leaves a read standing if no bytes wait to be used: it reaches the kernel together with the
    /// answer that is sent next.
    pub(super) fn stand_if_empty(&mut self) {
        if let Some(buf) = self.held.take_if(|buf| buf.is_empty()) {
            self.reader.arm_standing(buf);
        }
    }

    /// The output of `work`, or [`Gone`] as soon as the peer leaves; drops `work` then.
    ///
    /// # Errors
    /// [`Gone`].
    pub(super) async fn watch<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Gone> {
        let mut work = pin!(work);
        poll_fn(|context| {
            if self.poll_gone(context) {
                return Poll::Ready(Err(Gone));
            }
            work.as_mut().poll(context).map(Ok)
        })
        .await
    }

    /// Whether the peer has left. What it sends ahead of time is kept, up to [`AHEAD_BYTES_MAX`];
    /// beyond that nobody reads and so nobody notices.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> bool {
        while !self.is_gone {
            if let Some(buf) = self.held.take_if(|buf| buf.len() < AHEAD_BYTES_MAX) {
                self.reader.arm(with_room(buf, 0));
            }
            if !self.reader.is_armed() || self.reader.poll_done(context).is_pending() {
                return false;
            }
            let Some((received, buf)) = self.reader.take() else {
                return false;
            };
            self.held = Some(buf);
            // The loop's condition is the verdict.
            let _ = self.accept_count(&received);
        }
        true
    }

    fn accept_count(&mut self, received: &io::Result<usize>) -> Result<(), Gone> {
        if matches!(received, Ok(1..)) {
            return Ok(());
        }
        self.is_gone = true;
        Err(Gone)
    }
}

/// `buf` with room to receive, for `bytes` in all if it has to be another one.
fn with_room(buf: Buf, bytes: usize) -> Buf {
    let needed = bytes.saturating_sub(buf.len());
    if buf.room() > 0 && buf.room() >= needed {
        return buf;
    }
    let doubled = buf.len() * 2 + 1;
    buf.grown(bytes.max(doubled), 0)
}

const AHEAD_BYTES_MAX: usize = 64 * 1024;
