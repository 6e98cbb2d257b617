//! Makes room for a new connection when the server is full: closes a connection that has long been idle.
//!
//! Admission lets a few connections in over the limit. The loop that gets such a connection closes one of its
//! own for it, or else the new connection. The loop does not know which has been idle longest. A list in that
//! order would cost every connection 8 bytes, and every message the stores that move it. So the loop looks at
//! a few, and closes the one that the kernel says has been idle longest.

use super::EventLoop;
use crate::api::handler::Handler;
use crate::base::close_reason::CloseReason;
use crate::base::id::ConnId;
use crate::config::policy::WhenFull;
use crate::connection::life::{Event, State};
use crate::connection::slot::Status;
use crate::driver::Driver;
use net_timer::Tick;

/// Connections that are compared. With so many, the connection that is closed is among the idlest tenth in
/// four of five times.
const COMPARED: usize = 16;
/// Slots that are looked at to find these connections, if many slots are free.
const TRIES: usize = 64;

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// A connection has come in over the limit. True: there is a place for it now.
    #[cold]
    pub(super) fn evict_idle(&mut self) -> bool {
        if self.shared.admission.has_room() {
            return true; // a connection has ended meanwhile
        }
        let WhenFull::ReuseIdle { min_idle } = self.state.limits.when_full else { return false };
        let Some(id) = self.longest_idle(Tick::millis_of(min_idle)) else { return false };
        self.state.cut_short_because(id, CloseReason::Reused);
        self.step(id, Event::Idle);
        true
    }

    /// Of some connections, the one on which nothing has moved for longest, for `least` milliseconds at
    /// least.
    fn longest_idle(&mut self, least: u64) -> Option<ConnId> {
        let slots = self.state.table.slots() as u64;
        let (mut compared, mut found) = (0, None);
        for _ in 0..TRIES {
            let slot = self.state.jitter.between(0, slots.checked_sub(1)?);
            let Some(id) = self.state.table.id_of(slot as u32) else { continue };
            let idle = self.idle_for(id).filter(|idle| *idle >= least);
            found = found.max(idle.map(|idle| (idle, id)));
            compared += 1;
            if compared == COMPARED {
                break;
            }
        }
        found.map(|(_, id)| id)
    }

    /// For how long nothing has moved on a connection, nor on its partner. `None`: something is under way on
    /// one of them, or the kernel does not say.
    fn idle_for(&mut self, id: ConnId) -> Option<u64> {
        let idle = self.idle_by_itself(id)?;
        match self.state.partner_of(id) {
            Some(partner) => Some(idle.min(self.idle_by_itself(partner)?)),
            None => Some(idle),
        }
    }

    fn idle_by_itself(&mut self, id: ConnId) -> Option<u64> {
        const UNDER_WAY: u32 = Status::UNREAD
            | Status::UNSENT
            | Status::CORKED
            | Status::BUSY
            | Status::PAUSED
            | Status::HELD
            | Status::READY
            | Status::WISHED;
        let head = self.state.head(id)?;
        let may_idle =
            matches!(head.status.state(), State::Open | State::PeerEnded | State::Finished);
        if !may_idle || head.status.has(UNDER_WAY) {
            return None;
        }
        let idle = self.driver.idle_for(&head.socket)?;
        // Bytes that the peer has not acknowledged would be lost with the connection.
        (self.driver.unacknowledged(&head.socket) == 0).then_some(idle)
    }
}
