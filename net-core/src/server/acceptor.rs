//! The acceptor's thread: accepts connections and hands them to the loops.
//!
//! The thread also carries out what is asked of the server as a whole.

use crate::accept::admission::Arrival;
use crate::accept::listener::{BACKLOG_MAX, Listener};
use crate::base::close_reason::CloseReason;
use crate::base::panics::Quiet;
use crate::config::limits::Limits;
use crate::driver::{Driver, WAKER, listener_number};
use crate::observe::counters::Counter;
use crate::server::dispatcher::Dispatcher;
use crate::server::stall_detector::StallDetector;
use crate::server::stuck_loop::StuckLoop;
use crate::sys::Errno;
use crate::sys::addr::Addr;
use crate::sys::signals::Signals;
use crate::threads::control::Phase;
use crate::threads::inbox::Inbox;
use crate::threads::resolver::{self, Lookup, LookupResult};
use crate::threads::shared::Shared;
use net_timer::Tick;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// How long arrivals wait before they are tried again, if no loop had room for them.
const RETRY: Duration = Duration::from_millis(2);

/// How long a loop may stand still after the drain's deadline, or after a stop. After this time the
/// acceptor no longer waits for the loop, because a callback that has not returned by then may never
/// return.
const END_PATIENCE: Duration = Duration::from_secs(3);
/// As `END_PATIENCE`, after a second signal.
const END_PATIENCE_IN_A_HURRY: Duration = Duration::from_millis(500);
/// How often the acceptor then checks whether the loops still turn.
const END_LOOK_EVERY: Duration = Duration::from_millis(50);

pub(crate) struct Acceptor<M, D: Driver> {
    driver: D,
    shared: Arc<Shared<M>>,
    listeners: Vec<Listener>,
    dispatcher: Dispatcher<M>,
    limits: Limits,
    drain_timeout: Duration,
    signals: Option<Signals>,
    phase: Phase,
    /// The last listener and the error with which it failed, if the server drains because of it.
    last_failed: Option<(Addr, Errno)>,
    /// When the drain ends, and the connections that are left are reset.
    deadline: Option<Tick>,
    arrivals_ended: bool,
    retry_at: Option<Tick>,
    /// When to check next whether the loops take the connections that wait for them.
    look_at: Option<Tick>,
    stalls: Option<StallDetector>,
    /// One per loop. Used after the drain's deadline, or after a stop.
    ends: Vec<StuckLoop>,
    /// Loops that stand still and do not end. The acceptor does not wait for them.
    given_up: Vec<usize>,
}

impl<M: Send + 'static, D: Driver> Acceptor<M, D> {
    pub(crate) fn new(
        driver: D,
        shared: Arc<Shared<M>>,
        listeners: Vec<Listener>,
        dispatcher: Dispatcher<M>,
        limits: Limits,
        drain_timeout: Duration,
        signals: Option<Signals>,
    ) -> Self {
        let stalls = StallDetector::new(&limits, shared.loops.len());
        let ends = shared.loops.iter().map(|_| StuckLoop::default()).collect();
        Self {
            driver,
            shared,
            listeners,
            dispatcher,
            limits,
            drain_timeout,
            signals,
            phase: Phase::Run,
            last_failed: None,
            deadline: None,
            arrivals_ended: false,
            retry_at: None,
            look_at: None,
            stalls,
            ends,
            given_up: Vec::new(),
        }
    }

    /// The handling of signals, which must end last.
    pub(crate) fn take_signals(&mut self) -> Option<Signals> {
        self.signals.take()
    }

    /// The last listener and the error with which it failed, if that ended the server.
    pub(crate) fn take_last_failed(&mut self) -> Option<(Addr, Errno)> {
        self.last_failed.take()
    }

    /// The loops that were not waited for, because they stand still in a callback.
    pub(crate) fn take_given_up(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.given_up)
    }

    /// Runs until every loop is over or given up. Returns how many signals came, and the number of the
    /// last one.
    pub(crate) fn run(&mut self) -> io::Result<(u32, i32)> {
        if let Some(signals) = &self.signals {
            signals.hear_here()?;
        }
        let mut now = self.driver.now();
        while !self.is_over() {
            self.obey(now);
            self.accept(now);
            self.start_resolving();
            self.give_up(now);
            if self.is_over() {
                break;
            }
            self.driver.wait(now, self.next(now))?;
            now = self.driver.now();
            if let Some(stalls) = &mut self.stalls {
                stalls.look(now, self.shared.loops.iter().map(|inbox| &inbox.activity));
            }
            while let Some(signal) = self.driver.next() {
                if signal.token == WAKER {
                    self.driver.woken();
                }
                let number = listener_number(signal.token);
                if let Some(listening) = number.and_then(|n| self.listeners.get_mut(n)) {
                    listening.signalled();
                }
            }
        }
        Ok(self.signals.as_ref().map_or((0, 0), Signals::seen))
    }

    /// Starts further threads of the resolver, if it wants more. The acceptor's thread starts them,
    /// because a loop's thread may have its own descriptor table, and a new thread would share that table
    /// for ever.
    fn start_resolving(&mut self) {
        while self.shared.resolver.takes_thread() {
            let shared = Arc::clone(&self.shared);
            let serve = move || {
                let _quiet = Quiet::here();
                shared.resolver.serve(resolver::lookup, |answer| shared.answer(answer));
            };
            let thread = thread::Builder::new().name("net-resolver".into()).spawn(serve);
            let Err(error) = thread else { continue };
            tracing::error!(%error, "cannot start a thread that looks names up");
            let error = Arc::new(io::Error::new(error.kind(), "no thread to look it up"));
            for Lookup { id, attempt, .. } in self.shared.resolver.gives_thread_back() {
                self.shared.answer(LookupResult { id, attempt, found: Err(Arc::clone(&error)) });
            }
            return;
        }
    }

    fn is_over(&self) -> bool {
        let is_over = |k: usize| self.shared.loops[k].is_over.load(Ordering::Acquire);
        (0..self.shared.loops.len()).all(|k| is_over(k) || self.given_up.contains(&k))
    }

    /// After the drain's deadline, or after a stop, gives up the loops that stand still. Their callbacks
    /// may never return, and the process must end.
    fn give_up(&mut self, now: Tick) {
        if self.phase < Phase::ForceClose {
            return;
        }
        let is_in_a_hurry = self.signals.as_ref().is_some_and(|signals| signals.seen().0 > 1);
        let patience = if is_in_a_hurry { END_PATIENCE_IN_A_HURRY } else { END_PATIENCE };
        for (k, inbox) in self.shared.loops.iter().enumerate() {
            if inbox.is_over.load(Ordering::Acquire) || self.given_up.contains(&k) {
                continue;
            }
            let since = self.ends[k].look(now, inbox.counters.get(Counter::Turns), true);
            if since.is_some_and(|since| now >= since.after(patience)) {
                let callback = inbox.activity.beat(k).and_then(|beat| beat.callback);
                let callback = callback.map_or("unknown", |callback| callback.label());
                let connections = inbox.counters.get(Counter::Open);
                tracing::error!(
                    in_loop = k,
                    callback,
                    connections,
                    "a loop does not end, since a callback does not return: it is left as it is"
                );
                self.given_up.push(k);
            }
        }
    }

    /// When the acceptor has to act next, if no event comes before.
    fn next(&self, now: Tick) -> Option<Tick> {
        let has_more =
            || !self.shared.adoptions.is_empty() || self.listeners.iter().any(Listener::has_more);
        if self.retry_at.is_none() && has_more() {
            return Some(now);
        }
        let rests = self.listeners.iter().filter_map(Listener::rests_until);
        let look = self.stalls.as_ref().map(StallDetector::next_look);
        let end = (self.phase >= Phase::ForceClose).then(|| now.after(END_LOOK_EVERY));
        let looks = look.into_iter().chain(self.look_at).chain(end);
        rests.chain(self.retry_at).chain(self.deadline).chain(looks).min()
    }

    /// Accepts a batch for every loop, then hands the batches over. Under load, many descriptors go in
    /// one message. A single connection goes at once.
    fn accept(&mut self, now: Tick) {
        if self.arrivals_ended {
            return;
        }
        if self.look_at.is_some_and(|at| now >= at) {
            self.look_at = self.dispatcher.look(now);
        }
        let mut arrivals = Vec::new();
        self.take_adoptions(&mut arrivals);
        self.accept_batch(now, &mut arrivals);
        let came = !arrivals.is_empty();
        self.dispatcher.place(&mut arrivals);
        let all_delivered = self.dispatcher.deliver();
        if came && self.look_at.is_none() {
            self.look_at = self.dispatcher.look(now);
        }
        self.retry_at = (!all_delivered || self.dispatcher.room() == 0).then(|| now.after(RETRY));
        self.end_arrivals(all_delivered);
    }

    /// Takes adopted connections, at most as many as one turn may accept and the dispatcher has room for.
    fn take_adoptions(&mut self, arrivals: &mut Vec<Arrival>) {
        let most = self.limits.accepts_per_turn.min(self.dispatcher.room());
        while arrivals.len() < most
            && let Some(arrival) = self.shared.adoptions.take()
        {
            arrivals.push(arrival);
        }
        self.shared.acceptor.add(Counter::Adopted, arrivals.len() as u64);
    }

    /// Accepts as many connections as fit in one turn and into the dispatcher.
    fn accept_batch(&mut self, now: Tick, arrivals: &mut Vec<Arrival>) {
        let a_turn = self.limits.accepts_per_turn.saturating_mul(self.shared.loops.len());
        let most = a_turn.min(self.dispatcher.room());
        while arrivals.len() < most {
            let before = arrivals.len();
            for listening in &mut self.listeners {
                let (driver, counters, admission) =
                    (&mut self.driver, &self.shared.acceptor, &self.shared.admission);
                let left = most - arrivals.len();
                listening.accept(driver, now, &self.limits, left, counters, admission, arrivals);
            }
            if arrivals.len() == before {
                return;
            }
        }
    }

    /// Accepts the clients in the backlog, then ends listening. After that the kernel refuses a connect.
    fn end_listening(&mut self, now: Tick) {
        let mut given = Vec::new();
        self.shared.adoptions.close_and_drain(|arrival| given.push(arrival));
        self.shared.acceptor.add(Counter::Adopted, given.len() as u64);
        self.dispatcher.place(&mut given);
        for n in 0..self.listeners.len() {
            self.listeners[n].last_call();
            // At most a full backlog, so that a flood of clients cannot delay the end.
            let mut left = BACKLOG_MAX;
            while left > 0 && self.listeners[n].has_more() && self.dispatcher.last_room() > 0 {
                let mut arrivals = Vec::new();
                let most = left.min(self.dispatcher.last_room());
                let (driver, counters, admission) =
                    (&mut self.driver, &self.shared.acceptor, &self.shared.admission);
                self.listeners[n].accept(
                    driver,
                    now,
                    &self.limits,
                    most,
                    counters,
                    admission,
                    &mut arrivals,
                );
                left = left.saturating_sub(self.limits.accepts_per_turn);
                self.dispatcher.place(&mut arrivals);
                self.dispatcher.deliver();
            }
            self.listeners[n].shut(&mut self.driver);
        }
    }

    /// Tells the loops that no more connections will come, once all that came are with the loops.
    fn end_arrivals(&mut self, all_delivered: bool) {
        let may_end = all_delivered || self.phase >= Phase::ForceClose;
        if self.phase >= Phase::Drain && may_end && !self.arrivals_ended {
            self.arrivals_ended = true;
            (self.retry_at, self.look_at) = (None, None);
            let is_late = self.phase == Phase::ForceClose;
            self.dispatcher.end(if is_late {
                CloseReason::DrainDeadline
            } else {
                CloseReason::Stopped
            });
        }
    }

    fn obey(&mut self, now: Tick) {
        let mut asked = self.shared.asked.phase();
        if let Some(signals) = &self.signals {
            asked = asked.max(match signals.seen().0 {
                0 => Phase::Run,
                1 => Phase::Drain,
                _ => Phase::Stop,
            });
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            asked = asked.max(Phase::ForceClose);
        }
        let has_died = |inbox: &Arc<Inbox<M>>| inbox.is_over.load(Ordering::Acquire);
        if self.phase == Phase::Run && self.shared.loops.iter().any(has_died) {
            tracing::error!("a loop has ended by itself; the server stops");
            asked = Phase::Stop;
        }
        // A server that ends already does not end because its listeners fail.
        if self.phase == Phase::Run
            && asked == Phase::Run
            && let Some((at, errno)) = self.shared.listener_health.all_failed()
        {
            tracing::error!(%at, %errno, "no listener is left; the server drains");
            self.last_failed = Some((at, errno));
            asked = Phase::Drain;
        }
        if asked <= self.phase {
            return;
        }
        let before = std::mem::replace(&mut self.phase, asked);
        tracing::info!(phase = ?asked, connections = self.shared.admission.inside(), "the server ends");
        self.shared.raise(asked);
        self.deadline = (asked == Phase::Drain).then(|| now.after(self.drain_timeout));
        if before == Phase::Run {
            self.end_listening(now);
        }
    }
}

#[cfg(test)]
mod tests;
