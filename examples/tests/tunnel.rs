//! The tunnel of the proxy, between real sockets: what is spliced arrives as what is copied does.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use socket2::SockRef;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

in_every_mode!(
    much_is_spliced_both_ways_at_once_past_a_slow_reader,
    an_end_passes_behind_the_last_spliced_byte,
);

const LEN: usize = 16 << 20;

/// The proxy, and a listener that stands for the other server.
fn proxy(mode: Mode, args: &[&str]) -> (Server, TcpListener) {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    (Start::proxy(mode, upstream.local_addr().unwrap()).args(args).run(), upstream)
}

/// A client and its counterpart at the other server.
fn through(server: &Server, upstream: &TcpListener) -> (TcpStream, TcpStream) {
    let client = server.connect();
    (client, accept(upstream))
}

fn write_all(mut to: impl Write, len: usize, seed: u64) {
    to.write_all(&pattern(len, seed)).unwrap();
}

/// Reads so many bytes, the first of them slowly if it is to.
fn read_all(mut from: impl Read, len: usize, is_slow: bool) -> Vec<u8> {
    let (mut all, mut part) = (Vec::with_capacity(len), vec![0; 64 << 10]);
    while all.len() < len {
        let n = from.read(&mut part).unwrap();
        assert!(n > 0, "the end after {} of {len} bytes", all.len());
        all.extend_from_slice(&part[..n]);
        if is_slow && all.len() < len / 8 {
            thread::sleep(Duration::from_millis(3));
        }
    }
    all
}

fn much_is_spliced_both_ways_at_once_past_a_slow_reader(mode: Mode) {
    const HELD_MAX_KIB: u64 = 8 << 10;
    let (server, upstream) = proxy(mode, &[]);
    let (client, other) = through(&server, &upstream);
    let before = proc::rss_kib(server.pid);
    thread::scope(|scope| {
        scope.spawn(|| write_all(&client, LEN, 1));
        scope.spawn(|| write_all(&other, LEN, 2));
        let up = scope.spawn(|| read_all(&other, LEN, false));
        assert!(read_all(&client, LEN, true) == pattern(LEN, 2), "client");
        assert!(up.join().unwrap() == pattern(LEN, 1), "upstream");
    });
    let after = proc::rss_kib(server.pid);
    assert!(after < before + HELD_MAX_KIB, "{before} KiB before, {after} KiB after");
    drop((client, other));
    let counts = server.finish();
    let spliced = counts.get("bytes_spliced");
    assert!(spliced > LEN as u64 / 2, "{spliced} of {} bytes were spliced", 2 * LEN);
    assert_eq!(counts.get("bytes_dropped"), 0, "{counts:?}");
}

fn an_end_passes_behind_the_last_spliced_byte(mode: Mode) {
    let (server, upstream) = proxy(mode, &[]);
    for client_first in [true, false] {
        let (client, other) = through(&server, &upstream);
        let (first, mut second) = if client_first { (client, other) } else { (other, client) };
        let writer = first.try_clone().unwrap();
        let written = thread::spawn(move || {
            write_all(&writer, LEN, 3);
            writer.shutdown(Shutdown::Write).unwrap();
        });
        thread::sleep(Duration::from_millis(20)); // until all buffers on the way are full
        assert!(read_all(&second, LEN, false) == pattern(LEN, 3));
        assert_eq!(read_to_end(&mut second, PATIENCE), (vec![], End::Fin));
        written.join().unwrap();
        write_all(&second, 100, 4);
        assert!(read_all(&first, 100, false) == pattern(100, 4), "the other way is open");
        drop(second);
        assert_eq!(read_to_end(&mut { first }, PATIENCE), (vec![], End::Fin));
    }
    server.has_connections(0);
    assert!(server.finish().get("bytes_spliced") > 0);
}

#[test]
fn little_is_copied_and_with_copy_all_is() {
    for (args, len) in [(&[][..], 4000), (&["--copy"], LEN)] {
        let (server, upstream) = proxy(Mode::DEFAULT, args);
        let (client, other) = through(&server, &upstream);
        for seed in 0..4 {
            thread::scope(|scope| {
                scope.spawn(|| write_all(&client, len, seed));
                assert!(read_all(&other, len, false) == pattern(len, seed));
            });
        }
        assert_eq!(server.finish().get("bytes_spliced"), 0, "{args:?}");
    }
}

/// The other side's backlog is full, so that the connect takes until there is a place again.
#[test]
fn what_a_client_says_before_the_other_side_is_up_arrives_and_its_end() {
    for args in [&[][..], &["--copy"]] {
        let upstream = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let upstream = upstream.unwrap();
        upstream.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        upstream.listen(0).unwrap();
        let at = upstream.local_addr().unwrap().as_socket().unwrap();
        let upstream = TcpListener::from(upstream);
        let server = Start::proxy(Mode::DEFAULT, at).args(args).run();
        let first = TcpStream::connect(at).unwrap();
        let mut client = server.connect();
        client.write_all(b"a word, and the end").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        thread::sleep(Duration::from_millis(200)); // the connect waits, and will be tried after 1 s
        drop((first, accept(&upstream)));
        let mut other = accept(&upstream);
        let word = b"a word, and the end".to_vec();
        assert_eq!(read_to_end(&mut other, PATIENCE), (word, End::Fin), "{args:?}");
        other.write_all(b"an answer").unwrap();
        drop(other);
        assert_eq!(read_to_end(&mut client, PATIENCE), (b"an answer".to_vec(), End::Fin));
        server.has_connections(0);
        server.finish();
    }
}

#[test]
fn to_a_unix_socket_it_is_spliced_too() {
    let path = std::env::temp_dir().join(format!("tunnel-{}", std::process::id()));
    let upstream = UnixListener::bind(&path).unwrap();
    let server = Start::proxy(Mode::DEFAULT, format!("unix:{}", path.display())).run();
    let client = server.connect();
    SockRef::from(&upstream).set_read_timeout(Some(PATIENCE)).unwrap(); // bounds accept(2) too
    let (other, _) = upstream.accept().unwrap();
    std::fs::remove_file(&path).unwrap();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| write_all(&client, LEN, 1));
        scope.spawn(|| write_all(&other, LEN, 2));
        let up = scope.spawn(|| read_all(&other, LEN, true));
        assert!(read_all(&client, LEN, false) == pattern(LEN, 2), "client");
        assert!(up.join().unwrap() == pattern(LEN, 1), "upstream");
    });
    drop(client);
    assert_eq!((&other).read(&mut [0]).unwrap(), 0, "and then the end");
    assert!(server.finish().get("bytes_spliced") > LEN as u64 / 2);
}

#[test]
fn a_reader_that_resets_while_bytes_wait_for_it_resets_the_writer() {
    let (server, upstream) = proxy(Mode::DEFAULT, &[]);
    for seed in 0..3 {
        let (mut client, mut other) = through(&server, &upstream);
        other.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut client, PATIENCE), (vec![], End::Fin));
        client.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        client.write_all(&pattern(64 << 20, seed)).unwrap_err(); // until bytes wait in the proxy
        other.read_exact(&mut [0; 9]).unwrap();
        reset(other);
        let is_reset = |error: std::io::Error| {
            matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
        };
        eventually("it is reset too", PATIENCE, || client.write(&[0]).is_err_and(is_reset));
    }
    let (client, other) = through(&server, &upstream);
    write_all(&client, 100, 5);
    assert!(read_all(&other, 100, false) == pattern(100, 5), "others are served");
}

// --- what it costs ------------------------------------------------------------------------------

/// CPU time of the proxy, in milliseconds, for `times` messages of `len` bytes, each sent when the
/// one before has arrived; or for all of them in one stream.
fn cost(args: &[&str], len: usize, times: usize, is_stream: bool) -> f64 {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let start = Start::proxy(Mode::DEFAULT, upstream.local_addr().unwrap()).loops(1).args(args);
    let server = start.run();
    let (mut client, mut other) = through(&server, &upstream);
    let (message, mut got) = (pattern(len, 1), vec![0; len]);
    let mut turn = |client: &mut TcpStream, other: &mut TcpStream| {
        client.write_all(&message).unwrap();
        other.read_exact(&mut got).unwrap();
    };
    (0..5).for_each(|_| turn(&mut client, &mut other));
    let before = proc::cpu_time(server.pid);
    if is_stream {
        thread::scope(|scope| {
            scope.spawn(|| (0..times).for_each(|_| client.write_all(&pattern(len, 1)).unwrap()));
            (0..times).for_each(|_| other.read_exact(&mut vec![0; len]).unwrap());
        });
    } else {
        (0..times).for_each(|_| turn(&mut client, &mut other));
    }
    let spent = (proc::cpu_time(server.pid) - before).as_secs_f64() * 1e3;
    drop((client, other));
    server.finish();
    spent
}

/// What the tunnel costs of CPU, as a part of what copying costs: runs that take turns, their median.
///
///     cargo test -p examples --release --test tunnel -- --ignored --nocapture
#[test]
#[ignore = "moves 130 GiB in five minutes, and wants the machine for itself: build it for release"]
fn cpu_of_the_tunnel_as_a_part_of_that_of_copies() {
    const BYTES: usize = 1 << 30;
    let rounds = std::env::var("ROUNDS").map_or(9, |n| n.parse().unwrap());
    let sizes = [64, 4 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 1 << 20];
    let runs = sizes.map(|len| (len, false)).into_iter().chain([(64 << 10, true)]);
    for (len, is_stream) in runs {
        let times = (BYTES / len).min(100_000);
        let mut pairs: Vec<(f64, f64)> = (0..rounds)
            .map(|_| (cost(&[], len, times, is_stream), cost(&["--copy"], len, times, is_stream)))
            .collect();
        pairs.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
        let ratios: Vec<String> = pairs.iter().map(|(a, b)| format!("{:.2}", a / b)).collect();
        let what = if is_stream { "a stream" } else { "messages" };
        let (tunnel, copies) = pairs[rounds / 2];
        let mib = (times * len) as f64 / f64::from(1 << 20);
        eprintln!(
            "{what} of {len} B: {} of {} ({:.0} and {:.0} ms for {mib:.0} MiB)",
            ratios[rounds / 2],
            ratios.join(" "),
            tunnel,
            copies
        );
    }
}
