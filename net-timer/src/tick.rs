//! `Tick`: the wheel's time, in whole milliseconds since one origin.

use std::time::Duration;

/// A point in time, in whole milliseconds since one process-wide origin.
///
/// Zero is a valid time; "no deadline" is `Option::None`. All arithmetic saturates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(u64);

impl Tick {
    /// The origin.
    pub const ZERO: Tick = Tick(0);

    /// The last tick, 584 million years after the origin.
    pub const MAX: Tick = Tick(u64::MAX);

    /// The tick this many milliseconds after the origin.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Tick {
        Tick(millis)
    }

    /// Milliseconds since the origin.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The milliseconds in a duration, rounded up; at most `u64::MAX`.
    #[must_use]
    pub const fn millis_of(duration: Duration) -> u64 {
        let part = duration.subsec_nanos().div_ceil(1_000_000);
        duration.as_secs().saturating_mul(1000).saturating_add(part as u64)
    }

    /// The deadline for a delay that begins now, if `self` is the clock's latest reading. The deadline is
    /// never early.
    ///
    /// A reading is truncated, so the true time may be almost a millisecond after `self`. So one millisecond
    /// is added; without it the delay could be too short by almost a millisecond. Even a delay of zero is due
    /// only in the next millisecond.
    #[must_use]
    pub const fn after(self, delay: Duration) -> Tick {
        self.saturating_add(Tick::millis_of(delay)).saturating_add(1)
    }

    /// The tick this many milliseconds later; at most [`Tick::MAX`].
    #[must_use]
    pub const fn saturating_add(self, millis: u64) -> Tick {
        Tick(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to `self`; zero if `earlier` is after `self`.
    #[must_use]
    pub const fn saturating_since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_up_to_whole_milliseconds() {
        let millis = |nanos| Tick::millis_of(Duration::from_nanos(nanos));
        assert_eq!(millis(0), 0);
        assert_eq!(millis(1), 1);
        assert_eq!(millis(1_000_000), 1);
        assert_eq!(millis(1_000_001), 2);
        assert_eq!(millis(999_999_999), 1000);
    }

    #[test]
    fn durations_beyond_the_range_saturate() {
        let exact = Duration::from_millis(u64::MAX);
        assert_eq!(Tick::millis_of(exact), u64::MAX);
        assert_eq!(Tick::millis_of(exact - Duration::from_millis(1)), u64::MAX - 1);
        assert_eq!(Tick::millis_of(exact + Duration::from_nanos(1)), u64::MAX);
        assert_eq!(Tick::millis_of(Duration::MAX), u64::MAX);
        assert_eq!(Tick::from_millis(1).after(Duration::MAX), Tick::MAX);
        assert_eq!(Tick::MAX.after(Duration::ZERO), Tick::MAX);
    }

    #[test]
    fn a_deadline_is_not_early_though_the_reading_was_truncated() {
        let reading = |nanos: u64| Tick::from_millis(nanos / 1_000_000);
        for start in [0, 1, 999_999, 1_000_000, 7_999_999] {
            for delay in [0, 1, 999_999, 1_000_000, 1_000_001, 5_000_000] {
                let deadline = reading(start).after(Duration::from_nanos(delay));
                let elapsed = deadline.as_millis() * 1_000_000 - start;
                assert!(elapsed >= delay, "{delay} ns from {start} ns came after {elapsed} ns");
                assert!(
                    elapsed <= delay + 2_000_000,
                    "{delay} ns from {start} ns came after {elapsed} ns"
                );
            }
        }
    }

    #[test]
    fn a_deadline_in_the_past_is_zero_milliseconds_away() {
        let (early, late) = (Tick::from_millis(3), Tick::from_millis(8));
        assert_eq!(late.saturating_since(early), 5);
        assert_eq!(early.saturating_since(late), 0);
    }
}
