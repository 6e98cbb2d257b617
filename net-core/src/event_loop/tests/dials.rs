//! Dialling: exactly one answer, whatever comes.

use super::{At, Outcome, Rig, Stage, on_both_rigs, pattern, usual};
use crate::closed::{Callback, Closed};
use crate::sys::{DialOptions, Errno};

on_both_rigs! {
    a_dial_comes_up_and_speaks: 20,
    a_refused_dial_closes: 10,
    a_dial_that_fails_at_once_closes: 10,
    a_dial_to_itself_is_refused: 10,
    a_greeting_and_the_end_at_once_are_all_heard: 20,
    a_greeting_and_a_reset_at_once_give_one_answer: 20,
    a_deadline_set_when_open_holds: 10,
    many_dials_give_one_answer_each: 10,
    a_refused_watch_of_a_dial_closes: 10,
}

/// A stage whose handler dials once for each message.
fn dialling<D: Rig>(seed: u64) -> Stage<D> {
    let mut stage = Stage::<D>::new(seed);
    let log = stage.log.clone();
    stage.play(move |at| match at {
        At::Message(here, _) => {
            let session = log.session(None);
            here.dial("10.0.0.1:1".parse().unwrap(), DialOptions::default(), session);
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
    stage.remote().post(0, 0).unwrap();
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
    assert_eq!((record.data_bytes, record.closed), (6, Some(Closed::PeerEnded)));
    stage.stop();
}

fn a_refused_dial_closes<D: Rig>(seed: u64) {
    let mut stage = dialling::<D>(seed);
    let record = dial(&mut stage, Outcome::Refused);
    assert_eq!(record.calls, [Callback::Close]);
    assert_eq!(record.closed, Some(Closed::Machine(Errno::new(libc::ECONNREFUSED))));
    stage.stop();
}

fn a_dial_that_fails_at_once_closes<D: Rig>(seed: u64) {
    let mut stage = dialling::<D>(seed);
    for errno in [libc::ENETUNREACH, libc::EADDRNOTAVAIL, libc::EMFILE] {
        let record = dial(&mut stage, Outcome::Fails(errno));
        assert_eq!(record.calls, [Callback::Close]);
        assert_eq!(record.closed, Some(Closed::Machine(Errno::new(errno))));
    }
    stage.stop();
}

fn a_dial_to_itself_is_refused<D: Rig>(seed: u64) {
    let mut stage = dialling::<D>(seed);
    let record = dial(&mut stage, Outcome::ToItself);
    assert_eq!(record.calls, [Callback::Close]);
    assert_eq!(record.closed, Some(Closed::Machine(Errno::new(libc::ECONNREFUSED))));
    stage.stop();
}

fn a_greeting_and_the_end_at_once_are_all_heard<D: Rig>(seed: u64) {
    for len in [1, 64, 10_000] {
        let mut stage = dialling::<D>(seed);
        let record = dial(&mut stage, Outcome::Greeted(pattern(0, len), true));
        assert_eq!(record.data_bytes, len);
        assert_eq!(record.closed, Some(Closed::PeerEnded));
        let calls = record.calls;
        assert_eq!(calls.first(), Some(&Callback::Open));
        assert_eq!(calls[calls.len() - 2..], [Callback::End, Callback::Close]);
        assert!(stage.world.peer(0).got() == pattern(0, 20_000));
        stage.stop();
    }
}

fn a_greeting_and_a_reset_at_once_give_one_answer<D: Rig>(seed: u64) {
    let mut stage = dialling::<D>(seed);
    stage.world.get().dials.push_back(Outcome::Greeted(b"hello".to_vec(), false));
    stage.remote().post(0, 0).unwrap();
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
            here.dial("10.0.0.1:1".parse().unwrap(), DialOptions::default(), session);
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
        stage.remote().post(0, 0).unwrap();
        if stage.rng.one_in(5) {
            stage.turn();
        }
    }
    stage.settle();
    for record in &stage.log.get().records {
        let is_open =
            record.calls == [Callback::Open] || record.calls == [Callback::Open, Callback::Room];
        assert!(is_open != record.closed.is_some(), "{record:?}");
    }
    stage.stop();
}

fn a_refused_watch_of_a_dial_closes<D: Rig>(seed: u64) {
    let mut stage = dialling::<D>(seed);
    stage.world.get().faults.attach.push_back(libc::ENOSPC);
    let record = dial(&mut stage, Outcome::Up);
    assert_eq!(record.calls, [Callback::Close]);
    assert_eq!(record.closed, Some(Closed::Machine(Errno::new(libc::ENOSPC))));
    assert_eq!(stage.event_loop.state.table.len(), 0);
    stage.stop();
}
