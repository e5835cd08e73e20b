//! Messages from any thread to one worker: a bounded queue and one byte to wake it.
//!
//! The byte travels through a Unix socket pair rather than an eventfd because monoio reads sockets on
//! both of its drivers but plain descriptors only on io_uring. A flag keeps at most one byte under
//! way, so a burst of messages costs one system call.

use std::io::{self, Write};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::ArrayQueue;
use monoio::io::AsyncReadRent;
use monoio::net::UnixStream;

/// The sending side; any thread may hold clones.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

/// The receiving side before it reaches its worker.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    wake: StdUnixStream,
}

struct Shared<T> {
    queue: ArrayQueue<T>,
    /// True while a byte is on its way that the receiver has not yet answered by draining.
    notified: AtomicBool,
    wake: StdUnixStream,
}

/// A mailbox for at most `capacity` undelivered messages.
///
/// # Errors
/// When the socket pair cannot be created.
pub fn new<T>(capacity: usize) -> io::Result<(Sender<T>, Receiver<T>)> {
    let (near, far) = StdUnixStream::pair()?;
    near.set_nonblocking(true)?;
    let shared = Arc::new(Shared {
        queue: ArrayQueue::new(capacity),
        notified: AtomicBool::new(false),
        wake: near,
    });
    Ok((
        Sender {
            shared: Arc::clone(&shared),
        },
        Receiver { shared, wake: far },
    ))
}

impl<T> Sender<T> {
    /// Delivers `message` and wakes the worker.
    ///
    /// # Errors
    /// Gives the message back when the mailbox is full.
    pub fn send(&self, message: T) -> Result<(), T> {
        self.shared.queue.push(message)?;
        // After the push: whoever clears the flag will see the message.
        if !self.shared.notified.swap(true, Ordering::AcqRel) {
            // It cannot be full: at most one byte is ever under way.
            let _ = (&self.shared.wake).write(&[1]);
        }
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// Hands each message to `handle`, on the worker's thread, for as long as the worker runs.
    ///
    /// # Errors
    /// When the wake-up socket cannot be registered or fails.
    pub async fn run(self, mut handle: impl FnMut(T)) -> io::Result<()> {
        self.wake.set_nonblocking(monoio::utils::is_legacy())?;
        let mut wake = UnixStream::from_std(self.wake)?;
        let mut byte = vec![0; 8];
        loop {
            let (read, back) = wake.read(byte).await;
            byte = back;
            if read? == 0 {
                return Ok(());
            }
            // Before draining: a message pushed from here on brings its own byte.
            self.shared.notified.swap(false, Ordering::AcqRel);
            while let Some(message) = self.shared.queue.pop() {
                handle(message);
            }
        }
    }
}
