//! The body of a request: how long it is, and its bytes, in whatever pieces they come.

use net_core::{Input, Searched};

/// What is still to come of a body.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    #[default]
    Over,
    /// So many bytes.
    Bytes(u64),
    /// A chunk, whose size comes first.
    ChunkSize,
    /// So many bytes of a chunk, then its line's end.
    Chunk(u64),
    /// The line's end behind a chunk.
    ChunkEnd,
    /// Lines up to an empty one, of so many bytes at most.
    Trailers(usize),
}

/// The next part of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Some bytes of it.
    Bytes(&'a [u8]),
    /// The rest has not come.
    NotYet,
    /// That was all.
    End,
    /// What came is none: the connection can go on no more.
    Bad,
}

/// A longer line between chunks is no honest one.
const LINE_MAX: usize = 1024;
/// Bytes of all trailers together: as many as a head may have.
const TRAILERS_MAX: usize = 8192;

impl Body {
    /// The body that a request's headers announce; an error says what is wrong with them.
    pub fn announced(headers: &[httparse::Header<'_>]) -> Result<Self, &'static str> {
        let mut length = None;
        let mut is_chunked = false;
        for header in headers {
            if header.name.eq_ignore_ascii_case("content-length") {
                // Two of them, or a sign: whoever stands between may have read them otherwise.
                let digits = std::str::from_utf8(header.value).ok();
                let digits = digits.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
                let bytes = digits.and_then(|text| text.parse().ok());
                if length.is_some() || bytes.is_none() {
                    return Err("Content-Length");
                }
                length = bytes;
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                if is_chunked || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err("Transfer-Encoding");
                }
                is_chunked = true;
            }
        }
        match (length, is_chunked) {
            (Some(_), true) => Err("Content-Length beside Transfer-Encoding"),
            (None, true) => Ok(Body::ChunkSize),
            (Some(0) | None, false) => Ok(Body::Over),
            (Some(length), false) => Ok(Body::Bytes(length)),
        }
    }

    /// Takes the next part of it.
    pub fn next<'a>(&mut self, input: &mut Input<'a>, searched: &mut Searched) -> Part<'a> {
        loop {
            match *self {
                Body::Over => return Part::End,
                Body::Bytes(left) | Body::Chunk(left) => {
                    let bytes = take_up_to(input, left);
                    if bytes.is_empty() {
                        return Part::NotYet;
                    }
                    let left = left - bytes.len() as u64;
                    *self = match self {
                        Body::Chunk(_) if left == 0 => Body::ChunkEnd,
                        Body::Chunk(_) => Body::Chunk(left),
                        _ if left == 0 => Body::Over,
                        _ => Body::Bytes(left),
                    };
                    return Part::Bytes(bytes);
                }
                Body::ChunkSize | Body::ChunkEnd | Body::Trailers(_) => {
                    let line =
                        match input.take_frame(net_core::Lines::new(LINE_MAX).after(searched)) {
                            Ok(Some(line)) => line,
                            Ok(None) => return Part::NotYet,
                            Err(_) => return Part::Bad,
                        };
                    match self.line(line) {
                        Some(next) => *self = next,
                        None => return Part::Bad,
                    }
                }
            }
        }
    }

    /// What follows a line between chunks; `None`: it is none of those that may stand there.
    fn line(&self, line: &[u8]) -> Option<Body> {
        match self {
            Body::ChunkEnd => line.is_empty().then_some(Body::ChunkSize),
            Body::Trailers(_) if line.is_empty() => Some(Body::Over),
            Body::Trailers(left) => left.checked_sub(line.len()).map(Body::Trailers),
            _ => {
                // An extension, behind a semicolon, says nothing to us.
                let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
                let is_hex = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
                let digits = std::str::from_utf8(digits).ok().filter(|_| is_hex)?;
                match u64::from_str_radix(digits, 16).ok()? {
                    0 => Some(Body::Trailers(TRAILERS_MAX)),
                    size => Some(Body::Chunk(size)),
                }
            }
        }
    }
}

fn take_up_to<'a>(input: &mut Input<'a>, most: u64) -> &'a [u8] {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    input.take(input.len().min(most)).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn announced(headers: &[(&str, &str)]) -> Result<Body, &'static str> {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| httparse::Header { name, value: value.as_bytes() })
            .collect();
        Body::announced(&headers)
    }

    /// Feeds it in pieces of `size` bytes, and returns the body, and the bytes behind it.
    fn read(mut body: Body, bytes: &[u8], size: usize) -> Result<(Vec<u8>, Vec<u8>), ()> {
        let (mut got, mut kept, mut searched) = (Vec::new(), Vec::new(), Searched::default());
        let mut pieces = bytes.chunks(size);
        loop {
            let mut input = Input::new(&kept);
            let is_over = loop {
                match body.next(&mut input, &mut searched) {
                    Part::Bytes(bytes) => got.extend_from_slice(bytes),
                    Part::NotYet => break false,
                    Part::End => break true,
                    Part::Bad => return Err(()),
                }
            };
            let taken = input.taken();
            kept.drain(..taken);
            if is_over {
                kept.extend(pieces.flatten());
                return Ok((got, kept));
            }
            kept.extend_from_slice(pieces.next().ok_or(())?);
        }
    }

    #[test]
    fn headers_that_two_readers_could_read_differently_are_refused() {
        assert_eq!(announced(&[]), Ok(Body::Over));
        assert_eq!(announced(&[("Content-Length", "0")]), Ok(Body::Over));
        assert_eq!(announced(&[("content-length", "12")]), Ok(Body::Bytes(12)));
        assert_eq!(announced(&[("Transfer-Encoding", "Chunked")]), Ok(Body::ChunkSize));
        for wrong in ["", "+1", "-1", "1,1", " 1", "0x1", "99999999999999999999"] {
            assert!(announced(&[("Content-Length", wrong)]).is_err(), "{wrong:?}");
        }
        assert!(announced(&[("Content-Length", "1"), ("Content-Length", "1")]).is_err());
        assert!(announced(&[("Transfer-Encoding", "gzip, chunked")]).is_err());
        let both = [("Content-Length", "1"), ("Transfer-Encoding", "chunked")];
        assert!(announced(&both).is_err());
    }

    #[test]
    fn a_chunked_body_does_not_depend_on_the_cuts() {
        let bytes =
            b"5\r\nhello\r\n1;name=value\r\n,\r\n6 \r\n world\r\n0\r\nTrailer: x\r\n\r\nGET";
        for size in 1..bytes.len() {
            let (body, rest) = read(Body::ChunkSize, bytes, size).unwrap();
            assert_eq!(body, b"hello, world", "in pieces of {size}");
            assert_eq!(rest, b"GET", "in pieces of {size}");
        }
    }

    #[test]
    fn a_body_of_a_length_ends_there() {
        for size in 1..8 {
            let (body, _) = read(Body::Bytes(5), b"hello, world", size).unwrap();
            assert_eq!(body, b"hello");
        }
    }

    #[test]
    fn trailers_come_to_an_end() {
        let ending_in = |lines: usize| {
            let trailers = format!("{}\r\n", "x".repeat(100)).repeat(lines);
            format!("0\r\n{trailers}\r\n").into_bytes()
        };
        assert!(read(Body::ChunkSize, &ending_in(TRAILERS_MAX / 100), 50).is_ok());
        assert_eq!(read(Body::ChunkSize, &ending_in(TRAILERS_MAX / 100 + 1), 50), Err(()));
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for wrong in [
            &b"\r\n"[..],
            b"-1\r\n",
            b"x\r\n",
            b"1\r\nab\r\n",
            b"10000000000000000\r\n", // 2^64
            &[b'1'; 2000],
        ] {
            assert_eq!(read(Body::ChunkSize, wrong, 3), Err(()), "{wrong:?}");
        }
    }
}
