//! Generated inputs for tests of what reads bytes from outside: seeded, and for as long as one likes.
//!
//! `FUZZ_SECONDS=600 cargo test generated_` looks for ten minutes at each target, from a seed by the clock;
//! `FUZZ_SEED=n` repeats the round that has failed. Without either, the same two seconds each time.

use std::env;
use std::time::{Duration, Instant, SystemTime};

/// How long one target takes in every run of the tests.
const USUAL: Duration = Duration::from_secs(2);
/// So many rounds at least, however slow the machine is.
const ROUNDS_MIN: u64 = 200;

/// Runs `round` with one seed after another, and says which of them has failed.
pub(crate) fn fuzz(mut round: impl FnMut(&mut Random)) {
    struct Seed(u64);
    impl Drop for Seed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("FUZZ_SEED={} repeats this", self.0);
            }
        }
    }
    let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("FUZZ_SEED") {
        let _seed = Seed(seed);
        return round(&mut Random::new(seed));
    }
    let seconds = number("FUZZ_SECONDS");
    let by_the_clock = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |past| past.as_nanos() as u64);
    let first = seconds.map_or(0, |_| by_the_clock);
    let until = Instant::now() + seconds.map_or(USUAL, Duration::from_secs);
    for n in 0.. {
        if n >= ROUNDS_MIN && Instant::now() >= until {
            return;
        }
        let seed = Seed(first.wrapping_add(n));
        round(&mut Random::new(seed.0));
    }
}

/// Holds `property` against each line of `kept`, an input as [`escape_ascii`](slice::escape_ascii) writes
/// it, and says which of them has failed. With `FUZZ_INPUT=path` the bytes of that file are the only input,
/// as a fuzzer asks that looks for more of them.
#[allow(dead_code)] // not every crate that shares this file keeps inputs
pub(crate) fn each_kept(kept: &str, property: impl Fn(&[u8])) {
    struct Line<'a>(usize, &'a str);
    impl Drop for Line<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("kept input {}: {}", self.0, self.1);
            }
        }
    }
    if let Some(path) = env::var_os("FUZZ_INPUT") {
        return property(&std::fs::read(path).expect("the file of FUZZ_INPUT can be read"));
    }
    assert!(!kept.is_empty(), "no input is kept");
    for (n, text) in kept.lines().enumerate() {
        let line = Line(n + 1, text);
        let input = unescaped(line.1);
        assert_eq!(input.escape_ascii().to_string(), text, "no other way to write it");
        property(&input);
    }
}

/// The bytes that `escape_ascii` has written so.
fn unescaped(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, others @ ..] = rest {
        let (byte, behind) = match (first, others) {
            (b'\\', [b'x', high, low, behind @ ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16).expect("a digit") as u8;
                (digit(*high) << 4 | digit(*low), behind)
            }
            (b'\\', [b't', behind @ ..]) => (b'\t', behind),
            (b'\\', [b'r', behind @ ..]) => (b'\r', behind),
            (b'\\', [b'n', behind @ ..]) => (b'\n', behind),
            (b'\\', [itself, behind @ ..]) => (*itself, behind),
            _ => (*first, others),
        };
        bytes.push(byte);
        rest = behind;
    }
    bytes
}

/// Where to cut so many bytes: at every place, or of very many at some, and around those.
#[allow(dead_code)] // as above
pub(crate) fn cuts(length: usize, around: &[usize]) -> impl Iterator<Item = usize> {
    let is_near = move |cut: usize| around.iter().any(|place| place.abs_diff(cut) < 3);
    let near: Vec<bool> = (0..=length).map(is_near).collect();
    (0..=length).filter(move |&cut| length <= 400 || cut % 97 == 0 || near[cut] || cut + 3 > length)
}

/// What follows a seed (SplitMix64).
pub(crate) struct Random(u64);

#[allow(dead_code)] // not every crate that shares this file uses all
impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = self.0;
        let x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ x >> 31
    }

    /// Below `n`, which is not zero.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.number() % n as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    pub(crate) fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.number() as u8).collect()
    }

    /// Some of `words` behind each other.
    pub(crate) fn sentence(&mut self, words: &[&[u8]], most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).flat_map(|_| self.pick(words).to_vec()).collect()
    }

    /// A little of `bytes` becomes something else: a byte, a word of the language, a piece twice or gone.
    pub(crate) fn mutate(&mut self, bytes: &mut Vec<u8>, words: &[&[u8]]) {
        for _ in 0..self.below(4) {
            let at = self.below(bytes.len() + 1);
            let end = bytes.len().min(at + self.below(6));
            match self.below(5) {
                0 if at < bytes.len() => bytes[at] = self.number() as u8,
                1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                2 => drop(bytes.splice(at..at, self.pick(words).iter().copied())),
                3 => drop(bytes.drain(at..end)),
                _ => {
                    let piece = bytes[at..end].to_vec();
                    drop(bytes.splice(at..at, piece));
                }
            }
        }
    }

    /// Cuts `bytes` into pieces, of which none is empty.
    pub(crate) fn pieces<'a>(&mut self, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let longest = self.pick(&[1, 2, 7, 100, 5000]);
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at((1 + self.below(longest)).min(bytes.len()));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }
}
