//! The HTTP server: pipelining, bodies, files, and requests that are none.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

in_every_mode!(
    requests_that_come_together_are_answered_in_order,
    a_request_in_single_bytes_is_answered,
    bodies_are_counted_and_come_back_as_chunks,
    a_file_comes_whole_also_to_a_slow_reader,
    nothing_outside_the_folder_is_served,
    a_request_that_is_none_is_the_last,
    a_request_that_two_readers_could_read_differently_is_the_last,
    who_pipelines_and_reads_is_answered_in_full,
    small_files_that_nobody_reads_hold_few_descriptors,
    a_chunk_that_is_none_ends_an_answer_that_has_begun,
    http_1_0_ends_after_the_answer_unless_asked,
);

fn http(mode: Mode, args: &[&str]) -> Server {
    Start::echo(mode).program(env!("CARGO_BIN_EXE_http")).args(args).run()
}

struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.filter(|(own, _)| *own == name).map(|(_, value)| value).next()
    }
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn read(stream: &mut TcpStream) -> Answer {
    let mut answer = Answer { head: read_head(stream), body: Vec::new() };
    if let Some(length) = answer.field("Content-Length") {
        answer.body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut answer.body).unwrap();
        return answer;
    }
    assert_eq!(answer.field("Transfer-Encoding"), Some("chunked"));
    loop {
        let mut line = String::new();
        while !line.ends_with("\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            line.push(char::from(byte[0]));
        }
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).unwrap();
        assert_eq!(&chunk[size..], b"\r\n");
        answer.body.extend_from_slice(&chunk[..size]);
        if size == 0 {
            return answer;
        }
    }
}

fn ask(stream: &mut TcpStream, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).unwrap();
    read(stream)
}

fn requests_that_come_together_are_answered_in_order(mode: Mode) {
    let server = http(mode, &[]);
    let mut client = server.connect();
    let hello = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let count = "POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
    let missing = "GET /missing HTTP/1.1\r\nHost: x\r\n\r\n";
    let head = "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n";
    client.write_all([hello, count, missing, hello].concat().repeat(100).as_bytes()).unwrap();
    for _ in 0..100 {
        assert_eq!(read(&mut client).body, b"Hello, world!\n");
        assert_eq!(read(&mut client).body, b"3 bytes\n");
        assert_eq!(read(&mut client).status(), "404");
        assert_eq!(read(&mut client).body, b"Hello, world!\n");
    }
    client.write_all(head.as_bytes()).unwrap();
    assert!(read_head(&mut client).contains("Content-Length: 14\r\n"));
    assert_eq!(ask(&mut client, hello).status(), "200", "a HEAD has no body");
    server.finish();
}

fn a_request_in_single_bytes_is_answered(mode: Mode) {
    let server = http(mode, &[]);
    let mut client = server.connect();
    client.set_nodelay(true).unwrap();
    let request = "POST /back HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: 1\r\n\r\n";
    for byte in request.as_bytes() {
        client.write_all(&[*byte]).unwrap();
    }
    assert_eq!(read(&mut client).body, b"abcde");
    assert_eq!(ask(&mut client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").status(), "200");
    server.finish();
}

fn bodies_are_counted_and_come_back_as_chunks(mode: Mode) {
    let server = http(mode, &[]);
    let mut client = server.connect();
    let body = pattern(1 << 20, 7);
    let head = format!(
        "POST /count HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).unwrap();
    assert_eq!(read_head(&mut client), "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(&body).unwrap();
    assert_eq!(read(&mut client).body, format!("{} bytes\n", body.len()).into_bytes());

    // Back, while it is still being sent: more than all buffers hold.
    let mut sender = client.try_clone().unwrap();
    let sent = body.clone();
    let sending = std::thread::spawn(move || {
        let head = format!("POST /back HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 8 << 20);
        sender.write_all(head.as_bytes()).unwrap();
        for _ in 0..8 {
            sender.write_all(&sent).unwrap();
        }
    });
    assert!(read(&mut client).body == body.repeat(8));
    sending.join().unwrap();
    server.finish();
}

/// A folder that is served, in one that is not.
fn folder_and_root() -> (Folder, PathBuf) {
    let folder = Folder::new();
    let root = folder.0.join("root");
    std::fs::create_dir(&root).unwrap();
    (folder, root)
}

fn a_file_comes_whole_also_to_a_slow_reader(mode: Mode) {
    let (_folder, root) = folder_and_root();
    let large = pattern(20 << 20, 3);
    std::fs::write(root.join("large.bin"), &large).unwrap();
    std::fs::write(root.join("index.html"), "<p>index").unwrap();
    let server = http(mode, &["--root", root.to_str().unwrap()]);

    let get = "GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n";
    let index = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut slow = server.connect();
    slow.write_all([get, index, get, index].concat().as_bytes()).unwrap();
    // Others are served while it reads nothing.
    let mut others = server.connect_many(10);
    for other in &mut others {
        let answer = ask(other, index);
        assert_eq!(answer.body, b"<p>index");
        assert_eq!(answer.field("Content-Type"), Some("text/html; charset=utf-8"));
    }
    for _ in 0..2 {
        let answer = read(&mut slow);
        assert!(answer.body == large, "{} bytes of {}", answer.body.len(), large.len());
        assert_eq!(read(&mut slow).body, b"<p>index");
    }
    // Many at once, each the same open file or another.
    let mut many = server.connect_many(20);
    many.iter_mut().for_each(|client| client.write_all(get.as_bytes()).unwrap());
    for client in &mut many {
        assert!(read(client).body == large);
    }
    server.finish();
}

fn nothing_outside_the_folder_is_served(mode: Mode) {
    let (folder, root) = folder_and_root();
    std::fs::write(folder.0.join("secret"), "secret").unwrap();
    std::fs::write(root.join("fine.txt"), "fine").unwrap();
    std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
    let server = http(mode, &["--root", root.to_str().unwrap()]);
    let mut client = server.connect();
    let mut status = |target: &str| {
        let answer = ask(&mut client, &format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        answer.status().to_owned()
    };
    assert_eq!(status("/fine.txt"), "200");
    for target in ["/../secret", "/link", "/%2e%2e/secret", "/%2E./secret", "//etc/passwd", "/none"]
    {
        assert_eq!(status(target), "404", "{target}");
    }
    assert_eq!(status("/%zz"), "400");
    assert_eq!(status("/fine.txt"), "200", "a path that is wrong ends nothing");
    server.finish();
}

fn a_request_that_is_none_is_the_last(mode: Mode) {
    let server = http(mode, &[]);
    let headers = "X: y\r\n".repeat(65);
    let cases = [
        ("HELO\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "400"), // no host
        ("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n".to_owned(), "400"),
        // A bare line feed ends a head for some, and what follows would be another request.
        ("GET / HTTP/1.1\nHost: x\n\nGET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/3.0\r\nHost: x\r\n\r\n".to_owned(), "505"),
        (format!("GET / HTTP/1.1\r\nHost: x\r\n{headers}\r\n"), "431"),
        (format!("GET /{} HTTP/1.1\r\n", "x".repeat(9000)), "431"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n".to_owned(), "413"),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
                .to_owned(),
            "400",
        ),
        (
            "POST /count HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
                .to_owned(),
            "400",
        ),
    ];
    for (request, status) in cases {
        let mut client = server.connect();
        client.write_all(request.as_bytes()).unwrap();
        let answer = read(&mut client);
        assert_eq!(answer.status(), status, "{request:.60}");
        assert_eq!(answer.field("Connection"), Some("close"));
        let (rest, end) = read_to_end(&mut client, Duration::from_secs(20));
        assert!(rest.is_empty() && end == End::Fin, "{request:.60}: {end:?}");
    }
    let mut client = server.connect();
    let answer = ask(&mut client, "PUT / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!((answer.status(), answer.field("Allow")), ("405", Some("GET, HEAD, POST")));
    for target in ["/", "http://x/", "HTTP://x:80/", "http://x"] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(ask(&mut client, &request).status(), "200", "{target}");
    }
    let elsewhere = "GET http://x/elsewhere HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(ask(&mut client, elsewhere).status(), "404");
    server.finish();
}

/// Each was taken, or is one of a kind of which some were: what one reader takes for a part of a request
/// is another request to the next. A second request behind it must never be answered.
fn a_request_that_two_readers_could_read_differently_is_the_last(mode: Mode) {
    let server = http(mode, &[]);
    let chunked = "POST /count HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let bodies = [
        "1\na\r\n0\r\n\r\n",
        "1\r\na\n0\r\n\r\n",
        "1\r\na\r\n0\n\n",
        "1\r\na\r\n0\r\nX: y\n\r\n",
        "1;\ra\r\na\r\n0\r\n\r\n",
        "1;\0\r\na\r\n0\r\n\r\n",
        " 1\r\na\r\n0\r\n\r\n",
        "1 \r\na\r\n0\r\n\r\n",
        "1\t\r\na\r\n0\r\n\r\n",
        "1 ;x\r\na\r\n0\r\n\r\n",
        "0x1\r\na\r\n0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\nX: y\r\n z\r\n\r\n",
    ];
    let heads = [
        "GET / HTTP/1.1\r\nHost: x\nX: y\r\n\r\n",
        "GET / HTTP/1.1\nHost: x\r\n\r\n",
        "\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nX: y\rz: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nX: y\0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nX: y\r\n z\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: x\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nX\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x/y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x, y\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /\r\nHost: x\r\n\r\n",
        "POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        "POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
        "POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\na",
        "POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\na",
        "POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 0x1\r\n\r\na",
        "POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 1 0\r\n\r\na",
        "POST /count HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\na",
        "POST /count HTTP/1.1\r\nHost: x\r\nContent-Length : 1\r\n\r\na",
        "POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551617\r\n\r\na",
        "POST /count HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        "POST /count HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        "POST /count HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "POST /count HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        "POST /count HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST /count HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n",
        "POST /count HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "POST /count HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        "POST /count HTTP/1.1\r\nHost: x\r\nTransfer-Encoding\x0b: chunked\r\n\r\n",
        "POST /count HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\n\r\n",
        "POST /count HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    ];
    let next = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let whole = bodies.iter().map(|body| [chunked, body].concat());
    for request in whole.chain(heads.iter().map(|&head| head.to_owned())) {
        let mut client = server.connect();
        client.write_all([&request, next].concat().as_bytes()).unwrap();
        let answer = read(&mut client);
        // With a blank in its target, what stands there is no version.
        let status = if request.starts_with("GET /a b ") { "505" } else { "400" };
        assert_eq!(answer.status(), status, "{request:?}");
        let (rest, end) = read_to_end(&mut client, PATIENCE);
        assert!(rest.is_empty() && end == End::Fin, "{request:?}: {end:?}, {rest:?}");
    }
    let mut client = server.connect();
    assert_eq!(ask(&mut client, &format!("\r\n{next}")).status(), "200", "RFC 9112, 2.2");
    server.finish();
}

fn http_1_0_ends_after_the_answer_unless_asked(mode: Mode) {
    let server = http(mode, &[]);
    let mut client = server.connect();
    let stays = "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n";
    for _ in 0..3 {
        let answer = ask(&mut client, stays);
        assert_eq!(answer.field("Connection"), Some("keep-alive"));
        assert!(answer.head.starts_with("HTTP/1.0 200"));
    }
    assert_eq!(ask(&mut client, "GET / HTTP/1.0\r\n\r\n").field("Connection"), Some("close"));
    assert_eq!(read_to_end(&mut client, Duration::from_secs(20)).1, End::Fin);

    let mut client = server.connect();
    let answer = ask(&mut client, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(answer.body, b"Hello, world!\n");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client, Duration::from_secs(20)).1, End::Fin);
    server.finish();
}

fn who_pipelines_and_reads_is_answered_in_full(mode: Mode) {
    const REQUESTS: usize = 20_000;
    let (_folder, root) = folder_and_root();
    std::fs::write(root.join("index.html"), "Hello, file!!\n").unwrap();
    for args in [&[][..], &["--root", root.to_str().unwrap()]] {
        let server = http(mode, args);
        let mut client = server.connect();
        let mut sender = client.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            let hello = "GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(REQUESTS);
            sender.write_all(hello.as_bytes()).unwrap();
            sender.shutdown(Shutdown::Write).unwrap();
        });
        let (answers, end) = read_to_end(&mut client, PATIENCE);
        sending.join().unwrap();
        let begins = answers.windows(12).filter(|bytes| *bytes == b"HTTP/1.1 200").count();
        assert_eq!((begins, end), (REQUESTS, End::Fin));
        let counts = server.finish();
        assert_eq!(counts.get("closed(input_limit)"), 0, "{counts:?}");
    }
}

/// However few bytes a file has, it is a descriptor until it was sent.
fn small_files_that_nobody_reads_hold_few_descriptors(mode: Mode) {
    let (_folder, root) = folder_and_root();
    std::fs::write(root.join("one.txt"), "1").unwrap();
    let server = http(mode, &["--root", root.to_str().unwrap()]);
    let get = "GET /one.txt HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut clients = server.connect_many(10);
    let before = proc::descriptor_counts(server.pid);
    for client in &mut clients {
        client.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let _ = client.write_all(get.repeat(100_000).as_bytes()); // as much as is taken
    }
    let after = proc::descriptor_counts(server.pid);
    for ((name, before), (_, after)) in before.iter().zip(&after) {
        assert!(*after <= before + 100, "{name}: {before}, then {after}");
    }
    assert_eq!(ask(&mut server.connect(), get).body, b"1");
}

/// It has no status to come: that the chunks do not end is what says so.
fn a_chunk_that_is_none_ends_an_answer_that_has_begun(mode: Mode) {
    let server = http(mode, &[]);
    let mut client = server.connect();
    let head = "POST /back HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(format!("{head}5\r\nhello\r\nzz\r\n").as_bytes()).unwrap();
    assert!(read_head(&mut client).starts_with("HTTP/1.1 200 "));
    let (rest, end) = read_to_end(&mut client, PATIENCE);
    assert_eq!((&rest[..], end), (&b"5\r\nhello\r\n"[..], End::Fin));
    server.finish();
}
