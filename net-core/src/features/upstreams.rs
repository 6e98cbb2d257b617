//! `Upstreams`: the connections to one other server, shared by all who have something to ask it.
//!
//! Books and no more: it neither dials nor closes, but says what is to be done. So it needs no
//! loop, and a handler stays the one place where connections are used.

use crate::base::id::ConnId;
use net_timer::Tick;
use std::collections::{HashMap, VecDeque};
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

/// How long a connection may be idle before another is dialled instead. Below the minute and more that
/// servers, firewalls and address translators commonly allow: some of them forget a connection without
/// a word to this end.
const IDLE_AGE_MAX: Duration = Duration::from_secs(45);

/// A bounded pool of connections to one server, of one loop, for jobs `J` that each need one for a
/// while.
///
/// A handler asks for each job, and does as it is told. It says when a connection is free again and,
/// in `on_close`, that one is over. The connection's own session is the place for the job that it
/// works at.
///
/// **Connections that are dead.** A peer may be gone without a word, and only the job that is lent such
/// a connection finds that out. A connection that ends while it is lent, and had served a job before,
/// casts doubt on all that have been idle for as long: from then on a job gets a new connection, as
/// long as `connections_max` allows, before it gets one of those. So the next attempt of the job that
/// failed is made on a connection that is new, or that has served another job since. A connection that
/// has been idle for longer than [`idle_age_max`](Self::idle_age_max) is treated in the same way.
/// [`stale`](Self::stale) names the connections that are to be closed for either reason.
///
/// ```
/// use net_core::{Asked, Tick, UpstreamLimits, Upstreams};
///
/// let limits = UpstreamLimits { connections_max: 1, ..UpstreamLimits::default() };
/// let mut upstreams = Upstreams::new(limits);
/// let now = Tick::ZERO; // on a loop, `Loop::now`
///
/// // The first job: `here.dial(..)` a connection for it, and name it by `dialled(id)`.
/// assert_eq!(upstreams.ask("first", now), Asked::Dial("first"));
/// // The second must wait for that one to be free, as there may be one only.
/// assert_eq!(upstreams.ask("second", now), Asked::Waits);
/// ```
///
/// In a drain the default [`on_draining`](crate::Handler::on_draining) closes idle upstreams too, and no
/// dial succeeds any more, nor one that is under way. A server whose answers need an upstream keeps those
/// connections: it says [`busy`](crate::Conn::busy) on them when they are up, closes them when the last
/// client has gone, and has an [`on_end`](crate::Handler::on_end) of its own for them.
///
/// The example `fan_in` is a handler that uses it.
#[derive(Debug)]
pub struct Upstreams<J> {
    limits: UpstreamLimits,
    idle_age_max: Duration,
    /// With the time since when, the newest last. The one used last is used next, so that those not
    /// needed grow old.
    idle: Vec<(Tick, ConnId)>,
    /// Connections at work, by their ids.
    lent: HashMap<ConnId, Lent>,
    /// Dials that were told of, and whose connections are not known by an id yet.
    unnamed: usize,
    /// Connections idle since then, or for longer, are doubted.
    doubted: Option<Tick>,
    /// Who came first, with the time at which its patience ends. All are equally patient, so these
    /// are in order.
    waiting: VecDeque<(Tick, J)>,
    refused: u64,
}

/// A connection that is not the pool's to give.
#[derive(Clone, Copy, Debug)]
enum Lent {
    /// It has not served any job yet.
    New,
    /// It had served another before, and was lent at that time.
    Again(Tick),
    /// It is to be closed.
    Stale,
}

/// What to do for a job.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a job that nobody does is lost"]
pub enum Asked<J> {
    /// Use this connection. It may be ending at the other side just now: a job that may be done
    /// twice is best asked again when this one closes without an answer.
    Use(ConnId, J),
    /// Dial a connection for it, and name it by [`dialled`](Upstreams::dialled). It counts already; if
    /// it fails, its `on_close` says so, and if it cannot even begin, call
    /// [`not_dialled`](Upstreams::not_dialled).
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
    /// Nothing: it is kept for the next who asks. Or it was not lent, which changes nothing:
    /// [`refused`](Upstreams::refused) counts that.
    Kept,
    /// Close it: enough are kept.
    Close,
}

impl<J> Upstreams<J> {
    /// No connections yet.
    pub fn new(limits: UpstreamLimits) -> Self {
        Self {
            limits,
            idle_age_max: IDLE_AGE_MAX,
            idle: Vec::new(),
            lent: HashMap::new(),
            unnamed: 0,
            doubted: None,
            waiting: VecDeque::new(),
            refused: 0,
        }
    }

    /// How long a connection may be idle before a job gets a new one instead. Default: 45 s. Best
    /// somewhat less than what the other server, or a firewall between, allows. `Duration::MAX`: for
    /// ever.
    pub fn idle_age_max(mut self, age: Duration) -> Self {
        self.idle_age_max = age;
        self
    }

    /// A job needs a connection. Of an idle one that is [`stale`](Self::stale) it makes use only where
    /// no further connection may be dialled.
    pub fn ask(&mut self, job: J, now: Tick) -> Asked<J> {
        let may_dial = self.connections() < self.limits.connections_max;
        // If the newest is stale, all are.
        if let Some(&(since, id)) = self.idle.last()
            && !(may_dial && self.is_stale(since, now))
        {
            self.idle.pop();
            self.lent.insert(id, Lent::Again(now));
            return Asked::Use(id, job);
        }
        if may_dial {
            self.unnamed += 1;
            return Asked::Dial(job);
        }
        if self.waiting.len() >= self.limits.waiting_max {
            return Asked::Full(job);
        }
        self.waiting.push_back((now.after(self.limits.wait_max), job));
        Asked::Waits
    }

    /// This connection was dialled for a job, as the pool had told. To be called behind
    /// [`Loop::dial`](crate::Loop::dial), so that `free` and `closed` take no other connection for this
    /// one. Without a dial that was told of, it is refused.
    pub fn dialled(&mut self, id: ConnId) {
        if self.unnamed == 0 || self.knows(id) {
            self.refused += 1;
            return;
        }
        self.unnamed -= 1;
        self.lent.insert(id, Lent::New);
    }

    /// A connection has done its job and can take another. A job whose patience has ended is not
    /// served, but left to [`overdue`](Self::overdue).
    ///
    /// A connection that is not lent (freed already, over, or none of this pool) is refused: the answer
    /// is [`Freed::Kept`], and nothing changes. But one that was freed and lent again meanwhile is lent:
    /// a second `free` for its former job is not told from the first one for its present job.
    pub fn free(&mut self, id: ConnId, now: Tick) -> Freed<J> {
        match self.take_lent(id) {
            Some(Lent::New | Lent::Again(_)) => {}
            Some(Lent::Stale) => {
                self.lent.insert(id, Lent::Stale);
                return Freed::Close;
            }
            None => {
                self.refused += 1;
                return Freed::Kept;
            }
        }
        if let Some(job) = self.next_in_time(now) {
            self.lent.insert(id, Lent::Again(now));
            return Freed::Serve(job);
        }
        if self.idle.len() >= self.limits.idle_max {
            self.lent.insert(id, Lent::Stale); // it counts until it is closed
            return Freed::Close;
        }
        self.idle.push((now, id));
        Freed::Kept
    }

    /// A connection is over: to be called once for each, in `on_close`. If a job is returned, dial
    /// another connection for it, which counts already. A connection that the pool does not have, or has
    /// no more, is refused, and changes nothing.
    ///
    /// If it was lent, and had served a job before, it is taken to have failed: see above. So a
    /// connection that is closed on purpose after its job is best freed first.
    pub fn closed(&mut self, id: ConnId, now: Tick) -> Option<J> {
        if let Some(place) = self.idle.iter().position(|(_, idle)| *idle == id) {
            self.idle.remove(place);
        } else {
            match self.take_lent(id) {
                Some(Lent::Again(lent_at)) => self.doubted = self.doubted.max(Some(lent_at)),
                Some(Lent::New | Lent::Stale) => {}
                None => {
                    self.refused += 1;
                    return None;
                }
            }
        }
        self.dial_for_next(now)
    }

    /// A dial that was told of did not begin. If a job is returned, dial for it.
    pub fn not_dialled(&mut self, now: Tick) -> Option<J> {
        if self.unnamed == 0 {
            self.refused += 1;
            return None;
        }
        self.unnamed -= 1;
        self.dial_for_next(now)
    }

    /// An idle connection that is to be closed, best by [`reset`](crate::Conn::reset), which waits for
    /// nobody: it has been idle for too long, or since before another one failed. It counts until it is
    /// closed. Call it until there is none: behind `closed`, and by a timer.
    pub fn stale(&mut self, now: Tick) -> Option<ConnId> {
        let &(since, id) = self.idle.first()?;
        if !self.is_stale(since, now) {
            return None;
        }
        self.idle.remove(0);
        self.lent.insert(id, Lent::Stale);
        Some(id)
    }

    /// When the first of the idle connections will have been idle for too long: a time for a timer.
    pub fn next_stale(&self) -> Option<Tick> {
        self.idle.first().map(|(since, _)| since.after(self.idle_age_max))
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
        self.unnamed + self.lent.len() + self.idle.len()
    }

    /// Jobs that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Calls that named a connection which was not lent, or a dial that was not told of, and that
    /// changed nothing: each is a mistake of the handler.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn knows(&self, id: ConnId) -> bool {
        self.lent.contains_key(&id) || self.idle.iter().any(|(_, idle)| *idle == id)
    }

    /// A connection that is lent is not any more. One that is not known may be one that was dialled and
    /// never named.
    fn take_lent(&mut self, id: ConnId) -> Option<Lent> {
        if let Some(lent) = self.lent.remove(&id) {
            return Some(lent);
        }
        if self.unnamed == 0 || self.knows(id) {
            return None;
        }
        self.unnamed -= 1;
        Some(Lent::New)
    }

    fn is_stale(&self, since: Tick, now: Tick) -> bool {
        Some(since) <= self.doubted || since.after(self.idle_age_max) <= now
    }

    fn dial_for_next(&mut self, now: Tick) -> Option<J> {
        if self.connections() >= self.limits.connections_max {
            return None;
        }
        let job = self.next_in_time(now)?;
        self.unnamed += 1;
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

    /// A pool of `n` idle connections, numbered from 1, each idle since that time.
    fn idle(n: u32, since: impl Fn(u32) -> u64) -> Upstreams<u32> {
        let mut pool = upstreams(n as usize, n as usize, 10);
        for job in 1..=n {
            assert_eq!(pool.ask(job, at(0)), Asked::Dial(job));
            pool.dialled(id(job));
        }
        for n in 1..=n {
            assert_eq!(pool.free(id(n), at(since(n))), Freed::Kept);
        }
        pool
    }

    /// It was in the line of the idle twice, and two jobs shared it.
    #[test]
    fn a_connection_freed_twice_is_lent_once() {
        let mut pool = idle(1, |_| 0);
        assert_eq!((pool.free(id(1), at(0)), pool.refused()), (Freed::Kept, 1));
        assert_eq!(pool.connections(), 1);
        assert_eq!(pool.ask(7, at(1)), Asked::Use(id(1), 7));
        assert_eq!(pool.ask(8, at(1)), Asked::Waits);
        assert_eq!(pool.free(id(1), at(1)), Freed::Serve(8));
    }

    /// Each was counted off again: soon more connections were allowed than there may be, and then the
    /// count went below zero.
    #[test]
    fn what_was_not_lent_is_refused_and_changes_nothing() {
        let mut pool = idle(2, |_| 0);
        assert_eq!(pool.ask(1, at(1)), Asked::Use(id(2), 1));
        assert_eq!(pool.ask(2, at(1)), Asked::Use(id(1), 2));
        assert_eq!(pool.ask(3, at(1)), Asked::Waits);
        let stranger = id(77);
        assert_eq!(pool.free(stranger, at(1)), Freed::Kept);
        assert_eq!(pool.closed(stranger, at(1)), None);
        assert_eq!(pool.not_dialled(at(1)), None);
        pool.dialled(stranger);
        pool.dialled(id(1));
        assert_eq!((pool.refused(), pool.connections(), pool.waiting()), (5, 2, 1));
        assert_eq!(pool.closed(id(1), at(2)), Some(3));
        pool.dialled(id(3));
        assert_eq!(pool.closed(id(1), at(2)), None, "it was over already");
        assert_eq!(pool.free(id(1), at(2)), Freed::Kept);
        assert_eq!(pool.connections(), 2);
        assert_eq!((pool.closed(id(2), at(2)), pool.closed(id(3), at(2))), (None, None));
        assert_eq!((pool.refused(), pool.connections()), (7, 0));
    }

    /// Sixteen whose peer had gone without a word: a job of three attempts met three of them, one after
    /// the other, and failed, although the server answered whoever dialled.
    #[test]
    fn after_one_dead_connection_a_job_gets_a_new_one() {
        let mut pool = idle(16, u64::from);
        let mut used = Vec::new();
        for job in 0..8 {
            match pool.ask(job, at(1000)) {
                Asked::Use(id, _) => used.push(id),
                other => panic!("{other:?}"),
            }
        }
        for id in used {
            assert_eq!(pool.closed(id, at(2000)), None);
        }
        for job in 0..8 {
            assert_eq!(pool.ask(job, at(2000)), Asked::Dial(job));
            pool.dialled(id(100 + job));
        }
        // The rest is of the same age. It is used only where nothing else is left.
        assert!(matches!(pool.ask(8, at(2001)), Asked::Use(..)));
        let stale: Vec<_> = std::iter::from_fn(|| pool.stale(at(2001))).collect();
        assert_eq!(stale, [1, 2, 3, 4, 5, 6, 7].map(id));
        assert_eq!(pool.connections(), 16, "until they are closed");
        assert_eq!(pool.ask(9, at(2002)), Asked::Waits);
        assert_eq!(pool.closed(id(1), at(2002)), Some(9), "and then there is room for a dial");
    }

    #[test]
    fn what_has_served_since_is_not_doubted_and_neither_is_anybody_for_a_failed_dial() {
        let mut pool = idle(3, |n| u64::from(n) * 10);
        assert_eq!(pool.ask(1, at(40)), Asked::Use(id(3), 1));
        assert_eq!(pool.ask(2, at(45)), Asked::Use(id(2), 2));
        assert_eq!(pool.free(id(2), at(50)), Freed::Kept);
        assert_eq!(pool.closed(id(3), at(60)), None, "lent at 40, and it failed");
        assert_eq!(pool.ask(3, at(60)), Asked::Use(id(2), 3), "this one has spoken at 50");
        assert_eq!(pool.ask(4, at(60)), Asked::Dial(4), "and that one last at 10");
        pool.dialled(id(4));
        assert_eq!(pool.free(id(2), at(70)), Freed::Kept);
        assert_eq!(pool.closed(id(4), at(80)), None, "no server at all, perhaps");
        assert_eq!(pool.ask(5, at(80)), Asked::Use(id(2), 5));
        assert_eq!(pool.free(id(2), at(90)), Freed::Kept);
        assert_eq!(pool.closed(id(2), at(95)), None, "it ended while nobody used it");
        assert_eq!(pool.stale(at(95)), Some(id(1)));
        assert_eq!(pool.free(id(1), at(95)), Freed::Close, "it is to be closed");
        assert_eq!((pool.closed(id(1), at(96)), pool.connections()), (None, 0));
    }

    #[test]
    fn what_was_idle_for_too_long_is_not_used_while_another_may_be_dialled() {
        let mut pool = idle(2, |n| u64::from(n) * 10).idle_age_max(Duration::from_millis(100));
        pool.limits.connections_max = 3;
        assert_eq!(pool.next_stale(), Some(at(111)));
        assert_eq!(pool.stale(at(110)), None);
        assert_eq!(pool.ask(1, at(120)), Asked::Use(id(2), 1), "not yet");
        assert_eq!(pool.ask(2, at(120)), Asked::Dial(2));
        pool.dialled(id(3));
        assert_eq!(pool.ask(3, at(120)), Asked::Use(id(1), 3), "as there may not be a fourth");
        assert_eq!(pool.free(id(1), at(130)), Freed::Kept);
        assert_eq!((pool.stale(at(230)), pool.stale(at(231))), (None, Some(id(1))));
        assert_eq!((pool.stale(at(1000)), pool.next_stale()), (None, None));
    }
}
