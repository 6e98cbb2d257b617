//! Frames out of generated streams: the same however a stream is cut, never longer than allowed, and what
//! is written is read.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

#[path = "../../net-core/tests/fuzzing/mod.rs"]
mod fuzzing;

use fuzzing::{Random, fuzz};
use net_buffer::{
    ByteOrder, Delimiter, Fixed, FrameError, Framing, Input, LengthPrefix, Lines, PrefixWidth,
    Searched,
};

/// Everything that `next` takes out of `pieces`, how it ended, and how much is left. (How long a frame is
/// that is too long is what has come of it by then.)
fn frames(
    pieces: &[&[u8]],
    mut next: impl FnMut(&mut Input<'_>) -> Result<Option<Vec<u8>>, FrameError>,
) -> (Vec<Vec<u8>>, Option<FrameError>, usize) {
    let (mut frames, mut kept) = (Vec::new(), Vec::new());
    for piece in pieces {
        kept.extend_from_slice(piece);
        let mut input = Input::new(&kept);
        loop {
            match next(&mut input) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error), 0),
            }
        }
        let taken = input.taken();
        kept.drain(..taken);
    }
    (frames, None, kept.len())
}

/// The next frame of a shape.
fn taken(input: &mut Input<'_>, shape: impl Framing) -> Result<Option<Vec<u8>>, FrameError> {
    Ok(input.take_frame(shape)?.map(<[u8]>::to_vec))
}

const WORDS: &[&[u8]] = &[
    b"\n",
    b"\r\n",
    b"\r",
    b"a",
    b"line",
    b"\0",
    b"\r\n\r\n",
    b"--",
    b"-",
    b"\0\0\0\x03abc",
    b"\xff",
];

fn stream(random: &mut Random) -> Vec<u8> {
    let mut bytes = match random.below(3) {
        0 => random.bytes(300),
        _ => random.sentence(WORDS, 60),
    };
    random.mutate(&mut bytes, WORDS);
    bytes
}

#[test]
fn generated_frames_are_the_same_however_the_stream_is_cut() {
    fuzz(|random| {
        let bytes = stream(random);
        let pieces = random.pieces(&bytes);
        let max = random.pick(&[1, 3, 16, 1000]);

        let lines = |pieces: &[&[u8]]| {
            let mut searched = Searched::default();
            frames(pieces, |input| taken(input, Lines::new(max).after(&mut searched)))
        };
        let (cut, whole) = (lines(&pieces), lines(&[&bytes]));
        assert_eq!(
            (&cut.0, cut.1.is_some()),
            (&whole.0, whole.1.is_some()),
            "{}",
            bytes.escape_ascii()
        );
        assert!(cut.0.iter().all(|line| line.len() <= max && !line.contains(&b'\n')));

        let end = random.pick(&[&b"\r\n\r\n"[..], b"\n", b"--", b"\0"]);
        let shape = Delimiter::new(end, max);
        let delimited = |pieces: &[&[u8]]| {
            let mut searched = Searched::default();
            frames(pieces, |input| taken(input, shape.after(&mut searched)))
        };
        let (cut, whole) = (delimited(&pieces), delimited(&[&bytes]));
        assert_eq!(
            (&cut.0, cut.1.is_some()),
            (&whole.0, whole.1.is_some()),
            "{} by {}",
            bytes.escape_ascii(),
            end.escape_ascii()
        );
        assert!(cut.0.iter().all(|frame| frame.len() <= max));

        let width =
            random.pick(&[PrefixWidth::U8, PrefixWidth::U16, PrefixWidth::U32, PrefixWidth::U64]);
        let order = random.pick(&[ByteOrder::Big, ByteOrder::Little]);
        let mut shape = LengthPrefix::new(width, order, max);
        if random.one_in(2) {
            shape = shape.counting_itself();
        }
        let prefixed = |pieces: &[&[u8]]| frames(pieces, |input| taken(input, &shape));
        let (cut, whole) = (prefixed(&pieces), prefixed(&[&bytes]));
        assert_eq!(
            (&cut.0, cut.1.is_some()),
            (&whole.0, whole.1.is_some()),
            "{shape:?} {}",
            bytes.escape_ascii()
        );
        assert!(cut.0.iter().all(|frame| frame.len() <= max));

        let fixed = |pieces: &[&[u8]]| frames(pieces, |input| taken(input, Fixed::new(max)));
        let (cut, whole) = (fixed(&pieces), fixed(&[&bytes]));
        assert_eq!(cut, whole, "there is no error here");
    });
}

#[test]
fn generated_payloads_are_read_as_they_were_written() {
    fuzz(|random| {
        let width =
            random.pick(&[PrefixWidth::U8, PrefixWidth::U16, PrefixWidth::U32, PrefixWidth::U64]);
        let order = random.pick(&[ByteOrder::Big, ByteOrder::Little]);
        let mut shape = LengthPrefix::new(width, order, 200);
        if random.one_in(2) {
            shape = shape.counting_itself();
        }
        let payloads: Vec<Vec<u8>> = (0..random.below(5)).map(|_| random.bytes(250)).collect();
        let (mut bytes, mut written) = (Vec::new(), Vec::new());
        for payload in payloads {
            match shape.encode_header(payload.len()) {
                Ok((prefix, len)) => {
                    assert!(payload.len() <= 200);
                    bytes.extend_from_slice(&prefix[..len]);
                    bytes.extend_from_slice(&payload);
                    written.push(payload);
                }
                Err(_) => assert!(payload.len() > 200, "{}", payload.len()),
            }
        }
        let pieces = random.pieces(&bytes);
        assert_eq!(frames(&pieces, |input| taken(input, &shape)), (written, None, 0), "{shape:?}");
    });
}
