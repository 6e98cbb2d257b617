//! `StuckLoop`: whether a loop still turns while something waits for it.

use net_timer::Tick;

/// What was last seen of one loop's count of turns. Pure: the count and the time come in as arguments.
#[derive(Debug, Default)]
pub(crate) struct StuckLoop {
    turns: u64,
    /// Something has waited since then, and the loop has not turned.
    since: Option<Tick>,
}

impl StuckLoop {
    /// Looks at a loop that has made so many turns. Since when it has been seen to stand still, if it does;
    /// a loop that nothing waits for only sleeps.
    pub(crate) fn look(&mut self, now: Tick, turns: u64, is_awaited: bool) -> Option<Tick> {
        if std::mem::replace(&mut self.turns, turns) != turns {
            self.since = None;
        }
        self.since = is_awaited.then(|| self.since.unwrap_or(now));
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
    }
}
