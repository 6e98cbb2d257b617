//! The readiness driver: epoll, edge-triggered, registered once.
//!
//! All connections of a loop receive into one block, so an idle connection owns no buffer. `readiness`
//! decides what an edge means. This file only makes the calls.

use super::splice::splice;
use super::{Driver, Ending, Lease, Link, Received, Sent, Signal, Spliced, Then, WAKER, What};
use crate::config::limits::Limits;
use crate::driver::readiness::AfterReceive;
use crate::observe::connection_query::Moved;
use crate::sys::addr::Addr;
use crate::sys::{
    DatagramOptions, DialOptions, Errno, Events, Inbound, Kernel, Linux, ListenOptions, Socket,
    UdpMessage, Waker, epoll,
};
use net_buffer::{Output, Pipe, Pool};
use net_timer::Tick;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;

/// The number of slices in one gathering send. The kernel allows 1,024 (`IOV_MAX`).
const SLICES: usize = 64;

/// The default driver, over the kernel's system calls or over a model of them.
pub(crate) struct Epoll<K: Kernel = Linux> {
    kernel: K,
    waker: Arc<Waker>,
    events: Events,
    /// The index of the event that `next` returns next.
    position: usize,
    block: Box<[u8]>,
}

impl<K: Kernel> Epoll<K> {
    /// The kernel below the driver, for tests that control a model of it.
    #[cfg(test)]
    pub(crate) fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    fn sent(link: &mut Link, offered: usize, result: Result<usize, Errno>) -> Sent {
        match result {
            Ok(bytes) => {
                let is_full = link.after_send(offered, bytes);
                Sent { bytes, then: if is_full { Then::Full } else { Then::Done } }
            }
            Err(errno) if errno == Errno::AGAIN => {
                link.after_send(offered, 0);
                Sent { bytes: 0, then: Then::Full }
            }
            Err(errno) => Sent { bytes: 0, then: Then::Failed(errno) },
        }
    }
}

impl<K: Kernel> Driver for Epoll<K> {
    fn open(limits: &Limits, waker: Arc<Waker>) -> io::Result<Self> {
        Ok(Self {
            kernel: K::open(&waker, WAKER)?,
            waker,
            events: Events::with_capacity(limits.events_per_wait),
            position: 0,
            // The block is no larger than the bytes that one connection may receive in a turn. So the
            // straight path need not check that bound.
            block: vec![0; limits.receive_max()].into_boxed_slice(),
        })
    }

    #[inline]
    fn now(&self) -> Tick {
        self.kernel.now()
    }

    fn nanos(&self) -> u64 {
        self.kernel.nanos()
    }

    fn seed(&self) -> u64 {
        self.kernel.seed()
    }

    #[inline]
    fn wait(&mut self, now: Tick, until: Option<Tick>) -> io::Result<()> {
        // `now` was truncated to whole milliseconds, so the timeout is never too short.
        let timeout_ms = match until {
            None => -1,
            Some(until) => until.saturating_since(now).min(i32::MAX as u64) as i32,
        };
        self.position = 0;
        self.kernel.wait(&mut self.events, timeout_ms)
    }

    fn woken(&mut self) {
        self.kernel.quiet(&self.waker);
    }

    #[inline]
    fn next(&mut self) -> Option<Signal> {
        let event = self.events.get(self.position)?;
        self.position += 1;
        Some(Signal { token: event.token, what: What::from_bits(event.bits) })
    }

    fn listen(&mut self, token: u64, at: &Addr, options: &ListenOptions) -> io::Result<Socket> {
        let listener = self.kernel.listen(at, options)?;
        self.kernel.watch(&listener, token)?;
        Ok(listener)
    }

    fn accept(&mut self, listener: &Socket) -> Result<(Socket, Addr), Errno> {
        self.kernel.accept(listener)
    }

    fn shed(&mut self, listener: &Socket) -> bool {
        self.kernel.shed(listener)
    }

    fn unlisten(&mut self, listener: Socket) {
        self.kernel.unlisten(listener);
    }

    fn open_datagrams(
        &mut self,
        token: u64,
        at: SocketAddr,
        options: &DatagramOptions,
    ) -> io::Result<(Socket, bool)> {
        let (socket, joins) = self.kernel.datagrams(at, options)?;
        self.kernel.watch(&socket, token)?;
        Ok((socket, joins))
    }

    fn receive_datagrams(&mut self, socket: &Socket, into: &mut Inbound) -> Result<usize, Errno> {
        self.kernel.receive_datagrams(socket, into)
    }

    fn send_datagrams(
        &mut self,
        socket: &Socket,
        bytes: &[u8],
        batch: &[UdpMessage],
    ) -> Result<usize, Errno> {
        self.kernel.send_datagrams(socket, bytes, batch)
    }

    fn dial(&mut self, to: &Addr, options: &DialOptions) -> io::Result<Socket> {
        self.kernel.dial(to, options)
    }

    fn dialled(&mut self, socket: &Socket) -> Option<Result<(), Errno>> {
        if let Err(errno) = self.kernel.take_error(socket) {
            return Some(Err(errno));
        }
        if !self.kernel.is_connected(socket) {
            return None;
        }
        // The kernel may give a dialled port of the ephemeral range to the dialling socket itself. TCP then
        // connects the socket to itself (simultaneous open). No server answered, so the dial counts as
        // refused.
        match (K::local(socket), K::peer(socket)) {
            (Ok(local @ Addr::Inet(_)), Ok(peer)) if local == peer => Some(Err(Errno::CONNREFUSED)),
            _ => Some(Ok(())),
        }
    }

    fn failure(&mut self, socket: &Socket) -> Option<Errno> {
        self.kernel.take_error(socket).err()
    }

    fn attach(&mut self, token: u64, socket: &Socket) -> Result<(), Errno> {
        self.kernel.watch(socket, token)
    }

    fn peer(socket: &Socket) -> io::Result<Addr> {
        K::peer(socket)
    }

    fn local(socket: &Socket) -> io::Result<Addr> {
        K::local(socket)
    }

    #[inline]
    fn receive(&mut self, socket: &Socket, link: &mut Link, most: usize) -> Received {
        let asked = most.min(self.block.len());
        match self.kernel.receive(socket, &mut self.block[..asked]) {
            Ok(0) => Received::End,
            Ok(got) => {
                let is_last = link.after_receive(asked, got) == AfterReceive::Drained;
                Received::Bytes(Lease { len: got as u32, is_last })
            }
            Err(errno) if errno == Errno::AGAIN => Received::Drained,
            Err(errno) => Received::Failed(errno),
        }
    }

    #[inline]
    fn leased(&self, lease: &Lease) -> &[u8] {
        &self.block[..lease.len as usize]
    }

    #[inline]
    fn settle(&mut self, lease: Lease) {
        // There is only one block, and it is free again when no callback reads it any more.
        let Lease { .. } = lease;
    }

    fn splice(
        &mut self,
        socket: &Socket,
        most: usize,
        output: &mut Output,
        pool: &mut Pool,
    ) -> Spliced {
        let fill = |kernel: &mut K, pipe: &Pipe| kernel.fill_pipe(pipe, socket, most);
        splice(&mut self.kernel, output, pool, K::pipe, fill)
    }

    #[inline]
    fn send_leased(
        &mut self,
        socket: &Socket,
        link: &mut Link,
        lease: &Lease,
        from: usize,
        to: usize,
    ) -> Sent {
        let bytes = &self.block[..lease.len as usize][from..to];
        let result = self.kernel.send(socket, bytes);
        Self::sent(link, bytes.len(), result)
    }

    fn offer(&mut self, socket: &Socket, link: &mut Link, parts: &[IoSlice<'_>]) -> Sent {
        let offered = parts.iter().map(|part| part.len()).sum();
        let result = match parts {
            [one] => self.kernel.send(socket, one),
            several => self.kernel.send_slices(socket, several, false),
        };
        Self::sent(link, offered, result)
    }

    fn send(
        &mut self,
        socket: &Socket,
        link: &mut Link,
        output: &mut Output,
        pool: &mut Pool,
        budget: usize,
        more: bool,
    ) -> Sent {
        let mut sent = 0;
        while !output.is_empty() {
            if sent == budget {
                return Sent { bytes: sent, then: Then::Budget };
            }
            let once = if let Some((file, from, left)) = output.next_file() {
                let most = left.min(budget - sent);
                match self.kernel.send_file(socket, file, from, most) {
                    Ok(0) => Sent { bytes: 0, then: Then::FileEnded },
                    // A short send does not mean that the socket is full: the file may end there. The next
                    // call tells.
                    Ok(bytes) => Sent { bytes, then: Then::Done },
                    result => Self::sent(link, most, result),
                }
            } else if let Some((pipe, left)) = output.next_pipe() {
                let most = left.min(budget - sent);
                match self.kernel.send_pipe(pipe, socket, most) {
                    // The pipe has fewer bytes than were counted into it: our own mistake.
                    Ok(0) => Sent { bytes: 0, then: Then::Failed(Errno::IO) },
                    // As for a file: a short send does not mean that the socket is full.
                    Ok(bytes) => Sent { bytes, then: Then::Done },
                    result => Self::sent(link, most, result),
                }
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let (used, offered) = output.slices(&mut slices, budget - sent);
                let more = more || offered < output.len().min(budget - sent);
                let result = self.kernel.send_slices(socket, &slices[..used], more);
                Self::sent(link, offered, result)
            };
            output.advance(once.bytes, pool);
            sent += once.bytes;
            if once.then != Then::Done {
                return Sent { bytes: sent, then: once.then };
            }
        }
        Sent { bytes: sent, then: Then::Done }
    }

    fn finish(&mut self, socket: &Socket) -> Result<(), Errno> {
        self.kernel.shutdown_write(socket)
    }

    fn unacknowledged(&self, socket: &Socket) -> usize {
        self.kernel.unacknowledged(socket)
    }

    fn quiet_for(&self, socket: &Socket) -> Option<u64> {
        self.kernel.quiet_for(socket)
    }

    fn idle_for(&self, socket: &Socket) -> Option<u64> {
        self.kernel.idle_for(socket)
    }

    fn moved(&self, socket: &Socket) -> Option<Moved> {
        let (received, acknowledged) = self.kernel.moved(socket)?;
        Some(Moved { received, acknowledged })
    }

    fn detach(&mut self, socket: Socket, how: Ending) {
        self.kernel.close(socket, how == Ending::Reset);
    }
}

// A bit of an epoll event and a bit of `What` have the same value, so no event needs a translation.
const _: () = {
    assert!(epoll::IN == What::ARRIVED.bits() && epoll::PRI == What::URGENT.bits());
    assert!(epoll::OUT == What::ROOM.bits() && epoll::ERR == What::GONE.bits());
    assert!(epoll::HUP == What::HUNG_UP.bits() && epoll::RDHUP == What::ENDED.bits());
};
