//! Descriptors that were made elsewhere: what they must be to become a connection here.

use super::Errno;
use crate::addr::Addr;
use socket2::{SockRef, Type};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

/// Why a descriptor can be no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is a file, a pipe, or something else that is no socket.
    NoSocket,
    /// It is a socket for datagrams or packets.
    NoStream,
    /// It is a stream of a kind that is neither TCP nor a Unix socket.
    OtherKind,
    /// It listens.
    Listens,
    /// It is not connected, or no more.
    NotConnected,
    /// The kernel refuses to say, or to make it non-blocking.
    Kernel(Errno),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unfit::NoSocket => "it is no socket",
            Unfit::NoStream => "it is no stream socket",
            Unfit::OtherKind => "it is neither a TCP nor a Unix socket",
            Unfit::Listens => "it is a listener",
            Unfit::NotConnected => "it is not connected",
            Unfit::Kernel(errno) => return errno.fmt(f),
        })
    }
}

/// Makes it what the loops count on, non-blocking and close-on-exec, and tells whose connection it
/// is. What is unfit is left as it was.
pub(crate) fn prepare(fd: &OwnedFd) -> Result<Addr, Unfit> {
    let socket = SockRef::from(fd);
    let unfit = |error: io::Error| match error.raw_os_error() {
        Some(libc::ENOTSOCK) => Unfit::NoSocket,
        Some(libc::ENOTCONN) => Unfit::NotConnected,
        _ => Unfit::Kernel(Errno::of(&error)),
    };
    if socket.r#type().map_err(unfit)? != Type::STREAM {
        return Err(Unfit::NoStream);
    }
    if socket.is_listener().map_err(unfit)? {
        return Err(Unfit::Listens);
    }
    let peer = socket.peer_addr().map_err(unfit)?;
    let peer = super::socket::addr_of(&peer).map_err(|_| Unfit::OtherKind)?;
    socket.set_nonblocking(true).map_err(unfit)?;
    socket.set_cloexec(true).map_err(unfit)?;
    Ok(peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;

    #[test]
    fn only_connected_streams_are_fit() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let unconnected = socket2::Socket::new(socket2::Domain::IPV4, Type::STREAM, None).unwrap();
        for (fd, what) in [
            (OwnedFd::from(File::open("/dev/null").unwrap()), Unfit::NoSocket),
            (UdpSocket::bind("127.0.0.1:0").unwrap().into(), Unfit::NoStream),
            (unconnected.into(), Unfit::NotConnected),
            (listener.try_clone().unwrap().into(), Unfit::Listens),
        ] {
            assert_eq!(prepare(&fd), Err(what));
        }
        let client = TcpStream::connect(at).unwrap();
        let (server, from) = listener.accept().unwrap();
        let server = OwnedFd::from(server);
        assert_eq!(prepare(&server), Ok(Addr::from(from)));
        let mut server = TcpStream::from(server);
        let nothing = std::io::Read::read(&mut server, &mut [0]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock, "it does not block any more");
        drop(client);
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(prepare(&one.into()).unwrap().unix().unwrap().is_unnamed());
    }
}
