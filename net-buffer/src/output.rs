//! What is queued for a socket and not sent: own and shared chunks, in order.

use std::collections::VecDeque;
use std::fmt;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use crate::block::Block;
use crate::pool::Pool;

/// Shared payloads up to this many bytes may be copied instead: a slice for the kernel and a
/// counted reference cost more than so few bytes.
pub const SHARED_COPY_MAX: usize = 128;

/// A new block for small payloads pays off from this many chunks on. Before, a few references are
/// far smaller than a block, which matters when one message is owed to very many slow readers.
const REFERENCES_BEFORE_BLOCK: usize = 4;

/// The largest block taken for queued bytes. A longer push is cut into several, and each is free
/// again as soon as it is sent.
const BLOCK_BYTES_MAX: usize = 64 * 1024;

/// Room for this many chunks stays allocated while the queue is short.
const QUEUE_KEPT: usize = 8;

/// A queue of bytes to send. Own chunks are copies in pooled blocks; shared chunks are counted
/// references.
///
/// The empty queue owns no memory but, after use, the room for a few chunks. The queue has no limit
/// of its own: the caller looks at [`len`](Self::len) and [`memory`](Self::memory). Dropping it
/// unsent frees its blocks past the pool; [`clear`](Self::clear) gives them back.
///
/// ```
/// use std::io::IoSlice;
/// use net_buffer::{Bytes, Output, Pool};
///
/// let mut pool = Pool::new(1 << 20);
/// let mut output = Output::default();
/// output.push(b"HTTP/1.1 200 OK\r\n\r\n", &mut pool);
/// output.push_shared(Bytes::from(vec![b'x'; 1000]), &mut pool);
///
/// let mut slices = [IoSlice::new(&[]); 16];
/// let (filled, bytes) = output.slices(&mut slices, 64 * 1024);
/// assert_eq!((filled, bytes), (2, 1019));
///
/// output.advance(20, &mut pool); // what the kernel took
/// assert_eq!(output.len(), 999);
/// ```
#[derive(Default)]
pub struct Output {
    /// Each chunk has at least one unsent byte.
    chunks: VecDeque<Chunk>,
    /// Bytes at the front of the first chunk which are already sent.
    /// Always smaller than that chunk; zero when the queue is empty.
    sent_front: usize,
    /// Unsent bytes in all chunks.
    len: usize,
    /// The capacities of all own blocks.
    memory: usize,
}

impl Output {
    /// How many bytes are unsent.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is everything sent?
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory held in own blocks. Shared payloads are not counted: others may hold them
    /// too.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Queues a copy of `bytes`: first in the room of the last block, then in new ones.
    pub fn push(&mut self, bytes: &[u8], pool: &mut Pool) {
        let fitted = match self.chunks.back_mut() {
            Some(Chunk::Own(block)) => block.append(bytes),
            _ => 0,
        };
        for piece in bytes[fitted..].chunks(BLOCK_BYTES_MAX) {
            // Small pushes get larger blocks as the queue grows, but never larger than what it
            // holds already.
            let at_least = piece.len().max(self.memory / 4).min(BLOCK_BYTES_MAX);
            let chunk = self.own(piece, at_least, pool);
            self.chunks.push_back(chunk);
        }
        self.len += bytes.len();
    }

    /// Queues `bytes` without copying them, except few (see [`SHARED_COPY_MAX`]) where that saves
    /// memory.
    pub fn push_shared(&mut self, bytes: Bytes, pool: &mut Pool) {
        if bytes.is_empty() {
            return;
        }
        if bytes.len() <= SHARED_COPY_MAX && self.prefers_copy(bytes.len()) {
            return self.push(&bytes, pool);
        }
        self.len += bytes.len();
        self.chunks.push_back(Chunk::Shared(bytes));
    }

    /// Puts a copy of `bytes` in front of all others: the unsent rest of bytes that were lent, not
    /// queued.
    pub fn push_front(&mut self, bytes: &[u8], pool: &mut Pool) {
        if self.is_empty() {
            return self.push(bytes, pool);
        }
        self.discard_sent();
        for piece in bytes.rchunks(BLOCK_BYTES_MAX) {
            let chunk = self.own(piece, piece.len(), pool);
            self.chunks.push_front(chunk);
        }
        self.len += bytes.len();
    }

    /// Fills `into` with the unsent bytes, in order: as many slices as it has, and at most `budget`
    /// bytes in all.
    ///
    /// Returns how many slices are filled and how many bytes they have. `into` should not be longer
    /// than the kernel takes at once (`IOV_MAX`, 1024 on Linux).
    pub fn slices<'s>(&'s self, into: &mut [IoSlice<'s>], budget: usize) -> (usize, usize) {
        let (mut filled, mut bytes) = (0, 0);
        let mut sent = self.sent_front;
        for (slot, chunk) in into.iter_mut().zip(&self.chunks) {
            let unsent = &chunk.as_slice()[sent..];
            let part = &unsent[..unsent.len().min(budget - bytes)];
            if part.is_empty() {
                break;
            }
            *slot = IoSlice::new(part);
            filled += 1;
            bytes += part.len();
            sent = 0;
        }
        (filled, bytes)
    }

    /// Notes that the first `n` bytes are sent. The blocks this finishes go back to the pool at
    /// once.
    ///
    /// # Panics
    ///
    /// If fewer than `n` bytes are unsent.
    pub fn advance(&mut self, n: usize, pool: &mut Pool) {
        assert!(n <= self.len, "{n} of {} unsent bytes were sent", self.len);
        self.len -= n;
        self.sent_front += n;
        while let Some(front) = self.chunks.front()
            && self.sent_front >= front.len()
        {
            self.sent_front -= front.len();
            let finished = self.chunks.pop_front();
            self.retire(finished, pool);
        }
        self.shrink_queue();
    }

    /// Drops bytes at the end, so that only the first `len` unsent ones remain. Does nothing if
    /// there are no more.
    ///
    /// Undoes every `push` and `push_shared` since [`len`](Self::len) was `len`, if nothing was
    /// sent or put in front meanwhile.
    pub fn truncate(&mut self, len: usize, pool: &mut Pool) {
        while self.len > len {
            let excess = self.len - len;
            let sent = if self.chunks.len() == 1 { self.sent_front } else { 0 };
            let back = self.chunks.back_mut().expect("unsent bytes lie in a chunk");
            let unsent = back.len() - sent;
            if excess < unsent {
                back.truncate(back.len() - excess);
                self.len = len;
            } else {
                self.len -= unsent;
                let dropped = self.chunks.pop_back();
                self.retire(dropped, pool);
            }
        }
        if self.chunks.is_empty() {
            self.sent_front = 0;
        }
        self.shrink_queue();
    }

    /// Drops everything and returns how many unsent bytes that were.
    pub fn clear(&mut self, pool: &mut Pool) -> usize {
        let dropped = self.len;
        self.truncate(0, pool);
        dropped
    }

    /// Is a small payload better copied? Yes if that needs no new block, or if so many wait that a
    /// block pays off.
    fn prefers_copy(&self, n: usize) -> bool {
        let fits = matches!(self.chunks.back(), Some(Chunk::Own(block)) if n <= block.room());
        fits || self.chunks.len() >= REFERENCES_BEFORE_BLOCK
    }

    /// A new own chunk with a copy of `bytes`, in a block with room for `at_least`.
    fn own(&mut self, bytes: &[u8], at_least: usize, pool: &mut Pool) -> Chunk {
        let mut block = pool.take(at_least);
        self.memory += block.capacity();
        let taken = block.append(bytes);
        debug_assert_eq!(taken, bytes.len(), "the block was asked to hold them");
        Chunk::Own(block)
    }

    /// Gives back the memory of a chunk that has left the queue.
    fn retire(&mut self, chunk: Option<Chunk>, pool: &mut Pool) {
        if let Some(Chunk::Own(block)) = chunk {
            self.memory -= block.capacity();
            pool.give(block);
        }
    }

    /// Cuts the sent bytes off the first chunk, so that another may stand before it.
    fn discard_sent(&mut self) {
        match self.chunks.front_mut() {
            Some(Chunk::Own(block)) => block.discard_front(self.sent_front),
            Some(Chunk::Shared(bytes)) => bytes.advance(self.sent_front),
            None => {}
        }
        self.sent_front = 0;
    }

    /// Gives back the list's own memory after a burst. Halving at a quarter makes it cheap on
    /// average.
    fn shrink_queue(&mut self) {
        let capacity = self.chunks.capacity();
        if capacity > QUEUE_KEPT && self.chunks.len() < capacity / 4 {
            self.chunks.shrink_to(2 * self.chunks.len());
        }
    }
}

/// Shows the sizes only: what a connection carries has no place in a log.
impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chunks, sent_front: _, len, memory } = self;
        f.debug_struct("Output")
            .field("len", len)
            .field("chunks", &chunks.len())
            .field("memory", memory)
            .finish()
    }
}

/// One piece of the queue.
enum Chunk {
    /// A copy in a block of our own.
    Own(Block),
    /// A counted reference to bytes that others may hold too.
    Shared(Bytes),
}

impl Chunk {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Own(block) => block.as_slice(),
            Self::Shared(bytes) => bytes,
        }
    }

    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn truncate(&mut self, len: usize) {
        match self {
            Self::Own(block) => block.truncate(len),
            Self::Shared(bytes) => bytes.truncate(len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::CLASS_MIN;

    const LARGE: usize = SHARED_COPY_MAX + 1;

    /// Sends everything in calls of at most `slices` slices and `budget` bytes; returns the bytes
    /// and the calls.
    fn drain(
        output: &mut Output,
        pool: &mut Pool,
        slices: usize,
        budget: usize,
    ) -> (Vec<u8>, usize) {
        let (mut sent, mut calls) = (Vec::new(), 0);
        while !output.is_empty() {
            let mut into = vec![IoSlice::new(&[]); slices];
            let (filled, bytes) = output.slices(&mut into, budget);
            assert!(filled > 0 && bytes <= budget);
            sent.extend(into[..filled].iter().flat_map(|slice| slice.iter()));
            output.advance(bytes, pool);
            calls += 1;
        }
        (sent, calls)
    }

    #[test]
    fn the_empty_queue_is_small_and_owns_nothing() {
        assert!(size_of::<Output>() <= 56, "{} bytes", size_of::<Output>());
        assert!(size_of::<Chunk>() <= 32, "{} bytes", size_of::<Chunk>());
        let mut pool = Pool::new(usize::MAX);
        let mut output = Output::default();
        output.push(b"", &mut pool);
        output.push_shared(Bytes::new(), &mut pool);
        output.push_front(b"", &mut pool);
        output.advance(0, &mut pool);
        assert_eq!(output.clear(&mut pool), 0);
        assert_eq!(output.slices(&mut [IoSlice::new(&[])], 10), (0, 0));
        assert_eq!((output.chunks.capacity(), output.memory()), (0, 0));
    }

    #[test]
    fn small_pushes_share_a_block() {
        let mut pool = Pool::new(usize::MAX);
        let mut output = Output::default();
        for _ in 0..CLASS_MIN / 8 {
            output.push(b"12345678", &mut pool);
        }
        assert_eq!((output.chunks.len(), output.memory()), (1, CLASS_MIN));
        output.push(b"9", &mut pool);
        assert_eq!((output.chunks.len(), output.memory()), (2, 2 * CLASS_MIN));
    }

    #[test]
    fn spare_room_stays_below_what_is_queued() {
        let mut pool = Pool::new(0);
        let mut output = Output::default();
        for _ in 0..20_000 {
            output.push(&[0; 100], &mut pool);
            assert!(output.memory() <= CLASS_MIN + 2 * output.len());
        }
        assert!(output.chunks.len() < 50, "{} chunks for 2 MB", output.chunks.len());
    }

    #[test]
    fn many_chunks_leave_in_order_in_calls_of_bounded_size() {
        let mut pool = Pool::new(usize::MAX);
        let mut output = Output::default();
        let mut expected = Vec::new();
        for i in 0..5000 {
            let payload: Vec<u8> = (0..LARGE).map(|at| (i * 31 + at) as u8).collect();
            expected.extend_from_slice(&payload);
            output.push_shared(payload.into(), &mut pool);
        }
        let (sent, calls) = drain(&mut output, &mut pool, 1024, usize::MAX);
        assert_eq!(calls, 5);
        assert!(sent == expected);
        assert_eq!(output.chunks.capacity(), 0, "the list of a burst does not stay");
    }

    #[test]
    fn five_thousand_one_byte_sends_need_few_slices() {
        let mut pool = Pool::new(usize::MAX);
        let mut output = Output::default();
        let expected: Vec<u8> = (0..5000).map(|i| (i % 251) as u8).collect();
        for byte in &expected {
            output.push_shared(Bytes::copy_from_slice(&[*byte]), &mut pool);
        }
        assert_eq!(output.chunks.len(), REFERENCES_BEFORE_BLOCK + 2);
        let (sent, calls) = drain(&mut output, &mut pool, 2, 1000);
        assert!(sent == expected);
        assert_eq!(calls, 2 + 5, "two by the count of slices, five by the budget");
        assert_eq!(output.memory(), 0);
    }

    #[test]
    fn a_few_small_shared_payloads_take_no_block() {
        let mut pool = Pool::new(usize::MAX);
        let mut output = Output::default();
        output.push_shared(Bytes::from_static(b"news"), &mut pool);
        assert_eq!(output.memory(), 0);
        output.push(b"own", &mut pool);
        output.push_shared(Bytes::from_static(&[0; SHARED_COPY_MAX]), &mut pool);
        assert_eq!(output.chunks.len(), 2, "at the bound: joined to the last block");
        output.push_shared(Bytes::from_static(&[0; LARGE]), &mut pool);
        assert_eq!(output.chunks.len(), 3, "above it: shared");
    }

    #[test]
    fn bytes_put_in_front_go_before_the_rest_of_a_started_chunk() {
        let mut pool = Pool::new(usize::MAX);
        for shared in [false, true] {
            let mut output = Output::default();
            match shared {
                true => output.push_shared(Bytes::from_static(b"xworld"), &mut pool),
                false => output.push(b"xworld", &mut pool),
            }
            output.advance(1, &mut pool);
            let hello = vec![b'o'; BLOCK_BYTES_MAX + 1];
            output.push_front(&hello, &mut pool);
            let (sent, _) = drain(&mut output, &mut pool, 8, usize::MAX);
            assert!(sent == [&hello[..], b"world"].concat());
        }
    }

    #[test]
    fn truncate_undoes_a_push_into_a_started_block() {
        let mut pool = Pool::new(usize::MAX);
        let mut output = Output::default();
        output.push(b"sent kept", &mut pool);
        output.advance(5, &mut pool);
        let before = output.len();
        output.push(&[0; 10_000], &mut pool);
        output.push_shared(Bytes::from_static(&[0; LARGE]), &mut pool);
        output.truncate(before + 1, &mut pool);
        output.truncate(before + 2, &mut pool);
        assert_eq!(output.len(), before + 1, "it never lengthens");
        output.truncate(before, &mut pool);
        assert_eq!(drain(&mut output, &mut pool, 8, usize::MAX).0, b"kept");
        assert_eq!(output.memory(), 0);
    }

    #[test]
    fn the_list_shrinks_even_if_the_queue_never_empties() {
        let mut pool = Pool::new(0);
        let mut output = Output::default();
        for _ in 0..10_000 {
            output.push_shared(Bytes::from_static(&[0; LARGE]), &mut pool);
        }
        output.advance(LARGE * 9999 + 1, &mut pool);
        assert_eq!(output.len(), LARGE - 1);
        assert!(output.chunks.capacity() <= QUEUE_KEPT);
    }

    #[test]
    #[should_panic(expected = "4 of 3 unsent bytes were sent")]
    fn sending_more_than_is_queued_panics() {
        let mut pool = Pool::new(0);
        let mut output = Output::default();
        output.push(b"abc", &mut pool);
        output.advance(4, &mut pool);
    }
}
