//! Progress that no signal tells of: a peer that reads slowly out of a full kernel buffer.
//!
//! The kernel says that it has room only when a third of its buffer is free, and that buffer may
//! hold megabytes. A peer that reads all the time can so be silent for longer than the idle
//! timeout. Therefore a connection that is to end as idle while bytes are unacknowledged is looked
//! at once more, half a timeout later, and ends only if not one of them was acknowledged.

use super::EventLoop;
use crate::api::handler::Handler;
use crate::base::id::ConnId;
use crate::connection::life::State;
use crate::connection::slot::Status;
use crate::driver::Driver;
use net_timer::Tick;

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// The idle deadline `was` has come. True: it is put off, because the peer may be reading.
    pub(super) fn may_be_read(&mut self, id: ConnId, was: Tick) -> bool {
        let Some(timeout) = self.state.limits.idle_timeout else { return false };
        let (now, idle_deadline) = (self.state.now, self.state.idle_end());
        let Some(head) = self.state.head(id) else { return false };
        let unacknowledged = self.driver.unacknowledged(&head.socket);
        let looked = head.cold.as_deref_mut().and_then(|cold| cold.looked.take());
        if unacknowledged == 0 {
            return false;
        }
        let next = match looked {
            Some((until, before)) if until == was && unacknowledged < before => idle_deadline,
            Some((until, _)) if until == was => return false,
            // Never, or before bytes have moved the deadline.
            _ => {
                let until = now.after(timeout / 2);
                head.cold().looked = Some((until, unacknowledged));
                until
            }
        };
        self.state.put_idle_off(id, next);
        true
    }

    /// The partner of one that is to end as idle may be due in the same moment, and may be put off then. What
    /// was noted of it stays, if it is not: its own turn is still to come.
    fn look_at_due(&mut self, partner: ConnId) {
        let was = self.state.idle_end_of(partner);
        let now = self.state.now;
        let Some(head) = self.state.head(partner) else { return };
        let state = head.status.state();
        // Any other deadline is none that is put off: of its first byte, or of its end.
        let is_idle_end =
            (state.delivers() || state == State::PeerEnded) && !head.status.has(Status::FIRST_BYTE);
        if was > now || !is_idle_end {
            return;
        }
        let looked = head.cold.as_deref().and_then(|cold| cold.looked);
        if !self.may_be_read(partner, was)
            && looked.is_some()
            && let Some(head) = self.state.head(partner)
        {
            head.cold().looked = looked;
        }
    }

    /// Its idle deadline has come, but one of a pair is not idle before the other is, who may be
    /// slow to take what this one brings.
    pub(super) fn waits_for_partner(&mut self, id: ConnId) -> bool {
        let Some(partner) = self.state.partner_of(id) else { return false };
        self.look_at_due(partner);
        let until = self.state.idle_end_of(partner).min(self.state.idle_end());
        if until <= self.state.now {
            return false;
        }
        let Some(head) = self.state.head(id) else { return false };
        // It has been looked at: two that stand still must not put each other off for ever.
        let unacknowledged = self.driver.unacknowledged(&head.socket);
        head.cold().looked = Some((until, unacknowledged));
        self.state.put_idle_off(id, until);
        true
    }
}
