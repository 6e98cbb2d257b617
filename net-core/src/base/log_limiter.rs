//! `LogLimiter`: limits how often a repeated log line is written.

use net_timer::Tick;
use std::time::Duration;

/// Lets one log line through per interval and counts what it held back.
#[derive(Debug)]
pub(crate) struct LogLimiter {
    every: Duration,
    next: Option<Tick>,
    held_back: u64,
}

impl LogLimiter {
    pub(crate) fn new(every: Duration) -> Self {
        Self { every, next: None, held_back: 0 }
    }

    /// `Some(n)`: write the line, and say that `n` lines were held back. `None`: do not write it.
    pub(crate) fn allow(&mut self, now: Tick) -> Option<u64> {
        if self.next.is_some_and(|next| now < next) {
            self.held_back += 1;
            return None;
        }
        self.next = Some(now.after(self.every));
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_logged_seldom_and_what_was_held_back_is_counted() {
        let mut limiter = LogLimiter::new(Duration::from_secs(5));
        let at = |ms| Tick::from_millis(ms);
        assert_eq!(limiter.allow(at(0)), Some(0));
        assert_eq!(limiter.allow(at(1)), None);
        assert_eq!(limiter.allow(at(4999)), None);
        assert_eq!(limiter.allow(at(5001)), Some(2));
    }
}
