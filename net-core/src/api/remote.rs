//! `Remote`: the way into a server's loops from any thread.

use crate::base::error::{AdoptError, Unadopted};
use crate::base::id::ConnId;
use crate::config::policy::AtLimit;
use crate::features::broadcast::{Broadcast, Delivery};
use crate::observe::counters::{Counter, Snapshot};
use crate::threads::control::Phase;
use crate::threads::mail::Mail;
use crate::threads::mailbox::PostError;
use crate::threads::shared::Shared;
use bytes::Bytes;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The way into a server's loops from any thread. Cheap to clone; outlives the server, whose loops
/// then take nothing more.
pub struct Remote<M>(pub(crate) Arc<Shared<M>>);

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
        let inbox = &self.0.loops[to];
        let weight = mail.weight();
        if weight > 0 && !inbox.mail_weight.enter(weight) {
            // Bytes that a loop has left when it ended wait for nobody.
            let is_over = inbox.mail.is_closed();
            return Err(if is_over { PostError::Ended(mail) } else { PostError::Full(mail) });
        }
        inbox.mail.post(mail).inspect_err(|_| inbox.mail_weight.leave(weight))?;
        inbox.waker.wake();
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
        self.0.acceptor_waker.wake();
        Ok(())
    }

    /// Asks the server to drain: as SIGTERM does.
    pub fn drain(&self) {
        self.0.ask(Phase::Drain);
    }

    /// Asks the server to stop at once: every connection is reset.
    pub fn stop(&self) {
        self.0.ask(Phase::Stop);
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
        self.0.loops[in_loop].counters.snapshot()
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
