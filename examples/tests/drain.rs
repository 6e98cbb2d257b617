//! Ending: SIGTERM and SIGINT drain, a second signal cuts, and nothing that was asked is left
//! unanswered.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::RwLock;
use std::time::{Duration, Instant};

in_every_mode!(
    an_idle_server_ends_at_once_with_0,
    signals_that_the_parent_had_blocked_end_it_all_the_same,
    idle_connections_are_closed_and_delay_nothing,
    a_stream_in_flow_is_answered_whole,
    a_half_closed_stream_to_a_slow_reader_is_answered_whole,
    a_stream_to_a_fast_reader_is_answered_whole,
    a_connect_after_the_drain_began_is_refused,
    a_peer_that_never_closes_holds_it_no_longer_than_the_deadline,
    a_second_signal_cuts_and_tells_which,
    clients_who_never_stop_asking_are_let_go_between_two_answers,
    who_looks_for_the_end_before_each_question_loses_none,
    a_storm_of_connects_does_not_keep_it,
    those_not_yet_let_go_are_served_meanwhile,
    what_was_asked_before_the_drain_is_answered_in_full,
);

fn an_idle_server_ends_at_once_with_0(mode: Mode) {
    for signal in ["TERM", "INT"] {
        let server = Start::echo(mode).run();
        server.signal(signal);
        let ended = server.wait(PATIENCE);
        assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
        assert!(ended.after < Duration::from_secs(3), "idle, it took {:?}", ended.after);
        assert_eq!(ended.lines.len(), 1);
    }
}

/// As a supervisor leaves it that waits for signals by `sigwait`, and does not think of its children.
fn signals_that_the_parent_had_blocked_end_it_all_the_same(mode: Mode) {
    for signal in ["TERM", "INT", "QUIT"] {
        let server = Start::echo(mode).under(&["env", "--block-signal=TERM,INT,QUIT"]).run();
        is_served(&server);
        server.signal(signal);
        let ended = server.wait(PATIENCE);
        assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    }
    let server = Start::echo(mode).under(&["env", "--block-signal=TERM,INT,QUIT"]).run();
    let _stuck = stuck(&server);
    server.signal("TERM");
    std::thread::sleep(Duration::from_millis(200));
    server.signal("TERM");
    assert_eq!(server.wait(PATIENCE).status.code(), Some(128 + 15));
}

fn idle_connections_are_closed_and_delay_nothing(mode: Mode) {
    let server = Start::echo(mode).args(&["--drain-timeout", "60s"]).run();
    let mut silent = server.connect_many(50);
    let mut spoken = server.connect_many(50);
    spoken.iter_mut().for_each(|client| ping(client, b"hello"));
    server.has_connections(100);
    server.signal("TERM");
    for client in silent.iter_mut().chain(&mut spoken) {
        assert_eq!(read_to_end(client, PATIENCE), (vec![], End::Fin));
    }
    drop((silent, spoken));
    let ended = server.wait(PATIENCE);
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(Counts::of(&ended.log).get("closed(draining)"), 100);
}

/// The client has more on its way than all buffers hold, and reads only after the signal.
fn a_stream_in_flow_is_answered_whole(mode: Mode) {
    for megabytes in [1, 8, 24] {
        let server = Start::echo(mode).args(&["--drain-timeout", "60s"]).run();
        let mut client = server.connect();
        let bytes = pattern(megabytes << 20, 7);
        let mut sending = client.try_clone().unwrap();
        std::thread::scope(|scope| {
            let bytes = &bytes;
            scope.spawn(move || sending.write_all(bytes));
            // The reader is slow to begin, so that everything is full.
            std::thread::sleep(Duration::from_millis(200));
            server.signal("TERM");
            let mut back = vec![0; bytes.len()];
            client.read_exact(&mut back).unwrap();
            assert!(back == *bytes, "other bytes came back");
            assert_eq!(read_to_end(&mut client, PATIENCE), (vec![], End::Fin));
        });
        drop(client);
        assert_eq!(server.wait(PATIENCE).status.code(), Some(0));
    }
}

fn a_half_closed_stream_to_a_slow_reader_is_answered_whole(mode: Mode) {
    let server = Start::echo(mode).args(&["--drain-timeout", "60s"]).run();
    let mut client = server.connect();
    let bytes = pattern(8 << 20, 8);
    let mut sending = client.try_clone().unwrap();
    let mut back = Vec::new();
    std::thread::scope(|scope| {
        let bytes = &bytes;
        scope.spawn(move || {
            let _ = sending.write_all(bytes); // a reset shows in what is read
            let _ = sending.shutdown(Shutdown::Write);
        });
        std::thread::sleep(Duration::from_millis(100));
        server.signal("TERM");
        let mut part = vec![0; 256 << 10];
        while let Ok(n @ 1..) = client.read(&mut part) {
            back.extend_from_slice(&part[..n]);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    assert_eq!(back.len(), bytes.len());
    assert!(back == bytes, "other bytes came back");
    assert_eq!(server.wait(PATIENCE).status.code(), Some(0));
}

/// The signal comes at any moment of the flow, also into a gap between two pieces.
fn a_stream_to_a_fast_reader_is_answered_whole(mode: Mode) {
    let bytes = pattern(8 << 20, 9);
    for round in 0..12 {
        let server = Start::echo(mode).args(&["--drain-timeout", "60s"]).run();
        let client = server.connect();
        let back = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_micros(400 * round));
                server.signal("TERM");
            });
            let mut client = client.try_clone().unwrap();
            let mut sending = client.try_clone().unwrap();
            let bytes = &bytes;
            scope.spawn(move || sending.write_all(bytes));
            read_to_end(&mut client, PATIENCE)
        });
        assert_eq!((back.0.len(), back.1), (bytes.len(), End::Fin), "round {round}");
        drop(client);
        assert_eq!(server.wait(PATIENCE).status.code(), Some(0));
    }
}

fn a_connect_after_the_drain_began_is_refused(mode: Mode) {
    let server = Start::echo(mode).args(&["--drain-timeout", "30s"]).run();
    let mut busy = stuck(&server);
    server.signal("TERM");
    // A connection that the kernel made while the listener closed may be reset.
    eventually("a connect is refused", PATIENCE, || {
        let answer = TcpStream::connect(server.addr).map_err(|error| error.kind());
        answer.err() == Some(ErrorKind::ConnectionRefused)
    });
    for _ in 0..20 {
        let answer = TcpStream::connect(server.addr).map_err(|error| error.kind());
        assert_eq!(answer.err(), Some(ErrorKind::ConnectionRefused), "a listener is left open");
    }
    // Those inside are served to the end.
    let (_, end) = read_to_end(&mut busy, PATIENCE);
    assert_eq!(end, End::Fin);
    drop(busy);
    assert_eq!(server.wait(PATIENCE).status.code(), Some(0));
}

fn a_peer_that_never_closes_holds_it_no_longer_than_the_deadline(mode: Mode) {
    let server = Start::echo(mode).args(&["--drain-timeout", "1s"]).run();
    let mut stuck = stuck(&server);
    let _silent = server.connect();
    server.signal("TERM");
    let start = Instant::now();
    let ended = server.wait(PATIENCE);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(start.elapsed() >= Duration::from_millis(900), "before the deadline");
    assert!(start.elapsed() < Duration::from_secs(6), "long after the deadline");
    assert_eq!(read_to_end(&mut stuck, PATIENCE).1, End::Rst);
    assert_eq!(Counts::of(&ended.log).get("closed(drain_deadline)"), 1, "{}", ended.log);
}

fn a_second_signal_cuts_and_tells_which(mode: Mode) {
    for (first, second, code) in [("TERM", "TERM", 143), ("INT", "INT", 130), ("TERM", "INT", 130)]
    {
        let server = Start::echo(mode).args(&["--drain-timeout", "60s"]).run();
        let mut stuck = stuck(&server);
        server.signal(first);
        // Equal signals that are pending together are one.
        eventually("the drain begins", PATIENCE, || TcpStream::connect(server.addr).is_err());
        server.signal(second);
        let ended = server.wait(PATIENCE);
        assert_eq!(ended.status.code(), Some(code), "{}", ended.log);
        assert_eq!(read_to_end(&mut stuck, PATIENCE).1, End::Rst);
    }
}

/// A client with more unread bytes than all buffers hold: its connection cannot be idle.
fn stuck(server: &Server) -> TcpStream {
    let client = server.connect();
    fill(&client);
    client
}

/// Each gets every answer in full, then FIN (or RST, if it has asked again by then).
fn clients_who_never_stop_asking_are_let_go_between_two_answers(mode: Mode) {
    let server = Start::echo(mode).args(&["--drain-timeout", "60s"]).run();
    let at = server.addr;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for n in 0..16 {
            scope.spawn(move || {
                let mut client = connect(at);
                let question = pattern(100 + n, n as u64);
                loop {
                    if client.write_all(&question).is_err() {
                        return;
                    }
                    let mut back = Vec::new();
                    let mut part = [0; 256];
                    while back.len() < question.len() {
                        match client.read(&mut part) {
                            Ok(0) | Err(_) => {
                                assert!(back.is_empty(), "half an answer");
                                return;
                            }
                            Ok(n) => back.extend_from_slice(&part[..n]),
                        }
                    }
                    assert_eq!(back, question);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(200));
        server.signal("TERM");
    });
    assert_eq!(server.wait(PATIENCE).status.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(30), "half of the deadline");
}

/// As `Limits::quiet_time` is by default.
const QUIET_TIME: Duration = Duration::from_millis(30);

/// FIN comes with the last answer: between two system calls a client would ask once more.
fn who_looks_for_the_end_before_each_question_loses_none(mode: Mode) {
    fn has_ended(client: &TcpStream) -> bool {
        client.set_nonblocking(true).unwrap();
        let ended = !matches!(client.peek(&mut [0]), Err(e) if e.kind() == ErrorKind::WouldBlock);
        client.set_nonblocking(false).unwrap();
        ended
    }
    for _ in 0..8 {
        let server = Start::echo(mode).args(&["--drain-timeout", "60s"]).run();
        let at = server.addr;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(move || {
                    let mut client = connect(at);
                    let mut last = Instant::now();
                    while !has_ended(&client) {
                        let before = std::mem::replace(&mut last, Instant::now());
                        if let Err(error) = try_ping(&mut client, b"once more") {
                            // A client that the system kept from asking for so long was idle, and FIN may
                            // have crossed its question.
                            assert!(
                                before.elapsed() >= QUIET_TIME,
                                "the question was lost: {error}"
                            );
                            return;
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(100));
            server.signal("TERM");
        });
        assert_eq!(server.wait(PATIENCE).status.code(), Some(0));
    }
}

fn a_storm_of_connects_does_not_keep_it(mode: Mode) {
    let server = Start::echo(mode).args(&["--drain-timeout", "60s"]).run();
    let at = server.addr;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                let mut clients = Vec::new();
                // Until it is refused. Whoever got in gets an answer, FIN or RST: no silence.
                while let Ok(mut client) = TcpStream::connect(at) {
                    client.set_read_timeout(Some(PATIENCE)).unwrap();
                    let _ = client.write_all(b"x"); // it may be gone already
                    clients.push(client);
                    if clients.len() == 200 {
                        clients.clear();
                    }
                }
                for mut client in clients {
                    assert_ne!(read_to_end(&mut client, PATIENCE).1, End::Still);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(300));
        server.signal("TERM");
    });
    let ended = server.wait(PATIENCE);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    let counts = Counts::of(&ended.log);
    assert!(counts.get("accepted") > 100, "{counts:?}");
}

/// Half of the clients stay connected, half connect anew for each question, so that some are still
/// in the backlog when the signal comes. The lock is held for each connect and its question, and for
/// the signal: so it is known which came first. `DRAIN_ROUNDS` sets how often, instead of 20.
fn what_was_asked_before_the_drain_is_answered_in_full(mode: Mode) {
    const CLIENTS: u64 = 8;
    let rounds = std::env::var("DRAIN_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap());
    let mut answered_after = 0;
    for round in 0..rounds {
        let server = Start::echo(mode).args(&["--drain-timeout", "60s"]).run();
        let at = server.addr;
        let is_signalled = RwLock::new(false);
        let ask_on = &|n: u64| {
            let question = pattern(1 + (n * 4000 + round * 37) as usize, n);
            let mut client = connect(at);
            let mut after = 0;
            loop {
                let asking = is_signalled.read().unwrap();
                let is_late = *asking;
                let asked = client.write_all(&question);
                drop(asking);
                assert!(is_late || asked.is_ok(), "round {round}: {asked:?} before the drain");
                let mut back = vec![0; question.len()];
                let answer = asked.and_then(|()| client.read_exact(&mut back));
                let is_after = *is_signalled.read().unwrap();
                if is_late && answer.is_err() {
                    return after;
                }
                assert!(answer.is_ok(), "round {round}: no full answer: {answer:?}");
                assert!(back == question, "round {round}: other bytes came back");
                after += u64::from(is_after && !is_late);
                if n.is_multiple_of(2) {
                    let connecting = is_signalled.read().unwrap();
                    match TcpStream::connect(at) {
                        Ok(anew) => client = anew,
                        Err(_) if *connecting => return after,
                        Err(error) => panic!("round {round}: {error} before the drain"),
                    }
                    client.set_read_timeout(Some(PATIENCE)).unwrap();
                }
            }
        };
        answered_after += std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || ask_on(n))).collect();
            std::thread::sleep(Duration::from_millis(20 + round % 30));
            let mut signalled = is_signalled.write().unwrap();
            server.signal("TERM");
            *signalled = true;
            drop(signalled);
            clients.into_iter().map(|client| client.join().unwrap()).sum::<u64>()
        });
        let ended = server.wait(PATIENCE);
        assert_eq!(ended.status.code(), Some(0), "round {round}: {}", ended.log);
        assert_eq!(Counts::of(&ended.log).get("closed(drain_deadline)"), 0, "{}", ended.log);
        let late = TcpStream::connect(at).map_err(|error| error.kind());
        assert_eq!(late.err(), Some(ErrorKind::ConnectionRefused), "round {round}");
    }
    println!("{answered_after} questions of {rounds} drains were under way at the signal");
    assert!(answered_after > 0, "no question was under way in any drain: nothing was tested");
}

fn those_not_yet_let_go_are_served_meanwhile(mode: Mode) {
    let args = ["--drain-spread", "2s", "--drain-timeout", "60s"];
    let server = Start::echo(mode).args(&args).run();
    let mut clients = server.connect_many(64);
    clients.iter_mut().for_each(|client| ping(client, b"hello"));
    let start = Instant::now();
    server.signal("TERM");
    eventually("the listener is closed", PATIENCE, || TcpStream::connect(server.addr).is_err());
    let served = clients.iter_mut().filter_map(|client| {
        let mut back = [0; 5];
        let asked = client.write_all(b"again").and_then(|()| client.read_exact(&mut back));
        asked.ok().filter(|()| back == *b"again")
    });
    let served = served.count();
    for client in &mut clients {
        assert_ne!(read_to_end(client, PATIENCE).1, End::Still);
    }
    assert!(served > 0 || start.elapsed() > Duration::from_secs(1), "nobody was served meanwhile");
    assert!(start.elapsed() > Duration::from_millis(1500), "all were let go at once");
    let ended = server.wait(PATIENCE);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert_eq!(Counts::of(&ended.log).get("closed(draining)"), 64, "{}", ended.log);
}

#[test]
fn a_drain_before_any_client_leaves_no_thread() {
    for _ in 0..20 {
        let server = Start::echo(Mode::DEFAULT).loops(8).run();
        server.finish();
    }
}

#[test]
fn signals_other_than_these_keep_their_meaning() {
    let server = Start::echo(Mode::DEFAULT).run();
    server.signal("HUP");
    let ended = server.wait(PATIENCE);
    assert_eq!(ended.status.code(), None, "killed by the signal, as ever");
}
