//! Quiet: when no more bytes are to be expected on a connection that is to close when it is idle.
//!
//! A stream in full flow has gaps. A receive that finds nothing proves little, since the peer's kernel may
//! hold more behind a window that was shut until just now. A close would cut the stream. So after a large
//! piece, after input was held back, or just after any byte when a drain begins, the connection stays open
//! until it has been quiet for a while.
//!
//! A client that sends its next request as soon as it is answered would never be quiet. So its last answer is
//! held back. A client that sends on without the answer is a stream. A client that does not gets the answer
//! and the end together, before its next request. The loop holds the answer to one receive at least, and no
//! more than the high watermark. (A stream of small pieces does not count as a stream: each piece would hold
//! the drain up.)
//!
//! An answer may also come later than the callback that brought its request: from a timer, another
//! connection, another thread. It is held back too, if nothing else is under way. Sent at once, it would
//! bring the next request before the loop looks, and the connection would never be idle.

use super::EventLoop;
use crate::api::handler::Handler;
use crate::base::id::ConnId;
use crate::connection::life::State;
use crate::connection::slot::Status;
use crate::driver::Driver;
use crate::threads::control::Phase;
use net_timer::Tick;

/// A receive of so many bytes is taken for a piece of a stream.
const PIECE_OF_A_FLOW: u32 = 4096;

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// Bytes were received on a connection that may be about to close.
    #[inline]
    pub(super) fn received_some(&mut self, id: ConnId, bytes: u32) {
        if bytes >= PIECE_OF_A_FLOW {
            self.flows_if_closing(id);
        }
        if !self.flowing.is_empty() {
            self.make_room_for_answer(id, bytes as usize);
        }
    }

    /// Sends the held bytes if, with the answer to come, they would pass the high watermark.
    fn make_room_for_answer(&mut self, id: ConnId, bytes: usize) {
        let held = self.state.with(id, |outbox, head| {
            let is_held = head.status.has(Status::HOLDS);
            is_held && outbox.would_pass_high_mark(outbox.pending(head) + bytes)
        });
        if held == Some(true) {
            self.let_go(id);
        }
    }

    /// Whether the bytes that a callback has left, and `bytes` that it echoed, wait for the quiet. Not on a
    /// paired connection: the bytes may be a request to a server, which answers only when it has them. Not if
    /// more work is to come.
    pub(super) fn holds_answer(&mut self, id: ConnId, bytes: usize) -> bool {
        let drains = self.phase > Phase::Run;
        if self.flowing.is_empty() && !drains {
            return false; // no connection is about to close
        }
        let holds = self.state.with(id, |outbox, head| {
            head.status.has(Status::WHEN_IDLE)
                && (drains || head.status.has(Status::FLOWS))
                && head.status.state().delivers()
                && !head.status.has(Status::PAIRED | Status::BUSY | Status::PAUSED)
                && !outbox.would_pass_high_mark(outbox.pending(head) + bytes)
        });
        holds == Some(true)
    }

    /// In a drain, holds back an answer that did not come from `on_data`, if it may be the last: the
    /// connection closes once it is idle, and nothing else is under way. Bytes with a mark are not held: they
    /// may continue a stream, whose handler waits for `on_sent`. True: the answer is held. Outside of a drain
    /// a handler may ask for the end with each answer, and the answer must not be late.
    #[inline]
    pub(super) fn holds_last_answer(&mut self, id: ConnId) -> bool {
        self.phase > Phase::Run && self.holds_if_last(id)
    }

    #[cold]
    fn holds_if_last(&mut self, id: ConnId) -> bool {
        let may_be_last = self.state.with(id, |outbox, head| {
            let status = head.status;
            let is_paused = status.has(Status::PAUSED) && !status.has(Status::WISH_RESUME);
            let goes_on = Status::UNSENT | Status::UNREAD | Status::BUSY | Status::PAIRED;
            status.has(Status::WHEN_IDLE)
                && status.has(Status::CORKED)
                && !status.has(goes_on | Status::HOLDS)
                && !is_paused
                && status.state().delivers()
                && !outbox.marks.has(id)
                && !outbox.would_pass_high_mark(outbox.pending(head))
        });
        if may_be_last != Some(true) {
            return false;
        }
        self.hold_answer(id);
        true
    }

    /// Holds back what waits to be sent.
    pub(super) fn hold_answer(&mut self, id: ConnId) {
        let holds = self.state.with(id, |outbox, head| {
            outbox.spill(head);
            if head.status.has(Status::UNSENT) {
                head.status.set(Status::HOLDS);
            }
            head.status.has(Status::HOLDS) && !head.status.has(Status::FLOWS)
        });
        if holds == Some(true) {
            self.flows(id);
        }
    }

    /// The connection's state has changed, so no next request is awaited. Lists the held bytes to be sent.
    pub(super) fn hold_no_more(&mut self, id: ConnId) {
        if self.end_hold(id) {
            self.list_to_flush(id);
        }
    }

    /// Sends the held bytes now.
    fn let_go(&mut self, id: ConnId) {
        if self.end_hold(id) {
            self.flush(id);
        }
    }

    /// Ends the hold. False: nothing was held back.
    pub(super) fn end_hold(&mut self, id: ConnId) -> bool {
        let Some(head) = self.state.head(id) else { return false };
        let held = head.status.has(Status::HOLDS);
        head.status.clear(Status::HOLDS);
        held
    }

    /// More bytes are to be expected: it matters only if the connection is to close when it is idle.
    pub(super) fn flows_if_closing(&mut self, id: ConnId) {
        if self.state.head(id).is_some_and(|head| head.status.has(Status::WHEN_IDLE)) {
            self.flows(id);
        }
    }

    /// The drain begins for this connection. If it was just in use, it has a quiet time first.
    pub(super) fn flows_if_just_used(&mut self, id: ConnId) {
        let quiet = Tick::millis_of(self.state.limits.quiet_time);
        let Some(head) = self.state.head(id) else { return };
        if head.status.state().delivers()
            && self.driver.quiet_for(&head.socket).is_some_and(|since| since < quiet)
        {
            self.flows(id);
        }
    }

    fn flows(&mut self, id: ConnId) {
        let Some(head) = self.state.head(id) else { return };
        if head.status.has(Status::FLOWS) {
            head.status.set(Status::FLOWS_ON);
            return;
        }
        head.status.set(Status::FLOWS);
        let until = self.state.now.after(self.state.limits.quiet_time);
        self.flowing.push_back((until, id));
        self.next_due = self.next_due.min(until);
    }

    /// True if something is under way beside the held answer. Then no end follows the answer.
    fn goes_on_when_quiet(&mut self, id: ConnId) -> bool {
        let kept = Status::UNREAD | Status::PAUSED | Status::BUSY;
        self.state.head(id).is_some_and(|head| head.status.has(kept))
            || self.state.outbox.marks.has(id) // the handler is told of the mark, and may then go on
            || self.state.input_room(id) == 0
    }

    /// Serves connections whose quiet time is over.
    pub(super) fn end_quiet_times(&mut self) {
        for _ in 0..self.state.limits.timers_per_turn {
            let due = self.flowing.front().filter(|(until, _)| *until <= self.state.now);
            let Some(&(_, id)) = due else { return };
            self.flowing.pop_front();
            let Some(head) = self.state.head(id) else { continue };
            let flows_on = head.status.has(Status::FLOWS_ON);
            head.status.clear(Status::FLOWS | Status::FLOWS_ON);
            if flows_on {
                self.flows(id);
            } else {
                // Unless something has come meanwhile, or is under way, the FIN leaves with the last answer.
                // The look comes before the answer, because a client that has the answer might send a request
                // at once. The kernel keeps the end of the answer until the FIN. So a client that looks for a
                // FIN before its next request does not find the answer without the FIN.
                if !self.goes_on_when_quiet(id) {
                    self.close_if_idle(id);
                    if self.is_in(id, State::Closing) {
                        self.flush_and(id, true);
                    }
                }
                self.let_go(id);
                self.look_again(id);
            }
        }
    }
}
