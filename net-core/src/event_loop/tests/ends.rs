//! How connections end: FIN and RST in every place, half closes, urgent bytes, lingering.

use super::{At, Peer, Rig, Stage, on_both_rigs, pattern, usual};
use crate::base::close_reason::{Callback, CloseReason};
use crate::connection::life::State;
use std::cell::RefCell;
use std::rc::Rc;

on_both_rigs! {
    bytes_and_fin_in_one_burst_are_all_echoed_then_fin: 30,
    bytes_and_reset_in_one_burst_close_once: 30,
    a_long_stream_read_with_pauses_is_whole: 10,
    urgent_bytes_do_not_stop_the_stream: 40,
    descriptors_do_not_stop_a_unix_stream: 20,
    a_half_closed_peer_is_still_answered: 20,
    a_half_closed_connection_still_reads: 20,
    a_reply_before_close_arrives_whole_though_the_peer_talks_on: 30,
    a_peer_that_never_ends_lingers_no_longer_than_its_bound: 10,
    a_peer_that_floods_a_closed_connection_is_cut_off: 10,
    a_peer_that_reads_nothing_of_the_rest_is_reset: 10,
    while_bytes_are_owed_the_peer_may_say_what_it_likes: 10,
    who_ends_first_is_closed_first: 10,
    a_peer_that_has_left_resets_what_is_sent_to_it: 20,
    a_failed_send_closes_once: 20,
    a_refused_watch_closes_once_and_was_never_open: 10,
    stale_signals_find_nothing: 60,
}

pub(super) fn bytes_and_fin_in_one_burst_are_all_echoed_then_fin<D: Rig>(seed: u64) {
    let n = Stage::<D>::new(seed).limits().receive_block_bytes;
    for k in [0, 1, n - 1, n, n + 1, 2 * n, 10 * n] {
        let mut stage = Stage::<D>::new(seed);
        if seed.is_multiple_of(2) {
            stage.world.get().buffers = (1 << 20, 1 << 20);
        }
        let peer = if seed.is_multiple_of(3) { stage.arrive() } else { stage.open() };
        peer.send(&pattern(0, k));
        peer.finish();
        stage.settle();
        assert!(peer.got() == pattern(0, k), "{} of {k} B", peer.got().len());
        assert!(peer.saw_fin() && !peer.saw_reset());
        let record = stage.record(&peer);
        assert_eq!(record.closed, Some(CloseReason::PeerEnded));
        assert_eq!(record.calls.iter().filter(|call| **call == Callback::End).count(), 1);
        stage.stop();
    }
}

fn bytes_and_reset_in_one_burst_close_once<D: Rig>(seed: u64) {
    let n = Stage::<D>::new(seed).limits().receive_block_bytes;
    for k in [0, 1, n - 1, n, n + 1, 2 * n] {
        for ends in [false, true] {
            let mut stage = Stage::<D>::new(seed);
            let peer = if seed.is_multiple_of(3) { stage.arrive() } else { stage.open() };
            peer.send(&pattern(0, k));
            if ends {
                peer.finish();
            }
            peer.reset();
            stage.settle();
            let closed = stage.record(&peer).closed;
            assert!(
                matches!(closed, Some(CloseReason::PeerReset | CloseReason::PeerEnded)),
                "{closed:?}"
            );
            stage.stop();
        }
    }
}

fn a_long_stream_read_with_pauses_is_whole<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peer = stage.open();
    let id = stage.id(&peer);
    stage.play(move |at| match at {
        At::Data(conn, input) => {
            let _ = conn.echo(input);
            conn.pause();
            conn.event_loop().after(std::time::Duration::from_millis(1), 0);
        }
        At::Timer(here, _) => {
            if let Some(mut conn) = here.connection(id) {
                conn.resume();
            }
        }
        other => usual(other),
    });
    peer.send(&pattern(0, 100_000));
    peer.finish();
    stage.advance(1_000_000);
    assert!(peer.got() == pattern(0, 100_000));
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::PeerEnded));
    stage.stop();
}

fn descriptors_do_not_stop_a_unix_stream<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peer = stage.arrive_by_unix();
    talks_with_descriptors(&mut stage, &peer);
    stage.stop();
}

/// Bytes, then more that come with descriptors, and no other word of it.
pub(super) fn talks_with_descriptors<D: Rig>(stage: &mut Stage<D>, peer: &Peer) {
    let mut sent = 0;
    for _ in 0..20 {
        for _ in 0..stage.rng.within(1, 4) {
            let len = stage.rng.within(1, 40);
            peer.send(&pattern(sent, len));
            sent += len;
            peer.send_descriptors();
            peer.send(&pattern(sent, 1));
            sent += 1;
        }
        stage.settle();
        assert!(peer.got() == pattern(0, sent), "of {sent} bytes not all came back");
    }
}

pub(super) fn urgent_bytes_do_not_stop_the_stream<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peer = stage.open();
    for round in 1..10 {
        peer.send(&pattern(0, 10));
        peer.send_urgent();
        if stage.rng.one_in(2) {
            stage.turn();
        }
        peer.send(&pattern(0, 10));
        stage.settle();
        assert_eq!(peer.got().len(), 20 * round);
    }
    stage.stop();
}

fn a_half_closed_peer_is_still_answered<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::End(_) => {}
        At::Message(here, 0) => here.each(|conn| {
            let _ = conn.send(&pattern(0, 10_000));
        }),
        At::Message(here, _) => here.each(|conn| conn.finish()),
        other => usual(other),
    });
    let peer = stage.open();
    peer.finish();
    stage.settle();
    assert_eq!(stage.state(&peer), State::PeerEnded);
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    assert!(peer.got() == pattern(0, 10_000) && !peer.saw_fin());
    stage.handle().post(0, 1).unwrap();
    stage.settle();
    assert!(peer.saw_fin());
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::PeerEnded));
    stage.stop();
}

fn a_half_closed_connection_still_reads<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Open(conn) => {
            let _ = conn.send(b"my last words");
            conn.finish();
            assert!(!conn.send(b"one more").is_taken());
        }
        At::Data(conn, input) => {
            assert!(!conn.echo(input).is_taken());
        }
        other => usual(other),
    });
    let peer = stage.open();
    assert_eq!(peer.got(), b"my last words");
    assert!(peer.saw_fin());
    peer.send(&pattern(0, 30_000));
    stage.settle();
    assert_eq!(stage.record(&peer).data_bytes, 30_000);
    peer.finish();
    stage.settle();
    let record = stage.record(&peer);
    assert!(record.calls.contains(&Callback::End));
    assert_eq!(record.closed, Some(CloseReason::Local));
    assert!(!peer.saw_reset());
    stage.stop();
}

fn a_reply_before_close_arrives_whole_though_the_peer_talks_on<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Data(conn, input) => {
            input.take_all();
            let _ = conn.send(&pattern(0, 200_000));
            conn.close();
        }
        other => usual(other),
    });
    let peer = stage.open();
    for _ in 0..50 {
        peer.send(&pattern(0, 1000));
        peer.read(3000);
        stage.turn();
    }
    stage.settle();
    assert!(peer.got() == pattern(0, 200_000) && peer.saw_fin(), "{} B", peer.got().len());
    assert!(!peer.saw_reset());
    assert_eq!(stage.record(&peer).closed, None, "it waits for the peer's FIN");
    peer.finish();
    stage.settle();
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::Local));
    assert!(!peer.saw_reset());
    stage.stop();
}

fn a_peer_that_never_ends_lingers_no_longer_than_its_bound<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Data(conn, _) => conn.close(),
        other => usual(other),
    });
    let peer = stage.open();
    peer.send(b"x");
    stage.advance(999);
    assert_eq!(stage.state(&peer), State::Lingering);
    peer.send(b"still here"); // does not prolong it
    stage.advance(3);
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::Local));
    stage.stop();
}

fn a_peer_that_floods_a_closed_connection_is_cut_off<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.linger_bytes_max = 10_000);
    stage.play(|at| match at {
        At::Data(conn, _) => conn.close(),
        other => usual(other),
    });
    let peer = stage.open();
    peer.send(&pattern(0, 10_000));
    stage.settle();
    assert_eq!(stage.state(&peer), State::Lingering);
    peer.send(&pattern(0, 20_000));
    stage.settle();
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::Local));
    stage.stop();
}

fn answers_much_and_closes(at: At<'_, '_, '_>) {
    match at {
        At::Data(conn, input) => {
            input.take_all();
            let _ = conn.send(&pattern(0, 100_000));
            conn.close();
        }
        other => usual(other),
    }
}

fn a_peer_that_reads_nothing_of_the_rest_is_reset<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(answers_much_and_closes);
    let peer = stage.open();
    peer.reads(false);
    peer.send(b"x");
    // A little progress puts the bound off.
    stage.advance(50_000);
    peer.read(50_000);
    stage.advance(50_000);
    assert_eq!(stage.state(&peer), State::Closing);
    stage.advance(10_003);
    let closed = stage.record(&peer).closed;
    assert_eq!(closed, Some(CloseReason::Deadline(crate::base::close_reason::DeadlineKind::Write)));
    assert!(peer.saw_reset());
    stage.stop();
}

/// What it says meanwhile is thrown away and not counted: by the bound on what is read after the end, an
/// answer would be cut off for a client that pipelines its next questions.
fn while_bytes_are_owed_the_peer_may_say_what_it_likes<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.linger_bytes_max = 3);
    stage.play(answers_much_and_closes);
    let peer = stage.open();
    peer.reads(false);
    peer.send(b"!");
    stage.settle();
    for _ in 0..20 {
        peer.send(b"and more");
        stage.settle();
        assert_eq!(stage.state(&peer), State::Closing);
    }
    peer.reads(true);
    stage.settle();
    assert!(peer.got() == pattern(0, 100_000) && peer.saw_fin() && !peer.saw_reset());
    peer.finish();
    stage.settle();
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::Local));
    stage.stop();
}

/// Where more end than a turn may close, the last would otherwise be closed first, and the first would wait
/// for as long as others end.
fn who_ends_first_is_closed_first<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.endings_per_turn = 1);
    let closed = Rc::new(RefCell::new(Vec::new()));
    let notes = Rc::clone(&closed);
    let peers: Vec<_> = (0..10).map(|_| stage.open()).collect();
    let ids: Vec<_> = peers.iter().map(|peer| stage.id(peer)).collect();
    let ended = ids.clone();
    stage.play(move |at| match at {
        At::Message(here, _) => {
            ended.iter().for_each(|id| here.connection(*id).expect("it is open").reset());
        }
        At::Close(conn) => notes.borrow_mut().push(conn.id()),
        other => usual(other),
    });
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    assert_eq!(*closed.borrow(), ids);
    stage.stop();
}

fn a_peer_that_has_left_resets_what_is_sent_to_it<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::End(_) => {}
        At::Message(here, _) => here.each(|conn| {
            let _ = conn.send(b"are you there?");
        }),
        other => usual(other),
    });
    let peer = stage.open();
    peer.leave();
    stage.settle();
    assert_eq!(stage.state(&peer), State::PeerEnded);
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    let closed = stage.record(&peer).closed;
    assert!(matches!(closed, Some(CloseReason::PeerReset | CloseReason::PeerEnded)), "{closed:?}");
    stage.stop();
}

fn a_failed_send_closes_once<D: Rig>(seed: u64) {
    for errno in [libc::EPIPE, libc::ECONNRESET, libc::ENOBUFS] {
        let mut stage = Stage::<D>::new(seed);
        let peer = stage.open();
        stage.world.get().faults.send.push_back(errno);
        peer.send(&pattern(0, 5000));
        stage.settle();
        let expected = match errno {
            libc::ENOBUFS => CloseReason::Machine(crate::sys::Errno::new(errno)),
            _ => CloseReason::PeerReset,
        };
        assert_eq!(stage.record(&peer).closed, Some(expected));
        stage.stop();
    }
}

fn a_refused_watch_closes_once_and_was_never_open<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.world.get().faults.attach.push_back(libc::ENOSPC);
    let (peer, next) = (stage.arrive(), stage.arrive());
    stage.settle();
    let record = stage.record(&peer);
    assert_eq!(record.calls, [Callback::Close]);
    assert_eq!(record.closed, Some(CloseReason::Machine(crate::sys::Errno::NOSPC)));
    next.send(b"alive");
    stage.settle();
    assert_eq!(next.got(), b"alive");
    stage.stop();
}

/// A handler resets others whose events are in the same batch, and their socket's numbers are given
/// to newcomers at once.
fn stale_signals_find_nothing<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Data(conn, input) => {
            let is_killer = input.take_all()[0] == b'!';
            if is_killer {
                conn.others(|other| other.reset());
                let session = conn.session().another();
                let _ = conn.event_loop().dial(super::somewhere(), session);
            } else {
                let _ = conn.send(b"yes");
            }
        }
        other => usual(other),
    });
    for _ in 0..20 {
        let peers: Vec<_> = (0..5).map(|_| stage.open()).collect();
        let ids: Vec<_> = peers.iter().map(|peer| stage.id(peer)).collect();
        let killer = stage.rng.below(5);
        for (k, peer) in peers.iter().enumerate() {
            peer.send(if k == killer { b"!" } else { b"?" });
        }
        let newcomers: Vec<_> = (0..5).map(|_| stage.arrive()).collect();
        stage.settle();
        for (k, id) in ids.iter().enumerate() {
            let is_there = stage.event_loop.state.table.get(*id).is_some();
            assert_eq!(is_there, k == killer, "{id}");
        }
        for newcomer in &newcomers {
            assert_eq!(newcomer.got(), b"", "an answer to someone else");
        }
        newcomers.iter().for_each(|peer| peer.reset());
        peers[killer].reset();
        stage.settle();
    }
    stage.stop();
}
