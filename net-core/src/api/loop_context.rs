//! `LoopContext`: the loop that a callback runs on.

use crate::api::conn::Conn;
use crate::api::handler::Handler;
use crate::api::loop_spawner::LoopSpawner;
use crate::api::server_handle::ServerHandle;
use crate::base::error::{AdoptError, AdoptRejected};
use crate::base::id::ConnId;
use crate::connection::life::State;
use crate::connection::loop_state::LoopState;
use crate::features::dial::{Dial, DialRejected};
use crate::features::timers::TimerId;
use crate::sys::Ends;
use crate::threads::mail::Mail;
use net_timer::Tick;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// A view of the running loop for the duration of one callback.
pub struct LoopContext<'a, H: Handler> {
    state: &'a mut LoopState<H::Session, H::Message>,
}

impl<'a, H: Handler> LoopContext<'a, H> {
    pub(crate) fn new(state: &'a mut LoopState<H::Session, H::Message>) -> Self {
        Self { state }
    }

    pub(crate) fn state(&mut self) -> &mut LoopState<H::Session, H::Message> {
        self.state
    }

    /// This loop's number, from 0.
    pub fn number(&self) -> usize {
        usize::from(self.state.number)
    }

    /// How many loops the server has.
    pub fn loops(&self) -> usize {
        self.state.shared.loops.len()
    }

    /// The clock as it was read at the start of this turn. It is the same for every callback of a turn.
    pub fn now(&self) -> Tick {
        self.state.now
    }

    /// The number of connections of this loop, in every state.
    pub fn connections(&self) -> usize {
        self.state.table.len()
    }

    /// A [`ServerHandle`]: it reaches the other loops from this loop, and this loop from other threads.
    pub fn handle(&self) -> ServerHandle<H::Message> {
        ServerHandle(Arc::clone(&self.state.shared))
    }

    /// A [`LoopSpawner`]: it runs a piece of work once, on this loop or another loop, from any thread.
    pub fn spawner(&self) -> LoopSpawner<H> {
        LoopSpawner::new(self.handle())
    }

    /// A connection of this loop. `None` if it is over, or is not on this loop.
    pub fn connection(&mut self, id: ConnId) -> Option<Conn<'_, H>> {
        LoopContext { state: &mut *self.state }.into_connection(id)
    }

    pub(crate) fn into_connection(self, id: ConnId) -> Option<Conn<'a, H>> {
        // A connection here may have the same slot and generation as a connection of another loop.
        if id.in_loop() != usize::from(self.state.number) {
            return None;
        }
        let head = self.state.head(id)?;
        (head.status.state() != State::Dead).then(|| Conn::new(self.state, id))
    }

    /// Calls `visit` for every open connection of this loop. [`Conn::others`] says what it costs.
    pub fn each(&mut self, visit: impl FnMut(&mut Conn<'_, H>)) {
        self.visit_from(0, usize::MAX, visit);
    }

    /// Calls `visit` for the open connections in the next `slots` slots of the table, beginning at slot
    /// `from`. Returns the slot to go on from, or `None` at the end of the table. With it a handler can walk
    /// over very many connections in slices, with a timer between two slices, so that the loop serves
    /// others meanwhile.
    pub fn visit_from(
        &mut self,
        from: u32,
        slots: usize,
        mut visit: impl FnMut(&mut Conn<'_, H>),
    ) -> Option<u32> {
        let end = (from as usize).saturating_add(slots);
        let mut at = from;
        while let Some(id) = self.state.table.next_live(at) {
            if id.slot() as usize >= end {
                return Some(id.slot());
            }
            let state = self.state.get(id).map(|found| found.head.status.state());
            if matches!(state, Some(s) if !s.is_closing() && s != State::Dead && s != State::Connecting)
            {
                visit(&mut Conn::new(self.state, id));
            }
            at = id.slot() + 1;
        }
        None
    }

    /// Calls `on_timer` with `tag` once, `delay` after [`now`](Self::now), and never early by that clock.
    /// The clock stands still during a turn, so time that this turn has taken already counts as waited.
    pub fn after(&mut self, delay: Duration, tag: u64) -> TimerId {
        self.state.timers.arm(self.state.now.after(delay), None, tag)
    }

    /// Calls `on_timer` with `tag` each time `period` has passed, by the same clock and without drift. The
    /// period is at least a millisecond. Periods that pass while the loop is busy are skipped.
    pub fn every(&mut self, period: Duration, tag: u64) -> TimerId {
        self.state.timers.arm(self.state.now.after(period), Some(period), tag)
    }

    /// Cancels a timer of this loop. False if it has fired for the last time, was cancelled before, or
    /// belongs to another loop.
    pub fn cancel(&mut self, timer: TimerId) -> bool {
        self.state.timers.cancel(timer)
    }

    /// Dials a connection on this loop and returns its id. By this id the connection can be sent to, paired
    /// and closed before it is up. Each dial that is taken gets exactly one answer: `on_open`, or `on_close`
    /// with the reason, which is `Machine(errno)` if the kernel gave an error. At most
    /// [`dials_per_turn`](crate::Limits::dials_per_turn) dials begin in a turn.
    ///
    /// A dial that is not taken comes back at once, with its session: when the server drains or stops, or
    /// when every slot of this loop is used. Dialled connections count for `connections_max`, but it does
    /// not limit them.
    pub fn dial(
        &mut self,
        dial: impl Into<Dial>,
        session: H::Session,
    ) -> Result<ConnId, DialRejected<H::Session>> {
        self.state.dial(dial.into(), session)
    }

    /// Sends one datagram to `peer`, from this loop's socket for the server's datagram address number `at`,
    /// in the order of [`Server::datagrams`](crate::Server::datagrams). Any callback may call it. In
    /// `on_datagram`, [`Datagram::reply`](crate::socket::Datagram::reply) knows the peer and the address. The
    /// datagram leaves at the end of the turn. Otherwise as
    /// [`Datagram::send_to`](crate::socket::Datagram::send_to), except for the source address: if the socket
    /// is bound to all addresses of the machine, the kernel chooses it. After a drain has begun, the datagram
    /// is dropped and counted.
    ///
    /// # Panics
    /// If the server receives no datagrams at an address of that number.
    pub fn send_datagram(&mut self, at: usize, peer: SocketAddr, bytes: &[u8]) -> bool {
        self.state.datagrams[at].borrow_mut().push(Ends { peer, own: None }, bytes)
    }

    /// Gives this loop a connection that was made elsewhere. As [`ServerHandle::adopt`], but the connection
    /// stays on this loop, and is admitted in one of the next turns. With private tables, use this for a
    /// descriptor that was made on this loop's thread. When the mailbox is full
    /// ([`mail_queue`](crate::Limits::mail_queue)), the descriptor comes back in the error.
    pub fn adopt(&mut self, fd: OwnedFd) -> Result<(), AdoptError> {
        let arrival = Box::new(self.state.shared.arrival_of(fd)?);
        self.state.inbox.mail.post(Mail::Arrival(arrival)).map_err(|error| {
            let why = AdoptRejected::from(&error);
            match error.into_inner() {
                Mail::Arrival(arrival) => AdoptError::new(arrival.socket.into_owned(), why),
                _ => unreachable!("what was posted comes back"),
            }
        })
    }

    /// Asks the whole server to drain, as SIGTERM does.
    pub fn drain(&mut self) {
        self.state.shared.ask(crate::threads::control::Phase::Drain);
    }

    /// Asks the whole server to stop at once. Every connection is reset.
    pub fn stop(&mut self) {
        self.state.shared.ask(crate::threads::control::Phase::Stop);
    }
}
