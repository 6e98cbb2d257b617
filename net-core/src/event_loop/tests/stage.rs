//! `Stage`: one loop on one world, with the checks that hold after every turn, whenever nothing is
//! left to do, and at the end.

use super::actor::{Actor, At, Log, Record, usual};
use super::{MUTATION, Mutation, Peer, Rig, Rng};
use crate::accept::admission::{Admission, Arrival};
use crate::accept::listener::Listener;
use crate::api::server_handle::ServerHandle;
use crate::base::id::ConnId;
use crate::config::limits::Limits;
use crate::connection::life::State;
use crate::connection::loop_state::Rates;
use crate::connection::slot::{Cold, Status};
use crate::driver::readiness::ROOM_ALWAYS;
use crate::driver::sim::World;
use crate::driver::{listener_token, waiting_number};
use crate::event_loop::EventLoop;
use crate::event_loop::receiving::READY_PER_TURN;
use crate::observe::counters::{Counter, Snapshot};
use crate::sys::addr::Addr;
use crate::sys::{ListenOptions, Socket, Waker};
use crate::threads::control::Phase;
use crate::threads::mail::Mail;
use crate::threads::shared::Shared;
use bytes::Bytes;
use net_timer::{Slot, Tick};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Callbacks after which a turn is said to have no end.
const CALLS_WITHOUT_END: usize = 100_000;

/// Turns after which a loop that should have come to rest is said to spin.
const SPINS: usize = 200_000;

pub(super) struct Stage<D: Rig> {
    pub(super) event_loop: EventLoop<Actor, D>,
    pub(super) world: World,
    pub(super) shared: Arc<Shared<u64>>,
    pub(super) log: Log,
    pub(super) rng: Rng,
    pub(super) is_over: bool,
    /// Panics that the test has made.
    pub(super) panics: u64,
    /// Clients come by way of a proxy that announces them.
    pub(super) are_announced: bool,
    counts_panics: Option<Box<dyn Fn() -> u64>>,
    /// What this run is about, for when it fails.
    note: Note,
}

/// Says what a run was about if it fails.
#[derive(Default)]
struct Note(String);

impl Drop for Note {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.0.is_empty() {
            eprintln!("failed with {}", self.0);
        }
    }
}

impl<D: Rig> Stage<D> {
    /// A loop whose handler echoes, with limits and buffers by the seed.
    pub(super) fn new(seed: u64) -> Self {
        Self::with(seed, |_| {})
    }

    /// The same, with other limits.
    pub(super) fn with(seed: u64, change: impl FnOnce(&mut Limits)) -> Self {
        Self::with_refusal(seed, Bytes::new(), change)
    }

    /// The same, and those who are not let in are told so.
    pub(super) fn with_refusal(
        seed: u64,
        refusal: Bytes,
        change: impl FnOnce(&mut Limits),
    ) -> Self {
        let mut rng = Rng::new(seed);
        let mut limits = Limits {
            receive_block_bytes: rng.pick(&[64, 512, 4096]),
            receive_bytes_per_turn: rng.pick(&[256, 1024, 8192]),
            receive_bytes_in_a_row: rng.pick(&[256, 1024, 8192]),
            send_bytes_per_turn: rng.pick(&[256, 1024, 8192]),
            high_watermark: 4096,
            low_watermark: rng.pick(&[0, 1024, 4096]),
            output_limit: 1 << 20,
            cork_bytes: rng.pick(&[64, 1024, 16384]),
            events_per_wait: 64,
            log_every: Duration::from_secs(3600),
            ..Limits::default()
        };
        change(&mut limits);
        limits.check().expect("a test's limits agree");
        let admission = Admission::new(limits.connections_max.unwrap_or(1 << 20), &limits);
        let shared = Shared::new(1, admission.with_refusal(refusal), &limits).unwrap();
        let mut driver = D::open(&limits, Arc::new(Waker::new().unwrap())).unwrap();
        let world = driver.world();
        world.get().rng = Rng::new(seed ^ 0x5EED);
        let size = rng.pick(&[100, 1000, 20_000]);
        world.get().buffers = (rng.within(size / 2, size), rng.within(size / 2, size));
        world.get().faults.hides_ends = MUTATION.get() == Some(Mutation::ShortReadsAlwaysEnd);
        ROOM_ALWAYS.set(MUTATION.get() == Some(Mutation::RoomAlways));
        // Between turns that a test makes, no time passes.
        let now = world.get().now;
        world.get().limit = Some(now);
        let log = Log::default();
        let actor = Actor { log: log.clone(), play: Box::new(usual) };
        let event_loop =
            EventLoop::new(0, driver, actor, &limits, Arc::clone(&shared), Vec::new(), None);
        Self {
            event_loop,
            world,
            shared,
            log,
            rng,
            is_over: false,
            panics: 0,
            are_announced: false,
            counts_panics: None,
            note: Note::default(),
        }
    }

    /// What the handler does from now on.
    pub(super) fn play(&mut self, mut play: impl FnMut(At<'_, '_, '_>) + 'static) {
        let log = self.log.clone();
        self.event_loop.handler.play = Box::new(move |at| {
            if !log.has_called_without_end() {
                play(at);
            }
        });
    }

    pub(super) fn panics_are_counted_by(&mut self, count: impl Fn() -> u64 + 'static) {
        self.counts_panics = Some(Box::new(count));
    }

    pub(super) fn limits(&self) -> Limits {
        self.event_loop.state.limits.clone()
    }

    pub(super) fn note(&mut self, what: String) {
        self.note.0 = what;
    }

    // --- coming in ---------------------------------------------------------------------------

    /// A client is on its way to the loop.
    pub(super) fn arrive(&mut self) -> Peer {
        let wire = self.world.connect();
        let socket = self.world.socket(wire);
        let peer = D::peer(&socket).unwrap();
        let std::net::SocketAddr::V4(v4) = peer.inet().unwrap() else { panic!("IPv4") };
        let ip = std::net::Ipv4Addr::from(0x0A00_0000 | wire as u32);
        self.arrive_from(wire, socket, std::net::SocketAddr::from((ip, v4.port())).into())
    }

    /// A client of a Unix socket is on its way to the loop.
    pub(super) fn arrive_by_unix(&mut self) -> Peer {
        let wire = self.world.connect();
        let socket = self.world.socket(wire);
        self.arrive_from(wire, socket, format!("unix:@{wire}").parse().unwrap())
    }

    fn arrive_from(&mut self, wire: usize, socket: Socket, peer: Addr) -> Peer {
        let from = Some(&peer).filter(|_| !self.are_announced);
        let permit = self.shared.admission.enter(from).expect("there is room");
        self.shared.acceptor.add(Counter::Accepted, 1);
        let arrival = Arrival { socket, peer, permit, is_announced: self.are_announced };
        self.shared.loops[0].arrivals.push(arrival).expect("there is room");
        self.world.peer(wire)
    }

    /// The loop listens itself.
    pub(super) fn listen(&mut self) {
        let at = "127.0.0.1:9000".parse().unwrap();
        let options = ListenOptions::default();
        let socket = self.event_loop.driver.listen(listener_token(0), &at, &options).unwrap();
        let listening = Listener::new(at, socket, &self.limits(), &self.shared.listener_health);
        self.event_loop.listeners.push(listening);
    }

    /// A client at the listener's door.
    pub(super) fn knock(&mut self) -> Peer {
        self.world.peer(self.world.knock())
    }

    /// From now on those at the door are proxies, which say for whom they come.
    pub(super) fn hears_proxies(&mut self) {
        let proxies = Arc::new("0.0.0.0/0".parse().unwrap());
        let listeners = std::mem::take(&mut self.event_loop.listeners);
        let behind = listeners.into_iter().map(|it| it.behind(Some(Arc::clone(&proxies))));
        self.event_loop.listeners = behind.collect();
    }

    /// A connection that was made elsewhere is given to the loop. `None`: it is not taken.
    pub(super) fn give(&mut self) -> Option<Peer> {
        let wire = self.world.connect();
        let socket = self.world.socket(wire);
        let ip = std::net::Ipv4Addr::from(0x0A00_0000 | wire as u32);
        let peer = Addr::from(std::net::SocketAddr::from((ip, 1)));
        let permit = match self.shared.admission.enter(Some(&peer)) {
            Ok(permit) if !permit.is_over() => permit,
            _ => {
                self.world.close(socket, false);
                return None;
            }
        };
        let arrival = Box::new(Arrival { socket, peer, permit, is_announced: false });
        match self.handle().mail(0, Mail::Arrival(arrival)) {
            Ok(()) => Some(self.world.peer(wire)),
            Err(error) => {
                let Mail::Arrival(arrival) = error.into_inner() else { unreachable!() };
                self.world.close(arrival.socket, false);
                None
            }
        }
    }

    /// A client that the loop has taken.
    pub(super) fn open(&mut self) -> Peer {
        let peer = self.arrive();
        self.settle();
        peer
    }

    pub(super) fn handle(&self) -> ServerHandle<u64> {
        ServerHandle(Arc::clone(&self.shared))
    }

    // --- going on ----------------------------------------------------------------------------

    pub(super) fn turn(&mut self) {
        assert!(!self.is_over, "a turn after the last");
        let paused = self.paused();
        let most = self.calls_max();
        let (sends, receives) = {
            let counts = &self.world.get().counts;
            (counts.sends, counts.receives)
        };
        let mail = self.shared.loops[0].counters.get(Counter::Mail);
        self.log.get().calls = 0;
        self.log.get().calls_max = CALLS_WITHOUT_END;
        self.is_over = !self.event_loop.turn().unwrap();
        self.calls_are_few(most, (self.world.get().counts.receives - receives) as usize);
        // A thread of a pool is in no world: what it posts may come when the turn has slept.
        if self.world.get().is_quiet && self.shared.loops[0].counters.get(Counter::Mail) == mail {
            let calls = self.log.get().calls;
            let sends = self.world.get().counts.sends - sends;
            assert_eq!((calls, sends), (0, 0), "it slept past what was due: calls, sends");
        }
        match MUTATION.get() {
            Some(Mutation::NoRequeue) => self.forget_ready(|_| true),
            Some(Mutation::NoSyntheticRead) => self.forget_ready(|id| paused.contains(&id)),
            _ => {}
        }
        let faults = std::mem::take(&mut self.log.get().faults);
        assert!(faults.is_empty(), "{faults:?}");
        if let Some(count) = &self.counts_panics {
            self.panics = count();
        }
        assert_eq!(self.count(Counter::Panics), self.panics, "panics: {:?}", self.log.get().panics);
    }

    /// Callbacks that the limits allow in the next turn, whatever they bring about, beside those of what is
    /// received in it, and of datagrams.
    fn calls_max(&self) -> usize {
        let state = &self.event_loop.state;
        let limits = &state.limits;
        // A signal may be that of a dial that is up, or of room.
        let signals = 2 * (self.world.get().sockets.len() + 4);
        let told = limits.drained_per_turn.saturating_mul(2);
        // Admitted, opened, and with room again.
        let late = 3 * (self.event_loop.last_arrivals.len() / 8);
        let arrivals = limits.arrivals_per_turn.saturating_mul(6).saturating_add(late);
        let mail = limits.mail_per_turn.saturating_mul(3);
        let ready = 2 * READY_PER_TURN.max(state.ready.len() / 4);
        // Timers; and as many whose quiet time is over.
        let timers = limits.timers_per_turn.saturating_mul(2);
        let ends = limits.endings_per_turn.saturating_mul(3).saturating_add(state.table.len() / 8);
        // A slice and the room for what it sent; two flushes; and a wish with what a last look brings.
        let deferred = limits.deferred_per_turn.saturating_mul(8);
        let all = [signals, told, arrivals, mail, ready, timers, ends, deferred];
        all.into_iter().fold(0, usize::saturating_add)
    }

    /// A turn has received so often, and all its callbacks are few.
    fn calls_are_few(&self, most: usize, receives: usize) {
        // A receive brings bytes or the end, and room for the answer; and of those who come and go, an
        // eighth of one.
        let most = most.saturating_add(5 * receives);
        let calls = self.log.get().calls;
        assert!(
            calls <= most,
            "{calls} callbacks in a turn with {receives} receives: {most} at most"
        );
    }

    /// Those that are paused, where a mutation asks for them.
    fn paused(&mut self) -> Vec<ConnId> {
        if MUTATION.get() != Some(Mutation::NoSyntheticRead) {
            return Vec::new();
        }
        let state = &mut self.event_loop.state;
        let ids: Vec<_> = self.log.get().records.iter().filter_map(|record| record.id).collect();
        ids.into_iter()
            .filter(|id| state.head(*id).is_some_and(|head| head.status.has(Status::PAUSED)))
            .collect()
    }

    /// What a loop would do that never made these ready.
    fn forget_ready(&mut self, which: impl Fn(ConnId) -> bool) {
        let state = &mut self.event_loop.state;
        for id in std::mem::take(&mut state.ready) {
            match state.head(id) {
                Some(head) if which(id) => head.status.clear(Status::READY | Status::AGAIN),
                _ => state.ready.push_back(id),
            }
        }
    }

    /// Turns until the loop would sleep, no time passing.
    pub(super) fn settle(&mut self) {
        self.advance(0);
    }

    /// Turns until the loop would sleep past the next `ms` milliseconds.
    pub(super) fn advance(&mut self, ms: u64) {
        let limit = self.world.get().now + ms;
        self.world.get().limit = Some(limit);
        for _ in 0..SPINS {
            if self.is_over {
                // The kernel goes on with what it was given.
                return self.world.get().flow();
            }
            self.turn();
            if self.world.get().is_quiet {
                return self.nothing_waits();
            }
        }
        panic!("the loop spins");
    }

    /// Ends it all, by order or by the peers, and checks the books.
    pub(super) fn stop(mut self) {
        if !self.is_over {
            self.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
            self.shared.raise(Phase::Stop);
            self.settle();
        }
        self.is_closed();
    }

    // --- asking ------------------------------------------------------------------------------

    pub(super) fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    pub(super) fn count(&self, counter: Counter) -> u64 {
        self.snapshot().get(counter)
    }

    pub(super) fn record(&self, peer: &Peer) -> Record {
        self.log.of(peer.wire)
    }

    pub(super) fn log_of(&self, id: ConnId) -> Option<Record> {
        self.log.get().records.iter().find(|record| record.id == Some(id)).cloned()
    }

    pub(super) fn id(&self, peer: &Peer) -> ConnId {
        self.record(peer).id.expect("on_open was called")
    }

    pub(super) fn state(&mut self, peer: &Peer) -> State {
        let id = self.id(peer);
        self.event_loop.state.head(id).map_or(State::Dead, |head| head.status.state())
    }

    /// Bytes that wait in the loop for that peer.
    pub(super) fn pending(&mut self, peer: &Peer) -> usize {
        let id = self.id(peer);
        self.event_loop.state.with(id, |outbox, head| outbox.pending(head)).unwrap_or(0)
    }

    // --- checks ------------------------------------------------------------------------------

    /// The loop would sleep. Nothing may wait that no signal will tell of.
    fn nothing_waits(&mut self) {
        assert!(!self.event_loop.driver.holds_back());
        let inbox = &self.shared.loops[0];
        assert!(inbox.mail.is_empty() && inbox.arrivals.is_empty(), "in the inbox");
        assert_eq!(inbox.mail.len_beyond(), 0, "beside the mailbox");
        let state = &mut self.event_loop.state;
        assert!(state.ready.is_empty() && state.dead.is_empty());
        assert!(state.dials.is_empty(), "dials are not begun");
        assert!(self.event_loop.fan_outs.is_empty(), "a broadcast is not told");
        assert!(state.outbox.is_empty(), "in the outbox");
        let mut world = self.world.get();
        let sockets: Vec<usize> = world.sockets.values().copied().collect();
        let mut live = 0;
        let mut racing = Vec::new();
        // As all stand: to ask one for room is what may hold its partner back.
        let mut stood = HashMap::new();
        let mut from = 0;
        while let Some(id) = state.table.next_live(from) {
            from = id.slot() + 1;
            stood.extend(state.head(id).map(|head| (id, head.status)));
        }
        for wire in sockets.into_iter().filter(|wire| *wire != usize::MAX) {
            let wire = &mut world.wires[wire];
            let Some(token) = wire.token else { panic!("a socket that nobody watches: {wire:?}") };
            let Some(id) = ConnId::from_token(token) else {
                // It waits for the rest of its PROXY header.
                assert!(waiting_number(token).is_some(), "{token:x} names nobody");
                assert!(wire.arrived.is_empty() && !wire.has_fin, "it is not heard: {wire:?}");
                live += 1;
                continue;
            };
            let status = stood.get(&id).copied();
            let status = status.unwrap_or_else(|| panic!("{id} has left its socket"));
            let room = state.input_room(id);
            let Some(connection) = state.table.get(id) else { unreachable!("it was there") };
            // A dial to a name may have several sockets, and is one connection.
            let is_another = status.state() == State::Connecting && racing.contains(&id);
            racing.push(id);
            live += usize::from(!is_another);
            let pending = state.outbox.pending(&connection.head);
            let head = &connection.head;
            let at = status.state();
            assert!(at != State::Dead, "{id} is dead and was not closed");
            assert!(!wire.is_reset, "{id} {at:?} was not told of a reset: {status:x?} {wire:?}");
            let listed = Status::READY | Status::TO_FLUSH | Status::WISHED | Status::CORKED;
            // The one that waits until a dial is up.
            let waits = if at == State::Connecting { Status::WISH_FINISH } else { 0 };
            let granted = listed | Status::WISHES & !waits;
            assert!(!status.has(granted), "{id} {at:?} {status:?}");
            let is_held = at.delivers() && room == 0;
            if at.reads() && !is_held {
                let is_read = wire.arrived.is_empty() && !wire.has_fin;
                assert!(is_read, "{id} {at:?} is not read on: {wire:?}");
            }
            let is_rated = state.rates.get(&id).is_some_and(Rates::holds_output);
            if at.flushes() && pending > 0 && !is_rated && !status.has(Status::HOLDS) {
                assert!(!wire.has_room(), "{id} {at:?}: {pending} B wait, and there is room");
            }
            // On a real socket the last of it would leave 200 ms later.
            let is_kept = wire.is_corked && pending == 0 && !wire.has_sent_fin;
            assert!(!is_kept, "{id} {at:?}: its last bytes wait for more: {status:?}");
            // What else lets it go on comes by itself.
            assert!(!is_rated || head.deadline < Tick::MAX, "{id} {at:?} waits for no token");
            assert!(
                !status.has(Status::HOLDS) || status.has(Status::FLOWS),
                "{id} {at:?} holds its answer for nothing: {status:?}"
            );
            // While it is dialled, what waited may be dropped again. The flush when it is up tells of that.
            let was_shed = at == State::Connecting && pending == 0;
            assert!(was_shed || status.has(Status::UNSENT) == (pending > 0), "{id} {at:?}");
            assert!(
                at != State::Connecting
                    || !status.has(Status::HELD)
                    || status.has(Status::UNSENT | Status::CORKED),
                "{id} {at:?} is above its marks, and no flush is to come: {status:?}"
            );
            if status.has(Status::HELD) && at == State::Open {
                let limits = &state.limits;
                // With a budget, the marks may be lower.
                let is_above = pending > state.outbox.low_watermark().min(limits.low_watermark)
                    || pending == limits.output_limit;
                assert!(is_above, "{id} is held for nothing");
            }
            let cold_for_nothing = head.cold.as_deref().is_some_and(Cold::is_idle);
            assert!(!cold_for_nothing, "{id} {at:?} keeps memory for nothing");
            if head.deadline < Tick::MAX {
                assert!(head.slot != Slot::NONE, "{id} {at:?} has a deadline that is not filed");
            }
            let under_way =
                Status::UNREAD | Status::UNSENT | Status::BUSY | Status::PAUSED | Status::FLOWS;
            let may_idle = matches!(at, State::Open | State::PeerEnded | State::Finished);
            if status.has(Status::WHEN_IDLE) && may_idle {
                assert!(
                    status.has(under_way) || room == 0,
                    "{id} {at:?} is idle and should have closed: {status:?}"
                );
            }
        }
        drop(world);
        // Between two attempts a dial has no socket, but the time of the next one; or it is still to be
        // told of the drain, which ends it.
        let is_told_later = self.event_loop.drain_notice.is_some();
        let mut from = 0;
        while let Some(id) = state.table.next_live(from) {
            from = id.slot() + 1;
            let Some(head) = state.head(id).filter(|head| head.socket.number() < 0) else {
                continue;
            };
            assert!(head.status.state() == State::Connecting, "{id} has no socket");
            assert!(head.slot != Slot::NONE || is_told_later, "{id} waits for nothing");
            live += 1;
        }
        assert_eq!(live, state.table.len(), "connections without a socket");
    }

    /// Nothing is left, and everything is accounted for.
    pub(super) fn is_closed(&mut self) {
        let state = &self.event_loop.state;
        assert_eq!(state.table.len(), 0, "connections are left");
        assert_eq!(state.wheel.len(), 0, "deadlines are left");
        assert!(state.outbox.is_empty() && state.outbox.cork.owners() == 0);
        assert!(state.ready.is_empty() && state.dead.is_empty() && state.dials.is_empty());
        assert!(state.topics.is_empty(), "subscriptions are left");
        assert!(state.outbox.marks.is_empty(), "marks are left");
        assert!(state.rates.is_empty(), "rate limits are left");
        assert!(state.owed.is_empty(), "answers are owed");
        let pool = &state.outbox.pool;
        assert_eq!(pool.memory(), pool.retained_bytes(), "memory is counted that is gone");
        let places = (self.shared.admission.inside(), self.shared.admission.sources());
        assert_eq!(places, (0, 0), "places are left over");
        let snapshot = self.snapshot();
        assert!(snapshot.is_balanced(), "the books: {snapshot}");
        assert_eq!(self.world.get().sockets.len(), 0, "sockets are left");
        for (number, record) in self.log.get().records.iter().enumerate() {
            // A dial that was not taken is given back, and dropped.
            let never_begun = record.id.is_none() && record.calls.is_empty();
            let was_closed = record.closed.is_some() || never_begun;
            assert!(was_closed, "session {number} was not closed: {record:?}");
            assert_eq!(record.drops, 1, "session {number}: {record:?}");
        }
    }
}
