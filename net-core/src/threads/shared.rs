//! `Shared`: everything that the threads of one server share.

use crate::accept::admission::{Admission, Arrival};
use crate::accept::listener_health::ListenerHealth;
use crate::base::close_reason::RefuseReason;
use crate::base::error::{AdoptError, AdoptRejected};
use crate::config::limits::Limits;
use crate::observe::counters::{Counters, Snapshot};
use crate::sys::{Socket, Waker, foreign};
use crate::threads::control::{Control, Phase};
use crate::threads::inbox::Inbox;
use crate::threads::mail::Mail;
use crate::threads::mailbox::Mailbox;
use crate::threads::resolver::{Lookup, LookupResult, Resolver};
use net_timer::Tick;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Everything that the threads of one server share.
pub(crate) struct Shared<M> {
    pub(crate) loops: Box<[Arc<Inbox<M>>]>,
    pub(crate) acceptor: Counters,
    pub(crate) admission: Arc<Admission>,
    pub(crate) listener_health: Arc<ListenerHealth>,
    /// What the server's loops together may buffer.
    pub(crate) memory_budget: Option<usize>,
    pub(crate) times_callbacks: bool,
    /// What the server as a whole was asked to do, by a handler or another thread.
    pub(crate) asked: Control,
    /// Connections made elsewhere, on their way to the acceptor, which places them.
    pub(crate) adoptions: Mailbox<Arrival>,
    pub(crate) resolver: Resolver,
    /// Wakes the acceptor's thread, which carries out what is asked.
    pub(crate) acceptor_waker: Arc<Waker>,
}

impl<M> Shared<M> {
    pub(crate) fn new(
        loops: usize,
        admission: Admission,
        limits: &Limits,
    ) -> std::io::Result<Arc<Self>> {
        let acceptor_waker = Arc::new(Waker::new()?);
        Ok(Arc::new(Self {
            loops: (0..loops).map(|_| Inbox::new(limits)).collect::<std::io::Result<_>>()?,
            acceptor: Counters::default(),
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
    pub(crate) fn ask(&self, phase: Phase) {
        self.asked.raise(phase);
        self.acceptor_waker.wake();
    }

    /// Asks for the addresses of a name; the answer comes by mail. False: too many wait already.
    pub(crate) fn resolve(&self, question: Lookup, now: Tick) -> bool {
        let asked = self.resolver.ask(question, now);
        if let Ok(true) = asked {
            self.acceptor_waker.wake();
        }
        asked.is_ok()
    }

    /// Brings an answer to the loop that asked. A loop that is over has no use for it.
    pub(crate) fn answer(&self, answer: LookupResult) {
        let to = answer.id.in_loop();
        let _ = self.deliver(to, Mail::Resolved(Box::new(answer)));
    }

    /// Posts what a thread of the library owes to a loop, even if the loop's mailbox is full. Otherwise a
    /// loop that is stuck would hold that thread, and with it what other loops wait for. Each connection is
    /// owed few answers, so these are bounded without the mailbox. A loop that is over gives the mail back.
    pub(crate) fn deliver(&self, to: usize, mail: Mail<M>) -> Result<(), Mail<M>> {
        let inbox = &self.loops[to];
        inbox.mail.post_beyond(mail, || Mail::Beyond)?;
        inbox.waker.wake();
        Ok(())
    }

    /// Makes an arrival of a connection made elsewhere.
    pub(crate) fn arrival_of(self: &Arc<Self>, fd: OwnedFd) -> Result<Arrival, AdoptError> {
        let peer = match foreign::prepare(&fd) {
            Ok(peer) => peer,
            Err(unfit) => return Err(AdoptError::new(fd, AdoptRejected::Unfit(unfit))),
        };
        match self.admission.enter(Some(&peer)) {
            // Over the limit the descriptor is given back here, while an accepted connection may be refused
            // later.
            Ok(permit) if !permit.is_over() => {
                Ok(Arrival { socket: Socket::from_owned(fd), peer, permit, is_announced: false })
            }
            Err(RefuseReason::PerSource) => Err(AdoptError::new(fd, AdoptRejected::PerSourceMax)),
            _ => Err(AdoptError::new(fd, AdoptRejected::ConnectionsMax)),
        }
    }

    /// Raises the phase of every loop.
    pub(crate) fn raise(&self, phase: Phase) {
        for inbox in &self.loops {
            inbox.control.raise(phase);
            inbox.waker.wake();
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut sum = self.acceptor.snapshot();
        for inbox in &self.loops {
            sum.add(&inbox.counters.snapshot());
        }
        sum
    }
}
