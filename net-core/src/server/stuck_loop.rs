//! `StuckLoop`: detects a loop that does not turn while something waits for it.

use net_timer::Tick;
use std::time::Duration;

/// The most that counts of the time between two checks. In a longer time, the checking thread itself was
/// kept from running, and the loops may have been too. Such a time does not show that a loop stood still.
const STEP_MAX: Duration = Duration::from_millis(100);

/// The last seen count of turns of one loop. Pure: the count and the time come in as arguments.
#[derive(Debug, Default)]
pub(crate) struct StuckLoop {
    turns: u64,
    /// Since when something has waited without a turn of the loop.
    since: Option<Tick>,
    looked: Tick,
}

impl StuckLoop {
    /// Checks a loop that has made this number of `turns`. Returns since when the loop has been seen to
    /// stand still while something waits for it, which is `now` if it has turned since the last check.
    /// `None` if nothing waits: such a loop only sleeps. Of the time since the last check, at most 100 ms
    /// count.
    pub(crate) fn look(&mut self, now: Tick, turns: u64, is_awaited: bool) -> Option<Tick> {
        if std::mem::replace(&mut self.turns, turns) != turns {
            self.since = None;
        }
        let unseen = now.saturating_since(self.looked).saturating_sub(Tick::millis_of(STEP_MAX));
        self.looked = now;
        let since = self.since.map(|since| since.saturating_add(unseen));
        self.since = is_awaited.then(|| since.unwrap_or(now));
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_stands_still_while_something_waits_and_it_does_not_turn() {
        let at = Tick::from_millis;
        let mut still = StuckLoop::default();
        assert_eq!(still.look(at(1), 7, false), None, "nothing waits");
        assert_eq!(still.look(at(2), 7, true), Some(at(2)));
        assert_eq!(still.look(at(9), 7, true), Some(at(2)));
        assert_eq!(still.look(at(10), 8, true), Some(at(10)), "it has turned");
        assert_eq!(still.look(at(11), 8, false), None);
        assert_eq!(still.look(at(12), 8, true), Some(at(12)));
        // No check for half a second: only the last 100 ms of it count.
        assert_eq!(still.look(at(612), 8, true), Some(at(512)));
        assert_eq!(still.look(at(662), 8, true), Some(at(512)));
    }
}
