//! `ServerHandle`: a handle to a server's loops, for any thread.

use crate::base::error::{AdoptError, AdoptRejected};
use crate::base::id::ConnId;
use crate::config::policy::OverflowPolicy;
use crate::features::broadcast::{Broadcast, BroadcastHandle};
use crate::observe::counters::{Counter, Snapshot};
use crate::threads::control::Phase;
use crate::threads::mail::Mail;
use crate::threads::mailbox::PostError;
use crate::threads::shared::Shared;
use bytes::Bytes;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A handle to a server's loops, for any thread. It is cheap to clone. It may outlive the server: the loops
/// then take nothing more.
pub struct ServerHandle<M>(pub(crate) Arc<Shared<M>>);

impl<M> Clone for ServerHandle<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Send> ServerHandle<M> {
    /// How many loops the server has.
    pub fn loops(&self) -> usize {
        self.0.loops.len()
    }

    /// Posts a message to loop number `to`, whose handler gets it in `on_message`. Any thread may call it.
    /// It never blocks. If the mailbox is full ([`mail_queue`](crate::Limits::mail_queue)) or its loop has
    /// ended, the message comes back in the error.
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

    /// Posts a copy of `message` to every loop. Returns the numbers of the loops that did not take it.
    pub fn post_all(&self, message: M) -> Vec<usize>
    where
        M: Clone,
    {
        (0..self.loops()).filter(|&k| self.post(k, message.clone()).is_err()).collect()
    }

    /// Sends bytes on a connection of any loop. Any thread may call it. It never blocks. If the connection
    /// has closed when its loop handles the bytes, they are dropped and counted.
    ///
    /// The bytes come back in the error in these cases:
    ///
    /// - The mailbox is full ([`Full`](PostError::Full)): of messages
    ///   ([`mail_queue`](crate::Limits::mail_queue)) or of their bytes
    ///   ([`mail_bytes`](crate::Limits::mail_bytes)).
    /// - The loop has ended ([`Ended`](PostError::Ended)).
    /// - The id is of another server and names a loop that this server does not have
    ///   ([`Ended`](PostError::Ended)).
    pub fn send(&self, to: ConnId, bytes: impl Into<Bytes>) -> Result<(), PostError<Bytes>> {
        self.mail_to(to, Mail::Bytes(to, bytes.into())).map_err(|error| {
            error.map(|mail| match mail {
                Mail::Bytes(_, bytes) => bytes,
                _ => unreachable!("what was posted comes back"),
            })
        })
    }

    /// As [`send`](Self::send), with a policy for a connection at its
    /// [`output_limit`](crate::Limits::output_limit), as in
    /// [`Conn::send_with`](crate::Conn::send_with). It is for messages that may be lost. The caller does not
    /// learn whether the message was dropped: `Counter::MessagesDropped` counts it.
    pub fn send_with(
        &self,
        to: ConnId,
        message: impl Into<Bytes>,
        at_limit: OverflowPolicy,
    ) -> Result<(), PostError<Bytes>> {
        let mail = Mail::BytesOr(Box::new((to, message.into(), at_limit)));
        self.mail_to(to, mail).map_err(|error| {
            error.map(|mail| match mail {
                Mail::BytesOr(addressed) => addressed.1,
                _ => unreachable!("what was posted comes back"),
            })
        })
    }

    /// Closes a connection of any loop, as `Conn::close` does. Any thread may call it. It never blocks. A
    /// stale id closes nothing. It is refused as [`send`](Self::send) is.
    pub fn close(&self, id: ConnId) -> Result<(), PostError<ConnId>> {
        self.mail_to(id, Mail::Close(id)).map_err(|error| error.map(|_| id))
    }

    /// Sends one payload to every open connection of every loop, or to the connections of a topic. Returns
    /// the [`BroadcastHandle`], which counts what became of it. Any thread may call it. It never blocks.
    ///
    /// The bytes exist once, however many connections get them. Each loop sends to at most
    /// [`broadcast_per_turn`](crate::Limits::broadcast_per_turn) connections in a turn, and serves its other
    /// connections between. So a broadcast to very many connections takes long, and nothing waits for it.
    ///
    /// Two broadcasts of one thread reach each connection in their order. What is sent to a connection in
    /// another way meanwhile may come between them. A connection that opens while a broadcast is under way
    /// may get it or not.
    ///
    /// A receiver above its high watermark is skipped and counted, unless the [`Broadcast`] says otherwise.
    pub fn broadcast(&self, what: impl Into<Broadcast>) -> BroadcastHandle {
        let (delivery, parts) = what.into().divide(self.loops());
        for (k, part) in parts.into_iter().enumerate() {
            // A refused part comes back and is dropped. Its drop counts the loop as missed.
            let _ = self.mail(k, Mail::Broadcast(part));
        }
        delivery
    }

    /// Posts mail for a connection. Its id may come from another server, or may have been read from a text.
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
            // A loop that has ended makes no more room, so the answer is then `Ended`, and not `Full`.
            let is_over = inbox.mail.is_closed();
            return Err(if is_over { PostError::Ended(mail) } else { PostError::Full(mail) });
        }
        inbox.mail.post(mail).inspect_err(|_| inbox.mail_weight.leave(weight))?;
        inbox.waker.wake();
        Ok(())
    }

    /// Gives the server a connection that was made elsewhere: by a listener of your own, by another process,
    /// or as one end of a socket pair. The acceptor places it on a loop as if it had accepted it itself, and
    /// `admit` decides. Any thread except a loop's may call it. A loop's thread uses
    /// [`LoopContext::adopt`](crate::LoopContext::adopt). It never blocks.
    ///
    /// The descriptor must be a connected TCP or Unix stream socket. MPTCP is another protocol, and is not
    /// taken. These options of the socket are changed, and every copy of the descriptor shares them:
    ///
    /// - The socket is made non-blocking.
    /// - An `SO_LINGER` with a time above zero is switched off, because close(2) would block the whole loop
    ///   for that time.
    /// - `SO_RCVLOWAT` is set back to one byte.
    /// - A Unix socket takes no descriptors from then on (Linux 6.16).
    ///
    /// Keep no copy of the descriptor: while a copy is open, the peer does not see the connection's end.
    ///
    /// The descriptor comes back in the error if it is unfit, if `connections_max` or `per_source_max` is
    /// reached, if `arrivals_queue` is full, or if the server drains. An adopted connection counts as
    /// `adopted`.
    ///
    /// With private tables ([`FdTable::PerLoop`](crate::server::FdTable::PerLoop)) the descriptor travels to
    /// its loop like any other, and its number in this thread's descriptor table becomes free again.
    pub fn adopt(&self, fd: OwnedFd) -> Result<(), AdoptError> {
        let arrival = self.0.arrival_of(fd)?;
        self.0.adoptions.post(arrival).map_err(|error| {
            let why = AdoptRejected::from(&error);
            AdoptError::new(error.into_inner().socket.into_owned(), why)
        })?;
        self.0.acceptor_waker.wake();
        Ok(())
    }

    /// Asks the server to drain, as SIGTERM does.
    pub fn drain(&self) {
        self.0.ask(Phase::Drain);
    }

    /// Asks the server to stop at once. Every connection is reset.
    pub fn stop(&self) {
        self.0.ask(Phase::Stop);
    }

    /// The counters of all threads, summed.
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

    /// The number of connections of the whole process. A connection counts from accept to close.
    pub fn connections(&self) -> usize {
        self.0.admission.inside()
    }

    /// The number of connections open in one loop.
    ///
    /// # Panics
    /// If there is no such loop.
    pub fn open_in(&self, in_loop: usize) -> u64 {
        self.snapshot_of(in_loop).get(Counter::Open)
    }
}

impl<T> From<&PostError<T>> for AdoptRejected {
    fn from(error: &PostError<T>) -> Self {
        match error {
            PostError::Full(_) => AdoptRejected::Full,
            PostError::Ended(_) => AdoptRejected::Ended,
        }
    }
}
