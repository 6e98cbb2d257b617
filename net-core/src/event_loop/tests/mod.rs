//! The loop's behaviour, on the simulated driver and on epoll over the model kernel.
//!
//! Every test is generic over the rig and runs with many seeds: a seed decides the buffers, the
//! limits, how bytes are cut and in which order things happen. No test sleeps; time is virtual.

mod accepts;
mod actor;
mod announced;
mod broadcasts;
mod chains;
mod chaos;
mod crowds;
mod datagrams;
mod deadlines;
mod dials;
mod dials_again;
mod drain;
mod echo;
mod edges;
mod ends;
mod files;
mod heartbeats;
mod lateness;
mod marks;
mod matrix;
mod memory;
mod mutations;
mod names;
mod offloads;
mod overload;
mod owed;
mod pairs;
mod panics;
mod policies;
mod rates;
mod regressions;
mod sent;
mod slices;
mod stage;
mod strangers;
mod swarm;
mod times;
mod tunnels;
mod wishes;

use crate::bound::bound_on;
use crate::driver::sim::{Outcome, Peer, Rig, Rng, Sim};
use actor::{At, usual};
use stage::Stage;

/// The epoll driver on a kernel that reports an edge only when Linux would.
type ModelEpoll = crate::driver::Epoll<crate::driver::sim::ModelKernel>;

/// Runs `test` with `count` seeds, and says which one failed.
fn seeds(count: u64, test: impl Fn(u64)) {
    each_seed(0..count, test);
}

/// The same with these seeds.
fn each_seed(seeds: std::ops::Range<u64>, test: impl Fn(u64)) {
    struct Seed(u64);
    impl Drop for Seed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed with seed {}", self.0);
            }
        }
    }
    for seed in seeds {
        let _bound = bound_on(format_args!("seed {seed}"));
        let _seed = Seed(seed);
        test(seed);
    }
}

/// Makes each of these tests one for each rig. `name: 20` runs it with 20 seeds.
macro_rules! on_both_rigs {
    ($($name:ident: $seeds:literal,)*) => {
        mod on_sim {
            $(#[test] fn $name() {
                $crate::event_loop::tests::seeds($seeds, super::$name::<super::super::Sim>);
            })*
        }
        mod on_epoll {
            $(#[test] fn $name() {
                $crate::event_loop::tests::seeds($seeds, super::$name::<super::super::ModelEpoll>);
            })*
        }
    };
}
use on_both_rigs;

/// Bytes that tell where they were in the stream.
fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|i| (i as u64).wrapping_mul(2_654_435_761).to_be_bytes()[5]).collect()
}

/// An address to dial. What comes of it is the world's to say.
fn somewhere() -> crate::sys::addr::Addr {
    "10.0.0.1:1".parse().unwrap()
}

/// Panics without a word on stderr.
fn fail() -> ! {
    std::panic::resume_unwind(Box::new("a panic that a test has made"))
}

/// A rule of the loop that a run does without, to show that the tests would notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mutation {
    /// Who used up its budget is forgotten.
    NoRequeue,
    /// A resume waits for the next edge.
    NoSyntheticRead,
    /// A short read ends the drain, whatever was announced.
    ShortReadsAlwaysEnd,
    /// ROOM is passed on although nobody waits for it.
    RoomAlways,
}

thread_local! {
    static MUTATION: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}
