//! Messages in the queue that may be dropped or replaced while no byte of them is sent.

use bytes::Bytes;

use super::Output;
use super::chunk::{Chunk, Message, Own};
use crate::pool::Pool;

/// A message without a key of up to this many bytes is copied. Then it takes only a box of its size.
const LOOSE_COPY_MAX: usize = 64;

/// Where a message was in the queue, and how long it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// The number of unsent bytes before the message.
    pub before: usize,
    /// The number of bytes of the message.
    pub len: usize,
}

/// What became of a [replacement](Output::replace_message).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replaced {
    /// The message with that key was replaced. This is where the old message was.
    Old(Waiting),
    /// The new message would make the queue too long. The old message stays.
    TooLong,
    /// The queue has no message with that key of which no byte is sent.
    Nothing,
}

impl Output {
    /// Queues a message that may be taken out again while no byte of it is sent.
    ///
    /// A message with a key is taken out only if another message replaces it
    /// ([`replace_message`](Self::replace_message)). A message without a key is taken out only to make room
    /// ([`drop_messages`](Self::drop_messages)). An empty message is ignored. The bytes are not copied,
    /// except a few bytes without a key, for which a copy is smaller than a reference.
    ///
    /// The message takes about sixty bytes more than with [`push_shared`](Self::push_shared). A queue without
    /// such messages pays nothing for them.
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

    /// Replaces the message with that key, if no byte of it is sent. Changes nothing if the queue would then
    /// be longer than `len_max`. It looks at each chunk in the queue.
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

    /// Takes out messages without a key of which no byte is sent, the oldest first, until `at_least` bytes
    /// are free.
    ///
    /// It calls `dropped` for each message, with the place that the message had when it was taken out.
    /// Returns false, and takes nothing out, if so many bytes cannot be freed.
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

    /// Takes out messages without a key of which no byte is sent, the oldest first, until
    /// [`Pool::memory`] is at most `memory` bytes, or no such message is left. It calls `dropped` for each
    /// message as [`drop_messages`](Self::drop_messages) does.
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
