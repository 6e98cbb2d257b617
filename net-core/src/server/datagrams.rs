//! Where a server receives datagrams.

use super::{Running, Server};
use crate::addr::{Addr, AddrError};
use crate::driver::Driver;
use crate::error::StartError;
use crate::sys::Socket;
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
        let socket = Socket::hold_datagrams(inet_of(at).map_err(fail)?).map_err(fail)?;
        let at = inet_of(&D::local(&socket).map_err(fail)?).map_err(fail)?;
        Ok((socket, at))
    };
    server.datagrams.iter().map(hold).collect()
}

/// Where datagrams are to be received; only IP has such an address here.
fn inet_of(at: &Addr) -> io::Result<SocketAddr> {
    at.inet().ok_or_else(|| io::Error::other("datagrams need an IP address and a port"))
}
