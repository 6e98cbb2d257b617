//! `ConnId`: the id of a connection, which is never used twice.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// The most loops that one server can have: a loop's number has 8 bits.
pub const LOOPS_MAX: usize = 256;
/// The most connections that one loop can have: a slot's number has 24 bits.
pub const SLOTS_MAX: usize = 1 << 24;

/// Names one connection of one server: `loop 8 bits | slot 24 | generation 32`.
///
/// The generation of a slot grows with each connection in the slot. A slot whose generation would wrap is
/// not used again. So an id that is kept after its connection has closed finds nothing, and never another
/// connection. Each loop of each process starts its generations at one of 2³¹ random numbers. So an id from
/// the process before a restart, or from another server, finds nothing either, except with a probability of
/// 2⁻³¹ at each use. Eight bytes, also as `Option`. Plain data that any thread may use.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// The loop in the highest 8 bits, the slot in the lower 24 bits.
    place: u32,
    generation: NonZeroU32,
}

impl ConnId {
    /// Makes an id from its parts.
    #[inline]
    pub(crate) fn new(in_loop: u8, slot: u32, generation: NonZeroU32) -> Self {
        debug_assert!((slot as usize) < SLOTS_MAX);
        Self { place: u32::from(in_loop) << 24 | slot, generation }
    }

    /// Returns the id in a driver's token. `None` for the tokens of listeners and wakers: their generation
    /// is 0.
    #[inline]
    pub(crate) fn from_token(token: u64) -> Option<Self> {
        let generation = NonZeroU32::new(token as u32)?;
        Some(Self { place: (token >> 32) as u32, generation })
    }

    /// The token with which the driver reports events of this connection.
    #[inline]
    pub(crate) fn token(self) -> u64 {
        u64::from(self.place) << 32 | u64::from(self.generation.get())
    }

    /// The number of the loop that owns the connection. It never changes.
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

/// Reads an id in the form in which it is displayed: `loop/slot.generation`.
impl FromStr for ConnId {
    type Err = ParseConnIdError;

    fn from_str(text: &str) -> Result<Self, ParseConnIdError> {
        let parse = || {
            let (in_loop, rest) = text.split_once('/')?;
            let (slot, generation) = rest.split_once('.')?;
            let slot = slot.parse().ok().filter(|slot| (*slot as usize) < SLOTS_MAX)?;
            Some(Self::new(in_loop.parse().ok()?, slot, generation.parse().ok()?))
        };
        // Only one form is accepted: no `+`, no leading zeros.
        parse().filter(|id| id.to_string() == text).ok_or(ParseConnIdError)
    }
}

/// The error for a text that is not a [`ConnId`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParseConnIdError;

impl fmt::Display for ParseConnIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a connection's id is written loop/slot.generation, as 0/17.3")
    }
}

impl std::error::Error for ParseConnIdError {}

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
    fn an_id_is_read_as_it_is_written_and_nothing_else_is() {
        for id in [ConnId::new(0, 0, NonZeroU32::MIN), ConnId::new(255, 0xFF_FFFF, NonZeroU32::MAX)]
        {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        let none = ["", "0/0", "0/0.0", "256/0.1", "0/16777216.1", "0/0.4294967296", "-1/0.1"];
        for text in none.into_iter().chain(["0/0.1 ", "+0/0.1", "00/0.1", "0/0.1.1", "0/0/1"]) {
            assert_eq!(text.parse::<ConnId>(), Err(ParseConnIdError), "{text}");
        }
    }

    #[test]
    fn a_token_of_no_generation_is_no_connection() {
        assert_eq!(ConnId::from_token(0), None);
        assert_eq!(ConnId::from_token(7 << 32), None);
    }

    #[test]
    fn generated_ids_come_back_and_only_what_is_one_is_read() {
        crate::fuzzing::fuzz(|random| {
            let slot = random.below(SLOTS_MAX) as u32;
            let generation = NonZeroU32::new(random.number() as u32).unwrap_or(NonZeroU32::MIN);
            let id = ConnId::new(random.below(256) as u8, slot, generation);
            assert_eq!(id.to_string().parse(), Ok(id));
            let mut text = id.to_string().into_bytes();
            random.mutate(
                &mut text,
                &[b"/", b".", b"0", b"+", b"-1", b" ", b"16777216", b"4294967296"],
            );
            if let Ok(text) = std::str::from_utf8(&text)
                && let Ok(read) = text.parse::<ConnId>()
            {
                assert_eq!(read.to_string(), text);
            }
        });
    }

    /// A simple parser to compare with: three numbers and their separators.
    fn parts(text: &str) -> Option<(u64, u64, u64)> {
        let number = |text: &str| {
            let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let is_short = text == "0" || !text.starts_with('0');
            text.parse().ok().filter(|_| is_plain && is_short)
        };
        let [in_loop, rest] = text.splitn(2, '/').collect::<Vec<_>>()[..] else { return None };
        let [slot, generation] = rest.splitn(2, '.').collect::<Vec<_>>()[..] else { return None };
        let parts = (number(in_loop)?, number(slot)?, number(generation)?);
        let is_id = parts.0 < 1 << 8 && parts.1 < 1 << 24 && (1..1 << 32).contains(&parts.2);
        is_id.then_some(parts)
    }

    #[test]
    fn kept_texts_are_ids_if_their_parts_are() {
        crate::fuzzing::each_kept(include_str!("../../tests/corpus/id.txt"), |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            let read = text.parse::<ConnId>().ok();
            let as_parts = read.map(|id| {
                (id.in_loop() as u64, id.slot().into(), u64::from(id.generation().get()))
            });
            assert_eq!(as_parts, parts(text), "{text}");
            if let Some(id) = read {
                assert_eq!(ConnId::from_token(id.token()), Some(id));
                assert_eq!(id.to_string(), text);
            }
        });
    }
}
