//! Connections to others: attempts, their outcomes, and the pauses between them.
//!
//! A dialled connection is in the table from the moment it is asked for, and has a socket only while an
//! attempt is under way. In an attempt at a name, several sockets may race. All attempts and all sockets go
//! by one id. So a signal may be of another socket, or of a socket that was given up. Each socket is asked,
//! and believed only if it has decided.

use super::EventLoop;
use crate::api::handler::Handler;
use crate::base::close_reason::{CloseReason, DeadlineKind};
use crate::base::id::ConnId;
use crate::connection::life::{Event, State};
use crate::connection::loop_state::LoopState;
use crate::connection::slot::Head;
use crate::driver::{Driver, Ending, Link};
use crate::features::dial::{Target, passes_soon};
use crate::sys::addr::Addr;
use crate::sys::{Errno, Socket};
use crate::threads::control::Phase;
use crate::threads::resolver::{Lookup, LookupResult};
use net_timer::Tick;
use std::sync::Arc;

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// Begins the attempts that are due, as many as a turn may.
    pub(super) fn start_dials(&mut self) {
        if self.phase > Phase::Run {
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

    /// It is the turn of a dial: of its next attempt, or of the addresses that were found for its name.
    #[inline(never)] // what it needs would be on the turn's stack
    fn attempt(&mut self, id: ConnId) {
        let (now, timeout) = (self.state.now, self.state.limits.connect_timeout);
        let Some(dialling) = self.state.head(id).and_then(Head::dialling) else { return };
        if !std::mem::take(&mut dialling.awaits_turn) {
            return;
        }
        if dialling.is_under_way {
            return self.try_next_address(id, None);
        }
        let until = dialling.begin(now, timeout);
        match dialling.dial.to.clone() {
            Target::Addr(to) => {
                dialling.found.push_back(to);
                self.try_next_address(id, None);
            }
            Target::Name(name) => {
                dialling.is_asking = true;
                let attempt = dialling.attempt();
                self.state.file(id, until);
                let question = Lookup { id, attempt, name: Arc::clone(&name), until };
                if !self.shared.resolve(question, now) {
                    if let Some(held_back) = self.trouble.allow(self.state.now) {
                        tracing::warn!(%id, %name, held_back, "too many names wait to be looked up");
                    }
                    self.attempt_failed(id, CloseReason::Unresolved);
                }
            }
        }
    }

    /// The resolver has answered. The addresses are tried when it is this dial's turn, since very many dials
    /// may be answered at once.
    #[cold]
    #[inline(never)]
    pub(super) fn resolved(&mut self, answer: LookupResult) {
        let LookupResult { id, attempt, found } = answer;
        let Some(dialling) = self.state.head(id).and_then(Head::dialling) else { return };
        if !dialling.is_asking || dialling.attempt() != attempt {
            return; // that attempt was given up
        }
        dialling.is_asking = false;
        match found {
            Ok(found) => {
                dialling.found(&found);
                dialling.awaits_turn = true;
                self.state.dials.push_back(id);
            }
            Err(error) => {
                if let Some(held_back) = self.trouble.allow(self.state.now) {
                    let name = self.state.names.get(&id).map_or("", |name| name);
                    tracing::info!(%id, name, %error, held_back, "a name was not resolved");
                }
                self.attempt_failed(id, CloseReason::Unresolved);
            }
        }
    }

    /// Begins a connect to the next address for which that does not fail at once. If no address is left, and
    /// no connect is undecided, the attempt has failed with the last error. That may be `lost`, from before.
    fn try_next_address(&mut self, id: ConnId, lost: Option<Errno>) {
        let (now, mut last) = (self.state.now, lost);
        loop {
            let Some(dialling) = self.state.head(id).and_then(Head::dialling) else { return };
            if dialling.is_overdue(now) {
                return self.attempt_failed(id, CloseReason::Deadline(DeadlineKind::Connect));
            }
            let Some(to) = dialling.found.pop_front() else { break };
            let begun = self.connect(id, &to);
            let LoopState { table, jitter, .. } = &mut self.state;
            let Some(connection) = table.get(id) else { return };
            let Some(dialling) = connection.head.dialling() else { return };
            let next = match begun {
                Ok(()) => dialling.has_begun(now),
                Err(errno) if passes_soon(errno) => dialling.put_off(to, errno, now, jitter),
                Err(errno) => {
                    last = Some(errno);
                    continue;
                }
            };
            return self.state.file(id, next);
        }
        let Some(head) = self.state.head(id) else { return };
        let Some(overdue) = head.dialling().map(|dialling| dialling.overdue()) else { return };
        if head.socket.number() >= 0 {
            // The undecided connects have the rest of the attempt's time.
            self.state.file(id, overdue);
        } else if let Some(errno) = last {
            self.attempt_failed(id, CloseReason::Machine(errno));
        }
    }

    /// Begins a connect, beside the undecided ones. All sockets signal under the one id, and at each signal
    /// all of them are asked.
    fn connect(&mut self, id: ConnId, to: &Addr) -> Result<(), Errno> {
        let Some(head) = self.state.head(id) else { return Ok(()) };
        let Some(dialling) = head.dialling() else { return Ok(()) };
        let dialled = self.driver.dial(to, &dialling.dial.options);
        let socket = dialled.map_err(|error| Errno::of(&error))?;
        if let Err(errno) = self.driver.attach(id.token(), &socket) {
            self.driver.detach(socket, Ending::Close);
            return Err(errno);
        }
        let before = std::mem::replace(&mut head.socket, socket);
        head.link = Link::default();
        head.link.await_room();
        if to.inet().is_none() {
            head.link.read_to_the_end();
        }
        if before.number() >= 0
            && let Some(dialling) = head.dialling()
        {
            dialling.older.push(before);
        }
        Ok(())
    }

    /// A connecting connection has signalled. True: it is up, by the first of its sockets that is.
    pub(super) fn dial_decided(&mut self, id: ConnId) -> bool {
        let driver = &mut self.driver;
        let Some(head) = self.state.head(id) else { return false };
        let Some(dialling) = head.dialling().filter(|d| d.is_under_way && !d.is_asking) else {
            return false; // of an attempt that is over
        };
        let (mut up, mut lost) = (None, None);
        let mut undecided = std::mem::take(&mut dialling.older);
        let mut at = 0;
        while at < undecided.len() && up.is_none() {
            match driver.dialled(&undecided[at]) {
                None => at += 1,
                Some(Ok(())) => up = Some(undecided.remove(at)),
                Some(Err(errno)) => {
                    driver.detach(undecided.remove(at), Ending::Close);
                    lost = Some(errno);
                }
            }
        }
        let newest = std::mem::replace(&mut head.socket, Socket::none());
        let outcome = match newest.number() {
            0.. if up.is_none() => driver.dialled(&newest),
            _ => None,
        };
        match outcome {
            Some(Ok(())) => up = Some(newest),
            Some(Err(errno)) => {
                driver.detach(newest, Ending::Close);
                lost = Some(errno);
            }
            None => head.socket = newest,
        }
        let Some(up) = up else {
            if head.socket.number() < 0
                && let Some(older) = undecided.pop()
            {
                head.socket = older; // there is one in `head` whenever a connect is under way
            }
            if let Some(dialling) = head.dialling() {
                dialling.older = undecided;
            }
            head.link.await_room();
            if lost.is_some() {
                self.try_next_address(id, lost);
            }
            return false;
        };
        let newest = std::mem::replace(&mut head.socket, up);
        for loser in undecided.into_iter().chain(Some(newest).filter(|s| s.number() >= 0)) {
            driver.detach(loser, Ending::Close);
        }
        self.dial_is_up(id);
        true
    }

    fn dial_is_up(&mut self, id: ConnId) {
        let Some(head) = self.state.head(id) else { return };
        head.cold().dialling = None;
        self.state.file(id, Tick::MAX);
        self.begin_lifetime(id);
        self.state.refile(id, self.state.idle_deadline);
        self.step(id, Event::Connected);
        if !self.state.outbox.marks.is_empty() {
            // A mark that was set meanwhile may have no bytes in front of it.
            self.state.with(id, |outbox, head| outbox.list_wish(head, id));
        }
    }

    /// The dial's pause is over, or it is time for the next address, or the attempt under way has taken too
    /// long.
    pub(super) fn dial_is_due(&mut self, id: ConnId) {
        let now = self.state.now;
        let Some(head) = self.state.head(id) else { return };
        let is_connecting = head.socket.number() >= 0;
        let Some(dialling) = head.dialling() else { return };
        if !dialling.is_under_way {
            dialling.awaits_turn = true;
            self.state.file(id, Tick::MAX);
            self.state.dials.push_back(id);
        } else if !dialling.is_overdue(now) {
            self.try_next_address(id, None);
        } else {
            let put_off = dialling.put_off.filter(|_| !is_connecting);
            let why =
                put_off.map_or(CloseReason::Deadline(DeadlineKind::Connect), CloseReason::Machine);
            self.attempt_failed(id, why);
        }
    }

    /// Ends the attempt, and tries again later, or gives up.
    #[cold]
    fn attempt_failed(&mut self, id: ConnId, why: CloseReason) {
        self.hang_up(id);
        let Some(head) = self.state.head(id) else { return };
        debug_assert!(head.status.state() == State::Connecting);
        let socket = std::mem::replace(&mut head.socket, Socket::none());
        self.driver.detach(socket, Ending::Close);
        let (now, jitter) = (self.state.now, &mut self.state.jitter);
        let Some(connection) = self.state.table.get(id) else { return };
        let next = connection.head.dialling().and_then(|dialling| dialling.end(now, jitter));
        tracing::debug!(%id, %why, goes_on = next.is_some(), "a dial has failed");
        match next {
            Some(next) => self.state.file(id, next),
            None => {
                let is_overdue = matches!(why, CloseReason::Deadline(_));
                self.state.because(id, why);
                self.step(id, if is_overdue { Event::Overdue } else { Event::Failed });
            }
        }
    }

    /// An attempt is over, or its dial. Ends what it had begun beside the connection's own socket: the
    /// lookup, and the older sockets.
    #[cold]
    pub(super) fn hang_up(&mut self, id: ConnId) {
        let Some(dialling) = self.state.head(id).and_then(Head::dialling) else { return };
        if dialling.is_asking
            && let Some(name) = dialling.name()
        {
            self.shared.resolver.withdraw(id, name);
        }
        for socket in std::mem::take(&mut dialling.older) {
            self.driver.detach(socket, Ending::Close);
        }
    }
}
