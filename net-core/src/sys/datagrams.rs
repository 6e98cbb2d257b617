//! Datagrams: recvmmsg(2) into one block, sendmmsg(2) from one, and the sockets for it. Where the kernel
//! can, one message carries several datagrams of one peer, as long as each other (udp(7), UDP_GRO and
//! UDP_SEGMENT): it then takes the way through the kernel once for all of them.

use super::socket::address_of;
use super::{Errno, Socket};
use socket2::{Domain, Protocol, SockAddr, Type};
use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::ptr;

/// Messages that one call receives or sends at most.
pub(crate) const BATCH: usize = 32;

/// Above the largest datagram of IP (65,535 with its headers), so none is ever cut off.
const SLOT: usize = 64 << 10;

/// CMSG_SPACE of the number that UDP_GRO tells; that of UDP_SEGMENT is shorter.
// SAFETY: it only computes.
const CONTROL: usize = unsafe { libc::CMSG_SPACE(mem::size_of::<libc::c_int>() as u32) } as usize;

/// One datagram to be sent, or several to one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct UdpMessage {
    pub(crate) to: SocketAddr,
    /// Where its bytes lie.
    pub(crate) from: usize,
    pub(crate) end: usize,
    /// The length of each datagram in it; the last may be shorter.
    pub(crate) longest: usize,
}

impl UdpMessage {
    /// How many it carries.
    pub(crate) fn datagrams(&self) -> usize {
        (self.end - self.from).div_ceil(self.longest.max(1)).max(1)
    }

    /// Each of them.
    #[cfg(test)]
    pub(crate) fn cut<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let (bytes, longest) = (&bytes[self.from..self.end], self.longest);
        (0..self.datagrams()).map(move |n| &bytes[n * longest..bytes.len().min((n + 1) * longest)])
    }
}

/// Room for a batch of received messages, each at the start of its slot. The kernel gives memory
/// only to the pages that it writes: of small datagrams, one a slot.
pub(crate) struct Inbound {
    block: Box<[u8]>,
    /// Datagrams: from where, and where they lie.
    came: Vec<(SocketAddr, Range<usize>)>,
}

impl Inbound {
    pub(crate) fn new() -> Self {
        Self { block: vec![0; BATCH * SLOT].into_boxed_slice(), came: Vec::with_capacity(BATCH) }
    }

    /// How many datagrams the last batch was.
    pub(crate) fn len(&self) -> usize {
        self.came.len()
    }

    /// Number `n` of the last batch: from where, and what.
    pub(crate) fn datagram(&self, n: usize) -> (SocketAddr, &[u8]) {
        let (peer, at) = &self.came[n];
        (*peer, &self.block[at.clone()])
    }

    /// UdpMessage number `n` of a batch, of `len` bytes, was joined from datagrams of this length; 0: it is
    /// one.
    fn take(&mut self, n: usize, peer: SocketAddr, len: usize, joined: usize) {
        let (start, end) = (n * SLOT, n * SLOT + len);
        if joined == 0 || joined >= len {
            return self.came.push((peer, start..end));
        }
        let starts = (start..end).step_by(joined);
        self.came.extend(starts.map(|from| (peer, from..end.min(from + joined))));
    }

    /// What a model of the kernel received: messages, and the length of those that they were joined from.
    #[cfg(test)]
    pub(crate) fn fill(&mut self, messages: impl Iterator<Item = (SocketAddr, Vec<u8>, usize)>) {
        self.came.clear();
        for (n, (peer, bytes, joined)) in messages.enumerate() {
            self.block[n * SLOT..][..bytes.len()].copy_from_slice(&bytes);
            self.take(n, peer, bytes.len(), joined);
        }
    }
}

/// Room for one control message that carries a number, aligned as the kernel's header is.
#[derive(Clone, Copy)]
#[repr(C)]
union Control {
    header: libc::cmsghdr,
    bytes: [u8; CONTROL],
}

impl Socket {
    /// A socket that holds `at` against everybody else, and lets those of this user that are made by
    /// [`datagrams`](Self::datagrams) share it from now on.
    pub(crate) fn hold_datagrams(at: SocketAddr) -> io::Result<Self> {
        let socket = datagram_socket(at)?;
        socket.bind(&at.into())?;
        // Only now: asked for before, it would let this one join a stranger's.
        socket.set_reuse_port(true)?;
        Ok(Self::from_owned(socket.into()))
    }

    /// A socket at an address that is held. The kernel spreads peers over all that share it, by a
    /// hash of both addresses. Also whether it cuts up what is sent joined.
    pub(crate) fn datagrams(at: SocketAddr) -> io::Result<(Self, bool)> {
        let socket = datagram_socket(at)?;
        socket.set_reuse_port(true)?;
        socket.bind(&at.into())?;
        let socket = Self::from_owned(socket.into());
        let joins = socket.set_udp(libc::UDP_SEGMENT, 0);
        for (option, known) in
            [("UDP_SEGMENT", joins), ("UDP_GRO", socket.set_udp(libc::UDP_GRO, 1))]
        {
            if let Err(error) = known {
                tracing::debug!(%at, %error, "the kernel has no {option}: each datagram by itself");
            }
        }
        Ok((socket, joins.is_ok()))
    }

    fn set_udp(&self, option: libc::c_int, value: libc::c_int) -> Result<(), Errno> {
        let len = mem::size_of_val(&value) as libc::socklen_t;
        // SAFETY: the value is readable and as long as is said; the kernel keeps no pointer to it.
        let set = unsafe {
            libc::setsockopt(self.number(), libc::SOL_UDP, option, (&raw const value).cast(), len)
        };
        if set < 0 { Err(Errno::last()) } else { Ok(()) }
    }

    /// recvmmsg(2): what is there, at most a batch of messages, and how many they are. Fewer than that:
    /// there are no more.
    pub(crate) fn receive_datagrams(&self, into: &mut Inbound) -> Result<usize, Errno> {
        // SAFETY: these are plain data for which zero is valid.
        let mut names: [libc::sockaddr_storage; BATCH] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        let mut controls = [Control { bytes: [0; CONTROL] }; BATCH];
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
            header.msg_control = (&raw mut *control).cast();
            header.msg_controllen = CONTROL as _;
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
            into.take(n, peer, message.msg_len as usize, joined_from(&message.msg_hdr));
        }
        Ok(got)
    }

    /// sendmmsg(2), of a batch at most, whose bytes lie in `bytes`: how many messages the kernel took. An
    /// error is the first one's alone.
    pub(crate) fn send_datagrams(
        &self,
        bytes: &[u8],
        batch: &[UdpMessage],
    ) -> Result<usize, Errno> {
        // SAFETY: plain data for which zero is valid.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        let mut controls = [Control { bytes: [0; CONTROL] }; BATCH];
        let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
        let names: [Option<SockAddr>; BATCH] =
            std::array::from_fn(|n| batch.get(n).map(|message| message.to.into()));
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
            if bytes.len() > what.longest {
                cut_up(header, control, what.longest);
            }
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

/// Has the kernel cut this message into datagrams of that length (UDP_SEGMENT).
fn cut_up(header: &mut libc::msghdr, control: &mut Control, longest: usize) {
    let segment = longest as u16; // an IP datagram is no longer
    let size = mem::size_of_val(&segment) as u32;
    header.msg_control = (&raw mut *control).cast();
    // SAFETY: `control` is aligned as a header, and has room for one with a longer number than this.
    unsafe {
        header.msg_controllen = libc::CMSG_SPACE(size) as _;
        let first = libc::CMSG_FIRSTHDR(header);
        (*first).cmsg_level = libc::SOL_UDP;
        (*first).cmsg_type = libc::UDP_SEGMENT;
        (*first).cmsg_len = libc::CMSG_LEN(size) as _;
        libc::CMSG_DATA(first).cast::<u16>().write_unaligned(segment);
    }
}

/// The length of the datagrams that a received message was joined from (UDP_GRO); 0: it is one.
fn joined_from(header: &libc::msghdr) -> usize {
    // SAFETY: the kernel has said how long the control messages are that it has written; the only one
    // that this socket asked for carries an int, and there was room for it.
    let joined = unsafe {
        let first = libc::CMSG_FIRSTHDR(header);
        if first.is_null()
            || ((*first).cmsg_level, (*first).cmsg_type) != (libc::SOL_UDP, libc::UDP_GRO)
        {
            return 0;
        }
        libc::CMSG_DATA(first).cast::<libc::c_int>().read_unaligned()
    };
    usize::try_from(joined).unwrap_or(0)
}

fn datagram_socket(at: SocketAddr) -> io::Result<socket2::Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    socket2::Socket::new(Domain::for_address(at), kind, Some(Protocol::UDP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn at(socket: &Socket) -> SocketAddr {
        socket.local().unwrap().inet().unwrap()
    }

    /// So many datagrams of that length, and one that is shorter.
    fn said(count: usize, len: usize) -> Vec<u8> {
        (0..count * len + len / 2).map(|n| (n * n / 7) as u8).collect()
    }

    /// What this kernel joins is one message on the whole way, and arrives as what was sent.
    #[test]
    fn joined_datagrams_arrive_apart() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let (from, joins) = Socket::datagrams(local.parse().unwrap()).unwrap();
            let (to, _) = Socket::datagrams(local.parse().unwrap()).unwrap();
            let plain = UdpSocket::bind(local).unwrap();
            if !joins {
                return; // an old kernel
            }
            for (count, len) in [(1, 1), (49, 3), (63, 1), (40, 1472), (2, 20_000)] {
                let bytes = said(count, len);
                let end = bytes.len();
                let batch = [at(&to), plain.local_addr().unwrap()].map(|to| UdpMessage {
                    to,
                    from: 0,
                    end,
                    longest: len,
                });
                assert_eq!(from.send_datagrams(&bytes, &batch).unwrap(), 2);
                let mut inbound = Inbound::new();
                assert_eq!(to.receive_datagrams(&mut inbound).unwrap(), 1, "joined here too");
                let wanted: Vec<&[u8]> = batch[0].cut(&bytes).collect();
                let came: Vec<_> = (0..inbound.len()).map(|n| inbound.datagram(n)).collect();
                assert!(came.iter().all(|(peer, _)| *peer == at(&from)));
                assert!(came.iter().map(|(_, bytes)| *bytes).eq(wanted.iter().copied()));
                let mut one = vec![0; SLOT];
                for wanted in wanted {
                    let len = plain.recv(&mut one).unwrap();
                    assert_eq!(&one[..len], wanted);
                }
            }
        }
    }

    #[test]
    fn single_ones_and_empty_ones_come_as_they_are() {
        let (from, _) = Socket::datagrams("127.0.0.1:0".parse().unwrap()).unwrap();
        let (to, _) = Socket::datagrams("127.0.0.1:0".parse().unwrap()).unwrap();
        let bytes = said(1, 100);
        let ends = [(0, 0), (0, 7), (7, 7), (7, 150)];
        let batch =
            ends.map(|(from, end)| UdpMessage { to: at(&to), from, end, longest: end - from });
        assert_eq!(from.send_datagrams(&bytes, &batch).unwrap(), 4);
        let mut inbound = Inbound::new();
        assert_eq!((to.receive_datagrams(&mut inbound).unwrap(), inbound.len()), (4, 4));
        for (n, (from, end)) in ends.into_iter().enumerate() {
            assert_eq!(inbound.datagram(n).1, &bytes[from..end]);
        }
    }
}
