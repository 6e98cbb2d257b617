//! Finds turns that take too long, and the callback to blame, while it still runs.
//!
//! The acceptor's thread looks at every loop's [`Pulse`] four times in a threshold. So a callback
//! that never returns is found too, and the loops read no clock for it.

use crate::limits::Limits;
use crate::listener::Seldom;
use crate::pulse::{Beat, Pulse};
use net_timer::Tick;
use std::time::Duration;

/// How often it is looked in a threshold.
const LOOKS: u32 = 4;

pub(crate) struct Stalls {
    threshold: Duration,
    next: Tick,
    loops: Vec<Look>,
}

/// The last look at one loop.
struct Look {
    beat: Option<Beat>,
    /// When this callback was first seen in this turn.
    since: Tick,
    /// This turn is among the stalls.
    is_counted: bool,
    trouble: Seldom,
}

/// A turn that takes too long, so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stall {
    beat: Beat,
    turn_ms: u64,
    /// What was seen of the callback that runs: it may have run a look's time longer.
    callback_ms: u64,
    is_new: bool,
}

impl Stalls {
    /// `None`: stalls are not looked for.
    pub(crate) fn new(limits: &Limits, loops: usize) -> Option<Self> {
        let threshold = limits.stall_threshold?;
        let look = |_| Look {
            beat: None,
            since: Tick::ZERO,
            is_counted: false,
            trouble: Seldom::new(limits.log_every),
        };
        Some(Self { threshold, next: Tick::ZERO, loops: (0..loops).map(look).collect() })
    }

    /// When to look next.
    pub(crate) fn next_look(&self) -> Tick {
        self.next
    }

    /// Looks at every loop, if it is time. What is found is counted in its pulse, and logged seldom.
    pub(crate) fn look<'a>(&mut self, now: Tick, pulses: impl Iterator<Item = &'a Pulse>) {
        if now < self.next {
            return;
        }
        self.next = now.after(self.threshold / LOOKS);
        for (n, (pulse, look)) in pulses.zip(&mut self.loops).enumerate() {
            let Some(stall) = look.at(now, pulse.beat(n), Tick::millis_of(self.threshold)) else {
                continue;
            };
            let Beat { callback, connection, .. } = stall.beat;
            pulse.note(stall.turn_ms, if callback.is_some() { stall.callback_ms } else { 0 });
            if stall.is_new {
                pulse.count_stall(callback);
            }
            if let Some(held_back) = look.trouble.may_speak(now) {
                let callback = callback.map_or("none", |callback| callback.label());
                let connection = connection.map_or("none".to_owned(), |id| id.to_string());
                tracing::warn!(
                    in_loop = n,
                    callback,
                    connection,
                    turn_ms = stall.turn_ms,
                    callback_ms = stall.callback_ms,
                    held_back,
                    "a loop is stalled: its turn has not ended yet"
                );
            }
        }
    }
}

impl Look {
    fn at(&mut self, now: Tick, beat: Option<Beat>, threshold_ms: u64) -> Option<Stall> {
        let before = std::mem::replace(&mut self.beat, beat);
        let beat = beat?;
        let is_same_turn = before.is_some_and(|before| before.began == beat.began);
        if before != Some(beat) {
            self.since = now;
        }
        if !is_same_turn {
            self.is_counted = false;
        }
        let turn_ms = now.saturating_since(beat.began);
        if turn_ms < threshold_ms {
            return None;
        }
        let is_new = !std::mem::replace(&mut self.is_counted, true);
        Some(Stall { beat, turn_ms, callback_ms: now.saturating_since(self.since), is_new })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closed::Callback;

    const THRESHOLD_MS: u64 = 100;

    fn stalls() -> Stalls {
        let stall_threshold = Some(Duration::from_millis(THRESHOLD_MS));
        Stalls::new(&Limits { stall_threshold, ..Limits::default() }, 1).unwrap()
    }

    fn looks(stalls: &mut Stalls, pulse: &Pulse, from: u64, to: u64) {
        (from..=to).for_each(|ms| stalls.look(Tick::from_millis(ms), [pulse].into_iter()));
    }

    fn count(pulse: &Pulse, label: &str) -> u64 {
        pulse.stalls().by_callback().find(|(l, _)| *l == label).unwrap().1
    }

    fn all(pulse: &Pulse) -> u64 {
        pulse.stalls().by_callback().map(|(_, n)| n).sum()
    }

    #[test]
    fn a_callback_that_does_not_return_is_found_once_and_measured_on() {
        let (mut stalls, pulse) = (stalls(), Pulse::default());
        pulse.begin(Tick::from_millis(1000));
        pulse.calls(Callback::Data, 7 << 32 | 1);
        looks(&mut stalls, &pulse, 1000, 1000 + THRESHOLD_MS - 1);
        assert_eq!(all(&pulse), 0, "below the threshold");
        // At the next look, a quarter of the threshold later at most.
        looks(&mut stalls, &pulse, 1000 + THRESHOLD_MS, 1026 + THRESHOLD_MS);
        assert_eq!(count(&pulse, "on_data"), 1);
        looks(&mut stalls, &pulse, 1127, 3000);
        assert_eq!(all(&pulse), 1, "it is still the same turn");
        let found = pulse.stalls();
        assert!((1974..=2000).contains(&found.longest_turn_ms), "{found:?}");
        assert!((1974..=2000).contains(&found.longest_callback_ms), "{found:?}");
        pulse.begin(Tick::from_millis(3000));
        pulse.calls(Callback::Data, 7 << 32 | 1);
        looks(&mut stalls, &pulse, 3001, 3150);
        assert_eq!(count(&pulse, "on_data"), 2, "the same callback in another turn");
    }

    #[test]
    fn a_loop_that_waits_or_turns_is_not_stalled() {
        let (mut stalls, pulse) = (stalls(), Pulse::default());
        looks(&mut stalls, &pulse, 1, 1000);
        for ms in (1000..3000).step_by(THRESHOLD_MS as usize - 1) {
            pulse.begin(Tick::from_millis(ms));
            pulse.calls(Callback::Timer, 0);
            looks(&mut stalls, &pulse, ms, ms + THRESHOLD_MS - 2);
        }
        pulse.rest();
        looks(&mut stalls, &pulse, 3000, 9000);
        assert_eq!((all(&pulse), pulse.stalls()), (0, Default::default()));
    }

    #[test]
    fn many_short_callbacks_are_a_long_turn_and_no_long_callback() {
        let (mut stalls, pulse) = (stalls(), Pulse::default());
        pulse.begin(Tick::from_millis(1000));
        for n in 0..20 {
            pulse.calls(Callback::Data, n << 32 | 1);
            looks(&mut stalls, &pulse, 1000 + 10 * n, 1009 + 10 * n);
        }
        let found = pulse.stalls();
        assert_eq!(all(&pulse), 1);
        assert!(found.longest_turn_ms >= 175 && found.longest_callback_ms < 30, "{found:?}");
    }
}
