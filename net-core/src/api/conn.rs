//! `Conn`: a connection, as a callback sees it.

use crate::api::handler::Handler;
use crate::api::here::Loop;
use crate::base::closed::Closed;
use crate::base::id::ConnId;
use crate::config::policy::AtLimit;
use crate::config::rate::Rate;
use crate::connection::life::State;
use crate::connection::loop_state::{LastWord, LoopState, Way};
use crate::connection::outbox::{Outbox, Queued};
use crate::connection::slot::{Head, Status};
use crate::features::topics::TopicError;
use crate::sys::addr::Addr;
use bytes::Bytes;
use net_buffer::{FileRange, FrameError, Input, LengthPrefix};
use net_timer::Tick;
use std::time::Duration;

/// What sends the last word of a connection. The loop's state holds it as `Any`, since it does not know
/// the handler.
pub(crate) type SaysLast<H> = Box<dyn FnOnce(&mut Conn<'_, H>)>;

/// A view of one connection, for the length of one callback.
///
/// It asks, and the loop carries out: bytes are offered to the kernel when the callback returns
/// (its own connection's) or at the end of the turn (another's, and those of `on_room` and `on_sent`); an
/// end is carried out after them. What waits for the end of the turn has a budget there
/// ([`deferred_per_turn`](crate::Limits::deferred_per_turn)), and the rest is the next turn's.
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

    /// Its name, which any thread may keep.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// What the server remembers of it.
    pub fn session(&mut self) -> &mut H::Session {
        self.parts().1
    }

    /// The session, and beside it the means to send: to send from a buffer in the session.
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
    /// fn main() -> Result<net_core::Ended, net_core::StartError> {
    ///     Server::new().listen("127.0.0.1:9000").run(|_place| Notes)
    /// }
    /// ```
    pub fn split(&mut self) -> (&mut H::Session, Sender<'_>) {
        let id = self.id;
        let (head, session, outbox) = self.parts();
        (session, Sender { head, outbox, id })
    }

    /// Queues a copy of `bytes`. All or nothing is taken; an empty slice is taken and is nothing.
    ///
    /// Above [`high_watermark`](crate::Limits::high_watermark) the answer is `Above`. What is sent in
    /// `on_data` then holds the connection's own input until `on_room`, also what `on_data` leaves of it,
    /// which comes again ([`full_duplex`](Self::full_duplex) says what else does). Whoever sends on all
    /// the same meets [`output_limit`](crate::Limits::output_limit): there the bytes are refused and the
    /// connection ends with `Closed::OutputLimit`. Before the first `Above`, bytes of any length are
    /// taken. Also refused after `finish` and `close`.
    pub fn send(&mut self, bytes: &[u8]) -> Queued {
        self.split().1.send(bytes)
    }

    /// Queues a counted payload without copying it: for one message to many. Otherwise as `send`.
    pub fn send_shared(&mut self, bytes: Bytes) -> Queued {
        self.split().1.send_shared(bytes)
    }

    /// Queues a whole message, uncopied, that does not close the connection at its
    /// [`output_limit`](crate::Limits::output_limit): what is dropped there, this or what waits, the
    /// policy says. What is dropped or replaced is counted ([`messages_dropped`](Self::messages_dropped),
    /// `Counter::MessagesDropped`, `Counter::MessagesReplaced`). Otherwise as `send_shared`; the order of
    /// what was queued in other ways is kept.
    pub fn send_or(&mut self, message: impl Into<Bytes>, at_limit: AtLimit) -> Queued {
        self.split().1.send_or(message, at_limit)
    }

    /// How many of its messages a policy ([`AtLimit`]) has dropped or replaced so far, those of
    /// broadcasts included.
    pub fn messages_dropped(&self) -> u64 {
        self.state.outbox.drops.of(self.id)
    }

    /// Queues a frame: the prefix that announces `payload`, and behind it the payload, uncopied.
    /// Both or neither; otherwise as `send`. An error: the shape allows no payload of that length,
    /// and nothing is queued.
    ///
    /// For one frame to many, put the prefix in front of the payload once, and `send_shared` both.
    pub fn send_frame(
        &mut self,
        shape: &LengthPrefix,
        payload: Bytes,
    ) -> Result<Queued, FrameError> {
        self.split().1.send_frame(shape, payload)
    }

    /// Sends all of `input` back, the shortest way: from where it was received, if nothing waits
    /// in front of it. Otherwise as `send`, but refused input is taken all the same.
    #[inline]
    pub fn echo(&mut self, input: &mut Input<'_>) -> Queued {
        let bytes = input.take_all();
        if self.state.outbox.echo(self.id, bytes) {
            return Queued::Queued;
        }
        self.echo_copy(bytes)
    }

    /// Out of line, so that the usual echo is small enough to be inlined into the turn.
    #[cold]
    #[inline(never)]
    fn echo_copy(&mut self, bytes: &[u8]) -> Queued {
        self.send(bytes)
    }

    /// Sends a stretch of a file from where it lies, by sendfile(2): after what was sent before, and
    /// before what is sent later. It costs some forty bytes of memory, however long it is.
    ///
    /// It is read in parts of up to 64 KiB, as the peer takes them, and
    /// [`file_bytes_per_turn`](crate::Limits::file_bytes_per_turn) bounds what all connections of the
    /// loop read in a turn. What is not in the page cache is read from the disk meanwhile, while the
    /// loop waits; offer files that are seldom asked for from a server of their own.
    ///
    /// Its bytes count for the marks, so that the input waits while a long file is under way, but
    /// not for the hard cap, which bounds how many stretches may wait: ten thousand or so at 1 MiB.
    /// `stuck_timeout` counts from the last part that was taken. A file that ends too early, because it
    /// was truncated, ends the connection: [`Closed::FileEnded`](crate::Closed). So does
    /// a stretch that no file can have ([`FileRange::end`](crate::FileRange::end)), and so do stretches
    /// that are 2⁶³ bytes together: the last is refused, and the connection is reset with what waits.
    ///
    /// With [`FdTable::PerLoop`](crate::FdTable) a descriptor is known to its loop alone: open the
    /// file in a callback of the loop whose connections it is sent to.
    pub fn send_file(&mut self, range: FileRange) -> Queued {
        let id = self.id;
        let (head, _, outbox) = self.parts();
        outbox.send_file(head, id, range)
    }

    /// Bytes that wait in this process to be sent, those in files included.
    pub fn unsent(&mut self) -> usize {
        let (head, _, outbox) = self.parts();
        outbox.pending(head)
    }

    /// Asks for [`on_sent`](Handler::on_sent) with `tag`, once for each call and in their order, when
    /// the kernel has taken everything that was queued before: in a later callback, in this turn at
    /// the earliest, or in the next one if it is asked in `on_sent`; also if nothing waits. What a policy
    /// drops meanwhile is not waited for. A loop tells of
    /// [`deferred_per_turn`](crate::Limits::deferred_per_turn) in a turn, and of the others in the next ones.
    ///
    /// Still told after `finish`, also where the peer has ended, and before `on_close`. No more told after
    /// `close` or a failure, of which `on_close` tells. On a connection that is still dialled: once it is up,
    /// after `on_open`. 32 bytes for each call until it is answered, and none in a connection without
    /// one. They count for the memory budget; and when they come to
    /// [`output_limit`](crate::Limits::output_limit), the connection ends as if so many bytes waited.
    pub fn notify_sent(&mut self, tag: u64) {
        let id = self.id;
        let (head, _, outbox) = self.parts();
        let state = head.status.state();
        if !state.is_closing() && state != State::Dead {
            outbox.mark_sent(head, id, tag);
        }
    }

    /// Whether `send` can still be taken.
    pub fn is_open(&mut self) -> bool {
        let ending =
            Status::WISH_FINISH | Status::WISH_CLOSE | Status::WISH_RESET | Status::WISH_CAP;
        let (head, ..) = self.parts();
        head.status.state().takes_output() && !head.status.has(ending)
    }

    /// It is ending, and the peer's kernel has all that was sent: a reset takes nothing from it.
    pub(crate) fn has_arrived(&mut self) -> bool {
        !self.is_open() && self.unsent() == 0 && self.parts().0.socket.unacknowledged() == 0
    }

    /// Ends sending: what is queued goes out, then FIN. Reading goes on until the peer ends too. On a
    /// connection that is still dialled, it waits until that is up; nothing more can be sent on it.
    pub fn finish(&mut self) {
        self.wish(Status::WISH_FINISH);
    }

    /// As [`finish`](Self::finish), as soon as nothing is owed to the peer: at once, if nothing is. Owed
    /// is an answer that is being made: a job [in slices](Self::in_slices) or of a
    /// [`Pool`](crate::Pool) for this connection, [`busy`](Self::busy), an `on_room` that is due because
    /// a `send` answered `Above`, and an `on_sent` that was asked for. Until then it can be sent to as
    /// before, and may so come to owe more. Its deadlines go on; `close` and `reset` end it sooner.
    ///
    /// What the library cannot know of is not waited for: an answer by a timer, by a message, or by
    /// another connection, its partner included. Say [`busy(true)`](Self::busy) while one is under way.
    pub fn finish_when_done(&mut self) {
        if self.state.is_owed(self.id) {
            self.state.finishes_later(self.id);
        } else {
            self.finish();
        }
    }

    /// Ends the connection: what is queued goes out, then FIN; later input is thrown away. The
    /// socket stays until the peer's FIN or the linger bound, so that the last bytes arrive. A peer that
    /// does not take them is reset: after [`write_timeout`](crate::Limits::write_timeout) without a byte, or
    /// when [`stuck_timeout`](crate::Limits::stuck_timeout) or
    /// [`lifetime_max`](crate::Limits::lifetime_max) comes.
    ///
    /// In [`on_deadline`](crate::Handler::on_deadline) of an idle or a stuck connection that has unsent bytes,
    /// `close` is a [`reset`](Conn::reset): the peer has taken nothing for the whole timeout, and it is not
    /// waited for again. [`finish`](Conn::finish) there waits for the peer, for
    /// [`write_timeout`](crate::Limits::write_timeout).
    pub fn close(&mut self) {
        self.wish(Status::WISH_CLOSE);
    }

    /// Ends the connection at once, with RST. What is queued is dropped, and counted.
    pub fn reset(&mut self) {
        self.wish(Status::WISH_RESET);
    }

    /// Closes as soon as nothing is under way: no input that the kernel or the handler holds, no
    /// unsent output, not [busy](Conn::busy). Once the peer has ended, no input is: what is left of a message
    /// will never be whole.
    ///
    /// A question that the peer sends in that moment finds the connection closed, and the peer cannot
    /// tell whether it was dealt with. If the protocol has a last word, such as a WebSocket's close frame,
    /// GOAWAY, or `Connection: close`, say it: [`close_when_idle_with`](Self::close_when_idle_with).
    pub fn close_when_idle(&mut self) {
        self.parts().0.status.set(Status::WHEN_IDLE);
        self.wish(0);
    }

    /// As [`close_when_idle`](Self::close_when_idle), and says `last_word` in the moment in which nothing
    /// is under way: it goes out, then FIN, and what the peer says after that is thrown away, as of
    /// [`close`](Self::close). So each question that the peer has sent is answered, or the peer finds
    /// the last word instead of its answer, and no reset takes that from it.
    ///
    /// A later call replaces the bytes. Empty, they are the FIN alone. A peer that has ended gets them as
    /// well; one for which `finish` was called does not. Longer than
    /// [`output_limit`](crate::Limits::output_limit) they end the connection there. A drain ends when the
    /// peers have ended too, or after [`linger_timeout`](crate::Limits::linger_timeout).
    pub fn close_when_idle_with(&mut self, last_word: impl Into<Bytes>) {
        self.close_when_idle_saying(LastWord::Bytes(last_word.into()));
    }

    /// As [`close_when_idle_with`](Self::close_when_idle_with), for a last word that depends on what was
    /// sent before it, as TLS's close_notify does: `last` is called in that moment, as a callback of the
    /// connection ([`Callback::Draining`](crate::Callback::Draining)), and sends it. The connection
    /// closes after it, whatever it asks for.
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

    /// Says that the handler works for this connection elsewhere, so that it is not idle although
    /// no byte waits, and is not [finished](Self::finish_when_done) when its peer ends; or that it does
    /// no more. A flag, and not a count. A job in slices, or of a pool, needs no word: it counts as long
    /// as it is under way, whatever is said here.
    pub fn busy(&mut self, is_busy: bool) {
        self.state.say_busy(self.id, is_busy);
        if !is_busy {
            self.wish(0);
        }
    }

    /// Leaves the peer's bytes in the kernel from now on, so that the peer must wait.
    pub fn pause(&mut self) {
        let status = &mut self.parts().0.status;
        status.set(Status::PAUSED);
        status.clear(Status::WISH_RESUME);
    }

    /// Goes on reading after [`pause`](Self::pause): what came during the pause, and what `on_data` left
    /// in `input`, comes to `on_data` in the next turn. Without a pause it does nothing. Beside a
    /// `finish` in the same callback it does so too, since that ends sending alone. Nothing is read after
    /// `close` and `reset`. A resume costs an entry in a list and a receive, so pause and resume for reasons
    /// that last, and not for each message.
    pub fn resume(&mut self) {
        let status = &mut self.parts().0.status;
        if status.has(Status::PAUSED) {
            status.clear(Status::PAUSED);
            self.wish(Status::WISH_RESUME);
        }
    }

    /// Says whether this connection's input is read on while its output is above the high mark. Of who
    /// waits for whom:
    ///
    /// - *Answers* (false): the peer asks and we answer, so its input waits until it has read. That holds
    ///   a slow reader's memory near [`high_watermark`](crate::Limits::high_watermark). A peer that reads
    ///   only when it can write, such as an echo, then waits for us while we wait for it, until
    ///   `idle_timeout` or `stuck_timeout` ends it.
    /// - *Full duplex* (true): both sides send of their own accord, so neither waits. Input is read as
    ///   long as there is as much room below [`output_limit`](crate::Limits::output_limit): so a handler
    ///   that answers is held there only, and one that sends until `Above` and goes on in `on_room`
    ///   never.
    ///
    /// Connections that were dialled are full duplex; all others are not. What those send of their own
    /// accord, from `on_open`, `on_room`, a timer, a message or another connection's callback, holds
    /// their input not at the high mark but half the way from it to the `output_limit`; what they send
    /// in `on_data`, and from the outcome of a job, holds it at the mark. While memory is short, only
    /// full duplex is read on. A pair ([`pair_with`](Self::pair_with)) holds its partner's input in any
    /// case, and never its own.
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
            self.wish(Status::WISH_RESUME); // what was held goes on
        }
    }

    /// Receives no more than so many bytes a second from now on; `None`: as many as come. Above the
    /// rate the peer's bytes are left in the kernel, until the wheel has counted enough time: nothing
    /// is dropped, the peer waits. Some hundred bytes beside the table for each connection with a
    /// limit, and its messages take the longer way.
    pub fn limit_receive(&mut self, rate: Option<Rate>) {
        self.state.limit(self.id, Way::In, rate);
    }

    /// Sends no more than so many bytes a second from now on, also while it finishes or closes. What
    /// waits is unsent, and counts for the marks, the hard cap and `stuck_timeout`. Otherwise as
    /// [`limit_receive`](Self::limit_receive).
    pub fn limit_send(&mut self, rate: Option<Rate>) {
        self.state.limit(self.id, Way::Out, rate);
    }

    /// Makes this connection and another of its loop a pair: each brings what the other sends on, as
    /// the two sides of a proxy do. From now on, while one has more unsent than its high mark, the
    /// *other's* input is left unread, and not its own; and no more is received from one than the
    /// other has room for below its [`output_limit`](crate::Limits::output_limit). Neither is idle
    /// before the other is.
    ///
    /// The bytes themselves, and the ends, the handler passes on: in `on_data`, `on_end` and
    /// `on_close`. A connection has one partner, and leaves it when it is paired anew or over.
    /// False: the other is not here any more, or is this one.
    pub fn pair_with(&mut self, other: ConnId) -> bool {
        other.in_loop() == usize::from(self.state.number) && self.state.pair(self.id, other)
    }

    /// Makes this connection and another of its loop the ends of a tunnel: a pair, as of
    /// [`pair_with`](Self::pair_with), of which the loop itself sends on what each brings. What was
    /// queued before goes first, and then what `on_data` leaves in its `input`. From now on `on_data`
    /// and `on_end` are called for neither: the end of what a peer sends is passed on as
    /// [`finish`](Self::finish), and if one of the two is over, the other is closed, or reset if
    /// something had failed. All else is as for any connection; a `send` puts its bytes between.
    ///
    /// Where much comes at once it is spliced (splice(2)): moved from socket to socket by a pipe of the
    /// loop ([`pipes_max`](crate::Limits::pipes_max)), and not through this process;
    /// `Counter::BytesSpliced` says how much. What waits in a pipe is unsent, and counts for the marks,
    /// the hard cap and the memory budget. Little, or without a free pipe, is copied.
    ///
    /// [`pair_with`](Self::pair_with) gives both back to the handler. False: the other is not here any
    /// more, or is this one.
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
    ///         match conn.here().dial(Dial::to("127.0.0.1:9001".parse().unwrap()), true) {
    ///             Ok(other) => _ = conn.tunnel_with(other),
    ///             Err(_) => conn.reset(),
    ///         }
    ///     }
    ///
    ///     fn on_data(&mut self, _conn: &mut Conn<'_, Self>, _input: &mut Input<'_>) {}
    /// }
    ///
    /// fn main() -> Result<net_core::Ended, net_core::StartError> {
    ///     Server::new().listen("127.0.0.1:9000").run(|_place| Relay)
    /// }
    /// ```
    pub fn tunnel_with(&mut self, other: ConnId) -> bool {
        other.in_loop() == usize::from(self.state.number) && self.state.tunnel(self.id, other)
    }

    /// Subscribes to a topic: from now on a [`Broadcast`](crate::Broadcast) to it reaches this
    /// connection, until it unsubscribes or is over. False: it had subscribed already. A topic is a
    /// name of up to [`TOPIC_NAME_MAX`](crate::TOPIC_NAME_MAX) bytes and need not be made first. Some
    /// hundred bytes for each subscription, on this loop; none in a connection without one.
    pub fn subscribe(&mut self, topic: impl AsRef<[u8]>) -> Result<bool, TopicError> {
        self.state.topics.subscribe(self.id.slot(), topic.as_ref())
    }

    /// Takes a subscription back. False: there was none.
    pub fn unsubscribe(&mut self, topic: impl AsRef<[u8]>) -> bool {
        self.state.topics.unsubscribe(self.id.slot(), topic.as_ref())
    }

    /// How many topics it has subscribed to.
    pub fn subscriptions(&self) -> usize {
        self.state.topics.count_of(self.id.slot())
    }

    /// Sets the connection's own deadline, `after` from [`Loop::now`], or takes it away. It replaces
    /// the one set before, and no traffic moves it. Never early by that clock, which stands still
    /// during a turn; up to two milliseconds late. [`on_deadline`](Handler::on_deadline) is called.
    ///
    /// A connection with a deadline of its own takes 224 bytes of memory beside its entry, until the
    /// deadline has come or is taken away. The timeouts of [`Limits`](crate::Limits) take none, except
    /// `lifetime_max`.
    pub fn set_deadline(&mut self, after: Option<Duration>) {
        let own = after.map_or(Tick::MAX, |after| self.state.now.after(after));
        self.state.set_deadlines(self.id, |deadlines| deadlines.own = own);
    }

    /// Says that a message begins, whose time is [`message_timeout`](crate::Limits::message_timeout) from
    /// now until [`message_ended`](Self::message_ended). For a handler that takes a long message in
    /// parts: else each byte that it takes would begin that time anew. A second call begins the next
    /// message. Nothing, if there is no such timeout. Not counted while the connection is paused or held
    /// back.
    pub fn message_began(&mut self) {
        self.state.message_begins(self.id, true);
    }

    /// Says that the message is whole, which [`message_began`](Self::message_began) has begun. From now on
    /// the time of the next one is counted from what `on_data` leaves in its `input`, as ever.
    pub fn message_ended(&mut self) {
        if self.state.limits.message_timeout.is_some() {
            self.state.set_deadlines(self.id, |deadlines| {
                deadlines.message_is_marked = false;
                deadlines.message = Tick::MAX;
            });
        }
    }

    /// Why it is ending, once that is decided; in `on_deadline`, which deadline came.
    pub fn why(&mut self) -> Option<Closed> {
        self.parts().0.why
    }

    /// The peer's address: the client's, if a proxy that the listener trusts has named it
    /// ([`Server::listen_proxied`](crate::Server::listen_proxied)); otherwise asked of the kernel.
    /// `None` if the peer is gone.
    pub fn peer(&mut self) -> Option<Addr> {
        self.state.peer(self.id)
    }

    /// The `host:port` that it was dialled by ([`Dial::to_host`](crate::Dial::to_host)), also in
    /// `on_close` when it never came up. `None`: it was not dialled, or by an address.
    pub fn dialled_name(&self) -> Option<&str> {
        self.state.names.get(&self.id).map(|name| &**name)
    }

    /// The loop it lives on.
    pub fn here(&mut self) -> Loop<'_, H> {
        Loop::new(self.state)
    }

    /// Another connection of this loop, if it still lives here.
    pub fn other(&mut self, id: ConnId) -> Option<Conn<'_, H>> {
        self.here().into_connection(id)
    }

    /// Calls `visit` for every open connection of this loop but this one: a scan of the table,
    /// about a nanosecond a slot. For very many use [`Loop::visit_from`], in slices. What is asked of them
    /// and sent to them is carried out over turns, for
    /// [`deferred_per_turn`](crate::Limits::deferred_per_turn) of them in each.
    pub fn others(&mut self, mut visit: impl FnMut(&mut Conn<'_, H>)) {
        let own = self.id;
        self.here().each(|conn| {
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

/// The sending half of a [`Conn`], beside its session.
pub struct Sender<'a> {
    head: &'a mut Head,
    outbox: &'a mut Outbox,
    id: ConnId,
}

impl Sender<'_> {
    /// As [`Conn::send`].
    pub fn send(&mut self, bytes: &[u8]) -> Queued {
        self.outbox.send(self.head, self.id, bytes)
    }

    /// As [`Conn::send_shared`].
    pub fn send_shared(&mut self, bytes: Bytes) -> Queued {
        self.outbox.send_shared(self.head, self.id, bytes)
    }

    /// As [`Conn::send_or`].
    pub fn send_or(&mut self, message: impl Into<Bytes>, at_limit: AtLimit) -> Queued {
        self.outbox.send_or(self.head, self.id, message.into(), at_limit).0
    }

    /// As [`Conn::send_frame`].
    pub fn send_frame(
        &mut self,
        shape: &LengthPrefix,
        payload: Bytes,
    ) -> Result<Queued, FrameError> {
        self.outbox.send_frame(self.head, self.id, shape, payload)
    }

    /// As [`Conn::unsent`].
    pub fn unsent(&self) -> usize {
        self.outbox.pending(self.head)
    }
}
