//! What do queueing, gathering, and finding the end of a message cost?

use super::{Rounds, Step};
use bytes::Bytes;
use net_buffer::{Input, LengthPrefix, Output, Pool, find_line};
use std::hint::black_box;
use std::io::IoSlice;

const MESSAGE: [u8; 64] = [b'x'; 64];
/// As many messages as a pipelining peer sends at once.
const BURST: usize = 16;
/// A message that has not all come yet.
const UNFINISHED: [u8; 4096] = [b'x'; 4096];

pub(super) fn steps() -> Vec<Step> {
    let step = |name, units: usize, at_most, prepare| Step {
        group: "buffers",
        name,
        units: units as u64,
        counted: 1_000,
        at_most,
        prepare,
    };
    vec![
        step("append, gather, advance: 16 of 64 B", BURST, 120.0, own_bytes),
        step("append, gather, advance: 16 shared of 4 KiB", BURST, 430.0, shared_bytes),
        step("find a line of 64 B", 1, 110.0, line_end),
        step("find no line in 4 KiB", 1, 1_500.0, no_line_end),
        step("find a frame of 64 B", 1, 50.0, frame_end),
        step("take a line of 64 B", 1, 160.0, || take_lines(1)),
        step("take 16 lines of 64 B", BURST, 120.0, || take_lines(BURST)),
        step("take 16 frames of 64 B", BURST, 50.0, take_frames),
    ]
}

/// Each round queues by `push`, offers all to a kernel that takes all, and is empty again.
fn through(push: impl Fn(&mut Output, &mut Pool) + 'static) -> Rounds {
    let (mut output, mut pool) = (Output::default(), Pool::new(1 << 20));
    Box::new(move |rounds| {
        for _ in 0..rounds {
            push(&mut output, &mut pool);
            let mut slices = [IoSlice::new(&[]); 64];
            let (filled, bytes) = output.slices(&mut slices, usize::MAX);
            black_box(&slices[..filled]);
            output.advance(bytes, &mut pool);
        }
    })
}

fn own_bytes() -> Rounds {
    through(|output, pool| (0..BURST).for_each(|_| output.push(&MESSAGE, pool)))
}

fn shared_bytes() -> Rounds {
    let shared = Bytes::from(vec![b'x'; 4096]);
    through(move |output, pool| {
        (0..BURST).for_each(|_| output.push_shared(shared.clone(), pool));
    })
}

fn line() -> Vec<u8> {
    [&MESSAGE[..63], b"\n"].concat()
}

fn frame() -> Vec<u8> {
    [&60u32.to_be_bytes()[..], &MESSAGE[..60]].concat()
}

fn shape() -> LengthPrefix {
    LengthPrefix::u32_be(1024)
}

fn line_end() -> Rounds {
    let line = line();
    Box::new(move |rounds| {
        for _ in 0..rounds {
            assert!(find_line(black_box(&line)).is_some());
        }
    })
}

fn no_line_end() -> Rounds {
    Box::new(|rounds| {
        for _ in 0..rounds {
            assert!(find_line(black_box(&UNFINISHED)).is_none());
        }
    })
}

fn frame_end() -> Rounds {
    let (frame, shape) = (frame(), shape());
    Box::new(move |rounds| {
        for _ in 0..rounds {
            let found = black_box(&shape).find(black_box(&frame));
            assert!(matches!(found, Ok(Some(_))));
        }
    })
}

fn take_lines(lines: usize) -> Rounds {
    let bytes = line().repeat(lines);
    Box::new(move |rounds| {
        for _ in 0..rounds {
            let mut input = Input::new(black_box(&bytes));
            while let Some(line) = input.take_line() {
                black_box(line);
            }
        }
    })
}

fn take_frames() -> Rounds {
    let (bytes, shape) = (frame().repeat(BURST), shape());
    Box::new(move |rounds| {
        for _ in 0..rounds {
            let mut input = Input::new(black_box(&bytes));
            while let Ok(Some(frame)) = input.take_frame(&shape) {
                black_box(frame);
            }
        }
    })
}
