//! `Handler`: what a user implements.

use crate::api::conn::Conn;
use crate::api::here::Loop;
use crate::base::closed::{Callback, Closed};
use crate::features::datagram::Datagram;
use crate::sys::addr::Addr;
use net_buffer::Input;

/// A server's own code: one instance on each loop, made on that loop's thread by the server's
/// factory, so it needs no lock and need not be `Send`.
///
/// Every callback runs on the loop's thread and none runs inside another. A callback asks, through
/// its [`Conn`] or [`Loop`], and the loop carries it out after the callback has returned; so
/// nothing that a callback calls ever fails or blocks. Failures arrive as `on_close`, which comes
/// exactly once for every connection that was opened, and last.
///
/// A callback that panics costs its own connection only: what it sent in that call is dropped,
/// what was sent before is delivered, and the connection closes with `Closed::Panicked`.
///
/// A chat: every line goes to everyone else of this loop, and once, counted, to each other loop.
///
/// ```no_run
/// use net_core::{Bytes, Conn, Handler, Input, Loop, Peer, Place, Remote, Server};
///
/// struct Chat {
///     own: usize,
///     all: Remote<Bytes>,
/// }
///
/// impl Handler for Chat {
///     type Session = ();
///     type Message = Bytes;
///
///     fn admit(&mut self, _peer: &Peer) -> Option<()> {
///         Some(())
///     }
///
///     fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
///         while let Some(line) = input.take_line() {
///             let line = Bytes::from([line, b"\n"].concat());
///             conn.others(|other| _ = other.send_shared(line.clone()));
///             for other_loop in (0..self.all.loops()).filter(|&n| n != self.own) {
///                 let _ = self.all.post(other_loop, line.clone()); // full: lost for that loop
///             }
///         }
///     }
///
///     fn on_message(&mut self, here: &mut Loop<'_, Self>, line: Bytes) {
///         here.each(|conn| _ = conn.send_shared(line.clone()));
///     }
/// }
///
/// fn main() -> Result<net_core::Ended, net_core::StartError> {
///     let chat = |place: &Place<Bytes>| Chat { own: place.number(), all: place.remote() };
///     Server::new().listen("127.0.0.1:9000").run(chat)
/// }
/// ```
pub trait Handler: Sized + 'static {
    /// What the server remembers of each connection. Stored inline in the table: its size is paid
    /// for every idle connection.
    type Session: 'static;
    /// What other loops and threads may post to this loop. Use
    /// [`Infallible`](std::convert::Infallible) if nothing.
    type Message: Send + 'static;

    /// A new connection asks in. `None` closes it, politely.
    fn admit(&mut self, peer: &Peer) -> Option<Self::Session>;

    /// Bytes have come. What is not taken from `input` is kept, up to
    /// [`input_bytes_max`](crate::Limits::input_bytes_max), and comes again in front of the next bytes. It
    /// also comes again without new bytes in two cases: after [`resume`](Conn::resume), and after `on_room`
    /// if the connection had been held back above its high mark. So a handler may stop at `Above`, leave the
    /// rest in `input`, and is called again for that rest when the peer has read.
    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>);

    /// The connection is up: admitted, or dialled.
    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) {}

    /// The unsent bytes have fallen to the low mark, after they had been above the high mark: by `send`
    /// (which answered `Above`), by `echo`, or by what others sent to this connection. Time to send more.
    ///
    /// By default: nothing.
    fn on_room(&mut self, _conn: &mut Conn<'_, Self>) {}

    /// The peer will send no more. It may still be reading: many send their question and FIN in one.
    ///
    /// By default [`finish_when_done`](Conn::finish_when_done): what is queued goes out and an answer
    /// that is being made is waited for, as far as the library knows of it; then the connection is over.
    /// A handler whose answers come by a timer, a message or another connection says
    /// [`busy`](Conn::busy) meanwhile, or has an `on_end` of its own. So does one that passes on what
    /// two connections bring ([`pair_with`](Conn::pair_with)): it passes the end on too. And so does one that
    /// keeps dialled connections busy, so that a drain leaves them open: by the default their peer's end would
    /// wait for an answer that never comes.
    fn on_end(&mut self, conn: &mut Conn<'_, Self>) {
        conn.finish_when_done();
    }

    /// A deadline of the connection has come. [`Conn::why`] says which: first byte, idle, message, stuck,
    /// lifetime (each is a field of [`Limits`](crate::Limits)), or its own
    /// ([`set_deadline`](Conn::set_deadline)). A callback that does not end the connection lets it live on,
    /// and the idle deadline begins anew. The bounds on dialling and on closing do not ask here.
    ///
    /// By default: [`close`](Conn::close). An idle or stuck connection with unsent bytes is reset by it.
    fn on_deadline(&mut self, conn: &mut Conn<'_, Self>) {
        conn.close();
    }

    /// Nothing has moved on this connection for a while, and nothing waits to be sent: time for a
    /// word of the protocol that the peer answers, or must only see. Called again and again, as
    /// [`heartbeat_interval`](crate::Limits::heartbeat_interval) says; without that, never.
    fn on_heartbeat(&mut self, _conn: &mut Conn<'_, Self>) {}

    /// After [`notify_sent`](Conn::notify_sent) with this tag: the kernel has taken all that was to be
    /// sent before it. Not that the peer has it: only the peer can say so. What it sends leaves at the end
    /// of the turn; to ask again in here is to be told in the next turn at the earliest.
    fn on_sent(&mut self, _conn: &mut Conn<'_, Self>, _tag: u64) {}

    /// The server drains. Called once for each open connection, a few in each turn, over
    /// [`drain_spread`](crate::Limits::drain_spread). What is still open at the drain's deadline
    /// ([`Server::drain_timeout`](crate::Server::drain_timeout)) is reset.
    ///
    /// By default: [`close_when_idle`](Conn::close_when_idle). A handler that overrides this and ends
    /// nothing keeps the connection until that deadline.
    fn on_draining(&mut self, conn: &mut Conn<'_, Self>) {
        conn.close_when_idle();
    }

    /// The connection is over. The last callback for it; its session is dropped after this.
    fn on_close(&mut self, _conn: &mut Conn<'_, Self>, _why: &Closed) {}

    /// Something was posted to this loop. What this callback sends is bounded by each receiver's
    /// [`output_limit`](crate::Limits::output_limit) alone: `Above` holds back the input of the connection
    /// that is sent to, and not whoever posts.
    ///
    /// By default: the message is dropped.
    fn on_message(&mut self, _here: &mut Loop<'_, Self>, _message: Self::Message) {}

    /// A timer of this loop has come, by the tag it was armed with.
    ///
    /// By default: nothing.
    fn on_timer(&mut self, _here: &mut Loop<'_, Self>, _tag: u64) {}

    /// A datagram has come, at an address of [`Server::datagrams`](crate::Server::datagrams).
    ///
    /// By default: the datagram is dropped.
    fn on_datagram(&mut self, _here: &mut Loop<'_, Self>, _datagram: Datagram<'_>) {}

    /// A callback has panicked, or the drop of a value that is the handler's: a session, a message, a
    /// payload, a job ([`Callback::Drop`]). The connection, message, datagram or timer at fault is lost, and
    /// counted; this decides about the rest. A panic in here stops the server.
    ///
    /// What the panic said, and where, is a line of the log (`tracing`, at error level). The threads of a
    /// server do not write it to standard error, where a full pipe would hold the loop for ever: the
    /// hook that a server's start puts in front of the process's own keeps it. On other threads the former
    /// hook runs as before.
    ///
    /// By default: [`Keep::Running`].
    fn on_panic(&mut self, _place: Callback) -> Keep {
        Keep::Running
    }
}

/// What a handler says after one of its callbacks has panicked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// Go on.
    Running,
    /// Stop the whole server, at once.
    StopServer,
}

/// Who asks in.
#[derive(Clone, Debug)]
pub struct Peer {
    pub(crate) addr: Addr,
}

impl Peer {
    /// The address it comes from. Most clients of a Unix socket have no name.
    pub fn addr(&self) -> Addr {
        self.addr.clone()
    }
}
