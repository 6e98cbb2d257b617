//! Random use of the queue and of the input, held against something obviously right.

#[path = "../../net-core/tests/fuzzing/mod.rs"]
#[allow(dead_code)] // what is generated here is proptest's
mod fuzzing;

use std::io::IoSlice;

use net_buffer::{
    ByteOrder, Bytes, Delimiter, Fixed, FrameError, Framing, Input, InputFull, LengthPrefix, Lines,
    Output, Pool, PrefixWidth, Searched, Unread, class_for,
};
use proptest::collection::vec;
use proptest::prelude::*;

// ── Output against a plain vector ──

/// One thing done to an output. Lengths below are taken modulo what is queued.
#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    PushShared(usize),
    /// With a prefix of four bytes.
    PushFrame(usize),
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
        2 => a_length().prop_map(Step::PushFrame),
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
                Step::PushFrame(len) => {
                    let shape = LengthPrefix::u32_be(len);
                    let bytes = fresh(len);
                    let pushed = output.push_frame(&shape, bytes.clone().into(), &mut pool);
                    prop_assert_eq!(pushed, Ok(()));
                    model.extend(u32::try_from(len).expect("a small frame").to_be_bytes());
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
            // Of what is queued, only the prefixes of frames are in neither a block nor a payload.
            prop_assert!(pool.memory() + 8 * 60 >= memory.max(output.len() + pool.retained_bytes()));
        }
        output.clear(&mut pool);
        prop_assert_eq!((output.memory(), pool.retained_bytes()), (0, memory_seen));
        prop_assert_eq!(pool.memory(), memory_seen, "nothing is counted that is not there");
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
    let width = prop::sample::select(
        &[PrefixWidth::U8, PrefixWidth::U16, PrefixWidth::U32, PrefixWidth::U64][..],
    );
    let order = prop::sample::select(&[ByteOrder::Big, ByteOrder::Little][..]);
    (width, order, 0..40_000_usize, any::<bool>()).prop_map(|(width, order, max, counts_itself)| {
        LengthPrefix { width, order, max, counts_itself }
    })
}

/// All frames of `input`, added to `frames`, until more bytes are needed or it fails.
fn take_frames<F: Framing>(
    input: &mut Input<'_>,
    mut shape: impl FnMut() -> F,
    frames: &mut Vec<Vec<u8>>,
) -> Result<(), FrameError> {
    while let Some(frame) = input.take_frame(shape())? {
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
        let end_at_once = take_frames(&mut whole, || &shape, &mut at_once);
        prop_assert!(at_once.starts_with(&sent));

        let mut reader = Reader::new(shape.max + 8 + cuts.iter().max().expect("there is a cut"));
        let mut in_pieces = Vec::new();
        let mut end = Ok(());
        for piece in pieces(&stream, &cuts) {
            reader.deliver(piece, |input| end = take_frames(input, || &shape, &mut in_pieces))?;
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

// ── Delimited and fixed frames against a search without memory ──

/// Bytes that make almost-delimiters likely: of few kinds.
fn some_letters(lengths: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    vec(prop::sample::select(&b"aab\r\n"[..]), lengths)
}

/// What a stream holds: its frames, whether it then breaks off as too long, and how much is left if
/// it does not.
type Parsed = (Vec<Vec<u8>>, bool, usize);

/// The obvious way to cut `text` at `delimiter`, with frames of at most `max` bytes.
fn cut_at(text: &[u8], delimiter: &[u8], max: usize) -> Parsed {
    let (mut rest, mut frames) = (text, Vec::new());
    loop {
        match rest.windows(delimiter.len()).position(|window| window == delimiter) {
            Some(at) if at <= max => {
                frames.push(rest[..at].to_vec());
                rest = &rest[at + delimiter.len()..];
            }
            Some(_) => return (frames, true, 0),
            None => {
                let begins = |n: &usize| rest.ends_with(&delimiter[..*n]);
                let begun = (0..delimiter.len()).rev().find(begins).expect("nothing always fits");
                let is_broken = rest.len() - begun > max;
                return (frames, is_broken, if is_broken { 0 } else { rest.len() });
            }
        }
    }
}

/// The same for lines.
fn cut_into_lines(text: &[u8], max: usize) -> Parsed {
    let (mut rest, mut frames) = (text, Vec::new());
    loop {
        let newline = rest.iter().position(|&byte| byte == b'\n');
        let line = &rest[..newline.unwrap_or(rest.len())];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match newline {
            _ if line.len() > max => return (frames, true, 0),
            None => return (frames, false, rest.len()),
            Some(newline) => {
                frames.push(line.to_vec());
                rest = &rest[newline + 1..];
            }
        }
    }
}

/// Reads `text` in `cuts`, with the shape that `after` makes of how far it has searched.
fn parse(
    text: &[u8],
    cuts: &[usize],
    mut read: impl FnMut(&mut Input<'_>, &mut Searched, &mut Vec<Vec<u8>>) -> Result<(), FrameError>,
) -> Parsed {
    let mut reader = Reader::new(text.len() + 1);
    let (mut frames, mut searched) = (Vec::new(), Searched::default());
    for piece in pieces(text, cuts) {
        let mut end = Ok(());
        reader
            .deliver(piece, |input| end = read(input, &mut searched, &mut frames))
            .expect("the reader's limit is above the text");
        if let Err(error) = end {
            let is_endless = matches!(error, FrameError::Endless { length, max } if length > max);
            assert!(is_endless, "{error}");
            return (frames, true, 0);
        }
    }
    (frames, false, reader.unread().len())
}

proptest! {
    #[test]
    fn delimited_frames_are_those_of_a_search_without_memory(
        text in some_letters(0..400),
        delimiter in some_letters(1..8),
        max in prop_oneof![0..12_usize, 0..200_usize],
        cuts in some_cuts(),
        by_bytes in any::<bool>(),
    ) {
        let shape = Delimiter::new(&delimiter, max);
        let cuts = if by_bytes { vec![1] } else { cuts };
        let (frames, is_broken, left) = parse(&text, &cuts, |input, searched, frames| {
            while let Some(frame) = input.take_frame(shape.after(searched))? {
                frames.push(frame.to_vec());
            }
            Ok(())
        });
        prop_assert_eq!((frames, is_broken, left), cut_at(&text, &delimiter, max));
    }

    #[test]
    fn bounded_lines_are_those_of_a_search_without_memory(
        text in some_letters(0..400),
        max in prop_oneof![0..5_usize, 0..40_usize],
        cuts in some_cuts(),
        by_bytes in any::<bool>(),
    ) {
        let cuts = if by_bytes { vec![1] } else { cuts };
        let (frames, is_broken, left) = parse(&text, &cuts, |input, searched, frames| {
            while let Some(line) = input.take_frame(Lines::new(max).after(searched))? {
                frames.push(line.to_vec());
            }
            Ok(())
        });
        prop_assert_eq!((frames, is_broken, left), cut_into_lines(&text, max));
    }

    #[test]
    fn fixed_frames_are_the_chunks_of_the_whole(
        text in some_text(),
        size in 1..3000_usize,
        cuts in some_cuts(),
    ) {
        let mut reader = Reader::new(text.len() + 1);
        let mut frames = Vec::new();
        for piece in pieces(&text, &cuts) {
            let mut end = Ok(());
            reader.deliver(piece, |input| end = take_frames(input, || Fixed::new(size), &mut frames))?;
            prop_assert_eq!(end, Ok(()));
        }
        let whole = text.chunks_exact(size);
        prop_assert!(reader.unread() == whole.remainder());
        prop_assert!(frames == whole.collect::<Vec<_>>());
    }
}

// ── The same for kept inputs ──

/// The first byte says how long a frame may be, the second which shape it has.
#[test]
fn kept_streams_are_cut_as_by_a_search_without_memory() {
    fuzzing::each_kept(include_str!("corpus/frames.txt"), |bytes| {
        let [max, kind, text @ ..] = bytes else { return };
        let (max, kind) = (usize::from(*max), usize::from(*kind));
        let delimiter = [&b"\r\n\r\n"[..], b"\n", b"--", b"aab", b"abab"][kind / 16 % 5];
        let width =
            [PrefixWidth::U8, PrefixWidth::U16, PrefixWidth::U32, PrefixWidth::U64][kind / 4 % 4];
        let order = [ByteOrder::Big, ByteOrder::Little][kind / 16 % 2];
        let mut prefix = LengthPrefix::new(width, order, max);
        prefix.counts_itself = kind / 32 % 2 == 1;
        let delimited = Delimiter::new(delimiter, max);
        let expected = match kind % 4 {
            0 => cut_into_lines(text, max),
            1 => cut_at(text, delimiter, max),
            2 => cut_by_prefix(text, &prefix),
            _ => {
                let whole = text.chunks_exact(max + 1);
                let left = whole.remainder().len();
                (whole.map(<[u8]>::to_vec).collect(), false, left)
            }
        };
        let whole = text.len().max(1);
        for size in (1..=whole.min(300)).chain([whole]) {
            let mut reader = Reader::new(text.len() + 1);
            let (mut frames, mut searched, mut is_broken) =
                (Vec::new(), Searched::default(), false);
            for piece in text.chunks(size) {
                let deliver = |input: &mut Input<'_>| {
                    while !is_broken {
                        let frame = match kind % 4 {
                            0 => input.take_frame(Lines::new(max).after(&mut searched)),
                            1 => input.take_frame(delimited.after(&mut searched)),
                            2 => input.take_frame(&prefix),
                            _ => input.take_frame(Fixed::new(max + 1)),
                        };
                        match frame {
                            Ok(Some(frame)) => frames.push(frame.to_vec()),
                            Ok(None) => return,
                            Err(_) => is_broken = true,
                        }
                    }
                };
                reader.deliver(piece, deliver).expect("the reader's limit is above the text");
                if is_broken {
                    break;
                }
            }
            let left = if is_broken { 0 } else { reader.unread().len() };
            assert_eq!((frames, is_broken, left), expected, "in pieces of {size}");
        }
    });
}

/// The obvious way to cut `text` where its numbers say.
fn cut_by_prefix(text: &[u8], shape: &LengthPrefix) -> Parsed {
    let (mut rest, mut frames) = (text, Vec::new());
    let width = shape.width.bytes();
    while rest.len() >= width {
        let mut number = rest[..width].to_vec();
        if shape.order == ByteOrder::Little {
            number.reverse();
        }
        let number = number.iter().fold(0_u128, |number, byte| number * 256 + u128::from(*byte));
        let own = if shape.counts_itself { width as u128 } else { 0 };
        if number < own || number - own > shape.max as u128 {
            return (frames, true, 0);
        }
        let Some(payload) = rest[width..].get(..(number - own) as usize) else { break };
        frames.push(payload.to_vec());
        rest = &rest[width + payload.len()..];
    }
    (frames, false, rest.len())
}
