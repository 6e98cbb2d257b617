//! Heartbeats, on virtual time: after quiet, spread, never where data was seen, and no answer is idle.

use super::{At, Rig, Stage, on_both_rigs, usual};
use crate::base::close_reason::{Callback, CloseReason, DeadlineKind};
use crate::config::limits::Limits;
use crate::connection::life::State;
use crate::observe::counters::Counter;
use std::collections::BTreeMap;
use std::time::Duration;

on_both_rigs! {
    a_quiet_connection_is_told_once_an_interval: 20,
    where_data_is_seen_no_heartbeat_comes: 20,
    data_that_we_send_puts_it_off_too: 10,
    those_who_fell_silent_together_are_told_apart: 5,
    a_peer_that_answers_is_not_idle: 20,
    a_peer_that_answers_none_is_idle: 20,
    a_heartbeat_that_cannot_leave_is_not_repeated: 10,
    before_the_first_byte_only_its_deadline_runs: 10,
    it_comes_beside_other_deadlines: 20,
    a_quiet_connection_has_no_box: 5,
    traffic_costs_the_wheel_nothing_with_heartbeats: 5,
}

const MS: fn(u64) -> Duration = Duration::from_millis;

fn each_100(limits: &mut Limits) {
    limits.heartbeat_interval = Some(MS(100));
}

/// A stage that pings at each heartbeat, and takes what comes.
fn pinging<D: Rig>(seed: u64, change: impl FnOnce(&mut Limits)) -> Stage<D> {
    let mut stage = Stage::<D>::with(seed, |limits| {
        each_100(limits);
        change(limits);
    });
    // What the kernel takes only later counts as traffic, a heartbeat's bytes too.
    stage.world.get().faults.short_sends = false;
    stage.play(|at| match at {
        At::Data(_, input) => drop(input.take_all()),
        At::Heartbeat(conn) => drop(conn.send(b"ping").is_taken()),
        other => usual(other),
    });
    stage
}

fn beats<D: Rig>(stage: &Stage<D>) -> u64 {
    stage.count(Counter::Heartbeats)
}

fn a_quiet_connection_is_told_once_an_interval<D: Rig>(seed: u64) {
    let mut stage = pinging::<D>(seed, |_| {});
    let peer = stage.open();
    stage.advance(49);
    assert_eq!(beats(&stage), 0, "not before half an interval");
    stage.advance(54);
    assert_eq!(beats(&stage), 1, "and within the whole");
    assert_eq!(peer.got(), b"ping");
    let mut before = 1;
    for _ in 0..10 {
        stage.advance(103);
        assert!((1..=2).contains(&(beats(&stage) - before)), "once an interval");
        before = beats(&stage);
    }
    assert_eq!(peer.got().len(), 4 * before as usize);
    stage.stop();
}

fn where_data_is_seen_no_heartbeat_comes<D: Rig>(seed: u64) {
    let mut stage = pinging::<D>(seed, |_| {});
    let (speaks, silent) = (stage.open(), stage.open());
    for _ in 0..20 {
        speaks.send(b"x");
        stage.advance(49);
    }
    assert!(!stage.record(&speaks).calls.contains(&Callback::Heartbeat));
    assert!(stage.record(&silent).calls.contains(&Callback::Heartbeat));
    stage.stop();
}

fn data_that_we_send_puts_it_off_too<D: Rig>(seed: u64) {
    let mut stage = pinging::<D>(seed, |_| {});
    let peer = stage.open();
    let id = stage.id(&peer);
    stage.play(move |at| match at {
        At::Message(here, _) => drop(here.connection(id).unwrap().send(b"news").is_taken()),
        other => usual(other),
    });
    for _ in 0..20 {
        stage.handle().post(0, 0).unwrap();
        stage.advance(49);
    }
    assert_eq!(beats(&stage), 0);
    stage.stop();
}

/// As after a restart, when all clients have come at once.
fn those_who_fell_silent_together_are_told_apart<D: Rig>(seed: u64) {
    const PEERS: u64 = 500;
    let mut stage = pinging::<D>(seed, |_| {});
    let _peers: Vec<_> = (0..PEERS).map(|_| stage.open()).collect();
    for _ in 0..5 {
        let mut by_millisecond = BTreeMap::<u64, u64>::new();
        for at in 0..103 {
            let before = beats(&stage);
            stage.advance(1);
            *by_millisecond.entry(at).or_default() += beats(&stage) - before;
        }
        // Over 50 ms: 10 in each, were they quite even.
        let most = by_millisecond.values().max().unwrap();
        assert!(*most < 40, "{most} of {PEERS} in one millisecond: {by_millisecond:?}");
    }
    assert!(beats(&stage) >= 5 * PEERS);
    stage.stop();
}

fn a_peer_that_answers_is_not_idle<D: Rig>(seed: u64) {
    let mut stage = pinging::<D>(seed, |limits| limits.idle_timeout = Some(MS(160)));
    let peer = stage.open();
    let mut answered = 0;
    for _ in 0..100 {
        stage.advance(10);
        let pings = peer.got().len() / 4;
        if pings > answered {
            peer.send(b"pong");
            answered = pings;
        }
    }
    assert!(answered >= 9, "{answered} in ten intervals");
    assert_eq!(stage.state(&peer), State::Open);
    stage.stop();
}

/// As one whose machine has lost its power: the kernel takes what we send.
fn a_peer_that_answers_none_is_idle<D: Rig>(seed: u64) {
    for goes_on in [false, true] {
        let mut stage = pinging::<D>(seed, |limits| limits.idle_timeout = Some(MS(250)));
        let mut times = 0;
        stage.play(move |at| match at {
            At::Heartbeat(conn) => drop(conn.send(b"ping").is_taken()),
            At::Deadline(_) if goes_on && times == 0 => times += 1,
            other => usual(other),
        });
        let peer = stage.open();
        stage.advance(249);
        assert!(beats(&stage) >= 2);
        assert_eq!(stage.state(&peer), State::Open, "never early");
        stage.advance(54);
        let told = |stage: &Stage<D>| {
            let calls = stage.record(&peer).calls;
            calls.iter().filter(|call| **call == Callback::Deadline).count()
        };
        assert_eq!(told(&stage), 1, "and half an interval late at most");
        if goes_on {
            assert_eq!(stage.state(&peer), State::Open);
            stage.advance(303);
            assert_eq!(told(&stage), 2, "and idle again");
        }
        peer.finish();
        stage.settle();
        assert_eq!(stage.record(&peer).closed, Some(CloseReason::Deadline(DeadlineKind::Idle)));
        stage.stop();
    }
}

fn a_heartbeat_that_cannot_leave_is_not_repeated<D: Rig>(seed: u64) {
    let mut stage = pinging::<D>(seed, |limits| limits.output_limit = 1 << 20);
    let peer = stage.open();
    peer.reads(false);
    let id = stage.id(&peer);
    stage.play(move |at| match at {
        At::Message(here, _) => drop(here.connection(id).unwrap().send(&[0; 100_000]).is_taken()),
        At::Heartbeat(conn) => drop(conn.send(b"ping").is_taken()),
        other => usual(other),
    });
    stage.handle().post(0, 0).unwrap();
    stage.advance(1000);
    assert_eq!(beats(&stage), 0, "what waits says as much");
    peer.reads(true);
    stage.advance(300);
    assert!(beats(&stage) > 0);
    stage.stop();
}

fn before_the_first_byte_only_its_deadline_runs<D: Rig>(seed: u64) {
    let mut stage = pinging::<D>(seed, |limits| limits.first_byte_timeout = Some(MS(300)));
    let (late, speaks) = (stage.open(), stage.open());
    speaks.send(b"hello");
    stage.advance(303);
    late.finish();
    stage.settle();
    assert_eq!(stage.record(&late).closed, Some(CloseReason::Deadline(DeadlineKind::FirstByte)));
    assert!(!stage.record(&late).calls.contains(&Callback::Heartbeat));
    assert!(stage.record(&speaks).calls.contains(&Callback::Heartbeat));
    stage.stop();
}

fn it_comes_beside_other_deadlines<D: Rig>(seed: u64) {
    let mut stage = pinging::<D>(seed, |limits| {
        limits.idle_timeout = Some(MS(2000));
        limits.lifetime_max = Some(MS(1000));
    });
    let peer = stage.open();
    stage.advance(998);
    let in_time = beats(&stage);
    assert!((8..=20).contains(&in_time), "{in_time} in ten intervals");
    stage.advance(5);
    peer.finish();
    stage.settle();
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::Deadline(DeadlineKind::Lifetime)));
    stage.stop();
}

fn a_quiet_connection_has_no_box<D: Rig>(seed: u64) {
    let mut stage = pinging::<D>(seed, |limits| limits.idle_timeout = Some(MS(1000)));
    let peer = stage.open();
    let id = stage.id(&peer);
    let has_box = |stage: &mut Stage<D>| stage.event_loop.state.head(id).unwrap().cold.is_some();
    let mut answered = 0;
    for _ in 0..300 {
        assert!(!has_box(&mut stage), "between an answer and the next heartbeat");
        stage.advance(1);
        let pings = peer.got().len() / 4;
        if pings > answered {
            assert!(has_box(&mut stage), "until it is answered");
            peer.send(b"pong");
            stage.settle();
            answered = pings;
        }
    }
    assert!(answered >= 2);
    stage.stop();
}

fn traffic_costs_the_wheel_nothing_with_heartbeats<D: Rig>(seed: u64) {
    let mut stage = pinging::<D>(seed, |limits| limits.idle_timeout = Some(MS(1000)));
    let peers: Vec<_> = (0..10).map(|_| stage.open()).collect();
    let filed = stage.event_loop.state.wheel.next_due();
    for _ in 0..50 {
        peers.iter().for_each(|peer| peer.send(b"x"));
        stage.settle();
    }
    assert_eq!(stage.event_loop.state.wheel.next_due(), filed, "one store, and no refiling");
    assert_eq!(stage.event_loop.state.wheel.len(), 10);
    stage.stop();
}
