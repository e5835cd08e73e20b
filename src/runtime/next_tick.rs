//! Waking a task at the next tick: for what can wait that long and is mostly not needed by then.
//!
//! Asking is a store into the thread's table, as for deadlines: no timer, no allocation.

use std::cell::RefCell;
use std::task::{Context, Poll, Waker};

/// A place in the thread's table of tasks that are woken at its next tick.
#[derive(Debug)]
pub struct NextTick {
    index: usize,
    /// The count of ticks when the wait began.
    since: Option<u64>,
}

impl NextTick {
    /// A place that waits for nothing.
    pub fn new() -> Self {
        let index = TABLE.with_borrow_mut(|table| {
            table.vacant.pop().unwrap_or_else(|| {
                table.waiting.push(None);
                table.waiting.len() - 1
            })
        });
        Self { index, since: None }
    }

    /// Ready at the next tick after the first call since the last [`NextTick::reset`]; wakes the task
    /// of that first call. Ready once: the call after that waits anew.
    #[inline]
    pub fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        TABLE.with_borrow_mut(|table| match self.since {
            Some(since) if since == table.tick_count => Poll::Pending,
            Some(_) => {
                self.since = None;
                Poll::Ready(())
            }
            None => {
                self.since = Some(table.tick_count);
                table.put(self.index, Some(context.waker().clone()));
                Poll::Pending
            }
        })
    }

    /// Waits for nothing any more.
    #[inline]
    pub fn reset(&mut self) {
        if self.since.take().is_some() {
            TABLE.with_borrow_mut(|table| table.put(self.index, None));
        }
    }
}

impl Default for NextTick {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for NextTick {
    fn drop(&mut self) {
        // The table may be gone when the thread ends.
        let _ = TABLE.try_with(|table| {
            if let Ok(mut table) = table.try_borrow_mut() {
                table.put(self.index, None);
                table.vacant.push(self.index);
            }
        });
    }
}

/// Wakes all that wait; to be called at each tick.
pub(super) fn wake_all() {
    TABLE.with_borrow_mut(|table| table.tick_count += 1);
    let mut at = 0;
    // One by one: a waker that is called may come back to the table.
    while let Some(next) = TABLE.with_borrow_mut(|table| {
        let place = table.waiting.get_mut(at)?;
        at += 1;
        Some(place.take())
    }) {
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

/// A slab: indices stay valid for the life of their [`NextTick`].
struct Table {
    tick_count: u64,
    waiting: Vec<Option<Waker>>,
    vacant: Vec<usize>,
}

impl Table {
    #[inline]
    fn put(&mut self, index: usize, waker: Option<Waker>) {
        if let Some(place) = self.waiting.get_mut(index) {
            *place = waker;
        }
    }
}

thread_local! {
    static TABLE: RefCell<Table> =
        const { RefCell::new(Table { tick_count: 0, waiting: Vec::new(), vacant: Vec::new() }) };
}
