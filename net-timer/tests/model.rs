//! The wheel against an ordered set of deadlines, which is slow and obviously right.

use net_timer::{Entries, Links, Slot, Tick, Wheel};
use proptest::prelude::*;
use std::collections::{BTreeSet, HashSet};

const TIMERS: u32 = 24;
const LEVELS: usize = 11;

#[derive(Clone, Debug)]
enum Op {
    Insert {
        index: u32,
        delay: u64,
    },
    Cancel {
        index: u32,
    },
    Rearm {
        index: u32,
        delay: u64,
    },
    /// The deadline moves in the entry alone.
    MoveLater {
        index: u32,
        by: u64,
    },
    Advance {
        by: u64,
        budget: usize,
    },
}

#[derive(Clone, Default)]
struct Timer {
    deadline: Tick,
    links: Links,
    slot: Slot,
}

struct Timers(Vec<Timer>);

impl Entries for Timers {
    fn links(&mut self, index: u32) -> (&mut Links, &mut Slot) {
        let timer = &mut self.0[index as usize];
        (&mut timer.links, &mut timer.slot)
    }
}

struct World {
    now: Tick,
    wheel: Wheel,
    timers: Timers,
    model: BTreeSet<(Tick, u32)>,
}

impl World {
    fn new(now: Tick) -> World {
        let timers = Timers(vec![Timer::default(); TIMERS as usize]);
        World { now, wheel: Wheel::new(now), timers, model: BTreeSet::new() }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Insert { index, delay } => {
                if !self.is_armed(index) {
                    let deadline = self.now.saturating_add(delay);
                    self.set_deadline(index, deadline);
                    self.wheel.insert(&mut self.timers, index, deadline);
                }
            }
            Op::Cancel { index } => {
                let was_armed = self.model.remove(&(self.deadline(index), index));
                assert_eq!(self.wheel.cancel(&mut self.timers, index), was_armed);
            }
            Op::Rearm { index, delay } => {
                let deadline = self.now.saturating_add(delay);
                self.set_deadline(index, deadline);
                self.wheel.rearm(&mut self.timers, index, deadline);
            }
            Op::MoveLater { index, by } => {
                if self.is_armed(index) {
                    self.set_deadline(index, self.deadline(index).saturating_add(by));
                }
            }
            Op::Advance { by, budget } => {
                self.now = self.now.saturating_add(by);
                self.pass(budget);
            }
        }
        self.check();
    }

    /// One turn of a loop: takes candidates until there are none or the budget is spent. Says how
    /// many it took.
    fn pass(&mut self, budget: usize) -> usize {
        let mut put_back = HashSet::new();
        for taken in 0..budget {
            let Some(index) = self.wheel.pop_due(&mut self.timers, self.now) else {
                let missed = self.model.first().filter(|(deadline, _)| *deadline <= self.now);
                assert_eq!(missed, None, "the pass ended at {:?}", self.now);
                return taken;
            };
            let deadline = self.deadline(index);
            assert!(
                !put_back.contains(&index),
                "{index} was inserted for {deadline:?} and came again at {:?}",
                self.now
            );
            if deadline <= self.now {
                assert!(self.model.remove(&(deadline, index)), "{index} fired but was not armed");
            } else {
                put_back.insert(index);
                self.wheel.insert(&mut self.timers, index, deadline);
            }
        }
        budget
    }

    /// Sleeps by `next_due` until nothing is left. Each wake must find a candidate, and each timer
    /// has only so many.
    fn drain(&mut self) {
        let mut candidates_left = self.wheel.len() * (LEVELS + 1);
        while let Some(due) = self.wheel.next_due() {
            self.now = self.now.max(due);
            let taken = self.pass(usize::MAX);
            assert!(taken > 0, "woken at {due:?} for nothing");
            candidates_left =
                candidates_left.checked_sub(taken).expect("a timer comes at most once per level");
            self.check();
        }
        assert!(self.model.is_empty());
    }

    fn check(&self) {
        assert_eq!(self.wheel.len(), self.model.len());
        assert_eq!(self.wheel.is_empty(), self.model.is_empty());
        match (self.wheel.next_due(), self.model.first()) {
            // A deadline already past when it was armed is due at the wheel's time, which is now.
            (Some(due), Some((deadline, _))) => {
                assert!(due <= *deadline.max(&self.now), "{due:?} is after {deadline:?}")
            }
            (due, soonest) => assert!(due.is_none() && soonest.is_none()),
        }
    }

    fn deadline(&self, index: u32) -> Tick {
        self.timers.0[index as usize].deadline
    }

    fn is_armed(&self, index: u32) -> bool {
        self.model.contains(&(self.deadline(index), index))
    }

    fn set_deadline(&mut self, index: u32, deadline: Tick) {
        self.model.remove(&(self.deadline(index), index));
        self.timers.0[index as usize].deadline = deadline;
        self.model.insert((deadline, index));
    }
}

/// Small, around the boundary of a level, or anything.
fn span() -> impl Strategy<Value = u64> {
    let boundary = (1u32..11, 0u64..64, 0u64..3)
        .prop_map(|(level, digit, off)| (digit << (6 * level)).wrapping_add(off).saturating_sub(1));
    let any_magnitude = (any::<u64>(), 0u32..64).prop_map(|(bits, shift)| bits >> shift);
    prop_oneof![4 => 0u64..200, 3 => boundary, 1 => any_magnitude]
}

/// Steps that leave most of time unspent, so that a run does not sit at the end of it.
fn step() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => 0u64..100,
        3 => span().prop_map(|millis| millis % (1 << 30)),
        1 => span().prop_map(|millis| millis >> 4),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let index = 0..TIMERS;
    let budget = prop_oneof![0usize..4, Just(usize::MAX)];
    prop_oneof![
        4 => (index.clone(), span()).prop_map(|(index, delay)| Op::Insert { index, delay }),
        1 => index.clone().prop_map(|index| Op::Cancel { index }),
        2 => (index.clone(), span()).prop_map(|(index, delay)| Op::Rearm { index, delay }),
        2 => (index, span()).prop_map(|(index, by)| Op::MoveLater { index, by }),
        4 => (step(), budget).prop_map(|(by, budget)| Op::Advance { by, budget }),
    ]
}

proptest! {
    // A failure prints the shortest run that shows it, which is better kept as a test of its own.
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_wheel_agrees_with_an_ordered_set(
        start in span(),
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let mut world = World::new(Tick::from_millis(start));
        for op in ops {
            world.apply(op);
        }
        world.drain();
    }
}
