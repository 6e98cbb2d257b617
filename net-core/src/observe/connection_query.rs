//! A query to a loop about its connections, and the answer, on their way between two threads.

use crate::base::id::ConnId;
use crate::sys::addr::Addr;
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// A query to one loop, which travels by mail. The asker looks from time to time whether the answer is there.
/// The loop wakes no thread for it, so a loop that never answers blocks no thread.
#[derive(Debug)]
pub(crate) struct PendingQuery {
    pub(crate) question: Query,
    answer: Mutex<Option<QueryResult>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Query {
    /// The `most` connections with the largest value of `by`.
    Top { by: By, most: usize },
    /// Reset this connection.
    Kill(ConnId),
}

/// The value by which connections are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum By {
    /// Bytes that wait in this process: unsent and unread bytes.
    Queue,
    /// Bytes that have moved, in both directions, as the kernel counts them.
    Bytes,
    /// The part of the loop's time that the connection took.
    Cpu,
}

impl By {
    pub(crate) const ALL: [By; 3] = [By::Queue, By::Bytes, By::Cpu];

    /// The name of the value in a query.
    pub(crate) fn label(self) -> &'static str {
        match self {
            By::Queue => "queue",
            By::Bytes => "bytes",
            By::Cpu => "cpu",
        }
    }
}

#[derive(Debug, PartialEq)]
pub(crate) enum QueryResult {
    /// The connections, the largest first.
    Top(Vec<Row>),
    /// Whether the connection was there.
    Killed(bool),
}

/// One connection, as it was when the loop looked.
#[derive(Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) id: ConnId,
    pub(crate) peer: Option<Addr>,
    pub(crate) state: &'static str,
    pub(crate) unsent: usize,
    pub(crate) unread: usize,
    /// `None`: the kernel does not count bytes for this kind of socket.
    pub(crate) moved: Option<Moved>,
    /// Nanoseconds of the loop's time that the connection took. `None`: callbacks are not timed.
    pub(crate) nanos: Option<u64>,
}

/// Bytes of a connection since it came up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Moved {
    pub(crate) received: u64,
    /// Bytes that were sent and acknowledged.
    pub(crate) acknowledged: u64,
}

impl Row {
    /// The value by which the row is compared.
    pub(crate) fn size(&self, by: By) -> u64 {
        match by {
            By::Queue => (self.unsent + self.unread) as u64,
            By::Bytes => self.moved.map_or(0, |moved| moved.received + moved.acknowledged),
            By::Cpu => self.nanos.unwrap_or(0),
        }
    }
}

/// The connections with the largest keys, of all the connections that were shown.
#[derive(Debug)]
pub(crate) struct Largest<K> {
    most: usize,
    /// The kept connections, the smallest on top.
    found: BinaryHeap<Reverse<(K, ConnId)>>,
}

impl<K: Ord> Largest<K> {
    /// Makes an empty list that keeps `most` connections.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, found: BinaryHeap::with_capacity(most + 1) }
    }

    pub(crate) fn show(&mut self, size: K, id: ConnId) {
        self.found.push(Reverse((size, id)));
        if self.found.len() > self.most {
            self.found.pop();
        }
    }

    /// The kept connections, the largest first.
    pub(crate) fn into_ids(self) -> impl Iterator<Item = ConnId> {
        self.found.into_sorted_vec().into_iter().map(|Reverse((_, id))| id)
    }
}

impl PendingQuery {
    pub(crate) fn new(question: Query) -> Arc<Self> {
        Arc::new(Self { question, answer: Mutex::new(None) })
    }

    /// Stores the loop's answer.
    pub(crate) fn answer(&self, answer: QueryResult) {
        *self.answer.lock() = Some(answer);
    }

    /// Takes the answer, if it is there.
    pub(crate) fn take(&self) -> Option<QueryResult> {
        self.answer.lock().take()
    }

    /// The other side has dropped its `Arc`. To the loop: no thread waits for the answer. To the asker: no
    /// further answer will come.
    pub(crate) fn is_forgotten(self: &Arc<Self>) -> bool {
        let is_last = Arc::strong_count(self) == 1;
        // Pairs with the release in the drop of the other side's Arc. So a `take` after this sees an answer
        // that was stored before that drop.
        fence(Ordering::Acquire);
        is_last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_kept_and_come_in_order() {
        let id = |slot: u64| ConnId::from_token(1 << 32 | slot).unwrap();
        let mut largest = Largest::new(3);
        for size in [4, 9, 1, 7, 9, 2] {
            largest.show(size, id(size));
        }
        assert!(largest.into_ids().eq([id(9), id(9), id(7)]));
        assert_eq!(Largest::<u64>::new(3).into_ids().count(), 0);
    }

    #[test]
    fn an_answer_is_there_also_when_who_gave_it_is_gone() {
        for _ in 0..1000 {
            let ours = PendingQuery::new(Query::Top { by: By::Queue, most: 1 });
            let theirs = Arc::clone(&ours);
            assert!(!ours.is_forgotten());
            let loops = std::thread::spawn(move || theirs.answer(QueryResult::Killed(true)));
            while !ours.is_forgotten() {
                std::hint::spin_loop();
            }
            assert_eq!(ours.take(), Some(QueryResult::Killed(true)));
            loops.join().unwrap();
        }
    }
}
