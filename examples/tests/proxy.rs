//! The proxy, between real sockets: every byte, both ends, bounded memory.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use socket2::{Domain, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

in_every_mode!(
    much_goes_both_ways_at_once_past_a_slow_reader,
    each_direction_ends_by_itself,
    a_failed_connect_resets_the_client,
    a_name_is_looked_up_for_each_client_and_one_that_is_none_is_named,
    a_reset_on_one_side_is_a_reset_on_the_other,
);

/// The proxy, and a listener that stands for the other server.
fn proxy(mode: Mode) -> (Server, TcpListener) {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    (Start::proxy(mode, upstream.local_addr().unwrap()).run(), upstream)
}

/// A client and its counterpart at the other server.
fn through(server: &Server, upstream: &TcpListener) -> (TcpStream, TcpStream) {
    let client = server.connect();
    (client, accept(upstream))
}

/// 64 MiB each way; one of the readers takes its time. What does not fit into the kernel's buffers
/// stays with its sender: the proxy never holds more than its marks.
fn much_goes_both_ways_at_once_past_a_slow_reader(mode: Mode) {
    const LEN: usize = 64 << 20;
    const HELD_MAX_KIB: u64 = 8 << 10;
    let (server, upstream) = proxy(mode);
    let (client, other) = through(&server, &upstream);
    ping_through(&client, &other);
    let before = proc::rss_kib(server.pid);
    let mut most = 0;
    thread::scope(|scope| {
        let up = scope.spawn(|| read_all(&other, LEN, |_| {}));
        scope.spawn(|| write_all(&client, LEN, 1));
        scope.spawn(|| write_all(&other, LEN, 2));
        let down = read_all(&client, LEN, |so_far| {
            most = most.max(proc::rss_kib(server.pid));
            if so_far < LEN / 8 {
                thread::sleep(Duration::from_millis(5));
            }
        });
        assert!(down == pattern(LEN, 2), "client");
        assert!(up.join().unwrap() == pattern(LEN, 1), "upstream");
    });
    assert!(most < before + HELD_MAX_KIB, "{before} KiB before, {most} KiB while it forwarded");
    drop((client, other));
    let counts = server.finish();
    assert_eq!((counts.get("bytes_dropped"), counts.get("dialled")), (0, 1), "{counts:?}");
}

fn ping_through(mut client: &TcpStream, mut other: &TcpStream) {
    let mut got = [0; 2];
    client.write_all(b"hi").unwrap();
    other.read_exact(&mut got).unwrap();
    other.write_all(&got).unwrap();
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hi");
}

fn write_all(mut to: &TcpStream, len: usize, seed: u64) {
    to.write_all(&pattern(len, seed)).unwrap();
    to.shutdown(Shutdown::Write).unwrap();
}

/// Reads to the end, which must come after `len` bytes.
fn read_all(mut from: &TcpStream, len: usize, mut each: impl FnMut(usize)) -> Vec<u8> {
    let (mut all, mut part) = (Vec::with_capacity(len), vec![0; 64 << 10]);
    loop {
        match from.read(&mut part).unwrap() {
            0 => return all,
            n => all.extend_from_slice(&part[..n]),
        }
        each(all.len());
    }
}

fn each_direction_ends_by_itself(mode: Mode) {
    let (server, upstream) = proxy(mode);
    for client_first in [true, false] {
        let (client, other) = through(&server, &upstream);
        let (mut first, mut second) = if client_first { (client, other) } else { (other, client) };
        first.write_all(b"all I have to say").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut second, PATIENCE), (b"all I have to say".to_vec(), End::Fin));
        let answer = pattern(4 << 20, 5);
        let (back, end) = thread::scope(|scope| {
            let mut sending = second.try_clone().unwrap();
            let answer = &answer;
            scope.spawn(move || sending.write_all(answer).unwrap());
            let mut back = vec![0; answer.len()];
            first.read_exact(&mut back).unwrap();
            second.shutdown(Shutdown::Write).unwrap();
            (back, read_to_end(&mut first, PATIENCE))
        });
        assert!(back == answer);
        assert_eq!(end, (vec![], End::Fin));
    }
    server.has_connections(0);
    server.finish();
}

/// A client comes and is reset, perhaps before its connect has returned: then that says so.
fn is_reset(server: &Server) {
    match TcpStream::connect(server.addr) {
        Ok(mut client) => assert_eq!(read_to_end(&mut client, PATIENCE), (vec![], End::Rst)),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
}

fn a_failed_connect_resets_the_client(mode: Mode) {
    // Bound, so that nobody else is given this port meanwhile, and listening to nobody.
    let nobody = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    nobody.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let at = nobody.local_addr().unwrap().as_socket().unwrap();
    let server = Start::proxy(mode, at).run();
    for _ in 0..20 {
        is_reset(&server);
    }
    assert!(server.log().contains("Connection refused"), "the reason is said: {}", server.log());
    let counts = server.finish();
    assert_eq!((counts.get("dialled"), counts.get("closed(machine)")), (20, 20), "{counts:?}");
}

fn a_name_is_looked_up_for_each_client_and_one_that_is_none_is_named(mode: Mode) {
    // On IPv4 alone: the name may have another address first.
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("localhost:{}", upstream.local_addr().unwrap().port());
    let server = Start::proxy(mode, name).run();
    for _ in 0..10 {
        let (client, other) = through(&server, &upstream);
        ping_through(&client, &other);
    }
    server.finish();

    // With a part too long to ask any name server for.
    let nowhere = format!("{}.invalid:80", "x".repeat(64));
    let server = Start::proxy(mode, &nowhere).run();
    is_reset(&server);
    eventually("the name is said", PATIENCE, || server.log().contains(&nowhere));
    assert_eq!(server.finish().get("closed(unresolved)"), 1);
}

fn a_reset_on_one_side_is_a_reset_on_the_other(mode: Mode) {
    let (server, upstream) = proxy(mode);
    for client_first in [true, false] {
        let (client, other) = through(&server, &upstream);
        ping_through(&client, &other);
        let (first, mut second) = if client_first { (client, other) } else { (other, client) };
        reset(first);
        assert_eq!(read_to_end(&mut second, PATIENCE), (vec![], End::Rst));
    }
    server.has_connections(0);
    server.finish();
}

#[test]
fn sigquit_lets_what_is_under_way_end_and_nothing_new_begin() {
    let (mut server, upstream) = proxy(Mode::DEFAULT);
    let (client, mut other) = through(&server, &upstream);
    ping_through(&client, &other);
    server.signal("QUIT");
    eventually("it listens no more", PATIENCE, || TcpStream::connect(server.addr).is_err());
    thread::sleep(Duration::from_millis(200)); // longer than any quiet time
    assert!(server.is_running());
    ping_through(&client, &other);
    (&client).write_all(b"the last question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut other, PATIENCE).0, b"the last question");
    other.write_all(b"the last answer").unwrap();
    drop(other);
    assert_eq!(read_to_end(&mut { client }, PATIENCE), (b"the last answer".to_vec(), End::Fin));
    let ended = server.wait(PATIENCE);
    assert!(ended.status.success(), "{}", ended.log);
    Counts::of(&ended.log);
}

#[test]
fn sigquit_ends_an_idle_proxy_at_once_and_a_silent_pair_by_the_deadline() {
    let (server, _upstream) = proxy(Mode::DEFAULT);
    server.signal("QUIT");
    assert!(server.wait(PATIENCE).status.success());
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let start = Start::proxy(Mode::DEFAULT, upstream.local_addr().unwrap());
    let server = start.args(&["--drain-timeout", "300ms"]).run();
    let (mut client, mut other) = through(&server, &upstream);
    ping_through(&client, &other);
    server.signal("QUIT");
    let ended = server.wait(PATIENCE);
    assert!(ended.status.success(), "{}", ended.log);
    assert_eq!(Counts::of(&ended.log).get("closed(drain_deadline)"), 2);
    for side in [&mut client, &mut other] {
        assert_eq!(read_to_end(side, PATIENCE), (vec![], End::Rst));
    }
}

// --- a gibibyte each way ------------------------------------------------------------------------

const GIB: usize = 1 << 30;

/// A block of the stream, which says where it belongs.
fn block_of(stream: u64, number: usize, block: &mut [u8]) {
    block[..8].copy_from_slice(&(number as u64).to_be_bytes());
    block[8..16].copy_from_slice(&stream.to_be_bytes());
}

const BLOCK: usize = 64 << 10;

/// Sends a gibibyte that is never in memory as a whole, then FIN.
fn send_gib(mut to: &TcpStream, stream: u64) {
    let mut block = pattern(BLOCK, stream);
    for number in 0..GIB / BLOCK {
        block_of(stream, number, &mut block);
        to.write_all(&block).unwrap();
    }
    to.shutdown(Shutdown::Write).unwrap();
}

/// Compares what comes, to the end, with that gibibyte.
fn receive_gib(mut from: &TcpStream, stream: u64, mut each: impl FnMut()) {
    let (mut expected, mut got) = (pattern(BLOCK, stream), vec![0; BLOCK]);
    for number in 0..GIB / BLOCK {
        block_of(stream, number, &mut expected);
        from.read_exact(&mut got).unwrap();
        assert!(got == expected, "block {number} of stream {stream}");
        each();
    }
    assert_eq!(from.read(&mut got).unwrap(), 0, "and then FIN");
}

/// A gibibyte each way at once, one of the readers slow all the way. The quick direction ends long
/// before the other, which goes on past that half-close.
///
///     cargo test -p examples --release --test proxy -- --ignored --nocapture
#[test]
#[ignore = "moves 2 GiB in some ten seconds: run it by itself, built for release"]
fn a_gibibyte_goes_each_way_in_bounded_memory_past_a_slow_reader() {
    const HELD_MAX_KIB: u64 = 4 << 10;
    let (server, upstream) = proxy(Mode { accept: "acceptor", fd_table: "shared" });
    let (client, other) = through(&server, &upstream);
    ping_through(&client, &other);
    let before = proc::rss_kib(server.pid);
    let mut most = 0;
    let began = std::time::Instant::now();
    let up = thread::scope(|scope| {
        scope.spawn(|| send_gib(&client, 1));
        scope.spawn(|| send_gib(&other, 2));
        let up = scope.spawn(|| {
            receive_gib(&other, 1, || {});
            began.elapsed()
        });
        let mut blocks = 0;
        receive_gib(&client, 2, || {
            blocks += 1;
            if blocks % 4 == 0 {
                thread::sleep(Duration::from_millis(2));
                most = most.max(proc::rss_kib(server.pid));
            }
        });
        up.join().unwrap()
    });
    let down = began.elapsed();
    eprintln!(
        "1 GiB each way: up in {up:.1?}, down to the slow reader in {down:.1?}; \
         resident {before} KiB before, {most} KiB at most"
    );
    assert!(most < before + HELD_MAX_KIB, "{before} KiB before, {most} KiB while it forwarded");
    drop((client, other));
    let counts = server.finish();
    assert_eq!(counts.get("bytes_dropped"), 0, "{counts:?}");
    assert!(counts.get("bytes_in") >= 2 * GIB as u64);
}
