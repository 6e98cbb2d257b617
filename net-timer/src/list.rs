//! A first-in, first-out list that is linked through the caller's entries.
//!
//! The list is a ring: the `next` of the last entry is the head, and the `prev` of the head is the last
//! entry. So one index finds both ends, and push, remove and append take a few stores for any length.
//!
//! ```text
//!     head ──> a ──> b ──> c ──┐
//!              ^───────────────┘        and the same backwards
//! ```

use crate::entries::{Entries, Links, NIL, Slot};

/// The head of a list; [`NIL`] when it is empty.
#[derive(Clone, Copy)]
pub(crate) struct List {
    head: u32,
}

impl List {
    pub(crate) const EMPTY: List = List { head: NIL };

    pub(crate) fn is_empty(self) -> bool {
        self.head == NIL
    }

    /// Whether this entry is the first, and so has waited longest.
    pub(crate) fn begins_with(self, index: u32) -> bool {
        debug_assert!(index != NIL);
        self.head == index
    }

    /// Puts an entry that is in no list at the end of this one.
    pub(crate) fn push(&mut self, entries: &mut impl Entries, index: u32) {
        if self.is_empty() {
            *entries.links(index).0 = Links { prev: index, next: index };
            self.head = index;
            return;
        }
        let first = entries.links(self.head).0;
        let last = std::mem::replace(&mut first.prev, index);
        *entries.links(index).0 = Links { prev: last, next: self.head };
        entries.links(last).0.next = index;
    }

    /// Appends all entries of `other` to this list.
    pub(crate) fn append(&mut self, entries: &mut impl Entries, other: List) {
        if self.is_empty() {
            *self = other;
        } else if !other.is_empty() {
            let last = entries.links(self.head).0.prev;
            let other_last = entries.links(other.head).0.prev;
            join(entries, last, other.head);
            join(entries, other_last, self.head);
        }
    }

    /// Takes out and unfiles the first entry, which has waited longest.
    #[inline]
    pub(crate) fn pop(&mut self, entries: &mut impl Entries) -> Option<u32> {
        let index = self.head;
        if index == NIL {
            return None;
        }
        let (links, filed_under) = entries.links(index);
        let Links { prev, next } = std::mem::take(links);
        *filed_under = Slot::NONE;
        if next == index {
            self.head = NIL;
        } else {
            join(entries, prev, next);
            self.head = next;
        }
        Some(index)
    }

    /// Takes an entry out of its list. If the entry is the head of its list, `self` must be that list. If
    /// not, `self` may be any list, because only the entry's neighbours change.
    #[inline]
    pub(crate) fn remove(&mut self, entries: &mut impl Entries, index: u32) {
        let Links { prev, next } = std::mem::take(entries.links(index).0);
        if next != index {
            join(entries, prev, next);
        }
        if self.head == index {
            self.head = if next == index { NIL } else { next };
        }
    }
}

/// Makes `next` the successor of `prev`.
fn join(entries: &mut impl Entries, prev: u32, next: u32) {
    entries.links(prev).0.next = next;
    entries.links(next).0.prev = prev;
}
