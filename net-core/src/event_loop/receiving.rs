//! From a signal to `on_data`.

use super::{EventLoop, run};
use crate::api::handler::Handler;
use crate::base::close_reason::{Callback, CloseReason};
use crate::base::id::ConnId;
use crate::connection::life::{Event, State, step};
use crate::connection::loop_state::Way;
use crate::connection::slot::Status;
use crate::driver::{
    Driver, FD_CHANNEL, Lease, Received, Sent, Signal, Then, WAKER, What, endpoint_number,
    listener_number, waiting_number,
};
use crate::observe::counters::Counter;
use net_buffer::{Input, Unread};
use std::io::IoSlice;

/// Connections of the ready list that are served in a turn, or a quarter of those that wait if that is more.
/// Each costs a system call, though it may bring nothing.
pub(super) const READY_PER_TURN: usize = 64;

/// So many receives use up what a connection may receive in a turn, however little each of them brings. Each
/// is a system call and a callback.
pub(super) const RECEIVES_PER_TURN: usize = 64;

/// Where the bytes of one `on_data` lie.
pub(super) enum Source {
    Lease(Lease),
    /// Bytes kept from before, with the new bytes behind them.
    Unread(Unread),
}

impl Source {
    pub(super) fn bytes<'a>(&'a self, driver: &'a impl Driver) -> &'a [u8] {
        match self {
            Source::Lease(lease) => driver.leased(lease),
            Source::Unread(unread) => unread.as_slice(),
        }
    }
}

impl<H: Handler, D: Driver> EventLoop<H, D> {
    #[inline]
    pub(super) fn signal(&mut self, signal: Signal) {
        let Some(id) = ConnId::from_token(signal.token) else {
            return self.other_signal(signal.token);
        };
        // The connection was closed earlier in this batch of events.
        let Some(connection) = self.state.table.get(id) else { return };
        let head = &mut connection.head;
        if !head.status.is_straight() || !signal.what.is_plain_arrival() {
            let what = head.link.observe(signal.what);
            return self.signal_in_detail(id, what);
        }
        match self.driver.receive(&head.socket, &mut head.link, usize::MAX) {
            Received::Bytes(lease) => {
                head.deadline = self.state.idle_deadline;
                self.state.outbox.begin_straight(id, self.driver.leased(&lease));
                self.hand_over_straight(id, lease);
            }
            Received::Drained => {}
            other => self.receive_ended(id, other),
        }
    }

    /// As `signal`, and says for which connection. Always the long path: if the straight path had a second
    /// caller, it would not be inlined into `signal`, which costs 25 instructions a message.
    pub(super) fn signal_watched(&mut self, signal: Signal) {
        let Some(id) = ConnId::from_token(signal.token) else {
            return self.other_signal(signal.token);
        };
        let Some(head) = self.state.head(id) else { return };
        let what = head.link.observe(signal.what);
        self.signal_in_detail(id, what);
    }

    /// The straight path: bytes for an open connection of which nothing is kept, queued, paused
    /// or wished, before the callback and after it. All else goes the long way.
    #[inline]
    fn hand_over_straight(&mut self, id: ConnId, lease: Lease) {
        self.state.tally.receives += 1;
        self.state.tally.received_bytes += u64::from(lease.len);

        let mut input = Input::new(self.driver.leased(&lease));
        let returned = run(&mut self.handler, &mut self.state, id, |handler, conn| {
            handler.on_data(conn, &mut input);
        });
        let taken = input.taken();
        let len = lease.len as usize;
        let is_last = lease.is_last;

        let direct = self.state.outbox.direct;
        let Some(connection) = self.state.table.get(id) else { return };
        let head = &mut connection.head;
        if !(returned && taken == len && head.status.is_straight()) {
            return self.receive_detour(id, Source::Lease(lease), returned, taken);
        }
        if !direct.is_empty() {
            let (socket, link) = (&head.socket, &mut head.link);
            let sent = self.driver.send_leased(socket, link, &lease, direct.from, direct.to);
            if sent.then != Then::Done {
                self.sent_less(id, Source::Lease(lease), sent);
                return self.go_on(id, is_last, len);
            }
            self.state.tally.sends += 1;
            self.state.tally.sent_bytes += sent.bytes as u64;
        } else {
            self.relieve_cork();
        }
        self.driver.settle(lease);
        self.go_on(id, is_last, len);
    }

    /// The straight path had to be left after the callback.
    #[cold]
    fn receive_detour(&mut self, id: ConnId, source: Source, returned: bool, taken: usize) {
        let is_last = matches!(&source, Source::Lease(lease) if lease.is_last);
        let len = source.bytes(&self.driver).len();
        self.after_data(id, source, returned, taken, 0);
        self.go_on(id, is_last, len);
    }

    /// Receives on, unless the last receive said that nothing more is there. `received`: bytes of
    /// this turn so far.
    #[inline]
    fn go_on(&mut self, id: ConnId, is_last: bool, received: usize) {
        if !is_last {
            let budget = self.state.limits.receive_bytes_per_turn;
            self.receive(id, budget.saturating_sub(received));
        }
    }

    /// Serves an event that the straight path does not serve.
    #[cold]
    #[inline(never)]
    fn signal_in_detail(&mut self, id: ConnId, what: What) {
        if self.is_in(id, State::Connecting) && !self.dial_decided(id) {
            return;
        }
        if what.has(What::ROOM) {
            self.flush(id);
        }
        let Some(head) = self.state.head(id) else { return };
        let state = head.status.state();
        let is_held = state.delivers() && self.state.input_room(id) == 0;
        let Some(head) = self.state.head(id) else { return };
        if what.has(What::ARRIVED) && state.reads() && !is_held {
            // A connection on the ready list has its budget from there, and not once more.
            if !head.status.has(Status::READY) {
                self.receive(id, self.state.limits.receive_bytes_per_turn);
            }
        } else if what.has(What::GONE) && state != State::Dead {
            // The connection is not read, so no receive would report the error, and no other edge comes.
            if let Some(errno) = self.driver.failure(&head.socket) {
                self.failed(id, errno);
            }
        }
    }

    #[cold]
    fn other_signal(&mut self, token: u64) {
        match token {
            WAKER => {
                self.driver.woken();
                self.state.inbox.counters.add(Counter::Wakeups, 1);
            }
            FD_CHANNEL => {
                if let Some(fd_channel) = &mut self.fd_channel {
                    fd_channel.signalled();
                }
            }
            _ => {
                if let Some(n) = waiting_number(token) {
                    return self.waiting_signalled(n);
                }
                if let (Some(n), Some(endpoints)) = (endpoint_number(token), &mut self.endpoints) {
                    return endpoints.signalled(n);
                }
                let number = listener_number(token);
                if let Some(listening) = number.and_then(|n| self.listeners.get_mut(n)) {
                    listening.signalled();
                }
            }
        }
    }

    /// Receives until nothing is left, or the connection is held, or `left` bytes are used up.
    pub(super) fn receive(&mut self, id: ConnId, mut left: usize) {
        let mut may_splice = true;
        let least = self.least_charged();
        loop {
            let Some(head) = self.state.head(id) else { return };
            let (state, is_bulk) = (head.status.state(), head.status.has(Status::BULK));
            // The handler gets the kept bytes before more bytes are put behind them.
            let is_owed = state.delivers() && head.status.has(Status::AGAIN);
            let room = if state.delivers() { self.state.input_room(id) } else { usize::MAX };
            if !state.reads() || room == 0 {
                return self.fail_if_gone(id);
            }
            if left == 0 || is_owed {
                return self.state.make_ready(id);
            }
            if is_bulk && may_splice && state.delivers() {
                let most = left.min(room);
                let Some(spliced) = self.splice(id, most) else { return };
                left -= spliced;
                may_splice = spliced == most;
                continue;
            }
            let Some(head) = self.state.head(id) else { return };
            match self.driver.receive(&head.socket, &mut head.link, left.min(room)) {
                Received::Bytes(lease) => {
                    let is_last = lease.is_last;
                    left = left.saturating_sub((lease.len as usize).max(least));
                    self.take_in(id, lease);
                    if is_last {
                        return;
                    }
                }
                Received::Drained => return,
                other => return self.receive_ended(id, other),
            }
        }
    }

    /// Bytes that a receive is charged for at least. A peer can make each receive bring one byte, as with
    /// descriptors of a Unix socket between the bytes.
    fn least_charged(&self) -> usize {
        self.state.limits.receive_bytes_per_turn.div_ceil(RECEIVES_PER_TURN)
    }

    #[cold]
    fn receive_ended(&mut self, id: ConnId, received: Received) {
        match received {
            Received::End => self.peer_ended(id),
            Received::Failed(errno) => self.failed(id, errno),
            Received::Bytes(_) | Received::Drained => unreachable!("the caller took these"),
        }
    }

    pub(super) fn take_in(&mut self, id: ConnId, lease: Lease) {
        self.state.tally.receives += 1;
        self.state.tally.received_bytes += u64::from(lease.len);
        let Some(head) = self.state.head(id) else { return self.driver.settle(lease) };
        let state = head.status.state();
        debug_assert!(step(state, Event::Bytes, false).is_some(), "bytes in {state:?}");
        if state.discards() {
            // While bytes are owed, only the write timeout counts, and not what the peer sends.
            let len = if state == State::Lingering { lease.len as usize } else { 0 };
            let so_far = &mut head.cold().discarded;
            *so_far += len;
            let is_too_much = *so_far > self.state.limits.linger_bytes_max;
            self.driver.settle(lease);
            if is_too_much {
                self.step(id, Event::Overdue);
            }
            return;
        }
        if head.status.has(Status::RATED) {
            self.state.take_tokens(id, Way::In, lease.len as usize);
        }
        self.first_byte(id);
        self.state.touch(id);
        self.received_some(id, lease.len);
        let Some(head) = self.state.head(id) else { return self.driver.settle(lease) };
        let kept = head.cold.as_deref_mut().and_then(|cold| cold.unread.take());
        let source = match kept {
            None => Source::Lease(lease),
            Some(mut unread) => {
                let bytes = self.driver.leased(&lease);
                // The limit is checked after the callback, when the handler has taken what it can.
                let appended = unread.append(bytes, &mut self.state.outbox.pool, usize::MAX);
                appended.expect("there is no limit here");
                self.driver.settle(lease);
                Source::Unread(unread)
            }
        };
        self.hand_over(id, source);
    }

    pub(super) fn first_byte(&mut self, id: ConnId) {
        let idle_deadline = self.state.idle_deadline;
        if let Some(head) = self.state.head(id)
            && head.status.has(Status::FIRST_BYTE)
        {
            head.status.clear(Status::FIRST_BYTE);
            self.state.refile(id, idle_deadline);
        }
    }

    /// Gives the bytes to the handler, and carries out what it leaves.
    fn hand_over(&mut self, id: ConnId, source: Source) {
        if self.is_tunnel(id) {
            return self.pass_on(id, source);
        }
        let bytes = source.bytes(&self.driver);
        if self.state.with(id, |outbox, head| outbox.begin(head, id, bytes)).is_none() {
            return;
        }
        self.runs(Callback::Data, Some(id));
        let mut input = Input::new(source.bytes(&self.driver));
        let returned = run(&mut self.handler, &mut self.state, id, |handler, conn| {
            handler.on_data(conn, &mut input);
        });
        let (taken, pending) = (input.taken(), self.state.outbox.begun);
        self.after_data(id, source, returned, taken, pending);
    }

    /// After `on_data`: sends what was echoed, keeps what was not taken, then the rest as after
    /// any callback.
    fn after_data(
        &mut self,
        id: ConnId,
        source: Source,
        returned: bool,
        taken: usize,
        pending: usize,
    ) {
        // A handler that has put another `Input` in the place of its own may have taken more than there is.
        // That is the handler's mistake, and costs one connection.
        if !returned || taken > source.bytes(&self.driver).len() {
            self.panicked(id, Callback::Data, pending);
            self.put_away(source);
            return self.after(id);
        }
        let direct = std::mem::take(&mut self.state.outbox.direct);
        let holds = self.holds_answer(id, direct.to - direct.from);
        if !direct.is_empty()
            && let Some(connection) = self.state.table.get(id)
        {
            let head = &mut connection.head;
            let sent = match &source {
                _ if holds => Sent { bytes: 0, then: Then::Done },
                Source::Lease(lease) => {
                    let (from, to) = (direct.from, direct.to);
                    self.driver.send_leased(&head.socket, &mut head.link, lease, from, to)
                }
                Source::Unread(unread) => {
                    let part = IoSlice::new(&unread.as_slice()[direct.from..direct.to]);
                    self.driver.offer(&head.socket, &mut head.link, &[part])
                }
            };
            let rest = &source.bytes(&self.driver)[direct.from + sent.bytes..direct.to];
            if !rest.is_empty() {
                self.state.outbox.put_back(head, rest);
            }
            self.sent(id, sent.bytes);
            if let Then::Failed(errno) = sent.then {
                self.failed(id, errno);
            }
        }
        if holds {
            self.hold_answer(id);
        }
        self.keep(id, source, taken);
        self.after(id);
    }

    /// The straight path's send took less than all.
    #[cold]
    fn sent_less(&mut self, id: ConnId, source: Source, sent: Sent) {
        let direct = std::mem::take(&mut self.state.outbox.direct);
        if let Some(connection) = self.state.table.get(id) {
            let rest = &source.bytes(&self.driver)[direct.from + sent.bytes..direct.to];
            self.state.outbox.put_back(&mut connection.head, rest);
        }
        self.put_away(source);
        self.sent(id, sent.bytes);
        if let Then::Failed(errno) = sent.then {
            self.failed(id, errno);
        }
        self.after(id);
    }

    /// Keeps the bytes that were not taken, up to the limit, and gives the rest of the memory back.
    pub(super) fn keep(&mut self, id: ConnId, source: Source, taken: usize) {
        let pool = &mut self.state.outbox.pool;
        let kept = match source {
            Source::Lease(lease) => {
                let rest = &self.driver.leased(&lease)[taken..];
                let kept = (!rest.is_empty())
                    .then(|| Unread::keep(rest, pool, usize::MAX).expect("there is no limit here"));
                self.driver.settle(lease);
                kept
            }
            Source::Unread(mut unread) => {
                unread.consume(taken);
                if unread.is_empty() {
                    unread.release(pool);
                    None
                } else {
                    unread.shrink(pool);
                    Some(unread)
                }
            }
        };
        self.message_goes_on(id, kept.is_some(), taken > 0);
        let max = self.state.limits.input_bytes_max;
        let Some(connection) = self.state.table.get(id) else { return };
        let head = &mut connection.head;
        let state = head.status.state();
        match kept {
            Some(unread) if state.delivers() => {
                let is_over = unread.len() > max;
                head.status.set(Status::UNREAD);
                head.cold().unread = Some(unread);
                if is_over {
                    self.state.because(id, CloseReason::InputLimit);
                    self.tell_of_limit(id);
                    self.step(id, Event::InputFull);
                }
                self.grew();
            }
            kept => {
                if let Some(unread) = kept {
                    unread.release(&mut self.state.outbox.pool);
                }
                head.status.clear(Status::UNREAD);
                head.drop_idle_cold();
            }
        }
    }

    fn put_away(&mut self, source: Source) {
        match source {
            Source::Lease(lease) => self.driver.settle(lease),
            Source::Unread(unread) => unread.release(&mut self.state.outbox.pool),
        }
    }

    /// Serves connections that go on without an edge: over their budget in the last turn, or resumed. Serves
    /// only the first `waiting`: a connection that has used up its budget in this turn waits for the next.
    ///
    /// All of them together receive what one connection may receive in a turn. Then connections with new
    /// events are served. So bulk transfers delay the others no longer than one bulk transfer would, however
    /// many there are. One connection goes on for a few turns before the next is served: so its peer's
    /// answers, and the memory of both, are still in the cache.
    ///
    /// A connection that is over by now, or needs nothing any more, costs next to nothing and does not count.
    /// Of the others at least a quarter of those that wait are served. Otherwise the list would grow for ever
    /// if more come in each turn.
    pub(super) fn serve_ready(&mut self, waiting: usize) {
        let least = self.least_charged() as u64;
        let mut left = self.state.limits.receive_bytes_per_turn;
        let mut served = READY_PER_TURN.max(waiting / 4);
        for _ in 0..waiting {
            if left == 0 || served == 0 {
                return;
            }
            let Some(id) = self.state.ready.pop_front() else { return };
            let Some(head) = self.state.head(id) else { continue };
            head.status.clear(Status::READY);
            let state = head.status.state();
            if state == State::Dead || !(state.reads() || head.status.has(Status::AGAIN)) {
                self.fail_if_gone(id);
                continue;
            }
            served -= 1;
            if head.status.has(Status::AGAIN) {
                head.status.clear(Status::AGAIN);
                self.hand_over_again(id);
            }
            let (bytes, receives) = (self.state.tally.received_bytes, self.state.tally.receives);
            self.receive(id, left.min(self.row_left));
            let bytes = self.state.tally.received_bytes - bytes;
            let received = bytes.max((self.state.tally.receives - receives) * least) as usize;
            left = left.saturating_sub(received);
            self.row_left = self.row_left.saturating_sub(received);
            let has_more = self.state.ready.back() == Some(&id);
            if has_more && left == 0 && self.row_left > 0 {
                self.state.ready.rotate_right(1); // its row goes on in the next turn
            } else {
                self.row_left = self.state.limits.receive_bytes_in_a_row;
            }
        }
    }

    /// Gives the handler again what was kept while the connection was paused or held.
    fn hand_over_again(&mut self, id: ConnId) {
        let is_held = self.state.input_room(id) == 0;
        let Some(head) = self.state.head(id) else { return };
        if head.status.state().delivers()
            && !is_held
            && let Some(unread) = head.cold.as_deref_mut().and_then(|cold| cold.unread.take())
        {
            self.hand_over(id, Source::Unread(unread));
        }
    }

    pub(super) fn is_in(&mut self, id: ConnId, state: State) -> bool {
        self.state.head(id).is_some_and(|head| head.status.state() == state)
    }
}
