//! System calls that fail, by strace: no error of accept, epoll_ctl, recv or send ends a server.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::child::Bounded;
use common::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
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
    without_a_listener_left_the_server_drains_and_says_so,
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

/// What could not be received for want of memory is received a moment later.
#[test]
fn an_fd_channel_that_fails_once_in_a_while_loses_nobody() {
    if !can_trace() {
        return;
    }
    let mode = Mode { fd_table: "per-loop", ..Mode::DEFAULT };
    let server = injected_with(mode, 2, "recvmsg:error=ENOMEM:when=2+3");
    (0..20).for_each(|_| is_served(&server));
    assert!(!server.log().contains("broken"), "{}", server.log());
}

/// Containers refuse unshare, old kernels have no close_range, and a filter may refuse even to say the limit.
#[test]
fn without_calls_that_it_can_do_without_it_starts_and_says_so() {
    if !can_trace() || !has("prlimit") {
        return;
    }
    let mode = Mode { fd_table: "auto", ..Mode::DEFAULT };
    // Three times what one table holds, however low the limit is.
    let most = ["--max-connections", "3000"];
    let limited = ["prlimit", "--nofile=1000:1000"];
    for call in ["unshare:error=EPERM", "close_range:error=ENOSYS", "prlimit64:error=EPERM"] {
        let name = call.split(':').next().unwrap();
        let trace = [format!("trace={name}"), format!("inject={call}")];
        let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace[0], "-e", &trace[1]];
        let server = Start::echo(mode).args(&most).under(&strace).under(&limited).run();
        is_served(&server);
        if name != "prlimit64" {
            let says = |what| eventually(what, PATIENCE, || server.log().contains(what));
            says("--fd-table auto: no private tables here");
            says("RLIMIT_NOFILE 1000: one descriptor table holds");
        }
        server.finish();
    }
}

/// Whether strace may attach to a process that it has not started (Yama may forbid it).
fn can_attach() -> bool {
    if !can_trace() {
        return false;
    }
    let mut sleeper = child::spawn(Command::new("sleep").arg("0.5"), PATIENCE);
    let pid = sleeper.id().to_string();
    let mut strace = Command::new("strace");
    let strace = child::output(strace.args(["-qq", "-o", "/dev/null", "-p", &pid]), PATIENCE);
    sleeper.end();
    let attached = strace.status.success();
    if !attached {
        println!("skipped: strace may not attach here");
    }
    attached
}

/// The next such call of each of these threads fails with EINVAL. Ends with the server.
fn break_next(call: &str, server: &Server, of: impl Fn(&str) -> bool) -> Bounded {
    // Listed once: a thread that starts later, or that has not set its name yet, is not traced.
    let threads = proc::threads(server.pid).into_iter().filter(|(name, _)| of(name));
    let threads: Vec<_> = threads.map(|(_, tid)| tid).collect();
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    strace.args(["-e", &format!("inject={call}:error=EINVAL:when=1")]);
    threads.iter().for_each(|tid| _ = strace.args(["-p", &tid.to_string()]));
    let strace = child::spawn(&mut strace, child::LIFE);
    eventually("they are traced", PATIENCE, || {
        threads.iter().all(|tid| proc::thread_status(server.pid, *tid, "TracerPid") != "0")
    });
    strace
}

fn without_a_listener_left_the_server_drains_and_says_so(mode: Mode) {
    if !can_attach() {
        return;
    }
    for loops in [1, 2] {
        let mut server = Start::echo(mode).loops(loops).run();
        let mut client = server.connect();
        ping(&mut client, b"before");
        let mut strace = break_next("accept4", &server, |name| name.starts_with("net-"));
        // Of each loop's own listener, by the kernel's choice.
        eventually("all are broken", PATIENCE, || {
            let _ = TcpStream::connect(server.addr); // refused when all are
            server.log().contains("no listener is left") || !server.is_running()
        });
        assert_eq!(read_to_end(&mut client, PATIENCE).1, End::Fin, "those inside are drained");
        let at = server.addr;
        let ended = server.wait(PATIENCE);
        assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
        let why = format!("the last listener, on {at}, broke: Invalid argument");
        assert!(ended.log.contains(&why), "{}", ended.log);
        Counts::of(&ended.log);
        strace.end();
    }
}

#[test]
fn without_an_endpoint_left_the_server_drains_and_says_so() {
    if !can_attach() {
        return;
    }
    let mut server = Start::udp_echo(Mode::DEFAULT).run();
    let mut strace = break_next("recvmmsg", &server, |name| name.starts_with("net-loop"));
    eventually("both are broken", PATIENCE, || {
        // From another port each time: so the kernel comes to choose each loop.
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let _ = client.send_to(b"lost", server.addr);
        !server.is_running()
    });
    let at = server.addr;
    let ended = server.wait(PATIENCE);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert!(ended.log.contains(&format!("the last listener, on {at}, broke")), "{}", ended.log);
    strace.end();
}

#[test]
fn one_broken_listener_of_two_is_told_and_the_other_serves() {
    if !can_attach() {
        return;
    }
    let server = Start::echo(Mode::DEFAULT)
        .args(&["--listen", "127.0.0.2:0", "--admin", "127.0.0.1:0"])
        .run();
    let health = || admin::get(server.admin(), "/healthz");
    assert_eq!(health().status, 200);
    let mut strace = break_next("accept4", &server, |name| name == "net-acceptor");
    let _lost = server.connect();
    eventually("it is told", PATIENCE, || health().status == 503);
    assert_eq!(health().body, "a listener is broken\n");
    eventually("it is logged", PATIENCE, || {
        server.log().contains("this listener is broken and ends")
    });
    eventually("nobody listens there any more", PATIENCE, || {
        TcpStream::connect(server.addr).is_err()
    });
    let is_other = |port: &u16| *port != server.addr.port() && *port != server.admin().port();
    let other = proc::listening(server.pid, "tcp").into_iter().find(is_other).unwrap();
    ping(&mut connect(SocketAddr::from(([127, 0, 0, 2], other))), b"the other serves");
    server.finish();
    strace.end();
}
