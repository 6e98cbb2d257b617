//! The deadlines that no traffic moves, from their beginning to their end.
//!
//! A connection is in the wheel once, by the nearest of its deadlines. Only the idle deadline moves with
//! every byte, and lies in the entry. All others are in the cold box, which is there while one runs.

use super::EventLoop;
use crate::api::handler::Handler;
use crate::base::close_reason::DeadlineKind;
use crate::base::id::ConnId;
use crate::connection::slot::{Deadlines, Status};
use crate::driver::Driver;
use net_timer::Tick;

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// A connection is up. Its first deadline is filed by the caller.
    pub(super) fn begin_lifetime(&mut self, id: ConnId) {
        let Some(most) = self.state.limits.lifetime_max else { return };
        let until = self.state.now.after(most);
        if let Some(head) = self.state.head(id) {
            head.cold().deadlines.lifetime = until;
        }
    }

    /// `on_data` has left bytes, or none. With the bytes of the next message the message deadline begins
    /// anew.
    pub(super) fn message_goes_on(&mut self, id: ConnId, is_begun: bool, took_some: bool) {
        let Some(timeout) = self.state.limits.message_timeout else { return };
        let Some(head) = self.state.head(id) else { return };
        if head.deadlines().message_is_marked {
            return;
        }
        let runs = head.deadlines().message < Tick::MAX;
        if !is_begun && runs {
            self.state.set_deadlines(id, |deadlines| deadlines.message = Tick::MAX);
        } else if is_begun && (took_some || !runs) {
            let until = self.state.now.after(timeout);
            self.state.set_deadlines(id, |deadlines| deadlines.message = until);
        }
    }

    /// The connection is above its high watermark, and its bytes are about to be offered: its stuck deadline
    /// runs.
    pub(super) fn stuck_from_now(&mut self, id: ConnId) {
        let Some(timeout) = self.state.limits.stuck_timeout else { return };
        let Some(head) = self.state.head(id) else { return };
        if head.status.state().flushes() && head.deadlines().stuck == Tick::MAX {
            let until = self.state.now.after(timeout);
            self.state.set_stuck(id, until);
        }
    }

    /// The connection is at its low watermark: its stuck deadline ends.
    pub(super) fn not_stuck(&mut self, id: ConnId) {
        if let Some(head) = self.state.head(id)
            && head.deadlines().stuck < Tick::MAX
        {
            self.state.set_stuck(id, Tick::MAX);
        }
    }

    /// The connection has begun to close, which takes its other deadlines away. Returns the deadlines by
    /// which it ends at the latest, however its peer takes the rest. If its life is over already, the rest
    /// has one write timeout.
    pub(super) fn deadlines_of_closing(&self, before: Deadlines, is_held: bool) -> Deadlines {
        let (now, limits) = (self.state.now, &self.state.limits);
        let mut deadlines =
            Deadlines { stuck: before.stuck, lifetime: before.lifetime, ..Deadlines::default() };
        if limits.lifetime_max.is_some() && before.lifetime == Tick::MAX {
            deadlines.lifetime = now.after(limits.write_timeout);
        }
        if let Some(timeout) = limits.stuck_timeout
            && is_held
            && before.stuck == Tick::MAX
        {
            deadlines.stuck = now.after(timeout);
        }
        deadlines
    }

    /// Which deadline is due. A message that comes slowly because the loop does not read it is not late.
    pub(super) fn take_due(&mut self, id: ConnId) -> Option<DeadlineKind> {
        let now = self.state.now;
        let cold = self.state.head(id)?.cold.as_deref_mut()?;
        let is_marked = cold.deadlines.message_is_marked;
        let which = cold.deadlines.take_due(now)?;
        if which == DeadlineKind::Message && self.state.input_room(id) == 0 {
            self.state.message_begins(id, is_marked);
            return self.take_due(id);
        }
        Some(which)
    }

    /// Whether the connection is above its high watermark, or was and is above the low one since.
    pub(super) fn is_above_its_marks(&mut self, id: ConnId) -> bool {
        self.state.head(id).is_some_and(|head| head.status.has(Status::HELD))
    }
}
