//! What the benches may touch of the parts that no user sees: the table, the mailbox, the turn.
//!
//! Only behind the feature `bench`, which adds this module and changes nothing else.

use crate::accept::admission::{Admission, Arrival};
use crate::api::conn::Conn;
use crate::api::handler::{Handler, Peer};
use crate::api::server_handle::ServerHandle;
use crate::base::id::ConnId;
use crate::config::limits::Limits;
use crate::connection::life::State;
use crate::connection::slot::Connection;
use crate::connection::table::Table;
use crate::driver::{Driver, Epoll, WAKER, What};
use crate::event_loop::EventLoop;
use crate::observe::counters::Counter;
use crate::sys::addr::Addr;
use crate::sys::{
    DatagramOptions, DialOptions, Errno, Event, Events, Inbound, Kernel, ListenOptions, Socket,
    UdpMessage, Waker,
};
use crate::threads::inbox;
use crate::threads::mail::Mail;
use crate::threads::shared::Shared;
use net_buffer::{Input, Pipe};
use net_timer::Tick;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a connection in its loop's table, for a session of no size.
pub const ENTRY_BYTES: usize = size_of::<Connection<()>>();

/// Bytes of a message that [`Turns`] receives and sends.
pub const MESSAGE_BYTES: usize = 64;

// --- the table -----------------------------------------------------------------------------------

/// A loop's table, of connections without sockets.
pub struct Connections(Table<()>);

impl Connections {
    /// An empty one.
    #[allow(clippy::new_without_default)] // no bench needs a default of it
    pub fn new() -> Self {
        Self(Table::new(0, 0))
    }

    /// Takes one more connection in; `None` when all slots are used.
    #[inline]
    pub fn insert(&mut self) -> Option<ConnId> {
        self.0.insert(Socket::none(), State::Open, ()).ok()
    }

    /// Whether there is a connection of that id.
    #[inline]
    pub fn has(&mut self, id: ConnId) -> bool {
        self.0.get(id).is_some()
    }

    /// Moves a deadline later, as every received message does: found by its id, and one store.
    #[inline]
    pub fn put_off(&mut self, id: ConnId, deadline: Tick) {
        if let Some(connection) = self.0.get(id) {
            connection.head.deadline = deadline;
        }
    }

    /// Takes a connection out. False if there is none of that id.
    #[inline]
    pub fn remove(&mut self, id: ConnId) -> bool {
        self.0.remove(id).is_some()
    }
}

// --- the mailbox ---------------------------------------------------------------------------------

/// The receiving end of one loop's mailbox, of which the bench is the loop.
pub struct Inbox {
    shared: Arc<Shared<u64>>,
}

impl Inbox {
    /// An empty one, for so many messages. Its loop is awake.
    pub fn new(mail_queue: usize) -> io::Result<Self> {
        let limits = Limits { mail_queue, ..Limits::default() };
        Ok(Self { shared: Shared::new(1, Admission::new(1, &limits), &limits)? })
    }

    fn inbox(&self) -> &inbox::Inbox<u64> {
        &self.shared.loops[0]
    }

    /// The way in, from any thread.
    pub fn handle(&self) -> ServerHandle<u64> {
        ServerHandle(Arc::clone(&self.shared))
    }

    /// The oldest message.
    #[inline]
    pub fn take(&self) -> Option<u64> {
        match self.inbox().mail.take() {
            Some(Mail::Message(message)) => Some(message),
            _ => None,
        }
    }

    /// The loop goes to sleep. False if there is mail, and then it is awake.
    pub fn sleep(&self) -> bool {
        self.inbox().waker.word().try_sleep(|| !self.inbox().mail.is_empty())
    }

    /// The loop is awake again, and has taken note of what woke it.
    pub fn wake(&self) {
        let waker = &self.inbox().waker;
        waker.word().woke();
        waker.eventfd().quiet();
    }

    /// How often the loop's eventfd was written since it last took note of that.
    pub fn rings(&self) -> io::Result<u64> {
        let number = self.inbox().waker.eventfd().number();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
        let count = info.lines().find_map(|line| line.strip_prefix("eventfd-count:"));
        let count = count.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        count.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, info))
    }
}

// --- the turn ------------------------------------------------------------------------------------

/// One loop with the epoll driver, on a kernel in which every connection always has one message
/// and takes every answer: what a turn costs without the system calls.
pub struct Turns {
    event_loop: EventLoop<Echo, Epoll<Eager>>,
    shared: Arc<Shared<Infallible>>,
}

impl Turns {
    /// A loop with so many connections, each with an idle deadline. One wait finds all of them.
    pub fn new(connections: usize) -> io::Result<Self> {
        let limits = Limits {
            idle_timeout: Some(Duration::from_secs(60)),
            events_per_wait: connections,
            arrivals_queue: connections,
            arrivals_per_turn: connections,
            ..Limits::default()
        };
        let shared = Shared::new(1, Admission::new(connections, &limits), &limits)?;
        for _ in 0..connections {
            let permit = shared.admission.enter(None).map_err(|_| ErrorKind::QuotaExceeded)?;
            let (socket, peer) = (Socket::none(), nowhere());
            let arrival = Arrival { socket, peer, permit, is_announced: false };
            shared.loops[0].arrivals.push(arrival).map_err(|_| ErrorKind::QuotaExceeded)?;
        }
        let driver = Epoll::open(&limits, Arc::new(Waker::new()?))?;
        let inboxes = Arc::clone(&shared);
        let event_loop = EventLoop::new(0, driver, Echo, &limits, inboxes, Vec::new(), None);
        let mut turns = Self { event_loop, shared };
        turns.turn()?; // takes the arrivals
        Ok(turns)
    }

    /// One turn: a message of each connection is received, echoed and sent.
    #[inline]
    pub fn turn(&mut self) -> io::Result<()> {
        self.event_loop.turn().map(|_goes_on| ())
    }

    /// Messages sent so far, as the loop has counted and published them.
    pub fn sent(&self) -> u64 {
        self.shared.snapshot().get(Counter::Sends)
    }
}

struct Echo;

impl Handler for Echo {
    type Session = ();
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let _ = conn.echo(input); // refused only when the connection is ending
    }
}

/// A kernel in which something has always arrived, and there is always room.
struct Eager {
    /// Tokens that are watched and not yet among the events. The events stay as they are from wait to wait.
    new: Vec<u64>,
}

impl Kernel for Eager {
    fn open(_waker: &Waker, _waker_token: u64) -> io::Result<Self> {
        Ok(Self { new: Vec::new() })
    }

    fn seed(&self) -> u64 {
        1
    }

    #[inline]
    fn now(&self) -> Tick {
        Tick::from_millis(1)
    }

    fn nanos(&self) -> u64 {
        1_000_000
    }

    fn watch(&mut self, _socket: &Socket, token: u64) -> Result<(), Errno> {
        debug_assert_ne!(token, WAKER);
        self.new.push(token);
        Ok(())
    }

    #[inline]
    fn wait(&mut self, events: &mut Events, _timeout_ms: i32) -> io::Result<()> {
        for token in self.new.drain(..) {
            events.push(Event { token, bits: (What::ARRIVED | What::ROOM).bits() });
        }
        Ok(())
    }

    #[inline]
    fn receive(&mut self, _socket: &Socket, into: &mut [u8]) -> Result<usize, Errno> {
        Ok(MESSAGE_BYTES.min(into.len()))
    }

    #[inline]
    fn send(&mut self, _socket: &Socket, bytes: &[u8]) -> Result<usize, Errno> {
        Ok(bytes.len())
    }

    fn send_slices(
        &mut self,
        _socket: &Socket,
        slices: &[IoSlice<'_>],
        _more: bool,
    ) -> Result<usize, Errno> {
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn send_file(
        &mut self,
        _socket: &Socket,
        _file: &File,
        _from: u64,
        len: usize,
    ) -> Result<usize, Errno> {
        Ok(len)
    }

    fn pipe(&mut self) -> Result<Pipe, Errno> {
        Err(Errno::NOSYS)
    }

    fn fill_pipe(&mut self, _pipe: &Pipe, _socket: &Socket, _most: usize) -> Result<usize, Errno> {
        Err(Errno::NOSYS)
    }

    fn send_pipe(&mut self, _pipe: &Pipe, _socket: &Socket, most: usize) -> Result<usize, Errno> {
        Ok(most)
    }

    fn shutdown_write(&mut self, _socket: &Socket) -> Result<(), Errno> {
        Ok(())
    }

    fn unacknowledged(&self, _socket: &Socket) -> usize {
        0
    }

    fn close(&mut self, _socket: Socket, _reset: bool) {}

    fn is_connected(&self, _socket: &Socket) -> bool {
        true
    }

    fn take_error(&self, _socket: &Socket) -> Result<(), Errno> {
        Ok(())
    }

    fn listen(&mut self, _at: &Addr, _options: &ListenOptions) -> io::Result<Socket> {
        Ok(Socket::none())
    }

    fn dial(&mut self, _to: &Addr, _options: &DialOptions) -> io::Result<Socket> {
        Ok(Socket::none())
    }

    fn accept(&mut self, _listener: &Socket) -> Result<(Socket, Addr), Errno> {
        Err(Errno::AGAIN)
    }

    fn shed(&mut self, _listener: &Socket) -> bool {
        false
    }

    fn unlisten(&mut self, _listener: Socket) {}

    fn datagrams(
        &mut self,
        _at: SocketAddr,
        _options: &DatagramOptions,
    ) -> io::Result<(Socket, bool)> {
        Ok((Socket::none(), true))
    }

    fn receive_datagrams(&mut self, _socket: &Socket, _into: &mut Inbound) -> Result<usize, Errno> {
        Err(Errno::AGAIN)
    }

    fn send_datagrams(
        &mut self,
        _socket: &Socket,
        _bytes: &[u8],
        batch: &[UdpMessage],
    ) -> Result<usize, Errno> {
        Ok(batch.len())
    }

    fn peer(_socket: &Socket) -> io::Result<Addr> {
        Ok(nowhere())
    }

    fn local(_socket: &Socket) -> io::Result<Addr> {
        Ok(nowhere())
    }

    fn quiet(&mut self, _waker: &Waker) {}
}

fn nowhere() -> Addr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()
}
