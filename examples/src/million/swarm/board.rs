//! The counts that all loops of the swarm change, and that the thread that leads them reads.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use hdrhistogram::Histogram;
use net_core::CloseReason;

use super::super::report::RttUs;
use super::super::talk::SwarmState;

/// A count to which many threads add. It publishes nothing else, so all accesses are relaxed.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn one_more(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of the swarm.
pub(super) struct Board {
    asked: u64,
    pub(super) connected: Count,
    pub(super) retried: Count,
    pub(super) given_up: Count,
    pub(super) right: Count,
    pub(super) wrong: Count,
    pub(super) pings: Count,
    pub(super) pongs: Count,
    pub(super) delivered: Count,
    pub(super) closed: Count,
    pub(super) ended: Count,
    /// Loops that have taken the last order.
    pub(super) taken: Count,
    lost: Count,
    lost_by: Mutex<BTreeMap<String, u64>>,
    dial_failure: Mutex<Option<String>>,
    server_ends: AtomicBool,
    began: Mutex<Option<Instant>>,
    connect_ms: AtomicU64,
    round_trips: Mutex<RoundTrips>,
}

/// Round trips in nanoseconds: since the last look, and of the whole phase.
struct RoundTrips {
    recent: Histogram<u64>,
    phase: Histogram<u64>,
}

/// An empty histogram of nanoseconds up to a minute, exact to one in a hundred.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 60_000_000_000, 2).expect("the bounds are constants")
}

impl Board {
    pub(super) fn new(asked: u64) -> Self {
        Self {
            asked,
            connected: Count::default(),
            retried: Count::default(),
            given_up: Count::default(),
            right: Count::default(),
            wrong: Count::default(),
            pings: Count::default(),
            pongs: Count::default(),
            delivered: Count::default(),
            closed: Count::default(),
            ended: Count::default(),
            taken: Count::default(),
            lost: Count::default(),
            lost_by: Mutex::default(),
            dial_failure: Mutex::default(),
            server_ends: AtomicBool::new(false),
            began: Mutex::default(),
            connect_ms: AtomicU64::new(0),
            round_trips: Mutex::new(RoundTrips { recent: histogram(), phase: histogram() }),
        }
    }

    /// The connects begin now.
    pub(super) fn begin(&self) {
        *locked(&self.began) = Some(Instant::now());
    }

    /// A connection is up and has been answered.
    pub(super) fn is_up(&self) {
        if self.connected.one_more() == self.asked
            && let Some(began) = *locked(&self.began)
        {
            self.connect_ms.store(began.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
    }

    /// A dial failed.
    pub(super) fn dial_failed(&self, why: &CloseReason) {
        locked(&self.dial_failure).get_or_insert_with(|| why.to_string());
    }

    /// A connection ended, and neither side had been told to end it.
    pub(super) fn lose(&self, why: &CloseReason) {
        self.lost.one_more();
        *locked(&self.lost_by).entry(why.label().to_owned()).or_default() += 1;
    }

    /// From now on the server may end connections.
    pub(super) fn let_server_end(&self) {
        self.server_ends.store(true, Ordering::Relaxed);
    }

    pub(super) fn server_may_end(&self) -> bool {
        self.server_ends.load(Ordering::Relaxed)
    }

    /// Takes over what one loop has recorded, and empties the loop's histogram.
    pub(super) fn add_round_trips(&self, recorded: &mut Histogram<u64>) {
        if recorded.is_empty() {
            return;
        }
        let mut all = locked(&self.round_trips);
        all.recent.add(&*recorded).expect("all histograms have the same bounds");
        recorded.reset();
    }

    /// 99 of 100 round trips since the last call were at most this, in microseconds.
    pub(super) fn recent_p99_us(&self) -> Option<f64> {
        let mut all = locked(&self.round_trips);
        let all = &mut *all;
        if all.recent.is_empty() {
            return None;
        }
        let p99_us = RttUs::of_nanoseconds(&all.recent).p99;
        all.phase.add(&all.recent).expect("all histograms have the same bounds");
        all.recent.reset();
        Some(p99_us)
    }

    /// The round trips of the phase, which ends here.
    pub(super) fn end_phase(&self) -> RttUs {
        self.recent_p99_us();
        let mut all = locked(&self.round_trips);
        let figures = RttUs::of_nanoseconds(&all.phase);
        all.phase.reset();
        figures
    }

    pub(super) fn state(&self, p99_us: Option<f64>) -> SwarmState {
        let [connected, closed, ended, lost] =
            [&self.connected, &self.closed, &self.ended, &self.lost].map(Count::get);
        SwarmState {
            open: connected.saturating_sub(closed + ended + lost),
            connected,
            connect_ms: self.connect_ms.load(Ordering::Relaxed),
            retried: self.retried.get(),
            given_up: self.given_up.get(),
            dial_failure: locked(&self.dial_failure).clone(),
            right: self.right.get(),
            wrong: self.wrong.get(),
            pings: self.pings.get(),
            pongs: self.pongs.get(),
            delivered: self.delivered.get(),
            closed,
            ended,
            lost,
            lost_by: locked(&self.lost_by).clone(),
            p99_us,
        }
    }
}

/// A panic elsewhere leaves the counts as they are. They are still the best available.
fn locked<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_open_no_more() {
        let board = Board::new(2);
        board.begin();
        board.is_up();
        board.is_up();
        board.lose(&CloseReason::PeerReset);
        let state = board.state(None);
        assert_eq!((state.connected, state.open, state.lost), (2, 1, 1));
        assert_eq!(state.lost_by, BTreeMap::from([("peer_reset".to_owned(), 1)]));
    }

    #[test]
    fn a_phase_has_the_round_trips_of_all_loops_and_of_no_other_phase() {
        let board = Board::new(1);
        for _loop in 0..2 {
            let mut recorded = histogram();
            recorded.record(2_000_000).unwrap();
            board.add_round_trips(&mut recorded);
            assert!(recorded.is_empty());
        }
        assert!((1_900.0..2_100.0).contains(&board.recent_p99_us().unwrap()));
        assert_eq!(board.recent_p99_us(), None);
        assert!((1_900.0..2_100.0).contains(&board.end_phase().p50));
        assert_eq!(board.end_phase(), RttUs::default());
    }
}
