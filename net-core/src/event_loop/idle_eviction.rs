//! Room for one more when the server is full: the place of a connection that has long been idle.
//!
//! Admission lets a few in over the limit, and the loop to which one comes closes one of its own for
//! it, or else the newcomer. Which one has been idle longest nobody knows: a list in that order would
//! cost every connection 8 bytes, and every message the stores that move it. So a few are looked at,
//! and of these it is the one of which the kernel says so.

use super::EventLoop;
use crate::api::handler::Handler;
use crate::base::close_reason::CloseReason;
use crate::base::id::ConnId;
use crate::config::policy::WhenFull;
use crate::connection::life::{Event, State};
use crate::connection::slot::Status;
use crate::driver::Driver;
use net_timer::Tick;

/// Connections that are compared. With so many, the one that goes is among the idlest tenth in four
/// of five times.
const COMPARED: usize = 16;
/// Slots that are looked into for them, where many are free.
const TRIES: usize = 64;

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// A connection has come in over the limit. True: there is a place for it now.
    #[cold]
    pub(super) fn evict_idle(&mut self) -> bool {
        if self.shared.admission.has_room() {
            return true; // somebody has left meanwhile
        }
        let WhenFull::ReuseIdle { min_idle } = self.state.limits.when_full else { return false };
        let Some(id) = self.longest_idle(Tick::millis_of(min_idle)) else { return false };
        self.state.cut_short_because(id, CloseReason::Reused);
        self.step(id, Event::Idle);
        true
    }

    /// Of some connections, the one on which nothing has moved for longest: `least` milliseconds.
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

    /// How long nothing has moved on a connection with which nothing is under way, nor with its
    /// partner. `None`: something is, or the kernel does not say.
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
        // What the peer has not taken yet would be lost with it.
        (self.driver.unacknowledged(&head.socket) == 0).then_some(idle)
    }
}
