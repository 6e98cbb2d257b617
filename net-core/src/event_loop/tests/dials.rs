//! Dialling: exactly one answer, whatever comes.

use super::{At, Outcome, Rig, Stage, on_both_rigs, pattern, somewhere, usual};
use crate::base::close_reason::{Callback, CloseReason, DeadlineKind, RefuseReason};
use crate::driver::{Signal, What};
use crate::features::dial::Dial;
use crate::observe::counters::Counter;
use crate::sys::Errno;
use crate::threads::control::Phase;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

on_both_rigs! {
    a_dial_comes_up_and_speaks: 20,
    what_a_dial_needed_is_given_back_when_it_is_up: 10,
    a_refused_dial_closes: 10,
    a_dial_that_fails_at_once_closes: 10,
    a_dial_to_itself_is_refused: 10,
    a_greeting_and_the_end_at_once_are_all_heard: 20,
    a_greeting_and_a_reset_at_once_give_one_answer: 20,
    a_deadline_set_when_open_holds: 10,
    many_dials_give_one_answer_each: 10,
    a_refused_watch_of_a_dial_closes: 10,
    a_dial_that_cannot_be_taken_comes_back_with_its_reason: 5,
    a_dial_that_waits_for_its_turn_is_met_by_the_drain: 5,
    no_turn_begins_more_dials_than_it_may: 5,
    bytes_for_a_dial_that_fails_are_counted: 10,
    bytes_for_a_dial_wait_until_it_is_up: 20,
    a_connecting_connection_that_is_ended_leaves_nothing: 20,
    what_is_sent_and_finished_while_it_connects_arrives_whole: 20,
    a_dial_that_fails_is_told_so_although_it_was_finished: 10,
    a_signal_before_the_decision_decides_nothing: 20,
    a_timeout_and_an_answer_at_once_give_one_outcome: 60,
    each_dial_has_a_timeout_of_its_own: 10,
}

/// A stage whose handler dials once for each message.
fn dialling<D: Rig>(seed: u64) -> Stage<D> {
    let mut stage = Stage::<D>::new(seed);
    let log = stage.log.clone();
    stage.play(move |at| match at {
        At::Message(here, _) => {
            let session = log.session(None);
            let _ = here.dial(somewhere(), session);
        }
        At::Open(conn) => {
            let _ = conn.send(&pattern(0, 20_000));
        }
        At::Data(_, input) => drop(input.take_all()),
        other => usual(other),
    });
    stage
}

fn dial<D: Rig>(stage: &mut Stage<D>, outcome: Outcome) -> super::actor::Record {
    stage.world.get().dials.push_back(outcome);
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    stage.log.get().records.last().unwrap().clone()
}

fn a_dial_comes_up_and_speaks<D: Rig>(seed: u64) {
    let mut stage = dialling::<D>(seed);
    let record = dial(&mut stage, Outcome::Up);
    assert_eq!(record.calls.first(), Some(&Callback::Open));
    let peer = stage.world.peer(0);
    assert!(peer.got() == pattern(0, 20_000));
    peer.send(b"answer");
    peer.finish();
    stage.settle();
    let record = stage.log.get().records[0].clone();
    assert_eq!((record.data_bytes, record.closed), (6, Some(CloseReason::PeerEnded)));
    stage.stop();
}

/// The addresses and sockets of an attempt are a box of some hundred bytes. A proxy has as many dials up as
/// clients, and would keep one for each.
fn what_a_dial_needed_is_given_back_when_it_is_up<D: Rig>(seed: u64) {
    let mut stage = dialling::<D>(seed);
    let record = dial(&mut stage, Outcome::Up);
    assert!(stage.world.peer(0).got() == pattern(0, 20_000));
    let head = stage.event_loop.state.head(record.id.unwrap()).unwrap();
    assert!(head.dialling().is_none(), "the dial is over");
    assert!(head.cold.is_none(), "nothing waits");
    stage.stop();
}

fn a_refused_dial_closes<D: Rig>(seed: u64) {
    let mut stage = dialling::<D>(seed);
    let record = dial(&mut stage, Outcome::Refused);
    assert_eq!(record.calls, [Callback::Close]);
    assert_eq!(record.closed, Some(CloseReason::Machine(Errno::CONNREFUSED)));
    stage.stop();
}

fn a_dial_that_fails_at_once_closes<D: Rig>(seed: u64) {
    let mut stage = dialling::<D>(seed);
    for errno in [libc::ENETUNREACH, libc::EADDRNOTAVAIL, libc::EMFILE] {
        let record = dial(&mut stage, Outcome::Fails(errno));
        assert_eq!(record.calls, [Callback::Close]);
        assert_eq!(record.closed, Some(CloseReason::Machine(Errno::new(errno))));
    }
    stage.stop();
}

fn a_dial_to_itself_is_refused<D: Rig>(seed: u64) {
    let mut stage = dialling::<D>(seed);
    let record = dial(&mut stage, Outcome::ToItself);
    assert_eq!(record.calls, [Callback::Close]);
    assert_eq!(record.closed, Some(CloseReason::Machine(Errno::CONNREFUSED)));
    stage.stop();
}

fn a_greeting_and_the_end_at_once_are_all_heard<D: Rig>(seed: u64) {
    for len in [1, 64, 10_000] {
        let mut stage = dialling::<D>(seed);
        let record = dial(&mut stage, Outcome::Greeted(pattern(0, len), true));
        assert_eq!(record.data_bytes, len);
        assert_eq!(record.closed, Some(CloseReason::PeerEnded));
        // `on_writable` may come behind the end: the peer still reads what it is owed.
        let calls: Vec<_> =
            record.calls.into_iter().filter(|it| *it != Callback::Writable).collect();
        assert_eq!(calls.first(), Some(&Callback::Open));
        assert_eq!(calls[calls.len() - 2..], [Callback::End, Callback::Close]);
        assert!(stage.world.peer(0).got() == pattern(0, 20_000));
        stage.stop();
    }
}

fn a_greeting_and_a_reset_at_once_give_one_answer<D: Rig>(seed: u64) {
    let mut stage = dialling::<D>(seed);
    stage.world.get().dials.push_back(Outcome::Greeted(b"hello".to_vec(), false));
    stage.handle().post(0, 0).unwrap();
    stage.turn();
    stage.world.get().flow();
    stage.world.peer(0).reset();
    stage.settle();
    let record = stage.log.get().records[0].clone();
    assert!(record.closed.is_some());
    assert_eq!(record.calls.iter().filter(|call| **call == Callback::Close).count(), 1);
    stage.stop();
}

fn a_deadline_set_when_open_holds<D: Rig>(seed: u64) {
    let mut stage = dialling::<D>(seed);
    let log = stage.log.clone();
    stage.play(move |at| match at {
        At::Message(here, _) => {
            let session = log.session(None);
            let _ = here.dial(somewhere(), session);
        }
        At::Open(conn) => conn.set_deadline(Some(std::time::Duration::from_millis(30))),
        other => usual(other),
    });
    dial(&mut stage, Outcome::Up);
    stage.advance(33);
    assert!(stage.world.peer(0).saw_fin());
    stage.stop();
}

fn many_dials_give_one_answer_each<D: Rig>(seed: u64) {
    let mut stage = dialling::<D>(seed);
    let outcomes =
        [Outcome::Up, Outcome::Refused, Outcome::ToItself, Outcome::Fails(libc::ENETDOWN)];
    for _ in 0..100 {
        let outcome = outcomes[stage.rng.below(4)].clone();
        stage.world.get().dials.push_back(outcome);
        stage.handle().post(0, 0).unwrap();
        if stage.rng.one_in(5) {
            stage.turn();
        }
    }
    stage.settle();
    for record in &stage.log.get().records {
        let is_open = record.calls == [Callback::Open]
            || record.calls == [Callback::Open, Callback::Writable];
        assert!(is_open != record.closed.is_some(), "{record:?}");
    }
    stage.stop();
}

fn a_refused_watch_of_a_dial_closes<D: Rig>(seed: u64) {
    let mut stage = dialling::<D>(seed);
    stage.world.get().faults.attach.push_back(libc::ENOSPC);
    let record = dial(&mut stage, Outcome::Up);
    assert_eq!(record.calls, [Callback::Close]);
    assert_eq!(record.closed, Some(CloseReason::Machine(Errno::NOSPC)));
    assert_eq!(stage.event_loop.state.table.len(), 0);
    stage.stop();
}

/// A loop whose table is full, a server that drains, one that stops: no slot is used, no callback
/// comes, and the session is there again.
fn a_dial_that_cannot_be_taken_comes_back_with_its_reason<D: Rig>(seed: u64) {
    for (order, expected) in [
        (None, CloseReason::Refused(RefuseReason::Full)),
        (Some(Phase::Drain), CloseReason::Draining),
        (Some(Phase::ForceClose), CloseReason::Draining),
        (Some(Phase::Stop), CloseReason::Stopped),
    ] {
        let mut stage = Stage::<D>::new(seed);
        let log = stage.log.clone();
        let inbox = std::sync::Arc::clone(&stage.shared.loops[0]);
        stage.play(move |at| match at {
            At::Message(here, _) => {
                // The order comes in the middle of this callback.
                order.inspect(|order| inbox.control.raise(*order));
                let refused = here.dial(somewhere(), log.session(None)).unwrap_err();
                assert_eq!(refused.why, expected);
                assert_eq!(log.get().records[refused.session.number].drops, 0);
            }
            other => usual(other),
        });
        stage.event_loop.state.table.is_full = order.is_none();
        stage.handle().post(0, 0).unwrap();
        stage.settle();
        assert!(stage.log.get().records[0].calls.is_empty());
        assert_eq!((stage.count(Counter::Dialled), stage.shared.admission.inside()), (0, 0));
        stage.stop();
    }
}

fn a_dial_that_waits_for_its_turn_is_met_by_the_drain<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.dials_per_turn = 1);
    let log = stage.log.clone();
    stage.play(move |at| match at {
        At::Message(here, _) => {
            (0..5).for_each(|_| _ = here.dial(somewhere(), log.session(None)).unwrap());
        }
        other => usual(other),
    });
    stage.world.get().dials.extend([Outcome::Silence, Outcome::Silence, Outcome::Silence]);
    stage.handle().post(0, 0).unwrap();
    while stage.log.get().messages.is_empty() {
        stage.turn();
    }
    stage.shared.loops[0].arrivals_ended.store(true, std::sync::atomic::Ordering::Release);
    stage.shared.raise(Phase::Drain);
    stage.settle();
    assert!(stage.is_over);
    for record in &stage.log.get().records {
        assert_eq!(
            (&record.calls[..], record.closed),
            (&[Callback::Close][..], Some(CloseReason::Draining))
        );
    }
    stage.stop();
}

fn no_turn_begins_more_dials_than_it_may<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.dials_per_turn = 3);
    let log = stage.log.clone();
    stage.play(move |at| match at {
        At::Message(here, _) => {
            (0..20).for_each(|_| _ = here.dial(somewhere(), log.session(None)).unwrap());
        }
        other => usual(other),
    });
    stage.handle().post(0, 0).unwrap();
    let mut begun = 0;
    while begun < 20 {
        stage.turn();
        let now = stage.world.get().dialled_at.len();
        assert!(now - begun <= 3, "{now} after {begun}");
        begun = now;
    }
    stage.settle();
    stage.stop();
}

/// Sends at once on what it dials, for each message.
fn eager<D: Rig>(seed: u64) -> Stage<D> {
    let mut stage = Stage::<D>::new(seed);
    let log = stage.log.clone();
    stage.play(move |at| match at {
        At::Message(here, _) => {
            let id = here.dial(somewhere(), log.session(None)).unwrap();
            let mut conn = here.connection(id).expect("it can be sent to already");
            assert!(conn.send(&pattern(0, 3000)).is_taken());
            assert!(conn.send_shared(pattern(3000, 3000).into()).is_taken());
        }
        other => usual(other),
    });
    stage
}

fn bytes_for_a_dial_that_fails_are_counted<D: Rig>(seed: u64) {
    for outcome in [Outcome::Refused, Outcome::Fails(libc::EMFILE)] {
        let mut stage = eager::<D>(seed);
        let record = dial(&mut stage, outcome);
        assert_eq!(record.calls, [Callback::Close]);
        assert_eq!(stage.count(Counter::BytesDropped), 6000);
        stage.stop();
    }
}

fn bytes_for_a_dial_wait_until_it_is_up<D: Rig>(seed: u64) {
    let mut stage = eager::<D>(seed);
    let at = stage.world.get().now + 50;
    dial(&mut stage, Outcome::UpAt(at));
    assert_eq!(stage.world.peer(0).got(), b"");
    stage.advance(60);
    assert!(stage.world.peer(0).got() == pattern(0, 6000));
    stage.stop();
}

/// As `eager`, and then ends sending.
fn hasty<D: Rig>(seed: u64) -> Stage<D> {
    let mut stage = Stage::<D>::new(seed);
    let log = stage.log.clone();
    stage.play(move |at| match at {
        At::Message(here, _) => {
            let id = here.dial(somewhere(), log.session(None)).unwrap();
            let mut conn = here.connection(id).unwrap();
            assert!(conn.send(&pattern(0, 6000)).is_taken());
            conn.finish();
            assert!(!conn.is_open() && !conn.send(b"too late").is_taken());
        }
        At::Open(conn) => assert!(!conn.send(b"too late").is_taken()),
        other => usual(other),
    });
    stage
}

fn what_is_sent_and_finished_while_it_connects_arrives_whole<D: Rig>(seed: u64) {
    let mut stage = hasty::<D>(seed);
    let at = stage.world.get().now + 50;
    dial(&mut stage, Outcome::UpAt(at));
    stage.advance(60);
    let peer = stage.world.peer(0);
    assert!(peer.got() == pattern(0, 6000) && peer.saw_fin() && !peer.saw_reset());
    peer.send(b"and this is the answer");
    peer.finish();
    stage.settle();
    let record = stage.log.get().records[0].clone();
    assert_eq!((record.calls.first(), record.data_bytes), (Some(&Callback::Open), 22));
    assert_eq!(record.closed, Some(CloseReason::Local));
    stage.stop();
}

fn a_dial_that_fails_is_told_so_although_it_was_finished<D: Rig>(seed: u64) {
    let mut stage = hasty::<D>(seed);
    let record = dial(&mut stage, Outcome::Refused);
    assert_eq!(record.calls, [Callback::Close]);
    assert!(matches!(record.closed, Some(CloseReason::Machine(_))), "{:?}", record.closed);
    assert_eq!(stage.count(Counter::BytesDropped), 6000);
    stage.stop();
}

/// Closed at once, or later, while the kernel still waits for an answer: the socket goes, too.
fn a_connecting_connection_that_is_ended_leaves_nothing<D: Rig>(seed: u64) {
    for is_at_once in [true, false] {
        let mut stage = Stage::<D>::new(seed);
        let (log, ends) = (stage.log.clone(), stage.rng.below(2));
        let dialled = Rc::new(RefCell::new(None));
        stage.play(move |at| match at {
            At::Message(here, n) => {
                if n == 0 {
                    *dialled.borrow_mut() =
                        Some(here.dial(somewhere(), log.session(None)).unwrap());
                }
                if n == 1 || is_at_once {
                    let mut conn = here.connection(dialled.borrow().unwrap()).unwrap();
                    match ends {
                        0 => conn.close(),
                        _ => conn.reset(),
                    }
                }
            }
            other => usual(other),
        });
        let record = dial(&mut stage, Outcome::Silence);
        assert_eq!(record.closed.is_some(), is_at_once);
        if !is_at_once {
            stage.handle().post(0, 1).unwrap();
            stage.settle();
        }
        let record = stage.log.get().records[0].clone();
        assert_eq!(
            (&record.calls[..], record.closed),
            (&[Callback::Close][..], Some(CloseReason::Local))
        );
        assert_eq!(stage.world.get().sockets.len(), 0);
        stage.stop();
    }
}

/// Linux has been seen to say HUP while a connect went on that then came up (haproxy 726243318).
fn a_signal_before_the_decision_decides_nothing<D: Rig>(seed: u64) {
    let mut stage = dialling::<D>(seed);
    let at = stage.world.get().now + 50;
    let record = dial(&mut stage, Outcome::UpAt(at));
    assert!(record.calls.is_empty());
    let token = stage.world.get().wires[0].token.unwrap();
    for what in [What::HUNG_UP, What::ROOM, What::ARRIVED | What::ENDED, What::GONE] {
        stage.event_loop.signal(Signal { token, what });
    }
    stage.settle();
    assert!(stage.log.get().records[0].calls.is_empty());
    stage.world.peer(0).send(b"welcome");
    stage.advance(60);
    let record = stage.log.get().records[0].clone();
    assert_eq!((record.calls.first(), record.data_bytes), (Some(&Callback::Open), 7));
    assert!(stage.world.peer(0).got() == pattern(0, 20_000));
    stage.stop();
}

fn a_timeout_and_an_answer_at_once_give_one_outcome<D: Rig>(seed: u64) {
    let timeout = Duration::from_millis(100);
    let mut stage = Stage::<D>::with(seed, |limits| limits.connect_timeout = timeout);
    let log = stage.log.clone();
    stage.play(move |at| match at {
        At::Message(here, _) => drop(here.dial(somewhere(), log.session(None)).unwrap()),
        other => usual(other),
    });
    for _ in 0..30 {
        let at = stage.world.get().now + stage.rng.within(98, 104) as u64;
        stage.world.get().dials.push_back(Outcome::UpAt(at));
        stage.handle().post(0, 0).unwrap();
        let passes = stage.rng.below(3) as u64;
        stage.advance(passes);
    }
    stage.advance(200);
    let records = stage.log.get().records.clone();
    for record in &records {
        match record.closed {
            None => assert_eq!(record.calls, [Callback::Open]),
            Some(why) => {
                assert_eq!(why, CloseReason::Deadline(DeadlineKind::Connect));
                assert_eq!(record.calls, [Callback::Close]);
            }
        }
    }
    let open = records.iter().filter(|record| record.closed.is_none()).count();
    assert_eq!(stage.world.get().sockets.len(), open, "sockets are left");
    stage.stop();
}

fn each_dial_has_a_timeout_of_its_own<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let log = stage.log.clone();
    stage.play(move |at| match at {
        At::Message(here, ms) => {
            let dial = Dial::to(somewhere()).timeout(Duration::from_millis(ms));
            let _ = here.dial(dial, log.session(None));
        }
        other => usual(other),
    });
    for ms in [50, 200] {
        stage.world.get().dials.push_back(Outcome::Silence);
        stage.handle().post(0, ms).unwrap();
    }
    stage.settle();
    for (passes, closed) in [(49, 0), (4, 1), (145, 1), (5, 2)] {
        stage.advance(passes);
        let records = stage.log.get().records.clone();
        let is_closed = |record: &&super::actor::Record| record.closed.is_some();
        assert_eq!(records.iter().filter(is_closed).count(), closed, "after {passes} more");
    }
    assert_eq!(stage.event_loop.state.table.len(), 0);
    stage.stop();
}
