//! `Block`: an owned piece of memory in one of a few sizes, so that blocks can be pooled and exchanged.

use std::fmt;

/// The smallest size class in bytes. Each further class is four times the class before: 4 KiB, 16 KiB,
/// 64 KiB, …
pub const CLASS_MIN: usize = 4096;

/// Returns the smallest size class that holds `at_least` bytes.
///
/// It cannot overflow: above the largest class the result is `usize::MAX`, which no allocator grants.
///
/// ```
/// use net_buffer::class_for;
///
/// assert_eq!(class_for(0), 4096);
/// assert_eq!(class_for(4096), 4096);
/// assert_eq!(class_for(4097), 16 * 1024);
/// ```
pub const fn class_for(at_least: usize) -> usize {
    let mut class = CLASS_MIN;
    while class < at_least {
        class = class.saturating_mul(4);
    }
    class
}

/// Memory of one size class. It is filled from the front, and is not moved while it fills.
///
/// Blocks come from [`Pool::take`](crate::Pool::take) and go back by [`Pool::give`](crate::Pool::give). A
/// block that is dropped instead is freed, and does not return to the pool.
pub struct Block {
    /// The capacity is a size class and never changes. The length is the filled part.
    bytes: Vec<u8>,
}

impl Block {
    /// Allocates an empty block of the class for `at_least` bytes. Its pages are untouched, so they are not
    /// resident yet.
    pub(crate) fn new(at_least: usize) -> Self {
        Self { bytes: Vec::with_capacity(class_for(at_least)) }
    }

    /// How many bytes the block can hold: its size class.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// How many bytes are filled.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns whether nothing is filled.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes can still be appended.
    pub fn room(&self) -> usize {
        self.bytes.capacity() - self.bytes.len()
    }

    /// Appends as many of `bytes` as fit, and returns how many were appended.
    #[must_use = "the bytes beyond the returned count were not taken"]
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        self.bytes.extend_from_slice(&bytes[..taken]); // fits, so the vector does not grow
        taken
    }

    /// The filled part.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Removes the first `n` bytes and moves the others to the front.
    pub(crate) fn discard_front(&mut self, n: usize) {
        self.bytes.drain(..n);
    }

    /// Removes all bytes after the first `len`.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }
}

/// Shows only the sizes: the bytes of a connection must not get into a log.
impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_is_four_times_the_one_before() {
        let mut class = CLASS_MIN;
        for _ in 0..6 {
            assert_eq!(class_for(class - 1), class);
            assert_eq!(class_for(class), class);
            assert_eq!(class_for(class + 1), class * 4);
            class *= 4;
        }
    }

    #[test]
    fn an_absurd_size_ends_the_search_without_overflow() {
        assert_eq!(class_for(usize::MAX), usize::MAX);
    }

    #[test]
    fn append_takes_what_fits_and_keeps_the_capacity() {
        let mut block = Block::new(1);
        assert_eq!(block.append(&[1; 4000]), 4000);
        assert_eq!(block.append(&[2; 4000]), 96);
        assert_eq!(block.append(&[3]), 0);
        assert_eq!((block.len(), block.room(), block.capacity()), (4096, 0, 4096));
        assert_eq!(block.as_slice()[3999..4001], [1, 2]);
    }
}
