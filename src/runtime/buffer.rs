//! Receive and send buffers: a window onto a block from the worker's free list.
//!
//! A [`Buf`] is what the kernel reads into and what the kernel sends from, so a relayed byte is never
//! copied in user space. Blocks come in three sizes, are kept per thread and handed out again; anything
//! larger is allocated for its purpose and freed.

use std::cell::RefCell;
use std::ops::Range;

use monoio::buf::{IoBuf, IoBufMut};

/// Bytes of the block an idle client connection waits with.
pub const SMALL: usize = 1024;
/// Bytes of the block an idle upstream connection waits with.
pub const MEDIUM: usize = 4096;
/// Bytes of the block bodies are relayed through.
pub const LARGE: usize = 16 * 1024;
/// Bytes kept free before received data, so that a rewritten head fits in front of the body.
pub const HEADROOM: usize = 256;
/// Bytes kept free behind received data: a chunk's closing CRLF.
const TAILROOM: usize = 2;

/// Blocks kept for reuse per thread and size; more are freed. 4 MiB + 2 MiB + 8 MiB at most.
const KEPT: [usize; 3] = [4096, 512, 512];

/// A window (`start..end`) of readable bytes in an owned block, with room behind it to receive more.
///
/// Invariant: `start <= end <= block.len() - TAILROOM`.
#[derive(Debug)]
pub struct Buf {
    block: Box<[u8]>,
    start: u32,
    end: u32,
}

impl Buf {
    /// An empty buffer of [`SMALL`] bytes.
    pub fn small() -> Self {
        Self::pooled(0)
    }

    /// An empty buffer of [`MEDIUM`] bytes.
    pub fn medium() -> Self {
        Self::pooled(1)
    }

    /// An empty buffer of [`LARGE`] bytes.
    pub fn large() -> Self {
        Self::pooled(2)
    }

    /// An empty buffer with room for at least `bytes`. Beyond [`LARGE`] the block is the next power of
    /// two; a new one is zeroed lazily by the kernel, so memory is committed only as bytes arrive.
    ///
    /// `bytes` is bounded by the callers' limits, all far below `u32::MAX`.
    pub fn with_room(bytes: usize) -> Self {
        let block_bytes = bytes + TAILROOM;
        match CLASS_BYTES
            .iter()
            .position(|class_bytes| block_bytes <= *class_bytes)
        {
            Some(class) => Self::pooled(class),
            None => Self::huge(block_bytes),
        }
    }

    fn huge(bytes: usize) -> Self {
        assert!(bytes <= 1 << 31, "buffer limits are checked by callers");
        let bytes = bytes.next_power_of_two();
        // Reusing a block saves clearing it: nothing outside the window is ever read.
        let kept = HUGE.with_borrow_mut(|kept| {
            let place = kept.blocks.iter().rposition(|block| block.len() == bytes)?;
            kept.bytes -= bytes;
            Some(kept.blocks.swap_remove(place))
        });
        Self::over(kept.unwrap_or_else(|| vec![0; bytes].into_boxed_slice()))
    }

    /// A buffer that holds a copy of `bytes` and little more.
    pub fn of(bytes: &[u8]) -> Self {
        let mut buf = Self::with_room(bytes.len());
        buf.append(bytes);
        buf
    }

    /// A buffer without a block, to leave in the place of one that is taken.
    pub fn empty() -> Self {
        Self::over(Box::default())
    }

    /// Moves the empty window `bytes` forward, leaving room for [`Buf::prepend`].
    #[must_use]
    pub fn with_headroom(mut self, bytes: usize) -> Self {
        debug_assert!(self.is_empty() && bytes + TAILROOM <= self.block.len());
        self.start = bytes as u32;
        self.end = self.start;
        self
    }

    fn over(block: Box<[u8]>) -> Self {
        Self {
            block,
            start: 0,
            end: 0,
        }
    }

    fn pooled(class: usize) -> Self {
        let block = FREE.with_borrow_mut(|free| free[class].pop());
        Self::over(block.unwrap_or_else(|| vec![0; CLASS_BYTES[class]].into_boxed_slice()))
    }

    /// The readable bytes.
    #[inline]
    pub fn filled(&self) -> &[u8] {
        &self.block[self.start as usize..self.end as usize]
    }

    /// The readable bytes, to be edited in place.
    #[inline]
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.block[self.start as usize..self.end as usize]
    }

    /// Number of readable bytes.
    #[inline]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether nothing is readable.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Bytes that can still be received behind the window.
    #[inline]
    pub fn room(&self) -> usize {
        self.block
            .len()
            .saturating_sub(TAILROOM + self.end as usize)
    }

    /// Bytes of the whole block.
    pub fn block_bytes(&self) -> usize {
        self.block.len()
    }

    /// Drops `bytes` from the front of the window.
    #[inline]
    pub fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.len(), "cannot consume what was not received");
        self.start += bytes as u32;
    }

    /// Keeps only the first `bytes` of the window.
    #[inline]
    pub fn truncate(&mut self, bytes: usize) {
        if bytes < self.len() {
            self.end = self.start + bytes as u32;
        }
    }

    /// The window as positions in the block, for [`Buf::set_window`].
    #[inline]
    pub fn window(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Restores or narrows the window to positions in the block.
    #[inline]
    pub fn set_window(&mut self, window: Range<usize>) {
        assert!(window.start <= window.end && window.end + TAILROOM <= self.block.len());
        self.start = window.start as u32;
        self.end = window.end as u32;
    }

    /// Writes `bytes` directly in front of the window; false when they do not fit there.
    #[must_use]
    pub fn prepend(&mut self, bytes: &[u8]) -> bool {
        let Some(start) = (self.start as usize).checked_sub(bytes.len()) else {
            return false;
        };
        self.block[start..self.start as usize].copy_from_slice(bytes);
        self.start = start as u32;
        true
    }

    /// Appends as much of `bytes` as there is room for and returns that count.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let end = self.end as usize;
        let count = bytes.len().min(self.room());
        self.block[end..end + count].copy_from_slice(&bytes[..count]);
        self.end += count as u32;
        count
    }

    /// Puts a CRLF behind the window into the room that is always kept for it.
    pub fn append_crlf(&mut self) {
        let end = self.end as usize;
        self.block[end..end + TAILROOM].copy_from_slice(b"\r\n");
        self.end += TAILROOM as u32;
    }

    /// The same bytes in a buffer with room for at least `bytes` in all, behind `headroom`.
    #[must_use]
    pub fn grown(self, bytes: usize, headroom: usize) -> Self {
        let mut grown = Self::with_room(bytes.max(self.len()) + headroom).with_headroom(headroom);
        grown.append(self.filled());
        grown
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let block = std::mem::take(&mut self.block);
        let Some(class) = CLASS_BYTES.iter().position(|bytes| *bytes == block.len()) else {
            keep_huge(block);
            return;
        };
        // A thread that is ending has no list any more; the block is simply freed.
        let _ = FREE.try_with(|free| {
            if let Ok(mut free) = free.try_borrow_mut()
                && free[class].len() < KEPT[class]
            {
                free[class].push(block);
            }
        });
    }
}

/// Blocks beyond [`LARGE`] that wait to be used again.
struct Huge {
    blocks: Vec<Box<[u8]>>,
    /// Of all of them.
    bytes: usize,
}

fn keep_huge(block: Box<[u8]>) {
    if (1..=HUGE_BYTES_MAX).contains(&block.len()) {
        let _ = HUGE.try_with(|kept| {
            if let Ok(mut kept) = kept.try_borrow_mut()
                && kept.bytes + block.len() <= HUGE_KEPT_BYTES
            {
                kept.bytes += block.len();
                kept.blocks.push(block);
            }
        });
    }
}

// SAFETY: the pointer is into the owned heap block, which neither moves nor is freed while the `Buf`
// lives; the kernel is given `bytes_init` bytes from it, all inside the block and initialised.
#[allow(unsafe_code, reason = "implements monoio's buffer contract")]
unsafe impl IoBuf for Buf {
    #[inline]
    fn read_ptr(&self) -> *const u8 {
        self.filled().as_ptr()
    }

    #[inline]
    fn bytes_init(&self) -> usize {
        self.len()
    }
}

// SAFETY: `write_ptr..+bytes_total` is the room behind the window, inside the owned block; the block
// is fully initialised memory, so growing the window never exposes uninitialised bytes.
#[allow(
    unsafe_code,
    reason = "implements monoio's buffer contract; reads append"
)]
unsafe impl IoBufMut for Buf {
    #[inline]
    fn write_ptr(&mut self) -> *mut u8 {
        self.block[self.end as usize..].as_mut_ptr()
    }

    #[inline]
    fn bytes_total(&mut self) -> usize {
        self.room()
    }

    #[inline]
    unsafe fn set_init(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.room());
        self.end += bytes as u32;
    }
}

/// Bytes of huge blocks kept for reuse per thread, and the largest block worth keeping.
const HUGE_KEPT_BYTES: usize = 8 * 1024 * 1024;
const HUGE_BYTES_MAX: usize = 2 * 1024 * 1024;
const CLASS_BYTES: [usize; 3] = [SMALL, MEDIUM, LARGE];

thread_local! {
    static HUGE: RefCell<Huge> = const { RefCell::new(Huge { blocks: Vec::new(), bytes: 0 }) };
    static FREE: RefCell<[Vec<Box<[u8]>>; 3]> = const { RefCell::new([Vec::new(), Vec::new(), Vec::new()]) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_moves_without_leaving_its_block() {
        let mut buf = Buf::small().with_headroom(8);
        assert_eq!(buf.append(b"hello world"), 11);
        buf.consume(6);
        assert_eq!(buf.filled(), b"world");
        assert!(buf.prepend(b"my "));
        assert_eq!(buf.filled(), b"my world");
        assert!(!buf.prepend(&[0; 100]), "no room in front");
        buf.truncate(2);
        assert_eq!(buf.filled(), b"my");
        buf.append_crlf();
        assert_eq!(buf.filled(), b"my\r\n");
    }

    #[test]
    fn a_full_buffer_takes_no_more_but_still_has_room_for_crlf() {
        let mut buf = Buf::small();
        assert_eq!(buf.append(&[b'x'; 2000]), SMALL - TAILROOM);
        assert_eq!(buf.room(), 0);
        buf.append_crlf();
        assert_eq!(buf.len(), SMALL);
    }

    #[test]
    fn a_reused_block_shows_none_of_its_former_bytes() {
        let mut first = Buf::small();
        first.append(b"secret");
        drop(first);
        let second = Buf::small();
        assert!(second.is_empty());
        assert_eq!(second.window(), 0..0);
    }

    #[test]
    fn a_request_for_room_gets_at_least_that_room() {
        for bytes in [0, 1, 1022, 1023, 4094, 4095, 16_382, 16_383, 1 << 20] {
            assert!(Buf::with_room(bytes).room() >= bytes, "{bytes}");
        }
    }

    #[test]
    fn huge_blocks_are_used_again_within_a_bound() {
        let many: Vec<Buf> = (0..10).map(|_| Buf::with_room(1 << 20)).collect();
        drop(many);
        let kept = HUGE.with_borrow(|kept| (kept.blocks.len(), kept.bytes));
        assert_eq!(kept, (4, 4 << 21), "two MiB each, eight in all");
        let again = Buf::with_room(1 << 20);
        assert!(again.is_empty() && again.room() >= 1 << 20);
        assert_eq!(HUGE.with_borrow(|kept| kept.blocks.len()), 3);
    }

    #[test]
    fn growing_keeps_the_bytes() {
        let mut buf = Buf::small();
        buf.append(b"abc");
        let mut grown = buf.grown(5000, 10);
        assert_eq!(grown.filled(), b"abc");
        assert!(grown.room() >= 4997);
        assert!(grown.prepend(&[b'-'; 10]));
    }
}
