//! The offload example: long work in two ways, and whoever shares the loop is answered meanwhile.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;

in_every_mode!(
    both_ways_give_the_same_answers_in_order,
    a_neighbour_is_answered_while_the_work_goes_on,
    who_leaves_takes_the_work_along,
    a_drain_waits_for_the_answers,
    what_cannot_be_done_is_said,
);

const BOTH: [&str; 2] = ["pool", "slices"];

fn offload(mode: Mode) -> Start {
    Start::echo(mode).program(env!("CARGO_BIN_EXE_offload"))
}

fn line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line
}

fn ask(client: &mut TcpStream, way: &str, below: u32) {
    client.write_all(format!("{way} {below}\n").as_bytes()).unwrap();
}

fn both_ways_give_the_same_answers_in_order(mode: Mode) {
    let server = offload(mode).run();
    let mut client = server.connect();
    let numbers = [(0, 0), (2, 0), (3, 1), (100, 25), (100_000, 9_592), (10, 4)];
    for way in BOTH {
        let asked: String = numbers.iter().map(|(n, _)| format!("{way} {n}\necho {n}\n")).collect();
        client.write_all(asked.as_bytes()).unwrap();
    }
    let mut answers = BufReader::new(client);
    for _ in BOTH {
        for (below, primes) in numbers {
            assert_eq!(line(&mut answers), format!("{primes} primes below {below}\n"));
            assert_eq!(line(&mut answers), format!("echo {below}\n"));
        }
    }
    drop(answers);
    server.finish();
}

fn a_neighbour_is_answered_while_the_work_goes_on(mode: Mode) {
    let server = offload(mode).loops(1).run();
    let (mut asker, mut neighbour) = (server.connect(), server.connect());
    for way in BOTH {
        ask(&mut asker, way, 3_000_000);
        (0..20).for_each(|_| ping(&mut neighbour, b"and you?\n"));
        asker.set_nonblocking(true).unwrap();
        let early = asker.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(early, Err(ErrorKind::WouldBlock), "{way}: the work was done before");
        asker.set_nonblocking(false).unwrap();
        let mut answers = BufReader::new(asker.try_clone().unwrap());
        assert_eq!(line(&mut answers), "216816 primes below 3000000\n");
    }
    drop((asker, neighbour));
    server.finish();
}

fn who_leaves_takes_the_work_along(mode: Mode) {
    let server = offload(mode).loops(1).run();
    let (mut asker, mut neighbour) = (server.connect(), server.connect());
    ask(&mut asker, "slices", 10_000_000);
    ping(&mut neighbour, b"it has begun\n");
    socket2::SockRef::from(&asker).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(asker); // with a reset
    ping(&mut neighbour, b"and goes on\n");
    drop(neighbour);
    assert_eq!(server.finish().get("jobs_dropped"), 1);
}

fn a_drain_waits_for_the_answers(mode: Mode) {
    let server = offload(mode).args(&["--drain-timeout", "60s"]).run();
    let mut clients = server.connect_many(4);
    for (client, way) in clients.iter_mut().zip(BOTH.iter().cycle()) {
        ping(client, b"here\n");
        ask(client, way, 300_000);
    }
    server.signal("TERM");
    for client in &mut clients {
        let (said, end) = read_to_end(client, PATIENCE);
        assert_eq!(String::from_utf8(said).unwrap(), "25997 primes below 300000\n");
        assert_eq!(end, End::Fin);
    }
    drop(clients);
    assert_eq!(server.wait(PATIENCE).status.code(), Some(0));
}

fn what_cannot_be_done_is_said(mode: Mode) {
    let server = offload(mode).args(&["--pool-threads", "1", "--pool-queue", "1"]).run();
    let mut client = server.connect();
    client.write_all(b"pool 10000001\nslices x\npool\n").unwrap();
    let mut answers = BufReader::new(client.try_clone().unwrap());
    for _ in 0..3 {
        assert_eq!(line(&mut answers), "error: N goes up to 10000000\n");
    }
    // One is worked at, one waits, and one more is told so.
    let mut clients = server.connect_many(3);
    clients.iter_mut().for_each(|client| ask(client, "pool", 2_000_000));
    let mut said: Vec<_> = clients.iter().map(|client| line(&mut BufReader::new(client))).collect();
    said.sort();
    let (done, busy) = ("148933 primes below 2000000\n", "error: too busy\n");
    assert!(said == [done, done, busy] || said == [done, busy, busy], "{said:?}");
    client.write_all(&[b'x'; 2000]).unwrap();
    assert!(line(&mut answers).starts_with("error: "));
    assert_eq!(line(&mut answers), "", "that was the last");
    drop((answers, client, clients));
    server.finish();
}
