//! `Wheel`: which slot a deadline belongs to, and which slot comes next.
//!
//! Written in base 256, a time has eight digits. A deadline is filed by the highest digit in which it differs
//! from the wheel's time. The place of that digit is the level, and its value in the deadline is the slot:
//!
//! ```text
//!     time      … 0  5 41  7
//!     deadline  … 0  5 52 18      level 1, slot 52: it comes when the time reads … 0 5 52 0
//!                      ^^
//! ```
//!
//! Everything depends on one invariant: **every occupied slot begins after the wheel's time**. So on each
//! level the occupied slots are after the time's own digit, and nothing wraps. Every slot of a level comes
//! before any slot of the level above. The soonest slot is the lowest bit of the lowest level that is not
//! empty.
//!
//! When time advances, the slots that it reaches are emptied first: each list is appended, whole and in O(1),
//! to the due list. At most 2,048 slots are emptied, however far time jumps. An entry in the due list still
//! names the slot from which it came. That is enough to take the entry out again, see [`Wheel::cancel`].

use crate::entries::{Entries, NIL, Slot};
use crate::level::{DIGIT_BITS, Level};
use crate::list::List;
use crate::tick::Tick;
use std::fmt;

/// Enough digits of eight bits for all 64.
const LEVELS: usize = u64::BITS.div_ceil(DIGIT_BITS) as usize;

/// A timer wheel. The wheel and the entries through which it is linked belong to one thread.
pub struct Wheel {
    /// The latest time given to the wheel. It never goes back. Every occupied slot begins after it.
    time: Tick,

    /// When [`Wheel::pop_due`] has an entry to return: `time` if `due` is not empty, otherwise the beginning
    /// of the soonest occupied slot. [`Tick::MAX`] if no entry is filed. Never before `time`.
    soonest: Tick,

    /// The entries whose slots time has reached, in that order.
    due: List,

    /// Bit `n` is set exactly when `levels[n]` is not empty.
    occupied: u8,

    /// The number of filed entries, including entries in `due`.
    len: usize,

    // In a box, so that a value with a wheel inside is cheap to move.
    levels: Box<[Level; LEVELS]>,
}

impl Wheel {
    /// Makes an empty wheel whose time is `now`. It takes 8.3 KiB, in an allocation of its own.
    #[must_use]
    pub fn new(now: Tick) -> Wheel {
        Wheel {
            time: now,
            soonest: Tick::MAX,
            due: List::EMPTY,
            occupied: 0,
            len: 0,
            levels: Box::new([const { Level::EMPTY }; LEVELS]),
        }
    }

    /// How many entries are filed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no entry is filed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The earliest tick at which [`Wheel::pop_due`] returns an entry. It is not later than any filed
    /// deadline. `None`: no entry is filed.
    ///
    /// The call costs one load, so the loop may call it in each turn. The tick is often earlier than the
    /// soonest deadline, because far deadlines are filed coarsely. A caller that sleeps until this tick gets
    /// a candidate, and moves it to a finer level by inserting it again. That happens to one entry at most
    /// once per level. The tick may be in the past if candidates were left over.
    #[inline]
    #[must_use]
    pub fn next_due(&self) -> Option<Tick> {
        (!self.is_empty()).then_some(self.soonest)
    }

    /// Files the entry at this index. A deadline at or before the wheel's time is due at once.
    ///
    /// # Panics
    ///
    /// If the entry is already filed, or the index is [`NIL`].
    pub fn insert(&mut self, entries: &mut impl Entries, index: u32, deadline: Tick) {
        assert!(index != NIL, "NIL is no entry's index");
        let (slot, begins) = place(self.time, deadline);
        let filed_under = entries.links(index).1;
        if *filed_under != Slot::NONE {
            filed_already(index);
        }
        *filed_under = slot;

        if begins <= self.time {
            self.due.push(entries, index);
        } else {
            self.levels[slot.level() as usize].push(entries, slot.position(), index);
            self.occupied |= 1 << slot.level();
        }
        self.soonest = self.soonest.min(begins);
        self.len += 1;
    }

    /// Takes out the entry at this index. Returns false if it was not filed.
    pub fn cancel(&mut self, entries: &mut impl Entries, index: u32) -> bool {
        let slot = std::mem::take(entries.links(index).1);
        if slot == Slot::NONE {
            return false;
        }
        // The entry is in the list of its slot, or in `due` if that slot has come. Which list it is matters
        // only if the entry is its head: otherwise only its neighbours change.
        let is_due = self.due.begins_with(index);
        let level = &mut self.levels[slot.level() as usize];
        let list = if is_due { &mut self.due } else { level.list(slot.position()) };
        list.remove(entries, index);
        self.len -= 1;
        // While that list has another entry, `soonest` does not change.
        if list.is_empty() {
            if !is_due {
                self.emptied(slot);
            }
            self.find_soonest();
        }
        true
    }

    /// Files the entry at this index again, whether or not it was filed.
    ///
    /// Call it for a deadline that moves earlier. A deadline that moves later does not need it: store the
    /// deadline in the entry, and compare when the entry is popped.
    pub fn rearm(&mut self, entries: &mut impl Entries, index: u32, deadline: Tick) {
        self.cancel(entries, index);
        self.insert(entries, index, deadline);
    }

    /// Unfiles and returns one entry whose slot has come by `now`. Returns `None` if there are no more.
    ///
    /// The entry is a candidate: compare its own deadline with `now`, then fire it or insert it again. An
    /// entry that is inserted for a time after `now` is not returned again by `pop_due(now)`. Any entry may
    /// be inserted or cancelled between two pops. Stopping early loses nothing: the remaining candidates come
    /// first in the next turn.
    ///
    /// It returns `None` if `now` is before the wheel's time.
    #[inline]
    pub fn pop_due(&mut self, entries: &mut impl Entries, now: Tick) -> Option<u32> {
        if now < self.soonest {
            // No slot begins in between, so time may advance. Entries inserted next are then filed as finely
            // as possible.
            self.time = self.time.max(now);
            return None;
        }
        self.pop_reached(entries, now)
    }

    fn pop_reached(&mut self, entries: &mut impl Entries, now: Tick) -> Option<u32> {
        // Every occupied slot begins after the wheel's time, so nothing is to be moved if `now` is that time.
        if now > self.time {
            self.advance(entries, now);
        }
        let index = self.due.pop(entries)?;
        self.len -= 1;
        self.find_soonest();
        Some(index)
    }

    /// Advances time to `now`, and moves the lists of all slots that begin by then into `due`.
    ///
    /// Not inlined, because a pop seldom needs it and would save registers for it each time.
    #[inline(never)]
    fn advance(&mut self, entries: &mut impl Entries, now: Tick) {
        debug_assert!(now >= self.time);
        while let Some((slot, begins)) = self.soonest_slot()
            && begins <= now
        {
            let level = &mut self.levels[slot.level() as usize];
            self.due.append(entries, level.take(slot.position()));
            self.emptied(slot);
        }
        self.time = now;
    }

    /// The list of this slot has become empty.
    fn emptied(&mut self, slot: Slot) {
        let level = &mut self.levels[slot.level() as usize];
        level.emptied(slot.position());
        if level.is_empty() {
            self.occupied &= !(1 << slot.level());
        }
    }

    fn find_soonest(&mut self) {
        self.soonest = if !self.due.is_empty() {
            self.time
        } else if let Some((_, begins)) = self.soonest_slot() {
            begins
        } else {
            Tick::MAX
        };
    }

    /// The soonest occupied slot, and when it begins.
    fn soonest_slot(&self) -> Option<(Slot, Tick)> {
        if self.occupied == 0 {
            return None;
        }
        let level = self.occupied.trailing_zeros();
        let position = self.levels[level as usize].soonest();
        // The digits above the level are those of the time. Otherwise the slot would be on a higher level.
        let shift = level * DIGIT_BITS;
        let above = (self.time.as_millis() >> shift) & !DIGIT_MASK;
        let begins = Tick::from_millis((above | u64::from(position)) << shift);
        Some((Slot::new(level, position), begins))
    }
}

impl fmt::Debug for Wheel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel")
            .field("time", &self.time)
            .field("next_due", &self.next_due())
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Not inlined, so that an insert does not prepare for it.
#[cold]
#[inline(never)]
fn filed_already(index: u32) -> ! {
    panic!("entry {index} is filed already");
}

const DIGIT_MASK: u64 = (1 << DIGIT_BITS) - 1;

/// Returns the slot for a deadline, and when that slot begins, which is never after the deadline.
///
/// For a deadline that has come, the beginning is `time`, and the slot only means that the entry is filed.
/// That slot always stays empty, because every occupied position is after the time's own digit.
fn place(time: Tick, deadline: Tick) -> (Slot, Tick) {
    if deadline <= time {
        return (Slot::new(0, 0), time);
    }
    let deadline = deadline.as_millis();
    let highest_difference = (deadline ^ time.as_millis()).ilog2();
    let level = highest_difference / DIGIT_BITS;
    let shift = level * DIGIT_BITS;
    let digits = deadline >> shift;
    (Slot::new(level, (digits & DIGIT_MASK) as u32), Tick::from_millis(digits << shift))
}

#[cfg(test)]
mod tests;
