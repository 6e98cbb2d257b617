//! What the queue is made of: copies of our own, counted references, stretches of files, and pipes.

use crate::block::Block;
use crate::file::FileRange;
use crate::pipe::Pipe;
use crate::pool::{Pool, allocation};
use bytes::{Buf, Bytes};
use std::mem::size_of;

/// One piece of the queue.
pub(super) enum Chunk {
    /// What is our own.
    Own(Own),
    /// A counted reference to bytes that others may hold too.
    Shared(Bytes),
}

/// What is our own. (An enum within the other, since only so does a chunk stay at 32 bytes.)
pub(super) enum Own {
    /// A copy.
    Block(Block),
    /// The prefix of a frame, or of several.
    Few(Few),
    /// A short copy behind a reference, where a block of its own would be a waste.
    Small(Box<[u8]>),
    /// A short message that may be dropped while it waits whole.
    Loose(Box<[u8]>),
    /// Shared, but in a box: rare, and a whole message as long as no byte of it has left.
    Message(Box<Message>),
    /// No bytes, but where they are.
    File(Box<FileRange>),
    /// Bytes that are in the kernel, and not in this process.
    Pipe(Box<Pipe>),
}

/// A message that may be dropped or replaced while it waits whole.
pub(super) struct Message {
    pub(super) bytes: Bytes,
    /// By which it is replaced; without one it is dropped.
    pub(super) key: Option<u64>,
}

/// Up to 8 bytes, without memory of their own.
#[derive(Clone, Copy)]
pub(super) struct Few {
    bytes: [u8; 8],
    len: u8,
}

impl Few {
    /// A copy of `bytes`, which are no more than 8.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut few = Self { bytes: [0; 8], len: bytes.len() as u8 };
        few.bytes[..bytes.len()].copy_from_slice(bytes);
        few
    }

    pub(super) fn has_room(&self, n: usize) -> bool {
        usize::from(self.len) + n <= self.bytes.len()
    }

    /// Appends `bytes`, for which there is room.
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
    /// The bytes that are in this process: none of a file's, nor of a pipe's.
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

    /// Bytes to send.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Own(Own::File(range)) => range.len(),
            Self::Own(Own::Pipe(pipe)) => pipe.len(),
            in_memory => in_memory.as_slice().len(),
        }
    }

    /// Bytes that others may hold too.
    fn payload(&self) -> Option<&Bytes> {
        match self {
            Self::Shared(bytes) => Some(bytes),
            Self::Own(Own::Message(message)) => Some(&message.bytes),
            _ => None,
        }
    }

    /// Bytes that others may hold too, of which this was one holder.
    pub(super) fn into_payload(self) -> Option<Bytes> {
        match self {
            Self::Shared(bytes) => Some(bytes),
            Self::Own(Own::Message(message)) => Some(message.bytes),
            _ => None,
        }
    }

    /// What it takes beside its place in the list, its payload and its block. Of a pipe, the bytes that
    /// the kernel has.
    fn cost(&self) -> usize {
        match self {
            Self::Own(Own::Small(bytes) | Own::Loose(bytes)) => allocation(bytes.len()),
            Self::Own(Own::Message(_)) => allocation(size_of::<Message>()),
            Self::Own(Own::File(_)) => allocation(size_of::<FileRange>()),
            Self::Own(Own::Pipe(pipe)) => pipe.len(),
            Self::Own(Own::Block(_) | Own::Few(_)) | Self::Shared(_) => 0,
        }
    }

    /// Tells the pool what it takes. (A block has been told of by whoever took it.)
    pub(super) fn count(&self, pool: &mut Pool) {
        pool.charge(self.cost());
        if let Some(payload) = self.payload() {
            pool.hold(payload);
        }
    }

    /// It changes, or leaves the queue: takes back what `count` has told.
    pub(super) fn discount(&self, pool: &mut Pool) {
        pool.discharge(self.cost());
        if let Some(payload) = self.payload() {
            pool.let_go(payload);
        }
    }

    /// A message without a key, which may be dropped while it waits whole.
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

    /// Takes the first `n` bytes away, of more.
    pub(super) fn discard_front(&mut self, n: usize) {
        match self {
            Self::Own(Own::Block(block)) => block.discard_front(n),
            Self::Own(Own::Few(few)) => *few = Few::of(&few.as_slice()[n..]),
            Self::Own(Own::Small(bytes)) => *bytes = bytes[n..].into(),
            Self::Own(Own::Loose(bytes)) if n > 0 => {
                *self = Self::Own(Own::Small(bytes[n..].into()))
            }
            Self::Own(Own::Loose(_)) => {}
            // What is left of it is no whole message any more.
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
