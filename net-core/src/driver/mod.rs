//! The waist: all that a loop asks of the world outside.
//!
//! A handler never reads or writes a socket. It is given bytes and leaves bytes, and the loop's
//! turn moves them through a `Driver`. Sockets are made, asked and ended here and nowhere above.
//! Bytes are leased in and given back; nothing borrowed stays across a callback.
//!
//! - [`epoll`](self::Epoll): readiness, the default. Generic over the system calls.
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

/// Tokens that name no connection: their lower half is zero.
pub(crate) const WAKER: u64 = 0;
pub(crate) const FD_CHANNEL: u64 = 1 << 32;
const FIRST_LISTENER: u64 = 2 << 32;
const FIRST_ENDPOINT: u64 = 1 << 62;
const FIRST_WAITING: u64 = 1 << 63;

/// The token of listener number `n`.
pub(crate) fn listener_token(n: usize) -> u64 {
    FIRST_LISTENER + ((n as u64) << 32)
}

/// The listener's number in a token, if it is one.
pub(crate) fn listener_number(token: u64) -> Option<usize> {
    let is_listener = token as u32 == 0 && (FIRST_LISTENER..FIRST_ENDPOINT).contains(&token);
    is_listener.then(|| ((token - FIRST_LISTENER) >> 32) as usize)
}

/// The token of endpoint number `n`, which receives datagrams.
pub(crate) fn endpoint_token(n: usize) -> u64 {
    FIRST_ENDPOINT + ((n as u64) << 32)
}

/// The endpoint's number in a token, if it is one.
pub(crate) fn endpoint_number(token: u64) -> Option<usize> {
    let is_endpoint = token as u32 == 0 && (FIRST_ENDPOINT..FIRST_WAITING).contains(&token);
    is_endpoint.then(|| ((token - FIRST_ENDPOINT) >> 32) as usize)
}

/// The token of a connection that waits, as number `n`, to come into the table. Of so many there are
/// never too few numbers: a loop has 2²⁴ slots.
pub(crate) fn waiting_token(n: u32) -> u64 {
    FIRST_WAITING + (u64::from(n) << 32)
}

/// The number of a waiting connection in a token, if it is one.
pub(crate) fn waiting_number(token: u64) -> Option<u32> {
    let is_waiting = token as u32 == 0 && token >= FIRST_WAITING;
    is_waiting.then(|| ((token - FIRST_WAITING) >> 32) as u32)
}

/// One event: for whom, and all that it said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signal {
    /// What the socket was attached with.
    pub(crate) token: u64,
    /// What was said.
    pub(crate) what: What,
}

/// Received bytes, lent by the driver until they are settled.
#[derive(Debug)]
#[must_use = "a lease is settled, so that the driver can use its memory again"]
pub(crate) struct Lease {
    /// How many.
    pub(crate) len: u32,
    /// Nothing more will come without a new signal.
    pub(crate) is_last: bool,
}

/// How a receive ended.
#[derive(Debug)]
pub(crate) enum Received {
    /// Here are bytes, at least one.
    Bytes(Lease),
    /// Nothing is there. A signal will come when that changes.
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
    /// What follows.
    pub(crate) then: Then,
}

/// What follows a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// All was taken.
    Done,
    /// There is no more room. A ROOM signal will come.
    Full,
    /// The budget is used up. No signal will come: try again next turn.
    Budget,
    /// The connection has failed.
    Failed(Errno),
    /// A file has ended before the stretch of it that was to be sent.
    FileEnded,
}

/// What a splice brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spliced {
    /// So many bytes, at least one. Fewer than were asked for prove nothing.
    Bytes(usize),
    /// Nothing, which proves nothing: only a receive can tell why.
    Nothing,
    /// Nothing: there is no pipe for them.
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

/// What a loop asks of the world. Used by the loop's own thread only; no call blocks but `wait`.
pub(crate) trait Driver: Sized {
    /// A driver in which `waker` ends a wait.
    fn open(limits: &Limits, waker: Arc<Waker>) -> io::Result<Self>;
    /// Milliseconds of a clock that never goes back, truncated.
    fn now(&self) -> Tick;
    /// Nanoseconds of the same clock, for what is timed.
    fn nanos(&self) -> u64;
    /// A number that no two loops share, for what is to be spread by chance.
    fn seed(&self) -> u64;
    /// Waits for signals, until `until` at the latest; `None` is for ever. `now` is the clock's
    /// last reading; a time at or before it means: look, and do not wait.
    fn wait(&mut self, now: Tick, until: Option<Tick>) -> io::Result<()>;
    /// Takes note of the waker's signal, so that the next ring is a signal again.
    fn woken(&mut self);
    /// The next signal of the last wait.
    fn next(&mut self) -> Option<Signal>;

    /// Binds, listens, and attaches the listener under `token`.
    fn listen(&mut self, token: u64, at: &Addr, options: &ListenOptions) -> io::Result<Socket>;
    /// The next client.
    fn accept(&mut self, listener: &Socket) -> Result<(Socket, Addr), Errno>;
    /// Accepts one client only to close it, when there is no descriptor to keep it. False if none
    /// could be.
    fn shed(&mut self, listener: &Socket) -> bool;
    /// Ends listening, in every descriptor table that has a copy.
    fn unlisten(&mut self, listener: Socket);
    /// Opens a socket for datagrams at an address that is held, and attaches it under `token`. It is
    /// ended by `detach`. True: the kernel cuts up messages that carry several.
    fn open_datagrams(
        &mut self,
        token: u64,
        at: SocketAddr,
        options: &DatagramOptions,
    ) -> io::Result<(Socket, bool)>;
    /// Receives a batch of messages with datagrams; fewer than a batch: no more will come without a new
    /// signal.
    fn receive_datagrams(&mut self, socket: &Socket, into: &mut Inbound) -> Result<usize, Errno>;
    /// Sends a batch at most, whose bytes lie in `bytes`: how many messages were
    /// taken. An error is the first one's; `EAGAIN`: a signal will come when there is room.
    fn send_datagrams(
        &mut self,
        socket: &Socket,
        bytes: &[u8],
        batch: &[UdpMessage],
    ) -> Result<usize, Errno>;
    /// Begins a connect. The socket is attached by the caller, and signals when it is decided.
    fn dial(&mut self, to: &Addr, options: &DialOptions) -> io::Result<Socket>;
    /// How a dialled connection came out, once it has signalled; `None`: that is still open.
    fn dialled(&mut self, socket: &Socket) -> Option<Result<(), Errno>>;
    /// The error that the socket has reported, if it has. Asking takes it.
    fn failure(&mut self, socket: &Socket) -> Option<Errno>;
    /// From now on the socket signals under `token`.
    fn attach(&mut self, token: u64, socket: &Socket) -> Result<(), Errno>;
    /// The other end's address.
    fn peer(socket: &Socket) -> io::Result<Addr>;
    /// This end's address.
    fn local(socket: &Socket) -> io::Result<Addr>;

    /// Receives `most` bytes at most.
    fn receive(&mut self, socket: &Socket, link: &mut Link, most: usize) -> Received;
    /// The leased bytes.
    fn leased(&self, lease: &Lease) -> &[u8];
    /// Gives the lease back.
    fn settle(&mut self, lease: Lease);

    /// Moves what has come, `most` bytes at most, to the end of another connection's `output`, by a pipe
    /// of the pool and past this process.
    fn splice(
        &mut self,
        socket: &Socket,
        most: usize,
        output: &mut Output,
        pool: &mut Pool,
    ) -> Spliced;

    /// Sends the part of a lease from `from` to `to`: the shortest way an echo can take.
    fn send_leased(
        &mut self,
        socket: &Socket,
        link: &mut Link,
        lease: &Lease,
        from: usize,
        to: usize,
    ) -> Sent;
    /// Sends borrowed parts, at most 1,024. What is not taken stays the caller's.
    fn offer(&mut self, socket: &Socket, link: &mut Link, parts: &[IoSlice<'_>]) -> Sent;
    /// Sends from `output`, at most `budget` bytes, and takes out what was sent. Files and pipes in it
    /// are read on the way. `more`: what follows at once may leave in one segment with the last bytes.
    fn send(
        &mut self,
        socket: &Socket,
        link: &mut Link,
        output: &mut Output,
        pool: &mut Pool,
        budget: usize,
        more: bool,
    ) -> Sent;

    /// FIN after what was sent.
    fn finish(&mut self, socket: &Socket) -> Result<(), Errno>;
    /// Bytes sent that the peer has not acknowledged.
    fn unacknowledged(&self, socket: &Socket) -> usize;
    /// Milliseconds since the peer's last byte, if the system can tell.
    fn quiet_for(&self, _socket: &Socket) -> Option<u64> {
        None
    }
    /// Milliseconds since a byte came or went, if the system can tell.
    fn idle_for(&self, _socket: &Socket) -> Option<u64> {
        None
    }
    /// Bytes received, and sent and acknowledged, since the connection came up, if the system counts
    /// them.
    fn moved(&self, _socket: &Socket) -> Option<Moved> {
        None
    }
    /// Ends the connection and owns the socket until nothing is in flight.
    fn detach(&mut self, socket: Socket, how: Ending);
}
