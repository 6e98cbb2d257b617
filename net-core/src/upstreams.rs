//! `Upstreams`: the connections to one other server, shared by all who have something to ask it.
//!
//! Books and no more: it neither dials nor closes, but says what is to be done. So it needs no
//! loop, and a handler stays the one place where connections are used.

use crate::id::ConnId;
use net_timer::Tick;
use std::collections::VecDeque;
use std::time::Duration;

/// What an [`Upstreams`] may use at most. Each loop has its own, so these are bounds per loop.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamLimits {
    /// Connections, whether idle, busy or being dialled.
    pub connections_max: usize,
    /// Connections that are kept although nobody uses them.
    pub idle_max: usize,
    /// Jobs that wait for a connection.
    pub waiting_max: usize,
    /// How long a job waits for one.
    pub wait_max: Duration,
}

impl Default for UpstreamLimits {
    /// 16 connections, all of which may stay; 1,024 jobs wait, for 5 s each.
    fn default() -> Self {
        Self {
            connections_max: 16,
            idle_max: 16,
            waiting_max: 1024,
            wait_max: Duration::from_secs(5),
        }
    }
}

/// A bounded pool of connections to one server, of one loop, for jobs `J` that each need one for a
/// while.
///
/// A handler asks for each job, and does as it is told. It says when a connection is free again and,
/// in `on_close`, that one is over. The connection's own session is the place for the job that it
/// works at.
///
/// ```
/// use net_core::{Asked, Tick, UpstreamLimits, Upstreams};
///
/// let limits = UpstreamLimits { connections_max: 1, ..UpstreamLimits::default() };
/// let mut upstreams = Upstreams::new(limits);
/// let now = Tick::ZERO; // on a loop, `Loop::now`
///
/// // The first job: `here.dial(..)` a connection for it.
/// assert_eq!(upstreams.ask("first", now), Asked::Dial("first"));
/// // The second must wait for that one to be free, as there may be one only.
/// assert_eq!(upstreams.ask("second", now), Asked::Waits);
/// ```
///
/// The example `fan_in` is a handler that uses it.
#[derive(Debug)]
pub struct Upstreams<J> {
    limits: UpstreamLimits,
    /// The one used last is used next, so that those not needed grow old.
    idle: Vec<ConnId>,
    /// Connections at work, or being dialled.
    busy: usize,
    /// Who came first, with the time at which its patience ends. All are equally patient, so these
    /// are in order.
    waiting: VecDeque<(Tick, J)>,
}

/// What to do for a job.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a job that nobody does is lost"]
pub enum Asked<J> {
    /// Use this connection. It may be ending at the other side just now: a job that may be done
    /// twice is best asked again when this one closes without an answer.
    Use(ConnId, J),
    /// Dial a connection for it. It counts already; if it fails, its `on_close` says so, and if it
    /// cannot even begin, call [`not_dialled`](Upstreams::not_dialled).
    Dial(J),
    /// Nothing: it is kept, and comes out of `free`, `closed` or `overdue`.
    Waits,
    /// As many wait as may.
    Full(J),
}

/// What to do with a connection that has done its job.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a job that nobody does is lost"]
pub enum Freed<J> {
    /// It is this job's now.
    Serve(J),
    /// Nothing: it is kept for the next who asks.
    Kept,
    /// Close it: enough are kept.
    Close,
}

impl<J> Upstreams<J> {
    /// No connections yet.
    pub fn new(limits: UpstreamLimits) -> Self {
        Self { limits, idle: Vec::new(), busy: 0, waiting: VecDeque::new() }
    }

    /// A job needs a connection.
    pub fn ask(&mut self, job: J, now: Tick) -> Asked<J> {
        if let Some(id) = self.idle.pop() {
            self.busy += 1;
            return Asked::Use(id, job);
        }
        if self.busy < self.limits.connections_max {
            self.busy += 1;
            return Asked::Dial(job);
        }
        if self.waiting.len() >= self.limits.waiting_max {
            return Asked::Full(job);
        }
        self.waiting.push_back((now.after(self.limits.wait_max), job));
        Asked::Waits
    }

    /// A connection has done its job and can take another. A job whose patience has ended is not
    /// served, but left to [`overdue`](Self::overdue).
    pub fn free(&mut self, id: ConnId, now: Tick) -> Freed<J> {
        if let Some(job) = self.next_in_time(now) {
            return Freed::Serve(job);
        }
        if self.idle.len() >= self.limits.idle_max {
            return Freed::Close; // it counts until it is closed
        }
        self.busy -= 1;
        self.idle.push(id);
        Freed::Kept
    }

    /// A connection is over: to be called once for each, in `on_close`. If a job is returned, dial
    /// another connection for it, which counts already.
    pub fn closed(&mut self, id: ConnId, now: Tick) -> Option<J> {
        match self.idle.iter().position(|&idle| idle == id) {
            Some(place) => drop(self.idle.remove(place)),
            None => self.busy -= 1,
        }
        self.dial_for_next(now)
    }

    /// A dial that was told of did not begin. If a job is returned, dial for it.
    pub fn not_dialled(&mut self, now: Tick) -> Option<J> {
        self.busy -= 1;
        self.dial_for_next(now)
    }

    /// A job whose patience has ended, if there is one. Call it until there is none.
    pub fn overdue(&mut self, now: Tick) -> Option<J> {
        let (until, _) = self.waiting.front()?;
        if *until > now {
            return None;
        }
        self.waiting.pop_front().map(|(_, job)| job)
    }

    /// When the patience of the first in line ends: a time for a timer.
    pub fn next_overdue(&self) -> Option<Tick> {
        self.waiting.front().map(|(until, _)| *until)
    }

    /// Connections, in whatever state.
    pub fn connections(&self) -> usize {
        self.busy + self.idle.len()
    }

    /// Jobs that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn dial_for_next(&mut self, now: Tick) -> Option<J> {
        if self.busy + self.idle.len() >= self.limits.connections_max {
            return None;
        }
        let job = self.next_in_time(now)?;
        self.busy += 1;
        Some(job)
    }

    fn next_in_time(&mut self, now: Tick) -> Option<J> {
        let place = self.waiting.iter().position(|(until, _)| *until > now)?;
        self.waiting.remove(place).map(|(_, job)| job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn id(n: u32) -> ConnId {
        ConnId::new(0, n, NonZeroU32::MIN)
    }

    fn at(ms: u64) -> Tick {
        Tick::from_millis(ms)
    }

    fn upstreams(connections_max: usize, idle_max: usize, waiting_max: usize) -> Upstreams<u32> {
        let wait_max = Duration::from_millis(100);
        Upstreams::new(UpstreamLimits { connections_max, idle_max, waiting_max, wait_max })
    }

    #[test]
    fn first_come_first_served_and_the_last_used_is_used_next() {
        let mut pool = upstreams(2, 2, 10);
        assert_eq!(pool.ask(1, at(0)), Asked::Dial(1));
        assert_eq!(pool.ask(2, at(0)), Asked::Dial(2));
        assert_eq!(pool.ask(3, at(0)), Asked::Waits);
        assert_eq!(pool.ask(4, at(0)), Asked::Waits);
        assert_eq!(pool.free(id(1), at(1)), Freed::Serve(3));
        assert_eq!(pool.free(id(2), at(1)), Freed::Serve(4));
        assert_eq!(pool.free(id(1), at(1)), Freed::Kept);
        assert_eq!(pool.free(id(2), at(1)), Freed::Kept);
        assert_eq!(pool.ask(5, at(1)), Asked::Use(id(2), 5));
    }

    #[test]
    fn every_bound_holds() {
        let mut pool = upstreams(2, 1, 1);
        assert_eq!(pool.ask(1, at(0)), Asked::Dial(1));
        assert_eq!(pool.ask(2, at(0)), Asked::Dial(2));
        assert_eq!(pool.ask(3, at(0)), Asked::Waits);
        assert_eq!(pool.ask(4, at(0)), Asked::Full(4));
        assert_eq!(pool.free(id(1), at(0)), Freed::Serve(3));
        assert_eq!(pool.free(id(1), at(0)), Freed::Kept);
        assert_eq!(pool.free(id(2), at(0)), Freed::Close);
        assert_eq!(pool.connections(), 2, "until it is closed");
        assert_eq!(pool.closed(id(2), at(0)), None);
        assert_eq!(pool.connections(), 1);
    }

    #[test]
    fn who_has_waited_too_long_is_told_and_not_served() {
        let mut pool = upstreams(1, 1, 10);
        assert_eq!(pool.ask(1, at(0)), Asked::Dial(1));
        assert_eq!(pool.ask(2, at(0)), Asked::Waits);
        assert_eq!(pool.ask(3, at(50)), Asked::Waits);
        assert_eq!(pool.next_overdue(), Some(at(101)));
        assert_eq!(pool.overdue(at(100)), None);
        assert_eq!(pool.free(id(1), at(120)), Freed::Serve(3));
        assert_eq!(pool.overdue(at(120)), Some(2));
        assert_eq!(pool.overdue(at(120)), None);
    }

    #[test]
    fn a_connection_that_ends_makes_room_for_who_waits() {
        let mut pool = upstreams(1, 1, 10);
        assert_eq!(pool.ask(1, at(0)), Asked::Dial(1));
        assert_eq!(pool.ask(2, at(0)), Asked::Waits);
        assert_eq!(pool.ask(3, at(0)), Asked::Waits);
        assert_eq!(pool.closed(id(1), at(1)), Some(2), "failed or ended: dial for the next");
        assert_eq!(pool.not_dialled(at(1)), Some(3));
        assert_eq!(pool.closed(id(2), at(2)), None);
        assert_eq!((pool.connections(), pool.waiting()), (0, 0));
    }

    #[test]
    fn an_idle_one_that_ends_is_not_used_again() {
        let mut pool = upstreams(2, 2, 10);
        assert_eq!(pool.ask(1, at(0)), Asked::Dial(1));
        assert_eq!(pool.free(id(1), at(0)), Freed::Kept);
        assert_eq!(pool.closed(id(1), at(5)), None);
        assert_eq!(pool.ask(2, at(6)), Asked::Dial(2));
    }
}
