//! A pool of blocks, one per loop, with a bound on what it keeps for later. Pipes lie there too.

use crate::block::{Block, CLASS_MIN, class_for};
use crate::pipe::{Pipe, Pipes};
use bytes::Bytes;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How many classes are kept: 4 KiB, 16 KiB, 64 KiB, 256 KiB and 1 MiB.
///
/// Larger blocks are rare, and one that waits for the next rare message costs more than the
/// allocation it saves.
const CLASSES_KEPT: usize = 5;

/// Blocks waiting to be used again, at most `retain_bytes_max` bytes of them.
///
/// The bound is on what lies idle here; blocks in use are bounded by those who hold them. The block
/// given last is taken first, as the cache remembers it best.
///
/// ```
/// use net_buffer::Pool;
///
/// let mut pool = Pool::new(64 * 1024);
/// let block = pool.take(100);
/// assert_eq!(block.capacity(), 4096);
/// pool.give(block);
/// assert_eq!(pool.retained_bytes(), 4096);
/// pool.trim(0);
/// assert_eq!(pool.retained_bytes(), 0);
/// ```
#[derive(Debug)]
pub struct Pool {
    /// One list for each class, smallest first. All blocks in them are empty.
    free: [Vec<Block>; CLASSES_KEPT],
    /// The capacities of all blocks in `free`. Never above `retain_bytes_max`.
    retained_bytes: usize,
    retain_bytes_max: usize,
    /// The capacities of all blocks taken and not given back.
    lent_bytes: usize,
    /// Counted payloads that are queued, once for each queue that has them.
    shared_bytes: usize,
    pipes: Pipes,
    /// Payloads whose drop panicked, since that was last asked.
    panics: usize,
}

impl Pool {
    /// An empty pool that will keep at most `retain_bytes_max` bytes. Zero keeps nothing.
    pub fn new(retain_bytes_max: usize) -> Self {
        Self {
            free: Default::default(),
            retained_bytes: 0,
            retain_bytes_max,
            lent_bytes: 0,
            shared_bytes: 0,
            pipes: Pipes::default(),
            panics: 0,
        }
    }

    /// Lets it have so many pipes, lent ones among them. Without this it has none.
    pub fn allow_pipes(&mut self, open_max: usize) {
        self.pipes.allow(open_max);
    }

    /// Whether no pipe lies here and one more may be made: then [`add_pipe`](Self::add_pipe) is due.
    /// For a while after one could not be made, none is wanted.
    pub fn wants_pipe(&mut self) -> bool {
        self.pipes.wants_one()
    }

    /// Adds an empty pipe. `None`: there could be none made.
    pub fn add_pipe(&mut self, pipe: Option<Pipe>) {
        self.pipes.add(pipe);
    }

    /// How many pipes there are, lent or not.
    pub fn pipes_open(&self) -> usize {
        self.pipes.open()
    }

    pub(crate) fn pipes(&mut self) -> &mut Pipes {
        &mut self.pipes
    }

    /// An empty block with room for `at_least` bytes: a kept one if its class has any, else a new
    /// one.
    pub fn take(&mut self, at_least: usize) -> Block {
        let kept = self.list(class_for(at_least)).and_then(Vec::pop);
        let block = match kept {
            Some(block) => {
                self.retained_bytes -= block.capacity();
                block
            }
            None => Block::new(at_least),
        };
        self.lent_bytes += block.capacity();
        block
    }

    /// Takes a block back: cleared and kept, or freed if keeping it would pass the bound or it is
    /// above 1 MiB.
    pub fn give(&mut self, mut block: Block) {
        let capacity = block.capacity();
        debug_assert!(self.lent_bytes >= capacity, "a block of another pool");
        self.lent_bytes = self.lent_bytes.saturating_sub(capacity);
        if capacity > self.retain_bytes_max - self.retained_bytes {
            return;
        }
        if let Some(list) = self.list(capacity) {
            block.truncate(0);
            list.push(block);
            self.retained_bytes += capacity;
        }
    }

    /// Bytes of memory that all who use this pool have now: blocks in use and kept ones, and the
    /// counted payloads in their queues; the bytes in pipes too, which the kernel has. A payload in
    /// several queues counts in each, since nobody knows here that it is the same one: so this is never
    /// less than there is. A block that was dropped instead of given back counts for ever.
    pub fn memory(&self) -> usize {
        self.lent_bytes + self.retained_bytes + self.shared_bytes
    }

    /// Bytes of a counted payload were queued.
    pub(crate) fn count_shared(&mut self, bytes: usize) {
        self.shared_bytes += bytes;
    }

    /// They are queued no more.
    pub(crate) fn forget_shared(&mut self, bytes: usize) {
        debug_assert!(self.shared_bytes >= bytes, "bytes that were never counted here");
        self.shared_bytes = self.shared_bytes.saturating_sub(bytes);
    }

    /// Drops a counted payload that has left a queue. Its owner is the user's, and may panic: that is
    /// caught here, in the middle of the queue's own work, and told by [`take_panics`](Self::take_panics).
    pub(crate) fn drop_shared(&mut self, bytes: Bytes) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(bytes))) {
            self.panics += 1;
            // And so may what it panicked with.
            if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(again);
            }
        }
    }

    /// Whether the drop of a payload has panicked.
    #[inline]
    pub fn has_panicked(&self) -> bool {
        self.panics > 0
    }

    /// How many payloads have panicked when a queue of this pool dropped them, sent or not, since this was
    /// last asked. (One that was made by [`Bytes::from_owner`], by the drop of its owner.) The queue is
    /// as it would be without.
    pub fn take_panics(&mut self) -> usize {
        std::mem::take(&mut self.panics)
    }

    /// How many bytes of memory lie idle in the pool.
    pub fn retained_bytes(&self) -> usize {
        self.retained_bytes
    }

    /// Frees blocks, the largest first, until at most `to_bytes` are kept.
    pub fn trim(&mut self, to_bytes: usize) {
        for list in self.free.iter_mut().rev() {
            while self.retained_bytes > to_bytes {
                let Some(block) = list.pop() else { break };
                self.retained_bytes -= block.capacity();
            }
            list.shrink_to_fit();
        }
    }

    /// The list for blocks of `capacity` bytes, unless they are too large to be kept.
    fn list(&mut self, capacity: usize) -> Option<&mut Vec<Block>> {
        let class = (capacity / CLASS_MIN).ilog(4) as usize;
        self.free.get_mut(class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_comes_back_empty() {
        let mut pool = Pool::new(CLASS_MIN);
        let mut block = pool.take(1);
        assert_eq!(block.append(b"secret"), 6);
        let place = block.as_slice().as_ptr();
        pool.give(block);
        let again = pool.take(CLASS_MIN);
        assert_eq!(again.as_slice().as_ptr(), place, "the same memory");
        assert!(again.is_empty());
    }

    #[test]
    fn the_pool_keeps_up_to_its_bound_and_not_a_block_more() {
        let mut pool = Pool::new(3 * CLASS_MIN);
        let blocks: Vec<_> = (0..4).map(|_| pool.take(1)).collect();
        let mut retained = Vec::new();
        for block in blocks {
            pool.give(block);
            retained.push(pool.retained_bytes() / CLASS_MIN);
        }
        assert_eq!(retained, [1, 2, 3, 3]);
    }

    #[test]
    fn a_pool_of_nothing_keeps_nothing() {
        let mut pool = Pool::new(0);
        let block = pool.take(1);
        pool.give(block);
        assert_eq!(pool.retained_bytes(), 0);
    }

    #[test]
    fn a_megabyte_is_kept_and_more_is_not() {
        let mut pool = Pool::new(usize::MAX);
        let (at, above) = (pool.take(1 << 20), pool.take((1 << 20) + 1));
        pool.give(at);
        pool.give(above);
        assert_eq!(pool.retained_bytes(), 1 << 20);
        assert_eq!(pool.take(1 << 20).capacity(), 1 << 20);
        assert_eq!(pool.retained_bytes(), 0);
    }

    #[test]
    fn trim_frees_the_largest_first() {
        let mut pool = Pool::new(usize::MAX);
        let blocks = [1, 20_000, 200_000].map(|at_least| pool.take(at_least));
        blocks.into_iter().for_each(|block| pool.give(block));
        let small = class_for(1) + class_for(20_000);
        assert_eq!(pool.retained_bytes(), small + class_for(200_000));
        pool.trim(small);
        assert_eq!(pool.retained_bytes(), small);
        pool.trim(small - 1);
        assert_eq!(pool.retained_bytes(), CLASS_MIN);
    }
}
