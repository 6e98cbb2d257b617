//! Too much at once: from one source, in one second, or in all. Below each limit, at it, above it.

use super::{Rig, Stage, on_both_rigs};
use crate::base::close_reason::{CloseReason, RefuseReason};
use crate::config::policy::WhenFull;
use crate::observe::counters::Counter;
use bytes::Bytes;
use std::time::Duration;

on_both_rigs! {
    a_source_has_as_many_as_it_may_and_others_are_let_in: 10,
    a_place_of_a_source_is_free_again_however_its_connection_ends: 20,
    a_client_that_a_proxy_announces_counts_where_it_comes_from: 10,
    who_is_turned_away_is_told_so_also_when_it_has_spoken: 20,
    who_is_refused_by_the_handler_is_told_so_too: 10,
    a_burst_is_accepted_at_once_and_the_rest_at_the_rate: 10,
    at_the_drain_nobody_waits_for_the_rate: 10,
    when_full_the_longest_idle_makes_room_for_who_comes: 20,
    nobody_makes_room_before_its_time_nor_with_work_under_way: 20,
    a_flood_over_the_limit_balances_to_the_unit: 20,
}

/// The world's clients have addresses in a row, so four of them share the first 30 bits.
fn a_source_has_as_many_as_it_may_and_others_are_let_in<D: Rig>(seed: u64) {
    for (max, refused) in [(1, 9), (2, 6), (4, 0), (5, 0)] {
        let mut stage = Stage::<D>::with(seed, |limits| {
            limits.per_source_max = Some(max);
            limits.source_prefix_v4 = 30;
        });
        stage.listen();
        let peers: Vec<_> = (0..12).map(|_| stage.knock()).collect();
        stage.settle();
        assert_eq!(peers.iter().filter(|peer| peer.saw_fin()).count(), refused, "{max}");
        let snapshot = stage.snapshot();
        assert_eq!(
            snapshot.closed_by(CloseReason::Refused(RefuseReason::PerSource)),
            refused as u64
        );
        assert_eq!(snapshot.get(Counter::RefusedPerSource), refused as u64);
        assert_eq!(snapshot.get(Counter::RefusedFull), 0);
        assert_eq!(stage.shared.admission.sources(), 3);
        stage.stop();
    }
}

fn a_place_of_a_source_is_free_again_however_its_connection_ends<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.per_source_max = Some(3);
        limits.source_prefix_v4 = 8;
    });
    stage.listen();
    let mut inside: Vec<_> = (0..3).map(|_| stage.knock()).collect();
    stage.settle();
    for round in 0..30 {
        let one_more = stage.knock();
        stage.settle();
        assert!(one_more.saw_fin(), "a fourth was let in");
        let leaves = inside.remove(0);
        match round % 3 {
            // After this the kernel does not say any more who it was.
            0 => leaves.reset(),
            1 => leaves.finish(),
            _ => stage.handle().close(stage.id(&leaves)).unwrap(),
        }
        stage.advance(2000);
        // Refused by the handler, it takes no place of the source either.
        stage.log.get().refuses = true;
        stage.knock();
        stage.settle();
        stage.log.get().refuses = false;
        inside.push(stage.knock());
        stage.settle();
        assert!(!inside[2].saw_fin(), "a free place serves nobody");
    }
    inside.iter().for_each(|peer| peer.reset());
    stage.settle();
    assert_eq!(stage.shared.admission.sources(), 0, "a source without connections is kept");
    stage.stop();
}

fn a_client_that_a_proxy_announces_counts_where_it_comes_from<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.per_source_max = Some(2));
    stage.are_announced = true;
    let says =
        |client: &str| format!("PROXY TCP4 {client} 10.9.9.9 7777 443\r\nhello").into_bytes();
    let mut come = |client: &str| {
        let peer = stage.arrive();
        stage.settle();
        peer.send(&says(client));
        stage.settle();
        peer
    };
    let inside = [come("192.0.2.1"), come("192.0.2.1"), come("192.0.2.2")];
    assert!(inside.iter().all(|peer| peer.got() == b"hello"));
    assert!(come("192.0.2.1").saw_fin());
    inside[0].reset();
    assert_eq!(come("192.0.2.1").got(), b"hello");
    assert_eq!(stage.snapshot().closed_by(CloseReason::Refused(RefuseReason::PerSource)), 1);
    stage.stop();
}

fn who_is_turned_away_is_told_so_also_when_it_has_spoken<D: Rig>(seed: u64) {
    let refusal = Bytes::from_static(b"busy");
    let mut stage =
        Stage::<D>::with_refusal(seed, refusal, |limits| limits.connections_max = Some(1));
    // A new socket's buffer has room for it.
    stage.world.get().faults.short_sends = false;
    stage.listen();
    let guest = stage.knock();
    stage.settle();
    for speaks in [false, true] {
        let refused = stage.knock();
        if speaks {
            refused.send(b"question");
        }
        stage.settle();
        assert_eq!(refused.got(), b"busy");
        assert!(refused.saw_fin() && !refused.saw_reset(), "it has spoken: {speaks}");
    }
    assert_eq!(stage.count(Counter::RefusalsSent), 2);
    guest.send(b"x");
    stage.settle();
    assert_eq!(guest.got(), b"x", "who is in hears nothing of it");
    stage.stop();
}

fn who_is_refused_by_the_handler_is_told_so_too<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with_refusal(seed, Bytes::from_static(b"no"), |_| {});
    stage.world.get().faults.short_sends = false;
    stage.log.get().refuses = true;
    let refused = stage.arrive();
    stage.settle();
    assert_eq!(refused.got(), b"no");
    assert!(refused.saw_fin());
    assert_eq!(stage.count(Counter::RefusalsSent), 1);
    stage.stop();
}

fn a_burst_is_accepted_at_once_and_the_rest_at_the_rate<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.accept_rate = Some(100);
        limits.accept_burst = 5;
    });
    stage.listen();
    let peers: Vec<_> = (0..25).map(|_| stage.knock()).collect();
    peers.iter().for_each(|peer| peer.send(b"x"));
    stage.settle();
    assert_eq!(stage.count(Counter::Accepted), 5);
    for (ms, accepted) in [(9, 5), (1, 6), (10, 7), (80, 15)] {
        stage.advance(ms);
        assert_eq!(stage.count(Counter::Accepted), accepted);
    }
    // Nobody new comes, and so no edge: the rest is let in all the same.
    let waits = stage.world.get().counts.waits;
    stage.advance(1000);
    assert!(stage.world.get().counts.waits - waits < 100, "it does not sleep meanwhile");
    assert!(peers.iter().all(|peer| peer.got() == b"x"));
    assert!(stage.count(Counter::AcceptPaused) >= 20);
    // After a second of quiet there is a burst again, and no more than one.
    (0..8).for_each(|_| drop(stage.knock()));
    stage.settle();
    assert_eq!(stage.count(Counter::Accepted), 30);
    stage.stop();
}

fn at_the_drain_nobody_waits_for_the_rate<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.accept_rate = Some(1);
        limits.accept_burst = 1;
    });
    stage.listen();
    let peers: Vec<_> = (0..50).map(|_| stage.knock()).collect();
    peers.iter().for_each(|peer| peer.send(b"question"));
    stage.settle();
    assert_eq!(stage.count(Counter::Accepted), 1);
    stage.shared.loops[0].arrivals_ended.store(true, std::sync::atomic::Ordering::Release);
    stage.shared.raise(crate::threads::control::Phase::Drain);
    stage.advance(2000);
    assert!(peers.iter().all(|peer| peer.got() == b"question"));
    assert!(stage.is_over);
    stage.stop();
}

fn reusing<D: Rig>(seed: u64, max: usize, min_idle_ms: u64) -> Stage<D> {
    let min_idle = Duration::from_millis(min_idle_ms);
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.connections_max = Some(max);
        limits.when_full = WhenFull::ReuseIdle { min_idle };
    });
    stage.listen();
    stage
}

fn when_full_the_longest_idle_makes_room_for_who_comes<D: Rig>(seed: u64) {
    let mut stage = reusing::<D>(seed, 4, 100);
    // Few enough that all of them are looked at, almost surely.
    let peers: Vec<_> = (0..4)
        .map(|_| {
            let peer = stage.knock();
            stage.advance(100);
            peer
        })
        .collect();
    stage.advance(100);
    peers[0].send(b"not idle");
    stage.settle();
    for oldest in [1, 2] {
        let next = stage.knock();
        next.send(b"x");
        stage.advance(5);
        assert_eq!(next.got(), b"x", "who came was let in");
        assert!(peers[oldest].saw_fin() && !peers[oldest].saw_reset(), "the longest idle has gone");
        assert_eq!(stage.record(&peers[oldest]).closed, Some(CloseReason::Reused));
    }
    assert!(!peers[0].saw_fin() && !peers[3].saw_fin());
    assert_eq!((stage.event_loop.state.table.len(), stage.shared.admission.inside()), (4, 4));
    let snapshot = stage.snapshot();
    assert_eq!(snapshot.closed_by(CloseReason::Reused), 2);
    assert_eq!(snapshot.get(Counter::RefusedFull), 0);
    stage.stop();
}

fn nobody_makes_room_before_its_time_nor_with_work_under_way<D: Rig>(seed: u64) {
    let mut stage = reusing::<D>(seed, 3, 100);
    let peers: Vec<_> = (0..3).map(|_| stage.knock()).collect();
    stage.settle();
    stage.advance(99);
    let early = stage.knock();
    stage.settle();
    assert!(early.saw_fin(), "nobody has been idle for long enough");
    // Idle for long, but one is paused, one is owed bytes, and one has begun a message.
    stage.play(|at| {
        if let super::At::Data(conn, input) = at {
            match input.peek()[0] {
                b'p' => conn.pause(),
                b'k' => return,
                _ => _ = conn.send(&vec![1; 60_000]),
            }
            input.take_all();
        }
    });
    peers[1].reads(false);
    for (peer, says) in peers.iter().zip([b"p", b"s", b"k"]) {
        peer.send(says);
    }
    stage.settle();
    stage.advance(10_000);
    let refused = stage.knock();
    stage.settle();
    assert!(refused.saw_fin());
    assert!(peers.iter().all(|peer| !peer.saw_fin() && !peer.saw_reset()));
    assert_eq!(stage.count(Counter::RefusedFull), 2);
    stage.stop();
}

fn a_flood_over_the_limit_balances_to_the_unit<D: Rig>(seed: u64) {
    let mut stage = reusing::<D>(seed, 20, 50);
    let mut peers = Vec::new();
    for _ in 0..20 {
        peers.extend((0..stage.rng.within(1, 40)).map(|_| stage.knock()));
        let (at, ms) = (stage.rng.below(peers.len()), stage.rng.within(0, 60));
        peers[at].send(b"still here");
        stage.advance(ms as u64);
        let snapshot = stage.snapshot();
        assert!(snapshot.is_balanced(), "{snapshot}");
        assert!(stage.shared.admission.inside() <= 20 && snapshot.get(Counter::Open) <= 20);
    }
    let snapshot = stage.snapshot();
    assert!(snapshot.closed_by(CloseReason::Reused) > 0, "{snapshot}");
    let refused = snapshot.closed_by(CloseReason::Refused(RefuseReason::Full));
    assert_eq!(refused, snapshot.get(Counter::RefusedFull));
    stage.stop();
}
