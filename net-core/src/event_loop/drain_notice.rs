//! Tells each connection of an order, to drain or to stop: some connections in each turn, and a drain evenly
//! over its spread.
//!
//! If all connections end at one moment, all their clients reconnect elsewhere at one moment. With a spread,
//! the walk over the table goes on only as time passes. A connection that has not been told yet is served as
//! before. A client's place in the table is random enough.
//!
//! What came before the drain is carried out first: the mail in the mailbox, and the broadcasts that are
//! under way or in that mail. Otherwise the walk, which is faster than a broadcast, would close the
//! broadcast's receivers. Mail that comes later reaches the connections that are left.

use super::EventLoop;
use crate::api::handler::Handler;
use crate::base::close_reason::CloseReason;
use crate::base::id::ConnId;
use crate::connection::life::{Event, State};
use crate::connection::slot::Status;
use crate::driver::Driver;
use crate::threads::control::Phase;
use net_timer::Tick;
use std::time::Duration;

/// The progress of the walk that tells the connections of an order.
pub(super) struct DrainNotice {
    /// The slot from which the walk goes on.
    from: u32,
    /// The spread, in milliseconds, and when it began.
    spread: u64,
    began: Tick,
    /// How many connections have been told, of how many there were when the walk began.
    told: u64,
    of: u64,
}

/// What came before a drain: mail that is still to be read, and then broadcasts.
#[derive(Clone, Copy)]
pub(super) struct Promised {
    mail: u64,
    broadcasts: usize,
}

impl DrainNotice {
    fn new(now: Tick, spread: Duration, of: usize) -> Self {
        Self { from: 0, spread: Tick::millis_of(spread), began: now, told: 0, of: of as u64 }
    }

    /// How many more connections are due by now.
    fn due(&self, now: Tick) -> u64 {
        let passed = now.saturating_since(self.began);
        if passed >= self.spread {
            return u64::MAX;
        }
        let due = u128::from(self.of) * u128::from(passed) / u128::from(self.spread);
        (due as u64).saturating_sub(self.told)
    }

    /// When the next connection is due.
    pub(super) fn next(&self) -> Tick {
        let whole = u128::from(self.told + 1) * u128::from(self.spread);
        let passed = whole.div_ceil(u128::from(self.of.max(1))).min(u128::from(self.spread));
        self.began.saturating_add(passed as u64)
    }
}

impl<H: Handler, D: Driver> EventLoop<H, D> {
    /// A new order has come. All connections are told of it, from the first slot on.
    #[cold]
    pub(super) fn begin_drain_notice(&mut self) {
        let mail = self.state.inbox.mail.len() as u64;
        self.promised = Some(Promised { mail, broadcasts: self.fan_outs.len() })
            .filter(|_| self.phase == Phase::Drain);
        self.notify_from_now();
    }

    /// Begins the walk with the first slot, unless mail or a broadcast comes first.
    fn notify_from_now(&mut self) {
        if self.promised.is_some_and(|left| left.mail > 0 || left.broadcasts > 0) {
            return;
        }
        self.promised = None;
        let state = &self.state;
        let spread = match self.phase {
            Phase::Drain => state.limits.drain_spread,
            _ => Duration::ZERO,
        };
        self.drain_notice = Some(DrainNotice::new(state.now, spread, state.table.len()));
        self.set_next_due(); // the order itself may have come turns ago, and nothing else wakes the loop
    }

    /// `taken` items of mail have been read.
    #[inline]
    pub(super) fn mail_is_read(&mut self, taken: u64) {
        if self.promised.is_some() {
            self.promised_mail_is_read(taken);
        }
    }

    #[cold]
    fn promised_mail_is_read(&mut self, taken: u64) {
        let broadcasts = self.fan_outs.len();
        let Some(left) = self.promised.as_mut().filter(|left| left.mail > 0) else { return };
        *left = Promised { mail: left.mail.saturating_sub(taken), broadcasts };
        self.notify_from_now();
    }

    /// The oldest broadcast is over.
    pub(super) fn broadcast_is_through(&mut self) {
        let Some(left) = &mut self.promised else { return };
        left.broadcasts = left.broadcasts.saturating_sub(1);
        self.notify_from_now();
    }

    /// True if connections are due by now, or wait for a PROXY header.
    #[cold]
    pub(super) fn notifies_now(&self) -> bool {
        let is_due = |notice: &DrainNotice| notice.next() <= self.state.now;
        self.drain_notice.as_ref().is_some_and(is_due) || self.has_waiting()
    }

    /// Carries the order out for some more connections, and for connections that wait for a PROXY header.
    #[cold]
    #[inline(never)]
    pub(super) fn notify_more(&mut self) {
        let Some(mut notice) = self.drain_notice.take() else { return };
        self.end_waiting();
        let some = notice.due(self.state.now).min(self.state.limits.drained_per_turn as u64);
        for _ in 0..some {
            let Some(id) = self.state.table.next_live(notice.from) else {
                self.drain_notice = Some(notice).filter(|_| self.has_waiting());
                return;
            };
            notice.from = id.slot() + 1;
            notice.told += 1;
            self.notify(id);
        }
        self.drain_notice = Some(notice);
        self.set_next_due();
    }

    /// Carries the present order out for one connection.
    pub(super) fn notify(&mut self, id: ConnId) {
        let Some(head) = self.state.head(id) else { return };
        if head.status.state() == State::Dead {
            return;
        }
        match self.phase {
            Phase::Run => {}
            Phase::Drain if head.status.has(Status::TOLD) => {}
            Phase::Drain => {
                head.status.set(Status::TOLD);
                if head.status.state() == State::Connecting {
                    self.state.because(id, CloseReason::Draining);
                }
                self.flows_if_just_used(id);
                self.step(id, Event::Draining);
            }
            Phase::ForceClose => {
                self.state.cut_short_because(id, CloseReason::DrainDeadline);
                self.step(id, Event::Stop);
            }
            Phase::Stop => {
                self.state.cut_short_because(id, CloseReason::Stopped);
                self.step(id, Event::Stop);
            }
        }
    }
}
