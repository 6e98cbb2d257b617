//! `Pipe`: bytes on their way from one socket to another that never come into this process. And how
//! many pipes there may be.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Asks for a pipe that are not answered, after the system has refused one.
const ASKS_AFTER_REFUSAL: u32 = 1024;

/// A pipe, and how many bytes of the queue are in it. Used for one queue at a time, and closed if any
/// of its bytes is not to be sent: they would come before the next one's.
pub struct Pipe {
    read_end: OwnedFd,
    write_end: OwnedFd,
    /// Bytes in it that are to be sent.
    len: usize,
    /// It has bytes behind those that are never to be sent.
    is_cut: bool,
}

impl Pipe {
    /// An empty pipe of these two ends.
    pub fn new(read_end: OwnedFd, write_end: OwnedFd) -> Self {
        Self { read_end, write_end, len: 0, is_cut: false }
    }

    /// The end out of which bytes come.
    pub fn read_end(&self) -> BorrowedFd<'_> {
        self.read_end.as_fd()
    }

    /// The end into which bytes go.
    pub fn write_end(&self) -> BorrowedFd<'_> {
        self.write_end.as_fd()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether more may be put into it: not behind bytes that are never to be sent.
    pub(crate) fn is_whole(&self) -> bool {
        !self.is_cut
    }

    pub(crate) fn filled(&mut self, n: usize) {
        self.len += n;
    }

    /// Its first `n` bytes were sent.
    pub(crate) fn discard_front(&mut self, n: usize) {
        self.len -= n;
    }

    /// Only its first `len` bytes are to be sent, of more.
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

/// The pipes of a loop: those that lie empty, and how many more may be made.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    /// All of them empty. (In boxes, as queues have them: so lending one allocates nothing.)
    #[allow(clippy::vec_box)]
    spare: Vec<Box<Pipe>>,
    /// Lent ones and spare ones.
    open: usize,
    open_max: usize,
    /// Asks that are still in vain, after the system has refused one.
    in_vain: u32,
}

impl Pipes {
    pub(crate) fn allow(&mut self, open_max: usize) {
        self.open_max = open_max;
    }

    /// None is spare, and one more may be made.
    pub(crate) fn wants_one(&mut self) -> bool {
        if !self.spare.is_empty() || self.open >= self.open_max {
            return false;
        }
        self.in_vain = self.in_vain.saturating_sub(1);
        self.in_vain == 0
    }

    /// The one that was wanted; `None`: the system has refused it.
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

    /// Takes one back of which all was sent; one that was cut is closed.
    pub(crate) fn take_back(&mut self, mut pipe: Box<Pipe>) {
        if pipe.is_cut {
            self.open -= 1;
            return;
        }
        pipe.len = 0;
        self.spare.push(pipe);
    }

    /// How many there are, lent or spare.
    pub(crate) fn open(&self) -> usize {
        self.open
    }
}
