//! The idle example: who says nothing is sent away in time, and told so; who does is not.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use std::time::{Duration, Instant};

in_every_mode!(the_idle_are_sent_away_and_told_so, whoever_says_something_stays);

fn the_idle_are_sent_away_and_told_so(mode: Mode) {
    let server = Start::idle(mode).args(&["--idle-timeout", "1s"]).run();
    let start = Instant::now();
    let mut clients = server.connect_many(20);
    clients.iter_mut().for_each(|client| ping(client, b"and then nothing"));
    for client in &mut clients {
        let (told, end) = read_to_end(client, PATIENCE);
        assert_eq!((told.as_slice(), end), (&b"you were idle\n"[..], End::Fin));
        assert!(start.elapsed() >= Duration::from_millis(990), "after {:?}", start.elapsed());
    }
    drop(clients);
    assert_eq!(server.finish().get("closed(idle)"), 20);
}

fn whoever_says_something_stays(mode: Mode) {
    let server = Start::idle(mode).args(&["--idle-timeout", "2s"]).run();
    let mut client = server.connect();
    for _ in 0..14 {
        std::thread::sleep(Duration::from_millis(250));
        ping(&mut client, b".");
    }
    drop(client);
    assert_eq!(server.finish().get("closed(idle)"), 0);
}

/// As muduo's example, which this is after.
#[test]
fn eight_seconds_are_the_usual_patience() {
    let server = Start::idle(Mode::DEFAULT).run();
    let start = Instant::now();
    let (told, _) = read_to_end(&mut server.connect(), PATIENCE);
    assert_eq!(told, b"you were idle\n");
    assert!(start.elapsed() >= Duration::from_millis(7990), "after {:?}", start.elapsed());
}
