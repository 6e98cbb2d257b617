//! Connections to others: attempts, their outcomes, and the pauses between them.
//!
//! A dialled connection is in the table from the moment it is asked for, and has a socket only
//! while an attempt is under way. All attempts go by one id, so a signal may be that of an attempt
//! that was given up: what it says is asked of the socket, and believed only if that has decided.

use super::EventLoop;
use crate::addr::Addr;
use crate::closed::{Closed, Which};
use crate::connection::Head;
use crate::dial::Target;
use crate::driver::{Driver, Ending, Link};
use crate::handler::Handler;
use crate::hub::Order;
use crate::id::ConnId;
use crate::life::{Event, State};
use crate::resolver::{Answer, Question};
use crate::sys::{Errno, Socket};
use net_timer::Tick;
use std::sync::Arc;

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// Begins the attempts that are due, as many as a turn may.
    pub(super) fn start_dials(&mut self) {
        if self.order > Order::Run {
            self.state.dials.clear(); // each is told of the order, in the table
            return;
        }
        let most = self.state.a_few(self.state.limits.dials_per_turn);
        let due = self.state.dials.len().min(most);
        for _ in 0..due {
            let Some(id) = self.state.dials.pop_front() else { return };
            self.attempt(id);
        }
    }

    #[inline(never)] // what it needs would be on the turn's stack
    fn attempt(&mut self, id: ConnId) {
        let (now, timeout) = (self.state.now, self.state.limits.connect_timeout);
        let Some(dialling) = self.state.head(id).and_then(Head::dialling) else { return };
        let overdue = dialling.begin(now, timeout);
        match dialling.dial.to.clone() {
            Target::Addr(to) => self.connect(id, &to, overdue),
            Target::Name(name) => {
                dialling.is_asking = true;
                let attempt = dialling.attempt();
                self.state.file(id, overdue);
                let question = Question { id, attempt, name: Arc::clone(&name), until: overdue };
                if !self.hub.resolve(question, now) {
                    tracing::warn!(%id, %name, "too many names wait to be looked up");
                    self.attempt_failed(id, Closed::Unresolved);
                }
            }
        }
    }

    /// The resolver has answered: the first of the addresses is tried.
    #[cold]
    #[inline(never)]
    pub(super) fn resolved(&mut self, answer: Answer) {
        let Answer { id, attempt, found } = answer;
        let Some(dialling) = self.state.head(id).and_then(Head::dialling) else { return };
        if !dialling.is_asking || dialling.attempt() != attempt {
            return; // that attempt was given up
        }
        dialling.is_asking = false;
        match found {
            Ok(found) => {
                dialling.found = found.iter().copied().collect();
                if !self.try_next_address(id) {
                    self.attempt_failed(id, Closed::Deadline(Which::Connect)); // just now over
                }
            }
            Err(error) => {
                let name = self.state.names.get(&id).map_or("", |name| name);
                tracing::info!(%id, name, %error, "a name was not resolved");
                self.attempt_failed(id, Closed::Unresolved);
            }
        }
    }

    /// Tries the next address of a name, if one is left and time too.
    fn try_next_address(&mut self, id: ConnId) -> bool {
        let now = self.state.now;
        let dialling = self.state.head(id).and_then(Head::dialling);
        let Some((to, until)) = dialling.and_then(|dialling| dialling.next_address(now)) else {
            return false;
        };
        self.connect(id, &to.into(), until);
        true
    }

    fn connect(&mut self, id: ConnId, to: &Addr, until: Tick) {
        let Some(connection) = self.state.table.get(id) else { return };
        let head = &mut connection.head;
        let Some(dialling) = head.cold.as_deref_mut().and_then(|cold| cold.dialling.as_deref())
        else {
            return;
        };
        let begun = match self.driver.dial(to, &dialling.dial.options) {
            Ok(socket) => {
                head.socket = socket;
                head.link = Link::default();
                head.link.await_room();
                if to.inet().is_none() {
                    head.link.read_to_the_end();
                }
                self.driver.attach(id.token(), &head.socket)
            }
            Err(error) => Err(Errno::of(&error)),
        };
        match begun {
            Ok(()) => self.state.file(id, until),
            Err(errno) => self.attempt_failed(id, Closed::Machine(errno)),
        }
    }

    /// A connecting connection has signalled. True: it is up.
    pub(super) fn dial_decided(&mut self, id: ConnId) -> bool {
        let Some(head) = self.state.head(id) else { return false };
        if !head.dialling().is_some_and(|d| d.is_under_way && !d.is_asking) {
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

    /// Hangs up, and tries another address of the name, or again later, or gives up.
    #[cold]
    fn attempt_failed(&mut self, id: ConnId, why: Closed) {
        self.hang_up(id);
        let Some(head) = self.state.head(id) else { return };
        debug_assert!(head.status.state() == State::Connecting);
        let socket = std::mem::replace(&mut head.socket, Socket::none());
        self.driver.detach(socket, Ending::Close);
        if self.try_next_address(id) {
            return;
        }
        let (now, jitter) = (self.state.now, &mut self.state.jitter);
        let Some(connection) = self.state.table.get(id) else { return };
        let next = connection.head.dialling().and_then(|dialling| dialling.end(now, jitter));
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

    /// An attempt is over, or its dial: nobody waits for the addresses of its name any more.
    #[cold]
    pub(super) fn hang_up(&mut self, id: ConnId) {
        let Some(dialling) = self.state.head(id).and_then(Head::dialling) else { return };
        if dialling.is_asking
            && let Some(name) = dialling.name()
        {
            self.hub.resolver.withdraw(id, name);
        }
    }
}
