//! Datagrams: from a socket to `on_datagram`, and what it sends.

use super::{EventLoop, guard};
use crate::closed::Callback;
use crate::datagram::{Datagram, Outgoing};
use crate::driver::{Driver, Ending, endpoint_token};
use crate::handler::Handler;
use crate::here::Loop;
use crate::hub::Order;
use crate::listener::{AcceptError, judge};
use crate::stats::Counter;
use crate::sys::{BATCH, Errno, Inbound, Socket};
use std::net::SocketAddr;

/// What waits is sent before the end of a batch where it has become so much.
const MUCH: usize = 256 << 10;

/// The loop's own sockets for datagrams. The kernel spreads peers over the loops.
pub(super) struct Endpoints {
    inbound: Inbound,
    all: Vec<Endpoint>,
}

struct Endpoint {
    at: SocketAddr,
    /// There until the drain.
    socket: Option<Socket>,
    /// Something may be there, although no edge will tell.
    has_more: bool,
    outgoing: Outgoing,
}

impl Endpoints {
    pub(super) fn signalled(&mut self, n: usize) {
        if let Some(endpoint) = self.all.get_mut(n) {
            // One that is closed may have signalled in the wait before that.
            endpoint.has_more = endpoint.socket.is_some();
        }
    }
}

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// Receives datagrams at this address too, which is held.
    pub(crate) fn open_datagrams(&mut self, at: SocketAddr) -> std::io::Result<()> {
        let endpoints = self.endpoints.get_or_insert_with(|| {
            Box::new(Endpoints { inbound: Inbound::new(), all: Vec::new() })
        });
        let socket = self.driver.open_datagrams(endpoint_token(endpoints.all.len()), at)?;
        let outgoing = Outgoing::new(self.state.limits.datagram_queue_bytes);
        // What came before it was watched is an edge too; to look once more costs nothing.
        endpoints.all.push(Endpoint { at, socket: Some(socket), has_more: true, outgoing });
        Ok(())
    }

    /// Some wait to be received.
    #[cold]
    pub(super) fn has_datagrams(&self) -> bool {
        self.endpoints.as_ref().is_some_and(|of| of.all.iter().any(|endpoint| endpoint.has_more))
    }

    /// Serves the endpoints, each within the turn's budget.
    #[cold]
    pub(super) fn serve_datagrams(&mut self) {
        let Some(mut endpoints) = self.endpoints.take() else { return };
        let Endpoints { inbound, all } = &mut *endpoints;
        for endpoint in all.iter_mut().filter(|endpoint| endpoint.has_more) {
            self.serve_endpoint(endpoint, inbound);
        }
        self.endpoints = Some(endpoints);
    }

    /// A last look, within a turn's budget unless all is to stop at once, and then the sockets are
    /// closed.
    #[cold]
    pub(super) fn end_datagrams(&mut self) {
        if self.order < Order::Stop {
            if let Some(endpoints) = &mut self.endpoints {
                endpoints.all.iter_mut().for_each(|endpoint| endpoint.has_more = true);
            }
            self.serve_datagrams();
        }
        for endpoint in self.endpoints.iter_mut().flat_map(|endpoints| &mut endpoints.all) {
            endpoint.has_more = false;
            let unsent = endpoint.outgoing.len();
            self.state.bridge.stats.add(Counter::DatagramsDropped, unsent as u64);
            endpoint.outgoing.truncate(0);
            if let Some(socket) = endpoint.socket.take() {
                self.driver.detach(socket, Ending::Close);
            }
        }
    }

    fn serve_endpoint(&mut self, endpoint: &mut Endpoint, inbound: &mut Inbound) {
        self.send_datagrams(endpoint); // the signal may have been that there is room
        let mut left = self.state.limits.datagrams_per_turn;
        while endpoint.has_more && left > 0 {
            let Some(socket) = &endpoint.socket else { return };
            match self.driver.receive_datagrams(socket, inbound) {
                Ok(got) => {
                    endpoint.has_more = got == BATCH;
                    left = left.saturating_sub(got.max(1));
                    self.state.bridge.stats.add(Counter::DatagramsIn, got as u64);
                    for n in 0..got {
                        self.datagram(endpoint, inbound.datagram(n));
                        if endpoint.outgoing.size() > MUCH {
                            self.send_datagrams(endpoint);
                        }
                    }
                    self.send_datagrams(endpoint);
                }
                Err(errno) if errno.raw() == libc::EAGAIN => endpoint.has_more = false,
                Err(errno) => {
                    left -= 1;
                    self.datagram_trouble(endpoint, errno);
                }
            }
        }
    }

    fn datagram(&mut self, endpoint: &mut Endpoint, (peer, bytes): (SocketAddr, &[u8])) {
        self.runs(Callback::Datagram, None);
        let before = endpoint.outgoing.len();
        let (handler, state) = (&mut self.handler, &mut self.state);
        let datagram = Datagram { at: endpoint.at, peer, bytes, outgoing: &mut endpoint.outgoing };
        if guard(|| handler.on_datagram(&mut Loop::new(state), datagram)).is_none() {
            endpoint.outgoing.truncate(before);
            self.count_panic(Callback::Datagram);
        }
        self.state.bridge.stats.add(Counter::DatagramsDropped, endpoint.outgoing.take_dropped());
    }

    /// Sends what waits, until the socket is full: then a signal comes when there is room.
    fn send_datagrams(&mut self, endpoint: &mut Endpoint) {
        let Some(socket) = &endpoint.socket else { return };
        let stats = &self.state.bridge.stats;
        while endpoint.outgoing.len() > 0 {
            match self.driver.send_datagrams(socket, &endpoint.outgoing.next(BATCH)) {
                Ok(sent) => {
                    stats.add(Counter::DatagramsOut, sent as u64);
                    endpoint.outgoing.remove(sent);
                }
                Err(errno) if errno.raw() == libc::EAGAIN => return,
                // The first one's fault, or of one that was sent before: it costs the others nothing.
                Err(_) => {
                    stats.add(Counter::DatagramsFailed, 1);
                    endpoint.outgoing.remove(1);
                }
            }
        }
    }

    /// An error that the kernel kept for the socket is taken by the call that told of it.
    #[cold]
    fn datagram_trouble(&mut self, endpoint: &mut Endpoint, errno: Errno) {
        self.state.bridge.stats.add(Counter::DatagramErrors, 1);
        if judge(errno) == AcceptError::Broken {
            tracing::error!(at = %endpoint.at, %errno, "this endpoint is broken and ends");
            endpoint.has_more = false;
            if let Some(socket) = endpoint.socket.take() {
                self.driver.detach(socket, Ending::Close);
            }
        }
    }
}
