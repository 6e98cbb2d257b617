//! `AcceptRate`: how many clients may be accepted per second, as a token bucket in one word.

use net_timer::Tick;
use std::sync::atomic::{AtomicU64, Ordering};

const NANOS_PER_MILLI: u64 = 1_000_000;

/// A token bucket that fills evenly. Each client takes one token. All threads that accept share the bucket.
#[derive(Debug)]
pub(crate) struct AcceptRate {
    /// When the bucket would be full again, in nanoseconds of the clock. Each token taken moves this time
    /// later by `each`. It is a count and publishes nothing else, so relaxed order is enough.
    full_at: AtomicU64,
    /// Nanoseconds until one more token comes.
    each: u64,
    /// Nanoseconds in which an empty bucket fills.
    depth: u64,
}

impl AcceptRate {
    /// `rate` tokens per second, and at most `burst` tokens at once. Neither may be 0.
    pub(crate) fn new(rate: u32, burst: u32) -> Self {
        let each = 1_000_000_000_u64.div_ceil(u64::from(rate));
        Self { full_at: AtomicU64::new(0), each, depth: each * u64::from(burst) }
    }

    /// Takes a token. The error is the time at which the next token comes.
    pub(crate) fn take(&self, now: Tick) -> Result<(), Tick> {
        let now = now.as_millis().saturating_mul(NANOS_PER_MILLI);
        let after = |full_at: u64| full_at.max(now).saturating_add(self.each);
        let taken = |full_at| Some(after(full_at)).filter(|then| *then - now <= self.depth);
        let refused = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).err();
        refused.map_or(Ok(()), |full_at| {
            let at = after(full_at) - self.depth;
            Err(Tick::from_millis(at.div_ceil(NANOS_PER_MILLI)))
        })
    }

    /// Puts back a token that was taken for no client.
    pub(crate) fn put_back(&self) {
        self.full_at.fetch_sub(self.each, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Tick {
        Tick::from_millis(ms)
    }

    #[test]
    fn a_burst_is_let_through_and_not_one_more() {
        let accept_rate = AcceptRate::new(100, 5);
        for start in [1000, 5000] {
            (0..5).for_each(|_| accept_rate.take(at(start)).unwrap());
            // The next token comes after a hundredth of a second.
            assert_eq!(accept_rate.take(at(start)), Err(at(start + 10)));
            assert_eq!(accept_rate.take(at(start + 9)), Err(at(start + 10)));
            assert_eq!(accept_rate.take(at(start + 10)), Ok(()));
            assert!(accept_rate.take(at(start + 10)).is_err());
        }
    }

    #[test]
    fn over_time_it_is_the_rate_whatever_the_steps() {
        for (rate, burst, step) in [(1, 1, 1), (7, 3, 13), (1000, 10, 1), (300_000, 1000, 2)] {
            let accept_rate = AcceptRate::new(rate, burst);
            let (mut taken, mut now) = (0, 1_000_000);
            let end = now + 10_000;
            while now <= end {
                while accept_rate.take(at(now)).is_ok() {
                    taken += 1;
                }
                now += step;
            }
            let most = 10 * u64::from(rate) + u64::from(burst);
            assert!(taken <= most && taken + taken / 50 + 2 >= most, "{taken} of {most}");
        }
    }

    #[test]
    fn a_token_put_back_is_there_again() {
        let accept_rate = AcceptRate::new(10, 1);
        for now in [100, 100, 100, 150] {
            accept_rate.take(at(now)).unwrap();
            assert!(accept_rate.take(at(now)).is_err());
            accept_rate.put_back();
        }
    }
}
