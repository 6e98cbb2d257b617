//! Connections to others: attempts, their outcomes, and the pauses between them.
//!
//! A dialled connection is in the table from the moment it is asked for, and has a socket only
//! while an attempt is under way. All attempts go by one id, so a signal may be that of an attempt
//! that was given up: what it says is asked of the socket, and believed only if that has decided.

use super::EventLoop;
use crate::closed::{Closed, Which};
use crate::driver::{Driver, Ending, Link};
use crate::handler::Handler;
use crate::hub::Order;
use crate::id::ConnId;
use crate::life::{Event, State};
use crate::sys::{Errno, Socket};
use net_timer::Tick;

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// Begins the attempts that are due, as many as a turn may.
    pub(super) fn start_dials(&mut self) {
        if self.order > Order::Run {
            self.state.dials.clear(); // each is told of the order, in the table
            return;
        }
        let due = self.state.dials.len().min(self.state.limits.dials_per_turn);
        for _ in 0..due {
            let Some(id) = self.state.dials.pop_front() else { return };
            self.attempt(id);
        }
    }

    fn attempt(&mut self, id: ConnId) {
        let (now, timeout) = (self.state.now, self.state.limits.connect_timeout);
        let Some(head) = self.state.head(id) else { return };
        let Some(dialling) = head.dialling() else { return };
        let overdue = dialling.begin(now, timeout);
        let is_tcp = dialling.dial.to.inet().is_some();
        let begun = match self.driver.dial(&dialling.dial.to, &dialling.dial.options) {
            Ok(socket) => {
                head.socket = socket;
                head.link = Link::default();
                head.link.await_room();
                if !is_tcp {
                    head.link.read_to_the_end();
                }
                self.driver.attach(id.token(), &head.socket)
            }
            Err(error) => Err(Errno::of(&error)),
        };
        match begun {
            Ok(()) => self.state.file(id, overdue),
            Err(errno) => self.attempt_failed(id, Closed::Machine(errno)),
        }
    }

    /// A connecting connection has signalled. True: it is up.
    pub(super) fn dial_decided(&mut self, id: ConnId) -> bool {
        let Some(head) = self.state.head(id) else { return false };
        if !head.dialling().is_some_and(|dialling| dialling.is_under_way) {
            return false; // of an attempt that is over
        }
        match self.driver.dialled(&head.socket) {
            None => {
                head.link.await_room();
                false
            }
            Some(Err(errno)) => {
                self.attempt_failed(id, Closed::Machine(errno));
                false
            }
            Some(Ok(())) => {
                self.dial_is_up(id);
                true
            }
        }
    }

    fn dial_is_up(&mut self, id: ConnId) {
        let Some(head) = self.state.head(id) else { return };
        head.cold().dialling = None;
        self.state.file(id, Tick::MAX);
        self.begin_lifetime(id);
        self.state.refile(id, self.state.idle_deadline);
        self.step(id, Event::Connected);
    }

    /// Its pause is over, or the attempt under way has taken too long.
    pub(super) fn dial_is_due(&mut self, id: ConnId) {
        let Some(head) = self.state.head(id) else { return };
        if head.dialling().is_some_and(|dialling| dialling.is_under_way) {
            self.attempt_failed(id, Closed::Deadline(Which::Connect));
        } else {
            self.state.file(id, Tick::MAX);
            self.state.dials.push_back(id);
        }
    }

    /// Hangs up, and tries again later or gives up.
    #[cold]
    fn attempt_failed(&mut self, id: ConnId, why: Closed) {
        let (now, jitter) = (self.state.now, &mut self.state.jitter);
        let Some(connection) = self.state.table.get(id) else { return };
        let head = &mut connection.head;
        debug_assert!(head.status.state() == State::Connecting);
        let next = head.dialling().and_then(|dialling| dialling.end(now, jitter));
        let socket = std::mem::replace(&mut head.socket, Socket::none());
        self.driver.detach(socket, Ending::Close);
        tracing::debug!(%id, %why, goes_on = next.is_some(), "a dial has failed");
        match next {
            Some(next) => self.state.file(id, next),
            None => {
                let is_overdue = matches!(why, Closed::Deadline(_));
                self.state.because(id, why);
                self.step(id, if is_overdue { Event::Overdue } else { Event::Failed });
            }
        }
    }
}
