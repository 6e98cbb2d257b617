//! What do queueing, gathering, and finding the end of a message cost?

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use net_buffer::{Input, LengthPrefix, Output, Pool};
use std::hint::black_box;
use std::io::IoSlice;
use std::time::Duration;

const MESSAGE: [u8; 64] = [b'x'; 64];
/// As many messages as a pipelining peer sends at once.
const BURST: usize = 16;

/// Queues by `push`, offers all to a kernel that takes all, and is empty again.
fn through(output: &mut Output, pool: &mut Pool, push: impl Fn(&mut Output, &mut Pool)) {
    push(output, pool);
    let mut slices = [IoSlice::new(&[]); 64];
    let (filled, bytes) = output.slices(&mut slices, usize::MAX);
    black_box(&slices[..filled]);
    output.advance(bytes, pool);
}

fn take_lines(bytes: &[u8]) {
    let mut input = Input::new(black_box(bytes));
    while let Some(line) = input.take_line() {
        black_box(line);
    }
}

fn take_frames(bytes: &[u8], shape: &LengthPrefix) {
    let mut input = Input::new(black_box(bytes));
    while let Ok(Some(frame)) = input.take_frame(shape) {
        black_box(frame);
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    output(criterion);
    input(criterion);
}

fn output(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("output");
    group.sample_size(20).measurement_time(Duration::from_secs(1));
    group.warm_up_time(Duration::from_millis(300)).throughput(Throughput::Elements(BURST as u64));
    let (mut queue, mut pool) = (Output::default(), Pool::new(1 << 20));
    group.bench_function("append, gather, advance: 16 of 64 B", |bencher| {
        bencher.iter(|| {
            through(&mut queue, &mut pool, |output, pool| {
                (0..BURST).for_each(|_| output.push(&MESSAGE, pool));
            });
        });
    });
    let shared = Bytes::from(vec![b'x'; 4096]);
    group.bench_function("append, gather, advance: 16 shared of 4 KiB", |bencher| {
        bencher.iter(|| {
            through(&mut queue, &mut pool, |output, pool| {
                (0..BURST).for_each(|_| output.push_shared(shared.clone(), pool));
            });
        });
    });
    group.finish();
}

fn input(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("input");
    group.sample_size(20).measurement_time(Duration::from_secs(1));
    group.warm_up_time(Duration::from_millis(300));
    let line = [&MESSAGE[..63], b"\n"].concat();
    let (one, many) = (line.clone(), line.repeat(BURST));
    group.bench_function("line of 64 B", |bencher| bencher.iter(|| take_lines(&one)));
    let shape = LengthPrefix::u32_be(1024);
    let frame = [&60u32.to_be_bytes()[..], &MESSAGE[..60]].concat();
    let frames = frame.repeat(BURST);
    group.throughput(Throughput::Elements(BURST as u64));
    group.bench_function("16 lines of 64 B", |bencher| bencher.iter(|| take_lines(&many)));
    group.bench_function("16 frames of 64 B", |bencher| {
        bencher.iter(|| take_frames(&frames, &shape));
    });
    group.finish();
}
