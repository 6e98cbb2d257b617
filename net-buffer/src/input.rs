//! `Input` lends received bytes to one callback, and `Unread` keeps the bytes that the callback left unread.

use std::error::Error;
use std::fmt;
use std::mem;

use memchr::memchr;

use crate::block::{Block, class_for};
use crate::frame::{FrameError, Framing, find_line};
use crate::pool::Pool;

/// The unread bytes of a connection as one slice, lent for one callback.
///
/// Bytes that are taken are consumed. Bytes that are left are shown again, in front of the next bytes that
/// arrive. A `take_*` that finds no complete message consumes nothing. The returned slices do not borrow the
/// `Input`, so a loop over lines may use its connection in the loop body:
///
/// ```
/// use net_buffer::Input;
///
/// let mut input = Input::new(b"one\r\ntwo\nthr");
/// let mut lines = Vec::new();
/// while let Some(line) = input.take_line() {
///     lines.push((line, input.len()));
/// }
/// assert_eq!(lines, [(&b"one"[..], 7), (b"two", 3)]);
/// assert_eq!(input.peek(), b"thr");
/// assert_eq!(input.taken(), 9);
/// ```
#[derive(Debug)]
pub struct Input<'a> {
    unread: &'a [u8],
    /// The number of bytes consumed so far. Together with the length of `unread` it is always the length that
    /// was lent.
    taken: usize,
}

impl<'a> Input<'a> {
    /// Lends `bytes`, all of them unread.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { unread: bytes, taken: 0 }
    }

    /// Returns all unread bytes. They stay unread.
    #[inline]
    pub fn peek(&self) -> &'a [u8] {
        self.unread
    }

    /// How many bytes are unread.
    #[inline]
    pub fn len(&self) -> usize {
        self.unread.len()
    }

    /// Returns whether everything is read.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.unread.is_empty()
    }

    /// How many bytes have been consumed so far.
    #[inline]
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Consumes `n` bytes without returning them.
    ///
    /// # Panics
    ///
    /// If fewer than `n` bytes are unread.
    #[inline]
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.len(), "consumed {n} of {} unread bytes", self.len());
        self.split(n);
    }

    /// Takes exactly `n` bytes. Returns `None` if fewer are unread.
    #[inline]
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        (n <= self.unread.len()).then(|| self.split(n))
    }

    /// Takes all unread bytes.
    #[inline]
    pub fn take_all(&mut self) -> &'a [u8] {
        self.taken += self.unread.len();
        mem::take(&mut self.unread)
    }

    /// Takes the next line, without its `\n` or `\r\n`. Returns `None` if no line end has arrived.
    ///
    /// The length of the line is limited only by the connection's input limit, and each call searches from
    /// the front. For lines from untrusted peers use [`Lines`](crate::Lines): it has a limit of its own, and
    /// remembers how far it has searched.
    #[inline]
    pub fn take_line(&mut self) -> Option<&'a [u8]> {
        let (content, total) = find_line(self.unread)?;
        Some(&self.split(total)[..content])
    }

    /// Takes all bytes before the next `delimiter`, and consumes the delimiter too. Returns `None` if the
    /// delimiter has not arrived.
    #[inline]
    pub fn take_until(&mut self, delimiter: u8) -> Option<&'a [u8]> {
        let content = memchr(delimiter, self.unread)?;
        Some(&self.split(content + 1)[..content])
    }

    /// Takes the payload of the next frame of this [shape](Framing). Returns `None` if the frame is not
    /// complete.
    ///
    /// Use it for bytes from untrusted peers, which come in any pieces and may be too many. An error consumes
    /// nothing. It means that the stream has no next frame, so end the connection.
    #[inline]
    pub fn take_frame(&mut self, shape: impl Framing) -> Result<Option<&'a [u8]>, FrameError> {
        let Some(frame) = shape.find(self.unread)? else {
            return Ok(None);
        };
        Ok(Some(&self.split(frame.total)[frame.start..frame.end]))
    }

    /// Consumes `n` bytes and returns them.
    #[inline]
    fn split(&mut self, n: usize) -> &'a [u8] {
        let (front, rest) = self.unread.split_at(n);
        self.unread = rest;
        self.taken += n;
        front
    }
}

/// The unfinished input that a connection keeps between two callbacks.
///
/// ```text
///   block:  │ consumed │ unread             │ room   │
///           0          start                len      capacity
/// ```
///
/// It exists only while bytes are unread. Its block grows by size class with the bytes that arrive, up to the
/// caller's limit. [`shrink`](Self::shrink) moves the bytes to a smaller block again. A drop without
/// [`release`](Self::release) frees the block, and does not return it to the pool.
#[derive(Debug)]
pub struct Unread {
    block: Block,
    /// The number of bytes at the front of the block that are already consumed. At most the block's length.
    start: usize,
}

impl Unread {
    /// Keeps a copy of `bytes`. Fails if there are more than `max`.
    pub fn keep(bytes: &[u8], pool: &mut Pool, max: usize) -> Result<Self, InputFull> {
        if bytes.len() > max {
            return Err(InputFull { limit: max });
        }
        Ok(Self { block: filled(bytes, bytes.len(), pool), start: 0 })
    }

    /// Appends the bytes that arrived next. Fails and changes nothing if more than `max` bytes would then be
    /// unread.
    pub fn append(&mut self, bytes: &[u8], pool: &mut Pool, max: usize) -> Result<(), InputFull> {
        if bytes.len() > max.saturating_sub(self.len()) {
            return Err(InputFull { limit: max });
        }
        if bytes.len() > self.block.room() {
            self.make_room(bytes.len(), pool);
        }
        let taken = self.block.append(bytes);
        debug_assert_eq!(taken, bytes.len(), "room was made");
        Ok(())
    }

    /// Consumes the first `n` unread bytes.
    ///
    /// # Panics
    ///
    /// If fewer than `n` bytes are unread.
    #[inline]
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.len(), "consumed {n} of {} unread bytes", self.len());
        self.start += n;
    }

    /// Moves the unread bytes to a smaller block, if twice their number fits in that block. Call it after
    /// [`consume`](Self::consume).
    ///
    /// The factor of two leaves room to grow: at the border of two size classes, a byte more or less does not
    /// cause a move. So the block is at most eight times as large as the unread bytes, or of the smallest
    /// class.
    #[inline]
    pub fn shrink(&mut self, pool: &mut Pool) {
        let roomy = self.len().saturating_mul(2);
        if class_for(roomy) < self.block.capacity() {
            self.move_to(roomy, pool);
        }
    }

    /// The unread bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.block.as_slice()[self.start..]
    }

    /// How many bytes are unread.
    #[inline]
    pub fn len(&self) -> usize {
        self.block.len() - self.start
    }

    /// Returns whether nothing is unread. Then [`release`](Self::release) the block.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memory held in bytes: the capacity of the block.
    pub fn memory(&self) -> usize {
        self.block.capacity()
    }

    /// Gives the block back to the pool. Bytes that are still unread are dropped.
    pub fn release(self, pool: &mut Pool) {
        pool.give(self.block);
    }

    /// Makes room for `more` bytes: in the same block if the consumed part is large enough, else in a larger
    /// block.
    fn make_room(&mut self, more: usize, pool: &mut Pool) {
        let needed = self.len() + more;
        if needed <= self.block.capacity() {
            self.block.discard_front(self.start);
            self.start = 0;
        } else {
            self.move_to(needed, pool);
        }
    }

    /// Moves the unread bytes to the front of a block with room for `at_least` bytes.
    fn move_to(&mut self, at_least: usize, pool: &mut Pool) {
        let moved = filled(self.as_slice(), at_least, pool);
        pool.give(mem::replace(&mut self.block, moved));
        self.start = 0;
    }
}

/// Makes a block with room for `at_least` bytes that begins with `bytes`. `bytes` is not longer than that.
fn filled(bytes: &[u8], at_least: usize, pool: &mut Pool) -> Block {
    let mut block = pool.take(at_least);
    let taken = block.append(bytes);
    debug_assert_eq!(taken, bytes.len(), "the block was asked to hold them");
    block
}

/// More input would be unread than the limit allows. A line or frame never ends, or the handler does not
/// read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputFull {
    /// The limit in bytes.
    pub limit: usize,
}

impl fmt::Display for InputFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {} bytes of input would wait unread", self.limit)
    }
}

impl Error for InputFull {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::CLASS_MIN;
    use crate::frame::LengthPrefix;

    const KIB: usize = 1024;

    #[test]
    fn an_incomplete_message_consumes_nothing() {
        let mut input = Input::new(b"\x05abc");
        assert_eq!(input.take(5), None);
        assert_eq!(input.take_line(), None);
        assert_eq!(input.take_until(b'!'), None);
        assert_eq!(input.take_frame(&LengthPrefix::u8(5)), Ok(None));
        assert_eq!(
            input.take_frame(&LengthPrefix::u8(4)),
            Err(FrameError::TooLong { length: 5, max: 4 })
        );
        assert_eq!((input.taken(), input.len()), (0, 4));
    }

    #[test]
    fn every_take_moves_on_by_what_it_read() {
        let mut input = Input::new(b"ab\r\nkey=\x02hi.rest");
        assert_eq!(input.take_line(), Some(&b"ab"[..]));
        assert_eq!(input.take_until(b'='), Some(&b"key"[..]));
        assert_eq!(input.take_frame(&LengthPrefix::u8(2)), Ok(Some(&b"hi"[..])));
        input.consume(1);
        assert_eq!(input.take(0), Some(&b""[..]));
        assert_eq!(input.take(2), Some(&b"re"[..]));
        assert_eq!(input.taken(), 14);
        assert_eq!(input.take_all(), b"st");
        assert_eq!(input.take_all(), b"");
        assert_eq!((input.taken(), input.is_empty()), (16, true));
    }

    #[test]
    #[should_panic(expected = "consumed 4 of 3 unread bytes")]
    fn consuming_past_the_end_panics() {
        Input::new(b"abc").consume(4);
    }

    #[test]
    #[should_panic(expected = "consumed 4 of 3 unread bytes")]
    fn consuming_more_than_is_kept_panics() {
        Unread::keep(b"abc", &mut Pool::new(0), 9).unwrap().consume(4);
    }

    #[test]
    fn the_limit_is_reached_but_not_passed() {
        let mut pool = Pool::new(0);
        assert_eq!(Unread::keep(&[0; 11], &mut pool, 10).unwrap_err(), InputFull { limit: 10 });
        let mut unread = Unread::keep(&[0; 9], &mut pool, 10).unwrap();
        assert_eq!(unread.append(&[1; 2], &mut pool, 10), Err(InputFull { limit: 10 }));
        assert_eq!(unread.as_slice(), [0; 9], "nothing is changed");
        assert_eq!(unread.append(&[1], &mut pool, 10), Ok(()));
        assert_eq!(unread.append(&[], &mut pool, 10), Ok(()));
        assert_eq!(unread.append(&[2], &mut pool, 10), Err(InputFull { limit: 10 }));
        unread.consume(1);
        assert_eq!(unread.append(&[2], &mut pool, 10), Ok(()));
        assert_eq!(unread.as_slice(), [0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(
            unread.append(&[3], &mut pool, 5),
            Err(InputFull { limit: 5 }),
            "a limit lowered meanwhile"
        );
    }

    #[test]
    fn the_consumed_part_is_used_before_a_larger_block() {
        let mut pool = Pool::new(usize::MAX);
        let mut unread = Unread::keep(&[1; CLASS_MIN], &mut pool, 64 * KIB).unwrap();
        unread.consume(1000);
        unread.append(&[2; 1000], &mut pool, 64 * KIB).unwrap();
        assert_eq!((unread.memory(), unread.len()), (CLASS_MIN, CLASS_MIN));
        unread.append(&[3], &mut pool, 64 * KIB).unwrap();
        assert_eq!((unread.memory(), unread.len()), (4 * CLASS_MIN, CLASS_MIN + 1));
        assert_eq!(pool.retained_bytes(), CLASS_MIN, "the smaller block went back");
    }

    #[test]
    fn the_rest_of_a_big_message_does_not_hold_a_big_block() {
        let mut pool = Pool::new(usize::MAX);
        let mut unread = Unread::keep(&[7; 1000 * KIB], &mut pool, 1024 * KIB).unwrap();
        unread.shrink(&mut pool);
        assert_eq!(
            unread.memory(),
            1024 * KIB,
            "nothing was consumed: a slow big message stays where it is"
        );
        unread.consume(1000 * KIB - 3);
        unread.shrink(&mut pool);
        assert_eq!((unread.memory(), unread.as_slice()), (CLASS_MIN, &[7; 3][..]));
        unread.release(&mut pool);
        assert_eq!(pool.retained_bytes(), 1024 * KIB + CLASS_MIN);
    }

    #[test]
    fn a_byte_more_or_less_does_not_move_the_block_to_and_fro() {
        let mut pool = Pool::new(usize::MAX);
        let mut unread = Unread::keep(&[0; CLASS_MIN + 1], &mut pool, 64 * KIB).unwrap();
        unread.consume(2);
        unread.shrink(&mut pool);
        assert_eq!(unread.memory(), 4 * CLASS_MIN, "below the border, but near it");
        unread.consume(CLASS_MIN / 2 - 2);
        unread.shrink(&mut pool);
        assert_eq!(unread.memory(), 4 * CLASS_MIN, "one byte more than half the class");
        unread.consume(1);
        unread.shrink(&mut pool);
        assert_eq!((unread.memory(), unread.len()), (CLASS_MIN, CLASS_MIN / 2));
    }
}
