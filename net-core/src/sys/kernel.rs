//! `Kernel`: the system calls that the epoll driver needs, so that tests can replace them by a model.

use super::{
    DatagramOptions, DialOptions, Epoll, Errno, Events, Inbound, ListenOptions, Socket, UdpMessage,
    Waker, descriptors, epoll, pipe, signals,
};
use crate::sys::addr::Addr;
use net_buffer::Pipe;
use net_timer::Tick;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IoSlice};
use std::net::SocketAddr;

/// The system calls of a loop: one method each, without policy. Only the loop's thread uses them.
///
/// [`Linux`] is the real kernel. The model kernel of the tests has sockets with finite buffers, and reports
/// an edge only where Linux would.
pub(crate) trait Kernel: Sized {
    /// An epoll instance in which `waker` is registered under `waker_token`.
    fn open(waker: &Waker, waker_token: u64) -> io::Result<Self>;
    /// Milliseconds of the monotonic clock, truncated.
    fn now(&self) -> Tick;
    /// Nanoseconds of the same clock.
    fn nanos(&self) -> u64;
    /// A number that differs from one call, thread and machine to the next.
    fn seed(&self) -> u64;
    /// Registers a socket for edge-triggered events of every kind, as long as it is open.
    fn watch(&mut self, socket: &Socket, token: u64) -> Result<(), Errno>;
    /// Replaces the events by the events that are ready. Waits at most `timeout_ms`, or without a limit for
    /// −1.
    fn wait(&mut self, events: &mut Events, timeout_ms: i32) -> io::Result<()>;
    /// recv(2).
    fn receive(&mut self, socket: &Socket, into: &mut [u8]) -> Result<usize, Errno>;
    /// send(2).
    fn send(&mut self, socket: &Socket, bytes: &[u8]) -> Result<usize, Errno>;
    /// sendmsg(2) with at most 1,024 slices. `more` (MSG_MORE): bytes that follow at once may fill up the
    /// last segment.
    fn send_slices(
        &mut self,
        socket: &Socket,
        slices: &[IoSlice<'_>],
        more: bool,
    ) -> Result<usize, Errno>;
    /// sendfile(2) from offset `from`. Returns 0 at the end of the file.
    fn send_file(
        &mut self,
        socket: &Socket,
        file: &File,
        from: u64,
        len: usize,
    ) -> Result<usize, Errno>;
    /// pipe2(2), for splice.
    fn pipe(&mut self) -> Result<Pipe, Errno>;
    /// splice(2) from a socket. Returns 0 at the peer's end of stream. `EAGAIN`: nothing was received, or the
    /// pipe has no free place, or urgent data is next.
    fn fill_pipe(&mut self, pipe: &Pipe, socket: &Socket, most: usize) -> Result<usize, Errno>;
    /// splice(2) to a socket, at most the bytes in the pipe. A short result does not mean that the socket is
    /// full.
    fn send_pipe(&mut self, pipe: &Pipe, socket: &Socket, most: usize) -> Result<usize, Errno>;
    /// shutdown(2) of the sending half.
    fn shutdown_write(&mut self, socket: &Socket) -> Result<(), Errno>;
    /// The number of bytes that the peer has not acknowledged.
    fn unacknowledged(&self, socket: &Socket) -> usize;
    /// Milliseconds since the peer's last byte. `None`: the system cannot tell.
    fn quiet_for(&self, _socket: &Socket) -> Option<u64> {
        None
    }
    /// Milliseconds since the last byte was received or sent. `None`: the system cannot tell.
    fn idle_for(&self, _socket: &Socket) -> Option<u64> {
        None
    }
    /// The bytes received, and the bytes sent and acknowledged. `None`: the system does not count them.
    fn moved(&self, _socket: &Socket) -> Option<(u64, u64)> {
        None
    }
    /// close(2), with RST if `reset`.
    fn close(&mut self, socket: Socket, reset: bool);
    /// Whether the socket has a peer now. If not, and without an error, the connect is still under way.
    fn is_connected(&self, socket: &Socket) -> bool;
    /// Takes the error that the kernel keeps for the socket: the outcome of a connect.
    fn take_error(&self, socket: &Socket) -> Result<(), Errno>;
    /// bind(2) and listen(2).
    fn listen(&mut self, at: &Addr, options: &ListenOptions) -> io::Result<Socket>;
    /// Begins a connect(2).
    fn dial(&mut self, to: &Addr, options: &DialOptions) -> io::Result<Socket>;
    /// accept4(2).
    fn accept(&mut self, listener: &Socket) -> Result<(Socket, Addr), Errno>;
    /// Accepts and closes one client. It gives up the spare descriptor for a moment.
    fn shed(&mut self, listener: &Socket) -> bool;
    /// Ends listening: shutdown, then close. Otherwise a copy in another descriptor table, or in a forked
    /// process, would go on accepting.
    fn unlisten(&mut self, listener: Socket);
    /// A socket for datagrams, at an address that is held already. Also returns whether the kernel cuts up a
    /// message that carries several datagrams.
    fn datagrams(
        &mut self,
        at: SocketAddr,
        options: &DatagramOptions,
    ) -> io::Result<(Socket, bool)>;
    /// recvmmsg(2) of at most one batch. Fewer messages than a batch: no more are there.
    fn receive_datagrams(&mut self, socket: &Socket, into: &mut Inbound) -> Result<usize, Errno>;
    /// sendmmsg(2) of at most one batch. An error belongs to the first message.
    fn send_datagrams(
        &mut self,
        socket: &Socket,
        bytes: &[u8],
        batch: &[UdpMessage],
    ) -> Result<usize, Errno>;
    /// getpeername(2).
    fn peer(socket: &Socket) -> io::Result<Addr>;
    /// getsockname(2).
    fn local(socket: &Socket) -> io::Result<Addr>;
    /// Sets the waker's counter back to zero.
    fn quiet(&mut self, waker: &Waker);
}

/// The kernel that this process runs on.
pub(crate) struct Linux {
    epoll: Epoll,
    /// Present while this thread listens.
    spare: Option<descriptors::Spare>,
    /// Present if clients are to be served even when descriptors have run out.
    reserve: Option<descriptors::Reserve>,
}

/// A socket is registered once for these events, and never modified. So a change of interest needs no system
/// call.
const EVERYTHING: u32 = epoll::IN | epoll::OUT | epoll::PRI | epoll::RDHUP | epoll::EDGE;

impl Kernel for Linux {
    fn open(waker: &Waker, waker_token: u64) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(waker.number(), waker_token, epoll::IN | epoll::EDGE)?;
        Ok(Self { epoll, spare: None, reserve: None })
    }

    #[inline]
    fn now(&self) -> Tick {
        monotonic()
    }

    fn nanos(&self) -> u64 {
        let time = monotonic_time();
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }

    fn seed(&self) -> u64 {
        // The standard library keys its hash maps from the system's randomness.
        RandomState::new().build_hasher().finish()
    }

    fn watch(&mut self, socket: &Socket, token: u64) -> Result<(), Errno> {
        self.epoll.add(socket.number(), token, EVERYTHING)
    }

    #[inline]
    fn wait(&mut self, events: &mut Events, timeout_ms: i32) -> io::Result<()> {
        #[cfg(test)]
        fault::meet()?;
        self.epoll.wait(events, timeout_ms)
    }

    #[inline]
    fn receive(&mut self, socket: &Socket, into: &mut [u8]) -> Result<usize, Errno> {
        socket.receive(into)
    }

    #[inline]
    fn send(&mut self, socket: &Socket, bytes: &[u8]) -> Result<usize, Errno> {
        socket.send(bytes)
    }

    fn send_slices(
        &mut self,
        socket: &Socket,
        slices: &[IoSlice<'_>],
        more: bool,
    ) -> Result<usize, Errno> {
        socket.send_slices(slices, more)
    }

    fn send_file(
        &mut self,
        socket: &Socket,
        file: &File,
        from: u64,
        len: usize,
    ) -> Result<usize, Errno> {
        signals::without_sigpipe(|| socket.send_file(file, from, len))
    }

    fn pipe(&mut self) -> Result<Pipe, Errno> {
        pipe::new()
    }

    fn fill_pipe(&mut self, pipe: &Pipe, socket: &Socket, most: usize) -> Result<usize, Errno> {
        pipe::fill(pipe, socket, most)
    }

    fn send_pipe(&mut self, pipe: &Pipe, socket: &Socket, most: usize) -> Result<usize, Errno> {
        signals::without_sigpipe(|| pipe::send(pipe, socket, most))
    }

    fn shutdown_write(&mut self, socket: &Socket) -> Result<(), Errno> {
        socket.shutdown_write()
    }

    fn unacknowledged(&self, socket: &Socket) -> usize {
        socket.unacknowledged()
    }

    fn quiet_for(&self, socket: &Socket) -> Option<u64> {
        socket.quiet_for()
    }

    fn idle_for(&self, socket: &Socket) -> Option<u64> {
        socket.idle_for()
    }

    fn moved(&self, socket: &Socket) -> Option<(u64, u64)> {
        socket.moved()
    }

    fn close(&mut self, socket: Socket, reset: bool) {
        if reset {
            socket.reset();
        } else {
            drop(socket);
        }
        if let Some(reserve) = &mut self.reserve {
            reserve.refill();
        }
    }

    fn is_connected(&self, socket: &Socket) -> bool {
        socket.peer().is_ok()
    }

    fn take_error(&self, socket: &Socket) -> Result<(), Errno> {
        socket.take_error()
    }

    fn listen(&mut self, at: &Addr, options: &ListenOptions) -> io::Result<Socket> {
        self.spare.get_or_insert_with(descriptors::Spare::new);
        if options.spares > 0 {
            self.reserve.get_or_insert_with(|| descriptors::Reserve::new(options.spares));
        }
        Socket::listen(at, options)
    }

    fn dial(&mut self, to: &Addr, options: &DialOptions) -> io::Result<Socket> {
        Socket::dial(to, options)
    }

    fn accept(&mut self, listener: &Socket) -> Result<(Socket, Addr), Errno> {
        if let Some(spare) = &mut self.spare {
            spare.refill();
        }
        let accepted = listener.accept();
        match (&accepted, &mut self.reserve) {
            (Err(errno), Some(reserve)) if matches!(errno.raw(), libc::EMFILE | libc::ENFILE) => {
                reserve.accept(listener)
            }
            _ => accepted,
        }
    }

    fn shed(&mut self, listener: &Socket) -> bool {
        self.spare.as_mut().is_some_and(|spare| spare.shed(listener))
    }

    fn unlisten(&mut self, listener: Socket) {
        listener.shutdown_listener();
    }

    fn datagrams(
        &mut self,
        at: SocketAddr,
        options: &DatagramOptions,
    ) -> io::Result<(Socket, bool)> {
        Socket::datagrams(at, options)
    }

    fn receive_datagrams(&mut self, socket: &Socket, into: &mut Inbound) -> Result<usize, Errno> {
        socket.receive_datagrams(into)
    }

    fn send_datagrams(
        &mut self,
        socket: &Socket,
        bytes: &[u8],
        batch: &[UdpMessage],
    ) -> Result<usize, Errno> {
        socket.send_datagrams(bytes, batch)
    }

    fn peer(socket: &Socket) -> io::Result<Addr> {
        socket.peer()
    }

    fn local(socket: &Socket) -> io::Result<Addr> {
        socket.local()
    }

    fn quiet(&mut self, waker: &Waker) {
        waker.quiet();
    }
}

/// Milliseconds of CLOCK_MONOTONIC. No change of the date moves it. Its origin is the boot, for every thread.
#[inline]
pub(crate) fn monotonic() -> Tick {
    let time = monotonic_time();
    Tick::from_millis(time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000)
}

#[inline]
fn monotonic_time() -> libc::timespec {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a writable timespec. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ListenOptions;
    use std::net::TcpStream;

    #[test]
    fn a_spare_that_was_lost_is_had_again_before_the_next_client_is() {
        let waker = Waker::new().unwrap();
        let mut kernel = Linux::open(&waker, 0).unwrap();
        let at = "127.0.0.1:0".parse().unwrap();
        let listener = kernel.listen(&at, &ListenOptions::default()).unwrap();
        let to = listener.local().unwrap().inet().unwrap();
        kernel.spare = Some(descriptors::Spare::lost());
        assert_eq!(kernel.accept(&listener).unwrap_err().raw(), libc::EAGAIN);
        assert!(kernel.spare.as_ref().unwrap().is_there());
        let _client = TcpStream::connect(to).unwrap();
        assert!(kernel.shed(&listener));
    }
}

/// A fault for the real kernel, in tests: the next wait of a thread fails with it.
#[cfg(test)]
pub(crate) mod fault {
    use std::cell::Cell;
    use std::io;

    type Fault = fn() -> io::Result<()>;

    thread_local! {
        static NEXT: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// The next wait of the calling thread meets this fault.
    pub(crate) fn at_next_wait(fault: Fault) {
        NEXT.set(Some(fault));
    }

    pub(super) fn meet() -> io::Result<()> {
        NEXT.take().map_or(Ok(()), |fault| fault())
    }
}
