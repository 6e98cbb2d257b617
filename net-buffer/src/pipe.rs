//! `Pipe`: carries bytes from one socket to another without a copy into this process, by splice.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// After the system has refused a pipe, the request for a pipe with this number is the next that is answered.
const ASKS_AFTER_REFUSAL: u32 = 1024;

/// A pipe, and how many bytes of the queue are in it.
///
/// A pipe is used for one queue at a time. It is closed if any byte in it is not to be sent, because that
/// byte would come before the bytes of the next queue.
pub struct Pipe {
    read_end: OwnedFd,
    write_end: OwnedFd,
    /// The number of bytes in the pipe that are to be sent.
    len: usize,
    /// After these bytes the pipe holds bytes that must not be sent.
    is_cut: bool,
}

impl Pipe {
    /// Makes a `Pipe` of the two ends of an empty pipe.
    pub fn new(read_end: OwnedFd, write_end: OwnedFd) -> Self {
        Self { read_end, write_end, len: 0, is_cut: false }
    }

    /// The end from which bytes are read.
    pub fn read_end(&self) -> BorrowedFd<'_> {
        self.read_end.as_fd()
    }

    /// The end into which bytes are written.
    pub fn write_end(&self) -> BorrowedFd<'_> {
        self.write_end.as_fd()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether more bytes may be put into the pipe: only if it holds no bytes that must not be sent.
    pub(crate) fn is_whole(&self) -> bool {
        !self.is_cut
    }

    pub(crate) fn filled(&mut self, n: usize) {
        self.len += n;
    }

    /// The first `n` bytes were sent.
    pub(crate) fn discard_front(&mut self, n: usize) {
        self.len -= n;
    }

    /// Only the first `len` bytes are to be sent. The pipe has more.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = len;
        self.is_cut = true;
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe").field("len", &self.len).finish_non_exhaustive()
    }
}

/// The pipes of a loop: the free pipes, and how many more may be made.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    /// The free pipes, all empty. (In boxes, as in the queues, so that lending a pipe allocates nothing.)
    #[allow(clippy::vec_box)]
    spare: Vec<Box<Pipe>>,
    /// How many pipes there are, lent or free.
    open: usize,
    open_max: usize,
    /// How many requests remain until one is answered again, after the system has refused a pipe.
    in_vain: u32,
}

impl Pipes {
    pub(crate) fn allow(&mut self, open_max: usize) {
        self.open_max = open_max;
    }

    /// Whether no pipe is free and one more may be made.
    pub(crate) fn wants_one(&mut self) -> bool {
        if !self.spare.is_empty() || self.open >= self.open_max {
            return false;
        }
        self.in_vain = self.in_vain.saturating_sub(1);
        self.in_vain == 0
    }

    /// Adds the pipe that was wanted. `None`: the system has refused it.
    pub(crate) fn add(&mut self, pipe: Option<Pipe>) {
        match pipe {
            Some(pipe) => {
                self.open += 1;
                self.spare.push(Box::new(pipe));
            }
            None => self.in_vain = ASKS_AFTER_REFUSAL,
        }
    }

    pub(crate) fn lend(&mut self) -> Option<Box<Pipe>> {
        self.spare.pop()
    }

    /// Takes back a pipe whose bytes are all sent. A pipe that was truncated is closed.
    pub(crate) fn take_back(&mut self, mut pipe: Box<Pipe>) {
        if pipe.is_cut {
            self.open -= 1;
            return;
        }
        pipe.len = 0;
        self.spare.push(pipe);
    }

    /// How many pipes there are, lent or free.
    pub(crate) fn open(&self) -> usize {
        self.open
    }
}
