//! Quiet: when nothing more is to be expected on a connection that is to close when it is idle.
//!
//! A stream in full flow has gaps. A receive that finds nothing proves little while the peer's
//! kernel holds more behind a window that was shut until just now: closing there would cut the
//! stream. So after a large piece, after input was held back, or just after any byte when a drain
//! begins, the connection is left open until it has been quiet for a while.
//!
//! A client that asks anew as soon as it is answered would never be quiet. But it is, if its last
//! answer is held back: who sends on without it is a stream, and who does not is let go with it,
//! its next question unasked. What is held is the answer to one receive at least, and no more than
//! the high mark. (A stream of small pieces does not count as one: each would hold the drain up.)
//!
//! An answer may also come later than the callback that brought its question: from a timer, another
//! connection, another thread. It is held back too, if nothing else is under way. Sent at once, it would
//! bring the next question before the loop looks, and the connection would never be idle.

use super::EventLoop;
use crate::api::handler::Handler;
use crate::base::id::ConnId;
use crate::connection::life::State;
use crate::connection::slot::Status;
use crate::driver::Driver;
use crate::threads::control::Phase;
use net_timer::Tick;

/// A receive of so many bytes is taken for a piece of something larger.
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

    /// What is held is let go before it would be more than may be held, with the answer to come.
    fn make_room_for_answer(&mut self, id: ConnId, bytes: usize) {
        let held = self.state.with(id, |outbox, head| {
            let is_held = head.status.has(Status::HOLDS);
            is_held && outbox.would_pass_high_mark(outbox.pending(head) + bytes)
        });
        if held == Some(true) {
            self.let_go(id);
        }
    }

    /// Whether what a callback has left, and `bytes` that it echoed, wait for the quiet. Not where they
    /// may be a question, to a server that answers only when it has it; nor where more work is to come.
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

    /// Holds back an answer that came from elsewhere than `on_data`, in a drain, if it may be the last: the
    /// connection closes once it is idle, and nothing else is under way. Not what continues a stream, whose
    /// handler is to be told that a piece has left. True: it is held. Outside of a drain a handler may ask
    /// for the end with each answer, which is then not to be late.
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

    /// Its state has changed: there is no next question to wait for, or nobody to ask it.
    pub(super) fn hold_no_more(&mut self, id: ConnId) {
        if self.end_hold(id) {
            self.list_to_flush(id);
        }
    }

    /// What is held back goes out now.
    fn let_go(&mut self, id: ConnId) {
        if self.end_hold(id) {
            self.flush(id);
        }
    }

    /// Nothing is held back any more. False: nothing was.
    pub(super) fn end_hold(&mut self, id: ConnId) -> bool {
        let Some(head) = self.state.head(id) else { return false };
        let held = head.status.has(Status::HOLDS);
        head.status.clear(Status::HOLDS);
        held
    }

    /// What was received, or may be now, has more behind it: it matters if the connection closes.
    pub(super) fn flows_if_closing(&mut self, id: ConnId) {
        if self.state.head(id).is_some_and(|head| head.status.has(Status::WHEN_IDLE)) {
            self.flows(id);
        }
    }

    /// The drain begins for this connection: was it just in use?
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

    /// Something is under way beside the answer that is held back, so that no end follows it.
    fn goes_on_when_quiet(&mut self, id: ConnId) -> bool {
        let kept = Status::UNREAD | Status::PAUSED | Status::BUSY;
        self.state.head(id).is_some_and(|head| head.status.has(kept))
            || self.state.outbox.marks.has(id) // it is told, and may then go on
            || self.state.input_room(id) == 0
    }

    /// Looks at those that have had time to be quiet.
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
                // Unless something has come meanwhile, or is under way, FIN leaves with the last answer. The
                // look comes before the answer: a client that has it might ask at once. And the kernel keeps
                // the end of the answer until FIN, so that a client which looks for FIN before it asks does
                // not find the one without the other.
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
