//! A value in a block of memory that is used again.
//!
//! Like `Box::pin`, for futures, and what else is too large to be handed around, that come and go with
//! every request: blocks are kept per thread and handed out again, so a warm worker allocates none.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll};

/// Blocks are made of these, so that they are aligned for any ordinary value.
type Unit = MaybeUninit<u128>;

/// A value in a block of this thread's free list. What may not be moved, as most futures, can only be
/// reached for writing where it is pinned.
///
/// Invariant: `block` holds a live `T` that is never moved until it is dropped in place.
pub struct Pooled<T> {
    block: NonNull<Unit>,
    value: PhantomData<T>,
}

impl<T> Pooled<T> {
    const UNIT_COUNT: usize = {
        assert!(align_of::<T>() <= align_of::<Unit>());
        size_of::<T>().next_multiple_of(CLASS_BYTES) / size_of::<Unit>()
    };

    /// Puts the value that `make` returns into a block.
    #[inline]
    pub fn new(make: impl FnOnce() -> T) -> Self {
        let block = take(Self::UNIT_COUNT);
        // SAFETY: the block is owned, aligned for `T` and at least as large, both by `UNIT_COUNT`.
        // If `make` panics, nothing was written and the block is merely lost.
        #[allow(unsafe_code, reason = "a value in memory that outlives it")]
        unsafe {
            block.cast::<T>().write(make());
        }
        Self {
            block,
            value: PhantomData,
        }
    }
}

impl<T> Deref for Pooled<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: by the invariant of `Pooled` the block holds a live `T`, borrowed with `self`.
        #[allow(unsafe_code, reason = "looks at the value in its block")]
        unsafe {
            self.block.cast::<T>().as_ref()
        }
    }
}

impl<T: Unpin> DerefMut for Pooled<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: by the invariant of `Pooled` the block holds a live `T`, borrowed uniquely with
        // `self`; being `Unpin` it may even be exchanged for another.
        #[allow(unsafe_code, reason = "changes the value in its block")]
        unsafe {
            self.block.cast::<T>().as_mut()
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Pooled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}

impl<F: Future> Future for Pooled<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: by the invariant of `Pooled` the block holds a live `F`, borrowed uniquely with
        // `self`, that stays where it is when `self` moves.
        #[allow(unsafe_code, reason = "polls the future in its block")]
        let future = unsafe { Pin::new_unchecked(self.block.cast::<F>().as_mut()) };
        future.poll(context)
    }
}

// The value does not move with the handle to its block.
impl<T> Unpin for Pooled<T> {}

impl<T> Drop for Pooled<T> {
    fn drop(&mut self) {
        // SAFETY: by the invariant of `Pooled` the block holds a live `T`; nothing uses it afterwards.
        #[allow(unsafe_code, reason = "ends the value in its block")]
        unsafe {
            self.block.cast::<T>().drop_in_place();
        }
        give_back(self.block, Self::UNIT_COUNT);
    }
}

fn take(unit_count: usize) -> NonNull<Unit> {
    let class = class_of(unit_count);
    let kept = FREE.with_borrow_mut(|free| free.get_mut(class)?.pop());
    let block = kept.unwrap_or_else(|| vec![Unit::uninit(); unit_count].into_boxed_slice());
    NonNull::from(Box::leak(block)).cast()
}

fn give_back(block: NonNull<Unit>, unit_count: usize) {
    let block = NonNull::slice_from_raw_parts(block, unit_count);
    // SAFETY: the pointer and the count are those of the box that `take` has leaked.
    #[allow(unsafe_code, reason = "takes the block back")]
    let block = unsafe { Box::from_raw(block.as_ptr()) };
    // A thread that is ending has no list any more; the block is simply freed.
    let _ = FREE.try_with(|free| {
        if let Ok(mut free) = free.try_borrow_mut()
            && let Some(list) = free.get_mut(class_of(unit_count))
            && list.len() < KEPT
        {
            list.push(block);
        }
    });
}

fn class_of(unit_count: usize) -> usize {
    unit_count * size_of::<Unit>() / CLASS_BYTES
}

/// Sizes are rounded up to whole multiples of this.
const CLASS_BYTES: usize = 1024;
/// Blocks of this many multiples and more are not kept.
const CLASS_COUNT: usize = 9;
/// Blocks kept per thread and size: 4 MiB of the largest.
const KEPT: usize = 512;

thread_local! {
    static FREE: RefCell<[Vec<Box<[Unit]>>; CLASS_COUNT]> =
        const { RefCell::new([const { Vec::new() }; CLASS_COUNT]) };
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::task::Waker;

    use super::*;

    fn poll<F: Future>(future: &mut Pooled<F>) -> Poll<F::Output> {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_future_runs_where_it_is_while_its_handle_moves() {
        let mut pooled = Pooled::new(|| async {
            let text = [b'x'; 3000];
            let part = &text[1..];
            std::future::poll_fn({
                let mut polls = 0;
                move |_| {
                    polls += 1;
                    if polls == 2 {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                }
            })
            .await;
            part.iter().filter(|byte| **byte == b'x').count()
        });
        assert!(poll(&mut pooled).is_pending());
        let mut moved = Box::new(pooled);
        assert_eq!(poll(&mut moved), Poll::Ready(2999));
    }

    #[test]
    fn a_value_can_be_used_in_its_block() {
        let mut pooled = Pooled::new(|| String::from("out of"));
        pooled.push_str(" the way");
        assert_eq!(pooled.len(), 14);
        assert_eq!(format!("{pooled:?}"), r#""out of the way""#);
    }

    #[test]
    fn a_block_is_used_again() {
        let first = Pooled::new(|| [1_u8; 100]);
        let block = first.block;
        drop(first);
        let second = Pooled::new(|| [2_u8; 200]);
        assert_eq!(second.block, block);
    }

    #[test]
    fn what_a_future_holds_is_dropped_once_whether_or_not_it_has_ended() {
        struct Count(Rc<Cell<u32>>);
        impl Drop for Count {
            fn drop(&mut self) {
                self.0.set(self.0.get() + 1);
            }
        }
        let drops = Rc::new(Cell::new(0));
        let held = Count(Rc::clone(&drops));
        drop(Pooled::new(move || async move {
            let _held = held;
            std::future::pending::<()>().await;
        }));
        assert_eq!(drops.get(), 1);
        let held = Count(Rc::clone(&drops));
        let mut ending = Pooled::new(move || async move { drop(held) });
        assert!(poll(&mut ending).is_ready());
        drop(ending);
        assert_eq!(drops.get(), 2);
    }
}
