//! `UpstreamPool`: a pool of connections to one other server, shared by all jobs of a loop.
//!
//! It only keeps the books: it neither dials nor closes connections, but returns what the handler must do. So
//! it needs no loop, and only the handler uses connections.

use crate::base::id::ConnId;
use net_timer::Tick;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// The limits of an [`UpstreamPool`]. Each loop has its own pool, so these are limits per loop.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamLimits {
    /// The most connections: idle, busy and being dialled together.
    pub connections_max: usize,
    /// The most idle connections that are kept.
    pub idle_max: usize,
    /// The most jobs that wait for a connection.
    pub waiting_max: usize,
    /// How long a job waits for a connection.
    pub wait_max: Duration,
}

impl Default for UpstreamLimits {
    /// 16 connections, all of which may be idle. 1,024 waiting jobs, for 5 s each.
    fn default() -> Self {
        Self {
            connections_max: 16,
            idle_max: 16,
            waiting_max: 1024,
            wait_max: Duration::from_secs(5),
        }
    }
}

/// How long a connection may be idle before another is dialled instead. Less than the idle times that
/// servers, firewalls and address translators commonly allow (a minute and more). Some of these drop an idle
/// connection without telling this end.
const IDLE_AGE_MAX: Duration = Duration::from_secs(45);

/// A bounded pool of connections from one loop to one server. Each job `J` needs a connection for a while.
///
/// The handler calls [`checkout`](Self::checkout) for each job and does what the answer says. It calls
/// [`checkin`](Self::checkin) when a connection has finished its job, and [`closed`](Self::closed) in
/// `on_close`. Keep the job that a connection works on in the connection's session.
///
/// **Dead connections.** A peer may vanish silently. Only the job that is lent such a connection notices. If
/// a connection ends while it is lent, and had served a job before, the pool doubts all connections that have
/// been idle since before it was lent. From then on a job gets a new connection instead of a doubted one, as
/// long as `connections_max` allows. So the next attempt of the failed job runs on a new connection, or on
/// one that has served another job since. A connection that has been idle for longer than
/// [`idle_age_max`](Self::idle_age_max) is treated in the same way. [`stale`](Self::stale) returns the
/// connections to be closed for either reason.
///
/// ```
/// use net_core::Tick;
/// use net_core::dial::{Checkout, UpstreamLimits, UpstreamPool};
///
/// let limits = UpstreamLimits { connections_max: 1, ..UpstreamLimits::default() };
/// let mut upstreams = UpstreamPool::new(limits);
/// let now = Tick::ZERO; // on a loop, `LoopContext::now`
///
/// // The first job: `here.dial(..)` a connection for it, and name it by `dialled(id)`.
/// assert_eq!(upstreams.checkout("first", now), Checkout::Dial("first"));
/// // The second must wait for that one to be free, as there may be one only.
/// assert_eq!(upstreams.checkout("second", now), Checkout::Waits);
/// ```
///
/// In a drain the default [`on_draining`](crate::Handler::on_draining) closes idle upstreams too. No dial
/// succeeds any more, and dials under way fail. A server whose answers need an upstream must keep its
/// upstream connections: call [`set_busy`](crate::Conn::set_busy) on them when they are up, close them when
/// the last client has gone, and write an [`on_end`](crate::Handler::on_end) for them.
///
/// The example `fan_in` is a handler that uses this pool.
#[derive(Debug)]
pub struct UpstreamPool<J> {
    limits: UpstreamLimits,
    idle_age_max: Duration,
    /// Idle connections, each with the time since when it is idle, the newest last. The connection used last
    /// is used next, so that connections that are not needed grow old.
    idle: Vec<(Tick, ConnId)>,
    /// Connections at work, by id.
    lent: HashMap<ConnId, Lent>,
    /// Dials that the pool has asked for and whose connection ids it does not know yet.
    unnamed: usize,
    /// Connections that have been idle since this time or longer are doubted.
    doubted: Option<Tick>,
    /// Waiting jobs, the oldest first, each with the time until which it waits. All jobs wait equally long,
    /// so these times are in order.
    waiting: VecDeque<(Tick, J)>,
    refused: u64,
}

/// The state of a connection that the pool cannot lend.
#[derive(Clone, Copy, Debug)]
enum Lent {
    /// The connection is new: this is its first job.
    New,
    /// The connection had served another job before, and was lent at this time.
    Again(Tick),
    /// The connection is to be closed.
    Stale,
}

/// What to do for a job.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a job that nobody does is lost"]
pub enum Checkout<J> {
    /// Use this connection. The peer may be closing it at this moment. If the connection closes without an
    /// answer, call `checkout` for the job again, provided that the job may be done twice.
    Use(ConnId, J),
    /// Dial a connection for the job, and pass its id to [`dialled`](UpstreamPool::dialled). The connection
    /// counts already. If the dial fails, `on_close` is called. If the dial cannot begin, call
    /// [`not_dialled`](UpstreamPool::not_dialled).
    Dial(J),
    /// Do nothing. The pool keeps the job, and returns it from `checkin`, `closed` or `overdue`.
    Waits,
    /// `waiting_max` jobs wait already: the job is given back.
    Full(J),
}

/// What to do with a connection that has done its job.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a job that nobody does is lost"]
pub enum Checkin<J> {
    /// Use the connection for this job now.
    Serve(J),
    /// Do nothing: the connection is kept for the next job. Also returned if the connection was not lent.
    /// That call changes nothing, and [`refused`](UpstreamPool::refused) counts it.
    Kept,
    /// Close the connection: `idle_max` connections are kept already, or the connection is stale.
    Close,
}

impl<J> UpstreamPool<J> {
    /// Makes an empty pool.
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

    /// How long a connection may be idle before a job gets a new connection instead. Default: 45 s.
    ///
    /// Choose somewhat less than the idle timeout of the other server and of any firewall on the path.
    /// `Duration::MAX`: no limit.
    pub fn idle_age_max(mut self, age: Duration) -> Self {
        self.idle_age_max = age;
        self
    }

    /// A job needs a connection. An idle connection that is [`stale`](Self::stale) is used only if
    /// `connections_max` allows no further dial.
    pub fn checkout(&mut self, job: J, now: Tick) -> Checkout<J> {
        let may_dial = self.connections() < self.limits.connections_max;
        // If the newest is stale, all are.
        if let Some(&(since, id)) = self.idle.last()
            && !(may_dial && self.is_stale(since, now))
        {
            self.idle.pop();
            self.lent.insert(id, Lent::Again(now));
            return Checkout::Use(id, job);
        }
        if may_dial {
            self.unnamed += 1;
            return Checkout::Dial(job);
        }
        if self.waiting.len() >= self.limits.waiting_max {
            return Checkout::Full(job);
        }
        self.waiting.push_back((now.after(self.limits.wait_max), job));
        Checkout::Waits
    }

    /// Tells the pool the id of a connection that was dialled as [`Checkout::Dial`] said.
    ///
    /// Call it after [`LoopContext::dial`](crate::LoopContext::dial), so that `checkin` and `closed` do not
    /// mistake another connection for this one. The call is refused if the pool has not asked for a dial.
    pub fn dialled(&mut self, id: ConnId) {
        if self.unnamed == 0 || self.knows(id) {
            self.refused += 1;
            return;
        }
        self.unnamed -= 1;
        self.lent.insert(id, Lent::New);
    }

    /// A connection has done its job and can take another job. A job whose waiting time has ended is not
    /// served; [`overdue`](Self::overdue) returns it.
    ///
    /// A connection that is not lent (freed already, closed, or not of this pool) is refused: the answer is
    /// [`Checkin::Kept`], and nothing changes. Call `checkin` once per job: if the connection was freed and
    /// then lent again, the pool cannot tell a second `checkin` for the former job from the `checkin` for
    /// the present job.
    pub fn checkin(&mut self, id: ConnId, now: Tick) -> Checkin<J> {
        match self.take_lent(id) {
            Some(Lent::New | Lent::Again(_)) => {}
            Some(Lent::Stale) => {
                self.lent.insert(id, Lent::Stale);
                return Checkin::Close;
            }
            None => {
                self.refused += 1;
                return Checkin::Kept;
            }
        }
        if let Some(job) = self.next_in_time(now) {
            self.lent.insert(id, Lent::Again(now));
            return Checkin::Serve(job);
        }
        if self.idle.len() >= self.limits.idle_max {
            self.lent.insert(id, Lent::Stale); // the connection counts until it is closed
            return Checkin::Close;
        }
        self.idle.push((now, id));
        Checkin::Kept
    }

    /// A connection is over. Call it once for each connection, in `on_close`.
    ///
    /// If a job is returned, dial another connection for it; that connection counts already. A connection
    /// that the pool does not have, or no longer has, is refused, and nothing changes.
    ///
    /// A connection that was lent, and had served a job before, is taken to have failed (see "Dead
    /// connections" above). So call `checkin` before you close a connection on purpose after its job.
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

    /// A dial that the pool had asked for did not begin. If a job is returned, dial a connection for it.
    pub fn not_dialled(&mut self, now: Tick) -> Option<J> {
        if self.unnamed == 0 {
            self.refused += 1;
            return None;
        }
        self.unnamed -= 1;
        self.dial_for_next(now)
    }

    /// Returns an idle connection to be closed: it has been idle for too long, or since before another
    /// connection failed.
    ///
    /// Close it with [`reset`](crate::Conn::reset), which does not wait for the peer. The connection counts
    /// until it is closed. Call `stale` until it returns `None`, after each `closed` and in a timer.
    pub fn stale(&mut self, now: Tick) -> Option<ConnId> {
        let &(since, id) = self.idle.first()?;
        if !self.is_stale(since, now) {
            return None;
        }
        self.idle.remove(0);
        self.lent.insert(id, Lent::Stale);
        Some(id)
    }

    /// Returns when the first idle connection will have been idle for too long. Set a timer for that time.
    pub fn next_stale(&self) -> Option<Tick> {
        self.idle.first().map(|(since, _)| since.after(self.idle_age_max))
    }

    /// Returns a job whose waiting time has ended. Call it until it returns `None`.
    pub fn overdue(&mut self, now: Tick) -> Option<J> {
        let (until, _) = self.waiting.front()?;
        if *until > now {
            return None;
        }
        self.waiting.pop_front().map(|(_, job)| job)
    }

    /// Returns when the waiting time of the first waiting job ends. Set a timer for that time.
    pub fn next_overdue(&self) -> Option<Tick> {
        self.waiting.front().map(|(until, _)| *until)
    }

    /// How many connections the pool counts, in any state.
    pub fn connections(&self) -> usize {
        self.unnamed + self.lent.len() + self.idle.len()
    }

    /// How many jobs wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many calls were refused: they named a connection that was not lent, or a dial that the pool had
    /// not asked for. They changed nothing. Each of them is a mistake in the handler.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn knows(&self, id: ConnId) -> bool {
        self.lent.contains_key(&id) || self.idle.iter().any(|(_, idle)| *idle == id)
    }

    /// Takes a connection out of `lent`. An unknown id may belong to a dial whose id was never told.
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

    fn upstreams(connections_max: usize, idle_max: usize, waiting_max: usize) -> UpstreamPool<u32> {
        let wait_max = Duration::from_millis(100);
        UpstreamPool::new(UpstreamLimits { connections_max, idle_max, waiting_max, wait_max })
    }

    #[test]
    fn first_come_first_served_and_the_last_used_is_used_next() {
        let mut pool = upstreams(2, 2, 10);
        assert_eq!(pool.checkout(1, at(0)), Checkout::Dial(1));
        assert_eq!(pool.checkout(2, at(0)), Checkout::Dial(2));
        assert_eq!(pool.checkout(3, at(0)), Checkout::Waits);
        assert_eq!(pool.checkout(4, at(0)), Checkout::Waits);
        assert_eq!(pool.checkin(id(1), at(1)), Checkin::Serve(3));
        assert_eq!(pool.checkin(id(2), at(1)), Checkin::Serve(4));
        assert_eq!(pool.checkin(id(1), at(1)), Checkin::Kept);
        assert_eq!(pool.checkin(id(2), at(1)), Checkin::Kept);
        assert_eq!(pool.checkout(5, at(1)), Checkout::Use(id(2), 5));
    }

    #[test]
    fn every_bound_holds() {
        let mut pool = upstreams(2, 1, 1);
        assert_eq!(pool.checkout(1, at(0)), Checkout::Dial(1));
        assert_eq!(pool.checkout(2, at(0)), Checkout::Dial(2));
        assert_eq!(pool.checkout(3, at(0)), Checkout::Waits);
        assert_eq!(pool.checkout(4, at(0)), Checkout::Full(4));
        assert_eq!(pool.checkin(id(1), at(0)), Checkin::Serve(3));
        assert_eq!(pool.checkin(id(1), at(0)), Checkin::Kept);
        assert_eq!(pool.checkin(id(2), at(0)), Checkin::Close);
        assert_eq!(pool.connections(), 2, "until it is closed");
        assert_eq!(pool.closed(id(2), at(0)), None);
        assert_eq!(pool.connections(), 1);
    }

    #[test]
    fn who_has_waited_too_long_is_told_and_not_served() {
        let mut pool = upstreams(1, 1, 10);
        assert_eq!(pool.checkout(1, at(0)), Checkout::Dial(1));
        assert_eq!(pool.checkout(2, at(0)), Checkout::Waits);
        assert_eq!(pool.checkout(3, at(50)), Checkout::Waits);
        assert_eq!(pool.next_overdue(), Some(at(101)));
        assert_eq!(pool.overdue(at(100)), None);
        assert_eq!(pool.checkin(id(1), at(120)), Checkin::Serve(3));
        assert_eq!(pool.overdue(at(120)), Some(2));
        assert_eq!(pool.overdue(at(120)), None);
    }

    #[test]
    fn a_connection_that_ends_makes_room_for_who_waits() {
        let mut pool = upstreams(1, 1, 10);
        assert_eq!(pool.checkout(1, at(0)), Checkout::Dial(1));
        assert_eq!(pool.checkout(2, at(0)), Checkout::Waits);
        assert_eq!(pool.checkout(3, at(0)), Checkout::Waits);
        assert_eq!(pool.closed(id(1), at(1)), Some(2), "failed or ended: dial for the next");
        assert_eq!(pool.not_dialled(at(1)), Some(3));
        assert_eq!(pool.closed(id(2), at(2)), None);
        assert_eq!((pool.connections(), pool.waiting()), (0, 0));
    }

    #[test]
    fn an_idle_one_that_ends_is_not_used_again() {
        let mut pool = upstreams(2, 2, 10);
        assert_eq!(pool.checkout(1, at(0)), Checkout::Dial(1));
        assert_eq!(pool.checkin(id(1), at(0)), Checkin::Kept);
        assert_eq!(pool.closed(id(1), at(5)), None);
        assert_eq!(pool.checkout(2, at(6)), Checkout::Dial(2));
    }

    /// A pool of `n` idle connections, numbered from 1, each idle since that time.
    fn idle(n: u32, since: impl Fn(u32) -> u64) -> UpstreamPool<u32> {
        let mut pool = upstreams(n as usize, n as usize, 10);
        for job in 1..=n {
            assert_eq!(pool.checkout(job, at(0)), Checkout::Dial(job));
            pool.dialled(id(job));
        }
        for n in 1..=n {
            assert_eq!(pool.checkin(id(n), at(since(n))), Checkin::Kept);
        }
        pool
    }

    /// The connection was twice in the list of idle connections, and two jobs shared it.
    #[test]
    fn a_connection_freed_twice_is_lent_once() {
        let mut pool = idle(1, |_| 0);
        assert_eq!((pool.checkin(id(1), at(0)), pool.refused()), (Checkin::Kept, 1));
        assert_eq!(pool.connections(), 1);
        assert_eq!(pool.checkout(7, at(1)), Checkout::Use(id(1), 7));
        assert_eq!(pool.checkout(8, at(1)), Checkout::Waits);
        assert_eq!(pool.checkin(id(1), at(1)), Checkin::Serve(8));
    }

    /// Each such call lowered the count: soon more connections were dialled than the limit allows, and then
    /// the count went below zero.
    #[test]
    fn what_was_not_lent_is_refused_and_changes_nothing() {
        let mut pool = idle(2, |_| 0);
        assert_eq!(pool.checkout(1, at(1)), Checkout::Use(id(2), 1));
        assert_eq!(pool.checkout(2, at(1)), Checkout::Use(id(1), 2));
        assert_eq!(pool.checkout(3, at(1)), Checkout::Waits);
        let stranger = id(77);
        assert_eq!(pool.checkin(stranger, at(1)), Checkin::Kept);
        assert_eq!(pool.closed(stranger, at(1)), None);
        assert_eq!(pool.not_dialled(at(1)), None);
        pool.dialled(stranger);
        pool.dialled(id(1));
        assert_eq!((pool.refused(), pool.connections(), pool.waiting()), (5, 2, 1));
        assert_eq!(pool.closed(id(1), at(2)), Some(3));
        pool.dialled(id(3));
        assert_eq!(pool.closed(id(1), at(2)), None, "it was over already");
        assert_eq!(pool.checkin(id(1), at(2)), Checkin::Kept);
        assert_eq!(pool.connections(), 2);
        assert_eq!((pool.closed(id(2), at(2)), pool.closed(id(3), at(2))), (None, None));
        assert_eq!((pool.refused(), pool.connections()), (7, 0));
    }

    /// The peer of sixteen idle connections had gone silently. A job of three attempts met three of them in a
    /// row and failed, although the server answered new connections.
    #[test]
    fn after_one_dead_connection_a_job_gets_a_new_one() {
        let mut pool = idle(16, u64::from);
        let mut used = Vec::new();
        for job in 0..8 {
            match pool.checkout(job, at(1000)) {
                Checkout::Use(id, _) => used.push(id),
                other => panic!("{other:?}"),
            }
        }
        for id in used {
            assert_eq!(pool.closed(id, at(2000)), None);
        }
        for job in 0..8 {
            assert_eq!(pool.checkout(job, at(2000)), Checkout::Dial(job));
            pool.dialled(id(100 + job));
        }
        // The other idle connections are as old. They are used only if nothing else is left.
        assert!(matches!(pool.checkout(8, at(2001)), Checkout::Use(..)));
        let stale: Vec<_> = std::iter::from_fn(|| pool.stale(at(2001))).collect();
        assert_eq!(stale, [1, 2, 3, 4, 5, 6, 7].map(id));
        assert_eq!(pool.connections(), 16, "until they are closed");
        assert_eq!(pool.checkout(9, at(2002)), Checkout::Waits);
        assert_eq!(pool.closed(id(1), at(2002)), Some(9), "and then there is room for a dial");
    }

    #[test]
    fn what_has_served_since_is_not_doubted_and_neither_is_anybody_for_a_failed_dial() {
        let mut pool = idle(3, |n| u64::from(n) * 10);
        assert_eq!(pool.checkout(1, at(40)), Checkout::Use(id(3), 1));
        assert_eq!(pool.checkout(2, at(45)), Checkout::Use(id(2), 2));
        assert_eq!(pool.checkin(id(2), at(50)), Checkin::Kept);
        assert_eq!(pool.closed(id(3), at(60)), None, "lent at 40, and it failed");
        assert_eq!(pool.checkout(3, at(60)), Checkout::Use(id(2), 3), "this one has spoken at 50");
        assert_eq!(pool.checkout(4, at(60)), Checkout::Dial(4), "and that one last at 10");
        pool.dialled(id(4));
        assert_eq!(pool.checkin(id(2), at(70)), Checkin::Kept);
        assert_eq!(pool.closed(id(4), at(80)), None, "no server at all, perhaps");
        assert_eq!(pool.checkout(5, at(80)), Checkout::Use(id(2), 5));
        assert_eq!(pool.checkin(id(2), at(90)), Checkin::Kept);
        assert_eq!(pool.closed(id(2), at(95)), None, "it ended while nobody used it");
        assert_eq!(pool.stale(at(95)), Some(id(1)));
        assert_eq!(pool.checkin(id(1), at(95)), Checkin::Close, "it is to be closed");
        assert_eq!((pool.closed(id(1), at(96)), pool.connections()), (None, 0));
    }

    #[test]
    fn what_was_idle_for_too_long_is_not_used_while_another_may_be_dialled() {
        let mut pool = idle(2, |n| u64::from(n) * 10).idle_age_max(Duration::from_millis(100));
        pool.limits.connections_max = 3;
        assert_eq!(pool.next_stale(), Some(at(111)));
        assert_eq!(pool.stale(at(110)), None);
        assert_eq!(pool.checkout(1, at(120)), Checkout::Use(id(2), 1), "not yet");
        assert_eq!(pool.checkout(2, at(120)), Checkout::Dial(2));
        pool.dialled(id(3));
        assert_eq!(
            pool.checkout(3, at(120)),
            Checkout::Use(id(1), 3),
            "as there may not be a fourth"
        );
        assert_eq!(pool.checkin(id(1), at(130)), Checkin::Kept);
        assert_eq!((pool.stale(at(230)), pool.stale(at(231))), (None, Some(id(1))));
        assert_eq!((pool.stale(at(1000)), pool.next_stale()), (None, None));
    }
}
