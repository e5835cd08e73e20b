//! The client's side of a connection: bytes that have come in, and noticing that it is gone.

use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::auth::key::KeyMemory;
use crate::http1::HeadWriter;
use crate::runtime::{self, Buf, Deadline, NextTick, Reader, Stream, Writer};

/// A client connection. The parts are separate so that an exchange can write while it watches.
pub(super) struct Downstream {
    // First, so that it leaves the deadline table before the socket can be closed.
    pub(super) deadline: Deadline,
    pub(super) inlet: Inlet,
    pub(super) writer: Writer,
    /// Its address, as the kernel tells it.
    pub(super) peer: IpAddr,
    /// The field line that tells nodes the client's address.
    pub(super) forwarded_for: Box<[u8]>,
    /// The API key it came with last.
    pub(super) key: KeyMemory,
}

/// The client has left, or has sent nothing where it had to; there is nobody to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

impl Downstream {
    pub(super) fn new(stream: Stream, peer: IpAddr) -> Self {
        let Stream {
            deadline,
            reader,
            writer,
        } = stream;
        let inlet = Inlet {
            reader,
            held: None,
            gone: false,
            is_shut: false,
            look_again: None,
            next_tick: NextTick::new(),
        };
        Self {
            deadline,
            inlet,
            writer,
            peer: peer.to_canonical(),
            forwarded_for: forwarded_for(peer),
            key: KeyMemory::new(),
        }
    }
}

/// What the client sends. Between exchanges a read stands. During one it begins to at the worker's next
/// tick, and from then on a hang-up is noticed at once: most exchanges are over before, and a read that
/// stood from their beginning would find nothing first, and cost the kernel two visits to the socket more.
pub(super) struct Inlet {
    reader: Reader,
    /// Received and not yet used. A read may stand meanwhile, into a buffer of its own.
    held: Option<Buf>,
    gone: bool,
    /// Whether we have shut the receiving side ourselves: the end of the stream then says nothing about
    /// the client.
    is_shut: bool,
    /// Runs while no read can stand because too much is held: then to look for a hang-up now and then.
    look_again: Option<Pin<Box<dyn Future<Output = ()>>>>,
    /// When a read begins to stand during an exchange.
    next_tick: NextTick,
}

impl Inlet {
    /// The bytes received and not yet used.
    pub(super) fn held(&self) -> &[u8] {
        self.held.as_ref().map_or(&[], Buf::filled)
    }

    /// Takes the held bytes out, with their buffer.
    pub(super) fn take(&mut self) -> Buf {
        self.held.take().unwrap_or_else(fresh)
    }

    /// Puts bytes back that belong to what comes next.
    pub(super) fn put_back(&mut self, buf: Buf) {
        debug_assert!(self.held.is_none());
        self.held = Some(buf);
    }

    /// Waits until more bytes are held, within a buffer of at most `bytes_max`.
    ///
    /// # Errors
    /// [`Gone`] at the end of the stream, whether the client or a deadline ended it, or when the
    /// buffer is full.
    pub(super) async fn receive(&mut self, bytes_max: usize) -> Result<(), Gone> {
        self.next_tick.reset();
        if !self.reader.is_armed() {
            let buf = with_room(self.take(), bytes_max).map_err(|full| {
                self.held = Some(full);
                Gone
            })?;
            self.reader.arm(buf);
        }
        let (received, buf) = self.reader.finish().await;
        self.absorb(buf);
        self.accept_count(&received)
    }

    /// Puts what a read received behind what is held.
    fn absorb(&mut self, buf: Buf) {
        self.held = Some(match self.held.take() {
            Some(mut held) if !held.is_empty() || held.room() >= buf.len() => {
                if held.room() < buf.len() {
                    let bytes = held.len() + buf.len();
                    held = held.grown(bytes.max(FIRST_GROWTH_BYTES), REQUEST_HEADROOM);
                }
                held.append(buf.filled());
                held
            }
            _ => buf,
        });
    }

    /// A deadline shut the receiving side down just as a whole request had arrived: it is answered, and
    /// nothing more is read.
    pub(super) fn stop_reading(&mut self) {
        self.is_shut = true;
    }

    /// Receives some bytes and forgets them; returns how many.
    ///
    /// # Errors
    /// [`Gone`] at the end of the stream.
    pub(super) async fn discard(&mut self) -> Result<usize, Gone> {
        if !self.reader.is_armed() {
            self.held = None;
            self.reader.arm(Buf::medium());
        }
        let (received, _) = self.reader.finish().await;
        self.accept_count(&received)?;
        Ok(received.unwrap_or(0))
    }

    /// Holds `leftover`, bytes of the next request or none, until the exchange is over.
    pub(super) fn hold(&mut self, leftover: Buf) {
        // A window that was consumed leaves its block behind it unusable.
        let is_spent = leftover.is_empty() && leftover.room() == 0;
        self.held = Some(if is_spent { fresh() } else { leftover });
    }

    /// Whether the client has left; keeps what it sends ahead of time, up to
    /// [`PIPELINED_BYTES_MAX`], then stops reading. Looks from the worker's next tick on.
    pub(super) fn poll_gone(&mut self, context: &mut Context<'_>) -> bool {
        if self.is_shut {
            return false;
        }
        if !self.gone && !self.reader.is_armed() && self.held().len() < PIPELINED_BYTES_MAX {
            if self.next_tick.poll(context).is_pending() {
                return false;
            }
            self.arm_ahead();
        }
        while !self.gone && self.reader.is_armed() {
            if self.reader.poll_done(context).is_pending() {
                return false;
            }
            let Some((received, buf)) = self.reader.take() else {
                return self.gone;
            };
            let accepted = self.accept_count(&received);
            self.absorb(buf);
            if accepted.is_ok() && self.held().len() < PIPELINED_BYTES_MAX {
                self.arm_ahead();
            }
        }
        self.gone || self.poll_gone_unread(context)
    }

    /// Begins a read of what comes before its time; into the buffer that is held where nothing is in it.
    fn arm_ahead(&mut self) {
        let waits_in = match self.held() {
            [] => self.take(),
            _ => fresh(),
        };
        self.reader.arm(waits_in);
    }

    /// Looks now and then whether the client has left, where a read would have no room.
    fn poll_gone_unread(&mut self, context: &mut Context<'_>) -> bool {
        loop {
            let pause = || Box::pin(runtime::sleep(HANG_UP_LOOK)) as Pin<Box<_>>;
            let timer = self.look_again.get_or_insert_with(pause);
            if timer.as_mut().poll(context).is_pending() {
                return false;
            }
            self.look_again = None;
            if self.reader.peer_has_left() {
                self.gone = true;
                return true;
            }
        }
    }

    /// The output of `work`, or [`Gone`] as soon as the client leaves. Drops `work` then.
    pub(super) async fn watch<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Gone> {
        let mut work = pin!(work);
        poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending if self.poll_gone(context) => Poll::Ready(Err(Gone)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    fn accept_count(&mut self, received: &io::Result<usize>) -> Result<(), Gone> {
        match received {
            Ok(1..) => Ok(()),
            // A half-closed client counts as gone: it is how most clients abort, and a response it
            // still waited for would hold a slot for nobody. RFC 9112 section 9.6 leaves it to us.
            Ok(0) | Err(_) => {
                self.gone = !self.is_shut;
                Err(Gone)
            }
        }
    }
}

fn forwarded_for(peer: IpAddr) -> Box<[u8]> {
    let mut line = Vec::new();
    let address = peer.to_canonical().to_string();
    HeadWriter::new(&mut line).field("X-Forwarded-For", address.as_bytes());
    line.into()
}

/// A buffer a connection begins to wait with: small, with room in front for the head that replaces
/// the client's, and at the end for one request of ordinary size.
fn fresh() -> Buf {
    Buf::small().with_headroom(REQUEST_HEADROOM)
}

/// `buf` with room to receive; grows by steps up to `bytes_max`, and comes back as an error beyond.
fn with_room(buf: Buf, bytes_max: usize) -> Result<Buf, Buf> {
    if buf.room() > 0 {
        Ok(buf)
    } else if buf.len() >= bytes_max {
        Err(buf)
    } else {
        let room = (buf.len() * 4).clamp(FIRST_GROWTH_BYTES, bytes_max);
        Ok(buf.grown(room, REQUEST_HEADROOM))
    }
}

/// Bytes in front of a received request. The head we write for the node drops some of the client's
/// fields and adds ours; this much more than the client's own head almost always suffices, and if
/// not the body is copied once.
pub(super) const REQUEST_HEADROOM: usize = 128;

/// Bytes of pipelined requests held while an exchange runs; then reading stops.
const PIPELINED_BYTES_MAX: usize = 32 * 1024;

/// The first growth goes straight to a buffer that most requests fit in.
const FIRST_GROWTH_BYTES: usize = 15 * 1024;

/// How often a client is looked at that has sent more ahead than is held.
const HANG_UP_LOOK: Duration = Duration::from_millis(250);
