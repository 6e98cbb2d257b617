//! Choices and bytes that a seed decides.

/// A generator of choices (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The choices of this seed, and of the parts of a run by their numbers: the same each time.
    pub fn new(seed: u64, parts: &[u64]) -> Self {
        Self(parts.iter().fold(seed, |state, part| mix(state ^ mix(*part))))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number from `least` up to `most`, which is not below it.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.number() % (most - least + 1)
    }

    /// The same, as a size.
    pub fn size(&mut self, least: usize, most: usize) -> usize {
        self.between(least as u64, most as u64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.number().is_multiple_of(n)
    }

    /// One of them, of which there is at least one.
    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.size(0, of.len() - 1)].clone()
    }
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The bytes of an endless stream, from place `from` on: so both ends know each byte by its place, and a
/// byte that is missing, double or another stream's is seen.
pub fn fill(stream: u64, from: u64, into: &mut [u8]) {
    let (mut at, mut rest) = (from, into);
    while !rest.is_empty() {
        let word = mix(stream ^ mix(at / 8)).to_le_bytes();
        let behind = &word[(at % 8) as usize..];
        let n = behind.len().min(rest.len());
        rest[..n].copy_from_slice(&behind[..n]);
        (at, rest) = (at + n as u64, &mut rest[n..]);
    }
}

/// The same, as a vector.
pub fn bytes(stream: u64, from: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill(stream, from, &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_wherever_it_is_entered() {
        let whole = bytes(7, 0, 100);
        for from in 0..100 {
            assert_eq!(bytes(7, from as u64, 100 - from), whole[from..]);
        }
        assert_ne!(bytes(8, 0, 100), whole);
    }

    #[test]
    fn choices_stay_within_their_bounds_and_repeat() {
        let (mut one, mut same) = (Random::new(1, &[2, 3]), Random::new(1, &[2, 3]));
        for _ in 0..1000 {
            let n = one.between(5, 7);
            assert!((5..=7).contains(&n));
            assert_eq!(n, same.between(5, 7));
        }
        assert_ne!(Random::new(1, &[3, 2]).number(), Random::new(1, &[2, 3]).number());
    }
}
