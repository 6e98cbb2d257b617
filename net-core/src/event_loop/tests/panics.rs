//! The panic rule: a callback that panics costs its own connection, message or timer, no more.

use super::{At, Outcome, Rig, Stage, fail, on_both_rigs, pattern, usual};
use crate::closed::{Callback, Closed};
use crate::stats::Counter;
use bytes::Bytes;
use std::cell::Cell;
use std::rc::Rc;
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
        assert_eq!(stage.record(&peer).closed, Some(Closed::Panicked(Callback::Data)));
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
        Callback::Room,
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
                At::Room(conn) => (conn, Callback::Room),
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
            Callback::Room => peer.send(b"r"),
            Callback::Sent => peer.send(b"s"),
            Callback::End => peer.finish(),
            Callback::Deadline => peer.send(b"d"),
            Callback::Draining => stage.hub.order(crate::hub::Order::Drain),
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
        assert_eq!(record.closed, Some(Closed::Panicked(callback)), "{record:?}");
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
    assert_eq!(stage.snapshot().closed_by(Closed::Panicked(Callback::Admit)), 1);
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
    assert_eq!(stage.record(&peer).closed, Some(Closed::PeerEnded));
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
        stage.remote().post(0, message).unwrap();
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
    stage.remote().post(0, 0).unwrap();
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
    stage.remote().post(0, 0).unwrap();
    stage.advance(2000);
    let record = stage.log.get().records[0].clone();
    assert_eq!(record.closed, Some(Closed::Panicked(Callback::Open)));
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
    stage.remote().post(0, 0).unwrap();
    stage.panics = 1;
    stage.settle();
    assert_eq!(stage.hub.asked.order(), crate::hub::Order::Stop);
    stage.stop();
}
