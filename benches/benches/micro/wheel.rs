//! What does a timer cost when a thousand are armed, and when a million are?

use criterion::Criterion;
use net_timer::{Entries, Links, Slot, Tick, Wheel};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Armed deadlines lie within so many milliseconds, as idle timeouts do.
const SPAN_MS: u64 = 60_000;

/// As a connection table would hold them, apart from everything else.
struct Store(Vec<(Links, Slot)>);

impl Entries for Store {
    #[inline]
    fn links(&mut self, index: u32) -> (&mut Links, &mut Slot) {
        let (links, slot) = &mut self.0[index as usize];
        (links, slot)
    }
}

/// Numbers without a pattern, the same in each run.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A wheel with `armed` timers, and room for one more behind them.
struct Stage {
    wheel: Wheel,
    store: Store,
    rng: Rng,
    now: Tick,
    armed: u32,
}

impl Stage {
    fn new(armed: u32) -> Self {
        let now = Tick::from_millis(1);
        let store = Store(vec![Default::default(); armed as usize + 1]);
        let mut stage = Self { wheel: Wheel::new(now), store, rng: Rng(0x9e37_79b9), now, armed };
        for index in 0..armed {
            let deadline = stage.some_deadline();
            stage.wheel.insert(&mut stage.store, index, deadline);
        }
        stage
    }

    fn some_deadline(&mut self) -> Tick {
        self.now.saturating_add(1 + self.rng.below(SPAN_MS))
    }

    fn insert_and_cancel(&mut self) {
        let deadline = self.some_deadline();
        self.wheel.insert(&mut self.store, self.armed, deadline);
        black_box(self.wheel.cancel(&mut self.store, self.armed));
    }

    fn rearm(&mut self) {
        let deadline = self.some_deadline();
        let index = self.rng.below(u64::from(self.armed)) as u32;
        self.wheel.rearm(&mut self.store, index, deadline);
    }

    /// Lets time pass until `wanted` timers have been popped, each of which is armed again.
    fn expire(&mut self, wanted: u64) {
        let mut popped = 0;
        while popped < wanted {
            self.now = self.now.saturating_add(1);
            while let Some(index) = self.wheel.pop_due(&mut self.store, self.now) {
                popped += 1;
                let deadline = self.some_deadline();
                self.wheel.insert(&mut self.store, index, deadline);
            }
        }
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wheel");
    group.sample_size(20).measurement_time(Duration::from_secs(1));
    group.warm_up_time(Duration::from_millis(300));
    for (armed, name) in [(1_000, "1k"), (1_000_000, "1M")] {
        let mut stage = Stage::new(armed);
        group.bench_function(format!("insert+cancel/{name}"), |bencher| {
            bencher.iter(|| stage.insert_and_cancel());
        });
        group.bench_function(format!("rearm/{name}"), |bencher| bencher.iter(|| stage.rearm()));
        // A candidate may be early: popped and filed again. That is counted as an expiry too.
        group.bench_function(format!("expire+insert/{name}"), |bencher| {
            bencher.iter_custom(|expiries| {
                let start = Instant::now();
                stage.expire(expiries);
                start.elapsed()
            });
        });
        group.bench_function(format!("nothing due/{name}"), |bencher| {
            let now = stage.now;
            bencher.iter(|| black_box(stage.wheel.pop_due(&mut stage.store, black_box(now))));
        });
    }
    group.finish();
}
