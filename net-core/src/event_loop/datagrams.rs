//! Datagrams: from a socket to `on_datagram`, and the datagrams that the handler sends.

use super::{EventLoop, guard};
use crate::accept::accept_error::{AcceptError, judge};
use crate::api::handler::Handler;
use crate::api::loop_context::LoopContext;
use crate::base::close_reason::Callback;
use crate::driver::{Driver, Ending, endpoint_token};
use crate::features::datagram::{Datagram, Outgoing};
use crate::observe::counters::Counter;
use crate::sys::{BATCH, DatagramOptions, Ends, Errno, Inbound, Socket, UdpMessage};
use crate::threads::control::Phase;
use net_timer::Tick;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

/// Receives that may fail in a row before the endpoint rests.
const FAILURES_MAX: u32 = 16;

/// If more bytes than this wait to be sent, they are sent before the end of a batch.
const MUCH: usize = 256 << 10;

/// The loop's own sockets for datagrams. The kernel spreads peers over the loops.
pub(super) struct Endpoints {
    /// Room for the next batch, unless an endpoint has it.
    spare: Option<Inbound>,
    all: Vec<Endpoint>,
    /// The addresses to which the endpoints are bound.
    bound: Rc<[SocketAddr]>,
}

struct Endpoint {
    at: SocketAddr,
    /// `None` after the drain has begun, or once the endpoint is broken.
    socket: Option<Socket>,
    /// Datagrams may wait in the kernel, although no edge will come for them.
    has_more: bool,
    /// Datagrams that were received beyond the turn's budget. They are served first in the next turn.
    rest: Option<Rest>,
    /// Receives in a row that have failed.
    failed: u32,
    /// Too many receives have failed: nothing is received before this.
    rests_until: Option<Tick>,
    outgoing: Rc<RefCell<Outgoing>>,
    /// Of the loops that share the address, this loop gets the datagrams to a group or to a broadcast
    /// address.
    hears_group: bool,
}

/// A received batch. The handler has been given the datagrams before number `next`.
struct Rest {
    inbound: Inbound,
    next: usize,
}

impl Rest {
    /// Datagrams that are left of the batch.
    fn len(&self) -> usize {
        self.inbound.len() - self.next
    }
}

impl Endpoint {
    fn is_waiting(&self) -> bool {
        self.has_more || self.rest.is_some()
    }
}

impl Endpoints {
    fn new() -> Self {
        Self { spare: None, all: Vec::new(), bound: Rc::new([]) }
    }

    pub(super) fn signalled(&mut self, n: usize) {
        if let Some(endpoint) = self.all.get_mut(n) {
            // The endpoint may have been closed after it signalled.
            endpoint.has_more = endpoint.socket.is_some() && endpoint.rests_until.is_none();
            endpoint.outgoing.borrow_mut().is_held = false; // the signal may be that there is room
        }
    }

    /// An endpoint whose rest is over may have more: no new edge comes for datagrams that waited meanwhile.
    pub(super) fn end_rests(&mut self, now: Tick) {
        for endpoint in &mut self.all {
            if endpoint.rests_until.is_some_and(|until| now >= until) {
                endpoint.rests_until = None;
                endpoint.has_more = endpoint.socket.is_some();
            }
        }
    }

    /// When the first rest of an endpoint is over.
    pub(super) fn first_rested(&self) -> Option<Tick> {
        self.all.iter().filter_map(|endpoint| endpoint.rests_until).min()
    }
}

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// Receives datagrams at this address too, which is held, as by default.
    #[cfg(test)]
    pub(crate) fn open_datagrams(&mut self, at: SocketAddr) -> std::io::Result<()> {
        self.open_datagrams_with(at, &DatagramOptions::default())
    }

    /// Receives datagrams at this address too, which is held.
    pub(crate) fn open_datagrams_with(
        &mut self,
        at: SocketAddr,
        options: &DatagramOptions,
    ) -> std::io::Result<()> {
        let endpoints = self.endpoints.get_or_insert_with(|| Box::new(Endpoints::new()));
        let token = endpoint_token(endpoints.all.len());
        let (socket, joins) = self.driver.open_datagrams(token, at, options)?;
        self.shared.listener_health.opened();
        let outgoing = Outgoing::new(self.state.limits.datagram_queue_bytes, joins);
        let outgoing = Rc::new(RefCell::new(outgoing));
        self.state.datagrams.push(Rc::clone(&outgoing));
        // Datagrams that came before the socket was watched cause an edge too. To look once more costs
        // nothing.
        endpoints.all.push(Endpoint {
            at,
            socket: Some(socket),
            has_more: true,
            rest: None,
            failed: 0,
            rests_until: None,
            outgoing,
            hears_group: options.hears_group,
        });
        endpoints.bound = endpoints.all.iter().map(|endpoint| endpoint.at).collect();
        Ok(())
    }

    /// True if datagrams wait to be received.
    #[cold]
    pub(super) fn has_datagrams(&self) -> bool {
        self.endpoints.as_ref().is_some_and(|of| of.all.iter().any(Endpoint::is_waiting))
    }

    /// Serves the endpoints, each within the turn's budget.
    #[cold]
    pub(super) fn serve_datagrams(&mut self) {
        let Some(mut endpoints) = self.endpoints.take() else { return };
        let Endpoints { spare, all, bound } = &mut *endpoints;
        for endpoint in all.iter_mut().filter(|endpoint| endpoint.is_waiting()) {
            self.serve_endpoint(endpoint, spare, bound);
        }
        self.endpoints = Some(endpoints);
    }

    /// Receives once more, within a turn's budget, unless all is to stop at once. Then closes the sockets.
    /// Datagrams received beyond that budget are dropped and counted. Datagrams that the kernel still has are
    /// dropped, and not counted.
    #[cold]
    pub(super) fn end_datagrams(&mut self) {
        if self.phase < Phase::Stop {
            if let Some(endpoints) = &mut self.endpoints {
                for endpoint in &mut endpoints.all {
                    (endpoint.has_more, endpoint.rests_until) = (true, None);
                }
            }
            self.serve_datagrams();
        }
        for endpoint in self.endpoints.iter_mut().flat_map(|endpoints| &mut endpoints.all) {
            endpoint.has_more = false;
            if let Some(rest) = endpoint.rest.take() {
                self.state.inbox.counters.add(Counter::DatagramsUnheard, rest.len() as u64);
            }
            endpoint.outgoing.borrow_mut().close();
            if let Some(socket) = endpoint.socket.take() {
                self.driver.detach(socket, Ending::Close);
            }
        }
    }

    /// Gives the handler as many datagrams as a turn may. One batch may hold far more, since the kernel joins
    /// datagrams. The rest waits in the endpoint for the next turn.
    fn serve_endpoint(
        &mut self,
        endpoint: &mut Endpoint,
        spare: &mut Option<Inbound>,
        bound: &[SocketAddr],
    ) {
        self.send_datagrams(endpoint);
        let mut left = self.state.limits.datagrams_per_turn;
        while left > 0 {
            if let Some(rest) = endpoint.rest.take() {
                left -= self.hear_some(endpoint, rest, left, spare, bound);
                continue;
            }
            if !endpoint.has_more {
                return;
            }
            let Some(socket) = &endpoint.socket else { return };
            let mut inbound = spare.take().unwrap_or_else(Inbound::new);
            inbound.hears_group = endpoint.hears_group;
            match self.driver.receive_datagrams(socket, &mut inbound) {
                Ok(got) => {
                    (endpoint.has_more, endpoint.failed) = (got == BATCH, 0);
                    self.state.inbox.counters.add(Counter::DatagramsIn, inbound.len() as u64);
                    endpoint.rest = Some(Rest { inbound, next: 0 });
                    continue;
                }
                Err(errno) if errno == Errno::AGAIN => {
                    (endpoint.has_more, endpoint.failed) = (false, 0);
                }
                Err(errno) => {
                    left -= 1;
                    self.datagram_trouble(endpoint, errno);
                }
            }
            *spare = Some(inbound);
        }
    }

    /// Gives the handler the next `most` datagrams of a batch, and returns how many they were. At least 1, so
    /// that empty batches end too.
    fn hear_some(
        &mut self,
        endpoint: &mut Endpoint,
        mut rest: Rest,
        most: usize,
        spare: &mut Option<Inbound>,
        bound: &[SocketAddr],
    ) -> usize {
        let some = rest.len().min(most);
        for n in rest.next..rest.next + some {
            let (ends, bytes) = rest.inbound.datagram(n);
            if is_own(bound, endpoint.at, ends) {
                self.state.inbox.counters.add(Counter::DatagramsOwn, 1);
                continue;
            }
            self.datagram(endpoint, (ends, bytes));
            if endpoint.outgoing.borrow().size() > MUCH {
                self.send_datagrams(endpoint);
            }
        }
        self.send_datagrams(endpoint);
        rest.next += some;
        if rest.len() > 0 {
            endpoint.rest = Some(rest);
        } else {
            *spare = Some(rest.inbound);
        }
        some.max(1)
    }

    fn datagram(&mut self, endpoint: &mut Endpoint, (ends, bytes): (Ends, &[u8])) {
        self.runs(Callback::Datagram, None);
        let before = endpoint.outgoing.borrow().len();
        let (handler, state) = (&mut self.handler, &mut self.state);
        let datagram = Datagram { bound: endpoint.at, ends, bytes, outgoing: &endpoint.outgoing };
        if guard(|| handler.on_datagram(&mut LoopContext::new(state), datagram)).is_none() {
            endpoint.outgoing.borrow_mut().truncate(before);
            self.count_panic(Callback::Datagram, None);
        }
    }

    /// Sends the datagrams that other callbacks have left in this turn.
    #[cold]
    pub(super) fn flush_datagrams(&mut self) {
        let Some(mut endpoints) = self.endpoints.take() else { return };
        endpoints.all.iter_mut().for_each(|endpoint| self.send_datagrams(endpoint));
        self.endpoints = Some(endpoints);
    }

    /// Sends the waiting datagrams until the socket is full. Then a signal comes when there is room.
    fn send_datagrams(&mut self, endpoint: &mut Endpoint) {
        let counters = &self.state.inbox.counters;
        let outgoing = &mut *endpoint.outgoing.borrow_mut();
        if let Some(socket) = &endpoint.socket {
            while outgoing.len() > 0 && !outgoing.is_held {
                let (bytes, batch) = outgoing.next();
                let first = batch[0];
                let datagrams = |sent: usize| batch[..sent].iter().map(UdpMessage::datagrams).sum();
                match self.driver.send_datagrams(socket, bytes, batch).map(datagrams) {
                    Ok(sent) => {
                        counters.add(Counter::DatagramsOut, sent as u64);
                        outgoing.remove(sent);
                    }
                    Err(errno) if errno == Errno::AGAIN => outgoing.is_held = true,
                    Err(errno) if first.datagrams() > 1 && errno == Errno::IO => {
                        tracing::debug!(at = %endpoint.at, "the device cuts up no messages (udp(7))");
                        outgoing.never_join();
                    }
                    // The path is too narrow for one of the joined datagrams.
                    Err(errno) if first.datagrams() > 1 && is_of_joined(errno) => {
                        outgoing.refuse_joined(first.datagrams());
                    }
                    // The error is of the first datagram, or of a datagram sent before. The others are still
                    // sent.
                    Err(_) => {
                        counters.add(Counter::DatagramsFailed, 1);
                        outgoing.remove(1);
                    }
                }
            }
        }
        counters.add(Counter::DatagramsDropped, outgoing.take_dropped());
    }

    /// A receive has failed. The error that the kernel kept for the socket is cleared by this call.
    #[cold]
    fn datagram_trouble(&mut self, endpoint: &mut Endpoint, errno: Errno) {
        self.state.inbox.counters.add(Counter::DatagramErrors, 1);
        if judge(errno) == AcceptError::Broken {
            return self.endpoint_broken(endpoint, errno);
        }
        endpoint.failed += 1;
        if endpoint.failed >= FAILURES_MAX {
            self.rest_endpoint(endpoint, errno);
        }
    }

    /// A filter or a security module may refuse the call. Without a rest the loop would try again without
    /// end.
    #[cold]
    fn rest_endpoint(&mut self, endpoint: &mut Endpoint, errno: Errno) {
        let now = self.state.now;
        if let Some(held_back) = self.trouble.allow(now) {
            let at = endpoint.at;
            tracing::warn!(%at, %errno, held_back, "receive fails again and again; resting");
        }
        let until = now.after(self.state.limits.starved_pause);
        (endpoint.has_more, endpoint.failed) = (false, 0);
        endpoint.rests_until = Some(until);
        self.next_due = self.next_due.min(until);
    }

    /// This endpoint will never receive again. The others go on.
    #[cold]
    fn endpoint_broken(&mut self, endpoint: &mut Endpoint, errno: Errno) {
        self.state.inbox.counters.add(Counter::ListenersBroken, 1);
        tracing::error!(at = %endpoint.at, %errno, "this endpoint is broken and ends");
        endpoint.has_more = false;
        endpoint.outgoing.borrow_mut().close();
        if let Some(socket) = endpoint.socket.take() {
            self.driver.detach(socket, Ending::Close);
        }
        self.shared.listener_health.mark_failed(&endpoint.at.into(), errno);
    }
}

/// Whether the datagram says that it comes from one of our own endpoints. The answer to it would come back to
/// us. By a stranger's forgery, two datagrams would answer each other for ever. `at`: where the endpoint that
/// received it is bound.
///
/// False for an endpoint of a group. What its own machine sends to the group comes back to it by design. An
/// answer leaves to one address, at which the endpoint does not receive.
fn is_own(bound: &[SocketAddr], at: SocketAddr, ends: Ends) -> bool {
    let (ip, port) = (ends.peer.ip().to_canonical(), ends.peer.port());
    if at.ip().is_multicast() || bound.iter().all(|own| own.port() != port) {
        return false;
    }
    // The loop does not know all addresses of the machine. The kernel lets none of them in from outside.
    let came_to = ends.own.unwrap_or(at.ip()).to_canonical();
    let is_ours = ip == came_to || ip.is_loopback();
    bound.iter().filter(|own| own.port() == port).any(|own| match own.ip().to_canonical() {
        all if all.is_unspecified() => is_ours,
        one => one == ip,
    })
}

/// Whether the kernel may have refused because several datagrams were one message (udp(7)).
fn is_of_joined(errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::MSGSIZE | Errno::OPNOTSUPP)
}
