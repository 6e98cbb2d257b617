//! Frames that begin with their length.
//!
//! The search reads only the prefix. So a frame that comes byte by byte costs a few instructions per byte,
//! however long the frame is.

use super::{Frame, FrameError, Framing};

/// How many bytes a length prefix has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrefixWidth {
    /// One byte.
    U8 = 1,
    /// Two bytes.
    U16 = 2,
    /// Four bytes.
    U32 = 4,
    /// Eight bytes.
    U64 = 8,
}

impl PrefixWidth {
    /// The width of the prefix in bytes.
    #[inline]
    pub const fn bytes(self) -> usize {
        self as usize
    }

    /// The largest number that fits in the prefix.
    const fn largest(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

/// Which byte of a length prefix comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteOrder {
    /// The most significant byte comes first (network order).
    Big,
    /// The least significant byte comes first.
    Little,
}

/// The shape of a frame that begins with its length: a number, then that many bytes of payload.
///
/// ```
/// use net_buffer::{Frame, FrameError, LengthPrefix};
///
/// const FRAMES: LengthPrefix = LengthPrefix::u32_be(1024);
///
/// assert_eq!(FRAMES.find(b"\0\0\0\x05hel"), Ok(None));
/// assert_eq!(FRAMES.find(b"\0\0\0\x05hello, "), Ok(Some(Frame { start: 4, end: 9, total: 9 })));
/// let refused = FrameError::TooLong { length: 0x7fff_ffff, max: 1024 };
/// assert_eq!(FRAMES.find(b"\x7f\xff\xff\xff"), Err(refused));
///
/// let (header, width) = FRAMES.encode_header(5)?;
/// assert_eq!(&header[..width], b"\0\0\0\x05");
/// # Ok::<(), FrameError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LengthPrefix {
    /// How many bytes the prefix has.
    pub width: PrefixWidth,
    /// Which byte of the prefix comes first.
    pub order: ByteOrder,
    /// The longest accepted payload in bytes, without the prefix. A longer payload is
    /// [`FrameError::TooLong`].
    pub max: usize,
    /// Whether the number also counts the bytes of the prefix.
    pub counts_itself: bool,
}

impl LengthPrefix {
    /// A prefix that counts only the payload. The payload may have up to `max` bytes.
    pub const fn new(width: PrefixWidth, order: ByteOrder, max: usize) -> Self {
        Self { width, order, max, counts_itself: false }
    }

    /// A prefix of one byte.
    pub const fn u8(max: usize) -> Self {
        Self::new(PrefixWidth::U8, ByteOrder::Big, max)
    }

    /// A prefix of two bytes in network order.
    pub const fn u16_be(max: usize) -> Self {
        Self::new(PrefixWidth::U16, ByteOrder::Big, max)
    }

    /// A prefix of two bytes, the least significant first.
    pub const fn u16_le(max: usize) -> Self {
        Self::new(PrefixWidth::U16, ByteOrder::Little, max)
    }

    /// A prefix of four bytes in network order.
    pub const fn u32_be(max: usize) -> Self {
        Self::new(PrefixWidth::U32, ByteOrder::Big, max)
    }

    /// A prefix of four bytes, the least significant first.
    pub const fn u32_le(max: usize) -> Self {
        Self::new(PrefixWidth::U32, ByteOrder::Little, max)
    }

    /// A prefix of eight bytes in network order.
    pub const fn u64_be(max: usize) -> Self {
        Self::new(PrefixWidth::U64, ByteOrder::Big, max)
    }

    /// A prefix of eight bytes, the least significant first.
    pub const fn u64_le(max: usize) -> Self {
        Self::new(PrefixWidth::U64, ByteOrder::Little, max)
    }

    /// The same shape, but its number also counts the bytes of the prefix.
    #[must_use]
    pub const fn counting_itself(self) -> Self {
        Self { counts_itself: true, ..self }
    }

    /// Finds the frame at the front of `bytes`. Returns `None` while the frame is not complete.
    ///
    /// A length that is not allowed is an error as soon as the prefix has come, before the payload comes.
    #[inline]
    pub fn find(&self, bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        let Some((prefix, rest)) = bytes.split_at_checked(self.width.bytes()) else {
            return Ok(None);
        };
        let payload = self.payload_len(self.decode(prefix))?;
        if rest.len() < payload {
            return Ok(None);
        }
        // Both ends lie in `bytes`, so the sum cannot overflow.
        let (start, end) = (prefix.len(), prefix.len() + payload);
        Ok(Some(Frame { start, end, total: end }))
    }

    /// Returns the prefix for a payload of `payload_len` bytes, and the width of the prefix. The prefix is
    /// that many bytes at the front of the array.
    ///
    /// Fails with [`FrameError::TooLong`] if the payload is longer than `max`, or if the number does not fit
    /// in the prefix.
    pub fn encode_header(&self, payload_len: usize) -> Result<([u8; 8], usize), FrameError> {
        let length = payload_len as u64;
        let fits = self.width.largest() - self.own_share();
        if payload_len > self.max || length > fits {
            let max = usize::try_from(fits).map_or(self.max, |fits| fits.min(self.max));
            return Err(FrameError::TooLong { length, max });
        }
        let mut header = (length + self.own_share()).to_le_bytes();
        let width = self.width.bytes();
        if self.order == ByteOrder::Big {
            header[..width].reverse();
        }
        Ok((header, width))
    }

    /// The number in the prefix.
    fn decode(&self, prefix: &[u8]) -> u64 {
        let join = |number, &byte| number << 8 | u64::from(byte);
        match self.order {
            ByteOrder::Big => prefix.iter().fold(0, join),
            ByteOrder::Little => prefix.iter().rev().fold(0, join),
        }
    }

    /// Returns the length of the payload that `number` announces, if that length is allowed.
    fn payload_len(&self, number: u64) -> Result<usize, FrameError> {
        let Some(length) = number.checked_sub(self.own_share()) else {
            return Err(FrameError::TooShort { length: number, width: self.width.bytes() });
        };
        match usize::try_from(length) {
            Ok(payload) if payload <= self.max => Ok(payload),
            _ => Err(FrameError::TooLong { length, max: self.max }),
        }
    }

    /// The part of the number that counts the prefix itself.
    fn own_share(&self) -> u64 {
        if self.counts_itself { self.width.bytes() as u64 } else { 0 }
    }
}

impl Framing for &LengthPrefix {
    #[inline]
    fn find(self, bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        LengthPrefix::find(self, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTHS: [PrefixWidth; 4] =
        [PrefixWidth::U8, PrefixWidth::U16, PrefixWidth::U32, PrefixWidth::U64];
    const ORDERS: [ByteOrder; 2] = [ByteOrder::Big, ByteOrder::Little];

    /// Every shape with the payload limit `max`.
    fn shapes(max: usize) -> impl Iterator<Item = LengthPrefix> {
        WIDTHS.into_iter().flat_map(move |width| {
            ORDERS.into_iter().flat_map(move |order| {
                let plain = LengthPrefix::new(width, order, max);
                [plain, plain.counting_itself()]
            })
        })
    }

    /// `number` as a prefix of the shape, if it fits.
    fn prefix(shape: &LengthPrefix, number: u64) -> Option<Vec<u8>> {
        let width = shape.width.bytes();
        let little = number.to_le_bytes();
        let fits = little[width..].iter().all(|&byte| byte == 0);
        let mut bytes = little[..width].to_vec();
        if shape.order == ByteOrder::Big {
            bytes.reverse();
        }
        fits.then_some(bytes)
    }

    #[test]
    fn no_length_overflows_and_none_above_the_limit_is_awaited() {
        for max in [0, 1, 100, 70_000, usize::MAX] {
            let limit = max as u64;
            let lengths =
                [0, 1, limit, limit.saturating_add(1), 1 << 31, (1 << 32) - 1, 1 << 63, u64::MAX];
            for shape in shapes(max) {
                for number in lengths {
                    let Some(bytes) = prefix(&shape, number) else {
                        continue;
                    };
                    let own = if shape.counts_itself { bytes.len() as u64 } else { 0 };
                    let expected = match number.checked_sub(own) {
                        None => Err(FrameError::TooShort { length: number, width: bytes.len() }),
                        Some(length) if length > limit => Err(FrameError::TooLong { length, max }),
                        Some(0) => {
                            let here = bytes.len();
                            Ok(Some(Frame { start: here, end: here, total: here }))
                        }
                        Some(_) => Ok(None),
                    };
                    assert_eq!(shape.find(&bytes), expected, "{shape:?} {number}");
                }
            }
        }
    }

    #[test]
    fn a_frame_is_found_at_its_last_byte_and_not_before() {
        for shape in shapes(200) {
            let (header, width) = shape.encode_header(200).unwrap();
            let whole = [&header[..width], &[7; 201]].concat();
            for cut in 0..width + 200 {
                assert_eq!(shape.find(&whole[..cut]), Ok(None), "{shape:?} {cut}");
            }
            let end = width + 200;
            assert_eq!(shape.find(&whole), Ok(Some(Frame { start: width, end, total: end })));
        }
    }

    #[test]
    fn a_header_is_refused_above_the_limit_or_the_width() {
        assert!(LengthPrefix::u8(300).encode_header(255).is_ok());
        let full = FrameError::TooLong { length: 256, max: 255 };
        assert_eq!(LengthPrefix::u8(300).encode_header(256), Err(full));
        assert!(LengthPrefix::u8(300).counting_itself().encode_header(254).is_ok());
        assert!(LengthPrefix::u8(300).counting_itself().encode_header(255).is_err());
        assert!(LengthPrefix::u16_be(9).encode_header(9).is_ok());
        assert!(LengthPrefix::u16_be(9).encode_header(10).is_err());
        let widest = LengthPrefix::u64_be(usize::MAX);
        assert_eq!(widest.encode_header(usize::MAX), Ok(((usize::MAX as u64).to_be_bytes(), 8)));
        assert!(widest.counting_itself().encode_header(usize::MAX - 7).is_err());
    }
}
