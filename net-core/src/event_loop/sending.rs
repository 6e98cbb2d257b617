//! From the bytes that callbacks left to the kernel, and `on_writable`.

use super::EventLoop;
use crate::api::handler::Handler;
use crate::base::close_reason::Callback;
use crate::base::id::ConnId;
use crate::connection::life::{Event, State};
use crate::connection::loop_state::Way;
use crate::connection::slot::Status;
use crate::driver::{Driver, Sent, Then};
use std::io::IoSlice;

/// Bytes of files that one connection sends in a turn at most. With more, one disk read would be long.
const FILE_BYTES: usize = 64 << 10;

/// Pieces of the cork that one gathering send takes. A connection with more moves them to its own
/// queue first.
const PIECES: usize = 64;

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// Sends what is in the cork before it is full.
    #[inline]
    pub(super) fn relieve_cork(&mut self) {
        if self.state.outbox.cork.is_half_full() {
            self.flush_cork_early();
        }
    }

    /// Flushes the cork in the middle of a turn: for as many connections as the end of a turn may send to,
    /// and for one more with each message that has come.
    #[cold]
    fn flush_cork_early(&mut self) {
        let tally = &self.state.tally;
        let most = self.state.limits.deferred_per_turn.saturating_add(tally.receives as usize);
        self.flush_cork(&mut most.saturating_sub(tally.sends as usize));
    }

    /// After any callback of a connection: offers its own bytes, then carries out its wishes.
    pub(super) fn after(&mut self, id: ConnId) {
        self.relieve_cork();
        let Some(head) = self.state.head(id) else { return };
        // A connection that is listed already, perhaps because it was over its budget, is flushed from the
        // list.
        let waits = head.status.has(Status::CORKED | Status::UNSENT);
        if waits && !head.status.has(Status::TO_FLUSH) && !self.holds_last_answer(id) {
            self.flush(id);
        }
        self.look_again(id);
        self.after_wishes(id);
    }

    /// Offers the waiting bytes of one connection to the kernel, unless the socket is known to be full.
    pub(super) fn flush(&mut self, id: ConnId) {
        self.flush_and(id, false);
    }

    /// As `flush`. `more`: something follows that is to leave with the last of the bytes.
    pub(super) fn flush_and(&mut self, id: ConnId, more: bool) {
        let Some(status) = self.state.head(id).map(|head| head.status) else { return };
        if status.has(Status::HOLDS) {
            if !status.has(Status::HELD) {
                self.state.with(id, |outbox, head| outbox.spill(head));
                return;
            }
            // Above its high watermark the connection is not read. Its answer, held back for the next
            // request, would keep that request from being read.
            self.end_hold(id);
        }
        if status.has(Status::HELD) {
            self.stuck_from_now(id);
        }
        let mut budget = self.state.limits.send_bytes_per_turn;
        let is_rated = status.has(Status::RATED);
        if is_rated {
            budget = self.tokens_to_send(id).min(budget);
        }
        let Some(connection) = self.state.table.get(id) else { return };
        let head = &mut connection.head;
        if !head.status.state().flushes() {
            return;
        }
        if budget == 0 || head.link.is_full() {
            return self.output_fell(id); // perhaps, by messages that were dropped
        }
        let outbox = &mut self.state.outbox;
        let mut taken = Sent { bytes: 0, then: Then::Done };
        if head.status.has(Status::CORKED) {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let (used, bytes) = outbox.cork.slices(head.corked, &mut slices);
            if bytes == outbox.cork.len(head.corked) {
                taken = self.driver.offer(&head.socket, &mut head.link, &slices[..used]);
                if taken.bytes == bytes {
                    outbox.uncork(head);
                } else {
                    outbox.spill(head);
                    head.cold().output.advance(taken.bytes, &mut outbox.pool);
                    let _ = outbox.hold_if_above(head);
                }
            } else {
                outbox.spill(head);
            }
        }
        if taken.then == Then::Done && head.status.has(Status::UNSENT) {
            let cold = head.cold.get_or_insert_default();
            let has_file = cold.output.in_files() > 0;
            if has_file {
                budget = budget.min(FILE_BYTES).min(outbox.files_left);
            }
            // If the rate limit keeps a rest back, the rest comes later than the kernel should wait for it.
            let more = more && cold.output.len() <= budget;
            let (socket, link) = (&head.socket, &mut head.link);
            let (output, pool) = (&mut cold.output, &mut outbox.pool);
            taken = self.driver.send(socket, link, output, pool, budget, more);
            outbox.blame(head, id);
            if has_file {
                outbox.files_left -= taken.bytes;
                self.file_moved(id, taken);
            }
        }
        self.sent(id, taken.bytes);
        if is_rated {
            self.state.take_tokens(id, Way::Out, taken.bytes);
        }
        if taken.then == Then::Budget && !(is_rated && self.state.tokens(id, Way::Out) == 0) {
            self.list_to_flush(id);
        }
        match taken.then {
            Then::Failed(errno) => self.failed(id, errno),
            Then::FileEnded => self.file_ended(id),
            Then::Done | Then::Full | Then::Budget => self.output_fell(id),
        }
    }

    /// Some of a file may have been sent. A long file stays above the high watermark. That says nothing of
    /// the peer, as long as the peer takes something: the stuck deadline begins anew.
    #[cold]
    fn file_moved(&mut self, id: ConnId, taken: Sent) {
        if taken.bytes > 0 && self.is_above_its_marks(id) {
            self.not_stuck(id);
            self.stuck_from_now(id);
        }
    }

    /// Bytes that the rate limit lets out now, if anything waits. The bytes wait in the connection's own
    /// queue, since the cork goes out as a whole.
    #[cold]
    fn tokens_to_send(&mut self, id: ConnId) -> usize {
        self.state.with(id, |outbox, head| outbox.spill(head));
        let waits = self.state.head(id).is_some_and(|head| head.status.has(Status::UNSENT));
        if waits { self.state.tokens(id, Way::Out) } else { usize::MAX }
    }

    /// The connection's deadline has come: what a rate limit has held back may go on. True: something did.
    #[cold]
    pub(super) fn goes_on(&mut self, id: ConnId) -> bool {
        let (goes_in, goes_out) = self.state.refill(id);
        if goes_in {
            self.read_on(id);
            self.look_again(id);
        }
        if goes_out {
            self.flush(id);
            self.after_wishes(id);
        }
        goes_in || goes_out
    }

    /// The kernel took bytes: counts them, and the connection is not idle.
    pub(super) fn sent(&mut self, id: ConnId, bytes: usize) {
        if bytes > 0 {
            self.state.tally.sends += 1;
            self.state.tally.sent_bytes += bytes as u64;
            self.state.touch(id);
            if !self.state.outbox.marks.is_empty() {
                self.state.with(id, |outbox, head| outbox.note_sent(head, id, bytes));
            }
        }
    }

    /// Fewer bytes wait than before: perhaps none, perhaps no more than the low watermark.
    fn output_fell(&mut self, id: ConnId) {
        let low = self.state.outbox.low_watermark();
        let Some((pending, was_held)) = self.state.with(id, |outbox, head| {
            let pending = outbox.pending(head);
            let was_held = pending <= low && head.status.has(Status::HELD);
            if was_held {
                head.status.clear(Status::HELD);
                if let Some(cold) = head.cold.as_deref_mut() {
                    cold.answers = false;
                }
            }
            if pending <= low
                && let Some(cold) = head.cold.as_deref_mut()
            {
                cold.long = 0; // a message above the cap has left, and the cap holds again
            }
            if pending == 0 {
                head.status.clear(Status::UNSENT);
                head.drop_idle_cold();
            }
            (pending, was_held)
        }) else {
            return;
        };
        if was_held {
            self.not_stuck(id);
            // The peer's window was shut, and is about to open.
            self.flows_if_closing(id);
            self.room(id);
            self.look_again(id);
        }
        let Some(head) = self.state.head(id) else { return };
        let owes_fin =
            matches!(head.status.state(), State::Finishing | State::Closing | State::LastBytes);
        // Bytes that `on_writable` sent count too. The loop comes here again when these are flushed.
        if pending == 0 && !head.status.has(Status::UNSENT | Status::CORKED) {
            if owes_fin && self.told_before_the_end(id) {
                self.step(id, Event::Flushed);
            }
            self.look_again(id);
        } else if pending > 0 {
            self.grew();
        }
    }

    /// The connection is at its low watermark again. Tells the handler, and goes on reading.
    fn room(&mut self, id: ConnId) {
        let Some(head) = self.state.head(id) else { return };
        let state = head.status.state();
        if state.takes_output() {
            self.call(id, Callback::Writable, |handler, conn| handler.on_writable(conn));
            // The handler's bytes go out at the end of the turn. If they were offered here, a handler that
            // fills the kernel's buffer each time would keep the turn for itself.
            if let Some(true) = self.state.with(id, |_, head| head.status.has(Status::UNSENT)) {
                self.list_to_flush(id);
            }
        }
        match self.state.partner_of(id) {
            Some(partner) => self.partner_reads_on(partner),
            None if state.delivers() => self.read_on(id),
            None => {}
        }
    }

    /// The last byte has left. In `LastBytes` the handler is told of its marks first, of as many in a turn as
    /// a turn may tell. False: it is not told of all yet, or the callback has ended the connection.
    fn told_before_the_end(&mut self, id: ConnId) -> bool {
        if self.state.outbox.marks.is_empty() || !self.is_in(id, State::LastBytes) {
            return true;
        }
        let mut left = self.state.limits.deferred_per_turn;
        self.tell_sent(id, &mut left);
        let is_told = self.state.outbox.marks.reached(id, 1) == 0;
        if !is_told {
            self.list_to_flush(id); // which comes here again
        }
        is_told && self.is_in(id, State::LastBytes)
    }

    /// Tells the handler of the marks that are reached now, of `left` at most. Marks that the handler sets
    /// meanwhile wait for the next turn, even with no bytes before them. Otherwise a handler that is told and
    /// marks again would never let the turn end. Above its high watermark the handler is told of one mark
    /// only, since its bytes go out at the end of the turn. A handler that has ended the connection is told
    /// of no more.
    #[cold]
    pub(super) fn tell_sent(&mut self, id: ConnId, left: &mut usize) {
        for n in 0..self.state.outbox.marks.reached(id, left.saturating_add(1)) {
            let Some(status) = self.state.head(id).map(|head| head.status) else { return };
            // In `LastBytes` there are marks only if the handler has not closed.
            let ended = [State::Closing, State::Lingering, State::Dead, State::Connecting];
            if ended.contains(&status.state()) {
                return;
            }
            if n > 0 && (*left == 0 || status.has(Status::HELD)) {
                break;
            }
            let Some(tag) = self.state.outbox.take_mark(id) else { return };
            *left = left.saturating_sub(1);
            self.call(id, Callback::Sent, |handler, conn| handler.on_sent(conn, tag));
            self.relieve_cork();
            if let Some(true) = self.state.with(id, |_, head| head.status.has(Status::UNSENT)) {
                self.list_to_flush(id);
            }
            self.after_wishes(id);
        }
        if self.state.outbox.marks.reached(id, 1) > 0 {
            // In the next turn, after the connections that wait already.
            self.state.with(id, |outbox, head| outbox.list_wish(head, id));
        }
    }

    /// The partner's input is no longer held back.
    pub(super) fn partner_reads_on(&mut self, partner: ConnId) {
        self.read_on(partner);
        self.look_again(partner);
    }

    /// Reads on as if an edge had come, for input that was left in the kernel, or kept, meanwhile.
    pub(super) fn read_on(&mut self, id: ConnId) {
        if let Some(head) = self.state.head(id) {
            if head.status.has(Status::UNREAD) {
                head.status.set(Status::AGAIN);
            }
            self.state.make_ready(id);
        }
    }

    pub(super) fn list_to_flush(&mut self, id: ConnId) {
        self.state.with(id, |outbox, head| outbox.list_to_flush(head, id));
    }

    /// Sends what waits in the cork: one gathering send for each connection, of `left` at most. The bytes of
    /// the others go to their own queues, in order. The cork is free again either way.
    #[cold]
    fn flush_cork(&mut self, left: &mut usize) {
        // Callbacks may add owners meanwhile, which are not served here. The last flush empties the list.
        for owner in 1..=self.state.outbox.cork.owners() {
            let Some(id) = self.state.outbox.cork.owner(owner as u16) else { continue };
            if *left > 0 {
                *left -= 1;
                self.flush_corked(id);
            } else {
                self.state.with(id, |outbox, head| outbox.offer_again(head, id));
            }
        }
    }

    /// Flushes a connection's bytes from the cork. If it cannot be sent to now, they must not stay in the
    /// cork.
    fn flush_corked(&mut self, id: ConnId) {
        if !self.holds_last_answer(id) {
            self.flush(id);
        }
        if self.state.head(id).is_some_and(|head| head.status.has(Status::CORKED)) {
            self.state.with(id, |outbox, head| outbox.spill(head));
            // Perhaps `on_writable` put these bytes there, and the socket is not full.
            self.list_to_flush(id);
        }
        self.after_wishes(id);
    }

    fn after_wishes(&mut self, id: ConnId) {
        if self.state.head(id).is_some_and(|head| head.status.has(Status::WISHES)) {
            self.grant(id);
        }
    }

    /// The end of the turn: each connection with waiting bytes is flushed once, within the turn's budget.
    /// Listed connections have a half of that budget if they need it.
    pub(super) fn flush_all(&mut self) {
        let mut left = self.state.limits.deferred_per_turn;
        if self.state.outbox.cork.owners() > 0 {
            let listed = self.state.outbox.to_flush.len().min(left.div_ceil(2));
            let mut corked = left - listed;
            self.flush_cork(&mut corked);
            left = listed + corked;
        }
        // A connection over its budget is listed anew, for the next turn. It is behind the connections for
        // which nothing was left of the budget of files.
        let mut waiting = self.state.outbox.to_flush.len();
        let mut served = 0;
        while waiting > 0 && left > 0 {
            waiting -= 1;
            let Some(id) = self.state.outbox.to_flush.pop_front() else { break };
            // A connection that is over costs nothing, and does not count.
            let Some(head) = self.state.head(id) else { continue };
            head.status.clear(Status::TO_FLUSH);
            left -= 1;
            let had_budget = self.state.outbox.files_left > 0;
            self.flush(id);
            self.after_wishes(id);
            if had_budget {
                served = self.state.outbox.to_flush.len() - waiting;
            }
        }
        let outbox = &mut self.state.outbox;
        if served < outbox.to_flush.len() - waiting {
            outbox.to_flush.make_contiguous()[waiting..].rotate_left(served);
        }
        outbox.files_left = self.state.limits.file_bytes_per_turn;
    }
}
