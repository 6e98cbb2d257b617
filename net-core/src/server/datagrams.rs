//! Where a server receives datagrams.

use super::{Running, Server};
use crate::base::error::StartError;
use crate::driver::Driver;
use crate::sys::Socket;
use crate::sys::addr::{Addr, AddrError};
use std::io;
use std::net::SocketAddr;

impl Server {
    /// Receives UDP datagrams at `HOST:PORT` or `[V6]:PORT` too; port 0 is chosen by the kernel.
    /// They come to [`Handler::on_datagram`](crate::Handler::on_datagram). Each loop has a socket of
    /// its own, and the kernel spreads peers over them by a hash: all datagrams of one peer come to
    /// one loop.
    ///
    /// What is wrong with the address, or that it is in use, is said at start; what arrives until the
    /// start is done may be lost. A drain closes the sockets after a last look.
    ///
    /// Of [`Server::sockets`](Self::sockets), the buffers, the device and `only_v6` hold here too; so
    /// `receive_buffer` is what a burst may be while the loop is at other work, and by default that is
    /// `net.core.rmem_default`, some 200 KiB. The rest is of TCP.
    ///
    /// The address of a group (multicast) is joined at the interface of `sockets`' device, of an IPv6
    /// address' scope (`[ff02::1%2]:5353`), or else at the one that the system routes the group to; what
    /// cannot be joined is an error at start. To a group, the kernel would give every loop a copy: so one
    /// loop hears it, number n of these addresses loop n modulo their number, and all may send from it.
    ///
    /// A datagram that says it comes from one of these addresses themselves is dropped, and counted in
    /// `datagrams_own`: anybody on the machine can forge that, and a handler that answers would answer
    /// itself for ever. (From outside the kernel lets none in that has an address of the machine.)
    pub fn datagrams(self, at: &str) -> Self {
        self.datagrams_wanted(at.parse())
    }

    /// As [`datagrams`](Self::datagrams), at an address that is parsed already.
    pub fn datagrams_at(self, at: Addr) -> Self {
        self.datagrams_wanted(Ok(at))
    }

    fn datagrams_wanted(mut self, at: Result<Addr, AddrError>) -> Self {
        self.datagrams.push(at);
        self
    }
}

impl<M> Running<M> {
    /// Where it receives datagrams, in the order in which it was told to: with the ports that were
    /// chosen.
    pub fn datagram_addrs(&self) -> &[Addr] {
        &self.datagrams
    }
}

/// The addresses, each held by a socket so that nobody else gets it before the loops have it.
pub(super) fn hold<D: Driver>(
    server: &Server,
) -> Result<(Vec<Socket>, Vec<SocketAddr>), StartError> {
    let hold = |at: &Result<Addr, AddrError>| {
        let at = at.as_ref().map_err(|e| StartError::plain(format!("datagrams: {e}")))?;
        let fail = |e| StartError::new(format!("receive datagrams at {at}"), e);
        let held = inet_of(at).and_then(|at| Socket::hold_datagrams(at, &server.sockets));
        let socket = held.map_err(fail)?;
        let at = inet_of(&D::local(&socket).map_err(fail)?).map_err(fail)?;
        Ok((socket, at))
    };
    server.datagrams.iter().map(hold).collect()
}

/// Where datagrams are to be received; only IP has such an address here.
fn inet_of(at: &Addr) -> io::Result<SocketAddr> {
    at.inet().ok_or_else(|| io::Error::other("datagrams need an IP address and a port"))
}
