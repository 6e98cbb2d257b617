//! Descriptors made elsewhere: the conditions under which one can become a connection.

use super::options::set_number;
use super::{Errno, unix};
use crate::sys::addr::Addr;
use socket2::{Protocol, SockRef, Type};
use std::os::fd::OwnedFd;
use std::{fmt, io};

/// Why a descriptor cannot become a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The descriptor is a file, a pipe, or something else that is not a socket.
    NoSocket,
    /// The descriptor is a socket for datagrams or packets.
    NoStream,
    /// The descriptor is a stream socket that is neither TCP nor Unix. This includes MPTCP and SCTP, although
    /// their addresses look like TCP addresses.
    OtherKind,
    /// The descriptor is a listener.
    Listens,
    /// The socket is not connected, or not any more.
    NotConnected,
    /// The kernel refuses to describe the descriptor, or to make it non-blocking.
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

/// Prepares a descriptor for a loop and returns the peer's address.
///
/// Afterwards the socket is non-blocking and close-on-exec, its close does not wait (`SO_LINGER`), one byte
/// is enough to make it readable (`SO_RCVLOWAT`), and a Unix socket takes no descriptors. An unfit descriptor
/// is not changed.
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
    // MPTCP and SCTP sockets have inet addresses too. But a short receive, a half-close and the kernel's
    // count of bytes do not mean the same for them as for TCP.
    let protocol = socket.protocol().map_err(unfit)?;
    if peer.inet().is_some() && protocol != Some(Protocol::TCP) {
        return Err(Unfit::OtherKind);
    }
    // With a linger time, close(2) would block the whole loop for that time, even on a non-blocking socket. A
    // time of zero is kept: it makes a close a reset, and does not block.
    if socket.linger().map_err(unfit)?.is_some_and(|time| !time.is_zero()) {
        socket.set_linger(None).map_err(unfit)?;
    }
    let _ = set_number(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1); // if refused, its value stays
    if peer.unix().is_some() {
        let _ = unix::refuse_descriptors(fd); // older kernels cannot do this
    }
    socket.set_nonblocking(true).map_err(unfit)?;
    socket.set_cloexec(true).map_err(unfit)?;
    Ok(peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

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

    /// A connection was adopted with an SO_LINGER of ten seconds, and its peer read nothing. Its close
    /// blocked the loop, and another connection waited for eight of these seconds.
    #[test]
    fn what_is_adopted_neither_lingers_nor_waits_for_more_than_a_byte() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let ten = Duration::from_secs(10);
        for (before, after) in [
            (Some(ten), None),
            (Some(Duration::from_secs(1)), None),
            (Some(Duration::ZERO), Some(Duration::ZERO)),
            (None, None),
        ] {
            let fd = OwnedFd::from(TcpStream::connect(at).unwrap());
            let socket = SockRef::from(&fd);
            socket.set_linger(before).unwrap();
            set_number(&fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1000).unwrap();
            prepare(&fd).unwrap();
            assert_eq!(socket.linger().unwrap(), after, "of {before:?}");
            let (mut near, _) = listener.accept().unwrap();
            near.write_all(b"x").unwrap();
            let mut ready = [libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
            // SAFETY: the list has one entry, writable through the call.
            let n = unsafe { libc::poll(ready.as_mut_ptr(), 1, 20_000) };
            assert_eq!(n, 1, "one byte is told of");
        }
        let (one, _other) = UnixStream::pair().unwrap();
        let one = OwnedFd::from(one);
        SockRef::from(&one).set_linger(Some(ten)).unwrap();
        prepare(&one).unwrap();
        assert_eq!(SockRef::from(&one).linger().unwrap(), None);
    }

    /// Each of these sockets has an inet address, so it was taken for TCP.
    #[test]
    fn streams_of_other_protocols_are_named_as_such() {
        for (name, protocol) in [("MPTCP", libc::IPPROTO_MPTCP), ("SCTP", libc::IPPROTO_SCTP)] {
            let protocol = Some(Protocol::from(protocol));
            let new = || socket2::Socket::new(socket2::Domain::IPV4, Type::STREAM, protocol);
            let Ok(listener) = new() else {
                println!("skipped: no {name} sockets here");
                continue;
            };
            let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
            listener.bind(&any.into()).unwrap();
            listener.listen(1).unwrap();
            let client = new().unwrap();
            client.connect(&listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            for fd in [OwnedFd::from(client), OwnedFd::from(server)] {
                assert_eq!(prepare(&fd), Err(Unfit::OtherKind), "{name}");
            }
        }
    }
}
