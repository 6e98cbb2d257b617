//! The state of one loop, without kernel and without user code.
//!
//! Callbacks see this, through `Conn` and `LoopContext`, and the turn sees it. Neither the driver nor the
//! handler is in it.

mod owed;
mod rates;

use crate::accept::per_source_limit::Source;
use crate::base::close_reason::CloseReason;
use crate::base::id::ConnId;
use crate::config::limits::Limits;
use crate::connection::life::State;
use crate::connection::outbox::Outbox;
use crate::connection::slot::{Connection, Deadlines, Filed, Head, Status};
use crate::connection::table::Table;
use crate::features::datagram::Outgoing;
use crate::features::dial::{Dial, DialRejected, Dialling, Jitter, Target};
use crate::features::timers::Timers;
use crate::features::topics::Topics;
use crate::observe::counters::Counter;
use crate::sys::Socket;
use crate::sys::addr::Addr;
use crate::threads::control::Phase;
use crate::threads::inbox::Inbox;
use crate::threads::shared::Shared;
use net_timer::{Slot, Tick, Wheel};
pub(crate) use owed::{LastWord, Owed};
pub(crate) use rates::{Rates, Way};
use std::any::Any;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct LoopState<S, M> {
    pub(crate) number: u8,
    pub(crate) table: Table<S>,
    pub(crate) outbox: Outbox,
    /// The deadlines of connections, filed by slot number.
    pub(crate) wheel: Wheel,
    pub(crate) timers: Timers,
    /// Connections to receive from although no edge will come for them.
    pub(crate) ready: VecDeque<ConnId>,
    /// Connections that are over; `on_close` is due.
    pub(crate) dead: VecDeque<ConnId>,
    /// Connections whose next attempt is due.
    pub(crate) dials: VecDeque<ConnId>,
    /// Jobs in slices, the next first: each a `Job` of the handler.
    pub(crate) jobs: VecDeque<Box<dyn Any>>,
    /// What is to be sent from each datagram endpoint. Shared with a datagram's callback.
    pub(crate) datagrams: Vec<Rc<RefCell<Outgoing>>>,
    pub(crate) jitter: Jitter,
    pub(crate) topics: Topics,
    /// The clock, read once at the start of the turn.
    pub(crate) now: Tick,
    /// When a connection that moves a byte in this turn would be idle; with heartbeats, when it
    /// would have been quiet for half their interval. `MAX`: never.
    pub(crate) idle_deadline: Tick,
    /// Milliseconds from a byte to `idle_deadline`.
    quiet_millis: u64,
    /// The idle timeout in milliseconds. `MAX`: none.
    idle_millis: u64,
    pub(crate) tally: Tally,
    pub(crate) limits: Limits,
    pub(crate) shared: Arc<Shared<M>>,
    /// How other threads reach this loop.
    pub(crate) inbox: Arc<Inbox<M>>,
    peer_of: fn(&Socket) -> io::Result<Addr>,
    /// The client's address of each connection whose proxy has announced one.
    pub(crate) clients: HashMap<ConnId, Addr>,
    /// The names of connections that were dialled by name.
    pub(crate) names: HashMap<ConnId, Arc<str>>,
    /// The buckets of connections with a rate limit, each of which is `RATED`.
    pub(crate) rates: HashMap<ConnId, Rates>,
    /// What is still to come for a connection. Only connections for which something is.
    pub(crate) owed: HashMap<ConnId, Owed>,
    /// The last words of connections that are to close when they are idle, and have one.
    pub(crate) last_words: HashMap<ConnId, LastWord>,
    /// By slot, the source to which a connection counts. As long as the highest slot used, if sources are
    /// limited, and else empty. (It grows by moving pages, not bytes: realloc(3) of so much is mremap(2).)
    sources: Vec<Option<Source>>,
}

/// The counts of the straight path, added up here and published once a turn.
#[derive(Default)]
pub(crate) struct Tally {
    // In this order: what one receive counts lies apart, or the compiler makes one vector addition
    // of the two, which takes more instructions.
    pub(crate) receives: u64,
    pub(crate) sends: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) fired: u64,
}

impl<S, M> LoopState<S, M> {
    pub(crate) fn new(
        number: u8,
        now: Tick,
        mut jitter: Jitter,
        limits: Limits,
        shared: Arc<Shared<M>>,
        peer_of: fn(&Socket) -> io::Result<Addr>,
    ) -> Self {
        // One millisecond more keeps a truncated clock from being early.
        let millis =
            |t: Option<Duration>| t.map_or(u64::MAX, |t| Tick::millis_of(t).saturating_add(1));
        let idle_millis = millis(limits.idle_timeout);
        let mut state = Self {
            number,
            table: Table::new(number, jitter.between(0, u64::MAX)),
            outbox: Outbox::new(&limits, limits.memory_share(shared.loops.len())),
            wheel: Wheel::new(now),
            timers: Timers::new(now, jitter.between(0, u64::MAX)),
            ready: VecDeque::new(),
            dead: VecDeque::new(),
            dials: VecDeque::new(),
            jobs: VecDeque::new(),
            datagrams: Vec::new(),
            jitter,
            topics: Topics::new(limits.topics_max, limits.topics_per_connection_max),
            now,
            idle_deadline: Tick::MAX,
            quiet_millis: limits.heartbeat_interval.map_or(idle_millis, |t| millis(Some(t / 2))),
            idle_millis,
            tally: Tally::default(),
            limits,
            inbox: Arc::clone(&shared.loops[usize::from(number)]),
            shared,
            peer_of,
            clients: HashMap::new(),
            names: HashMap::new(),
            rates: HashMap::new(),
            owed: HashMap::new(),
            last_words: HashMap::new(),
            sources: Vec::new(),
        };
        state.set_now(now);
        state
    }

    #[inline]
    pub(crate) fn set_now(&mut self, now: Tick) {
        self.now = now;
        self.idle_deadline = now.saturating_add(self.quiet_millis);
    }

    #[inline]
    pub(crate) fn get(&mut self, id: ConnId) -> Option<&mut Connection<S>> {
        self.table.get(id)
    }

    pub(crate) fn head(&mut self, id: ConnId) -> Option<&mut Head> {
        self.table.get(id).map(|connection| &mut connection.head)
    }

    /// Runs `work` on the outbox and a connection's head.
    pub(crate) fn with<R>(
        &mut self,
        id: ConnId,
        work: impl FnOnce(&mut Outbox, &mut Head) -> R,
    ) -> Option<R> {
        let connection = self.table.get(id)?;
        Some(work(&mut self.outbox, &mut connection.head))
    }

    /// Enters a connection that is to be dialled at the end of the turn.
    pub(crate) fn dial(&mut self, dial: Dial, session: S) -> Result<ConnId, DialRejected<S>> {
        // The order itself, not the phase that is carried out: a connection that enters before an order comes
        // is told of it in the table.
        match self.inbox.control.phase() {
            Phase::Run => {}
            Phase::Stop => return Err(DialRejected { why: CloseReason::Stopped, session }),
            _ => return Err(DialRejected { why: CloseReason::Draining, session }),
        }
        let entered = self.table.insert(Socket::none(), State::Connecting, session);
        let id = entered.map_err(|(_, session, why)| DialRejected { why, session })?;
        self.shared.admission.enter_anyway();
        self.inbox.counters.add(Counter::Dialled, 1);
        if let Target::Name(name) = &dial.to {
            self.names.insert(id, Arc::clone(name));
        }
        let dialling = Box::new(Dialling::new(dial, self.now));
        if let Some(head) = self.head(id) {
            // This end asks: the connection's input is answers, for which nothing need wait.
            head.status.set(Status::FULL_DUPLEX);
            head.cold().dialling = Some(dialling);
        }
        self.dials.push_back(id);
        Ok(id)
    }

    /// A connection's peer address: as a proxy has said, or as the kernel does. `None`: the connection is
    /// gone.
    pub(crate) fn peer(&mut self, id: ConnId) -> Option<Addr> {
        if !self.clients.is_empty()
            && let Some(client) = self.clients.get(&id)
        {
            return Some(client.clone());
        }
        let peer_of = self.peer_of;
        peer_of(&self.head(id)?.socket).ok()
    }

    /// Discards what was kept beside the table for a connection that is over. Returns the source to which it
    /// counted, if sources are limited.
    pub(crate) fn forget(&mut self, id: ConnId) -> Option<Source> {
        if !self.clients.is_empty() {
            self.clients.remove(&id);
        }
        if !self.names.is_empty() {
            self.names.remove(&id);
        }
        if !self.rates.is_empty() {
            self.rates.remove(&id);
        }
        if !self.owed.is_empty() {
            self.owed.remove(&id);
        }
        debug_assert!(
            !self.last_words.contains_key(&id),
            "it is the user's, and dropped in a guard"
        );
        self.outbox.forget(id);
        self.sources.get_mut(id.slot() as usize)?.take()
    }

    /// Keeps the source to which a connection counts, until the connection is forgotten.
    pub(crate) fn comes_from(&mut self, id: ConnId, source: Source) {
        let slot = id.slot() as usize;
        if slot >= self.sources.len() {
            self.sources.resize(slot + 1, None);
        }
        self.sources[slot] = Some(source);
    }

    // --- pairs -------------------------------------------------------------------------------

    /// Makes each of two connections the partner of the other, and parts them from the partners they had.
    /// Input that was held back is looked at again. False: one of them is over, or both are the same.
    pub(crate) fn pair(&mut self, a: ConnId, b: ConnId) -> bool {
        let is_over = |head: &mut Head| head.status.state() == State::Dead;
        if a == b || [a, b].into_iter().any(|id| self.head(id).is_none_or(is_over)) {
            return false;
        }
        let left = [self.part(a), self.part(b)];
        for (id, partner) in [(a, b), (b, a)] {
            if let Some(head) = self.head(id) {
                head.status.set(Status::PAIRED);
                head.cold().partner = Some(partner);
            }
        }
        for id in left.into_iter().flatten().chain([a, b]) {
            if let Some(head) = self.head(id) {
                head.status.clear(Status::TUNNEL | Status::BULK);
            }
            self.with(id, |outbox, head| outbox.wish(head, id, Status::WISH_RESUME));
        }
        true
    }

    /// Makes two connections a pair that needs no handler. False: as for `pair`.
    pub(crate) fn tunnel(&mut self, a: ConnId, b: ConnId) -> bool {
        let are_paired = self.pair(a, b);
        if are_paired {
            for id in [a, b] {
                if let Some(head) = self.head(id) {
                    head.status.set(Status::TUNNEL);
                }
            }
        }
        are_paired
    }

    /// Parts a pair, and returns the partner: the caller lets the partner read on.
    pub(crate) fn part(&mut self, id: ConnId) -> Option<ConnId> {
        let partner = self.partner_of(id)?;
        for id in [id, partner] {
            if let Some(head) = self.head(id) {
                head.status.clear(Status::PAIRED);
                head.cold().partner = None;
                head.drop_idle_cold();
            }
        }
        Some(partner)
    }

    pub(crate) fn partner_of(&mut self, id: ConnId) -> Option<ConnId> {
        let head = self.head(id)?;
        if !head.status.has(Status::PAIRED) {
            return None;
        }
        head.cold.as_deref().and_then(|cold| cold.partner)
    }

    /// Bytes that may be received for the handler now. Zero: the connection is paused, or above its rate, or
    /// held back until there is room for what it brings, in its own output or in its partner's.
    pub(crate) fn input_room(&mut self, id: ConnId) -> usize {
        const OWES: u32 = Status::UNSENT | Status::CORKED;
        const BOUNDED: u32 = Status::PAUSED | Status::HELD | Status::PAIRED | Status::RATED | OWES;
        let Some(head) = self.head(id) else { return 0 };
        let status = head.status;
        if !status.has(BOUNDED) {
            return usize::MAX;
        }
        let kept = head.kept();
        if status.has(Status::PAUSED) {
            return 0;
        }
        let tokens = if status.has(Status::RATED) { self.tokens(id, Way::In) } else { usize::MAX };
        let is_paired = status.has(Status::PAIRED);
        let filled = if is_paired {
            self.partner_of(id)
        } else {
            // If the answers are as long as the requests, they always find room. So a peer that reads slowly
            // is held back and not closed.
            Some(id).filter(|_| status.has(Status::HELD | OWES))
        };
        let Some(filled) = filled else { return tokens };
        let room = self.with(filled, |outbox, head| {
            // A connection that ends refuses all bytes, and that is the handler's to see. To hold input back
            // would not help, and the peer may wait until it is read.
            if !head.status.state().takes_output() {
                usize::MAX
            } else if is_paired {
                outbox.room_for_input(head, filled, kept)
            } else {
                outbox.room_for_own_input(head, filled, kept)
            }
        });
        room.unwrap_or(usize::MAX).min(tokens)
    }

    // --- deadlines ---------------------------------------------------------------------------

    /// Sets when the connection must be looked at. A later time is one store. An earlier time files the
    /// connection anew. `MAX` takes it out.
    pub(crate) fn file(&mut self, id: ConnId, deadline: Tick) {
        let Some(connection) = self.table.get(id) else { return };
        let head = &mut connection.head;
        let before = std::mem::replace(&mut head.deadline, deadline);
        let is_filed = head.slot != Slot::NONE;
        let entries = &mut Filed(&mut self.table);
        if deadline == Tick::MAX {
            self.wheel.cancel(entries, id.slot());
        } else if !is_filed || deadline < before {
            self.wheel.rearm(entries, id.slot(), deadline);
        }
    }

    /// A byte has moved: puts the deadline off, by the rule of the state.
    pub(crate) fn touch(&mut self, id: ConnId) {
        let idle_deadline = self.idle_deadline;
        let write_deadline = self.now.after(self.limits.write_timeout);
        let Some(head) = self.head(id) else { return };
        match head.status.state() {
            State::Closing | State::LastBytes => {
                head.deadline = write_deadline.min(head.deadlines().of_closing());
            }
            State::Connecting | State::Lingering | State::Dead => {}
            _ if head.status.has(Status::FIRST_BYTE) => {}
            _ if head.status.has(Status::SEVERAL) => {
                if let Some(cold) = head.cold.as_deref_mut() {
                    cold.idle_deadline = Some(idle_deadline).filter(|d| *d < Tick::MAX);
                    if cold.deadlines.unanswered < Tick::MAX {
                        cold.deadlines.unanswered = Tick::MAX;
                        self.refile(id, idle_deadline);
                    }
                }
            }
            _ => head.deadline = idle_deadline,
        }
    }

    /// Files the nearest of the connection's deadlines: the idle or first-byte deadline, and the deadlines
    /// that no traffic moves.
    pub(crate) fn refile(&mut self, id: ConnId, idle: Tick) {
        let Some(head) = self.head(id) else { return };
        match head.deadlines().nearest() {
            nearest if nearest < Tick::MAX => {
                head.status.set(Status::SEVERAL);
                head.cold().idle_deadline = Some(idle).filter(|d| *d < Tick::MAX);
                self.file(id, nearest.min(idle));
            }
            _ => {
                head.status.clear(Status::SEVERAL);
                if let Some(cold) = head.cold.as_deref_mut() {
                    cold.idle_deadline = None;
                }
                head.drop_idle_cold();
                self.file(id, idle);
            }
        }
    }

    /// The connection's idle (or first-byte) deadline as it stands.
    pub(crate) fn idle_deadline_of(&mut self, id: ConnId) -> Tick {
        let Some(head) = self.head(id) else { return Tick::MAX };
        if head.status.has(Status::SEVERAL) {
            let idle = head.cold.as_deref().and_then(|cold| cold.idle_deadline);
            return idle.unwrap_or(Tick::MAX);
        }
        head.deadline
    }

    /// When a connection that moves a byte now would be idle. `MAX`: never.
    pub(crate) fn idle_end(&self) -> Tick {
        self.now.saturating_add(self.idle_millis)
    }

    /// When the connection will be idle (or its first byte late), as it stands.
    pub(crate) fn idle_end_of(&mut self, id: ConnId) -> Tick {
        let deadline = self.idle_deadline_of(id);
        let beyond = self.idle_millis.saturating_sub(self.quiet_millis);
        let Some(head) = self.head(id) else { return Tick::MAX };
        if beyond == 0 || head.status.has(Status::FIRST_BYTE) {
            return deadline;
        }
        // With heartbeats. The connection has moved a byte half an interval before that deadline at the
        // latest.
        match head.deadlines().unanswered {
            Tick::MAX => deadline.saturating_add(beyond),
            until => until,
        }
    }

    /// Puts off the end of the idle time, which has come.
    pub(crate) fn put_idle_off(&mut self, id: ConnId, until: Tick) {
        if self.limits.heartbeat_interval.is_some() {
            self.set_deadlines(id, |deadlines| deadlines.unanswered = until);
        } else {
            self.refile(id, until);
        }
    }

    /// The message deadline begins anew. `is_marked`: the handler says where the message ends.
    pub(crate) fn message_begins(&mut self, id: ConnId, is_marked: bool) {
        if let Some(timeout) = self.limits.message_timeout {
            let until = self.now.after(timeout);
            self.set_deadlines(id, |deadlines| {
                deadlines.message = until;
                deadlines.message_is_marked = is_marked;
            });
        }
    }

    /// Changes the deadlines that no traffic moves.
    pub(crate) fn set_deadlines(&mut self, id: ConnId, change: impl FnOnce(&mut Deadlines)) {
        let idle = self.idle_deadline_of(id);
        let Some(head) = self.head(id) else { return };
        let state = head.status.state();
        if state.is_closing() || matches!(state, State::Dead) {
            return; // only the deadlines of closing run
        }
        change(&mut head.cold().deadlines);
        if state != State::Connecting {
            self.refile(id, idle);
        }
    }

    /// Sets until when the unsent bytes must have fallen to the low watermark. `MAX`: they have.
    pub(crate) fn set_stuck(&mut self, id: ConnId, until: Tick) {
        let Some(head) = self.head(id) else { return };
        if !head.status.state().is_closing() {
            return self.set_deadlines(id, |deadlines| deadlines.stuck = until);
        }
        head.cold().deadlines.stuck = until;
        head.drop_idle_cold();
        let bound = head.deadlines().of_closing();
        let write_by = self.now.after(self.limits.write_timeout).min(bound);
        self.file_closing(id, write_by);
    }

    // --- the end -----------------------------------------------------------------------------

    /// Notes why the connection ends, unless that is decided already.
    pub(crate) fn because(&mut self, id: ConnId, why: CloseReason) {
        if let Some(head) = self.head(id) {
            head.because(why);
        }
    }

    /// Notes why the connection is cut short.
    pub(crate) fn cut_short_because(&mut self, id: ConnId, why: CloseReason) {
        if let Some(head) = self.head(id) {
            head.cut_short(why);
        }
    }

    /// How many connections may come or go in this turn: `few`, and one for every eight messages. So new
    /// connections have their share of a loop that is busy with others.
    pub(crate) fn a_few(&self, few: usize) -> usize {
        few.saturating_add(self.tally.receives as usize / 8)
    }

    /// Lists the connection to be received from in the next turn, or later in this one.
    pub(crate) fn make_ready(&mut self, id: ConnId) {
        if let Some(head) = self.table.get(id).map(|c| &mut c.head)
            && !head.status.has(Status::READY)
        {
            head.status.set(Status::READY);
            self.ready.push_back(id);
        }
    }

    /// Adds the turn's counts to the published ones.
    pub(crate) fn publish(&mut self) {
        let tally = std::mem::take(&mut self.tally);
        let counters = &self.inbox.counters;
        counters.add(Counter::Turns, 1);
        if tally.receives > 0 {
            counters.add(Counter::Receives, tally.receives);
            counters.add(Counter::BytesIn, tally.received_bytes);
        }
        if tally.sends > 0 {
            counters.add(Counter::Sends, tally.sends);
            counters.add(Counter::BytesOut, tally.sent_bytes);
        }
        if tally.fired > 0 {
            counters.add(Counter::Fired, tally.fired);
        }
        counters.set(Counter::Open, self.table.len() as u64);
        counters.set(Counter::Timers, (self.wheel.len() + self.timers.len()) as u64);
        if self.outbox.drops.is_noted {
            self.publish_drops();
        }
    }

    #[cold]
    fn publish_drops(&mut self) {
        let (counters, drops) = (&self.inbox.counters, &mut self.outbox.drops);
        drops.is_noted = false;
        counters.add(Counter::BytesDropped, std::mem::take(&mut drops.bytes));
        counters.add(Counter::MessagesDropped, std::mem::take(&mut drops.messages));
        counters.add(Counter::MessagesReplaced, std::mem::take(&mut drops.replaced));
    }
}
