//! `Hub`: all that threads of one server share, and `Remote`, the user's end of it.

use crate::accept::admission::{Admission, Arrival};
use crate::accept::listener_health::ListenerHealth;
use crate::base::closed::Why;
use crate::base::error::{AdoptError, Unadopted};
use crate::base::id::ConnId;
use crate::config::limits::Limits;
use crate::config::policy::AtLimit;
use crate::features::broadcast::{Broadcast, Delivery, Part};
use crate::observe::pulse::Pulse;
use crate::observe::stats::{Counter, Snapshot, Stats};
use crate::observe::survey::Asked;
use crate::sys::{Socket, Waker, foreign};
use crate::threads::doorbell::Doorbell;
use crate::threads::mailbox::{Mailbox, PostError};
use crate::threads::resolver::{Answer, Question, Resolver};
use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use net_timer::Tick;
use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// What a loop is told to do. It only ever goes up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
pub(crate) enum Order {
    Run = 0,
    /// Finish what is under way, then end.
    Drain = 1,
    /// The drain's deadline: reset what is left.
    Cut = 2,
    /// Reset all, now.
    Stop = 3,
}

/// An order that any thread gives by one store, and that cannot be full.
#[derive(Debug)]
pub(crate) struct Control(AtomicU32);

impl Control {
    fn new() -> Self {
        Self(AtomicU32::new(Order::Run as u32))
    }

    /// Raises the order. Release: pairs with the load in [`Control::order`], so that what was
    /// prepared before the order is seen by who obeys it.
    pub(crate) fn give(&self, order: Order) {
        self.0.fetch_max(order as u32, Ordering::AcqRel);
    }

    #[inline]
    pub(crate) fn order(&self) -> Order {
        match self.0.load(Ordering::Acquire) {
            0 => Order::Run,
            1 => Order::Drain,
            2 => Order::Cut,
            _ => Order::Stop,
        }
    }
}

/// What comes by mail.
pub(crate) enum Mail<M> {
    Message(M),
    Bytes(ConnId, Bytes),
    /// In a box: it is larger than the rest, and rare.
    BytesOr(Box<(ConnId, Bytes, AtLimit)>),
    Close(ConnId),
    /// In a box, as the last but one.
    Arrival(Box<Arrival>),
    Ask(Arc<Asked>),
    /// In a box, as an arrival.
    Resolved(Box<Answer>),
    /// Something was posted beyond the mailbox's bound.
    Beyond,
    /// The loop's part of a broadcast. Dropped unread, it says itself that this loop missed it.
    Broadcast(Part),
    /// A `Task` for the handler of this loop.
    Task(Box<dyn Any + Send>),
}

impl<M> Mail<M> {
    /// Bytes that it brings along.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Mail::Bytes(_, bytes) => bytes.len(),
            Mail::BytesOr(addressed) => addressed.1.len(),
            Mail::Broadcast(part) => part.bytes().len(),
            _ => 0,
        }
    }
}

/// A bound on the bytes that wait for a loop. A count by itself: the mailbox orders what is posted.
pub(crate) struct MailWeight {
    bytes: AtomicUsize,
    most: usize,
}

impl MailWeight {
    fn new(most: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), most }
    }

    /// So many bytes more are about to be posted. False: too many wait.
    fn enter(&self, bytes: usize) -> bool {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let is_taken = before == 0 || before.saturating_add(bytes) <= self.most;
        if !is_taken {
            self.leave(bytes);
        }
        is_taken
    }

    /// They wait no more.
    pub(crate) fn leave(&self, bytes: usize) {
        if bytes > 0 {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// The bridges into one loop, read each turn in this order: control, arrivals, mail.
pub(crate) struct Bridge<M> {
    pub(crate) doorbell: Doorbell,
    pub(crate) control: Control,
    /// Connections for this loop, where it shares the acceptor's descriptor table.
    pub(crate) arrivals: ArrayQueue<Arrival>,
    /// No more arrivals will come by the queue. Stored (Release) after the last push.
    pub(crate) arrivals_ended: AtomicBool,
    pub(crate) mail: Mailbox<Mail<M>>,
    /// Bytes that wait in it, and in broadcasts that are under way.
    pub(crate) mail_weight: MailWeight,
    pub(crate) stats: Stats,
    /// What the loop does now, while stalls are looked for.
    pub(crate) pulse: Pulse,
    /// Arrivals that the loop has taken so far. Stored (Release) after the open count that
    /// includes them, so that who reads this first never counts a connection as neither.
    pub(crate) taken: AtomicU64,
    /// The loop's thread is past its last turn, or gone.
    pub(crate) is_over: AtomicBool,
}

impl<M> Bridge<M> {
    /// The second look before sleep: is there anything on any bridge that the loop has not seen?
    /// The fd channel, a descriptor, wakes by itself.
    pub(crate) fn has_news(&self, obeyed: Order, saw_the_end: bool) -> bool {
        self.control.order() != obeyed
            || !self.arrivals.is_empty()
            || !self.mail.is_empty()
            || (!saw_the_end && self.arrivals_ended.load(Ordering::Acquire))
    }
}

/// Everything that the threads of one server share.
pub(crate) struct Hub<M> {
    pub(crate) loops: Box<[Arc<Bridge<M>>]>,
    pub(crate) acceptor: Stats,
    pub(crate) admission: Arc<Admission>,
    pub(crate) listener_health: Arc<ListenerHealth>,
    /// What its loops may buffer.
    pub(crate) memory_budget: Option<usize>,
    pub(crate) times_callbacks: bool,
    /// What the server as a whole was asked to do, by a handler or a `Remote`.
    pub(crate) asked: Control,
    /// Connections made elsewhere, on their way to the acceptor, which places them.
    pub(crate) adoptions: Mailbox<Arrival>,
    pub(crate) resolver: Resolver,
    /// Wakes the acceptor's thread, which carries out what is asked.
    pub(crate) acceptor_waker: Arc<Waker>,
}

impl<M> Hub<M> {
    pub(crate) fn new(
        loops: usize,
        admission: Admission,
        limits: &Limits,
    ) -> std::io::Result<Arc<Self>> {
        let bridge = |_| {
            Ok(Arc::new(Bridge {
                doorbell: Doorbell::new(Arc::new(Waker::new()?)),
                control: Control::new(),
                arrivals: ArrayQueue::new(limits.arrivals_queue),
                arrivals_ended: AtomicBool::new(false),
                mail: Mailbox::new(limits.mail_queue),
                mail_weight: MailWeight::new(limits.mail_bytes),
                stats: Stats::default(),
                pulse: Pulse::default(),
                taken: AtomicU64::new(0),
                is_over: AtomicBool::new(false),
            }))
        };
        let acceptor_waker = Arc::new(Waker::new()?);
        Ok(Arc::new(Self {
            loops: (0..loops).map(bridge).collect::<std::io::Result<_>>()?,
            acceptor: Stats::default(),
            admission: Arc::new(admission),
            listener_health: Arc::new(ListenerHealth::new(Arc::clone(&acceptor_waker))),
            memory_budget: limits.memory_budget,
            times_callbacks: limits.time_callbacks,
            asked: Control::new(),
            adoptions: Mailbox::new(limits.arrivals_queue),
            resolver: Resolver::new(limits.names_queue, limits.resolver_threads),
            acceptor_waker,
        }))
    }

    /// Asks the server to drain or stop.
    pub(crate) fn ask(&self, order: Order) {
        self.asked.give(order);
        self.acceptor_waker.ring();
    }

    /// Asks for the addresses of a name; the answer comes by mail. False: too many wait already.
    pub(crate) fn resolve(&self, question: Question, now: Tick) -> bool {
        let asked = self.resolver.ask(question, now);
        if let Ok(true) = asked {
            self.acceptor_waker.ring();
        }
        asked.is_ok()
    }

    /// Brings an answer to the loop that asked. One that is over has no use for it.
    pub(crate) fn answer(&self, answer: Answer) {
        let to = answer.id.in_loop();
        let _ = self.deliver(to, Mail::Resolved(Box::new(answer)));
    }

    /// Posts what a thread of the library owes to a loop, also where its mailbox is full: else a loop
    /// that is stuck would hold that thread, and with it what other loops wait for. Each connection is
    /// owed few answers, so these are bounded without the mailbox. It comes back from a loop that is over.
    pub(crate) fn deliver(&self, to: usize, mail: Mail<M>) -> Result<(), Mail<M>> {
        let bridge = &self.loops[to];
        bridge.mail.post_beyond(mail, || Mail::Beyond)?;
        bridge.doorbell.ring();
        Ok(())
    }

    /// Makes an arrival of a connection made elsewhere.
    pub(crate) fn arrival_of(self: &Arc<Self>, fd: OwnedFd) -> Result<Arrival, AdoptError> {
        let peer = match foreign::prepare(&fd) {
            Ok(peer) => peer,
            Err(unfit) => return Err(AdoptError::new(fd, Unadopted::Unfit(unfit))),
        };
        match self.admission.enter(Some(&peer)) {
            // Over the limit it comes back, where an accepted one may be refused later.
            Ok(permit) if !permit.is_over() => {
                Ok(Arrival { socket: Socket::from_owned(fd), peer, permit, is_announced: false })
            }
            Err(Why::PerSource) => Err(AdoptError::new(fd, Unadopted::PerSourceMax)),
            _ => Err(AdoptError::new(fd, Unadopted::ConnectionsMax)),
        }
    }

    /// Tells every loop.
    pub(crate) fn order(&self, order: Order) {
        for bridge in &self.loops {
            bridge.control.give(order);
            bridge.doorbell.ring();
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut sum = self.acceptor.snapshot();
        for bridge in &self.loops {
            sum.add(&bridge.stats.snapshot());
        }
        sum
    }
}

/// The way into a server's loops from any thread. Cheap to clone; outlives the server, whose loops
/// then take nothing more.
pub struct Remote<M>(pub(crate) Arc<Hub<M>>);

impl<M> Clone for Remote<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Send> Remote<M> {
    /// How many loops there are.
    pub fn loops(&self) -> usize {
        self.0.loops.len()
    }

    /// Posts a message to loop number `to`; its handler's `on_message` gets it. Any thread, never
    /// blocking. A full or ended mailbox gives the message back.
    ///
    /// # Panics
    /// If there is no such loop.
    pub fn post(&self, to: usize, message: M) -> Result<(), PostError<M>> {
        self.mail(to, Mail::Message(message)).map_err(|error| {
            error.map(|mail| match mail {
                Mail::Message(message) => message,
                _ => unreachable!("what was posted comes back"),
            })
        })
    }

    /// Posts a copy of `message` to every loop. Returns the loops that could not take it.
    pub fn post_all(&self, message: M) -> Vec<usize>
    where
        M: Clone,
    {
        (0..self.loops()).filter(|&k| self.post(k, message.clone()).is_err()).collect()
    }

    /// Sends bytes on a connection of any loop. They are dropped, and counted, if the connection
    /// has closed by the time its loop looks. Any thread, never blocking. A mailbox that is full, of
    /// messages ([`mail_queue`](crate::Limits::mail_queue)) or of their bytes
    /// ([`mail_bytes`](crate::Limits::mail_bytes)), gives them back; and so does, as
    /// [`Ended`](PostError::Ended), a loop that has ended, or an id of another server, which names a loop
    /// that this one does not have.
    pub fn send(&self, to: ConnId, bytes: impl Into<Bytes>) -> Result<(), PostError<Bytes>> {
        self.mail_to(to, Mail::Bytes(to, bytes.into())).map_err(|error| {
            error.map(|mail| match mail {
                Mail::Bytes(_, bytes) => bytes,
                _ => unreachable!("what was posted comes back"),
            })
        })
    }

    /// As [`send`](Self::send), with a policy for a connection at its hard cap, as
    /// [`Conn::send_or`](crate::Conn::send_or) has it: for messages of which one may be lost.
    /// Another thread does not learn what became of it: `Counter::MessagesDropped` has it.
    pub fn send_or(
        &self,
        to: ConnId,
        message: impl Into<Bytes>,
        at_limit: AtLimit,
    ) -> Result<(), PostError<Bytes>> {
        let mail = Mail::BytesOr(Box::new((to, message.into(), at_limit)));
        self.mail_to(to, mail).map_err(|error| {
            error.map(|mail| match mail {
                Mail::BytesOr(addressed) => addressed.1,
                _ => unreachable!("what was posted comes back"),
            })
        })
    }

    /// Closes a connection of any loop, as `Conn::close` does. Any thread, never blocking. A stale id
    /// closes nothing. Refused as [`send`](Self::send) is.
    pub fn close(&self, id: ConnId) -> Result<(), PostError<ConnId>> {
        self.mail_to(id, Mail::Close(id)).map_err(|error| error.map(|_| id))
    }

    /// Sends one payload to every open connection of every loop, or to those of a topic, and returns
    /// the account that it keeps. Any thread, never blocking.
    ///
    /// The bytes exist once, however many get them. Each loop sends to at most
    /// [`broadcast_per_turn`](crate::Limits::broadcast_per_turn) connections in a turn and serves
    /// everybody else between, so a broadcast takes long where there are very many, and nobody
    /// waits for it. Two broadcasts of one thread reach each connection in their order; what is sent
    /// to a connection otherwise meanwhile may come between. A connection that comes while a
    /// broadcast is under way may get it or not.
    ///
    /// A receiver above its high mark is passed over, and counted, unless it was asked otherwise.
    pub fn broadcast(&self, what: impl Into<Broadcast>) -> Delivery {
        let (delivery, parts) = what.into().divide(self.loops());
        for (k, part) in parts.into_iter().enumerate() {
            // Refused, the part comes back and is dropped: the account has it as missed.
            let _ = self.mail(k, Mail::Broadcast(part));
        }
        delivery
    }

    /// Mail for a connection. The caller may have its id from another server, or have read it from a text.
    fn mail_to(&self, id: ConnId, mail: Mail<M>) -> Result<(), PostError<Mail<M>>> {
        if id.in_loop() >= self.loops() {
            return Err(PostError::Ended(mail));
        }
        self.mail(id.in_loop(), mail)
    }

    pub(crate) fn mail(&self, to: usize, mail: Mail<M>) -> Result<(), PostError<Mail<M>>> {
        let bridge = &self.0.loops[to];
        let weight = mail.weight();
        if weight > 0 && !bridge.mail_weight.enter(weight) {
            // Bytes that a loop has left when it ended wait for nobody.
            let is_over = bridge.mail.is_closed();
            return Err(if is_over { PostError::Ended(mail) } else { PostError::Full(mail) });
        }
        bridge.mail.post(mail).inspect_err(|_| bridge.mail_weight.leave(weight))?;
        bridge.doorbell.ring();
        Ok(())
    }

    /// Gives the server a connection that was made elsewhere: by a listener of your own, by another
    /// process, as one end of a pair. The acceptor places it on a loop as if it had accepted it
    /// itself, and `admit` decides. Any thread but a loop's, which has [`Loop::adopt`](crate::Loop::adopt);
    /// never blocking.
    ///
    /// It must be a connected TCP or Unix stream socket (MPTCP is another protocol), and is made
    /// non-blocking, for every copy of it. An `SO_LINGER` of some time is switched off, since close(2) would
    /// hold the whole loop for as long, and so is `SO_RCVLOWAT`; a Unix socket takes no descriptors from then
    /// on (Linux 6.16). Keep no copy: while one is open the peer does not see the connection's end.
    /// Unfit, over `connections_max` or `per_source_max`, at the bound of `arrivals_queue`, or in a
    /// server that drains, it comes back in the error. It counts as `given`.
    ///
    /// With private tables ([`FdTable::PerLoop`](crate::FdTable::PerLoop)) it travels to its loop
    /// like any other, and its place in the table of this thread is free again.
    pub fn adopt(&self, fd: OwnedFd) -> Result<(), AdoptError> {
        let arrival = self.0.arrival_of(fd)?;
        self.0.adoptions.post(arrival).map_err(|error| {
            let why = Unadopted::from(&error);
            AdoptError::new(error.into_inner().socket.into_owned(), why)
        })?;
        self.0.acceptor_waker.ring();
        Ok(())
    }

    /// Asks the server to drain: as SIGTERM does.
    pub fn drain(&self) {
        self.0.ask(Order::Drain);
    }

    /// Asks the server to stop at once: every connection is reset.
    pub fn stop(&self) {
        self.0.ask(Order::Stop);
    }

    /// The counters of all threads, added up.
    pub fn snapshot(&self) -> Snapshot {
        self.0.snapshot()
    }

    /// The counters of one loop.
    ///
    /// # Panics
    /// If there is no such loop.
    pub fn snapshot_of(&self, in_loop: usize) -> Snapshot {
        self.0.loops[in_loop].stats.snapshot()
    }

    /// Connections of the whole process, from accept to close.
    pub fn connections(&self) -> usize {
        self.0.admission.inside()
    }

    /// Connections open in one loop.
    ///
    /// # Panics
    /// If there is no such loop.
    pub fn open_in(&self, in_loop: usize) -> u64 {
        self.snapshot_of(in_loop).get(Counter::Open)
    }
}

impl<T> From<&PostError<T>> for Unadopted {
    fn from(error: &PostError<T>) -> Self {
        match error {
            PostError::Full(_) => Unadopted::Full,
            PostError::Ended(_) => Unadopted::Ended,
        }
    }
}
