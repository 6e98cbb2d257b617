//! Many come to their end at once: each turn ends some of them, and who speaks is served meanwhile.

use super::{Rig, Stage, on_both_rigs};
use crate::closed::{Closed, Which};
use crate::driver::sim::Peer;
use crate::life::State;
use std::time::Duration;

on_both_rigs! {
    deadlines_of_a_crowd_are_met_over_turns: 10,
    a_crowd_that_is_reset_is_closed_over_turns: 10,
    a_crowd_that_has_nothing_more_to_say_is_heard_over_turns: 5,
}

const CROWD: usize = 300;
const A_TURN: usize = 10;

/// A crowd that has said nothing, beside a guest who has spoken.
fn with_crowd<D: Rig>(seed: u64) -> (Stage<D>, Vec<Peer>, Peer) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.endings_per_turn = A_TURN;
        limits.first_byte_timeout = Some(Duration::from_millis(20));
    });
    let guest = stage.open();
    guest.send(b"x");
    stage.settle();
    let crowd = (0..CROWD).map(|_| stage.arrive()).collect();
    stage.settle();
    (stage, crowd, guest)
}

/// Turns until `did` says that all of the crowd are done with, while the guest goes on speaking. No turn
/// may do more than `most` of them, and when the last one is done with, the guest has been answered.
fn turns<D: Rig>(
    stage: &mut Stage<D>,
    guest: &Peer,
    most: usize,
    did: impl Fn(&mut Stage<D>) -> usize,
) {
    let start = did(stage);
    let mut before = start;
    while before < start + CROWD {
        guest.send(b"y");
        stage.turn();
        stage.world.get().flow();
        let now = did(stage);
        assert!(now - before <= most, "{} in a turn, and {most} at most", now - before);
        before = now;
    }
    assert!(guest.got().len() > 1, "the guest has waited for the crowd");
}

fn deadlines_of_a_crowd_are_met_over_turns<D: Rig>(seed: u64) {
    let (mut stage, crowd, guest) = with_crowd::<D>(seed);
    // Later than all their deadlines, before any of them is met.
    let late = stage.world.get().now + 25;
    stage.world.get().now = late;
    stage.world.get().limit = Some(late);
    turns(&mut stage, &guest, A_TURN, |stage| {
        crowd.iter().filter(|peer| stage.state(peer) != State::Open).count()
    });
    stage.advance(5_000);
    let why = Closed::Deadline(Which::FirstByte);
    assert_eq!(stage.snapshot().closed_by(why), CROWD as u64);
    stage.stop();
}

fn a_crowd_that_is_reset_is_closed_over_turns<D: Rig>(seed: u64) {
    let (mut stage, crowd, guest) = with_crowd::<D>(seed);
    crowd.iter().for_each(Peer::reset);
    turns(&mut stage, &guest, A_TURN + CROWD / 8, |stage| stage.world.get().counts.closes as usize);
    stage.settle();
    assert_eq!(stage.snapshot().closed_by(Closed::PeerReset), CROWD as u64);
    stage.stop();
}

/// Closed from afar while the peers stay: each has to be heard once more, for what had come before.
fn a_crowd_that_has_nothing_more_to_say_is_heard_over_turns<D: Rig>(seed: u64) {
    let (mut stage, crowd, _guest) = with_crowd::<D>(seed);
    for peer in &crowd {
        let id = stage.id(peer);
        stage.remote().close(id).unwrap();
    }
    // A turn takes no more mail than this, and grants at its end what was wished.
    stage.turn();
    let ready = |stage: &Stage<D>| stage.event_loop.state.ready.len();
    assert_eq!(ready(&stage), stage.limits().mail_per_turn);
    while ready(&stage) > 0 {
        let before = stage.world.get().counts.receives;
        stage.turn();
        let receives = stage.world.get().counts.receives - before;
        // Some of them may have to be asked twice.
        assert!(receives < 80, "{receives} receives in a turn");
    }
    crowd.iter().for_each(Peer::finish);
    stage.settle();
    stage.stop();
}
