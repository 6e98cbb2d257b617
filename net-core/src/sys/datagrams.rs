//! Datagrams: recvmmsg(2) into one block, sendmmsg(2) from slices, and the sockets for it.

use super::socket::address_of;
use super::{Errno, Socket};
use socket2::{Domain, Protocol, SockAddr, Type};
use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddr};
use std::ptr;

/// Datagrams that one call receives or sends at most.
pub(crate) const BATCH: usize = 32;

/// Above the largest datagram of IP (65,535 with its headers), so none is ever cut off.
const SLOT: usize = 64 << 10;

/// Room for a batch of received datagrams, each at the start of its slot. The kernel gives memory
/// only to the pages that it writes: of small datagrams, one a slot.
pub(crate) struct Inbound {
    block: Box<[u8]>,
    came: Vec<(SocketAddr, usize)>,
}

impl Inbound {
    pub(crate) fn new() -> Self {
        Self { block: vec![0; BATCH * SLOT].into_boxed_slice(), came: Vec::with_capacity(BATCH) }
    }

    /// Number `n` of the last batch: from where, and what.
    pub(crate) fn datagram(&self, n: usize) -> (SocketAddr, &[u8]) {
        let (peer, len) = self.came[n];
        (peer, &self.block[n * SLOT..][..len])
    }

    /// What a model of the kernel received.
    #[cfg(test)]
    pub(crate) fn fill(&mut self, datagrams: impl Iterator<Item = (SocketAddr, Vec<u8>)>) {
        self.came.clear();
        for (n, (peer, bytes)) in datagrams.enumerate() {
            self.block[n * SLOT..][..bytes.len()].copy_from_slice(&bytes);
            self.came.push((peer, bytes.len()));
        }
    }
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
    /// hash of both addresses.
    pub(crate) fn datagrams(at: SocketAddr) -> io::Result<Self> {
        let socket = datagram_socket(at)?;
        socket.set_reuse_port(true)?;
        socket.bind(&at.into())?;
        Ok(Self::from_owned(socket.into()))
    }

    /// recvmmsg(2): what is there, at most a batch. Fewer than that: there are no more.
    pub(crate) fn receive_datagrams(&self, into: &mut Inbound) -> Result<usize, Errno> {
        // SAFETY: these are plain data for which zero is valid.
        let mut names: [libc::sockaddr_storage; BATCH] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
        let slots = into.block.chunks_exact_mut(SLOT);
        for (((message, part), name), slot) in
            messages.iter_mut().zip(&mut parts).zip(&mut names).zip(slots)
        {
            *part = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: SLOT };
            message.msg_hdr.msg_name = (&raw mut *name).cast();
            message.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as u32;
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
        }
        let number = self.number();
        // SAFETY: every header names writable memory of the stated length, which outlives the call:
        // its own slot of the block, and its own name.
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
        for (message, name) in messages.iter().zip(&names).take(got) {
            let from = address_of(name, message.msg_hdr.msg_namelen as usize);
            let peer = from.inet().unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into());
            into.came.push((peer, message.msg_len as usize));
        }
        Ok(got)
    }

    /// sendmmsg(2), of a batch at most: how many the kernel took. An error is the first one's alone.
    pub(crate) fn send_datagrams(&self, what: &[(SocketAddr, &[u8])]) -> Result<usize, Errno> {
        let names: Vec<SockAddr> = what.iter().map(|(to, _)| SockAddr::from(*to)).collect();
        // SAFETY: plain data for which zero is valid.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
        let count = what.len().min(BATCH);
        for (((message, part), name), (_, bytes)) in
            messages.iter_mut().zip(&mut parts).zip(&names).zip(what)
        {
            *part =
                libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            message.msg_hdr.msg_name = name.as_ptr().cast_mut().cast();
            message.msg_hdr.msg_namelen = name.len();
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
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

fn datagram_socket(at: SocketAddr) -> io::Result<socket2::Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    socket2::Socket::new(Domain::for_address(at), kind, Some(Protocol::UDP))
}
