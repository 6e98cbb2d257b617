//! Heartbeats: the handler is told of a connection that has been quiet for a while, each at its own time.
//!
//! With heartbeats, the one deadline of the entry is not the end of the idle time, but the end of half an
//! interval without a byte. So traffic costs the one store that it costs without heartbeats. When that
//! deadline comes, the connection waits for the next point of its own grid. The step of the grid is half an
//! interval, and its phase is a hash of the connection's id. So nothing is kept to remember the phase. Of a
//! million connections that fell silent together, a few are due in each millisecond of that half.
//!
//! From a heartbeat to its answer, and only if there is an idle timeout, the cold box has the end of the idle
//! time. The heartbeat's own bytes must not put that end off.

use super::EventLoop;
use crate::api::handler::Handler;
use crate::base::id::ConnId;
use crate::base::splitmix;
use crate::connection::life::Event;
use crate::driver::Driver;
use crate::observe::counters::Counter;
use net_timer::Tick;

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// The idle deadline of a connection has come, and no other deadline. `quiet`: when the connection has
    /// been quiet for half an interval, or the time to which that was put off. True: the connection is idle,
    /// and nothing else was done.
    pub(super) fn is_given_up(&mut self, id: ConnId, quiet: Tick) -> bool {
        let now = self.state.now;
        let Some(head) = self.state.head(id) else { return false };
        let unanswered = head.deadlines().unanswered;
        if unanswered <= now {
            let goes_on = self.may_be_read(id, unanswered) || self.waits_for_partner(id);
            if !goes_on {
                self.state.set_deadlines(id, |deadlines| deadlines.unanswered = Tick::MAX);
            }
            return !goes_on;
        }
        let due = self.on_its_grid(id, quiet);
        if due > now {
            self.state.refile(id, due);
        } else {
            self.heartbeat(id, due);
        }
        false
    }

    /// The first time from `quiet` on that is on the connection's grid.
    fn on_its_grid(&self, id: ConnId, quiet: Tick) -> Tick {
        let Some(interval) = self.state.limits.heartbeat_interval else { return quiet };
        let step = (Tick::millis_of(interval) / 2).max(1);
        let phase = splitmix::mixed(id.token()) % step;
        let behind = quiet.as_millis() % step;
        quiet.saturating_add((step + phase - behind) % step)
    }

    fn heartbeat(&mut self, id: ConnId, due: Tick) {
        let limits = &self.state.limits;
        let half = limits.heartbeat_interval.unwrap_or_default() / 2;
        let until = limits.idle_timeout.map(|idle| due.after(idle.saturating_sub(half)));
        let next = self.state.idle_deadline;
        let Some(head) = self.state.head(id) else { return };
        let until = match head.deadlines().unanswered {
            Tick::MAX => until.unwrap_or(Tick::MAX),
            until => until,
        };
        self.state.refile(id, next);
        // Bytes that wait to be sent do as much as a heartbeat behind them would.
        if self.state.with(id, |outbox, head| outbox.pending(head)) == Some(0) {
            self.state.tally.fired += 1;
            self.state.inbox.counters.add(Counter::Heartbeats, 1);
            self.step(id, Event::Heartbeat);
        }
        // Only now: sent bytes clear this deadline, and the heartbeat's bytes are not the peer's.
        if until < Tick::MAX {
            self.state.set_deadlines(id, |deadlines| deadlines.unanswered = until);
        }
    }
}
