//! HTTP/1.1: a greeting, a count of the body's bytes, the body back in chunks, and files from a folder.
//!
//!     cargo run --release --bin http -- --listen 127.0.0.1:8080 --root docs
//!     curl http://127.0.0.1:8080/                          # Hello, or docs/index.html
//!     curl http://127.0.0.1:8080/ARCHITECTURE.md           # by sendfile
//!     curl -d hello http://127.0.0.1:8080/count            # 5 bytes
//!     curl -d hello http://127.0.0.1:8080/back             # hello, as chunks
//!     ab -k -c 1000 -n 100000 http://127.0.0.1:8080/
//!
//! The requests of a connection are answered in order. The connection goes on after each request, unless one
//! side says otherwise. Bytes that are no request are answered with an error, and that answer is the last.

use clap::Parser;
use examples::flags::{self, ServerFlags};
use examples::http::answer::{Head, Heads, Length, Status};
use examples::http::body::{Body, Part};
use examples::http::files::Folder;
use net_core::framing::{Delimiter, Searched};
use net_core::{Conn, Handler, Input, LoopInfo, Peer, SendOutcome};
use std::convert::Infallible;
use std::path::PathBuf;
use std::process::ExitCode;

/// A small HTTP/1.1 server.
#[derive(Parser)]
#[command(version)]
struct Flags {
    #[command(flatten)]
    server: ServerFlags,
    /// Serve the files below this folder; without it there is only a greeting
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

const GREETING: &[u8] = b"Hello, world!\n";

/// The most bytes and headers of a request's head. A request with more is refused.
const HEAD_MAX: usize = 8192;
const HEADERS_MAX: usize = 64;

/// Files of one connection that are being sent at once. Each takes a descriptor, however few bytes it has.
const FILES_MAX: usize = 8;

/// The tag of `on_sent` for a file.
const FILE_SENT: u64 = 1;

/// The largest body that is read to its end.
const BODY_MAX: u64 = 1 << 30;

struct Http {
    folder: Option<Folder>,
    head_end: Delimiter,
    heads: Heads,
}

#[derive(Default)]
struct Session {
    searched: Searched,
    /// The request whose body is on its way.
    request: Option<Request>,
    /// Files that are being sent.
    files: usize,
}

struct Request {
    body: Body,
    /// Bytes of the body that have come.
    came: u64,
    what: What,
    /// The client waits for "100 Continue" before it sends the body.
    expects: bool,
    is_last: bool,
    is_1_0: bool,
}

impl Request {
    /// The head of the response to this request.
    fn head(&self, status: Status, kind: &'static str, length: Length) -> Head {
        Head { status, kind, length, is_last: self.is_last, is_1_0: self.is_1_0 }
    }
}

/// What a request asks for.
enum What {
    Greeting {
        with_body: bool,
    },
    File {
        target: Box<str>,
        with_body: bool,
    },
    /// How many bytes the body has.
    Count,
    /// The body, as chunks.
    Back,
    Fails(Status),
}

impl Http {
    /// Reads a request from the bytes up to its empty line. The error is the status of the answer.
    fn request(&self, head: &[u8]) -> Result<Request, Status> {
        if !has_clean_lines(head) {
            return Err(Status::BadRequest);
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(head) {
            Ok(httparse::Status::Complete(end)) if end == head.len() => {}
            Err(httparse::Error::TooManyHeaders) => return Err(Status::HeadersTooLarge),
            Err(httparse::Error::Version) => return Err(Status::Version),
            Ok(_) | Err(_) => return Err(Status::BadRequest),
        }
        let is_1_0 = parsed.version == Some(0);
        let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
            return Err(Status::BadRequest);
        };
        let target = of_this_server(target);
        let named = |name: &'static str| {
            parsed.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name))
        };
        let says = |name, word: &str| {
            named(name).any(|header| {
                let mut words = header.value.split(|byte| *byte == b',');
                words.any(|own| own.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
            })
        };
        let hosts = named("host").count();
        if hosts > 1 || hosts == 0 && !is_1_0 || !named("host").all(|host| is_host(host.value)) {
            return Err(Status::BadRequest);
        }
        // HTTP/1.0 has no chunks, so the proxy that forwarded the request has not understood it. RFC 9112,
        // 6.1.
        if is_1_0 && named("transfer-encoding").next().is_some() {
            return Err(Status::BadRequest);
        }
        let body = Body::announced(parsed.headers).map_err(|_| Status::BadRequest)?;
        if matches!(body, Body::Bytes(bytes) if bytes > BODY_MAX) {
            return Err(Status::ContentTooLarge);
        }
        let with_body = method == "GET";
        let what = match (method, target) {
            ("POST", "/count") => What::Count,
            ("POST", "/back") if !is_1_0 => What::Back,
            ("GET" | "HEAD", _) if self.folder.is_some() => {
                What::File { target: target.into(), with_body }
            }
            ("GET" | "HEAD", "/") => What::Greeting { with_body },
            ("GET" | "HEAD" | "POST", _) => What::Fails(Status::NotFound),
            _ => What::Fails(Status::MethodNotAllowed),
        };
        let goes_on =
            if is_1_0 { says("connection", "keep-alive") } else { !says("connection", "close") };
        let expects = says("expect", "100-continue");
        Ok(Request { body, came: 0, what, expects, is_last: !goes_on, is_1_0 })
    }

    /// The head has come. Begins a response that need not wait for the body.
    fn begin(&mut self, conn: &mut Conn<'_, Self>, request: &Request) {
        if request.expects && !request.is_1_0 && request.body != Body::Over {
            let _ = conn.send(b"HTTP/1.1 100 Continue\r\n\r\n"); // refused: so is the response
        }
        if matches!(request.what, What::Back) {
            let kind = "application/octet-stream";
            let head = request.head(Status::Ok, kind, Length::Chunked);
            let _ = conn.send(self.heads.write(head)); // refused: so are the sends after it
        }
    }

    /// A part of the body has come.
    fn part(
        &mut self,
        conn: &mut Conn<'_, Self>,
        request: &mut Request,
        bytes: &[u8],
    ) -> SendOutcome {
        request.came += bytes.len() as u64;
        if matches!(request.what, What::Back) {
            let _ = conn.send(format!("{:x}\r\n", bytes.len()).as_bytes()); // as the last send below
            let _ = conn.send(bytes);
            return conn.send(b"\r\n");
        }
        SendOutcome::Queued
    }

    /// The whole request has come.
    fn answer(&mut self, conn: &mut Conn<'_, Self>, request: &Request) -> SendOutcome {
        let plain = "text/plain; charset=utf-8";
        let mut send = |status, kind, body: &[u8], with_body: bool| {
            let head = request.head(status, kind, Length::Bytes(body.len()));
            let queued = conn.send(self.heads.write(head));
            if with_body { conn.send(body) } else { queued }
        };
        match &request.what {
            What::Greeting { with_body } => send(Status::Ok, plain, GREETING, *with_body),
            What::Count => {
                send(Status::Ok, plain, format!("{} bytes\n", request.came).as_bytes(), true)
            }
            What::Back => conn.send(b"0\r\n\r\n"),
            What::Fails(status) => send(*status, plain, b"", true),
            What::File { target, with_body } => {
                let folder = self.folder.as_mut().expect("files are asked for only with a folder");
                match folder.find(target) {
                    Err(status) => send(status, plain, b"", true),
                    Ok((range, kind)) => {
                        let length = Length::Bytes(range.len());
                        let head = request.head(Status::Ok, kind, length);
                        let queued = conn.send(self.heads.write(head));
                        if !*with_body {
                            return queued;
                        }
                        let queued = conn.send_file(range);
                        conn.notify_sent(FILE_SENT);
                        conn.session().files += 1;
                        if conn.session().files == FILES_MAX {
                            conn.pause(); // until one file is sent
                            return SendOutcome::AboveHighWatermark;
                        }
                        queued
                    }
                }
            }
        }
    }

    /// Sends the error as the last response.
    fn refuse(&mut self, conn: &mut Conn<'_, Self>, status: Status) {
        let (kind, length) = ("text/plain", Length::Bytes(0));
        let head = Head { status, kind, length, is_last: true, is_1_0: false };
        let _ = conn.send(self.heads.write(head)); // refused: the connection is ending already
        conn.close();
    }

    /// The body is wrong. If the response has begun, its missing end tells the client so.
    fn give_up(&mut self, conn: &mut Conn<'_, Self>, request: &Request, status: Status) {
        match request.what {
            What::Back => conn.close(),
            _ => self.refuse(conn, status),
        }
    }
}

impl Handler for Http {
    type Session = Session;
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<Session> {
        Some(Session::default())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        loop {
            let Some(mut request) = conn.session().request.take() else {
                let searched = &mut conn.session().searched;
                let before = input.peek();
                let found = input.take_frame(self.head_end.after(searched));
                let Ok(found) = found else { return self.refuse(conn, Status::HeadersTooLarge) };
                let Some(head) = found else { return };
                let head = &before[..head.len() + b"\r\n\r\n".len()];
                let request = match self.request(head) {
                    Ok(request) => request,
                    Err(status) => return self.refuse(conn, status),
                };
                self.begin(conn, &request);
                conn.session().request = Some(request);
                continue;
            };
            let queued = match request.body.next(input) {
                Part::Bytes(bytes) => {
                    let queued = self.part(conn, &mut request, bytes);
                    if request.came > BODY_MAX {
                        return self.give_up(conn, &request, Status::ContentTooLarge);
                    }
                    let is_over = request.body == Body::Over;
                    conn.session().request = Some(request);
                    // The end of the response does not wait for more input, because none may come.
                    if is_over { SendOutcome::Queued } else { queued }
                }
                Part::NotYet => {
                    conn.session().request = Some(request);
                    return;
                }
                Part::Bad => return self.give_up(conn, &request, Status::BadRequest),
                Part::End => {
                    let queued = self.answer(conn, &request);
                    if request.is_last {
                        return conn.close();
                    }
                    queued
                }
            };
            // Above its high watermark, the rest of the input waits, and comes again when there is room.
            if queued != SendOutcome::Queued {
                return;
            }
        }
    }

    fn on_sent(&mut self, conn: &mut Conn<'_, Self>, _file: u64) {
        if conn.session().files == FILES_MAX {
            conn.resume();
        }
        conn.session().files -= 1;
    }
}

/// Whether each line ends with CR LF, and no CR, LF or NUL stands elsewhere. httparse takes a bare line feed
/// for a line end, and other readers do not.
fn has_clean_lines(head: &[u8]) -> bool {
    let mut before = b' ';
    head.iter().all(|&byte| {
        let is_clean = (before == b'\r') == (byte == b'\n') && byte != b'\0';
        before = byte;
        is_clean
    })
}

/// Whether the value may be a host and a port.
fn is_host(value: &[u8]) -> bool {
    value.iter().all(|byte| byte.is_ascii_graphic() && !b"/?#@\\,\"<>".contains(byte))
}

/// The target without a scheme and a host. Most clients do not write them, but any client may: RFC 9112,
/// 3.2.2.
fn of_this_server(target: &str) -> &str {
    let scheme = "http://";
    match target.split_at_checked(scheme.len()) {
        Some((before, rest)) if before.eq_ignore_ascii_case(scheme) => {
            rest.find('/').map_or("/", |path| &rest[path..])
        }
        _ => target,
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if let Some(root) = &flags.root
        && let Err(error) = Folder::check(root)
    {
        return flags::fail(1, &format!("--root {}: {error}", root.display()));
    }
    let root = flags.root;
    flags::run(&flags.server, move |_place: &LoopInfo<Infallible>| Http {
        folder: root.clone().map(Folder::new),
        head_end: Delimiter::new(b"\r\n\r\n", HEAD_MAX),
        heads: Heads::default(),
    })
}

#[cfg(test)]
#[path = "../../../net-core/tests/fuzzing/mod.rs"]
#[allow(dead_code)] // nothing is generated here
mod fuzzing;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn http() -> Http {
        let head_end = Delimiter::new(b"\r\n\r\n", HEAD_MAX);
        Http { folder: None, head_end, heads: Heads::default() }
    }

    /// A request, the bytes of its head, and the part of its body that has come.
    struct Read {
        head: Vec<u8>,
        request: Request,
        body: Vec<u8>,
        is_whole: bool,
    }

    /// What `on_data` makes of `pieces`: the requests, and the error of the first that is not valid.
    fn requests(http: &Http, pieces: &[&[u8]]) -> (Vec<Read>, Option<Status>) {
        let (mut all, mut kept): (Vec<Read>, _) = (Vec::new(), Vec::new());
        let mut searched = Searched::default();
        for piece in pieces {
            kept.extend_from_slice(piece);
            let mut input = Input::new(&kept);
            loop {
                let Some(read) = all.last_mut().filter(|read| !read.is_whole) else {
                    let before = input.peek();
                    let found = input.take_frame(http.head_end.after(&mut searched));
                    let Ok(found) = found else { return (all, Some(Status::HeadersTooLarge)) };
                    let Some(head) = found else { break };
                    let head = before[..head.len() + 4].to_vec();
                    match http.request(&head) {
                        Ok(request) => {
                            let body = Vec::new();
                            all.push(Read { head, request, body, is_whole: false });
                        }
                        Err(status) => return (all, Some(status)),
                    }
                    continue;
                };
                match read.request.body.next(&mut input) {
                    Part::Bytes(bytes) => read.body.extend_from_slice(bytes),
                    Part::NotYet => break,
                    Part::Bad => return (all, Some(Status::BadRequest)),
                    Part::End => read.is_whole = true,
                }
            }
            let taken = input.taken();
            kept.drain(..taken);
        }
        (all, None)
    }

    /// Everything that decides how the requests are answered.
    fn told((all, failed): &(Vec<Read>, Option<Status>)) -> String {
        let mut text = String::new();
        for Read { request, body, is_whole, .. } in all {
            let what = match &request.what {
                What::Greeting { with_body } => format!("greeting {with_body}"),
                What::File { target, .. } => format!("file {target}"),
                What::Count => "count".into(),
                What::Back => "back".into(),
                What::Fails(status) => format!("{status:?}"),
            };
            let Request { expects, is_last, is_1_0, .. } = request;
            let body = body.escape_ascii();
            text += &format!("{what} {expects} {is_last} {is_1_0} {body} {is_whole}\n");
        }
        text + &format!("{failed:?}")
    }

    /// Checks an accepted head line by line, strictly by RFC 9112.
    fn is_by_the_letter(head: &[u8], request: &Request) {
        let text: String = head.iter().map(|byte| char::from(*byte)).collect();
        let text = text.strip_suffix("\r\n\r\n").unwrap();
        let lines = text.split("\r\n").skip_while(|line| line.is_empty());
        let lines: Vec<&str> = lines.collect();
        let is_clean = |c: char| !c.is_ascii_control() || c == '\t';
        assert!(lines.iter().all(|line| line.chars().all(is_clean)));
        let words: Vec<&str> = lines[0].split(' ').collect();
        let [method, target, version] = words[..] else { panic!("{words:?}") };
        assert!(!method.is_empty() && !target.is_empty());
        assert_eq!(version, if request.is_1_0 { "HTTP/1.0" } else { "HTTP/1.1" });
        let fields: Vec<(String, &str)> = lines[1..]
            .iter()
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap();
                let is_token = |c: char| c.is_ascii_graphic() && !"()<>@,;:\\\"/[]?={}".contains(c);
                assert!(!name.is_empty() && name.chars().all(is_token), "{name}");
                (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']))
            })
            .collect();
        let named = |name: &str| -> Vec<&str> {
            fields.iter().filter(|field| field.0 == name).map(|field| field.1).collect()
        };
        let body = match (&named("transfer-encoding")[..], &named("content-length")[..]) {
            ([], []) => Body::Over,
            ([], [length]) => {
                assert!(length.chars().all(|c| c.is_ascii_digit()), "{length}");
                match length.parse().unwrap() {
                    0 => Body::Over,
                    length => Body::Bytes(length),
                }
            }
            ([coding], []) => {
                assert!(coding.eq_ignore_ascii_case("chunked") && !request.is_1_0);
                Body::ChunkSize
            }
            both => panic!("{both:?}"),
        };
        assert_eq!(http().request(head).ok().map(|request| request.body), Some(body));
        let hosts = named("host");
        assert!(hosts.len() == 1 || hosts.is_empty() && request.is_1_0);
        assert!(hosts.iter().all(|host| !host.contains([' ', '/', '@', ','])));
        let asks = |word: &str| {
            let values = named("connection").join(",");
            values.split(',').any(|own| own.trim_matches([' ', '\t']).eq_ignore_ascii_case(word))
        };
        assert_eq!(
            request.is_last,
            if request.is_1_0 { !asks("keep-alive") } else { asks("close") }
        );
    }

    #[test]
    fn kept_requests_are_the_same_at_every_cut_and_by_the_letter() {
        fuzzing::each_kept(include_str!("../../tests/corpus/http_requests.txt"), |bytes| {
            let http = http();
            let whole = requests(&http, &[bytes]);
            for read in &whole.0 {
                is_by_the_letter(&read.head, &read.request);
            }
            let expected = told(&whole);
            for cut in fuzzing::cuts(bytes.len(), &[HEAD_MAX]) {
                let pieces = [&bytes[..cut], &bytes[cut..]];
                assert_eq!(told(&requests(&http, &pieces)), expected, "cut at {cut}");
            }
            let one_by_one: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(told(&requests(&http, &one_by_one)), expected, "byte by byte");
        });
    }
}
