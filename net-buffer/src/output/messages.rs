//! Whole messages in the queue that may be dropped or replaced while no byte of them has left.

use bytes::Bytes;

use super::Output;
use super::chunk::{Chunk, Message, Own};
use crate::pool::Pool;

/// A message without a key of up to so many bytes is copied: a box of that size is all that it takes.
const LOOSE_COPY_MAX: usize = 64;

/// Where a message was in the queue, and how long it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// Unsent bytes in front of it.
    pub before: usize,
    /// Its own bytes.
    pub len: usize,
}

/// What became of a [replacement](Output::replace_message).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replaced {
    /// The message with that key is the new one now; this was the old.
    Old(Waiting),
    /// The new one would make the queue too long. The old one stays.
    TooLong,
    /// No message with that key waits whole.
    Nothing,
}

impl Output {
    /// Queues a message that may be taken out again, while it waits whole: if it has a key,
    /// only by another in its place ([`replace_message`](Self::replace_message)), or else only to
    /// make room ([`drop_messages`](Self::drop_messages)). An empty one is nothing. It is not copied,
    /// but for few bytes without a key, where a copy is smaller than a reference.
    ///
    /// Some sixty bytes more than [`push_shared`](Self::push_shared) takes; whoever queues no such
    /// message pays nothing for them.
    ///
    /// ```
    /// use net_buffer::{Bytes, Output, Pool, Replaced, Waiting};
    ///
    /// let mut pool = Pool::new(1 << 20);
    /// let mut output = Output::default();
    /// output.push_message(Bytes::from("first"), None, &mut pool);
    /// output.push_message(Bytes::from("price 7"), Some(1), &mut pool);
    /// let old = Waiting { before: 5, len: 7 };
    /// let new = Bytes::from("price 10");
    /// assert_eq!(output.replace_message(1, new, 100, &mut pool), Replaced::Old(old));
    /// output.advance(2, &mut pool); // the first has begun, and stays
    /// assert!(!output.drop_messages(1, &mut pool, |_| ()));
    /// assert_eq!(output.len(), 11);
    /// ```
    pub fn push_message(&mut self, bytes: Bytes, key: Option<u64>, pool: &mut Pool) {
        if bytes.is_empty() {
            return;
        }
        self.len += bytes.len();
        let own = if key.is_none() && bytes.len() <= LOOSE_COPY_MAX {
            let copy = bytes[..].into();
            pool.drop_shared(bytes);
            Own::Loose(copy)
        } else {
            Own::Message(Box::new(Message { bytes, key }))
        };
        self.append(Chunk::Own(own), pool);
    }

    /// Puts a message in the place of the one with that key, which waits whole, unless the queue
    /// would then be longer than `len_max`. Looks at each chunk that waits.
    pub fn replace_message(
        &mut self,
        key: u64,
        bytes: Bytes,
        len_max: usize,
        pool: &mut Pool,
    ) -> Replaced {
        let (mut before, len) = (0, self.len);
        for (at, chunk) in self.chunks.iter_mut().enumerate() {
            let begun = if at == 0 { self.sent_front } else { 0 };
            match chunk {
                Chunk::Own(Own::Message(message)) if begun == 0 && message.key == Some(key) => {
                    let old = Waiting { before, len: message.bytes.len() };
                    let longer = len - old.len + bytes.len();
                    if longer > len_max {
                        return Replaced::TooLong;
                    }
                    debug_assert!(!bytes.is_empty(), "a chunk has at least one byte");
                    pool.hold(&bytes);
                    pool.let_go(&message.bytes);
                    pool.drop_shared(std::mem::replace(&mut message.bytes, bytes));
                    self.len = longer;
                    return Replaced::Old(old);
                }
                other => before += other.len() - begun,
            }
        }
        Replaced::Nothing
    }

    /// Takes out the oldest messages without a key that wait whole, until `at_least` bytes are
    /// free, and tells of each where it was when it was taken out. False: so many are not to be had;
    /// then nothing is taken out.
    pub fn drop_messages(
        &mut self,
        at_least: usize,
        pool: &mut Pool,
        mut dropped: impl FnMut(Waiting),
    ) -> bool {
        let sent_front = self.sent_front;
        let begun = |at: usize| if at == 0 { sent_front } else { 0 };
        let may_go = |at: usize, chunk: &Chunk| begun(at) == 0 && chunk.is_loose();
        let mut to_be_had = 0;
        let mut chunks = self.chunks.iter().enumerate();
        while to_be_had < at_least {
            let Some((at, chunk)) = chunks.next() else { return false };
            if may_go(at, chunk) {
                to_be_had += chunk.len();
            }
        }
        let (mut at, mut before, mut left) = (0, 0, at_least);
        while left > 0 {
            let len = self.chunks[at].len();
            if may_go(at, &self.chunks[at]) {
                self.drop_chunk(at, pool);
                left = left.saturating_sub(len);
                dropped(Waiting { before, len });
            } else {
                before += len - begun(at);
                at += 1;
            }
        }
        self.shrink_queue(pool);
        true
    }

    /// Takes out the oldest messages without a key that wait whole, until all that the pool knows of
    /// takes no more than `memory` bytes, or no such message is left. Tells of each as
    /// [`drop_messages`](Self::drop_messages) does.
    pub fn shed_messages(
        &mut self,
        memory: usize,
        pool: &mut Pool,
        mut dropped: impl FnMut(Waiting),
    ) {
        let (mut at, mut before) = (0, 0);
        while pool.memory() > memory
            && let Some(chunk) = self.chunks.get(at)
        {
            let begun = if at == 0 { self.sent_front } else { 0 };
            let len = chunk.len();
            if begun == 0 && chunk.is_loose() {
                self.drop_chunk(at, pool);
                dropped(Waiting { before, len });
            } else {
                before += len - begun;
                at += 1;
            }
        }
        self.shrink_queue(pool);
    }

    fn drop_chunk(&mut self, at: usize, pool: &mut Pool) {
        let chunk = self.chunks.remove(at);
        self.len -= chunk.as_ref().map_or(0, Chunk::len);
        self.retire(chunk, pool);
    }
}
