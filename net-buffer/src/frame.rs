//! Finds where a message ends: at a line end or another delimiter, after a fixed number of bytes, or
//! after the length it announces. Pure functions over `&[u8]`.
//!
//! Each looks at the bytes that are there and never allocates, whatever a prefix promises. Each is
//! incremental: of a message that comes in pieces, no byte is looked at twice. And each is bounded:
//! a message longer than its shape allows is an error, as soon as that is certain.

mod delimited;
mod prefix;

pub use delimited::{Delimiter, Lines, Searched, find_line};
pub use prefix::{LengthPrefix, Order, Width};

use std::error::Error;
use std::fmt;

/// A way to tell where a message ends, for [`Input::take_frame`](crate::Input::take_frame).
///
/// | shape | a message is | remembers between pieces |
/// |---|---|---|
/// | [`Lines`] | a line, up to `\n` or `\r\n` | how far it has searched |
/// | [`Delimiter`] | what stands before a byte string | how far it has searched |
/// | [`Fixed`] | so many bytes | nothing |
/// | [`LengthPrefix`] | a number, then so many bytes | nothing |
///
/// A handler keeps the shape, once; a session keeps a [`Searched`] where one is needed.
pub trait Framing {
    /// Finds the frame at the front of `bytes`, or `None` while it is not all there.
    ///
    /// An error is for ever: the stream has no next frame.
    fn find(self, bytes: &[u8]) -> Result<Option<Frame>, FrameError>;
}

/// Where the payload of a complete frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The first byte of the payload.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
    /// Where the next frame begins: behind the payload and its delimiter.
    pub total: usize,
}

/// Frames of one size, without anything between them.
///
/// ```
/// use net_buffer::{Fixed, Input};
///
/// const RECORDS: Fixed = Fixed::new(3);
///
/// let mut input = Input::new(b"onetwothr");
/// input.consume(1);
/// assert_eq!(input.take_frame(RECORDS), Ok(Some(&b"net"[..])));
/// assert_eq!(input.take_frame(RECORDS), Ok(Some(&b"wot"[..])));
/// assert_eq!(input.take_frame(RECORDS), Ok(None));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixed {
    size: usize,
}

impl Fixed {
    /// Frames of `size` bytes. A size above the connection's input limit never comes whole: that
    /// limit ends it.
    ///
    /// # Panics
    ///
    /// If `size` is 0: of such frames there would be no end.
    pub const fn new(size: usize) -> Self {
        assert!(size > 0, "a frame of 0 bytes would be found for ever");
        Self { size }
    }
}

impl Framing for Fixed {
    #[inline]
    fn find(self, bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        let Self { size } = self;
        Ok((bytes.len() >= size).then_some(Frame { start: 0, end: size, total: size }))
    }
}

/// Why a stream has no next frame: end the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The payload is longer than allowed.
    TooLong {
        /// Bytes of payload announced.
        length: u64,
        /// Bytes of payload allowed.
        max: usize,
    },
    /// The prefix counts itself and yet is smaller than itself.
    TooShort {
        /// The number in the prefix.
        length: u64,
        /// The bytes of the prefix, the least that the number can be.
        width: usize,
    },
    /// A line or another delimited frame does not end in time.
    Endless {
        /// Bytes that had come of it by then: more than are allowed, whatever comes next.
        length: usize,
        /// Bytes allowed, the delimiter not counted.
        max: usize,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { length, max } => {
                write!(f, "the frame has {length} bytes of payload, more than the {max} allowed")
            }
            Self::TooShort { length, width } => {
                write!(f, "the frame says it has {length} bytes, but its prefix alone has {width}")
            }
            Self::Endless { length, max } => {
                write!(f, "the frame has not ended after {length} bytes, of {max} allowed")
            }
        }
    }
}

impl Error for FrameError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_frame_is_found_at_its_last_byte() {
        let records = Fixed::new(3);
        assert_eq!(records.find(b"ab"), Ok(None));
        assert_eq!(records.find(b"abc"), Ok(Some(Frame { start: 0, end: 3, total: 3 })));
        assert_eq!(records.find(b"abcd"), Ok(Some(Frame { start: 0, end: 3, total: 3 })));
        assert_eq!(Fixed::new(usize::MAX).find(b"abcd"), Ok(None));
    }

    #[test]
    #[should_panic(expected = "a frame of 0 bytes")]
    fn frames_of_nothing_are_refused() {
        let _ = Fixed::new(0);
    }

    #[test]
    fn errors_are_sentences() {
        let long = FrameError::TooLong { length: 9, max: 8 };
        assert_eq!(long.to_string(), "the frame has 9 bytes of payload, more than the 8 allowed");
        let short = FrameError::TooShort { length: 3, width: 4 };
        assert_eq!(short.to_string(), "the frame says it has 3 bytes, but its prefix alone has 4");
        let endless = FrameError::Endless { length: 9, max: 8 };
        assert_eq!(endless.to_string(), "the frame has not ended after 9 bytes, of 8 allowed");
    }
}
