//! `Rate`: bytes per second, and the token bucket that limits one direction of a connection to a rate.

use net_timer::Tick;

/// A rate limit: bytes per second, and bytes that may pass at once after a pause (the burst).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    per_second: u64,
    burst: u64,
}

impl Rate {
    /// A rate of `bytes` per second; 0 counts as 1. The burst is the bytes of a tenth of a second.
    pub fn per_second(bytes: u64) -> Self {
        Self { per_second: bytes.max(1), burst: (bytes / 10).max(1) }
    }

    /// Sets the burst to `bytes`; 0 counts as 1. A pause fills the bucket up to this number.
    /// Choose the bytes of some milliseconds at least: the clock counts whole milliseconds, and a smaller
    /// burst would keep the connection below its rate.
    pub fn burst(self, bytes: u64) -> Self {
        Self { burst: bytes.max(1), ..self }
    }
}

/// Tokens are thousandths of a byte: as many tokens come in a millisecond as bytes in a second.
const OF_A_BYTE: u64 = 1000;

/// A token bucket for bytes. A new bucket is full.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    /// Thousandths of bytes that may pass, at the time `at`.
    level: u64,
    at: Tick,
    /// The bucket was empty, and nothing passes until `goes_on_at`.
    pub(crate) is_waiting: bool,
}

impl Bucket {
    /// A full bucket. If it replaces the bucket `before`, it is no fuller than that bucket.
    pub(crate) fn new(rate: Rate, now: Tick, before: Option<Bucket>) -> Self {
        let full = rate.burst.saturating_mul(OF_A_BYTE);
        let level = before.map_or(full, |mut before| {
            before.fill(now);
            before.level.min(full)
        });
        Self { rate, level, at: now, is_waiting: false }
    }

    fn fill(&mut self, now: Tick) {
        let come = now.saturating_since(self.at).saturating_mul(self.rate.per_second);
        let full = self.rate.burst.saturating_mul(OF_A_BYTE);
        self.level = self.level.saturating_add(come).min(full);
        self.at = now;
    }

    /// Bytes that may pass now. With less than one byte of room, the bucket waits.
    pub(crate) fn room(&mut self, now: Tick) -> usize {
        if self.is_waiting {
            return 0;
        }
        self.fill(now);
        let room = self.level / OF_A_BYTE;
        self.is_waiting = room == 0;
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// Takes the tokens of `bytes` that have passed. There must have been room for them.
    pub(crate) fn take(&mut self, bytes: usize, now: Tick) {
        self.fill(now);
        let taken = (bytes as u64).saturating_mul(OF_A_BYTE);
        debug_assert!(taken <= self.level, "{bytes} bytes, and {} thousandths", self.level);
        self.level = self.level.saturating_sub(taken);
        self.is_waiting = self.level < OF_A_BYTE;
    }

    /// When the bucket has enough for another system call: the bytes of a fiftieth of a second, or a full
    /// bucket if that is less.
    pub(crate) fn goes_on_at(&self) -> Tick {
        let worth = (self.rate.per_second / 50).clamp(1, self.rate.burst).saturating_mul(OF_A_BYTE);
        let missing = worth.saturating_sub(self.level);
        self.at.saturating_add(missing.div_ceil(self.rate.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Tick {
        Tick::from_millis(ms)
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut bucket = Bucket::new(Rate::per_second(10_000).burst(500), at(7), None);
        assert_eq!(bucket.room(at(7)), 500);
        bucket.take(500, at(7));
        assert!(bucket.is_waiting);
        assert_eq!(bucket.goes_on_at(), at(27), "200 bytes are worth a call");
        assert_eq!(bucket.room(at(30)), 0, "it waits until it is let go on");
        bucket.is_waiting = false;
        assert_eq!(bucket.room(at(27)), 200);
        assert_eq!(bucket.room(at(100_000)), 500, "no more than the burst");
    }

    #[test]
    fn a_new_rate_brings_no_new_burst() {
        let mut old = Bucket::new(Rate::per_second(1000), at(0), None);
        old.take(100, at(0));
        let mut new = Bucket::new(Rate::per_second(5000), at(10), Some(old));
        assert_eq!(new.room(at(10)), 10);
    }

    proptest! {
        #[test]
        fn over_time_it_is_the_rate_and_never_more_than_a_burst_above(
            per_second in 1..100_000_000_u64,
            burst in 1..10_000_000_u64,
            steps in proptest::collection::vec((1..2000_u64, 1..5_000_000_usize), 1..100),
        ) {
            let mut bucket = Bucket::new(Rate::per_second(per_second).burst(burst), at(0), None);
            let (mut now, mut passed) = (0, 0_u64);
            for (ms, wish) in steps {
                now += ms;
                if bucket.is_waiting && bucket.goes_on_at() <= at(now) {
                    bucket.is_waiting = false;
                }
                let n = bucket.room(at(now)).min(wish);
                bucket.take(n, at(now));
                passed += n as u64;
                prop_assert!(passed <= burst + now * per_second / 1000 + 1);
            }
        }
    }
}
