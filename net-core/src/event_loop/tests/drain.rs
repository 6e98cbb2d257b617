//! Draining and stopping: what is under way is finished, and the loop ends.

use super::{At, Outcome, Rig, Stage, on_both_rigs, pattern, usual};
use crate::base::close_reason::{Callback, CloseReason};
use crate::config::limits::Limits;
use crate::connection::life::State;
use crate::connection::outbox::SendOutcome;
use crate::observe::counters::Counter;
use crate::threads::control::Phase;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

on_both_rigs! {
    idle_connections_close_at_once_and_the_loop_ends: 20,
    each_is_told_once_and_a_few_in_each_turn: 10,
    a_spread_drain_lets_go_evenly: 10,
    a_spread_drain_behind_a_broadcast_needs_nobody_to_begin: 10,
    the_deadline_ends_a_spread: 10,
    what_is_under_way_is_finished_first: 30,
    what_lies_in_the_kernel_is_answered_first: 20,
    a_stream_in_flow_is_not_cut: 20,
    who_asks_when_answered_is_let_go_with_an_answer: 30,
    who_asks_when_answered_later_is_let_go_with_an_answer: 10,
    a_stream_from_on_sent_is_not_held_back_in_a_drain: 5,
    an_answer_beside_the_end_is_not_late_outside_of_a_drain: 5,
    a_held_answer_is_not_lost_when_its_peer_ends: 30,
    an_answer_above_the_high_mark_is_not_held_back: 20,
    what_is_held_back_goes_out_before_the_next_answer_would_pass_the_high_mark: 20,
    a_held_answer_of_a_busy_connection_waits_for_no_end: 20,
    a_busy_connection_stays_until_it_is_not: 20,
    a_connection_paused_at_the_drain_closes_after_the_resume: 20,
    a_half_closed_one_with_half_a_message_is_let_go: 20,
    arrivals_during_the_drain_are_opened_and_told: 20,
    dials_during_the_drain_end: 10,
    at_its_deadline_the_rest_is_reset: 20,
    a_stop_resets_all: 20,
    arrivals_after_a_stop_are_refused_and_counted: 10,
    mail_left_at_the_end_is_counted: 10,
    the_order_wins_over_a_handler_that_ignores_it: 10,
    what_was_posted_before_a_drain_is_read_before_anybody_is_told: 10,
    a_question_is_answered_or_finds_the_last_word: 60,
    a_last_word_that_is_made_at_that_moment_is_the_last: 20,
    a_panic_in_a_last_word_costs_its_connection: 10,
    a_last_word_that_is_never_said_and_panics_at_its_drop_costs_nobody: 10,
}

fn drain<D: Rig>(stage: &mut Stage<D>) {
    stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
    stage.shared.raise(Phase::Drain);
}

fn idle_connections_close_at_once_and_the_loop_ends<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peers: Vec<_> = (0..20).map(|_| stage.open()).collect();
    for peer in &peers {
        peer.send(&pattern(0, 100));
    }
    stage.settle();
    drain(&mut stage);
    stage.advance(2000);
    assert!(stage.is_over);
    for peer in &peers {
        assert_eq!(peer.got().len(), 100);
        assert!(peer.saw_fin() && !peer.saw_reset());
        assert_eq!(stage.record(peer).closed, Some(CloseReason::Draining));
    }
    stage.stop();
}

fn each_is_told_once_and_a_few_in_each_turn<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.drained_per_turn = 3);
    let told = Rc::new(Cell::new(0));
    let count = Rc::clone(&told);
    stage.play(move |at| match at {
        At::Draining(_) => count.set(count.get() + 1),
        other => usual(other),
    });
    let peers: Vec<_> = (0..20).map(|_| stage.open()).collect();
    drain(&mut stage);
    for _ in 0..7 {
        let before = told.get();
        stage.turn();
        assert!(told.get() - before <= 3);
    }
    stage.shared.raise(Phase::Drain);
    stage.settle();
    assert_eq!(told.get(), 20);
    peers.iter().for_each(|peer| peer.finish());
    stage.settle();
    assert!(stage.is_over);
    stage.stop();
}

fn a_spread_drain_lets_go_evenly<D: Rig>(seed: u64) {
    let spread = |limits: &mut Limits| limits.drain_spread = Duration::from_secs(10);
    let mut stage = Stage::<D>::with(seed, spread);
    let peers: Vec<_> = (0..50).map(|_| stage.open()).collect();
    drain(&mut stage);
    stage.settle();
    // One of the first, who ends by itself, moves nobody else's time.
    peers[3].reset();
    for passed in 1..=20 {
        stage.advance(500);
        let left = peers.iter().filter(|peer| !peer.saw_fin() && !peer.saw_reset()).count();
        let due = 50 - 50 * passed / 20;
        assert!((due..=due + 2).contains(&(left + 1)), "after {passed} of 20: {left}");
        if let Some(peer) = peers[4..].iter().rfind(|peer| !peer.saw_fin()) {
            let before = peer.got().len();
            peer.send(b"?");
            stage.settle();
            assert_eq!(peer.got().len(), before + 1, "who was not told yet is served");
        }
    }
    stage.advance(2000);
    assert!(stage.is_over);
    stage.stop();
}

/// What was taken before the drain comes first, and then its walk begins. The loop slept at that moment
/// until something else woke it, and so it told nobody.
fn a_spread_drain_behind_a_broadcast_needs_nobody_to_begin<D: Rig>(seed: u64) {
    let spread = |limits: &mut Limits| limits.drain_spread = Duration::from_secs(10);
    let mut stage = Stage::<D>::with(seed, spread);
    let peers: Vec<_> = (0..50).map(|_| stage.open()).collect();
    let delivery = stage.handle().broadcast(&b"!"[..]);
    drain(&mut stage);
    stage.advance(12_000);
    assert!(stage.is_over && delivery.is_over());
    assert!(peers.iter().all(|peer| peer.got() == b"!" && peer.saw_fin() && !peer.saw_reset()));
    stage.stop();
}

fn the_deadline_ends_a_spread<D: Rig>(seed: u64) {
    let spread = |limits: &mut Limits| limits.drain_spread = Duration::from_secs(10);
    let mut stage = Stage::<D>::with(seed, spread);
    let peers: Vec<_> = (0..50).map(|_| stage.open()).collect();
    drain(&mut stage);
    stage.advance(1000);
    stage.shared.raise(Phase::ForceClose);
    stage.settle();
    assert!(stage.is_over);
    assert!(peers.iter().filter(|peer| peer.saw_reset()).count() >= 40);
    stage.stop();
}

fn what_is_under_way_is_finished_first<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Data(conn, input) => {
            while let Some(line) = input.take_line() {
                let n: usize = std::str::from_utf8(line).unwrap().parse().unwrap();
                let _ = conn.send(&pattern(0, n));
            }
        }
        other => usual(other),
    });
    let peers: Vec<_> = (0..4).map(|_| stage.open()).collect();
    peers[0].reads(false);
    peers[0].send(b"100000\n"); // owed
    peers[1].send(b"10"); // half a question
    stage.settle();
    drain(&mut stage);
    stage.advance(100);
    assert!(!stage.is_over);
    assert_eq!(stage.event_loop.state.table.len(), 2);
    peers[1].send(b"0\n");
    peers[0].reads(true);
    stage.advance(2000);
    assert!(peers[0].got() == pattern(0, 100_000) && peers[1].got() == pattern(0, 100));
    assert!(stage.is_over);
    stage.stop();
}

fn what_lies_in_the_kernel_is_answered_first<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peers: Vec<_> = (0..10).map(|_| stage.open()).collect();
    peers.iter().for_each(|peer| peer.send(b"the last question"));
    drain(&mut stage);
    stage.advance(2000);
    for peer in &peers {
        assert_eq!(peer.got(), b"the last question");
        assert!(peer.saw_fin() && !peer.saw_reset());
    }
    assert!(stage.is_over);
    stage.stop();
}

fn a_stream_in_flow_is_not_cut<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.receive_block_bytes = 16 << 10);
    stage.world.get().buffers = (16 << 10, 64 << 10);
    let peer = stage.open();
    peer.send(&pattern(0, 300_000));
    stage.turn();
    drain(&mut stage);
    stage.advance(5000);
    assert!(peer.got() == pattern(0, 300_000), "{} B", peer.got().len());
    assert!(!peer.saw_reset() && stage.is_over);
    stage.stop();
}

/// Whatever the size of its questions. It gets its last answer, and then FIN, and has not asked again.
fn who_asks_when_answered_is_let_go_with_an_answer<D: Rig>(seed: u64) {
    for size in [100, 5_000, 30_000, 150_000] {
        let mut stage = Stage::<D>::with(seed, |limits| {
            limits.receive_block_bytes = 8 << 10;
            limits.receive_bytes_per_turn = 16 << 10;
            limits.high_watermark = 64 << 10;
        });
        stage.world.get().buffers = (64 << 10, 64 << 10);
        let peers: Vec<_> = (0..3).map(|_| stage.open()).collect();
        let question = pattern(0, size);
        let mut asked = [0; 3];
        let mut drains_in = 20;
        for _ in 0..2_000 {
            for (peer, asked) in peers.iter().zip(&mut asked) {
                if peer.got().len() == *asked * size && !peer.saw_fin() {
                    peer.send(&question);
                    *asked += 1;
                }
            }
            stage.advance(1);
            drains_in -= 1;
            if drains_in == 0 {
                drain(&mut stage);
            }
            if stage.is_over {
                break;
            }
        }
        assert!(stage.is_over, "questions of {size} B hold the drain up");
        for (peer, asked) in peers.iter().zip(asked) {
            assert_eq!(peer.got().len(), asked * size, "an answer is missing, of {size} B");
            assert!(peer.saw_fin() && !peer.saw_reset(), "{size} B");
        }
        stage.stop();
    }
}

/// Its answers come from a timer, 300 ms after the question. The client asked again as soon as it had its
/// answer, before the loop looked whether anything was under way: so it was reset at the drain's deadline.
fn who_asks_when_answered_later_is_let_go_with_an_answer<D: Rig>(seed: u64) {
    for pauses in [false, true] {
        let mut stage = Stage::<D>::new(seed);
        let asking = Rc::new(RefCell::new(Vec::new()));
        stage.play(move |at| match at {
            At::Data(conn, input) => {
                input.take_all();
                conn.set_busy(true);
                if pauses {
                    conn.pause();
                }
                asking.borrow_mut().push(conn.id());
                conn.event_loop().after(Duration::from_millis(300), 0);
            }
            At::Timer(here, _) => {
                let id = asking.borrow_mut().remove(0);
                let Some(mut conn) = here.connection(id) else { return };
                let _ = conn.send(b"answer");
                conn.set_busy(false);
                if pauses {
                    conn.resume();
                }
            }
            other => usual(other),
        });
        let peers: Vec<_> = (0..3).map(|_| stage.open()).collect();
        let mut asked = [0; 3];
        let start = stage.world.get().now;
        while !stage.is_over {
            let now = stage.world.get().now;
            stage.world.get().limit = Some(now + 1); // it waits no longer than until a peer may ask
            for (peer, asked) in peers.iter().zip(&mut asked) {
                match peer.saw_fin() {
                    true => peer.finish(),
                    false if peer.got().len() == *asked * b"answer".len() => {
                        peer.send(b"?");
                        *asked += 1;
                    }
                    false => {}
                }
            }
            stage.turn();
            if stage.world.get().now > start + 1_000 {
                drain(&mut stage);
            }
            assert!(stage.world.get().now < start + 5_000, "they hold the drain up");
        }
        for (peer, asked) in peers.iter().zip(asked) {
            assert_eq!(peer.got(), b"answer".repeat(asked), "an answer is missing");
            assert!(peer.saw_fin() && !peer.saw_reset());
            let is_with = peer.wire().is_corked || !D::SENDS_WHOLE;
            assert!(is_with, "FIN left behind the last answer, and not with it");
        }
        stage.stop();
    }
}

/// As `Connection: close` of HTTP. Held back, each answer would be 30 ms late.
fn an_answer_beside_the_end_is_not_late_outside_of_a_drain<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Data(conn, input) => {
            input.take_all();
            let _ = conn.send(b"answer");
            conn.close_when_idle();
        }
        other => usual(other),
    });
    let peer = stage.open();
    let now = stage.world.get().now;
    peer.send(b"?");
    stage.settle();
    assert_eq!((peer.got(), stage.world.get().now), (b"answer".to_vec(), now));
    peer.finish();
    stage.settle();
    stage.stop();
}

/// A piece of a stream is no last answer: held back, each would cost the drain the quiet time.
fn a_stream_from_on_sent_is_not_held_back_in_a_drain<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Open(conn) => {
            let _ = conn.send(b"piece");
            conn.notify_sent(1);
        }
        At::Sent(conn, tag) if tag < 200 => {
            let _ = conn.send(b"piece");
            conn.notify_sent(tag + 1);
        }
        other => usual(other),
    });
    let peer = stage.arrive();
    stage.turn();
    drain(&mut stage);
    stage.advance(200);
    assert_eq!(peer.got(), b"piece".repeat(200));
    assert!(stage.is_over && peer.saw_fin());
    stage.stop();
}

/// One that takes a message of some kilobytes in at once, so that its answer may be held back in a drain.
fn that_holds_answers<D: Rig>(seed: u64) -> Stage<D> {
    let stage = Stage::<D>::with(seed, |limits| {
        limits.receive_block_bytes = 8 << 10;
        limits.receive_bytes_per_turn = 8 << 10;
        limits.high_watermark = 64 << 10;
    });
    stage.world.get().buffers = (64 << 10, 64 << 10);
    stage
}

fn a_held_answer_is_not_lost_when_its_peer_ends<D: Rig>(seed: u64) {
    let mut stage = that_holds_answers::<D>(seed);
    let peer = stage.open();
    peer.send(&pattern(0, 5_000));
    drain(&mut stage);
    stage.settle();
    // It is held, unless it came in pieces too small for a flow.
    assert_eq!(stage.pending(&peer) + peer.got().len(), 5_000);
    peer.finish();
    stage.settle();
    assert!(peer.got() == pattern(0, 5_000));
    assert!(peer.saw_fin() && stage.is_over);
    stage.stop();
}

/// The end of an answer that was held back left as if FIN came right behind it. The connection was busy,
/// no FIN came, and the kernel kept the last segment for 200 ms.
fn a_held_answer_of_a_busy_connection_waits_for_no_end<D: Rig>(seed: u64) {
    let mut stage = that_holds_answers::<D>(seed);
    stage.play(|at| match at {
        At::Data(conn, input) => {
            let _ = conn.echo(input);
            conn.set_busy(true);
        }
        At::Message(here, _) => here.each(|conn| conn.set_busy(false)),
        other => usual(other),
    });
    let peer = stage.open();
    peer.send(&pattern(0, 5_000));
    drain(&mut stage);
    stage.advance(1000);
    assert!(peer.got() == pattern(0, 5_000) && !peer.saw_fin());
    assert!(!peer.wire().is_corked);
    stage.handle().post(0, 0).unwrap();
    stage.advance(2000);
    assert!(stage.is_over && peer.saw_fin());
    stage.stop();
}

fn a_busy_connection_stays_until_it_is_not<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Data(conn, input) => {
            input.take_all();
            conn.set_busy(true);
        }
        At::Message(here, _) => here.each(|conn| {
            let _ = conn.send(b"done");
            conn.set_busy(false);
        }),
        other => usual(other),
    });
    let peer = stage.open();
    peer.send(b"work");
    stage.settle();
    drain(&mut stage);
    stage.advance(5000);
    assert!(!stage.is_over);
    stage.handle().post(0, 0).unwrap();
    stage.advance(2000);
    assert_eq!(peer.got(), b"done");
    assert!(stage.is_over);
    stage.stop();
}

fn a_connection_paused_at_the_drain_closes_after_the_resume<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Open(conn) => conn.pause(),
        At::Message(here, _) => here.each(|conn| conn.resume()),
        other => usual(other),
    });
    let peer = stage.open();
    peer.send(b"question");
    drain(&mut stage);
    stage.advance(2000);
    assert!(!stage.is_over);
    stage.handle().post(0, 0).unwrap();
    stage.advance(2000);
    assert_eq!(peer.got(), b"question");
    assert!(stage.is_over);
    stage.stop();
}

fn arrivals_during_the_drain_are_opened_and_told<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let keeps = stage.open();
    keeps.send(b"x");
    stage.play(|at| match at {
        At::Draining(conn) => {
            let _ = conn.send(b"bye");
            conn.close_when_idle();
        }
        other => usual(other),
    });
    stage.shared.raise(Phase::Drain);
    stage.turn();
    let late = stage.arrive();
    late.send(b"?");
    stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
    stage.advance(2000);
    let calls = stage.record(&late).calls;
    assert_eq!(calls.iter().filter(|call| **call == Callback::Draining).count(), 1);
    assert!(late.got().contains(&b'?') && late.saw_fin(), "{:?}", late.got());
    assert!(stage.is_over);
    stage.stop();
}

fn dials_during_the_drain_end<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let log = stage.log.clone();
    stage.play(move |at| match at {
        At::Message(here, _) | At::Timer(here, _) => {
            let _ = here.dial(super::somewhere(), log.session(None));
        }
        other => usual(other),
    });
    stage.world.get().dials.extend([Outcome::Silence, Outcome::Silence]);
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    drain(&mut stage);
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    assert!(stage.is_over, "nothing was promised to a peer that was never reached");
    stage.stop();
}

fn at_its_deadline_the_rest_is_reset<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.drained_per_turn = 2);
    stage.play(|at| match at {
        At::Draining(conn) => conn.set_busy(true),
        other => usual(other),
    });
    let peers: Vec<_> = (0..9).map(|_| stage.open()).collect();
    peers[0].reads(false);
    peers[0].send(&pattern(0, 100_000));
    drain(&mut stage);
    stage.advance(1000);
    stage.shared.raise(Phase::ForceClose);
    stage.settle();
    assert!(stage.is_over);
    for peer in &peers {
        assert!(peer.saw_reset());
        assert_eq!(stage.record(peer).closed, Some(CloseReason::DrainDeadline));
    }
    stage.stop();
}

fn a_stop_resets_all<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peers: Vec<_> = (0..9).map(|_| stage.open()).collect();
    peers[0].reads(false);
    peers[0].send(&pattern(0, 100_000));
    peers[1].send(b"and something unread");
    stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
    stage.shared.raise(Phase::Stop);
    stage.settle();
    assert!(stage.is_over);
    for peer in &peers {
        assert!(peer.saw_reset());
        assert_eq!(stage.record(peer).closed, Some(CloseReason::Stopped));
    }
    stage.stop();
}

fn arrivals_after_a_stop_are_refused_and_counted<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.shared.raise(Phase::Stop);
    stage.turn();
    stage.arrive();
    stage.arrive();
    stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
    stage.settle();
    assert!(stage.is_over);
    assert_eq!(stage.snapshot().closed_by(CloseReason::Stopped), 2);
    assert!(stage.log.get().records.is_empty());
    stage.stop();
}

fn mail_left_at_the_end_is_counted<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.mail_per_turn = 2);
    for n in 0..10 {
        stage.handle().post(0, n).unwrap();
    }
    stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
    stage.shared.raise(Phase::Stop);
    stage.settle();
    let taken = stage.log.get().messages.len() as u64;
    assert_eq!(stage.count(Counter::MailLost) + taken, 10);
    assert!(stage.handle().post(0, 1).is_err());
    stage.stop();
}

fn the_order_wins_over_a_handler_that_ignores_it<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Draining(_) | At::End(_) => {}
        other => usual(other),
    });
    let peers: Vec<_> = (0..5).map(|_| stage.open()).collect();
    drain(&mut stage);
    stage.advance(100_000);
    peers[0].finish();
    stage.advance(100_000);
    assert_eq!(stage.event_loop.state.table.len(), 5);
    stage.shared.raise(Phase::ForceClose);
    stage.settle();
    assert!(stage.is_over);
    stage.stop();
}

/// The turn that hears of the drain tells it before it reads mail: what had been posted for a
/// connection found it closed.
fn what_was_posted_before_a_drain_is_read_before_anybody_is_told<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.mail_per_turn = 2);
    let peers: Vec<_> = (0..10).map(|_| stage.open()).collect();
    stage.play(|at| match at {
        At::Message(here, n) => here.each(|conn| _ = conn.send(&[n as u8])),
        other => usual(other),
    });
    for n in 0..10 {
        stage.handle().post(0, n).unwrap();
    }
    for peer in &peers {
        stage.handle().send(stage.id(peer), "last").unwrap();
    }
    drain(&mut stage);
    stage.advance(2000);
    assert!(stage.is_over);
    for peer in &peers {
        assert_eq!(peer.got(), b"\0\x01\x02\x03\x04\x05\x06\x07\x08\x09last");
        assert_eq!(stage.record(peer).closed, Some(CloseReason::Draining));
    }
    assert_eq!(stage.count(Counter::MailLost), 0);
    stage.stop();
}

/// `close_when_idle` finds the moment and cannot speak then: a question that crossed the end was lost,
/// and its peer could not tell.
fn a_question_is_answered_or_finds_the_last_word<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.drained_per_turn = 3);
    stage.play(|at| match at {
        At::Draining(conn) => conn.close_when_idle_with("BYE"),
        other => usual(other),
    });
    let peers: Vec<_> = (0..20).map(|_| stage.open()).collect();
    let mut asked = [0; 20];
    let mut ask = |stage: &mut Stage<D>, peers: &[super::Peer]| {
        let n = stage.rng.below(20);
        if !peers[n].saw_fin() {
            peers[n].send(b"?");
            asked[n] += 1;
        }
    };
    for _ in 0..10 {
        ask(&mut stage, &peers);
        stage.turn();
    }
    drain(&mut stage);
    for _ in 0..200 {
        if stage.is_over {
            break;
        }
        ask(&mut stage, &peers);
        if stage.rng.one_in(3) {
            let ms = stage.rng.below(50) as u64;
            stage.advance(ms);
        } else {
            stage.turn();
        }
    }
    stage.advance(1000);
    assert!(peers.iter().all(super::Peer::saw_fin), "all have been let go");
    for (n, peer) in peers.iter().enumerate() {
        let got = peer.got();
        let answers = got.strip_suffix(b"BYE").unwrap_or_else(|| panic!("{n} got {got:?}"));
        assert!(answers.iter().all(|byte| *byte == b'?') && answers.len() <= asked[n]);
        assert!(!peer.saw_reset(), "{n}: a question that crossed the last word");
        peer.finish();
    }
    stage.settle();
    assert!(stage.is_over);
    assert!(stage.event_loop.state.last_words.is_empty());
    stage.stop();
}

fn a_last_word_that_is_made_at_that_moment_is_the_last<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::End(_) => {}
        At::Data(conn, input) => {
            input.take_all();
            conn.finish();
        }
        At::Draining(conn) => {
            let _ = conn.send(b"going");
            conn.close_when_idle_with("this is replaced");
            conn.close_when_idle_then(|conn| {
                assert_eq!(conn.unsent(), 0);
                assert!(conn.send(b", gone").is_taken());
            });
        }
        other => usual(other),
    });
    let (peer, ended, finished) = (stage.open(), stage.open(), stage.open());
    ended.finish();
    finished.send(b"finish");
    stage.settle();
    drain(&mut stage);
    stage.advance(1000);
    assert_eq!(peer.got(), b"going, gone");
    assert_eq!(ended.got(), b"going, gone");
    assert_eq!(finished.got(), b"", "it has had its FIN");
    for peer in [&peer, &ended, &finished] {
        assert!(peer.saw_fin() && !peer.saw_reset());
        peer.finish();
    }
    stage.advance(60_000);
    assert!(stage.is_over);
    stage.stop();
}

fn a_panic_in_a_last_word_costs_its_connection<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let log = stage.log.clone();
    stage.panics_are_counted_by(move || log.get().panics.len() as u64);
    stage.play(|at| match at {
        At::Draining(conn) => conn.close_when_idle_then(|conn| {
            assert!(conn.send(b"taken back").is_taken());
            super::fail()
        }),
        other => usual(other),
    });
    let peer = stage.open();
    drain(&mut stage);
    stage.settle();
    assert_eq!(peer.got(), b"");
    assert!(peer.saw_fin());
    peer.finish();
    stage.settle();
    assert!(stage.is_over);
    let closed = stage.record(&peer).closed;
    assert_eq!(closed, Some(CloseReason::Panicked(Callback::Draining)));
    stage.stop();
}

/// What the handler had left of a message counted as under way, though its peer had ended and could never
/// send the rest: the drain waited for it until its deadline.
fn a_half_closed_one_with_half_a_message_is_let_go<D: Rig>(seed: u64) {
    for pauses in [false, true] {
        let mut stage = Stage::<D>::new(seed);
        stage.play(move |at| match at {
            At::Data(..) => {} // no whole line yet
            At::End(conn) if pauses => conn.pause(),
            At::End(_) => {}
            other => usual(other),
        });
        let peer = stage.open();
        peer.send(b"half a line");
        peer.finish();
        stage.settle();
        assert_eq!(stage.state(&peer), State::PeerEnded);
        let memory = stage.event_loop.state.outbox.pool.memory();
        assert_eq!(memory, stage.event_loop.state.outbox.pool.retained_bytes(), "kept for nothing");
        drain(&mut stage);
        stage.settle();
        assert!(stage.is_over, "the drain still waits for it");
        assert!(peer.saw_fin());
        stage.stop();
    }
}

/// The first answer of a connection in flow was held back, and so was all behind it: above its high mark the
/// connection was not read either, and heard no question before its quiet time was over.
fn an_answer_above_the_high_mark_is_not_held_back<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.receive_block_bytes = 8 << 10;
        limits.receive_bytes_per_turn = 8 << 10;
    });
    stage.world.get().buffers = (64 << 10, 64 << 10);
    stage.play(|at| match at {
        At::Data(conn, input) => {
            let asks_for_much = input.take_all().contains(&b'!');
            let _ = conn.send(&pattern(0, if asks_for_much { 10_000 } else { 1 }));
        }
        other => usual(other),
    });
    let peer = stage.open();
    peer.send(&[b'?'; 5_000]);
    drain(&mut stage);
    stage.settle();
    if stage.pending(&peer) > 0 {
        peer.send(b"!");
        stage.settle();
        assert_eq!(stage.pending(&peer), 0, "it is held back");
        assert!(peer.got().len() > 10_000);
    } else {
        assert!(stage.is_over, "it came in pieces too small for a flow");
    }
    stage.advance(2000);
    assert!(stage.is_over && peer.saw_fin());
    stage.stop();
}

/// A handler that echoes would be told that its reader is slow, although the reader has taken all that it was
/// given: what is in the way is what this side holds back.
fn what_is_held_back_goes_out_before_the_next_answer_would_pass_the_high_mark<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.receive_block_bytes = 8 << 10;
        limits.receive_bytes_per_turn = 8 << 10;
        limits.send_bytes_per_turn = 8 << 10;
    });
    stage.world.get().buffers = (64 << 10, 64 << 10);
    stage.world.get().faults.short_sends = false;
    let above = Rc::new(Cell::new(0));
    let counts = Rc::clone(&above);
    stage.play(move |at| match at {
        At::Data(conn, input) => {
            let queued = conn.echo(input);
            counts.set(counts.get() + u32::from(queued == SendOutcome::AboveHighWatermark));
        }
        other => usual(other),
    });
    let peer = stage.open();
    peer.send(&pattern(0, 4096));
    drain(&mut stage);
    stage.settle();
    let mut said = 4096;
    while !stage.is_over && said < 30_000 {
        peer.send(&pattern(said, 3000));
        said += 3000;
        stage.settle();
    }
    assert_eq!(above.get(), 0, "of {said} bytes");
    stage.advance(2000);
    assert!(stage.is_over && peer.saw_fin());
    assert!(peer.got() == pattern(0, peer.got().len()));
    stage.stop();
}

/// It was dropped beside the table, outside of any guard.
fn a_last_word_that_is_never_said_and_panics_at_its_drop_costs_nobody<D: Rig>(seed: u64) {
    struct Bomb(Rc<Cell<u64>>);
    impl Drop for Bomb {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
            super::fail()
        }
    }
    let mut stage = Stage::<D>::new(seed);
    let dropped = Rc::new(Cell::new(0));
    stage.panics_are_counted_by({
        let dropped = Rc::clone(&dropped);
        move || dropped.get()
    });
    stage.play(move |at| match at {
        At::Open(conn) => {
            conn.set_busy(true);
            let bomb = Bomb(Rc::clone(&dropped));
            conn.close_when_idle_then(move |_| drop(bomb));
        }
        other => usual(other),
    });
    let (peer, neighbour) = (stage.open(), stage.open());
    peer.reset();
    stage.settle();
    assert!(stage.record(&peer).closed.is_some());
    assert_eq!(stage.panics, 1);
    neighbour.send(b"still there?");
    stage.settle();
    assert_eq!(neighbour.got(), b"still there?");
    stage.stop();
}
