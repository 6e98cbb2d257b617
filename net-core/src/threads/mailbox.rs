//! A bounded inbox from any thread to one loop: each item is taken, drained at the end, or given back.
//!
//! Senders post, the owning loop takes within its budget of the turn. The mailbox promises:
//!
//! - **a bound**: a full mailbox gives an item back at once; except an item that is posted
//!   [beyond](Mailbox::post_beyond) the bound: the number of these is bounded elsewhere;
//! - **order**: the items of one sender arrive in the order in which it posted them;
//! - **nothing lost silently**: after [`Mailbox::close_and_drain`] each successful post has been
//!   handed to the owner exactly once, also those that raced with the close, and every other post
//!   got its item back.
//!
//! The mailbox neither sleeps nor wakes a loop: a sender must ask the loop's [sleep word](crate::sleep) after
//! its post.

mod close_gate;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{error, fmt};

use crossbeam_queue::ArrayQueue;
use parking_lot::Mutex;

use close_gate::CloseGate;

/// A bounded queue of items for one loop, with an end.
///
/// Any thread may [`post`](Self::post); taking and draining are the owner's.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    /// Every push happens inside the gate, so that the last push is known.
    close_gate: CloseGate,
    queue: ArrayQueue<T>,
    /// Items that were posted beyond the bound, in order.
    beyond: Mutex<VecDeque<T>>,
    /// Whether `beyond` has items. SeqCst, as it stands against the queue's own place of reading: a sender
    /// stores it and then finds the queue full; the owner takes from the queue and then loads it. So either
    /// the queue has room for the mark, or the owner sees this flag.
    is_beyond: AtomicBool,
}

impl<T> Mailbox<T> {
    /// An open, empty mailbox for at most `bound` items. All the room is allocated here.
    ///
    /// # Panics
    ///
    /// If `bound` is zero.
    pub(crate) fn new(bound: usize) -> Self {
        Mailbox {
            close_gate: CloseGate::new(),
            queue: ArrayQueue::new(bound),
            beyond: Mutex::default(),
            is_beyond: AtomicBool::new(false),
        }
    }

    /// Posts one item, or gives it back: at once, without waiting for the owner. Any thread.
    ///
    /// `Ok` means that the owner will take or drain it. The loop may be asleep: ask its sleep word
    /// next.
    pub(crate) fn post(&self, item: T) -> Result<(), PostError<T>> {
        if !self.close_gate.enter() {
            return Err(PostError::Ended(item));
        }
        let pushed = self.queue.push(item); // never panics, so the close gate is always left
        self.close_gate.leave();
        pushed.map_err(PostError::Full)
    }

    /// Whether the mailbox is closed: its loop is over, and nothing more is taken.
    pub(crate) fn is_closed(&self) -> bool {
        self.close_gate.is_closed()
    }

    /// Posts one item also if the mailbox is full. Then it tries to put a `mark` into the mailbox, for the
    /// owner to take: the owner looks [beyond](Self::take_beyond) each time after it has taken something. For
    /// items whose number is bounded elsewhere, and whose thread must not wait. A closed mailbox gives the
    /// item back.
    pub(crate) fn post_beyond(&self, item: T, mark: impl FnOnce() -> T) -> Result<(), T> {
        if !self.close_gate.enter() {
            return Err(item);
        }
        if let Err(item) = self.queue.push(item) {
            self.beyond.lock().push_back(item);
            self.is_beyond.store(true, Ordering::SeqCst);
            let _ = self.queue.push(mark()); // still full: the owner has something to take
        }
        self.close_gate.leave();
        Ok(())
    }

    /// The oldest item that was posted beyond the bound. The owner only, and each time after it has taken
    /// from the mailbox.
    pub(crate) fn take_beyond(&self) -> Option<T> {
        if !self.is_beyond.load(Ordering::SeqCst) {
            return None;
        }
        let mut beyond = self.beyond.lock();
        let item = beyond.pop_front();
        if beyond.is_empty() {
            *beyond = VecDeque::new(); // the memory of many items goes back
            self.is_beyond.store(false, Ordering::SeqCst); // under the lock: a later post sets it
        }
        item
    }

    /// How many items wait beyond the bound.
    pub(crate) fn len_beyond(&self) -> usize {
        if self.is_beyond.load(Ordering::SeqCst) { self.beyond.lock().len() } else { 0 }
    }

    /// The oldest item. The owner only.
    ///
    /// If its sender was interrupted in the middle of the post, this waits (yielding) for the rest
    /// of it.
    pub(crate) fn take(&self) -> Option<T> {
        self.queue.pop()
    }

    /// Whether nothing waits. An item half posted counts as waiting, so a loop which sees `true` in
    /// its second look has missed nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many items wait, for the statistics: already old when it returns.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Closes, waits for the posts under way, and hands over all that is left, oldest first. The
    /// owner only, at its end.
    ///
    /// When this returns, every item that was posted has come out of the mailbox, and no item is to come. The
    /// wait is for a few instructions of each sender inside a post, and no further sender can join them.
    pub(crate) fn close_and_drain(&self, mut each: impl FnMut(T)) {
        self.close_gate.close();
        self.close_gate.wait_until_empty();
        while let Some(item) = self.take() {
            each(item);
        }
        while let Some(item) = self.take_beyond() {
            each(item);
        }
    }
}

/// Why an item was not posted. It is inside, unharmed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PostError<T> {
    /// The mailbox is at its bound: the loop is slower than its senders. Trying again later may
    /// help.
    Full(T),
    /// The loop takes no more mail, and never will again; or this server has no such loop: the
    /// [`ConnId`](crate::ConnId) is another server's.
    Ended(T),
}

impl<T> PostError<T> {
    /// The item that could not be posted.
    pub fn into_inner(self) -> T {
        match self {
            PostError::Full(item) | PostError::Ended(item) => item,
        }
    }

    /// The same reason, with something else inside.
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> PostError<U> {
        match self {
            PostError::Full(item) => PostError::Full(change(item)),
            PostError::Ended(item) => PostError::Ended(change(item)),
        }
    }
}

// By hand, so that a result can be unwrapped whatever the item is.
impl<T> fmt::Debug for PostError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PostError::Full(_) => "Full(..)",
            PostError::Ended(_) => "Ended(..)",
        })
    }
}

impl<T> fmt::Display for PostError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PostError::Full(_) => "the mailbox is full",
            PostError::Ended(_) => "the loop takes no more mail",
        })
    }
}

impl<T> error::Error for PostError<T> {}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    #[test]
    fn items_come_out_in_the_order_posted() {
        let mailbox = Mailbox::new(3);
        assert!(mailbox.is_empty());
        for item in 1..=3 {
            mailbox.post(item).unwrap();
        }
        assert_eq!(mailbox.len(), 3);
        assert_eq!(
            [mailbox.take(), mailbox.take(), mailbox.take(), mailbox.take()],
            [Some(1), Some(2), Some(3), None]
        );
        assert!(mailbox.is_empty());
    }

    #[test]
    fn full_mailbox_gives_the_item_back_and_takes_again_after_a_take() {
        for bound in [1, 2, 7, 64] {
            let mailbox = Mailbox::new(bound);
            for item in 0..bound {
                mailbox.post(item).unwrap();
            }
            assert_eq!(mailbox.post(bound), Err(PostError::Full(bound)));
            assert_eq!(mailbox.len(), bound);
            assert_eq!(mailbox.take(), Some(0));
            mailbox.post(bound).unwrap();
            assert_eq!(mailbox.post(bound + 1), Err(PostError::Full(bound + 1)));
        }
    }

    #[test]
    fn closed_mailbox_gives_the_item_back_as_ended_even_when_full() {
        let mailbox = Mailbox::new(1);
        mailbox.post("before").unwrap();
        mailbox.close_gate.close();
        mailbox.close_gate.close();
        assert_eq!(mailbox.post("after"), Err(PostError::Ended("after")));
        assert_eq!(mailbox.take(), Some("before"));
        assert_eq!(mailbox.post("after").unwrap_err().into_inner(), "after");
    }

    #[test]
    fn drain_hands_over_what_is_left_oldest_first_and_only_once() {
        let mailbox = Mailbox::new(8);
        for item in 0..5 {
            mailbox.post(item).unwrap();
        }
        assert_eq!(mailbox.take(), Some(0));
        let mut drained = Vec::new();
        mailbox.close_and_drain(|item| drained.push(item));
        assert_eq!(drained, [1, 2, 3, 4]);
        mailbox.close_and_drain(|item| panic!("{item} came twice"));
        assert_eq!(mailbox.post(5), Err(PostError::Ended(5)));
    }

    #[test]
    fn beyond_the_bound_an_item_waits_and_is_found_behind_the_others() {
        let mailbox = Mailbox::new(2);
        mailbox.post_beyond(1, || 0).unwrap();
        assert_eq!((mailbox.len(), mailbox.take_beyond()), (1, None), "there was room");
        mailbox.post(2).unwrap();
        (3..6).for_each(|n| mailbox.post_beyond(n, || 0).unwrap());
        assert_eq!(mailbox.post(6), Err(PostError::Full(6)));
        assert_eq!([mailbox.take(), mailbox.take(), mailbox.take()], [Some(1), Some(2), None]);
        assert_eq!(mailbox.take_beyond(), Some(3));
        let mut drained = Vec::new();
        mailbox.close_and_drain(|item| drained.push(item));
        assert_eq!((drained, mailbox.post_beyond(7, || 0)), (vec![4, 5], Err(7)));
    }

    /// The owner looks beyond only after it has taken something, and sleeps when the mailbox is empty. Here
    /// it empties the mailbox just when an item has found it full, and looks before that lies beyond.
    #[test]
    fn what_is_posted_beyond_the_bound_is_never_overlooked() {
        let mailbox = Mailbox::new(1);
        mailbox.post("first").unwrap();
        let owner_is_quicker = || {
            assert_eq!(mailbox.take(), Some("first"));
            "mark"
        };
        mailbox.post_beyond("second", owner_is_quicker).unwrap();
        assert!(!mailbox.is_empty(), "the owner would sleep");
        assert_eq!((mailbox.take(), mailbox.take_beyond()), (Some("mark"), Some("second")));
        assert!(mailbox.is_empty() && mailbox.take_beyond().is_none());
    }

    #[test]
    fn each_of_eight_senders_keeps_its_order() {
        const SENDERS: usize = 8;
        const EACH: usize = 20_000;
        let mailbox = Mailbox::new(64);
        let finished = AtomicUsize::new(0);
        let mut next = [0; SENDERS];
        thread::scope(|scope| {
            for sender in 0..SENDERS {
                let (mailbox, finished) = (&mailbox, &finished);
                scope.spawn(move || {
                    for number in 0..EACH {
                        let mut item = (sender, number);
                        while let Err(back) = mailbox.post(item) {
                            assert_eq!(back, PostError::Full((sender, number)));
                            item = back.into_inner();
                            thread::yield_now();
                        }
                    }
                    finished.fetch_add(1, Ordering::Release);
                });
            }
            let mut accept = |(sender, number): (usize, usize)| {
                assert_eq!(number, next[sender], "sender {sender}");
                next[sender] += 1;
            };
            while finished.load(Ordering::Acquire) < SENDERS {
                assert!(mailbox.len() <= 64);
                mailbox.take().map_or_else(thread::yield_now, &mut accept);
            }
            mailbox.close_and_drain(accept);
        });
        assert_eq!(next, [EACH; SENDERS]);
    }

    #[test]
    fn nothing_is_lost_when_closing_races_with_posting() {
        const ROUNDS: usize = 2_000;
        const SENDERS: usize = 3;
        for round in 0..ROUNDS {
            let mailbox = Mailbox::new(16);
            let start = Barrier::new(SENDERS + 1);
            let (posted, drained) = thread::scope(|scope| {
                let post_until_ended = || {
                    start.wait();
                    let mut posted = 0;
                    loop {
                        match mailbox.post(round) {
                            Ok(()) => posted += 1,
                            Err(PostError::Full(_)) => thread::yield_now(),
                            Err(PostError::Ended(_)) => return posted,
                        }
                    }
                };
                let senders = [(); SENDERS].map(|()| scope.spawn(post_until_ended));
                start.wait();
                // Rounds differ in how far the senders get before the close.
                let mut drained = (0..round % 64).filter_map(|_| mailbox.take()).count();
                mailbox.close_and_drain(|_| drained += 1);
                (senders.map(|sender| sender.join().unwrap()).iter().sum::<usize>(), drained)
            });
            assert_eq!(posted, drained, "round {round}");
            assert!(mailbox.is_empty());
        }
    }
}
