//! Tunnels: bytes and ends that pass from one connection to another without a handler.

use super::actor::Actor;
use super::pairs::{Others, dial, equal_marks_never_stall, open_pair, waiting};
use super::{At, Outcome, Peer, Rig, Stage, on_both_rigs, pattern, usual};
use crate::api::conn::Conn;
use crate::base::close_reason::{Callback, CloseReason};
use crate::base::id::ConnId;
use crate::config::limits::Limits;
use crate::driver::sim::World;
use crate::observe::counters::Counter;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

on_both_rigs! {
    much_goes_both_ways_at_once_by_pipes_in_bounded_memory: 40,
    equal_marks_never_stall_a_tunnel: 20,
    a_pipe_that_is_full_is_not_a_socket_that_is_empty: 20,
    urgent_bytes_do_not_stop_a_tunnel: 20,
    little_is_copied_and_much_is_spliced: 10,
    half_closes_pass_both_ways_behind_the_last_byte: 30,
    a_word_and_the_end_before_the_other_side_is_up_arrive: 30,
    what_was_queued_and_kept_before_goes_first: 40,
    what_is_kept_goes_before_what_a_deadline_finds: 60,
    a_reset_ends_both_and_its_pipe_is_not_lent_again: 30,
    a_failed_dial_resets_the_client: 10,
    without_a_free_pipe_all_is_copied: 20,
    pipes_come_back_and_are_few: 20,
    given_back_to_the_handler_it_is_a_pair: 20,
    a_close_by_the_handler_passes: 10,
    whatever_comes_and_ends_the_books_balance: 60,
}

/// A proxy that only tunnels: nobody may ask its handler for bytes or ends.
fn proxy<D: Rig>(seed: u64, change: impl FnOnce(&mut Limits)) -> (Stage<D>, Others) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.output_limit = 32 << 10;
        change(limits);
    });
    let others = Others::default();
    let known = Rc::clone(&others);
    stage.play(move |at| match at {
        At::Open(conn) if !known.borrow().contains_key(&conn.id()) => tunnel(conn, &known),
        At::Data(..) | At::End(_) => panic!("a tunnel's bytes and ends are not the handler's"),
        At::Room(_) | At::Close(_) => {}
        other => usual(other),
    });
    (stage, others)
}

fn tunnel(conn: &mut Conn<'_, Actor>, known: &Others) {
    let other = dial(conn, known);
    assert!(conn.tunnel_with(other));
}

fn spliced<D: Rig>(stage: &Stage<D>) -> u64 {
    stage.count(Counter::BytesSpliced)
}

/// By the side's peer: whether what waits for it is in a pipe, or some of it.
fn has_pipe<D: Rig>(stage: &mut Stage<D>, peer: &Peer) -> bool {
    let id = ConnId::from_token(peer.wire().last_token.unwrap()).unwrap();
    let head = stage.event_loop.state.head(id).unwrap();
    head.cold.as_deref().is_some_and(|cold| !cold.output.may_take_pipe())
}

fn pipes_open<D: Rig>(stage: &Stage<D>) -> usize {
    stage.event_loop.state.outbox.pool.pipes_open()
}

/// Larger buffers than by the seed, so that much can come at once.
fn with_room(world: &World) {
    world.get().buffers = (64 << 10, 20_000);
}

fn much_goes_both_ways_at_once_by_pipes_in_bounded_memory<D: Rig>(seed: u64) {
    let (mut stage, _) = proxy::<D>(seed, |_| {});
    if seed.is_multiple_of(2) {
        with_room(&stage.world);
    }
    let (client, upstream) = open_pair(&mut stage);
    let (up, down) = (pattern(0, 150_000), pattern(7, 150_000));
    let limits = stage.limits();
    let bound = limits.high_watermark + limits.receive_bytes_per_turn;
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
    assert!(spliced(&stage) > 0 || !seed.is_multiple_of(2));
    let record = stage.record(&client);
    assert_eq!((record.data_bytes, stage.count(Counter::BytesDropped)), (0, 0));
    stage.stop();
}

fn equal_marks_never_stall_a_tunnel<D: Rig>(seed: u64) {
    equal_marks_never_stall(|change| proxy::<D>(seed, change).0);
}

/// Small segments fill a pipe's places with a few bytes, and it says EAGAIN, while the socket has more
/// for which no edge will come.
fn a_pipe_that_is_full_is_not_a_socket_that_is_empty<D: Rig>(seed: u64) {
    // So few in a turn that splices are whole, and the next one finds no place.
    let (mut stage, _) = proxy::<D>(seed, |limits| {
        limits.receive_block_bytes = 64;
        limits.receive_bytes_per_turn = 256;
    });
    with_room(&stage.world);
    stage.world.get().fragments = Some(40);
    stage.world.get().places = Some(4);
    let (client, upstream) = open_pair(&mut stage);
    upstream.reads(false);
    let bytes = pattern(0, 60_000);
    for part in bytes.chunks(9_000) {
        client.send(part);
        stage.settle();
    }
    for _ in 0..400 {
        upstream.read(300);
        stage.settle();
    }
    assert!(spliced(&stage) > 0 && stage.world.get().counts.full_pipes > 0, "none was full");
    assert!(upstream.got() == bytes);
    stage.stop();
}

/// A splice, unlike a receive, does not pass over urgent data: it says EAGAIN for ever.
fn urgent_bytes_do_not_stop_a_tunnel<D: Rig>(seed: u64) {
    let (mut stage, _) = proxy::<D>(seed, |_| {});
    with_room(&stage.world);
    let (client, upstream) = open_pair(&mut stage);
    let bytes = pattern(0, 60_000);
    for part in bytes.chunks(20_000) {
        client.send(part);
        client.send_urgent();
        if stage.rng.one_in(2) {
            stage.turn();
        }
    }
    stage.settle();
    assert!(upstream.got() == bytes && spliced(&stage) > 0);
    stage.stop();
}

fn little_is_copied_and_much_is_spliced<D: Rig>(seed: u64) {
    let (mut stage, _) = proxy::<D>(seed, |limits| {
        limits.receive_block_bytes = 4096;
        limits.receive_bytes_per_turn = 8192;
    });
    with_room(&stage.world);
    stage.world.get().fragments = Some(32 << 10);
    let (client, upstream) = open_pair(&mut stage);
    for _ in 0..50 {
        client.send(&pattern(0, 100));
        stage.settle();
    }
    let counts = stage.world.get().counts;
    assert_eq!((counts.splices, counts.pipes, spliced(&stage)), (0, 0, 0));
    let before = upstream.got().len();
    for n in 0..30 {
        client.send(&pattern(n, 50_000));
        stage.settle();
    }
    assert_eq!(upstream.got().len() - before, 30 * 50_000);
    assert!(spliced(&stage) > 100_000, "{} of 1500000", spliced(&stage));
    // One splice more may find little, and then it is copied again.
    client.send(&pattern(0, 100));
    stage.settle();
    let (splices, so_far) = (stage.world.get().counts.splices, spliced(&stage));
    for _ in 0..50 {
        client.send(&pattern(0, 100));
        stage.settle();
    }
    let more = stage.world.get().counts.splices - splices;
    assert!(more <= 8 && spliced(&stage) - so_far <= 100, "{more} splices more");
    stage.stop();
}

fn half_closes_pass_both_ways_behind_the_last_byte<D: Rig>(seed: u64) {
    for client_first in [true, false] {
        let (mut stage, _) = proxy::<D>(seed, |_| {});
        if seed.is_multiple_of(2) {
            with_room(&stage.world);
        }
        let (client, upstream) = open_pair(&mut stage);
        let (first, second) =
            if client_first { (&client, &upstream) } else { (&upstream, &client) };
        let (question, answer) = (pattern(0, 50_000), pattern(9, 70_000));
        second.reads(false);
        first.send(&question);
        first.finish();
        stage.settle();
        second.reads(true);
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

/// A finish would end a connection that is not up, and with it what waits for it.
fn a_word_and_the_end_before_the_other_side_is_up_arrive<D: Rig>(seed: u64) {
    let (mut stage, _) = proxy::<D>(seed, |_| {});
    let at = stage.world.get().now + 500;
    stage.world.get().dials.extend([Outcome::Refused, Outcome::UpAt(at)]);
    let client = stage.open();
    client.send(b"a word");
    client.finish();
    stage.advance(1000);
    let upstream = stage.world.peer(stage.world.get().wires.len() - 1);
    assert_eq!((upstream.got(), upstream.saw_fin()), (b"a word".to_vec(), true));
    upstream.send(b"an answer");
    upstream.finish();
    stage.settle();
    assert_eq!((client.got(), client.saw_fin()), (b"an answer".to_vec(), true));
    assert_eq!(stage.record(&client).closed, Some(CloseReason::PeerEnded));
    stage.stop();
}

/// The handler looks at the first bytes, answers and forwards some, and leaves the rest.
fn what_was_queued_and_kept_before_goes_first<D: Rig>(seed: u64) {
    let (mut stage, others) = proxy::<D>(seed, |limits| limits.input_bytes_max = 1 << 20);
    if seed.is_multiple_of(2) {
        with_room(&stage.world);
    }
    stage.play(move |at| match at {
        At::Data(conn, input) => {
            if input.len() < 10 {
                return;
            }
            let head = input.take(4).unwrap().to_vec();
            let _ = conn.send(b"established");
            tunnel(conn, &others);
            let other = others.borrow()[&conn.id()];
            let _ = conn.other(other).unwrap().send(&head);
        }
        At::End(_) => panic!("a tunnel's end is not the handler's"),
        At::Open(_) | At::Room(_) | At::Close(_) => {}
        other => usual(other),
    });
    let client = stage.arrive();
    // So few that the end may come while some are kept, or many.
    let bytes = pattern(0, stage.rng.pick(&[50, 40_000]));
    client.send(&bytes);
    if stage.rng.one_in(2) {
        client.finish();
    }
    stage.settle();
    let upstream = stage.world.peer(stage.world.get().wires.len() - 1);
    assert!(upstream.got() == bytes, "{} B", upstream.got().len());
    assert_eq!(upstream.saw_fin(), client.wire().has_fin);
    upstream.send(b", and more");
    stage.settle();
    assert_eq!(client.got(), b"established, and more");
    stage.stop();
}

/// Its deadline makes a connection look for bytes, in the turn in which there is room again for those
/// that it has kept.
fn what_is_kept_goes_before_what_a_deadline_finds<D: Rig>(seed: u64) {
    let (mut stage, others) = proxy::<D>(seed, |limits| {
        limits.input_bytes_max = 1 << 20;
        limits.send_bytes_per_turn = 1 << 20; // so that the room is there in the same turn
        limits.idle_timeout = Some(Duration::from_millis(100));
    });
    with_room(&stage.world);
    stage.play(move |at| match at {
        At::Data(conn, input) if input.len() >= 50_000 => tunnel(conn, &others),
        At::Data(..) | At::Open(_) | At::Room(_) | At::Close(_) => {}
        other => usual(other),
    });
    let began = stage.world.get().now;
    stage.world.get().dials.push_back(Outcome::UpAt(began + 10));
    let client = stage.open();
    client.send(&pattern(0, 150_000));
    stage.settle();
    let upstream = stage.world.peer(stage.world.get().wires.len() - 1);
    upstream.reads(false);
    stage.advance(20);
    stage.world.at(began + 99 + seed % 6, {
        let upstream = upstream.clone();
        move |_| upstream.read(20_000)
    });
    stage.advance(90);
    upstream.reads(true);
    stage.settle();
    assert!(upstream.got() == pattern(0, 150_000));
    stage.stop();
}

fn a_reset_ends_both_and_its_pipe_is_not_lent_again<D: Rig>(seed: u64) {
    let (mut stage, _) = proxy::<D>(seed, |_| {});
    with_room(&stage.world);
    stage.world.get().fragments = Some(4096);
    let pairs: Vec<_> = (0..3).map(|_| open_pair(&mut stage)).collect();
    for (client, upstream) in &pairs {
        upstream.reads(false);
        client.send(&pattern(0, 120_000));
    }
    stage.settle();
    stage.world.get().fragments = None;
    let mut with_pipe = None;
    for _ in 0..100 {
        with_pipe = pairs.iter().position(|(_, upstream)| has_pipe(&mut stage, upstream));
        if with_pipe.is_some() {
            break;
        }
        pairs.iter().for_each(|(_, upstream)| upstream.read(1500));
        stage.settle();
    }
    let with_pipe = with_pipe.expect("of so much, something is in a pipe");
    let before = pipes_open(&stage);
    let (client, upstream) = &pairs[with_pipe];
    if stage.rng.one_in(2) {
        client.reset()
    } else {
        upstream.reset()
    }
    stage.settle();
    assert!(client.saw_reset() || upstream.saw_reset(), "the other one is reset too");
    assert!(pipes_open(&stage) < before, "a pipe with bytes of the dead is kept");
    // The others, and one that comes now, get their own bytes and no others.
    let (late, behind) = open_pair(&mut stage);
    late.send(&pattern(3, 100_000));
    stage.settle();
    assert!(behind.got() == pattern(3, 100_000));
    for (_, upstream) in pairs.iter().enumerate().filter(|(n, _)| *n != with_pipe).map(|(_, p)| p) {
        upstream.reads(true);
        stage.settle();
        assert!(upstream.got() == pattern(0, 120_000));
    }
    stage.stop();
}

fn a_failed_dial_resets_the_client<D: Rig>(seed: u64) {
    let (mut stage, _) = proxy::<D>(seed, |_| {});
    stage.world.get().dials.extend([Outcome::Refused, Outcome::Refused]);
    let client = stage.open();
    client.send(&pattern(0, 3000));
    stage.advance(1000);
    assert!(client.saw_reset());
    assert_eq!(stage.record(&client).closed, Some(CloseReason::Local));
    stage.stop();
}

fn without_a_free_pipe_all_is_copied<D: Rig>(seed: u64) {
    for is_refused in [true, false] {
        let (mut stage, _) =
            proxy::<D>(seed, |limits| limits.pipes_max = if is_refused { 9 } else { 0 });
        with_room(&stage.world);
        stage.world.get().faults.pipe.extend([libc::EMFILE; 3]);
        let (client, upstream) = open_pair(&mut stage);
        client.send(&pattern(0, 100_000));
        upstream.send(&pattern(5, 100_000));
        stage.settle();
        assert!(upstream.got() == pattern(0, 100_000) && client.got() == pattern(5, 100_000));
        assert_eq!((spliced(&stage), pipes_open(&stage)), (0, 0));
        assert!(stage.count(Counter::PipesMissing) > 0, "and nobody is told");
        stage.stop();
    }
}

fn pipes_come_back_and_are_few<D: Rig>(seed: u64) {
    let (mut stage, _) = proxy::<D>(seed, |limits| limits.pipes_max = 2);
    with_room(&stage.world);
    let pairs: Vec<_> = (0..5).map(|_| open_pair(&mut stage)).collect();
    for round in 0..3 {
        for (client, upstream) in &pairs {
            upstream.reads(false);
            client.send(&pattern(round, 60_000));
        }
        stage.settle();
        assert!((1..=2).contains(&pipes_open(&stage)), "{}", pipes_open(&stage));
        pairs.iter().for_each(|(_, upstream)| upstream.reads(true));
        stage.settle();
    }
    for (_, upstream) in &pairs {
        assert!(upstream.got() == [0, 1, 2].map(|round| pattern(round, 60_000)).concat());
    }
    assert!(stage.world.get().counts.pipes <= 2, "they are lent again, not made again");
    assert!(spliced(&stage) > 0 && stage.count(Counter::PipesMissing) > 0);
    stage.stop();
}

fn given_back_to_the_handler_it_is_a_pair<D: Rig>(seed: u64) {
    let (mut stage, others) = proxy::<D>(seed, |_| {});
    with_room(&stage.world);
    let (client, upstream) = open_pair(&mut stage);
    upstream.reads(false);
    client.send(&pattern(0, 100_000));
    stage.settle();
    let id = stage.id(&client);
    stage.play(move |at| match at {
        At::Message(here, _) => {
            let other = others.borrow()[&id];
            assert!(here.connection(id).unwrap().pair_with(other));
        }
        At::Data(conn, input) => {
            let other = others.borrow()[&conn.id()];
            let _ = conn.other(other).unwrap().send(input.take_all());
        }
        At::End(_) | At::Close(_) | At::Room(_) => {}
        other => usual(other),
    });
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    let before = spliced(&stage);
    upstream.reads(true);
    stage.settle();
    client.send(&pattern(1, 50_000));
    stage.settle();
    assert!(upstream.got() == [pattern(0, 100_000), pattern(1, 50_000)].concat());
    assert!(stage.record(&client).data_bytes >= 50_000 && spliced(&stage) == before);
    stage.stop();
}

fn a_close_by_the_handler_passes<D: Rig>(seed: u64) {
    let (mut stage, _) = proxy::<D>(seed, |_| {});
    let (client, upstream) = open_pair(&mut stage);
    let id = stage.id(&client);
    client.send(&pattern(0, 5000));
    stage.settle();
    stage.handle().close(id).unwrap();
    stage.settle();
    client.finish();
    stage.settle();
    assert!(client.saw_fin() && upstream.saw_fin() && !upstream.saw_reset());
    assert!(upstream.got() == pattern(0, 5000));
    upstream.finish();
    stage.settle();
    assert_eq!(stage.world.get().sockets.len(), 0);
    stage.stop();
}

/// Peers, and now and then the handler, do whatever they may. What arrives is the beginning of what
/// was sent, all of it unless something failed; and nothing is left over.
fn whatever_comes_and_ends_the_books_balance<D: Rig>(seed: u64) {
    let (mut stage, _) = proxy::<D>(seed, |limits| {
        limits.pipes_max = 2;
        limits.idle_timeout = seed.is_multiple_of(3).then(|| Duration::from_millis(300));
    });
    if !seed.is_multiple_of(4) {
        with_room(&stage.world);
    }
    let mut sides: Vec<(Peer, Peer)> = Vec::new();
    let mut sent: HashMap<usize, Vec<u8>> = HashMap::new();
    for _ in 0..400 {
        if sides.len() < 6 {
            let pair = open_pair(&mut stage);
            sides.push(pair);
        }
        let (a, b) = &sides[stage.rng.below(sides.len())];
        let peer = if stage.rng.one_in(2) { a } else { b };
        match stage.rng.below(30) {
            0..12 => {
                let (from, len) = (stage.rng.below(999), stage.rng.pick(&[1, 100, 9000, 40_000]));
                let bytes = pattern(from, len);
                let may_send = !peer.wire().is_gone && !peer.wire().saw_reset;
                if may_send && !peer.wire().has_fin && peer.wire().coming.is_empty() {
                    peer.send(&bytes);
                    sent.entry(peer.wire).or_default().extend(bytes);
                }
            }
            12..15 => peer.reads(false),
            15..18 => peer.reads(true),
            18..22 => peer.read(stage.rng.below(9000)),
            22 if stage.rng.one_in(4) => peer.finish(),
            23 if stage.rng.one_in(6) => peer.reset(),
            24 if stage.rng.one_in(6) => peer.leave(),
            25 => peer.send_urgent(),
            26 if stage.rng.one_in(8) => {
                stage.world.get().faults.send.push_back(libc::EPIPE);
            }
            27 if stage.rng.one_in(8) => {
                let id = stage.id(a);
                let _ = stage.handle().close(id);
            }
            28 => {
                let ms = stage.rng.below(20) as u64;
                stage.advance(ms);
            }
            _ => stage.turn(),
        }
    }
    stage.world.get().faults.send.clear();
    sides.iter().for_each(|(a, b)| [a, b].into_iter().for_each(|peer| peer.reads(true)));
    stage.settle();
    for (a, b) in &sides {
        for (from, to) in [(a, b), (b, a)] {
            let sent = sent.get(&from.wire).cloned().unwrap_or_default();
            assert!(sent.starts_with(&to.got()), "bytes that were not sent, or not so");
            let both_live = from.wire().token.is_some() && to.wire().token.is_some();
            let is_open = |peer: &Peer| !peer.wire().is_gone && !peer.wire().has_sent_fin;
            if both_live && is_open(from) && is_open(to) {
                assert!(to.got() == sent, "{} of {} B", to.got().len(), sent.len());
            }
        }
    }
    stage.settle();
    let is_called = |r: &super::actor::Record| r.calls.contains(&Callback::Data);
    assert!(!stage.log.get().records.iter().any(is_called));
    assert!(pipes_open(&stage) <= 2);
    stage.stop();
}
