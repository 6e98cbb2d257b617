//! The head of a response.

use std::io::Write;
use std::time::SystemTime;

/// A status line's number and words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is what HTTP calls it
pub enum Status {
    Ok,
    BadRequest,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    ContentTooLarge,
    HeadersTooLarge,
    Unavailable,
    Version,
}

impl Status {
    fn words(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::Forbidden => "403 Forbidden",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::ContentTooLarge => "413 Content Too Large",
            Status::HeadersTooLarge => "431 Request Header Fields Too Large",
            Status::Unavailable => "503 Service Unavailable",
            Status::Version => "505 HTTP Version Not Supported",
        }
    }
}

/// How long the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many bytes.
    Bytes(usize),
    /// It comes in chunks.
    Chunked,
}

/// What is known of a response before its body.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// The result of the request.
    pub status: Status,
    /// The media type of the body.
    pub kind: &'static str,
    /// How long the body is.
    pub length: Length,
    /// The connection ends after the response.
    pub is_last: bool,
    /// The request was HTTP/1.0. There, a connection that goes on is the exception.
    pub is_1_0: bool,
}

/// Writes heads. Each head reuses the memory of the head before.
#[derive(Default)]
pub struct Heads {
    text: Vec<u8>,
    /// The second for which `date` was written.
    second: u64,
    date: String,
}

impl Heads {
    /// The bytes of a head.
    pub fn write(&mut self, head: Head) -> &[u8] {
        self.look_at_the_clock();
        self.text.clear();
        let Self { text, date, .. } = self;
        let Head { status, kind, length, is_last, is_1_0 } = head;
        let words = status.words();
        let version = if is_1_0 { "HTTP/1.0" } else { "HTTP/1.1" };
        let fits = "writing into memory does not fail";
        write!(text, "{version} {words}\r\nDate: {date}\r\nContent-Type: {kind}\r\n").expect(fits);
        match length {
            Length::Bytes(bytes) => write!(text, "Content-Length: {bytes}\r\n").expect(fits),
            Length::Chunked => text.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        }
        if status == Status::MethodNotAllowed {
            text.extend_from_slice(b"Allow: GET, HEAD, POST\r\n");
        }
        if is_last {
            text.extend_from_slice(b"Connection: close\r\n");
        } else if is_1_0 {
            text.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        text.extend_from_slice(b"\r\n");
        text
    }

    /// Writes the date once a second.
    fn look_at_the_clock(&mut self) {
        let now = SystemTime::now();
        let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |past| past.as_secs());
        if second != self.second || self.date.is_empty() {
            self.second = second;
            self.date = httpdate::fmt_http_date(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_how_long_the_body_is_and_whether_the_connection_goes_on() {
        let mut heads = Heads::default();
        let mut write = |length, is_last, is_1_0| {
            let head = Head { status: Status::Ok, kind: "text/plain", length, is_last, is_1_0 };
            String::from_utf8_lossy(heads.write(head)).into_owned()
        };
        let usual = write(Length::Bytes(5), false, false);
        assert!(usual.starts_with("HTTP/1.1 200 OK\r\nDate: ") && usual.ends_with("\r\n\r\n"));
        assert!(usual.contains("\r\nContent-Length: 5\r\n") && !usual.contains("Connection"));
        assert!(write(Length::Bytes(5), false, true).contains("\r\nConnection: keep-alive\r\n"));
        assert!(write(Length::Bytes(5), true, false).contains("\r\nConnection: close\r\n"));
        let chunked = write(Length::Chunked, false, false);
        assert!(chunked.contains("\r\nTransfer-Encoding: chunked\r\n"));
        assert!(!chunked.contains("Content-Length"));
    }
}
