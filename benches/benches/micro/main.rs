//! What does one step of each part cost in time? `steps` counts its instructions.
//!
//!     cargo bench -p benches --bench micro
//!     cargo bench -p benches -- --test     # each once, as a check

mod mailbox;
mod posts;

use benches::steps;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::time::{Duration, Instant};

/// Every step of one thread.
fn single(criterion: &mut Criterion) {
    for step in steps::all() {
        let mut group = criterion.benchmark_group(step.group);
        group.sample_size(20).measurement_time(Duration::from_secs(1));
        group.warm_up_time(Duration::from_millis(300)).throughput(Throughput::Elements(step.units));
        let mut rounds = None; // prepared once, and only if it is asked for
        group.bench_function(step.name, |bencher| {
            let rounds = rounds.get_or_insert_with(step.prepare);
            bencher.iter_custom(|n| {
                let start = Instant::now();
                rounds(n);
                start.elapsed()
            });
        });
        group.finish();
    }
}

criterion_group!(parts, single, mailbox::bench, posts::bench);
criterion_main!(parts);
