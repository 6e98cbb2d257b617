//! What does a post from another thread cost the poster: to a loop that turns, and to one that
//! sleeps?

use criterion::Criterion;
use net_core::{Conn, Handler, Input, LoopContext, Loops, Peer, Running, Server, ServerHandle};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Posts in a burst: well below the mailbox's bound, so that none comes back.
const BURST: u64 = 256;

/// Longer than a loop takes from its last message into its sleep.
const ASLEEP_AFTER: Duration = Duration::from_micros(200);

enum Note {
    /// Counts, and no more.
    Plain,
    /// Posts itself again for as long as the loop is to be busy, so that the loop never sleeps.
    Spin,
}

/// Between the bench and the handler. Each is a value by itself: all is relaxed.
#[derive(Default)]
struct Shared {
    is_busy: AtomicBool,
    /// `Plain` notes taken.
    taken: AtomicU64,
}

struct Listener(Arc<Shared>);

impl Handler for Listener {
    type Session = ();
    type Message = Note;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        Some(())
    }

    fn on_data(&mut self, _conn: &mut Conn<'_, Self>, _input: &mut Input<'_>) {}

    fn on_message(&mut self, here: &mut LoopContext<'_, Self>, note: Note) {
        match note {
            Note::Plain => _ = self.0.taken.fetch_add(1, Ordering::Relaxed),
            Note::Spin if self.0.is_busy.load(Ordering::Relaxed) => {
                assert!(here.handle().post(here.number(), Note::Spin).is_ok(), "a burst fits");
            }
            Note::Spin => {}
        }
    }
}

struct Stage {
    shared: Arc<Shared>,
    handle: ServerHandle<Note>,
    /// Stops when it is dropped.
    _server: Running<Note>,
}

impl Stage {
    fn new() -> Self {
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let server = Server::new()
            .listen("127.0.0.1:0")
            .loops(Loops::Count(1))
            .start(move |_place| Listener(Arc::clone(&seen)))
            .expect("a server of one loop starts");
        Self { shared, handle: server.handle(), _server: server }
    }

    fn set_busy(&self, is_busy: bool) {
        self.shared.is_busy.store(is_busy, Ordering::Relaxed);
        if is_busy {
            assert!(self.handle.post(0, Note::Spin).is_ok(), "the mailbox is empty");
        }
    }

    /// Posts `n` messages, `burst_max` at once and a rest behind each burst; returns the time
    /// spent in posting.
    fn post(&self, n: u64, burst_max: u64, rest: Duration) -> Duration {
        let mut spent = Duration::ZERO;
        let mut left = n;
        while left > 0 {
            let burst = left.min(burst_max);
            let wanted = self.shared.taken.load(Ordering::Relaxed) + burst;
            let start = Instant::now();
            for _ in 0..burst {
                assert!(self.handle.post(0, Note::Plain).is_ok(), "a burst fits the mailbox");
            }
            spent += start.elapsed();
            while self.shared.taken.load(Ordering::Relaxed) < wanted {
                std::thread::yield_now();
            }
            left -= burst;
            std::thread::sleep(rest);
        }
        spent
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let stage = Stage::new();
    let mut group = criterion.benchmark_group("post");
    // Only the posts are on the clock, and there are long rests between them off it.
    group.sample_size(20);
    group.measurement_time(Duration::from_millis(20)).warm_up_time(Duration::from_millis(2));
    group.bench_function("to a sleeping loop", |bencher| {
        bencher.iter_custom(|n| stage.post(n, 1, ASLEEP_AFTER));
    });
    stage.set_busy(true);
    group.measurement_time(Duration::from_millis(300)).warm_up_time(Duration::from_millis(50));
    group.bench_function("to a busy loop", |bencher| {
        bencher.iter_custom(|n| stage.post(n, BURST, Duration::ZERO));
    });
    stage.set_busy(false);
    group.finish();
}
