//! Hands connections from the acceptor to the loops, by a queue or an fd channel for each loop.

use crate::accept::admission::Arrival;
use crate::accept::fd_channel;
use crate::base::close_reason::CloseReason;
use crate::base::log_limiter::LogLimiter;
use crate::observe::counters::Counter;
use crate::server::load_balancer::{Balance, LoadBalancer};
use crate::server::stuck_loop::StuckLoop;
use crate::sys::{Errno, Socket};
use crate::threads::inbox::Inbox;
use crate::threads::shared::Shared;
use net_timer::Tick;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a loop may stand still while a connection waits for it. After that the loop is passed over.
/// Far longer than a turn takes, even a turn that takes too long, and far shorter than a client waits.
const STUCK_AFTER: Duration = Duration::from_millis(200);

/// How often to check for stuck loops, while any connection waits for a loop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Places arrivals and hands them over. Used by the acceptor's thread only.
pub(crate) struct Dispatcher<M> {
    shared: Arc<Shared<M>>,
    load_balancer: LoadBalancer,
    lanes: Vec<Lane>,
    /// Arrivals for which no loop had room.
    waiting: VecDeque<Arrival>,
    /// The most descriptors that may be on their way in fd channels at once, over all loops.
    in_flight_max: u64,
    /// The most connections that may wait for one loop. Small enough that the loops that still turn have
    /// places for other connections, even if all other loops were stuck.
    waits_max: u64,
    /// Connections are placed in exact rotation. A loop that takes its connections a little late must not
    /// disturb the rotation.
    is_exact: bool,
    trouble: LogLimiter,
}

/// The way to one loop.
struct Lane {
    /// Connections placed on this loop, to be handed over at the end of this turn.
    batch: Vec<Arrival>,
    /// How many connections were handed over since the start.
    sent: u64,
    way: Way,
    still: StuckLoop,
    /// The loop has not turned from one check to the next.
    is_slow: bool,
    /// The loop has stood still for too long. It gets no connection until it turns.
    is_stuck: bool,
}

enum Way {
    Queue,
    FdChannel {
        end: Socket,
        /// The number of connections for which the loop's descriptor table has places.
        places: u64,
    },
    /// No more connections are sent to this loop.
    Closed,
}

impl<M> Dispatcher<M> {
    /// `fd_channels`: the acceptor's ends, one for each loop. Empty if the loops share this thread's
    /// table. `places`: the places for connections in a loop's table.
    pub(crate) fn new(
        shared: Arc<Shared<M>>,
        balance: Balance,
        fd_channels: Vec<Socket>,
        places: u64,
        in_flight_max: u64,
        log_every: Duration,
    ) -> Self {
        let ways: Vec<_> = if fd_channels.is_empty() {
            shared.loops.iter().map(|_| Way::Queue).collect()
        } else {
            fd_channels.into_iter().map(|end| Way::FdChannel { end, places }).collect()
        };
        let loops = shared.loops.len() as u64;
        // All loops together may use half of all places, and each loop an equal part of that half.
        let mut waits_max = shared.admission.max() as u64 / (2 * loops);
        if matches!(ways.first(), Some(Way::FdChannel { .. })) {
            waits_max = waits_max.min(in_flight_max / loops);
        }
        let waits_max = waits_max.clamp(1, shared.loops[0].arrivals.capacity() as u64);
        let lane = |way| Lane {
            batch: Vec::new(),
            sent: 0,
            way,
            still: StuckLoop::default(),
            is_slow: false,
            is_stuck: false,
        };
        let lanes = ways.into_iter().map(lane).collect();
        let load_balancer = LoadBalancer::new(balance, shared.loops.len());
        let is_exact = balance == Balance::RoundRobin;
        let (waiting, trouble) = (VecDeque::new(), LogLimiter::new(log_every));
        Self { shared, load_balancer, lanes, waiting, in_flight_max, waits_max, is_exact, trouble }
    }

    /// Checks for loops that stand still, in a callback that does not return, although connections wait
    /// for them. Such a loop is passed over until it turns again, and the connections in its queue are
    /// placed anew. (Connections in an fd channel cannot be taken back.) Returns when to check next;
    /// `None` if no connection waits for a loop.
    pub(crate) fn look(&mut self, now: Tick) -> Option<Tick> {
        let mut is_awaited = false;
        for k in 0..self.lanes.len() {
            let (lane, inbox) = (&mut self.lanes[k], &self.shared.loops[k]);
            let waits = lane.is_stuck || lane.coming(&self.shared, k) > 0;
            let since = lane.still.look(now, inbox.counters.get(Counter::Turns), waits);
            is_awaited |= since.is_some();
            lane.is_slow = since.is_some_and(|since| now >= since.after(LOOK_EVERY));
            let is_stuck = since.is_some_and(|since| now >= since.after(STUCK_AFTER));
            if is_stuck && !std::mem::replace(&mut lane.is_stuck, is_stuck) {
                let back = lane.take_back(inbox);
                if let Some(held_back) = self.trouble.allow(now) {
                    let waiting = lane.coming(&self.shared, k);
                    tracing::warn!(
                        in_loop = k,
                        waiting,
                        placed_anew = back.len(),
                        held_back,
                        "a loop does not turn though connections wait for it: it is passed over"
                    );
                }
                back.into_iter().rev().for_each(|arrival| self.waiting.push_front(arrival));
            }
            self.lanes[k].is_stuck = is_stuck;
        }
        is_awaited.then(|| now.after(LOOK_EVERY))
    }

    /// Places every arrival on a loop, in order. Arrivals without a place wait.
    pub(crate) fn place(&mut self, arrivals: &mut Vec<Arrival>) {
        self.waiting.extend(arrivals.drain(..));
        if self.waiting.is_empty() {
            return;
        }
        let mut in_flight: u64 = (0..self.lanes.len()).map(|k| self.in_flight(k)).sum();
        let is_waited_for = |lanes: &[Lane], k: usize| {
            self.is_exact && lanes[k].is_waited_for(&self.shared, k, self.waits_max)
        };
        let mut is_one_waited_for = (0..self.lanes.len()).any(|k| is_waited_for(&self.lanes, k));
        while let Some(arrival) = self.waiting.pop_front() {
            let (shared, lanes) = (&self.shared, &self.lanes);
            let has_room = |k: usize| lanes[k].has_room(shared, k, self.waits_max);
            let load = |k: usize| lanes[k].load(shared, k);
            let picked = (in_flight < self.in_flight_max && !is_one_waited_for)
                .then(|| self.load_balancer.pick(&arrival.peer, has_room, load))
                .flatten();
            let Some((k, skipped)) = picked else {
                self.waiting.push_front(arrival);
                return;
            };
            if skipped > 0 {
                self.shared.acceptor.add(Counter::LoopSkipped, skipped as u64);
            }
            in_flight += u64::from(matches!(self.lanes[k].way, Way::FdChannel { .. }));
            self.lanes[k].batch.push(arrival);
            is_one_waited_for = is_waited_for(&self.lanes, k);
        }
    }

    /// Connections on their way to loop `k` by fd channel, including the ones that are about to be sent.
    fn in_flight(&self, k: usize) -> u64 {
        match &self.lanes[k].way {
            Way::FdChannel { .. } => self.lanes[k].coming(&self.shared, k),
            Way::Queue | Way::Closed => 0,
        }
    }

    /// Hands the placed arrivals over, with one wake-up for each loop that sleeps. Returns false if some
    /// arrivals could not be handed over. Then call this again a little later.
    pub(crate) fn deliver(&mut self) -> bool {
        for (k, lane) in self.lanes.iter_mut().enumerate() {
            lane.deliver(&self.shared, k);
        }
        self.waiting.is_empty() && self.lanes.iter().all(|lane| lane.batch.is_empty())
    }

    /// How many more connections may be accepted. None while some wait for room. With private tables, at
    /// most as many as may be on their way: until they are sent, they are in the acceptor's own table.
    pub(crate) fn room(&self) -> usize {
        if !self.waiting.is_empty() {
            return 0;
        }
        if self.lanes.iter().all(|lane| matches!(lane.way, Way::Queue)) {
            return usize::MAX;
        }
        let in_flight: u64 = (0..self.lanes.len()).map(|k| self.in_flight(k)).sum();
        self.in_flight_max.saturating_sub(in_flight) as usize
    }

    /// As `room`, when the listeners are about to close for good. The clients in the backlog are
    /// accepted, and then wait here. The only bound is what this thread's own table must hold.
    pub(crate) fn last_room(&self) -> usize {
        if self.lanes.iter().all(|lane| matches!(lane.way, Way::Queue)) {
            return usize::MAX;
        }
        (self.in_flight_max as usize).saturating_sub(self.waiting.len())
    }

    /// Ends the hand-over: closes the connections that could not be handed over, and tells the loops.
    pub(crate) fn end(&mut self, why: CloseReason) {
        let left =
            self.waiting.drain(..).chain(self.lanes.iter_mut().flat_map(|l| l.batch.drain(..)));
        for arrival in left {
            drop(arrival);
            self.shared.acceptor.closed(why);
        }
        for (lane, inbox) in self.lanes.iter_mut().zip(&self.shared.loops) {
            // The loop's end of an fd channel sees this as its end of file.
            lane.way = Way::Closed;
            // Release: a loop that sees this also sees every arrival that was pushed before.
            inbox.arrivals_ended.store(true, Ordering::Release);
            inbox.waker.wake();
        }
    }
}

impl Lane {
    /// Connections placed on loop `k` that the loop has not taken yet.
    fn coming<M>(&self, shared: &Shared<M>, k: usize) -> u64 {
        self.sent - shared.loops[k].taken.load(Ordering::Acquire) + self.batch.len() as u64
    }

    /// Connections that loop `k` has, or is about to have.
    fn load<M>(&self, shared: &Shared<M>, k: usize) -> u64 {
        // The order of these two reads matters: see `Inbox::taken`.
        let coming = self.coming(shared, k);
        coming + shared.loops[k].counters.get(Counter::Open)
    }

    fn has_room<M>(&self, shared: &Shared<M>, k: usize, waits_max: u64) -> bool {
        let inbox = &shared.loops[k];
        if self.is_stuck || inbox.is_over.load(Ordering::Acquire) {
            return false;
        }
        match &self.way {
            Way::Queue => ((inbox.arrivals.len() + self.batch.len()) as u64) < waits_max,
            Way::FdChannel { places, .. } => {
                self.load(shared, k) < *places && self.coming(shared, k) < waits_max
            }
            Way::Closed => false,
        }
    }

    /// The fd channel to loop `k` holds as many connections as it may, and the loop may take them in its
    /// next turn. The dispatcher waits for such a loop, so that the rotation stays exact. It does not
    /// wait for a loop that does not turn.
    fn is_waited_for<M>(&self, shared: &Shared<M>, k: usize, waits_max: u64) -> bool {
        matches!(self.way, Way::FdChannel { .. })
            && !self.is_slow
            && self.coming(shared, k) >= waits_max
            && !shared.loops[k].is_over.load(Ordering::Acquire)
    }

    /// Takes back the connections that wait for a loop, except the connections in an fd channel, which no
    /// other thread can take.
    fn take_back<M>(&mut self, inbox: &Inbox<M>) -> Vec<Arrival> {
        let mut back: Vec<_> = std::iter::from_fn(|| inbox.arrivals.pop()).collect();
        self.sent -= back.len() as u64;
        back.append(&mut self.batch);
        back
    }

    fn deliver<M>(&mut self, shared: &Shared<M>, k: usize) {
        if self.batch.is_empty() {
            return;
        }
        let inbox = &shared.loops[k];
        match &mut self.way {
            Way::Queue => {
                let mut full = Vec::new();
                for arrival in self.batch.drain(..) {
                    match inbox.arrivals.push(arrival) {
                        Ok(()) => self.sent += 1,
                        Err(arrival) => full.push(arrival),
                    }
                }
                self.batch = full;
                inbox.waker.wake();
            }
            Way::FdChannel { end, .. } => {
                while !self.batch.is_empty() {
                    match fd_channel::send(end, &mut self.batch) {
                        Ok(count) => self.sent += count as u64,
                        Err(errno) if is_passing(errno) => return,
                        Err(errno) => {
                            tracing::error!(to_loop = k, %errno, "the fd channel is broken");
                            for arrival in self.batch.drain(..) {
                                drop(arrival);
                                shared.acceptor.closed(CloseReason::Machine(errno));
                            }
                        }
                    }
                }
            }
            Way::Closed => {}
        }
    }
}

/// Whether the error is temporary: the fd channel is full, or too many descriptors are in flight for this
/// user (unix(7)).
fn is_passing(errno: Errno) -> bool {
    matches!(errno, Errno::AGAIN | Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::admission::Admission;
    use crate::config::limits::Limits;

    /// Connections in an fd channel cannot be taken back, so each loop has its part of what may be in
    /// flight. In rotation, the dispatcher waits for a loop that turns, and never for a loop that does
    /// not turn.
    #[test]
    fn a_full_fd_channel_is_waited_for_while_its_loop_turns() {
        let limits = Limits::default();
        for balance in [Balance::RoundRobin, Balance::LeastConnections] {
            let shared = Shared::<()>::new(2, Admission::new(1000, &limits), &limits).unwrap();
            let (near, _far): (Vec<_>, Vec<_>) =
                (0..2).map(|_| fd_channel::pair().unwrap()).unzip();
            let log_every = limits.log_every;
            let mut dispatcher =
                Dispatcher::new(Arc::clone(&shared), balance, near, 1000, 8, log_every);
            let arrival = |n: u16| Arrival {
                socket: fd_channel::pair().unwrap().0,
                peer: format!("127.0.0.1:{n}").parse().unwrap(),
                permit: shared.admission.enter(None).unwrap(),
                is_announced: false,
            };
            let turn = |k: usize, taken| {
                shared.loops[k].counters.add(Counter::Turns, 1);
                shared.loops[k].taken.store(taken, Ordering::Release);
            };
            let at = Tick::from_millis;
            dispatcher.place(&mut (1..=12).map(arrival).collect());
            assert!(!dispatcher.deliver());
            let (full, then) = match balance {
                Balance::RoundRobin => ([4, 3], [0, 4]),
                _ => ([4, 4], [4, 4]),
            };
            assert_eq!([0, 1].map(|k| dispatcher.in_flight(k)), full, "{balance:?}");
            dispatcher.look(at(0));
            turn(0, 4);
            dispatcher.place(&mut Vec::new());
            assert_eq!([0, 1].map(|k| dispatcher.in_flight(k)), then, "{balance:?}");
            // The other loop has not turned from one check to the next.
            dispatcher.look(at(60));
            dispatcher.place(&mut Vec::new());
            assert!(dispatcher.deliver());
            assert_eq!([0, 1].map(|k| dispatcher.in_flight(k)), [4, 4], "{balance:?}");
            // The loop turns, and has room again. Then it does not turn, and has no room although it has
            // taken all connections.
            turn(0, 8);
            turn(1, 4);
            dispatcher.look(at(80));
            dispatcher.place(&mut (1..=2).map(arrival).collect());
            dispatcher.deliver();
            assert_eq!([0, 1].map(|k| dispatcher.in_flight(k)), [1, 1], "{balance:?}");
            turn(0, 9);
            for look in 0..=4 {
                dispatcher.look(at(100 + 60 * look));
            }
            dispatcher.place(&mut (1..=3).map(arrival).collect());
            assert_eq!([0, 1].map(|k| dispatcher.in_flight(k)), [3, 1], "{balance:?}");
        }
    }
}
