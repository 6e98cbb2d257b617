//! The acceptor's thread: accepts, places, hands over; and carries out what the server as a whole
//! is asked to do.

use crate::accepting::Listening;
use crate::closed::Closed;
use crate::driver::{Driver, WAKER, listener_number};
use crate::handover::Handover;
use crate::hub::{Bridge, Hub, Order};
use crate::limits::Limits;
use crate::sys::signals::Signals;
use net_timer::Tick;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long arrivals wait that no loop had room for, before they are tried again.
const RETRY: Duration = Duration::from_millis(2);

pub(crate) struct Acceptor<M, D: Driver> {
    driver: D,
    hub: Arc<Hub<M>>,
    listeners: Vec<Listening>,
    handover: Handover<M>,
    limits: Limits,
    drain_timeout: Duration,
    signals: Option<Signals>,
    order: Order,
    /// When the drain is cut short.
    deadline: Option<Tick>,
    arrivals_ended: bool,
    retry_at: Option<Tick>,
}

impl<M, D: Driver> Acceptor<M, D> {
    pub(crate) fn new(
        driver: D,
        hub: Arc<Hub<M>>,
        listeners: Vec<Listening>,
        handover: Handover<M>,
        limits: Limits,
        drain_timeout: Duration,
        signals: Option<Signals>,
    ) -> Self {
        Self {
            driver,
            hub,
            listeners,
            handover,
            limits,
            drain_timeout,
            signals,
            order: Order::Run,
            deadline: None,
            arrivals_ended: false,
            retry_at: None,
        }
    }

    /// Runs until every loop is over. Returns the last signal and how many came.
    pub(crate) fn run(&mut self) -> io::Result<(u32, i32)> {
        let mut now = self.driver.now();
        while !self.is_over() {
            self.obey(now);
            self.accept(now);
            if self.is_over() {
                break;
            }
            self.driver.wait(now, self.next(now))?;
            now = self.driver.now();
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

    fn is_over(&self) -> bool {
        self.hub.loops.iter().all(|bridge| bridge.is_over.load(Ordering::Acquire))
    }

    /// Until when nothing is to be done.
    fn next(&self, now: Tick) -> Option<Tick> {
        if self.listeners.iter().any(Listening::has_more) && self.handover.has_room() {
            return Some(now);
        }
        let rests = self.listeners.iter().filter_map(Listening::rests_until);
        rests.chain(self.retry_at).chain(self.deadline).min()
    }

    /// Accepts a batch for every loop, then hands over: many descriptors go in one message under
    /// load, and one goes at once when it comes alone.
    fn accept(&mut self, now: Tick) {
        if self.arrivals_ended {
            return;
        }
        let most = self.limits.accepts_per_turn * self.hub.loops.len();
        let mut arrivals = Vec::new();
        while arrivals.len() < most && self.handover.has_room() {
            let before = arrivals.len();
            for listening in &mut self.listeners {
                let (driver, stats, gate) = (&mut self.driver, &self.hub.acceptor, &self.hub.gate);
                listening.accept(driver, now, &self.limits, stats, gate, &mut arrivals);
            }
            if arrivals.len() == before {
                break;
            }
        }
        self.hand_over(arrivals, now);
    }

    fn hand_over(&mut self, mut arrivals: Vec<crate::arrival::Arrival>, now: Tick) {
        self.handover.place(&mut arrivals);
        let all_delivered = self.handover.deliver();
        self.retry_at = (!all_delivered).then(|| now.after(RETRY));
        let may_end = all_delivered || self.order >= Order::Cut;
        if self.order >= Order::Drain && may_end && !self.arrivals_ended {
            self.arrivals_ended = true;
            self.retry_at = None;
            let is_late = self.order == Order::Cut;
            self.handover.end(if is_late { Closed::DrainDeadline } else { Closed::Stopped });
        }
    }

    fn obey(&mut self, now: Tick) {
        let mut asked = self.hub.asked.order();
        if let Some(signals) = &self.signals {
            asked = asked.max(match signals.seen().0 {
                0 => Order::Run,
                1 => Order::Drain,
                _ => Order::Stop,
            });
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            asked = asked.max(Order::Cut);
        }
        let has_died = |bridge: &Arc<Bridge<M>>| bridge.is_over.load(Ordering::Acquire);
        if self.order == Order::Run && self.hub.loops.iter().any(has_died) {
            tracing::error!("a loop has ended by itself; the server stops");
            asked = Order::Stop;
        }
        if asked <= self.order {
            return;
        }
        let before = std::mem::replace(&mut self.order, asked);
        tracing::info!(order = ?asked, connections = self.hub.gate.inside(), "the server ends");
        self.hub.order(asked);
        self.deadline = (asked == Order::Drain).then(|| now.after(self.drain_timeout));
        if before == Order::Run {
            let mut arrivals = Vec::new();
            for listening in &mut self.listeners {
                let (driver, stats, gate) = (&mut self.driver, &self.hub.acceptor, &self.hub.gate);
                listening.end(driver, now, &self.limits, stats, gate, &mut arrivals);
            }
            self.hand_over(arrivals, now);
        }
    }
}
