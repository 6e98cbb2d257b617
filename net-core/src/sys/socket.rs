//! `Socket`: one stream socket, owned by its descriptor number of four bytes.

use super::options::{ListenOptions, SocketOptions, bound, set_number, stream_socket};
use super::{Errno, unix};
use crate::sys::addr::{Addr, UnixName};
use rustix::net::{RecvFlags, SendFlags};
use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// A number from here on is the name of a simulated socket, and no descriptor. No descriptor table can be
/// that large (`fs.nr_open` ends 64 below it).
#[cfg(test)]
pub(crate) const SIM_BASE: RawFd = 0x4000_0000;

/// Owns one non-blocking stream socket, and closes it when dropped.
///
/// It has four bytes and knows only the number. The driver knows where the socket is registered, and what is
/// still in flight.
#[derive(Debug)]
pub(crate) struct Socket(RawFd);

/// How a connection is dialled.
#[derive(Clone, Debug, Default)]
pub(crate) struct DialOptions {
    /// The source address. If its port is 0, connect chooses the port, so that one port can serve many
    /// destinations.
    pub(crate) source: Option<SocketAddr>,
    /// The options of a TCP socket, if they are not the usual options.
    pub(crate) sockets: Option<Box<SocketOptions>>,
}

impl Socket {
    /// Takes over a descriptor that nothing else owns.
    pub(crate) fn from_owned(fd: OwnedFd) -> Self {
        Self(fd.into_raw_fd())
    }

    /// Gives the descriptor away.
    pub(crate) fn into_owned(self) -> OwnedFd {
        let raw = self.0;
        mem::forget(self);
        // SAFETY: this Socket owned the descriptor, and is forgotten.
        unsafe { OwnedFd::from_raw_fd(raw) }
    }

    /// The name of a simulated socket. Its drop makes no system call.
    #[cfg(test)]
    pub(crate) fn simulated(number: i32) -> Self {
        Self(SIM_BASE + number)
    }

    /// No socket: a dial that could not begin has this.
    pub(crate) fn none() -> Self {
        Self(-1)
    }

    pub(crate) fn number(&self) -> RawFd {
        self.0
    }

    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: this Socket owns the open descriptor, and the borrow ends before it does.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }

    /// Binds and does not listen: holds an address for listeners that share it.
    pub(crate) fn bind(at: SocketAddr, options: &ListenOptions) -> io::Result<Self> {
        Ok(Self(bound(at, options)?.into_raw_fd()))
    }

    /// Binds and listens. Errors such as an address in use or a missing right are returned.
    pub(crate) fn listen(at: &Addr, options: &ListenOptions) -> io::Result<Self> {
        let socket = match at {
            Addr::Inet(at) => {
                let socket = bound(*at, options)?;
                socket.listen(options.backlog)?;
                socket
            }
            Addr::Unix(name) => unix::listen(name, options)?,
        };
        Ok(Self(socket.into_raw_fd()))
    }

    /// Begins a connect. `Ok` means only that it has begun. The socket becomes writable when the connect has
    /// an outcome.
    pub(crate) fn dial(to: &Addr, options: &DialOptions) -> io::Result<Self> {
        let (socket, to) = match to {
            Addr::Inet(to) => {
                let socket = stream_socket(*to)?;
                match &options.sockets {
                    None => socket.set_tcp_nodelay(true)?,
                    Some(options) => options.set_to_dial(&socket, *to)?,
                }
                (socket, (*to).into())
            }
            Addr::Unix(name) => unix::stream_socket(name)?,
        };
        if let Some(source) = options.source {
            if source.port() == 0 {
                // Leaves the choice of the port to connect, which may then share the port (ip(7)).
                set_number(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
            }
            socket.bind(&source.into())?;
        }
        match socket.connect(&to) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        Ok(Self(socket.into_raw_fd()))
    }

    /// Accepts the next finished connection of a listener, non-blocking and close-on-exec.
    pub(crate) fn accept(&self) -> Result<(Self, Addr), Errno> {
        let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
        let mut length = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        // SAFETY: `storage` has `length` writable bytes and both live through the call.
        let raw = unsafe {
            libc::accept4(
                self.0,
                storage.as_mut_ptr().cast(),
                &mut length,
                libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            )
        };
        if raw < 0 {
            return Err(Errno::last());
        }
        // SAFETY: a sockaddr_storage is plain bytes, valid when zeroed and as the kernel fills it.
        let storage = unsafe { storage.assume_init() };
        Ok((Self(raw), address_of(&storage, length as usize)))
    }

    /// Receives into `into`. Returns 0 at the peer's end of stream.
    ///
    /// Like `send`, it does not go through the C library. In a program with several threads, the C library
    /// makes recv and send cancellation points (pthreads(7)). That costs about 60 instructions a call, and
    /// this program cancels no thread. `MSG_DONTWAIT`, here and below, because a process that has kept a copy
    /// of an adopted socket may make the socket blocking again.
    #[inline]
    pub(crate) fn receive(&self, into: &mut [u8]) -> Result<usize, Errno> {
        loop {
            match rustix::net::recv(self.as_fd(), &mut *into, RecvFlags::DONTWAIT) {
                Ok((got, _)) => return Ok(got),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(Errno::new(errno.raw_os_error())),
            }
        }
    }

    /// Sends from `bytes`. If the peer is gone, the result is an error and never a signal (`MSG_NOSIGNAL`).
    #[inline]
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        const FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);
        loop {
            match rustix::net::send(self.as_fd(), bytes, FLAGS) {
                Ok(sent) => return Ok(sent),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(Errno::new(errno.raw_os_error())),
            }
        }
    }

    /// Sends from all of `slices` in one call. At most `IOV_MAX` (1,024) slices. `more`: bytes that follow at
    /// once may fill up the last segment.
    pub(crate) fn send_slices(&self, slices: &[IoSlice<'_>], more: bool) -> Result<usize, Errno> {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        let flags = flags | if more { libc::MSG_MORE } else { 0 };
        // SAFETY: msghdr is plain data for which zero is valid.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = slices.as_ptr().cast_mut().cast();
        message.msg_iovlen = slices.len();
        // SAFETY: IoSlice has the layout of iovec (std's promise); the kernel only reads them, and
        // the slices outlive the call.
        Errno::uninterrupted(|| unsafe { libc::sendmsg(self.0, &message, flags) })
    }

    /// Sends at most `len` bytes of a file from offset `from`, without a copy into this process. If the bytes
    /// are not in the page cache, it waits until they are read from the disk. Returns 0 at the end of the
    /// file.
    pub(crate) fn send_file(&self, file: &File, from: u64, len: usize) -> Result<usize, Errno> {
        let mut from = libc::off_t::try_from(from).map_err(|_| Errno::new(libc::EOVERFLOW))?;
        let fd = file.as_raw_fd();
        // SAFETY: `from` is writable and lives through the call; the file's own position is not
        // touched.
        Errno::uninterrupted(|| unsafe { libc::sendfile(self.0, fd, &raw mut from, len) })
    }

    /// Ends sending: FIN follows the bytes that the kernel already has.
    pub(crate) fn shutdown_write(&self) -> Result<(), Errno> {
        self.shutdown(libc::SHUT_WR)
    }

    /// Ends listening at once in every descriptor table that holds a copy.
    pub(crate) fn shutdown_listener(&self) {
        // ENOTCONN would mean that the socket does not listen any more, which is the goal.
        let _ = self.shutdown(libc::SHUT_RDWR);
    }

    fn shutdown(&self, how: i32) -> Result<(), Errno> {
        // SAFETY: shutdown takes no pointers.
        if unsafe { libc::shutdown(self.0, how) } == 0 { Ok(()) } else { Err(Errno::last()) }
    }

    /// Closes with RST: unsent bytes are dropped, and there is no TIME_WAIT.
    pub(crate) fn reset(self) {
        if self.0 < 0 {
            return;
        }
        // A socket that refuses the option is closed normally. There is no better way.
        let _ = socket2::SockRef::from(&self.as_fd()).set_linger(Some(std::time::Duration::ZERO));
    }

    /// Takes the error that the kernel keeps for this socket. A second call finds none.
    pub(crate) fn take_error(&self) -> Result<(), Errno> {
        self.is_a_socket()?;
        match socket2::SockRef::from(&self.as_fd()).take_error() {
            Ok(None) => Ok(()),
            Ok(Some(error)) | Err(error) => Err(Errno::of(&error)),
        }
    }

    /// The bytes that the peer's kernel has not acknowledged (`SIOCOUTQ`, tcp(7)). A Unix stream puts its
    /// bytes into the peer's queue at once. For it, the number is the bytes that the peer has not read, with
    /// the kernel's overhead.
    pub(crate) fn unacknowledged(&self) -> usize {
        let mut bytes: libc::c_int = 0;
        // SAFETY: `bytes` is a writable int, which is what TIOCOUTQ (= SIOCOUTQ) fills.
        let done = unsafe { libc::ioctl(self.0, libc::TIOCOUTQ, &mut bytes) };
        if done == 0 { bytes as usize } else { 0 }
    }

    /// Milliseconds since the last byte was received, or since the connection came up (`TCP_INFO`, tcp(7)).
    /// `None`: the kernel does not say. For a Unix stream it never says, and the result is 0, because that
    /// may be so.
    pub(crate) fn quiet_for(&self) -> Option<u64> {
        match self.tcp_info() {
            Ok(info) => Some(u64::from(info.tcpi_last_data_recv)),
            Err(errno) => (errno.raw() == libc::EOPNOTSUPP).then_some(0),
        }
    }

    /// Milliseconds since a byte was received or sent, or since the connection came up. `None`: the socket is
    /// not TCP.
    pub(crate) fn idle_for(&self) -> Option<u64> {
        let info = self.tcp_info().ok()?;
        Some(u64::from(info.tcpi_last_data_recv.min(info.tcpi_last_data_sent)))
    }

    /// The bytes received, and the bytes sent and acknowledged, since the connection came up (RFC 4898). The
    /// kernel counts them in any case. It counts a FIN or SYN as one byte. `None`: the socket is not TCP.
    pub(crate) fn moved(&self) -> Option<(u64, u64)> {
        self.tcp_info().ok().map(|info| (info.tcpi_bytes_received, info.tcpi_bytes_acked))
    }

    /// For a listener: how many connections the kernel completes before they are accepted.
    #[cfg(test)]
    pub(crate) fn backlog(&self) -> u32 {
        self.tcp_info().expect("a TCP listener").tcpi_sacked // as `tcp_get_info` has it in TCP_LISTEN
    }

    fn tcp_info(&self) -> Result<libc::tcp_info, Errno> {
        let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
        let mut length = mem::size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: `info` has `length` writable bytes and both live through the call.
        let done = unsafe {
            libc::getsockopt(
                self.0,
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &mut length,
            )
        };
        if done != 0 {
            return Err(Errno::last());
        }
        // SAFETY: tcp_info is plain integers, valid when zeroed and as the kernel fills it.
        Ok(unsafe { info.assume_init() })
    }

    /// Checks before a descriptor is lent. [`none`](Self::none) has no descriptor.
    fn is_a_socket(&self) -> Result<(), Errno> {
        if self.0 < 0 { Err(Errno::new(libc::ENOTCONN)) } else { Ok(()) }
    }

    /// The peer's address. `ENOTCONN` after a reset.
    pub(crate) fn peer(&self) -> io::Result<Addr> {
        self.is_a_socket()?;
        addr_of(&socket2::SockRef::from(&self.as_fd()).peer_addr()?)
    }

    /// The own address. If port 0 was asked for, it has the port that the kernel chose.
    pub(crate) fn local(&self) -> io::Result<Addr> {
        self.is_a_socket()?;
        addr_of(&socket2::SockRef::from(&self.as_fd()).local_addr()?)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.0 < 0 {
            return;
        }
        #[cfg(test)]
        if self.0 >= SIM_BASE {
            return;
        }
        // SAFETY: this Socket owned the descriptor, and no one can use it after this drop. Linux
        // frees the number whatever close says (close(2)), so there is nothing to retry.
        unsafe { libc::close(self.0) };
    }
}

pub(super) fn addr_of(address: &socket2::SockAddr) -> io::Result<Addr> {
    match address.as_socket() {
        Some(address) => Ok(Addr::from(address)),
        None if address.is_unix() => Ok(Addr::Unix(unix::name_of(address))),
        None => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// The address in the first `length` bytes of `storage`, by its family. For an unknown family, the
/// unspecified address.
pub(super) fn address_of(storage: &libc::sockaddr_storage, length: usize) -> Addr {
    let address = match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that a sockaddr_in lies here, and storage is large enough
            // and aligned for every kind of address.
            let v4 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for sockaddr_in6.
            let v6 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            SocketAddr::V6(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id))
        }
        libc::AF_UNIX => {
            // SAFETY: as above, for sockaddr_un; and its bytes are plain ones.
            let un = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_un>() };
            let name = un.sun_path.map(|byte| byte as u8);
            let length = length.saturating_sub(mem::offset_of!(libc::sockaddr_un, sun_path));
            return Addr::Unix(UnixName::from_kernel(&name[..length.min(name.len())]));
        }
        _ => SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)),
    };
    Addr::from(address)
}

/// Makes a Socket of a descriptor number that was just received and that nothing else owns.
///
/// # Safety
/// `raw` must be open and owned by the caller, who gives it up.
pub(super) unsafe fn from_received(raw: RawFd) -> Socket {
    // SAFETY: the caller's promise.
    Socket::from_owned(unsafe { OwnedFd::from_raw_fd(raw) })
}
