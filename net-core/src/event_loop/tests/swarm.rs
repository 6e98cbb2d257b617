//! The swarm: a handler and peers that do whatever they may, for some hundreds of steps; then
//! peace, and everything must add up.
//!
//! Between the steps come storms: chains of callbacks, all kinds at once. A witness, whom nobody but a fault
//! disturbs, must be answered in the middle of each; and a stop in the middle of one must be obeyed.

use super::actor::{Actor, At, usual};
use super::{Outcome, Peer, Rig, Rng, Stage, fail, on_both_rigs, pattern, somewhere};
use crate::api::conn::Conn;
use crate::api::loop_context::LoopContext;
use crate::api::server_handle::ServerHandle;
use crate::api::slices::Slice;
use crate::base::id::ConnId;
use crate::config::policy::OverflowPolicy;
use crate::config::rate::Rate;
use crate::connection::slot::Status;
use crate::features::broadcast::Broadcast;
use crate::features::dial::{Dial, Retry};
use crate::observe::counters::Counter;
use crate::threads::control::Phase;
use crate::threads::resolver::{Lookup, LookupResult};
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

on_both_rigs! {
    in_a_swarm_everything_adds_up: 300,
}

const STEPS: usize = 600;
const PEERS_MAX: usize = 12;
/// What the stage gives a connection.
const HIGH_MARK: usize = 4096;
/// One byte more than a connection takes above its high mark.
static TOO_LONG: [u8; (1 << 20) + 1] = [0; (1 << 20) + 1];
/// A message that resumes everybody.
const PEACE: u64 = u64::MAX;
/// A message that begins a storm.
const STORM: u64 = u64::MAX - 1;
/// Links of the chains of one storm: more than all callbacks that a turn may make.
const FUEL: u64 = 2000;
/// Turns in which the witness is answered. A signal may be late, and so may bytes on their way.
const TURNS_TO_ANSWER: usize = 30;
/// Turns in which a stop is carried out: each ends some connections.
const TURNS_TO_STOP: usize = 20;

/// Links that chains may still make.
type Fuel = Arc<AtomicU64>;

fn burn(fuel: &Fuel) -> bool {
    let order = Ordering::Relaxed;
    fuel.fetch_update(order, order, |left| left.checked_sub(1)).is_ok()
}

fn broadcast_again(handle: ServerHandle<u64>, fuel: Fuel) {
    if burn(&fuel) {
        let next = handle.clone();
        let then = move |_| broadcast_again(next, fuel);
        handle.broadcast(Broadcast::new("!").to_topic("nobody").then(then));
    }
}

/// What the handler remembers: what each connection's peer must get.
#[derive(Default)]
struct CpuAccounting {
    owed: BTreeMap<ConnId, Vec<u8>>,
    panics: u64,
    dials: u64,
    timers: Vec<crate::features::timers::TimerId>,
}

struct Chaos {
    rng: Rng,
    cpu_accounting: Rc<RefCell<CpuAccounting>>,
    log: super::actor::Log,
    fuel: Fuel,
    witnesses: Witnesses,
}

/// The wires by which witnesses have come: one after another, as faults end their connections.
type Witnesses = Rc<RefCell<Vec<usize>>>;

impl Chaos {
    fn is_witness(&self, conn: &mut Conn<'_, Actor>) -> bool {
        let wire = self.log.get().records[conn.session().number].wire;
        wire.is_some_and(|wire| self.witnesses.borrow().contains(&wire))
    }

    fn is_of_a_witness(&self, at: &mut At<'_, '_, '_>) -> bool {
        match at {
            At::Open(conn)
            | At::Data(conn, _)
            | At::Room(conn)
            | At::End(conn)
            | At::Deadline(conn)
            | At::Sent(conn, _)
            | At::Draining(conn)
            | At::Heartbeat(conn)
            | At::Close(conn) => self.is_witness(conn),
            At::Message(..) | At::Timer(..) | At::Datagram(_) => false,
        }
    }

    /// Begins chains of all kinds, on all connections but the witness.
    fn begin_storm(&mut self, here: &mut LoopContext<'_, Actor>) {
        here.each(|conn| {
            if !self.is_witness(conn) {
                conn.notify_sent(0);
                self.send_much(conn);
                conn.set_deadline(Some(Duration::ZERO));
            }
        });
        here.after(Duration::ZERO, 1);
        broadcast_again(here.handle(), Arc::clone(&self.fuel));
        let fuel = Arc::clone(&self.fuel);
        let job = move |_: &mut Actor, _: &mut LoopContext<'_, Actor>| {
            if burn(&fuel) { Slice::More } else { Slice::Done }
        };
        let _ = here.in_slices(job);
        let _ = here.handle().post(0, 1);
    }

    /// The next link of a chain, if this callback is one.
    fn chains(&mut self, at: &mut At<'_, '_, '_>) -> bool {
        if self.fuel.load(Ordering::Relaxed) == 0 {
            return false;
        }
        match at {
            At::Sent(conn, _) if burn(&self.fuel) => {
                self.send(conn);
                conn.notify_sent(0);
            }
            At::Room(conn) if burn(&self.fuel) => self.send_much(conn),
            At::Deadline(conn) if burn(&self.fuel) => conn.set_deadline(Some(Duration::ZERO)),
            At::Timer(here, _) if burn(&self.fuel) => _ = here.after(Duration::ZERO, 1),
            At::Message(here, 1) => {
                for _ in 0..2 {
                    if burn(&self.fuel) {
                        let _ = here.handle().post(0, 1);
                    }
                }
            }
            _ => return false,
        }
        true
    }

    /// More than may wait without holding the connection back.
    fn send_much(&mut self, conn: &mut Conn<'_, Actor>) {
        let bytes = pattern(0, 5000);
        if conn.send(&bytes).is_taken() {
            self.cpu_accounting.borrow_mut().owed.entry(conn.id()).or_default().extend(bytes);
        }
    }

    /// Queues some bytes on one connection, by whichever way.
    fn send(&mut self, conn: &mut Conn<'_, Actor>) {
        let len = self.rng.pick(&[0, 1, 20, 300, 3000]);
        let bytes = pattern(self.rng.below(1000), len);
        let is_taken = match self.rng.below(7) {
            0 | 1 => conn.send(&bytes),
            2 | 3 => conn.send_shared(Bytes::from(bytes.clone())),
            4 | 5 => conn.split().1.send(&bytes),
            _ => {
                if self.rng.one_in(2) {
                    self.send_much(conn);
                }
                if conn.unsent() > HIGH_MARK {
                    // It is dropped, and costs nothing that waits: of that nothing is dropped.
                    conn.send_with(Bytes::from_static(&TOO_LONG), OverflowPolicy::DropOldest)
                } else {
                    // Any length would be taken. What this policy has taken it does not drop.
                    conn.send_with(Bytes::from(bytes.clone()), OverflowPolicy::DropNewest)
                }
            }
        }
        .is_taken();
        if is_taken {
            self.cpu_accounting.borrow_mut().owed.entry(conn.id()).or_default().extend(bytes);
        }
    }

    fn act(&mut self, conn: &mut Conn<'_, Actor>) {
        match self.rng.below(40) {
            0..12 => self.send(conn),
            12 => conn.finish(),
            13 => conn.close(),
            14 => {
                if self.rng.one_in(4) {
                    conn.reset();
                }
            }
            15 if self.rng.one_in(3) => {
                let rate = Rate::per_second(self.rng.pick(&[2000, 100_000]));
                conn.limit_receive(self.rng.one_in(2).then_some(rate));
            }
            15..18 => conn.pause(),
            18..21 => conn.resume(),
            21 => {
                let after = Duration::from_millis(self.rng.below(50) as u64);
                conn.set_deadline(self.rng.one_in(2).then_some(after));
            }
            22 => conn.notify_sent(self.rng.below(9) as u64),
            23 => conn.set_busy(self.rng.one_in(2)),
            24 => {
                if self.rng.one_in(4) {
                    conn.close_when_idle();
                }
            }
            25..32 => {
                let ids: Vec<_> = self.cpu_accounting.borrow().owed.keys().copied().collect();
                let id = self.rng.pick(&ids);
                match conn.other(id) {
                    Some(mut other) if self.rng.one_in(10) => other.close(),
                    Some(mut other) if self.rng.one_in(8) => other.resume(),
                    Some(_) if self.rng.one_in(8) => drop(conn.pair_with(id)),
                    Some(mut other) => self.send(&mut other),
                    None => {}
                }
            }
            _ => self.act_here(&mut conn.event_loop()),
        }
    }

    fn act_here(&mut self, here: &mut LoopContext<'_, Actor>) {
        match self.rng.below(8) {
            0 => {
                let after = Duration::from_millis(self.rng.below(30) as u64);
                let timer = here.after(after, 1);
                self.cpu_accounting.borrow_mut().timers.push(timer);
            }
            1 => {
                if let Some(timer) = self.cpu_accounting.borrow_mut().timers.pop() {
                    here.cancel(timer);
                }
            }
            2 if self.cpu_accounting.borrow().dials < 10 => {
                self.cpu_accounting.borrow_mut().dials += 1;
                let session = self.log.session(None);
                let attempts = self.rng.below(4) as u32;
                let first_pause = Duration::from_millis(self.rng.below(10) as u64);
                let retry = Retry { attempts, first_pause, ..Retry::default() };
                let is_named = self.rng.one_in(2);
                let name = || Dial::to_host("some.where:1").expect("a name");
                let dial = if is_named { name() } else { Dial::to(somewhere()) };
                let _ = here.dial(dial.retry(retry), session);
            }
            3 => here.each(|conn| {
                if self.rng.one_in(5) && !self.is_witness(conn) {
                    self.send(conn);
                }
            }),
            _ => {}
        }
    }

    fn maybe_panic(&mut self, conn: Option<(&mut Conn<'_, Actor>, usize)>) {
        if !self.rng.one_in(150) {
            return;
        }
        self.cpu_accounting.borrow_mut().panics += 1;
        if let Some((conn, before)) = conn {
            // What this callback has sent is taken back.
            if let Some(owed) = self.cpu_accounting.borrow_mut().owed.get_mut(&conn.id()) {
                owed.truncate(before);
            }
        }
        fail();
    }

    fn play(&mut self, mut at: At<'_, '_, '_>) {
        if self.is_of_a_witness(&mut at) {
            return usual(at);
        }
        if let At::Message(here, STORM) = at {
            return self.begin_storm(here);
        }
        if self.chains(&mut at) {
            return;
        }
        match at {
            At::Data(conn, input) => {
                let id = conn.id();
                let before = self.cpu_accounting.borrow().owed.get(&id).map_or(0, Vec::len);
                if self.rng.one_in(3) {
                    self.act(conn);
                }
                if self.rng.one_in(3) && input.len() > 1 {
                    let part = input.take(self.rng.within(1, input.len() - 1)).unwrap();
                    let is_taken = conn.send(part).is_taken();
                    if is_taken {
                        self.cpu_accounting.borrow_mut().owed.get_mut(&id).unwrap().extend(part);
                    }
                }
                // Now and then the rest is left for the next time; a flood is taken.
                if input.len() > 500 || !self.rng.one_in(4) {
                    let rest = input.peek();
                    if conn.echo(input).is_taken() {
                        self.cpu_accounting.borrow_mut().owed.get_mut(&id).unwrap().extend(rest);
                    }
                }
                if self.rng.one_in(3) {
                    self.act(conn);
                }
                self.maybe_panic(Some((conn, before)));
            }
            At::Open(conn) => {
                let id = conn.id();
                self.cpu_accounting.borrow_mut().owed.insert(id, Vec::new());
                self.act(conn);
                self.maybe_panic(Some((conn, 0)));
            }
            At::Room(conn) | At::Draining(conn) | At::Heartbeat(conn) | At::Sent(conn, _) => {
                let before = self.cpu_accounting.borrow().owed[&conn.id()].len();
                self.act(conn);
                self.maybe_panic(Some((conn, before)));
            }
            At::End(conn) | At::Deadline(conn) => {
                let before = self.cpu_accounting.borrow().owed[&conn.id()].len();
                self.act(conn);
                if self.rng.one_in(2) {
                    conn.close();
                }
                self.maybe_panic(Some((conn, before)));
            }
            At::Close(conn) => {
                let id = conn.id();
                let before = self.cpu_accounting.borrow().owed.get(&id).map_or(0, Vec::len);
                if self.cpu_accounting.borrow().owed.contains_key(&id) {
                    self.act(conn);
                }
                self.maybe_panic(Some((conn, before)));
            }
            At::Datagram(_) => {}
            At::Message(here, _) | At::Timer(here, _) => {
                self.act_here(here);
                self.maybe_panic(None);
            }
        }
    }
}

fn step_of_a_peer(rng: &mut Rng, peer: &Peer) {
    match rng.below(40) {
        0..18 => {
            let (from, len) = (rng.below(1000), rng.pick(&[1, 10, 100, 1000, 8000]));
            peer.send(&pattern(from, len));
        }
        18..22 => peer.reads(false),
        22..27 => peer.reads(true),
        27..33 => peer.read(rng.below(2000)),
        33 => peer.send_urgent(),
        34 => peer.finish(),
        35 if rng.one_in(3) => peer.leave(),
        36 if rng.one_in(3) => peer.reset(),
        37 => {
            peer.send(&pattern(0, rng.below(300)));
            peer.finish();
        }
        _ => {}
    }
}

/// Says for whom the peer comes, as a proxy does; or only half of it, and then whatever comes next.
fn announce(rng: &mut Rng, peer: &Peer) {
    let ip = std::net::Ipv4Addr::from(0x0A00_0000 | peer.wire as u32);
    let header = format!("PROXY TCP4 {ip} 10.0.0.1 1 1\r\n");
    let (begin, rest) = header.as_bytes().split_at(rng.below(header.len()));
    peer.send(begin);
    if !rng.one_in(5) {
        peer.send(rest);
    }
}

/// Answers the oldest question for a name, if there is one: with some addresses, or none.
fn resolve<D: Rig>(stage: &mut Stage<D>) {
    let Some(Lookup { id, attempt, .. }) = stage.shared.resolver.take() else { return };
    let count = stage.rng.below(4) as u16;
    let addresses = (1..=count).map(|port| std::net::SocketAddr::from(([10, 0, 0, 1], port)));
    let found = match count {
        0 => Err(std::sync::Arc::new(std::io::Error::other("not known"))),
        _ => Ok(addresses.collect()),
    };
    stage.shared.answer(LookupResult { id, attempt, found });
}

fn begin_storm<D: Rig>(stage: &mut Stage<D>, fuel: &Fuel) {
    fuel.store(FUEL, Ordering::Relaxed);
    let _ = stage.handle().post(0, STORM);
    for _ in 0..5 {
        next_turn(stage);
    }
}

/// A turn, a little later than the one before. That it is not without end, the stage sees to.
fn next_turn<D: Rig>(stage: &mut Stage<D>) {
    let now = stage.world.get().now + 1;
    stage.world.get().now = now;
    stage.world.get().limit = Some(now);
    stage.turn();
    stage.world.get().flow();
}

/// The witness asks in the middle of a storm, and is answered, unless a fault has ended its connection.
fn storm<D: Rig>(stage: &mut Stage<D>, witness: &Peer, fuel: &Fuel) {
    begin_storm(stage, fuel);
    let answered = witness.got().len() + 4;
    witness.send(b"ping");
    let mut turns = 0;
    while !is_over(witness) && witness.got().len() < answered {
        assert!(turns < TURNS_TO_ANSWER, "the witness starves");
        next_turn(stage);
        turns += 1;
    }
    fuel.store(0, Ordering::Relaxed);
}

/// A fault may have ended its connection.
fn is_over(witness: &Peer) -> bool {
    let wire = witness.wire();
    wire.saw_fin || wire.saw_reset || (wire.token.is_none() && wire.last_token.is_some())
}

/// A stop in the middle of a storm: the next turn reads the word, and some more carry it out.
fn stop_in_a_storm<D: Rig>(mut stage: Stage<D>, fuel: &Fuel) {
    begin_storm(&mut stage, fuel);
    stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
    stage.shared.raise(Phase::Stop);
    let mut turns = 0;
    while !stage.is_over {
        assert!(turns < TURNS_TO_STOP, "the stop is not carried out");
        next_turn(&mut stage);
        turns += 1;
        assert!(stage.event_loop.phase == Phase::Stop, "the stop is not heard");
    }
    stage.stop();
}

fn in_a_swarm_everything_adds_up<D: Rig>(seed: u64) {
    // Half of them, under budgets that a storm is far above.
    let has_storms = seed % 4 < 2;
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.idle_timeout = Some(Duration::from_millis(500));
        limits.first_byte_timeout = seed.is_multiple_of(2).then(|| Duration::from_millis(100));
        limits.heartbeat_interval = seed.is_multiple_of(5).then(|| Duration::from_millis(30));
        limits.input_bytes_max = 16 << 10;
        if has_storms {
            limits.deferred_per_turn = 1 + seed as usize % 9;
            limits.mail_per_turn = 8;
            limits.timers_per_turn = 16;
        }
    });
    let cpu_accounting = Rc::new(RefCell::new(CpuAccounting::default()));
    let rng = Rng::new(seed.wrapping_mul(77) + 1);
    let (fuel, witnesses) = (Fuel::default(), Witnesses::default());
    stage.play({
        let (cpu_accounting, log) = (Rc::clone(&cpu_accounting), stage.log.clone());
        let (fuel, witnesses) = (Arc::clone(&fuel), Rc::clone(&witnesses));
        let mut chaos = Chaos { rng, cpu_accounting, log, fuel, witnesses };
        move |at| chaos.play(at)
    });
    let mut witness = stage.arrive();
    witnesses.borrow_mut().push(witness.wire);
    let mut peers: Vec<Peer> = Vec::new();
    stage.panics_are_counted_by({
        let cpu_accounting = Rc::clone(&cpu_accounting);
        move || cpu_accounting.borrow().panics
    });
    for _ in 0..STEPS {
        if peers.len() < PEERS_MAX || stage.rng.one_in(30) {
            stage.are_announced = stage.rng.one_in(4);
            let peer = stage.arrive();
            if stage.are_announced {
                announce(&mut stage.rng, &peer);
            }
            peers.push(peer);
        }
        if stage.rng.one_in(2) {
            resolve(&mut stage);
        }
        let k = stage.rng.below(peers.len());
        step_of_a_peer(&mut stage.rng, &peers[k]);
        if is_over(&witness) {
            stage.are_announced = false;
            witness = stage.arrive();
            witnesses.borrow_mut().push(witness.wire);
        }
        match stage.rng.below(14) {
            13 if has_storms && stage.rng.one_in(6) => storm(&mut stage, &witness, &fuel),
            0..6 => stage.turn(),
            6 => stage.settle(),
            7 => {
                let ms = stage.rng.below(20) as u64;
                stage.advance(ms);
            }
            8 => {
                let _ = stage.handle().post(0, 1);
            }
            9 => {
                let outcomes = [Outcome::Up, Outcome::Refused, Outcome::Silence, Outcome::ToItself];
                let outcome = outcomes[stage.rng.below(4)].clone();
                stage.world.get().dials.push_back(outcome);
            }
            12 if stage.rng.one_in(3) => {
                let ids: Vec<_> = cpu_accounting.borrow().owed.keys().copied().collect();
                if !ids.is_empty() {
                    let id = stage.rng.pick(&ids);
                    let _ = stage.handle().close(id);
                }
            }
            10 if stage.rng.one_in(4) => {
                stage.world.get().faults.attach.push_back(libc::ENOSPC);
            }
            11 if stage.rng.one_in(8) => {
                stage.world.get().faults.send.push_back(libc::EPIPE);
            }
            _ => {}
        }
    }
    if has_storms && seed.is_multiple_of(8) {
        return stop_in_a_storm(stage, &fuel);
    }
    // Peace: nobody pauses, everybody reads.
    stage.world.get().faults.attach.clear();
    stage.world.get().faults.send.clear();
    stage.play(|at| match at {
        At::Message(here, PEACE) => here.each(|conn| {
            conn.limit_receive(None);
            conn.resume();
        }),
        At::Data(_, input) => drop(input.take_all()),
        At::End(_) | At::Deadline(_) => {}
        other => usual(other),
    });
    stage.handle().post(0, PEACE).unwrap();
    let wires = stage.world.get().wires.len();
    let peers: Vec<Peer> = (0..wires).map(|wire| stage.world.peer(wire)).collect();
    peers.iter().for_each(|peer| peer.reads(true));
    stage.settle();
    for (id, owed) in &cpu_accounting.borrow().owed {
        let token = Some(id.token());
        // Of a dial, the last attempt.
        let peer = peers.iter().rev().find(|peer| peer.wire().last_token == token).unwrap();
        let got = peer.got();
        assert!(owed.starts_with(&got), "{id}: the peer got what was not sent");
        let lives = peer.wire().token.is_some();
        // No time has passed, so what waits for a quiet time still waits.
        let waits = stage.event_loop.state.with(*id, |outbox, head| {
            if head.status.has(Status::HOLDS) { outbox.pending(head) } else { 0 }
        });
        let all_arrived = got.len() + waits.unwrap_or(0) == owed.len();
        if lives || peer.saw_fin() && !peer.saw_reset() && !peer.wire().is_reset {
            let (got, owed) = (got.len(), owed.len());
            assert!(all_arrived, "{id}: {got} of {owed} B; {:?}", stage.log_of(*id));
        }
    }
    assert_eq!(stage.count(Counter::Panics), cpu_accounting.borrow().panics);
    if seed.is_multiple_of(3) {
        end_politely(&mut stage, &peers);
    }
    stage.stop();
}

/// A drain that the peers do their part in, and in the end its deadline.
fn end_politely<D: Rig>(stage: &mut Stage<D>, peers: &[Peer]) {
    stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
    stage.shared.raise(Phase::Drain);
    stage.advance(50);
    for peer in peers {
        if stage.rng.one_in(2) {
            peer.finish();
        }
    }
    stage.advance(3000);
    if !stage.is_over {
        stage.shared.raise(Phase::ForceClose);
        stage.settle();
    }
    assert!(stage.is_over);
}
