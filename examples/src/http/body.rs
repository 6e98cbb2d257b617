//! The body of a request: how long it is, and its bytes, in any pieces.
//!
//! Lines between chunks are read strictly by RFC 9112, section 7.1. Some readers take a bare line feed for
//! the end of a line, or ignore a blank, and others do not. Between two such readers, a request can be hidden
//! in a body from the reader in front.

use net_core::Input;

/// The part of a body that is still to come.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    #[default]
    Over,
    /// This number of bytes.
    Bytes(u64),
    /// A chunk, which begins with its size.
    ChunkSize,
    /// This number of bytes of a chunk, then the line end behind it.
    Chunk(u64),
    /// The line end behind a chunk.
    ChunkEnd,
    /// Trailer lines up to an empty line, with at most this number of bytes.
    Trailers(usize),
}

/// The next part of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Some bytes of it.
    Bytes(&'a [u8]),
    /// The rest has not come.
    NotYet,
    /// The body is complete.
    End,
    /// The bytes are no body. The connection cannot go on.
    Bad,
}

/// No honest client sends a longer line between chunks.
const LINE_MAX: usize = 1024;
/// Bytes of all trailers together: as many as a head may have.
const TRAILERS_MAX: usize = 8192;

impl Body {
    /// The body that a request's headers announce. The error says what is wrong with the headers.
    pub fn announced(headers: &[httparse::Header<'_>]) -> Result<Self, &'static str> {
        let mut length = None;
        let mut is_chunked = false;
        for header in headers {
            if header.name.eq_ignore_ascii_case("content-length") {
                // Two lengths, or a length with a sign: a proxy in between may have read them differently.
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
    pub fn next<'a>(&mut self, input: &mut Input<'a>) -> Part<'a> {
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
                    let line = match take_line(input) {
                        Ok(Some(line)) => line,
                        Ok(None) => return Part::NotYet,
                        Err(NoLine) => return Part::Bad,
                    };
                    match self.line(line) {
                        Some(next) => *self = next,
                        None => return Part::Bad,
                    }
                }
            }
        }
    }

    /// The state after a line between chunks. `None`: such a line may not stand there.
    fn line(&self, line: &[u8]) -> Option<Body> {
        match self {
            Body::ChunkEnd => line.is_empty().then_some(Body::ChunkSize),
            Body::Trailers(_) if line.is_empty() => Some(Body::Over),
            Body::Trailers(left) => {
                left.checked_sub(line.len()).filter(|_| is_field(line)).map(Body::Trailers)
            }
            _ => {
                // An extension, behind a semicolon, is ignored, but must be valid.
                let end = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
                let (digits, extensions) = line.split_at(end);
                let digits = std::str::from_utf8(digits).ok()?;
                let size = u64::from_str_radix(digits, 16).ok()?;
                match Some(size).filter(|_| are_extensions(extensions))? {
                    0 => Some(Body::Trailers(TRAILERS_MAX)),
                    size => Some(Body::Chunk(size)),
                }
            }
        }
    }
}

/// The bytes up to the line end are not a line that may stand there.
struct NoLine;

/// The next line, without its line end. Only CR LF is a line end.
fn take_line<'a>(input: &mut Input<'a>) -> Result<Option<&'a [u8]>, NoLine> {
    let bytes = input.peek();
    let Some(end) = bytes.iter().take(LINE_MAX + 2).position(|byte| *byte == b'\n') else {
        let without_cr = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let may_become_one = bytes.len() < LINE_MAX + 2 && !without_cr.iter().any(breaks_a_line);
        return if may_become_one { Ok(None) } else { Err(NoLine) };
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or(NoLine)?;
    if line.iter().any(breaks_a_line) {
        return Err(NoLine);
    }
    input.consume(end + 1);
    Ok(Some(line))
}

fn breaks_a_line(byte: &u8) -> bool {
    matches!(byte, b'\r' | b'\n' | b'\0')
}

/// Whether the bytes may follow the size of a chunk: nothing, or `;name` and `;name=value`, any number of
/// them. A blank before the first semicolon is refused, although the RFC allows it. No honest sender writes
/// it, and readers treat it differently.
fn are_extensions(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Some(rest) = bytes.strip_prefix(b";") else { return false };
        let Some(rest) = token(rest.trim_ascii_start()) else { return false };
        bytes = rest;
        if let Some(value) = rest.trim_ascii_start().strip_prefix(b"=") {
            let value = value.trim_ascii_start();
            let Some(rest) = quoted(value).or_else(|| token(value)) else { return false };
            bytes = rest;
        }
        if bytes.trim_ascii_start().starts_with(b";") {
            bytes = bytes.trim_ascii_start();
        }
    }
    true
}

/// The bytes after a token of at least one character.
fn token(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().take_while(|byte| is_token(**byte)).count();
    Some(&bytes[end..]).filter(|_| end > 0)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The bytes after a string in double quotes.
fn quoted(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.strip_prefix(b"\"")?;
    loop {
        rest = match rest {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', byte, rest @ ..] | [byte, rest @ ..] if is_text(*byte) => rest,
            _ => return None,
        };
    }
}

/// Whether the byte may stand in a field's value or in a quoted string.
fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// Whether this line is a field: a name, a colon right behind it, and a value. A line that continues the line
/// before (obs-fold) is not.
fn is_field(line: &[u8]) -> bool {
    let value = token(line).and_then(|rest| rest.strip_prefix(b":"));
    value.is_some_and(|value| value.iter().all(|byte| is_text(*byte)))
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

    /// Feeds the bytes in pieces of `size` bytes. Returns the body, and the bytes behind it.
    fn read(mut body: Body, bytes: &[u8], size: usize) -> Result<(Vec<u8>, Vec<u8>), ()> {
        let (mut got, mut kept) = (Vec::new(), Vec::new());
        let mut pieces = bytes.chunks(size);
        loop {
            let mut input = Input::new(&kept);
            let is_over = loop {
                match body.next(&mut input) {
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
        let bytes = b"5\r\nhello\r\n1;name=value\r\n,\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\nGET";
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
            let trailers = format!("x:{}\r\n", "x".repeat(98)).repeat(lines);
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

    /// A bare line feed ended a line, blanks around a size were ignored, and an extension could hold
    /// anything. So a body for another reader was a request here.
    #[test]
    fn what_two_readers_could_cut_differently_is_no_chunk() {
        let wrong: [&[u8]; 40] = [
            // Ends of lines.
            b"1\na\r\n0\r\n\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"1\r\na\r\n0\n\r\n",
            b"1\r\na\r\n0\r\n\n",
            b"1\r\na\r\n0\r\nX: y\n\r\n",
            b"1\r\na\r\n0\n\n",
            b"1\r\na\r\r\n0\r\n\r\n",
            b"1\r\ra\r\n0\r\n\r\n",
            b"1\ra\r\n0\r\n\r\n",
            b"1\r\r\na\r\n0\r\n\r\n",
            b"1\r\nab\r\n0\r\n\r\n",
            b"2\r\na\r\n0\r\n\r\n",
            b"1\r\na0\r\n\r\n",
            // Blanks and signs at a size.
            b" 1\r\na\r\n0\r\n\r\n",
            b"\t1\r\na\r\n0\r\n\r\n",
            b"1 \r\na\r\n0\r\n\r\n",
            b"1\t\r\na\r\n0\r\n\r\n",
            b"1 ;x\r\na\r\n0\r\n\r\n",
            b"1 1\r\na\r\n0\r\n\r\n",
            b"1\x0b\r\na\r\n0\r\n\r\n",
            b"1\r\na\r\n 0\r\n\r\n",
            b"1\r\na\r\n0 \r\n\r\n",
            b"+1\r\na\r\n0\r\n\r\n",
            b"0x1\r\na\r\n0\r\n\r\n",
            b"1_0\r\na\r\n0\r\n\r\n",
            b";x\r\na\r\n0\r\n\r\n",
            // Extensions.
            b"1;\r\na\r\n0\r\n\r\n",
            b"1;x\ry\r\na\r\n0\r\n\r\n",
            b"1;x\0y\r\na\r\n0\r\n\r\n",
            b"1;x=\r\na\r\n0\r\n\r\n",
            b"1;x=\"y\r\na\r\n0\r\n\r\n",
            b"1;x y\r\na\r\n0\r\n\r\n",
            b"1;x=y \r\na\r\n0\r\n\r\n",
            b"1,x\r\na\r\n0\r\n\r\n",
            // Trailers.
            b"0\r\nx\r\n\r\n",
            b"0\r\nx : y\r\n\r\n",
            b"0\r\n: y\r\n\r\n",
            b"0\r\nx: y\r\n folded\r\n\r\n",
            b"0\r\nx: y\0\r\n\r\n",
            b"0\r\nx: y\rz: a\r\n\r\n",
        ];
        for wrong in wrong {
            for size in 1..=wrong.len() {
                let said = read(Body::ChunkSize, wrong, size);
                assert_eq!(said, Err(()), "{:?} in pieces of {size}", wrong.escape_ascii());
            }
        }
        for right in [
            &b"1;x\r\na\r\n0;y=z\r\n\r\n"[..],
            b"1; x = \"a;\\\"\xe4\t\" ; y\r\na\r\n0\r\n\r\n",
            b"0001\r\na\r\n000\r\nx:\r\ny:\t z\r\n\r\n",
        ] {
            for size in 1..=right.len() {
                let body = read(Body::ChunkSize, right, size).unwrap().0;
                assert_eq!(body, b"a", "{:?} in pieces of {size}", right.escape_ascii());
            }
        }
    }

    #[test]
    fn generated_bodies_are_read_the_same_however_they_are_cut() {
        const WORDS: &[&[u8]] = &[
            b"\r\n",
            b"\n",
            b"\r",
            b"0",
            b"1",
            b"a",
            b";x",
            b";x=y",
            b"=",
            b"\"",
            b"\\",
            b" ",
            b"\t",
            b"\0",
            b"f",
            b"X: y\r\n",
            b":",
            b"ffffffffffffffff",
            b"0\r\n\r\n",
            b"\xff",
        ];
        crate::fuzzing::fuzz(|random| {
            let (mut bytes, mut body) = (Vec::new(), Vec::new());
            for _ in 0..random.below(5) {
                let chunk = [random.bytes(40), vec![b'x']].concat();
                let extension = random.pick(&["", ";x", "; x = \"a b\"", ";x=y;z"]);
                bytes.extend(format!("{:x}{extension}\r\n", chunk.len()).into_bytes());
                bytes.extend_from_slice(&chunk);
                bytes.extend_from_slice(b"\r\n");
                body.extend(chunk);
            }
            bytes.extend_from_slice(b"0\r\n");
            bytes.extend(random.sentence(&[b"X: y\r\n", b"Trailer:\r\n"], 3));
            bytes.extend_from_slice(b"\r\n");
            let size = 1 + random.below(50);
            assert_eq!(read(Body::ChunkSize, &bytes, size), Ok((body, vec![])));
            bytes.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
            random.mutate(&mut bytes, WORDS);
            let whole = read(Body::ChunkSize, &bytes, bytes.len().max(1));
            let cut = read(Body::ChunkSize, &bytes, size);
            assert_eq!(cut, whole, "{} in pieces of {size}", bytes.escape_ascii());
        });
    }

    /// Reads a chunked body in one piece, in a simple way. Returns its bytes and its length in the input.
    /// `None`: it is not valid, or not complete.
    fn by_lines(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
        let line = |at: usize| {
            let length = bytes[at..].windows(2).position(|two| two == b"\r\n")?;
            let line = &bytes[at..at + length];
            let is_one = line.len() <= LINE_MAX && !line.iter().any(|b| b"\r\n\0".contains(b));
            is_one.then_some((line, at + length + 2))
        };
        let (mut body, mut at) = (Vec::new(), 0);
        loop {
            let (size, begin) = line(at)?;
            let text = std::str::from_utf8(size.split(|byte| *byte == b';').next()?).ok()?;
            if text.starts_with('+') || !are_extensions(&size[text.len()..]) {
                return None;
            }
            let size = u64::from_str_radix(text, 16).ok()?;
            at = begin;
            if size == 0 {
                break;
            }
            body.extend(bytes.get(at..at.checked_add(size.try_into().ok()?)?)?);
            at += size as usize;
            at = bytes[at..].starts_with(b"\r\n").then_some(at + 2)?;
        }
        let mut left = TRAILERS_MAX;
        loop {
            let (trailer, end) = line(at)?;
            at = end;
            if trailer.is_empty() {
                return Some((body, at));
            }
            left = left.checked_sub(trailer.len()).filter(|_| is_field(trailer))?;
        }
    }

    #[test]
    fn kept_bodies_are_read_the_same_at_every_cut_and_as_by_lines() {
        let kept = include_str!("../../tests/corpus/http_body.txt");
        crate::fuzzing::each_kept(kept, |bytes| {
            let expected =
                by_lines(bytes).ok_or(()).map(|(body, end)| (body, bytes[end..].to_vec()));
            let longest = bytes.len().max(1);
            for size in 1..=longest.min(300) {
                let cut = read(Body::ChunkSize, bytes, size);
                assert_eq!(cut, expected, "in pieces of {size}");
            }
            assert_eq!(read(Body::ChunkSize, bytes, longest), expected, "in one piece");
        });
    }
}
