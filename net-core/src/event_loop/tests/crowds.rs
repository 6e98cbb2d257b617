//! Many come to their end at once: each turn ends some of them, and who speaks is served meanwhile.

use super::{Rig, Stage, on_both_rigs};
use crate::base::close_reason::{CloseReason, DeadlineKind};
use crate::connection::life::State;
use crate::driver::sim::Peer;
use std::time::Duration;

on_both_rigs! {
    deadlines_of_a_crowd_are_met_over_turns: 10,
    the_busier_a_loop_the_more_of_a_crowd_end_in_a_turn: 5,
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

/// Turns until `did` says that all of the crowd are done with, while the guest goes on speaking: how many. No
/// turn may do more than `most` of them, and when the last is done with, the guest has been answered.
fn turns<D: Rig>(
    stage: &mut Stage<D>,
    guest: &Peer,
    most: usize,
    did: impl Fn(&mut Stage<D>) -> usize,
) -> usize {
    let start = did(stage);
    let (mut before, mut turns) = (start, 0);
    while before < start + CROWD {
        guest.send(b"y");
        stage.turn();
        turns += 1;
        stage.world.get().flow();
        let now = did(stage);
        assert!(now - before <= most, "{} in a turn, and {most} at most", now - before);
        before = now;
    }
    assert!(guest.got().len() > 1, "the guest has waited for the crowd");
    turns
}

/// It is later than all deadlines of the crowd, before any of them is met.
fn all_are_late<D: Rig>(stage: &mut Stage<D>) {
    let late = stage.world.get().now + 25;
    stage.world.get().now = late;
    stage.world.get().limit = Some(late);
}

fn met<D: Rig>(stage: &mut Stage<D>, crowd: &[Peer]) -> usize {
    crowd.iter().filter(|peer| stage.state(peer) != State::Open).count()
}

fn deadlines_of_a_crowd_are_met_over_turns<D: Rig>(seed: u64) {
    let (mut stage, crowd, guest) = with_crowd::<D>(seed);
    all_are_late(&mut stage);
    turns(&mut stage, &guest, A_TURN, |stage| met(stage, &crowd));
    stage.advance(5_000);
    let why = CloseReason::Deadline(DeadlineKind::FirstByte);
    assert_eq!(stage.snapshot().closed_by(why), CROWD as u64);
    stage.stop();
}

/// Else those who come and go would have ever less of a loop whose turns get longer.
fn the_busier_a_loop_the_more_of_a_crowd_end_in_a_turn<D: Rig>(seed: u64) {
    const GUESTS: usize = 80;
    let (mut stage, crowd, guest) = with_crowd::<D>(seed);
    let guests: Vec<Peer> = (1..GUESTS).map(|_| stage.open()).collect();
    all_are_late(&mut stage);
    let turns = turns(&mut stage, &guest, A_TURN + GUESTS / 8, |stage| {
        guests.iter().for_each(|guest| guest.send(b"z"));
        met(stage, &crowd)
    });
    assert!(turns < CROWD / A_TURN, "{turns} turns: no more in each than in those of a quiet loop");
    stage.stop();
}

fn a_crowd_that_is_reset_is_closed_over_turns<D: Rig>(seed: u64) {
    let (mut stage, crowd, guest) = with_crowd::<D>(seed);
    crowd.iter().for_each(Peer::reset);
    turns(&mut stage, &guest, A_TURN + CROWD / 8, |stage| stage.world.get().counts.closes as usize);
    stage.settle();
    assert_eq!(stage.snapshot().closed_by(CloseReason::PeerReset), CROWD as u64);
    stage.stop();
}

/// Closed from afar while the peers stay: each has to be heard once more, for what had come before.
fn a_crowd_that_has_nothing_more_to_say_is_heard_over_turns<D: Rig>(seed: u64) {
    let (mut stage, crowd, _guest) = with_crowd::<D>(seed);
    for peer in &crowd {
        let id = stage.id(peer);
        stage.handle().close(id).unwrap();
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
