//! Deadlines that no traffic moves: a message that does not end, a reader that is too slow, a life
//! that is too long. On virtual time: never early, at most two milliseconds late.

use super::{At, Outcome, Peer, Rig, Stage, on_both_rigs, somewhere, usual};
use crate::base::close_reason::{Callback, CloseReason, DeadlineKind};
use crate::config::limits::Limits;
use net_buffer::FileRange;
use std::time::Duration;

on_both_rigs! {
    a_message_taken_in_parts_is_late_where_it_is_marked: 10,
    a_marked_message_that_nobody_reads_is_not_late: 10,
    a_message_that_trickles_is_ended_in_time: 20,
    each_message_has_its_own_time: 20,
    bytes_that_came_in_time_count: 10,
    a_message_that_the_handler_keeps_waiting_is_not_late: 20,
    a_reader_too_slow_is_ended_though_it_is_never_idle: 20,
    a_reader_that_gets_below_the_mark_in_time_is_not_stuck: 20,
    a_life_ends_when_it_is_as_long_as_it_may_be: 20,
    a_handler_may_let_it_live_on: 10,
    the_nearest_of_all_comes_first: 20,
    without_them_an_idle_connection_has_no_box: 5,
    however_it_closes_it_is_no_older_than_it_may_be: 10,
    a_life_that_is_over_leaves_the_rest_one_write_timeout: 10,
    a_closing_connection_is_stuck_as_an_open_one_is: 10,
    a_file_behind_a_close_is_stuck_only_if_nothing_of_it_is_taken: 10,
    who_closes_and_is_read_in_time_is_not_cut_short: 4,
}

const MS: fn(u64) -> Duration = Duration::from_millis;

/// A stage that answers lines, and leaves what is not yet one.
fn lines<D: Rig>(seed: u64, change: impl FnOnce(&mut Limits)) -> Stage<D> {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.idle_timeout = Some(MS(10_000));
        change(limits);
    });
    stage.play(|at| match at {
        At::Data(conn, input) => {
            while let Some(line) = input.take_line() {
                let _ = conn.send(line);
            }
        }
        other => usual(other),
    });
    stage
}

fn message_in_100(limits: &mut Limits) {
    limits.message_timeout = Some(MS(100));
}

/// It is told of that deadline, and ends for it once the peer ends too.
fn ended_for<D: Rig>(stage: &mut Stage<D>, peer: &Peer, which: DeadlineKind) {
    assert!(stage.record(peer).calls.contains(&Callback::Deadline), "not told of {which:?}");
    peer.reads(true);
    peer.finish();
    stage.settle();
    assert_eq!(stage.record(peer).closed, Some(CloseReason::Deadline(which)));
}

fn is_told<D: Rig>(stage: &Stage<D>, peer: &Peer) -> bool {
    stage.record(peer).calls.contains(&Callback::Deadline)
}

fn a_message_that_trickles_is_ended_in_time<D: Rig>(seed: u64) {
    let mut stage = lines::<D>(seed, message_in_100);
    let peer = stage.open();
    stage.advance(500); // silence is the idle timeout's business
    for _ in 0..9 {
        peer.send(b"x");
        stage.advance(11);
    }
    assert!(!is_told(&stage, &peer));
    stage.advance(4);
    ended_for(&mut stage, &peer, DeadlineKind::Message);
    stage.stop();
}

/// A handler that takes each byte as it comes put the timeout off with each, for ever.
fn a_message_taken_in_parts_is_late_where_it_is_marked<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, message_in_100);
    let is_marked = seed.is_multiple_of(2);
    stage.play(move |at| match at {
        At::Data(conn, input) => {
            for byte in input.take_all() {
                match byte {
                    b'<' if is_marked => conn.message_began(),
                    b'>' if is_marked => conn.message_ended(),
                    _ => {}
                }
            }
        }
        other => usual(other),
    });
    let peer = stage.open();
    for _ in 0..5 {
        peer.send(b"<");
        stage.advance(60);
        peer.send(b"in parts");
        stage.advance(30);
        peer.send(b">");
        stage.advance(500);
    }
    assert!(!is_told(&stage, &peer), "each was whole in time");
    peer.send(b"<");
    for _ in 0..9 {
        stage.advance(11);
        peer.send(b"x");
    }
    assert!(!is_told(&stage, &peer));
    stage.advance(4);
    assert_eq!(is_told(&stage, &peer), is_marked);
    if is_marked {
        ended_for(&mut stage, &peer, DeadlineKind::Message);
    }
    stage.stop();
}

fn a_marked_message_that_nobody_reads_is_not_late<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, message_in_100);
    let peer = stage.open();
    let id = stage.id(&peer);
    stage.play(move |at| match at {
        At::Data(conn, input) => {
            if input.take_all().contains(&b'<') {
                conn.message_began();
                conn.pause();
            }
        }
        At::Message(here, _) => here.connection(id).unwrap().resume(),
        other => usual(other),
    });
    peer.send(b"<");
    stage.advance(1000);
    assert!(!is_told(&stage, &peer));
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    for _ in 0..10 {
        peer.send(b"x");
        stage.advance(11);
    }
    assert!(is_told(&stage, &peer), "what it takes now moves nothing");
    stage.stop();
}

fn each_message_has_its_own_time<D: Rig>(seed: u64) {
    let mut stage = lines::<D>(seed, message_in_100);
    let peer = stage.open();
    for _ in 0..10 {
        peer.send(b"one that ");
        stage.advance(60);
        peer.send(b"ends\nand the next ");
        stage.advance(60);
        peer.send(b"\n");
        stage.settle();
        stage.advance(500);
    }
    assert!(!is_told(&stage, &peer));
    peer.send(b"one that does not");
    stage.advance(99);
    assert!(!is_told(&stage, &peer));
    stage.advance(4);
    ended_for(&mut stage, &peer, DeadlineKind::Message);
    stage.stop();
}

fn bytes_that_came_in_time_count<D: Rig>(seed: u64) {
    let mut stage = lines::<D>(seed, message_in_100);
    let peer = stage.open();
    peer.send(b"late? ");
    stage.settle();
    // The loop is late itself: when it looks, both the end of the line and the deadline are there.
    peer.send(b"no\n");
    stage.world.get().now += 200;
    let now = stage.world.get().now;
    stage.world.get().limit = Some(now);
    stage.settle();
    assert!(!is_told(&stage, &peer));
    assert_eq!(peer.got(), b"late? no");
    stage.stop();
}

fn a_message_that_the_handler_keeps_waiting_is_not_late<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, message_in_100);
    let mut has_paused = false;
    stage.play(move |at| match at {
        At::Data(conn, input) => match input.take_line() {
            Some(line) => drop(conn.send(line).is_taken()),
            None if std::mem::replace(&mut has_paused, true) => {}
            None => conn.pause(),
        },
        At::Message(here, _) => here.each(|conn| conn.resume()),
        other => usual(other),
    });
    let peer = stage.open();
    peer.send(b"half a ");
    stage.advance(1000);
    assert!(!is_told(&stage, &peer), "nobody reads, so it cannot end");
    peer.send(b"line\n");
    stage.handle().post(0, 0).unwrap();
    stage.advance(500);
    assert_eq!(peer.got(), b"half a line");
    assert!(!is_told(&stage, &peer));
    stage.stop();
}

/// Sends much to whoever says something.
fn generous<D: Rig>(seed: u64, bytes: usize, change: impl FnOnce(&mut Limits)) -> Stage<D> {
    let mut stage = lines::<D>(seed, change);
    stage.play(move |at| match at {
        At::Data(conn, input) => {
            input.take_all();
            let _ = conn.send(&vec![1; bytes]);
        }
        other => usual(other),
    });
    stage
}

fn a_reader_too_slow_is_ended_though_it_is_never_idle<D: Rig>(seed: u64) {
    let mut stage = generous::<D>(seed, 200_000, |limits| {
        limits.stuck_timeout = Some(MS(300));
        limits.idle_timeout = Some(MS(100));
    });
    let peer = stage.open();
    peer.reads(false);
    peer.send(b"all of it");
    stage.settle();
    for _ in 0..14 {
        peer.read(200);
        stage.advance(20);
    }
    assert!(!is_told(&stage, &peer), "it reads, so it is not idle");
    for _ in 0..3 {
        peer.read(200);
        stage.advance(10);
    }
    let record = stage.record(&peer);
    assert_eq!(record.closed, Some(CloseReason::Deadline(DeadlineKind::Stuck)), "{record:?}");
    assert!(peer.saw_reset(), "it would not take the rest");
    stage.stop();
}

fn a_reader_that_gets_below_the_mark_in_time_is_not_stuck<D: Rig>(seed: u64) {
    let mut stage = generous::<D>(seed, 60_000, |limits| {
        limits.stuck_timeout = Some(MS(300));
        limits.low_watermark = 1024;
    });
    let peer = stage.open();
    for _ in 0..5 {
        peer.reads(false);
        peer.send(b"again");
        stage.advance(250);
        peer.reads(true);
        stage.advance(100);
    }
    assert!(!is_told(&stage, &peer));
    assert_eq!(peer.got().len(), 300_000);
    stage.advance(5000);
    assert!(!is_told(&stage, &peer));
    stage.stop();
}

fn a_life_ends_when_it_is_as_long_as_it_may_be<D: Rig>(seed: u64) {
    let mut stage = lines::<D>(seed, |limits| limits.lifetime_max = Some(MS(1000)));
    let log = stage.log.clone();
    stage.play(move |at| match at {
        At::Message(here, _) => drop(here.dial(somewhere(), log.session(None)).is_ok()),
        other => usual(other),
    });
    let peer = stage.open();
    let soon = stage.world.get().now + 100;
    stage.world.get().dials.push_back(Outcome::UpAt(soon));
    stage.handle().post(0, 0).unwrap();
    for _ in 0..99 {
        peer.send(b"busy\n");
        stage.advance(10);
    }
    assert!(!is_told(&stage, &peer));
    stage.advance(13);
    ended_for(&mut stage, &peer, DeadlineKind::Lifetime);
    let dialled = |stage: &Stage<D>| stage.log.get().records[1].calls.clone();
    assert!(!dialled(&stage).contains(&Callback::Deadline), "it came up later");
    stage.advance(110);
    assert!(dialled(&stage).contains(&Callback::Deadline));
    stage.stop();
}

fn a_handler_may_let_it_live_on<D: Rig>(seed: u64) {
    let mut stage = lines::<D>(seed, |limits| {
        limits.lifetime_max = Some(MS(100));
        limits.idle_timeout = None;
    });
    stage.play(|at| match at {
        At::Deadline(conn) => {
            assert_eq!(conn.close_reason(), Some(CloseReason::Deadline(DeadlineKind::Lifetime)))
        }
        other => usual(other),
    });
    let peer = stage.open();
    stage.advance(10_000);
    let told = stage.record(&peer).calls.iter().filter(|c| **c == Callback::Deadline).count();
    assert_eq!(told, 1);
    assert_eq!(stage.event_loop.state.wheel.len(), 0);
    stage.stop();
}

fn the_nearest_of_all_comes_first<D: Rig>(seed: u64) {
    for (which, nearest) in [
        (DeadlineKind::Idle, [50, 90, 90, 90]),
        (DeadlineKind::Message, [90, 50, 90, 90]),
        (DeadlineKind::Lifetime, [90, 90, 50, 90]),
        (DeadlineKind::Own, [90, 90, 90, 50]),
    ] {
        let mut stage = Stage::<D>::with(seed, |limits| {
            limits.idle_timeout = Some(MS(nearest[0]));
            limits.message_timeout = Some(MS(nearest[1]));
            limits.lifetime_max = Some(MS(nearest[2]));
        });
        stage.play(move |at| match at {
            At::Open(conn) => conn.set_deadline(Some(MS(nearest[3]))),
            At::Data(..) => {}
            other => usual(other),
        });
        let peer = stage.open();
        peer.send(b"the beginning of something");
        stage.settle();
        assert_eq!(stage.event_loop.state.wheel.len(), 1, "one entry for all of them");
        stage.advance(49);
        assert!(!is_told(&stage, &peer));
        stage.advance(4);
        ended_for(&mut stage, &peer, which);
        stage.stop();
    }
}

fn without_them_an_idle_connection_has_no_box<D: Rig>(seed: u64) {
    let mut stage = lines::<D>(seed, |limits| {
        limits.message_timeout = Some(MS(100));
        limits.stuck_timeout = Some(MS(100));
    });
    let peer = stage.open();
    peer.send(b"a line\n");
    stage.settle();
    let id = stage.id(&peer);
    assert!(stage.event_loop.state.head(id).unwrap().cold.is_none());
    stage.stop();
}

/// How a connection comes to have only the rest left to send.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Closes {
    ByClose,
    ByFinish,
    /// By `close`, and the peer ends while the rest is on its way.
    AndThePeerEnds,
    /// By `finish`, after the peer has ended.
    AfterThePeer,
}

const CLOSES: [Closes; 4] =
    [Closes::ByClose, Closes::ByFinish, Closes::AndThePeerEnds, Closes::AfterThePeer];

/// Buffers of which 400 B are a third: when so much is taken, some of the rest goes out.
const LITTLE: (usize, usize) = (1000, 1000);

/// A connection that closes with 500 KB unsent, to a peer that takes none of it by itself.
fn closing<D: Rig>(
    seed: u64,
    closes: Closes,
    change: impl FnOnce(&mut Limits),
) -> (Stage<D>, Peer) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.write_timeout = MS(1000);
        change(limits);
    });
    stage.note(format!("{closes:?}"));
    stage.world.get().buffers = LITTLE;
    stage.play(move |at| match at {
        At::Data(_, input) if closes == Closes::AfterThePeer => drop(input.take_all()),
        At::Data(conn, input) => {
            input.take_all();
            let _ = conn.send(&[7; 500_000]);
            if closes == Closes::ByFinish { conn.finish() } else { conn.close() }
        }
        At::End(conn) => {
            let _ = conn.send(&[7; 500_000]);
            conn.finish();
        }
        other => usual(other),
    });
    let peer = stage.open();
    peer.reads(false);
    peer.send(b"x");
    stage.settle();
    if matches!(closes, Closes::AndThePeerEnds | Closes::AfterThePeer) {
        peer.finish();
        stage.settle();
    }
    (stage, peer)
}

/// The peer takes a little of the rest each 90 ms. After how many milliseconds it is over, and why.
fn trickled<D: Rig>(stage: &mut Stage<D>, peer: &Peer) -> (u64, Option<CloseReason>) {
    let began = stage.world.get().now;
    for _ in 0..100 {
        if stage.record(peer).closed.is_some() {
            break;
        }
        peer.read(400);
        stage.advance(90);
    }
    (stage.world.get().now - began, stage.record(peer).closed)
}

/// `close` put every other deadline away, and each byte put its own off: a peer that took 400 B in each 0.9 s
/// kept half a megabyte for twenty minutes, with every limit at one second.
fn however_it_closes_it_is_no_older_than_it_may_be<D: Rig>(seed: u64) {
    for closes in CLOSES {
        for rate in [None, Some(crate::config::rate::Rate::per_second(3000))] {
            let (mut stage, peer) = closing::<D>(seed, closes, |limits| {
                limits.lifetime_max = Some(MS(1000));
                limits.send_rate = rate;
            });
            let (ms, closed) = trickled(&mut stage, &peer);
            assert_eq!(closed, Some(CloseReason::Deadline(DeadlineKind::Lifetime)));
            assert!(peer.saw_reset(), "it would not take the rest");
            // One that only finishes is told first, and closes.
            let most = if closes == Closes::ByFinish { 2100 } else { 1100 };
            assert!((900..=most).contains(&ms), "after {ms} ms");
            stage.stop();
        }
    }
}

fn a_life_that_is_over_leaves_the_rest_one_write_timeout<D: Rig>(seed: u64) {
    let mut stage = generous::<D>(seed, 500_000, |limits| {
        limits.lifetime_max = Some(MS(200));
        limits.write_timeout = MS(1000);
    });
    stage.world.get().buffers = LITTLE;
    let peer = stage.open();
    peer.reads(false);
    peer.send(b"x");
    stage.advance(205);
    assert!(is_told(&stage, &peer), "and it closes");
    let (ms, closed) = trickled(&mut stage, &peer);
    assert_eq!(closed, Some(CloseReason::Deadline(DeadlineKind::Lifetime)));
    assert!((900..=1100).contains(&ms), "after {ms} ms");
    stage.stop();
}

fn a_closing_connection_is_stuck_as_an_open_one_is<D: Rig>(seed: u64) {
    for closes in CLOSES {
        let (mut stage, peer) =
            closing::<D>(seed, closes, |limits| limits.stuck_timeout = Some(MS(500)));
        let (ms, closed) = trickled(&mut stage, &peer);
        assert_eq!(closed, Some(CloseReason::Deadline(DeadlineKind::Stuck)));
        assert!(peer.saw_reset(), "it would not take the rest");
        assert!((400..=600).contains(&ms), "after {ms} ms");
        stage.stop();
    }
}

/// A file is long, and is above the marks until its end: its time counts from the last part that was taken.
fn a_file_behind_a_close_is_stuck_only_if_nothing_of_it_is_taken<D: Rig>(seed: u64) {
    for is_taken in [true, false] {
        let mut stage = Stage::<D>::with(seed, |limits| {
            limits.stuck_timeout = Some(MS(500));
            limits.write_timeout = MS(5000);
        });
        let range = FileRange::new(super::files::file_of(&[7; 300_000]), 0, 300_000);
        stage.play(move |at| match at {
            At::Data(conn, input) => {
                input.take_all();
                let _ = conn.send_file(range.clone());
                conn.close();
            }
            other => usual(other),
        });
        let peer = stage.open();
        peer.reads(false);
        peer.send(b"x");
        stage.settle();
        for _ in 0..60 {
            if is_taken {
                peer.read(15_000);
            }
            stage.advance(90);
        }
        peer.reads(is_taken);
        peer.finish();
        stage.settle();
        let stuck = CloseReason::Deadline(DeadlineKind::Stuck);
        let expected = if is_taken { CloseReason::Local } else { stuck };
        assert_eq!(stage.record(&peer).closed, Some(expected));
        assert!(!is_taken || peer.got().len() == 300_000);
        stage.stop();
    }
}

fn who_closes_and_is_read_in_time_is_not_cut_short<D: Rig>(seed: u64) {
    for closes in CLOSES {
        let (mut stage, peer) = closing::<D>(seed, closes, |limits| {
            limits.stuck_timeout = Some(MS(500));
            limits.lifetime_max = Some(MS(60_000));
            limits.low_watermark = 4096;
        });
        // Below the low mark in time; and then as slowly as it likes.
        while stage.pending(&peer) > 4096 {
            peer.read(1000);
            stage.settle();
        }
        for _ in 0..2 {
            stage.advance(800);
            peer.read(400);
        }
        assert_eq!(stage.record(&peer).closed, None);
        peer.reads(true);
        peer.finish();
        stage.settle();
        let after = closes == Closes::AfterThePeer;
        let expected = if after { CloseReason::PeerEnded } else { CloseReason::Local };
        assert_eq!(stage.record(&peer).closed, Some(expected));
        assert_eq!(peer.got().len(), 500_000);
        stage.stop();
    }
}
