//! Chains: callbacks whose own doing brings about the next. However one goes on, each turn ends, a
//! neighbour is served, and a stop is obeyed.

use super::actor::{Actor, Session};
use super::{At, Outcome, Peer, Rig, Stage, fail, on_both_rigs, somewhere, usual};
use crate::api::conn::Conn;
use crate::api::loop_context::LoopContext;
use crate::api::loop_spawner::LoopSpawner;
use crate::api::server_handle::ServerHandle;
use crate::api::slices::Slice;
use crate::base::close_reason::Callback;
use crate::base::id::ConnId;
use crate::config::limits::Limits;
use crate::features::broadcast::Broadcast;
use crate::features::dial::Dial;
use crate::observe::counters::Counter;
use crate::threads::control::Phase;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

on_both_rigs! {
    whatever_a_callback_chains_a_neighbour_is_served_and_a_stop_is_obeyed: 8,
    a_stream_by_on_sent_gets_its_budget_and_no_more_per_turn: 10,
    marks_that_are_reached_together_are_told_in_one_turn: 10,
    answers_to_marks_of_one_turn_do_not_meet_the_hard_cap: 10,
    what_one_callback_asks_of_a_crowd_is_done_over_turns: 5,
    the_list_of_the_ready_stays_short_however_many_come_and_go: 1,
    the_dead_on_the_list_of_the_ready_keep_nobody_waiting: 10,
    receives_that_bring_one_byte_each_are_few_in_a_turn: 10,
    who_is_at_the_door_when_it_is_shut_is_let_in_over_turns: 10,
}

/// What a turn does at most of each kind, in these tests.
const A_TURN: usize = 8;

/// How a callback brings about the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Chain {
    /// Told that all is sent, it sends on and asks to be told again.
    Stream,
    /// The same of nothing.
    Mark,
    /// Each asks for the other to be told.
    MarkOther,
    /// With room again, it sends until it is above its mark.
    Room,
    /// With room again, it sends to the next one.
    RoomOfOthers,
    /// A message posts two more.
    Message,
    /// A piece of work runs the next one.
    LoopTask,
    /// A timer arms the next one for now.
    Timer,
    /// A deadline sets the next one for now.
    Deadline,
    /// A job that is never done.
    Slices,
    /// A job that is done, and begins the next one.
    Jobs,
    /// What follows a broadcast begins the next one.
    Broadcast,
    /// A handler that takes nothing, and resumes.
    Resume,
    /// Over before it was up, it is dialled again.
    Dial,
    /// A message sends to everybody, and posts itself again.
    Everybody,
    /// A tunnel whose ends meet: what leaves by one comes in by the other.
    Tunnel,
    /// A callback that panics, and is brought about by another.
    Panic,
}

const ALL: [Chain; 17] = [
    Chain::Stream,
    Chain::Mark,
    Chain::MarkOther,
    Chain::Room,
    Chain::RoomOfOthers,
    Chain::Message,
    Chain::LoopTask,
    Chain::Timer,
    Chain::Deadline,
    Chain::Slices,
    Chain::Jobs,
    Chain::Broadcast,
    Chain::Resume,
    Chain::Dial,
    Chain::Everybody,
    Chain::Tunnel,
    Chain::Panic,
];

/// The callbacks of a chain so far.
type Links = Arc<AtomicUsize>;

fn link(links: &Links) {
    links.fetch_add(1, Ordering::Relaxed);
}

fn count(links: &Links) -> usize {
    links.load(Ordering::Relaxed)
}

fn work_again(runner: &LoopSpawner<Actor>, links: &Links) {
    let (next, links) = (runner.clone(), Arc::clone(links));
    let _ = runner.run(0, move |_, _| {
        link(&links);
        work_again(&next, &links);
    });
}

fn job_again(here: &mut LoopContext<'_, Actor>, links: &Links) {
    let links = Arc::clone(links);
    let job = move |_: &mut Actor, here: &mut LoopContext<'_, Actor>| {
        link(&links);
        job_again(here, &links);
        Slice::Done
    };
    assert!(here.in_slices(job).is_ok());
}

fn broadcast_again(handle: &ServerHandle<u64>, links: &Links) {
    let (next, links) = (handle.clone(), Arc::clone(links));
    let then = move |_| {
        link(&links);
        broadcast_again(&next, &links);
    };
    handle.broadcast(Broadcast::new("!").to_topic("nobody").then(then));
}

fn dial_again(conn: &mut Conn<'_, Actor>) {
    let session: Session = conn.session().another();
    let _ = conn.event_loop().dial(Dial::to(somewhere()), session); // refused at the end
}

/// What begins a chain: in `on_data` of one of the chainers.
fn begin(chain: Chain, conn: &mut Conn<'_, Actor>, chainers: &[ConnId], links: &Links) {
    match chain {
        Chain::Stream | Chain::Mark | Chain::MarkOther | Chain::Panic => conn.notify_sent(0),
        Chain::Room | Chain::RoomOfOthers => _ = conn.send(&[1; 200]),
        Chain::Message | Chain::Everybody => drop(conn.event_loop().handle().post(0, 0)),
        Chain::LoopTask => work_again(&conn.event_loop().spawner(), links),
        Chain::Timer => _ = conn.event_loop().after(Duration::ZERO, 0),
        Chain::Deadline => conn.set_deadline(Some(Duration::ZERO)),
        Chain::Slices => {
            let links = Arc::clone(links);
            let endless = move |_: &mut Actor, _: &mut Conn<'_, Actor>| {
                link(&links);
                Slice::More
            };
            assert!(conn.in_slices(endless).is_ok());
        }
        Chain::Jobs => job_again(&mut conn.event_loop(), links),
        Chain::Broadcast => broadcast_again(&conn.event_loop().handle(), links),
        Chain::Resume => {
            conn.pause();
            conn.resume();
        }
        Chain::Dial => dial_again(conn),
        Chain::Tunnel if conn.id() == chainers[0] => assert!(conn.tunnel_with(chainers[1])),
        Chain::Tunnel => {}
    }
}

/// What a chainer's callback does: the next link.
fn play(chain: Chain, at: At<'_, '_, '_>, chainers: &[ConnId], links: &Links) {
    match (chain, at) {
        (Chain::Resume, At::Data(conn, _)) => {
            link(links);
            begin(chain, conn, chainers, links);
        }
        (Chain::Tunnel, At::Data(conn, _)) => begin(chain, conn, chainers, links),
        (_, At::Data(conn, input)) => {
            input.take_all();
            begin(chain, conn, chainers, links);
        }
        (Chain::Stream, At::Sent(conn, _)) => {
            link(links);
            let _ = conn.send(&[1; 300]);
            conn.notify_sent(0);
        }
        (Chain::Mark, At::Sent(conn, _)) => {
            link(links);
            conn.notify_sent(0);
        }
        (Chain::MarkOther, At::Sent(conn, _)) => {
            link(links);
            let own = chainers.iter().position(|id| *id == conn.id()).unwrap();
            let next = chainers[(own + 1) % chainers.len()];
            conn.other(next).into_iter().for_each(|mut other| other.notify_sent(0));
        }
        (Chain::Room, At::Room(conn)) => {
            link(links);
            let _ = conn.send(&[1; 200]);
        }
        (Chain::RoomOfOthers, At::Room(conn)) => {
            link(links);
            let own = chainers.iter().position(|id| *id == conn.id()).unwrap();
            let next = chainers[(own + 1) % chainers.len()];
            conn.other(next).into_iter().for_each(|mut other| _ = other.send(&[1; 200]));
        }
        (Chain::Message, At::Message(here, _)) => {
            link(links);
            for _ in 0..2 {
                let _ = here.handle().post(0, 0); // full after a while
            }
        }
        (Chain::Timer, At::Timer(here, _)) => {
            link(links);
            here.after(Duration::ZERO, 0);
        }
        (Chain::Deadline, At::Deadline(conn)) => {
            link(links);
            conn.set_deadline(Some(Duration::ZERO));
        }
        (Chain::Dial, At::Close(conn)) if !chainers.contains(&conn.id()) => {
            link(links);
            dial_again(conn);
        }
        (Chain::Everybody, At::Message(here, _)) => {
            link(links);
            here.each(|conn| {
                if chainers.contains(&conn.id()) {
                    let _ = conn.send(b"all");
                    conn.notify_sent(0);
                }
            });
            let _ = here.handle().post(0, 0);
        }
        (Chain::Everybody, At::Sent(..)) => link(links),
        (Chain::Panic, At::Sent(conn, _)) => {
            link(links);
            let own = conn.id();
            for id in chainers.iter().filter(|id| **id != own) {
                conn.other(*id).into_iter().for_each(|mut other| other.notify_sent(0));
            }
            fail();
        }
        (_, other) => usual(other),
    }
}

fn few(limits: &mut Limits) {
    limits.deferred_per_turn = A_TURN;
    limits.mail_per_turn = A_TURN;
    limits.timers_per_turn = A_TURN;
    limits.mail_queue = 64;
    limits.high_watermark = 100;
    limits.low_watermark = 100;
    limits.cork_bytes = 16 << 10;
}

/// What the neighbour does, and what everybody else does.
fn beside<D: Rig>(
    stage: &mut Stage<D>,
    neighbour: ConnId,
    mut others: impl FnMut(At<'_, '_, '_>) + 'static,
) {
    stage.play(move |at| match at {
        At::Data(conn, input) if conn.id() == neighbour => _ = conn.echo(input),
        other => others(other),
    });
}

/// A turn, a little later than the one before.
fn next_turn<D: Rig>(stage: &mut Stage<D>) {
    let now = stage.world.get().now + 2;
    stage.world.get().now = now;
    stage.world.get().limit = Some(now);
    stage.turn();
    stage.world.get().flow();
}

/// The neighbour asks, and turns are made until it is answered: not many, and after each `look`.
fn is_answered<D: Rig>(
    stage: &mut Stage<D>,
    neighbour: &Peer,
    mut look: impl FnMut(&mut Stage<D>),
) {
    let answered = neighbour.got().len() + 4;
    neighbour.send(b"ping");
    let mut turns = 0;
    while neighbour.got().len() < answered {
        next_turn(stage);
        look(stage);
        turns += 1;
        // A signal may be late.
        assert!(turns < 60, "the neighbour starves");
    }
}

/// A stop, of which nobody is told that it is the last moment.
fn stop_is_obeyed<D: Rig>(mut stage: Stage<D>) {
    stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
    stage.shared.raise(Phase::Stop);
    let mut turns = 0;
    while !stage.is_over {
        next_turn(&mut stage);
        turns += 1;
        assert!(turns <= 20, "the stop is not obeyed");
    }
    stage.stop();
}

/// `on_sent` that asked to be told again never let its turn end: nobody else was served, and a stop was
/// not heard. Here each kind of callback does what brings it about again, for ever.
fn whatever_a_callback_chains_a_neighbour_is_served_and_a_stop_is_obeyed<D: Rig>(seed: u64) {
    for chain in ALL {
        let mut stage = Stage::<D>::with(seed, few);
        stage.note(format!("a chain by {chain:?}"));
        stage.panics_are_counted_by({
            let log = stage.log.clone();
            move || log.get().panics.len() as u64
        });
        stage.world.get().buffers = (1 << 20, 1 << 20);
        if chain == Chain::Dial {
            let refused = std::iter::repeat_n(Outcome::Fails(libc::ECONNREFUSED), 20_000);
            stage.world.get().dials.extend(refused);
        }
        let neighbour = stage.open();
        let chainers: Vec<Peer> = (0..4).map(|_| stage.open()).collect();
        let ids: Vec<ConnId> = chainers.iter().map(|peer| stage.id(peer)).collect();
        let links = Links::default();
        let its_own = stage.id(&neighbour);
        beside(&mut stage, its_own, {
            let links = Arc::clone(&links);
            move |at| play(chain, at, &ids, &links)
        });
        chainers.iter().for_each(|peer| peer.send(b"go"));
        let mut passed = [0; 2];
        let mut before = 0;
        for _ in 0..40 {
            is_answered(&mut stage, &neighbour, |_| {
                let links_now = count(&links);
                let made = links_now - before;
                assert!(made <= 3 * A_TURN, "{made} links of the chain in a turn");
                before = links_now;
                if chain == Chain::Tunnel {
                    meet(&chainers, &mut passed, &links);
                }
            });
        }
        let least = if chain == Chain::Panic { 4 } else { 20 };
        assert!(count(&links) >= least, "the chain has ended by itself: {}", count(&links));
        stop_is_obeyed(stage);
    }
}

/// What has left by one end of the tunnel comes in by the other.
fn meet(ends: &[Peer], passed: &mut [usize; 2], links: &Links) {
    for end in 0..2 {
        let got = ends[end].got();
        if got.len() > passed[end] {
            link(links);
            ends[1 - end].send(&got[passed[end]..]);
            passed[end] = got.len();
        }
    }
}

/// A fast reader, and a handler that sends as soon as it is told: 189 MB left in one turn.
fn a_stream_by_on_sent_gets_its_budget_and_no_more_per_turn<D: Rig>(seed: u64) {
    const BUDGET: usize = 1000;
    let mut stage = Stage::<D>::with(seed, |limits| limits.send_bytes_per_turn = BUDGET);
    stage.world.get().buffers = (1 << 20, 1 << 20);
    let neighbour = stage.open();
    let reader = stage.open();
    let its_own = stage.id(&neighbour);
    let piece = stage.rng.pick(&[10, 400, 1000, 3000]);
    beside(&mut stage, its_own, move |at| match at {
        At::Data(conn, input) => {
            input.take_all();
            conn.notify_sent(0);
        }
        At::Sent(conn, _) => {
            let _ = conn.send(&vec![1; piece]);
            conn.notify_sent(0);
        }
        other => usual(other),
    });
    reader.send(b"go");
    let mut before = 0;
    for _ in 0..40 {
        is_answered(&mut stage, &neighbour, |_| {
            let got = reader.got().len() - before;
            before += got;
            // A signal of room is another occasion to send.
            assert!(got <= 2 * BUDGET, "{got} bytes in a turn");
        });
    }
    assert!(before >= 20 * piece.min(BUDGET), "the stream stands still: {before}");
    stop_is_obeyed(stage);
}

fn marks_that_are_reached_together_are_told_in_one_turn<D: Rig>(seed: u64) {
    const MARKS: u64 = 100;
    let mut stage = Stage::<D>::new(seed);
    let peer = stage.open();
    let told = Rc::new(RefCell::new(Vec::new()));
    stage.play({
        let told = Rc::clone(&told);
        move |at| match at {
            At::Data(conn, input) => {
                input.take_all();
                (0..MARKS).for_each(|tag| conn.notify_sent(tag));
            }
            At::Sent(_, tag) => told.borrow_mut().push(tag),
            other => usual(other),
        }
    });
    peer.send(b"x");
    while told.borrow().is_empty() {
        stage.turn();
    }
    assert_eq!(*told.borrow(), (0..MARKS).collect::<Vec<_>>());
    stage.stop();
}

/// What `on_sent` sends leaves at the end of its turn; so that all answers of one turn may not be too much
/// together, above the high mark the rest is told later.
fn answers_to_marks_of_one_turn_do_not_meet_the_hard_cap<D: Rig>(seed: u64) {
    const MARKS: usize = 100;
    const ANSWER: usize = 30_000;
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.output_limit = 64 << 10;
        limits.send_bytes_per_turn = 64 << 10;
    });
    stage.world.get().faults.short_sends = false;
    stage.world.get().buffers = (1 << 20, 1 << 20);
    let peer = stage.open();
    stage.play(|at| match at {
        At::Data(conn, input) => {
            input.take_all();
            (0..MARKS as u64).for_each(|tag| conn.notify_sent(tag));
        }
        At::Sent(conn, _) => assert!(conn.send(&[1; ANSWER]).is_taken()),
        other => usual(other),
    });
    peer.send(b"x");
    stage.settle();
    assert_eq!(peer.got().len(), MARKS * ANSWER);
    assert_eq!(stage.record(&peer).closed, None);
    stage.stop();
}

/// One callback may ask something of all connections there are: all of it was done in the same turn.
fn what_one_callback_asks_of_a_crowd_is_done_over_turns<D: Rig>(seed: u64) {
    const CROWD: usize = 300;
    for closes in [false, true] {
        let mut stage = Stage::<D>::with(seed, |limits| {
            limits.deferred_per_turn = A_TURN;
            limits.arrivals_per_turn = CROWD;
        });
        let neighbour = stage.open();
        let crowd: Vec<Peer> = (0..CROWD).map(|_| stage.arrive()).collect();
        stage.settle();
        let its_own = stage.id(&neighbour);
        beside(&mut stage, its_own, move |at| match at {
            At::Message(here, _) => here.each(|conn| {
                if conn.id() == its_own {
                } else if closes {
                    conn.close();
                } else {
                    let _ = conn.send(&[1; 20]);
                }
            }),
            other => usual(other),
        });
        stage.handle().post(0, 0).unwrap();
        let is_done = |peer: &Peer| if closes { peer.saw_fin() } else { peer.got().len() == 20 };
        let mut before = 0;
        while crowd.iter().any(|peer| !is_done(peer)) {
            is_answered(&mut stage, &neighbour, |_| {
                let done = crowd.iter().filter(|peer| is_done(peer)).count();
                // By wishes and by what is unsent; and by the cork in the middle of a turn.
                assert!(done - before <= 3 * A_TURN, "{} in a turn", done - before);
                before = done;
            });
        }
        crowd.iter().for_each(Peer::finish);
        stage.settle();
        stage.stop();
    }
}

/// A hundred a turn that are closed as soon as they come, and 64 of the list were served in each: it grew
/// without bound, and each FIN waited for longer than the one before.
fn the_list_of_the_ready_stays_short_however_many_come_and_go<D: Rig>(seed: u64) {
    const A_TURN: usize = 100;
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.arrivals_per_turn = 256;
        limits.accepts_per_turn = 256;
        limits.endings_per_turn = 256;
    });
    stage.listen();
    stage.play(|at| match at {
        At::Open(conn) => {
            let _ = conn.send(b"busy\n");
            conn.close();
        }
        other => usual(other),
    });
    for _ in 0..60 {
        (0..A_TURN).for_each(|_| stage.knock().finish());
        next_turn(&mut stage);
        let ready = stage.event_loop.state.ready.len();
        assert!(ready <= 10 * A_TURN, "{ready} are ready");
    }
    stage.advance(5_000);
    stage.stop();
}

/// Entries of connections that were over by then counted as served: who was behind them waited for nothing.
fn the_dead_on_the_list_of_the_ready_keep_nobody_waiting<D: Rig>(seed: u64) {
    const CROWD: usize = 300;
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.deferred_per_turn = 10 * CROWD;
        limits.arrivals_per_turn = CROWD;
    });
    let guest = stage.open();
    let crowd: Vec<Peer> = (0..CROWD).map(|_| stage.arrive()).collect();
    stage.settle();
    let its_own = stage.id(&guest);
    let heard = Rc::new(Cell::new(0));
    stage.play({
        let heard = Rc::clone(&heard);
        move |at| match at {
            At::Data(conn, _) if conn.id() == its_own => heard.set(heard.get() + 1),
            At::Message(here, 0) => here.each(|conn| {
                conn.pause();
                conn.resume();
            }),
            At::Message(here, _) => here.each(|conn| {
                if conn.id() == its_own {
                    conn.pause();
                    conn.resume();
                } else {
                    conn.reset();
                }
            }),
            other => usual(other),
        }
    });
    guest.send(b"left");
    stage.settle();
    let before = heard.get();
    stage.handle().post(0, 0).unwrap();
    stage.turn();
    assert_eq!(stage.event_loop.state.ready.len(), CROWD + 1);
    stage.handle().post(0, 1).unwrap();
    stage.turn(); // the guest, and some of the crowd; then the rest is over
    assert!(stage.event_loop.state.ready.len() > CROWD / 2);
    assert_eq!(heard.get(), before + 1);
    stage.turn();
    assert_eq!(heard.get(), before + 2, "the dead were served before it");
    assert!(stage.event_loop.state.ready.is_empty());
    stage.settle();
    assert!(crowd.iter().all(Peer::saw_reset));
    stage.stop();
}

/// Only bytes counted: of a Unix socket with a descriptor behind each byte, 65,536 receives were one turn's.
fn receives_that_bring_one_byte_each_are_few_in_a_turn<D: Rig>(seed: u64) {
    const BYTES: usize = 1000;
    let mut stage = Stage::<D>::with(seed, |limits| limits.receive_bytes_per_turn = 64 << 10);
    stage.world.get().buffers = (1 << 20, 1 << 20);
    let peer = stage.arrive_by_unix();
    stage.settle();
    for _ in 0..BYTES {
        peer.send_descriptors();
        peer.send(b"x");
    }
    let mut before = stage.world.get().counts.receives;
    while peer.got().len() < BYTES {
        stage.turn();
        stage.world.get().flow();
        let receives = stage.world.get().counts.receives - before;
        before += receives;
        // By its signal, and from the list of the ready.
        assert!(receives <= 2 * 64 + 4, "{receives} receives in a turn");
    }
    stage.stop();
}

/// All who waited in the backlog were let in within the turn that shut the listener: up to 4,096.
fn who_is_at_the_door_when_it_is_shut_is_let_in_over_turns<D: Rig>(seed: u64) {
    const CROWD: usize = 200;
    let mut stage = Stage::<D>::new(seed);
    let neighbour = stage.open();
    stage.listen();
    stage.settle();
    let its_own = stage.id(&neighbour);
    beside(&mut stage, its_own, |at| match at {
        At::Draining(_) => {} // the neighbour stays until the end
        other => usual(other),
    });
    let crowd: Vec<Peer> = (0..CROWD).map(|_| stage.knock()).collect();
    crowd.iter().for_each(|peer| peer.send(b"hi"));
    stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
    stage.shared.raise(Phase::Drain);
    let mut before = 0;
    while stage.event_loop.state.table.len() < CROWD + 1 {
        is_answered(&mut stage, &neighbour, |stage| {
            let taken = stage.event_loop.state.table.len();
            assert!(taken - before <= 60, "{} are let in in a turn", taken - before);
            before = taken;
        });
    }
    assert!(stage.knock().saw_reset(), "it is shut");
    stage.settle();
    assert!(crowd.iter().all(|peer| peer.got() == b"hi"));
    assert_eq!(stage.count(Counter::Accepted), CROWD as u64 + 1);
    let calls = stage.record(&crowd[0]).calls;
    assert!(calls.contains(&Callback::Draining), "{calls:?}");
    stop_is_obeyed(stage);
}
