//! Messages from any thread to one worker: a bounded queue and one byte to wake it.
//!
//! The byte travels through a Unix socket pair rather than an eventfd because monoio reads sockets on
//! both of its drivers but plain descriptors only on io_uring. A flag keeps at most one byte under
//! way, so a burst of messages costs one system call.

use std::io::{self, Write};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering};
#[cfg(not(loom))]
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
    bell: Bell,
    wake: StdUnixStream,
}

/// Decides who sends the wake-up byte, so that at most one is under way and no message waits unseen.
#[derive(Default)]
struct Bell {
    /// True while a byte is on its way that the receiver has not yet answered by draining.
    is_ringing: AtomicBool,
}

impl Bell {
    /// To be called after a message was pushed: whether the caller must send the byte. Whoever answers
    /// the bell next sees the message.
    fn ring(&self) -> bool {
        !self.is_ringing.swap(true, Ordering::AcqRel)
    }

    /// To be called after a byte came and before the queue is drained: a message pushed from here on
    /// brings its own byte.
    fn answer(&self) {
        self.is_ringing.swap(false, Ordering::AcqRel);
    }
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
        bell: Bell::default(),
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
        if self.shared.bell.ring() {
            // It cannot be full: at most one byte is ever under way. If it fails all the same, the next
            // message tries again.
            if (&self.shared.wake).write(&[1]).is_err() {
                self.shared.bell.answer();
            }
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
            self.shared.bell.answer();
            while let Some(message) = self.shared.queue.pop() {
                handle(message);
            }
        }
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use std::sync::Arc;

    use loom::sync::atomic::AtomicUsize;
    use loom::thread;

    use super::*;

    /// The mailbox without its socket: counters stand for the queue and for the bytes under way.
    #[derive(Default)]
    struct Model {
        bell: Bell,
        queued: AtomicUsize,
        bytes: AtomicUsize,
    }

    impl Model {
        fn send(&self) {
            self.queued.fetch_add(1, Ordering::Release);
            if self.bell.ring() {
                self.bytes.fetch_add(1, Ordering::Release);
            }
        }

        /// One turn of the receiver, if a byte has come: how many messages it took.
        fn receive(&self) -> usize {
            let came = self
                .bytes
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |bytes| {
                    assert!(bytes <= 1, "at most one byte is under way");
                    bytes.checked_sub(1)
                });
            if came.is_err() {
                return 0;
            }
            self.bell.answer();
            self.queued.swap(0, Ordering::AcqRel)
        }
    }

    #[test]
    fn no_message_is_left_without_a_byte() {
        loom::model(|| {
            let model = Arc::new(Model::default());
            let senders: Vec<_> = (0..2)
                .map(|_| {
                    let model = Arc::clone(&model);
                    thread::spawn(move || model.send())
                })
                .collect();
            let mut received = model.receive();
            for sender in senders {
                sender.join().unwrap();
            }
            // All has been sent: as long as bytes are under way, the receiver takes turns.
            while model.bytes.load(Ordering::Acquire) > 0 {
                received += model.receive();
            }
            assert_eq!(received, 2);
        });
    }
}
