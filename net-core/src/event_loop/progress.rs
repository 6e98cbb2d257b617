//! Progress that no signal tells of: a peer that reads slowly out of a full kernel buffer.
//!
//! The kernel signals EPOLLOUT only when a third of its send buffer is free, and that buffer may hold
//! megabytes. So a peer that reads all the time can cause no signal for longer than the idle timeout.
//! Therefore the loop looks at an idle connection with unacknowledged bytes once more, half a timeout later.
//! The connection ends only if not one of these bytes was acknowledged.

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
            // The connection was never looked at, or only before bytes have moved the deadline.
            _ => {
                let until = now.after(timeout / 2);
                head.cold().looked = Some((until, unacknowledged));
                until
            }
        };
        self.state.put_idle_off(id, next);
        true
    }

    /// When a connection is to end as idle, its partner may be due at the same moment, and may be put off
    /// here. If it is not, the note of the last look stays: the partner's own deadline is still to be served.
    fn look_at_due(&mut self, partner: ConnId) {
        let was = self.state.idle_end_of(partner);
        let now = self.state.now;
        let Some(head) = self.state.head(partner) else { return };
        let state = head.status.state();
        // Only an idle deadline is put off, not the deadline of the first byte or of closing.
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

    /// The idle deadline of the connection has come. A connection of a pair is not idle before its partner
    /// is, which may be slow to take the bytes of this connection. True: the deadline is put off.
    pub(super) fn waits_for_partner(&mut self, id: ConnId) -> bool {
        let Some(partner) = self.state.partner_of(id) else { return false };
        self.look_at_due(partner);
        let until = self.state.idle_end_of(partner).min(self.state.idle_end());
        if until <= self.state.now {
            return false;
        }
        let Some(head) = self.state.head(id) else { return false };
        // This counts as a look: two connections that stand still must not put each other off for ever.
        let unacknowledged = self.driver.unacknowledged(&head.socket);
        head.cold().looked = Some((until, unacknowledged));
        self.state.put_idle_off(id, until);
        true
    }
}
