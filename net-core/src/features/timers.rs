//! The timers of a loop: one-shot, periodic and cancelled timers, each with a tag from the handler.

use net_timer::{Entries, Links, Slot, Tick, Wheel};
use slab::Slab;
use std::time::Duration;

/// Names one timer of one loop. 16 bytes, plain data.
///
/// The id of a timer that has fired (a one-shot timer) or was cancelled finds nothing. An id finds nothing on
/// any other loop, of this server or of another server: serials have 64 bits, and each loop starts at a
/// random one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct TimerId {
    serial: u64,
    key: u32,
}

pub(crate) struct Timers {
    wheel: Wheel,
    armed: Armed,
    /// The serial of the timer armed last. A loop never uses a serial twice.
    serial: u64,
}

struct Armed(Slab<Timer>);

struct Timer {
    links: Links,
    slot: Slot,
    serial: u64,
    deadline: Tick,
    every: Option<Duration>,
    tag: u64,
}

impl Entries for Armed {
    fn links(&mut self, index: u32) -> (&mut Links, &mut Slot) {
        let timer = &mut self.0[index as usize];
        (&mut timer.links, &mut timer.slot)
    }
}

impl Timers {
    /// No timers yet. `chance`: the first serial; a random number, different for each loop.
    pub(crate) fn new(now: Tick, chance: u64) -> Self {
        Self { wheel: Wheel::new(now), armed: Armed(Slab::new()), serial: chance }
    }

    /// Arms a timer for `deadline`. If `every` is given, the timer fires again at that interval.
    pub(crate) fn arm(&mut self, deadline: Tick, every: Option<Duration>, tag: u64) -> TimerId {
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        let (links, slot) = (Links::default(), Slot::default());
        let key = self.armed.0.insert(Timer { links, slot, serial, deadline, every, tag }) as u32;
        self.wheel.insert(&mut self.armed, key, deadline);
        TimerId { serial, key }
    }

    /// Disarms a timer. Returns false if it is not armed any more.
    pub(crate) fn cancel(&mut self, id: TimerId) -> bool {
        let is_armed = self.armed.0.get(id.key as usize).is_some_and(|t| t.serial == id.serial);
        if is_armed {
            self.wheel.cancel(&mut self.armed, id.key);
            self.armed.0.remove(id.key as usize);
        }
        is_armed
    }

    /// Returns the tag of one timer that is due. `None`: no timer is due, or `looked` has reached `most`.
    /// `looked` counts the entries taken from the wheel.
    pub(crate) fn pop_due(&mut self, now: Tick, looked: &mut usize, most: usize) -> Option<u64> {
        while *looked < most {
            let key = self.wheel.pop_due(&mut self.armed, now)?;
            *looked += 1;
            let timer = &mut self.armed.0[key as usize];
            if timer.deadline > now {
                let deadline = timer.deadline;
                self.wheel.insert(&mut self.armed, key, deadline);
                continue;
            }
            let tag = timer.tag;
            match timer.every {
                Some(every) => {
                    // Count from the time it was due, so that the period does not drift. Periods that
                    // passed while the loop was busy are skipped.
                    let on_time = timer.deadline.saturating_add(Tick::millis_of(every).max(1));
                    timer.deadline = if on_time > now { on_time } else { now.after(every) };
                    let deadline = timer.deadline;
                    self.wheel.insert(&mut self.armed, key, deadline);
                }
                None => {
                    self.armed.0.remove(key as usize);
                }
            }
            return Some(tag);
        }
        None
    }

    #[inline]
    pub(crate) fn next_due(&self) -> Option<Tick> {
        self.wheel.next_due()
    }

    pub(crate) fn len(&self) -> usize {
        self.armed.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn due(timers: &mut Timers, now: u64) -> Vec<u64> {
        let mut looked = 0;
        std::iter::from_fn(|| timers.pop_due(Tick::from_millis(now), &mut looked, usize::MAX))
            .collect()
    }

    #[test]
    fn one_shot_fires_once_and_never_early() {
        let mut timers = Timers::new(Tick::ZERO, 0);
        let id = timers.arm(Tick::from_millis(100), None, 7);
        assert_eq!(due(&mut timers, 99), []);
        assert_eq!(due(&mut timers, 100), [7]);
        assert_eq!(due(&mut timers, 10_000), []);
        assert!(!timers.cancel(id));
        assert_eq!(timers.len(), 0);
    }

    #[test]
    fn a_period_does_not_drift_and_missed_ones_are_missed() {
        let mut timers = Timers::new(Tick::ZERO, 0);
        let id = timers.arm(Tick::from_millis(10), Some(10 * MS), 1);
        assert_eq!(due(&mut timers, 13), [1]);
        assert_eq!(due(&mut timers, 19), []);
        assert_eq!(due(&mut timers, 20), [1]);
        assert_eq!(due(&mut timers, 95), [1]);
        assert_eq!(due(&mut timers, 96), []);
        assert!(timers.cancel(id));
        assert_eq!(due(&mut timers, 1000), []);
    }

    #[test]
    fn a_cancelled_timers_id_does_not_find_its_successor() {
        let mut timers = Timers::new(Tick::ZERO, 0);
        let old = timers.arm(Tick::from_millis(10), None, 1);
        assert!(timers.cancel(old));
        timers.arm(Tick::from_millis(10), None, 2);
        assert!(!timers.cancel(old));
        assert_eq!(due(&mut timers, 10), [2]);
    }

    /// Serials began at 1 on every loop, so the id of one loop's timer disarmed a timer of another loop.
    #[test]
    fn a_timers_id_finds_nothing_on_another_loop() {
        let mut loops = [Timers::new(Tick::ZERO, 1 << 40), Timers::new(Tick::ZERO, u64::MAX - 1)];
        for round in 0..3 {
            let ids = loops.each_mut().map(|timers| timers.arm(Tick::from_millis(10), None, round));
            assert!(!loops[0].cancel(ids[1]) && !loops[1].cancel(ids[0]));
        }
        for timers in &mut loops {
            assert_eq!(due(timers, 10).len(), 3, "each still has its own");
        }
    }
}
