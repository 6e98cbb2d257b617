//! Datagrams: recvmmsg(2) into one block, sendmmsg(2) from one block, and their sockets. Where the kernel
//! supports it, one message carries several datagrams of one peer, all of one length (udp(7), UDP_GRO and
//! UDP_SEGMENT). Then all of them go through the kernel's network stack as one.

use super::options::{DatagramOptions, SocketOptions, named, set_number};
use super::socket::address_of;
use super::udp_control::{Control, Told};
use super::{Errno, Socket};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, Type};
use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::{io, mem, ptr};

/// The most messages that one call receives or sends.
pub(crate) const BATCH: usize = 32;

/// Longer than the longest datagram of IP (65,535 bytes with its headers), so no datagram is cut off.
const SLOT: usize = 64 << 10;

/// The peer that sends or gets a datagram, and the own address, if the socket has several.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ends {
    pub(crate) peer: SocketAddr,
    /// `None`: the address to which the socket is bound, or the address that the kernel chooses.
    pub(crate) own: Option<IpAddr>,
}

/// One datagram to send, or several datagrams to one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct UdpMessage {
    pub(crate) ends: Ends,
    /// The position of its bytes.
    pub(crate) from: usize,
    pub(crate) end: usize,
    /// The length of each datagram in the message. The last datagram may be shorter.
    pub(crate) longest: usize,
}

impl UdpMessage {
    /// How many datagrams the message carries.
    pub(crate) fn datagrams(&self) -> usize {
        (self.end - self.from).div_ceil(self.longest.max(1)).max(1)
    }

    /// Each datagram of the message.
    #[cfg(test)]
    pub(crate) fn cut<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let (bytes, longest) = (&bytes[self.from..self.end], self.longest);
        (0..self.datagrams()).map(move |n| &bytes[n * longest..bytes.len().min((n + 1) * longest)])
    }
}

/// Room for a batch of received messages. Each message begins at the start of its slot. The kernel gives
/// memory only to the pages that it writes. Small datagrams take one page per slot.
pub(crate) struct Inbound {
    block: Box<[u8]>,
    /// The received datagrams: their addresses, and where their bytes lie.
    came: Vec<(Ends, Range<usize>)>,
    /// Whether datagrams to a group or to a broadcast address are taken. The kernel gives a copy of such a
    /// datagram to each socket that shares the port.
    pub(crate) hears_group: bool,
}

impl Inbound {
    pub(crate) fn new() -> Self {
        let block = vec![0; BATCH * SLOT].into_boxed_slice();
        Self { block, came: Vec::with_capacity(BATCH), hears_group: true }
    }

    /// How many datagrams the last batch had.
    pub(crate) fn len(&self) -> usize {
        self.came.len()
    }

    /// Datagram number `n` of the last batch: its addresses, and its bytes.
    pub(crate) fn datagram(&self, n: usize) -> (Ends, &[u8]) {
        let (ends, at) = &self.came[n];
        (*ends, &self.block[at.clone()])
    }

    /// Takes message number `n` of a batch. It has `len` bytes, and was joined from datagrams of `joined`
    /// bytes. 0: it is one datagram.
    fn take(&mut self, n: usize, ends: Ends, len: usize, joined: usize) {
        let (start, end) = (n * SLOT, n * SLOT + len);
        if joined == 0 || joined >= len {
            return self.came.push((ends, start..end));
        }
        let starts = (start..end).step_by(joined);
        self.came.extend(starts.map(|from| (ends, from..end.min(from + joined))));
    }

    /// Takes what a model of the kernel received: each message with the length of the datagrams in it.
    #[cfg(test)]
    pub(crate) fn fill(&mut self, messages: impl Iterator<Item = (SocketAddr, Vec<u8>, usize)>) {
        self.came.clear();
        for (n, (peer, bytes, joined)) in messages.enumerate() {
            self.block[n * SLOT..][..bytes.len()].copy_from_slice(&bytes);
            self.take(n, Ends { peer, own: None }, bytes.len(), joined);
        }
    }
}

impl Socket {
    /// A socket that holds `at` against all other sockets. From then on, sockets of this user that
    /// [`datagrams`](Self::datagrams) makes may share the address.
    pub(crate) fn hold_datagrams(at: SocketAddr, options: &SocketOptions) -> io::Result<Self> {
        let socket = datagram_socket(at)?;
        options.set_for_datagrams(&socket, at)?;
        socket.bind(&at.into())?;
        // Set only after the bind. Set before, it would let this socket share a stranger's address.
        socket.set_reuse_port(true)?;
        Ok(Self::from_owned(socket.into()))
    }

    /// A socket at an address that is held. The kernel spreads the peers over all sockets of the address, by
    /// a hash of both addresses. Also returns whether the kernel cuts up a message that carries several
    /// datagrams.
    pub(crate) fn datagrams(at: SocketAddr, options: &DatagramOptions) -> io::Result<(Self, bool)> {
        let socket = datagram_socket(at)?;
        options.sockets.set_for_datagrams(&socket, at)?;
        socket.set_reuse_port(true)?;
        socket.bind(&at.into())?;
        if at.ip().is_multicast() {
            join(&socket, at, options)?;
        }
        if at.ip().is_unspecified() {
            // An answer must leave from the address to which the request was sent. A peer whose socket is
            // connected to that address drops datagrams from any other address.
            set_number(&socket, libc::SOL_IP, libc::IP_PKTINFO, 1)?;
            if at.is_ipv6() {
                set_number(&socket, libc::SOL_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
            }
        }
        let joins = set_number(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0);
        let joined = set_number(&socket, libc::SOL_UDP, libc::UDP_GRO, 1);
        for (option, known) in [("UDP_SEGMENT", &joins), ("UDP_GRO", &joined)] {
            if let Err(error) = known {
                tracing::debug!(%at, %error, "the kernel has no {option}: each datagram by itself");
            }
        }
        Ok((Self::from_owned(socket.into()), joins.is_ok()))
    }

    /// recvmmsg(2): receives at most a batch of messages, and returns how many they are. Fewer than a batch:
    /// no more messages are there.
    pub(crate) fn receive_datagrams(&self, into: &mut Inbound) -> Result<usize, Errno> {
        // SAFETY: these are plain data for which zero is valid.
        let mut names: [libc::sockaddr_storage; BATCH] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        let mut controls = [Control::EMPTY; BATCH];
        let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
        let slots = into.block.chunks_exact_mut(SLOT);
        for ((((message, part), name), control), slot) in
            messages.iter_mut().zip(&mut parts).zip(&mut names).zip(&mut controls).zip(slots)
        {
            *part = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: SLOT };
            let header = &mut message.msg_hdr;
            header.msg_name = (&raw mut *name).cast();
            header.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as u32;
            header.msg_iov = part;
            header.msg_iovlen = 1;
            control.listen(header);
        }
        let number = self.number();
        // SAFETY: every header names writable memory of the stated length, which outlives the call:
        // its own slot of the block, its own name and its own control message.
        let got = Errno::uninterrupted(|| unsafe {
            libc::recvmmsg(
                number,
                messages.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            ) as isize
        })?;
        into.came.clear();
        for (n, (message, name)) in messages.iter().zip(&names).take(got).enumerate() {
            let from = address_of(name, message.msg_hdr.msg_namelen as usize);
            let peer = from.inet().unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into());
            let Told { joined, own, to_group } = Told::of(&message.msg_hdr);
            if to_group && !into.hears_group {
                continue;
            }
            into.take(n, Ends { peer, own }, message.msg_len as usize, joined);
        }
        Ok(got)
    }

    /// sendmmsg(2): sends at most a batch, whose bytes lie in `bytes`. Returns how many messages the kernel
    /// took. An error belongs to the first message alone.
    pub(crate) fn send_datagrams(
        &self,
        bytes: &[u8],
        batch: &[UdpMessage],
    ) -> Result<usize, Errno> {
        // SAFETY: plain data for which zero is valid.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        let mut controls = [Control::EMPTY; BATCH];
        let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
        let names: [Option<SockAddr>; BATCH] =
            std::array::from_fn(|n| batch.get(n).map(|message| message.ends.peer.into()));
        let count = batch.len().min(BATCH);
        for ((((message, part), name), control), what) in messages
            .iter_mut()
            .zip(&mut parts)
            .zip(names.iter().flatten())
            .zip(&mut controls)
            .zip(batch)
        {
            let bytes = &bytes[what.from..what.end];
            *part =
                libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            let header = &mut message.msg_hdr;
            header.msg_name = name.as_ptr().cast_mut().cast();
            header.msg_namelen = name.len();
            header.msg_iov = part;
            header.msg_iovlen = 1;
            let is_joined = bytes.len() > what.longest;
            let segment = is_joined.then_some(what.longest as u16); // a datagram of IP fits in 16 bits
            control.tell(header, what.ends.own, segment);
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let number = self.number();
        // SAFETY: the first `count` headers name readable memory of the stated length, which outlives
        // the call; the kernel only reads it.
        Errno::uninterrupted(|| unsafe {
            libc::sendmmsg(number, messages.as_mut_ptr(), count as u32, flags) as isize
        })
    }
}

/// Since Linux 4.20. The C library's headers do not have the name.
const IPV6_MULTICAST_ALL: libc::c_int = 29;

/// Makes the socket receive only the group that it is bound to, or not even that. By default the kernel gives
/// a socket the datagrams to any group that any socket of the machine has joined (ip(7), IP_MULTICAST_ALL).
fn join(socket: &socket2::Socket, at: SocketAddr, options: &DatagramOptions) -> io::Result<()> {
    let (level, all) = match at {
        SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_MULTICAST_ALL),
        SocketAddr::V6(_) => (libc::SOL_IPV6, IPV6_MULTICAST_ALL),
    };
    set_number(socket, level, all, 0).map_err(|error| named("MULTICAST_ALL", error))?;
    if !options.hears_group {
        return Ok(());
    }
    let device = options.sockets.device.as_deref().map_or(Ok(0), device_index)?;
    match at {
        SocketAddr::V4(at) => socket
            .join_multicast_v4_n(at.ip(), &InterfaceIndexOrAddress::Index(device))
            .map_err(|error| named("IP_ADD_MEMBERSHIP", error)),
        SocketAddr::V6(at) => {
            let interface = if at.scope_id() > 0 { at.scope_id() } else { device };
            socket
                .join_multicast_v6(at.ip(), interface)
                .map_err(|error| named("IPV6_ADD_MEMBERSHIP", error))
        }
    }
}

/// The number of a network device.
fn device_index(device: &str) -> io::Result<u32> {
    let name = CString::new(device)?;
    // SAFETY: the name is a string of C that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 { Err(named(device, io::Error::last_os_error())) } else { Ok(index) }
}

fn datagram_socket(at: SocketAddr) -> io::Result<socket2::Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    socket2::Socket::new(Domain::for_address(at), kind, Some(Protocol::UDP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn plain(at: &str) -> io::Result<(Socket, bool)> {
        Socket::datagrams(at.parse().unwrap(), &DatagramOptions::default())
    }

    fn at(socket: &Socket) -> SocketAddr {
        socket.local().unwrap().inet().unwrap()
    }

    /// The bytes of `count` datagrams of this length, and of one shorter datagram.
    fn said(count: usize, len: usize) -> Vec<u8> {
        (0..count * len + len / 2).map(|n| (n * n / 7) as u8).collect()
    }

    /// A message that this kernel joins stays one message all the way, and arrives as it was sent.
    #[test]
    fn joined_datagrams_arrive_apart() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let (from, joins) = plain(local).unwrap();
            let (to, _) = plain(local).unwrap();
            let single = UdpSocket::bind(local).unwrap();
            if !joins {
                return; // an old kernel
            }
            for (count, len) in [(1, 1), (49, 3), (63, 1), (40, 1472), (2, 20_000)] {
                let bytes = said(count, len);
                let end = bytes.len();
                let batch = [at(&to), single.local_addr().unwrap()].map(|peer| UdpMessage {
                    ends: Ends { peer, own: None },
                    from: 0,
                    end,
                    longest: len,
                });
                assert_eq!(from.send_datagrams(&bytes, &batch).unwrap(), 2);
                let mut inbound = Inbound::new();
                assert_eq!(to.receive_datagrams(&mut inbound).unwrap(), 1, "joined here too");
                let wanted: Vec<&[u8]> = batch[0].cut(&bytes).collect();
                let came: Vec<_> = (0..inbound.len()).map(|n| inbound.datagram(n)).collect();
                assert!(came.iter().all(|(ends, _)| ends.peer == at(&from)));
                assert!(came.iter().map(|(_, bytes)| *bytes).eq(wanted.iter().copied()));
                let mut one = vec![0; SLOT];
                for wanted in wanted {
                    let len = single.recv(&mut one).unwrap();
                    assert_eq!(&one[..len], wanted);
                }
            }
        }
    }

    /// On a socket bound to all addresses: the receiver knows the address of each datagram, and answers from
    /// it.
    #[test]
    fn of_several_own_addresses_the_one_that_was_asked_answers() {
        for (bound, asked) in
            [("0.0.0.0:0", "127.0.0.7"), ("[::]:0", "127.0.0.7"), ("[::]:0", "::1")]
        {
            let (server, _) = plain(bound).unwrap();
            let asked: IpAddr = asked.parse().unwrap();
            let own = if asked.is_ipv4() { "127.0.0.8:0" } else { "[::1]:0" };
            let client = UdpSocket::bind(own).unwrap();
            client.connect((asked, at(&server).port())).unwrap();
            client.send(b"where?").unwrap();
            let mut inbound = Inbound::new();
            assert_eq!(server.receive_datagrams(&mut inbound).unwrap(), 1);
            let ends = inbound.datagram(0).0;
            assert_eq!((ends.own, ends.peer), (Some(asked), client.local_addr().unwrap()));
            let bytes = said(4, 10);
            let end = bytes.len();
            let batch = [UdpMessage { ends, from: 0, end, longest: 10 }];
            assert_eq!(server.send_datagrams(&bytes, &batch).unwrap(), 1);
            let mut back = [0; 20];
            for wanted in batch[0].cut(&bytes) {
                let len = client.recv(&mut back).unwrap();
                assert_eq!(&back[..len], wanted);
            }
        }
    }

    /// `receive_buffer` held only for TCP once. A burst then had only the room that the system gives by
    /// default.
    #[test]
    fn the_options_that_are_not_of_tcp_hold_for_datagrams() {
        let sockets = SocketOptions {
            receive_buffer: Some(20_000),
            send_buffer: Some(30_000),
            only_v6: Some(true),
            keepalive: None,
            ..SocketOptions::default()
        };
        let options = DatagramOptions { sockets, hears_group: true };
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let (socket, _) = Socket::datagrams(local.parse().unwrap(), &options).unwrap();
            let socket = socket2::Socket::from(socket.into_owned());
            assert_eq!(socket.recv_buffer_size().unwrap(), 40_000);
            assert_eq!(socket.send_buffer_size().unwrap(), 60_000);
            assert_eq!(socket.only_v6().ok(), local.starts_with('[').then_some(true));
        }
        let sockets = SocketOptions { device: Some("no0".into()), ..SocketOptions::default() };
        let options = DatagramOptions { sockets, hears_group: true };
        let said = Socket::datagrams("127.0.0.1:0".parse().unwrap(), &options).err().unwrap();
        assert!(said.to_string().contains("no0"), "{said}");
    }

    /// The address of a group was bound and never joined: the server was ready, and received nothing. If
    /// another process had joined the group, each loop received a copy.
    #[test]
    fn of_the_sockets_of_a_group_one_hears_it() {
        let Ok(loopback) = device_index("lo") else { return };
        let held = "239.255.77.7:0".parse().unwrap();
        let held = Socket::hold_datagrams(held, &SocketOptions::default()).unwrap();
        let group = at(&held);
        let of = |hears_group| {
            let device = Some("lo".to_owned());
            let sockets = SocketOptions { device, ..SocketOptions::default() };
            Socket::datagrams(group, &DatagramOptions { sockets, hears_group })
        };
        let sockets = match [of(true), of(false)] {
            [Ok((hears, _)), Ok((silent, _))] => [hears, silent],
            [Err(error), _] | [_, Err(error)] => {
                // Multicast on the device needs a right that some users do not have.
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
                return;
            }
        };
        drop(held);
        let from = socket2::Socket::from(plain("127.0.0.1:0").unwrap().0.into_owned());
        from.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
        from.send_to(b"to all", &group.into()).unwrap();
        assert!(loopback > 0);
        let heard = sockets.map(|socket| {
            let mut inbound = Inbound::new();
            socket.receive_datagrams(&mut inbound).map(|_| inbound.datagram(0).1.to_vec())
        });
        assert_eq!(heard[0], Ok(b"to all".to_vec()));
        assert_eq!(heard[1].as_ref().map_err(|errno| errno.raw()), Err(libc::EAGAIN));
    }

    /// The kernel gives a copy to each of the sockets, so each loop's handler answered.
    #[test]
    fn of_the_sockets_that_share_a_port_one_hears_a_broadcast() {
        let held = "0.0.0.0:0".parse().unwrap();
        let held = Socket::hold_datagrams(held, &SocketOptions::default()).unwrap();
        let (shared, port) = (at(&held), at(&held).port());
        let two = [true, false].map(|hears_group| {
            let options = DatagramOptions { hears_group, ..DatagramOptions::default() };
            (Socket::datagrams(shared, &options).unwrap().0, hears_group)
        });
        drop(held);
        let from = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        from.set_broadcast(true).unwrap();
        from.send_to(b"to all", ("127.255.255.255", port)).unwrap();
        let heard = two.each_ref().map(|(socket, hears_group)| {
            let mut inbound = Inbound::new();
            inbound.hears_group = *hears_group;
            assert_eq!(socket.receive_datagrams(&mut inbound), Ok(1), "each has a copy");
            inbound.len()
        });
        assert_eq!(heard, [1, 0]);
        // A datagram to an own address goes to one socket, which the kernel chooses.
        from.send_to(b"to one", ("127.0.0.1", port)).unwrap();
        let heard = two.map(|(socket, hears_group)| {
            let mut inbound = Inbound::new();
            inbound.hears_group = hears_group;
            socket.receive_datagrams(&mut inbound).map_or(0, |_| inbound.len())
        });
        assert_eq!(heard.iter().sum::<usize>(), 1);
    }

    #[test]
    fn single_ones_and_empty_ones_come_as_they_are() {
        let (from, _) = plain("127.0.0.1:0").unwrap();
        let (to, _) = plain("127.0.0.1:0").unwrap();
        let bytes = said(1, 100);
        let ends = [(0, 0), (0, 7), (7, 7), (7, 150)];
        let peer = Ends { peer: at(&to), own: None };
        let batch =
            ends.map(|(from, end)| UdpMessage { ends: peer, from, end, longest: end - from });
        assert_eq!(from.send_datagrams(&bytes, &batch).unwrap(), 4);
        let mut inbound = Inbound::new();
        assert_eq!((to.receive_datagrams(&mut inbound).unwrap(), inbound.len()), (4, 4));
        for (n, (from, end)) in ends.into_iter().enumerate() {
            assert_eq!(inbound.datagram(n).1, &bytes[from..end]);
        }
    }
}
