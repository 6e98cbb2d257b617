//! `Cork`: one block per loop in which small writes wait, until each connection's go out as one send.
//!
//! A handler that answers many connections in one turn leaves a few bytes for each, over and
//! over. They are appended to one block that stays in the cache, each connection's pieces linked
//! in order, and sent by one gathering call per connection.
//!
//! ```text
//! block    [ hello | hi | hello | hi | ... ]
//! records     0      1      2     3            each: where, how long, the owner's next one
//! owners   A: 0 ─▶ 2      B: 1 ─▶ 3            a connection's head holds the owner's number
//! ```

use crate::base::id::ConnId;
use std::io::IoSlice;

const NIL: u32 = u32::MAX;

pub(crate) struct Cork {
    /// At most its first capacity; the block never grows.
    block: Vec<u8>,
    records: Vec<Record>,
    owners: Vec<Owner>,
    /// Owners that have not been let go. At zero everything is free again.
    waiting: usize,
}

struct Record {
    start: u32,
    len: u32,
    next: u32,
}

struct Owner {
    id: ConnId,
    first: u32,
    last: u32,
    bytes: u32,
}

impl Cork {
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            block: Vec::with_capacity(bytes),
            records: Vec::new(),
            owners: Vec::new(),
            waiting: 0,
        }
    }

    /// Appends `bytes` behind the waiting bytes of owner number `of` (0: a new owner, whose number is
    /// returned). `None`: there is no room, and nothing was taken.
    pub(crate) fn add(&mut self, of: u16, id: ConnId, bytes: &[u8]) -> Option<u16> {
        let start = self.block.len();
        let no_room = start + bytes.len() > self.block.capacity();
        if no_room || (of == 0 && self.owners.len() == usize::from(u16::MAX)) {
            return None;
        }
        self.block.extend_from_slice(bytes);
        let len = bytes.len() as u32;
        if of == 0 {
            let record = self.record(start, len);
            self.owners.push(Owner { id, first: record, last: record, bytes: len });
            self.waiting += 1;
            return Some(self.owners.len() as u16);
        }
        let last = self.owners[usize::from(of) - 1].last as usize;
        let is_behind_it = (self.records[last].start + self.records[last].len) as usize == start;
        if is_behind_it {
            self.records[last].len += len;
        } else {
            let record = self.record(start, len);
            self.records[last].next = record;
            self.owners[usize::from(of) - 1].last = record;
        }
        self.owners[usize::from(of) - 1].bytes += len;
        Some(of)
    }

    fn record(&mut self, start: usize, len: u32) -> u32 {
        self.records.push(Record { start: start as u32, len, next: NIL });
        (self.records.len() - 1) as u32
    }

    /// Bytes that wait for this owner.
    pub(crate) fn len(&self, of: u16) -> usize {
        self.owners[usize::from(of) - 1].bytes as usize
    }

    /// The owner's pieces, in order.
    pub(crate) fn pieces(&self, of: u16) -> impl Iterator<Item = &[u8]> {
        let mut at = self.owners[usize::from(of) - 1].first;
        std::iter::from_fn(move || {
            let record = self.records.get(at as usize)?;
            at = record.next;
            Some(&self.block[record.start as usize..][..record.len as usize])
        })
    }

    /// Fills `into` with the owner's first pieces. Returns how many, and their bytes.
    pub(crate) fn slices<'s>(&'s self, of: u16, into: &mut [IoSlice<'s>]) -> (usize, usize) {
        let (mut used, mut bytes) = (0, 0);
        for (piece, place) in self.pieces(of).zip(into) {
            *place = IoSlice::new(piece);
            used += 1;
            bytes += piece.len();
        }
        (used, bytes)
    }

    /// No bytes wait for this owner any more: they were sent, moved or dropped.
    pub(crate) fn let_go(&mut self, of: u16) {
        let owner = &mut self.owners[usize::from(of) - 1];
        if owner.first != NIL {
            owner.first = NIL;
            owner.bytes = 0;
            self.waiting -= 1;
        }
        if self.waiting == 0 {
            self.block.clear();
            self.records.clear();
            self.owners.clear();
        }
    }

    /// The connection with this owner number, if it still waits.
    pub(crate) fn owner(&self, of: u16) -> Option<ConnId> {
        let owner = self.owners.get(usize::from(of).checked_sub(1)?)?;
        (owner.first != NIL).then_some(owner.id)
    }

    /// True if it is time to send, before there is no room.
    pub(crate) fn is_half_full(&self) -> bool {
        self.block.len() > self.block.capacity() / 2
    }

    /// How many owners have been numbered since the cork was last empty.
    pub(crate) fn owners(&self) -> usize {
        self.owners.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> ConnId {
        ConnId::new(0, n, std::num::NonZeroU32::MIN)
    }

    fn text(cork: &Cork, of: u16) -> Vec<u8> {
        cork.pieces(of).flatten().copied().collect()
    }

    #[test]
    fn each_owner_gets_its_pieces_in_order() {
        let mut cork = Cork::new(64);
        let a = cork.add(0, id(1), b"one ").unwrap();
        let b = cork.add(0, id(2), b"uno ").unwrap();
        assert_eq!(cork.add(a, id(1), b"two "), Some(a));
        assert_eq!(cork.add(b, id(2), b"due "), Some(b));
        assert_eq!(cork.add(b, id(2), b"tre"), Some(b));
        assert_eq!(text(&cork, a), b"one two ");
        assert_eq!(text(&cork, b), b"uno due tre");
        assert_eq!((cork.len(a), cork.len(b)), (8, 11));
        let mut slices = [IoSlice::new(&[]); 8];
        assert_eq!(cork.slices(b, &mut slices), (2, 11), "neighbouring pieces are one");
        assert_eq!((cork.owner(a), cork.owner(b)), (Some(id(1)), Some(id(2))));
        cork.let_go(a);
        assert_eq!((cork.owner(a), cork.owner(b)), (None, Some(id(2))));
        cork.let_go(b);
        assert_eq!((cork.owners(), cork.owner(b)), (0, None));
    }

    #[test]
    fn what_finds_no_room_is_not_taken_in_part() {
        let mut cork = Cork::new(8);
        let a = cork.add(0, id(1), b"12345").unwrap();
        assert!(cork.is_half_full());
        assert_eq!(cork.add(a, id(1), b"6789"), None);
        assert_eq!(cork.add(0, id(2), b"6789"), None);
        assert_eq!(cork.add(a, id(1), b"678"), Some(a));
        assert_eq!(text(&cork, a), b"12345678");
    }
}
