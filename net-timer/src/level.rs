//! One level of the wheel: 256 slots, and a bitmap of the slots that are not empty.

use crate::entries::Entries;
use crate::list::List;

/// A level stands for one digit of the time, and a digit has this many bits.
pub(crate) const DIGIT_BITS: u32 = 8;

const SLOTS: usize = 1 << DIGIT_BITS;
const WORDS: usize = SLOTS / u64::BITS as usize;

/// One level of the wheel.
pub(crate) struct Level {
    /// Bit `n` is set exactly when `slots[n]` is not empty. Bit 0 is the lowest bit of the first word.
    occupied: [u64; WORDS],
    slots: [List; SLOTS],
}

impl Level {
    pub(crate) const EMPTY: Level = Level { occupied: [0; WORDS], slots: [List::EMPTY; SLOTS] };

    pub(crate) fn is_empty(&self) -> bool {
        self.occupied == [0; WORDS]
    }

    /// The lowest position that is not empty, which is the soonest. The level must not be empty.
    pub(crate) fn soonest(&self) -> u32 {
        let word = self.occupied.iter().position(|&word| word != 0);
        let word = word.expect("the level is not empty");
        word as u32 * u64::BITS + self.occupied[word].trailing_zeros()
    }

    /// Puts an entry that is in no list at the end of the list at this position.
    pub(crate) fn push(&mut self, entries: &mut impl Entries, position: u32, index: u32) {
        self.slots[position as usize].push(entries, index);
        self.occupied[word(position)] |= bit(position);
    }

    /// The list at this position. A caller that empties it must call [`Level::emptied`].
    pub(crate) fn list(&mut self, position: u32) -> &mut List {
        &mut self.slots[position as usize]
    }

    /// The list at this position has become empty.
    pub(crate) fn emptied(&mut self, position: u32) {
        self.occupied[word(position)] &= !bit(position);
    }

    /// Takes the whole list at this position. Call [`Level::emptied`] afterwards.
    pub(crate) fn take(&mut self, position: u32) -> List {
        std::mem::replace(&mut self.slots[position as usize], List::EMPTY)
    }
}

/// The word of the bitmap in which this position has its bit.
fn word(position: u32) -> usize {
    (position / u64::BITS) as usize
}

fn bit(position: u32) -> u64 {
    1 << (position % u64::BITS)
}
