//! Frames that end at a delimiter: lines, and frames that end at a byte string.

use super::{Frame, FrameError, Framing};
use memchr::memchr;

/// The longest delimiter in bytes. Delimiters are constants of protocols, and are far shorter.
const DELIMITER_MAX: usize = u16::MAX as usize;

/// How far a connection's unread bytes have been searched for a delimiter, so that no byte is looked at
/// twice. 8 bytes; keep it in the session.
///
/// It counts from the first unread byte. If anything other than the search itself consumes unread bytes,
/// start again with `Searched::default()`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Searched {
    /// The number of bytes at the front in which no delimiter ends.
    bytes: u32,
    /// How many of these bytes, at their end, may be the beginning of a delimiter. At most `bytes`.
    begun: u16,
}

impl Searched {
    /// Notes how far the search has come. Above 4 GiB each search starts again, which is slow but correct.
    fn up_to(bytes: usize, begun: usize) -> Self {
        match (u32::try_from(bytes), u16::try_from(begun)) {
            (Ok(bytes), Ok(begun)) => Self { bytes, begun },
            _ => Self::default(),
        }
    }

    /// Returns where to continue in `bytes`, and how many bytes of the delimiter match just before.
    fn place_in(self, bytes: &[u8]) -> (usize, usize) {
        match usize::try_from(self.bytes) {
            Ok(at) if at <= bytes.len() => (at, usize::from(self.begun)),
            _ => (0, 0), // something else has consumed bytes
        }
    }
}

/// Finds the first line. Returns `(content, total)`: the line's length without and with its line end (`\n` or
/// `\r\n`).
///
/// It has no length limit and searches from the front each time. If a line comes byte by byte, the first byte
/// is looked at once per received byte. For lines from untrusted peers use [`Lines`].
///
/// ```
/// use net_buffer::find_line;
///
/// assert_eq!(find_line(b"PING\r\nrest"), Some((4, 6)));
/// assert_eq!(find_line(b"PING\r"), None);
/// ```
#[inline]
pub fn find_line(bytes: &[u8]) -> Option<(usize, usize)> {
    let newline = memchr(b'\n', bytes)?;
    Some((content_of(&bytes[..newline]), newline + 1))
}

/// Returns the length of a line without the `\r` that may belong to its line end.
#[inline]
fn content_of(line: &[u8]) -> usize {
    line.strip_suffix(b"\r").unwrap_or(line).len()
}

/// Lines that end with `\n` or `\r\n`, with a maximum length.
///
/// ```
/// use net_buffer::{FrameError, Input, Lines, Searched};
///
/// const LINES: Lines = Lines::new(5);
///
/// let mut searched = Searched::default(); // in the session
/// let mut input = Input::new(b"HELO\r\nQU");
/// assert_eq!(input.take_frame(LINES.after(&mut searched)), Ok(Some(&b"HELO"[..])));
/// assert_eq!(input.take_frame(LINES.after(&mut searched)), Ok(None));
///
/// let mut input = Input::new(b"QUITTE"); // four more bytes have come
/// let too_long = FrameError::Endless { length: 6, max: 5 };
/// assert_eq!(input.take_frame(LINES.after(&mut searched)), Err(too_long));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lines {
    /// The longest line in bytes, without its line end.
    max: usize,
}

impl Lines {
    /// Lines of up to `max` bytes, without the line end.
    pub const fn new(max: usize) -> Self {
        Self { max }
    }

    /// Combines this shape with the search state of one connection.
    pub fn after(self, searched: &mut Searched) -> impl Framing {
        LinesAfter { lines: self, searched }
    }
}

struct LinesAfter<'s> {
    lines: Lines,
    searched: &'s mut Searched,
}

impl Framing for LinesAfter<'_> {
    #[inline]
    fn find(self, bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        let Self { lines: Lines { max }, searched } = self;
        let (from, _) = std::mem::take(searched).place_in(bytes);
        // The longest content and two bytes of line end. Later bytes are not looked at.
        let bytes = &bytes[..bytes.len().min(max.saturating_add(2))];
        let newline = memchr(b'\n', &bytes[from.min(bytes.len())..]).map(|at| from + at);
        let end = content_of(&bytes[..newline.unwrap_or(bytes.len())]);
        if end > max {
            return Err(FrameError::Endless { length: end, max });
        }
        let Some(newline) = newline else {
            *searched = Searched::up_to(bytes.len(), 0);
            return Ok(None);
        };
        Ok(Some(Frame { start: 0, end, total: newline + 1 }))
    }
}

/// Frames with a maximum length, each followed by the same byte string.
///
/// The delimiter is found in one pass over any bytes (the Knuth-Morris-Pratt algorithm). Even in `aaaa…`
/// before a delimiter `aaab`, no byte is looked at again when more bytes come.
///
/// ```
/// use net_buffer::{Delimiter, Input, Searched};
///
/// let blocks = Delimiter::new(b"\r\n\r\n", 8192); // in the handler
/// let mut searched = Searched::default(); // in the session
///
/// let mut input = Input::new(b"GET / HTTP/1.1\r\n\r");
/// assert_eq!(input.take_frame(blocks.after(&mut searched)), Ok(None));
/// let mut input = Input::new(b"GET / HTTP/1.1\r\n\r\n");
/// let head = input.take_frame(blocks.after(&mut searched));
/// assert_eq!(head, Ok(Some(&b"GET / HTTP/1.1"[..])));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delimiter {
    delimiter: Box<[u8]>,
    /// For each prefix of the delimiter, at the index of its length less one: the length of its longest
    /// proper prefix that is also its suffix. Always less than the length of the prefix.
    fallback: Box<[u16]>,
    /// The longest payload in bytes, without the delimiter.
    max: usize,
}

impl Delimiter {
    /// Frames of up to `max` bytes, without the delimiter.
    ///
    /// # Panics
    ///
    /// If the delimiter is empty, or longer than 65,535 bytes.
    pub fn new(delimiter: &[u8], max: usize) -> Self {
        let length = delimiter.len();
        assert!((1..=DELIMITER_MAX).contains(&length), "a delimiter of {length} bytes");
        let mut fallback = vec![0u16; length].into_boxed_slice();
        let mut matched = 0;
        for at in 1..length {
            matched = advance(delimiter, &fallback, matched, delimiter[at]);
            fallback[at] = u16::try_from(matched).expect("shorter than the delimiter");
        }
        Self { delimiter: delimiter.into(), fallback, max }
    }

    /// Combines this shape with the search state of one connection.
    pub fn after<'s>(&'s self, searched: &'s mut Searched) -> impl Framing {
        DelimiterAfter { shape: self, searched }
    }

    /// Searches `bytes` from `at` on. The `matched` bytes before `at` may be the beginning of the delimiter.
    ///
    /// Returns where the search stopped, and how many bytes of the delimiter match there. It stops when all
    /// of them match, or at the end of the input.
    fn search(&self, bytes: &[u8], mut at: usize, mut matched: usize) -> (usize, usize) {
        while matched < self.delimiter.len() {
            if matched == 0 {
                // No delimiter has begun: skip to the next byte at which it may begin.
                match memchr(self.delimiter[0], &bytes[at..]) {
                    Some(skipped) => at += skipped,
                    None => return (bytes.len(), 0),
                }
            }
            let Some(&byte) = bytes.get(at) else { break };
            matched = advance(&self.delimiter, &self.fallback, matched, byte);
            at += 1;
        }
        (at, matched)
    }
}

/// Returns how many bytes of the delimiter match after `byte`, if `matched` bytes, and not all, matched
/// before. The search never steps back more often than it has stepped forward.
#[inline]
fn advance(delimiter: &[u8], fallback: &[u16], mut matched: usize, byte: u8) -> usize {
    while matched > 0 && delimiter[matched] != byte {
        matched = usize::from(fallback[matched - 1]);
    }
    matched + usize::from(delimiter[matched] == byte)
}

struct DelimiterAfter<'s> {
    shape: &'s Delimiter,
    searched: &'s mut Searched,
}

impl Framing for DelimiterAfter<'_> {
    fn find(self, bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        let Self { shape, searched } = self;
        let (from, begun) = std::mem::take(searched).place_in(bytes);
        let most = shape.max.saturating_add(shape.delimiter.len());
        let bytes = &bytes[..bytes.len().min(most)];
        let (total, matched) = shape.search(bytes, from.min(bytes.len()), begun);
        // The last `matched` bytes may become the delimiter. All bytes before them are payload.
        let end = total - matched;
        if end > shape.max {
            return Err(FrameError::Endless { length: end, max: shape.max });
        }
        if matched < shape.delimiter.len() {
            *searched = Searched::up_to(total, matched);
            return Ok(None);
        }
        Ok(Some(Frame { start: 0, end, total }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_at_its_first_newline_with_or_without_return() {
        assert_eq!(find_line(b""), None);
        assert_eq!(find_line(b"no end\r"), None);
        assert_eq!(find_line(b"\n"), Some((0, 1)));
        assert_eq!(find_line(b"\r\n"), Some((0, 2)));
        assert_eq!(find_line(b"a\r\r\nb\n"), Some((2, 4)), "one return belongs to the line end");
        assert_eq!(find_line(b"a\rb\nc"), Some((3, 4)));
    }

    /// Gives `text` byte by byte. Returns the frame or the error, and after how many bytes it came.
    fn by_bytes(
        text: &[u8],
        mut find: impl FnMut(&[u8]) -> Result<Option<Frame>, FrameError>,
    ) -> (usize, Result<Option<Frame>, FrameError>) {
        for shown in 0..=text.len() {
            match find(&text[..shown]) {
                Ok(None) => {}
                decided => return (shown, decided),
            }
        }
        (text.len(), Ok(None))
    }

    fn frame(end: usize, total: usize) -> Result<Option<Frame>, FrameError> {
        Ok(Some(Frame { start: 0, end, total }))
    }

    #[test]
    fn what_a_session_keeps_is_small() {
        assert_eq!(size_of::<Searched>(), 8);
    }

    #[test]
    fn a_line_is_taken_below_and_at_its_limit_and_refused_above_as_soon_as_it_is_certain() {
        let line = |text: &[u8]| {
            let mut searched = Searched::default();
            by_bytes(text, |shown| Lines::new(3).after(&mut searched).find(shown))
        };
        let endless = Err(FrameError::Endless { length: 4, max: 3 });
        assert_eq!(line(b"ab\r\nx"), (4, frame(2, 4)));
        assert_eq!(line(b"abc\nxx"), (4, frame(3, 4)));
        assert_eq!(line(b"abc\r\nx"), (5, frame(3, 5)));
        assert_eq!(line(b"abc\r"), (4, Ok(None)), "the return may belong to the line end");
        assert_eq!(line(b"abc\rd"), (5, Err(FrameError::Endless { length: 5, max: 3 })));
        assert_eq!(line(b"abcd\n"), (4, endless));
        assert_eq!(line(b"abc\r\r\n"), (5, endless));
        let mut searched = Searched::default();
        assert_eq!(Lines::new(0).after(&mut searched).find(b"\r\n"), frame(0, 2));
        assert_eq!(Lines::new(usize::MAX).after(&mut searched).find(b"ab\n"), frame(2, 3));
    }

    #[test]
    fn a_delimited_frame_is_taken_up_to_its_limit_and_refused_above() {
        let delimiter = Delimiter::new(b"--", 3);
        let block = |text: &[u8]| {
            let mut searched = Searched::default();
            by_bytes(text, |shown| delimiter.after(&mut searched).find(shown))
        };
        let endless = Err(FrameError::Endless { length: 4, max: 3 });
        assert_eq!(block(b"--"), (2, frame(0, 2)));
        assert_eq!(block(b"a-b--"), (5, frame(3, 5)));
        assert_eq!(block(b"abc-"), (4, Ok(None)), "it may be the beginning of the delimiter");
        assert_eq!(block(b"abc-d"), (5, Err(FrameError::Endless { length: 5, max: 3 })));
        assert_eq!(block(b"abcd"), (4, endless));
        let mut searched = Searched::default();
        assert_eq!(Delimiter::new(b"-", usize::MAX).after(&mut searched).find(b"a-"), frame(1, 2));
    }

    #[test]
    fn no_byte_is_looked_at_twice_when_bytes_come_one_by_one() {
        const BYTES: usize = 4096;
        let text = vec![b'a'; BYTES];
        let delimiter = Delimiter::new(&[&[b'a'; 63][..], b"b"].concat(), BYTES);
        let (mut lines, mut blocks) = (Searched::default(), Searched::default());
        for shown in 1..=BYTES {
            // All bytes that were searched before are replaced: a second search of them would find an end.
            let mut text = text.clone();
            text[..shown - 1].fill(b'\n');
            text[shown - 1] = b'a';
            assert_eq!(Lines::new(BYTES).after(&mut lines).find(&text[..shown]), Ok(None));
            text[..shown - 1].fill(b'b');
            assert_eq!(delimiter.after(&mut blocks).find(&text[..shown]), Ok(None));
            assert_eq!(blocks.bytes as usize, shown);
            assert_eq!(usize::from(blocks.begun), shown.min(63));
        }
    }

    #[test]
    fn a_place_that_others_made_wrong_is_given_up() {
        let mut searched = Searched::default();
        assert_eq!(Lines::new(9).after(&mut searched).find(b"abcdef"), Ok(None));
        assert_eq!(Lines::new(9).after(&mut searched).find(b"e\n"), frame(1, 2));
        assert_eq!(Searched::up_to(usize::MAX, 1), Searched::default());
    }

    #[test]
    #[should_panic(expected = "a delimiter of 0 bytes")]
    fn an_empty_delimiter_is_refused() {
        let _ = Delimiter::new(b"", 9);
    }
}
