//! The turn: the only place where driver, handler and state meet.

#[cfg(feature = "bench")]
pub mod bench;
mod broadcasts;
mod connection_queries;
mod datagrams;
mod deadlines;
mod dialling;
mod drain_notice;
mod drain_quiet;
mod dropping;
mod ending;
mod heartbeats;
mod idle_eviction;
mod inbox;
mod memory;
mod progress;
mod proxy_header_wait;
mod receiving;
mod schedule;
mod sending;
mod slices;
#[cfg(test)]
mod tests;
mod tunnels;
mod watching;

use crate::accept::admission::Arrival;
use crate::accept::fd_channel::FdReceiver;
use crate::accept::listener::Listener;
use crate::api::conn::Conn;
use crate::api::handler::{Handler, PanicAction};
use crate::base::close_reason::Callback;
use crate::base::id::ConnId;
use crate::base::log_limiter::LogLimiter;
pub(crate) use crate::base::panics::{forget, guard};
use crate::config::limits::Limits;
use crate::connection::loop_state::LoopState;
use crate::driver::Driver;
use crate::features::dial::Jitter;
use crate::observe::cpu_accounting::CpuAccounting;
use crate::sys::cpu_clock;
use crate::threads::control::Phase;
use crate::threads::shared::Shared;
use broadcasts::FanOut;
use connection_queries::Walk;
use datagrams::Endpoints;
use drain_notice::{DrainNotice, Promised};
use memory::Share;
use net_timer::Tick;
use proxy_header_wait::ProxyHeaderWait;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// One event loop: the driver, the handler, and the loop's own state. It is made and used on one thread.
pub(crate) struct EventLoop<H: Handler, D: Driver> {
    driver: D,
    handler: H,
    state: LoopState<H::Session, H::Message>,
    shared: Arc<Shared<H::Message>>,
    listeners: Vec<Listener>,
    fd_channel: Option<FdReceiver>,
    /// `None` if the server receives no datagrams.
    endpoints: Option<Box<Endpoints>>,
    /// The phase that is being carried out.
    phase: Phase,
    /// The walk that tells the connections of the phase. `None`: it has not begun, or is over.
    drain_notice: Option<DrainNotice>,
    /// Mail and broadcasts that came before the drain. They are carried out before any connection is told.
    promised: Option<Promised>,
    /// No more arrivals will come.
    saw_the_end: bool,
    /// Arrivals taken, ever.
    taken: u64,
    /// Room for one batch of arrivals, empty between batches.
    batch: Vec<Arrival>,
    /// Connections that flow (see `drain_quiet`), each with the end of its quiet time: the soonest first.
    flowing: VecDeque<(Tick, ConnId)>,
    /// Made when the first connection has to wait for its PROXY header.
    proxy_headers: Option<Box<ProxyHeaderWait>>,
    /// When the soonest of these is due: the end of a quiet time, of the wait for a PROXY header or of an
    /// endpoint's rest, or the next notice of the drain. `MAX`: none is due.
    next_due: Tick,
    /// Queries whose answer takes a walk over the table, the oldest first. They are few: the asker bounds its
    /// own queries.
    walks: VecDeque<Walk>,
    /// Broadcasts that are under way, the oldest first.
    fan_outs: VecDeque<FanOut>,
    /// Stalls are looked for, or callbacks are timed. So `activity` says which callback runs.
    is_watched: bool,
    /// `None` if callbacks are not timed.
    cpu_accounting: Option<Box<CpuAccounting>>,
    /// `None` without a memory budget.
    share: Option<Share>,
    /// The loop is watched, or has a memory budget: `look_around` runs before each wait.
    looks_around: bool,
    /// Limits the log lines about new connections, endpoints, dials and broadcasts.
    trouble: LogLimiter,
    /// Limits the log lines about connections that are reset at a limit.
    cuts: LogLimiter,
    /// Limits the log lines about panics of callbacks, which a peer may cause.
    panics: LogLimiter,
    /// Clients accepted from the backlogs when the listeners were shut. They still have to enter the table.
    last_arrivals: VecDeque<Arrival>,
    /// Bytes that the first connection of the ready list may still receive before the next connection is
    /// served.
    row_left: usize,
}

impl<H: Handler, D: Driver> EventLoop<H, D> {
    pub(crate) fn new(
        number: usize,
        driver: D,
        handler: H,
        limits: &Limits,
        shared: Arc<Shared<H::Message>>,
        listeners: Vec<Listener>,
        fd_channel: Option<FdReceiver>,
    ) -> Self {
        let now = driver.now();
        let number = u8::try_from(number).expect("the server has checked the number of loops");
        let is_watched = limits.stall_threshold.is_some() || limits.time_callbacks;
        let cpu_accounting = limits.time_callbacks.then(|| Box::new(CpuAccounting::new()));
        let share = Share::of(limits, shared.loops.len());
        let row_left = limits.receive_bytes_in_a_row;
        let [trouble, cuts, panics] = [(); 3].map(|()| LogLimiter::new(limits.log_every));
        let (jitter, limits) = (Jitter::new(driver.seed()), limits.clone());
        Self {
            state: LoopState::new(number, now, jitter, limits, Arc::clone(&shared), D::peer),
            driver,
            handler,
            shared,
            listeners,
            fd_channel,
            endpoints: None,
            phase: Phase::Run,
            drain_notice: None,
            promised: None,
            saw_the_end: false,
            taken: 0,
            batch: Vec::new(),
            flowing: VecDeque::new(),
            proxy_headers: None,
            next_due: Tick::MAX,
            walks: VecDeque::new(),
            fan_outs: VecDeque::new(),
            is_watched,
            cpu_accounting,
            looks_around: is_watched || share.is_some(),
            share,
            trouble,
            cuts,
            panics,
            last_arrivals: VecDeque::new(),
            row_left,
        }
    }

    /// Allocates the entries of the first connections. Otherwise a lack of memory would show only when the
    /// first client comes.
    pub(crate) fn begin_table(&mut self) -> io::Result<()> {
        self.state.table.begin().map_err(|error| io::Error::new(io::ErrorKind::OutOfMemory, error))
    }

    /// Turns until the loop is over. An error is an error of the wait itself: our own fault, or the
    /// machine's.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        if self.is_watched {
            self.state.inbox.activity.runs_by(cpu_clock::own());
        }
        while self.turn()? {}
        Ok(())
    }

    /// One turn. False: that was the last.
    pub(crate) fn turn(&mut self) -> io::Result<bool> {
        self.wait()?;
        self.obey();
        let waiting = self.state.ready.len();
        // Signals first. A signal of a listener, of the fd channel or of the waker announces arrivals or
        // mail, which are then taken in this turn.
        self.take_signals();
        self.take_arrivals();
        self.take_mail();
        if self.endpoints.is_some() {
            self.serve_datagrams();
        }
        if !self.walks.is_empty() {
            self.walk_on();
        }
        if !self.fan_outs.is_empty() {
            self.fan_out();
        }
        if !self.state.jobs.is_empty() {
            self.run_slices();
        }
        if waiting > 0 {
            self.serve_ready(waiting);
        }
        self.fire_due();
        self.carry_out();
        if self.endpoints.is_some() {
            self.flush_datagrams();
        }
        self.state.publish();
        Ok(!self.is_over())
    }

    /// Waits for a signal or the next deadline. Does not sleep if work is left. Then reads the clock, once
    /// for the whole turn.
    fn wait(&mut self) -> io::Result<()> {
        if self.looks_around {
            self.look_around();
        }
        let until = if self.has_work() {
            self.driver.wait(self.state.now, Some(self.state.now))
        } else {
            let inbox = &self.state.inbox;
            let (phase, saw_the_end) = (self.phase, self.saw_the_end);
            if inbox.waker.word().try_sleep(|| inbox.has_news(phase, saw_the_end)) {
                let (now, until) = self.next_deadline();
                let waited = self.driver.wait(now, until);
                inbox.waker.word().woke();
                waited
            } else {
                self.driver.wait(self.state.now, Some(self.state.now))
            }
        };
        self.state.set_now(self.driver.now());
        if self.is_watched {
            self.watch_begin();
        }
        until
    }

    /// The work before each wait that only a watched loop has, or a loop with a memory budget.
    #[cold]
    fn look_around(&mut self) {
        self.weigh();
        self.relieve();
        if self.is_watched {
            self.watch_rest();
        }
    }

    /// A function by itself. Inlined into the turn, its inner loop would share registers with everything else
    /// that a turn does, and each message would take six instructions more.
    #[inline(never)]
    fn take_signals(&mut self) {
        if self.is_watched {
            return self.take_signals_watched();
        }
        while let Some(signal) = self.driver.next() {
            self.signal(signal);
        }
    }

    /// As `take_signals`, and says which callback runs. Apart, so that it costs nothing if the loop is not
    /// watched.
    #[cold]
    #[inline(never)]
    fn take_signals_watched(&mut self) {
        while let Some(signal) = self.driver.next() {
            self.signal_watched(signal);
        }
    }

    /// Carries out what callbacks have asked for, within budgets. What is over a budget, and what this step
    /// causes, is left to the next turn, which does not sleep. So each turn ends, however a handler's
    /// callbacks cause one another, and the next turn reads the control word.
    #[inline]
    fn carry_out(&mut self) {
        let state = &self.state;
        if !(state.outbox.is_empty() && state.dead.is_empty() && state.dials.is_empty()) {
            self.carry_out_some();
        }
    }

    fn carry_out_some(&mut self) {
        self.start_dials();
        // More if many wait. Otherwise the list would grow for ever if connections end faster than that.
        let few = self.state.a_few(self.state.limits.endings_per_turn);
        let mut closes = few.saturating_add(self.state.dead.len() / 8);
        if !self.state.outbox.panicked.is_empty() {
            self.payloads_panicked();
        }
        self.grant_wishes();
        self.reap(&mut closes);
        self.flush_all();
        if !self.state.outbox.panicked.is_empty() {
            self.payloads_panicked(); // payloads that were dropped just now
        }
    }

    /// True if work is left that no signal will announce.
    fn has_work(&self) -> bool {
        let state = &self.state;
        !state.outbox.is_empty()
            || !state.ready.is_empty()
            || !state.dead.is_empty()
            || !state.dials.is_empty()
            || (self.phase > Phase::Run && self.has_work_at_the_end())
            || !self.walks.is_empty()
            || !self.fan_outs.is_empty()
            || !state.jobs.is_empty()
            || self.fd_channel.as_ref().is_some_and(FdReceiver::has_more)
            || self.listeners.iter().any(Listener::has_more)
            || (self.endpoints.is_some() && self.has_datagrams())
            || (self.looks_around && self.is_relieving())
    }

    /// The time, and until when to wait.
    ///
    /// The turn has taken time since it read the clock. For a near deadline the clock is read again. For a
    /// far deadline the wait ends a little early, and the deadline is near then. That costs less than another
    /// reading in every turn.
    fn next_deadline(&self) -> (Tick, Option<Tick>) {
        const NEAR_MS: u64 = 64;
        let mut next = sooner(self.state.wheel.next_due(), self.state.timers.next_due());
        for listening in &self.listeners {
            next = sooner(next, listening.rests_until());
        }
        next = sooner(next, Some(self.next_due).filter(|look| *look < Tick::MAX));
        let now = self.state.now;
        match next {
            None => (now, None),
            Some(next) if next.saturating_since(now) > NEAR_MS => {
                (now, Some(Tick::from_millis(next.as_millis() - NEAR_MS / 2)))
            }
            Some(next) => (self.driver.now(), Some(next)),
        }
    }

    /// As `has_work`, for work that exists only after an order.
    #[cold]
    fn has_work_at_the_end(&self) -> bool {
        (self.drain_notice.is_some() && self.notifies_now()) || !self.last_arrivals.is_empty()
    }

    #[inline]
    fn is_over(&mut self) -> bool {
        self.phase >= Phase::Drain && self.is_over_at_last()
    }

    #[cold]
    fn is_over_at_last(&mut self) -> bool {
        if self.phase >= Phase::ForceClose {
            self.end_own_work();
        }
        let is_over = self.saw_the_end
            && self.state.table.len() == 0
            && self.promised.is_none()
            && !self.has_work();
        if is_over {
            self.state.publish();
            self.close_mail();
        }
        is_over
    }

    /// Drops what a handler could begin anew in every turn: it must not keep a loop that is told to stop.
    #[cold]
    fn end_own_work(&mut self) {
        if !self.state.jobs.is_empty() {
            self.drop_jobs();
        }
        if self.state.table.len() == 0 {
            self.end_broadcasts();
        }
    }

    // --- calling the handler -----------------------------------------------------------------

    /// Calls the handler for one connection. True if the callback returned; if it panicked, what
    /// it sent is taken back and the connection closes.
    fn call(
        &mut self,
        id: ConnId,
        callback: Callback,
        body: impl FnOnce(&mut H, &mut Conn<'_, H>),
    ) -> bool {
        if self.state.with(id, |outbox, head| outbox.begin(head, id, &[])).is_none() {
            return false;
        }
        self.runs(callback, Some(id));
        self.state.outbox.brings_outcome = matches!(callback, Callback::Answer | Callback::Job);
        let returned = run(&mut self.handler, &mut self.state, id, body);
        if !returned {
            self.panicked(id, callback, self.state.outbox.begun);
        }
        returned
    }

    /// Counts a panic, and asks the handler whether the server goes on.
    #[cold]
    fn count_panic(&mut self, callback: Callback, id: Option<ConnId>) {
        self.state.inbox.counters.add(crate::observe::counters::Counter::Panics, 1);
        let said = crate::base::panics::take_said();
        if let Some(held_back) = self.panics.allow(self.state.now) {
            let connection = id.map_or("none".to_owned(), |id| id.to_string());
            let (in_loop, callback) = (self.state.number, callback.label());
            tracing::error!(in_loop, callback, connection, said, held_back, "a callback panicked");
        }
        let answer = guard(|| self.handler.on_panic(callback));
        if answer != Some(PanicAction::Running) {
            self.shared.ask(Phase::Stop);
        }
    }
}

/// Runs a callback of one connection inside the guard. The outbox must have begun the connection. True if the
/// callback returned.
#[inline]
fn run<H: Handler>(
    handler: &mut H,
    state: &mut LoopState<H::Session, H::Message>,
    id: ConnId,
    body: impl FnOnce(&mut H, &mut Conn<'_, H>),
) -> bool {
    let returned =
        catch_unwind(AssertUnwindSafe(|| body(handler, &mut Conn::new(state, id)))).map_err(forget);
    state.outbox.end();
    returned.is_ok()
}

fn sooner(a: Option<Tick>, b: Option<Tick>) -> Option<Tick> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}
