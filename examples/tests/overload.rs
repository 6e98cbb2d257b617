//! Too many clients: from one source, in one second, or in all. Each refusal is told and counted.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use socket2::{Domain, Socket, Type};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

in_every_mode!(
    a_source_at_its_limit_is_refused_and_its_neighbour_is_not,
    who_is_refused_is_told_so,
    clients_are_accepted_at_the_rate_and_nobody_is_lost,
    when_full_who_comes_gets_in_and_the_active_stay,
    never_readers_stay_within_the_memory_budget,
    within_a_budget_what_is_unread_does_not_hide_in_the_kernel,
);

/// A client at an address of its own in 127.0.0.0/8.
fn connect_from(host: u8, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, host], 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let client = TcpStream::from(socket);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// A client from there that got in, if need be after some tries.
fn admitted_from(host: u8, server: &Server) -> TcpStream {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut client = connect_from(host, server.addr);
        if try_ping(&mut client, b"in?").is_ok() {
            return client;
        }
        assert!(Instant::now() < end, "a free place serves nobody");
    }
}

fn a_source_at_its_limit_is_refused_and_its_neighbour_is_not(mode: Mode) {
    let server = Start::echo(mode).args(&["--max-per-source", "3"]).run();
    let mut inside: Vec<_> = (0..3).map(|_| connect_from(2, server.addr)).collect();
    inside.iter_mut().for_each(|client| ping(client, b"below and at the limit"));
    for _ in 0..5 {
        let (bytes, end) = read_to_end(&mut connect_from(2, server.addr), PATIENCE);
        assert!(bytes.is_empty() && end != End::Still, "one above the limit is left in silence");
        ping(&mut connect_from(3, server.addr), b"another source");
    }
    for round in 0..100 {
        let leaves = inside.remove(0);
        if round % 2 == 0 {
            drop(leaves)
        } else {
            reset(leaves)
        }
        inside.push(admitted_from(2, &server));
    }
    drop(inside);
    server.has_connections(0);
    let mut again: Vec<_> = (0..3).map(|_| admitted_from(2, &server)).collect();
    assert_ne!(read_to_end(&mut connect_from(2, server.addr), PATIENCE).1, End::Still);
    again.iter_mut().for_each(|client| ping(client, b"all three places are free again"));
    drop(again);
    let counts = server.finish();
    assert!(counts.get("refused_per_source") >= 6, "{counts:?}");
    assert_eq!(counts.get("refused_per_source"), counts.get("closed(refused)"), "{counts:?}");
}

fn who_is_refused_is_told_so(mode: Mode) {
    let told = ["--refusal", "-ERR busy\\r\\n"]; // as Redis says it
    let server = Start::echo(mode).args(&["--max-connections=1"]).args(&told).run();
    let mut guest = server.connect();
    ping(&mut guest, b"the only place");
    for speaks in [false, true] {
        let mut refused = server.connect();
        if speaks {
            // It may be closed already.
            let _ = refused.write_all(b"GET / HTTP/1.1\r\n\r\n");
        }
        let (told, _) = read_to_end(&mut refused, PATIENCE);
        assert!(told == b"-ERR busy\r\n" || (speaks && told.is_empty()), "{told:?}");
    }
    ping(&mut guest, b"who is in hears nothing of it");
    drop(guest);
    let counts = server.finish();
    assert_eq!((counts.get("refused_full"), counts.get("refusals_sent")), (2, 2), "{counts:?}");
}

fn clients_are_accepted_at_the_rate_and_nobody_is_lost(mode: Mode) {
    let server = Start::echo(mode).args(&["--accept-rate", "50,10"]).run();
    std::thread::sleep(Duration::from_millis(300)); // the bucket is full
    let start = Instant::now();
    let mut clients = server.connect_many(40);
    clients.iter_mut().for_each(|client| ping(client, b"sooner or later"));
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(590), "30 beyond the burst at 50 a second, in {took:?}");
    drop(clients);
    let counts = server.finish();
    assert_eq!(counts.get("accepted"), 40);
    assert!(counts.get("accept_paused") > 0, "{counts:?}");
}

/// A flood of the idle fills every place, again and again, and honest clients still get in.
fn when_full_who_comes_gets_in_and_the_active_stay(mode: Mode) {
    let server = Start::echo(mode).args(&["--max-connections=40", "--reuse-idle=2s"]).run();
    let mut active = server.connect_many(4);
    // They are in: of two loops that accept for themselves, one may fill every place before the other
    // has accepted whom the kernel gave it first.
    active.iter_mut().for_each(|client| ping(client, b"in before it is full"));
    let mut flood = Vec::new();
    for _ in 0..2 {
        flood.extend(server.connect_many(60));
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(2300) {
            active.iter_mut().for_each(|client| ping(client, b"not idle"));
            std::thread::sleep(Duration::from_millis(20));
        }
        ping(&mut admitted_from(1, &server), b"in spite of the flood");
    }
    active.iter_mut().for_each(|client| ping(client, b"never closed"));
    assert!(server.watched_by_loop().iter().sum::<usize>() <= 40);
    drop((active, flood));
    let counts = server.finish();
    assert!(counts.get("closed(reused)") > 0, "{counts:?}");
    assert_eq!(counts.get("closed(refused)"), counts.get("refused_full"), "{counts:?}");
}

/// A thousand who send and never read, as many as descriptors allow: what is buffered is within the
/// budget at every sample, each that is shed is counted, and honest clients are served meanwhile.
fn never_readers_stay_within_the_memory_budget(mode: Mode) {
    const BUDGET: f64 = (16 << 20) as f64;
    let args = ["--memory-budget", "16m", "--admin", "127.0.0.1:0"];
    let server = Start::echo(mode).args(&args).run();
    let admin = server.admin();
    let mut honest = server.connect_many(4);
    let nofile = proc::raise_own_limit();
    let hostile = server.connect_many(1000.min(nofile.saturating_sub(200) / 2));
    let resident = proc::rss_kib(server.pid);
    let (mut samples, mut most) = (0, 0.0_f64);
    let block = vec![1; 1 << 20];
    for _ in 0..3 {
        for some in hostile.chunks(50) {
            for client in some {
                client.set_nonblocking(true).unwrap();
                // Whatever is not taken now: its buffers are full, or it was reset.
                while (&*client).write(&block).is_ok() {}
            }
            honest.iter_mut().for_each(|client| ping(client, b"in spite of all of them"));
            let samples_now = admin::metrics(admin);
            most = most.max(admin::sum(&samples_now, "net_core_buffered_bytes"));
            samples += 1;
            assert!(most <= BUDGET, "{most} bytes are buffered, at sample {samples}");
            assert_eq!(samples_now["net_core_memory_budget_bytes"], BUDGET);
            assert!(samples_now["net_core_kernel_tcp_memory_bytes"] > 0.0);
        }
    }
    // The budget was used; and with allocator and cold boxes no more than that and a half is there.
    assert!(most > BUDGET / 2.0, "only {most} bytes of the budget were used");
    let grown = proc::rss_kib(server.pid).saturating_sub(resident);
    assert!(grown < (24 << 10), "{grown} KiB more are resident");
    drop((honest, hostile));
    let counts = server.finish();
    assert!(counts.get("closed(memory_budget)") > 0, "{counts:?}");
}

/// What a never-reader leaves is kept here, where it counts, and not in megabytes of the kernel's.
fn within_a_budget_what_is_unread_does_not_hide_in_the_kernel(mode: Mode) {
    let left_in_kernel = |args: &[&str]| {
        let server = Start::echo(mode).args(args).run();
        let mut client = server.connect();
        client.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let block = vec![1; 1 << 20];
        while client.write_all(&block).is_ok() {}
        proc::unacknowledged(server.addr.port())
    };
    let within = left_in_kernel(&["--memory-budget", "64m"]);
    assert!(within < 512 << 10, "{within} bytes are in the kernel");
    let without = left_in_kernel(&[]);
    assert!(without > 1 << 20, "only {without} bytes are in the kernel: what bounds them?");
}
