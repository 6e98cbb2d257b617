//! Random use of the queue and of the input, held against something obviously right.

use std::io::IoSlice;

use net_buffer::{
    Bytes, FrameError, Input, InputFull, LengthPrefix, Order, Output, Pool, Unread, Width,
    class_for,
};
use proptest::collection::vec;
use proptest::prelude::*;

// ── Output against a plain vector ──

/// One thing done to an output. Lengths below are taken modulo what is queued.
#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    PushShared(usize),
    PushFront(usize),
    /// Gather into so many slices with such a budget, then send so much of what was gathered.
    Send {
        slices: usize,
        budget: usize,
        sent: usize,
    },
    Truncate(usize),
    Clear,
}

/// Lengths around nothing, around the bounds for copies and blocks, and of several blocks.
fn a_length() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..300_usize, 2 => 4000..4200_usize, 1 => 65_000..140_000_usize]
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => a_length().prop_map(Step::Push),
        4 => a_length().prop_map(Step::PushShared),
        1 => a_length().prop_map(Step::PushFront),
        4 => (0..6_usize, a_length(), any::<usize>())
            .prop_map(|(slices, budget, sent)| Step::Send { slices, budget, sent }),
        1 => any::<usize>().prop_map(Step::Truncate),
        1 => Just(Step::Clear),
    ]
}

/// What `output` would send, as one vector.
fn gather(output: &Output, slices: usize, budget: usize) -> Vec<u8> {
    let mut into = vec![IoSlice::new(&[]); slices];
    let (filled, bytes) = output.slices(&mut into, budget);
    assert!(into[..filled].iter().all(|slice| !slice.is_empty()), "no slice is empty");
    let gathered: Vec<u8> = into[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
    assert_eq!(gathered.len(), bytes);
    gathered
}

proptest! {
    #[test]
    fn output_sends_what_a_vector_would(steps in vec(a_step(), 1..60)) {
        let mut pool = Pool::new(usize::MAX);
        let mut output = Output::default();
        let mut model = Vec::new();
        let mut memory_seen = 0;
        // A sequence without a short period, so that bytes in a wrong place show.
        let mut sequence = (0_u32..).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8);
        let mut fresh = |len| sequence.by_ref().take(len).collect::<Vec<u8>>();

        for step in steps {
            match step {
                Step::Push(len) => {
                    let bytes = fresh(len);
                    output.push(&bytes, &mut pool);
                    model.extend(bytes);
                }
                Step::PushShared(len) => {
                    let bytes = fresh(len);
                    output.push_shared(Bytes::copy_from_slice(&bytes), &mut pool);
                    model.extend(bytes);
                }
                Step::PushFront(len) => {
                    let bytes = fresh(len);
                    output.push_front(&bytes, &mut pool);
                    model.splice(..0, bytes);
                }
                Step::Send { slices, budget, sent } => {
                    let gathered = gather(&output, slices, budget);
                    prop_assert!(gathered.len() <= budget);
                    prop_assert!(model.starts_with(&gathered));
                    let nothing_to_do = model.is_empty() || slices == 0 || budget == 0;
                    prop_assert_eq!(gathered.is_empty(), nothing_to_do);
                    let sent = sent % (gathered.len() + 1);
                    output.advance(sent, &mut pool);
                    model.drain(..sent);
                }
                Step::Truncate(len) => {
                    let len = len % (model.len() + 2); // now and then one more than there is
                    output.truncate(len, &mut pool);
                    model.truncate(len);
                }
                Step::Clear => {
                    prop_assert_eq!(output.clear(&mut pool), model.len());
                    model.clear();
                }
            }
            prop_assert_eq!(output.len(), model.len());
            prop_assert_eq!(output.is_empty(), model.is_empty());
            prop_assert!(gather(&output, 4096, usize::MAX) == model);
            // This pool keeps all, so a block that is in neither place was lost.
            let memory = output.memory() + pool.retained_bytes();
            prop_assert!(memory >= memory_seen, "{} bytes went missing", memory_seen - memory);
            memory_seen = memory;
        }
        output.clear(&mut pool);
        prop_assert_eq!((output.memory(), pool.retained_bytes()), (0, memory_seen));
    }
}

// ── Input in random cuts against the whole at once ──

/// A connection's side of the input, as a loop would keep it.
struct Reader {
    kept: Option<Unread>,
    pool: Pool,
    max: usize,
}

impl Reader {
    fn new(max: usize) -> Self {
        Self { kept: None, pool: Pool::new(usize::MAX), max }
    }

    fn deliver(
        &mut self,
        arrived: &[u8],
        callback: impl FnOnce(&mut Input<'_>),
    ) -> Result<(), InputFull> {
        let mut unread = match self.kept.take() {
            Some(mut unread) => {
                unread.append(arrived, &mut self.pool, self.max)?;
                unread
            }
            None => Unread::keep(arrived, &mut self.pool, self.max)?,
        };
        let mut input = Input::new(unread.as_slice());
        callback(&mut input);
        assert_eq!(input.taken() + input.len(), unread.len());
        let taken = input.taken();
        unread.consume(taken);
        unread.shrink(&mut self.pool);
        assert!(unread.memory() <= class_for(8 * unread.len()));
        match unread.is_empty() {
            true => unread.release(&mut self.pool),
            false => self.kept = Some(unread),
        }
        Ok(())
    }

    fn unread(&self) -> &[u8] {
        self.kept.as_ref().map_or(&[], Unread::as_slice)
    }
}

/// Cuts `bytes` into pieces of the given lengths, again and again.
fn pieces<'b>(mut bytes: &'b [u8], cuts: &'b [usize]) -> impl Iterator<Item = &'b [u8]> {
    cuts.iter().cycle().map_while(move |&cut| {
        let (piece, rest) = bytes.split_at(cut.min(bytes.len()));
        bytes = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

fn some_cuts() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![3 => 1..8_usize, 2 => 1..2000_usize, 1 => 10_000..80_000_usize], 1..20)
}

/// Few kinds of bytes, so that line ends in all their forms are frequent; now and then a long line.
fn some_text() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        8 => vec(prop::sample::select(&b"ab\r\n"[..]), 0..200),
        1 => (1..60_000_usize).prop_map(|len| vec![b'x'; len]),
    ];
    vec(part, 0..8).prop_map(|parts| parts.concat())
}

fn a_shape() -> impl Strategy<Value = LengthPrefix> {
    let width = prop::sample::select(&[Width::U8, Width::U16, Width::U32, Width::U64][..]);
    let order = prop::sample::select(&[Order::Big, Order::Little][..]);
    (width, order, 0..40_000_usize, any::<bool>()).prop_map(|(width, order, max, counts_itself)| {
        LengthPrefix { width, order, max, counts_itself }
    })
}

/// All frames of `input`, added to `frames`, until more bytes are needed or it fails.
fn take_frames(
    input: &mut Input<'_>,
    shape: &LengthPrefix,
    frames: &mut Vec<Vec<u8>>,
) -> Result<(), FrameError> {
    while let Some(frame) = input.take_frame(shape)? {
        frames.push(frame.to_vec());
    }
    Ok(())
}

proptest! {
    #[test]
    fn lines_do_not_depend_on_the_cuts(text in some_text(), cuts in some_cuts()) {
        let mut reader = Reader::new(text.len().max(1));
        let mut lines = Vec::new();
        for piece in pieces(&text, &cuts) {
            reader.deliver(piece, |input| {
                while let Some(line) = input.take_line() {
                    lines.push(line.to_vec());
                }
            })?;
        }
        let mut expected: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
        let unfinished = expected.pop().expect("a split has at least one part");
        for line in &mut expected {
            *line = line.strip_suffix(b"\r").unwrap_or(line);
        }
        prop_assert!(lines == expected);
        prop_assert!(reader.unread() == unfinished);
    }

    #[test]
    fn frames_do_not_depend_on_the_cuts(
        shape in a_shape(),
        lengths in vec(prop_oneof![0..300_usize, 0..45_000_usize], 0..12),
        rubbish in vec(any::<u8>(), 0..40),
        cuts in some_cuts(),
    ) {
        let mut stream = Vec::new();
        let mut sent = Vec::new();
        for (i, len) in lengths.into_iter().enumerate() {
            let payload = vec![i as u8; len];
            if let Ok((header, width)) = shape.encode_header(payload.len()) {
                stream.extend_from_slice(&header[..width]);
                stream.extend_from_slice(&payload);
                sent.push(payload);
            }
        }
        stream.extend_from_slice(&rubbish);

        let mut whole = Input::new(&stream);
        let mut at_once = Vec::new();
        let end_at_once = take_frames(&mut whole, &shape, &mut at_once);
        prop_assert!(at_once.starts_with(&sent));

        let mut reader = Reader::new(shape.max + 8 + cuts.iter().max().expect("there is a cut"));
        let mut in_pieces = Vec::new();
        let mut end = Ok(());
        for piece in pieces(&stream, &cuts) {
            reader.deliver(piece, |input| end = take_frames(input, &shape, &mut in_pieces))?;
            if end.is_err() {
                break;
            }
        }
        prop_assert!(in_pieces == at_once);
        prop_assert_eq!(end, end_at_once);
        if end.is_ok() {
            prop_assert!(reader.unread() == whole.peek());
        }
    }

    #[test]
    fn an_endless_line_ends_at_the_limit(max in 1..20_000_usize, piece in 1..3000_usize) {
        let mut reader = Reader::new(max);
        let arrived = vec![b'x'; piece];
        let mut fitted = 0;
        while reader.deliver(&arrived, |input| assert_eq!(input.take_line(), None)) == Ok(()) {
            fitted += piece;
            prop_assert_eq!(reader.unread().len(), fitted);
        }
        prop_assert_eq!(fitted, max / piece * piece, "all that fits is taken, and nothing above");
        prop_assert!(reader.pool.retained_bytes() <= 2 * class_for(max), "memory follows the bytes");
    }
}
