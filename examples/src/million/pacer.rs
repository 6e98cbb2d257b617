//! How many operations may be done now, at a rate per second: the budget of a timer's callback.

use net_core::Tick;

/// Spreads a rate over the moments at which a caller asks.
#[derive(Clone, Copy, Debug)]
pub struct Pacer {
    per_second: u64,
    /// What is owed, in thousandths of an operation. The fraction is carried over.
    owed: u64,
    last: Tick,
}

/// Time above this that was missed is not made up for, because a burst would undo the pacing.
const CATCH_UP_MS: u64 = 100;

impl Pacer {
    /// At least one operation per second, from `now` on.
    pub fn new(per_second: u64, now: Tick) -> Self {
        Self { per_second: per_second.max(1), owed: 0, last: now }
    }

    /// One loop's part of a rate that `loops` loops share: at least one operation per second.
    pub fn share(per_second: u64, loops: usize, now: Tick) -> Self {
        Self::new(per_second.div_ceil(loops.max(1) as u64), now)
    }

    /// How many operations may be done at `now`, since the last call.
    pub fn quota(&mut self, now: Tick) -> usize {
        let passed = now.saturating_since(self.last).min(CATCH_UP_MS);
        self.last = now;
        let owed = self.owed.saturating_add(passed.saturating_mul(self.per_second));
        self.owed = owed % 1_000;
        usize::try_from(owed / 1_000).unwrap_or(usize::MAX)
    }

    /// Skips the time until `now`, in which nothing was allowed.
    pub fn skip(&mut self, now: Tick) {
        self.last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_small_steps_adds_up_to_the_rate() {
        for per_second in [1, 3, 7, 385, 20_000, 1_000_001] {
            let mut pacer = Pacer::new(per_second, Tick::ZERO);
            let done: usize = (1..=1_000).map(|ms| pacer.quota(Tick::from_millis(ms))).sum();
            assert_eq!(done as u64, per_second);
        }
    }

    #[test]
    fn a_long_gap_is_no_burst_and_skipped_time_is_gone() {
        let mut pacer = Pacer::new(1_000, Tick::ZERO);
        assert_eq!(pacer.quota(Tick::from_millis(60_000)), CATCH_UP_MS as usize);
        pacer.skip(Tick::from_millis(61_000));
        assert_eq!(pacer.quota(Tick::from_millis(61_005)), 5);
    }

    #[test]
    fn a_share_is_never_nothing() {
        let mut pacer = Pacer::share(5, 52, Tick::ZERO);
        let done: usize = (1..=100).map(|n| pacer.quota(Tick::from_millis(n * 100))).sum();
        assert_eq!(done, 10);
    }
}
