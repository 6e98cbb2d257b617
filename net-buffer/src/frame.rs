//! Framing: finds where a message ends in the received bytes.
//!
//! A message ends at a line end or another delimiter, after a fixed number of bytes, or after the length that
//! it announces. All are pure functions over `&[u8]`.
//!
//! Each function looks only at the received bytes and never allocates, whatever length a prefix announces.
//! Each is incremental: if a message comes in pieces, no byte is looked at twice. Each is bounded: a message
//! longer than its shape allows is an error as soon as that is certain.

mod delimited;
mod prefix;

pub use delimited::{Delimiter, Lines, Searched, find_line};
pub use prefix::{ByteOrder, LengthPrefix, PrefixWidth};

use std::error::Error;
use std::fmt;

/// A way to find where a message ends, for [`Input::take_frame`](crate::Input::take_frame).
///
/// | shape | a message is | remembers between pieces |
/// |---|---|---|
/// | [`Lines`] | a line, up to `\n` or `\r\n` | how far it has searched |
/// | [`Delimiter`] | the bytes before a byte string | how far it has searched |
/// | [`Fixed`] | a fixed number of bytes | nothing |
/// | [`LengthPrefix`] | a number, then that many bytes | nothing |
///
/// The handler keeps the shape once. Each session keeps a [`Searched`] if the shape needs it.
pub trait Framing {
    /// Finds the frame at the front of `bytes`. Returns `None` while the frame is not complete.
    ///
    /// An error is final: the stream has no next frame.
    fn find(self, bytes: &[u8]) -> Result<Option<Frame>, FrameError>;
}

/// The position of the payload of a complete frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The first byte of the payload.
    pub start: usize,
    /// One past the last byte of the payload.
    pub end: usize,
    /// Where the next frame begins: after the payload and its delimiter.
    pub total: usize,
}

/// Frames of one fixed size, with nothing between them.
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
    /// Frames of `size` bytes. A frame above the connection's input limit never becomes complete: the limit
    /// ends the connection.
    ///
    /// # Panics
    ///
    /// If `size` is 0: empty frames would be found for ever.
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

/// Why a stream has no next frame. After this error, end the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The payload is longer than allowed.
    TooLong {
        /// Bytes of payload announced.
        length: u64,
        /// Bytes of payload allowed.
        max: usize,
    },
    /// The prefix counts its own bytes, but its number is smaller than its own width.
    TooShort {
        /// The number in the prefix.
        length: u64,
        /// The width of the prefix in bytes, which is the smallest valid number.
        width: usize,
    },
    /// A line or another delimited frame is longer than allowed, and its end has not come.
    Endless {
        /// Bytes of the frame received so far: more than allowed, whatever comes next.
        length: usize,
        /// Bytes allowed, without the delimiter.
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
