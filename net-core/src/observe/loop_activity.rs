//! `LoopActivity`: what a loop does now. Another thread can read it, even if the callback never returns.

use crate::base::close_reason::Callback;
use crate::base::id::ConnId;
use crate::observe::cpu_accounting::KINDS;
use net_timer::Tick;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// The loop's thread writes some of the words, while stalls are looked for. The stall detector writes the
/// others. Each word has one writer. The struct has a cache line of its own.
///
/// All accesses are relaxed. A reader may see one word older than another. The stall detector looks again a
/// little later, and trusts only what it has seen twice.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct LoopActivity {
    /// When the running turn began, in milliseconds. 0: the loop waits.
    began: AtomicU64,
    /// The number of the running callback plus one, in the highest 8 bits. Below are the slot and generation
    /// of its connection, as in the driver's token. 0: no callback runs.
    doing: AtomicU64,
    /// Nanoseconds that each kind of callback took, if callbacks are timed: see `CpuAccounting`.
    took: [AtomicU64; KINDS],
    /// The CPU clock of the loop's thread. 0: not known.
    cpu_clock: AtomicI32,
    seen: Seen,
}

/// What the stall detector has found.
#[derive(Debug, Default)]
struct Seen {
    /// Turns that took too long, by the callback that ran. The last count is of turns without a callback.
    stalls: [AtomicU64; KINDS],
    longest_turn_ms: AtomicU64,
    longest_callback_ms: AtomicU64,
}

const CALLBACK_SHIFT: u32 = 56;
const CONNECTION: u64 = (1 << CALLBACK_SHIFT) - 1;

impl LoopActivity {
    /// The loop's thread begins. `cpu_clock` is its CPU clock.
    pub(crate) fn runs_by(&self, cpu_clock: Option<i32>) {
        self.cpu_clock.store(cpu_clock.unwrap_or(0), Ordering::Relaxed);
    }

    /// The CPU clock of the loop's thread.
    pub(crate) fn cpu_clock(&self) -> Option<i32> {
        Some(self.cpu_clock.load(Ordering::Relaxed)).filter(|clock| *clock != 0)
    }

    /// A turn begins. Only the loop's thread calls this and the next two methods.
    pub(crate) fn begin(&self, now: Tick) {
        self.doing.store(0, Ordering::Relaxed);
        self.began.store(now.as_millis().max(1), Ordering::Relaxed);
    }

    /// The turn is over.
    pub(crate) fn rest(&self) {
        self.began.store(0, Ordering::Relaxed);
    }

    /// A callback begins, for the connection of this token.
    #[inline]
    pub(crate) fn calls(&self, callback: Callback, token: u64) {
        let doing = (callback as u64 + 1) << CALLBACK_SHIFT | token & CONNECTION;
        self.doing.store(doing, Ordering::Relaxed);
    }

    /// Stores the time that callbacks took so far. Only the loop's thread calls it.
    pub(crate) fn took(&self, by_kind: &[u64; KINDS]) {
        for (place, &nanos) in self.took.iter().zip(by_kind) {
            place.store(nanos, Ordering::Relaxed);
        }
    }

    /// The label and the seconds of each kind of callback, and of the loop's own work. Any thread may call
    /// it.
    pub(crate) fn times(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        let seconds = |n: &AtomicU64| n.load(Ordering::Relaxed) as f64 / 1e9;
        labels().zip(self.took.iter().map(seconds))
    }

    /// What loop number `in_loop` does now. `None`: the loop waits.
    pub(crate) fn beat(&self, in_loop: usize) -> Option<Beat> {
        let began = self.began.load(Ordering::Relaxed);
        let doing = self.doing.load(Ordering::Relaxed);
        let callback = (doing >> CALLBACK_SHIFT).checked_sub(1);
        let callback = callback.and_then(|n| Callback::ALL.get(n as usize).copied());
        let token = doing & CONNECTION | (in_loop as u64) << CALLBACK_SHIFT;
        let connection = ConnId::from_token(token).filter(|_| callback.is_some());
        (began > 0).then_some(Beat { began: Tick::from_millis(began), callback, connection })
    }

    /// Counts one turn that took too long. Only the stall detector calls this and the next method.
    pub(crate) fn count_stall(&self, of: Option<Callback>) {
        let count = &self.seen.stalls[of.map_or(Callback::ALL.len(), |callback| callback as usize)];
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Notes how long a turn and its callback have run so far.
    pub(crate) fn note(&self, turn_ms: u64, callback_ms: u64) {
        let seen = &self.seen;
        for (longest, ms) in
            [(&seen.longest_turn_ms, turn_ms), (&seen.longest_callback_ms, callback_ms)]
        {
            longest.store(longest.load(Ordering::Relaxed).max(ms), Ordering::Relaxed);
        }
    }

    /// What was found so far. Any thread may call it.
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
    /// When the turn began, by the loop's own clock. So it identifies the turn too.
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
    /// The label and the count of each kind.
    pub(crate) fn by_callback(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        labels().zip(self.by_callback)
    }
}

/// The label of each callback, and then the label for no callback.
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
