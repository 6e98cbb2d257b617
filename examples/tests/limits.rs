//! Every bound: connections, time, memory. Below it, at it, above it.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

in_every_mode!(
    the_connection_limit_is_exact_and_does_not_drift,
    never_readers_cost_bounded_memory_and_hurt_nobody,
    what_never_readers_needed_goes_back_when_they_have_gone,
    stuck_connections_are_closed_by_the_idle_timeout,
    a_silent_client_is_closed_in_time_and_not_before,
    an_idle_client_is_closed_in_time_and_not_before,
    an_active_client_is_never_idle,
    a_slow_reader_who_makes_progress_is_not_idle,
    memory_is_flat_after_a_burst,
    a_reader_stuck_above_the_mark_is_closed_in_time,
    a_message_that_does_not_end_is_closed_in_time_however_it_trickles,
    nobody_lives_longer_than_the_longest_lifetime,
    a_client_above_its_rate_waits_and_loses_nothing,
);

fn the_connection_limit_is_exact_and_does_not_drift(mode: Mode) {
    let server = Start::echo(mode).args(&["--max-connections", "5"]).run();
    let mut inside = server.connect_many(5);
    inside.iter_mut().for_each(|client| ping(client, b"in"));
    for _ in 0..10 {
        let (bytes, end) = read_to_end(&mut server.connect(), PATIENCE);
        assert!(bytes.is_empty() && end != End::Still, "one too many was left in silence");
    }
    inside.iter_mut().for_each(|client| ping(client, b"still in"));
    // At the limit, one out and one in, again and again: by FIN and by RST.
    for round in 0..200 {
        let leaves = inside.remove(0);
        if round % 2 == 0 {
            drop(leaves)
        } else {
            reset(leaves)
        }
        inside.push(admitted(&server));
    }
    drop(inside);
    server.has_connections(0);
    let mut again: Vec<_> = (0..5).map(|_| admitted(&server)).collect();
    again.iter_mut().for_each(|client| ping(client, b"all five places are free again"));
    let surplus = read_to_end(&mut server.connect(), PATIENCE);
    assert_ne!(surplus.1, End::Still, "the limit no longer holds");
    drop(again);
    let counts = server.finish();
    assert!(counts.get("closed(refused)") >= 11, "{counts:?}");
}

/// A client that got in, if need be after some tries.
fn admitted(server: &Server) -> TcpStream {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut client = server.connect();
        if try_ping(&mut client, b"in?").is_ok() {
            return client;
        }
        assert!(Instant::now() < end, "a free place serves nobody");
    }
}

fn never_readers_cost_bounded_memory_and_hurt_nobody(mode: Mode) {
    let server = Start::echo(mode).run();
    let mut honest = server.connect_many(4);
    honest.iter_mut().for_each(|client| ping(client, b"hello"));
    let before = proc::rss_kib(server.pid);
    let hostile = server.connect_many(60);
    hostile.iter().for_each(|client| _ = fill(client));
    honest.iter_mut().for_each(|client| ping(client, &pattern(10_000, 3)));
    let grown = proc::rss_kib(server.pid).saturating_sub(before);
    // Each holds a high mark's worth and what one receive adds to it, at most.
    assert!(grown < 60 * 256 + 4096, "{grown} KiB for 60 connections");
    drop(hostile);
    server.has_connections(4);
}

fn what_never_readers_needed_goes_back_when_they_have_gone(mode: Mode) {
    if cfg!(not(target_env = "gnu")) {
        return; // another allocator, with rules of its own
    }
    let server = Start::echo(mode).run();
    let before = proc::rss_kib(server.pid);
    let grown = || proc::rss_kib(server.pid).saturating_sub(before);
    let hostile = server.connect_many(200);
    let block = vec![1; 1 << 20];
    // The kernel takes long to pass so much on while other tests use up its memory for sockets.
    eventually("much is unsent", 5 * PATIENCE, || {
        for client in &hostile {
            client.set_nonblocking(true).unwrap();
            while (&*client).write(&block).is_ok() {}
        }
        grown() > 8 << 10
    });
    let most = grown();
    drop(hostile);
    server.has_connections(0);
    eventually("it has gone back", PATIENCE, || grown() < most / 3);
}

/// Its input is held back and its output stuck: nothing moves, so it is idle.
fn stuck_connections_are_closed_by_the_idle_timeout(mode: Mode) {
    let server = Start::echo(mode).args(&["--idle-timeout", "1s"]).run();
    let hostile = server.connect_many(10);
    hostile.iter().for_each(|client| _ = fill(client));
    server.has_connections(0);
    is_served(&server);
    let counts = server.finish();
    assert_eq!(counts.get("closed(idle)"), 10, "{counts:?}");
}

fn a_reader_stuck_above_the_mark_is_closed_in_time(mode: Mode) {
    let server = Start::echo(mode).args(&["--stuck-timeout", "1s"]).run();
    let mut spoke = server.connect();
    ping(&mut spoke, b"who reads");
    let stuck = server.connect_many(10);
    stuck.iter().for_each(|client| _ = fill(client));
    server.has_connections(1);
    ping(&mut spoke, b"may stay");
    drop((spoke, stuck));
    assert_eq!(server.finish().get("closed(stuck)"), 10);
}

fn a_message_that_does_not_end_is_closed_in_time_however_it_trickles(mode: Mode) {
    let server =
        Start::chat(mode).args(&["--message-timeout", "1s", "--idle-timeout", "60s"]).run();
    let mut silent = server.connect();
    let start = Instant::now();
    let mut endless = server.connect();
    let end = loop {
        match endless.write_all(b"x") {
            Ok(()) => std::thread::sleep(Duration::from_millis(50)),
            Err(_) => break start.elapsed(),
        }
        assert!(start.elapsed() < Duration::from_secs(20), "it goes on for ever");
    };
    assert!(end >= Duration::from_millis(990), "after {end:?}");
    server.has_connections(1);
    silent.write_all(b"no message had begun here\n").unwrap();
    drop((silent, endless));
    assert_eq!(server.finish().get("closed(message_timeout)"), 1);
}

fn nobody_lives_longer_than_the_longest_lifetime(mode: Mode) {
    let server = Start::echo(mode).args(&["--max-lifetime", "1s"]).run();
    let mut client = server.connect();
    let start = Instant::now();
    let mut answers = 0;
    loop {
        let mut answer = [0; 1];
        let asked = client.write_all(b"x");
        match asked.and_then(|()| std::io::Read::read(&mut client, &mut answer)) {
            Ok(1) => answers += 1,
            _ => break,
        }
        assert!(start.elapsed() < Duration::from_secs(20), "it lives for ever");
    }
    assert!(answers > 1 && start.elapsed() >= Duration::from_millis(990), "{answers} answers");
    assert_eq!(server.finish().get("closed(lifetime)"), 1);
}

fn a_silent_client_is_closed_in_time_and_not_before(mode: Mode) {
    let server = Start::echo(mode).args(&["--first-byte-timeout", "600ms"]).run();
    let mut spoke = server.connect();
    ping(&mut spoke, b"a first byte");
    let start = Instant::now();
    let mut silent = server.connect_many(20);
    for client in &mut silent {
        assert_eq!(read_to_end(client, PATIENCE), (vec![], End::Fin));
        assert!(start.elapsed() >= Duration::from_millis(590), "after {:?}", start.elapsed());
    }
    assert!(start.elapsed() < Duration::from_secs(15), "after {:?}", start.elapsed());
    ping(&mut spoke, b"who has spoken may be silent");
    drop((silent, spoke));
    assert_eq!(server.finish().get("closed(first_byte)"), 20);
}

fn an_idle_client_is_closed_in_time_and_not_before(mode: Mode) {
    let server = Start::echo(mode).args(&["--idle-timeout", "2s"]).run();
    let mut clients = server.connect_many(20);
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    clients.iter_mut().for_each(|client| ping(client, b"not idle"));
    for client in &mut clients {
        assert_eq!(read_to_end(client, PATIENCE), (vec![], End::Fin));
        assert!(start.elapsed() >= Duration::from_millis(1990), "after {:?}", start.elapsed());
    }
    assert!(start.elapsed() < Duration::from_secs(15), "after {:?}", start.elapsed());
    drop(clients);
    assert_eq!(server.finish().get("closed(idle)"), 20);
}

/// One byte from time to time keeps it, for many timeouts.
fn an_active_client_is_never_idle(mode: Mode) {
    let server = Start::echo(mode).args(&["--idle-timeout", "2s"]).run();
    let mut clients = server.connect_many(5);
    for _ in 0..14 {
        std::thread::sleep(Duration::from_millis(250));
        clients.iter_mut().for_each(|client| ping(client, b"."));
    }
}

/// The kernel's buffers hold megabytes: for seconds nothing moves but the peer's own reading.
fn a_slow_reader_who_makes_progress_is_not_idle(mode: Mode) {
    let server = Start::echo(mode).args(&["--idle-timeout", "2s"]).run();
    let mut client = server.connect();
    // A hundred pieces will be read, and that is half of what is there.
    let mut part = vec![0; fill(&client) / 200];
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(5000) {
        std::io::Read::read_exact(&mut client, &mut part).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    // And when it stops, it is.
    server.has_connections(0);
}

/// Buffers of a burst are given back, and no connection keeps one.
fn memory_is_flat_after_a_burst(mode: Mode) {
    let server = Start::echo(mode).run();
    let mut clients = server.connect_many(300);
    clients.iter_mut().for_each(|client| ping(client, b"hello"));
    let before = proc::rss_kib(server.pid);
    let bytes = pattern(1 << 20, 1);
    std::thread::scope(|scope| {
        for part in clients.chunks_mut(75) {
            let bytes = &bytes;
            scope.spawn(move || {
                for client in part {
                    let mut sending = client.try_clone().unwrap();
                    std::thread::scope(|scope| {
                        scope.spawn(move || sending.write_all(bytes).unwrap());
                        let mut back = vec![0; bytes.len()];
                        std::io::Read::read_exact(client, &mut back).unwrap();
                        assert!(back == *bytes);
                    });
                }
            });
        }
    });
    let after = proc::rss_kib(server.pid);
    assert!(after < before * 12 / 10 + 4096, "{before} KiB before, {after} KiB after");
    clients.iter_mut().for_each(|client| ping(client, b"all are still there"));
}

#[test]
fn slow_first_bytes_do_not_hold_places() {
    let args = ["--first-byte-timeout", "500ms", "--max-connections", "50"];
    let server = Start::echo(Mode::DEFAULT).args(&args).run();
    let _silent = server.connect_many(50);
    // A flood of the silent fills every place; an honest client still gets in, in time.
    ping(&mut admitted(&server), b"in the end");
}

#[test]
fn timeouts_of_any_size_are_taken() {
    for time in ["1ms", "24d", "49d", "100d", "1000000h", "99999999999s"] {
        let time = match time.strip_suffix('d') {
            Some(days) => format!("{}h", days.parse::<u64>().unwrap() * 24),
            None => time.to_owned(),
        };
        let args = ["--idle-timeout", &time, "--first-byte-timeout", &time];
        let server = Start::echo(Mode::DEFAULT).args(&args).run();
        let mut client = server.connect();
        if time == "1ms" {
            assert_ne!(read_to_end(&mut client, PATIENCE).1, End::Still);
        } else {
            ping(&mut client, b"nothing has wrapped round");
            let before = proc::cpu_time(server.pid);
            std::thread::sleep(Duration::from_millis(150));
            ping(&mut client, b"still not");
            let used = proc::cpu_time(server.pid) - before;
            assert!(used < Duration::from_millis(100), "{time}: it spins, {used:?}");
        }
    }
}

#[test]
fn ten_thousand_connections_are_held_and_answered() {
    let nofile = proc::raise_own_limit();
    let n = 10_000.min(nofile.saturating_sub(200));
    let args = ["--idle-timeout", "120s", "--first-byte-timeout", "120s"];
    let server = Start::echo(Mode::DEFAULT).args(&args).run();
    let mut clients = server.connect_many(n);
    for (n, client) in clients.iter_mut().enumerate() {
        client.write_all(&(n as u64).to_le_bytes()).unwrap();
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let mut back = [0; 8];
        std::io::Read::read_exact(client, &mut back).unwrap();
        assert_eq!(u64::from_le_bytes(back), n as u64);
    }
    server.has_connections(n);
    drop(clients);
    assert_eq!(server.finish().get("accepted"), n as u64);
}

/// There is no upper bound: a loaded machine may take as long as it likes.
fn a_client_above_its_rate_waits_and_loses_nothing(mode: Mode) {
    const LEN: usize = 300_000;
    let server = Start::echo(mode).args(&["--rate-limit", "200000"]).run();
    let client = server.connect();
    let sent = pattern(LEN, 9);
    let began = std::time::Instant::now();
    let back = std::thread::scope(|scope| {
        scope.spawn(|| {
            (&client).write_all(&sent).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        (&client).read_to_end(&mut back).unwrap();
        back
    });
    assert!(back == sent, "{} of {LEN} bytes", back.len());
    // 20,000 at once, and the rest at the rate.
    let least = Duration::from_secs_f64((LEN - 20_000) as f64 / 200_000.0);
    assert!(began.elapsed() >= least, "{:?} is too fast", began.elapsed());
    drop(client);
    assert!(server.finish().get("rate_waits") > 10);
}
