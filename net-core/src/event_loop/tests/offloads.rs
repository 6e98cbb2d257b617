//! Work in a pool: the answer comes to its connection on its loop, or is dropped and counted.

use super::actor::Actor;
use super::{Rig, Stage, on_both_rigs};
use crate::api::loop_context::LoopContext;
use crate::api::loop_spawner::LoopTask;
use crate::api::pool::{JobPanicked, Pool, PoolCounts};
use crate::base::close_reason::{Callback, CloseReason};
use crate::observe::counters::Counter;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long answers may take that take no time.
const PATIENCE: Duration = Duration::from_secs(60);

on_both_rigs! {
    an_answer_comes_to_its_connection_and_a_neighbour_is_served_meanwhile: 5,
    who_has_gone_costs_nothing_and_is_counted: 5,
    a_full_pool_gives_the_work_back: 5,
    a_job_that_panics_is_an_answer: 5,
    a_panic_with_the_answer_closes_its_connection: 5,
    a_full_mailbox_delays_an_answer_and_loses_none: 3,
    who_leaves_its_answers_lying_gets_no_more_of_them: 3,
    work_that_is_tried_again_is_boxed_once: 3,
}

/// Hands `work` over for the connection. False: the pool was full.
fn offload<D: Rig>(
    stage: &mut Stage<D>,
    pool: &Pool,
    id: crate::base::id::ConnId,
    work: impl FnOnce() -> Vec<u8> + Send + 'static,
) -> bool {
    let mut here = LoopContext::<Actor>::new(&mut stage.event_loop.state);
    let mut conn = here.connection(id).unwrap();
    let taken = pool.offload(&mut conn, work, |conn, answer| match answer {
        Ok(bytes) if bytes.is_empty() => {
            assert!(conn.send(b"taken back").is_taken());
            super::fail()
        }
        Ok(bytes) => _ = conn.send(&bytes),
        Err(JobPanicked) => _ = conn.send(b"panicked"),
    });
    taken.is_ok()
}

/// A job that takes until it is released, by the returned end.
fn offload_held<D: Rig>(
    stage: &mut Stage<D>,
    pool: &Pool,
    id: crate::base::id::ConnId,
    answer: &'static [u8],
) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel();
    let work = move || {
        released.recv().unwrap();
        answer.to_vec()
    };
    assert!(offload(stage, pool, id, work));
    release
}

/// Lets the loop turn until every answer is decided. It settles only then: a pool's thread may bring
/// mail just after the loop has looked.
fn rest<D: Rig>(stage: &mut Stage<D>, pool: &Pool, decided: u64) -> PoolCounts {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        stage.turn();
        let counts = pool.counts();
        if counts.answered + counts.dropped == decided && counts.running == 0 {
            stage.settle();
            return counts;
        }
        thread::yield_now();
    }
    panic!("{decided} answers were due: {:?}", pool.counts());
}

fn an_answer_comes_to_its_connection_and_a_neighbour_is_served_meanwhile<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let pool = Pool::new(1, 4).unwrap();
    let (asker, neighbour) = (stage.open(), stage.open());
    let id = stage.id(&asker);
    let release = offload_held(&mut stage, &pool, id, b"done");
    neighbour.send(b"on");
    stage.settle();
    assert_eq!((asker.got().len(), neighbour.got()), (0, b"on".to_vec()));
    release.send(()).unwrap();
    let counts = rest(&mut stage, &pool, 1);
    assert_eq!(asker.got(), b"done");
    assert_eq!(counts, PoolCounts { answered: 1, ..PoolCounts::default() });
    stage.stop();
}

fn who_has_gone_costs_nothing_and_is_counted<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let pool = Pool::new(1, 4).unwrap();
    let peer = stage.open();
    let id = stage.id(&peer);
    let release = offload_held(&mut stage, &pool, id, b"late");
    LoopContext::<Actor>::new(&mut stage.event_loop.state).connection(id).unwrap().reset();
    stage.settle();
    // Whoever has its slot next is not the one who asked.
    let next = stage.open();
    release.send(()).unwrap();
    let counts = rest(&mut stage, &pool, 1);
    assert_eq!(counts, PoolCounts { dropped: 1, ..PoolCounts::default() });
    assert!(next.got().is_empty());
    stage.stop();
}

fn a_full_pool_gives_the_work_back<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let pool = Pool::new(1, 1).unwrap();
    let peer = stage.open();
    let id = stage.id(&peer);
    let release = offload_held(&mut stage, &pool, id, b"1");
    while pool.counts().running == 0 {
        thread::yield_now();
    }
    assert!(offload(&mut stage, &pool, id, || b"2".to_vec()));
    assert!(!offload(&mut stage, &pool, id, || b"3".to_vec()));
    release.send(()).unwrap();
    let counts = rest(&mut stage, &pool, 2);
    assert_eq!(peer.got(), b"12");
    assert_eq!(counts, PoolCounts { answered: 2, refused: 1, ..PoolCounts::default() });
    stage.stop();
}

fn a_job_that_panics_is_an_answer<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let pool = Pool::new(1, 4).unwrap();
    let peer = stage.open();
    let id = stage.id(&peer);
    assert!(offload(&mut stage, &pool, id, || super::fail()));
    assert!(offload(&mut stage, &pool, id, || b", and on".to_vec()));
    let counts = rest(&mut stage, &pool, 2);
    assert_eq!(peer.got(), b"panicked, and on");
    assert_eq!(counts, PoolCounts { answered: 2, panicked: 1, ..PoolCounts::default() });
    stage.stop();
}

fn a_panic_with_the_answer_closes_its_connection<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let pool = Pool::new(1, 4).unwrap();
    let (peer, neighbour) = (stage.open(), stage.open());
    let id = stage.id(&peer);
    let log = stage.log.clone();
    stage.panics_are_counted_by(move || log.get().panics.len() as u64);
    assert!(offload(&mut stage, &pool, id, Vec::new));
    let counts = rest(&mut stage, &pool, 1);
    assert_eq!(counts, PoolCounts { answered: 1, ..PoolCounts::default() });
    assert_eq!(stage.log.get().panics, [Callback::Answer]);
    peer.finish();
    stage.settle();
    assert!(peer.got().is_empty());
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::Panicked(Callback::Answer)));
    neighbour.send(b"on");
    stage.settle();
    assert_eq!(neighbour.got(), b"on");
    stage.stop();
}

fn a_full_mailbox_delays_an_answer_and_loses_none<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.mail_queue = 2);
    let pool = Pool::new(1, 8).unwrap();
    let peer = stage.open();
    let id = stage.id(&peer);
    for byte in b'a'..b'i' {
        while !offload(&mut stage, &pool, id, move || vec![byte]) {
            thread::yield_now();
        }
    }
    // The loop does not turn: two are in the mailbox, and six beside it. No thread waits with them.
    let until = Instant::now() + Duration::from_secs(60);
    while pool.counts() != PoolCounts::default() {
        assert!(Instant::now() < until, "{:?}", pool.counts());
        thread::yield_now();
    }
    rest(&mut stage, &pool, 8);
    assert_eq!(peer.got(), b"abcdefgh");
    assert_eq!(stage.count(Counter::MailLost), 0);
    stage.stop();
}

/// Answers that wait beside a full mailbox hold no thread, so they hold the next job back instead.
fn who_leaves_its_answers_lying_gets_no_more_of_them<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.mail_queue = 1);
    let pool = Pool::new(2, 2).unwrap();
    let peer = stage.open();
    let id = stage.id(&peer);
    let until = Instant::now() + Duration::from_secs(60);
    let mut taken = 0;
    while stage.shared.loops[0].mail.len_beyond() < 2
        || pool.counts().waiting + pool.counts().running > 0
    {
        assert!(Instant::now() < until, "{:?}", pool.counts());
        taken += usize::from(offload(&mut stage, &pool, id, || b"a".to_vec()));
        thread::yield_now();
    }
    for _ in 0..10 {
        assert!(!offload(&mut stage, &pool, id, || b"b".to_vec()));
    }
    rest(&mut stage, &pool, taken as u64);
    assert_eq!(peer.got(), vec![b'a'; taken]);
    assert!(offload(&mut stage, &pool, id, || b"c".to_vec()), "it has taken them");
    rest(&mut stage, &pool, taken as u64 + 1);
    stage.stop();
}

fn work_that_is_tried_again_is_boxed_once<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.mail_queue = 1);
    let runner = LoopContext::<Actor>::new(&mut stage.event_loop.state).spawner();
    runner.run(0, |_, _| {}).unwrap();
    let (told, ran) = mpsc::channel();
    let mut work: LoopTask<Actor> = Box::new(move |_, _| told.send(()).unwrap());
    let boxed_at = (&raw const *work).addr();
    for _ in 0..100 {
        work = runner.run_boxed(0, work).unwrap_err().into_inner();
    }
    assert_eq!((&raw const *work).addr(), boxed_at, "each attempt wraps it once more");
    stage.settle();
    runner.run_boxed(0, work).unwrap();
    stage.settle();
    assert!(ran.try_recv().is_ok() && ran.try_recv().is_err());
    stage.stop();
}
