//! Dials that are tried again: one session, one outcome, and no storm.

use super::actor::Record;
use super::{At, Outcome, Rig, Stage, on_both_rigs, pattern, somewhere, usual};
use crate::base::close_reason::{Callback, CloseReason, DeadlineKind};
use crate::config::limits::Limits;
use crate::features::dial::{Dial, Retry};
use crate::observe::counters::Counter;
use crate::sys::Errno;
use crate::threads::control::Phase;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

on_both_rigs! {
    a_session_survives_every_failure_but_the_last: 30,
    the_last_failure_is_the_reason: 20,
    an_attempt_that_is_not_answered_is_followed_by_another: 20,
    time_bounds_all_attempts_together: 20,
    a_dial_may_be_ended_between_attempts: 20,
    a_drain_ends_dials_between_attempts: 10,
    an_own_deadline_waits_until_it_is_up: 10,
    when_a_server_dies_its_clients_come_back_spread: 3,
}

/// Two failures at once, one that comes, one that never does.
fn failures() -> [Outcome; 5] {
    [
        Outcome::Fails(libc::EMFILE),
        Outcome::Fails(libc::EADDRNOTAVAIL),
        Outcome::Refused,
        Outcome::ToItself,
        Outcome::Silence,
    ]
}

const RETRY: Retry = Retry {
    attempts: 4,
    first_pause: Duration::from_millis(100),
    pause_max: Duration::from_millis(400),
    within: Duration::from_secs(60),
};

/// A stage that dials so for each message, and sends at once.
fn retrying<D: Rig>(seed: u64, retry: Retry, change: impl FnOnce(&mut Limits)) -> Stage<D> {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.connect_timeout = Duration::from_millis(300);
        change(limits);
    });
    let log = stage.log.clone();
    stage.play(move |at| match at {
        At::Message(here, _) => {
            let dial = Dial::to(somewhere()).retry(retry);
            let id = here.dial(dial, log.session(None)).unwrap();
            let _ = here.connection(id).unwrap().send(&pattern(0, 5000));
        }
        At::Data(_, input) => drop(input.take_all()),
        other => usual(other),
    });
    stage
}

fn only_record<D: Rig>(stage: &Stage<D>) -> Record {
    let records = stage.log.get().records.clone();
    assert_eq!(records.len(), 1);
    records[0].clone()
}

fn a_session_survives_every_failure_but_the_last<D: Rig>(seed: u64) {
    let mut stage = retrying::<D>(seed, RETRY, |_| {});
    for _ in 0..3 {
        let failure = failures()[stage.rng.below(5)].clone();
        stage.world.get().dials.push_back(failure);
    }
    stage.world.get().dials.push_back(Outcome::Greeted(b"welcome".to_vec(), false));
    stage.handle().post(0, 0).unwrap();
    stage.advance(3000);
    let record = only_record(&stage);
    assert_eq!((record.calls.first(), record.data_bytes), (Some(&Callback::Open), 7));
    assert_eq!((record.closed, record.drops), (None, 0));
    let last = stage.world.get().wires.len() - 1;
    assert!(stage.world.peer(last).got() == pattern(0, 5000), "what was sent before it was up");
    assert_eq!(stage.world.get().sockets.len(), 1, "the others are closed");
    assert_eq!((stage.count(Counter::Dialled), stage.shared.admission.inside()), (1, 1));
    stage.stop();
}

fn the_last_failure_is_the_reason<D: Rig>(seed: u64) {
    for (outcome, reason) in [
        (Outcome::Fails(libc::ENETUNREACH), CloseReason::Machine(Errno::NETUNREACH)),
        (Outcome::Refused, CloseReason::Machine(Errno::CONNREFUSED)),
        (Outcome::Silence, CloseReason::Deadline(DeadlineKind::Connect)),
    ] {
        let mut stage = retrying::<D>(seed, RETRY, |_| {});
        for _ in 0..3 {
            let failure = failures()[stage.rng.below(5)].clone();
            stage.world.get().dials.push_back(failure);
        }
        stage.world.get().dials.push_back(outcome);
        stage.handle().post(0, 0).unwrap();
        stage.advance(3000);
        let record = only_record(&stage);
        assert_eq!((&record.calls[..], record.closed), (&[Callback::Close][..], Some(reason)));
        assert_eq!(stage.world.get().dialled_at.len(), 4, "attempts");
        assert_eq!(stage.count(Counter::BytesDropped), 5000);
        stage.stop();
    }
}

fn an_attempt_that_is_not_answered_is_followed_by_another<D: Rig>(seed: u64) {
    let mut stage = retrying::<D>(seed, RETRY, |_| {});
    stage.world.get().dials.push_back(Outcome::Silence);
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    let begun = stage.world.get().now;
    stage.advance(500);
    let (first, second) = {
        let world = stage.world.get();
        (world.dialled_at[0], world.dialled_at[1])
    };
    assert_eq!(first, begun);
    // The timeout, then half the pause or all of it; each rounded up.
    assert!((350..=404).contains(&(second - first)), "{}", second - first);
    assert_eq!(only_record(&stage).calls.first(), Some(&Callback::Open));
    stage.stop();
}

fn time_bounds_all_attempts_together<D: Rig>(seed: u64) {
    let retry = Retry { attempts: 1000, within: Duration::from_secs(2), ..RETRY };
    let mut stage = retrying::<D>(seed, retry, |_| {});
    for _ in 0..1000 {
        let failure = failures()[stage.rng.below(5)].clone();
        stage.world.get().dials.push_back(failure);
    }
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    stage.advance(2003);
    assert!(only_record(&stage).closed.is_some(), "given up after two seconds");
    assert_eq!(stage.world.get().sockets.len(), 0);
    stage.stop();
}

fn a_dial_may_be_ended_between_attempts<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let (log, dialled) = (stage.log.clone(), Rc::new(RefCell::new(None)));
    let handle = stage.handle();
    let by_remote = stage.rng.one_in(2);
    stage.play(move |at| match at {
        At::Message(here, 0) => {
            let dial = Dial::to(somewhere()).retry(RETRY);
            *dialled.borrow_mut() = Some(here.dial(dial, log.session(None)).unwrap());
        }
        At::Message(here, _) => {
            let id = dialled.borrow().unwrap();
            let mut conn = here.connection(id).unwrap();
            assert_eq!(conn.peer(), None, "there is nobody");
            if by_remote { handle.close(id).unwrap() } else { conn.close() }
        }
        other => usual(other),
    });
    stage.world.get().dials.push_back(Outcome::Refused);
    stage.handle().post(0, 0).unwrap();
    stage.advance(20);
    stage.handle().post(0, 1).unwrap();
    stage.settle();
    assert_eq!(only_record(&stage).closed, Some(CloseReason::Local));
    stage.advance(10_000);
    assert_eq!(stage.world.get().dialled_at.len(), 1, "and is not tried again");
    stage.stop();
}

fn a_drain_ends_dials_between_attempts<D: Rig>(seed: u64) {
    let mut stage = retrying::<D>(seed, RETRY, |_| {});
    for _ in 0..20 {
        stage.world.get().dials.push_back(Outcome::Refused);
        stage.handle().post(0, 0).unwrap();
    }
    stage.advance(20);
    stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
    let order = stage.rng.pick(&[Phase::Drain, Phase::ForceClose, Phase::Stop]);
    stage.shared.raise(order);
    stage.settle();
    assert!(stage.is_over);
    let expected = match order {
        Phase::Drain => CloseReason::Draining,
        Phase::ForceClose => CloseReason::DrainDeadline,
        _ => CloseReason::Stopped,
    };
    assert!(stage.log.get().records.iter().all(|record| record.closed == Some(expected)));
    stage.stop();
}

fn an_own_deadline_waits_until_it_is_up<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let log = stage.log.clone();
    stage.play(move |at| match at {
        At::Message(here, _) => {
            let dial = Dial::to(somewhere()).retry(RETRY);
            let id = here.dial(dial, log.session(None)).unwrap();
            let mut conn = here.connection(id).unwrap();
            conn.set_deadline(Some(Duration::from_millis(200)));
        }
        other => usual(other),
    });
    stage.world.get().dials.push_back(Outcome::Refused);
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    stage.advance(150);
    assert_eq!(only_record(&stage).calls, [Callback::Open]);
    stage.advance(60);
    assert!(only_record(&stage).calls.contains(&Callback::Deadline));
    stage.stop();
}

/// muduo doubles its pause without chance: ten thousand clients come back in one instant.
fn when_a_server_dies_its_clients_come_back_spread<D: Rig>(seed: u64) {
    const DIALLERS: usize = 2000;
    let mut stage = retrying::<D>(seed, RETRY, |limits| limits.mail_per_turn = 10_000);
    for _ in 0..4 * DIALLERS {
        stage.world.get().dials.push_back(Outcome::Refused);
    }
    for _ in 0..DIALLERS {
        stage.handle().post(0, 0).unwrap();
    }
    stage.settle();
    let died = stage.world.get().now;
    stage.advance(5000);
    let world = stage.world.clone();
    let after: Vec<u64> =
        world.get().dialled_at.iter().map(|at| at - died).filter(|at| *at > 0).collect();
    assert_eq!(after.len(), 3 * DIALLERS, "each has tried three times more");
    assert!(after[0] >= 50, "nobody at once");
    let busiest = after.chunk_by(|a, b| a == b).map(<[u64]>::len).max().unwrap();
    assert!(busiest < DIALLERS / 50 * 2, "{busiest} in one millisecond");
    stage.stop();
}
