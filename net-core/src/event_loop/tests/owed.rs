//! What is owed to a peer: an answer that is being made when its FIN comes, or the drain.

use super::{At, Rig, Stage, on_both_rigs, pattern, usual};
use crate::api::pool::Pool;
use crate::api::slices::Slice;
use crate::base::close_reason::CloseReason;
use crate::connection::outbox::SendOutcome;
use crate::threads::control::Phase;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long an answer of a pool may take that takes no time.
const PATIENCE: Duration = Duration::from_secs(60);

on_both_rigs! {
    who_sends_no_more_gets_the_answer_of_a_job_in_slices: 20,
    who_sends_no_more_gets_the_answers_of_a_pool: 5,
    a_job_that_is_given_up_is_waited_for_no_more: 5,
    who_sends_no_more_is_finished_when_its_handler_is_not_busy: 10,
    a_long_answer_in_parts_is_whole_although_its_peer_has_ended: 20,
    what_a_handler_says_ends_no_job: 10,
    a_drain_waits_for_the_jobs_of_a_connection: 20,
    what_ends_a_connection_ends_it_although_an_answer_is_owed: 10,
}

/// Begins a job in slices for each byte that comes, which answers with it in its fifth slice.
fn in_slices(at: At<'_, '_, '_>) {
    let At::Data(conn, input) = at else { return usual(at) };
    for &byte in input.take_all() {
        let mut left = 5;
        let job = conn.in_slices(move |_, conn| {
            left -= 1;
            if left > 0 {
                return Slice::More;
            }
            assert!(conn.send(&[byte]).is_taken(), "it was ended before its answer");
            Slice::Done
        });
        job.unwrap();
    }
}

/// `printf abc | nc -N` to the example in the documentation of `Conn::in_slices`: the answers were lost,
/// since the default `on_end` finished the connection at once.
fn who_sends_no_more_gets_the_answer_of_a_job_in_slices<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.slice_time_per_turn = Duration::ZERO);
    stage.play(in_slices);
    let peer = stage.open();
    peer.send(b"abc");
    peer.finish();
    stage.settle();
    assert_eq!(peer.got(), b"abc");
    assert!(peer.saw_fin() && !peer.saw_reset());
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::PeerEnded));
    assert!(stage.event_loop.state.owed.is_empty());
    stage.stop();
}

/// Turns until `is_so`: what a pool's thread does takes time that the world does not know.
fn turn_until<D: Rig>(stage: &mut Stage<D>, mut is_so: impl FnMut(&mut Stage<D>) -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so(stage) {
        assert!(Instant::now() < until, "it does not come");
        stage.turn();
        thread::yield_now();
    }
    stage.settle();
}

/// The same with the example of `Pool`: the default `on_end` did not know of its jobs.
fn who_sends_no_more_gets_the_answers_of_a_pool<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let pool = Pool::new(1, 8).unwrap();
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Arc::new(std::sync::Mutex::new(released));
    stage.play({
        let pool = pool.clone();
        move |at| {
            let At::Data(conn, input) = at else { return usual(at) };
            for &byte in input.take_all() {
                let released = std::sync::Arc::clone(&released);
                let work = move || {
                    released.lock().unwrap().recv().unwrap();
                    byte
                };
                let offloaded = pool.offload(conn, work, |conn, byte| {
                    assert!(conn.send(&[byte.unwrap()]).is_taken(), "it was ended before");
                });
                offloaded.unwrap();
            }
        }
    });
    let peer = stage.open();
    peer.send(b"abc");
    peer.finish();
    stage.settle();
    assert!(!peer.saw_fin(), "three answers are owed");
    for answers in 1..=3 {
        release.send(()).unwrap();
        turn_until(&mut stage, |_| peer.got().len() == answers);
        assert_eq!(peer.saw_fin(), answers == 3);
    }
    assert_eq!(peer.got(), b"abc");
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::PeerEnded));
    stage.stop();
}

fn a_job_that_is_given_up_is_waited_for_no_more<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let pool = Pool::new(1, 8).unwrap();
    let (release, released) = mpsc::channel::<()>();
    let mut pool_of_handler = Some((pool.clone(), released));
    let is_dropped = Rc::new(Cell::new(false));
    let drops = Rc::clone(&is_dropped);
    stage.play(move |at| {
        let At::Data(conn, input) = at else { return usual(at) };
        input.take_all();
        let (pool, released) = pool_of_handler.take().unwrap();
        // The thread is at the first, and nobody has begun the second.
        let first = pool.offload(conn, move || _ = released.recv(), |_, _| {});
        let second = pool.offload(conn, || {}, |_, _| panic!("it was given up"));
        assert!(first.is_ok() && second.is_ok());
        drops.set(true);
    });
    let peer = stage.open();
    peer.send(b"x");
    stage.settle();
    assert!(is_dropped.get());
    turn_until(&mut stage, |_| pool.counts().running == 1);
    drop(pool);
    peer.finish();
    stage.settle();
    assert!(!peer.saw_fin());
    release.send(()).unwrap();
    turn_until(&mut stage, |_| peer.saw_fin());
    stage.stop();
}

/// The handler works elsewhere, and says so: until now that was asked of it, and no use at the FIN.
fn who_sends_no_more_is_finished_when_its_handler_is_not_busy<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peer = stage.open();
    let id = stage.id(&peer);
    stage.play(move |at| match at {
        At::Data(conn, input) => {
            input.take_all();
            conn.set_busy(true);
        }
        At::Message(here, _) => {
            let mut conn = here.connection(id).unwrap();
            assert!(conn.send(b"answer").is_taken());
            conn.set_busy(false);
        }
        other => usual(other),
    });
    peer.send(b"question");
    peer.finish();
    stage.settle();
    assert!(!peer.saw_fin());
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    assert_eq!(peer.got(), b"answer");
    assert!(peer.saw_fin() && !peer.saw_reset());
    stage.stop();
}

/// An answer that goes on in `on_sent`, or in `on_writable`, is longer than what is queued when the FIN
/// comes.
fn a_long_answer_in_parts_is_whole_although_its_peer_has_ended<D: Rig>(seed: u64) {
    const PARTS: usize = 40;
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.high_watermark = 4096;
        limits.low_watermark = 1024;
    });
    let goes_by_room = seed.is_multiple_of(2);
    let mut parts = 0;
    stage.play(move |at| {
        let mut part = || {
            parts += 1;
            (parts <= PARTS).then(|| pattern((parts - 1) * 3000, 3000))
        };
        match at {
            At::Data(conn, input) => {
                input.take_all();
                if goes_by_room {
                    while conn.send(&part().unwrap()) != SendOutcome::AboveHighWatermark {}
                } else {
                    assert!(conn.send(&part().unwrap()).is_taken());
                    conn.notify_sent(0);
                }
            }
            At::Room(conn) if goes_by_room => {
                while let Some(part) = part() {
                    match conn.send(&part) {
                        SendOutcome::Queued => {}
                        SendOutcome::AboveHighWatermark => break,
                        other => panic!("{other:?}: it was ended before its answer was whole"),
                    }
                }
            }
            At::Sent(conn, _) => {
                if let Some(part) = part() {
                    assert!(
                        conn.send(&part).is_taken(),
                        "it was ended before its answer was whole"
                    );
                    conn.notify_sent(0);
                }
            }
            other => usual(other),
        }
    });
    let peer = stage.open();
    peer.reads(false);
    peer.send(b"question");
    peer.finish();
    stage.settle();
    for _ in 0..2000 {
        peer.read(1000);
        stage.settle();
    }
    peer.reads(true);
    stage.settle();
    assert_eq!(peer.got().len(), PARTS * 3000);
    assert!(peer.got() == pattern(0, PARTS * 3000), "other bytes");
    assert!(peer.saw_fin() && !peer.saw_reset());
    stage.stop();
}

fn what_a_handler_says_ends_no_job<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.slice_time_per_turn = Duration::ZERO);
    let says = seed.is_multiple_of(2);
    let peer = stage.open();
    let id = stage.id(&peer);
    stage.play(move |at| match at {
        At::Message(here, _) => here.connection(id).unwrap().set_busy(false),
        At::End(conn) => {
            conn.set_busy(says);
            usual(At::End(conn));
        }
        other => in_slices(other),
    });
    peer.send(b"a");
    peer.finish();
    stage.settle();
    assert_eq!(peer.got(), b"a");
    assert_eq!(peer.saw_fin(), !says, "what was said meanwhile holds when the job is done");
    if says {
        stage.handle().post(0, 0).unwrap();
        stage.settle();
    }
    assert!(peer.saw_fin());
    stage.stop();
}

/// A drain took a connection for idle whose handler had not said `set_busy` with its job.
fn a_drain_waits_for_the_jobs_of_a_connection<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.slice_time_per_turn = Duration::ZERO);
    stage.play(in_slices);
    let peers = [stage.open(), stage.open()];
    peers[0].send(b"abc");
    stage.turn();
    stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
    stage.shared.raise(Phase::Drain);
    for _ in 0..10 {
        stage.advance(1000);
    }
    assert!(stage.is_over);
    assert_eq!(peers[0].got(), b"abc");
    assert!(peers.iter().all(|peer| !peer.saw_reset()));
    stage.stop();
}

fn what_ends_a_connection_ends_it_although_an_answer_is_owed<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.idle_timeout = Some(Duration::from_secs(10));
    });
    let [closed, reset, idle] = [stage.open(), stage.open(), stage.open()];
    let (closed_id, reset_id) = (stage.id(&closed), stage.id(&reset));
    stage.play(move |at| match at {
        At::Data(conn, input) => {
            input.take_all();
            conn.set_busy(true);
        }
        At::Message(here, _) => {
            here.connection(closed_id).unwrap().close();
            here.connection(reset_id).unwrap().reset();
        }
        other => usual(other),
    });
    for peer in [&closed, &reset, &idle] {
        peer.send(b"question");
        peer.finish();
    }
    stage.settle();
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    assert!(closed.saw_fin() && reset.saw_reset() && !idle.saw_fin());
    stage.advance(20_000);
    assert!(idle.saw_fin());
    assert!(stage.event_loop.state.owed.is_empty());
    stage.stop();
}
