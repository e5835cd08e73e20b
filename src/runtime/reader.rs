//! A read that outlives the future waiting for it.
//!
//! io_uring loses the bytes of a read whose future is dropped. Here the pending read lives in the
//! [`Reader`], beside the socket: whoever waits for it may stop waiting (because the client left, a
//! write finished first, a deadline passed) and look again later. The same standing read is at once
//! the hang-up detector of a connection and the first read of what comes next on it.
//!
//! One allocation per connection, none per read: the future's place is made once and filled again.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use monoio::io::{AsyncReadRent, OwnedReadHalf};
use monoio::net::TcpStream;
use pin_project_lite::pin_project;

use super::Buf;

type ReadHalf = OwnedReadHalf<TcpStream>;
type Completed = (ReadHalf, io::Result<usize>, Buf);

/// The receiving half of a socket, with at most one read pending.
pub struct Reader {
    place: Pin<Box<dyn ReadPlace>>,
    state: State,
    fd: RawFd,
}

enum State {
    Idle(ReadHalf),
    Pending,
    Done(Completed),
    /// Only while a state is being replaced.
    Moving,
}

impl Reader {
    pub(super) fn new(half: ReadHalf, fd: RawFd) -> Self {
        Self {
            place: place_for(receive),
            state: State::Idle(half),
            fd,
        }
    }

    /// Begins a read that appends to `buf`. It reaches the kernel at the next poll.
    ///
    /// Does nothing but drop `buf` if a read is pending already: a bug, asserted in debug builds.
    pub fn arm(&mut self, buf: Buf) {
        debug_assert!(
            buf.room() > 0,
            "a read of no bytes looks like the end of the stream"
        );
        match std::mem::replace(&mut self.state, State::Moving) {
            State::Idle(half) => {
                self.place.as_mut().begin(half, buf);
                self.state = State::Pending;
            }
            other => {
                debug_assert!(false, "one read at a time");
                self.state = other;
            }
        }
    }

    /// Begins a read and hands it to the kernel without anyone waiting for it.
    pub fn arm_standing(&mut self, buf: Buf) {
        self.arm(buf);
        let _ = self.poll_done(&mut Context::from_waker(Waker::noop()));
    }

    /// Whether a read was begun whose outcome has not been taken.
    #[inline]
    pub fn is_armed(&self) -> bool {
        !matches!(self.state, State::Idle(_))
    }

    /// Ready when the pending read has completed, or when none is pending.
    #[inline]
    pub fn poll_done(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !matches!(self.state, State::Pending) {
            return Poll::Ready(());
        }
        match self.place.as_mut().poll(context) {
            Poll::Ready(completed) => {
                self.state = State::Done(completed);
                Poll::Ready(())
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Whether the peer has closed its sending side or the connection is broken, even while bytes it
    /// sent before are still unread: for when no read can stand because there is no room for more.
    pub fn peer_has_left(&self) -> bool {
        let events = libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR;
        let mut watched = libc::pollfd {
            fd: self.fd,
            events,
            revents: 0,
        };
        // SAFETY: one initialised entry for a descriptor that is open as long as `self`; returns at
        // once because the timeout is zero.
        #[allow(unsafe_code, reason = "monoio polls for reading and writing only")]
        let count = unsafe { libc::poll(&raw mut watched, 1, 0) };
        count > 0 && watched.revents & events != 0
    }

    /// Whether the peer has neither closed the connection nor sent anything that is unread. For while no
    /// read is pending: one would take what comes.
    pub fn is_quiet(&self) -> bool {
        debug_assert!(!self.is_armed(), "a read is pending");
        let mut byte = 0_u8;
        // SAFETY: room for the one byte that is asked for, and a descriptor that is open as long as
        // `self`; returns at once.
        #[allow(unsafe_code, reason = "monoio has no peek")]
        let count = unsafe {
            libc::recv(
                self.fd,
                (&raw mut byte).cast(),
                1,
                libc::MSG_PEEK | libc::MSG_DONTWAIT,
            )
        };
        count < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
    }

    /// The outcome of a completed read: the count of appended bytes (0 at the end of the stream) and
    /// the buffer. `None` while pending or when none was begun.
    #[inline]
    pub fn take(&mut self) -> Option<(io::Result<usize>, Buf)> {
        match std::mem::replace(&mut self.state, State::Moving) {
            State::Done((half, result, buf)) => {
                self.state = State::Idle(half);
                Some((result, buf))
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    /// Waits for the pending read and takes its outcome; may be dropped while waiting.
    ///
    /// Without a pending read it is an error at once.
    pub async fn finish(&mut self) -> (io::Result<usize>, Buf) {
        poll_fn(|context| self.poll_done(context)).await;
        self.take()
            .unwrap_or_else(|| (Err(io::ErrorKind::InvalidInput.into()), Buf::small()))
    }

    /// Reads once, appending to `buf`; may be dropped while waiting.
    pub async fn read(&mut self, buf: Buf) -> (io::Result<usize>, Buf) {
        self.arm(buf);
        self.finish().await
    }
}

async fn receive(mut half: ReadHalf, buf: Buf) -> Completed {
    let (result, buf) = half.read(buf).await;
    (half, result, buf)
}

/// A place for one future at a time whose type cannot be named.
trait ReadPlace {
    fn begin(self: Pin<&mut Self>, half: ReadHalf, buf: Buf);
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completed>;
}

pin_project! {
    struct Place<M, F> {
        make: M,
        #[pin]
        future: Option<F>,
    }
}

impl<M, F> ReadPlace for Place<M, F>
where
    M: Fn(ReadHalf, Buf) -> F,
    F: Future<Output = Completed>,
{
    fn begin(self: Pin<&mut Self>, half: ReadHalf, buf: Buf) {
        let mut this = self.project();
        let future = (this.make)(half, buf);
        this.future.set(Some(future));
    }

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completed> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        let polled = future.poll(context);
        if polled.is_ready() {
            this.future.set(None);
        }
        polled
    }
}

fn place_for<M, F>(make: M) -> Pin<Box<dyn ReadPlace>>
where
    M: Fn(ReadHalf, Buf) -> F + 'static,
    F: Future<Output = Completed> + 'static,
{
    Box::pin(Place { make, future: None })
}
