//! What does a message through the mailbox cost, while 1 to 8 threads post?

use criterion::{BenchmarkId, Criterion, Throughput};
use net_core::bench::Inbox;
use net_core::handler::PostError;
use std::thread;
use std::time::{Duration, Instant};

const QUEUE: usize = 4096;

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mailbox");
    group.sample_size(10).throughput(Throughput::Elements(1));
    group.measurement_time(Duration::from_millis(500)).warm_up_time(Duration::from_millis(100));
    for producers in [1, 2, 4, 8] {
        let id = BenchmarkId::new("post and take, producers", producers);
        group.bench_function(id, |bencher| bencher.iter_custom(|n| through(n, producers)));
    }
    group.finish();
}

/// The time until `n` messages of all producers are taken.
fn through(n: u64, producers: u64) -> Duration {
    let inbox = Inbox::new(QUEUE).expect("an eventfd can be made");
    let start = Instant::now();
    thread::scope(|scope| {
        for producer in 0..producers {
            let handle = inbox.handle();
            let own = n / producers + u64::from(producer < n % producers);
            scope.spawn(move || {
                for message in 0..own {
                    while let Err(error) = handle.post(0, message) {
                        assert!(matches!(error, PostError::Full(_)), "it has not ended");
                        thread::yield_now();
                    }
                }
            });
        }
        let mut taken = 0;
        while taken < n {
            match inbox.take() {
                Some(_) => taken += 1,
                None => thread::yield_now(),
            }
        }
    });
    start.elapsed()
}
