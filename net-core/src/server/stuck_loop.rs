//! `StuckLoop`: whether a loop still turns while something waits for it.

use net_timer::Tick;
use std::time::Duration;

/// What of the time between two looks counts at most. A thread that was kept from looking, as the loops may
/// have been from turning, has not seen them stand still.
const STEP_MAX: Duration = Duration::from_millis(100);

/// What was last seen of one loop's count of turns. Pure: the count and the time come in as arguments.
#[derive(Debug, Default)]
pub(crate) struct StuckLoop {
    turns: u64,
    /// Something has waited since then, and the loop has not turned.
    since: Option<Tick>,
    looked: Tick,
}

impl StuckLoop {
    /// Looks at a loop that has made so many turns. Since when it has been seen to stand still, if it does;
    /// a loop that nothing waits for only sleeps. Of the time since the last look no more than 100 ms
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
        // Nobody has looked for half a second: of that, the last 100 ms are all that count.
        assert_eq!(still.look(at(612), 8, true), Some(at(512)));
        assert_eq!(still.look(at(662), 8, true), Some(at(512)));
    }
}
