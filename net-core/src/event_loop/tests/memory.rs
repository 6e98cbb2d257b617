//! The memory budget: below its marks, at them, and above; and who pays for it.

use super::{At, Peer, Rig, Stage, on_both_rigs, pattern, usual};
use crate::base::close_reason::CloseReason;
use crate::config::limits::Limits;
use crate::config::policy::OverflowPolicy;
use crate::connection::outbox::SendOutcome;
use crate::features::broadcast::Broadcast;
use crate::observe::counters::Counter;
use crate::threads::mailbox::PostError;
use bytes::Bytes;
use net_buffer::{FileRange, LengthPrefix};
use std::cell::Cell;
use std::rc::Rc;

on_both_rigs! {
    below_and_at_the_marks_nobody_is_held_back_or_shed: 10,
    the_most_expensive_goes_first: 20,
    never_readers_stay_within_the_share_in_every_turn: 10,
    messages_that_never_end_stay_within_the_share: 10,
    while_memory_is_tight_whoever_owes_is_not_read: 20,
    one_callback_cannot_queue_more_than_the_share: 20,
    counted_payloads_count_and_are_shed: 10,
    who_is_sent_a_file_is_not_the_most_expensive: 10,
    a_half_closed_one_that_is_shed_is_told_so: 10,
    when_memory_is_no_longer_tight_whoever_was_held_goes_on: 20,
    counted_payloads_of_one_callback_stay_within_the_share: 20,
    what_the_share_has_no_room_for_is_dropped_where_a_policy_says_so: 20,
    what_a_message_takes_beside_its_bytes_counts: 2,
    a_payload_owed_to_many_counts_once: 2,
    a_policy_comes_before_a_reset: 2,
    what_waits_for_a_loop_by_mail_is_bounded_in_bytes_too: 3,
}

const BLOCK: usize = 4096;

/// A loop with a budget of so many blocks, whose kernel takes next to nothing.
fn tight<D: Rig>(seed: u64, blocks: usize, change: impl FnOnce(&mut Limits)) -> Stage<D> {
    let stage = Stage::<D>::with(seed, |limits| {
        limits.memory_budget = Some(blocks * BLOCK);
        limits.pool_retain_bytes = 0;
        (limits.high_watermark, limits.low_watermark) = (BLOCK, 1024);
        change(limits);
    });
    stage.world.get().buffers = (100, 100);
    stage
}

fn memory<D: Rig>(stage: &Stage<D>) -> usize {
    stage.event_loop.state.outbox.pool.memory()
}

fn is_tight<D: Rig>(stage: &Stage<D>) -> bool {
    stage.event_loop.state.outbox.low_watermark() == 0
}

/// A client that does not read the block's worth that it is sent.
fn owed_a_block<D: Rig>(stage: &mut Stage<D>) -> Peer {
    let peer = stage.open();
    peer.reads(false);
    peer.send(b"x");
    stage.settle();
    peer
}

fn below_and_at_the_marks_nobody_is_held_back_or_shed<D: Rig>(seed: u64) {
    let mut stage = tight::<D>(seed, 16, |_| {});
    stage.play(|at| {
        if let At::Data(conn, input) = at {
            input.take_all();
            let _ = conn.send(&[7; 3000]);
        }
    });
    let mut peers: Vec<_> = (0..12).map(|_| owed_a_block(&mut stage)).collect();
    assert_eq!((memory(&stage), is_tight(&stage)), (12 * BLOCK, false), "at the soft mark");
    assert_eq!(stage.count(Counter::Buffered), (12 * BLOCK) as u64);
    peers.push(owed_a_block(&mut stage));
    assert_eq!((memory(&stage), is_tight(&stage)), (13 * BLOCK, true), "above it");
    peers.push(owed_a_block(&mut stage));
    assert_eq!(stage.snapshot().closed_by(CloseReason::MemoryBudget), 0, "at the hard mark");
    assert_eq!(memory(&stage), 14 * BLOCK);
    peers.push(owed_a_block(&mut stage));
    assert_eq!(stage.snapshot().closed_by(CloseReason::MemoryBudget), 1, "above it");
    assert_eq!(memory(&stage), 14 * BLOCK);
    assert_eq!(peers.iter().filter(|peer| peer.saw_reset()).count(), 1);
    // Somebody reads, and it is as before.
    for peer in peers.iter().filter(|peer| !peer.saw_reset()).take(3) {
        peer.reads(true);
        stage.settle();
    }
    assert_eq!((memory(&stage), is_tight(&stage)), (11 * BLOCK, false));
    assert_eq!(stage.count(Counter::Buffered), (11 * BLOCK) as u64);
    stage.stop();
}

fn the_most_expensive_goes_first<D: Rig>(seed: u64) {
    let mut stage = tight::<D>(seed, 32, |limits| limits.high_watermark = 1 << 20);
    stage.play(|at| {
        if let At::Data(conn, input) = at {
            let blocks = usize::from(input.take_all()[0]);
            let _ = conn.send(&vec![7; blocks * BLOCK]);
        }
    });
    let mut owed = |blocks: u8| {
        let peer = stage.open();
        peer.reads(false);
        peer.send(&[blocks]);
        stage.settle();
        peer
    };
    // 4 KiB, 16 KiB and 64 KiB: 21 blocks of 28, and then one of 16 KiB more, twice.
    let (small, middle, large) = (owed(1), owed(4), owed(14));
    let more = [owed(4), owed(4)];
    assert!(large.saw_reset());
    assert!(![&small, &middle, &more[0], &more[1]].iter().any(|peer| peer.saw_reset()));
    assert_eq!(stage.record(&large).closed, Some(CloseReason::MemoryBudget));
    stage.stop();
}

fn never_readers_stay_within_the_share_in_every_turn<D: Rig>(seed: u64) {
    let blocks = 64;
    let mut stage = tight::<D>(seed, blocks, |limits| limits.pool_retain_bytes = 1 << 20);
    // Of what the honest one is sent, nothing stays here.
    stage.world.get().faults.short_sends = false;
    let honest = stage.open();
    let mut hostile = Vec::new();
    let mut said = Vec::new();
    for round in 0..200 {
        let peer = stage.arrive();
        peer.reads(false);
        hostile.push(peer);
        let at = stage.rng.below(hostile.len());
        hostile[at].send(&pattern(0, stage.rng.within(1, 20_000)));
        let words = pattern(round, 50);
        honest.send(&words);
        said.extend(words);
        for _ in 0..stage.rng.within(1, 10) {
            stage.turn();
            assert!(memory(&stage) <= blocks * BLOCK, "{} bytes", memory(&stage));
        }
    }
    stage.settle();
    assert!(honest.got() == said, "the honest one is served all the time");
    let snapshot = stage.snapshot();
    assert!(snapshot.closed_by(CloseReason::MemoryBudget) > 0, "{snapshot}");
    assert!(snapshot.is_balanced(), "{snapshot}");
    stage.stop();
}

fn messages_that_never_end_stay_within_the_share<D: Rig>(seed: u64) {
    let blocks = 64;
    let mut stage = tight::<D>(seed, blocks, |_| {});
    stage.play(|_| {}); // takes nothing
    let peers: Vec<_> = (0..50).map(|_| stage.open()).collect();
    for _ in 0..30 {
        for peer in peers.iter().filter(|peer| !peer.saw_reset()) {
            peer.send(&pattern(0, stage.rng.within(1, 1000)));
        }
        stage.settle();
        assert!(memory(&stage) <= blocks * BLOCK, "{} bytes", memory(&stage));
    }
    let shed = stage.snapshot().closed_by(CloseReason::MemoryBudget);
    assert!(shed > 0 && shed < 50, "{shed} were shed");
    stage.stop();
}

fn while_memory_is_tight_whoever_owes_is_not_read<D: Rig>(seed: u64) {
    let mut stage = tight::<D>(seed, 32, |_| {});
    let heard = Rc::new(Cell::new(0));
    let hears = Rc::clone(&heard);
    stage.play(move |at| {
        if let At::Data(conn, input) = at {
            match input.take_all()[0] {
                b'x' => _ = conn.send(&[7; 3000]),
                _ => {
                    hears.set(hears.get() + 1);
                    let queued = conn.send(&[7; 300]);
                    assert_ne!(queued, SendOutcome::Refused);
                }
            }
        }
    });
    let peers: Vec<_> = (0..25).map(|_| owed_a_block(&mut stage)).collect();
    assert!(is_tight(&stage));
    let slow = stage.open();
    slow.reads(false);
    // The first answer fits in no buffer; so the second question is not read.
    for question in 1..=3 {
        slow.send(b"?");
        stage.settle();
        assert_eq!(heard.get(), 1, "question {question}");
    }
    // One who owes nothing is.
    let prompt = stage.open();
    prompt.send(b"?");
    stage.settle();
    assert_eq!((heard.get(), prompt.got().len()), (2, 300));
    slow.reads(true);
    stage.settle();
    assert!(heard.get() >= 3, "who has read is read again");
    peers.iter().for_each(|peer| peer.reset());
    stage.settle();
    assert!(!is_tight(&stage));
    stage.stop();
}

fn one_callback_cannot_queue_more_than_the_share<D: Rig>(seed: u64) {
    let blocks = 64;
    let mut stage = tight::<D>(seed, blocks, |limits| {
        limits.high_watermark = 1 << 20;
        limits.output_limit = 10 << 20;
    });
    let most = Rc::new(Cell::new(0));
    let queued = Rc::clone(&most);
    stage.play(move |at| {
        if let At::Data(conn, input) = at {
            input.take_all();
            let mut taken = 0;
            while conn.send(&[7; 1000]).is_taken() {
                taken += 1000;
            }
            queued.set(taken);
        }
    });
    let peer = stage.open();
    peer.send(b"x");
    stage.settle();
    assert!((100_000..blocks * BLOCK).contains(&most.get()), "{} were queued", most.get());
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::MemoryBudget));
    assert_eq!(memory(&stage), 0);
    stage.stop();
}

fn counted_payloads_count_and_are_shed<D: Rig>(seed: u64) {
    let mut stage = tight::<D>(seed, 16, |_| {});
    stage.play(|at| {
        if let At::Data(conn, input) = at {
            input.take_all();
            let _ = conn.send_shared(vec![7; 3 * BLOCK].into());
        }
    });
    for n in 0..10 {
        owed_a_block(&mut stage);
        let shed = stage.snapshot().closed_by(CloseReason::MemoryBudget);
        assert!(memory(&stage) <= 14 * BLOCK, "{} bytes", memory(&stage));
        assert_eq!(shed > 0, n >= 4, "of 12 KiB each, four are below 56 KiB");
    }
    stage.stop();
}

/// A megabyte that lies in a file takes no memory, and was taken for the largest queue of all.
fn who_is_sent_a_file_is_not_the_most_expensive<D: Rig>(seed: u64) {
    let mut stage = tight::<D>(seed, 16, |_| {});
    let own = std::env::current_exe().unwrap();
    let range = FileRange::new(std::fs::File::open(own).unwrap(), 0, 1 << 20);
    stage.play(move |at| {
        if let At::Data(conn, input) = at {
            let _ = match input.take_all()[0] {
                b'f' => conn.send_file(range.clone()),
                _ => conn.send(&[7; 3000]),
            };
        }
    });
    let download = stage.open();
    download.reads(false);
    download.send(b"f");
    stage.settle();
    (0..20).for_each(|_| _ = owed_a_block(&mut stage));
    assert!(stage.snapshot().closed_by(CloseReason::MemoryBudget) >= 6);
    assert!(!download.saw_reset(), "it owes nothing to memory");
    stage.stop();
}

/// That its peer had ended before is not the news: bytes were lost.
fn a_half_closed_one_that_is_shed_is_told_so<D: Rig>(seed: u64) {
    let mut stage = tight::<D>(seed, 16, |_| {});
    stage.play(|at| match at {
        At::Data(conn, input) => {
            input.take_all();
            let _ = conn.send(&[7; 3000]);
        }
        At::End(conn) => conn.finish(),
        _ => {}
    });
    let mut peers = Vec::new();
    for _ in 0..30 {
        let peer = owed_a_block(&mut stage);
        peer.finish();
        stage.settle();
        peers.push(peer);
    }
    let shed = peers.iter().filter(|peer| peer.saw_reset()).count() as u64;
    assert!(shed > 10, "{shed}");
    assert_eq!(stage.snapshot().closed_by(CloseReason::MemoryBudget), shed);
    stage.stop();
}

/// Nothing of its own output need fall for it.
fn when_memory_is_no_longer_tight_whoever_was_held_goes_on<D: Rig>(seed: u64) {
    let mut stage = tight::<D>(seed, 32, |limits| {
        (limits.high_watermark, limits.low_watermark) = (2 * BLOCK, BLOCK);
    });
    let heard = Rc::new(Cell::new(0));
    let hears = Rc::clone(&heard);
    stage.play(move |at| {
        if let At::Data(conn, input) = at {
            let is_question = input.take_all()[0] == b'?';
            hears.set(hears.get() + u32::from(is_question));
            let _ = conn.send(&[7; 3000][..if is_question { 1000 } else { 3000 }]);
        }
    });
    let others: Vec<_> = (0..25).map(|_| owed_a_block(&mut stage)).collect();
    assert!(is_tight(&stage));
    let slow = stage.open();
    slow.reads(false);
    for _ in 0..2 {
        slow.send(b"?");
        stage.settle();
    }
    assert_eq!(heard.get(), 1, "it owes something, and is held");
    others.iter().for_each(Peer::reset);
    stage.settle();
    assert!(!is_tight(&stage));
    assert_eq!(heard.get(), 2);
    slow.send(b"?");
    stage.settle();
    assert_eq!(heard.get(), 3);
    stage.stop();
}

fn counted_payloads_of_one_callback_stay_within_the_share<D: Rig>(seed: u64) {
    let mut stage = tight::<D>(seed, 16, |_| {});
    let peers: Vec<_> = (0..40).map(|_| stage.open()).collect();
    peers.iter().for_each(|peer| peer.reads(false));
    stage.settle();
    let ids: Vec<_> = peers.iter().map(|peer| stage.id(peer)).collect();
    let most = Rc::new(Cell::new(0));
    let taken = Rc::clone(&most);
    stage.play(move |at| {
        if let At::Data(conn, input) = at {
            input.take_all();
            for id in &ids {
                let payload = vec![7; 5_000].into();
                let sent = conn.other(*id).map(|mut other| other.send_shared(payload));
                taken.set(taken.get() + 5_000 * usize::from(sent.is_some_and(|s| s.is_taken())));
            }
        }
    });
    peers[0].send(b"x");
    stage.settle();
    assert!((8 * BLOCK..=16 * BLOCK).contains(&most.get()), "{}", most.get());
    assert!(stage.snapshot().closed_by(CloseReason::MemoryBudget) > 0);
    stage.stop();
}

fn what_the_share_has_no_room_for_is_dropped_where_a_policy_says_so<D: Rig>(seed: u64) {
    let blocks = 64;
    for policy in
        [OverflowPolicy::DropNewest, OverflowPolicy::DropOldest, OverflowPolicy::Conflate(7)]
    {
        let mut stage = tight::<D>(seed, blocks, |limits| {
            limits.high_watermark = 1 << 20;
            limits.output_limit = 10 << 20;
        });
        let dropped = Rc::new(Cell::new(0));
        let drops = Rc::clone(&dropped);
        stage.play(move |at| {
            let At::Data(conn, input) = at else { return usual(at) };
            input.take_all();
            for n in 0..100u8 {
                // With one key for all of them, each longer one takes the place of the last.
                let len = if policy == OverflowPolicy::Conflate(7) {
                    8000 * usize::from(n)
                } else {
                    8000
                };
                let queued = conn.send_with(vec![n; len.max(1)], policy);
                assert_ne!(queued, SendOutcome::Refused, "message {n}");
                drops.set(drops.get() + u32::from(queued == SendOutcome::Dropped));
            }
        });
        let peer = owed_a_block(&mut stage);
        // Below the mark at which it would be reset for them.
        let fit = (blocks * BLOCK / 16 * 13 / 8000) as u32;
        let expected = match policy {
            OverflowPolicy::DropOldest => 0, // older ones go for each
            // Before it there is what it replaces.
            OverflowPolicy::Conflate(_) => 100 - 1 - fit,
            _ => 100 - fit,
        };
        assert_eq!(dropped.get(), expected, "{policy:?}");
        assert!(memory(&stage) <= blocks * BLOCK, "{policy:?}: {} bytes", memory(&stage));
        assert_eq!(stage.record(&peer).closed, None, "{policy:?}");
        stage.stop();
    }
}

/// Of one-byte messages a share of 8 MiB took a gibibyte: their bytes were counted, and not the list, the
/// box and the count of references of each. Files and marks were in no count at all, nor frames of nothing.
fn what_a_message_takes_beside_its_bytes_counts<D: Rig>(seed: u64) {
    let (blocks, share) = (64, 64 * BLOCK);
    let own = std::env::current_exe().unwrap();
    let range = FileRange::new(std::fs::File::open(own).unwrap(), 0, 1);
    for kind in 0..8 {
        let mut stage = tight::<D>(seed, blocks, |limits| {
            limits.high_watermark = 1 << 20;
            limits.output_limit = 10 << 20;
        });
        let taken = Rc::new(Cell::new(0));
        let (takes, range) = (Rc::clone(&taken), range.clone());
        stage.play(move |at| {
            let At::Data(conn, input) = at else { return usual(at) };
            input.take_all();
            let _ = conn.send(&[7; 500]); // the kernel's buffers are full
            for n in 0..20_000_u64 {
                let queued = match kind {
                    0 => conn.send_with(vec![1], OverflowPolicy::DropOldest),
                    1 => conn.send_with(vec![1; 90], OverflowPolicy::DropOldest),
                    // (It is looked for among all: not as many.)
                    2 if n < 4000 => conn.send_with(vec![1], OverflowPolicy::Conflate(n)),
                    2 => break,
                    3 => conn.send_file(range.clone()),
                    4 => conn.send_frame(&LengthPrefix::u8(9), Bytes::new()).unwrap(),
                    5 => conn.send_shared(vec![1; 150].into()),
                    6 => conn.send_frame(&LengthPrefix::u32_be(999), vec![1; 150].into()).unwrap(),
                    _ => {
                        conn.notify_sent(n);
                        if conn.is_open() { SendOutcome::Queued } else { SendOutcome::Refused }
                    }
                };
                takes.set(takes.get() + usize::from(queued.is_taken()));
                if queued == SendOutcome::Refused {
                    break;
                }
            }
        });
        let peer = owed_a_block(&mut stage);
        assert!(memory(&stage) <= share, "{kind}: {} bytes", memory(&stage));
        let (taken, closed) = (taken.get(), stage.record(&peer).closed);
        match kind {
            0..3 => assert_eq!(closed, None, "{kind}: a policy comes before a reset"),
            4 => assert_eq!((closed, taken), (None, 20_000), "one byte each, and no more"),
            // 64 bytes for each would be more than the share.
            3 | 5 | 6 => assert!(closed == Some(CloseReason::MemoryBudget) && taken * 64 < share),
            _ => assert!(closed == Some(CloseReason::MemoryBudget) && taken * 32 <= share),
        }
        let pending = stage.pending(&peer);
        match kind {
            0 | 2 => assert!(pending * 16 < share, "{kind}: {pending} B wait"),
            1 => assert!(pending * 3 < share, "{pending} B wait"),
            _ => {}
        }
        stage.stop();
    }
}

/// Of a hundred slow readers 72 were reset, though all of them were owed the same few payloads.
fn a_payload_owed_to_many_counts_once<D: Rig>(seed: u64) {
    let blocks = 64;
    let mut stage = tight::<D>(seed, blocks, |limits| {
        limits.output_limit = 40_000;
        limits.broadcast_per_turn = 16;
    });
    let peers: Vec<_> = (0..20).map(|_| stage.open()).collect();
    peers.iter().for_each(|peer| peer.reads(false));
    for n in 0..60 {
        let broadcast = Broadcast::new(pattern(n, 2000)).at_limit(OverflowPolicy::DropOldest);
        stage.handle().broadcast(broadcast);
        stage.settle();
        assert!(memory(&stage) <= blocks * BLOCK, "{} bytes", memory(&stage));
    }
    assert_eq!(stage.snapshot().closed_by(CloseReason::MemoryBudget), 0);
    for peer in &peers {
        assert!(stage.pending(peer) > 36_000, "only {} wait", stage.pending(peer));
    }
    // And those who read get whole messages, the newest at last.
    for peer in &peers {
        peer.reads(true);
    }
    stage.settle();
    for peer in &peers {
        let got = peer.got();
        assert!(got.len().is_multiple_of(2000) && got.ends_with(&pattern(59, 2000)));
    }
    assert_eq!(memory(&stage), stage.event_loop.state.outbox.pool.retained_bytes());
    stage.stop();
}

/// At seven eighths whoever had most was reset, whatever the policy of what it was owed.
fn a_policy_comes_before_a_reset<D: Rig>(seed: u64) {
    let blocks = 64;
    for policy in
        [OverflowPolicy::DropOldest, OverflowPolicy::DropNewest, OverflowPolicy::Conflate(3)]
    {
        for shared in [true, false] {
            let mut stage = tight::<D>(seed, blocks, |limits| {
                limits.output_limit = 1 << 20;
                limits.high_watermark = 1 << 19;
            });
            let peers: Vec<_> = (0..20).map(|_| stage.open()).collect();
            peers.iter().for_each(|peer| peer.reads(false));
            stage.play(move |at| match at {
                At::Message(here, n) => {
                    let all = Bytes::from(pattern(n as usize, 2000));
                    here.each(|conn| {
                        let message = if shared { all.clone() } else { all.to_vec().into() };
                        let queued = conn.send_with(message, policy);
                        assert_ne!(queued, SendOutcome::Refused);
                    });
                }
                At::Data(conn, input) => {
                    input.take_all();
                    let _ = conn.send(&[7; 3000]);
                }
                other => usual(other),
            });
            for n in 0..40 {
                stage.handle().post(0, n).unwrap();
                stage.settle();
                assert!(memory(&stage) <= blocks * BLOCK, "{} bytes", memory(&stage));
            }
            assert_eq!(
                stage.snapshot().closed_by(CloseReason::MemoryBudget),
                0,
                "{policy:?} {shared}"
            );
            // Others bring the loop above its mark: messages go, and the connections stay.
            let lossy = stage.count(Counter::MessagesDropped);
            let others: Vec<_> = (0..20).map(|_| owed_a_block(&mut stage)).collect();
            assert!(memory(&stage) <= blocks * BLOCK / 8 * 7, "{} bytes", memory(&stage));
            if policy == OverflowPolicy::DropOldest {
                assert!(!peers.iter().any(|peer| peer.saw_reset()), "{shared}");
                assert!(stage.count(Counter::MessagesDropped) > lossy, "{shared}");
            }
            drop(others);
            stage.stop();
        }
    }
}

/// Four thousand messages might wait, of any length: mail was bounded in items alone.
fn what_waits_for_a_loop_by_mail_is_bounded_in_bytes_too<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.mail_bytes = 10_000);
    let peer = stage.open();
    let (id, handle) = (stage.id(&peer), stage.handle());
    for round in 0..3 {
        let mut posted = 0;
        let full = loop {
            let message = pattern(posted, 900);
            let sent = match posted % 1800 {
                0 => handle.send(id, message),
                _ => handle.send_with(id, message, OverflowPolicy::DropNewest),
            };
            match sent {
                Ok(()) => posted += 900,
                Err(error) => break error,
            }
            assert!(posted <= 10_000, "{posted} bytes wait");
        };
        assert!(matches!(full, PostError::Full(bytes) if bytes == pattern(posted, 900)));
        assert_eq!(posted, 9900, "round {round}");
        let missed = handle.broadcast(vec![1; 200]);
        assert_eq!(missed.report().loops_missed, 1);
        handle.post(0, 1).unwrap(); // of the handler's own, nobody knows how long they are
        stage.settle();
        assert!(peer.got().len() >= 9900 * (round + 1));
        // Of any length where none waits, and then no other; a broadcast until it is through.
        let long = handle.broadcast(vec![2; 50_000]);
        assert!(handle.send(id, vec![3; 1]).is_err());
        stage.settle();
        assert!(long.is_over() && long.report().loops_missed == 0);
        handle.send(id, vec![4; 20_000]).unwrap();
        assert!(handle.send(id, vec![5; 1]).is_err());
        stage.settle();
    }
    stage.stop();
}
