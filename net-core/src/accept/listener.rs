//! `Listener`: a listener, by a driver: batches, errors, and the rest when starved. The same for
//! the acceptor and for a loop with listeners of its own.

use crate::accept::accept_error::{AcceptError, judge};
use crate::accept::admission::{Admission, Arrival};
use crate::accept::listener_health::ListenerHealth;
use crate::accept::trusted_proxies::TrustedProxies;
use crate::base::closed::{Closed, Why};
use crate::base::log_limiter::LogLimiter;
use crate::config::limits::Limits;
use crate::driver::{Driver, Ending, Link, Received};
use crate::observe::counters::{Counter, Counters};
use crate::sys::addr::Addr;
use crate::sys::{Errno, Socket, SocketFile};
use net_timer::Tick;
use std::io::IoSlice;
use std::sync::Arc;

/// Clients that are still let in when listening ends: as many as a full backlog holds, by the
/// default of `Server::backlog`.
pub(crate) const BACKLOG_MAX: usize = 4096;

/// Accepts that may fail in a row for their clients' own reasons before the listener rests.
const SKIPS_MAX: u32 = 16;

pub(crate) struct Listener {
    at: Addr,
    /// Of a Unix socket that has a path. Before the socket, so that it is dropped while that listens.
    file: Option<SocketFile>,
    socket: Option<Socket>,
    /// Those who may connect, and say first for whom. `None`: anybody, for themselves.
    proxies: Option<Arc<TrustedProxies>>,
    /// The last batch ended before the kernel said that nobody waits.
    has_more: bool,
    /// Starved, or too many have come: no accept before this.
    rests_until: Option<Tick>,
    /// The last accept found no descriptor.
    was_starved: bool,
    /// Accepts in a row that failed for the client's own reasons.
    skipped: u32,
    /// It is about to be shut, and who waits is let in at whatever rate.
    is_last_call: bool,
    /// Where it counts for as long as it is not broken.
    listener_health: Arc<ListenerHealth>,
    trouble: LogLimiter,
    /// Apart, so that a lost client's line does not hold back the one that nobody gets in.
    persistent: LogLimiter,
}

impl Listener {
    /// Takes a listener over. Clients may wait already, so it begins as if signalled.
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

    /// Serves these proxies, if some are given, and nobody else.
    pub(crate) fn behind(self, proxies: Option<Arc<TrustedProxies>>) -> Self {
        Self { proxies, ..self }
    }

    pub(crate) fn signalled(&mut self) {
        self.has_more = true;
    }

    /// There may be clients to accept now.
    pub(crate) fn has_more(&self) -> bool {
        self.has_more && self.rests_until.is_none() && self.socket.is_some()
    }

    /// There may be clients to accept now, or the rest is over.
    pub(crate) fn may_accept(&self, now: Tick) -> bool {
        self.has_more() || self.rests_until().is_some_and(|until| now >= until)
    }

    pub(crate) fn rests_until(&self) -> Option<Tick> {
        self.rests_until.filter(|_| self.socket.is_some())
    }

    /// Accepts one batch into `into`, of `most` clients at most. Over the connection limit, they
    /// are closed at once.
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
            // No new edge comes for those who waited meanwhile.
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
                            Err(Why::Untrusted)
                        } else {
                            // Where an announced one comes from is still to be said.
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
                // Once more: another thread may just have closed one. Clients are shed only when
                // the want is real.
                AcceptError::Starved if !self.was_starved => self.was_starved = true,
                AcceptError::Starved => return self.starved(driver, now, errno, limits, counters),
                AcceptError::Broken => return self.broken(driver, errno, counters),
            }
        }
    }

    fn say_turned_away(&mut self, now: Tick, why: Why, peer: &Addr) {
        if let Some(held_back) = self.trouble.allow(now) {
            tracing::warn!(at = %self.at, ?why, %peer, held_back, "a client was turned away");
        }
    }

    /// Descriptors or memory have run out: lets some clients know by closing them, then rests.
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

    /// Whoever refuses these clients, a filter or a security module, may leave them in the backlog, where
    /// the next accept meets them again: so rests, instead of asking for them without end.
    #[cold]
    fn skipped_too_many(&mut self, now: Tick, errno: Errno, limits: &Limits) {
        if let Some(held_back) = self.persistent.allow(now) {
            tracing::warn!(at = %self.at, %errno, held_back, "accept fails again and again; resting");
        }
        self.skipped = 0;
        self.rests_until = Some(now.after(limits.starved_pause));
    }

    /// This listener will never accept again. The others go on.
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

    /// It is about to be shut: as if signalled, also while it rests. Nobody new finds a Unix socket
    /// from now on, since its file goes first; so who has found it can all be let in.
    pub(crate) fn last_call(&mut self) {
        self.file = None;
        self.rests_until = None;
        self.has_more = true;
        self.is_last_call = true;
    }

    /// Ends listening: from now on a connect is refused.
    pub(crate) fn shut<D: Driver>(&mut self, driver: &mut D) {
        if let Some(listener) = self.socket.take() {
            driver.unlisten(listener);
        }
    }
}

/// Closes a client that is not let in; and tells it so first, if there is something to tell. That
/// is one send, of which a new socket's buffer takes all or nothing is made.
pub(crate) fn turn_away<D: Driver>(
    driver: &mut D,
    socket: Socket,
    admission: &Admission,
    counters: &Counters,
    why: Why,
) {
    let refusal = admission.refusal();
    if !refusal.is_empty() && why != Why::Untrusted {
        let mut link = Link::default();
        let told = driver.offer(&socket, &mut link, &[IoSlice::new(refusal)]);
        if told.bytes == refusal.len() {
            counters.add(Counter::RefusalsSent, 1);
        }
        // close(2) over bytes that nobody has read is a reset, by which the peer may lose what it
        // was told. What it says from now on is not waited for: see decision 0041.
        if let Received::Bytes(lease) = driver.receive(&socket, &mut link, usize::MAX) {
            driver.settle(lease);
        }
    }
    driver.detach(socket, Ending::Close);
    counters.closed(Closed::Refused(why));
}
