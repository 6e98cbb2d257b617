//! Marks, caps and pauses: nobody's slowness costs memory without bound, and nobody waits for ever.

use super::actor::Actor;
use super::{At, Peer, Rig, Stage, on_both_rigs, pattern, somewhere, usual};
use crate::api::conn::Conn;
use crate::base::close_reason::{Callback, CloseReason, DeadlineKind};
use crate::config::policy::OverflowPolicy;
use crate::connection::life::State;
use crate::connection::outbox::SendOutcome;
use crate::features::dial::Dial;
use bytes::Bytes;
use net_buffer::LengthPrefix;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

on_both_rigs! {
    above_the_high_mark_the_own_input_waits: 40,
    room_comes_once_below_the_low_mark: 40,
    equal_marks_never_stall: 6,
    output_at_the_hard_cap_closes_and_nothing_is_skipped: 20,
    however_low_the_hard_cap_an_echo_to_a_slow_reader_is_held_and_not_closed: 20,
    at_the_hard_cap_messages_in_parts_are_answered_in_full: 20,
    at_the_hard_cap_who_never_reads_is_ended_in_time: 10,
    a_message_longer_than_the_hard_cap_is_answered_in_full: 4,
    who_never_reads_long_messages_meets_the_hard_cap: 10,
    who_sends_of_its_own_accord_is_read_on: 10,
    an_echo_of_all_that_is_streamed_to_it_never_stands_still: 3,
    who_answers_by_a_job_is_held_at_the_high_mark: 10,
    who_has_finished_is_read_although_much_is_unsent: 20,
    when_a_long_message_has_left_the_cap_holds_again: 10,
    input_at_its_limit_is_kept_and_above_it_closes: 20,
    a_pause_leaves_bytes_and_a_resume_needs_no_edge: 30,
    what_was_left_unread_comes_again_after_a_resume: 20,
    a_paused_connection_meets_a_reset: 20,
    a_held_connection_meets_a_reset: 20,
    a_paused_connection_meets_its_peers_end_after_the_resume: 20,
    who_pipelines_and_reads_is_answered_in_full: 20,
    a_handler_that_fills_the_kernel_in_on_room_leaves_others_their_turn: 10,
}

fn above_the_high_mark_the_own_input_waits<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let limits = stage.limits();
    let peer = stage.open();
    peer.reads(false);
    let sent = pattern(0, 1 << 18);
    peer.send(&sent);
    stage.settle();
    let pending = stage.pending(&peer);
    let most = limits.high_watermark + limits.receive_block_bytes;
    assert!(pending <= most, "{pending} B wait in the loop");
    let is_full = {
        let wire = peer.wire();
        wire.arrived.len() == wire.arrived_max
    };
    assert!(is_full, "the kernel's buffer is what holds the peer back");
    peer.reads(true);
    stage.settle();
    assert!(peer.got() == sent);
    stage.stop();
}

fn however_low_the_hard_cap_an_echo_to_a_slow_reader_is_held_and_not_closed<D: Rig>(seed: u64) {
    for (high, cap) in [(1, 1), (4096, 4096), (4096, 5000), (65_536, 65_536), (65_536, 98_304)] {
        let mut stage = Stage::<D>::with(seed, |limits| {
            (limits.low_watermark, limits.high_watermark) = (high / 4, high);
            limits.output_limit = cap;
        });
        let peer = stage.open();
        let sent = pattern(0, if cap == 1 { 500 } else { 1 << 18 });
        let mut from = 0;
        while from < sent.len() {
            let some = stage.rng.within(1, sent.len() - from);
            peer.send(&sent[from..from + some]);
            from += some;
            let reads = stage.rng.one_in(2);
            peer.reads(reads);
            stage.settle();
            let pending = stage.pending(&peer);
            assert!(pending <= cap, "{pending} B wait in the loop, of {cap}");
        }
        peer.reads(true);
        stage.settle();
        assert!(peer.got() == sent, "{} of {} B, cap {cap}", peer.got().len(), sent.len());
        stage.stop();
    }
}

/// What the handler has left of a message comes back with the rest of it, in one answer.
fn at_the_hard_cap_messages_in_parts_are_answered_in_full<D: Rig>(seed: u64) {
    for (low, cap) in [(0, 8192), (8192, 8192), (2000, 9000)] {
        let mut stage = Stage::<D>::with(seed, |limits| {
            (limits.low_watermark, limits.high_watermark) = (low, 8192);
            limits.output_limit = cap;
        });
        stage.play(move |at| {
            let At::Data(conn, input) = at else { return usual(at) };
            while let Some(end) = input.peek().iter().position(|byte| *byte == b'\n') {
                let line = input.take(end + 1).unwrap();
                assert!(conn.send(line).is_taken(), "cap {cap}");
            }
        });
        let peer = stage.open();
        let mut sent = Vec::new();
        for _ in 0..60 {
            let mut line = vec![b'x'; stage.rng.within(1, 3000)];
            line.push(b'\n');
            for part in line.chunks(stage.rng.within(1, 3000)) {
                peer.send(part);
                let reads = stage.rng.one_in(2);
                peer.reads(reads);
                stage.settle();
            }
            sent.extend(line);
        }
        peer.reads(true);
        stage.settle();
        assert!(peer.got() == sent, "{} of {} B, cap {cap}", peer.got().len(), sent.len());
        stage.stop();
    }
}

fn at_the_hard_cap_who_never_reads_is_ended_in_time<D: Rig>(seed: u64) {
    for (low, high) in [(0, 4096), (4096, 4096), (1, 2000)] {
        let mut stage = Stage::<D>::with(seed, |limits| {
            (limits.low_watermark, limits.high_watermark) = (low, high);
            limits.output_limit = 4096;
            limits.stuck_timeout = Some(Duration::from_millis(100));
        });
        let peer = stage.open();
        peer.reads(false);
        peer.send(&pattern(0, 1 << 18));
        stage.settle();
        assert_eq!(stage.record(&peer).closed, None);
        // With equal marks each byte that the kernel still takes begins its time anew.
        stage.advance(1000);
        let closed = stage.record(&peer).closed;
        assert_eq!(closed, Some(CloseReason::Deadline(DeadlineKind::Stuck)), "{low} {high}");
        stage.stop();
    }
}

fn room_comes_once_below_the_low_mark<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let low = stage.limits().low_watermark;
    let peer = stage.open();
    peer.reads(false);
    let rooms = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&rooms);
    stage.play(move |at| match at {
        At::Data(conn, input) => {
            input.take_all();
            let queued = conn.send(&[5; 60_000]);
            assert_eq!(queued, SendOutcome::AboveHighWatermark);
        }
        At::Room(conn) => {
            seen.borrow_mut().push(conn.unsent());
            assert!(conn.is_open());
        }
        other => usual(other),
    });
    peer.send(b"x");
    stage.settle();
    assert!(rooms.borrow().is_empty());
    for _ in 0..2000 {
        peer.read(100);
        stage.settle();
    }
    let rooms = rooms.borrow();
    assert_eq!(rooms.len(), 1, "{rooms:?}");
    assert!(rooms[0] <= low, "{rooms:?}");
    assert_eq!(peer.got().len(), 60_000);
    stage.stop();
}

/// As a proxy would: what one connection receives the other sends, and reading goes by room.
fn equal_marks_never_stall<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.high_watermark = 300;
        limits.low_watermark = 300;
    });
    stage.world.get().buffers = (200, 200);
    let (left, right) = (stage.open(), stage.open());
    let ids = [stage.id(&left), stage.id(&right)];
    stage.play(move |at| match at {
        At::Data(conn, input) => {
            let own = conn.id();
            let other = if own == ids[0] { ids[1] } else { ids[0] };
            let queued = conn.other(other).unwrap().send(input.take_all());
            assert!(queued.is_taken());
            if queued == SendOutcome::AboveHighWatermark {
                conn.pause();
            }
        }
        At::Room(conn) => {
            let other = if conn.id() == ids[0] { ids[1] } else { ids[0] };
            conn.other(other).unwrap().resume();
        }
        other => usual(other),
    });
    let (mut sent, mut back) = (0, 0);
    for round in 0..10_000 {
        let len = stage.rng.within(1, 700);
        left.send(&pattern(sent, len));
        sent += len;
        if round % 3 == 0 {
            right.send(&pattern(back, 100));
            back += 100;
        }
        match stage.rng.below(4) {
            0 => right.reads(false),
            1 => right.reads(true),
            2 => right.read(300),
            _ => {}
        }
        stage.turn();
        if round % 100 == 0 {
            right.reads(true);
            stage.settle();
            assert_eq!(right.got().len(), sent, "stalled in round {round}");
            assert_eq!(left.got().len(), back, "stalled in round {round}");
        }
    }
    right.reads(true);
    stage.settle();
    assert!(right.got() == pattern(0, sent) && left.got() == pattern(0, back));
    stage.stop();
}

fn output_at_the_hard_cap_closes_and_nothing_is_skipped<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.output_limit = 10_000);
    let peer = stage.open();
    peer.reads(false);
    let taken = Rc::new(RefCell::new(0));
    let counts = Rc::clone(&taken);
    stage.play(move |at| match at {
        At::Data(conn, input) => {
            input.take_all();
            let mut was_refused = false;
            for n in 0..400 {
                let len = if n % 3 == 0 { 1 } else { 100 };
                let bytes = pattern(*counts.borrow(), len);
                let queued = match n % 2 {
                    0 => conn.send(&bytes),
                    _ => conn.send_shared(Bytes::from(bytes)),
                };
                assert!(!was_refused || !queued.is_taken(), "taken after a gap");
                was_refused |= !queued.is_taken();
                *counts.borrow_mut() += if queued.is_taken() { len } else { 0 };
                assert!(conn.unsent() <= 10_000);
            }
            assert!(was_refused && !conn.is_open());
        }
        other => usual(other),
    });
    peer.send(b"x");
    stage.settle();
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::OutputLimit));
    assert!(peer.saw_reset());
    let dropped = stage.count(crate::observe::counters::Counter::BytesDropped);
    let sent = stage.count(crate::observe::counters::Counter::BytesOut);
    assert_eq!(dropped + sent, *taken.borrow() as u64, "lost silently");
    stage.stop();
}

/// One number bounded the queue of a slow reader and the longest message: whoever asked for an echo of
/// 300 KB below a cap of 256 KiB was reset.
fn a_message_longer_than_the_hard_cap_is_answered_in_full<D: Rig>(seed: u64) {
    const LEN: usize = 30_000;
    for way in 0..9 {
        let mut stage = Stage::<D>::with(seed, |limits| {
            (limits.output_limit, limits.input_bytes_max) = (10_000, 200_000);
        });
        stage.play(move |at| {
            let At::Data(conn, input) = at else { return usual(at) };
            // As documented: whoever is told `AboveHighWatermark` leaves the rest in `input`.
            while input.len() >= LEN {
                if way == 8 {
                    if input.len().is_multiple_of(LEN) {
                        assert!(conn.echo(input).is_taken());
                    }
                    return;
                }
                assert!(conn.send(b"<").is_taken());
                let bytes = Bytes::copy_from_slice(input.take(LEN).unwrap());
                let queued = match way {
                    0 => conn.send(&bytes),
                    1 => conn.send_shared(bytes),
                    2 => conn
                        .send_frame(&LengthPrefix::u8(9), Bytes::new())
                        .and_then(|_| conn.send_frame(&LengthPrefix::u32_be(LEN), bytes))
                        .unwrap(),
                    3 => conn.send_with(bytes, OverflowPolicy::Close),
                    4 => conn.send_with(bytes, OverflowPolicy::DropNewest),
                    5 => conn.send_with(bytes, OverflowPolicy::DropOldest),
                    6 => conn.send_with(bytes, OverflowPolicy::Conflate(1)),
                    _ => conn.split().1.send(&bytes),
                };
                assert!(queued.is_taken(), "by way {way}: {queued:?}");
                assert!(conn.send(b">").is_taken());
                if queued == SendOutcome::AboveHighWatermark {
                    return;
                }
            }
        });
        let peer = stage.open();
        let mut expected = Vec::new();
        for n in 0..4 {
            let message = pattern(n, LEN);
            peer.reads(n % 2 == 0);
            peer.send(&message);
            stage.settle();
            match way {
                2 => expected.extend([b"<\0\0\0\x75\x30", &message[..], b">"].concat()),
                8 => expected.extend(message),
                _ => expected.extend([b"<", &message[..], b">"].concat()),
            }
        }
        peer.reads(true);
        stage.settle();
        assert!(peer.got() == expected, "way {way}: {} of {}", peer.got().len(), expected.len());
        assert_eq!(stage.state(&peer), State::Open);
        stage.stop();
    }
}

fn who_never_reads_long_messages_meets_the_hard_cap<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.output_limit = 10_000);
    let peer = stage.open();
    peer.reads(false);
    stage.play(|at| match at {
        At::Message(here, len) => here.each(|conn| _ = conn.send(&vec![1; len as usize])),
        other => usual(other),
    });
    stage.handle().post(0, 60_000).unwrap();
    stage.settle();
    assert_eq!(stage.state(&peer), State::Open, "the first is taken");
    for _ in 0..3 {
        stage.handle().post(0, 3000).unwrap();
        stage.settle();
    }
    assert!(stage.pending(&peer) <= 70_000 && stage.state(&peer) == State::Open);
    stage.handle().post(0, 60_000).unwrap();
    stage.settle();
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::OutputLimit));
    stage.stop();
}

/// Who streams, and to whom.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Streams {
    /// To a client, of its own accord.
    Accepted,
    /// To a server that it has dialled; and in `on_data` too.
    Dialled,
    /// To a client, in `on_data` too, and has said so.
    SaidSo,
}

/// One connection that is sent to until `AboveHighWatermark`, and again in `on_writable`, so many bytes:
/// from the moment at which its peer, who comes back, reads no more.
fn streaming<D: Rig>(stage: &mut Stage<D>, who: Streams, left: usize) -> Peer {
    let mut from = 0;
    let mut stream = move |conn: &mut Conn<'_, Actor>| {
        while from < left {
            let piece = (left - from).min(700);
            let queued = conn.send(&pattern(from, piece));
            assert!(queued.is_taken());
            from += piece;
            if queued == SendOutcome::AboveHighWatermark {
                return;
            }
        }
    };
    let mut has_dialled = false;
    let mut id = None;
    stage.play(move |at| match at {
        At::Open(conn) if who == Streams::Dialled && !has_dialled => {
            has_dialled = true;
            let session = conn.session().another();
            conn.event_loop().dial(Dial::to(somewhere()), session).unwrap();
        }
        At::Open(conn) => {
            if who == Streams::SaidSo {
                conn.full_duplex(true);
            }
            id = Some(conn.id());
        }
        At::Message(here, _) => stream(&mut here.connection(id.unwrap()).unwrap()),
        At::Room(conn) => stream(conn),
        At::Data(conn, input) => {
            input.take_all();
            if who != Streams::Accepted {
                stream(conn);
            }
        }
        other => usual(other),
    });
    let client = stage.open();
    let peer = match who {
        Streams::Dialled => {
            let wire = stage.world.get().wires.len() - 1;
            stage.world.peer(wire)
        }
        _ => client,
    };
    peer.reads(false);
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    peer
}

fn who_sends_of_its_own_accord_is_read_on<D: Rig>(seed: u64) {
    for who in [Streams::Accepted, Streams::Dialled, Streams::SaidSo] {
        let mut stage = Stage::<D>::new(seed);
        stage.world.get().buffers = (1000, 1000);
        let peer = streaming(&mut stage, who, 100_000);
        let said = pattern(3, 50_000);
        peer.send(&said);
        stage.settle();
        let heard: usize = stage.log.get().records.iter().map(|record| record.data_bytes).sum();
        assert_eq!(heard, said.len(), "{who:?} waits for a peer that does not read");
        peer.reads(true);
        stage.settle();
        assert!(peer.got() == pattern(0, 100_000));
        stage.stop();
    }
}

/// It stood still until the idle timeout: we did not read what it could not write, and it did not read
/// what we had to say.
fn an_echo_of_all_that_is_streamed_to_it_never_stands_still<D: Rig>(seed: u64) {
    const LEN: usize = 60_000;
    for who in [Streams::Accepted, Streams::Dialled, Streams::SaidSo] {
        let mut stage = Stage::<D>::new(seed);
        stage.world.get().buffers = (1000, 1000);
        let peer = streaming(&mut stage, who, LEN);
        let mut echoed = 0;
        // It reads only what it can send back at once, as an echo that blocks.
        for _ in 0..10_000 {
            if peer.wire().coming.is_empty() {
                peer.read(500);
                let got = peer.got();
                peer.send(&got[echoed..]);
                echoed = got.len();
            }
            stage.settle();
            if echoed == LEN {
                break;
            }
        }
        stage.settle();
        let heard: usize = stage.log.get().records.iter().map(|record| record.data_bytes).sum();
        assert_eq!((echoed, heard), (LEN, LEN), "{who:?}");
        stage.stop();
    }
}

/// What a pool or a job makes of its input is an answer, as what `on_data` sends.
fn who_answers_by_a_job_is_held_at_the_high_mark<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let limits = stage.limits();
    stage.play(|at| match at {
        At::Data(conn, input) => {
            let bytes = input.take_all().to_vec();
            let job = conn.in_slices(move |_: &mut Actor, conn: &mut Conn<'_, Actor>| {
                let _ = conn.send(&bytes);
                crate::api::slices::Slice::Done
            });
            assert!(job.is_ok());
        }
        other => usual(other),
    });
    let peer = stage.open();
    peer.reads(false);
    let sent = pattern(0, 100_000);
    for part in sent.chunks(1000) {
        peer.send(part);
        stage.settle();
    }
    let pending = stage.pending(&peer);
    let most = limits.high_watermark + 2 * limits.receive_bytes_per_turn + 1000;
    assert!(pending <= most, "{pending} B wait in the loop");
    peer.reads(true);
    stage.settle();
    assert!(peer.got() == sent);
    stage.stop();
}

fn input_at_its_limit_is_kept_and_above_it_closes<D: Rig>(seed: u64) {
    for over in [0, 1] {
        let mut stage = Stage::<D>::with(seed, |limits| limits.input_bytes_max = 3000);
        stage.play(|at| match at {
            At::Data(conn, input) => {
                if let Some(line) = input.take_line() {
                    let _ = conn.send(&line.len().to_string().into_bytes());
                }
            }
            other => usual(other),
        });
        let peer = stage.open();
        peer.send(&vec![b'x'; 3000 + over]);
        stage.settle();
        if over == 0 {
            assert_eq!(stage.state(&peer), State::Open);
            peer.send(b"\n");
            stage.settle();
            assert_eq!(peer.got(), b"3000");
        } else {
            peer.finish();
            stage.settle();
            assert_eq!(stage.record(&peer).closed, Some(CloseReason::InputLimit));
        }
        stage.stop();
    }
}

pub(super) fn a_pause_leaves_bytes_and_a_resume_needs_no_edge<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.world.get().buffers = (1 << 21, 1 << 21);
    let peer = stage.open();
    let id = stage.id(&peer);
    stage.play(move |at| match at {
        At::Message(here, 0) => here.connection(id).unwrap().pause(),
        At::Message(here, _) => here.connection(id).unwrap().resume(),
        other => usual(other),
    });
    for round in 1..4 {
        stage.handle().post(0, 0).unwrap();
        stage.settle();
        peer.send(&pattern(0, 1 << 20));
        stage.settle();
        stage.advance(1000);
        assert_eq!(peer.got().len(), (round - 1) << 20);
        stage.handle().post(0, 1).unwrap();
        stage.settle();
        assert_eq!(peer.got().len(), round << 20);
    }
    stage.stop();
}

fn what_was_left_unread_comes_again_after_a_resume<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peer = stage.open();
    let id = stage.id(&peer);
    stage.play(move |at| match at {
        At::Data(conn, input) => {
            let piece = input.len().min(3);
            let _ = conn.send(input.take(piece).unwrap());
            conn.pause();
            conn.event_loop().after(Duration::from_millis(1), 0);
        }
        At::Timer(here, _) => here.connection(id).unwrap().resume(),
        other => usual(other),
    });
    peer.send(&pattern(0, 300));
    stage.advance(1000);
    assert!(peer.got() == pattern(0, 300));
    stage.stop();
}

fn a_paused_connection_meets_a_reset<D: Rig>(seed: u64) {
    for (unread, after_pause) in [(0, 0), (50, 0), (0, 50), (50, 50)] {
        let mut stage = Stage::<D>::new(seed);
        let peer = stage.open();
        let id = stage.id(&peer);
        stage.play(move |at| match at {
            At::Message(here, _) => here.connection(id).unwrap().pause(),
            At::Data(_, input) if unread > 0 => assert!(input.len() <= 50),
            other => usual(other),
        });
        if unread > 0 {
            peer.send(&pattern(0, unread));
            stage.settle();
        }
        stage.handle().post(0, 0).unwrap();
        stage.settle();
        if after_pause > 0 {
            peer.send(&pattern(0, after_pause));
            stage.settle();
        }
        peer.reset();
        stage.settle();
        assert_eq!(stage.record(&peer).closed, Some(CloseReason::PeerReset));
        stage.stop();
    }
}

fn a_held_connection_meets_a_reset<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peer = stage.open();
    peer.reads(false);
    peer.send(&pattern(0, 100_000));
    stage.settle();
    assert!(stage.pending(&peer) > 0);
    peer.reset();
    stage.settle();
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::PeerReset));
    stage.stop();
}

fn a_paused_connection_meets_its_peers_end_after_the_resume<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peer = stage.open();
    let id = stage.id(&peer);
    stage.play(move |at| match at {
        At::Message(here, 0) => here.connection(id).unwrap().pause(),
        At::Message(here, _) => here.connection(id).unwrap().resume(),
        other => usual(other),
    });
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    peer.send(b"the last words");
    peer.finish();
    stage.settle();
    assert!(!stage.record(&peer).calls.contains(&Callback::End));
    stage.handle().post(0, 1).unwrap();
    stage.settle();
    assert_eq!(peer.got(), b"the last words");
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::PeerEnded));
    assert!(peer.saw_fin());
    stage.stop();
}

/// Streaming from `on_writable` to a peer that takes everything.
fn a_handler_that_fills_the_kernel_in_on_room_leaves_others_their_turn<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.send_bytes_per_turn = 8192);
    stage.world.get().buffers = (1 << 16, 1 << 16);
    let (stream, other) = (stage.open(), stage.open());
    let id = stage.id(&stream);
    stage.play(move |at| match at {
        At::Room(conn) => drop_queued(conn.send(&[1; 5000])),
        At::Data(conn, input) if conn.id() == id => {
            input.take_all();
            drop_queued(conn.send(&[1; 5000]));
        }
        other => usual(other),
    });
    stream.send(b"x");
    for round in 1..50 {
        other.send(b"ping");
        for _ in 0..40 {
            stage.turn();
            stage.world.get().flow();
        }
        assert_eq!(other.got().len(), round * 4);
    }
    assert!(stream.got().len() > 100_000, "{} B streamed", stream.got().len());
    stage.play(usual);
    stage.settle();
    stage.stop();
}

fn drop_queued(queued: SendOutcome) {
    assert!(queued.is_taken());
}

/// (Not on sim, whose rooms for nothing are there to be tried.)
#[test]
fn a_full_kernel_is_not_asked_again_before_its_edge() {
    super::seeds(10, |seed| {
        let mut stage = Stage::<super::ModelEpoll>::new(seed);
        let peer = stage.open();
        peer.reads(false);
        peer.send(&pattern(0, 100_000));
        stage.settle();
        stage.play(|at| match at {
            At::Message(here, _) => here.each(|conn| assert!(conn.send(b"more").is_taken())),
            other => usual(other),
        });
        let before = stage.world.get().counts.sends;
        for _ in 0..20 {
            stage.handle().post(0, 0).unwrap();
            stage.settle();
        }
        assert_eq!(stage.world.get().counts.sends, before);
        peer.reads(true);
        stage.settle();
        assert_eq!(peer.got().len(), 100_000 + 80);
        stage.stop();
    });
}

/// The handler stops where output is above its mark, and leaves the rest. What it has left comes to it
/// before more is read behind it: else it would grow to the input limit, however fast the peer reads.
fn who_pipelines_and_reads_is_answered_in_full<D: Rig>(seed: u64) {
    const QUESTIONS: usize = 100_000;
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.receive_block_bytes = 4096;
        (limits.receive_bytes_per_turn, limits.send_bytes_per_turn) = (1 << 20, 1 << 20);
        (limits.high_watermark, limits.low_watermark) = (4096, 1024);
        (limits.output_limit, limits.input_bytes_max) = (1 << 20, 64 << 10);
    });
    stage.world.get().buffers = (1 << 20, 1 << 20);
    stage.play(|at| match at {
        At::Data(conn, input) => {
            while input.take(1).is_some() {
                if conn.send(&[7; 100]) != SendOutcome::Queued {
                    return;
                }
            }
        }
        other => usual(other),
    });
    let peer = stage.open();
    peer.send(&vec![1; QUESTIONS]);
    stage.settle();
    assert_eq!(stage.snapshot().closed_by(CloseReason::InputLimit), 0);
    assert_eq!(peer.got().len(), 100 * QUESTIONS);
    stage.stop();
}

/// Its handler can answer nothing more, and its peer, an echo perhaps, may wait until it is read: both
/// stood still until a deadline.
fn who_has_finished_is_read_although_much_is_unsent<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        (limits.high_watermark, limits.low_watermark, limits.output_limit) = (1000, 500, 1 << 20);
    });
    let heard = Rc::new(RefCell::new(Vec::new()));
    stage.play({
        let heard = Rc::clone(&heard);
        move |at| match at {
            At::Data(conn, input) => {
                heard.borrow_mut().extend_from_slice(input.take_all());
                if conn.is_open() {
                    assert_eq!(conn.send(&pattern(0, 300_000)), SendOutcome::AboveHighWatermark);
                    conn.finish();
                }
            }
            other => usual(other),
        }
    });
    let peer = stage.open();
    peer.reads(false);
    peer.send(b"question, ");
    stage.settle();
    assert_eq!(stage.state(&peer), State::Finishing);
    peer.send(b"and more");
    stage.settle();
    assert_eq!(*heard.borrow(), b"question, and more");
    peer.reads(true);
    peer.finish();
    stage.settle();
    assert!(peer.got() == pattern(0, 300_000));
    stage.stop();
}

/// The longest message that was ever taken above the cap raised it by as much, for as long as the
/// connection had anything beside its entry.
fn when_a_long_message_has_left_the_cap_holds_again<D: Rig>(seed: u64) {
    const CAP: usize = 4000;
    let mut stage = Stage::<D>::with(seed, |limits| {
        (limits.high_watermark, limits.low_watermark, limits.output_limit) = (1000, 500, CAP);
        limits.lifetime_max = Some(Duration::from_secs(1000)); // so that there is something beside it
    });
    let most = Rc::new(RefCell::new(0));
    stage.play({
        let most = Rc::clone(&most);
        move |at| match at {
            At::Data(conn, input) if input.peek() == b"long" => {
                input.take_all();
                assert_eq!(conn.send(&pattern(0, 50_000)), SendOutcome::AboveHighWatermark);
            }
            At::Data(conn, input) => {
                input.take_all();
                while conn.send(&[0; 100]).is_taken() {
                    *most.borrow_mut() = conn.unsent();
                }
            }
            other => usual(other),
        }
    });
    let peer = stage.open();
    peer.send(b"long");
    stage.settle();
    assert_eq!(peer.got().len(), 50_000);
    peer.send(b"many");
    stage.settle();
    assert_eq!(*most.borrow(), CAP);
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::OutputLimit));
    stage.stop();
}
