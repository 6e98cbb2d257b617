//! `Output`: the queue of unsent bytes for a socket: own and shared chunks, files and pipes, in order.

mod chunk;
mod messages;
mod piped;

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::IoSlice;
use std::mem::size_of;

use bytes::Bytes;

use crate::block::CLASS_MIN;
use crate::file::FileRange;
use crate::frame::{FrameError, LengthPrefix};
use crate::pool::Pool;
use chunk::{Chunk, Few, Own};
pub use messages::{Replaced, Waiting};

/// Shared payloads up to this many bytes may be copied: a slice for the kernel and a counted reference cost
/// more than a copy of so few bytes.
pub const SHARED_COPY_MAX: usize = 128;

/// From this many chunks on, a new block for small payloads pays off. With fewer chunks, references are far
/// smaller than a block. That matters when one message waits for very many slow readers.
const REFERENCES_BEFORE_BLOCK: usize = 4;

/// A copy of up to this many bytes after a reference takes no block: at least half of it would be empty.
const SMALL_MAX: usize = CLASS_MIN / 2;

/// The largest block taken for queued bytes. A longer push is cut into several blocks, and each block is
/// freed as soon as it is sent.
const BLOCK_BYTES_MAX: usize = 64 * 1024;

/// A short queue keeps room for this many chunks allocated. That room is not counted.
const QUEUE_KEPT: usize = 8;

/// The most memory that a chunk takes in addition to its bytes: its place in a list that has just grown, and
/// a box.
const CHUNK_COST: usize = 2 * size_of::<Chunk>() + 64;

/// A queue of bytes to send. Own chunks are copies in pooled blocks. Shared chunks are counted references.
///
/// An empty queue owns no memory, except room for a few chunks after it has been used. The queue has no limit
/// of its own: the caller must check [`len`](Self::len) and [`memory`](Self::memory).
/// [`clear`](Self::clear) gives the blocks back to the pool. A drop without it frees the blocks, and does not
/// return them to the pool.
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
    /// The number of bytes at the front of the first chunk that are already sent.
    /// Always smaller than that chunk; zero when the queue is empty.
    sent_front: usize,
    /// The number of unsent bytes in all chunks.
    len: usize,
    /// How many of the unsent bytes are in files.
    in_files: usize,
    /// The sum of the capacities of all own blocks.
    memory: usize,
}

impl Output {
    /// How many bytes are unsent.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether everything is sent.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many of the unsent bytes are in files, and take no memory.
    pub fn in_files(&self) -> usize {
        self.in_files
    }

    /// The memory held in own blocks, in bytes.
    ///
    /// Shared payloads are not counted, because others may hold them too. The memory of the list is not
    /// counted either, see [`bookkeeping`](Self::bookkeeping).
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// The most memory that the queue takes in addition to its blocks and payloads, in bytes: the list of
    /// chunks, and a box for each message, file and short copy. It is 0 for the first few chunks, because a
    /// queue keeps room for them.
    pub fn bookkeeping(&self) -> usize {
        self.chunks.len().saturating_sub(QUEUE_KEPT) * CHUNK_COST
    }

    /// Queues a copy of `bytes`, first in the room of the last block, then in new blocks.
    ///
    /// In a long queue, a few bytes after a reference take no block of their own. So memory stays in
    /// proportion to the queued bytes, however copies and references alternate.
    pub fn push(&mut self, bytes: &[u8], pool: &mut Pool) {
        // Small pushes get larger blocks as the queue grows, but never larger than the bytes that it already
        // holds. After a reference they do not, because the last block may be nearly empty.
        let (mut fitted, mut grown) = (0, 0);
        if let Some(Chunk::Own(Own::Block(block))) = self.chunks.back_mut() {
            (fitted, grown) = (block.append(bytes), self.memory / 4);
        } else if self.push_small(bytes, pool) {
            return;
        }
        for piece in bytes[fitted..].chunks(BLOCK_BYTES_MAX) {
            let at_least = piece.len().max(grown).min(BLOCK_BYTES_MAX);
            let chunk = self.own(piece, at_least, pool);
            self.append(chunk, pool);
        }
        self.len += bytes.len();
    }

    /// Queues a copy that takes only as much memory as it needs, if the queue is long and the bytes are few.
    /// The last chunk must not be a block.
    fn push_small(&mut self, bytes: &[u8], pool: &mut Pool) -> bool {
        if bytes.is_empty() || bytes.len() > SMALL_MAX || self.chunks.len() < QUEUE_KEPT {
            return false;
        }
        match self.chunks.back_mut() {
            Some(Chunk::Own(Own::Few(few))) if few.has_room(bytes.len()) => few.append(bytes),
            Some(chunk @ Chunk::Own(Own::Small(_))) => {
                if chunk.len() + bytes.len() > SMALL_MAX {
                    return false;
                }
                chunk.discount(pool);
                *chunk = Chunk::Own(Own::Small([chunk.as_slice(), bytes].concat().into()));
                chunk.count(pool);
            }
            _ => self.append(Chunk::Own(Own::Small(bytes.into())), pool),
        }
        self.len += bytes.len();
        true
    }

    /// Queues `bytes` without a copy. A few bytes (see [`SHARED_COPY_MAX`]) are copied if that saves memory.
    pub fn push_shared(&mut self, bytes: Bytes, pool: &mut Pool) {
        if bytes.is_empty() {
            return;
        }
        if bytes.len() <= SHARED_COPY_MAX && self.prefers_copy(bytes.len()) {
            self.push(&bytes, pool);
            return pool.drop_shared(bytes);
        }
        self.len += bytes.len();
        self.append(Chunk::Shared(bytes), pool);
    }

    /// Queues a frame: its prefix, followed by `payload` as in [`push_shared`](Self::push_shared).
    ///
    /// So a payload of any size is neither copied nor moved to make room for the prefix. Fails if the payload
    /// is longer than the shape allows; then nothing is queued. If many receivers get the same frame, build
    /// it once with its prefix inside.
    ///
    /// ```
    /// use net_buffer::{Bytes, LengthPrefix, Output, Pool};
    ///
    /// let mut pool = Pool::new(1 << 20);
    /// let mut output = Output::default();
    /// let payload = Bytes::from(vec![b'x'; 1000]);
    /// output.push_frame(&LengthPrefix::u32_be(1000), payload, &mut pool)?;
    /// assert_eq!((output.len(), output.memory()), (1004, 0));
    /// # Ok::<(), net_buffer::FrameError>(())
    /// ```
    pub fn push_frame(
        &mut self,
        shape: &LengthPrefix,
        payload: Bytes,
        pool: &mut Pool,
    ) -> Result<(), FrameError> {
        let (header, width) = shape.encode_header(payload.len())?;
        self.push_few(&header[..width], pool);
        self.push_shared(payload, pool);
        Ok(())
    }

    /// Queues a range of a file, in order with all other output.
    ///
    /// [`slices`](Self::slices) ends before it; the sender takes it from [`next_file`](Self::next_file). It
    /// takes no memory except [`bookkeeping`](Self::bookkeeping).
    ///
    /// # Panics
    ///
    /// If [`has_room_for_file`](Self::has_room_for_file) returns false. Then nothing is queued.
    pub fn push_file(&mut self, range: FileRange, pool: &mut Pool) {
        if range.is_empty() {
            return;
        }
        assert!(self.has_room_for_file(&range), "{range:?} behind {} bytes", self.len);
        self.len += range.len();
        self.in_files += range.len();
        self.append(Chunk::Own(Own::File(Box::new(range))), pool);
    }

    /// Returns whether a range can be queued: its [`FileRange::end`] exists, and all queued bytes in files
    /// together are not more than the longest file can have. So no sum here overflows.
    pub fn has_room_for_file(&self, range: &FileRange) -> bool {
        let in_files = self.in_files.checked_add(range.len());
        range.end().is_some() && in_files.is_some_and(|bytes| bytes <= isize::MAX as usize)
    }

    /// Returns what is to be sent next if it is in a file: the file, the offset in it, and the number of
    /// bytes.
    pub fn next_file(&self) -> Option<(&File, u64, usize)> {
        let range = self.chunks.front()?.file()?;
        Some((range.file(), range.from() + self.sent_front as u64, range.len() - self.sent_front))
    }

    /// Puts a copy of `bytes` in front of all others. Use it for the unsent rest of bytes that were lent and
    /// not queued.
    pub fn push_front(&mut self, bytes: &[u8], pool: &mut Pool) {
        if self.is_empty() {
            return self.push(bytes, pool);
        }
        self.discard_sent(pool);
        for piece in bytes.rchunks(BLOCK_BYTES_MAX) {
            let chunk = self.own(piece, piece.len(), pool);
            let before = self.listed();
            self.chunks.push_front(chunk);
            pool.charge(self.listed() - before);
        }
        self.len += bytes.len();
    }

    /// Fills `into` with the unsent bytes, in order, up to the next file or pipe. It fills at most all slices
    /// of `into`, with at most `budget` bytes in all.
    ///
    /// Returns the number of filled slices and the number of bytes in them. `into` should not be longer than
    /// the kernel takes at once (`IOV_MAX`, 1024 on Linux).
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

    /// Notes that the first `n` bytes are sent. All of them must be in memory, or all in the one file or pipe
    /// that is next. Blocks that are sent completely go back to the pool at once.
    ///
    /// # Panics
    ///
    /// If fewer than `n` bytes are unsent.
    pub fn advance(&mut self, n: usize, pool: &mut Pool) {
        assert!(n <= self.len, "{n} of {} unsent bytes were sent", self.len);
        if let Some((.., left)) = self.next_file() {
            assert!(n <= left, "{n} of {left} unsent bytes of a file were sent");
            self.in_files -= n;
        }
        self.len -= n;
        self.sent_front += n;
        while let Some(front) = self.chunks.front()
            && self.sent_front >= front.len()
        {
            self.sent_front -= front.len();
            let finished = self.chunks.pop_front();
            self.retire(finished, pool);
        }
        self.shrink_queue(pool);
    }

    /// Drops bytes at the end, so that only the first `len` unsent bytes remain. Does nothing if there are
    /// not more than `len`.
    ///
    /// This undoes every `push` and `push_shared` since [`len`](Self::len) was `len`, if nothing was sent or
    /// put in front since then.
    pub fn truncate(&mut self, len: usize, pool: &mut Pool) {
        while self.len > len {
            let excess = self.len - len;
            let sent = if self.chunks.len() == 1 { self.sent_front } else { 0 };
            let back = self.chunks.back_mut().expect("unsent bytes lie in a chunk");
            let unsent = back.len() - sent;
            if back.file().is_some() {
                self.in_files -= excess.min(unsent);
            }
            if excess < unsent {
                back.discount(pool);
                back.truncate(back.len() - excess);
                back.count(pool);
                self.len = len;
            } else {
                self.len -= unsent;
                let mut dropped = self.chunks.pop_back();
                if let Some(Chunk::Own(Own::Pipe(pipe))) = &mut dropped {
                    pool.discharge(pipe.len());
                    pipe.truncate(0);
                }
                self.retire(dropped, pool);
            }
        }
        if self.chunks.is_empty() {
            self.sent_front = 0;
        }
        self.shrink_queue(pool);
    }

    /// Drops everything and returns how many unsent bytes were dropped.
    pub fn clear(&mut self, pool: &mut Pool) -> usize {
        let dropped = self.len;
        self.truncate(0, pool);
        dropped
    }

    /// Queues so few bytes that a block of their own would be a waste. They go into the room of the last
    /// block, or else into the list itself. For many in a row a block pays off.
    fn push_few(&mut self, bytes: &[u8], pool: &mut Pool) {
        let are_many = self.chunks.len() >= REFERENCES_BEFORE_BLOCK;
        let (joins, follows_few) = match self.chunks.back_mut() {
            Some(Chunk::Own(Own::Block(block))) => {
                let fits = bytes.len() <= block.room();
                let taken = if fits { block.append(bytes) } else { 0 };
                debug_assert_eq!(taken, if fits { bytes.len() } else { 0 });
                (fits, false)
            }
            Some(Chunk::Own(Own::Few(few))) => {
                let fits = few.has_room(bytes.len());
                if fits {
                    few.append(bytes);
                }
                (fits, true)
            }
            _ => (false, false),
        };
        if !joins && follows_few && are_many {
            return self.push(bytes, pool);
        }
        if !joins {
            self.append(Chunk::Own(Own::Few(Few::of(bytes))), pool);
        }
        self.len += bytes.len();
    }

    /// Puts a chunk at the end, and counts its memory in the pool.
    fn append(&mut self, chunk: Chunk, pool: &mut Pool) {
        chunk.count(pool);
        let before = self.listed();
        self.chunks.push_back(chunk);
        pool.charge(self.listed() - before);
    }

    /// The counted bytes of the list: 0 as long as the list has no more room than a short queue keeps.
    fn listed(&self) -> usize {
        let capacity = self.chunks.capacity();
        if capacity > QUEUE_KEPT { capacity * size_of::<Chunk>() } else { 0 }
    }

    /// Returns whether to copy a small payload: if the copy needs no new block, or if so many chunks wait
    /// that a block pays off.
    fn prefers_copy(&self, n: usize) -> bool {
        let fits =
            matches!(self.chunks.back(), Some(Chunk::Own(Own::Block(block))) if n <= block.room());
        fits || self.chunks.len() >= REFERENCES_BEFORE_BLOCK
    }

    /// Makes an own chunk with a copy of `bytes`, in a block with room for `at_least` bytes.
    fn own(&mut self, bytes: &[u8], at_least: usize, pool: &mut Pool) -> Chunk {
        let mut block = pool.take(at_least);
        self.memory += block.capacity();
        let taken = block.append(bytes);
        debug_assert_eq!(taken, bytes.len(), "the block was asked to hold them");
        Chunk::Own(Own::Block(block))
    }

    /// Gives back the memory of a chunk that has left the queue.
    fn retire(&mut self, chunk: Option<Chunk>, pool: &mut Pool) {
        match chunk {
            Some(Chunk::Own(Own::Pipe(pipe))) => {
                pool.discharge(pipe.len());
                pool.pipes().take_back(pipe);
            }
            Some(Chunk::Own(Own::Block(block))) => {
                self.memory -= block.capacity();
                pool.give(block);
            }
            Some(chunk) => {
                chunk.discount(pool);
                if let Some(payload) = chunk.into_payload() {
                    pool.drop_shared(payload);
                }
            }
            None => {}
        }
    }

    /// Cuts the sent bytes off the first chunk, so that another chunk may be put before it.
    fn discard_sent(&mut self, pool: &mut Pool) {
        if let Some(front) = self.chunks.front_mut() {
            front.discount(pool);
            front.discard_front(self.sent_front);
            front.count(pool);
        }
        self.sent_front = 0;
    }

    /// Gives back memory of the list after a burst. Halving when a quarter is used keeps it cheap on average.
    fn shrink_queue(&mut self, pool: &mut Pool) {
        let capacity = self.chunks.capacity();
        if capacity > QUEUE_KEPT && self.chunks.len() < capacity / 4 {
            let before = self.listed();
            self.chunks.shrink_to(2 * self.chunks.len());
            pool.discharge(before - self.listed());
        }
    }
}

/// Shows only the sizes: the bytes of a connection must not get into a log.
impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chunks, sent_front: _, len, in_files, memory } = self;
        f.debug_struct("Output")
            .field("len", len)
            .field("in_files", in_files)
            .field("chunks", &chunks.len())
            .field("memory", memory)
            .finish()
    }
}

#[cfg(test)]
mod tests;
