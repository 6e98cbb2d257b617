//! Marks in the unsent bytes: a handler wants to be told when the kernel has taken all bytes before a mark.
//! Kept beside the table, so that a connection without marks pays nothing.

use crate::base::id::ConnId;
use std::collections::{HashMap, VecDeque};

#[derive(Default)]
pub(crate) struct Marks(HashMap<ConnId, Line>);

/// The marks of one connection. It exists exactly as long as it has a mark.
#[derive(Default)]
struct Line {
    /// Bytes that have left since the line began.
    sent: u64,
    /// At how many sent bytes each mark is reached, and its tag. In order.
    marks: VecDeque<(u64, u64)>,
}

impl Marks {
    /// True if no connection has a mark.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether that connection has a mark.
    pub(crate) fn has(&self, id: ConnId) -> bool {
        self.0.contains_key(&id)
    }

    /// The number of marks of that connection.
    pub(crate) fn of(&self, id: ConnId) -> usize {
        if self.0.is_empty() { 0 } else { self.0.get(&id).map_or(0, |line| line.marks.len()) }
    }

    /// Sets a mark with `before` unsent bytes in front of it.
    pub(crate) fn set(&mut self, id: ConnId, before: usize, tag: u64) {
        let line = self.0.entry(id).or_default();
        line.marks.push_back((line.sent + before as u64, tag));
    }

    /// `bytes` have left. True: a mark is reached.
    pub(crate) fn sent(&mut self, id: ConnId, bytes: usize) -> bool {
        let Some(line) = self.0.get_mut(&id) else { return false };
        line.sent += bytes as u64;
        line.is_reached()
    }

    /// Of the unsent bytes, the `old` bytes behind the first `before` have become `new` bytes. True: a mark
    /// is reached.
    pub(crate) fn moved(&mut self, id: ConnId, before: usize, old: usize, new: usize) -> bool {
        let Some(line) = self.0.get_mut(&id) else { return false };
        let from = line.sent + before as u64;
        for (at, _) in line.marks.iter_mut().filter(|(at, _)| *at > from) {
            *at = *at - old as u64 + new as u64;
        }
        line.is_reached()
    }

    /// How many marks of a connection are reached, counted up to `most`.
    pub(crate) fn reached(&self, id: ConnId, most: usize) -> usize {
        let Some(line) = self.0.get(&id) else { return 0 };
        line.marks.iter().take(most).take_while(|(at, _)| *at <= line.sent).count()
    }

    /// Takes the first mark that is reached.
    pub(crate) fn take_reached(&mut self, id: ConnId) -> Option<u64> {
        let line = self.0.get_mut(&id)?;
        let tag = if line.is_reached() { line.marks.pop_front() } else { None };
        if line.marks.len() < line.marks.capacity() / 4 {
            line.marks.shrink_to(2 * line.marks.len());
        }
        if line.marks.is_empty() {
            self.0.remove(&id);
        }
        tag.map(|(_, tag)| tag)
    }

    /// Discards the marks of that connection. Returns how many it had.
    pub(crate) fn forget(&mut self, id: ConnId) -> usize {
        let line = if self.0.is_empty() { None } else { self.0.remove(&id) };
        line.map_or(0, |line| line.marks.len())
    }
}

impl Line {
    fn is_reached(&self) -> bool {
        self.marks.front().is_some_and(|(at, _)| *at <= self.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: fn(u32) -> ConnId = |slot| ConnId::from_token(1 << 32 | u64::from(slot)).expect("one");

    fn reached(marks: &mut Marks, id: ConnId) -> Vec<u64> {
        std::iter::from_fn(|| marks.take_reached(id)).collect()
    }

    #[test]
    fn each_is_reached_with_the_last_byte_before_it() {
        let (mut marks, id) = (Marks::default(), A(1));
        marks.set(id, 10, 1);
        marks.set(id, 30, 2);
        assert!(!marks.sent(id, 9) && !marks.sent(A(2), 100));
        assert!(marks.sent(id, 1));
        assert_eq!(reached(&mut marks, id), [1]);
        marks.set(id, 20, 3);
        assert!(marks.sent(id, 20));
        assert_eq!(reached(&mut marks, id), [2, 3]);
        assert!(marks.is_empty());
    }

    #[test]
    fn with_nothing_before_it_it_is_reached_at_once() {
        let (mut marks, id) = (Marks::default(), A(1));
        marks.set(id, 0, 7);
        assert_eq!(reached(&mut marks, id), [7]);
    }

    #[test]
    fn what_is_dropped_before_it_is_not_waited_for() {
        let (mut marks, id) = (Marks::default(), A(1));
        marks.set(id, 10, 1);
        marks.set(id, 30, 2);
        assert!(!marks.moved(id, 10, 15, 5), "behind the first, before the second");
        assert!(marks.moved(id, 0, 10, 0));
        assert_eq!(reached(&mut marks, id), [1]);
        assert!(!marks.sent(id, 9));
        assert!(marks.sent(id, 1));
        assert_eq!(reached(&mut marks, id), [2]);
    }
}
