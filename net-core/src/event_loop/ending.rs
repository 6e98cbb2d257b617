//! Carries out a connection's life: does what the table says.

use super::{EventLoop, guard};
use crate::accept::listener::turn_away;
use crate::api::conn::SaysLast;
use crate::api::handler::Handler;
use crate::base::close_reason::{Callback, CloseReason, DeadlineKind};
use crate::base::id::ConnId;
use crate::config::policy::OverflowPolicy;
use crate::connection::life::{Event, State, Tell, step};
use crate::connection::loop_state::LastWord;
use crate::connection::slot::{Deadlines, Filed, Status};
use crate::driver::{Driver, Ending, Received};
use crate::observe::counters::Counter;
use crate::sys::Errno;
use crate::threads::control::Phase;
use crate::threads::mail::Mail;
use net_timer::Tick;

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// Carries out one cell of the table of life, and makes the callback that it names.
    pub(super) fn step(&mut self, id: ConnId, event: Event) {
        let Some((from, owed)) =
            self.state.with(id, |outbox, head| (head.status.state(), outbox.pending(head) > 0))
        else {
            return;
        };
        let owed = owed || self.owes_word(id, from, event);
        let Some(cell) = step(from, event, owed) else {
            // Our own mistake. In production it costs one connection.
            debug_assert!(false, "{event:?} cannot come to {id} in {from:?}");
            tracing::error!(%id, ?from, ?event, "a connection met an event that cannot come");
            self.state.because(id, CloseReason::Machine(Errno::IO));
            return self.bury(id, Ending::Reset);
        };
        if let Some(head) = self.state.head(id) {
            head.status.set_state(cell.to);
        }
        if cell.to != from {
            self.hold_no_more(id);
            self.entered(id, cell.to);
        }
        match cell.call {
            Some(Callback::End) if self.is_tunnel(id) => self.pass_end(id),
            Some(Callback::End) => {
                self.call(id, Callback::End, |handler, conn| handler.on_end(conn));
                self.drop_rest(id);
            }
            Some(Callback::Open) => {
                self.call(id, Callback::Open, |handler, conn| handler.on_open(conn));
                if self.is_tunnel(id) {
                    self.end_came_before(id);
                }
            }
            Some(Callback::Deadline) => {
                self.call(id, Callback::Deadline, |handler, conn| handler.on_deadline(conn));
            }
            Some(Callback::Heartbeat) => {
                self.call(id, Callback::Heartbeat, |handler, conn| handler.on_heartbeat(conn));
            }
            Some(Callback::Draining) => {
                self.call(id, Callback::Draining, |handler, conn| handler.on_draining(conn));
                self.flush(id); // a notice of the drain is not held back as a last answer
            }
            _ => {}
        }
        match cell.tell {
            Tell::Nothing => {}
            Tell::Finish => {
                if let Some(head) = self.state.head(id) {
                    // ENOTCONN: the peer has reset the connection meanwhile, and the next receive will say
                    // so.
                    let _ = self.driver.finish(&head.socket);
                }
            }
            Tell::Close => return self.bury(id, Ending::Close),
            Tell::Reset => return self.bury(id, Ending::Reset),
        }
        if cell.call.is_some() {
            self.after(id);
        }
    }

    /// The handler is told of marks of `notify_sent` after a `finish`, and not after a stronger end. If the
    /// peer has ended, a `finish` would end the connection at once. So the connection waits, as if it owed
    /// bytes, until the handler is told.
    fn owes_word(&mut self, id: ConnId, from: State, event: Event) -> bool {
        let outbox = &mut self.state.outbox;
        if outbox.marks.is_empty() {
            return false;
        }
        if matches!(event, Event::Close | Event::Panicked | Event::InputFull) {
            outbox.forget_marks(id);
        }
        let owes = from == State::PeerEnded && event == Event::Finish && outbox.marks.has(id);
        if owes {
            self.list_to_flush(id);
        }
        owes
    }

    /// A new state. Once closing has begun, only the deadlines of closing run, and input is thrown away.
    fn entered(&mut self, id: ConnId, state: State) {
        if !state.takes_output()
            && let Some(partner) = self.state.partner_of(id)
        {
            self.partner_reads_on(partner);
        }
        let Some(head) = self.state.head(id) else { return };
        let (before, is_held) = (head.deadlines(), head.status.has(Status::HELD));
        if is_held && state == State::Finishing {
            self.read_on(id); // input held back for its answers, of which there are no more
        }
        let (bound, deadlines) = match state {
            State::Closing | State::LastBytes => {
                (self.state.limits.write_timeout, self.deadlines_of_closing(before, is_held))
            }
            State::Lingering => (self.state.limits.linger_timeout, Deadlines::default()),
            _ => return,
        };
        let deadline = self.state.now.after(bound).min(deadlines.of_closing());
        let Some(connection) = self.state.table.get(id) else { return };
        let head = &mut connection.head;
        head.status.clear(
            Status::SEVERAL | Status::FIRST_BYTE | Status::PAUSED | Status::UNREAD | Status::AGAIN,
        );
        if deadlines.of_closing() < Tick::MAX {
            head.cold();
        }
        if let Some(cold) = head.cold.as_deref_mut() {
            cold.deadlines = deadlines;
            cold.idle_deadline = None;
            if let Some(unread) = cold.unread.take() {
                unread.release(&mut self.state.outbox.pool);
            }
        }
        head.drop_idle_cold();
        let is_rated = head.status.has(Status::RATED);
        self.state.file(id, deadline);
        if is_rated {
            self.state.limit_closing(id);
        }
        if state.discards() {
            // Bytes in the kernel, perhaps the peer's FIN, have had their edge already.
            self.state.make_ready(id);
        }
    }

    /// The peer has ended, so an unfinished message will never be whole. Drops its bytes, since nothing waits
    /// for the rest.
    fn drop_rest(&mut self, id: ConnId) {
        let Some(connection) = self.state.table.get(id) else { return };
        let head = &mut connection.head;
        head.status.clear(Status::UNREAD | Status::AGAIN);
        if let Some(unread) = head.cold.as_deref_mut().and_then(|cold| cold.unread.take()) {
            unread.release(&mut self.state.outbox.pool);
            head.drop_idle_cold();
        }
        self.message_goes_on(id, false, false);
    }

    pub(super) fn peer_ended(&mut self, id: ConnId) {
        if !self.state.outbox.marks.is_empty() && self.is_in(id, State::Finished) {
            let mut all = usize::MAX; // all that are reached now: nothing comes after the end
            self.tell_sent(id, &mut all);
            if self.is_in(id, State::Dead) {
                return;
            }
        }
        self.state.because(id, CloseReason::PeerEnded);
        self.step(id, Event::End);
        self.fail_if_gone(id);
    }

    /// Serves an error that was signalled beside bytes or the end. No receive would report it now.
    pub(super) fn fail_if_gone(&mut self, id: ConnId) {
        if let Some(head) = self.state.head(id)
            && head.link.is_gone()
            && !matches!(head.status.state(), State::Dead | State::Connecting)
            && let Some(errno) = self.driver.failure(&head.socket)
        {
            self.failed(id, errno);
        }
    }

    /// The kernel reported an error for this connection.
    #[cold]
    pub(super) fn failed(&mut self, id: ConnId, errno: Errno) {
        self.cut_off(id, CloseReason::by_error(errno), Event::Failed);
    }

    /// Logs at which limit a connection is about to be reset. Only once in a while: many such connections are
    /// one piece of news.
    #[cold]
    pub(super) fn tell_of_limit(&mut self, id: ConnId) {
        let limits = &self.state.limits;
        let (output_limit, input_max) = (limits.output_limit, limits.input_bytes_max);
        let budget = limits.memory_budget.unwrap_or_default();
        let told = self.state.with(id, |outbox, head| {
            let (limit, bytes) = match head.why {
                Some(CloseReason::OutputLimit) => ("output_limit", output_limit),
                Some(CloseReason::InputLimit) => ("input_bytes_max", input_max),
                Some(CloseReason::MemoryBudget) => ("memory_budget", budget),
                _ => return None,
            };
            Some((limit, bytes, outbox.pending(head), head.kept()))
        });
        if let Some((limit, bytes, unsent, unread)) = told.flatten()
            && let Some(held_back) = self.cuts.allow(self.state.now)
        {
            tracing::info!(%id, limit, bytes, unsent, unread, held_back, "a connection is reset at a limit");
        }
    }

    /// A file that was being sent has ended too early. A FIN would say that the file was whole.
    #[cold]
    pub(super) fn file_ended(&mut self, id: ConnId) {
        self.cut_off(id, CloseReason::FileEnded, Event::Reset);
    }

    /// Owed bytes cannot be sent any more. If there are any, `why` is the reason even if the peer has ended
    /// before.
    fn cut_off(&mut self, id: ConnId, why: CloseReason, event: Event) {
        let Some((state, owed)) =
            self.state.with(id, |outbox, head| (head.status.state(), outbox.pending(head) > 0))
        else {
            return;
        };
        if state == State::Dead {
            return;
        }
        if owed {
            self.state.cut_short_because(id, why);
        } else {
            self.state.because(id, why);
        }
        self.step(id, event);
    }

    /// A callback of this connection panicked. `pending`: the bytes that waited before the callback.
    #[cold]
    pub(super) fn panicked(&mut self, id: ConnId, callback: Callback, pending: usize) {
        self.state.outbox.direct = Default::default();
        self.state.with(id, |outbox, head| {
            outbox.undo(head, id, pending);
            head.status.clear(Status::WISHES | Status::PAUSED);
        });
        self.count_panic(callback, Some(id));
        if callback != Callback::Close {
            if let Some(head) = self.state.head(id) {
                head.why = Some(CloseReason::Panicked(callback));
            }
            self.step(id, Event::Panicked);
        }
    }

    // --- wishes --------------------------------------------------------------------------------

    /// Carries out what callbacks wished of connections other than their own, and looks again at connections
    /// that may go on: in the order of the list, within the turn's budget. Wishes that come meanwhile wait
    /// for the next turn.
    pub(super) fn grant_wishes(&mut self) {
        let mut left = self.state.limits.deferred_per_turn;
        for _ in 0..self.state.outbox.wishes.len() {
            if left == 0 {
                return;
            }
            let Some(id) = self.state.outbox.wishes.pop_front() else { return };
            // A connection that is over costs nothing, and does not count.
            let Some(head) = self.state.head(id) else { continue };
            head.status.clear(Status::WISHED);
            left -= 1;
            self.grant(id);
            if !self.state.outbox.marks.is_empty() {
                self.tell_sent(id, &mut left);
            }
            self.finish_if_done(id);
            // Not right after a callback: the look may receive, and `on_data` may wish again.
            self.close_if_idle(id);
        }
    }

    /// Carries out what was wished of one connection: the strongest end, and no weaker one. A resume is not
    /// an end. It is carried out beside a `finish`, after which the connection still reads.
    pub(super) fn grant(&mut self, id: ConnId) {
        let Some(head) = self.state.head(id) else { return };
        let wished = head.status;
        head.status.clear(Status::WISHES);
        if head.status.state() == State::Dead {
            return;
        }
        if wished.has(Status::WISH_RESET) {
            self.state.because(id, CloseReason::Local);
            self.step(id, Event::Reset);
        } else if wished.has(Status::WISH_CAP) {
            self.state.cut_short_because(id, CloseReason::OutputLimit);
            self.tell_of_limit(id);
            self.step(id, Event::OutputFull);
        } else if wished.has(Status::WISH_CLOSE) {
            self.close(id);
        } else {
            if wished.has(Status::WISH_FINISH) {
                self.finish(id);
            }
            if wished.has(Status::WISH_RESUME) && !self.is_in(id, State::Dead) {
                self.read_on(id);
            }
        }
    }

    fn finish(&mut self, id: ConnId) {
        let Some(head) = self.state.head(id) else { return };
        if head.status.state() == State::Connecting {
            // The waiting bytes are still to be sent. The finish comes after them, once the connection is up.
            head.status.set(Status::WISH_FINISH);
            return;
        }
        self.state.because(id, CloseReason::Local);
        self.step(id, Event::Finish);
    }

    /// Finishes a connection that is to finish when nothing is owed, if nothing is owed now.
    fn finish_if_done(&mut self, id: ConnId) {
        if !self.state.is_to_finish(id) || self.state.is_owed(id) {
            return;
        }
        let Some(state) = self.state.head(id).map(|head| head.status.state()) else { return };
        if state == State::Connecting {
            return; // the waiting bytes are still to be sent
        }
        self.state.finishes_no_more(id);
        if state.takes_output() {
            self.state.because(id, CloseReason::Local);
            self.step(id, Event::Finish);
        }
    }

    fn close(&mut self, id: ConnId) {
        let Some((why, owed)) =
            self.state.with(id, |outbox, head| (head.why, outbox.pending(head) > 0))
        else {
            return;
        };
        // The peer took nothing, or too little, for the whole timeout. It will not take the rest.
        let is_slow =
            matches!(why, Some(CloseReason::Deadline(DeadlineKind::Idle | DeadlineKind::Stuck)));
        let is_stuck = owed && is_slow;
        self.state.because(id, CloseReason::Local);
        self.step(id, if is_stuck { Event::Reset } else { Event::Close });
    }

    /// Closes the connection if nothing is under way: nothing kept or queued, the handler not busy, no stream
    /// in flow, and one more receive finds nothing. Otherwise the loop looks again when something has
    /// changed.
    pub(super) fn close_if_idle(&mut self, id: ConnId) {
        let Some(connection) = self.state.table.get(id) else { return };
        let head = &mut connection.head;
        let state = head.status.state();
        if !head.status.has(Status::WHEN_IDLE) {
            return;
        }
        // If the connection does not read any more, a pause keeps nothing back.
        let unread = if state.reads() { Status::UNREAD | Status::PAUSED } else { 0 };
        // A held answer leaves with the end.
        let holds = head.status.has(Status::HOLDS);
        let unsent = if holds { 0 } else { Status::UNSENT | Status::CORKED };
        let under_way = unread | unsent | Status::BUSY;
        if !matches!(state, State::Open | State::PeerEnded | State::Finished)
            || head.status.has(under_way)
        {
            return;
        }
        if !self.state.outbox.marks.is_empty() && self.state.outbox.marks.has(id) {
            return; // the handler is told first, and then the loop looks again
        }
        if state.reads() {
            if head.status.has(Status::FLOWS) {
                return;
            }
            let budget = self.state.limits.receive_bytes_per_turn.min(self.state.input_room(id));
            if budget == 0 {
                return; // the loop looks again when the partner has room
            }
            let Some(head) = self.state.head(id) else { return };
            match self.driver.receive(&head.socket, &mut head.link, budget) {
                Received::Drained => {}
                Received::Bytes(lease) => {
                    self.take_in(id, lease);
                    // Bytes behind these have no edge of their own. Then the connection may be idle again.
                    self.state.make_ready(id);
                    return self.look_again(id);
                }
                Received::End => return self.peer_ended(id),
                Received::Failed(errno) => return self.failed(id, errno),
            }
        }
        let why = if self.phase == Phase::Run { CloseReason::Local } else { CloseReason::Draining };
        self.state.because(id, why);
        if self.says_last_word(id) {
            return;
        }
        let Some(head) = self.state.head(id) else { return };
        // If the peer's kernel has all bytes, a close loses nothing, and there is no need to linger.
        let all_arrived = self.driver.unacknowledged(&head.socket) == 0;
        self.step(id, if all_arrived && !holds { Event::Idle } else { Event::Close });
    }

    /// Sends the last word of an idle connection, and then ends it. False: there is none, or it cannot be
    /// sent.
    fn says_last_word(&mut self, id: ConnId) -> bool {
        if self.state.last_words.is_empty() {
            return false;
        }
        let Some(last_word) = self.state.last_words.remove(&id) else { return false };
        if !self.state.head(id).is_some_and(|head| head.status.state().takes_output()) {
            self.drop_of_user(last_word);
            return false; // the connection has sent its FIN
        }
        match last_word {
            LastWord::Bytes(bytes) => self.sent_from_afar(id, bytes, OverflowPolicy::Close),
            LastWord::By(last) => {
                let last: Box<SaysLast<H>> = last.downcast().expect("it is of this handler");
                if !self.call(id, Callback::Draining, |_, conn| last(conn)) {
                    self.after(id);
                    return true;
                }
                self.list_to_flush(id);
            }
        }
        self.step(id, Event::Close);
        true
    }

    /// Something has changed for a connection that is to close when it is idle, or to finish when nothing is
    /// owed: the turn looks at it again.
    pub(super) fn look_again(&mut self, id: ConnId) {
        let is_to_finish = self.state.is_to_finish(id);
        self.state.with(id, |outbox, head| {
            if is_to_finish || head.status.has(Status::WHEN_IDLE) {
                outbox.list_wish(head, id);
            }
        });
    }

    // --- deadlines -----------------------------------------------------------------------------

    /// A connection's deadline has come.
    pub(super) fn deadline(&mut self, id: ConnId) {
        let now = self.state.now;
        let Some(head) = self.state.head(id) else { return };
        let state = head.status.state();
        if state == State::Connecting {
            return self.dial_is_due(id);
        }
        let is_rated = head.status.has(Status::RATED);
        if is_rated && self.goes_on(id) && state.is_closing() {
            // The deadlines of closing are filed again, also if one of them came in the same moment.
            let bound = self.state.head(id).map_or(Tick::MAX, |head| head.deadline);
            return self.state.file(id, bound);
        }
        let Some(head) = self.state.head(id) else { return };
        if state.is_closing() {
            if state != State::Lingering {
                // Whatever ended the connection, that the rest was lost is the more important reason.
                let due = head.cold.as_deref_mut().and_then(|cold| cold.deadlines.take_due(now));
                head.why = Some(CloseReason::Deadline(due.unwrap_or(DeadlineKind::Write)));
            }
            return self.step(id, Event::Overdue);
        }
        let deadlines = head.deadlines();
        let asks_for_bytes = self.state.idle_end_of(id) <= now || deadlines.message <= now;
        if asks_for_bytes && deadlines.own.min(deadlines.stuck).min(deadlines.lifetime) > now {
            // The kernel may hold bytes that came in time, when this loop was late to look.
            self.receive(id, self.state.limits.receive_bytes_per_turn);
        }
        let Some(head) = self.state.head(id) else { return };
        let state = head.status.state();
        if state == State::Dead || state.is_closing() {
            return;
        }
        let is_first_byte = head.status.has(Status::FIRST_BYTE);
        let idle = self.state.idle_deadline_of(id);
        let due = self.take_due(id);
        let which = if let Some(which) = due {
            which
        } else if self.state.limits.heartbeat_interval.is_some() && !is_first_byte {
            if !self.is_given_up(id, idle) {
                return;
            }
            DeadlineKind::Idle
        } else if idle > now {
            // Bytes have moved the idle deadline, just now or since the nearest of several deadlines was
            // filed.
            return self.state.refile(id, idle);
        } else if is_first_byte {
            if let Some(head) = self.state.head(id) {
                head.status.clear(Status::FIRST_BYTE);
            }
            DeadlineKind::FirstByte
        } else if self.may_be_read(id, idle) || self.waits_for_partner(id) {
            return;
        } else {
            DeadlineKind::Idle
        };
        // The next deadline is filed before the callback, which may set its own.
        let idle = match which {
            DeadlineKind::Idle | DeadlineKind::FirstByte => self.state.idle_deadline,
            _ => idle,
        };
        self.state.refile(id, idle);
        self.state.tally.fired += 1;
        let before =
            self.state.head(id).and_then(|head| head.why.replace(CloseReason::Deadline(which)));
        self.step(id, Event::Deadline);
        // The connection lives on as before, so this deadline was no reason to end.
        if let Some(head) = self.state.head(id)
            && head.status.state() == state
        {
            head.why = before;
        }
    }

    // --- the end -------------------------------------------------------------------------------

    /// The connection is over: nothing more is sent or received. `on_close` comes at the end of this turn, or
    /// of a later turn if very many connections end.
    fn bury(&mut self, id: ConnId, how: Ending) {
        if let Some(partner) = self.state.part(id) {
            if self.is_tunnel(id) {
                self.end_tunnel(id, partner, how);
            }
            self.partner_reads_on(partner);
        }
        if self.state.head(id).is_some_and(|head| head.dialling().is_some()) {
            self.hang_up(id);
        } else if !self.fan_outs.is_empty() {
            self.is_gone_for_broadcasts(id);
        }
        let Some(connection) = self.state.table.get(id) else { return };
        let head = &mut connection.head;
        head.status.set_state(State::Dead);
        if how == Ending::Reset {
            head.status.set(Status::RESET);
        }
        self.state.outbox.drop_all(head, id);
        head.deadline = Tick::MAX;
        self.state.wheel.cancel(&mut Filed(&mut self.state.table), id.slot());
        self.state.dead.push_back(id);
    }

    /// Ends dead connections: calls `on_close`, frees the slot, then closes the socket. Only then can the
    /// descriptor's number be used again. `left`: how many connections may still be closed in this turn.
    pub(super) fn reap(&mut self, left: &mut usize) {
        while *left > 0
            && let Some(id) = self.state.dead.pop_front()
        {
            *left -= 1;
            let why = self.state.head(id).and_then(|head| head.why).unwrap_or(CloseReason::Local);
            self.call(id, Callback::Close, |handler, conn| handler.on_close(conn, &why));
            if !self.state.topics.is_empty() || self.state.topics.notes_leaves {
                self.state.topics.leave_all(id.slot());
            }
            let Some(connection) = self.state.table.remove(id) else { continue };
            let (head, session) = (connection.head, connection.session);
            let how = if head.status.has(Status::RESET) { Ending::Reset } else { Ending::Close };
            self.driver.detach(head.socket, how);
            if let Some(unsaid) = self.state.last_words.remove(&id) {
                self.drop_of_user(unsaid);
            }
            let source = self.state.forget(id);
            self.shared.admission.leave(source);
            self.state.inbox.counters.closed(why);
            self.runs(Callback::Drop, Some(id));
            self.drop_of_user(session);
        }
    }

    /// Closes a connection that no session was made for.
    pub(super) fn refuse(&mut self, socket: crate::sys::Socket, why: CloseReason) {
        if let CloseReason::Refused(why) = why {
            let (admission, counters) = (&self.shared.admission, &self.state.inbox.counters);
            return turn_away(&mut self.driver, socket, admission, counters, why);
        }
        self.driver.detach(socket, Ending::Close);
        self.state.inbox.counters.closed(why);
    }

    pub(super) fn close_mail(&mut self) {
        let mut lost = 0;
        let inbox = &self.state.inbox;
        inbox.mail.close_and_drain(|mail| {
            if let Mail::Arrival(_) = mail {
                inbox.counters.add(Counter::Adopted, 1);
                inbox.counters.closed(CloseReason::Stopped);
                return;
            }
            if let Mail::Resolved(_) | Mail::Beyond = mail {
                return; // the dial that asked has ended already; and `Beyond` is no item
            }
            lost += 1;
            // A message's own drop may panic; the rest must still be counted.
            if guard(|| drop(mail)).is_none() {
                inbox.counters.add(Counter::Panics, 1);
            }
        });
        inbox.counters.add(Counter::MailLost, lost);
    }
}
