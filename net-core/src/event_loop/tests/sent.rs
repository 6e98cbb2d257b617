//! `on_sent`: told once, in order, and exactly when the kernel has taken all before the mark.

use super::{At, Outcome, Rig, Rng, Stage, on_both_rigs, pattern, somewhere, usual};
use crate::base::close_reason::Callback;
use crate::config::policy::OverflowPolicy;
use bytes::Bytes;
use std::cell::RefCell;
use std::rc::Rc;

on_both_rigs! {
    told_when_the_kernel_has_it_and_not_before: 60,
    with_nothing_unsent_it_is_told_in_the_same_turn: 10,
    an_echo_before_it_counts: 20,
    a_handler_that_sends_on_from_it_sends_everything: 10,
    after_finish_it_is_told_and_after_close_not: 10,
    what_was_dropped_is_not_waited_for: 10,
    a_panic_takes_its_marks_with_it: 10,
    a_mark_that_is_set_while_it_connects_is_told_once_it_is_up: 20,
    after_finish_it_is_told_also_where_the_peer_has_ended: 20,
    all_marks_are_told_before_an_idle_connection_closes: 10,
}

/// What the kernel has taken of this connection so far.
fn told_when_the_kernel_has_it_and_not_before<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.high_watermark = 1 << 20);
    let peer = stage.open();
    let id = stage.id(&peer);
    // For each mark, at how many bytes; and those that were told, with what was unsent then.
    type Marks = (Vec<usize>, Vec<(u64, usize)>);
    let marks = Rc::new(RefCell::new(Marks::default()));
    let (mut rng, mut queued) = (Rng::new(seed + 3), 0);
    stage.play({
        let marks = Rc::clone(&marks);
        move |at| match at {
            At::Message(here, _) => {
                let mut conn = here.connection(id).unwrap();
                for _ in 0..rng.within(1, 4) {
                    let bytes = pattern(queued, rng.pick(&[1, 50, 3000]));
                    queued += bytes.len();
                    let is_taken = match rng.one_in(2) {
                        true => conn.send(&bytes).is_taken(),
                        false => conn.send_shared(Bytes::from(bytes)).is_taken(),
                    };
                    assert!(is_taken);
                    if rng.one_in(2) {
                        conn.notify_sent(marks.borrow().0.len() as u64);
                        marks.borrow_mut().0.push(queued);
                    }
                }
            }
            At::Sent(conn, tag) => {
                let taken = queued - conn.unsent();
                marks.borrow_mut().1.push((tag, taken));
            }
            other => usual(other),
        }
    });
    peer.reads(false);
    for _ in 0..20 {
        stage.handle().post(0, 0).unwrap();
        stage.settle();
        let n = stage.rng.below(6000);
        peer.read(n);
        stage.settle();
        let (set, told) = &*marks.borrow();
        let taken = set.last().copied().unwrap_or(0).saturating_sub(stage.pending(&peer));
        let due = set.iter().filter(|at| **at <= taken).count();
        assert!(told.len() >= due, "{} told of {due}", told.len());
    }
    peer.reads(true);
    stage.settle();
    let (set, told) = &*marks.borrow();
    assert_eq!(told.len(), set.len(), "each once");
    for (n, (tag, taken)) in told.iter().enumerate() {
        assert_eq!(*tag, n as u64, "in order");
        assert!(*taken >= set[n], "mark {n} at {} was told at {taken}", set[n]);
    }
    stage.stop();
}

fn with_nothing_unsent_it_is_told_in_the_same_turn<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Open(conn) => {
            conn.notify_sent(1);
            conn.notify_sent(2);
        }
        other => usual(other),
    });
    let peer = stage.open();
    assert_eq!(stage.record(&peer).calls, [Callback::Open, Callback::Sent, Callback::Sent]);
    stage.stop();
}

fn an_echo_before_it_counts<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.high_watermark = 1 << 20);
    let left = Rc::new(RefCell::new(Vec::new()));
    stage.play({
        let left = Rc::clone(&left);
        let mut echoed = 0;
        move |at| match at {
            At::Data(conn, input) => {
                echoed += input.len();
                let _ = conn.echo(input);
                conn.notify_sent(echoed as u64);
            }
            At::Sent(conn, at) => left.borrow_mut().push((at as usize, echoed - conn.unsent())),
            other => usual(other),
        }
    });
    let peer = stage.open();
    peer.reads(false);
    for _ in 0..50 {
        peer.send(&[7; 500]);
        stage.settle();
        peer.read(300);
    }
    peer.reads(true);
    stage.settle();
    assert_eq!(peer.got().len(), 25_000);
    assert_eq!(left.borrow().last().map(|last| last.0), Some(25_000));
    assert!(left.borrow().iter().all(|(at, taken)| taken >= at), "{:?}", left.borrow());
    stage.stop();
}

/// As one that sends a file piece by piece, and never has more than one of them in memory.
fn a_handler_that_sends_on_from_it_sends_everything<D: Rig>(seed: u64) {
    const PIECES: usize = 100;
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Open(conn) => conn.notify_sent(0),
        At::Sent(conn, n) if (n as usize) < PIECES => {
            assert_eq!(conn.unsent(), 0);
            let piece = pattern(n as usize * 1000, 1000);
            assert!(conn.send(&piece).is_taken());
            conn.notify_sent(n + 1);
        }
        At::Sent(conn, _) => conn.close(),
        other => usual(other),
    });
    let peer = stage.open();
    assert_eq!(peer.got(), pattern(0, PIECES * 1000));
    assert!(peer.saw_fin());
    peer.finish();
    stage.settle();
    stage.stop();
}

fn after_finish_it_is_told_and_after_close_not<D: Rig>(seed: u64) {
    for closes in [false, true] {
        let mut stage = Stage::<D>::new(seed);
        stage.play(move |at| match at {
            At::Data(conn, input) => {
                input.take_all();
                assert!(conn.send(&[0; 50_000]).is_taken());
                conn.notify_sent(1);
                if closes { conn.close() } else { conn.finish() }
            }
            other => usual(other),
        });
        let peer = stage.open();
        peer.reads(false);
        peer.send(b"x");
        stage.settle();
        assert!(!stage.record(&peer).calls.contains(&Callback::Sent));
        peer.reads(true);
        stage.settle();
        assert!(peer.saw_fin());
        assert_eq!(stage.record(&peer).calls.contains(&Callback::Sent), !closes);
        peer.finish();
        stage.settle();
        stage.stop();
    }
}

fn what_was_dropped_is_not_waited_for<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.output_limit = 3000;
        limits.high_watermark = 2000;
        limits.low_watermark = 0;
    });
    let told = Rc::new(RefCell::new(Vec::new()));
    let peer = stage.open();
    let id = stage.id(&peer);
    stage.play({
        let told = Rc::clone(&told);
        move |at| match at {
            At::Message(here, tag) => {
                let mut conn = here.connection(id).unwrap();
                assert!(conn.send_with(vec![0; 700], OverflowPolicy::DropOldest).is_taken());
                conn.notify_sent(tag);
            }
            At::Sent(_, tag) => told.borrow_mut().push(tag),
            other => usual(other),
        }
    });
    peer.reads(false);
    for tag in 0..100 {
        stage.handle().post(0, tag).unwrap();
        stage.settle();
    }
    // Of one that has begun the rest waits, and so do all marks behind it.
    assert!(told.borrow().len() < 96, "{:?}", told.borrow());
    let waits = stage.pending(&peer);
    assert!(waits > 2100, "{waits}");
    while stage.pending(&peer) > waits - 700 {
        peer.read(100);
        stage.settle();
    }
    assert!(told.borrow().len() >= 96, "of those dropped it is told: {:?}", told.borrow());
    peer.reads(true);
    stage.settle();
    assert_eq!(*told.borrow(), (0..100).collect::<Vec<_>>());
    stage.stop();
}

fn a_panic_takes_its_marks_with_it<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.panics_are_counted_by({
        let log = stage.log.clone();
        move || log.get().panics.len() as u64
    });
    stage.play(|at| match at {
        At::Data(conn, _) => {
            let _ = conn.send(b"lost");
            conn.notify_sent(1);
            super::fail();
        }
        other => usual(other),
    });
    let peer = stage.open();
    peer.send(b"x");
    stage.settle();
    assert!(peer.saw_fin() && peer.got().is_empty());
    assert!(!stage.record(&peer).calls.contains(&Callback::Sent));
    peer.finish();
    stage.settle();
    stage.stop();
}

/// With nothing queued there was no byte whose leaving told of it, and it was never told.
fn a_mark_that_is_set_while_it_connects_is_told_once_it_is_up<D: Rig>(seed: u64) {
    for sends in [false, true] {
        let mut stage = Stage::<D>::new(seed);
        let log = stage.log.clone();
        stage.play(move |at| match at {
            At::Message(here, _) => {
                let id = here.dial(somewhere(), log.session(None)).unwrap();
                let mut conn = here.connection(id).unwrap();
                conn.notify_sent(1);
                if sends {
                    let _ = conn.send(b"hello");
                    conn.notify_sent(2);
                }
                conn.notify_sent(3);
            }
            other => usual(other),
        });
        let up_at = stage.world.get().now + 20;
        stage.world.get().dials.push_back(Outcome::UpAt(up_at));
        stage.handle().post(0, 0).unwrap();
        stage.settle();
        assert_eq!(stage.log.get().records[0].calls, [], "it is not up");
        stage.advance(25);
        let mut expected = vec![Callback::Open];
        expected.resize(if sends { 4 } else { 3 }, Callback::Sent);
        assert_eq!(stage.log.get().records[0].calls, expected);
        stage.stop();
    }
}

/// A peer that asks and ends: with `finish` all was over before anybody was told, or the last bytes counted
/// as closed.
fn after_finish_it_is_told_also_where_the_peer_has_ended<D: Rig>(seed: u64) {
    for (in_on_end, bytes) in
        [(false, 10), (false, 100_000), (true, 0), (true, 10), (true, 100_000)]
    {
        let mut stage = Stage::<D>::new(seed);
        stage.note(format!("in on_end: {in_on_end}, {bytes} bytes"));
        stage.play(move |at| match at {
            At::Data(_, input) if in_on_end => drop(input.take_all()),
            At::Data(conn, input) => {
                input.take_all();
                let _ = conn.send(&pattern(0, bytes));
                conn.notify_sent(1);
                conn.finish();
            }
            At::End(conn) if in_on_end => {
                let _ = conn.send(&pattern(0, bytes));
                conn.finish();
                conn.notify_sent(1);
            }
            At::Sent(conn, tag) => {
                assert_eq!((tag, conn.unsent()), (1, 0));
                assert!(!conn.send(b"one more").is_taken());
            }
            other => usual(other),
        });
        let peer = stage.arrive();
        peer.reads(false);
        peer.send(b"x");
        peer.finish();
        stage.settle();
        peer.reads(true);
        stage.settle();
        let record = stage.record(&peer);
        assert_eq!(record.calls.iter().filter(|call| **call == Callback::Sent).count(), 1);
        assert!(record.closed.is_some() && peer.saw_fin() && !peer.saw_reset());
        assert!(peer.got() == pattern(0, bytes));
        stage.stop();
    }
}

/// The turn's budget ended between two of them, and the same look found the connection idle.
fn all_marks_are_told_before_an_idle_connection_closes<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.deferred_per_turn = 1);
    stage.play(|at| match at {
        At::Data(conn, input) => {
            input.take_all();
            (0..5).for_each(|tag| conn.notify_sent(tag));
            conn.close_when_idle();
        }
        other => usual(other),
    });
    let peer = stage.open();
    peer.send(b"?");
    stage.advance(100);
    let record = stage.record(&peer);
    let told = record.calls.iter().filter(|call| **call == Callback::Sent).count();
    assert_eq!((told, record.closed), (5, Some(crate::base::close_reason::CloseReason::Local)));
    stage.stop();
}
