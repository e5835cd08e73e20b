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

/// Lets other tasks and the deadline sweep run, where the driver does not see to it: on epoll an
/// operation that is ready completes at once, so a task whose peers are both fast never waits. Call it
/// every [`TURNS`] operations of a loop.
pub async fn give_way() {
    if monoio::utils::is_legacy() {
        // A task that only wakes itself would be run next again.
        Box::pin(sleep(Duration::from_millis(1))).await;
    }
}

/// Operations a loop may do in a row before it gives way.
pub const TURNS: u64 = 64;

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
