//! Jobs in slices: in rotation, beside everybody else, to the end or dropped and counted.

use super::actor::Actor;
use super::{At, Outcome, Rig, Stage, fail, on_both_rigs, somewhere, usual};
use crate::api::conn::Conn;
use crate::api::loop_context::LoopContext;
use crate::api::slices::{JobsFull, Slice};
use crate::base::close_reason::{Callback, CloseReason};
use crate::base::id::ConnId;
use crate::observe::counters::Counter;
use crate::threads::control::Phase;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

on_both_rigs! {
    jobs_take_turns_slice_by_slice: 20,
    a_neighbour_is_served_between_two_slices: 20,
    at_least_one_slice_is_done_in_a_turn: 5,
    a_job_ends_with_its_connection_and_is_counted: 20,
    a_panic_costs_the_connection_or_the_job: 20,
    a_panic_for_a_dial_gives_it_up: 10,
    at_the_bound_a_job_comes_back: 5,
    a_job_may_begin_another: 5,
    a_drain_waits_for_a_job_and_a_stop_drops_it: 20,
}

fn here<D: Rig>(stage: &mut Stage<D>) -> LoopContext<'_, Actor> {
    LoopContext::new(&mut stage.event_loop.state)
}

/// A job of a connection that sends `mark` in each of its slices.
fn marks<D: Rig>(stage: &mut Stage<D>, id: ConnId, mark: u8, slices: usize) {
    let mut left = slices;
    let job = move |_: &mut Actor, conn: &mut Conn<'_, Actor>| {
        left -= 1;
        assert!(conn.send(&[mark]).is_taken());
        if left > 0 { Slice::More } else { Slice::Done }
    };
    here(stage).connection(id).unwrap().in_slices(job).unwrap();
}

/// Says when it is dropped.
struct Held(Rc<Cell<bool>>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

/// A job that never ends, and whether it was dropped.
fn endless() -> (impl FnMut() -> Slice, Rc<Cell<bool>>) {
    let is_dropped = Rc::new(Cell::new(false));
    let held = Held(Rc::clone(&is_dropped));
    let job = move || {
        let _ = &held;
        Slice::More
    };
    (job, is_dropped)
}

/// Each slice takes all the time that a turn has for them.
fn slow_slices<D: Rig>(seed: u64) -> Stage<D> {
    Stage::<D>::with(seed, |limits| limits.slice_time_per_turn = Duration::from_millis(1))
}

fn jobs_take_turns_slice_by_slice<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peers = [stage.open(), stage.open()];
    let order = Rc::new(Cell::new(0));
    let last_of = Rc::clone(&order);
    let mut own = 0;
    let job = move |_: &mut Actor, _: &mut LoopContext<'_, Actor>| {
        own += 1;
        last_of.set(last_of.get().max(own));
        if own < 4 { Slice::More } else { Slice::Done }
    };
    here(&mut stage).in_slices(job).unwrap();
    for (n, peer) in peers.iter().enumerate() {
        let id = stage.id(peer);
        marks(&mut stage, id, b'a' + n as u8, 3);
    }
    stage.settle();
    assert_eq!((peers[0].got(), peers[1].got()), (b"aaa".to_vec(), b"bbb".to_vec()));
    assert_eq!(order.get(), 4);
    assert_eq!(stage.count(Counter::Slices), 4 + 3 + 3);
    assert_eq!((stage.count(Counter::Jobs), stage.count(Counter::JobsDropped)), (0, 0));
    stage.stop();
}

fn a_neighbour_is_served_between_two_slices<D: Rig>(seed: u64) {
    let mut stage = slow_slices::<D>(seed);
    let (worker, neighbour) = (stage.open(), stage.open());
    let (id, world) = (stage.id(&worker), stage.world.clone());
    let mut left = 200;
    let job = move |_: &mut Actor, conn: &mut Conn<'_, Actor>| {
        world.get().now += 1;
        left -= 1;
        if left > 0 {
            return Slice::More;
        }
        assert!(conn.send(b"done").is_taken());
        Slice::Done
    };
    here(&mut stage).connection(id).unwrap().in_slices(job).unwrap();
    neighbour.send(b"ping");
    let mut turns = 0;
    while neighbour.got() != b"ping" {
        stage.turn();
        turns += 1;
        assert!(turns < 100, "the neighbour waits for the job");
    }
    assert!(worker.got().is_empty(), "the job was done in {turns} turns");
    stage.settle();
    assert_eq!(worker.got(), b"done");
    stage.stop();
}

fn at_least_one_slice_is_done_in_a_turn<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.slice_time_per_turn = Duration::ZERO);
    let peer = stage.open();
    let id = stage.id(&peer);
    marks(&mut stage, id, b'x', 5);
    for turn in 1..=5 {
        stage.turn();
        assert_eq!(stage.count(Counter::Slices), turn);
    }
    stage.settle();
    assert_eq!(peer.got(), b"xxxxx");
    stage.stop();
}

fn a_job_ends_with_its_connection_and_is_counted<D: Rig>(seed: u64) {
    let mut stage = slow_slices::<D>(seed);
    let (leaver, stayer) = (stage.open(), stage.open());
    let (id, world) = (stage.id(&leaver), stage.world.clone());
    let (mut endless, is_dropped) = endless();
    let job = move |_: &mut Actor, _: &mut Conn<'_, Actor>| {
        world.get().now += 1;
        endless()
    };
    here(&mut stage).connection(id).unwrap().in_slices(job).unwrap();
    (0..10).for_each(|_| stage.turn());
    assert!(!is_dropped.get());
    leaver.reset();
    stage.settle();
    assert!(is_dropped.get());
    assert_eq!(stage.count(Counter::JobsDropped), 1);
    // Whoever has the slot now has nothing to do with it.
    let next = stage.open();
    for peer in [&next, &stayer] {
        peer.send(b"hello");
        stage.settle();
        assert_eq!(peer.got(), b"hello");
    }
    stage.stop();
}

fn a_panic_costs_the_connection_or_the_job<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let (peer, other) = (stage.open(), stage.open());
    let id = stage.id(&peer);
    let log = stage.log.clone();
    stage.panics_are_counted_by(move || log.get().panics.len() as u64);
    let job = |_: &mut Actor, conn: &mut Conn<'_, Actor>| {
        assert!(conn.send(b"taken back").is_taken());
        fail()
    };
    here(&mut stage).connection(id).unwrap().in_slices(job).unwrap();
    here(&mut stage).in_slices(|_, _| fail()).unwrap();
    stage.settle();
    assert!(peer.got().is_empty() && stage.count(Counter::Panics) == 2);
    peer.finish();
    stage.settle();
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::Panicked(Callback::Job)));
    other.send(b"goes on");
    stage.settle();
    assert_eq!(other.got(), b"goes on");
    stage.stop();
}

fn a_panic_for_a_dial_gives_it_up<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let log = stage.log.clone();
    stage.world.get().dials.push_back(Outcome::Silence);
    let id = here(&mut stage).dial(somewhere(), log.session(None)).unwrap();
    here(&mut stage).connection(id).unwrap().in_slices(|_, _| fail()).unwrap();
    stage.panics_are_counted_by(move || log.get().panics.len() as u64);
    stage.settle();
    let record = stage.log.get().records[0].clone();
    assert_eq!(record.closed, Some(CloseReason::Panicked(Callback::Job)));
    assert_eq!((stage.event_loop.state.table.len(), stage.count(Counter::Panics)), (0, 1));
    stage.stop();
}

fn at_the_bound_a_job_comes_back<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.jobs_max = 2);
    let done = |_: &mut Actor, _: &mut LoopContext<'_, Actor>| Slice::Done;
    for _ in 0..3 {
        here(&mut stage).in_slices(done).unwrap();
        here(&mut stage).in_slices(done).unwrap();
        let Err(JobsFull(_given_back)) = here(&mut stage).in_slices(done) else {
            panic!("a third was taken");
        };
        stage.settle();
    }
    assert_eq!(stage.count(Counter::Slices), 6);
    stage.stop();
}

fn a_job_may_begin_another<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.jobs_max = 1);
    stage.play(|at| match at {
        At::Data(conn, input) => {
            let bytes = input.take_all().to_vec();
            let job = move |_: &mut Actor, conn: &mut Conn<'_, Actor>| {
                let id = conn.id();
                let bytes = bytes.clone();
                let next = move |_: &mut Actor, here: &mut LoopContext<'_, Actor>| {
                    assert!(here.connection(id).unwrap().send(&bytes).is_taken());
                    Slice::Done
                };
                conn.event_loop().in_slices(next).unwrap();
                Slice::Done
            };
            conn.in_slices(job).unwrap();
        }
        other => usual(other),
    });
    let peer = stage.open();
    peer.send(b"!");
    stage.settle();
    assert_eq!(peer.got(), b"!");
    stage.stop();
}

fn a_drain_waits_for_a_job_and_a_stop_drops_it<D: Rig>(seed: u64) {
    let mut stage = slow_slices::<D>(seed);
    let peer = stage.open();
    let world = stage.world.clone();
    let (mut endless, is_dropped) = endless();
    let job = move |_: &mut Actor, _: &mut LoopContext<'_, Actor>| {
        world.get().now += 1;
        endless()
    };
    here(&mut stage).in_slices(job).unwrap();
    stage.shared.raise(Phase::Drain);
    stage.shared.loops[0].arrivals_ended.store(true, std::sync::atomic::Ordering::Release);
    peer.finish();
    for _ in 0..200 {
        assert!(stage.event_loop.turn().unwrap(), "it ended with a job under way");
    }
    assert!(!is_dropped.get());
    stage.shared.raise(Phase::Stop);
    while stage.event_loop.turn().unwrap() {}
    assert!(is_dropped.get());
    assert_eq!((stage.count(Counter::JobsDropped), stage.count(Counter::Jobs)), (1, 0));
}
