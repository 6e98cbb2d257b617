//! Reads one HTTP request from bytes, and writes one reply into bytes. Pure. `httparse` reads the syntax.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The longest request line and headers together. Those of a scraper are a few hundred bytes.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// The most headers of a request. A browser sends about twenty.
const HEADERS_MAX: usize = 64;

/// Headers for a browser, sent with a page. The page needs nothing from another site. No page of another site
/// may show it in a frame, where a user could be tricked into pressing its buttons.
const POLICY: &str = "Content-Security-Policy: default-src 'none'; script-src 'unsafe-inline'; \
    style-src 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'\r\nX-Content-Type-Options: nosniff\r\n";

/// The result of reading a client's unread bytes.
#[derive(Debug)]
pub(super) enum Heard<'a> {
    /// The beginning of a request, or no bytes at all.
    Part,
    /// A whole request, and its length in bytes.
    Request(Request<'a>, usize),
    /// Not a valid request. This status is the only possible answer. The bytes after it cannot be understood.
    Noise(Status),
}

/// The parts of a request that the endpoint uses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    /// The target without its query.
    pub(super) path: &'a str,
    /// The text after the `?`. Empty if there is none.
    pub(super) query: &'a str,
    /// The client may send another request on this connection.
    pub(super) keeps_alive: bool,
    /// A browser may have sent the request for a page of another site.
    pub(super) is_foreign: bool,
    /// The host name in the request, without the port. `None`: there is none, as HTTP/1.0 allows.
    pub(super) host: Option<&'a [u8]>,
    /// The token in the request.
    pub(super) token: Option<&'a [u8]>,
}

/// The statuses that the endpoint answers with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    Ok,
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    WrongMethod,
    TooLate,
    HasBody,
    TooLarge,
    Unavailable,
    WrongVersion,
}

impl Status {
    /// The text in the status line.
    pub(super) fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::Unauthorized => "401 Unauthorized",
            Status::Forbidden => "403 Forbidden",
            Status::NotFound => "404 Not Found",
            Status::WrongMethod => "405 Method Not Allowed",
            Status::TooLate => "408 Request Timeout",
            Status::HasBody => "413 Content Too Large",
            Status::TooLarge => "431 Request Header Fields Too Large",
            Status::Unavailable => "503 Service Unavailable",
            Status::WrongVersion => "505 HTTP Version Not Supported",
        }
    }
}

/// Reads the first request in `bytes`.
pub(super) fn hear(bytes: &[u8]) -> Heard<'_> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= REQUEST_BYTES_MAX => length,
        Ok(httparse::Status::Partial) if bytes.len() < REQUEST_BYTES_MAX => return Heard::Part,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Heard::Noise(Status::TooLarge),
        Err(httparse::Error::Version) => return Heard::Noise(Status::WrongVersion),
        Err(_) => return Heard::Noise(Status::BadRequest),
    };
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Heard::Noise(Status::BadRequest);
    };
    match fields(parsed.headers, version) {
        Ok(Fields { keeps_alive, is_foreign, host, token }) => {
            let (path, query) = split(target);
            let request = Request { method, path, query, keeps_alive, is_foreign, host, token };
            Heard::Request(request, length)
        }
        Err(status) => Heard::Noise(status),
    }
}

/// The values of the headers.
struct Fields<'a> {
    keeps_alive: bool,
    is_foreign: bool,
    host: Option<&'a [u8]>,
    token: Option<&'a [u8]>,
}

/// Reads the headers. The error is the status with which the request is refused.
fn fields<'a>(headers: &[httparse::Header<'a>], version: u8) -> Result<Fields<'a>, Status> {
    let mut keeps_alive = version == 1;
    let (mut hosts, mut host, mut origin, mut token) = (0, &b""[..], None, None);
    for header in headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let value = header.value.trim_ascii();
        if is("host") {
            hosts += 1;
            host = value;
        } else if is("origin") {
            origin = Some(value);
        } else if is("authorization") {
            token = bearer(value);
        } else if is("connection") {
            let asks =
                |word: &str| value.split(|b| *b == b',').any(|w| is_word(w.trim_ascii(), word));
            keeps_alive = !asks("close") && (keeps_alive || asks("keep-alive"));
        } else if is("content-length") && !is_number(value) {
            return Err(Status::BadRequest);
        } else if is("transfer-encoding") || is("content-length") && value != b"0" {
            // No request here has a body. Bytes of a body must not be read as the next request.
            return Err(Status::HasBody);
        }
    }
    // RFC 9112, 3.2: a server must answer a 1.1 request without a Host header, or with two, in this way.
    if hosts > 1 || version == 1 && hosts == 0 {
        return Err(Status::BadRequest);
    }
    let is_own = |origin: &[u8]| {
        let of_host = origin.strip_prefix(b"http://");
        of_host.is_some_and(|origin| origin.eq_ignore_ascii_case(host)) && is_address(host)
    };
    let is_foreign = origin.is_some_and(|origin| !is_own(origin));
    Ok(Fields { keeps_alive, is_foreign, host: (hosts > 0).then(|| without_port(host)), token })
}

/// The token in a field `Authorization: Bearer TOKEN` (RFC 6750, 2.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii_start())
}

fn is_number(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(u8::is_ascii_digit)
}

/// Whether the host is written as an address, or is `localhost`. The owner of any other name may have pointed
/// the name to this server after a browser has loaded a page from it (DNS rebinding).
pub(super) fn is_address(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(without_port(host)) else { return false };
    let inner = host.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<Ipv4Addr>().is_ok()
        || inner.is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok())
}

/// A host without its port. An IPv6 address ends with a bracket.
fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|byte| matches!(byte, b':' | b']')) {
        Some(at) if host[at] == b':' => &host[..at],
        _ => host,
    }
}

fn is_word(bytes: &[u8], word: &str) -> bool {
    bytes.eq_ignore_ascii_case(word.as_bytes())
}

/// The path and the query of a target. The target may begin with a host (RFC 9112, 3.2.2).
fn split(target: &str) -> (&str, &str) {
    let target = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '?']) => {
            rest.find(['/', '?']).map_or("/", |at| &rest[at..])
        }
        _ => target,
    };
    target.split_once('?').unwrap_or((target, ""))
}

/// One answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: Status,
    /// The media type of the body.
    pub(super) kind: &'static str,
    /// The methods that the path takes, if the request had another method.
    pub(super) allow: Option<&'static str>,
    pub(super) body: String,
}

impl Reply {
    pub(super) const TEXT: &'static str = "text/plain; charset=utf-8";
    pub(super) const PAGE: &'static str = "text/html; charset=utf-8";

    /// A short text as the body.
    pub(super) fn text(status: Status, body: impl Into<String>) -> Self {
        Self { status, kind: Self::TEXT, allow: None, body: body.into() }
    }

    /// The path does not take the request's method.
    pub(super) fn wrong_method(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::status(Status::WrongMethod) }
    }

    /// The status in words as the body.
    pub(super) fn status(status: Status) -> Self {
        Self::text(status, format!("{}\n", status.line()))
    }

    /// The bytes on the wire. The reply to HEAD has the headers of the body, and no body.
    pub(super) fn bytes(&self, keeps_alive: bool, is_head: bool) -> Vec<u8> {
        let mut text = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n",
            self.status.line(),
            self.kind,
            self.body.len(),
        );
        if let Some(allow) = self.allow {
            let _ = write!(text, "Allow: {allow}\r\n"); // a String takes everything
        }
        if self.status == Status::Unauthorized {
            text.push_str("WWW-Authenticate: Bearer\r\n");
        }
        if self.kind == Self::PAGE {
            text.push_str(POLICY);
        }
        // The header is always sent, because a 1.0 client that asked to keep the connection must be told the
        // answer.
        text.push_str(if keeps_alive {
            "Connection: keep-alive\r\n"
        } else {
            "Connection: close\r\n"
        });
        text.push_str("\r\n");
        if !is_head {
            text.push_str(&self.body);
        }
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Request<'_> {
        match hear(text.as_bytes()) {
            Heard::Request(request, length) => {
                assert_eq!(length, text.len());
                request
            }
            other => panic!("{other:?}"),
        }
    }

    fn noise(text: &str) -> Status {
        match hear(text.as_bytes()) {
            Heard::Noise(status) => status,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_part_of_a_request_is_only_a_part() {
        let whole = "GET /metrics HTTP/1.1\r\nHost: here\r\nAccept: */*\r\n\r\n";
        for end in 0..whole.len() {
            assert!(matches!(hear(&whole.as_bytes()[..end]), Heard::Part), "{end}");
        }
        let heard = request(whole);
        assert_eq!((heard.method, heard.path, heard.query), ("GET", "/metrics", ""));
        assert!(heard.keeps_alive);
    }

    #[test]
    fn what_follows_a_request_is_not_part_of_it() {
        let one = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let two = format!("{one}{one}");
        assert!(matches!(hear(two.as_bytes()), Heard::Request(_, length) if length == one.len()));
    }

    #[test]
    fn a_target_is_a_path_and_a_query_whatever_stands_in_front() {
        for (target, path, query) in [
            ("/a?b=c", "/a", "b=c"),
            ("/a?b?c", "/a", "b?c"),
            ("/", "/", ""),
            ("*", "*", ""),
            ("http://host:1/a?b", "/a", "b"),
            ("http://host", "/", ""),
            ("http://host?b", "", "b"),
            ("/a?to=http://b", "/a", "to=http://b"),
        ] {
            assert_eq!(split(target), (path, query), "{target}");
        }
    }

    #[test]
    fn the_connection_is_kept_as_the_version_and_the_client_say() {
        for (version, field, keeps) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: TE , Close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let text = format!("GET / HTTP/{version}\r\nHost: a\r\n{field}\r\n");
            assert_eq!(request(&text).keeps_alive, keeps, "{version} {field}");
        }
    }

    #[test]
    fn a_request_for_the_page_of_another_place_is_foreign() {
        for (host, field, is_foreign) in [
            ("here:1", "", false),
            ("LocalHost:1", "Origin: http://localhost:1\r\n", false),
            ("127.0.0.1:1", "Origin: http://127.0.0.1:1\r\n", false),
            ("127.0.0.1", "Origin: http://127.0.0.1\r\n", false),
            ("[::1]:1", "Origin: http://[::1]:1\r\n", false),
            ("[::1]", "Origin: http://[::1]\r\n", false),
            ("localhost:1", "Origin: http://localhost\r\n", true),
            ("localhost:1", "Origin: https://localhost:1\r\n", true),
            ("localhost:1", "Origin: http://there\r\n", true),
            ("localhost:1", "Origin: null\r\n", true),
            // Its owner may have pointed the name here after the page was loaded.
            ("there:1", "Origin: http://there:1\r\n", true),
            ("127.0.0.1.there:1", "Origin: http://127.0.0.1.there:1\r\n", true),
            ("[there]:1", "Origin: http://[there]:1\r\n", true),
        ] {
            let text = format!("POST / HTTP/1.1\r\n{field}Host: {host}\r\n\r\n");
            assert_eq!(request(&text).is_foreign, is_foreign, "{host} {field}");
        }
    }

    #[test]
    fn a_request_says_whom_it_asks_and_by_what_right() {
        for (field, host, token) in [
            ("Host: a:1\r\n", Some("a"), None),
            ("Host: [::1]:1\r\n", Some("[::1]"), None),
            ("Host: [::1]\r\n", Some("[::1]"), None),
            ("Host:\r\n", Some(""), None),
            ("", None, None),
            ("Authorization: Bearer t=\r\n", None, Some("t=")),
            ("Authorization: bearer  t \r\n", None, Some("t")),
            ("Authorization: Basic t\r\n", None, None),
            ("Authorization: Bearer\r\n", None, None),
        ] {
            let text = format!("GET / HTTP/1.0\r\n{field}\r\n");
            let heard = request(&text);
            let bytes = |text: Option<&'static str>| text.map(str::as_bytes);
            assert_eq!((heard.host, heard.token), (bytes(host), bytes(token)), "{field}");
        }
    }

    #[test]
    fn what_is_no_request_for_us_is_named() {
        assert_eq!(noise("\x16\x03\x01"), Status::BadRequest);
        assert_eq!(noise("GET / HTTP/1.1\r\n\r\n"), Status::BadRequest);
        assert_eq!(noise("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), Status::BadRequest);
        assert_eq!(noise("GET / HTTP/3.0\r\n\r\n"), Status::WrongVersion);
        for (field, status) in [
            ("Content-Length: 1", Status::HasBody),
            ("Transfer-Encoding: chunked", Status::HasBody),
            ("Content-Length: x", Status::BadRequest),
            ("Content-Length:", Status::BadRequest),
            ("Content-Length: -1", Status::BadRequest),
            ("Content-Length: +0", Status::BadRequest),
        ] {
            let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
            assert_eq!(noise(&text), status, "{field}");
        }
        assert!(request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").keeps_alive);
    }

    #[test]
    fn a_request_may_be_as_long_as_the_bound_and_no_longer() {
        let of_length = |length: usize, end: &str| {
            let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
            format!("{start}{}{end}", "y".repeat(length - start.len() - end.len()))
        };
        request(&of_length(REQUEST_BYTES_MAX, "\r\n\r\n"));
        assert_eq!(noise(&of_length(REQUEST_BYTES_MAX + 1, "\r\n\r\n")), Status::TooLarge);
        assert!(matches!(hear(of_length(REQUEST_BYTES_MAX - 1, "").as_bytes()), Heard::Part));
        assert_eq!(noise(&of_length(REQUEST_BYTES_MAX, "")), Status::TooLarge);
        let with_headers =
            |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(n - 1));
        request(&with_headers(HEADERS_MAX));
        assert_eq!(noise(&with_headers(HEADERS_MAX + 1)), Status::TooLarge);
    }

    #[test]
    fn a_reply_to_head_is_all_but_the_body() {
        let reply = Reply { allow: Some("GET, HEAD"), ..Reply::text(Status::Ok, "body") };
        let (whole, head) = (reply.bytes(true, false), reply.bytes(true, true));
        assert_eq!(whole, [&head[..], b"body"].concat());
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(head.contains("\r\nContent-Length: 4\r\n"), "{head}");
        assert!(head.contains("\r\nAllow: GET, HEAD\r\nConnection: keep-alive\r\n"), "{head}");
    }

    #[test]
    fn only_a_page_comes_with_a_policy_for_browsers() {
        let text = Reply::text(Status::Ok, "body");
        let page = Reply { kind: Reply::PAGE, ..Reply::text(Status::Ok, "body") };
        let said = |reply: &Reply| String::from_utf8(reply.bytes(true, true)).unwrap();
        assert!(!said(&text).contains("Content-Security-Policy"));
        let said = said(&page);
        assert!(said.contains("\r\nContent-Security-Policy: default-src 'none'; script"), "{said}");
        assert!(said.contains("; style-src 'unsafe-inline'; img-src data:"), "{said}");
        assert!(said.contains("'none'\r\nX-Content-Type-Options: nosniff\r\nConn"), "{said}");
    }

    /// Generates a request by the grammar, with a few mutations.
    fn generated(random: &mut crate::fuzzing::Random) -> Vec<u8> {
        const WORDS: &[&[u8]] = &[
            b"\r\n",
            b"\n",
            b"\r",
            b"\0",
            b" ",
            b"\t",
            b":",
            b"Host: a\r\n",
            b"Content-Length: 1\r\n",
            b"Content-Length: 0\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Authorization: Bearer t\r\n",
            b"Origin: http://a\r\n",
            b"Connection: close\r\n",
            b"HTTP/1.1",
            b"HTTP/1.0",
            b"HTTP/2.0",
            b"GET",
            b"http://a/",
            b"?",
            b"\xff",
            b"X: y\r\n",
        ];
        let mut bytes = random.pick(&[&b"GET "[..], b"POST ", b"HEAD ", b""]).to_vec();
        bytes.extend_from_slice(random.pick(&[
            &b"/"[..],
            b"/connections?top=1",
            b"*",
            b"http://a/b",
        ]));
        bytes.extend_from_slice(random.pick(&[&b" HTTP/1.1\r\n"[..], b" HTTP/1.0\r\n", b"\r\n"]));
        bytes.extend(random.sentence(&WORDS[7..14], 4));
        bytes.extend_from_slice(b"\r\n");
        random.mutate(&mut bytes, WORDS);
        if random.one_in(50) {
            let filler = format!("F: {}\r\n", "f".repeat(random.below(9000)));
            let at = random.below(bytes.len() + 1);
            bytes.splice(at..at, filler.into_bytes());
        }
        bytes
    }

    #[test]
    fn generated_requests_are_heard_the_same_however_much_has_come() {
        crate::fuzzing::fuzz(|random| {
            let bytes = generated(random);
            let whole = hear(&bytes);
            match &whole {
                Heard::Request(request, length) => {
                    assert!(*length <= bytes.len().min(REQUEST_BYTES_MAX));
                    let is_word = |text: &str| text.bytes().all(|byte| byte > b' ' && byte != 127);
                    assert!(
                        is_word(request.method) && is_word(request.path) && is_word(request.query)
                    );
                }
                Heard::Part => assert!(bytes.len() < REQUEST_BYTES_MAX),
                Heard::Noise(_) => {}
            }
            for _ in 0..4 {
                let part = &bytes[..random.below(bytes.len() + 1)];
                match (hear(part), &whole) {
                    (Heard::Part, _) | (Heard::Noise(_), Heard::Noise(_)) => {}
                    (Heard::Request(a, length_of_a), Heard::Request(b, length)) => {
                        assert_eq!((&a, length_of_a), (b, *length), "{}", bytes.escape_ascii());
                    }
                    (part, whole) => panic!("{part:?}, then {whole:?}: {}", bytes.escape_ascii()),
                }
            }
        });
    }

    /// Reads the first request line by line, in a simple way, and compares it with the result of `hear`.
    fn is_what_its_lines_say(bytes: &[u8], request: &Request<'_>) {
        assert!(bytes.ends_with(b"\n"));
        let lines = bytes.split(|byte| *byte == b'\n');
        let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let mut lines = lines.skip_while(|line| line.is_empty());
        let first = String::from_utf8_lossy(lines.next().unwrap());
        let words: Vec<&str> = first.split(' ').filter(|word| !word.is_empty()).collect();
        let [method, target, version] = words[..] else { panic!("{first:?}") };
        assert_eq!(request.method, method);
        let own =
            [request.path, request.query].join(if request.query.is_empty() { "" } else { "?" });
        assert!(target.trim_end_matches('?').ends_with(own.trim_end_matches('?')) || own == "/");
        let is_1_1 = version == "HTTP/1.1";
        assert!(is_1_1 || version == "HTTP/1.0", "{version}");
        let (mut hosts, mut tokens, mut closes, mut keeps) = (0, 0, false, false);
        for line in lines.by_ref().take_while(|line| !line.is_empty()) {
            let colon = line.iter().position(|byte| *byte == b':').expect("a field has a colon");
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            let is_token = |c: char| c.is_ascii_graphic() && !"()<>@,;:\\\"/[]?={}".contains(c);
            assert!(!name.is_empty() && name.chars().all(is_token), "{name:?}");
            assert!(value.iter().all(|byte| *byte >= b' ' && *byte != 127 || *byte == b'\t'));
            match name.as_str() {
                "host" => hosts += 1,
                "authorization" => tokens += 1,
                "transfer-encoding" => panic!("it has a body"),
                "content-length" => assert_eq!(value, b"0"),
                "connection" => {
                    let value = String::from_utf8_lossy(value).to_ascii_lowercase();
                    closes |= value.split(',').any(|word| word.trim() == "close");
                    keeps |= value.split(',').any(|word| word.trim() == "keep-alive");
                }
                _ => {}
            }
        }
        assert!(hosts == 1 || hosts == 0 && !is_1_1);
        assert_eq!(hosts, usize::from(request.host.is_some()));
        assert!(tokens > 0 || request.token.is_none());
        assert_eq!(request.keeps_alive, !closes && (is_1_1 || keeps));
        assert_eq!(lines.next(), Some(&b""[..]), "that was its last line");
        assert_eq!(lines.next(), None, "that was its last line");
    }

    /// Reads all requests, one behind the other, each cut at every place. A cut gives a part, or the same
    /// result as the whole input.
    fn is_heard_the_same_at_every_cut(mut bytes: &[u8]) {
        loop {
            let whole = hear(bytes);
            for cut in crate::fuzzing::cuts(bytes.len(), &[REQUEST_BYTES_MAX]) {
                match (hear(&bytes[..cut]), &whole) {
                    (Heard::Part, _) => assert!(cut < REQUEST_BYTES_MAX),
                    (Heard::Noise(a), Heard::Noise(b)) => assert_eq!(a, *b, "at {cut}"),
                    (Heard::Request(a, length_of_a), Heard::Request(b, length)) => {
                        assert_eq!((&a, length_of_a), (b, *length), "at {cut}");
                        assert!(length_of_a <= cut.min(REQUEST_BYTES_MAX));
                    }
                    (part, whole) => panic!("{part:?} at {cut}, then {whole:?}"),
                }
            }
            let Heard::Request(request, length) = whole else { return };
            is_what_its_lines_say(&bytes[..length], &request);
            bytes = &bytes[length..];
        }
    }

    #[test]
    fn kept_requests_are_heard_the_same_at_every_cut_and_as_their_lines_say() {
        let kept = include_str!("../../../tests/corpus/admin_http.txt");
        crate::fuzzing::each_kept(kept, is_heard_the_same_at_every_cut);
    }
}
