//! Socket options of listeners and of the connections that they accept.
//!
//! All options are set once, on the listener. An accepted TCP socket is a copy of the listener with its
//! options (`sk_clone_lock` in the kernel). So accepting a client stays one system call.

use socket2::{SockRef, Socket};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;
use std::{io, mem};

/// The options of a server's TCP sockets, for [`Server::sockets`](crate::Server::sockets).
///
/// The options are set on every listener, and every accepted connection inherits them. The buffers, the
/// device and `only_v6` are also set on the server's UDP sockets. Unix sockets are not changed. If the kernel
/// refuses an option, the start fails with an error that names the option and the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Small writes are sent at once (`TCP_NODELAY`). On by default, because the loop gathers output itself.
    pub nodelay: bool,
    /// Probes silent peers (`SO_KEEPALIVE`). `None`: no probes. An idle timeout is cheaper and more reliable
    /// if clients are expected to send regularly.
    pub keepalive: Option<Keepalive>,
    /// Size of the kernel's receive buffer in bytes (`SO_RCVBUF`), up to `net.core.rmem_max`. The kernel
    /// takes as much again for its own bookkeeping. `None`: a TCP buffer grows as needed, as
    /// `net.ipv4.tcp_rmem` says. That is better except for very many or very distant peers. A UDP buffer does
    /// not grow: `None` means `net.core.rmem_default`.
    pub receive_buffer: Option<usize>,
    /// Size of the kernel's send buffer in bytes (`SO_SNDBUF`), up to `net.core.wmem_max`. `None`: the buffer
    /// grows as needed, as `net.ipv4.tcp_wmem` says.
    pub send_buffer: Option<usize>,
    /// The most unsent bytes that the kernel queues, in addition to bytes in flight (`TCP_NOTSENT_LOWAT`).
    ///
    /// Further bytes wait in this process, where the watermarks and the memory budget count them. Unlike a
    /// fixed send buffer, it costs a fast reader nothing measurable. `None`: 64 KiB if the server has a
    /// [`memory_budget`](crate::Limits::memory_budget), else `net.ipv4.tcp_notsent_lowat`, which by default
    /// is unlimited.
    pub notsent_lowat: Option<usize>,
    /// `Some(ZERO)`: each close resets the connection (`SO_LINGER`). A reset leaves no TIME_WAIT, and
    /// destroys bytes that the peer has not received yet. Any other time is an error, because close(2) would
    /// block the whole loop for that time. The last bytes arrive without this option, see
    /// [`linger_timeout`](crate::Limits::linger_timeout).
    pub linger: Option<Duration>,
    /// Accepts only traffic on this network device (`SO_BINDTODEVICE`), such as `eth0`.
    pub device: Option<String>,
    /// The kernel holds a client back until its first byte comes, for at least this time
    /// (`TCP_DEFER_ACCEPT`). The time is rounded up to seconds and then to the kernel's retries. For
    /// protocols in which the client speaks first. A client that sends nothing is handed over late, and
    /// counted only then.
    pub defer_accept: Option<Duration>,
    /// Whether a listener on `[::]` serves IPv6 only (`IPV6_V6ONLY`). `None`: as `net.ipv6.bindv6only` says,
    /// which by default serves both.
    pub only_v6: Option<bool>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            nodelay: true,
            keepalive: None,
            receive_buffer: None,
            send_buffer: None,
            notsent_lowat: None,
            linger: None,
            device: None,
            defer_accept: None,
            only_v6: None,
        }
    }
}

/// When a silent peer is probed, and when it is given up. In whole seconds; a fraction is rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// How long a peer is silent before the first probe (`TCP_KEEPIDLE`).
    pub idle: Duration,
    /// The time between probes (`TCP_KEEPINTVL`).
    pub interval: Duration,
    /// How many unanswered probes fail the connection (`TCP_KEEPCNT`), 1 to 127.
    pub probes: u8,
}

impl SocketOptions {
    /// Checks the options. An error says in one sentence which option is not possible.
    pub fn check(&self) -> Result<(), String> {
        if let Some(linger) = self.linger.filter(|linger| !linger.is_zero()) {
            return Err(format!(
                "linger of {linger:?}: each close would hold its loop for as long; only 0, a reset, \
                 is possible"
            ));
        }
        Ok(())
    }

    /// The numeric options that are not TCP options, with their names.
    fn numbers_of_all(&self, at: SocketAddr) -> Vec<(&'static str, i32, i32, i32)> {
        use libc::{IPPROTO_IPV6, SOL_SOCKET};
        let mut all = Vec::new();
        if let Some(bytes) = self.receive_buffer {
            all.push(("SO_RCVBUF", SOL_SOCKET, libc::SO_RCVBUF, at_most(bytes)));
        }
        if let Some(bytes) = self.send_buffer {
            all.push(("SO_SNDBUF", SOL_SOCKET, libc::SO_SNDBUF, at_most(bytes)));
        }
        if let Some(only) = self.only_v6.filter(|_| at.is_ipv6()) {
            all.push(("IPV6_V6ONLY", IPPROTO_IPV6, libc::IPV6_V6ONLY, i32::from(only)));
        }
        all
    }

    /// All numeric options, with their names.
    fn numbers(&self, at: SocketAddr) -> Vec<(&'static str, i32, i32, i32)> {
        use libc::{IPPROTO_TCP, SOL_SOCKET};
        let mut all =
            vec![("TCP_NODELAY", IPPROTO_TCP, libc::TCP_NODELAY, i32::from(self.nodelay))];
        if let Some(Keepalive { idle, interval, probes }) = self.keepalive {
            all.extend([
                ("SO_KEEPALIVE", SOL_SOCKET, libc::SO_KEEPALIVE, 1),
                ("TCP_KEEPIDLE", IPPROTO_TCP, libc::TCP_KEEPIDLE, seconds(idle)),
                ("TCP_KEEPINTVL", IPPROTO_TCP, libc::TCP_KEEPINTVL, seconds(interval)),
                ("TCP_KEEPCNT", IPPROTO_TCP, libc::TCP_KEEPCNT, i32::from(probes)),
            ]);
        }
        if let Some(bytes) = self.notsent_lowat {
            all.push(("TCP_NOTSENT_LOWAT", IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, at_most(bytes)));
        }
        if let Some(time) = self.defer_accept {
            all.push(("TCP_DEFER_ACCEPT", IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds(time)));
        }
        all.extend(self.numbers_of_all(at));
        all
    }

    /// Sets the options on a socket that is to connect to `to`, except options of listeners.
    pub(super) fn set_to_dial(&self, socket: &Socket, to: SocketAddr) -> io::Result<()> {
        if self.check().is_err() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Self { defer_accept: None, only_v6: None, ..self.clone() }.set(socket, to)
    }

    /// Sets the options that are not TCP options on a UDP socket that is to be bound to `at`.
    pub(super) fn set_for_datagrams(&self, socket: &Socket, at: SocketAddr) -> io::Result<()> {
        for (name, level, option, value) in self.numbers_of_all(at) {
            set_number(socket, level, option, value).map_err(|error| named(name, error))?;
        }
        self.bind_device(socket)
    }

    /// Sets the options on a socket that is to be bound to `at`, or to connect to `at`.
    fn set(&self, socket: &Socket, at: SocketAddr) -> io::Result<()> {
        for (name, level, option, value) in self.numbers(at) {
            set_number(socket, level, option, value).map_err(|error| named(name, error))?;
        }
        self.bind_device(socket)?;
        if self.linger.is_some() {
            SockRef::from(socket).set_linger(self.linger).map_err(|e| named("SO_LINGER", e))?;
        }
        Ok(())
    }

    fn bind_device(&self, socket: &Socket) -> io::Result<()> {
        if let Some(device) = &self.device {
            socket
                .bind_device(Some(device.as_bytes()))
                .map_err(|error| named(&format!("SO_BINDTODEVICE {device}"), error))?;
        }
        Ok(())
    }
}

/// How a listener is made.
#[derive(Clone, Debug)]
pub(crate) struct ListenOptions {
    /// The size of the accept queue: connections that the kernel completes before they are accepted. Limited
    /// to `net.core.somaxconn`.
    pub(crate) backlog: i32,
    /// Several listeners share one address, and the kernel spreads connections among them.
    pub(crate) reuse_port: bool,
    /// This listener, among those on one address, gets connections that arrive on this core
    /// (`SO_INCOMING_CPU`).
    pub(crate) core: Option<usize>,
    /// How many clients can be served although the process has no descriptor left. 0: one client at a time
    /// can be accepted, and is closed at once.
    pub(crate) spares: usize,
    pub(crate) sockets: SocketOptions,
}

/// How a UDP socket is made.
#[derive(Clone, Debug, Default)]
pub(crate) struct DatagramOptions {
    pub(crate) sockets: SocketOptions,
    /// The socket joins the multicast group whose address it has, if any. Only one of several sockets joins,
    /// because the kernel gives each member a copy.
    pub(crate) hears_group: bool,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            backlog: 4096,
            reuse_port: false,
            core: None,
            spares: 0,
            sockets: SocketOptions::default(),
        }
    }
}

pub(super) fn stream_socket(at: SocketAddr) -> io::Result<socket2::Socket> {
    let kind = socket2::Type::STREAM.nonblocking().cloexec();
    socket2::Socket::new(socket2::Domain::for_address(at), kind, Some(socket2::Protocol::TCP))
}

/// Makes a TCP socket that is bound and does not listen yet.
pub(super) fn bound(at: SocketAddr, options: &ListenOptions) -> io::Result<Socket> {
    let socket = stream_socket(at)?;
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    options.sockets.set(&socket, at)?;
    if let Some(core) = options.core {
        let core = core as i32;
        set_number(&socket, libc::SOL_SOCKET, libc::SO_INCOMING_CPU, core)
            .map_err(|error| named("SO_INCOMING_CPU", error))?;
    }
    socket.bind(&at.into())?;
    Ok(socket)
}

pub(super) fn set_number(
    socket: &impl AsRawFd,
    level: i32,
    option: i32,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: `value` is a readable int of the stated length.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Rounded up, so that less than a second does not become 0, which has another meaning.
fn seconds(time: Duration) -> i32 {
    let up = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    i32::try_from(up).unwrap_or(i32::MAX)
}

fn at_most(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

pub(super) fn named(option: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{option}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::DialOptions;
    use std::io::Write;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    fn listen(at: SocketAddr, sockets: SocketOptions) -> io::Result<TcpListener> {
        let socket = bound(at, &ListenOptions { sockets, ..ListenOptions::default() })?;
        socket.listen(16)?;
        Ok(socket.into())
    }

    fn accepted(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        (listener.accept().unwrap().0, client)
    }

    #[test]
    fn an_accepted_connection_inherits_every_option() {
        let options = SocketOptions {
            nodelay: false,
            keepalive: Some(Keepalive {
                idle: Duration::from_millis(90_001),
                interval: Duration::from_secs(7),
                probes: 3,
            }),
            receive_buffer: Some(20_000),
            send_buffer: Some(30_000),
            notsent_lowat: Some(50_000),
            linger: Some(Duration::ZERO),
            device: Some("lo".into()),
            ..SocketOptions::default()
        };
        let listener = match listen(LOCAL, options.clone()) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                listen(LOCAL, SocketOptions { device: None, ..options }).unwrap()
            }
            listener => listener.unwrap(),
        };
        let (server, _client) = accepted(&listener);
        let socket = SockRef::from(&server);
        assert!(!socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(91));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(socket.recv_buffer_size().unwrap(), 40_000);
        assert_eq!(socket.send_buffer_size().unwrap(), 60_000);
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), 50_000);
        assert_eq!(socket.linger().unwrap(), Some(Duration::ZERO));
    }

    #[test]
    fn a_dialled_connection_has_the_options_it_was_asked_with() {
        let listener = TcpListener::bind(LOCAL).unwrap();
        let to = listener.local_addr().unwrap().into();
        let dial = |sockets: Option<SocketOptions>| {
            let options = DialOptions { sockets: sockets.map(Box::new), ..DialOptions::default() };
            crate::sys::Socket::dial(&to, &options).map(|socket| Socket::from(socket.into_owned()))
        };
        assert!(dial(None).unwrap().tcp_nodelay().unwrap());
        let (idle, interval) = (Duration::from_secs(90), Duration::from_secs(7));
        let socket = dial(Some(SocketOptions {
            nodelay: false,
            keepalive: Some(Keepalive { idle, interval, probes: 3 }),
            send_buffer: Some(30_000),
            linger: Some(Duration::ZERO),
            defer_accept: Some(idle), // an option of listeners, so it is ignored
            ..SocketOptions::default()
        }));
        let socket = socket.unwrap();
        assert!(!socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), idle);
        assert_eq!(socket.send_buffer_size().unwrap(), 60_000);
        assert_eq!(socket.linger().unwrap(), Some(Duration::ZERO));
        let refused = SocketOptions { linger: Some(idle), ..SocketOptions::default() };
        assert_eq!(dial(Some(refused)).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn by_default_only_nodelay_is_on() {
        let (server, _client) = accepted(&listen(LOCAL, SocketOptions::default()).unwrap());
        let socket = SockRef::from(&server);
        assert!(socket.tcp_nodelay().unwrap() && !socket.keepalive().unwrap());
        assert_eq!(socket.linger().unwrap(), None);
    }

    #[test]
    fn a_deferred_client_comes_with_its_first_byte() {
        let defer_accept = Some(Duration::from_millis(30_500));
        let listener =
            listen(LOCAL, SocketOptions { defer_accept, ..SocketOptions::default() }).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"x").unwrap();
        listener.set_nonblocking(false).unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn a_listener_for_ipv6_alone_leaves_ipv4_alone() {
        for (only, is_served) in [(true, false), (false, true)] {
            let options = SocketOptions { only_v6: Some(only), ..SocketOptions::default() };
            let listener = listen("[::]:0".parse().unwrap(), options.clone()).unwrap();
            let port = listener.local_addr().unwrap().port();
            assert_eq!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok(), is_served);
            listen(LOCAL, options).unwrap();
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_named() {
        let keepalive = |idle, probes| {
            let interval = Duration::from_secs(1);
            Some(Keepalive { idle: Duration::from_secs(idle), interval, probes })
        };
        for (options, name) in [
            (
                SocketOptions { device: Some("no0".into()), ..Default::default() },
                "BINDTODEVICE no0",
            ),
            (SocketOptions { keepalive: keepalive(0, 1), ..Default::default() }, "TCP_KEEPIDLE"),
            (SocketOptions { keepalive: keepalive(9, 0), ..Default::default() }, "TCP_KEEPCNT"),
            (SocketOptions { keepalive: keepalive(9, 128), ..Default::default() }, "TCP_KEEPCNT"),
            (SocketOptions { keepalive: keepalive(1 << 40, 1), ..Default::default() }, "KEEPIDLE"),
        ] {
            let said = listen(LOCAL, options).unwrap_err().to_string();
            assert!(said.contains(name), "{said}");
        }
        let linger = Some(Duration::from_secs(5));
        let said = SocketOptions { linger, ..Default::default() }.check().unwrap_err();
        assert!(said.contains("linger of 5s"), "{said}");
    }
}
