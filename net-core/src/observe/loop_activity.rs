//! `LoopActivity`: what a loop does at this moment, readable by another thread, also if it never ends.

use crate::base::close_reason::Callback;
use crate::base::id::ConnId;
use crate::observe::cpu_accounting::KINDS;
use net_timer::Tick;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// Written by the loop's thread while stalls are looked for, and by whoever looks; each word by one
/// of them only. On a cache line of its own.
///
/// All is relaxed: a reader that sees one word older than another looks again a little later, and
/// believes only what it has seen twice.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct LoopActivity {
    /// When the running turn began, in milliseconds; 0: the loop waits.
    began: AtomicU64,
    /// The running callback in the highest 8 bits, plus one; below, the slot and generation of its
    /// connection, as in the driver's token. 0: none runs.
    doing: AtomicU64,
    /// Nanoseconds that each kind of callback took, if they are timed: see `CpuAccounting`.
    took: [AtomicU64; KINDS],
    /// The CPU clock of the loop's thread; 0: not known.
    cpu_clock: AtomicI32,
    seen: Seen,
}

/// What whoever looks has found.
#[derive(Debug, Default)]
struct Seen {
    /// Turns that took too long, by the callback that ran then; the last is that none did.
    stalls: [AtomicU64; KINDS],
    longest_turn_ms: AtomicU64,
    longest_callback_ms: AtomicU64,
}

const CALLBACK_SHIFT: u32 = 56;
const CONNECTION: u64 = (1 << CALLBACK_SHIFT) - 1;

impl LoopActivity {
    /// The loop's thread, whose CPU clock this is, begins.
    pub(crate) fn runs_by(&self, cpu_clock: Option<i32>) {
        self.cpu_clock.store(cpu_clock.unwrap_or(0), Ordering::Relaxed);
    }

    /// The CPU clock of the loop's thread.
    pub(crate) fn cpu_clock(&self) -> Option<i32> {
        Some(self.cpu_clock.load(Ordering::Relaxed)).filter(|clock| *clock != 0)
    }

    /// A turn begins. The loop's thread only, as the next two.
    pub(crate) fn begin(&self, now: Tick) {
        self.doing.store(0, Ordering::Relaxed);
        self.began.store(now.as_millis().max(1), Ordering::Relaxed);
    }

    /// The turn is over.
    pub(crate) fn rest(&self) {
        self.began.store(0, Ordering::Relaxed);
    }

    /// A callback begins, for the connection that the token names.
    #[inline]
    pub(crate) fn calls(&self, callback: Callback, token: u64) {
        let doing = (callback as u64 + 1) << CALLBACK_SHIFT | token & CONNECTION;
        self.doing.store(doing, Ordering::Relaxed);
    }

    /// What callbacks took so far. The loop's thread only.
    pub(crate) fn took(&self, by_kind: &[u64; KINDS]) {
        for (place, &nanos) in self.took.iter().zip(by_kind) {
            place.store(nanos, Ordering::Relaxed);
        }
    }

    /// Label and seconds of each kind of callback, and of the loop's own work. Any thread.
    pub(crate) fn times(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        let seconds = |n: &AtomicU64| n.load(Ordering::Relaxed) as f64 / 1e9;
        labels().zip(self.took.iter().map(seconds))
    }

    /// What loop number `in_loop` does now; `None`: it waits.
    pub(crate) fn beat(&self, in_loop: usize) -> Option<Beat> {
        let began = self.began.load(Ordering::Relaxed);
        let doing = self.doing.load(Ordering::Relaxed);
        let callback = (doing >> CALLBACK_SHIFT).checked_sub(1);
        let callback = callback.and_then(|n| Callback::ALL.get(n as usize).copied());
        let token = doing & CONNECTION | (in_loop as u64) << CALLBACK_SHIFT;
        let connection = ConnId::from_token(token).filter(|_| callback.is_some());
        (began > 0).then_some(Beat { began: Tick::from_millis(began), callback, connection })
    }

    /// Counts one turn that took too long. Only whoever looks, as the next.
    pub(crate) fn count_stall(&self, of: Option<Callback>) {
        let count = &self.seen.stalls[of.map_or(Callback::ALL.len(), |callback| callback as usize)];
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Notes how long a turn, and its callback, have been seen to run.
    pub(crate) fn note(&self, turn_ms: u64, callback_ms: u64) {
        let seen = &self.seen;
        for (longest, ms) in
            [(&seen.longest_turn_ms, turn_ms), (&seen.longest_callback_ms, callback_ms)]
        {
            longest.store(longest.load(Ordering::Relaxed).max(ms), Ordering::Relaxed);
        }
    }

    /// What was found so far. Any thread.
    pub(crate) fn stalls(&self) -> StallCounts {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        StallCounts {
            by_callback: self.seen.stalls.each_ref().map(read),
            longest_turn_ms: read(&self.seen.longest_turn_ms),
            longest_callback_ms: read(&self.seen.longest_callback_ms),
        }
    }
}

/// What a loop does at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Beat {
    /// When the turn began: with the loop's own clock, so it names the turn too.
    pub(crate) began: Tick,
    /// `None`: no callback runs.
    pub(crate) callback: Option<Callback>,
    pub(crate) connection: Option<ConnId>,
}

/// The stalls of one loop so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct StallCounts {
    by_callback: [u64; KINDS],
    pub(crate) longest_turn_ms: u64,
    pub(crate) longest_callback_ms: u64,
}

impl StallCounts {
    /// Label and count.
    pub(crate) fn by_callback(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        labels().zip(self.by_callback)
    }
}

/// Of each callback, and of none.
fn labels() -> impl Iterator<Item = &'static str> {
    Callback::ALL.iter().map(|callback| callback.label()).chain(["none"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    #[test]
    fn every_callback_and_connection_comes_back() {
        let activity = LoopActivity::default();
        assert_eq!(activity.beat(3), None);
        let began = Tick::from_millis(70);
        activity.begin(began);
        assert_eq!(activity.beat(3), Some(Beat { began, callback: None, connection: None }));
        let id = ConnId::new(255, 0xFF_FFFF, NonZeroU32::MAX);
        for &callback in Callback::ALL {
            activity.calls(callback, id.token());
            let beat = |connection| Some(Beat { began, callback: Some(callback), connection });
            assert_eq!(activity.beat(255), beat(Some(id)));
            activity.calls(callback, 0);
            assert_eq!(activity.beat(255), beat(None));
        }
        activity.begin(began);
        assert_eq!(activity.beat(255).unwrap().callback, None);
        activity.rest();
        assert_eq!(activity.beat(255), None);
    }
}
