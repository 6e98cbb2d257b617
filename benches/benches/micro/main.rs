//! What does one step of each part cost: of the timer wheel, of the buffers, of a post?
//!
//!     cargo bench -p benches --bench micro
//!     cargo bench -p benches -- --test     # each once, as a check

mod buffers;
mod posts;
mod wheel;

use criterion::{criterion_group, criterion_main};

criterion_group!(parts, wheel::bench, buffers::bench, posts::bench);
criterion_main!(parts);
