//! One step of each part, in rounds: what `micro` times and `steps` counts.
//!
//! A step is written once, and is the same for both. Its numbers have no pattern and are the same
//! in each run; they are drawn before, so that drawing them is not part of it.

mod buffers;
mod posts;
mod table;
mod turns;
mod wheel;

pub use posts::rings;

/// Runs so many rounds of a step.
pub type Rounds = Box<dyn FnMut(u64)>;

/// One step of one part.
pub struct Step {
    /// The part.
    pub group: &'static str,
    /// What is done, and beside how much.
    pub name: &'static str,
    /// What one round is so many of.
    pub units: u64,
    /// Rounds that are counted: enough for whatever repeats to repeat.
    pub counted: u64,
    /// Instructions of a unit that it takes at most.
    pub at_most: f64,
    /// Makes everything ready for the first round.
    pub prepare: fn() -> Rounds,
}

/// All steps, part by part.
pub fn all() -> Vec<Step> {
    [wheel::steps(), table::steps(), buffers::steps(), posts::steps(), turns::steps()]
        .into_iter()
        .flatten()
        .collect()
}

/// Numbers without a pattern, the same in each run (xorshift).
struct Rng(u64);

impl Rng {
    fn new() -> Self {
        Self(0x9e37_79b9)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// So many numbers below `bound`, to be gone through again and again.
    fn circle(&mut self, bound: u64) -> Circle {
        Circle { numbers: Box::new([(); DRAWN].map(|()| self.below(bound))), at: 0 }
    }
}

/// How many numbers are drawn before: more than a core's first-level cache knows the way of, and
/// a power of two.
const DRAWN: usize = 1 << 14;

/// Numbers in a circle.
struct Circle {
    numbers: Box<[u64; DRAWN]>,
    at: usize,
}

impl Circle {
    #[inline]
    fn next(&mut self) -> u64 {
        self.at = (self.at + 1) % DRAWN;
        self.numbers[self.at]
    }
}
