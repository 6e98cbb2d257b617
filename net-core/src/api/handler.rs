//! `Handler`: the trait that a server's own code implements.

use crate::api::conn::Conn;
use crate::api::loop_context::LoopContext;
use crate::base::close_reason::{Callback, CloseReason};
use crate::features::datagram::Datagram;
use crate::sys::addr::Addr;
use net_buffer::Input;

/// The server's own code. Each loop has one instance, which the server's factory makes on that loop's
/// thread. So a handler needs no lock and need not be `Send`.
///
/// Every callback runs on the loop's thread, and none runs inside another. A callback makes requests
/// through its [`Conn`] or [`LoopContext`], and the loop carries them out after the callback has returned. So
/// nothing that a callback calls blocks, and no call reports a failure of the network. A failure arrives as
/// `on_close`, which is called exactly once for every connection that was opened, as the last callback.
///
/// A callback that panics costs only its own connection. What it sent in that call is dropped, what was
/// sent before is delivered, and the connection closes with `CloseReason::Panicked`.
///
/// Example: a chat. Every line goes to every other connection of this loop, and once, as a shared
/// payload, to each other loop.
///
/// ```no_run
/// use net_core::{Bytes, Conn, Handler, Input, LoopContext, Peer, LoopInfo, ServerHandle, Server};
///
/// struct Chat {
///     own: usize,
///     all: ServerHandle<Bytes>,
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
///     fn on_message(&mut self, here: &mut LoopContext<'_, Self>, line: Bytes) {
///         here.each(|conn| _ = conn.send_shared(line.clone()));
///     }
/// }
///
/// fn main() -> Result<net_core::server::Ended, net_core::StartError> {
///     let chat = |place: &LoopInfo<Bytes>| Chat { own: place.number(), all: place.handle() };
///     Server::new().listen("127.0.0.1:9000").run(chat)
/// }
/// ```
pub trait Handler: Sized + 'static {
    /// What the server stores for each connection. It lies inline in the connection table, so every idle
    /// connection pays for its size.
    type Session: 'static;
    /// What other loops and threads may post to this loop. Use
    /// [`Infallible`](std::convert::Infallible) if nothing is posted.
    type Message: Send + 'static;

    /// A new connection asks for admission. `None` closes it, after the
    /// [refusal message](crate::Server::refusal) if the server has one.
    fn admit(&mut self, peer: &Peer) -> Option<Self::Session>;

    /// Bytes have been received. Bytes that the handler does not take from `input` are kept, up to
    /// [`input_bytes_max`](crate::Limits::input_bytes_max), and come again in front of the next bytes.
    /// They also come again without new bytes in two cases: after [`resume`](Conn::resume), and after
    /// `on_writable` if the connection was held back above its high watermark. So a handler may stop at
    /// `AboveHighWatermark` and leave the rest in `input`. It is called again for the rest when the peer
    /// has read.
    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>);

    /// The connection is up: it was admitted, or a dial has succeeded.
    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) {}

    /// The unsent bytes have fallen to the low watermark after they were above the high watermark. They can
    /// rise above it by `send` (which returned `AboveHighWatermark`), by `echo`, or by what others send to
    /// this connection. The handler can send more now.
    ///
    /// By default: nothing.
    fn on_writable(&mut self, _conn: &mut Conn<'_, Self>) {}

    /// The peer has sent FIN and will send no more. It may still read: many clients send their request
    /// and FIN together.
    ///
    /// By default [`finish_when_done`](Conn::finish_when_done): queued bytes are sent, and an answer that is
    /// being made is waited for, as far as the library knows of it. Then the connection ends. Three kinds
    /// of handler need more:
    ///
    /// - A handler that answers from a timer, a message or another connection calls
    ///   [`set_busy`](Conn::set_busy) meanwhile, or overrides `on_end`.
    /// - A handler that forwards between two connections ([`pair_with`](Conn::pair_with)) overrides `on_end`
    ///   and forwards the end.
    /// - A handler that keeps dialled connections busy, so that a drain leaves them open, overrides `on_end`.
    ///   With the default, the end of such a peer would wait for an answer that never comes.
    fn on_end(&mut self, conn: &mut Conn<'_, Self>) {
        conn.finish_when_done();
    }

    /// A deadline of the connection has passed. [`Conn::close_reason`] says which: first byte, idle,
    /// message, stuck, lifetime (each is a field of [`Limits`](crate::Limits)), or the handler's own
    /// ([`set_deadline`](Conn::set_deadline)). If the callback does not end the connection, it lives on.
    /// After an idle or a first-byte deadline the idle timeout then starts again. The timeouts of dialling
    /// and of closing do not call this.
    ///
    /// By default: [`close`](Conn::close). That resets an idle or stuck connection that has unsent bytes.
    fn on_deadline(&mut self, conn: &mut Conn<'_, Self>) {
        conn.close();
    }

    /// The connection has been silent for a while and has no unsent bytes. The handler can send a
    /// keep-alive message of its protocol, which the peer answers or only has to receive. Called again and
    /// again while the silence lasts, at the times that
    /// [`heartbeat_interval`](crate::Limits::heartbeat_interval) says. Never called if that is `None`.
    fn on_heartbeat(&mut self, _conn: &mut Conn<'_, Self>) {}

    /// The kernel has taken everything that was sent before [`notify_sent`](Conn::notify_sent) was called
    /// with this tag. It does not mean that the peer has received it: only the peer can tell. What this
    /// callback sends leaves at the end of the turn. A `notify_sent` in this callback is answered in the
    /// next turn at the earliest.
    fn on_sent(&mut self, _conn: &mut Conn<'_, Self>, _tag: u64) {}

    /// The server drains. Called once for each open connection, a few connections in each turn, spread
    /// over [`drain_spread`](crate::Limits::drain_spread). A connection that is still open at the drain's
    /// deadline ([`Server::drain_timeout`](crate::Server::drain_timeout)) is reset.
    ///
    /// By default: [`close_when_idle`](Conn::close_when_idle). A handler that overrides this and does not
    /// end the connection keeps it until that deadline.
    fn on_draining(&mut self, conn: &mut Conn<'_, Self>) {
        conn.close_when_idle();
    }

    /// The connection is over. This is its last callback. The session is dropped after it.
    fn on_close(&mut self, _conn: &mut Conn<'_, Self>, _why: &CloseReason) {}

    /// A message was posted to this loop. What this callback sends is bounded only by each receiver's
    /// [`output_limit`](crate::Limits::output_limit): `AboveHighWatermark` holds back the input of the
    /// receiving connection, and does not hold back the poster of the message.
    ///
    /// By default: the message is dropped.
    fn on_message(&mut self, _here: &mut LoopContext<'_, Self>, _message: Self::Message) {}

    /// A timer of this loop has fired. `tag` is the tag that the timer was armed with.
    ///
    /// By default: nothing.
    fn on_timer(&mut self, _here: &mut LoopContext<'_, Self>, _tag: u64) {}

    /// A datagram has been received at an address of [`Server::datagrams`](crate::Server::datagrams).
    ///
    /// By default: the datagram is dropped.
    fn on_datagram(&mut self, _here: &mut LoopContext<'_, Self>, _datagram: Datagram<'_>) {}

    /// A callback has panicked, or the drop of one of the handler's values: a session, a message, a payload,
    /// a job ([`Callback::Drop`]). The connection, message, datagram or timer at fault is lost and counted.
    /// The return value decides whether the server goes on. A panic in `on_panic` stops the server.
    ///
    /// The panic's message and place are logged (`tracing`, error level), at most one line per loop in
    /// [`log_every`](crate::Limits::log_every). The threads of a server do not write it to standard error,
    /// because a write to a full pipe would block the loop for ever. The server's start installs a panic
    /// hook in front of the process's own hook for this. On all other threads the former hook runs as before.
    ///
    /// By default: [`PanicAction::Running`].
    fn on_panic(&mut self, _place: Callback) -> PanicAction {
        PanicAction::Running
    }
}

/// A handler's decision after one of its callbacks has panicked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PanicAction {
    /// Keep the server running.
    Running,
    /// Stop the whole server at once.
    StopServer,
}

/// The client that [`admit`](Handler::admit) is asked about.
#[derive(Clone, Debug)]
pub struct Peer {
    pub(crate) addr: Addr,
}

impl Peer {
    /// The address that the client connects from. Most clients of a Unix socket have no name.
    pub fn addr(&self) -> Addr {
        self.addr.clone()
    }
}
