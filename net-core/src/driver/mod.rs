//! The waist: all that a loop asks of the outside world.
//!
//! A handler never reads or writes a socket. A callback gets bytes and leaves bytes, and the loop's turn
//! moves them through a `Driver`. Sockets are made, queried and closed here and nowhere above. Received bytes
//! are leased and then given back. No borrow lasts across a callback.
//!
//! - [`epoll`](self::Epoll): the default driver, by readiness. Generic over the system calls.
//! - `sim`: a simulated kernel with scripted peers and a virtual clock, for tests.

mod epoll;
pub(crate) mod readiness;
#[cfg(test)]
pub(crate) mod sim;
mod splice;

use crate::config::limits::Limits;
pub(crate) use crate::driver::readiness::{Link, What};
use crate::observe::connection_query::Moved;
use crate::sys::addr::Addr;
use crate::sys::{
    DatagramOptions, DialOptions, Errno, Inbound, ListenOptions, Socket, UdpMessage, Waker,
};
pub(crate) use epoll::Epoll;
use net_buffer::{Output, Pool};
use net_timer::Tick;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;

/// Tokens that name no connection. Their lower half, the generation, is zero.
pub(crate) const WAKER: u64 = 0;
pub(crate) const FD_CHANNEL: u64 = 1 << 32;
const FIRST_LISTENER: u64 = 2 << 32;
const FIRST_ENDPOINT: u64 = 1 << 62;
const FIRST_WAITING: u64 = 1 << 63;

/// The token of listener number `n`.
pub(crate) fn listener_token(n: usize) -> u64 {
    FIRST_LISTENER + ((n as u64) << 32)
}

/// The listener's number in a token. `None`: the token is not a listener's.
pub(crate) fn listener_number(token: u64) -> Option<usize> {
    let is_listener = token as u32 == 0 && (FIRST_LISTENER..FIRST_ENDPOINT).contains(&token);
    is_listener.then(|| ((token - FIRST_LISTENER) >> 32) as usize)
}

/// The token of datagram endpoint number `n`.
pub(crate) fn endpoint_token(n: usize) -> u64 {
    FIRST_ENDPOINT + ((n as u64) << 32)
}

/// The endpoint's number in a token. `None`: the token is not an endpoint's.
pub(crate) fn endpoint_number(token: u64) -> Option<usize> {
    let is_endpoint = token as u32 == 0 && (FIRST_ENDPOINT..FIRST_WAITING).contains(&token);
    is_endpoint.then(|| ((token - FIRST_ENDPOINT) >> 32) as usize)
}

/// The token of the connection that waits, as number `n`, for a place in the table. The numbers always
/// suffice, because a loop has 2²⁴ slots.
pub(crate) fn waiting_token(n: u32) -> u64 {
    FIRST_WAITING + (u64::from(n) << 32)
}

/// The number of the waiting connection in a token. `None`: the token is not such a connection's.
pub(crate) fn waiting_number(token: u64) -> Option<u32> {
    let is_waiting = token as u32 == 0 && token >= FIRST_WAITING;
    is_waiting.then(|| ((token - FIRST_WAITING) >> 32) as u32)
}

/// One event: the token of its socket, and all that the kernel reported.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signal {
    /// The token under which the socket was attached.
    pub(crate) token: u64,
    /// What the kernel reported.
    pub(crate) what: What,
}

/// Received bytes, lent by the driver until they are settled.
#[derive(Debug)]
#[must_use = "a lease is settled, so that the driver can use its memory again"]
pub(crate) struct Lease {
    /// The number of bytes.
    pub(crate) len: u32,
    /// No more bytes will come without a new signal.
    pub(crate) is_last: bool,
}

/// How a receive ended.
#[derive(Debug)]
pub(crate) enum Received {
    /// Bytes were received, at least one.
    Bytes(Lease),
    /// No bytes are there. A signal will come when there are.
    Drained,
    /// The peer will send no more.
    End,
    /// The connection has failed.
    Failed(Errno),
}

/// How a send ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Bytes that the kernel took.
    pub(crate) bytes: usize,
    /// What the caller has to do next.
    pub(crate) then: Then,
}

/// What the caller of a send has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing: all bytes were taken.
    Done,
    /// Wait: the socket is full. A ROOM signal will come.
    Full,
    /// Try again in the next turn: the budget is used up, and no signal will come.
    Budget,
    /// The connection has failed.
    Failed(Errno),
    /// A file has ended before the range of it that was to be sent.
    FileEnded,
}

/// The result of a splice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spliced {
    /// The number of bytes moved, at least one. A number below the limit does not mean that no more are
    /// there.
    Bytes(usize),
    /// No bytes were moved. The reason is unknown: only a receive can tell it.
    Nothing,
    /// No bytes were moved, because no pipe is available for them.
    NoPipe,
    /// The connection has failed.
    Failed(Errno),
}

/// How a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// close(2): FIN, if none was sent.
    Close,
    /// RST.
    Reset,
}

/// What a loop asks of the world. Only the loop's own thread uses it. No call blocks except `wait`.
pub(crate) trait Driver: Sized {
    /// Makes a driver. `waker` ends its waits.
    fn open(limits: &Limits, waker: Arc<Waker>) -> io::Result<Self>;
    /// The time in milliseconds, truncated. The clock never goes back.
    fn now(&self) -> Tick;
    /// Nanoseconds of the same clock, to time callbacks.
    fn nanos(&self) -> u64;
    /// A number that differs from loop to loop, for choices that are to be random.
    fn seed(&self) -> u64;
    /// Waits for signals, until `until` at the latest. `None`: without a limit. `now` is the clock's last
    /// reading. If `until` is not after `now`, it only looks for signals and does not wait.
    fn wait(&mut self, now: Tick, until: Option<Tick>) -> io::Result<()>;
    /// Consumes the waker's signal, so that the next ring is a new signal.
    fn woken(&mut self);
    /// The next signal of the last wait.
    fn next(&mut self) -> Option<Signal>;

    /// Binds a socket, listens on it, and attaches it under `token`.
    fn listen(&mut self, token: u64, at: &Addr, options: &ListenOptions) -> io::Result<Socket>;
    /// Accepts the next client.
    fn accept(&mut self, listener: &Socket) -> Result<(Socket, Addr), Errno>;
    /// Accepts one client and closes it at once, when there is no descriptor to keep it. False: no client
    /// could be accepted.
    fn shed(&mut self, listener: &Socket) -> bool;
    /// Ends listening, also for the copies in other descriptor tables.
    fn unlisten(&mut self, listener: Socket);
    /// Opens a socket for datagrams at an address that is held already, and attaches it under `token`.
    /// `detach` closes it. True: the kernel cuts up a message that carries several datagrams.
    fn open_datagrams(
        &mut self,
        token: u64,
        at: SocketAddr,
        options: &DatagramOptions,
    ) -> io::Result<(Socket, bool)>;
    /// Receives a batch of messages that carry datagrams. Fewer messages than a batch: no more will come
    /// without a new signal.
    fn receive_datagrams(&mut self, socket: &Socket, into: &mut Inbound) -> Result<usize, Errno>;
    /// Sends at most one batch of messages, whose bytes lie in `bytes`. Returns how many messages were taken.
    /// An error belongs to the first message. After `EAGAIN` a signal comes when there is room.
    fn send_datagrams(
        &mut self,
        socket: &Socket,
        bytes: &[u8],
        batch: &[UdpMessage],
    ) -> Result<usize, Errno>;
    /// Begins a connect. The caller attaches the socket, which signals when the connect has an outcome.
    fn dial(&mut self, to: &Addr, options: &DialOptions) -> io::Result<Socket>;
    /// The outcome of a dial whose socket has signalled. `None`: it is not known yet.
    fn dialled(&mut self, socket: &Socket) -> Option<Result<(), Errno>>;
    /// Takes the error that the kernel keeps for the socket, if there is one. A second call finds none.
    fn failure(&mut self, socket: &Socket) -> Option<Errno>;
    /// From now on the socket signals under `token`.
    fn attach(&mut self, token: u64, socket: &Socket) -> Result<(), Errno>;
    /// The peer's address.
    fn peer(socket: &Socket) -> io::Result<Addr>;
    /// The own address.
    fn local(socket: &Socket) -> io::Result<Addr>;

    /// Receives at most `most` bytes.
    fn receive(&mut self, socket: &Socket, link: &mut Link, most: usize) -> Received;
    /// The leased bytes.
    fn leased(&self, lease: &Lease) -> &[u8];
    /// Gives the lease back.
    fn settle(&mut self, lease: Lease);

    /// Moves received bytes, at most `most`, to the end of another connection's `output`. They go through a
    /// pipe of the pool and not through this process.
    fn splice(
        &mut self,
        socket: &Socket,
        most: usize,
        output: &mut Output,
        pool: &mut Pool,
    ) -> Spliced;

    /// Sends the part of a lease from `from` to `to`: the shortest path of an echo.
    fn send_leased(
        &mut self,
        socket: &Socket,
        link: &mut Link,
        lease: &Lease,
        from: usize,
        to: usize,
    ) -> Sent;
    /// Sends borrowed parts, at most 1,024. The caller keeps the parts that are not taken.
    fn offer(&mut self, socket: &Socket, link: &mut Link, parts: &[IoSlice<'_>]) -> Sent;
    /// Sends at most `budget` bytes of `output`, and takes out the bytes that were sent. It reads the files
    /// and pipes in `output`. `more`: bytes that follow at once may leave in one segment with the last bytes.
    fn send(
        &mut self,
        socket: &Socket,
        link: &mut Link,
        output: &mut Output,
        pool: &mut Pool,
        budget: usize,
        more: bool,
    ) -> Sent;

    /// Sends FIN after the bytes that were sent.
    fn finish(&mut self, socket: &Socket) -> Result<(), Errno>;
    /// The number of sent bytes that the peer has not acknowledged.
    fn unacknowledged(&self, socket: &Socket) -> usize;
    /// Milliseconds since the peer's last byte. `None`: the system cannot tell.
    fn quiet_for(&self, _socket: &Socket) -> Option<u64> {
        None
    }
    /// Milliseconds since the last byte was received or sent. `None`: the system cannot tell.
    fn idle_for(&self, _socket: &Socket) -> Option<u64> {
        None
    }
    /// The bytes received, and the bytes sent and acknowledged, since the connection came up. `None`: the
    /// system does not count them.
    fn moved(&self, _socket: &Socket) -> Option<Moved> {
        None
    }
    /// Ends the connection, and owns the socket until nothing is in flight.
    fn detach(&mut self, socket: Socket, how: Ending);
}
