//! The wheel: which slot a deadline belongs to, and which slot comes next.
//!
//! Write the time in base 256: eight digits. A deadline is filed by the highest digit in which it
//! differs from the wheel's time. Which digit that is names the level, and its value in the
//! deadline names the slot:
//!
//! ```text
//!     time      … 0  5 41  7
//!     deadline  … 0  5 52 18      level 1, slot 52: it comes when the time reads … 0 5 52 0
//!                      ^^
//! ```
//!
//! All that follows rests on one invariant: **every occupied slot begins after the wheel's time**.
//! So on each level the occupied slots are ahead of the time's own digit and nothing wraps; every
//! slot of a level comes before any slot of the level above; and the soonest slot of all is the
//! lowest bit of the lowest level that is not empty.
//!
//! When time moves on, the slots that it reaches are emptied first: each list is appended, whole
//! and in O(1), to the list of what is due. There can be 2,048 of them at the most, however far
//! time jumps. An entry in the due list still names the slot through which it came. That is good
//! enough to take it out again, see [`Wheel::cancel`].

use crate::entries::{Entries, NIL, Slot};
use crate::level::{DIGIT_BITS, Level};
use crate::list::List;
use crate::tick::Tick;
use std::fmt;

/// Enough digits of eight bits for all 64.
const LEVELS: usize = u64::BITS.div_ceil(DIGIT_BITS) as usize;

/// A timer wheel. It belongs to one thread, along with the entries through which it is linked.
pub struct Wheel {
    /// The latest time the wheel was told; it never goes back. Every occupied slot begins after it.
    time: Tick,

    /// When [`Wheel::pop_due`] has something to return: `time` when `due` holds something,
    /// otherwise the beginning of the soonest occupied slot. [`Tick::MAX`] when nothing is filed.
    /// Never before `time`.
    soonest: Tick,

    /// What time has reached, in the order in which it did.
    due: List,

    /// Bit `n` is set exactly when `levels[n]` is not empty.
    occupied: u8,

    /// Entries filed, those in `due` included.
    len: usize,

    // Beside it, so that whoever has a wheel is cheap to move.
    levels: Box<[Level; LEVELS]>,
}

impl Wheel {
    /// An empty wheel, whose time is `now`. It takes 8.3 KiB, in a block of its own.
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

    /// The earliest tick at which [`Wheel::pop_due`] returns something, which is no later than any
    /// deadline filed.
    ///
    /// One load: the loop may ask each turn. It is often earlier than the soonest deadline, because
    /// what is far away is filed coarsely. Who sleeps until then is given a candidate and brings it
    /// closer by inserting it again; that happens to one entry at most once per level. It may lie
    /// in the past when candidates were left over.
    #[inline]
    #[must_use]
    pub fn next_due(&self) -> Option<Tick> {
        (!self.is_empty()).then_some(self.soonest)
    }

    /// Files the entry at this index. A deadline at or before the wheel's time is due at once.
    ///
    /// # Panics
    ///
    /// If the entry is filed already, or the index is [`NIL`].
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

    /// Takes the entry at this index out; false if it was not filed.
    pub fn cancel(&mut self, entries: &mut impl Entries, index: u32) -> bool {
        let slot = std::mem::take(entries.links(index).1);
        if slot == Slot::NONE {
            return false;
        }
        // It is in the list of its slot, or in `due` if that slot has come. It matters which one
        // only if it heads the list: otherwise only its neighbours change.
        let is_due = self.due.begins_with(index);
        let level = &mut self.levels[slot.level() as usize];
        let list = if is_due { &mut self.due } else { level.list(slot.position()) };
        list.remove(entries, index);
        self.len -= 1;
        // While there is another entry in that list, the soonest is what it was.
        if list.is_empty() {
            if !is_due {
                self.emptied(slot);
            }
            self.find_soonest();
        }
        true
    }

    /// Files the entry at this index anew, whether or not it was filed.
    ///
    /// A deadline that moves earlier needs this. One that moves later does not: store it in the
    /// entry, and compare when the entry is popped.
    pub fn rearm(&mut self, entries: &mut impl Entries, index: u32, deadline: Tick) {
        self.cancel(entries, index);
        self.insert(entries, index, deadline);
    }

    /// Unfiles and returns one entry whose slot has come by `now`; `None` when there are no more.
    ///
    /// It is a candidate: compare its own deadline with `now`, then fire it or insert it again.
    /// Inserted for after `now` it will not be returned again by `pop_due(now)`. Anything may be
    /// inserted and cancelled between two pops, and stopping early loses nothing: what is left
    /// comes first in the next turn.
    ///
    /// A `now` before one that the wheel has seen returns nothing.
    #[inline]
    pub fn pop_due(&mut self, entries: &mut impl Entries, now: Tick) -> Option<u32> {
        if now < self.soonest {
            // Nothing begins in between, so time may move; what is inserted next is then filed as
            // finely as can be.
            self.time = self.time.max(now);
            return None;
        }
        self.pop_reached(entries, now)
    }

    fn pop_reached(&mut self, entries: &mut impl Entries, now: Tick) -> Option<u32> {
        // Every occupied slot begins after the wheel's time, so there is nothing to move at it.
        if now > self.time {
            self.advance(entries, now);
        }
        let index = self.due.pop(entries)?;
        self.len -= 1;
        self.find_soonest();
        Some(index)
    }

    /// Moves time on to `now`, and all slots that begin by then into `due`.
    ///
    /// Out of line, since a pop seldom needs it and would save registers for it each time.
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
        // The digits above the level are those of the time, or it would have been filed higher up.
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

/// Out of line, so that an insert does not prepare for it.
#[cold]
#[inline(never)]
fn filed_already(index: u32) -> ! {
    panic!("entry {index} is filed already");
}

const DIGIT_MASK: u64 = (1 << DIGIT_BITS) - 1;

/// The slot for a deadline, and when that slot begins, which is never after the deadline.
///
/// For a deadline that has come, that is now, and the slot is a mere sign of being filed: it is one
/// that always stays empty, since every occupied position is ahead of the time's own digit.
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
