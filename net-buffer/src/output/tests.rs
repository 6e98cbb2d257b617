//! The queue's edges: where chunks begin and end, and what memory they hold.

use super::*;

const LARGE: usize = SHARED_COPY_MAX + 1;

/// Sends everything in calls of at most `slices` slices and `budget` bytes; returns the bytes
/// and the calls.
fn drain(output: &mut Output, pool: &mut Pool, slices: usize, budget: usize) -> (Vec<u8>, usize) {
    let (mut sent, mut calls) = (Vec::new(), 0);
    while !output.is_empty() {
        let mut into = vec![IoSlice::new(&[]); slices];
        let (filled, bytes) = output.slices(&mut into, budget);
        assert!(filled > 0 && bytes <= budget);
        sent.extend(into[..filled].iter().flat_map(|slice| slice.iter()));
        output.advance(bytes, pool);
        calls += 1;
    }
    (sent, calls)
}

#[test]
fn the_empty_queue_is_small_and_owns_nothing() {
    assert!(size_of::<Output>() <= 64, "{} bytes", size_of::<Output>());
    assert!(size_of::<Chunk>() <= 32, "{} bytes", size_of::<Chunk>());
    let mut pool = Pool::new(usize::MAX);
    let mut output = Output::default();
    output.push(b"", &mut pool);
    output.push_shared(Bytes::new(), &mut pool);
    output.push_front(b"", &mut pool);
    output.advance(0, &mut pool);
    assert_eq!(output.clear(&mut pool), 0);
    assert_eq!(output.slices(&mut [IoSlice::new(&[])], 10), (0, 0));
    assert_eq!((output.chunks.capacity(), output.memory()), (0, 0));
}

#[test]
fn small_pushes_share_a_block() {
    let mut pool = Pool::new(usize::MAX);
    let mut output = Output::default();
    for _ in 0..CLASS_MIN / 8 {
        output.push(b"12345678", &mut pool);
    }
    assert_eq!((output.chunks.len(), output.memory()), (1, CLASS_MIN));
    output.push(b"9", &mut pool);
    assert_eq!((output.chunks.len(), output.memory()), (2, 2 * CLASS_MIN));
}

#[test]
fn spare_room_stays_below_what_is_queued() {
    let mut pool = Pool::new(0);
    let mut output = Output::default();
    for _ in 0..20_000 {
        output.push(&[0; 100], &mut pool);
        assert!(output.memory() <= CLASS_MIN + 2 * output.len());
    }
    assert!(output.chunks.len() < 50, "{} chunks for 2 MB", output.chunks.len());
}

#[test]
fn many_chunks_leave_in_order_in_calls_of_bounded_size() {
    let mut pool = Pool::new(usize::MAX);
    let mut output = Output::default();
    let mut expected = Vec::new();
    for i in 0..5000 {
        let payload: Vec<u8> = (0..LARGE).map(|at| (i * 31 + at) as u8).collect();
        expected.extend_from_slice(&payload);
        output.push_shared(payload.into(), &mut pool);
    }
    let (sent, calls) = drain(&mut output, &mut pool, 1024, usize::MAX);
    assert_eq!(calls, 5);
    assert!(sent == expected);
    assert_eq!(output.chunks.capacity(), 0, "the list of a burst does not stay");
}

#[test]
fn five_thousand_one_byte_sends_need_few_slices() {
    let mut pool = Pool::new(usize::MAX);
    let mut output = Output::default();
    let expected: Vec<u8> = (0..5000).map(|i| (i % 251) as u8).collect();
    for byte in &expected {
        output.push_shared(Bytes::copy_from_slice(&[*byte]), &mut pool);
    }
    assert_eq!(output.chunks.len(), REFERENCES_BEFORE_BLOCK + 2);
    let (sent, calls) = drain(&mut output, &mut pool, 2, 1000);
    assert!(sent == expected);
    assert_eq!(calls, 2 + 5, "two by the count of slices, five by the budget");
    assert_eq!(output.memory(), 0);
}

#[test]
fn a_few_small_shared_payloads_take_no_block() {
    let mut pool = Pool::new(usize::MAX);
    let mut output = Output::default();
    output.push_shared(Bytes::from_static(b"news"), &mut pool);
    assert_eq!(output.memory(), 0);
    output.push(b"own", &mut pool);
    output.push_shared(Bytes::from_static(&[0; SHARED_COPY_MAX]), &mut pool);
    assert_eq!(output.chunks.len(), 2, "at the bound: joined to the last block");
    output.push_shared(Bytes::from_static(&[0; LARGE]), &mut pool);
    assert_eq!(output.chunks.len(), 3, "above it: shared");
}

#[test]
fn bytes_put_in_front_go_before_the_rest_of_a_started_chunk() {
    let mut pool = Pool::new(usize::MAX);
    for shared in [false, true] {
        let mut output = Output::default();
        match shared {
            true => output.push_shared(Bytes::from_static(b"xworld"), &mut pool),
            false => output.push(b"xworld", &mut pool),
        }
        output.advance(1, &mut pool);
        let hello = vec![b'o'; BLOCK_BYTES_MAX + 1];
        output.push_front(&hello, &mut pool);
        let (sent, _) = drain(&mut output, &mut pool, 8, usize::MAX);
        assert!(sent == [&hello[..], b"world"].concat());
    }
}

#[test]
fn a_framed_payload_leaves_from_where_it_lies_and_its_prefix_takes_no_block() {
    let mut pool = Pool::new(usize::MAX);
    let shape = LengthPrefix::u64_be(1 << 20);
    let mut output = Output::default();
    let payloads = [Bytes::from(vec![1; 1 << 20]), Bytes::from(vec![2; LARGE])];
    for payload in &payloads {
        output.push_frame(&shape, payload.clone(), &mut pool).unwrap();
    }
    assert_eq!((output.memory(), output.chunks.len()), (0, 4), "not even for a prefix");
    let mut slices = [IoSlice::new(&[]); 4];
    output.slices(&mut slices, usize::MAX);
    assert_eq!(slices[1].as_ptr(), payloads[0].as_ptr(), "the payload itself, not a copy");
    assert_eq!(slices[3].as_ptr(), payloads[1].as_ptr());
    assert_eq!(
        (&*slices[0], &*slices[2]),
        (&[0, 0, 0, 0, 0, 16, 0, 0][..], &[0, 0, 0, 0, 0, 0, 0, 129][..])
    );
}

#[test]
fn a_prefix_may_be_sent_in_part_and_stands_in_the_room_of_a_block() {
    let mut pool = Pool::new(usize::MAX);
    let shape = LengthPrefix::u32_be(LARGE);
    let mut output = Output::default();
    output.push_frame(&shape, Bytes::from_static(&[7; LARGE]), &mut pool).unwrap();
    output.advance(3, &mut pool);
    output.push_front(b"<", &mut pool);
    output.push(b"own", &mut pool);
    output.push_frame(&shape, Bytes::from_static(b"few"), &mut pool).unwrap();
    assert_eq!(output.chunks.len(), 4, "both parts of the small frame joined the last block");
    let too_long = FrameError::TooLong { length: LARGE as u64 + 1, max: LARGE };
    let refused = output.push_frame(&shape, Bytes::from_static(&[0; LARGE + 1]), &mut pool);
    assert_eq!(refused, Err(too_long));
    output.push_frame(&shape, Bytes::new(), &mut pool).unwrap();
    let (sent, _) = drain(&mut output, &mut pool, 8, usize::MAX);
    let expected = [b"<\x81", &[7; LARGE][..], b"own\0\0\0\x03few\0\0\0\0"].concat();
    assert!(sent == expected, "nothing of what was refused is queued");
}

#[test]
fn truncate_undoes_a_push_into_a_started_block() {
    let mut pool = Pool::new(usize::MAX);
    let mut output = Output::default();
    output.push(b"sent kept", &mut pool);
    output.advance(5, &mut pool);
    let before = output.len();
    output.push(&[0; 10_000], &mut pool);
    output.push_shared(Bytes::from_static(&[0; LARGE]), &mut pool);
    output.truncate(before + 1, &mut pool);
    output.truncate(before + 2, &mut pool);
    assert_eq!(output.len(), before + 1, "it never lengthens");
    output.truncate(before, &mut pool);
    assert_eq!(drain(&mut output, &mut pool, 8, usize::MAX).0, b"kept");
    assert_eq!(output.memory(), 0);
}

#[test]
fn the_list_shrinks_even_if_the_queue_never_empties() {
    let mut pool = Pool::new(0);
    let mut output = Output::default();
    for _ in 0..10_000 {
        output.push_shared(Bytes::from_static(&[0; LARGE]), &mut pool);
    }
    output.advance(LARGE * 9999 + 1, &mut pool);
    assert_eq!(output.len(), LARGE - 1);
    assert!(output.chunks.capacity() <= QUEUE_KEPT);
}

#[test]
#[should_panic(expected = "4 of 3 unsent bytes were sent")]
fn sending_more_than_is_queued_panics() {
    let mut pool = Pool::new(0);
    let mut output = Output::default();
    output.push(b"abc", &mut pool);
    output.advance(4, &mut pool);
}

#[test]
fn the_pool_knows_what_all_queues_have() {
    let mut pool = Pool::new(usize::MAX);
    let mut outputs = [Output::default(), Output::default()];
    let payload = Bytes::from(vec![7; 10_000]);
    for output in &mut outputs {
        output.push(b"own", &mut pool);
        output.push_shared(payload.clone(), &mut pool);
    }
    assert_eq!(pool.memory(), 2 * (CLASS_MIN + 10_000), "a payload counts in each queue");
    outputs[0].advance(3 + 5000, &mut pool);
    assert_eq!(pool.memory(), 2 * (CLASS_MIN + 10_000), "a payload is kept whole until it is sent");
    outputs[0].push_front(b"first", &mut pool);
    outputs[0].truncate(5 + 100, &mut pool);
    assert_eq!(pool.memory(), 2 * CLASS_MIN + 10_000 + 100);
    outputs.iter_mut().for_each(|output| _ = output.clear(&mut pool));
    assert_eq!(pool.memory(), pool.retained_bytes());
    pool.trim(0);
    assert_eq!(pool.memory(), 0);
}

/// In a short queue a few bytes take a block, which later bytes fill. In a long queue a few bytes are joined,
/// up to half a block. At each boundary another layout would take 4 KiB for one byte.
#[test]
fn few_bytes_take_a_block_in_a_short_queue_and_are_joined_in_a_long_one() {
    let mut pool = Pool::new(0);
    for chunks in [QUEUE_KEPT - 1, QUEUE_KEPT] {
        let mut output = Output::default();
        for _ in 0..chunks {
            output.push_shared(Bytes::from_static(&[0; LARGE]), &mut pool);
        }
        output.push(&[1; SMALL_MAX - 1], &mut pool);
        assert_eq!(output.memory() > 0, chunks < QUEUE_KEPT, "behind {chunks} chunks");
        output.push(b"2", &mut pool);
        assert_eq!(output.chunks.len(), chunks + 1, "the next byte joins them");
        output.push(b"3", &mut pool);
        assert_eq!(output.memory(), CLASS_MIN, "and the one after takes a block");
        output.clear(&mut pool);
    }
    assert_eq!(pool.memory(), 0);
}

/// The list of a long queue is counted to the byte, from the message with which it grows. With a million
/// queues, bytes that are not counted add up to much memory that no budget sees.
#[test]
fn a_list_counts_whole_from_the_chunk_on_with_which_it_grows() {
    let mut pool = Pool::new(0);
    let mut output = Output::default();
    for n in 1..100 {
        output.push_shared(Bytes::from_static(&[0; LARGE]), &mut pool);
        let room = output.chunks.capacity();
        let list = if room > QUEUE_KEPT { room * size_of::<Chunk>() } else { 0 };
        assert_eq!(pool.memory(), n * LARGE + list, "after {n}");
    }
    output.clear(&mut pool);
    assert_eq!(pool.memory(), 0);
}

/// A byte between two references took a block of 4 KiB for itself. The list and the boxes of messages and
/// files were not counted: 1 MiB of one-byte messages was counted as 1 MiB, and took 128 MiB.
#[test]
fn what_a_queue_takes_is_counted_and_in_proportion_to_what_it_holds() {
    let file = file_of(&[7; 1000]);
    type Push<'a> = &'a dyn Fn(&mut Output, &mut Pool);
    let tiny: Push<'_> = &|output, pool| output.push(b"1", pool);
    let shared: Push<'_> = &|output, pool| output.push_shared(Bytes::from(vec![0; LARGE]), pool);
    let loose: Push<'_> = &|output, pool| output.push_message(vec![1].into(), None, pool);
    let keyed: Push<'_> = &|output, pool| output.push_message(vec![1].into(), Some(7), pool);
    let range: Push<'_> =
        &|output, pool| output.push_file(FileRange::new(file.clone(), 0, 1), pool);
    let empty: Push<'_> = &|output, pool| {
        output.push_frame(&LengthPrefix::u8(9), Bytes::new(), pool).unwrap();
    };
    let framed: Push<'_> = &|output, pool| {
        output.push_frame(&LengthPrefix::u32_be(999), Bytes::from(vec![0; LARGE]), pool).unwrap();
    };
    // And how many bytes one of each round may take at most: what malloc(3) rounds to and the list's
    // growth included.
    let short: Push<'_> = &|output, pool| output.push(&[0; 100], pool);
    let rounds: [(&[Push<'_>], usize); 13] = [
        (&[tiny], 3),
        (&[empty], 3),
        (&[shared], 64 + 240),
        (&[framed], 2 * 64 + 240),
        (&[loose], 64 + 32),
        (&[keyed], 64 + 64 + 32 + PAYLOAD),
        (&[range], 64 + 48),
        (&[tiny, shared], 2 * 64 + 32 + 240),
        (&[tiny, tiny, shared], 2 * 64 + 32 + 240),
        (&[short, short, tiny, framed], 3 * 64 + 224 + 240),
        (&[loose, short, empty], 3 * 64 + 32 + 112),
        (&[tiny, loose], 2 * 64 + 2 * 32),
        (&[tiny, range, empty], 3 * 64 + 2 * 48),
    ];
    for (n, (pushes, most)) in rounds.into_iter().enumerate() {
        let mut pool = Pool::new(0);
        pool.count_payloads_once();
        let mut output = Output::default();
        for _ in 0..10_000 {
            pushes.iter().for_each(|push| push(&mut output, &mut pool));
        }
        let taken = pool.memory();
        assert!(taken <= 10_000 * most + CLASS_MIN, "{n}: {} bytes a round", taken / 10_000);
        let list = output.chunks.capacity().saturating_sub(QUEUE_KEPT) * size_of::<Chunk>();
        let listed = list + output.memory();
        assert!(taken >= listed.max(output.len() - output.in_files()), "{n}: {taken} are too few");
        output.advance(1, &mut pool);
        output.truncate(output.len() / 2, &mut pool);
        output.push_front(b"first", &mut pool);
        assert!(output.bookkeeping() > 0 || output.chunks.len() < 20);
        output.clear(&mut pool);
        assert_eq!(pool.memory(), 0, "{n}: nothing is counted that is gone");
    }
}

const PAYLOAD: usize = 96;

/// A payload queued for a hundred slow readers was counted a hundred times.
#[test]
fn a_payload_counts_once_however_many_queues_have_it() {
    let mut pool = Pool::new(0);
    pool.count_payloads_once();
    let payload = Bytes::from(vec![7; 2000]);
    let mut outputs: Vec<_> = (0..100).map(|_| Output::default()).collect();
    for (n, output) in outputs.iter_mut().enumerate() {
        match n % 3 {
            0 => output.push_shared(payload.clone(), &mut pool),
            1 => output.push_message(payload.clone(), None, &mut pool),
            _ => output.push_message(payload.clone(), Some(1), &mut pool),
        }
    }
    let boxes = 66 * 64;
    assert!((2000..2200 + boxes).contains(&pool.memory()), "{} bytes", pool.memory());
    assert_eq!(pool.cost_of(&payload), 0);
    // Some are cut, some begun, some dropped or replaced; and the last one takes it along.
    outputs[0].truncate(1000, &mut pool);
    outputs[3].advance(500, &mut pool);
    outputs[3].push_front(b"first", &mut pool);
    assert!(outputs[1].drop_messages(1, &mut pool, |_| ()));
    let new = Bytes::from(vec![8; 3000]);
    assert!(matches!(outputs[2].replace_message(1, new, 9999, &mut pool), Replaced::Old(_)));
    for output in &mut outputs {
        assert!(pool.memory() > 0);
        output.clear(&mut pool);
    }
    assert_eq!(pool.memory(), 0);
}

#[test]
fn messages_are_shed_from_the_oldest_until_little_enough_is_left() {
    let mut pool = Pool::new(0);
    pool.count_payloads_once();
    let mut output = Output::default();
    output.push(b"own", &mut pool);
    for n in 0..10_u8 {
        output.push_message(vec![n; 1000].into(), None, &mut pool);
        output.push_message(vec![n; 10].into(), Some(n.into()), &mut pool);
    }
    output.advance(3 + 500, &mut pool); // the first has begun
    let before = pool.memory();
    let mut dropped = Vec::new();
    output.shed_messages(before - 2500, &mut pool, |waiting| dropped.push(waiting));
    assert!(pool.memory() <= before - 2500);
    let third = [510, 520].map(|before| Waiting { before, len: 1000 });
    assert_eq!(dropped[..2], third);
    let (is_enough, so_far) = (pool.memory(), dropped.len());
    output.shed_messages(is_enough, &mut pool, |waiting| dropped.push(waiting));
    assert_eq!(dropped.len(), so_far, "no message goes for nothing");
    output.shed_messages(0, &mut pool, |waiting| dropped.push(waiting));
    assert_eq!((dropped.len(), output.len()), (9, 500 + 10 * 10), "no other goes");
    output.clear(&mut pool);
    assert_eq!(pool.memory(), 0);
}

/// A file of these bytes, without a name.
fn file_of(bytes: &[u8]) -> std::sync::Arc<File> {
    use std::io::Write;
    let path = std::env::temp_dir().join(format!(
        "output-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file.write_all(bytes).unwrap();
    file.into()
}

/// Like `drain`, but also reads the bytes in files.
fn drain_with_files(output: &mut Output, pool: &mut Pool, budget: usize) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let mut sent = Vec::new();
    while !output.is_empty() {
        if let Some((file, at, left)) = output.next_file() {
            let mut block = vec![0; left.min(budget)];
            file.read_exact_at(&mut block, at).unwrap();
            output.advance(block.len(), pool);
            sent.extend(block);
            continue;
        }
        let mut into = [IoSlice::new(&[]); 4];
        let (filled, bytes) = output.slices(&mut into, budget);
        assert!(filled > 0, "neither bytes nor a file");
        sent.extend(into[..filled].iter().flat_map(|slice| slice.iter()));
        output.advance(bytes, pool);
    }
    assert_eq!(output.in_files(), 0);
    sent
}

#[test]
fn files_keep_their_place_among_bytes() {
    let bytes: Vec<u8> = (0..=255).cycle().take(3000).collect();
    let file = file_of(&bytes);
    for budget in [1, 7, 1000, usize::MAX] {
        let mut pool = Pool::new(usize::MAX);
        let mut output = Output::default();
        output.push(b"head", &mut pool);
        output.push_file(FileRange::new(file.clone(), 0, 3000), &mut pool);
        output.push_file(FileRange::new(file.clone(), 5, 0), &mut pool); // nothing
        output.push(b"between", &mut pool);
        output.push_file(FileRange::new(file.clone(), 2990, 10), &mut pool);
        assert_eq!((output.len(), output.in_files()), (4 + 3000 + 7 + 10, 3010));
        let sent = drain_with_files(&mut output, &mut pool, budget);
        assert!(sent == [b"head", &bytes[..], b"between", &bytes[2990..]].concat());
    }
}

#[test]
fn files_are_cut_and_dropped_like_bytes() {
    let file = file_of(&[7; 1000]);
    let mut pool = Pool::new(usize::MAX);
    let mut output = Output::default();
    output.push_file(FileRange::new(file.clone(), 0, 1000), &mut pool);
    output.advance(300, &mut pool);
    output.push_file(FileRange::new(file.clone(), 0, 1000), &mut pool);
    output.push(b"tail", &mut pool);
    output.truncate(900, &mut pool);
    assert_eq!((output.len(), output.in_files()), (900, 900));
    // Bytes put in front of a half-sent file come before the rest of the file.
    output.push_front(b"first", &mut pool);
    let sent = drain_with_files(&mut output, &mut pool, 64);
    assert!(sent == [b"first", &[7; 900][..]].concat());
    output.push_file(FileRange::new(file, 0, 1000), &mut pool);
    assert_eq!(output.clear(&mut pool), 1000);
    assert_eq!((output.len(), output.in_files()), (0, 0));
}

/// The length of a range was not checked. With a head before it the sum wrapped, and then more bytes of the
/// head were sent than were queued.
#[test]
fn the_sum_of_stretches_does_not_wrap() {
    let file = file_of(b"short");
    let mut pool = Pool::new(usize::MAX);
    let mut output = Output::default();
    output.push(b"HTTP/1.1 200 OK\r\n\r\n", &mut pool);
    for len in [usize::MAX, usize::MAX - 18, 1 << 63] {
        assert!(!output.has_room_for_file(&FileRange::new(file.clone(), 0, len)));
    }
    let longest = FileRange::new(file.clone(), 0, isize::MAX as usize);
    assert!(output.has_room_for_file(&longest));
    output.push_file(longest.clone(), &mut pool);
    assert!(!output.has_room_for_file(&longest), "they are as many as can be");
    assert!(!output.has_room_for_file(&FileRange::new(file, 0, 1)));
    output.push(b"behind", &mut pool);
    assert_eq!(output.len(), 19 + isize::MAX as usize + 6);
    output.advance(19, &mut pool);
    assert_eq!(output.clear(&mut pool), isize::MAX as usize + 6);
    assert_eq!(output.in_files(), 0);
}

/// A payload whose owner panics when it is dropped.
struct Bomb(Vec<u8>);

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("on purpose"));
    }
}

/// The panic of a payload's owner interrupted the queue in its work: bytes that the queue counted as unsent
/// were not there any more.
#[test]
fn a_payload_that_panics_when_it_is_dropped_leaves_the_queue_whole() {
    let bomb = |len: usize| Bytes::from_owner(Bomb(vec![b'!'; len]));
    type Drops = fn(&mut Output, &mut Pool);
    let ways: [(usize, Option<Option<u64>>, Drops); 6] = [
        (LARGE, None, |output, pool| output.advance(LARGE, pool)),
        (LARGE, None, |output, pool| output.truncate(0, pool)),
        (LARGE, Some(None), |output, pool| output.advance(LARGE, pool)),
        (LARGE, Some(None), |output, pool| assert!(output.drop_messages(1, pool, |_| ()))),
        (LARGE, Some(Some(7)), |output, pool| {
            let new = Bytes::from_static(&[0; LARGE]);
            assert!(matches!(output.replace_message(7, new, 1000, pool), Replaced::Old(_)));
            output.advance(LARGE, pool);
        }),
        // Copied into the room of a block, and dropped at once.
        (3, None, |output, pool| output.truncate(0, pool)),
    ];
    for (n, (len, key, drops)) in ways.into_iter().enumerate() {
        let mut pool = Pool::new(usize::MAX);
        let mut output = Output::default();
        if len == 3 {
            output.push(b"own", &mut pool);
        }
        match key {
            None => output.push_shared(bomb(len), &mut pool),
            Some(key) => output.push_message(bomb(len), key, &mut pool),
        }
        drops(&mut output, &mut pool);
        assert_eq!((output.len(), output.chunks.len()), (0, 0), "way {n}");
        assert!(pool.has_panicked() && pool.take_panics() == 1 && !pool.has_panicked(), "way {n}");
        output.push(b"goes on", &mut pool);
        assert_eq!(drain(&mut output, &mut pool, 8, usize::MAX).0, b"goes on", "way {n}");
        pool.trim(0);
        assert_eq!(pool.memory(), 0, "way {n}");
    }
}
