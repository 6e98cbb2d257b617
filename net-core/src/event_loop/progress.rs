//! Progress that no signal tells of: a peer that reads slowly out of a full kernel buffer.
//!
//! The kernel says that it has room only when a third of its buffer is free, and that buffer may
//! hold megabytes. A peer that reads all the time can so be silent for longer than the idle
//! timeout. Therefore a connection that is to end as idle while bytes are unacknowledged is looked
//! at once more, half a timeout later, and ends only if not one of them was acknowledged.

use super::EventLoop;
use crate::driver::Driver;
use crate::handler::Handler;
use crate::id::ConnId;
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

    /// Its idle deadline has come, but one of a pair is not idle before the other is, who may be
    /// slow to take what this one brings.
    pub(super) fn waits_for_partner(&mut self, id: ConnId) -> bool {
        let Some(partner) = self.state.partner_of(id) else { return false };
        let was = self.state.idle_end_of(partner);
        if was <= self.state.now {
            self.may_be_read(partner, was); // due in the same moment, and looked at only now
        }
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
