//! A loop's own listeners: every error of accept, floods, full houses and the end.

use super::{Rig, Stage, on_both_rigs};
use crate::base::close_reason::{CloseReason, RefuseReason};
use crate::observe::counters::Counter;
use std::sync::atomic::Ordering;

on_both_rigs! {
    who_knocks_is_let_in: 10,
    clients_who_cannot_be_accepted_are_not_asked_for_without_end: 10,
    an_error_of_one_client_costs_the_next_nothing: 10,
    without_descriptors_it_rests_and_recovers_without_a_new_client: 20,
    a_passing_want_sheds_nobody: 10,
    while_it_rests_clients_are_shed_and_the_loop_sleeps: 10,
    one_accept_a_turn_does_not_spin_without_descriptors: 10,
    a_broken_listener_ends_alone: 10,
    a_flood_is_taken_in_batches_and_others_are_served: 10,
    over_the_limit_clients_learn_at_once: 10,
    no_turn_takes_more_arrivals_than_it_may: 5,
    at_the_drain_who_waits_is_let_in_and_later_ones_are_refused: 20,
}

const PASSING: [i32; 12] = [
    libc::ECONNABORTED,
    libc::EINTR,
    libc::EPROTO,
    libc::EPERM,
    libc::ENETDOWN,
    libc::ENOPROTOOPT,
    libc::EHOSTDOWN,
    libc::ENONET,
    libc::EHOSTUNREACH,
    libc::EOPNOTSUPP,
    libc::ENETUNREACH,
    libc::ETIMEDOUT,
];

fn who_knocks_is_let_in<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.listen();
    for _ in 0..50 {
        let peer = stage.knock();
        peer.send(b"hello");
        if stage.rng.one_in(3) {
            stage.settle();
            assert_eq!(peer.got(), b"hello");
        }
    }
    stage.settle();
    assert_eq!(stage.event_loop.state.table.len(), 50);
    stage.stop();
}

fn an_error_of_one_client_costs_the_next_nothing<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.listen();
    for errno in PASSING {
        stage.world.get().faults.accept.push_back(errno);
        let peer = stage.knock();
        peer.send(b"x");
        stage.settle();
        assert_eq!(peer.got(), b"x", "errno {errno}");
    }
    assert_eq!(stage.count(Counter::AcceptSkipped), PASSING.len() as u64);
    // Several at once.
    stage.world.get().faults.accept.extend(vec![libc::ECONNABORTED; 15]);
    let peer = stage.knock();
    peer.send(b"x");
    stage.settle();
    assert_eq!(peer.got(), b"x");
    // Very many at once: it rests between them, and comes to their end.
    stage.world.get().faults.accept.extend(vec![libc::ECONNABORTED; 1000]);
    let peer = stage.knock();
    peer.send(b"x");
    stage.advance(4000);
    assert_eq!(peer.got(), b"x");
    stage.stop();
}

/// Who refuses them, as a security module does, may leave them where the next accept finds them again.
fn clients_who_cannot_be_accepted_are_not_asked_for_without_end<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.listen();
    stage.settle();
    stage.world.get().faults.accept.extend(vec![libc::EPERM; 100_000]);
    let peer = stage.knock();
    peer.send(b"x");
    let before = stage.world.get().counts.accepts;
    stage.advance(1000);
    let tries = stage.world.get().counts.accepts - before;
    assert!((16 * 15..=16 * 21).contains(&tries), "{tries} tries in a second");
    stage.world.get().faults.accept.clear();
    stage.advance(52);
    assert_eq!(peer.got(), b"x");
    stage.stop();
}

fn without_descriptors_it_rests_and_recovers_without_a_new_client<D: Rig>(seed: u64) {
    for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
        let mut stage = Stage::<D>::with(seed, |limits| limits.shed_per_pause = 0);
        stage.listen();
        let guest = stage.knock();
        guest.send(b"1");
        stage.settle();
        if errno == libc::EMFILE {
            stage.world.get().faults.descriptors_max = Some(0);
        } else {
            stage.world.get().faults.accept.extend(vec![errno; 100]);
        }
        let waiting = stage.knock();
        waiting.send(b"x");
        stage.settle();
        let before = stage.world.get().counts.accepts;
        stage.advance(1000);
        let tries = stage.world.get().counts.accepts - before;
        assert!((20..=41).contains(&tries), "{tries} tries in a second");
        guest.send(b"2");
        stage.settle();
        assert_eq!(guest.got(), b"12", "the guests are served meanwhile");
        stage.world.get().faults.descriptors_max = None;
        stage.world.get().faults.accept.clear();
        stage.advance(52);
        assert_eq!(waiting.got(), b"x");
        stage.stop();
    }
}

fn a_passing_want_sheds_nobody<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.listen();
    stage.settle();
    stage.world.get().faults.accept.push_back(libc::EMFILE);
    let peer = stage.knock();
    peer.send(b"x");
    stage.settle();
    assert_eq!(peer.got(), b"x");
    assert_eq!(stage.count(Counter::Shed), 0);
    stage.stop();
}

fn while_it_rests_clients_are_shed_and_the_loop_sleeps<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.shed_per_pause = 3);
    stage.listen();
    stage.settle();
    stage.world.get().faults.descriptors_max = Some(0);
    let peers: Vec<_> = (0..10).map(|_| stage.knock()).collect();
    stage.settle();
    let waits = stage.world.get().counts.waits;
    stage.advance(110);
    let waits = stage.world.get().counts.waits - waits;
    assert!(waits < 30, "{waits} waits in 110 ms");
    let shed = peers.iter().filter(|peer| peer.saw_fin()).count() as u64;
    assert_eq!(shed, 9);
    assert_eq!(stage.count(Counter::Shed), 9);
    stage.world.get().faults.descriptors_max = None;
    stage.advance(60);
    assert_eq!(stage.event_loop.state.table.len(), 1);
    stage.stop();
}

/// The second look at a want of descriptors never came within a batch of one.
fn one_accept_a_turn_does_not_spin_without_descriptors<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.accepts_per_turn = 1);
    stage.listen();
    stage.settle();
    stage.world.get().faults.descriptors_max = Some(0);
    stage.knock();
    stage.advance(200);
    assert!(stage.world.get().counts.accepts < 20);
    stage.stop();
}

fn a_broken_listener_ends_alone<D: Rig>(seed: u64) {
    for errno in [libc::EBADF, libc::EINVAL, libc::ENOTSOCK] {
        let mut stage = Stage::<D>::new(seed);
        stage.listen();
        let guest = stage.knock();
        stage.settle();
        stage.world.get().faults.accept.push_back(errno);
        stage.knock();
        stage.settle();
        guest.send(b"x");
        stage.settle();
        assert_eq!(guest.got(), b"x");
        assert!(stage.knock().saw_reset(), "nobody listens any more");
        assert_eq!(stage.count(Counter::ListenersBroken), 1);
        stage.stop();
    }
}

fn a_flood_is_taken_in_batches_and_others_are_served<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.accepts_per_turn = 8);
    stage.listen();
    let guest = stage.knock();
    stage.settle();
    (0..500).for_each(|_| drop(stage.knock()));
    guest.send(b"x");
    let mut turns = 0;
    while guest.got().is_empty() {
        let before = stage.count(Counter::Accepted);
        stage.turn();
        stage.world.get().flow();
        assert!(stage.count(Counter::Accepted) - before <= 8);
        turns += 1;
        assert!(turns < 60, "the flood starves the guest");
    }
    stage.settle();
    assert_eq!(stage.count(Counter::Accepted), 501);
    stage.stop();
}

fn over_the_limit_clients_learn_at_once<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.connections_max = Some(3));
    stage.listen();
    let peers: Vec<_> = (0..5).map(|_| stage.knock()).collect();
    stage.settle();
    assert_eq!(peers.iter().filter(|peer| peer.saw_fin()).count(), 2);
    assert_eq!(stage.snapshot().closed_by(CloseReason::Refused(RefuseReason::Full)), 2);
    peers[0].reset();
    stage.settle();
    let next = stage.knock();
    next.send(b"x");
    stage.settle();
    assert_eq!(next.got(), b"x");
    stage.log.get().refuses = true;
    peers[1].reset();
    stage.settle();
    let refused = stage.knock();
    stage.settle();
    assert!(refused.saw_fin());
    stage.stop();
}

fn at_the_drain_who_waits_is_let_in_and_later_ones_are_refused<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.listen();
    stage.settle();
    let peers: Vec<_> = (0..100).map(|_| stage.knock()).collect();
    peers.iter().for_each(|peer| peer.send(b"question"));
    stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
    stage.shared.raise(crate::threads::control::Phase::Drain);
    stage.turn();
    assert!(stage.knock().saw_reset());
    stage.advance(2000);
    assert!(peers.iter().all(|peer| peer.got() == b"question" && peer.saw_fin()));
    assert!(stage.is_over);
    stage.stop();
}

/// The bound is what those who are open already wait for at most, behind a queue of any length. One more in
/// each turn is a quarter more, at the default.
fn no_turn_takes_more_arrivals_than_it_may<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.arrivals_per_turn = 3);
    let peers: Vec<_> = (0..20).map(|_| stage.arrive()).collect();
    let mut adopted = 0;
    while adopted < 20 {
        stage.turn();
        let now = stage.count(Counter::HandedOver);
        assert!(now - adopted <= 3, "{now} after {adopted}");
        adopted = now;
    }
    assert_eq!(peers.len(), stage.event_loop.state.table.len());
    stage.stop();
}
