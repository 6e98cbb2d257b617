//! Peers that end one direction, or both at once, or rudely.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What one receive takes at most.
const BLOCK: usize = 64 << 10;

in_every_mode!(
    bytes_and_fin_in_one_burst_are_all_answered,
    netcat_gets_its_answer_after_its_fin,
    eight_megabytes_and_fin_to_a_slow_reader_are_all_answered,
    no_connection_stays_in_close_wait,
    a_reset_in_any_state_frees_the_place,
    a_fin_alone_is_answered_with_fin,
);

/// The FIN may come with the last bytes: the edge that tells both comes once.
fn bytes_and_fin_in_one_burst_are_all_answered(mode: Mode) {
    let server = Start::echo(mode).run();
    for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 10 * BLOCK] {
        for round in 0..4 {
            let bytes = pattern(len, round);
            let (back, end) = send_all_and_read(server.connect(), &bytes);
            assert_eq!((back.len(), end), (len, End::Fin));
            assert!(back == bytes, "other bytes came back");
        }
    }
    server.has_connections(0);
    server.finish();
}

fn netcat_gets_its_answer_after_its_fin(mode: Mode) {
    if !has("nc") {
        return;
    }
    let server = Start::echo(mode).run();
    let (host, port) = (server.addr.ip().to_string(), server.addr.port().to_string());
    for _ in 0..10 {
        let mut netcat = Command::new("nc");
        netcat.args(["-N", &host, &port]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut netcat = child::spawn(&mut netcat, PATIENCE);
        netcat.stdin.take().unwrap().write_all(b"x").unwrap();
        let output = netcat.output();
        assert_eq!(output.stdout, b"x");
        assert!(output.status.success());
    }
}

fn eight_megabytes_and_fin_to_a_slow_reader_are_all_answered(mode: Mode) {
    let server = Start::echo(mode).run();
    let mut client = server.connect();
    let bytes = pattern(8 << 20, 1);
    let mut sending = client.try_clone().unwrap();
    let mut back = Vec::new();
    std::thread::scope(|scope| {
        let bytes = &bytes;
        scope.spawn(move || {
            sending.write_all(bytes).unwrap();
            sending.shutdown(Shutdown::Write).unwrap();
        });
        let mut part = vec![0; 128 << 10];
        loop {
            match client.read(&mut part).unwrap() {
                0 => break,
                n => back.extend_from_slice(&part[..n]),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    assert!(back == bytes, "{} of {} bytes, or others", back.len(), bytes.len());
}

fn no_connection_stays_in_close_wait(mode: Mode) {
    let server = Start::echo(mode).run();
    for round in 0..4 {
        let mut clients = server.connect_many(200);
        for (n, client) in clients.iter_mut().enumerate() {
            match (n + round) % 3 {
                0 => ping(client, b"bytes, then FIN"),
                1 => client.write_all(b"bytes that nobody waits for").unwrap(),
                _ => {}
            }
            client.shutdown(Shutdown::Write).unwrap();
        }
    }
    const CLOSE_WAIT: u8 = 8;
    eventually("no CLOSE_WAIT", PATIENCE, || {
        proc::count_in_state(server.addr.port(), CLOSE_WAIT) == 0
    });
    server.has_connections(0);
    server.finish();
}

/// While bytes are in flow, while the server waits for room, after a half-close, when idle.
fn a_reset_in_any_state_frees_the_place(mode: Mode) {
    let server = Start::echo(mode).run();
    let block = vec![7; 1 << 20];
    for round in 0..40 {
        let mut client = server.connect();
        match round % 4 {
            0 => {}
            1 => client.write_all(b"bytes that are never read").unwrap(),
            2 => {
                // More than buffers hold: its input is held back when the reset comes.
                client.set_nonblocking(true).unwrap();
                for _ in 0..40 {
                    let _ = client.write(&block); // full is what is wanted
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            _ => {
                client.write_all(b"and a FIN").unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            }
        }
        reset(client);
    }
    server.has_connections(0);
    is_served(&server);
    server.finish();
}

fn a_fin_alone_is_answered_with_fin(mode: Mode) {
    let server = Start::echo(mode).run();
    let mut clients = server.connect_many(50);
    for client in &mut clients {
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(client, PATIENCE), (vec![], End::Fin));
    }
    server.has_connections(0);
}

/// The kernel's receive stops at the urgent mark, and no further edge tells of what lies behind.
#[test]
fn urgent_data_in_the_stream_stalls_nothing() {
    let server = Start::echo(Mode::DEFAULT).run();
    for round in 0..20 {
        let mut client = server.connect();
        client.write_all(b"0123456789").unwrap();
        SockRef::from(&client).send_out_of_band(b"!").unwrap();
        client.write_all(b"abcdefghij").unwrap();
        let mut back = [0; 20];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"0123456789abcdefghij", "round {round}");
        ping(&mut client, b"and later ones");
        if round % 2 == 0 {
            SockRef::from(&client).send_out_of_band(b"?").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_to_end(&mut client, PATIENCE), (vec![], End::Fin));
        }
    }
}

#[test]
fn a_reset_storm_of_idle_connections_frees_all_places() {
    let server = Start::echo(Mode::DEFAULT).run();
    for _ in 0..3 {
        let mut clients = server.connect_many(1000);
        ping(&mut clients[999], b"all in");
        server.has_connections(1000);
        clients.into_iter().for_each(reset);
        server.has_connections(0);
    }
    let counts = server.finish();
    assert_eq!(counts.get("closed(peer_reset)"), 3000, "{counts:?}");
}
