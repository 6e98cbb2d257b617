//! Datagrams: whole, in order, bounded; what is dropped is counted, and one fault costs one.

use super::actor::Actor;
use super::{At, Rig, Stage, fail, on_both_rigs, pattern, usual};
use crate::api::loop_context::LoopContext;
use crate::observe::counters::Counter;
use crate::threads::control::Phase;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

on_both_rigs! {
    every_datagram_comes_back_in_order: 30,
    what_came_joined_is_told_apart_and_leaves_joined: 30,
    what_the_kernel_does_not_cut_up_leaves_one_by_one: 20,
    other_callbacks_send_in_the_same_turn: 20,
    what_is_sent_after_the_drain_is_counted: 5,
    beside_a_flood_of_datagrams_a_connection_is_served: 10,
    of_joined_datagrams_a_turn_hears_no_more_than_its_budget: 20,
    a_rest_is_served_before_what_comes_later: 10,
    a_datagram_from_an_own_endpoint_is_not_heard: 10,
    what_a_full_socket_cannot_take_waits_and_above_the_limit_is_dropped_and_counted: 20,
    an_error_of_one_datagram_costs_the_others_nothing: 20,
    an_endpoint_that_fails_again_and_again_rests_and_goes_on: 10,
    a_broken_endpoint_ends_alone_and_takes_nothing_more: 10,
    a_panic_in_on_datagram_costs_that_datagram: 10,
    a_drain_answers_the_datagrams_that_are_there_and_closes: 10,
    a_stop_closes_and_counts_the_unsent: 10,
}

fn peer(n: u16) -> SocketAddr {
    ([10, 0, 0, 1], n).into()
}

/// A loop with an endpoint, whose handler answers each datagram.
fn stage<D: Rig>(seed: u64, queue: usize) -> Stage<D> {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.datagrams_per_turn = 1 + seed as usize % 100;
        limits.datagram_queue_bytes = queue;
    });
    stage.event_loop.open_datagrams("127.0.0.1:9000".parse().unwrap()).unwrap();
    stage
}

fn every_datagram_comes_back_in_order<D: Rig>(seed: u64) {
    let mut stage = stage::<D>(seed, 4 << 20);
    let mut said = Vec::new();
    for n in 0..300 {
        let one = (peer(n % 7), pattern(n as usize, stage.rng.pick(&[0, 1, 100, 65_507])));
        stage.world.say(one.0, &one.1);
        said.push(one);
        if stage.rng.one_in(20) {
            stage.settle();
        }
    }
    stage.settle();
    assert_eq!(stage.world.on_endpoint(|e| std::mem::take(&mut e.sent)).unwrap(), said);
    assert_eq!(stage.count(Counter::DatagramsIn), 300);
    assert_eq!(stage.count(Counter::DatagramsOut), 300);
    stage.stop();
}

fn what_came_joined_is_told_apart_and_leaves_joined<D: Rig>(seed: u64) {
    let mut stage = stage::<D>(seed, 4 << 20);
    // What a turn is given leaves in that turn.
    stage.event_loop.state.limits.datagrams_per_turn = 4096;
    stage.world.on_endpoint(|e| e.joins = true);
    let mut said = Vec::new();
    for n in 0..40 {
        // Runs of equal ones, the last of some shorter, and lone ones among them.
        let len = stage.rng.pick(&[0, 1, 100, 1472, 30_000]);
        for one in 0..stage.rng.within(1, 50) {
            said.push((peer(n % 3), pattern(one, len)));
        }
        said.push((peer(n % 3), pattern(n as usize, len / 2)));
    }
    for (from, bytes) in &said {
        stage.world.say(*from, bytes);
        if stage.rng.one_in(20) {
            stage.settle();
        }
    }
    stage.settle();
    let (sent, messages) =
        stage.world.on_endpoint(|e| (std::mem::take(&mut e.sent), e.messages)).unwrap();
    assert!(sent == said, "not the same, or not in this order");
    assert_eq!(stage.count(Counter::DatagramsIn), said.len() as u64);
    // Of 30,000 bytes only two go together.
    assert!(messages < said.len() * 3 / 4, "{messages} messages for {}", said.len());
    stage.stop();
}

fn what_the_kernel_does_not_cut_up_leaves_one_by_one<D: Rig>(seed: u64) {
    let mut stage = stage::<D>(seed, 4 << 20);
    // What a turn is given leaves in that turn.
    stage.event_loop.state.limits.datagrams_per_turn = 4096;
    stage.world.on_endpoint(|e| e.cuts_up_to = Some(1472));
    let mut said = Vec::new();
    for len in [1500, 1472, 1473, 100, 9000] {
        said.extend((0..20).map(|n| (peer(1), pattern(n, len))));
    }
    for (from, bytes) in &said {
        stage.world.say(*from, bytes);
    }
    stage.settle();
    let (sent, messages) =
        stage.world.on_endpoint(|e| (std::mem::take(&mut e.sent), e.messages)).unwrap();
    assert!(sent == said, "not the same, or not in this order");
    assert!((60..90).contains(&messages), "{messages}");
    assert_eq!(stage.count(Counter::DatagramsFailed), 0);
    stage.stop();
}

fn other_callbacks_send_in_the_same_turn<D: Rig>(seed: u64) {
    let mut stage = stage::<D>(seed, 4 << 20);
    stage.play(|at| match at {
        At::Open(conn) => _ = conn.event_loop().send_datagram(0, peer(1), b"one came"),
        At::Timer(here, tag) => assert!(here.send_datagram(0, peer(2), &[tag as u8])),
        other => usual(other),
    });
    let _client = stage.open();
    let sent = stage.world.on_endpoint(|e| std::mem::take(&mut e.sent)).unwrap();
    assert_eq!(sent, [(peer(1), b"one came".to_vec())]);
    // While the socket is full it waits, and the loop sleeps; then a signal comes.
    stage.world.on_endpoint(|e| e.room = Some(0));
    LoopContext::<Actor>::new(&mut stage.event_loop.state).after(Duration::from_millis(5), 7);
    stage.advance(10);
    assert_eq!(stage.world.on_endpoint(|e| e.sent.len()), Some(0));
    stage.world.on_endpoint(|e| e.room = None);
    stage.settle();
    let sent = stage.world.on_endpoint(|e| std::mem::take(&mut e.sent)).unwrap();
    assert_eq!(sent, [(peer(2), vec![7])]);
    assert_eq!(stage.count(Counter::DatagramsOut), 2);
    stage.stop();
}

fn what_is_sent_after_the_drain_is_counted<D: Rig>(seed: u64) {
    let mut stage = stage::<D>(seed, 4 << 20);
    let client = stage.open();
    stage.play(|at| match at {
        At::Draining(conn) => assert!(!conn.event_loop().send_datagram(0, peer(1), b"too late")),
        other => usual(other),
    });
    stage.shared.raise(Phase::Drain);
    stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
    client.finish();
    while stage.event_loop.turn().unwrap() {}
    assert_eq!(stage.count(Counter::DatagramsDropped), 1);
}

fn beside_a_flood_of_datagrams_a_connection_is_served<D: Rig>(seed: u64) {
    let mut stage = stage::<D>(seed, 4 << 20);
    let client = stage.open();
    (0..20_000).for_each(|n| stage.world.say(peer(n), b"flood"));
    client.send(b"hello");
    let most = stage.event_loop.state.limits.datagrams_per_turn as u64;
    let (mut turns, mut before) = (0, 0);
    while client.got() != b"hello" {
        stage.turn();
        turns += 1;
        let came = stage.count(Counter::DatagramsOut);
        assert!(came - before <= most, "{} in one turn, whose budget is {most}", came - before);
        before = came;
        assert!(turns < 10, "it waits for the flood");
    }
    let waits = stage.world.on_endpoint(|e| e.arrived.len()).unwrap();
    assert!(waits > 0, "the flood was over before");
    stage.settle();
    stage.stop();
}

/// The budget was looked at between batches of 32 messages, each of which the kernel may have joined of 64:
/// a turn's handler was called 2,048 times, and connections waited for all of them.
fn of_joined_datagrams_a_turn_hears_no_more_than_its_budget<D: Rig>(seed: u64) {
    let mut stage = stage::<D>(seed, 4 << 20);
    stage.world.on_endpoint(|e| e.joins = true);
    let client = stage.open();
    let said: Vec<_> = (0..4_000).map(|n| (peer(1), pattern(n, 5))).collect();
    said.iter().for_each(|(from, bytes)| stage.world.say(*from, bytes));
    client.send(b"hello");
    let most = stage.event_loop.state.limits.datagrams_per_turn as u64;
    let heard = Rc::new(Cell::new(0));
    let count = Rc::clone(&heard);
    stage.play(move |at| {
        if let At::Datagram(_) = at {
            count.set(count.get() + 1);
        }
        usual(at);
    });
    let (mut turns, mut before, mut answered_after) = (0, 0, None);
    while heard.get() < 4_000 {
        stage.turn();
        turns += 1;
        assert!(heard.get() - before <= most, "{} of {most} in one turn", heard.get() - before);
        before = heard.get();
        answered_after = answered_after.or((client.got() == b"hello").then_some(turns));
        assert!(turns < 10_000, "it stands still");
    }
    assert!(answered_after.is_some_and(|turns| turns < 10), "it waits for the flood");
    stage.settle();
    let sent = stage.world.on_endpoint(|e| std::mem::take(&mut e.sent)).unwrap();
    assert!(sent == said, "not the same, or not in this order");
    assert_eq!(stage.count(Counter::DatagramsIn), 4_000);
    stage.stop();
}

fn a_rest_is_served_before_what_comes_later<D: Rig>(seed: u64) {
    let mut stage = stage::<D>(seed, 4 << 20);
    stage.world.on_endpoint(|e| e.joins = true);
    let most = stage.event_loop.state.limits.datagrams_per_turn;
    let first: Vec<_> = (0..2 * most + 1).map(|n| (peer(1), pattern(n, 3))).collect();
    first.iter().for_each(|(from, bytes)| stage.world.say(*from, bytes));
    while stage.count(Counter::DatagramsIn) == 0 {
        stage.turn();
    }
    // A part of them waits in the loop, without an edge, when others come and when the drain begins.
    let later: Vec<_> = (0..5).map(|n| (peer(2), pattern(n, 30))).collect();
    later.iter().for_each(|(from, bytes)| stage.world.say(*from, bytes));
    let is_drained = stage.rng.one_in(2);
    if is_drained {
        stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
        stage.shared.raise(Phase::Drain);
    }
    stage.settle();
    let (came, out) = (stage.count(Counter::DatagramsIn), stage.count(Counter::DatagramsOut));
    assert_eq!(came, out + stage.count(Counter::DatagramsUnheard));
    if !is_drained {
        let sent = stage.world.on_endpoint(|e| std::mem::take(&mut e.sent)).unwrap();
        assert!(sent == [first, later].concat());
    }
    stage.stop();
}

/// A datagram forged from the server's own address was answered to itself, and so on for ever.
fn a_datagram_from_an_own_endpoint_is_not_heard<D: Rig>(seed: u64) {
    for (bound, forged, others) in [
        ("127.0.0.1:9000", "127.0.0.1:9000", "127.0.0.1:9001"),
        ("0.0.0.0:9000", "127.0.0.1:9000", "10.0.0.2:9000"),
        ("[::]:9000", "[::1]:9000", "[2001:db8::7]:9000"),
        ("[::]:9000", "[::ffff:127.0.0.1]:9000", "[::ffff:10.0.0.2]:9000"),
    ] {
        let mut stage = Stage::<D>::new(seed);
        stage.event_loop.open_datagrams(bound.parse().unwrap()).unwrap();
        let others: SocketAddr = others.parse().unwrap();
        stage.world.say(forged.parse().unwrap(), b"echo this");
        stage.world.say(others, b"and this");
        stage.settle();
        let sent = stage.world.on_endpoint(|e| std::mem::take(&mut e.sent)).unwrap();
        assert_eq!(sent, [(others, b"and this".to_vec())], "{bound}");
        assert_eq!(stage.count(Counter::DatagramsOwn), 1);
        stage.stop();
    }
}

fn what_a_full_socket_cannot_take_waits_and_above_the_limit_is_dropped_and_counted<D: Rig>(
    seed: u64,
) {
    let mut stage = stage::<D>(seed, 10 * (64 + 4));
    stage.world.on_endpoint(|e| e.room = Some(3));
    for n in 0..3 + 10 + 7 {
        stage.world.say(peer(n), b"four");
        stage.settle();
    }
    assert_eq!(stage.world.on_endpoint(|e| e.sent.len()), Some(3));
    assert_eq!(stage.count(Counter::DatagramsDropped), 7);
    stage.world.on_endpoint(|e| e.room = None);
    stage.advance(1000);
    let to: Vec<u16> =
        stage.world.on_endpoint(|e| e.sent.iter().map(|(to, _)| to.port()).collect()).unwrap();
    assert_eq!(to, (0..13).collect::<Vec<_>>());
    stage.stop();
}

fn an_error_of_one_datagram_costs_the_others_nothing<D: Rig>(seed: u64) {
    let mut stage = stage::<D>(seed, 4 << 20);
    for errno in [libc::EMSGSIZE, libc::ECONNREFUSED, libc::ENETUNREACH, libc::ENOBUFS] {
        stage.world.on_endpoint(|e| {
            e.send_errors.push_back(errno);
            e.receive_errors.push_back(libc::ECONNREFUSED);
        });
        stage.world.say(peer(1), b"lost");
        stage.world.say(peer(2), b"kept");
        stage.settle();
        let sent = stage.world.on_endpoint(|e| std::mem::take(&mut e.sent)).unwrap();
        assert_eq!(sent, [(peer(2), b"kept".to_vec())], "errno {errno}");
    }
    assert_eq!(stage.count(Counter::DatagramsFailed), 4);
    assert_eq!(stage.count(Counter::DatagramErrors), 4);
    stage.stop();
}

fn an_endpoint_that_fails_again_and_again_rests_and_goes_on<D: Rig>(seed: u64) {
    let mut stage = stage::<D>(seed, 4 << 20);
    stage.world.on_endpoint(|e| e.receive_errors.extend(vec![libc::EPERM; 1_000]));
    stage.world.say(peer(1), b"kept");
    stage.advance(190);
    let failed = stage.count(Counter::DatagramErrors);
    assert_eq!(failed, 64, "in four rests of 50 ms, 16 in a row each");
    // No new datagram comes, and so no edge.
    stage.world.on_endpoint(|e| e.receive_errors.clear());
    stage.advance(60);
    let sent = stage.world.on_endpoint(|e| std::mem::take(&mut e.sent)).unwrap();
    assert_eq!(sent, [(peer(1), b"kept".to_vec())]);
    assert_eq!(stage.count(Counter::ListenersBroken), 0);
    stage.stop();
}

fn a_broken_endpoint_ends_alone_and_takes_nothing_more<D: Rig>(seed: u64) {
    for errno in [libc::EBADF, libc::EINVAL, libc::ENOTSOCK] {
        let mut stage = stage::<D>(seed, 4 << 20);
        let client = stage.open();
        stage.play(|at| match at {
            At::Data(conn, input) => {
                assert!(!conn.event_loop().send_datagram(0, peer(1), b"too late"));
                usual(At::Data(conn, input));
            }
            other => usual(other),
        });
        stage.world.on_endpoint(|e| e.receive_errors.push_back(errno));
        stage.settle();
        assert_eq!(stage.count(Counter::ListenersBroken), 1);
        client.send(b"x");
        stage.settle();
        assert_eq!(client.got(), b"x");
        assert_eq!(stage.count(Counter::DatagramsDropped), 1);
        assert!(stage.shared.listener_health.all_failed().is_some());
        stage.stop();
    }
}

fn a_panic_in_on_datagram_costs_that_datagram<D: Rig>(seed: u64) {
    let mut stage = stage::<D>(seed, 4 << 20);
    stage.play(|at| {
        if let At::Datagram(mut datagram) = at {
            let _ = datagram.reply(datagram.bytes());
            if datagram.bytes() == b"bad" {
                fail();
            }
        }
    });
    for said in [&b"one"[..], b"bad", b"two"] {
        stage.world.say(peer(1), said);
    }
    let log = stage.log.clone();
    stage.panics_are_counted_by(move || log.get().panics.len() as u64);
    stage.settle();
    let sent = stage.world.on_endpoint(|e| std::mem::take(&mut e.sent)).unwrap();
    assert_eq!(sent, [(peer(1), b"one".to_vec()), (peer(1), b"two".to_vec())]);
    stage.stop();
}

fn a_drain_answers_the_datagrams_that_are_there_and_closes<D: Rig>(seed: u64) {
    let mut stage = stage::<D>(seed, 4 << 20);
    stage.settle();
    stage.world.say(peer(1), b"just in time");
    stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
    stage.shared.raise(Phase::Drain);
    stage.settle();
    assert!(stage.is_over);
    assert_eq!(stage.count(Counter::DatagramsOut), 1);
    assert_eq!(stage.world.on_endpoint(|_| ()), None, "closed");
    stage.stop();
}

fn a_stop_closes_and_counts_the_unsent<D: Rig>(seed: u64) {
    let mut stage = stage::<D>(seed, 4 << 20);
    stage.world.on_endpoint(|e| e.room = Some(0));
    (0..5).for_each(|n| stage.world.say(peer(n), b"x"));
    stage.settle();
    stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
    stage.shared.raise(Phase::Stop);
    stage.settle();
    assert_eq!(stage.count(Counter::DatagramsDropped), 5);
    assert_eq!(stage.world.on_endpoint(|_| ()), None, "closed");
    stage.stop();
}
