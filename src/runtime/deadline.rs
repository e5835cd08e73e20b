//! Deadlines of sockets: one coarse sweep per worker that shuts overdue sockets down.
//!
//! A parked read or write on a socket that was shut down completes at once by itself (0 bytes or
//! EPIPE, on both drivers), so nothing is ever cancelled and no byte is lost. Setting a deadline is a
//! store into the thread's table: no timer, no allocation, no system call.

use std::cell::RefCell;
use std::os::fd::RawFd;
use std::time::Duration;

use super::clock;

/// The deadline of one socket. At most one is pending; setting it anew replaces it.
///
/// Must be dropped before the socket's descriptor is closed: [`super::Stream`] declares it first.
#[derive(Debug)]
pub struct Deadline {
    index: usize,
}

impl Deadline {
    /// Registers `fd` with no deadline pending.
    pub(super) fn register(fd: RawFd) -> Self {
        let index = TABLE.with_borrow_mut(|table| table.insert(fd));
        Self { index }
    }

    /// The socket is shut down once `after` has passed: not before, and at most two ticks later.
    #[inline]
    pub fn set(&self, after: Duration) {
        let at = clock::tick_after(after);
        self.with(|entry| entry.at = at);
    }

    /// No deadline is pending any more.
    #[inline]
    pub fn clear(&self) {
        self.with(|entry| entry.at = NEVER);
    }

    /// Whether the sweep has shut this socket down.
    #[inline]
    pub fn expired(&self) -> bool {
        self.with(|entry| entry.expired)
    }

    #[inline]
    fn with<T>(&self, act: impl FnOnce(&mut Entry) -> T) -> T {
        TABLE.with_borrow_mut(|table| act(&mut table.entries[self.index]))
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let _ = TABLE.try_with(|table| {
            if let Ok(mut table) = table.try_borrow_mut() {
                table.remove(self.index);
            }
        });
    }
}

/// Shuts down every socket whose deadline has passed; returns how many.
pub(super) fn sweep() -> usize {
    let now = clock::tick();
    TABLE.with_borrow_mut(|table| {
        let overdue = table.entries.iter_mut().filter(|entry| entry.at <= now);
        overdue.map(Entry::expire).count()
    })
}

/// Shuts both directions of a socket down; parked operations on it complete.
pub(super) fn shut_down(fd: RawFd) {
    // SAFETY: plain system call on a descriptor the caller keeps open; errors (not connected any
    // more) mean there is nothing left to shut down.
    #[allow(unsafe_code, reason = "shutdown(2) by descriptor")]
    unsafe {
        libc::shutdown(fd, libc::SHUT_RDWR);
    }
}

const NEVER: u64 = u64::MAX;

struct Entry {
    fd: RawFd,
    /// The tick at which the socket is shut down, [`NEVER`] if none.
    at: u64,
    expired: bool,
}

impl Entry {
    fn expire(&mut self) {
        self.at = NEVER;
        self.expired = true;
        shut_down(self.fd);
    }
}

/// A slab: indices stay valid for the life of their `Deadline`.
struct Table {
    entries: Vec<Entry>,
    vacant: Vec<usize>,
}

impl Table {
    fn insert(&mut self, fd: RawFd) -> usize {
        let entry = Entry {
            fd,
            at: NEVER,
            expired: false,
        };
        match self.vacant.pop() {
            Some(index) => {
                self.entries[index] = entry;
                index
            }
            None => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
        }
    }

    fn remove(&mut self, index: usize) {
        self.entries[index].at = NEVER;
        self.vacant.push(index);
    }
}

thread_local! {
    static TABLE: RefCell<Table> =
        const { RefCell::new(Table { entries: Vec::new(), vacant: Vec::new() }) };
}
