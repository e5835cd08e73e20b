//! Room to write heads in: byte lists that are used again.
//!
//! A head is put together piece by piece, lives until it is sent and is then of no more use. Its list
//! comes from this thread's free list and goes back there, so a warm worker allocates none.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// An empty list of bytes at first; a list like any other while it lives.
#[derive(Debug, Default)]
pub struct Scratch(Vec<u8>);

impl Scratch {
    /// A list with room for an ordinary head.
    pub fn new() -> Self {
        let bytes = FREE.with_borrow_mut(Vec::pop);
        Self(bytes.unwrap_or_else(|| Vec::with_capacity(BYTES_USUAL)))
    }
}

impl Deref for Scratch {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0);
        // One that had to grow far was for a rare head, and is not worth keeping.
        if !(BYTES_USUAL..=BYTES_KEPT_MAX).contains(&bytes.capacity()) {
            return;
        }
        bytes.clear();
        // A thread that is ending has no list any more; the bytes are simply freed.
        let _ = FREE.try_with(|free| {
            if let Ok(mut free) = free.try_borrow_mut()
                && free.len() < KEPT
            {
                free.push(bytes);
            }
        });
    }
}

/// Room for the head of an ordinary SDK request or answer without growing.
const BYTES_USUAL: usize = 512;
/// Larger lists are freed.
const BYTES_KEPT_MAX: usize = 4096;
/// Lists kept per thread: two per exchange under way, 4 MiB at the very most.
const KEPT: usize = 1024;

thread_local! {
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_used_again_and_shows_none_of_its_former_bytes() {
        let mut first = Scratch::new();
        first.extend_from_slice(b"Authorization: Bearer secret");
        let place = first.as_ptr();
        drop(first);
        let second = Scratch::new();
        assert_eq!(second.as_ptr(), place);
        assert!(second.is_empty());
    }

    #[test]
    fn a_list_that_grew_far_is_not_kept() {
        let mut list = Scratch::new();
        list.resize(BYTES_KEPT_MAX + 1, b'x');
        drop(list);
        assert!(FREE.with_borrow(Vec::is_empty));
    }
}
