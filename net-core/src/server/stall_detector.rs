//! Finds turns that take too long, and the callback to blame, while the turn still runs.
//!
//! The acceptor's thread checks every loop's [`LoopActivity`] four times per threshold. So it also finds
//! a callback that never returns, and the loops read no clock for this.
//!
//! A turn is also long by the clock if its thread could not run, because of a quota or of other threads
//! on its core. Then no callback is to blame. So each report also shows the CPU time of the thread, and
//! the time for which the quota of the control group has held threads back meanwhile.

use crate::base::log_limiter::LogLimiter;
use crate::config::limits::Limits;
use crate::observe::loop_activity::{Beat, LoopActivity};
use crate::server::machine;
use crate::sys::cpu_clock;
use net_timer::Tick;
use std::time::Duration;

/// How many checks there are per threshold.
const LOOKS: u32 = 4;

pub(crate) struct StallDetector {
    threshold: Duration,
    next: Tick,
    loops: Vec<Look>,
}

/// The last check of one loop.
struct Look {
    beat: Option<Beat>,
    /// When this callback was first seen in this turn.
    since: Tick,
    /// This turn is already counted as a stall.
    is_counted: bool,
    /// When this turn was seen at a second check, and the clocks at that time.
    first: Option<(Tick, Clocks)>,
    trouble: LogLimiter,
}

/// The clocks that are read when a turn is seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Clocks {
    /// The CPU time of the loop's thread.
    cpu: Option<Duration>,
    /// The time for which quotas have held threads back.
    throttled: Option<Duration>,
}

/// A turn that takes too long, as far as it has run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stall {
    beat: Beat,
    turn_ms: u64,
    /// How long the running callback was seen. It may have run longer, by at most the time between two
    /// checks.
    callback_ms: u64,
    is_new: bool,
    /// How long the turn was watched.
    watched_ms: u64,
    /// The CPU time of the turn's thread in that time.
    cpu_ms: Option<u64>,
    /// The time for which quotas have held threads back meanwhile, summed over all cores.
    throttled_ms: Option<u64>,
}

impl Stall {
    /// Whether a quota kept the thread from running: the thread ran for less than half of the watched
    /// time, and quotas held threads back for at least a quarter of it. If the CPU time is unknown, the
    /// quotas decide alone.
    fn is_held_back(&self) -> bool {
        let has_run = self.cpu_ms.is_some_and(|cpu| cpu >= self.watched_ms / 2);
        !has_run && self.throttled_ms.is_some_and(|ms| ms > 0 && ms >= self.watched_ms / 4)
    }
}

impl StallDetector {
    /// `None` if stalls are not to be looked for.
    pub(crate) fn new(limits: &Limits, loops: usize) -> Option<Self> {
        let threshold = limits.stall_threshold?;
        let look = |_| Look {
            beat: None,
            since: Tick::ZERO,
            is_counted: false,
            first: None,
            trouble: LogLimiter::new(limits.log_every),
        };
        Some(Self { threshold, next: Tick::ZERO, loops: (0..loops).map(look).collect() })
    }

    /// When to check next.
    pub(crate) fn next_look(&self) -> Tick {
        self.next
    }

    /// Checks every loop, if it is time. A stall is counted in the loop's [`LoopActivity`], and logged at
    /// a limited rate.
    pub(crate) fn look<'a>(
        &mut self,
        now: Tick,
        activities: impl Iterator<Item = &'a LoopActivity>,
    ) {
        if now < self.next {
            return;
        }
        self.next = now.after(self.threshold / LOOKS);
        for (n, (activity, look)) in activities.zip(&mut self.loops).enumerate() {
            let clocks = || Clocks {
                cpu: activity.cpu_clock().and_then(cpu_clock::read),
                throttled: machine::throttled(),
            };
            let threshold = Tick::millis_of(self.threshold);
            let Some(stall) = look.at(now, activity.beat(n), threshold, clocks) else { continue };
            let Beat { callback, connection, .. } = stall.beat;
            activity.note(stall.turn_ms, if callback.is_some() { stall.callback_ms } else { 0 });
            if stall.is_new {
                activity.count_stall(callback);
            }
            if let Some(held_back) = look.trouble.allow(now) {
                let callback = callback.map_or("none", |callback| callback.label());
                let connection = connection.map_or("none".to_owned(), |id| id.to_string());
                let what = if stall.is_held_back() {
                    "the CPU quota of its control group keeps its thread from running"
                } else {
                    "its turn has not ended yet"
                };
                tracing::warn!(
                    in_loop = n,
                    callback,
                    connection,
                    turn_ms = stall.turn_ms,
                    callback_ms = stall.callback_ms,
                    watched_ms = stall.watched_ms,
                    cpu_ms = stall.cpu_ms,
                    throttled_ms = stall.throttled_ms,
                    held_back,
                    "a loop is stalled: {what}"
                );
            }
        }
    }
}

impl Look {
    /// Reads `clocks` once when a turn is seen that was already running at the last check, and again when
    /// the turn is a stall. Most turns are never seen twice, so they cost no such read.
    fn at(
        &mut self,
        now: Tick,
        beat: Option<Beat>,
        threshold_ms: u64,
        clocks: impl Fn() -> Clocks,
    ) -> Option<Stall> {
        let before = std::mem::replace(&mut self.beat, beat);
        let beat = beat?;
        let is_same_turn = before.is_some_and(|before| before.began == beat.began);
        if before != Some(beat) {
            self.since = now;
        }
        if !is_same_turn {
            self.is_counted = false;
            self.first = None;
        } else if self.first.is_none() {
            self.first = Some((now, clocks()));
        }
        let turn_ms = now.saturating_since(beat.began);
        if turn_ms < threshold_ms {
            return None;
        }
        let is_new = !std::mem::replace(&mut self.is_counted, true);
        let callback_ms = now.saturating_since(self.since);
        let (seen, then) = self.first.unwrap_or((now, Clocks::default()));
        let clocks = clocks();
        let grown = |from: Option<Duration>, to: Option<Duration>| {
            Some(Tick::millis_of(to?.saturating_sub(from?)))
        };
        Some(Stall {
            beat,
            turn_ms,
            callback_ms,
            is_new,
            watched_ms: now.saturating_since(seen),
            cpu_ms: grown(then.cpu, clocks.cpu),
            throttled_ms: grown(then.throttled, clocks.throttled),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::close_reason::Callback;

    const THRESHOLD_MS: u64 = 100;

    fn stalls() -> StallDetector {
        let stall_threshold = Some(Duration::from_millis(THRESHOLD_MS));
        StallDetector::new(&Limits { stall_threshold, ..Limits::default() }, 1).unwrap()
    }

    fn looks(stalls: &mut StallDetector, activity: &LoopActivity, from: u64, to: u64) {
        (from..=to).for_each(|ms| stalls.look(Tick::from_millis(ms), [activity].into_iter()));
    }

    fn count(activity: &LoopActivity, label: &str) -> u64 {
        activity.stalls().by_callback().find(|(l, _)| *l == label).unwrap().1
    }

    fn all(activity: &LoopActivity) -> u64 {
        activity.stalls().by_callback().map(|(_, n)| n).sum()
    }

    #[test]
    fn a_callback_that_does_not_return_is_found_once_and_measured_on() {
        let (mut stalls, activity) = (stalls(), LoopActivity::default());
        activity.begin(Tick::from_millis(1000));
        activity.calls(Callback::Data, 7 << 32 | 1);
        looks(&mut stalls, &activity, 1000, 1000 + THRESHOLD_MS - 1);
        assert_eq!(all(&activity), 0, "below the threshold");
        // At the next check, at most a quarter of the threshold later.
        looks(&mut stalls, &activity, 1000 + THRESHOLD_MS, 1026 + THRESHOLD_MS);
        assert_eq!(count(&activity, "on_data"), 1);
        looks(&mut stalls, &activity, 1127, 3000);
        assert_eq!(all(&activity), 1, "it is still the same turn");
        let found = activity.stalls();
        assert!((1974..=2000).contains(&found.longest_turn_ms), "{found:?}");
        assert!((1974..=2000).contains(&found.longest_callback_ms), "{found:?}");
        activity.begin(Tick::from_millis(3000));
        activity.calls(Callback::Data, 7 << 32 | 1);
        looks(&mut stalls, &activity, 3001, 3150);
        assert_eq!(count(&activity, "on_data"), 2, "the same callback in another turn");
    }

    #[test]
    fn a_loop_that_waits_or_turns_is_not_stalled() {
        let (mut stalls, activity) = (stalls(), LoopActivity::default());
        looks(&mut stalls, &activity, 1, 1000);
        for ms in (1000..3000).step_by(THRESHOLD_MS as usize - 1) {
            activity.begin(Tick::from_millis(ms));
            activity.calls(Callback::Timer, 0);
            looks(&mut stalls, &activity, ms, ms + THRESHOLD_MS - 2);
        }
        activity.rest();
        looks(&mut stalls, &activity, 3000, 9000);
        assert_eq!((all(&activity), activity.stalls()), (0, Default::default()));
    }

    #[test]
    fn many_short_callbacks_are_a_long_turn_and_no_long_callback() {
        let (mut stalls, activity) = (stalls(), LoopActivity::default());
        activity.begin(Tick::from_millis(1000));
        for n in 0..20 {
            activity.calls(Callback::Data, n << 32 | 1);
            looks(&mut stalls, &activity, 1000 + 10 * n, 1009 + 10 * n);
        }
        let found = activity.stalls();
        assert_eq!(all(&activity), 1);
        assert!(found.longest_turn_ms >= 175 && found.longest_callback_ms < 30, "{found:?}");
    }

    /// Regression test: under a quota a turn was long by the clock only, and the callback that ran at the
    /// time was blamed.
    #[test]
    fn a_thread_that_is_not_let_run_is_told_from_one_that_is_long() {
        let ms = Duration::from_millis;
        let activity = LoopActivity::default();
        activity.begin(Tick::from_millis(1000));
        activity.calls(Callback::Data, 7 << 32 | 1);
        let stall = |cpu: Option<u64>, throttled: Option<u64>| {
            let mut stalls = stalls();
            let look = &mut stalls.loops[0];
            let mut found = None;
            for passed in (0..=400).step_by(25) {
                // In this share, in percent, of the time.
                let of = |share: Option<u64>| share.map(|share| ms(5000 + passed * share / 100));
                let clocks = || Clocks { cpu: of(cpu), throttled: of(throttled) };
                let now = Tick::from_millis(1000 + passed);
                found = look.at(now, activity.beat(0), THRESHOLD_MS, clocks).or(found);
            }
            found.unwrap()
        };
        let found = stall(Some(20), Some(80));
        assert_eq!(
            (found.watched_ms, found.cpu_ms, found.throttled_ms),
            (375, Some(75), Some(300))
        );
        assert!(found.is_held_back());
        assert!(!stall(Some(100), Some(300)).is_held_back(), "others of the group are held back");
        assert!(!stall(Some(0), Some(0)).is_held_back(), "it waits for something");
        assert!(!stall(Some(0), None).is_held_back());
        assert!(stall(None, Some(80)).is_held_back());
    }
}
