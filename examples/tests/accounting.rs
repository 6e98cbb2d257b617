//! The memory budget is of the process: whatever is owed to those who do not read, its private memory stays
//! within the budget and a stated constant.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const BUDGET_KIB: u64 = 16 << 10;

/// What a process takes beyond its budget, as `Limits::memory_budget` says: a quarter of the budget for what
/// the allocator rounds up and cannot give back, what each loop has for itself, and a KiB or less for each
/// connection to which something is owed.
const BEYOND_KIB: u64 = BUDGET_KIB / 4 + 2 * LOOP_KIB + CLIENTS as u64;

/// Two blocks of 64 KiB, and the mailbox.
const LOOP_KIB: u64 = 1 << 10;

/// And what waits there, of mail and broadcasts: `Limits::mail_bytes`.
const MAIL_KIB: u64 = 16 << 10;

const CLIENTS: usize = 100;

/// A client that has next to no room for what it does not read.
fn never_reader(server: &Server, says: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.connect_timeout(&server.addr.into(), PATIENCE).unwrap();
    let mut client = TcpStream::from(socket);
    client.write_all(says.as_bytes()).unwrap();
    client
}

/// Of one-byte messages a budget of 16 MiB let a gibibyte be queued, since only their bytes were counted.
#[test]
fn whatever_is_owed_private_memory_stays_within_the_budget() {
    let kinds = [
        ("own", 1),
        ("own", 4096),
        ("shared", 200),
        ("shared", 20_000),
        ("unique", 1),
        ("unique", 200),
        ("framed", 20),
        ("framed", 4096),
        ("file", 1),
        ("mixed", 1),
        ("marked", 1),
        ("newest", 1),
        ("oldest", 1),
        ("oldest", 20),
        ("oldest", 4096),
        ("conflated", 1),
        ("lossy", 2000),
        ("mailed", 20),
        ("broadcast", 2000),
    ];
    for (kind, len) in kinds {
        let budget = format!("{}k", BUDGET_KIB);
        let args = ["--memory-budget", &budget, "--high-watermark", "1m", "--low-watermark", "64k"];
        let server = Start::owing(Mode::DEFAULT).args(&args).run();
        let mut honest = server.connect();
        ping(&mut honest, b"before\n");
        let before = proc::private_kib(server.pid);
        let says = format!("{kind} {len}\n");
        let clients = if len < 100 { CLIENTS / 5 } else { CLIENTS };
        let by_mail = matches!(kind, "mailed" | "broadcast");
        let beyond = BEYOND_KIB + if by_mail { 2 * MAIL_KIB } else { 0 };
        let owed: Vec<_> = (0..clients).map(|_| never_reader(&server, &says)).collect();
        let (began, mut most) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_millis(1500) {
            let grown = proc::private_kib(server.pid).saturating_sub(before);
            most = most.max(grown);
            assert!(grown <= BUDGET_KIB + beyond, "{kind} {len}: {grown} KiB more");
            std::thread::sleep(Duration::from_millis(20));
        }
        if kind == "broadcast" {
            drop(honest); // it is owed them too
        } else {
            ping(&mut honest, b"and who reads is served\n");
        }
        println!("{kind} of {len}: {most} KiB more at the most");
        drop(owed);
    }
}

/// The other server floods them, by copies and by pipes.
#[test]
fn what_tunnels_owe_stays_within_the_budget() {
    let upstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = upstream.local_addr().unwrap();
    let budget = format!("{}k", BUDGET_KIB);
    let server = Start::proxy(Mode::DEFAULT, at).args(&["--memory-budget", &budget]).run();
    let before = proc::private_kib(server.pid);
    let clients: Vec<_> = (0..CLIENTS).map(|_| never_reader(&server, "x")).collect();
    upstream.set_nonblocking(true).unwrap();
    let (mut others, block) = (Vec::new(), vec![1; 256 << 10]);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(2500) {
        while let Ok((other, _)) = upstream.accept() {
            other.set_nonblocking(true).unwrap();
            others.push(other);
        }
        for other in &mut others {
            // Whatever is not taken now: its buffers are full.
            while other.write(&block).is_ok_and(|n| n > 0) {}
        }
        let grown = proc::private_kib(server.pid).saturating_sub(before);
        assert!(grown <= BUDGET_KIB + BEYOND_KIB, "{grown} KiB more");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!others.is_empty(), "the proxy has dialled nobody");
    drop((clients, others));
}

/// Each of them is named once in a while, with its limit: a reset without a word was a riddle.
#[test]
fn who_is_reset_at_a_limit_is_named_in_the_log() {
    let server = Start::owing(Mode::DEFAULT).args(&["--output-limit", "64k"]).run();
    let mut client = never_reader(&server, "own 4096\n");
    let mut some = [0; 1];
    eventually("it is in the log", PATIENCE, || server.log().contains("output_limit"));
    let log = server.log();
    let line = log.lines().find(|line| line.contains("output_limit")).unwrap();
    assert!(line.contains("INFO") && line.contains("65536"), "{line}");
    let _ = client.read(&mut some);
}
