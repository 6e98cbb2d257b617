//! Why there is no plan.

use std::fmt;

use super::tables::LOOPS_MAX;
use super::wall::Wall;

/// A request that does not fit, as one sentence with the arithmetic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// More loops than a connection's id can name.
    TooManyLoops(u32),
    /// The lowest wall is below the requested number.
    Wall {
        /// The requested number.
        connections: u64,
        /// The lowest wall.
        wall: Wall,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyLoops(loops) => write!(
                out,
                "{loops} loops > {LOOPS_MAX}: a loop's number is 8 bits of every connection's id, \
                 so use at most {LOOPS_MAX}"
            ),
            Self::Wall { connections, wall } => out.write_str(&wall.refusal(*connections)),
        }
    }
}

impl std::error::Error for Refusal {}
