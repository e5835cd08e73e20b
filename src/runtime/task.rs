//! Tasks of a worker: spawned isolated, so that a panic ends one exchange and not a core.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

/// Runs `task` on this worker until it ends. A panic inside it is caught, counted in
/// [`panic_count`], and drops the task with every guard it holds.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that spawns, isolated"
    )]
    drop(monoio::spawn(Isolated { task }));
}

/// Panics caught in tasks of this thread.
pub fn panic_count() -> u64 {
    PANICS.get()
}

/// Waits for `duration` (resolution 1 ms).
pub async fn sleep(duration: Duration) {
    monoio::time::sleep(duration).await;
}

/// The output of `future`, or `None` if it takes longer than `limit`.
///
/// Drops `future` at the limit: only for operations that may be dropped (connecting, sleeping), never
/// for a read of a live connection.
pub async fn timeout<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    monoio::time::timeout(limit, future).await.ok()
}

pin_project! {
    struct Isolated<F> {
        #[pin]
        task: F,
    }
}

impl<F: Future<Output = ()>> Future for Isolated<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let task = self.project().task;
        // Unwind safety: after a panic the task is never polled again, only dropped.
        catch_unwind(AssertUnwindSafe(|| task.poll(context))).unwrap_or_else(|_| {
            PANICS.set(PANICS.get() + 1);
            Poll::Ready(())
        })
    }
}

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}
