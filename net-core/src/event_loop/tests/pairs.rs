//! Pairs, as a proxy has them: one side's slowness holds the other back, and never itself.

use super::actor::Actor;
use super::{At, Outcome, Peer, Rig, Stage, on_both_rigs, pattern, usual};
use crate::api::conn::Conn;
use crate::base::close_reason::{Callback, CloseReason, DeadlineKind};
use crate::base::id::ConnId;
use crate::config::limits::Limits;
use crate::connection::life::State;
use crate::features::dial::{Dial, Retry};
use crate::observe::counters::Counter;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

on_both_rigs! {
    bytes_go_both_ways_at_once_in_bounded_memory: 30,
    equal_marks_never_stall_a_pair: 30,
    a_stuck_reader_does_not_hold_what_its_own_side_brings: 20,
    half_closes_go_through_both_ways: 30,
    bytes_wait_in_bounds_while_the_other_side_connects: 20,
    a_failed_dial_ends_the_client: 10,
    one_that_is_held_meets_its_partners_end: 20,
    a_reset_goes_through: 20,
    with_heartbeats_too_neither_is_idle_before_the_other: 20,
    neither_is_idle_before_the_other: 20,
    two_that_stand_still_are_idle_in_the_end: 40,
    two_that_stand_still_are_both_told_within_one_and_a_half_timeouts: 20,
    paired_anew_the_former_partner_is_free: 20,
    no_pair_with_oneself_or_nobody: 5,
}

pub(super) type Others = Rc<RefCell<HashMap<ConnId, ConnId>>>;

fn other<'a>(conn: &'a mut Conn<'_, Actor>, others: &Others) -> Option<Conn<'a, Actor>> {
    let other = *others.borrow().get(&conn.id())?;
    conn.other(other)
}

/// A proxy: dials for each client, forwards, and passes ends on.
fn proxy<D: Rig>(seed: u64, change: impl FnOnce(&mut Limits)) -> (Stage<D>, Others) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.output_limit = 32 << 10;
        change(limits);
    });
    let others = Others::default();
    let known = Rc::clone(&others);
    stage.play(move |at| match at {
        At::Open(conn) if !known.borrow().contains_key(&conn.id()) => {
            let other = dial(conn, &known);
            assert!(conn.pair_with(other));
        }
        At::Data(conn, input) => {
            if let Some(mut other) = other(conn, &known) {
                let _ = other.send(input.take_all()); // refused: it ends, and then so do we
            }
        }
        At::End(conn) => match other(conn, &known) {
            Some(mut other) => other.finish(),
            None => conn.close(),
        },
        At::Close(conn) => {
            let why = conn.close_reason();
            if let Some(mut other) = other(conn, &known) {
                match why {
                    Some(CloseReason::PeerReset | CloseReason::Machine(_)) => other.reset(),
                    _ => other.close(),
                }
            }
        }
        At::Room(_) => {}
        other => usual(other),
    });
    (stage, others)
}

/// Dials whom a client is to be paired with.
pub(super) fn dial(conn: &mut Conn<'_, Actor>, known: &Others) -> ConnId {
    let session = conn.session().another();
    let retry = Retry { attempts: 2, ..Retry::default() };
    let other = conn.event_loop().dial(Dial::to(super::somewhere()).retry(retry), session).unwrap();
    known.borrow_mut().extend([(conn.id(), other), (other, conn.id())]);
    other
}

/// A client, and whom the proxy has dialled for it.
pub(super) fn open_pair<D: Rig>(stage: &mut Stage<D>) -> (Peer, Peer) {
    let client = stage.open();
    let upstream = stage.world.get().wires.len() - 1;
    assert_ne!(client.wire, upstream, "the proxy has dialled");
    (client, stage.world.peer(upstream))
}

/// By the side's peer: how much waits in the loop to be sent to it.
pub(super) fn waiting<D: Rig>(stage: &mut Stage<D>, peer: &Peer) -> usize {
    let token = peer.wire().last_token.unwrap();
    let id = ConnId::from_token(token).unwrap();
    stage.event_loop.state.with(id, |outbox, head| outbox.pending(head)).unwrap_or(0)
}

fn bytes_go_both_ways_at_once_in_bounded_memory<D: Rig>(seed: u64) {
    let (mut stage, _) = proxy::<D>(seed, |_| {});
    let (client, upstream) = open_pair(&mut stage);
    let (up, down) = (pattern(0, 150_000), pattern(7, 150_000));
    let bound = stage.limits().high_watermark + stage.limits().receive_block_bytes;
    client.reads(false);
    upstream.reads(stage.rng.one_in(2));
    client.send(&up);
    upstream.send(&down);
    while client.got().len() < down.len() || upstream.got().len() < up.len() {
        let most = stage.rng.within(1, 5000);
        match stage.rng.below(4) {
            0 => client.read(most),
            1 => upstream.read(most),
            2 => stage.turn(),
            _ => stage.settle(),
        }
        for peer in [&client, &upstream] {
            let waits = waiting(&mut stage, peer);
            assert!(waits <= bound, "{waits} B wait in the loop");
        }
    }
    assert!(client.got() == down && upstream.got() == up);
    assert_eq!(stage.count(Counter::BytesDropped), 0);
    stage.stop();
}

/// netty compared once with < and once with <=; muduo called both marks' callbacks in one turn.
fn equal_marks_never_stall_a_pair<D: Rig>(seed: u64) {
    equal_marks_never_stall(|change| proxy::<D>(seed, change).0);
}

/// Nor whatever else passes on what two sides say at once.
pub(super) fn equal_marks_never_stall<D: Rig>(proxy: impl Fn(&dyn Fn(&mut Limits)) -> Stage<D>) {
    for (mark, limit) in [(1, 1), (1, 100), (300, 300), (4096, 4096), (4096, 1 << 20)] {
        let mut stage = proxy(&|limits| {
            limits.high_watermark = mark;
            limits.low_watermark = mark;
            limits.output_limit = limit;
        });
        let (client, upstream) = open_pair(&mut stage);
        let len = if limit == 1 { 300 } else { 30_000 };
        let mut said = Vec::new();
        while said.len() < len {
            let n = stage.rng.within(1, len / 10);
            let bytes = pattern(said.len(), n);
            client.send(&bytes);
            upstream.send(&bytes);
            said.extend_from_slice(&bytes);
            let is_reading = stage.rng.one_in(2);
            upstream.reads(is_reading);
            client.reads(!is_reading);
            stage.turn();
        }
        upstream.reads(true);
        client.reads(true);
        stage.settle();
        assert!(upstream.got() == said && client.got() == said, "{mark} {limit}");
        assert_eq!(stage.state(&client), State::Open);
        stage.stop();
    }
}

/// The deadlock of proxies: an echo behind us stops reading when we stop, and we when it does.
fn a_stuck_reader_does_not_hold_what_its_own_side_brings<D: Rig>(seed: u64) {
    let (mut stage, _) = proxy::<D>(seed, |_| {});
    let (client, upstream) = open_pair(&mut stage);
    client.reads(false);
    upstream.send(&pattern(0, 200_000));
    stage.settle();
    assert!(waiting(&mut stage, &client) > 0);
    let up = pattern(3, 100_000);
    client.send(&up);
    stage.settle();
    assert!(upstream.got() == up, "and is read all the same");
    client.reads(true);
    stage.settle();
    assert!(client.got() == pattern(0, 200_000));
    stage.stop();
}

fn half_closes_go_through_both_ways<D: Rig>(seed: u64) {
    for client_first in [true, false] {
        let (mut stage, _) = proxy::<D>(seed, |_| {});
        let (client, upstream) = open_pair(&mut stage);
        let (first, second) =
            if client_first { (&client, &upstream) } else { (&upstream, &client) };
        let (question, answer) = (pattern(0, 50_000), pattern(9, 70_000));
        first.send(&question);
        first.finish();
        stage.settle();
        assert!(second.got() == question && second.saw_fin());
        assert!(!first.saw_fin(), "the other direction is open");
        second.send(&answer);
        stage.settle();
        assert!(first.got() == answer && !first.saw_fin());
        second.finish();
        stage.settle();
        assert!(first.saw_fin() && !first.saw_reset() && !second.saw_reset());
        assert!(stage.log.get().records.iter().all(|r| r.closed.is_some()));
        assert_eq!(stage.world.get().sockets.len(), 0);
        stage.stop();
    }
}

fn bytes_wait_in_bounds_while_the_other_side_connects<D: Rig>(seed: u64) {
    let (mut stage, _) = proxy::<D>(seed, |_| {});
    let at = stage.world.get().now + 500;
    // The first attempt fails, and the second takes its time.
    stage.world.get().dials.extend([Outcome::Refused, Outcome::UpAt(at)]);
    let client = stage.open();
    let sent = pattern(0, 100_000);
    client.send(&sent);
    client.finish();
    stage.advance(300);
    let upstream = stage.world.peer(stage.world.get().wires.len() - 1);
    let bound = stage.limits().high_watermark + stage.limits().receive_block_bytes;
    assert!((1..=bound).contains(&waiting(&mut stage, &upstream)));
    stage.advance(300);
    assert!(upstream.got() == sent && upstream.saw_fin());
    upstream.finish();
    stage.settle();
    assert_eq!(stage.record(&client).closed, Some(CloseReason::PeerEnded));
    stage.stop();
}

fn a_failed_dial_ends_the_client<D: Rig>(seed: u64) {
    let (mut stage, _) = proxy::<D>(seed, |_| {});
    stage.world.get().dials.extend([Outcome::Refused, Outcome::Refused]);
    let client = stage.open();
    client.send(b"for nobody");
    stage.advance(200);
    assert!(client.saw_reset());
    assert_eq!(stage.event_loop.state.table.len(), 0);
    stage.stop();
}

fn one_that_is_held_meets_its_partners_end<D: Rig>(seed: u64) {
    for resets in [true, false] {
        let (mut stage, others) = proxy::<D>(seed, |_| {});
        let (client, upstream) = open_pair(&mut stage);
        upstream.reads(false);
        client.send(&pattern(0, 200_000));
        stage.settle();
        if resets {
            upstream.reset();
            stage.settle();
            assert!(client.saw_reset());
        } else {
            // Ended from inside: what is owed is given up when the write timeout comes.
            let id = others.borrow()[&stage.id(&client)];
            stage.handle().close(id).unwrap();
            stage.settle();
            stage.advance(61_000);
            // (Where the kernel's buffer took all of it, nothing was owed.)
            let why = stage.log_of(id).unwrap().closed;
            let ends = [Some(CloseReason::Deadline(DeadlineKind::Write)), Some(CloseReason::Local)];
            assert!(ends.contains(&why), "{why:?}");
            client.finish();
            stage.settle();
        }
        assert_eq!(stage.event_loop.state.table.len(), 0);
        stage.stop();
    }
}

fn a_reset_goes_through<D: Rig>(seed: u64) {
    let (mut stage, _) = proxy::<D>(seed, |_| {});
    let (client, upstream) = open_pair(&mut stage);
    client.send(&pattern(0, 3000));
    stage.settle();
    client.reset();
    stage.settle();
    assert!(upstream.saw_reset());
    stage.stop();
}

fn with_idle(limits: &mut Limits) {
    limits.idle_timeout = Some(Duration::from_millis(100));
}

fn neither_is_idle_before_the_other<D: Rig>(seed: u64) {
    let (mut stage, _) = proxy::<D>(seed, with_idle);
    let (client, upstream) = open_pair(&mut stage);
    client.reads(false);
    upstream.send(&pattern(0, 200_000));
    stage.settle();
    // The client reads slowly, and nothing comes from upstream meanwhile, for it is held back.
    for _ in 0..60 {
        client.read(10);
        stage.advance(20);
    }
    assert_eq!(stage.state(&client), State::Open);
    assert!(!stage.record(&client).calls.contains(&Callback::Deadline));
    client.reads(true);
    stage.settle();
    assert!(client.got() == pattern(0, 200_000));
    stage.advance(103);
    assert!(client.saw_fin() || upstream.saw_fin(), "and together they are");
    stage.advance(1003);
    assert!(client.saw_fin() && upstream.saw_fin(), "the other when the first has lingered");
    stage.stop();
}

/// With heartbeats both sides came due in one moment, and the side that brings much was ended although its
/// partner was being read: the partner's turn to be looked at would have come right behind it.
fn with_heartbeats_too_neither_is_idle_before_the_other<D: Rig>(seed: u64) {
    let (mut stage, _) = proxy::<D>(seed, |limits| {
        with_idle(limits);
        limits.heartbeat_interval = Some(Duration::from_millis(30));
    });
    let (client, upstream) = open_pair(&mut stage);
    client.reads(false);
    upstream.send(&pattern(0, 200_000));
    stage.settle();
    for _ in 0..60 {
        client.read(10);
        stage.advance(20);
    }
    let is_told = |stage: &Stage<D>| {
        stage.log.get().records.iter().any(|it| it.calls.contains(&Callback::Deadline))
    };
    assert!(!is_told(&stage));
    client.reads(true);
    stage.settle();
    assert!(client.got() == pattern(0, 200_000));
    stage.advance(500);
    assert!(is_told(&stage), "and together they are");
    stage.stop();
}

fn two_that_stand_still_are_idle_in_the_end<D: Rig>(seed: u64) {
    let (mut stage, _) = proxy::<D>(seed, with_idle);
    let (client, upstream) = open_pair(&mut stage);
    client.reads(false);
    upstream.reads(false);
    client.send(&pattern(0, 100_000));
    let pause = stage.rng.below(120) as u64;
    stage.advance(pause);
    upstream.send(&pattern(0, 100_000));
    for _ in 0..5 {
        let (first, second, pause) =
            (stage.rng.below(50), stage.rng.below(50), stage.rng.below(60) as u64);
        client.read(first);
        upstream.read(second);
        stage.advance(pause);
    }
    // Each may be looked at once more, half a timeout later, and wait for the other doing so.
    stage.advance(500);
    let is_told = stage.log.get().records.iter().any(|r| r.calls.contains(&Callback::Deadline));
    assert!(is_told, "they put each other off");
    stage.stop();
}

/// The first of the two looked at the other as well, and used up what was noted of it: so that one was put
/// off once more.
fn two_that_stand_still_are_both_told_within_one_and_a_half_timeouts<D: Rig>(seed: u64) {
    let (mut stage, _) = proxy::<D>(seed, with_idle);
    stage.world.get().buffers = (1000, 1000);
    let (client, upstream) = open_pair(&mut stage);
    for peer in [&client, &upstream] {
        peer.reads(false);
        peer.send(&pattern(0, 1500)); // what the other's kernel has no room for is queued, and all is read
    }
    stage.settle();
    stage.play(|at| match at {
        At::Deadline(conn) => conn.reset(), // itself, and not the other one
        At::Close(_) => {}
        other => usual(other),
    });
    let told = |stage: &Stage<D>| {
        let records = &stage.log.get().records;
        records.iter().filter(|it| it.calls.contains(&Callback::Deadline)).count()
    };
    while told(&stage) == 0 {
        stage.advance(1);
    }
    assert_eq!(told(&stage), 2, "in the same moment, since both have stood still for as long");
}

fn paired_anew_the_former_partner_is_free<D: Rig>(seed: u64) {
    let (mut stage, others) = proxy::<D>(seed, |_| {});
    let (client, upstream) = open_pair(&mut stage);
    let (second, _) = open_pair(&mut stage);
    upstream.reads(false);
    client.send(&pattern(0, 100_000));
    stage.settle();
    let (held, other) = (stage.id(&client), stage.id(&second));
    assert_eq!(stage.event_loop.state.input_room(held), 0);
    let upstream_id = others.borrow()[&held];
    stage.play(move |at| match at {
        At::Message(here, _) => {
            assert!(here.connection(upstream_id).unwrap().pair_with(other));
        }
        At::Data(_, input) => drop(input.take_all()),
        other => usual(other),
    });
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    assert_eq!(stage.event_loop.state.input_room(held), usize::MAX);
    assert_eq!(stage.event_loop.state.partner_of(other), Some(upstream_id));
    assert_eq!(stage.event_loop.state.partner_of(upstream_id), Some(other));
    assert_eq!(stage.record(&client).data_bytes, 100_000);
    stage.stop();
}

fn no_pair_with_oneself_or_nobody<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let gone = stage.open();
    let gone_id = stage.id(&gone);
    gone.reset();
    stage.settle();
    let elsewhere = ConnId::new(7, gone_id.slot(), gone_id.generation());
    stage.play(move |at| match at {
        At::Open(conn) => {
            let own = conn.id();
            for nobody in [gone_id, elsewhere, own] {
                assert!(!conn.pair_with(nobody));
            }
        }
        other => usual(other),
    });
    let peer = stage.open();
    assert!(stage.event_loop.state.head(stage.id(&peer)).unwrap().cold.is_none());
    stage.stop();
}
