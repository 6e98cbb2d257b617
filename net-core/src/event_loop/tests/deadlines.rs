//! Deadlines and timers, on virtual time: never early, at most two milliseconds late.

use super::{At, Outcome, Rig, Stage, on_both_rigs, pattern, somewhere, usual};
use crate::base::close_reason::{Callback, CloseReason, DeadlineKind};
use crate::connection::life::State;
use crate::features::timers::TimerId;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

on_both_rigs! {
    an_idle_connection_meets_its_deadline: 10,
    bytes_either_way_put_the_idle_deadline_off: 20,
    putting_off_costs_the_wheel_nothing: 5,
    no_first_byte_in_time_closes: 10,
    after_the_first_byte_it_is_idle_like_any_other: 10,
    the_own_deadline_comes_whatever_moves: 20,
    the_nearest_of_several_comes_first: 20,
    a_deadline_taken_away_does_not_come: 10,
    a_handler_may_go_on_after_a_deadline: 10,
    an_earlier_deadline_replaces_a_later_one: 10,
    a_dial_that_is_not_answered_meets_its_deadline: 10,
    a_stuck_connection_is_reset_by_its_idle_deadline: 10,
    timers_come_once_in_time_and_not_after_a_cancel: 10,
    a_timer_that_rearms_itself_lets_the_loop_go_on: 10,
    a_message_that_posts_itself_lets_timers_come: 10,
    a_timer_may_cancel_any_timer: 10,
    a_burst_of_timers_is_spread_over_turns: 5,
    the_longest_delays_do_not_wrap: 5,
}

fn at_idle(limits: &mut crate::config::limits::Limits) {
    limits.idle_timeout = Some(Duration::from_millis(100));
}

fn an_idle_connection_meets_its_deadline<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, at_idle);
    let peer = stage.open();
    stage.advance(99);
    assert_eq!(stage.state(&peer), State::Open);
    stage.advance(3);
    assert!(stage.record(&peer).calls.contains(&Callback::Deadline));
    assert!(peer.saw_fin());
    peer.finish();
    stage.settle();
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::Deadline(DeadlineKind::Idle)));
    stage.stop();
}

fn bytes_either_way_put_the_idle_deadline_off<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, at_idle);
    let (sends, reads) = (stage.open(), stage.open());
    let id = stage.id(&reads);
    stage.play(move |at| match at {
        At::Data(_, input) => drop(input.take_all()),
        At::Message(here, _) => drop(here.connection(id).unwrap().send(&[1; 50]).is_taken()),
        other => usual(other),
    });
    for _ in 0..20 {
        stage.advance(90);
        sends.send(b"x");
        stage.handle().post(0, 0).unwrap();
        stage.settle();
    }
    assert_eq!((stage.state(&sends), stage.state(&reads)), (State::Open, State::Open));
    stage.advance(110);
    assert!(sends.saw_fin() && reads.saw_fin());
    stage.stop();
}

fn putting_off_costs_the_wheel_nothing<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, at_idle);
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

fn no_first_byte_in_time_closes<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.first_byte_timeout = Some(Duration::from_millis(50));
        limits.idle_timeout = Some(Duration::from_secs(60));
    });
    stage.play(|at| match at {
        At::Open(conn) => drop(conn.send(b"hello, who are you?").is_taken()),
        other => usual(other),
    });
    let peer = stage.open();
    stage.advance(53);
    peer.finish();
    stage.settle();
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::Deadline(DeadlineKind::FirstByte)));
    stage.stop();
}

fn after_the_first_byte_it_is_idle_like_any_other<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.first_byte_timeout = Some(Duration::from_millis(50));
        limits.idle_timeout = Some(Duration::from_millis(200));
    });
    let peer = stage.open();
    stage.advance(40);
    peer.send(b"x");
    stage.advance(195);
    assert_eq!(stage.state(&peer), State::Open);
    stage.advance(10);
    peer.finish();
    stage.settle();
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::Deadline(DeadlineKind::Idle)));
    stage.stop();
}

fn the_own_deadline_comes_whatever_moves<D: Rig>(seed: u64) {
    for idle in [None, Some(Duration::from_millis(60))] {
        let mut stage = Stage::<D>::with(seed, |limits| limits.idle_timeout = idle);
        stage.play(|at| match at {
            At::Open(conn) => conn.set_deadline(Some(Duration::from_millis(100))),
            other => usual(other),
        });
        let peer = stage.open();
        for _ in 0..9 {
            stage.advance(11);
            peer.send(b"x");
        }
        stage.settle();
        assert_eq!(stage.state(&peer), State::Open);
        stage.advance(4);
        peer.finish();
        stage.settle();
        assert_eq!(stage.record(&peer).closed, Some(CloseReason::Deadline(DeadlineKind::Own)));
        stage.stop();
    }
}

fn the_nearest_of_several_comes_first<D: Rig>(seed: u64) {
    for (own, expected) in [(50, DeadlineKind::Own), (150, DeadlineKind::Idle)] {
        let mut stage = Stage::<D>::with(seed, at_idle);
        stage.play(move |at| match at {
            At::Data(conn, input) => {
                input.take_all();
                conn.set_deadline(Some(Duration::from_millis(own)));
            }
            other => usual(other),
        });
        let peer = stage.open();
        peer.send(b"x");
        stage.settle();
        stage.advance(own.min(100) - 1);
        assert_eq!(stage.state(&peer), State::Open);
        stage.advance(4);
        peer.finish();
        stage.settle();
        assert_eq!(stage.record(&peer).closed, Some(CloseReason::Deadline(expected)));
        stage.stop();
    }
}

fn a_deadline_taken_away_does_not_come<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Open(conn) => conn.set_deadline(Some(Duration::from_millis(100))),
        At::Data(conn, input) => {
            input.take_all();
            conn.set_deadline(None);
        }
        other => usual(other),
    });
    let peer = stage.open();
    peer.send(b"x");
    stage.advance(100_000);
    assert_eq!(stage.state(&peer), State::Open);
    assert!(!stage.record(&peer).calls.contains(&Callback::Deadline));
    assert_eq!(stage.event_loop.state.wheel.len(), 0);
    stage.stop();
}

fn a_handler_may_go_on_after_a_deadline<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, at_idle);
    stage.play(|at| match at {
        At::Deadline(conn) => {
            assert_eq!(conn.close_reason(), Some(CloseReason::Deadline(DeadlineKind::Idle)));
            let _ = conn.send(b"ping ");
        }
        other => usual(other),
    });
    let peer = stage.open();
    stage.advance(1030);
    assert!(matches!(peer.got().len(), 45..=50), "{}", peer.got().len());
    peer.finish();
    stage.settle();
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::PeerEnded), "not the deadline");
    stage.stop();
}

fn an_earlier_deadline_replaces_a_later_one<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Open(conn) => conn.set_deadline(Some(Duration::from_secs(1000))),
        At::Data(conn, input) => {
            input.take_all();
            conn.set_deadline(Some(Duration::from_millis(10)));
        }
        other => usual(other),
    });
    let peer = stage.open();
    stage.advance(5000);
    peer.send(b"x");
    stage.settle();
    stage.advance(12);
    assert!(peer.saw_fin());
    stage.stop();
}

fn a_dial_that_is_not_answered_meets_its_deadline<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.connect_timeout = Duration::from_millis(300);
    });
    let log = stage.log.clone();
    stage.play(move |at| match at {
        At::Message(here, _) => {
            let session = log.session(None);
            let _ = here.dial(somewhere(), session);
        }
        other => usual(other),
    });
    stage.world.get().dials.push_back(Outcome::Silence);
    stage.handle().post(0, 0).unwrap();
    stage.advance(300);
    assert_eq!(stage.event_loop.state.table.len(), 1);
    stage.advance(3);
    let record = stage.log.get().records[0].clone();
    assert_eq!(record.closed, Some(CloseReason::Deadline(DeadlineKind::Connect)));
    assert_eq!(record.calls, [Callback::Close]);
    stage.stop();
}

fn a_stuck_connection_is_reset_by_its_idle_deadline<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, at_idle);
    let peer = stage.open();
    peer.reads(false);
    peer.send(&pattern(0, 200_000));
    // Looked at when idle, and once more: was anything acknowledged meanwhile? (What was on its
    // way may have been, once.)
    stage.advance(105);
    assert_eq!(stage.record(&peer).closed, None);
    stage.advance(205);
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::Deadline(DeadlineKind::Idle)));
    assert!(peer.saw_reset());
    stage.stop();
}

fn timers_come_once_in_time_and_not_after_a_cancel<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let came = Rc::new(RefCell::new(Vec::new()));
    let notes = Rc::clone(&came);
    stage.play(move |at| match at {
        At::Message(here, _) => {
            for ms in [0, 1, 2, 63, 64, 65, 4095, 4096, 4097] {
                here.after(Duration::from_millis(ms), ms);
            }
            let cancelled = here.after(Duration::from_millis(50), 50);
            assert!(here.cancel(cancelled) && !here.cancel(cancelled));
        }
        At::Timer(here, tag) => notes.borrow_mut().push((tag, here.now().as_millis() - 1000)),
        other => usual(other),
    });
    stage.handle().post(0, 0).unwrap();
    stage.advance(10_000);
    let came = came.borrow();
    let tags: Vec<_> = came.iter().map(|(tag, _)| *tag).collect();
    assert_eq!(tags, [0, 1, 2, 63, 64, 65, 4095, 4096, 4097]);
    assert!(came.iter().all(|(tag, at)| (tag + 1..=tag + 2).contains(at)), "{came:?}");
    stage.stop();
}

fn a_timer_that_rearms_itself_lets_the_loop_go_on<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    stage.play(|at| match at {
        At::Message(here, _) | At::Timer(here, _) => {
            here.after(Duration::ZERO, 1);
        }
        other => usual(other),
    });
    let peer = stage.open();
    stage.handle().post(0, 0).unwrap();
    for _ in 0..20 {
        peer.send(b"x");
        stage.advance(10);
    }
    assert_eq!(peer.got().len(), 20);
    let fired = stage.log.get().timers.len();
    assert!((150..=201).contains(&fired), "{fired} times in 200 ms");
    stage.stop();
}

fn a_message_that_posts_itself_lets_timers_come<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.mail_per_turn = 4);
    let (goes_on, goes) = (Rc::new(Cell::new(true)), Rc::new(Cell::new(0)));
    let (on, count) = (Rc::clone(&goes_on), Rc::clone(&goes));
    let handle = stage.handle();
    stage.play(move |at| match at {
        At::Message(here, n) => {
            if n == 0 {
                here.after(Duration::from_millis(10), 7);
            }
            count.set(count.get() + 1);
            if on.get() {
                handle.post(0, 1).unwrap();
            }
        }
        At::Timer(..) => on.set(false),
        other => usual(other),
    });
    let peer = stage.open();
    stage.handle().post(0, 0).unwrap();
    peer.send(b"x");
    // Time passes although the loop never sleeps.
    for _ in 0..30 {
        stage.turn();
        stage.world.get().now += 1;
        let now = stage.world.get().now;
        stage.world.get().limit = Some(now);
    }
    stage.settle();
    assert!(!goes_on.get() && goes.get() > 10);
    assert_eq!(peer.got(), b"x");
    stage.stop();
}

fn a_timer_may_cancel_any_timer<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let timers: Rc<RefCell<Vec<TimerId>>> = Rc::default();
    stage.play(move |at| match at {
        At::Message(here, _) => {
            let delay = Duration::from_millis(10);
            for tag in 0..20 {
                let timer = match tag % 2 {
                    0 => here.after(delay, tag),
                    _ => here.every(delay, tag),
                };
                timers.borrow_mut().push(timer);
            }
        }
        At::Timer(here, tag) => {
            // Its own, which has fired or goes on, and all others.
            let own = timers.borrow()[tag as usize];
            assert_eq!(here.cancel(own), tag % 2 == 1);
            for timer in timers.borrow_mut().drain(..) {
                here.cancel(timer);
            }
        }
        other => usual(other),
    });
    stage.handle().post(0, 0).unwrap();
    stage.advance(100);
    assert_eq!(stage.log.get().timers.len(), 1);
    assert_eq!(stage.event_loop.state.timers.len(), 0);
    stage.stop();
}

fn a_burst_of_timers_is_spread_over_turns<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.timers_per_turn = 10);
    stage.play(|at| match at {
        At::Message(here, _) => {
            for tag in 0..1000 {
                here.after(Duration::from_millis(20), tag);
            }
        }
        other => usual(other),
    });
    let peer = stage.open();
    stage.handle().post(0, 0).unwrap();
    stage.advance(20);
    let now = stage.world.get().now + 2;
    stage.world.get().now = now;
    stage.world.get().limit = Some(now);
    let mut most = 0;
    while stage.log.get().timers.len() < 1000 {
        let before = stage.log.get().timers.len();
        peer.send(b"x");
        stage.turn();
        most = most.max(stage.log.get().timers.len() - before);
    }
    assert_eq!(most, 10);
    stage.settle();
    let mut tags = stage.log.get().timers.clone();
    tags.dedup();
    assert_eq!(tags.len(), 1000);
    stage.stop();
}

fn the_longest_delays_do_not_wrap<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.idle_timeout = Some(Duration::MAX));
    stage.play(|at| match at {
        At::Open(conn) => conn.set_deadline(Some(Duration::from_millis(1 << 63))),
        At::Message(here, _) => {
            for ms in [(1 << 31) - 1, 1 << 31, (1 << 31) + 1, 1 << 32, 1 << 63, u64::MAX] {
                here.after(Duration::from_millis(ms), ms);
            }
        }
        other => usual(other),
    });
    let peer = stage.open();
    stage.handle().post(0, 0).unwrap();
    stage.advance((1 << 31) - 1);
    assert_eq!(stage.log.get().timers, []);
    stage.advance(10);
    assert_eq!(stage.log.get().timers.len(), 3);
    stage.advance(1 << 33);
    assert_eq!(stage.log.get().timers.len(), 4);
    assert_eq!(stage.state(&peer), State::Open);
    stage.stop();
}
