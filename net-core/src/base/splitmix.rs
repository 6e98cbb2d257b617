//! SplitMix64 (Steele, Lea, Flood, 2014): a 64-bit hash, and a seeded sequence of random numbers.

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Returns a hash of `x`. Each bit of `x` affects each bit of the hash.
pub(crate) fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(STEP);
    let x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}

/// Returns the next number of the sequence and advances `state`.
pub(crate) fn next(state: &mut u64) -> u64 {
    let number = mixed(*state);
    *state = state.wrapping_add(STEP);
    number
}
