//! What does a timer cost when a thousand are armed, and when a million are?

use super::{Circle, Rng, Rounds, Step};
use net_timer::{Entries, Links, Slot, Tick, Wheel};
use std::hint::black_box;

/// Armed deadlines lie within so many milliseconds, as idle timeouts do.
const SPAN_MS: u64 = 60_000;

pub(super) fn steps() -> Vec<Step> {
    let step = |name, counted, at_most, prepare| Step {
        group: "wheel",
        name,
        units: 1,
        counted,
        at_most,
        prepare,
    };
    vec![
        // What the steps below take for themselves: a turn of the bench's loop, and drawing.
        step("nothing but drawing", 10_000, 12.0, || nothing(1_000)),
        // The goal is 150 for both, beside the drawing.
        step("insert, cancel; 1k armed", 10_000, 160.0, || insert_and_cancel(1_000)),
        step("insert, cancel; 1M armed", 10_000, 160.0, || insert_and_cancel(1_000_000)),
        step("move to any time; 1k armed", 10_000, 175.0, || rearm(1_000)),
        step("move to any time; 1M armed", 10_000, 175.0, || rearm(1_000_000)),
        // Each of those armed expires once. On its way it is filed nearer to its time once.
        step("expire, insert; 1k armed", 100_000, 510.0, || expire(1_000)),
        step("expire, insert; 1M armed", 1_000_000, 300.0, || expire(1_000_000)),
        step("nothing is due; 1M armed", 10_000, 20.0, || nothing_due(1_000_000)),
    ]
}

/// As a connection table would hold it.
#[derive(Clone, Copy, Default)]
struct Entry {
    links: Links,
    slot: Slot,
    deadline: Tick,
}

struct Store(Vec<Entry>);

impl Entries for Store {
    #[inline]
    fn links(&mut self, index: u32) -> (&mut Links, &mut Slot) {
        let entry = &mut self.0[index as usize];
        (&mut entry.links, &mut entry.slot)
    }
}

/// A wheel with `armed` timers, and room for one more behind them.
struct Stage {
    wheel: Wheel,
    store: Store,
    now: Tick,
    armed: u32,
    delays: Circle,
    indices: Circle,
}

impl Stage {
    fn new(armed: u32) -> Self {
        let (now, mut rng) = (Tick::from_millis(1), Rng::new());
        let mut stage = Self {
            wheel: Wheel::new(now),
            store: Store(vec![Entry::default(); armed as usize + 1]),
            now,
            armed,
            delays: rng.circle(SPAN_MS),
            indices: rng.circle(u64::from(armed)),
        };
        for index in 0..armed {
            stage.insert(index);
        }
        stage
    }

    #[inline]
    fn some_deadline(&mut self) -> Tick {
        self.now.saturating_add(1 + self.delays.next())
    }

    #[inline]
    fn insert(&mut self, index: u32) {
        let deadline = self.some_deadline();
        self.store.0[index as usize].deadline = deadline;
        self.wheel.insert(&mut self.store, index, deadline);
    }

    /// Lets time pass until one timer has expired, and arms it again. What comes early, as a
    /// candidate, is filed again.
    #[inline]
    fn expire(&mut self) {
        loop {
            match self.wheel.pop_due(&mut self.store, self.now) {
                None => self.now = self.wheel.next_due().expect("timers are armed"),
                Some(index) => {
                    let deadline = self.store.0[index as usize].deadline;
                    if deadline <= self.now {
                        return self.insert(index);
                    }
                    self.wheel.insert(&mut self.store, index, deadline);
                }
            }
        }
    }
}

fn nothing(armed: u32) -> Rounds {
    let mut stage = Stage::new(armed);
    Box::new(move |rounds| {
        for _ in 0..rounds {
            black_box(stage.some_deadline());
        }
    })
}

fn insert_and_cancel(armed: u32) -> Rounds {
    let mut stage = Stage::new(armed);
    Box::new(move |rounds| {
        for _ in 0..rounds {
            let deadline = stage.some_deadline();
            stage.wheel.insert(&mut stage.store, stage.armed, deadline);
            black_box(stage.wheel.cancel(&mut stage.store, stage.armed));
        }
    })
}

fn rearm(armed: u32) -> Rounds {
    let mut stage = Stage::new(armed);
    Box::new(move |rounds| {
        for _ in 0..rounds {
            let (index, deadline) = (stage.indices.next() as u32, stage.some_deadline());
            stage.wheel.rearm(&mut stage.store, index, deadline);
        }
    })
}

fn expire(armed: u32) -> Rounds {
    let mut stage = Stage::new(armed);
    Box::new(move |rounds| (0..rounds).for_each(|_| stage.expire()))
}

fn nothing_due(armed: u32) -> Rounds {
    let mut stage = Stage::new(armed);
    Box::new(move |rounds| {
        for _ in 0..rounds {
            black_box(stage.wheel.pop_due(&mut stage.store, black_box(stage.now)));
        }
    })
}
