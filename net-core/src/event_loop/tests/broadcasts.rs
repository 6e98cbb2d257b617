//! Broadcasts, topics and work: everybody once and whole, a few in each turn, and every receiver in
//! the account.

use super::actor::Actor;
use super::{At, Rig, Stage, on_both_rigs, pattern, usual};
use crate::api::loop_context::LoopContext;
use crate::api::loop_spawner::LoopSpawner;
use crate::base::close_reason::Callback;
use crate::features::broadcast::{Broadcast, BroadcastHandle, BroadcastReport};
use crate::features::topics::TopicError;
use crate::observe::counters::Counter;
use crate::threads::control::Phase;
use crate::threads::mailbox::PostError;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

on_both_rigs! {
    everybody_gets_it_once_and_whole: 30,
    a_turn_gives_to_no_more_than_its_share: 10,
    a_turn_gives_no_more_bytes_than_its_share: 10,
    others_are_served_between_two_slices: 5,
    who_is_above_the_mark_is_passed_over: 20,
    who_insists_closes_the_slow_at_their_limit: 10,
    broadcasts_come_in_their_order: 20,
    who_ends_meanwhile_is_counted: 20,
    each_subscriber_is_in_one_figure_whatever_it_does_meanwhile: 30,
    a_drain_right_behind_a_broadcast_lets_everybody_have_it: 20,
    a_drain_waits_for_no_broadcast_that_comes_behind_it: 10,
    a_drain_cut_short_leaves_no_receiver_uncounted: 20,
    only_subscribers_get_a_topic: 20,
    a_slots_next_connection_inherits_no_topic: 10,
    a_subscription_over_the_limit_is_refused: 3,
    a_cancelled_one_stops: 10,
    one_too_many_is_missed: 5,
    a_loop_that_stops_closes_the_account: 10,
    work_runs_once_on_its_loop: 5,
    work_that_panics_costs_itself: 5,
}

fn everybody_gets_it_once_and_whole<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peers: Vec<_> = (0..100).map(|_| stage.open()).collect();
    let len = stage.rng.within(1, 3000);
    let delivery = stage.handle().broadcast(pattern(0, len));
    stage.settle();
    for peer in &peers {
        assert!(peer.got() == pattern(0, len));
    }
    let report = delivery.report();
    assert_eq!(given(&delivery), 100, "{report:?}");
    assert!(delivery.is_over() && report.dropped == 0 && report.loops_missed == 0, "{report:?}");
    assert_eq!(stage.count(Counter::BroadcastSent), 100);
    stage.stop();
}

fn a_turn_gives_to_no_more_than_its_share<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.broadcast_per_turn = 3;
        limits.send_bytes_per_turn = 8192;
    });
    let peers: Vec<_> = (0..20).map(|_| stage.open()).collect();
    let delivery = stage.handle().broadcast(&b"!"[..]);
    let mut before = 0;
    while !delivery.is_over() {
        stage.turn();
        let now = given(&delivery);
        assert!(now - before <= 3, "{now} after {before}");
        before = now;
    }
    stage.settle();
    assert!(peers.iter().all(|peer| peer.got() == b"!"));
    stage.stop();
}

/// Those who have it, or will.
fn given(delivery: &BroadcastHandle) -> u64 {
    let report = delivery.report();
    report.delivered + report.queued
}

fn a_turn_gives_no_more_bytes_than_its_share<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.send_bytes_per_turn = 1024);
    let peers: Vec<_> = (0..20).map(|_| stage.open()).collect();
    let len = stage.rng.pick(&[100, 512, 1024, 1025, 3000]);
    let delivery = stage.handle().broadcast(pattern(0, len));
    let most = (1024 / len).max(1);
    let mut before = 0;
    while !delivery.is_over() {
        stage.turn();
        let now = given(&delivery);
        assert!(now - before <= most as u64, "{now} after {before}, of {len} B");
        before = now;
    }
    stage.settle();
    assert!(peers.iter().all(|peer| peer.got() == pattern(0, len)));
    stage.stop();
}

fn others_are_served_between_two_slices<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.broadcast_per_turn = 1);
    let pinger = stage.open();
    let _peers: Vec<_> = (0..50).map(|_| stage.open()).collect();
    let delivery = stage.handle().broadcast(&b"!"[..]);
    let mut answers = 0;
    while !delivery.is_over() {
        pinger.send(b"?");
        stage.turn();
        answers = pinger.got().iter().filter(|byte| **byte == b'?').count();
    }
    assert!(answers > 10, "{answers} answers in 50 turns");
    stage.stop();
}

fn who_is_above_the_mark_is_passed_over<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let (slow, quick) = (stage.open(), stage.open());
    slow.reads(false);
    let payload = pattern(0, 3000);
    let mut reports = BroadcastReport::default();
    for _ in 0..40 {
        let delivery = stage.handle().broadcast(payload.clone());
        stage.settle();
        let report = delivery.report();
        reports.queued += report.queued;
        reports.dropped += report.dropped;
    }
    assert!(reports.dropped > 0 && reports.queued > 0, "{reports:?}");
    assert_eq!(stage.count(Counter::BroadcastDropped), reports.dropped);
    let limits = stage.limits();
    assert!(stage.pending(&slow) <= limits.high_watermark + payload.len());
    assert_eq!(quick.got().len(), 40 * 3000);
    slow.reads(true);
    stage.settle();
    let got = slow.got();
    assert_eq!(got.len(), (40 - reports.dropped as usize) * 3000);
    assert!(got.chunks(3000).all(|message| message == payload), "a gap within a message");
    stage.stop();
}

fn who_insists_closes_the_slow_at_their_limit<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.output_limit = 8192);
    let slow = stage.open();
    slow.reads(false);
    for _ in 0..40 {
        let insistent = Broadcast::new(pattern(0, 3000)).also_to_the_slow();
        stage.handle().broadcast(insistent);
        stage.settle();
    }
    assert_eq!(stage.count(Counter::Open), 0, "it was closed");
    stage.stop();
}

fn broadcasts_come_in_their_order<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.broadcast_per_turn = 7);
    let peers: Vec<_> = (0..30).map(|_| stage.open()).collect();
    for n in 0..20_u8 {
        stage.handle().broadcast(vec![n; 10]);
        if stage.rng.below(2) == 0 {
            stage.turn();
        }
    }
    stage.settle();
    let expected: Vec<u8> = (0..20).flat_map(|n| [n; 10]).collect();
    assert!(peers.iter().all(|peer| peer.got() == expected));
    stage.stop();
}

fn who_ends_meanwhile_is_counted<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.broadcast_per_turn = 5);
    let mut peers: Vec<_> = (0..50).map(|_| stage.open()).collect();
    let delivery = stage.handle().broadcast(&b"!"[..]);
    while !delivery.is_over() {
        stage.turn();
        if !peers.is_empty() {
            let n = stage.rng.below(peers.len());
            peers.swap_remove(n).reset();
        }
    }
    let report = delivery.report();
    assert!(counted(&delivery) == 50 && report.gone > 0, "{report:?}");
    assert_eq!(report.loops_missed, 0);
    stage.stop();
}

/// Everybody who is in the account.
fn counted(delivery: &BroadcastHandle) -> u64 {
    let report = delivery.report();
    report.delivered + report.queued + report.dropped + report.gone
}

fn each_subscriber_is_in_one_figure_whatever_it_does_meanwhile<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.broadcast_per_turn = 2);
    stage.play(|at| match at {
        At::Data(conn, input) => {
            for byte in input.take_all() {
                match byte {
                    b's' => assert_eq!(conn.subscribe("t"), Ok(true)),
                    b'u' => assert!(conn.unsubscribe("t")),
                    b'a' => {
                        assert!(conn.unsubscribe("t"));
                        assert_eq!(conn.subscribe("t"), Ok(true)); // again, and is one receiver
                    }
                    b'f' => conn.finish(),
                    b'c' => conn.close(),
                    _ => conn.reset(),
                }
            }
        }
        // It cleans up, and is gone already.
        At::Close(conn) => _ = conn.unsubscribe("t"),
        other => usual(other),
    });
    let mut peers: Vec<_> = (0..60).map(|_| stage.open()).collect();
    let subscribers = peers.split_off(20);
    subscribers.iter().for_each(|peer| peer.send(b"s"));
    stage.settle();
    let mut left = subscribers;
    let to_topic = stage.handle().broadcast(Broadcast::new("!").to_topic("t"));
    let to_all = stage.handle().broadcast(&b"?"[..]);
    stage.turn();
    while !to_all.is_over() {
        if !left.is_empty() {
            let n = stage.rng.below(left.len());
            let what = stage.rng.pick(&[b"u", b"a", b"f", b"c", b"r"]);
            let peer = left.swap_remove(n);
            peer.send(what);
            peers.push(peer);
        }
        stage.turn();
    }
    assert_eq!((counted(&to_topic), counted(&to_all)), (40, 60), "{to_topic:?} {to_all:?}");
    let gone = (to_topic.report().gone, to_all.report().gone);
    assert!(gone.0 > 0 && gone.1 > 0, "{gone:?}");
    stage.stop();
}

fn drain<D: Rig>(stage: &mut Stage<D>) {
    stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
    stage.shared.raise(Phase::Drain);
}

/// The walk of a drain overtook that of the broadcast: of 5,000 some hundred got it, and the others were
/// in no figure of the report.
fn a_drain_right_behind_a_broadcast_lets_everybody_have_it<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.broadcast_per_turn = 2;
        limits.mail_per_turn = 1;
    });
    let peers: Vec<_> = (0..50).map(|_| stage.open()).collect();
    let some = stage.rng.below(3);
    let deliveries: Vec<_> = (0..3).map(|_| stage.handle().broadcast(&b"!"[..])).collect();
    for _ in 0..some {
        stage.turn();
    }
    drain(&mut stage);
    stage.advance(1000);
    assert!(stage.is_over);
    for (n, peer) in peers.iter().enumerate() {
        assert_eq!(peer.got(), b"!!!", "peer {n}");
        assert!(peer.saw_fin() && !peer.saw_reset());
    }
    assert!(deliveries.iter().all(|delivery| given(delivery) == 50), "{deliveries:?}");
    stage.stop();
}

/// It waits for those that were there before it. A server that goes on to broadcast while it drains would
/// otherwise put its own drain off without end.
fn a_drain_waits_for_no_broadcast_that_comes_behind_it<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.broadcast_per_turn = 2);
    let peers: Vec<_> = (0..50).map(|_| stage.open()).collect();
    let before = stage.handle().broadcast(&b"!"[..]);
    stage.turn();
    drain(&mut stage);
    stage.turn();
    let is_told = |stage: &Stage<D>| {
        let told = |peer| stage.record(peer).calls.contains(&Callback::Draining);
        peers.iter().any(told)
    };
    for _ in 0..100 {
        if is_told(&stage) {
            break;
        }
        let _ = stage.handle().broadcast(&b"?"[..]);
        stage.turn();
    }
    assert!(is_told(&stage), "it waits for those behind it too");
    assert_eq!(given(&before), 50);
    stage.advance(1000);
    assert!(stage.is_over);
    stage.stop();
}

fn a_drain_cut_short_leaves_no_receiver_uncounted<D: Rig>(seed: u64) {
    // They are reset over some turns, and all that time they are its receivers.
    let mut stage = Stage::<D>::with(seed, |limits| {
        (limits.broadcast_per_turn, limits.drained_per_turn) = (2, 4);
    });
    let peers: Vec<_> = (0..50).map(|_| stage.open()).collect();
    let delivery = stage.handle().broadcast(&b"!"[..]);
    drain(&mut stage);
    for _ in 0..stage.rng.within(1, 20) {
        stage.turn();
    }
    stage.shared.raise(Phase::ForceClose);
    stage.settle();
    assert!(stage.is_over && delivery.is_over());
    let report = delivery.report();
    assert!(counted(&delivery) == 50 && report.gone > 0, "{report:?}");
    drop(peers);
    stage.stop();
}

fn only_subscribers_get_a_topic<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    // Every byte names a topic to enter; a large letter, to leave.
    stage.play(|at| match at {
        At::Data(conn, input) => {
            for letter in input.take_all() {
                let topic = [letter.to_ascii_lowercase()];
                if letter.is_ascii_uppercase() {
                    assert!(conn.unsubscribe(topic));
                } else {
                    assert_eq!(conn.subscribe(topic), Ok(true));
                }
            }
        }
        other => usual(other),
    });
    let peers: Vec<_> = (0..30).map(|_| stage.open()).collect();
    for (n, peer) in peers.iter().enumerate() {
        peer.send(if n % 3 == 0 { b"n" } else { b"t" });
    }
    stage.settle();
    peers[3].send(b"N");
    stage.settle();
    let delivery = stage.handle().broadcast(Broadcast::new("!").to_topic("n"));
    let nobody = stage.handle().broadcast(Broadcast::new("?").to_topic("none"));
    stage.settle();
    for (n, peer) in peers.iter().enumerate() {
        let expected: &[u8] = if n % 3 == 0 && n != 3 { b"!" } else { b"" };
        assert_eq!(peer.got(), expected, "peer {n}");
    }
    assert_eq!((given(&delivery), nobody.report()), (9, BroadcastReport::default()));
    stage.stop();
}

fn a_slots_next_connection_inherits_no_topic<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Data(conn, input) => {
            assert_eq!(conn.subscribe(input.take_all()), Ok(true));
            assert_eq!(conn.subscriptions(), 1);
        }
        // So late it can still be asked for, and is gone all the same.
        At::Close(conn) => assert_eq!(conn.subscribe("late"), Ok(true)),
        other => usual(other),
    });
    let first = stage.open();
    first.send(b"n");
    stage.settle();
    let slot = stage.id(&first).slot();
    first.reset();
    stage.settle();
    let second = stage.open();
    assert_eq!(stage.id(&second).slot(), slot);
    for topic in ["n", "late"] {
        let delivery = stage.handle().broadcast(Broadcast::new("!").to_topic(topic));
        stage.settle();
        assert_eq!(delivery.report(), BroadcastReport::default());
    }
    assert!(stage.event_loop.state.topics.is_empty());
    stage.stop();
}

fn a_subscription_over_the_limit_is_refused<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.topics_per_connection_max = 1);
    stage.play(|at| match at {
        At::Open(conn) => {
            assert_eq!(conn.subscribe("one"), Ok(true));
            assert_eq!(conn.subscribe("two"), Err(TopicError::TooManyOfThisConnection));
        }
        other => usual(other),
    });
    stage.open();
    stage.stop();
}

fn a_cancelled_one_stops<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.broadcast_per_turn = 1);
    let _peers: Vec<_> = (0..30).map(|_| stage.open()).collect();
    let delivery = stage.handle().broadcast(&b"!"[..]);
    for _ in 0..5 {
        stage.turn();
    }
    delivery.cancel();
    stage.settle();
    let report = delivery.report();
    assert!(delivery.is_over() && report.is_cancelled && report.loops_missed == 0);
    assert!((1..10).contains(&given(&delivery)), "{report:?}");
    stage.stop();
}

fn one_too_many_is_missed<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.broadcasts_max = 2;
        limits.broadcast_per_turn = 1;
    });
    let _peers: Vec<_> = (0..5).map(|_| stage.open()).collect();
    let deliveries: Vec<_> = (0..3).map(|_| stage.handle().broadcast(&b"!"[..])).collect();
    stage.settle();
    let missed: Vec<_> = deliveries.iter().map(|one| one.report().loops_missed).collect();
    assert_eq!(missed, [0, 0, 1]);
    stage.stop();
}

fn a_loop_that_stops_closes_the_account<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.broadcast_per_turn = 1);
    let _peers: Vec<_> = (0..10).map(|_| stage.open()).collect();
    let told = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&told);
    let then = move |_| _ = count.fetch_add(1, Ordering::Relaxed);
    let begun = stage.handle().broadcast(Broadcast::new("!").then(then));
    for _ in 0..3 {
        stage.turn();
    }
    stage.shared.raise(Phase::Stop);
    let late = stage.handle().broadcast(&b"?"[..]);
    let handle = stage.handle();
    stage.stop();
    let never = handle.broadcast(&b"?"[..]);
    assert!(begun.is_over() && late.is_over() && never.is_over());
    assert_eq!(never.report().loops_missed, 1);
    assert_eq!(told.load(Ordering::Relaxed), 1);
}

fn runner<D: Rig>(stage: &mut Stage<D>) -> LoopSpawner<Actor> {
    LoopContext::new(&mut stage.event_loop.state).spawner()
}

fn work_runs_once_on_its_loop<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peer = stage.open();
    let id = stage.id(&peer);
    let runner = runner(&mut stage);
    runner.run(0, move |_actor, here| _ = here.connection(id).unwrap().send(b"hello")).unwrap();
    stage.settle();
    assert_eq!(peer.got(), b"hello");
    stage.stop();
    assert!(matches!(runner.run(0, |_, _| ()), Err(PostError::Ended(_))));
}

fn work_that_panics_costs_itself<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peer = stage.open();
    let runner = runner(&mut stage);
    stage.panics_are_counted_by(|| 1);
    runner.run(0, |_, _| super::fail()).unwrap();
    peer.send(b"on");
    stage.settle();
    assert_eq!(peer.got(), b"on");
    assert_eq!(stage.count(Counter::MailLost), 1);
    stage.stop();
}
