//! The addresses at which a server receives datagrams.

use super::{Running, Server};
use crate::base::error::StartError;
use crate::driver::Driver;
use crate::sys::Socket;
use crate::sys::addr::{Addr, AddrError};
use std::io;
use std::net::SocketAddr;

impl Server {
    /// Adds an address at which the server receives UDP datagrams: `HOST:PORT` or `[V6]:PORT`. With port
    /// 0 the kernel chooses the port. The datagrams go to
    /// [`Handler::on_datagram`](crate::Handler::on_datagram). Each loop has its own socket. The kernel
    /// spreads the peers over these sockets by a hash, so all datagrams of a peer come to the same loop.
    ///
    /// A wrong address, or an address in use, is an error at start. Datagrams that arrive before the
    /// start is complete may be lost. A drain receives once more, within the bound of one turn
    /// ([`datagrams_per_turn`](crate::Limits::datagrams_per_turn)), and then closes the sockets.
    ///
    /// Of [`Server::sockets`](Self::sockets), the buffers, the device and `only_v6` apply here too. The
    /// other options are for TCP. `receive_buffer` bounds the burst that the kernel can hold while the
    /// loop does other work. Its default is `net.core.rmem_default`, some 200 KiB.
    ///
    /// A multicast address joins its group. The interface is the device of `sockets`, or the scope of an
    /// IPv6 address (`[ff02::1%2]:5353`), or else the interface to which the system routes the group. A
    /// group that cannot be joined is an error at start. The kernel would give every loop a copy of each
    /// datagram to a group. So only one loop receives the group: for address number n of these, the loop
    /// with the number n modulo the number of loops. All loops may send from the address.
    ///
    /// A datagram whose source is one of these addresses is dropped and counted in `datagrams_own`. Any
    /// process on the machine can forge such a source, and a handler that answers would then answer
    /// itself for ever. (From outside, the kernel accepts no datagram whose source is an address of this
    /// machine.) An endpoint with a multicast address makes no such check, because the machine's own
    /// datagrams to the group come back to it.
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
    /// The addresses at which the server receives datagrams, with the ports that were chosen. In the
    /// order in which they were given.
    pub fn datagram_addrs(&self) -> &[Addr] {
        &self.datagrams
    }
}

/// Binds a socket to each address, so that no other process takes the address before the loops bind it.
/// Returns the sockets and the addresses.
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

/// The IP address and port at which datagrams are to be received. Any other address is an error.
fn inet_of(at: &Addr) -> io::Result<SocketAddr> {
    at.inet().ok_or_else(|| io::Error::other("datagrams need an IP address and a port"))
}
