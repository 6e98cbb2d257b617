//! `Conn`: a connection, as a callback sees it.

use crate::api::handler::Handler;
use crate::api::loop_context::LoopContext;
use crate::base::close_reason::CloseReason;
use crate::base::id::ConnId;
use crate::config::policy::OverflowPolicy;
use crate::config::rate::Rate;
use crate::connection::life::State;
use crate::connection::loop_state::{LastWord, LoopState, Way};
use crate::connection::outbox::{Outbox, SendOutcome};
use crate::connection::slot::{Head, Status};
use crate::features::topics::TopicError;
use crate::sys::addr::Addr;
use bytes::Bytes;
use net_buffer::{FileRange, FrameError, Input, LengthPrefix};
use net_timer::Tick;
use std::time::Duration;

/// The closure that sends the last word of a connection. The loop's state holds it as `Any`, since the
/// state does not know the handler type.
pub(crate) type SaysLast<H> = Box<dyn FnOnce(&mut Conn<'_, H>)>;

/// A view of one connection for the duration of one callback.
///
/// Its methods make requests, and the loop carries them out. Bytes for the callback's own connection are
/// offered to the kernel when the callback returns. Bytes for another connection, and bytes that
/// `on_writable` and `on_sent` send, are offered at the end of the turn. A requested end (finish, close,
/// reset) is carried out after the bytes. What waits for the end of the turn has a budget there
/// ([`deferred_per_turn`](crate::Limits::deferred_per_turn)). The rest waits for the next turn.
pub struct Conn<'a, H: Handler> {
    state: &'a mut LoopState<H::Session, H::Message>,
    id: ConnId,
}

impl<'a, H: Handler> Conn<'a, H> {
    /// A view of a connection that is in the table, and stays there while the view lives.
    #[inline]
    pub(crate) fn new(state: &'a mut LoopState<H::Session, H::Message>, id: ConnId) -> Self {
        Self { state, id }
    }

    #[inline]
    fn parts(&mut self) -> (&mut Head, &mut H::Session, &mut Outbox) {
        let state = &mut *self.state;
        let connection = state.table.get(self.id).expect("a connection outlives its views");
        (&mut connection.head, &mut connection.session, &mut state.outbox)
    }

    /// The connection's id, which any thread may keep.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// The session: what the server stores for this connection.
    pub fn session(&mut self) -> &mut H::Session {
        self.parts().1
    }

    /// The session, and a [`Sender`] beside it: to send from a buffer in the session.
    ///
    /// ```no_run
    /// use net_core::{Conn, Handler, Input, Peer, Server};
    /// # use std::convert::Infallible;
    ///
    /// /// Answers every line with all the lines so far, which each session keeps.
    /// struct Notes;
    ///
    /// impl Handler for Notes {
    ///     type Session = Vec<u8>;
    ///     type Message = Infallible;
    ///
    ///     fn admit(&mut self, _peer: &Peer) -> Option<Vec<u8>> {
    ///         Some(Vec::new())
    ///     }
    ///
    ///     fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
    ///         while let Some(line) = input.take_line() {
    ///             let (notes, mut sender) = conn.split();
    ///             notes.extend_from_slice(line);
    ///             notes.push(b'\n');
    ///             if !sender.send(notes).is_taken() {
    ///                 return; // too much is unsent: the connection is ending
    ///             }
    ///         }
    ///     }
    /// }
    ///
    /// fn main() -> Result<net_core::server::Ended, net_core::StartError> {
    ///     Server::new().listen("127.0.0.1:9000").run(|_place| Notes)
    /// }
    /// ```
    pub fn split(&mut self) -> (&mut H::Session, Sender<'_>) {
        let id = self.id;
        let (head, session, outbox) = self.parts();
        (session, Sender { head, outbox, id })
    }

    /// Queues a copy of `bytes`. Either all bytes are taken or none. An empty slice is taken, and nothing is
    /// sent for it.
    ///
    /// The answer is `AboveHighWatermark` when the unsent bytes are above the
    /// [`high_watermark`](crate::Limits::high_watermark). If they were sent in `on_data`, the connection's
    /// own input is then held back until `on_writable`, including the bytes that `on_data` leaves in `input`,
    /// which come again. ([`full_duplex`](Self::full_duplex) says what else holds it back.)
    ///
    /// A handler that still sends above the high watermark reaches
    /// [`output_limit`](crate::Limits::output_limit). There the bytes are refused, and the connection
    /// ends with `CloseReason::OutputLimit`. Before the first `AboveHighWatermark`, bytes of any length are
    /// taken. Bytes are also refused after `finish` and `close`.
    pub fn send(&mut self, bytes: &[u8]) -> SendOutcome {
        self.split().1.send(bytes)
    }

    /// Queues a reference-counted payload without copying it: for one message to many connections.
    /// Otherwise as `send`.
    pub fn send_shared(&mut self, bytes: Bytes) -> SendOutcome {
        self.split().1.send_shared(bytes)
    }

    /// Queues a whole message without a copy, and with a policy for a connection that is at its
    /// [`output_limit`](crate::Limits::output_limit). Unless the policy is [`OverflowPolicy::Close`], the
    /// message does not close the connection there: the policy says whether this message or a waiting one
    /// is dropped. Dropped and replaced messages are counted ([`messages_dropped`](Self::messages_dropped),
    /// `Counter::MessagesDropped`, `Counter::MessagesReplaced`). Otherwise as `send_shared`. The order of
    /// what was queued in other ways is kept.
    pub fn send_with(
        &mut self,
        message: impl Into<Bytes>,
        at_limit: OverflowPolicy,
    ) -> SendOutcome {
        self.split().1.send_with(message, at_limit)
    }

    /// How many messages of this connection a policy ([`OverflowPolicy`]) has dropped or replaced so far,
    /// including those of broadcasts.
    pub fn messages_dropped(&self) -> u64 {
        self.state.outbox.drops.of(self.id)
    }

    /// Queues a frame: the length prefix of `payload`, and the payload behind it, without a copy. Both are
    /// taken, or neither. Otherwise as `send`. An error means that the shape allows no payload of that
    /// length, and nothing is queued.
    ///
    /// To send one frame to many connections, put the prefix in front of the payload once, and use
    /// `send_shared`.
    pub fn send_frame(
        &mut self,
        shape: &LengthPrefix,
        payload: Bytes,
    ) -> Result<SendOutcome, FrameError> {
        self.split().1.send_frame(shape, payload)
    }

    /// Sends all of `input` back by the shortest path: directly from the memory where it was received, if
    /// nothing waits in front of it. Otherwise as `send`, but refused input counts as taken all the same.
    #[inline]
    pub fn echo(&mut self, input: &mut Input<'_>) -> SendOutcome {
        let bytes = input.take_all();
        if self.state.outbox.echo(self.id, bytes) {
            return SendOutcome::Queued;
        }
        self.echo_copy(bytes)
    }

    /// Out of line, so that the usual echo is small enough to be inlined into the turn.
    #[cold]
    #[inline(never)]
    fn echo_copy(&mut self, bytes: &[u8]) -> SendOutcome {
        self.send(bytes)
    }

    /// Sends a range of a file by sendfile(2), without copying it through this process. It goes after what
    /// was sent before, and before what is sent later. It takes some forty bytes of memory, whatever its
    /// length.
    ///
    /// The file is read in parts of up to 64 KiB, as the peer takes them.
    /// [`file_bytes_per_turn`](crate::Limits::file_bytes_per_turn) bounds what all connections of the loop
    /// read in a turn. Bytes that are not in the page cache are read from the disk, and the loop waits
    /// meanwhile. Serve files that are seldom asked for from a server of their own.
    ///
    /// The file's bytes count for the watermarks, so the input waits while a long file is under way. They do
    /// not count for [`output_limit`](crate::Limits::output_limit). That limit bounds how many ranges may
    /// wait: ten thousand or so at 1 MiB. `stuck_timeout` counts from the last part that was taken.
    ///
    /// Three things end the connection, with [`CloseReason::FileEnded`](crate::CloseReason):
    ///
    /// - A file that ends too early, because it was truncated.
    /// - A range that no file can have ([`FileRange::end`](crate::handler::FileRange::end)).
    /// - Ranges that are 2⁶³ bytes together. The last range is refused, and the connection is reset
    ///   with everything that waits.
    ///
    /// With [`FdTable::PerLoop`](crate::server::FdTable) only its own loop knows a descriptor. Open the file
    /// in a callback of the loop whose connections it is sent to.
    pub fn send_file(&mut self, range: FileRange) -> SendOutcome {
        let id = self.id;
        let (head, _, outbox) = self.parts();
        outbox.send_file(head, id, range)
    }

    /// Bytes that wait in this process to be sent, including bytes of files.
    pub fn unsent(&mut self) -> usize {
        let (head, _, outbox) = self.parts();
        outbox.pending(head)
    }

    /// Asks for one call of [`on_sent`](Handler::on_sent) with `tag`, when the kernel has taken everything
    /// that was queued before. Each `notify_sent` gets its own call, in order, also if nothing waits. The
    /// call comes in a later callback, in this turn at the earliest. If it is asked in `on_sent`, it comes
    /// in the next turn at the earliest. It does not wait for messages that a policy drops meanwhile. A loop
    /// makes at most [`deferred_per_turn`](crate::Limits::deferred_per_turn) of these calls in a turn, and
    /// the others in the next turns.
    ///
    /// After `finish` the calls still come, also where the peer has ended, and before `on_close`. After
    /// `close` or a failure no more calls come, and `on_close` reports the end. On a connection that is
    /// still dialled, they come once it is up, after `on_open`.
    ///
    /// Each request takes 32 bytes until it is answered. A connection without requests takes none. These
    /// bytes count for the memory budget. When they reach [`output_limit`](crate::Limits::output_limit),
    /// the connection ends as if that many bytes were unsent.
    pub fn notify_sent(&mut self, tag: u64) {
        let id = self.id;
        let (head, _, outbox) = self.parts();
        let state = head.status.state();
        if !state.is_closing() && state != State::Dead {
            outbox.mark_sent(head, id, tag);
        }
    }

    /// Whether the connection still takes what is sent.
    pub fn is_open(&mut self) -> bool {
        let ending =
            Status::WISH_FINISH | Status::WISH_CLOSE | Status::WISH_RESET | Status::WISH_CAP;
        let (head, ..) = self.parts();
        head.status.state().takes_output() && !head.status.has(ending)
    }

    /// The connection is ending, and the peer's kernel has all that was sent: a reset loses nothing of it.
    pub(crate) fn has_arrived(&mut self) -> bool {
        !self.is_open() && self.unsent() == 0 && self.parts().0.socket.unacknowledged() == 0
    }

    /// Ends sending (half-close). Queued bytes are sent, then FIN. Reading goes on until the peer ends
    /// too. While the connection is still dialled, the FIN waits until the connection is up. After `finish`
    /// nothing more can be sent on it.
    pub fn finish(&mut self) {
        self.wish(Status::WISH_FINISH);
    }

    /// As [`finish`](Self::finish), as soon as no answer is owed to the peer: at once if none is. An answer
    /// is owed during a job [in slices](Self::in_slices) or of a [`Pool`](crate::jobs::Pool) for this
    /// connection, while the connection is [`set_busy`](Self::set_busy), while an `on_writable` is due
    /// because a `send` returned `AboveHighWatermark`, and while an `on_sent` is due that was asked for.
    /// Until then the handler can send as before, and the connection may come to owe more. Its deadlines
    /// still run. `close` and `reset` end it sooner.
    ///
    /// It does not wait for an answer that the library cannot know of: by a timer, by a message, or by
    /// another connection, its partner included. Call [`busy(true)`](Self::set_busy) while such an answer is
    /// being made.
    pub fn finish_when_done(&mut self) {
        if self.state.is_owed(self.id) {
            self.state.finishes_later(self.id);
        } else {
            self.finish();
        }
    }

    /// Ends the connection. Queued bytes are sent, then FIN. Later input is thrown away. The socket stays
    /// until the peer's FIN, or until [`linger_timeout`](crate::Limits::linger_timeout) or
    /// [`linger_bytes_max`](crate::Limits::linger_bytes_max) is reached, so that the last bytes arrive. A
    /// peer that does not take the queued bytes is reset: after
    /// [`write_timeout`](crate::Limits::write_timeout) without a byte taken, or when
    /// [`stuck_timeout`](crate::Limits::stuck_timeout) or [`lifetime_max`](crate::Limits::lifetime_max) has
    /// passed.
    ///
    /// In [`on_deadline`](crate::Handler::on_deadline) of an idle or a stuck connection that has unsent
    /// bytes, `close` is a [`reset`](Conn::reset). The peer has not taken them within the whole timeout, and
    /// the server does not wait again. [`finish`](Conn::finish) there waits for the peer, for
    /// [`write_timeout`](crate::Limits::write_timeout).
    pub fn close(&mut self) {
        self.wish(Status::WISH_CLOSE);
    }

    /// Ends the connection at once, with RST. Queued bytes are dropped and counted.
    pub fn reset(&mut self) {
        self.wish(Status::WISH_RESET);
    }

    /// Closes as soon as nothing is under way: the kernel and the handler hold no input, no output is
    /// unsent, and the connection is not [busy](Conn::set_busy). After the peer's end, input no longer
    /// counts, because the rest of a message will never come.
    ///
    /// A request that the peer sends at that moment finds the connection closed, and the peer cannot tell
    /// whether it was handled. If the protocol has a last word, such as a WebSocket's close frame, GOAWAY,
    /// or `Connection: close`, use [`close_when_idle_with`](Self::close_when_idle_with).
    pub fn close_when_idle(&mut self) {
        self.parts().0.status.set(Status::WHEN_IDLE);
        self.wish(0);
    }

    /// As [`close_when_idle`](Self::close_when_idle), and sends `last_word` at the moment at which nothing
    /// is under way, and FIN after it. What the peer sends after that is thrown away, as after
    /// [`close`](Self::close). So each request that the peer has sent is answered, or the peer finds the
    /// last word instead of the answer, and no reset destroys that.
    ///
    /// A later call replaces the bytes. Empty bytes mean FIN alone. A peer that has ended gets the last word
    /// too. After `finish` the last word is not sent. The last word may be longer than
    /// [`output_limit`](crate::Limits::output_limit), since at most the high watermark waits in front of it.
    /// A drain then waits until the peers have ended too, or for
    /// [`linger_timeout`](crate::Limits::linger_timeout).
    pub fn close_when_idle_with(&mut self, last_word: impl Into<Bytes>) {
        self.close_when_idle_saying(LastWord::Bytes(last_word.into()));
    }

    /// As [`close_when_idle_with`](Self::close_when_idle_with), for a last word that depends on what was
    /// sent before it, such as TLS's close_notify. `last` is called at that moment, as a callback of the
    /// connection ([`Callback::Draining`](crate::handler::Callback::Draining)), and sends the last word. The
    /// connection closes after it, whatever it asks for.
    pub fn close_when_idle_then(&mut self, last: impl FnOnce(&mut Conn<'_, H>) + 'static) {
        let last: SaysLast<H> = Box::new(last);
        self.close_when_idle_saying(LastWord::By(Box::new(last)));
    }

    fn close_when_idle_saying(&mut self, last_word: LastWord) {
        let is_over = self.parts().0.status.state() == State::Dead;
        if !is_over {
            self.state.last_words.insert(self.id, last_word);
        }
        self.close_when_idle();
    }

    /// Says whether the handler works for this connection elsewhere. While it does, the connection is not
    /// idle although no byte waits, and is not [finished](Self::finish_when_done) when its peer ends. It is
    /// a flag and not a count. A job in slices or in a pool needs no call: the connection is busy while
    /// the job is under way, whatever is said here.
    pub fn set_busy(&mut self, is_busy: bool) {
        self.state.say_busy(self.id, is_busy);
        if !is_busy {
            self.wish(0);
        }
    }

    /// Stops reading. From now on the peer's bytes stay in the kernel, so the peer must wait.
    pub fn pause(&mut self) {
        let status = &mut self.parts().0.status;
        status.set(Status::PAUSED);
        status.clear(Status::WISH_RESUME);
    }

    /// Reads again after [`pause`](Self::pause). What arrived during the pause, and what `on_data` left in
    /// `input`, comes to `on_data` in the next turn. Without a pause it does nothing. It also works beside a
    /// `finish` in the same callback, because `finish` ends only sending. Nothing is read after `close` and
    /// `reset`. A resume costs an entry in a list and a receive. So pause and resume for reasons that last,
    /// and not for each message.
    pub fn resume(&mut self) {
        let status = &mut self.parts().0.status;
        if status.has(Status::PAUSED) {
            status.clear(Status::PAUSED);
            self.wish(Status::WISH_RESUME);
        }
    }

    /// Sets whether this connection's input is read on while its output is above the high watermark. The two
    /// modes:
    ///
    /// - *Answers* (false): the peer asks and this side answers. The input waits until the peer has read.
    ///   That holds the memory of a slow reader near [`high_watermark`](crate::Limits::high_watermark). A
    ///   peer that reads only when it can write, such as an echo, then waits for this side while this side
    ///   waits for the peer, until `idle_timeout` or `stuck_timeout` ends the connection.
    /// - *Full duplex* (true): both sides send of their own accord, so neither side waits. No receive
    ///   takes more than there is room below [`output_limit`](crate::Limits::output_limit). So a handler
    ///   that answers is held back only at that limit, and a handler that sends until `AboveHighWatermark`
    ///   and goes on in `on_writable` is never held back.
    ///
    /// Dialled connections are full duplex. All other connections are not. Their unsent bytes hold back their
    /// input at a mark that depends on the callback that sent the bytes:
    ///
    /// - In `on_data`, or from the outcome of a job: at the high watermark.
    /// - From `on_open`, `on_writable`, a timer, a message or another connection's callback: half the way
    ///   from the high watermark to the `output_limit`.
    ///
    /// While memory is short, of the connections with unsent bytes only full-duplex ones are read on. In a
    /// pair ([`pair_with`](Self::pair_with)) a connection always holds back its partner's input, and never
    /// its own.
    pub fn full_duplex(&mut self, is_full_duplex: bool) {
        let status = &mut self.parts().0.status;
        let was = status.has(Status::FULL_DUPLEX);
        if is_full_duplex {
            status.set(Status::FULL_DUPLEX);
        } else {
            status.clear(Status::FULL_DUPLEX);
        }
        if is_full_duplex && !was && status.has(Status::HELD) {
            if let Some(cold) = self.parts().0.cold.as_deref_mut() {
                cold.answers = false;
            }
            self.wish(Status::WISH_RESUME); // input that was held back goes on
        }
    }

    /// Limits the connection to a rate of receiving, in bytes a second, from now on. `None`: no limit. Above
    /// the rate the peer's bytes stay in the kernel until the rate allows more. Nothing is dropped: the peer
    /// waits. A connection with a limit takes some hundred bytes beside the table, and its messages do not
    /// take the loop's fast path.
    pub fn limit_receive(&mut self, rate: Option<Rate>) {
        self.state.limit(self.id, Way::In, rate);
    }

    /// Limits the connection to a rate of sending, in bytes a second, from now on, also while it finishes
    /// or closes. `None`: no limit. Bytes that wait for the rate are unsent: they count for the watermarks,
    /// `output_limit` and `stuck_timeout`. The cost is as of [`limit_receive`](Self::limit_receive).
    pub fn limit_send(&mut self, rate: Option<Rate>) {
        self.state.limit(self.id, Way::Out, rate);
    }

    /// Makes this connection and another connection of its loop a pair: each forwards what the other
    /// receives, as the two sides of a proxy do. From now on, while one has more unsent bytes than its high
    /// watermark, the input of the *other* is left unread, and its own input is not. A receive from one
    /// takes no more than the other has room for below its
    /// [`output_limit`](crate::Limits::output_limit). Neither is idle before the other is.
    ///
    /// The handler forwards the bytes and the ends itself: in `on_data`, `on_end` and `on_close`. A
    /// connection has one partner. The pair ends when one of the two is paired again or is over. False: the
    /// other connection is no longer on this loop, or is this connection.
    pub fn pair_with(&mut self, other: ConnId) -> bool {
        other.in_loop() == usize::from(self.state.number) && self.state.pair(self.id, other)
    }

    /// Makes this connection and another connection of its loop the two ends of a tunnel. A tunnel is a pair
    /// as of [`pair_with`](Self::pair_with), and the loop itself forwards the bytes. Bytes that were queued
    /// before go first, then the bytes that `on_data` leaves in its `input`.
    ///
    /// From now on `on_data` and `on_end` are called for neither connection. The end of what a peer sends is
    /// forwarded as [`finish`](Self::finish). When one of the two is over, the other is closed, or is reset
    /// if something had failed. Everything else is as for any connection. A `send` puts its bytes between
    /// the forwarded bytes.
    ///
    /// Large amounts are spliced (splice(2)): they move from socket to socket through a pipe of the loop
    /// ([`pipes_max`](crate::Limits::pipes_max)), and not through this process. `Counter::BytesSpliced`
    /// counts them. Bytes in a pipe are unsent: they count for the watermarks, `output_limit` and the memory
    /// budget. Small amounts are copied, and so are large ones while no pipe is free.
    ///
    /// [`pair_with`](Self::pair_with) gives both connections back to the handler. False: the other
    /// connection is no longer on this loop, or is this connection.
    ///
    /// ```no_run
    /// use net_core::{Conn, Dial, Handler, Input, Peer, Server};
    /// # use std::convert::Infallible;
    ///
    /// /// Sends on all that comes, both ways, to another server.
    /// struct Relay;
    ///
    /// impl Handler for Relay {
    ///     /// Whether it was dialled.
    ///     type Session = bool;
    ///     type Message = Infallible;
    ///
    ///     fn admit(&mut self, _peer: &Peer) -> Option<bool> {
    ///         Some(false)
    ///     }
    ///
    ///     fn on_open(&mut self, conn: &mut Conn<'_, Self>) {
    ///         if *conn.session() {
    ///             return; // the other end is up
    ///         }
    ///         match conn.event_loop().dial(Dial::to("127.0.0.1:9001".parse().unwrap()), true) {
    ///             Ok(other) => _ = conn.tunnel_with(other),
    ///             Err(_) => conn.reset(),
    ///         }
    ///     }
    ///
    ///     fn on_data(&mut self, _conn: &mut Conn<'_, Self>, _input: &mut Input<'_>) {}
    /// }
    ///
    /// fn main() -> Result<net_core::server::Ended, net_core::StartError> {
    ///     Server::new().listen("127.0.0.1:9000").run(|_place| Relay)
    /// }
    /// ```
    pub fn tunnel_with(&mut self, other: ConnId) -> bool {
        other.in_loop() == usize::from(self.state.number) && self.state.tunnel(self.id, other)
    }

    /// Subscribes this connection to a topic. A [`Broadcast`](crate::Broadcast) to the topic reaches it from
    /// now on, until it unsubscribes or is over. `Ok(false)`: it had subscribed already. A topic is a name
    /// of up to [`TOPIC_NAME_MAX`](crate::broadcast::TOPIC_NAME_MAX) bytes and need not be created first.
    /// Each subscription takes some hundred bytes on this loop. A connection without subscriptions takes
    /// none.
    pub fn subscribe(&mut self, topic: impl AsRef<[u8]>) -> Result<bool, TopicError> {
        self.state.topics.subscribe(self.id.slot(), topic.as_ref())
    }

    /// Cancels a subscription. False: there was none.
    pub fn unsubscribe(&mut self, topic: impl AsRef<[u8]>) -> bool {
        self.state.topics.unsubscribe(self.id.slot(), topic.as_ref())
    }

    /// How many topics this connection has subscribed to.
    pub fn subscriptions(&self) -> usize {
        self.state.topics.count_of(self.id.slot())
    }

    /// Sets the connection's own deadline to `after` from [`LoopContext::now`]. `None` removes it. It
    /// replaces the own deadline that was set before, and no traffic moves it.
    /// [`on_deadline`](Handler::on_deadline) is called when it has passed: never early by that clock, which
    /// stands still during a turn, and up to two milliseconds late.
    ///
    /// A connection with a deadline of its own takes 224 bytes of memory beside its table entry, until the
    /// deadline has passed or is removed. The timeouts of [`Limits`](crate::Limits) take none, except
    /// `lifetime_max`.
    pub fn set_deadline(&mut self, after: Option<Duration>) {
        let own = after.map_or(Tick::MAX, |after| self.state.now.after(after));
        self.state.set_deadlines(self.id, |deadlines| deadlines.own = own);
    }

    /// Marks the beginning of a message. The message has
    /// [`message_timeout`](crate::Limits::message_timeout) from now until
    /// [`message_ended`](Self::message_ended). It does nothing if there is no such timeout. A second call
    /// begins the next message. Time in which the connection is paused or held back does not count.
    ///
    /// It is for a handler that takes a long message in parts. Without it, each byte that the handler takes
    /// would start the timeout again.
    pub fn message_began(&mut self) {
        self.state.message_begins(self.id, true);
    }

    /// Marks the end of the message that [`message_began`](Self::message_began) has begun. From now on the
    /// timeout of the next message starts as usual: when `on_data` leaves bytes in its `input`.
    pub fn message_ended(&mut self) {
        if self.state.limits.message_timeout.is_some() {
            self.state.set_deadlines(self.id, |deadlines| {
                deadlines.message_is_marked = false;
                deadlines.message = Tick::MAX;
            });
        }
    }

    /// Why the connection ends, once that is decided. In `on_deadline`: which deadline has passed.
    pub fn close_reason(&mut self) -> Option<CloseReason> {
        self.parts().0.why
    }

    /// The peer's address. If a trusted proxy has named the client
    /// ([`Server::listen_proxied`](crate::Server::listen_proxied)), it is the client's address. Otherwise
    /// the kernel is asked. `None` if the peer is gone.
    pub fn peer(&mut self) -> Option<Addr> {
        self.state.peer(self.id)
    }

    /// The `host:port` that the connection was dialled by ([`Dial::to_host`](crate::Dial::to_host)), also
    /// in `on_close` when the dial failed. `None`: it was not dialled, or was dialled by an address.
    pub fn dialled_name(&self) -> Option<&str> {
        self.state.names.get(&self.id).map(|name| &**name)
    }

    /// The loop that the connection lives on.
    pub fn event_loop(&mut self) -> LoopContext<'_, H> {
        LoopContext::new(self.state)
    }

    /// Another connection of this loop. `None` if it is over, or is not on this loop.
    pub fn other(&mut self, id: ConnId) -> Option<Conn<'_, H>> {
        self.event_loop().into_connection(id)
    }

    /// Calls `visit` for every open connection of this loop except this connection. It scans the table,
    /// about a nanosecond a slot. With very many connections use [`LoopContext::visit_from`], in slices. What
    /// `visit` asks of the connections and sends to them is carried out over several turns, for
    /// [`deferred_per_turn`](crate::Limits::deferred_per_turn) connections in each turn.
    pub fn others(&mut self, mut visit: impl FnMut(&mut Conn<'_, H>)) {
        let own = self.id;
        self.event_loop().each(|conn| {
            if conn.id() != own {
                visit(conn);
            }
        });
    }

    fn wish(&mut self, wish: u32) {
        let id = self.id;
        let (head, _, outbox) = self.parts();
        if head.status.state() != State::Dead {
            outbox.wish(head, id, wish);
        }
    }
}

/// The sending half of a [`Conn`], to use beside its session. By [`Conn::split`].
pub struct Sender<'a> {
    head: &'a mut Head,
    outbox: &'a mut Outbox,
    id: ConnId,
}

impl Sender<'_> {
    /// As [`Conn::send`].
    pub fn send(&mut self, bytes: &[u8]) -> SendOutcome {
        self.outbox.send(self.head, self.id, bytes)
    }

    /// As [`Conn::send_shared`].
    pub fn send_shared(&mut self, bytes: Bytes) -> SendOutcome {
        self.outbox.send_shared(self.head, self.id, bytes)
    }

    /// As [`Conn::send_with`].
    pub fn send_with(
        &mut self,
        message: impl Into<Bytes>,
        at_limit: OverflowPolicy,
    ) -> SendOutcome {
        self.outbox.send_with(self.head, self.id, message.into(), at_limit).0
    }

    /// As [`Conn::send_frame`].
    pub fn send_frame(
        &mut self,
        shape: &LengthPrefix,
        payload: Bytes,
    ) -> Result<SendOutcome, FrameError> {
        self.outbox.send_frame(self.head, self.id, shape, payload)
    }

    /// As [`Conn::unsent`].
    pub fn unsent(&self) -> usize {
        self.outbox.pending(self.head)
    }
}
