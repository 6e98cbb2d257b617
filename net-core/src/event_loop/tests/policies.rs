//! Messages with a policy at the hard cap: dropped or replaced whole, never cut, and counted.

use super::{At, Peer, Rig, Rng, Stage, fail, on_both_rigs, usual};
use crate::api::conn::Conn;
use crate::base::close_reason::{Callback, CloseReason};
use crate::config::limits::Limits;
use crate::config::policy::OverflowPolicy;
use crate::connection::outbox::SendOutcome;
use crate::features::broadcast::Broadcast;
use crate::observe::counters::Counter;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

on_both_rigs! {
    what_the_peer_gets_is_whole_messages_in_order_the_newest_for_each_key: 100,
    a_panic_takes_its_own_messages_back_and_cuts_none: 20,
    room_that_a_drop_has_made_is_told: 10,
    a_message_longer_than_the_limit_is_taken_below_the_mark_and_dropped_above: 5,
    an_ending_connection_refuses_and_counts_no_drop: 5,
    a_broadcast_drops_by_its_policy_and_reports_it: 10,
    from_another_thread_a_message_meets_the_same_policy: 10,
    the_next_connection_in_the_slot_has_lost_nothing: 5,
    what_waits_before_a_message_that_is_dropped_leaves: 20,
}

const LIMIT: usize = 3000;

fn capped(limits: &mut Limits) {
    limits.output_limit = LIMIT;
    limits.high_watermark = 1000;
    limits.low_watermark = 500;
}

/// Of which policy a message is: 0 to 2 close, drop the newest, drop the oldest; then the keys.
type Class = u8;

const CLASSES: Class = 6;

fn policy(class: Class) -> OverflowPolicy {
    match class {
        0 => OverflowPolicy::Close,
        1 => OverflowPolicy::DropNewest,
        2 => OverflowPolicy::DropOldest,
        key => OverflowPolicy::Conflate(key.into()),
    }
}

/// A message that says how long it is, of which class, and its number.
fn message(class: Class, number: u32, len: usize) -> Vec<u8> {
    let mut bytes = (len as u16).to_be_bytes().to_vec();
    bytes.push(class);
    bytes.extend(number.to_be_bytes());
    bytes.resize(len.max(7), number as u8);
    bytes
}

/// The messages of a stream, all of them whole.
fn messages(mut stream: &[u8]) -> Vec<(Class, u32)> {
    let mut all = Vec::new();
    while let [a, b, class, ..] = *stream {
        let len = usize::from(u16::from_be_bytes([a, b]));
        let (this, rest) = stream.split_at_checked(len).expect("the last message is whole");
        let number = u32::from_be_bytes(this[3..7].try_into().unwrap());
        assert!(this[7..].iter().all(|byte| *byte == number as u8), "{number} is torn");
        all.push((class, number));
        stream = rest;
    }
    assert!(stream.is_empty(), "a rest of {} bytes", stream.len());
    all
}

#[derive(Default)]
struct Sent {
    number: u32,
    /// Those that were taken, by class.
    taken: BTreeMap<Class, Vec<u32>>,
    dropped: u64,
}

impl Sent {
    fn send(&mut self, rng: &mut Rng, conn: &mut Conn<'_, super::actor::Actor>) {
        let class = rng.below(usize::from(CLASSES)) as Class;
        let len = rng.pick(&[7, 20, 200, 900]);
        if class == 0 && conn.unsent() + len > LIMIT {
            return; // it would close
        }
        self.number += 1;
        let bytes = message(class, self.number, len);
        let queued = match class {
            0 if rng.one_in(2) => conn.send(&bytes),
            _ => conn.send_with(bytes, policy(class)),
        };
        match queued {
            SendOutcome::Queued | SendOutcome::AboveHighWatermark => {
                self.taken.entry(class).or_default().push(self.number);
            }
            SendOutcome::Dropped => self.dropped += 1,
            SendOutcome::Refused => panic!("it is open"),
        }
        assert!(conn.unsent() <= LIMIT);
    }
}

fn what_the_peer_gets_is_whole_messages_in_order_the_newest_for_each_key<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, capped);
    let sent = Rc::new(RefCell::new(Sent::default()));
    let (peer, mut rng) = (stage.open(), Rng::new(seed + 1000));
    let id = stage.id(&peer);
    let lost = Rc::new(Cell::new(0));
    stage.play({
        let (sent, lost) = (Rc::clone(&sent), Rc::clone(&lost));
        move |at| match at {
            At::Message(here, count) => {
                let mut conn = here.connection(id).unwrap();
                (0..count).for_each(|_| sent.borrow_mut().send(&mut rng, &mut conn));
                lost.set(conn.messages_dropped());
            }
            At::Data(conn, input) => {
                input.take_all();
                (0..rng.below(5)).for_each(|_| sent.borrow_mut().send(&mut rng, conn));
                lost.set(conn.messages_dropped());
            }
            other => usual(other),
        }
    });
    peer.reads(false);
    for _ in 0..100 {
        match stage.rng.below(4) {
            0 => peer.send(b"more"),
            1 => {
                let n = stage.rng.below(3000);
                peer.read(n);
            }
            _ => {
                let count = stage.rng.below(12) as u64;
                stage.handle().post(0, count).unwrap();
            }
        }
        stage.settle();
    }
    peer.reads(true);
    stage.settle();
    let got = messages(&peer.got());
    let sent = sent.borrow();
    for (&class, taken) in &sent.taken {
        let of_class: Vec<u32> = got.iter().filter(|m| m.0 == class).map(|m| m.1).collect();
        assert!(of_class.is_sorted(), "in order");
        assert!(of_class.iter().all(|number| taken.contains(number)));
        match class {
            0 | 1 => assert_eq!(of_class, *taken, "what was taken comes"),
            _ => assert_eq!(of_class.last(), taken.last(), "the newest comes"),
        }
    }
    let in_all: usize = sent.taken.values().map(Vec::len).sum();
    let replaced = stage.count(Counter::MessagesReplaced);
    let dropped = stage.count(Counter::MessagesDropped);
    assert_eq!(got.len() as u64, in_all as u64 - replaced - (dropped - sent.dropped));
    assert_eq!(lost.get(), replaced + dropped);
    stage.stop();
}

fn a_panic_takes_its_own_messages_back_and_cuts_none<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, capped);
    let (peer, mut rng) = (stage.open(), Rng::new(seed + 7));
    let id = stage.id(&peer);
    stage.panics_are_counted_by({
        let log = stage.log.clone();
        move || log.get().panics.len() as u64
    });
    let sent = Rc::new(RefCell::new(Sent::default()));
    let before = Rc::new(Cell::new(0));
    stage.play({
        let (sent, before) = (Rc::clone(&sent), Rc::clone(&before));
        move |at| match at {
            At::Message(here, count) => {
                let mut conn = here.connection(id).unwrap();
                (0..count).for_each(|_| sent.borrow_mut().send(&mut rng, &mut conn));
            }
            At::Data(conn, input) => {
                input.take_all();
                before.set(sent.borrow().number);
                (0..30).for_each(|_| sent.borrow_mut().send(&mut rng, conn));
                fail();
            }
            other => usual(other),
        }
    });
    peer.reads(false);
    // Below the mark, or its input would wait.
    while stage.pending(&peer) < 500 {
        stage.handle().post(0, 1).unwrap();
        stage.settle();
    }
    peer.send(b"x");
    stage.settle();
    if stage.log.get().panics.is_empty() {
        peer.reads(true); // it was above the mark
        stage.settle();
    }
    peer.reads(true);
    peer.finish();
    stage.settle();
    let got = messages(&peer.got());
    // What it has put in the place of an older message stays there.
    let is_old = |m: &(Class, u32)| m.1 <= before.get() || m.0 > 2;
    assert!(got.iter().all(is_old), "{got:?} after {}", before.get());
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::Panicked(Callback::Data)));
    stage.stop();
}

fn room_that_a_drop_has_made_is_told<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        capped(limits);
        limits.high_watermark = LIMIT - 1;
        limits.low_watermark = 1000;
    });
    let peer = stage.open();
    let id = stage.id(&peer);
    peer.reads(false);
    stage.play(move |at| match at {
        At::Message(here, len) => {
            let mut conn = here.connection(id).unwrap();
            let bytes = Bytes::from(vec![1; len as usize]);
            assert!(conn.send_with(bytes, OverflowPolicy::DropOldest).is_taken());
        }
        other => usual(other),
    });
    // The kernel is full, and of the next no byte leaves.
    while stage.pending(&peer) == 0 {
        stage.handle().post(0, 500).unwrap();
        stage.settle();
    }
    let fits = (LIMIT - stage.pending(&peer)) as u64;
    stage.handle().post(0, fits).unwrap();
    stage.settle();
    let rooms = |stage: &Stage<D>| {
        stage.record(&peer).calls.iter().filter(|call| **call == Callback::Writable).count()
    };
    let before = rooms(&stage);
    stage.handle().post(0, 10).unwrap();
    stage.settle();
    assert!(stage.pending(&peer) <= 1000, "the long one is gone");
    assert_eq!(rooms(&stage), before + 1);
    stage.stop();
}

/// It was dropped whatever waited: no reader ever got it, however fast.
fn a_message_longer_than_the_limit_is_taken_below_the_mark_and_dropped_above<D: Rig>(seed: u64) {
    for first in 1..CLASSES {
        let mut stage = Stage::<D>::with(seed, capped);
        stage.play(move |at| match at {
            At::Open(conn) => {
                assert!(conn.send(&message(0, 1, 1000)).is_taken(), "at the mark");
                let long = message(first, 2, 2 * LIMIT);
                assert_eq!(conn.send_with(long, policy(first)), SendOutcome::AboveHighWatermark);
                for class in 1..CLASSES {
                    if class != first {
                        let another = message(class, 3, LIMIT);
                        assert_eq!(conn.send_with(another, policy(class)), SendOutcome::Dropped);
                    }
                }
                // What belongs to the long one is judged as if that were not there.
                assert!(conn.send(&message(0, 4, 20)).is_taken());
            }
            other => usual(other),
        });
        let peer = stage.open();
        assert_eq!(messages(&peer.got()), [(0, 1), (first, 2), (0, 4)]);
        assert_eq!(stage.count(Counter::MessagesDropped), u64::from(CLASSES - 2));
        stage.stop();
    }
}

fn an_ending_connection_refuses_and_counts_no_drop<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, capped);
    stage.play(|at| match at {
        At::Open(conn) => {
            conn.finish();
            let queued = conn.send_with("too late", OverflowPolicy::DropOldest);
            assert_eq!(queued, SendOutcome::Refused);
        }
        other => usual(other),
    });
    let peer = stage.open();
    assert!(peer.saw_fin() && peer.got().is_empty());
    assert_eq!(stage.count(Counter::MessagesDropped), 0);
    peer.finish();
    stage.settle();
    stage.stop();
}

fn a_broadcast_drops_by_its_policy_and_reports_it<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, capped);
    let (slow, quick): (Peer, Peer) = (stage.open(), stage.open());
    slow.reads(false);
    let mut last = 0;
    let mut all = Vec::new();
    while stage.count(Counter::MessagesDropped) < 10 {
        last += 1;
        let broadcast = Broadcast::new(message(2, last, 200)).at_limit(OverflowPolicy::DropOldest);
        let delivery = stage.handle().broadcast(broadcast);
        stage.settle();
        all.push(delivery.report());
    }
    assert!(all.iter().all(|report| report.delivered + report.queued == 2 && report.dropped == 0));
    let displaced: u64 = all.iter().map(|report| report.displaced).sum();
    assert_eq!(displaced, stage.count(Counter::MessagesDropped));
    slow.reads(true);
    stage.settle();
    let got = messages(&slow.got());
    assert_eq!(got.last(), Some(&(2, last)), "the newest comes");
    assert_eq!(got.len() as u64, u64::from(last) - displaced);
    assert_eq!(messages(&quick.got()).len() as u32, last, "who reads misses none");
    stage.stop();
}

fn from_another_thread_a_message_meets_the_same_policy<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, capped);
    let peer = stage.open();
    peer.reads(false);
    let id = stage.id(&peer);
    let handle = stage.handle();
    let mut sent = 0;
    while stage.count(Counter::MessagesDropped) < 10 {
        sent += 1;
        handle.send_with(id, message(1, sent, 200), policy(1)).unwrap();
        handle.send_with(id, message(3, sent, 20), policy(3)).unwrap();
        stage.settle();
    }
    let dropped = stage.count(Counter::BytesDropped);
    handle.send_with(id, vec![0; LIMIT + 1], OverflowPolicy::DropNewest).unwrap();
    stage.settle();
    assert_eq!(stage.count(Counter::BytesDropped) - dropped, LIMIT as u64 + 1);
    peer.reads(true);
    stage.settle();
    let got = messages(&peer.got());
    assert!(got.iter().any(|&(class, _)| class == 1));
    let newest = got.iter().rev().find(|&&(class, _)| class == 3);
    assert_eq!(newest, Some(&(3, sent)), "the newest of a key comes");
    peer.reset();
    stage.settle();
    let dropped = stage.count(Counter::BytesDropped);
    handle.send_with(id, "too late", OverflowPolicy::DropOldest).unwrap();
    stage.settle();
    assert_eq!(stage.count(Counter::BytesDropped) - dropped, 8, "and is counted");
    stage.stop();
}

fn the_next_connection_in_the_slot_has_lost_nothing<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, capped);
    stage.play(|at| match at {
        At::Open(conn) => {
            assert_eq!(conn.messages_dropped(), 0);
            let _ = conn.send(&[0; 1001]); // above the mark
            let _ = conn.send_with(vec![0; LIMIT], OverflowPolicy::DropNewest);
            assert_eq!(conn.messages_dropped(), 1);
        }
        other => usual(other),
    });
    for _ in 0..3 {
        let peer = stage.open();
        assert_eq!(stage.record(&peer).calls[0], Callback::Open, "and it did not panic");
        peer.reset();
        stage.settle();
    }
    stage.stop();
}

/// An answer waited in the cork; the message behind it was dropped, but had moved the answer out of the cork
/// first, and nothing sent it: it was `Queued`, and waited until something else happened to its
/// connection.
fn what_waits_before_a_message_that_is_dropped_leaves<D: Rig>(seed: u64) {
    // Dropped at the limit of its connection, and of the loop's share.
    for budget in [None, Some(150_000)] {
        let mut stage = Stage::<D>::with(seed, |limits| {
            capped(limits);
            limits.memory_budget = budget;
            if budget.is_some() {
                limits.output_limit = 1 << 20;
            }
        });
        let peer = stage.open();
        let id = stage.id(&peer);
        stage.play(move |at| match at {
            At::Message(here, _) => {
                let mut conn = here.connection(id).unwrap();
                assert!(conn.send(&[b'.'; 1001]).is_taken()); // above the mark, where the cap holds
                let too_long = vec![0; if budget.is_some() { 200_000 } else { LIMIT + 1 }];
                assert_eq!(
                    conn.send_with(too_long, OverflowPolicy::DropOldest),
                    SendOutcome::Dropped
                );
            }
            other => usual(other),
        });
        stage.handle().post(0, 1).unwrap();
        stage.settle();
        assert_eq!(peer.got(), [b'.'; 1001]);
        stage.stop();
    }
}
