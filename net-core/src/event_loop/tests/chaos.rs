//! Chaos: a handler that asks anything of `Conn`, `LoopContext` and `ServerHandle` in any callback, under
//! limits by chance. Then the end, by a drain, a cut or a stop, in whatever state everything is.
//!
//! The swarm compares every byte, and so it asks for little. Chaos asks for everything, and compares what
//! the stage does: after each rest nothing waits that could go on, no callback comes too often or too
//! late, and at the end the books balance and no memory is lent. A new call of the public API joins
//! `Chaos::act` (of a connection) or `Chaos::act_here` (of a loop), and a new limit joins `limits`.
//!
//! `CHAOS_SEEDS=100000 CHAOS_FROM=0` runs so many seeds from that one on: see CONTRIBUTING.md.

use super::actor::{Actor, At, Log};
use super::{Outcome, Peer, Rig, Rng, Stage, each_seed, fail, pattern, somewhere};
use crate::api::conn::Conn;
use crate::api::loop_context::LoopContext;
use crate::api::loop_spawner::Task;
use crate::api::slices::Slice;
use crate::base::id::ConnId;
use crate::config::limits::Limits;
use crate::config::policy::{OverflowPolicy, WhenFull};
use crate::config::rate::Rate;
use crate::connection::outbox::SendOutcome;
use crate::features::broadcast::{Broadcast, BroadcastHandle};
use crate::features::dial::{Dial, Retry};
use crate::features::timers::TimerId;
use crate::observe::connection_query::{By, PendingQuery, Query};
use crate::threads::control::Phase;
use crate::threads::mail::Mail;
use crate::threads::resolver::{Lookup, LookupResult};
use bytes::Bytes;
use net_buffer::{FileRange, LengthPrefix};
use std::cell::RefCell;
use std::fs::File;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Seeds of a usual run, for each rig.
const SEEDS: u64 = 200;
const STEPS: usize = 500;
const PEERS_MAX: usize = 12;
const DIALS_MAX: u32 = 25;
const JOBS_MAX: u32 = 30;
const FILE_BYTES: usize = 30_000;
/// Connections that a callback looks for another one among, and peers that a step looks for one among: the
/// youngest, of which most still live.
const RECENT: usize = 24;

mod on_sim {
    #[test]
    fn whatever_is_asked_everything_adds_up() {
        super::each_seed(super::seeds_asked(), super::everything_adds_up::<super::super::Sim>);
    }
}

mod on_epoll {
    #[test]
    fn whatever_is_asked_everything_adds_up() {
        let test = super::everything_adds_up::<super::super::ModelEpoll>;
        super::each_seed(super::seeds_asked(), test);
    }
}

/// The seeds that the environment asks for.
fn seeds_asked() -> std::ops::Range<u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
    };
    let from: u64 = number("CHAOS_FROM").unwrap_or(0);
    from..from + number("CHAOS_SEEDS").unwrap_or(SEEDS)
}

// --- the handler -------------------------------------------------------------------------------

/// What the handler has begun, and the test may look at.
#[derive(Default)]
struct Begun {
    ids: Vec<ConnId>,
    timers: Vec<TimerId>,
    deliveries: Vec<BroadcastHandle>,
    dials: u32,
    jobs: u32,
    marks: u64,
    /// Sessions whose drop was made to panic, and newcomers whose `admit` was. Of each, one may be still
    /// to come.
    armed: u64,
    /// Callbacks may ask for the end of the server.
    may_end: bool,
}

struct Chaos {
    rng: Rng,
    begun: Rc<RefCell<Begun>>,
    /// Panics made in callbacks. An answer counts too, which must be `Send`.
    panics: Arc<AtomicU64>,
    log: Log,
    file: Arc<File>,
}

impl Chaos {
    /// What a callback does.
    fn play(&mut self, at: At<'_, '_, '_>) {
        match at {
            At::Data(conn, input) => {
                if self.rng.one_in(3) {
                    self.act(conn);
                }
                if self.rng.one_in(3) && input.len() > 1 {
                    let part = input.take(self.rng.within(1, input.len() - 1)).unwrap();
                    let _ = conn.send(part);
                }
                // Now and then the rest is left for the next time; a flood is taken.
                if input.len() > 500 || !self.rng.one_in(4) {
                    if self.rng.one_in(3) {
                        input.take_all();
                    } else {
                        let _ = conn.echo(input);
                    }
                }
                if self.rng.one_in(3) {
                    self.act(conn);
                }
            }
            At::Open(conn) => {
                self.begun.borrow_mut().ids.push(conn.id());
                self.act(conn);
            }
            At::Room(conn) | At::Draining(conn) | At::Heartbeat(conn) | At::Close(conn) => {
                self.act(conn);
            }
            At::Sent(conn, _) => {
                if self.rng.one_in(2) {
                    self.act(conn);
                }
            }
            At::End(conn) | At::Deadline(conn) => {
                self.act(conn);
                if self.rng.one_in(2) {
                    conn.close();
                }
            }
            At::Message(here, _) | At::Timer(here, _) => self.act_here(here),
            At::Datagram(mut datagram) => {
                let bytes = datagram.bytes();
                if self.rng.one_in(2) {
                    datagram.reply(bytes);
                } else {
                    datagram.send_to(([10, 0, 0, 2], 7).into(), bytes);
                }
            }
        }
        if self.rng.one_in(150) {
            self.panics.fetch_add(1, Ordering::Relaxed);
            fail();
        }
    }

    /// Asks one thing of a connection, or of another one, or of the loop.
    fn act(&mut self, conn: &mut Conn<'_, Actor>) {
        match self.rng.below(72) {
            0..12 => self.send(conn),
            12 => conn.finish(),
            13 => conn.close(),
            14 if self.rng.one_in(4) => conn.reset(),
            15 if self.rng.one_in(3) => conn.close_when_idle(),
            16 => conn.set_busy(self.rng.one_in(2)),
            17 => {
                let rate = self.rate();
                conn.limit_receive(rate);
            }
            18 => {
                let rate = self.rate();
                conn.limit_send(rate);
            }
            19 | 20 => conn.pause(),
            21..25 => conn.resume(),
            25 => {
                let after = Duration::from_millis(self.rng.below(50) as u64);
                conn.set_deadline(self.rng.one_in(2).then_some(after));
            }
            26 | 27 => {
                let tag = {
                    let mut begun = self.begun.borrow_mut();
                    begun.marks += 1;
                    begun.marks
                };
                conn.notify_sent(tag);
            }
            28..31 => self.subscribe(conn),
            31 | 32 => self.begin_job_of(conn),
            33..36 => {
                if let Some(id) = self.any_id() {
                    self.join(conn, id);
                }
            }
            36 | 37 => {
                if let Some(id) = self.dial(&mut conn.event_loop()) {
                    self.join(conn, id);
                    if self.rng.one_in(3)
                        && let Some(mut other) = conn.other(id)
                    {
                        self.act(&mut other);
                    }
                }
            }
            38..50 => self.act_on_another(conn),
            50 if self.rng.one_in(6) => self.arm(),
            51 => self.ask(conn),
            52 => self.ask_here(&mut conn.event_loop()),
            // Two wishes at once: both are carried out where both can be.
            53 | 54 => {
                self.act(conn);
                self.act(conn);
            }
            55 => conn.others(|other| {
                if self.rng.one_in(8) {
                    self.send(other);
                }
            }),
            _ => self.act_here(&mut conn.event_loop()),
        }
    }

    /// Queues some bytes, in any way.
    fn send(&mut self, conn: &mut Conn<'_, Actor>) {
        let len = self.rng.pick(&[0, 1, 20, 300, 3000, 9000, 40_000]);
        let bytes = Bytes::from(pattern(self.rng.below(1000), len));
        match self.rng.below(10) {
            0 | 1 => _ = conn.send(&bytes),
            2 => _ = conn.send_shared(bytes),
            3 => _ = conn.split().1.send(&bytes),
            4..7 => {
                let policy = self.policy();
                let _ = conn.send_with(bytes, policy);
            }
            7 => _ = conn.send_frame(&LengthPrefix::u32_be(1 << 20), bytes),
            8 => {
                assert!(conn.send_frame(&LengthPrefix::u32_be(10), pattern(0, 11).into()).is_err())
            }
            _ => {
                let from = self.rng.below(FILE_BYTES);
                // Now and then more than there is: the file ends too early.
                let most = if self.rng.one_in(12) { 2 * FILE_BYTES } else { FILE_BYTES - from };
                let len = self.rng.within(1, most);
                let _ = conn.send_file(FileRange::new(Arc::clone(&self.file), from as u64, len));
            }
        }
    }

    fn policy(&mut self) -> OverflowPolicy {
        match self.rng.below(6) {
            0 => OverflowPolicy::Close,
            1 => OverflowPolicy::DropNewest,
            2 | 3 => OverflowPolicy::DropOldest,
            _ => OverflowPolicy::Conflate(self.rng.below(3) as u64),
        }
    }

    fn rate(&mut self) -> Option<Rate> {
        let rate = Rate::per_second(self.rng.pick(&[1, 500, 20_000, 1_000_000]));
        let rate = if self.rng.one_in(3) { rate.burst(5000) } else { rate };
        self.rng.one_in(2).then_some(rate)
    }

    fn topic(&mut self) -> [u8; 1] {
        [b'a' + self.rng.below(5) as u8]
    }

    fn subscribe(&mut self, conn: &mut Conn<'_, Actor>) {
        let (topic, before) = (self.topic(), conn.subscriptions());
        let is_new = if self.rng.one_in(3) {
            conn.unsubscribe(topic);
            false
        } else {
            conn.subscribe(topic) == Ok(true)
        };
        assert!(conn.subscriptions() <= before + usize::from(is_new));
    }

    /// Makes a pair or a tunnel of two connections, one of which may be over or the other one itself.
    fn join(&mut self, conn: &mut Conn<'_, Actor>, id: ConnId) {
        let is_joined = if self.rng.one_in(2) { conn.pair_with(id) } else { conn.tunnel_with(id) };
        assert!(!is_joined || id != conn.id());
    }

    fn act_on_another(&mut self, conn: &mut Conn<'_, Actor>) {
        let Some(id) = self.any_id() else { return };
        let Some(mut other) = conn.other(id) else { return };
        match self.rng.below(20) {
            0 | 1 => other.close(),
            2 | 3 => other.resume(),
            4..11 => self.act(&mut other),
            _ => self.send(&mut other),
        }
    }

    /// What a connection says of itself agrees with what it does.
    fn ask(&mut self, conn: &mut Conn<'_, Actor>) {
        let is_open = conn.is_open();
        assert_eq!(conn.send(b"").is_taken(), is_open);
        if !is_open {
            assert_eq!(conn.send(b"x"), SendOutcome::Refused);
        }
        let id = conn.id();
        let _ = (
            conn.close_reason(),
            conn.peer(),
            conn.messages_dropped(),
            conn.dialled_name().is_some(),
        );
        assert_eq!(conn.unsent(), conn.split().1.unsent());
        assert!(conn.other(id).is_none_or(|other| other.id() == id));
    }

    /// A session's drop, or the next `admit`, is to panic.
    fn arm(&mut self) {
        let mut notes = self.log.get();
        let armed =
            if self.rng.one_in(2) { &mut notes.drop_panics } else { &mut notes.admit_panics };
        let was_armed = std::mem::replace(armed, true);
        self.begun.borrow_mut().armed += u64::from(!was_armed);
    }

    fn any_id(&mut self) -> Option<ConnId> {
        let ids = &self.begun.borrow().ids;
        let recent = &ids[ids.len().saturating_sub(RECENT)..];
        (!recent.is_empty()).then(|| self.rng.pick(recent))
    }

    fn dial(&mut self, here: &mut LoopContext<'_, Actor>) -> Option<ConnId> {
        if self.begun.borrow().dials >= DIALS_MAX {
            return None;
        }
        self.begun.borrow_mut().dials += 1;
        let session = self.log.session(None);
        let retry = Retry {
            attempts: self.rng.below(4) as u32,
            first_pause: Duration::from_millis(self.rng.below(10) as u64),
            ..Retry::default()
        };
        let dial = match self.rng.below(3) {
            0 => Dial::to_host("some.where:1").expect("a name"),
            _ => Dial::to(somewhere()),
        };
        let id = here.dial(dial.retry(retry), session).ok()?;
        self.begun.borrow_mut().ids.push(id);
        Some(id)
    }

    fn may_begin_job(&mut self) -> bool {
        let mut begun = self.begun.borrow_mut();
        begun.jobs += 1;
        begun.jobs <= JOBS_MAX
    }

    fn begin_job_of(&mut self, conn: &mut Conn<'_, Actor>) {
        if !self.may_begin_job() {
            return;
        }
        let (mut left, end, panics) = (self.rng.below(5), self.rng.below(12), self.rng.one_in(20));
        let bytes = vec![7; self.rng.pick(&[0, 10, 5000])];
        let count = Arc::clone(&self.panics);
        let _ = conn.in_slices(move |_: &mut Actor, conn: &mut Conn<'_, Actor>| {
            let _ = conn.send(&bytes);
            if left > 0 {
                left -= 1;
                return Slice::More;
            }
            match end {
                0 => conn.close(),
                1 => conn.finish(),
                2 => conn.reset(),
                _ => {}
            }
            if panics {
                count.fetch_add(1, Ordering::Relaxed);
                fail();
            }
            Slice::Done
        });
    }

    /// Asks one thing of the loop, or of the server from its thread.
    fn act_here(&mut self, here: &mut LoopContext<'_, Actor>) {
        match self.rng.below(16) {
            0 => {
                let after = Duration::from_millis(self.rng.below(30) as u64);
                let repeats = self.rng.one_in(4);
                let timer = if repeats { here.every(after, 1) } else { here.after(after, 1) };
                self.begun.borrow_mut().timers.push(timer);
            }
            1 | 2 => {
                let timer = self.begun.borrow_mut().timers.pop();
                if let Some(timer) = timer {
                    here.cancel(timer);
                    assert!(!here.cancel(timer), "it is cancelled already");
                }
            }
            3 => {
                if let Some(id) = self.dial(here)
                    && let Some(mut conn) = here.connection(id)
                {
                    self.act(&mut conn);
                }
            }
            4 => here.each(|conn| {
                if self.rng.one_in(5) {
                    self.send(conn);
                }
            }),
            5 => self.broadcast(here),
            6 => self.begin_job(here),
            7 | 8 => self.send_from_afar(here),
            9 => self.answer(here),
            10 => {
                let (from, slots) = (self.rng.below(20) as u32, self.rng.below(20));
                here.visit_from(from, slots, |conn| {
                    if self.rng.one_in(5) {
                        self.send(conn);
                    }
                });
            }
            11 if !here.state().datagrams.is_empty() => {
                let bytes = pattern(0, self.rng.pick(&[0, 10, 2000]));
                here.send_datagram(0, ([10, 0, 0, 3], 9).into(), &bytes);
            }
            12 => self.run(here),
            13 => {
                let posted = here.handle().post_all(self.rng.next());
                assert!(posted.len() <= here.loops());
            }
            14 if self.begun.borrow().may_end && self.rng.one_in(4) => {
                if self.rng.one_in(3) {
                    here.stop()
                } else {
                    here.drain()
                }
            }
            _ => self.ask_here(here),
        }
    }

    fn ask_here(&mut self, here: &mut LoopContext<'_, Actor>) {
        let (mut open, handle) = (0, here.handle());
        here.each(|_| open += 1);
        assert!(open <= here.connections());
        assert!(here.number() < here.loops() && here.loops() == handle.loops());
        let _ = (here.now(), handle.connections(), handle.open_in(0), handle.snapshot_of(0));
    }

    fn broadcast(&mut self, here: &mut LoopContext<'_, Actor>) {
        let mut what = Broadcast::new(vec![1; self.rng.pick(&[1, 100, 20_000])]);
        if self.rng.one_in(2) {
            what = what.to_topic(self.topic().to_vec());
        }
        what = match self.rng.below(3) {
            0 => what.also_to_the_slow(),
            1 => what.at_limit(self.policy()),
            _ => what,
        };
        let delivery = here.handle().broadcast(what);
        if self.rng.one_in(6) {
            delivery.cancel();
        }
        self.begun.borrow_mut().deliveries.push(delivery);
    }

    fn begin_job(&mut self, here: &mut LoopContext<'_, Actor>) {
        if !self.may_begin_job() {
            return;
        }
        let (mut left, panics) = (self.rng.below(4), self.rng.one_in(20));
        let count = Arc::clone(&self.panics);
        let _ = here.in_slices(move |_: &mut Actor, _: &mut LoopContext<'_, Actor>| {
            if panics {
                count.fetch_add(1, Ordering::Relaxed);
                fail();
            }
            left = left.wrapping_sub(1);
            if left < 4 { Slice::More } else { Slice::Done }
        });
    }

    /// What any thread may ask of a connection.
    fn send_from_afar(&mut self, here: &mut LoopContext<'_, Actor>) {
        let Some(id) = self.any_id() else { return };
        let handle = here.handle();
        let _ = match self.rng.below(4) {
            0 => handle.send(id, vec![3; 300]).map_err(drop),
            1 | 2 => handle.send_with(id, vec![3; 3000], self.policy()).map_err(drop),
            _ => handle.close(id).map_err(drop),
        };
    }

    /// A pool's answer for some connection, which may be over.
    fn answer(&mut self, here: &mut LoopContext<'_, Actor>) {
        let Some(id) = self.any_id() else { return };
        let (what, panics) = (self.rng.below(6), Arc::clone(&self.panics));
        let answer = move |conn: &mut Conn<'_, Actor>| {
            let _ = conn.send(b"answer");
            match what {
                0 => conn.finish(),
                1 => conn.resume(),
                2 => conn.set_busy(false),
                3 => {
                    panics.fetch_add(1, Ordering::Relaxed);
                    fail();
                }
                _ => {}
            }
        };
        here.state().job_begun(id);
        here.spawner().deliver(0, Task::OfConnection(id, Box::new(answer)));
    }

    fn run(&mut self, here: &mut LoopContext<'_, Actor>) {
        let (id, panics) = (self.any_id(), self.rng.one_in(8));
        let count = Arc::clone(&self.panics);
        let _ = here.spawner().run(0, move |_: &mut Actor, here: &mut LoopContext<'_, Actor>| {
            if let Some(mut conn) = id.and_then(|id| here.connection(id)) {
                let _ = conn.send(b"run");
                conn.resume();
            }
            if panics {
                count.fetch_add(1, Ordering::Relaxed);
                fail();
            }
        });
    }
}

// --- the world ---------------------------------------------------------------------------------

fn limits(limits: &mut Limits, rng: &mut Rng) {
    fn maybe(rng: &mut Rng, ms: &[u64]) -> Option<Duration> {
        rng.one_in(2).then(|| Duration::from_millis(rng.pick(ms)))
    }
    limits.idle_timeout = maybe(rng, &[200, 500]);
    limits.first_byte_timeout = maybe(rng, &[50, 100]);
    limits.message_timeout = maybe(rng, &[20, 100]);
    limits.stuck_timeout = maybe(rng, &[20, 100]);
    limits.lifetime_max = maybe(rng, &[200, 1000]);
    limits.heartbeat_interval = maybe(rng, &[20, 60]);
    limits.connect_timeout = Duration::from_millis(rng.pick(&[20, 1000]));
    limits.write_timeout = Duration::from_millis(rng.pick(&[30, 1000]));
    limits.linger_timeout = Duration::from_millis(rng.pick(&[10, 200]));
    limits.linger_bytes_max = rng.pick(&[1000, 1 << 20]);
    limits.quiet_time = Duration::from_millis(rng.pick(&[0, 5, 50]));
    limits.drain_spread = Duration::from_millis(rng.pick(&[0, 0, 20]));
    limits.input_bytes_max = rng.pick(&[1000, 16 << 10, 64 << 10]);
    limits.output_limit = rng.pick(&[8192, 64 << 10, 1 << 20]);
    limits.pipes_max = rng.pick(&[0, 1, 2, 64]);
    limits.memory_budget = rng.one_in(2).then(|| rng.pick(&[150_000, 400_000, 4 << 20]));
    limits.pool_retain_bytes = rng.pick(&[0, 1 << 20]);
    let mut maybe_rate = || {
        let rate = Rate::per_second(rng.pick(&[3000, 100_000]));
        rng.one_in(3).then_some(rate)
    };
    limits.receive_rate = maybe_rate();
    limits.send_rate = maybe_rate();
    limits.file_bytes_per_turn = rng.pick(&[500, 64 << 10]);
    limits.endings_per_turn = rng.pick(&[1, 4, 64]);
    limits.dials_per_turn = rng.pick(&[1, 4]);
    limits.arrivals_per_turn = rng.pick(&[1, 4, 64]);
    limits.accepts_per_turn = rng.pick(&[1, 4, 64]);
    limits.timers_per_turn = rng.pick(&[1, 3, 1024]);
    limits.mail_queue = rng.pick(&[4, 64]);
    limits.mail_per_turn = rng.pick(&[1, 64]);
    limits.names_queue = rng.pick(&[1, 64]);
    limits.jobs_max = rng.pick(&[1, 8]);
    limits.slice_time_per_turn = Duration::from_micros(rng.pick(&[0, 100]));
    limits.topics_max = rng.pick(&[2, 100]);
    limits.topics_per_connection_max = rng.pick(&[1, 8]);
    limits.broadcasts_max = rng.pick(&[1, 8]);
    limits.broadcast_per_turn = rng.pick(&[1, 64]);
    limits.datagrams_per_turn = rng.pick(&[1, 64]);
    limits.datagram_queue_bytes = rng.pick(&[70_000, 1 << 20]);
    limits.drained_per_turn = rng.pick(&[1, 256]);
    if rng.one_in(2) {
        limits.connections_max = Some(8);
        if rng.one_in(2) {
            let min_idle = Duration::from_millis(rng.pick(&[0, 20]));
            limits.when_full = WhenFull::ReuseIdle { min_idle };
        }
    }
    limits.per_source_max = rng.one_in(3).then_some(2);
    limits.source_prefix_v4 = 30;
    limits.time_callbacks = rng.one_in(3);
}

/// What one peer does next.
fn step_of_a_peer(rng: &mut Rng, peer: &Peer) {
    match rng.below(40) {
        0..18 => {
            let (from, len) = (rng.below(1000), rng.pick(&[1, 10, 100, 1000, 8000, 40_000]));
            peer.send(&pattern(from, len));
        }
        18..22 => peer.reads(false),
        22..26 => peer.reads(true),
        26..33 => peer.read(rng.below(9000)),
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
    let header = match rng.below(8) {
        0 => "PROXY UNKNOWN\r\n".to_owned(),
        _ => format!("PROXY TCP4 {ip} 10.0.0.1 1 1\r\n"),
    };
    let (begin, rest) = header.as_bytes().split_at(rng.below(header.len()));
    peer.send(begin);
    if !rng.one_in(5) {
        peer.send(rest);
    }
}

/// A run: the stage, and those who play on it.
struct Run<D: Rig> {
    stage: Stage<D>,
    begun: Rc<RefCell<Begun>>,
    peers: Vec<Peer>,
    /// Those that another thread has given to the loop.
    given: Vec<Peer>,
    are_announced: bool,
}

impl<D: Rig> Run<D> {
    fn new(seed: u64) -> Self {
        let mut stage = Stage::<D>::with(seed, |it| limits(it, &mut Rng::new(seed ^ 0xABCD_EF01)));
        if seed.is_multiple_of(3) {
            stage.world.get().buffers = (64 << 10, 20_000);
        }
        stage.note(format!("seed {seed}: {:?}", stage.limits()));
        stage.listen();
        let are_announced = seed % 4 == 1;
        if are_announced {
            stage.hears_proxies();
        }
        if seed.is_multiple_of(5) {
            let at = "127.0.0.1:9000".parse().unwrap();
            stage.event_loop.open_datagrams(at).unwrap();
        }
        let (begun, panics) = (Rc::default(), Arc::default());
        let mut chaos = Chaos {
            rng: Rng::new(seed.wrapping_mul(77) + 1),
            begun: Rc::clone(&begun),
            panics: Arc::clone(&panics),
            log: stage.log.clone(),
            file: super::files::file_of(&pattern(0, FILE_BYTES)),
        };
        stage.play(move |at| chaos.play(at));
        let (armed, log) = (Rc::clone(&begun), stage.log.clone());
        stage.panics_are_counted_by(move || {
            let still_armed = {
                let notes = log.get();
                u64::from(notes.drop_panics) + u64::from(notes.admit_panics)
            };
            let begun: &Begun = &armed.borrow();
            panics.load(Ordering::Relaxed) + begun.armed - still_armed
        });
        Self { stage, begun, peers: Vec::new(), given: Vec::new(), are_announced }
    }

    /// Somebody comes: to the listener, or given by another thread.
    fn come(&mut self) {
        let stage = &mut self.stage;
        if stage.rng.one_in(6) {
            self.given.extend(stage.give());
            self.peers.extend(self.given.last().cloned());
            return;
        }
        let peer = stage.knock();
        if self.are_announced {
            announce(&mut stage.rng, &peer);
        }
        self.peers.push(peer);
    }

    /// One of the peers does something, those of dialled connections among them.
    fn step_of_a_peer(&mut self) {
        let (stage, peers) = (&mut self.stage, &mut self.peers);
        let wires = stage.world.get().wires.len();
        if stage.rng.one_in(3) && wires > 0 {
            let wire = stage.rng.below(wires);
            peers.push(stage.world.peer(wire));
        }
        if !peers.is_empty() {
            let from = peers.len().saturating_sub(RECENT);
            let k = stage.rng.within(from, peers.len() - 1);
            step_of_a_peer(&mut stage.rng, &peers[k]);
        }
    }

    /// Answers the oldest question for a name, if there is one: with some addresses, or none.
    fn resolve(&mut self) {
        let stage = &mut self.stage;
        let Some(Lookup { id, attempt, .. }) = stage.shared.resolver.take() else { return };
        let count = stage.rng.below(4) as u16;
        let addresses = (1..=count).map(|port| std::net::SocketAddr::from(([10, 0, 0, 1], port)));
        let found = match count {
            0 => Err(Arc::new(std::io::Error::other("not known"))),
            _ => Ok(addresses.collect()),
        };
        stage.shared.answer(LookupResult { id, attempt, found });
    }

    /// What happens beside the peers.
    fn step_of_the_world(&mut self) {
        let stage = &mut self.stage;
        match stage.rng.below(18) {
            0..6 => stage.turn(),
            6 => stage.settle(),
            7 | 8 => {
                let ms = stage.rng.below(20) as u64;
                stage.advance(ms);
            }
            9 => _ = stage.handle().post(0, 1),
            10 => {
                let outcomes = [
                    Outcome::Up,
                    Outcome::Greeted(pattern(0, 50), true),
                    Outcome::Greeted(pattern(0, 5000), false),
                    Outcome::Refused,
                    Outcome::Silence,
                    Outcome::ToItself,
                    Outcome::Fails(libc::EADDRNOTAVAIL),
                ];
                let outcome = outcomes[stage.rng.below(outcomes.len())].clone();
                stage.world.get().dials.push_back(outcome);
            }
            11 if stage.rng.one_in(4) => stage.world.get().faults.attach.push_back(libc::ENOSPC),
            12 if stage.rng.one_in(8) => stage.world.get().faults.send.push_back(libc::EPIPE),
            13 if stage.rng.one_in(4) => stage.world.get().faults.pipe.push_back(libc::EMFILE),
            14 => {
                let id = self.begun.borrow().ids.last().copied();
                let question = match (stage.rng.below(6), id) {
                    (0, Some(id)) => Query::Kill(id),
                    (n, _) => Query::Top { by: By::ALL[n % By::ALL.len()], most: 3 },
                };
                let _ = stage.shared.loops[0].mail.post(Mail::Ask(PendingQuery::new(question)));
            }
            15 if self.are_announced => {}
            15 => {
                let bytes = pattern(0, stage.rng.pick(&[0, 10, 2000]));
                stage.world.say(([10, 0, 0, 9], 5).into(), &bytes);
            }
            16 => {
                let refuses = stage.rng.one_in(4);
                stage.log.get().refuses = refuses;
            }
            _ => {}
        }
    }

    /// Ends it: at once, or by a drain, in whatever state everything is.
    fn end(&mut self) {
        self.stage.world.get().faults.attach.clear();
        self.stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
        if self.stage.rng.one_in(2) {
            self.drain();
        }
        if !self.stage.is_over {
            self.stage.shared.raise(Phase::Stop);
            self.stage.settle();
        }
        assert!(self.stage.is_over, "it does not end");
        // Who was still in the mail is closed by a drop, of which the world does not hear.
        for peer in &self.given {
            let was_taken = peer.wire().last_token.is_some();
            let mut world = self.stage.world.get();
            world.sockets.retain(|_, wire| *wire != peer.wire || was_taken);
        }
    }

    /// A drain in which everybody goes on for a while, and perhaps its deadline.
    fn drain(&mut self) {
        self.stage.shared.raise(Phase::Drain);
        for _ in 0..self.stage.rng.below(60) {
            if self.stage.is_over {
                return;
            }
            self.step_of_a_peer();
            if self.stage.rng.one_in(2) {
                self.resolve();
            }
            match self.stage.rng.below(3) {
                0 => self.stage.turn(),
                1 => self.stage.settle(),
                _ => {
                    let ms = self.stage.rng.below(10) as u64;
                    self.stage.advance(ms);
                }
            }
        }
        if !self.stage.is_over && self.stage.rng.one_in(2) {
            self.stage.shared.raise(Phase::ForceClose);
            self.stage.advance(1);
        }
    }
}

fn everything_adds_up<D: Rig>(seed: u64) {
    let mut run = Run::<D>::new(seed);
    for step in 0..STEPS {
        if run.peers.len() < PEERS_MAX || run.stage.rng.one_in(15) {
            run.come();
        }
        if run.stage.rng.one_in(2) {
            run.resolve();
        }
        run.step_of_a_peer();
        run.step_of_the_world();
        run.begun.borrow_mut().may_end = step > STEPS / 2;
        if run.stage.shared.asked.phase() != Phase::Run {
            break; // a callback has asked for the end, which the acceptor would carry out
        }
    }
    run.end();
    let Run { mut stage, begun, .. } = run;
    stage.is_closed();
    let state = &stage.event_loop.state;
    let pool = &state.outbox.pool;
    assert_eq!(pool.memory(), pool.retained_bytes(), "memory is lent to nobody");
    assert!(pool.pipes_open() <= state.limits.pipes_max);
    assert!(state.jobs.is_empty() && state.clients.is_empty() && state.names.is_empty());
    for delivery in &begun.borrow().deliveries {
        assert!(delivery.is_over(), "a broadcast is not over: {:?}", delivery.report());
    }
}
