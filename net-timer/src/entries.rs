//! The ten bytes that the caller keeps for the wheel in each entry, and the trait to reach them.

/// The index that means "no entry". No entry can have this index.
pub const NIL: u32 = u32::MAX;

/// The neighbours of an entry in the wheel's list. By default the entry is in no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Links {
    pub(crate) prev: u32,
    pub(crate) next: u32,
}

impl Default for Links {
    fn default() -> Links {
        Links { prev: NIL, next: NIL }
    }
}

/// The slot of the wheel under which an entry is filed. By default the entry is not filed.
///
/// It is separate from [`Links`], so that an entry may put these two bytes where it has two bytes free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u16);

impl Slot {
    /// Not filed.
    pub const NONE: Slot = Slot(u16::MAX);

    pub(crate) const fn new(level: u32, position: u32) -> Slot {
        Slot((level * 256 + position) as u16)
    }

    pub(crate) const fn level(self) -> u32 {
        self.0 as u32 / 256
    }

    pub(crate) const fn position(self) -> u32 {
        self.0 as u32 % 256
    }
}

impl Default for Slot {
    fn default() -> Slot {
        Slot::NONE
    }
}

/// The caller's store of entries, as the wheel sees it.
///
/// The wheel asks only for indices that it was given. An entry must keep its index until it has been popped
/// or cancelled. Until then only the wheel may change these two fields. One store belongs to one wheel.
pub trait Entries {
    /// Returns the two fields of the entry stored at this index.
    fn links(&mut self, index: u32) -> (&mut Links, &mut Slot);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_pays_ten_bytes() {
        assert_eq!(size_of::<Links>() + size_of::<Slot>(), 10);
    }

    #[test]
    fn no_slot_of_any_level_is_mistaken_for_none() {
        for level in 0..8 {
            for position in 0..256 {
                let slot = Slot::new(level, position);
                assert_eq!((slot.level(), slot.position()), (level, position));
                assert_ne!(slot, Slot::NONE);
            }
        }
    }
}
