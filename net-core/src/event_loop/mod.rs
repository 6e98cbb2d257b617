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

/// One loop: a driver, a handler, and what it remembers. Made and used on one thread.
pub(crate) struct EventLoop<H: Handler, D: Driver> {
    driver: D,
    handler: H,
    state: LoopState<H::Session, H::Message>,
    shared: Arc<Shared<H::Message>>,
    listeners: Vec<Listener>,
    fd_channel: Option<FdReceiver>,
    /// There if the server receives datagrams.
    endpoints: Option<Box<Endpoints>>,
    /// The phase that is being carried out.
    phase: Phase,
    /// Connections that are still to be told of it. `None`: none.
    drain_notice: Option<DrainNotice>,
    /// What had been taken before the drain, and is still to be carried out before anybody is told.
    promised: Option<Promised>,
    /// No more arrivals will come.
    saw_the_end: bool,
    /// Arrivals taken, ever.
    taken: u64,
    /// Room for one batch of arrivals, empty between batches.
    batch: Vec<Arrival>,
    /// Connections that flow (see `drain_quiet`), and when their quiet time is over: soonest first.
    flowing: VecDeque<(Tick, ConnId)>,
    /// There once a proxy has let a connection wait for its header.
    proxy_headers: Option<Box<ProxyHeaderWait>>,
    /// The soonest of: a quiet time, a PROXY header that is awaited, a notice of the drain, an endpoint that
    /// rests. `MAX`: none.
    next_due: Tick,
    /// Questions whose answer takes a walk over the table, the oldest first. Few: whoever asks by
    /// mail bounds them.
    walks: VecDeque<Walk>,
    /// Broadcasts that are under way, the oldest first.
    fan_outs: VecDeque<FanOut>,
    /// Stalls are looked for, or callbacks timed, so the activity says what runs.
    is_watched: bool,
    /// There if callbacks are timed.
    cpu_accounting: Option<Box<CpuAccounting>>,
    /// There with a memory budget.
    share: Option<Share>,
    /// It is watched, or memory is: there is something to do before each wait.
    looks_around: bool,
    /// Troubles with newcomers and endpoints, each of which would else be a line of the log.
    trouble: LogLimiter,
    /// Connections that are reset at a limit.
    cuts: LogLimiter,
    /// Panics of callbacks, which a peer may bring about.
    panics: LogLimiter,
    /// Clients that were at the listeners' doors when these were shut, and are still to be let in.
    last_arrivals: VecDeque<Arrival>,
    /// Bytes that the first of the ready may still receive before the next of them is served.
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

    /// Takes the memory of the first connections' entries, which would else be missed only when the
    /// first client comes.
    pub(crate) fn begin_table(&mut self) -> io::Result<()> {
        self.state.table.begin().map_err(|error| io::Error::new(io::ErrorKind::OutOfMemory, error))
    }

    /// Turns until the loop is over. An error is a fault of our own or of the machine's, in the
    /// wait itself.
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
        // Signals first: one of them may be the listener's, the fd channel's or the waker's, and what
        // it told of is then taken in this turn.
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

    /// Waits for the next deadline or signal, or only looks if there is work left, and then reads
    /// the clock, once for the whole turn.
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

    /// What only some servers ask for, before each wait.
    #[cold]
    fn look_around(&mut self) {
        self.weigh();
        self.relieve();
        if self.is_watched {
            self.watch_rest();
        }
    }

    /// A function by itself: inlined into the turn, its inner loop shares registers with all that a
    /// turn may do besides, and each message takes six instructions more.
    #[inline(never)]
    fn take_signals(&mut self) {
        if self.is_watched {
            return self.take_signals_watched();
        }
        while let Some(signal) = self.driver.next() {
            self.signal(signal);
        }
    }

    /// As `take_signals`, saying what runs: apart, so that it costs nothing where nobody looks.
    #[cold]
    #[inline(never)]
    fn take_signals_watched(&mut self) {
        while let Some(signal) = self.driver.next() {
            self.signal_watched(signal);
        }
    }

    /// Carries out what callbacks have asked for, within budgets. What is over them, and what this
    /// brings about in turn, is the next turn's, which does not sleep: so however a handler's callbacks
    /// bring one another about, each turn ends, and the next one reads the control word.
    #[inline]
    fn carry_out(&mut self) {
        let state = &self.state;
        if !(state.outbox.is_empty() && state.dead.is_empty() && state.dials.is_empty()) {
            self.carry_out_some();
        }
    }

    fn carry_out_some(&mut self) {
        self.start_dials();
        // More where many wait: else those who die faster than that would be ever more.
        let few = self.state.a_few(self.state.limits.endings_per_turn);
        let mut closes = few.saturating_add(self.state.dead.len() / 8);
        if !self.state.outbox.panicked.is_empty() {
            self.payloads_panicked();
        }
        self.grant_wishes();
        self.reap(&mut closes);
        self.flush_all();
        if !self.state.outbox.panicked.is_empty() {
            self.payloads_panicked(); // of what was carried out just now
        }
    }

    /// Something is left to do that no signal will tell of.
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

    /// The clock, and until when to wait.
    ///
    /// The turn has taken time since it read the clock. For a near deadline it is read again; for
    /// a far one the wait ends a little early, which then is near: that costs less than another
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

    /// As `has_work`, for what there is only once an order has come.
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

    /// What a handler begins anew in every turn must not keep a loop that is told to stop.
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

    /// Counts a panic and asks the handler what is to become of the rest.
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

/// Runs a callback of one connection, which the outbox was told of, inside the guard. True if it
/// returned.
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
