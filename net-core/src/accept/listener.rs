//! `Listener`: accepts clients in batches, handles accept errors, and rests when resources run out.
//!
//! It works through a driver. The acceptor and a loop with listeners of its own use the same code.

use crate::accept::accept_error::{AcceptError, judge};
use crate::accept::admission::{Admission, Arrival};
use crate::accept::listener_health::ListenerHealth;
use crate::accept::trusted_proxies::TrustedProxies;
use crate::base::close_reason::{CloseReason, RefuseReason};
use crate::base::log_limiter::LogLimiter;
use crate::config::limits::Limits;
use crate::driver::{Driver, Ending, Link, Received};
use crate::observe::counters::{Counter, Counters};
use crate::sys::addr::Addr;
use crate::sys::{Errno, Socket, SocketFile};
use net_timer::Tick;
use std::io::IoSlice;
use std::sync::Arc;

/// Number of clients that are still let in when listening ends: a full backlog, by the default of
/// `Server::backlog`.
pub(crate) const BACKLOG_MAX: usize = 4096;

/// Number of accepts in a row that may fail because of their clients before the listener rests.
const SKIPS_MAX: u32 = 16;

pub(crate) struct Listener {
    at: Addr,
    /// The file of a Unix socket that has a path. This field stands before `socket`, so that the file is
    /// removed while the socket still listens.
    file: Option<SocketFile>,
    socket: Option<Socket>,
    /// The proxies that may connect. Each connection begins with a PROXY header, which names the client.
    /// `None`: every client may connect, without a PROXY header.
    proxies: Option<Arc<TrustedProxies>>,
    /// The last batch ended before the kernel said that no client waits.
    has_more: bool,
    /// No accept before this time: descriptors or memory ran out, or the accept rate is reached, or too many
    /// accepts failed.
    rests_until: Option<Tick>,
    /// The last accept found no descriptor.
    was_starved: bool,
    /// Number of accepts in a row that failed because of their clients.
    skipped: u32,
    /// The listener is about to be shut. All clients that wait are let in, at any rate.
    is_last_call: bool,
    /// Counts this listener as open until it fails.
    listener_health: Arc<ListenerHealth>,
    trouble: LogLimiter,
    /// A limiter of its own for "accept fails again and again", so that the line about one lost client does
    /// not hold this line back.
    persistent: LogLimiter,
}

impl Listener {
    /// Takes a listening socket over. Clients may wait already, so the listener begins as if signalled.
    pub(crate) fn new(
        at: Addr,
        socket: Socket,
        limits: &Limits,
        listener_health: &Arc<ListenerHealth>,
    ) -> Self {
        listener_health.opened();
        let (trouble, persistent) =
            (LogLimiter::new(limits.log_every), LogLimiter::new(limits.log_every));
        Self {
            file: SocketFile::of(&at),
            at,
            socket: Some(socket),
            proxies: None,
            has_more: true,
            rests_until: None,
            was_starved: false,
            skipped: 0,
            is_last_call: false,
            listener_health: Arc::clone(listener_health),
            trouble,
            persistent,
        }
    }

    /// With `Some(proxies)`, accepts only connections from these proxies.
    pub(crate) fn behind(self, proxies: Option<Arc<TrustedProxies>>) -> Self {
        Self { proxies, ..self }
    }

    pub(crate) fn signalled(&mut self) {
        self.has_more = true;
    }

    /// Whether there may be clients to accept now.
    pub(crate) fn has_more(&self) -> bool {
        self.has_more && self.rests_until.is_none() && self.socket.is_some()
    }

    /// Whether there may be clients to accept now, or the rest is over.
    pub(crate) fn may_accept(&self, now: Tick) -> bool {
        self.has_more() || self.rests_until().is_some_and(|until| now >= until)
    }

    pub(crate) fn rests_until(&self) -> Option<Tick> {
        self.rests_until.filter(|_| self.socket.is_some())
    }

    /// Accepts one batch of at most `most` clients into `into`. A client above a limit is closed at once.
    #[allow(clippy::too_many_arguments)] // all that two kinds of owners have in common
    pub(crate) fn accept<D: Driver>(
        &mut self,
        driver: &mut D,
        now: Tick,
        limits: &Limits,
        most: usize,
        counters: &Counters,
        admission: &Arc<Admission>,
        into: &mut Vec<Arrival>,
    ) {
        if self.rests_until.is_some_and(|until| now >= until) {
            // No new edge comes for clients that arrived during the rest.
            self.rests_until = None;
            self.has_more = true;
        }
        if !self.has_more() {
            return;
        }
        for _ in 0..limits.accepts_per_turn.min(most) {
            let Some(listener) = &self.socket else { return };
            if !self.is_last_call
                && let Err(until) = admission.take_token(now)
            {
                counters.add(Counter::AcceptPaused, 1);
                self.rests_until = Some(until);
                return;
            }
            let errno = match driver.accept(listener) {
                Ok((socket, peer)) => {
                    counters.add(Counter::Accepted, 1);
                    (self.was_starved, self.skipped) = (false, 0);
                    let is_announced = self.proxies.is_some();
                    let entered =
                        if self.proxies.as_ref().is_some_and(|proxies| !proxies.trusts(&peer)) {
                            Err(RefuseReason::Untrusted)
                        } else {
                            // The source of an announced client is not known before its PROXY header.
                            admission.enter(Some(&peer).filter(|_| !is_announced))
                        };
                    match entered {
                        Ok(permit) => into.push(Arrival { socket, peer, permit, is_announced }),
                        Err(why) => {
                            self.say_turned_away(now, why, &peer);
                            turn_away(driver, socket, admission, counters, why);
                        }
                    }
                    continue;
                }
                Err(errno) => errno,
            };
            if !self.is_last_call {
                admission.return_token();
            }
            match judge(errno) {
                AcceptError::Nothing => {
                    (self.has_more, self.skipped) = (false, 0);
                    return;
                }
                AcceptError::Skip => {
                    counters.add(Counter::AcceptSkipped, 1);
                    self.skipped += 1;
                    if self.skipped >= SKIPS_MAX {
                        return self.skipped_too_many(now, errno, limits);
                    }
                    if let Some(held_back) = self.trouble.allow(now) {
                        tracing::info!(at = %self.at, %errno, held_back, "a client was lost at accept");
                    }
                }
                // Tries once more, because another thread may just have closed a descriptor. Clients are
                // shed only if the shortage is real.
                AcceptError::Starved if !self.was_starved => self.was_starved = true,
                AcceptError::Starved => return self.starved(driver, now, errno, limits, counters),
                AcceptError::Broken => return self.broken(driver, errno, counters),
            }
        }
    }

    fn say_turned_away(&mut self, now: Tick, why: RefuseReason, peer: &Addr) {
        if let Some(held_back) = self.trouble.allow(now) {
            tracing::warn!(at = %self.at, ?why, %peer, held_back, "a client was turned away");
        }
    }

    /// Descriptors or memory have run out: closes some clients, so that they learn of it, then rests.
    #[cold]
    fn starved<D: Driver>(
        &mut self,
        driver: &mut D,
        now: Tick,
        errno: Errno,
        limits: &Limits,
        counters: &Counters,
    ) {
        counters.add(Counter::Starved, 1);
        if let Some(held_back) = self.trouble.allow(now) {
            tracing::warn!(at = %self.at, %errno, held_back, "cannot accept; resting");
        }
        if let Some(listener) = &self.socket {
            let shed = (0..limits.shed_per_pause).take_while(|_| driver.shed(listener)).count();
            counters.add(Counter::Shed, shed as u64);
        }
        self.was_starved = false;
        self.rests_until = Some(now.after(limits.starved_pause));
    }

    /// Too many accepts have failed in a row: rests. A seccomp filter or a security module may refuse a
    /// client and leave it in the backlog, where the next accept meets it again. Without a rest the
    /// listener would try again without end.
    #[cold]
    fn skipped_too_many(&mut self, now: Tick, errno: Errno, limits: &Limits) {
        if let Some(held_back) = self.persistent.allow(now) {
            tracing::warn!(at = %self.at, %errno, held_back, "accept fails again and again; resting");
        }
        self.skipped = 0;
        self.rests_until = Some(now.after(limits.starved_pause));
    }

    /// This listener can never accept again, and ends. The other listeners go on.
    #[cold]
    fn broken<D: Driver>(&mut self, driver: &mut D, errno: Errno, counters: &Counters) {
        counters.add(Counter::ListenersBroken, 1);
        tracing::error!(at = %self.at, %errno, "this listener is broken and ends");
        self.file = None;
        if let Some(listener) = self.socket.take() {
            driver.unlisten(listener);
        }
        self.listener_health.mark_failed(&self.at, errno);
    }

    /// The listener is about to be shut: it accepts as if signalled, also during a rest. The file of a Unix
    /// socket is removed first. So no new client finds the socket, and all clients that have found it can be
    /// let in.
    pub(crate) fn last_call(&mut self) {
        self.file = None;
        self.rests_until = None;
        self.has_more = true;
        self.is_last_call = true;
    }

    /// Ends listening. From now on the kernel refuses a connect.
    pub(crate) fn shut<D: Driver>(&mut self, driver: &mut D) {
        if let Some(listener) = self.socket.take() {
            driver.unlisten(listener);
        }
    }
}

/// Closes a client that is not let in. If there is a refusal message, the client gets it first, in one
/// send. The empty buffer of a new socket takes all of it. If it does not, nothing more is sent.
pub(crate) fn turn_away<D: Driver>(
    driver: &mut D,
    socket: Socket,
    admission: &Admission,
    counters: &Counters,
    why: RefuseReason,
) {
    let refusal = admission.refusal();
    if !refusal.is_empty() && why != RefuseReason::Untrusted {
        let mut link = Link::default();
        let told = driver.offer(&socket, &mut link, &[IoSlice::new(refusal)]);
        if told.bytes == refusal.len() {
            counters.add(Counter::RefusalsSent, 1);
        }
        // close(2) with unread bytes sends a reset, and the peer may then lose the refusal message. So the
        // bytes that have arrived are read first. Later bytes are not waited for: see decision 0041.
        if let Received::Bytes(lease) = driver.receive(&socket, &mut link, usize::MAX) {
            driver.settle(lease);
        }
    }
    driver.detach(socket, Ending::Close);
    counters.closed(CloseReason::Refused(why));
}
