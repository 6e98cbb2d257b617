//! The chat: lines to everyone else, on every loop, in the order of each speaker.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::*;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

in_every_mode!(
    a_line_reaches_everyone_else_on_every_loop,
    lines_of_each_speaker_keep_their_order,
    a_line_in_pieces_is_one_line,
    an_endless_line_closes_its_connection_only,
    a_reader_who_stops_is_cut_off_and_memory_is_bounded,
    lines_on_their_way_are_delivered_when_it_drains,
);

/// So many guests, all of whom are in: a first line has reached each of them.
fn guests(server: &Server, n: usize) -> Vec<BufReader<TcpStream>> {
    let mut guests: Vec<_> = (0..n).map(|_| BufReader::new(server.connect())).collect();
    server.has_connections(n);
    guests[0].get_mut().write_all(b"welcome\n").unwrap();
    for guest in &mut guests[1..] {
        assert_eq!(line(guest), "welcome");
    }
    guests
}

fn line(guest: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    guest.read_line(&mut line).unwrap();
    assert!(line.ends_with('\n'), "an end instead of a line: {line:?}");
    line.trim_end().to_owned()
}

fn a_line_reaches_everyone_else_on_every_loop(mode: Mode) {
    let server = Start::chat(mode).loops(3).run();
    let mut all = guests(&server, 12);
    for speaker in 0..all.len() {
        let said = format!("I am {speaker}");
        all[speaker].get_mut().write_all(format!("{said}\r\n").as_bytes()).unwrap();
        for (n, guest) in all.iter_mut().enumerate() {
            if n != speaker {
                assert_eq!(line(guest), said, "guest {n}");
            }
        }
    }
    drop(all);
    server.finish();
}

fn lines_of_each_speaker_keep_their_order(mode: Mode) {
    let server = Start::chat(mode).loops(3).run();
    let mut all = guests(&server, 6);
    const LINES: usize = 200;
    std::thread::scope(|scope| {
        for (n, guest) in all.iter().enumerate() {
            let mut speaking = guest.get_ref().try_clone().unwrap();
            scope.spawn(move || {
                for at in 0..LINES {
                    speaking.write_all(format!("{n} {at}\n").as_bytes()).unwrap();
                }
            });
        }
        for (own, guest) in all.iter_mut().enumerate() {
            scope.spawn(move || {
                let mut next = [0; 6];
                for _ in 0..5 * LINES {
                    let line = line(guest);
                    let (speaker, at) = line.split_once(' ').unwrap();
                    let speaker: usize = speaker.parse().unwrap();
                    assert_ne!(speaker, own, "its own line");
                    assert_eq!(at.parse(), Ok(next[speaker]), "of speaker {speaker}");
                    next[speaker] += 1;
                }
            });
        }
    });
}

fn a_line_in_pieces_is_one_line(mode: Mode) {
    let server = Start::chat(mode).run();
    let mut all = guests(&server, 3);
    for byte in b"one byte at a time\nand two\nlines at once\n".chunks(1) {
        all[0].get_mut().write_all(byte).unwrap();
    }
    for guest in &mut all[1..] {
        assert_eq!(line(guest), "one byte at a time");
        assert_eq!(line(guest), "and two");
        assert_eq!(line(guest), "lines at once");
    }
}

fn an_endless_line_closes_its_connection_only(mode: Mode) {
    let server = Start::chat(mode).run();
    let mut all = guests(&server, 3);
    let before = proc::rss_kib(server.pid);
    let mut endless = server.connect();
    let block = vec![b'x'; 64 << 10];
    for _ in 0..200 {
        if endless.write_all(&block).is_err() {
            break;
        }
    }
    assert_ne!(read_to_end(&mut endless, PATIENCE).1, End::Still);
    let grown = proc::rss_kib(server.pid).saturating_sub(before);
    assert!(grown < 8192, "{grown} KiB for one line");
    all[1].get_mut().write_all(b"we are still here\n").unwrap();
    assert_eq!(line(&mut all[2]), "we are still here");
}

/// The hard cap: what cannot be delivered ends the connection, whole lines before that.
fn a_reader_who_stops_is_cut_off_and_memory_is_bounded(mode: Mode) {
    let server = Start::chat(mode).args(&["--output-limit", "256k"]).run();
    let mut all = guests(&server, 3);
    let deaf = server.connect_many(10);
    server.has_connections(13);
    let before = proc::rss_kib(server.pid);
    let mut text = "y".repeat(4000);
    text.push('\n');
    // Each round is heard by the two who listen, and by none of the deaf, until they are cut off.
    let end = std::time::Instant::now() + 2 * PATIENCE;
    while server.watched_by_loop().iter().sum::<usize>() > 3 {
        assert!(std::time::Instant::now() < end, "the deaf are still in");
        for _ in 0..50 {
            all[0].get_mut().write_all(text.as_bytes()).unwrap();
        }
        for guest in &mut all[1..] {
            for _ in 0..50 {
                assert_eq!(line(guest).len(), 4000);
            }
        }
    }
    let grown = proc::rss_kib(server.pid).saturating_sub(before);
    assert!(grown < 10 * 512 + 8192, "{grown} KiB");
    drop((deaf, all));
    let counts = server.finish();
    assert_eq!(counts.get("closed(output_limit)"), 10, "{counts:?}");
}

fn lines_on_their_way_are_delivered_when_it_drains(mode: Mode) {
    let server = Start::chat(mode).run();
    let mut all = guests(&server, 4);
    for n in 0..50 {
        all[0].get_mut().write_all(format!("line {n}\n").as_bytes()).unwrap();
    }
    // The last of them has reached one guest, so all of them are in the server.
    for n in 0..50 {
        assert_eq!(line(&mut all[1]), format!("line {n}"));
    }
    std::thread::sleep(Duration::from_millis(50));
    server.signal("TERM");
    for guest in &mut all[2..] {
        for n in 0..50 {
            assert_eq!(line(guest), format!("line {n}"));
        }
        assert_eq!(guest.read_line(&mut String::new()).unwrap(), 0, "then FIN");
    }
    all.iter_mut().for_each(|guest| _ = guest.get_mut().shutdown(Shutdown::Both));
    assert_eq!(server.wait(PATIENCE).status.code(), Some(0));
}

#[test]
fn a_crowd_that_talks_at_once_hears_everything() {
    let server = Start::chat(Mode::DEFAULT).args(&["--output-limit", "16m"]).run();
    let mut all = guests(&server, 40);
    for (n, guest) in all.iter_mut().enumerate() {
        guest.get_mut().write_all(format!("guest {n}\n").as_bytes()).unwrap();
    }
    for guest in &mut all {
        let mut heard: Vec<_> = (0..39).map(|_| line(guest)).collect();
        heard.sort();
        heard.dedup();
        assert_eq!(heard.len(), 39);
    }
}
