//! Every byte comes back, once and in order, however it is cut, delayed or pushed.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

in_every_mode!(
    sixty_four_megabytes_come_back_to_a_fitful_reader,
    five_thousand_single_bytes_come_back_in_order,
    a_client_that_sleeps_before_it_reads_gets_all,
    random_pieces_come_back_from_many_at_once,
    no_client_gets_another_clients_bytes,
);

/// Fast, then slow, then fast: over the high mark and under the low one, again and again.
fn sixty_four_megabytes_come_back_to_a_fitful_reader(mode: Mode) {
    let server = Start::echo(mode).loops(1).run();
    check_fitful(&server, 64 << 20);
    server.finish();
}

fn check_fitful(server: &Server, len: usize) {
    let mut client = server.connect();
    let bytes = pattern(len, 64);
    let mut sending = client.try_clone().unwrap();
    std::thread::scope(|scope| {
        let bytes = &bytes;
        scope.spawn(move || sending.write_all(bytes).unwrap());
        let (mut part, mut at) = (vec![0; 256 << 10], 0);
        while at < len {
            let is_slow = (at >> 22) % 2 == 1;
            let most = if is_slow { 64 << 10 } else { part.len() };
            let n = client.read(&mut part[..most]).unwrap();
            assert!(n > 0, "an end after {at} bytes");
            assert!(part[..n] == bytes[at..at + n], "other bytes between {at} and {}", at + n);
            at += n;
            if is_slow {
                std::thread::sleep(Duration::from_micros(500));
            }
        }
    });
}

fn five_thousand_single_bytes_come_back_in_order(mode: Mode) {
    let server = Start::echo(mode).run();
    let mut client = server.connect();
    let bytes = pattern(5000, 5);
    let mut sending = client.try_clone().unwrap();
    std::thread::scope(|scope| {
        let bytes = &bytes;
        scope.spawn(move || bytes.chunks(1).for_each(|byte| sending.write_all(byte).unwrap()));
        let mut back = vec![0; bytes.len()];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, bytes);
    });
}

fn a_client_that_sleeps_before_it_reads_gets_all(mode: Mode) {
    let server = Start::echo(mode).loops(1).run();
    let mut sleeper = server.connect();
    let bytes = pattern(16 << 20, 3);
    let mut sending = sleeper.try_clone().unwrap();
    std::thread::scope(|scope| {
        let bytes = &bytes;
        scope.spawn(move || sending.write_all(bytes).unwrap());
        // Its neighbours are served meanwhile.
        let mut neighbour = server.connect();
        for _ in 0..50 {
            ping(&mut neighbour, b"not disturbed");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut back = vec![0; bytes.len()];
        sleeper.read_exact(&mut back).unwrap();
        assert!(back == *bytes, "other bytes came back");
    });
}

fn random_pieces_come_back_from_many_at_once(mode: Mode) {
    let server = Start::echo(mode).run();
    let at = server.addr;
    std::thread::scope(|scope| {
        for seed in 1..=8 {
            scope.spawn(move || {
                let mut client = connect(at);
                let sizes = pattern(200, seed);
                for (n, size) in sizes.chunks(2).enumerate() {
                    let len = usize::from(u16::from_le_bytes([size[0], size[1]])) * (1 + n % 3);
                    exchange(&mut client, &pattern(len, seed + n as u64));
                }
            });
        }
    });
    server.finish();
}

/// As a ping, but larger than what both kernels hold.
fn exchange(client: &mut TcpStream, bytes: &[u8]) {
    let mut sending = client.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || sending.write_all(bytes).unwrap());
        let mut back = vec![0; bytes.len()];
        client.read_exact(&mut back).unwrap();
        assert!(back == *bytes, "other bytes came back");
    });
}

/// Descriptors and slots are used again at once: each client's bytes carry its own tag.
fn no_client_gets_another_clients_bytes(mode: Mode) {
    let server = Start::echo(mode).run();
    let at = server.addr;
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            scope.spawn(move || {
                for n in 0..300 {
                    let mut client = connect(at);
                    let tag = pattern(64, thread << 32 | n);
                    client.write_all(&tag).unwrap();
                    match n % 3 {
                        0 => reset(client), // with its answer on the way
                        1 => drop(client),
                        _ => {
                            let mut back = [0; 64];
                            client.read_exact(&mut back).unwrap();
                            assert_eq!(back[..], tag, "a stranger's bytes");
                        }
                    }
                }
            });
        }
    });
    server.has_connections(0);
    server.finish();
}

#[test]
fn equal_and_tiny_marks_do_not_stall() {
    let sets: [&[&str]; 3] = [
        &["--high-watermark", "1", "--low-watermark", "0"],
        &["--high-watermark", "1k", "--low-watermark", "1k"],
        &["--high-watermark", "64k", "--low-watermark", "64k", "--output-limit", "1m"],
    ];
    for marks in sets {
        let server = Start::echo(Mode::DEFAULT).args(marks).run();
        check_fitful(&server, 12 << 20);
        server.finish();
    }
}

#[test]
fn a_burst_then_silence_is_answered_whole() {
    let server = Start::echo(Mode::DEFAULT).loops(1).run();
    for n in 0..20 {
        let mut client = server.connect();
        exchange(&mut client, &pattern(1 << 20, n));
    }
}
