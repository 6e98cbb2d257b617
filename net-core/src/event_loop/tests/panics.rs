//! The panic rule: a callback that panics costs its own connection, message or timer, no more.

use super::actor::Actor;
use super::{At, Outcome, Rig, Stage, fail, on_both_rigs, pattern, usual};
use crate::api::conn::Conn;
use crate::api::loop_context::LoopContext;
use crate::api::slices::Slice;
use crate::base::close_reason::{Callback, CloseReason};
use crate::config::policy::OverflowPolicy;
use crate::features::broadcast::Broadcast;
use crate::observe::counters::Counter;
use bytes::Bytes;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

on_both_rigs! {
    what_a_panicking_on_data_sent_is_dropped_and_what_came_before_is_flushed: 40,
    what_it_left_to_others_is_sent: 20,
    each_callback_may_panic_and_costs_its_connection: 20,
    a_panic_in_admit_refuses: 10,
    a_panic_in_on_close_is_counted_and_no_more: 10,
    a_panic_in_the_drop_of_a_session_is_counted: 10,
    a_panic_in_on_message_loses_the_message: 10,
    a_panic_in_on_timer_loses_that_firing: 10,
    a_panic_in_on_open_of_a_dialled_connection_closes_it: 10,
    on_panic_can_stop_the_server: 10,
    a_drop_that_panics_costs_one_connection_wherever_it_is: 5,
}

fn what_a_panicking_on_data_sent_is_dropped_and_what_came_before_is_flushed<D: Rig>(seed: u64) {
    for by in 0..4 {
        let mut stage = Stage::<D>::new(seed);
        stage.play(move |at| match at {
            At::Data(conn, input) if input.peek().contains(&b'!') => {
                match by {
                    0 => drop(conn.echo(input).is_taken()),
                    1 => drop(conn.send(&[b'!'; 500]).is_taken()),
                    2 => drop(conn.send_shared(Bytes::from(vec![b'!'; 500])).is_taken()),
                    _ => {
                        let _ = conn.send(b"!");
                        let _ = conn.echo(input);
                    }
                }
                fail();
            }
            other => usual(other),
        });
        let peer = stage.open();
        peer.reads(false);
        let before = pattern(0, 3000).iter().map(|byte| byte | 0x80).collect::<Vec<_>>();
        peer.send(&before);
        stage.settle();
        stage.panics = 1;
        peer.send(b"!");
        for _ in 0..20 {
            stage.event_loop.turn().unwrap();
        }
        peer.reads(true);
        stage.settle();
        assert!(peer.got() == before, "by {by}: {} B", peer.got().len());
        assert!(peer.saw_fin());
        peer.finish();
        stage.settle();
        assert_eq!(stage.record(&peer).closed, Some(CloseReason::Panicked(Callback::Data)));
        stage.stop();
    }
}

fn what_it_left_to_others_is_sent<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Data(conn, _) => {
            conn.others(|other| assert!(other.send(b"news").is_taken()));
            let _ = conn.send(b"lost");
            fail();
        }
        other => usual(other),
    });
    let peers = [stage.open(), stage.open()];
    peers[0].send(b"x");
    stage.panics = 1;
    while stage.count(Counter::Panics) == 0 {
        stage.event_loop.turn().unwrap();
    }
    stage.settle();
    assert_eq!((peers[0].got(), peers[1].got()), (vec![], b"news".to_vec()));
    stage.stop();
}

/// Brings one connection to `callback`, which panics.
fn each_callback_may_panic_and_costs_its_connection<D: Rig>(seed: u64) {
    let all = [
        Callback::Open,
        Callback::Data,
        Callback::Writable,
        Callback::End,
        Callback::Deadline,
        Callback::Draining,
        Callback::Heartbeat,
        Callback::Sent,
    ];
    for callback in all {
        let mut stage = Stage::<D>::with(seed, |limits| {
            let beats = (callback == Callback::Heartbeat).then_some(Duration::from_millis(10));
            limits.heartbeat_interval = beats;
        });
        let other = stage.open();
        let panics = Rc::new(Cell::new(0));
        let count = Rc::clone(&panics);
        stage.panics_are_counted_by(move || count.get());
        stage.play(move |at| {
            let (conn, now) = match at {
                At::Open(conn) => (conn, Callback::Open),
                At::Data(conn, input) if callback == Callback::Data => {
                    input.take_all();
                    (conn, Callback::Data)
                }
                At::Data(conn, input) => {
                    match input.take_all()[0] {
                        b'r' => drop(conn.send(&[1; 30_000]).is_taken()),
                        b's' => {
                            let _ = conn.send(b"sent");
                            conn.notify_sent(1);
                        }
                        b'd' => conn.set_deadline(Some(Duration::from_millis(5))),
                        _ => drop(conn.send(b"ok").is_taken()),
                    }
                    return;
                }
                At::Room(conn) => (conn, Callback::Writable),
                At::End(conn) => (conn, Callback::End),
                At::Deadline(conn) => (conn, Callback::Deadline),
                At::Sent(conn, 1) => (conn, Callback::Sent),
                At::Draining(conn) => (conn, Callback::Draining),
                At::Heartbeat(conn) => (conn, Callback::Heartbeat),
                other => return usual(other),
            };
            if now == callback {
                let _ = conn.send(b"lost");
                panics.set(panics.get() + 1);
                fail();
            }
        });
        let peer = stage.open();
        match callback {
            Callback::Data => peer.send(b"x"),
            Callback::Writable => peer.send(b"r"),
            Callback::Sent => peer.send(b"s"),
            Callback::End => peer.finish(),
            Callback::Deadline => peer.send(b"d"),
            Callback::Draining => stage.shared.raise(crate::threads::control::Phase::Drain),
            _ => {}
        }
        stage.advance(10);
        // The other one meets these too.
        if !matches!(callback, Callback::Draining | Callback::Data | Callback::Heartbeat) {
            other.send(b"x");
            stage.settle();
            assert_eq!(other.got(), b"ok", "{callback:?}");
        }
        peer.finish();
        other.finish();
        stage.advance(2000);
        let record = stage.record(&peer);
        assert_eq!(record.closed, Some(CloseReason::Panicked(callback)), "{record:?}");
        assert!(!peer.got().ends_with(b"lost"), "{callback:?}");
        assert_eq!(stage.log.get().panics.first(), Some(&callback));
        stage.stop();
    }
}

fn a_panic_in_admit_refuses<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.log.get().admit_panics = true;
    stage.panics = 1;
    let peer = stage.arrive();
    stage.settle();
    assert!(peer.saw_fin());
    assert_eq!(stage.snapshot().closed_by(CloseReason::Panicked(Callback::Admit)), 1);
    let next = stage.open();
    next.send(b"x");
    stage.settle();
    assert_eq!(next.got(), b"x");
    stage.stop();
}

fn a_panic_in_on_close_is_counted_and_no_more<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Close(_) => fail(),
        other => usual(other),
    });
    let peer = stage.open();
    peer.finish();
    stage.panics = 1;
    while stage.record(&peer).drops == 0 {
        stage.event_loop.turn().unwrap();
    }
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::PeerEnded));
    stage.stop();
}

fn a_panic_in_the_drop_of_a_session_is_counted<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let (peer, other) = (stage.open(), stage.open());
    stage.log.get().drop_panics = true;
    peer.finish();
    stage.panics = 1;
    while stage.record(&peer).drops == 0 {
        stage.event_loop.turn().unwrap();
    }
    assert_eq!(stage.log.get().panics, [Callback::Drop]);
    other.send(b"x");
    stage.settle();
    assert_eq!(other.got(), b"x");
    stage.stop();
}

fn a_panic_in_on_message_loses_the_message<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Message(_, 13) => fail(),
        other => usual(other),
    });
    for message in [1, 13, 2] {
        stage.handle().post(0, message).unwrap();
    }
    stage.panics = 1;
    stage.settle();
    assert_eq!(stage.log.get().messages, [1, 13, 2]);
    assert_eq!(stage.count(Counter::MailLost), 1);
    stage.stop();
}

fn a_panic_in_on_timer_loses_that_firing<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Message(here, _) => {
            here.every(Duration::from_millis(10), 7);
        }
        At::Timer(here, _) if here.now().as_millis() < 1_015 => fail(),
        other => usual(other),
    });
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    stage.panics = 1;
    stage.advance(35);
    assert_eq!(stage.log.get().timers, [7, 7, 7]);
    stage.stop();
}

fn a_panic_in_on_open_of_a_dialled_connection_closes_it<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let panics = Rc::new(Cell::new(0));
    let count = Rc::clone(&panics);
    stage.panics_are_counted_by(move || count.get());
    let log = stage.log.clone();
    stage.play(move |at| match at {
        At::Message(here, _) => {
            let session = log.session(None);
            let _ = here.dial(super::somewhere(), session);
        }
        At::Open(_) => {
            panics.set(panics.get() + 1);
            fail();
        }
        other => usual(other),
    });
    stage.world.get().dials.push_back(Outcome::Greeted(b"welcome".to_vec(), true));
    stage.handle().post(0, 0).unwrap();
    stage.advance(2000);
    let record = stage.log.get().records[0].clone();
    assert_eq!(record.closed, Some(CloseReason::Panicked(Callback::Open)));
    assert_eq!(record.calls, [Callback::Open, Callback::Close]);
    stage.stop();
}

fn on_panic_can_stop_the_server<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.log.get().stops_after_panic = true;
    stage.play(|at| match at {
        At::Message(..) => fail(),
        other => usual(other),
    });
    stage.handle().post(0, 0).unwrap();
    stage.panics = 1;
    stage.settle();
    assert_eq!(stage.shared.asked.phase(), crate::threads::control::Phase::Stop);
    stage.stop();
}

/// A value of the user's that panics when it is dropped, and counts that.
struct Bomb(Vec<u8>, Arc<AtomicU64>);

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::Relaxed);
        fail();
    }
}

/// A payload whose own drop panics with such a payload again.
struct Again(u32);

impl Drop for Again {
    fn drop(&mut self) {
        if self.0 > 0 {
            std::panic::resume_unwind(Box::new(Again(self.0 - 1)));
        }
    }
}

/// Where a value of the user's is dropped.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Place {
    /// A payload: sent whole, in part and then reset, copied since it is small, behind a prefix, by a panic
    /// of the callback that sent it, at its refusal, at the end of its connection and of the server.
    SentWhole,
    Reset,
    Small,
    Frame,
    Undone,
    Refused,
    Closed,
    Stopped,
    /// By a policy: dropped for a newer one, replaced, not taken.
    Oldest,
    Replaced,
    Newest,
    /// By mail: to one who gets it, to nobody, with a policy to nobody.
    Mail,
    MailToNobody,
    MailOrToNobody,
    /// A broadcast that everybody has, and one too many.
    Broadcast,
    BroadcastTooMany,
    /// A job in slices that is done, one whose connection ends, and one that a stop drops.
    JobDone,
    JobOfClosed,
    JobStopped,
    /// Mail that is left when the loop ends.
    MailLeft,
}

const PLACES: [Place; 20] = [
    Place::SentWhole,
    Place::Reset,
    Place::Small,
    Place::Frame,
    Place::Undone,
    Place::Refused,
    Place::Closed,
    Place::Stopped,
    Place::Oldest,
    Place::Replaced,
    Place::Newest,
    Place::Mail,
    Place::MailToNobody,
    Place::MailOrToNobody,
    Place::Broadcast,
    Place::BroadcastTooMany,
    Place::JobDone,
    Place::JobOfClosed,
    Place::JobStopped,
    Place::MailLeft,
];

/// The owner of a payload panicked in its drop, in the middle of the queue's own work or of the turn's:
/// the loop died, and the server.
fn a_drop_that_panics_costs_one_connection_wherever_it_is<D: Rig>(seed: u64) {
    for place in PLACES {
        drops::<D>(seed, place);
    }
    // What a callback panics with may panic again when it is dropped.
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Data(_, input) if input.peek() == b"!" => {
            std::panic::resume_unwind(Box::new(Again(3)));
        }
        other => usual(other),
    });
    let (peer, other) = (stage.open(), stage.open());
    stage.panics = 1;
    peer.send(b"!");
    while stage.count(Counter::Panics) == 0 {
        stage.event_loop.turn().unwrap();
    }
    other.send(b"x");
    stage.settle();
    assert_eq!(other.got(), b"x");
    stage.stop();
}

fn drops<D: Rig>(seed: u64, place: Place) {
    let dropped = Arc::new(AtomicU64::new(0));
    let mut stage = Stage::<D>::with(seed, |limits| {
        (limits.high_watermark, limits.low_watermark, limits.output_limit) = (2_000, 500, 4_000);
        limits.broadcasts_max = 1;
        limits.receive_block_bytes = 512;
        limits.slice_time_per_turn = Duration::ZERO; // in a turn no time passes here
        limits.mail_per_turn = if place == Place::MailLeft { 1 } else { 256 };
    });
    stage.note(format!("{place:?}"));
    let counted = Arc::clone(&dropped);
    let undone = place == Place::Undone;
    // The callback that sent it has panicked too.
    stage.panics_are_counted_by(move || {
        counted.load(Ordering::Relaxed) * if undone { 2 } else { 1 }
    });
    let counted = Arc::clone(&dropped);
    let bomb = move |len: usize| Bytes::from_owner(Bomb(vec![b'!'; len], Arc::clone(&counted)));
    let others_bomb = bomb.clone();
    let thing = Arc::clone(&dropped);
    let mut is_first = true;
    stage.play(move |at| match at {
        At::Open(conn) if std::mem::take(&mut is_first) => {
            assert_eq!(conn.subscribe("of the first"), Ok(true));
        }
        At::Data(conn, input) if input.peek() == b"!" => {
            input.take_all();
            let thing = || Bomb(Vec::new(), Arc::clone(&thing));
            match place {
                Place::SentWhole | Place::Closed => _ = conn.send_shared(bomb(1_000)),
                Place::Reset | Place::Stopped => _ = conn.send_shared(bomb(3_000)),
                Place::Small => {
                    let _ = conn.send(&[b'.'; 300]); // so that there is a block with room
                    (0..5).for_each(|_| _ = conn.send_shared(Bytes::from(vec![b'.'; 200])));
                    let _ = conn.send(b".");
                    let _ = conn.send_shared(bomb(3));
                }
                Place::Frame => {
                    let shape = net_buffer::LengthPrefix::u32_be(10_000);
                    let _ = conn.send_frame(&shape, bomb(1_000));
                }
                Place::Undone => {
                    let _ = conn.send_shared(bomb(1_000));
                    fail();
                }
                Place::Refused => {
                    let _ = conn.send(&[b'.'; 2_001]); // above the mark, where the cap holds
                    let _ = conn.send_shared(bomb(5_000));
                    unreachable!("it was dropped at once");
                }
                Place::Oldest => {
                    let _ = conn.send_with(bomb(3_000), OverflowPolicy::DropOldest);
                    let _ = conn.send_with(vec![b'.'; 3_000], OverflowPolicy::DropOldest);
                }
                Place::Replaced => {
                    let _ = conn.send_with(bomb(100), OverflowPolicy::Conflate(1));
                    let _ = conn.send_with(vec![b'.'; 100], OverflowPolicy::Conflate(1));
                }
                Place::Newest => {
                    let _ = conn.send(&[b'.'; 3_500]);
                    let _ = conn.send_with(bomb(3_000), OverflowPolicy::DropNewest);
                    unreachable!("it was dropped at once");
                }
                Place::JobDone | Place::JobStopped => {
                    let (thing, is_done) = (thing(), place == Place::JobDone);
                    let job = move |_: &mut Actor, _: &mut LoopContext<'_, Actor>| {
                        let _ = &thing;
                        if is_done { Slice::Done } else { Slice::More }
                    };
                    assert!(conn.event_loop().in_slices(job).is_ok());
                }
                Place::JobOfClosed => {
                    let thing = thing();
                    let job = move |_: &mut Actor, _: &mut Conn<'_, Actor>| {
                        let _ = &thing;
                        Slice::More
                    };
                    assert!(conn.in_slices(job).is_ok());
                }
                _ => {}
            }
        }
        other => usual(other),
    });
    let never_leaves =
        [Place::Reset, Place::Stopped, Place::Oldest, Place::Replaced].contains(&place);
    if never_leaves {
        stage.world.get().buffers = (50, 50);
    }
    let (peer, other) = (stage.open(), stage.open());
    let id = stage.id(&peer);
    peer.reads(!(never_leaves || [Place::Newest, Place::Undone, Place::Closed].contains(&place)));
    match place {
        Place::Mail => stage.handle().send(id, others_bomb(1_000)).unwrap(),
        Place::MailToNobody | Place::MailOrToNobody => {
            let gone = stage.open();
            let id = stage.id(&gone);
            gone.finish();
            stage.advance(2_000);
            match place {
                Place::MailToNobody => stage.handle().send(id, others_bomb(1_000)).unwrap(),
                _ => {
                    let at_limit = OverflowPolicy::DropOldest;
                    stage.handle().send_with(id, others_bomb(1_000), at_limit).unwrap();
                }
            }
        }
        Place::Broadcast => {
            let broadcast = Broadcast::new(others_bomb(100)).to_topic("of the first");
            drop(stage.handle().broadcast(broadcast));
        }
        Place::BroadcastTooMany => {
            drop(stage.handle().broadcast(Broadcast::new("the one")));
            drop(stage.handle().broadcast(Broadcast::new(others_bomb(100))));
        }
        Place::MailLeft => {}
        _ => peer.send(b"!"),
    }
    // Some end only by the end of their connection, or of the server; the jobs give the loop no rest.
    for _ in 0..50 {
        stage.event_loop.turn().unwrap();
    }
    match place {
        Place::Reset | Place::JobOfClosed => peer.reset(),
        Place::Closed => stage.handle().close(id).unwrap(),
        _ => {}
    }
    if place == Place::Closed {
        peer.reads(true);
    }
    for _ in 0..50 {
        stage.event_loop.turn().unwrap();
    }
    other.send(b"x");
    for _ in 0..20 {
        stage.event_loop.turn().unwrap();
    }
    assert!(other.got().ends_with(b"x"), "{place:?}: the neighbour is not served");
    let at_the_end = matches!(place, Place::Stopped | Place::JobStopped | Place::MailLeft);
    if !at_the_end {
        assert!(dropped.load(Ordering::Relaxed) > 0, "{place:?}: nothing was dropped");
        peer.reads(true);
        peer.finish();
        for _ in 0..50 {
            stage.event_loop.turn().unwrap();
        }
    }
    let closes =
        [Place::SentWhole, Place::Small, Place::Frame, Place::Oldest, Place::Replaced, Place::Mail];
    if closes.contains(&place) {
        stage.advance(100_000);
        let closed = stage.record(&peer).closed;
        assert_eq!(closed, Some(CloseReason::Panicked(Callback::Drop)), "{place:?}");
    }
    if place == Place::MailLeft {
        (0..3).for_each(|_| stage.handle().send(id, others_bomb(100)).unwrap());
    }
    stage.stop();
    assert!(dropped.load(Ordering::Relaxed) > 0, "{place:?}: nothing was dropped");
}
