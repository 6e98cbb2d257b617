//! `Chunk`: one piece of the output queue: a copy, a counted reference, a range of a file, or a pipe.

use crate::block::Block;
use crate::file::FileRange;
use crate::pipe::Pipe;
use crate::pool::{Pool, allocation};
use bytes::{Buf, Bytes};
use std::mem::size_of;

/// One piece of the queue.
pub(super) enum Chunk {
    /// A chunk that this queue owns alone.
    Own(Own),
    /// A counted reference to bytes that others may hold too.
    Shared(Bytes),
}

/// A chunk that this queue owns alone. (A separate enum, because this keeps a chunk at 32 bytes.)
pub(super) enum Own {
    /// A copy in a block.
    Block(Block),
    /// The prefix of one or more frames.
    Few(Few),
    /// A short copy after a reference, for which a block would be a waste.
    Small(Box<[u8]>),
    /// A short message that may be dropped while no byte of it is sent.
    Loose(Box<[u8]>),
    /// A message with a shared payload. It is whole while no byte of it is sent. In a box, because it is
    /// rare.
    Message(Box<Message>),
    /// A range of a file. Its bytes are not in memory.
    File(Box<FileRange>),
    /// Bytes in a pipe: they are in the kernel, and not in this process.
    Pipe(Box<Pipe>),
}

/// A message that may be dropped or replaced while no byte of it is sent.
pub(super) struct Message {
    pub(super) bytes: Bytes,
    /// A message with a key may be replaced. A message without a key may be dropped.
    pub(super) key: Option<u64>,
}

/// Up to 8 bytes, without an allocation.
#[derive(Clone, Copy)]
pub(super) struct Few {
    bytes: [u8; 8],
    len: u8,
}

impl Few {
    /// Makes a copy of `bytes`. There must be at most 8.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut few = Self { bytes: [0; 8], len: bytes.len() as u8 };
        few.bytes[..bytes.len()].copy_from_slice(bytes);
        few
    }

    pub(super) fn has_room(&self, n: usize) -> bool {
        usize::from(self.len) + n <= self.bytes.len()
    }

    /// Appends `bytes`. There must be room for them.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        let len = usize::from(self.len);
        self.bytes[len..len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl Chunk {
    /// The bytes that are in this process. Empty for a file or a pipe.
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Own(Own::Block(block)) => block.as_slice(),
            Self::Own(Own::Few(few)) => few.as_slice(),
            Self::Own(Own::Small(bytes) | Own::Loose(bytes)) => bytes,
            Self::Own(Own::Message(message)) => &message.bytes,
            Self::Own(Own::File(_) | Own::Pipe(_)) => &[],
            Self::Shared(bytes) => bytes,
        }
    }

    pub(super) fn file(&self) -> Option<&FileRange> {
        match self {
            Self::Own(Own::File(range)) => Some(range),
            _ => None,
        }
    }

    pub(super) fn pipe(&self) -> Option<&Pipe> {
        match self {
            Self::Own(Own::Pipe(pipe)) => Some(pipe),
            _ => None,
        }
    }

    /// The number of bytes to send.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Own(Own::File(range)) => range.len(),
            Self::Own(Own::Pipe(pipe)) => pipe.len(),
            in_memory => in_memory.as_slice().len(),
        }
    }

    /// The shared bytes, which others may hold too.
    fn payload(&self) -> Option<&Bytes> {
        match self {
            Self::Shared(bytes) => Some(bytes),
            Self::Own(Own::Message(message)) => Some(&message.bytes),
            _ => None,
        }
    }

    /// Takes the shared bytes out of the chunk.
    pub(super) fn into_payload(self) -> Option<Bytes> {
        match self {
            Self::Shared(bytes) => Some(bytes),
            Self::Own(Own::Message(message)) => Some(message.bytes),
            _ => None,
        }
    }

    /// The memory that the chunk takes in addition to its place in the list, its payload and its block. For a
    /// pipe, the bytes that the kernel holds.
    fn cost(&self) -> usize {
        match self {
            Self::Own(Own::Small(bytes) | Own::Loose(bytes)) => allocation(bytes.len()),
            Self::Own(Own::Message(_)) => allocation(size_of::<Message>()),
            Self::Own(Own::File(_)) => allocation(size_of::<FileRange>()),
            Self::Own(Own::Pipe(pipe)) => pipe.len(),
            Self::Own(Own::Block(_) | Own::Few(_)) | Self::Shared(_) => 0,
        }
    }

    /// Counts the chunk's memory in the pool. (A block is counted when it is taken.)
    pub(super) fn count(&self, pool: &mut Pool) {
        pool.charge(self.cost());
        if let Some(payload) = self.payload() {
            pool.hold(payload);
        }
    }

    /// Undoes `count`, because the chunk changes or leaves the queue.
    pub(super) fn discount(&self, pool: &mut Pool) {
        pool.discharge(self.cost());
        if let Some(payload) = self.payload() {
            pool.let_go(payload);
        }
    }

    /// Whether the chunk is a message without a key, which may be dropped while no byte of it is sent.
    pub(super) fn is_loose(&self) -> bool {
        match self {
            Self::Own(Own::Loose(_)) => true,
            Self::Own(Own::Message(message)) => message.key.is_none(),
            _ => false,
        }
    }

    pub(super) fn truncate(&mut self, len: usize) {
        match self {
            Self::Own(Own::Block(block)) => block.truncate(len),
            Self::Own(Own::Few(few)) => *few = Few::of(&few.as_slice()[..len]),
            Self::Own(Own::Small(bytes) | Own::Loose(bytes)) => *bytes = bytes[..len].into(),
            Self::Own(Own::Message(message)) => message.bytes.truncate(len),
            Self::Own(Own::File(range)) => range.truncate(len),
            Self::Own(Own::Pipe(pipe)) => pipe.truncate(len),
            Self::Shared(bytes) => bytes.truncate(len),
        }
    }

    /// Removes the first `n` bytes. The chunk must have more.
    pub(super) fn discard_front(&mut self, n: usize) {
        match self {
            Self::Own(Own::Block(block)) => block.discard_front(n),
            Self::Own(Own::Few(few)) => *few = Few::of(&few.as_slice()[n..]),
            Self::Own(Own::Small(bytes)) => *bytes = bytes[n..].into(),
            Self::Own(Own::Loose(bytes)) if n > 0 => {
                *self = Self::Own(Own::Small(bytes[n..].into()))
            }
            Self::Own(Own::Loose(_)) => {}
            // The rest is not a whole message any more.
            Self::Own(Own::Message(message)) if n > 0 => {
                *self = Self::Shared(message.bytes.split_off(n));
            }
            Self::Own(Own::Message(_)) => {}
            Self::Own(Own::File(range)) => range.discard_front(n),
            Self::Own(Own::Pipe(pipe)) => pipe.discard_front(n),
            Self::Shared(bytes) => bytes.advance(n),
        }
    }
}
