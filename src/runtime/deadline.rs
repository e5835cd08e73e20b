//! Deadlines of sockets: one coarse sweep per worker that shuts overdue sockets down.
//!
//! A parked read or write on a socket that was shut down completes at once by itself (0 bytes or
//! EPIPE, on both drivers), so nothing is ever cancelled and no byte is lost. Setting a deadline is a
//! store into the thread's table: no timer, no allocation, no system call.

use std::cell::RefCell;
use std::os::fd::RawFd;
use std::time::Duration;

use super::clock;

/// What a passed deadline does to its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Nothing more is received; an answer can still be sent.
    Receiving,
    /// The same, for a connection that only waits for work: [`close_idle`] may do it at any time.
    /// A request that has already arrived is still read.
    Idle,
    /// The same, for a connection that has just been made and whose first request may be under way.
    Fresh,
    /// Nothing is received or sent any more.
    Both,
}

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

    /// Both directions are shut down once `after` has passed: not before, and at most two ticks
    /// later.
    #[inline]
    pub fn set(&self, after: Duration) {
        self.set_ending(after, Ending::Both);
    }

    /// Like [`Deadline::set`], but an answer can still be sent afterwards.
    #[inline]
    pub fn set_receiving(&self, after: Duration) {
        self.set_ending(after, Ending::Receiving);
    }

    /// Like [`Deadline::set_receiving`], for a connection that only waits for work.
    #[inline]
    pub fn set_idle(&self, after: Duration) {
        self.set_ending(after, Ending::Idle);
    }

    /// Like [`Deadline::set_idle`], for a connection whose first request may be under way:
    /// [`close_idle`] only brings its deadline forward.
    #[inline]
    pub fn set_fresh(&self, after: Duration) {
        self.set_ending(after, Ending::Fresh);
    }

    /// No deadline is pending any more.
    #[inline]
    pub fn clear(&self) {
        self.with(|entry| entry.at = NEVER);
    }

    /// Shuts both directions down now, so that parked operations complete and give their buffers
    /// back. Does not count as [`Deadline::expired`].
    pub fn end_now(&self) {
        let fd = self.with(|entry| {
            entry.at = NEVER;
            entry.fd
        });
        shut_down(fd);
    }

    /// Whether a deadline of this socket has passed.
    #[inline]
    pub fn expired(&self) -> bool {
        self.with(|entry| entry.expired)
    }

    #[inline]
    fn set_ending(&self, after: Duration, ending: Ending) {
        let at = clock::tick_after(after);
        self.with(|entry| {
            entry.at = at;
            entry.ending = ending;
        });
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

/// Ends every socket of this thread whose deadline has passed; returns how many.
pub(super) fn sweep() -> usize {
    let now = clock::tick();
    expire_where(|entry| entry.at <= now)
}

/// Ends every socket of this thread that only waits for work; returns how many.
pub fn close_idle() -> usize {
    let soon = clock::tick_after(FRESH_GRACE);
    TABLE.with_borrow_mut(|table| {
        for entry in &mut table.entries {
            if entry.at != NEVER && entry.ending == Ending::Fresh {
                entry.at = entry.at.min(soon);
            }
        }
    });
    expire_where(|entry| entry.at != NEVER && entry.ending == Ending::Idle)
}

fn expire_where(overdue: impl Fn(&Entry) -> bool) -> usize {
    TABLE.with_borrow_mut(|table| {
        table
            .entries
            .iter_mut()
            .filter(|entry| overdue(entry))
            .map(Entry::expire)
            .count()
    })
}

/// Shuts both directions of a socket down; parked operations on it complete.
pub(super) fn shut_down(fd: RawFd) {
    shut_down_how(fd, libc::SHUT_RDWR);
}

fn shut_down_how(fd: RawFd, how: libc::c_int) {
    // SAFETY: plain system call on a descriptor the caller keeps open; errors (not connected any
    // more) mean there is nothing left to shut down.
    #[allow(unsafe_code, reason = "shutdown(2) by descriptor")]
    unsafe {
        libc::shutdown(fd, how);
    }
}

const NEVER: u64 = u64::MAX;

/// How long a connection whose first request may be under way is still waited for.
pub const FRESH_GRACE: Duration = Duration::from_secs(1);

struct Entry {
    fd: RawFd,
    /// The tick at which the socket is shut down, [`NEVER`] if none.
    at: u64,
    ending: Ending,
    expired: bool,
}

impl Entry {
    fn expire(&mut self) {
        self.at = NEVER;
        self.expired = true;
        let how = match self.ending {
            Ending::Receiving | Ending::Idle | Ending::Fresh => libc::SHUT_RD,
            Ending::Both => libc::SHUT_RDWR,
        };
        shut_down_how(self.fd, how);
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
            ending: Ending::Both,
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
