//! `ConnId`: a name for a connection that is never used twice.

use std::fmt;
use std::num::NonZeroU32;

/// The most loops that one server can have: a loop's number has 8 bits.
pub const LOOPS_MAX: usize = 256;
/// The most connections that one loop can have: a slot's number has 24 bits.
pub const SLOTS_MAX: usize = 1 << 24;

/// Names one connection of one server, for ever: `loop 8 bits | slot 24 | generation 32`.
///
/// A slot's generation grows with each connection that lived in it, and a slot whose generation
/// would wrap is retired. So an id kept after its connection has closed finds nothing, never a
/// stranger. Eight bytes, also as `Option`; plain data for any thread.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// The loop in the highest 8 bits, the slot below.
    place: u32,
    generation: NonZeroU32,
}

impl ConnId {
    /// Puts an id together. Generations begin at 1.
    #[inline]
    pub(crate) fn new(in_loop: u8, slot: u32, generation: NonZeroU32) -> Self {
        debug_assert!((slot as usize) < SLOTS_MAX);
        Self { place: u32::from(in_loop) << 24 | slot, generation }
    }

    /// The id in a driver's token; `None` for the tokens of listeners and wakers, whose generation
    /// is 0.
    #[inline]
    pub(crate) fn from_token(token: u64) -> Option<Self> {
        let generation = NonZeroU32::new(token as u32)?;
        Some(Self { place: (token >> 32) as u32, generation })
    }

    /// What the driver is told for this connection.
    #[inline]
    pub(crate) fn token(self) -> u64 {
        u64::from(self.place) << 32 | u64::from(self.generation.get())
    }

    /// The loop that owns the connection, for life.
    #[inline]
    pub fn in_loop(self) -> usize {
        (self.place >> 24) as usize
    }

    #[inline]
    pub(crate) fn slot(self) -> u32 {
        self.place & 0x00FF_FFFF
    }

    #[inline]
    pub(crate) fn generation(self) -> NonZeroU32 {
        self.generation
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.in_loop(), self.slot(), self.generation())
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bytes_and_every_part_comes_back() {
        assert_eq!(size_of::<Option<ConnId>>(), 8);
        let id = ConnId::new(255, (SLOTS_MAX - 1) as u32, NonZeroU32::MAX);
        assert_eq!(
            (id.in_loop(), id.slot(), id.generation()),
            (255, (SLOTS_MAX - 1) as u32, NonZeroU32::MAX)
        );
        assert_eq!(ConnId::from_token(id.token()), Some(id));
    }

    #[test]
    fn a_token_of_no_generation_is_no_connection() {
        assert_eq!(ConnId::from_token(0), None);
        assert_eq!(ConnId::from_token(7 << 32), None);
    }
}
