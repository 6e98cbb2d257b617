//! Connections that a proxy announces: by a header that comes in any pieces, late, wrong or never.

use super::{At, Peer, Rig, Stage, on_both_rigs, pattern, usual};
use crate::base::close_reason::{BadHeader, Callback, CloseReason, DeadlineKind};
use crate::config::limits::Limits;
use crate::observe::counters::Counter;
use crate::threads::control::Phase;
use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

on_both_rigs! {
    a_header_cut_anywhere_names_the_client: 60,
    what_comes_with_the_header_is_the_clients: 40,
    the_first_byte_is_awaited_anew_behind_the_header: 10,
    the_handler_may_pause_before_the_first_byte: 20,
    a_proxy_that_speaks_for_itself_is_the_peer: 10,
    a_bad_header_ends_that_connection_alone: 20,
    who_ends_before_the_header_does_is_counted: 20,
    a_header_that_trickles_is_ended_in_time: 20,
    a_header_that_came_in_time_counts_though_the_loop_is_late: 10,
    of_limits_that_come_together_the_one_that_says_most_is_named: 5,
    at_the_drain_who_is_not_announced_goes_and_who_is_gets_in: 20,
    at_the_drain_those_who_wait_go_some_in_each_turn: 10,
    a_stop_leaves_nobody_waiting: 10,
    a_refused_watch_costs_only_itself: 10,
    a_thousand_wait_and_each_is_served: 3,
}

const MS: fn(u64) -> Duration = Duration::from_millis;

/// A stage behind a proxy, whose handler echoes and notes each client when it opens.
fn behind<D: Rig>(seed: u64, first_byte_ms: Option<u64>) -> (Stage<D>, Rc<RefCell<Vec<String>>>) {
    let mut stage =
        Stage::<D>::with(seed, |limits| limits.first_byte_timeout = first_byte_ms.map(MS));
    stage.are_announced = true;
    let clients = Rc::new(RefCell::new(Vec::new()));
    let notes = Rc::clone(&clients);
    stage.play(move |at| match at {
        At::Open(conn) => notes.borrow_mut().push(conn.peer().expect("it is there").to_string()),
        other => usual(other),
    });
    (stage, clients)
}

/// The client behind a wire: its IP is what the stage knows a wire by.
fn client_of(peer: &Peer) -> String {
    format!("{}:7777", Ipv4Addr::from(0x0A00_0000 | peer.wire as u32))
}

fn header_of(peer: &Peer, is_line: bool) -> Vec<u8> {
    let ip = Ipv4Addr::from(0x0A00_0000 | peer.wire as u32);
    if is_line {
        return format!("PROXY TCP4 {ip} 10.9.9.9 7777 443\r\n").into_bytes();
    }
    let begin = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0F";
    [&begin[..], &ip.octets(), &[10, 9, 9, 9], &[0x1E, 0x61, 1, 0xBB], b"\x04\0\0"].concat()
}

fn is_open<D: Rig>(stage: &Stage<D>) -> usize {
    stage.log.get().records.iter().filter(|record| record.closed.is_none()).count()
}

fn a_header_cut_anywhere_names_the_client<D: Rig>(seed: u64) {
    let (mut stage, clients) = behind::<D>(seed, None);
    for is_line in [true, false] {
        let peer = stage.arrive();
        let mut rest = header_of(&peer, is_line);
        while !rest.is_empty() {
            assert_eq!(is_open(&stage), 0, "nobody is let in before the header is whole");
            let cut = stage.rng.within(1, rest.len());
            peer.send(&rest[..cut]);
            rest.drain(..cut);
            if stage.rng.one_in(2) { stage.turn() } else { stage.settle() }
        }
        stage.settle();
        assert_eq!(clients.borrow().last(), Some(&client_of(&peer)));
        peer.send(b"hello");
        stage.settle();
        assert_eq!(peer.got(), b"hello");
        peer.finish();
        stage.settle();
        assert_eq!(stage.record(&peer).closed, Some(CloseReason::PeerEnded));
    }
    assert!(stage.event_loop.state.clients.is_empty(), "who is gone is not remembered");
    stage.stop();
}

fn what_comes_with_the_header_is_the_clients<D: Rig>(seed: u64) {
    let (mut stage, _) = behind::<D>(seed, None);
    stage.world.get().buffers = (1 << 20, 1 << 20);
    for len in [1, 100, 10_000] {
        let peer = stage.arrive();
        let bytes = pattern(0, len);
        let is_line = stage.rng.one_in(2);
        peer.send(&[&header_of(&peer, is_line)[..], &bytes].concat());
        if stage.rng.one_in(2) {
            peer.finish();
        }
        stage.settle();
        assert!(peer.got() == bytes, "{} of {len}", peer.got().len());
    }
    stage.stop();
}

fn the_first_byte_is_awaited_anew_behind_the_header<D: Rig>(seed: u64) {
    let (mut stage, _) = behind::<D>(seed, Some(100));
    let (silent, speaks) = (stage.arrive(), stage.arrive());
    stage.advance(60);
    silent.send(&header_of(&silent, true));
    speaks.send(&[&header_of(&speaks, true)[..], b"x"].concat());
    stage.advance(90);
    assert_eq!(is_open(&stage), 2);
    stage.advance(50);
    let was_told = |peer| stage.record(peer).calls.contains(&Callback::Deadline);
    assert!(was_told(&silent) && !was_told(&speaks));
    stage.stop();
}

fn the_handler_may_pause_before_the_first_byte<D: Rig>(seed: u64) {
    let (mut stage, _) = behind::<D>(seed, None);
    stage.play(|at| match at {
        At::Open(conn) => conn.pause(),
        At::Message(here, _) => here.each(|conn| conn.resume()),
        other => usual(other),
    });
    let peer = stage.arrive();
    peer.send(&[&header_of(&peer, false)[..], b"early"].concat());
    stage.settle();
    assert_eq!(peer.got(), b"");
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    assert_eq!(peer.got(), b"early");
    stage.stop();
}

fn a_proxy_that_speaks_for_itself_is_the_peer<D: Rig>(seed: u64) {
    let (mut stage, clients) = behind::<D>(seed, None);
    for header in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
        let peer = stage.arrive();
        peer.send(header);
        stage.settle();
        let ports = clients.borrow().last().map(|client| client.ends_with(":40000"));
        assert_eq!(ports, Some(true), "the connection's own");
    }
    assert!(stage.event_loop.state.clients.is_empty(), "nothing is kept for them");
    stage.stop();
}

fn a_bad_header_ends_that_connection_alone<D: Rig>(seed: u64) {
    let (mut stage, _) = behind::<D>(seed, None);
    let good = stage.arrive();
    let malicious: [(&[u8], BadHeader); 4] = [
        (b"GET / HTTP/1.1\r\n\r\n", BadHeader::Missing),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n", BadHeader::Malformed),
        (&[b"PROXY ", &[b'9'; 200][..]].concat(), BadHeader::TooLong),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xFF\xFF", BadHeader::TooLong),
    ];
    for (n, (bytes, what)) in malicious.into_iter().enumerate() {
        let peer = stage.arrive();
        for byte in bytes {
            peer.send(&[*byte]);
            if stage.rng.one_in(2) {
                stage.turn();
            }
        }
        stage.settle();
        assert!(peer.saw_fin() || peer.saw_reset());
        let counted = stage.snapshot().closed_by(CloseReason::ProxyHeader(what));
        assert_eq!(counted, n as u64 + 1, "counted under one name, whatever it is");
    }
    good.send(&header_of(&good, true));
    good.send(b"hello");
    stage.settle();
    assert_eq!(good.got(), b"hello");
    assert_eq!(stage.log.get().records.len(), 1, "no session was made for the others");
    stage.stop();
}

fn who_ends_before_the_header_does_is_counted<D: Rig>(seed: u64) {
    let (mut stage, _) = behind::<D>(seed, None);
    for n in 1..10 {
        let (ends, resets) = (stage.arrive(), stage.arrive());
        let cut = stage.rng.below(20);
        ends.send(&header_of(&ends, true)[..cut]);
        resets.send(&header_of(&resets, false)[..cut]);
        if stage.rng.one_in(2) {
            stage.settle();
        }
        ends.finish();
        resets.reset();
        stage.settle();
        let snapshot = stage.snapshot();
        assert_eq!(snapshot.closed_by(CloseReason::PeerEnded), n);
        assert_eq!(snapshot.closed_by(CloseReason::PeerReset), n);
    }
    assert_eq!(stage.log.get().records.len(), 0);
    stage.stop();
}

fn a_header_that_trickles_is_ended_in_time<D: Rig>(seed: u64) {
    let soon = Some(MS(100));
    type Bound = fn(&mut Limits, Option<Duration>);
    let bounds: [(Bound, CloseReason); 4] = [
        (
            |limits, soon| limits.first_byte_timeout = soon,
            CloseReason::Deadline(DeadlineKind::FirstByte),
        ),
        (|limits, soon| limits.idle_timeout = soon, CloseReason::Deadline(DeadlineKind::Idle)),
        (|limits, soon| limits.lifetime_max = soon, CloseReason::Deadline(DeadlineKind::Lifetime)),
        (
            |limits, soon| limits.proxy_header_timeout = soon.unwrap(),
            CloseReason::ProxyHeader(BadHeader::Late),
        ),
    ];
    for (bound, why) in bounds {
        let mut stage = Stage::<D>::with(seed, |limits| bound(limits, soon));
        stage.are_announced = true;
        let peer = stage.arrive();
        for byte in &header_of(&peer, true)[..9] {
            peer.send(&[*byte]);
            stage.advance(11);
        }
        assert_eq!(stage.snapshot().closed_by(why), 0);
        stage.advance(4);
        assert_eq!(stage.snapshot().closed_by(why), 1, "no byte puts it off");
        assert_eq!(stage.count(Counter::Open), 0);
        stage.stop();
    }
}

fn a_header_that_came_in_time_counts_though_the_loop_is_late<D: Rig>(seed: u64) {
    let (mut stage, clients) = behind::<D>(seed, Some(100));
    let peer = stage.arrive();
    stage.settle();
    peer.send(&header_of(&peer, true));
    stage.world.get().now += 200;
    let now = stage.world.get().now;
    stage.world.get().limit = Some(now);
    stage.settle();
    assert_eq!(*clients.borrow(), [client_of(&peer)]);
    stage.stop();
}

/// A client that says nothing at all is known best by its first byte. Of equal limits another one would be
/// named, and an operator would raise that one.
fn of_limits_that_come_together_the_one_that_says_most_is_named<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.proxy_header_timeout = MS(100);
        limits.lifetime_max = Some(MS(100));
        limits.idle_timeout = Some(MS(100));
        limits.first_byte_timeout = Some(MS(100));
    });
    stage.are_announced = true;
    stage.arrive();
    stage.advance(104);
    assert_eq!(stage.snapshot().closed_by(CloseReason::Deadline(DeadlineKind::FirstByte)), 1);
    stage.stop();
}

fn at_the_drain_who_is_not_announced_goes_and_who_is_gets_in<D: Rig>(seed: u64) {
    let (mut stage, _) = behind::<D>(seed, None);
    let (half, late, whole) = (stage.arrive(), stage.arrive(), stage.arrive());
    half.send(b"PROXY ");
    stage.settle();
    // What lies in the kernel when the order comes is still heard.
    whole.send(&[&header_of(&whole, true)[..], b"hello"].concat());
    stage.shared.raise(Phase::Drain);
    let last = stage.arrive();
    last.send(&[&header_of(&last, false)[..], b"too"].concat());
    stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
    stage.advance(2000);
    assert!(stage.is_over);
    assert_eq!((whole.got(), last.got()), (b"hello".to_vec(), b"too".to_vec()));
    assert!(half.saw_fin() && late.saw_fin());
    assert_eq!(stage.snapshot().closed_by(CloseReason::Draining), 4);
    stage.stop();
}

fn at_the_drain_those_who_wait_go_some_in_each_turn<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.drained_per_turn = 3);
    stage.are_announced = true;
    (0..20).for_each(|_| drop(stage.arrive()));
    stage.settle();
    stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
    stage.shared.raise(Phase::Drain);
    while !stage.is_over {
        let before = stage.count(Counter::Open);
        stage.turn();
        assert!(stage.count(Counter::Open) + 3 >= before, "too many at once");
    }
    assert_eq!(stage.snapshot().closed_by(CloseReason::Draining), 20);
    stage.stop();
}

fn a_stop_leaves_nobody_waiting<D: Rig>(seed: u64) {
    let (mut stage, _) = behind::<D>(seed, Some(100));
    (0..10).for_each(|_| drop(stage.arrive()));
    stage.settle();
    assert_eq!(stage.count(Counter::Open), 10, "those who wait are connections too");
    stage.stop();
}

fn a_refused_watch_costs_only_itself<D: Rig>(seed: u64) {
    let (mut stage, clients) = behind::<D>(seed, None);
    stage.world.get().faults.attach.push_back(libc::ENOSPC);
    stage.arrive();
    stage.settle();
    let peer = stage.arrive();
    peer.send(&header_of(&peer, true));
    stage.settle();
    assert_eq!(*clients.borrow(), [client_of(&peer)]);
    stage.stop();
}

fn a_thousand_wait_and_each_is_served<D: Rig>(seed: u64) {
    let (mut stage, _) = behind::<D>(seed, Some(10_000));
    let mut peers: Vec<_> = (0..1000).map(|_| stage.arrive()).collect();
    stage.settle();
    stage.rng.shuffle(&mut peers);
    for peer in &peers {
        peer.send(&header_of(peer, peer.wire % 2 == 0));
        peer.send(&pattern(peer.wire, 10));
        if stage.rng.one_in(20) {
            stage.settle();
        }
    }
    stage.settle();
    for peer in &peers {
        assert!(peer.got() == pattern(peer.wire, 10), "wire {}", peer.wire);
    }
    stage.stop();
}
