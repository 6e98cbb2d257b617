//! One connection cannot take a loop for itself. No absolute times: every bound is generous.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

in_every_mode!(
    a_firehose_does_not_starve_ninety_nine_others,
    a_stuck_neighbour_delays_nobody,
    two_connections_that_alternate_lose_no_wake_up,
    a_flood_of_slow_bytes_leaves_room_for_others,
);

/// Sends and reads as fast as it can, until told.
fn firehose(mut client: TcpStream, stop: &AtomicBool) -> u64 {
    let mut sending = client.try_clone().unwrap();
    let block = vec![9; 256 << 10];
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if sending.write_all(&block).is_err() {
                    return;
                }
            }
            let _ = sending.shutdown(std::net::Shutdown::Write); // the end shows to the reader
        });
        let (mut part, mut total) = (vec![0; 256 << 10], 0);
        while let Ok(n @ 1..) = client.read(&mut part) {
            total += n as u64;
        }
        total
    })
}

fn a_firehose_does_not_starve_ninety_nine_others(mode: Mode) {
    let server = Start::echo(mode).loops(1).run();
    let hose = server.connect();
    let mut others = server.connect_many(99);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| firehose(hose, &stop));
        let start = Instant::now();
        let (mut rounds, mut worst) = (0, Duration::ZERO);
        while start.elapsed() < Duration::from_millis(800) || rounds < 3 {
            for client in &mut others {
                let asked = Instant::now();
                ping(client, b"ping");
                worst = worst.max(asked.elapsed());
            }
            rounds += 1;
        }
        stop.store(true, Ordering::Relaxed);
        let total = running.join().unwrap();
        assert!(total > 1 << 20, "the hose itself is starved: {total} bytes");
        assert!(worst < Duration::from_secs(2), "one answer took {worst:?}");
    });
}

fn a_stuck_neighbour_delays_nobody(mode: Mode) {
    let server = Start::echo(mode).loops(1).run();
    let stuck = server.connect();
    assert!(fill(&stuck) > 0);
    let before = proc::cpu_time(server.pid);
    let mut other = server.connect();
    for n in 0..200 {
        ping(&mut other, &pattern(1000, n));
    }
    std::thread::sleep(Duration::from_millis(400));
    let used = proc::cpu_time(server.pid) - before;
    assert!(used < Duration::from_millis(300), "it spins for the stuck one: {used:?}");
}

/// Strictly in turn: a lost wake-up would leave both waiting for ever.
fn two_connections_that_alternate_lose_no_wake_up(mode: Mode) {
    let server = Start::echo(mode).run();
    let (mut one, mut two) = (server.connect(), server.connect());
    for n in 0..3000u32 {
        ping(&mut one, &n.to_le_bytes());
        ping(&mut two, &n.to_le_bytes());
    }
}

/// Many who send a byte now and then, never a whole question.
fn a_flood_of_slow_bytes_leaves_room_for_others(mode: Mode) {
    let server = Start::echo(mode).run();
    let mut slow = server.connect_many(400);
    let mut honest = server.connect();
    for round in 0..10u8 {
        for client in &mut slow {
            client.write_all(&[round]).unwrap();
        }
        ping(&mut honest, &pattern(5000, round.into()));
    }
    for client in &mut slow {
        let mut back = [0; 10];
        client.read_exact(&mut back).unwrap();
        assert_eq!(back, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }
}
