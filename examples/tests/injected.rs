//! System calls that fail, by strace: no error of accept, epoll_ctl, recv or send ends a server.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// Every error that accept(2) lists but those of a broken listener.
const PASSING: [&str; 17] = [
    "EMFILE",
    "ENFILE",
    "ENOBUFS",
    "ENOMEM",
    "EINTR",
    "ECONNABORTED",
    "EPERM",
    "EPROTO",
    "ENETDOWN",
    "ENOPROTOOPT",
    "EHOSTDOWN",
    "ENONET",
    "EHOSTUNREACH",
    "EOPNOTSUPP",
    "ENETUNREACH",
    "ETIMEDOUT",
    "ENOSR",
];

/// A server of one loop under strace, with an injection.
fn injected(mode: Mode, injection: &str) -> Server {
    injected_with(mode, 1, injection)
}

/// Not pinned: strace is slow enough.
fn injected_with(mode: Mode, loops: usize, injection: &str) -> Server {
    let trace = format!("trace={}", injection.split(':').next().unwrap());
    let inject = format!("inject={injection}");
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    // strace counts the calls of each thread by itself.
    Start::echo(mode).loops(loops).args(&["--no-pin"]).under(&strace).run()
}

in_every_mode!(
    no_error_of_accept_keeps_later_clients_out,
    accept_that_fails_always_is_not_tried_without_end,
    a_connection_that_epoll_refuses_costs_only_itself,
    interrupted_calls_are_made_again,
);

fn no_error_of_accept_keeps_later_clients_out(mode: Mode) {
    if !can_trace() {
        return;
    }
    // Of one loop it is the loop that accepts, of two the acceptor.
    for loops in [1, 2] {
        for errno in PASSING {
            let injection = format!("accept4:error={errno}:when=2+3");
            let server = injected_with(mode, loops, &injection);
            (0..6).for_each(|_| is_served(&server));
        }
    }
}

/// Descriptors have run out, and stay so for a second: few calls, and service afterwards.
fn accept_that_fails_always_is_not_tried_without_end(mode: Mode) {
    if !can_trace() {
        return;
    }
    let log = std::env::temp_dir().join(format!(
        "accepts-{}-{}-{}",
        std::process::id(),
        mode.accept,
        mode.fd_table
    ));
    let strace = ["strace", "-f", "-qq", "-o", log.to_str().unwrap(), "-e", "trace=accept4"];
    let server = Start::echo(mode)
        .args(&["--no-pin"])
        .under(&["-e", "inject=accept4:error=EMFILE:when=1..60"])
        .under(&strace)
        .run();
    let mut clients = server.connect_many(10);
    for client in &mut clients {
        // Served when it is over, or turned away by the spare descriptor.
        let start = Instant::now();
        let _ = try_ping(client, b"patience");
        assert!(start.elapsed() < PATIENCE);
    }
    is_served(&server);
    let first = Instant::now();
    let calls = || std::fs::read_to_string(&log).unwrap().matches("accept4(").count();
    let before = calls();
    assert!(before < 1500, "{before} calls");
    std::thread::sleep(Duration::from_millis(300));
    let after = calls();
    assert!(after - before < 20, "{} calls in {:?} of silence", after - before, first.elapsed());
    drop(server);
    std::fs::remove_file(log).unwrap();
}

/// The first epoll_ctl calls of a server are its own; one of the later ones is a client's.
fn a_connection_that_epoll_refuses_costs_only_itself(mode: Mode) {
    if !can_trace() {
        return;
    }
    for errno in ["ENOSPC", "ENOMEM", "EPERM"] {
        let server = injected(mode, &format!("epoll_ctl:error={errno}:when=4+2"));
        let before = proc::descriptor_counts(server.pid);
        let (mut served, mut refused) = (0, 0);
        for _ in 0..16 {
            match try_ping(&mut server.connect(), b"watched?") {
                Ok(()) => served += 1,
                Err(error) => {
                    assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "left in silence");
                    refused += 1;
                }
            }
        }
        assert!(served > 0 && refused > 0, "{served} served, {refused} refused");
        server.has_connections(0);
        eventually("no descriptor is left", PATIENCE, || {
            proc::descriptor_counts(server.pid) == before
        });
    }
}

fn interrupted_calls_are_made_again(mode: Mode) {
    if !can_trace() {
        return;
    }
    for call in ["epoll_pwait,epoll_wait", "recvfrom", "sendto,sendmsg", "write"] {
        let server = injected(mode, &format!("{call}:error=EINTR:when=2+3"));
        let mut client = server.connect();
        for n in 0..20 {
            ping(&mut client, &pattern(10_000, n));
        }
        // Each is a ring for the loop that gets it.
        (0..8).for_each(|_| is_served(&server));
    }
}

#[test]
fn a_failed_receive_or_send_costs_one_connection() {
    if !can_trace() {
        return;
    }
    for (call, errno) in [
        ("recvfrom", "ECONNRESET"),
        ("recvfrom", "ENOMEM"),
        ("recvfrom", "EIO"),
        ("sendto", "EPIPE"),
        ("sendto", "ENOBUFS"),
        ("sendto", "EACCES"),
    ] {
        let server = injected(Mode::DEFAULT, &format!("{call}:error={errno}:when=3"));
        let mut ended = 0;
        for _ in 0..8 {
            let mut client = server.connect();
            client.write_all(b"either back or an end").unwrap();
            let mut back = [0; 21];
            ended += usize::from(client.read_exact(&mut back).is_err());
        }
        assert!(ended <= 1, "{call} {errno}: {ended} connections ended");
        server.has_connections(0);
    }
}

#[test]
fn a_server_survives_options_that_cannot_be_set() {
    if !can_trace() {
        return;
    }
    // The calls after the listener's own: those that a server makes for its connections.
    let server = injected(Mode::DEFAULT, "setsockopt:error=EINVAL:when=5+");
    for _ in 0..5 {
        is_served(&server);
    }
    server.signal("TERM");
}

#[test]
fn getsockname_and_friends_may_fail_for_a_client() {
    if !can_trace() {
        return;
    }
    let server = injected(Mode::DEFAULT, "getpeername:error=ENOTCONN");
    for _ in 0..5 {
        is_served(&server);
    }
}

#[test]
fn a_broken_listener_is_said_loudly() {
    if !can_trace() {
        return;
    }
    let server = injected(Mode::DEFAULT, "accept4:error=EINVAL:when=1");
    eventually("it is logged", PATIENCE, || server.log().contains("broken"));
}
