//! Bytes in, bytes out: all of them, once, in order, and nobody at another's cost.

use super::actor::Actor;
use super::{At, Rig, Rng, Stage, on_both_rigs, pattern, usual};
use crate::api::conn::Conn;
use crate::connection::outbox::SendOutcome;
use bytes::Bytes;
use net_buffer::{Input, LengthPrefix};
use std::cell::RefCell;
use std::rc::Rc;

on_both_rigs! {
    what_is_sent_comes_back: 60,
    every_mixture_of_sends_keeps_the_order: 100,
    a_slow_reader_gets_every_byte_once: 60,
    a_burst_and_then_silence_is_echoed: 20,
    what_a_message_leaves_is_sent_without_another_event: 20,
    many_small_sends_to_a_blocked_peer_come_in_order: 10,
    an_empty_send_is_taken_and_is_nothing: 5,
    a_line_cut_anywhere_is_one_line: 40,
    a_broadcast_reaches_everyone_in_order: 20,
    a_firehose_gets_its_budget_and_no_more_per_turn: 20,
    firehoses_share_a_turn_and_take_turns_in_rows: 20,
    a_sender_gets_its_budget_and_no_more_per_turn: 10,
    neighbours_of_a_firehose_are_served_in_the_same_turn: 20,
    the_same_seed_gives_the_same_run: 5,
}

fn what_is_sent_comes_back<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peers: Vec<_> = (0..5).map(|_| stage.arrive()).collect();
    let mut sent = vec![0; peers.len()];
    for _ in 0..200 {
        let k = stage.rng.below(peers.len());
        let len = stage.rng.pick(&[1, 10, 100, 5000]);
        peers[k].send(&pattern(sent[k], len));
        sent[k] += len;
        (0..stage.rng.below(3)).for_each(|_| stage.turn());
    }
    stage.settle();
    for (peer, sent) in peers.iter().zip(sent) {
        assert!(peer.got() == pattern(0, sent), "wire {}", peer.wire);
    }
    stage.stop();
}

const FRAMES: LengthPrefix = LengthPrefix::u32_be(1 << 16);

/// Sends the input back in pieces, each by another way, and a word of its own between them.
fn mix(conn: &mut Conn<'_, Actor>, input: &mut Input<'_>, rng: &mut Rng, owed: &RefCell<Vec<u8>>) {
    while !input.is_empty() {
        let piece = input.peek()[..rng.within(1, input.len())].to_vec();
        let queued = match rng.below(7) {
            0 => {
                input.consume(piece.len());
                let length = u32::try_from(piece.len()).expect("a small piece").to_be_bytes();
                owed.borrow_mut().extend(length);
                conn.send_frame(&FRAMES, Bytes::from(piece.clone())).expect("a small piece")
            }
            1 => {
                input.consume(piece.len());
                conn.send(&piece)
            }
            2 => {
                input.consume(piece.len());
                conn.send_shared(Bytes::from(piece.clone()))
            }
            3 => {
                owed.borrow_mut().extend(input.peek());
                assert!(conn.echo(input).is_taken());
                continue;
            }
            4 => {
                owed.borrow_mut().extend(b"<between>");
                assert!(conn.send(b"<between>").is_taken());
                continue;
            }
            5 => {
                assert!(conn.send_frame(&FRAMES, Bytes::from(vec![0; 1 << 17])).is_err());
                continue; // and nothing of it is sent
            }
            _ => return, // the rest another time
        };
        assert!(queued.is_taken());
        owed.borrow_mut().extend(piece);
    }
    if rng.one_in(2) {
        owed.borrow_mut().extend(b"<after>");
        assert!(conn.send_shared(Bytes::from_static(b"<after>")).is_taken());
    }
}

fn every_mixture_of_sends_keeps_the_order<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.output_limit = 1 << 24);
    let peer = stage.open();
    let owed = Rc::new(RefCell::new(Vec::new()));
    let (mut rng, cpu_accounting) = (Rng::new(seed + 1), Rc::clone(&owed));
    stage.play(move |at| match at {
        At::Data(conn, input) => mix(conn, input, &mut rng, &cpu_accounting),
        other => usual(other),
    });
    for _ in 0..100 {
        let len = stage.rng.pick(&[1, 30, 700]);
        peer.send(&pattern(0, len));
        match stage.rng.below(6) {
            0 => peer.reads(false),
            1 => peer.reads(true),
            2 => peer.read(100),
            3 => stage.settle(),
            _ => stage.turn(),
        }
    }
    peer.reads(true);
    stage.settle();
    assert!(peer.got() == *owed.borrow());
    stage.stop();
}

fn a_slow_reader_gets_every_byte_once<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.world.get().buffers = (300, 100);
    let peer = stage.open();
    peer.reads(false);
    let mut sent = 0;
    while peer.got().len() < 20_000 {
        let len = stage.rng.within(1, 400);
        if sent < 20_000 {
            peer.send(&pattern(sent, len));
            sent += len;
        }
        let most = stage.rng.below(500);
        peer.read(most);
        if stage.rng.one_in(3) { stage.settle() } else { stage.turn() }
    }
    peer.reads(true);
    stage.settle();
    assert!(peer.got() == pattern(0, sent));
    stage.stop();
}

pub(super) fn a_burst_and_then_silence_is_echoed<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.receive_bytes_per_turn = 4096);
    stage.world.get().buffers = (1 << 20, 1 << 20);
    let peer = stage.open();
    let burst = pattern(0, 1 << 20);
    peer.send(&burst);
    stage.settle();
    assert!(peer.got() == burst);
    stage.stop();
}

fn what_a_message_leaves_is_sent_without_another_event<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peers = [stage.open(), stage.open(), stage.open()];
    let ids = [stage.id(&peers[0]), stage.id(&peers[1]), stage.id(&peers[2])];
    stage.play(move |at| match at {
        At::Message(here, 1) => {
            let _ = here.connection(ids[0]).unwrap().send(b"copied");
            let _ = here.connection(ids[1]).unwrap().send_shared(Bytes::from(vec![b'x'; 3000]));
            here.connection(ids[2]).unwrap().close();
        }
        other => usual(other),
    });
    stage.handle().post(0, 1).unwrap();
    stage.settle();
    assert_eq!(peers[0].got(), b"copied");
    assert_eq!(peers[1].got().len(), 3000);
    assert!(peers[2].saw_fin(), "a FIN that waits for the next event");
    stage.handle().send(ids[0], &b" and mailed"[..]).unwrap();
    stage.handle().close(ids[1]).unwrap();
    stage.settle();
    assert_eq!(peers[0].got(), b"copied and mailed");
    assert!(peers[1].saw_fin());
    stage.stop();
}

fn many_small_sends_to_a_blocked_peer_come_in_order<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peer = stage.open();
    let id = stage.id(&peer);
    peer.reads(false);
    stage.play(move |at| match at {
        At::Message(here, n) => {
            let mut conn = here.connection(id).unwrap();
            for k in 0..500 {
                let byte = pattern((n * 500 + k) as usize, 1);
                let queued =
                    if k % 7 == 0 { conn.send_shared(Bytes::from(byte)) } else { conn.send(&byte) };
                assert!(queued.is_taken());
            }
        }
        other => usual(other),
    });
    for n in 0..10 {
        stage.handle().post(0, n).unwrap();
        stage.settle();
    }
    peer.reads(true);
    stage.settle();
    assert!(peer.got() == pattern(0, 5000));
    stage.stop();
}

fn an_empty_send_is_taken_and_is_nothing<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Data(conn, input) => {
            assert_eq!(conn.send(b""), SendOutcome::Queued);
            assert_eq!(conn.send_shared(Bytes::new()), SendOutcome::Queued);
            input.take_all();
            assert_eq!(conn.echo(input), SendOutcome::Queued);
            assert_eq!(conn.unsent(), 0);
        }
        other => usual(other),
    });
    let peer = stage.open();
    peer.send(b"x");
    stage.settle();
    assert_eq!(peer.got(), b"");
    stage.stop();
}

fn a_line_cut_anywhere_is_one_line<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Data(conn, input) => {
            while let Some(line) = input.take_line() {
                let _ = conn.send(&[line, b"|"].concat());
            }
        }
        other => usual(other),
    });
    let peer = stage.open();
    let text: Vec<u8> =
        (0..200).flat_map(|n| format!("line {n}{}\n", "x".repeat(n)).into_bytes()).collect();
    let mut at = 0;
    while at < text.len() {
        let end = (at + stage.rng.within(1, 300)).min(text.len());
        peer.send(&text[at..end]);
        at = end;
        if stage.rng.one_in(2) {
            stage.turn();
        }
    }
    stage.settle();
    let expected: Vec<u8> = text.iter().map(|b| if *b == b'\n' { b'|' } else { *b }).collect();
    assert!(peer.got() == expected);
    stage.stop();
}

fn a_broadcast_reaches_everyone_in_order<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Data(conn, input) => {
            let said = input.take_all().to_vec();
            conn.others(|other| assert!(other.send(&said).is_taken()));
        }
        other => usual(other),
    });
    let peers: Vec<_> = (0..20).map(|_| stage.open()).collect();
    for round in 0..30 {
        for peer in &peers {
            peer.send(&[round; 3]);
        }
        stage.settle();
    }
    for peer in &peers {
        let expected: Vec<u8> = (0..30).flat_map(|round| vec![round; 3 * 19]).collect();
        assert!(peer.got() == expected);
    }
    stage.stop();
}

fn a_firehose_gets_its_budget_and_no_more_per_turn<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.receive_bytes_per_turn = 500);
    stage.world.get().buffers = (5000, 1 << 20);
    let block = stage.limits().receive_block_bytes;
    let peer = stage.open();
    for _ in 0..100 {
        peer.send(&pattern(0, 3000));
        let before = stage.record(&peer).data_bytes;
        stage.turn();
        let got = stage.record(&peer).data_bytes - before;
        assert!(got <= block.max(500), "{got} bytes in one turn");
    }
    stage.settle();
    assert_eq!(peer.got().len(), 300_000);
    stage.stop();
}

/// However many have more to receive, together they take no more of a turn than one; and each
/// gets its row, one after the other.
fn firehoses_share_a_turn_and_take_turns_in_rows<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.receive_block_bytes = 500;
        limits.receive_bytes_per_turn = 500;
        limits.receive_bytes_in_a_row = 2000;
    });
    stage.world.get().buffers = (1 << 16, 1 << 20);
    let peers: Vec<_> = (0..10).map(|_| stage.open()).collect();
    let all = pattern(0, 60_000);
    peers.iter().for_each(|peer| peer.send(&all));
    while stage.event_loop.state.ready.len() < peers.len() {
        stage.turn(); // until each has had its event
    }
    let received = |stage: &Stage<D>| -> Vec<_> {
        peers.iter().map(|peer| stage.record(peer).data_bytes).collect()
    };
    let before: usize = received(&stage).iter().sum();
    for _ in 0..60 {
        stage.turn();
        let (most, least) =
            (received(&stage).into_iter().max(), received(&stage).into_iter().min());
        assert!(most <= least.map(|least| least + 3 * 2000), "one is far ahead of another");
    }
    // Alone each would have had 500 a turn; some had an event besides.
    let together = received(&stage).iter().sum::<usize>() - before;
    assert!(together <= 60 * 3 * 500, "{together} bytes in 60 turns");
    stage.settle();
    peers.iter().for_each(|peer| assert!(peer.got() == all));
    stage.stop();
}

pub(super) fn a_sender_gets_its_budget_and_no_more_per_turn<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.send_bytes_per_turn = 500;
        limits.high_watermark = 1 << 19;
    });
    stage.world.get().buffers = (1 << 20, 1 << 20);
    stage.world.get().faults.short_sends = false;
    let peer = stage.open();
    stage.play(|at| match at {
        At::Data(conn, input) => {
            if input.take_all()[0] == b'!' {
                let _ = conn.send_shared(Bytes::from(vec![3; 100_000]));
            }
        }
        other => usual(other),
    });
    peer.send(b"!");
    let mut most = 2 * 500; // once when its callback has returned, and once at the turn's end
    for _ in 0..100 {
        let before = peer.got().len();
        peer.send(b"."); // an event, with room beside it
        stage.turn();
        stage.world.get().flow();
        let got = peer.got().len() - before;
        assert!(got <= most, "{got} bytes in one turn");
        if got > 0 {
            most = 500;
        }
    }
    stage.settle();
    assert_eq!(peer.got().len(), 100_000);
    stage.stop();
}

fn neighbours_of_a_firehose_are_served_in_the_same_turn<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.receive_bytes_per_turn = 500);
    stage.world.get().buffers = (1 << 16, 1 << 20);
    let firehose = stage.open();
    let others: Vec<_> = (0..10).map(|_| stage.open()).collect();
    firehose.send(&pattern(0, 1 << 20));
    for round in 1..20 {
        others.iter().for_each(|peer| peer.send(b"ping"));
        // A signal may be late and a batch small; but each round takes few turns.
        let mut turns = 0;
        while others.iter().any(|peer| peer.got().len() < round * 4) {
            stage.turn();
            stage.world.get().flow();
            turns += 1;
            assert!(turns < 60, "neighbours starve");
        }
    }
    assert!(firehose.got().len() < 1 << 20, "the firehose was served first");
    stage.settle();
    assert_eq!(firehose.got().len(), 1 << 20);
    stage.stop();
}

fn the_same_seed_gives_the_same_run<D: Rig>(seed: u64) {
    let run = || {
        let mut stage = Stage::<D>::new(seed);
        let peer = stage.open();
        for _ in 0..20 {
            peer.send(&pattern(0, 700));
            stage.turn();
        }
        stage.settle();
        let counts = stage.world.get().counts;
        stage.stop();
        counts
    };
    assert_eq!(run(), run());
}
