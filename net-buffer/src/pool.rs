//! `Pool`: a pool of blocks and pipes, one per loop, with a limit on the free memory that it keeps.

use crate::block::{Block, CLASS_MIN, class_for};
use crate::pipe::{Pipe, Pipes};
use bytes::Bytes;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How many size classes are kept: 4 KiB, 16 KiB, 64 KiB, 256 KiB and 1 MiB.
///
/// Larger blocks are rare. A larger block that is kept for the next rare message costs more than the
/// allocation that it saves.
const CLASSES_KEPT: usize = 5;

/// A pool that keeps free blocks for later use, at most `retain_bytes_max` bytes of them.
///
/// The limit holds for free blocks only. The users of blocks must limit the blocks in use. The block given
/// back last is taken first, because it is most likely still in the CPU cache.
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
    /// One list per size class, the smallest class first. All blocks in the lists are empty.
    free: [Vec<Block>; CLASSES_KEPT],
    /// The sum of the capacities of all blocks in `free`. Never above `retain_bytes_max`.
    retained_bytes: usize,
    retain_bytes_max: usize,
    /// The sum of the capacities of all blocks taken and not given back.
    lent_bytes: usize,
    payloads: Payloads,
    /// Bytes counted by `charge`.
    charged_bytes: usize,
    pipes: Pipes,
    /// How many payload drops have panicked since `take_panics` was last called.
    panics: usize,
}

/// The reference-counted payloads that are queued.
#[derive(Debug, Default)]
struct Payloads {
    /// The counted bytes of all payloads.
    bytes: usize,
    /// The payloads by address, which identifies a payload as long as it is queued. `None`: a payload counts
    /// once for each queue that has it.
    by_address: Option<HashMap<usize, Payload>>,
}

#[derive(Debug)]
struct Payload {
    /// How many times the payload is queued.
    times: usize,
    /// How many bytes the payload counts for.
    bytes: usize,
}

/// The memory that a payload takes in addition to its bytes: its reference count, and its place in
/// `by_address`.
const PAYLOAD_COST: usize = 96;

/// `by_address` keeps room for this many payloads.
const PAYLOADS_KEPT: usize = 64;

/// The memory that an allocation of `bytes` takes on the heap: a header, and whole units of 16 bytes, as in
/// glibc.
pub(crate) fn allocation(bytes: usize) -> usize {
    (bytes + 8).next_multiple_of(16).max(32)
}

impl Payloads {
    fn cost(&self, bytes: &Bytes) -> usize {
        match &self.by_address {
            None => bytes.len(),
            Some(known) => {
                let counts = known.get(&address(bytes)).map_or(0, |known| known.bytes);
                Self::cost_of(bytes).saturating_sub(counts)
            }
        }
    }

    fn cost_of(bytes: &Bytes) -> usize {
        allocation(bytes.len()) + PAYLOAD_COST
    }

    fn hold(&mut self, bytes: &Bytes) {
        self.bytes += self.cost(bytes);
        if let Some(known) = &mut self.by_address {
            let payload =
                known.entry(address(bytes)).or_insert_with(|| Payload { times: 0, bytes: 0 });
            payload.times += 1;
            payload.bytes = payload.bytes.max(Self::cost_of(bytes));
        }
    }

    fn let_go(&mut self, bytes: &Bytes) {
        let Some(known) = &mut self.by_address else {
            return self.less(bytes.len());
        };
        let Some(payload) = known.get_mut(&address(bytes)) else {
            debug_assert!(false, "a payload that was never counted here");
            return;
        };
        payload.times -= 1;
        if payload.times > 0 {
            return;
        }
        let counted = payload.bytes;
        known.remove(&address(bytes));
        if known.capacity() > PAYLOADS_KEPT && known.len() < known.capacity() / 8 {
            known.shrink_to(2 * known.len());
        }
        self.less(counted);
    }

    fn less(&mut self, bytes: usize) {
        debug_assert!(self.bytes >= bytes, "bytes that were never counted here");
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

fn address(bytes: &Bytes) -> usize {
    bytes.as_ptr() as usize
}

impl Pool {
    /// Makes an empty pool that keeps at most `retain_bytes_max` bytes of free blocks. Zero keeps nothing.
    pub fn new(retain_bytes_max: usize) -> Self {
        Self {
            free: Default::default(),
            retained_bytes: 0,
            retain_bytes_max,
            lent_bytes: 0,
            payloads: Payloads::default(),
            charged_bytes: 0,
            pipes: Pipes::default(),
            panics: 0,
        }
    }

    /// Allows at most `open_max` pipes, including lent pipes. Without this call the pool has no pipes.
    pub fn allow_pipes(&mut self, open_max: usize) {
        self.pipes.allow(open_max);
    }

    /// Returns whether no pipe is free and one more may be made. Then make a pipe and call
    /// [`add_pipe`](Self::add_pipe). For a while after a pipe could not be made, it returns false.
    pub fn wants_pipe(&mut self) -> bool {
        self.pipes.wants_one()
    }

    /// Adds an empty pipe. `None`: no pipe could be made.
    pub fn add_pipe(&mut self, pipe: Option<Pipe>) {
        self.pipes.add(pipe);
    }

    /// How many pipes the pool has, lent or free.
    pub fn pipes_open(&self) -> usize {
        self.pipes.open()
    }

    pub(crate) fn pipes(&mut self) -> &mut Pipes {
        &mut self.pipes
    }

    /// Returns an empty block with room for `at_least` bytes: a kept block of that size class if there is
    /// one, else a new block.
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

    /// Takes a block back. The block is cleared and kept. It is freed if the pool would exceed its limit, or
    /// if the block is larger than 1 MiB.
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

    /// From now on, counts a payload that several queues have only once in [`memory`](Self::memory), together
    /// with the memory of its reference count. Call it before anything is queued.
    ///
    /// By default a payload counts once for each queue. This setting costs two look-ups in a table each time
    /// a payload is queued.
    ///
    /// ```
    /// use net_buffer::{Bytes, Output, Pool};
    ///
    /// let mut pool = Pool::new(0);
    /// pool.count_payloads_once();
    /// let payload = Bytes::from(vec![7; 10_000]);
    /// let mut queues: Vec<Output> = (0..5).map(|_| Output::default()).collect();
    /// queues.iter_mut().for_each(|queue| queue.push_shared(payload.clone(), &mut pool));
    /// assert!((10_000..11_000).contains(&pool.memory()));
    /// queues.iter_mut().for_each(|queue| _ = queue.clear(&mut pool));
    /// assert_eq!(pool.memory(), 0);
    /// ```
    pub fn count_payloads_once(&mut self) {
        debug_assert!(self.payloads.bytes == 0, "some are queued, and were counted otherwise");
        self.payloads.by_address = Some(HashMap::new());
    }

    /// The memory that all users of this pool have now, in bytes.
    ///
    /// It counts blocks in use and kept blocks. It counts the shared payloads in the queues, once for each
    /// queue that has the payload, or [once](Self::count_payloads_once). It counts the lists of long queues
    /// and the boxes of what waits in them, the bytes in pipes (which the kernel holds), and the bytes of
    /// [`charge`](Self::charge). A block that is dropped and not given back counts for ever. So does a queue
    /// that is dropped and not cleared.
    pub fn memory(&self) -> usize {
        self.lent_bytes + self.retained_bytes + self.payloads.bytes + self.charged_bytes
    }

    /// Counts `bytes` that a user of this pool holds elsewhere, until [`discharge`](Self::discharge).
    pub fn charge(&mut self, bytes: usize) {
        self.charged_bytes += bytes;
    }

    /// Stops counting `bytes` of the bytes that [`charge`](Self::charge) counted.
    pub fn discharge(&mut self, bytes: usize) {
        debug_assert!(self.charged_bytes >= bytes, "bytes that were never counted here");
        self.charged_bytes = self.charged_bytes.saturating_sub(bytes);
    }

    /// By how many bytes [`memory`](Self::memory) would grow if this payload were queued once more. Its place
    /// in the list is not included.
    pub fn cost_of(&self, payload: &Bytes) -> usize {
        self.payloads.cost(payload)
    }

    /// A shared payload was queued.
    pub(crate) fn hold(&mut self, payload: &Bytes) {
        self.payloads.hold(payload);
    }

    /// A shared payload has left a queue.
    pub(crate) fn let_go(&mut self, payload: &Bytes) {
        self.payloads.let_go(payload);
    }

    /// Drops a shared payload that has left a queue. The owner of its bytes is user code, and its drop may
    /// panic. The panic is caught here, so that the queue's work is not interrupted.
    /// [`take_panics`](Self::take_panics) reports it.
    pub(crate) fn drop_shared(&mut self, bytes: Bytes) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(bytes))) {
            self.panics += 1;
            // The drop of the panic's payload may panic too.
            if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(again);
            }
        }
    }

    /// Returns whether the drop of a payload has panicked since [`take_panics`](Self::take_panics) was last
    /// called.
    #[inline]
    pub fn has_panicked(&self) -> bool {
        self.panics > 0
    }

    /// Returns how many payloads have panicked since the last call, when a queue of this pool dropped them,
    /// sent or not. (A payload made by [`Bytes::from_owner`] panics if the drop of its owner does.) The queue
    /// is in the same state as without the panic.
    pub fn take_panics(&mut self) -> usize {
        std::mem::take(&mut self.panics)
    }

    /// How many bytes of free blocks the pool keeps.
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

    /// The list for blocks of `capacity` bytes. `None`: such blocks are too large to be kept.
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
